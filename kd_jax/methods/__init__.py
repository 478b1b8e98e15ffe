"""Methods: which named terms a student's loss is the weighted sum of."""

from kd_jax.methods.registry import METHODS, NAMES, Method, no_params

__all__ = ["METHODS", "NAMES", "Method", "no_params"]
