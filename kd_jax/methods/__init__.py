"""Methods: which named terms a student's loss is the weighted sum of."""

from kd_jax.methods.registry import (
  ALL,
  METHODS,
  NAMES,
  Method,
  Pairs,
  Shapes,
  add,
  add_own,
  bind,
  find,
  nothing,
  parts,
  sizes,
)

__all__ = ["ALL", "METHODS", "NAMES", "Method", "Pairs", "Shapes", "add",
           "add_own", "bind", "find", "nothing", "parts", "sizes"]
