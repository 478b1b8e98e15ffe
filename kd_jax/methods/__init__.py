"""Methods: which named terms a student's loss is the weighted sum of."""

from kd_jax.methods.registry import DISTILLERS, NAMES, Distiller, no_params

__all__ = ["DISTILLERS", "NAMES", "Distiller", "no_params"]
