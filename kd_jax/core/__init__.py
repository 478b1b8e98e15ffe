"""What every package uses: types, randomness, errors, the screen, processes."""
