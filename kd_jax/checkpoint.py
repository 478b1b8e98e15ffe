"""Nets on disk: the public door of `kd_jax.training.parameters`."""

from kd_jax.training.parameters import load_parameters

__all__ = ["load_parameters"]
