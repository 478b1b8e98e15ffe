"""The user's mistakes as an exception: the public door of `kd_jax.core.errors`."""

from kd_jax.core.errors import UserError, nearest

__all__ = ["UserError", "nearest"]
