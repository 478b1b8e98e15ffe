"""Methods: which named terms a student's loss is the weighted sum of.

A new method is an equation in `losses.py` and an entry in `DISTILLERS` here.
Nothing in the step, the loop or the trainer knows a method by name.
"""

from collections.abc import Callable, Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import losses, types


class Term(NamedTuple):
  """One term of a loss: a weight (a scalar) and a value per example, `[B]`."""

  weight: jax.Array | float
  value: jax.Array


Terms = Mapping[str, Term]


class Distiller(NamedTuple):
  """A method of distillation.

  Attributes:
    formula: The loss in words, with hard_weight, soft_weight and temperature to
      be filled in; it stands in every table.
    init: `(key) -> params`, the parameters of its own that train beside the
      student's and are dropped afterwards; `{}` for most.
    terms: `(params, student, teacher, batch, hparams) -> Terms`; the loss of an
      example is the sum of weight times value. `teacher` is None where the
      method needs none.
    needs_teacher: Whether the terms look at a teacher.
  """

  formula: str
  init: Callable[[jax.Array], types.Tree]
  terms: Callable[..., Terms]
  needs_teacher: bool = True


def total(terms: Terms) -> jax.Array:
  """The loss of each example, `[B]`: the weighted sum of the terms."""
  weighted = [term.weight * term.value for term in terms.values()]
  return functools.reduce(jnp.add, weighted)


def _no_params(key: jax.Array) -> types.Tree:
  del key
  return {}


def _hard(student, batch, hparams) -> jax.Array:
  return losses.hard_cross_entropy(
      student.logits, batch.label, label_smoothing=hparams.label_smoothing)


def _hard_labels(params, student, teacher, batch, hparams) -> Terms:
  """Cross-entropy with the labels alone, weight 1: how a teacher is trained."""
  del params, teacher
  return {"hard": Term(1.0, _hard(student, batch, hparams))}


def _kd(params, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL (Hinton et al. 2015, s. 2)."""
  del params
  kl = losses.distillation_kl(
      student.logits, teacher.logits, hparams.temperature)
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "soft": Term(hparams.soft_weight, hparams.temperature**2 * kl),
  }


def _logits(params, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - v|**2 / 2N, of centred logits.

  The limit of `kd` for T to infinity (eq. 4); with hard_weight = 0, Ba &
  Caruana's mimic training up to the centring and the factor 1 / N.
  """
  del params
  distance = losses.logit_matching(
      student.logits, teacher.logits, zero_mean=True)
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "soft": Term(hparams.soft_weight, distance / student.logits.shape[-1]),
  }


_WEIGHTED = "{hard_weight:.3g} * CE + {soft_weight:.3g} * "

DISTILLERS: dict[str, Distiller] = {
    "hard": Distiller("CE", _no_params, _hard_labels, needs_teacher=False),
    "kd": Distiller(
        _WEIGHTED + "T**2 * KL, T = {temperature:g}", _no_params, _kd),
    "logits": Distiller(
        _WEIGHTED + "|z - v|**2 / 2N", _no_params, _logits),
}
