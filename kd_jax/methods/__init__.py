"""Methods: which named terms a student's loss is the weighted sum of."""

from kd_jax.methods.method import NAMES, Method, nothing, sizes
from kd_jax.methods.pairs import (
  ALL,
  OfSeveral,
  Pairs,
  Shapes,
  joined,
  of_pairs,
  parted,
)
from kd_jax.methods.registry import (
  METHODS,
  add,
  add_own,
  find,
  labels_alone,
  parts,
)
from kd_jax.methods.several import bind, staying

__all__ = ["ALL", "METHODS", "NAMES", "Method", "OfSeveral", "Pairs", "Shapes",
           "add", "add_own", "bind", "find", "joined", "labels_alone", "nothing",
           "of_pairs", "parted", "parts", "sizes", "staying"]
