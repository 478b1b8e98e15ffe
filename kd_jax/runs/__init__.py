"""Runs: the main job and sweeps, from teachers to rows on disk."""
