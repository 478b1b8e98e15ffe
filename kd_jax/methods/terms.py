"""Terms: the named, weighted parts of a loss, and what a method has of its own.

A method is a function `(own, student, teacher, batch, hparams) -> Terms`, which
binds equations (`kd_jax.losses`) to the numbers of a run: those of methods on
logits in `logit_terms.py`, of relations between examples in `relation_terms.py`,
of taps in `feature_terms.py`, `stage_terms.py` and `projector_terms.py`, of two
views in `view_terms.py`.
"""

from collections.abc import Iterable, Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types


class Term(NamedTuple):
  """One term of a loss: a weight (a scalar), and a value per example, `[B]`.

  A value of a whole batch is a scalar, over the valid examples; only methods
  that declare `relations` may have one.
  """

  weight: jax.Array | float
  value: jax.Array


Terms = Mapping[str, Term]


class Own(NamedTuple):
  """What a method has of its own, as its terms see it.

  Attributes:
    params: Trained beside the student's.
    state: Carried from step to step: running statistics, memories.
    axis_name: The mapped device axis that statistics are summed over, or None.
    labels: Classes of all examples of the data set, int32 `[N]`, -1 where an
      example is not trained on; a batch's `id` are places in it. None outside a
      run.
    key: What is drawn in this step is drawn with it; None outside a run.
    heads: `kernel` `[channels, classes]` and `bias` of the layers that make logits,
      of student and teacher; None for a method without `heads`.
  """

  params: types.Tree
  state: types.Tree
  axis_name: str | None = None
  labels: jax.Array | None = None
  key: jax.Array | None = None
  heads: tuple[types.Tree, types.Tree] | None = None


class Changed(NamedTuple):
  """Terms, and the state of the method after the step."""

  terms: Terms
  state: types.Tree


def and_state(found: Terms | Changed, own: Own) -> Changed:
  """Terms with the state after the step, which most methods leave as it is."""
  return found if isinstance(found, Changed) else Changed(found, own.state)


def total(terms: Terms) -> jax.Array:
  """The loss of each example, `[B]`: the weighted sum of the terms.

  A scalar counts for every example, so the mean over the valid ones holds it
  once. Without any value per example, the sum is a scalar.
  """
  return sum_of(term.weight * term.value for term in terms.values())


def sum_of(values: Iterable[jax.Array]) -> jax.Array:
  """The sum of values, of terms or of pairs of taps; one at least."""
  return functools.reduce(jnp.add, values)


def labels(student, batch, hparams) -> Term:
  """The term of the labels, at its weight; of two, where inputs are mixed."""
  of = lambda label: losses.hard_cross_entropy(
      student.logits, label, label_smoothing=hparams.label_smoothing)
  value = of(batch.label)
  if batch.mixed is not None:
    second, share = batch.mixed
    value = (1 - share) * value + share * of(second)
  return Term(hparams.hard_weight, value)


def of_labels(name: str) -> bool:
  """Whether a term is that of the labels, of one net or of one among several.

  Example:
    >>> of_labels("hard"), of_labels("peer_1_hard"), of_labels("peer_1_soft")
    (True, True, False)
  """
  return name == "hard" or name.endswith("_hard")


def beside_labels(student, batch, hparams, **others: Term) -> Terms:
  """The term of the labels and others."""
  return {"hard": labels(student, batch, hparams), **others}
