"""Metrics that merge: totals and counts, added up, divided once.

A mean of per-batch means is another number as soon as batches differ in size, so
nothing here is a mean until `compute`. Each metric is named once, in this file.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types

CALIBRATION_BINS = 15


@flax.struct.dataclass
class Mean:
  """A mean in the making: `total / count`.

  Attributes:
    total: Sum of the values of valid examples.
    count: Number of valid examples; exact in int32.
  """

  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values: jax.Array, mask: jax.Array) -> "Mean":
    """Sums per-example `values` `[B]` over the examples where `mask` is True."""
    return cls(
        total=jnp.sum(jnp.where(mask, values, 0)),
        count=jnp.sum(mask, dtype=jnp.int32),
    )

  def compute(self) -> float:
    return float(self.total) / max(float(self.count), 1.0)


@flax.struct.dataclass
class SquaredNorm(Mean):
  """The mean squared norm of a gradient, which may be infinite where no loss is."""


@flax.struct.dataclass
class Calibration:
  r"""Expected calibration error over equal-width bins of top-1 confidence.

  ECE = sum_b (n_b / n) |accuracy_b - confidence_b|   (Guo et al. 2017, eq. 3)

  The three arrays `[bins]` add up over batches; a mean of the ECEs of batches is
  another, larger number. Bin b holds confidences in (b/bins, (b+1)/bins].
  """

  count: jax.Array
  confidence: jax.Array
  correct: jax.Array

  @classmethod
  def of(
      cls,
      logits: jax.Array,
      label: jax.Array,
      mask: jax.Array,
      *,
      bins: int = CALIBRATION_BINS,
  ) -> "Calibration":
    """Bins the examples of a batch: logits `[B, classes]`, label, mask `[B]`."""
    confidence = jnp.max(losses.tempered_softmax(logits, 1.0), axis=-1)
    correct = jnp.argmax(logits, axis=-1) == label
    index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32), 1, bins) - 1
    one_hot = (index[:, None] == jnp.arange(bins)[None, :]) & mask[:, None]
    per_bin = lambda values: jnp.sum(jnp.where(one_hot, values[:, None], 0), 0)
    return cls(
        count=jnp.sum(one_hot, axis=0, dtype=jnp.int32),
        confidence=per_bin(confidence),
        correct=per_bin(correct.astype(jnp.int32)),
    )

  def compute(self) -> float:
    gap = jnp.abs(self.correct.astype(self.confidence.dtype) - self.confidence)
    return float(jnp.sum(gap)) / max(float(jnp.sum(self.count)), 1.0)


def errors(logits: jax.Array, label: jax.Array) -> jax.Array:
  """1 where the top-1 class is not the label, int32 `[B]`; summed exactly."""
  return (jnp.argmax(logits, axis=-1) != label).astype(jnp.int32)


def agreement(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
  """1 where student and teacher have the same top-1 class, int32 `[B]`."""
  same = jnp.argmax(student_logits, -1) == jnp.argmax(teacher_logits, -1)
  return same.astype(jnp.int32)


def classification(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> dict[str, Mean | Calibration]:
  """Errors, NLL (nats) and calibration at T = 1 of a batch of logits `[B, C]`."""
  return {
      "errors": Mean.of(errors(logits, label), mask),
      "nll": Mean.of(losses.hard_cross_entropy(logits, label), mask),
      "ece": Calibration.of(logits, label, mask),
  }


def imitation(
    student_logits: jax.Array, teacher_logits: jax.Array, mask: jax.Array
) -> dict[str, Mean]:
  """Top-1 agreement and KL (nats) from teacher to student, both at T = 1."""
  kl = losses.distillation_kl(student_logits, teacher_logits, 1.0)
  return {
      "agreement": Mean.of(agreement(student_logits, teacher_logits), mask),
      "kl": Mean.of(kl, mask),
  }


def merge(a: Any, b: Any) -> Any:
  """Adds two totals, or dicts of totals of the same names."""
  return jax.tree.map(jnp.add, a, b)


def measured(totals: dict[str, Any]) -> dict[str, Any]:
  """The totals that must be finite and are told: all but norms of gradients."""
  return {name: total for name, total in totals.items()
          if not isinstance(total, SquaredNorm)}


def finite(tree: types.Tree) -> jax.Array:
  """Whether all numbers in a tree are finite, bool `[]`."""
  return functools.reduce(jnp.logical_and, (
      jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)))
