"""Segments: the compiled unit of a run, and prediction over a whole split.

To read the algorithm, skip this file: `step.py` holds it. Here is what keeps
the device busy. A segment is a scan over some steps of one epoch, with the data
on the device as uint8 and nothing going to the host inside. Which steps lie in
one segment has no influence on the result: order, views and dropout come from
names and counters (`core/randomness.py`), and the state carries the rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import randomness, types
from kd_jax.core.errors import UserError
from kd_jax.core.words import counted, some
from kd_jax.data import preprocess
from kd_jax.data import views as views_lib
from kd_jax.data.preprocess import AsStored, Scaling
from kd_jax.training import metrics
from kd_jax.training import step as step_lib
from kd_jax.training.state import TrainState


class DeviceData(NamedTuple):
  """A data set on the device, passed to every program as an argument.

  Attributes:
    inputs: As stored, a tree of arrays `[N, ...]`: uint8 images, or token ids.
    label: int32 `[N]`.
    ids: Ids of the examples in use, int32 `[n]`, n <= N.
    preprocess: Makes of inputs what a model takes; its arrays are arguments too.
    weight: Of the hard term of each example, float32 `[N]`; None for all alike.
  """

  inputs: types.Tree
  label: jax.Array
  ids: jax.Array
  preprocess: Scaling | AsStored = AsStored()
  weight: jax.Array | None = None


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Every example once an epoch: the last batch is padded, none is dropped."""
  return -(-num_examples // batch_size)


def take(
    data: DeviceData,
    views: views_lib.Views,
    ids: jax.Array,
    view: jax.Array,
    mask: jax.Array,
    other: jax.Array | None = None,
) -> types.Batch:
  """The batch of the examples `ids` `[B]`, each in its `view` `[B]`.

  `other` `[N]` are the views that a teacher sees, as of `other_views`; or those of
  a second row of each example, with `views.twice`.
  """
  # Ids are ours, so in bounds: no clamping, no filling.
  rows = lambda x: x.at[ids].get(mode="promise_in_bounds")
  stored = jax.tree.map(rows, data.inputs)
  seen = lambda view: data.preprocess(views_lib.batch_views(views, stored, view))
  batch = types.Batch(
      seen(view), rows(data.label), ids, view, mask,
      data.preprocess(stored) if views.clean else None,
      weight=jax.tree.map(rows, data.weight))
  if other is not None:
    batch = batch._replace(clean=seen(other[ids]), other=other[ids])
  return batch.twice() if views.twice else batch


def mixed(batch: types.Batch, other: types.Batch, share: jax.Array) -> types.Batch:
  r"""A batch whose inputs are mixed with those of another, by rows.

    x <- (1 - s) x + s x',   C <- (1 - s) C(y) + s C(y')

  Both nets see x; the hard term C is of both labels (`methods.terms.labels`).

  Args:
    batch: x and y. Its label, the larger share, is the one that errors count.
    other: x' and y', in the order of `batch`.
    share: s in [0, 1/2], a scalar.

  Source: Zhang et al. (2018), equation 1; s is the smaller of a draw of Beta(a, a)
  and its rest, which is the same, as pairs are drawn in both orders alike.
  """
  mix = lambda x, y: x + share.astype(x.dtype) * (y - x)
  inputs, clean = (jax.tree.map(mix, *both) for both in (
      (batch.inputs, other.inputs), (batch.clean, other.clean)))
  # An unknown label is some class here, which no weighted term reads.
  second = jnp.maximum(other.label, 0), jnp.full(len(other.label), share)
  return batch._replace(inputs=inputs, clean=clean, mixed=second)


def labels_in_use(data: DeviceData) -> jax.Array:
  """The class of every example by id, int32 `[N]`; -1 for those not in use."""
  return jnp.full_like(data.label, -1).at[data.ids].set(data.label[data.ids])


def make_segment(
    learner: step_lib.Learner,
    views: views_lib.Views,
    batch_size: int,
    *,
    axis_name: str | None = None,
    own: Callable[[jax.Array], jax.Array] = lambda rows: rows,
) -> Callable[..., tuple[TrainState, dict[str, metrics.Mean]]]:
  """The segment of a learner, to be compiled or mapped over lanes or devices.

  Args:
    learner: What `step.make_step` needs.
    views: The augmentation of the transfer set.
    batch_size: Examples a step, of all devices.
    axis_name: The mapped device axis, or None.
    own: Gives of `[steps, B]` the columns that this device works on.

  Returns:
    `segment(state, data, teacher_arrays, hparams, key, length)`: `length` further
    steps from `state.step`, all of one epoch. Gives the new state and the totals
    of those steps. `length` is traced: one program serves every cut of a run.
  """
  step = step_lib.make_step(learner, axis_name=axis_name)

  def segment(state, data, teacher_arrays, hparams, key, length):
    labels = labels_in_use(data)
    num_steps = steps_per_epoch(len(data.ids), batch_size)
    epoch, first = jnp.divmod(state.step, num_steps)
    order, mask, view = _epoch(
        data, views, batch_size, num_steps, randomness.stream(key, "data"), epoch)
    other = other_views(key, epoch, len(data.label), views)
    partners, shares = _mixing(
        learner.mixup, order, mask, randomness.stream(key, "data"), epoch)
    order, mask, partners = jax.tree.map(own, (order, mask, partners))

    def next_step(state, position):
      row = lambda x: jax.lax.dynamic_index_in_dim(x, position, keepdims=False)
      seen = lambda ids: take(data, views, ids, view[ids], row(mask), other)
      batch = seen(row(order))
      if learner.mixup:
        batch = mixed(batch, seen(row(partners)), row(shares))
      return step(state, batch, teacher_arrays, hparams, key, labels)

    def body(number, carried):
      state, totals = carried
      state, more = next_step(state, first + number)
      return state, metrics.merge(totals, more)

    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(next_step, state, first)[1])
    return jax.lax.fori_loop(0, length, body, (state, nothing))

  return segment


def batch_of_step(
    data: DeviceData, views: views_lib.Views, batch_size: int, key: jax.Array,
    number: int,
) -> types.Batch:
  """The batch of a step of a training, counted from 0; `key` is the training's."""
  num_steps = steps_per_epoch(len(data.ids), batch_size)
  epoch, position = divmod(number, num_steps)
  order, mask, view = _epoch(data, views, batch_size, num_steps,
                             randomness.stream(key, "data"), epoch)
  ids, other = order[position], other_views(key, epoch, len(data.label), views)
  return take(data, views, ids, view[ids], mask[position], other)


def make_init(
    learner: step_lib.Learner, inputs: types.Tree
) -> Callable[[jax.Array, types.Hparams], TrainState]:
  """`(key, hparams) -> state` before the first step of a training on `inputs`."""
  blank = preprocess.blank(inputs)
  examples = len(jax.tree.leaves(inputs)[0])
  return lambda key, hparams: step_lib.init(
      learner, randomness.stream(key, "init"), blank, hparams, examples)


def compiled_segment(
    learner: step_lib.Learner, views: views_lib.Views, batch_size: int
) -> Callable[..., tuple[TrainState, dict[str, metrics.Mean]]]:
  """`make_segment`, compiled for one device; the state is donated."""
  return jax.jit(make_segment(learner, views, batch_size), donate_argnums=0)


def _epoch(data, views, batch_size, num_steps, key, epoch):
  """Ids and masks `[steps, B]` of an epoch, and the view of each id `[N]`."""
  padding = num_steps * batch_size - len(data.ids)
  order = randomness.epoch_order(key, epoch, data.ids)
  order = jnp.pad(order, (0, padding), mode="wrap" if padding else "constant")
  mask = jnp.arange(num_steps * batch_size) < len(data.ids)
  view = _views(key, epoch, len(data.label), views)
  shape = (num_steps, batch_size)
  return order.reshape(shape), mask.reshape(shape), view


def _mixing(mixup, order, mask, key, epoch):
  """Ids `[steps, B]` to mix with, and their shares `[steps]`; None without."""
  if not mixup:
    return None, None
  pairs, share = jax.random.split(randomness.stream(key, "mixup", epoch))
  # Padding stands last and stays there, so valid rows are given valid ones.
  draw = jnp.where(mask, jax.random.uniform(pairs, mask.shape), 2.0)
  drawn = jax.random.beta(share, mixup, mixup, (len(mask),), jnp.float32)
  return (jnp.take_along_axis(order, jnp.argsort(draw, axis=1), axis=1),
          jnp.minimum(drawn, 1 - drawn))


def views_of_epoch(
    key: jax.Array, epoch: int, examples: int, views: views_lib.Views
) -> jax.Array:
  """The view of each example that a teacher sees in an epoch of a training.

  int32 `[examples]`; those of its student, unless they are independent.
  """
  other = other_views(key, epoch, examples, views)
  return other if other is not None else _views(
      randomness.stream(key, "data"), epoch, examples, views)


def other_views(
    key: jax.Array, epoch: jax.Array | int, examples: int, views: views_lib.Views
) -> jax.Array | None:
  """The views that are drawn for the teacher alone, or None if none are."""
  if not views.independent:
    return None
  return _views(randomness.stream(key, "teacher"), epoch, examples, views)


def _views(key, epoch, examples, views):
  return randomness.epoch_views(
      key, epoch, num_examples=examples, num_views=views.count)


def make_predict(
    model: types.Model,
    views: views_lib.Views,
    batch_size: int = 500,
    *,
    parts: int = 1,
    spread: Callable[..., Any] = lambda function: function,
    of: Callable[[types.Outputs], Any] = lambda outputs: outputs.logits,
) -> Callable[[types.Variables, DeviceData, jax.Array], Any]:
  """The compiled prediction of a model over all examples of a data set.

  Args:
    model: The net.
    views: The augmentation.
    batch_size: Examples at once.
    parts: The number of batches is made a multiple of it.
    spread: Maps `(variables, data, view, ids [batches, B]) -> logits` over the
      batches of several devices.

  Returns:
    `predict(variables, data, view) -> logits` `[N, classes]` of `data.inputs`, by
    id, all in the one view (an int32 scalar; 0 is the input itself).
  """

  def batches(variables, data, view, ids):
    def outputs(ids):
      batch = take(data, views, ids, jnp.full_like(ids, view), ids >= 0)
      return of(model.apply(variables, batch.inputs, train=False)[0])

    return jax.lax.map(outputs, ids)

  @jax.jit
  def predict(variables, data, view):
    number = len(data.label)
    # Equal batches, so that every row is computed by one program.
    size = min(batch_size, number)
    num_batches = parts * -(-number // (size * parts))
    ids = jnp.minimum(jnp.arange(num_batches * size), number - 1)
    found = spread(batches)(
        variables, data, view, ids.reshape(num_batches, size))
    return jax.tree.map(lambda x: x.reshape(
        (num_batches * size,) + x.shape[2:])[:number], found)

  return predict


def not_finite(outputs: types.Outputs) -> dict[str, jax.Array]:
  """Of logits and of each tap, of which examples they are not finite, bool `[B]`.

  A class may be masked by -inf, but not all of them.
  """
  isfinite = lambda x: jnp.isfinite(x).all(tuple(range(1, x.ndim)))
  return {"logits": ~jnp.isfinite(outputs.logits.max(-1)), **{
      f"features {name}": ~isfinite(tap) for name, tap in outputs.features.items()}}


def make_asked(
    on_host: Callable[[np.ndarray], types.Outputs], views: views_lib.Views,
    batch_size: int = 500, *, of: Callable[[types.Outputs], Any],
) -> Callable[[types.Variables, DeviceData, jax.Array], Any]:
  """As `make_predict`, of a net outside JAX, whose arrays stay on the host.

  Raises:
    UserError: From what it gives, where outputs of an input are not finite.
  """
  @jax.jit
  def see(data, view, ids):
    return take(data, views, ids, jnp.full_like(ids, view), ids >= 0).inputs

  def predict(variables, data, view):
    ids = np.arange(len(data.label), dtype=np.int32)
    found = []
    for at in range(0, len(ids), batch_size):
      outputs = on_host(np.asarray(see(data, view, ids[at:at + batch_size])))
      for what, bad in not_finite(outputs).items():
        if bad.any():
          these = ids[at:at + batch_size]
          raise UserError(
              f"config.teacher.name: gives NaN or infinite {what} of "
              f"{counted(int(bad.sum()), 'input')}, {some(these[bad])}, of {at} to "
              f"{these[-1]} in the order in which it is asked; let it return "
              "finite numbers, or leave out such features")
      found.append(of(outputs))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

  return predict
