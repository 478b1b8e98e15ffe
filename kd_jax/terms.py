"""Named, weighted terms of a loss: a function a method.

Each binds equations (`losses.py`, `logit_losses/`) to the numbers of a run. All
have one signature, `(params, student, teacher, batch, hparams) -> Terms`.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import losses


class Term(NamedTuple):
  """One term of a loss: a weight (a scalar), and a value per example, `[B]`.

  A value of a whole batch is a scalar, over the valid examples; only methods
  that declare `relations` may have one.
  """

  weight: jax.Array | float
  value: jax.Array


Terms = Mapping[str, Term]


def total(terms: Terms) -> jax.Array:
  """The loss of each example, `[B]`: the weighted sum of the terms.

  A scalar counts for every example, so the mean over the valid ones holds it
  once. Without any value per example, the sum is a scalar.
  """
  weighted = [term.weight * term.value for term in terms.values()]
  return functools.reduce(jnp.add, weighted)


def _hard(student, batch, hparams) -> jax.Array:
  return losses.hard_cross_entropy(
      student.logits, batch.label, label_smoothing=hparams.label_smoothing)


def hard(params, student, teacher, batch, hparams) -> Terms:
  """Cross-entropy with the labels alone, weight 1: how a teacher is trained."""
  del params, teacher
  return {"hard": Term(1.0, _hard(student, batch, hparams))}


def _beside_hard(student, batch, hparams, soft: jax.Array) -> Terms:
  """hard_weight * CE + soft_weight * soft."""
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "soft": Term(hparams.soft_weight, soft),
  }


def kd(params, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL (Hinton et al. 2015, s. 2)."""
  del params
  kl = losses.distillation_kl(
      student.logits, teacher.logits, hparams.temperature)
  return _beside_hard(student, batch, hparams, hparams.temperature**2 * kl)


def logits(params, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - v|**2 / 2N, of centred logits.

  The limit of `kd` for T to infinity (eq. 4); with hard_weight = 0, Ba &
  Caruana's mimic training up to the centring and the factor 1 / N.
  """
  del params
  distance = losses.logit_matching(
      student.logits, teacher.logits, zero_mean=True)
  return _beside_hard(
      student, batch, hparams, distance / student.logits.shape[-1])
