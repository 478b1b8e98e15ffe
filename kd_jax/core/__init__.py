"""What every package speaks: types, randomness, errors, the screen, processes."""
