"""Sweeps as data: the public door of `kd_jax.config.sweep`."""

from kd_jax.config.sweep import (
    chain,
    expand,
    fixed,
    parse,
    product,
    read,
    zipped,
)

__all__ = ["chain", "expand", "fixed", "parse", "product", "read", "zipped"]
