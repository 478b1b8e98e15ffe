"""Frozen teachers: live nets, ensembles of them, and banks of their logits.

A teacher is a pair of a function and its arrays, so that the arrays enter a
compiled program as arguments and never as constants. It is always in evaluation
mode, and no gradient reaches it.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import types as python_types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses, methods
from kd_jax.core import types
from kd_jax.losses import mixtures

MEANS = ("probabilities", "logits", "confidence", *mixtures.BY_EXAMPLE)
_NO_TAPS: Mapping[str, tuple[int, ...]] = python_types.MappingProxyType({})


class Teacher(NamedTuple):
  """A frozen teacher of M >= 1 members.

  Attributes:
    members: `(arrays, batch) -> Outputs`: logits `[M, B, classes]`, and the taps of
      the nets, of several as `NAME.tap`.
    arrays: What `members` needs: parameters, or a bank.
    weights: Weight of each member, float32 `[M]`, summing to 1.
    mean: What is averaged over members, one of `MEANS`.
    taps: Shapes of its taps of one example, by name, of several members as of
      `methods.joined`; none of stored logits.
    classes: Those that each member knows, () for all; () for all of all members.
    rows: Of a bank that stays on the host: `arrays` of an epoch, by the view that
      it shows of each example, int `[N]`.
  """

  members: Callable[[types.Tree, types.Batch], types.Outputs]
  arrays: types.Tree
  weights: jax.Array
  mean: str = "probabilities"
  taps: Mapping[str, tuple[int, ...]] = _NO_TAPS
  classes: tuple[tuple[int, ...], ...] = ()
  rows: Callable[[np.ndarray], np.ndarray] | None = None


def live(
    models: Sequence[types.Model],
    variables: Sequence[types.Variables],
    *,
    weights: Sequence[float] | None = None,
    mean: str = "probabilities",
    taps: Mapping[str, tuple[int, ...]] = _NO_TAPS,
) -> Teacher:
  """A teacher that runs its nets on every batch that the student sees.

  Args:
    models: The members.
    variables: Their variables.
    weights: Weight of each member; default all alike.
    mean: What is averaged over members, one of `MEANS`.
    taps: Shapes of the taps of one example, of several members as of
      `methods.joined`; without their names there are none.
  """
  names = taps.names if isinstance(taps, methods.OfSeveral) else ()
  return Teacher(
      _nets(tuple(models), names), tuple(variables),
      weights_of(weights, len(models)), mean,
      taps if names or len(models) == 1 else _NO_TAPS)


# Teachers of the same nets share compiled programs.
@functools.lru_cache(maxsize=32)
def _nets(models: tuple[types.Model, ...], names: tuple[str, ...] = ()):
  """The outputs of nets, `(variables, batch) -> Outputs`; of several by `names`."""
  def members(arrays, batch):
    seen = batch.inputs if batch.clean is None else batch.clean
    found = [
        model.apply(held, seen, train=False, mask=batch.mask)[0]
        for model, held in zip(models, arrays, strict=True)]
    taps = found[0].features if len(models) == 1 else {
        f"{name}.{tap}": value for name, each in zip(names, found)
        for tap, value in each.features.items()}
    return types.Outputs(jnp.stack([each.logits for each in found]), taps)
  return members


def banked(
    bank: jax.Array,
    *,
    weights: Sequence[float] | None = None,
    mean: str = "probabilities",
    features: Mapping[str, jax.Array] | None = None,
    names: Sequence[str] = (),
) -> Teacher:
  """A teacher whose outputs were computed before: `bank[id, view, member]`.

  Args:
    bank: Logits, float32 or float16 `[N, V, M, classes]`; V = 1 serves every view.
    weights: Weight of each member; default all alike.
    mean: What is averaged over members, one of `MEANS`.
    features: Taps, `[N, V, ...]` each, by name; of several members as `NAME.tap`.
    names: Of the members, where there are several.

  Returns:
    The teacher.
  """
  taps: methods.Shapes = {
      name: tap.shape[2:] for name, tap in (features or {}).items()}
  if features and len(names) > 1:
    taps = methods.OfSeveral(taps, names)
  arrays = (bank, dict(features)) if features else bank
  return Teacher(_stored, arrays, weights_of(weights, bank.shape[2]), mean, taps)


def averaged(
    bank: np.ndarray, weights: Sequence[float] | None,
    classes: Sequence[Sequence[int]],
) -> tuple[np.ndarray, Sequence[float] | None, tuple[tuple[int, ...], ...]]:
  """A bank whose members are asked in all views, `[N, 1, V M, classes]`.

  A net that sees an image in V views is a mixture of V members, each of which sees
  one of them. So a mean over views is what `mean` says of members.

  Args:
    bank: `[N, V, M, classes]`.
    weights: Of the M members; None for all alike.
    classes: Those that each of the M members knows; () for all.

  Returns:
    The bank, weights and classes of V M members.
  """
  number, views, _, size = bank.shape
  return (bank.reshape(number, 1, -1, size),
          None if weights is None else [*weights] * views,
          tuple(map(tuple, classes)) * views)


def streamed(
    bank: np.ndarray,
    *,
    weights: Sequence[float] | None = None,
    mean: str = "probabilities",
) -> Teacher:
  """A banked teacher that is too large for the device, which has an epoch of it.

  Args:
    bank: As of `banked`, on the host; may be memory-mapped.
    weights: As of `banked`.
    mean: As of `banked`.

  Returns:
    The teacher. Its arrays are of the first view, in the shape of any epoch's.
  """
  def rows(view: np.ndarray) -> np.ndarray:
    return bank[np.arange(len(bank)), view][:, None]

  first = jnp.asarray(rows(np.zeros(len(bank), int)))
  return banked(first, weights=weights, mean=mean)._replace(
      members=_of_epoch, rows=rows)


def _stored(arrays: types.Tree, batch: types.Batch) -> types.Outputs:
  """The outputs that a bank holds."""
  views = jax.tree.leaves(arrays)[0].shape[1]
  view = batch.view if batch.other is None else batch.other
  return _looked_up(arrays, batch.id, view if views > 1 else jnp.zeros_like(view))


def _looked_up(
    arrays: types.Tree, ids: jax.Array, view: jax.Array
) -> types.Outputs:
  """The rows of a bank, and of the taps beside it."""
  logits, taps = arrays if isinstance(arrays, tuple) else (arrays, {})
  # Ids and views are ours, so in bounds: no clamping, no filling.
  rows = lambda x: x.at[ids, view].get(mode="promise_in_bounds")
  return types.Outputs(
      losses.at_least_float32(jnp.moveaxis(rows(logits), 1, 0)),
      jax.tree.map(rows, taps))


def _of_epoch(arrays: types.Tree, batch: types.Batch) -> types.Outputs:
  """As `_stored`, of rows of the batch's own views.

  What is looked up is a matter of the batch, as in a whole bank: a constant would
  be compiled to a program of other roundings.
  """
  return _looked_up(arrays, batch.id, jnp.minimum(batch.view, 0))


def outputs(
    teacher: Teacher,
    arrays: types.Tree,
    batch: types.Batch,
    temperature: jax.Array | float,
) -> types.Outputs:
  """The teacher's outputs of a batch, at the temperature it will be asked at."""
  logits, features = jax.lax.stop_gradient(teacher.members(arrays, batch))
  weights = teacher.weights
  if teacher.mean == "confidence":
    weights = mixtures.confidence_weights(logits, batch.label)
  return types.Outputs(
      combine(logits, weights, temperature, mean=teacher.mean,
              classes=teacher.classes), features)


def combine(
    logits: jax.Array,
    weights: jax.Array,
    temperature: jax.Array | float,
    *,
    mean: str = "probabilities",
    classes: Sequence[Sequence[int]] = (),
) -> jax.Array:
  r"""Logits of an ensemble.

  mean of probabilities:  v = T log sum_m w_m softmax(v_m / T)   (arithmetic)
  mean of logits:         v = sum_m w_m v_m                      (geometric)
  by confidence:          the arithmetic mean, w_m of each example from how near
                          m is to its label (Zhang et al. 2022)
  by certainty, agreement: the same, from how sure m is of the example, or how much
                          the others agree with it

  The first are the logits whose softmax at T is the arithmetic mean of the
  members' softmaxes at T, so they hold for this T only; the second have the
  (normalised) geometric mean at every T. Hinton et al. (2015), section 2, name
  both.

  Args:
    logits: Of the members, `[M, ..., classes]`.
    weights: w, `[M]`, or `[M, ...]` for weights of an example, summing to 1
      over members.
    temperature: T > 0, a scalar; of no effect on the mean of logits.
    mean: One of `MEANS`. Confidence is in the weights of `outputs`: where labels
      are not known, as in evaluation, all members count alike.
    classes: Those that each member knows, () for all; () for all of all members.
      Of each class those that know it count (`mixtures.mixture_logits`).

  Returns:
    v, `[..., classes]`; a single member's logits unchanged.

  Example:
    >>> sure = jnp.array([[[0.0, -jnp.inf]], [[-jnp.inf, 0.0]]])
    >>> v = combine(sure, jnp.array([0.25, 0.75]), 1.0)
    >>> jax.nn.softmax(v).round(4)
    Array([[0.25, 0.75]], dtype=float32)
  """
  if logits.shape[0] == 1:
    return logits[0]
  if classes:
    logits = mixtures.knowing(logits, classes)
  if mean in mixtures.BY_EXAMPLE:
    weights = mixtures.BY_EXAMPLE[mean](logits)
  if mean != "logits":
    return mixtures.mixture_logits(
        logits, temperature, weights, partial=bool(classes))
  # Not the geometric mixture, which forgets the level of logits: logit matching
  # is of that too.
  each = weights.reshape(weights.shape + (1,) * (logits.ndim - weights.ndim))
  if classes:
    known = losses.existing(logits, None)
    each = mixtures.shares(each, known)
    mixed = jnp.sum(each * jnp.where(known, logits, 0.0), axis=0)
    return jnp.where(jnp.any(known, axis=0), mixed, -jnp.inf)
  return jnp.sum(each * logits, axis=0)


def weights_of(weights: Sequence[float] | None, count: int) -> jax.Array:
  """The weights of `count` members, float32, summing to 1; None for all alike."""
  if weights is None:
    return jnp.full((count,), 1.0 / count, jnp.float32)
  given = jnp.asarray(weights, jnp.float32)
  return given / jnp.sum(given)
