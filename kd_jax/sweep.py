"""Sweeps as data: the public door of `kd_jax.config.sweep`."""

from kd_jax.config.sweep import chain, fixed, parse, product, read, zipped

__all__ = ["chain", "fixed", "parse", "product", "read", "zipped"]
