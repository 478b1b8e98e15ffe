"""Lanes: many runs of one program at once, as `vmap` of a run.

Lanes lie in a rectangle, seeds by points. The outer `vmap` is over seeds: each
has its own key, so its own initialisation and batches. The inner one is over
points that share their seed's key: order, views, images and bank rows are drawn
once for all of them, and the first layers of all students are one matrix product.
Several devices share the seeds' axis and have nothing to tell each other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from kd_jax.core import randomness, types
from kd_jax.data import preprocess
from kd_jax.data import views as views_lib
from kd_jax.training import cost, metrics, step
from kd_jax.training import segment as segment_lib
from kd_jax.training.fit import Split
from kd_jax.training.state import TrainState

_AXIS = "lanes"
# The axes of a state. The step is everyone's: mapped over, it would draw an order
# of its own for each point.
_HELD = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]


class Shape(NamedTuple):
  """Lanes of a chunk: `devices * seeds` keys with `points` lanes each."""

  devices: int
  seeds: int
  points: int

  @property
  def rows(self) -> int:
    return self.devices * self.seeds

  @property
  def size(self) -> int:
    return self.rows * self.points


class Lanes(NamedTuple):
  """The compiled programs of a rectangle of lanes.

  All have leading axes `[rows, points]`, but `seeds` and the step of a state.

  Attributes:
    shape: The rectangle.
    init: `(seeds [rows], hparams) -> state`.
    segment: `(state, hparams, seeds, length) -> (state, totals)`; donates.
    evaluate: `(state, split) -> (totals, wrong)`; wrong is bool `[..., N]`.
    totals: Shapes of the totals of a segment.
    bytes: Device memory that `segment` needs for itself and its arguments.
    bound: `(data, teacher_arrays) -> Lanes`, the same programs on other arrays.
  """

  shape: Shape
  init: Callable[[jax.Array, types.Hparams], TrainState]
  segment: Callable[..., tuple[TrainState, dict[str, metrics.Mean]]]
  evaluate: Callable[..., Any]
  totals: dict[str, metrics.Mean]
  bytes: int
  bound: "Callable[[segment_lib.DeviceData, types.Tree], Lanes]"


def compile_lanes(
    learner: step.Learner,
    views: views_lib.Views,
    batch_size: int,
    shape: Shape,
    data: segment_lib.DeviceData,
    hparams: types.Hparams,
    evaluate: Callable[..., Any],
    *,
    own_teachers: bool = False,
) -> Lanes:
  """Compiles the run of a learner for a rectangle of lanes.

  Args:
    learner: What every lane runs.
    views: The augmentation of the transfer set.
    batch_size: Examples a step, of each lane.
    shape: The rectangle.
    data: The training data.
    hparams: Of any lane, for the structure.
    evaluate: `(variables, split) -> (totals, wrong [N])` of one net.
    own_teachers: Whether each row has a teacher of its own. The teacher's arrays,
      and its logits of a split, then have the leading axis `[rows]`.

  Returns:
    The programs. `segment` is compiled here and never again: other shapes are
    refused. A single lane's is that of a single run, to the bit.
  """
  place = _placement(shape)
  arrays = learner.teacher.arrays if learner.teacher else ()
  rows = 0 if own_teachers else None
  if own_teachers:
    arrays = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (shape.rows, *x.shape), x.dtype, sharding=place.sharding), arrays)
  segment = place.spread(
      mapped_segment(
          segment_lib.make_segment(learner, views, batch_size), shape, rows),
      (_HELD, (P(), _specs(rows)), P(_AXIS), P(_AXIS), P()), (_HELD, 0),
      donate=True)
  init = _init(learner, shape, place, data)
  evaluation = _evaluation(learner, shape, place, evaluate, rows)
  seeds = jnp.zeros((shape.rows,), jnp.uint32)
  lanes = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (shape.rows, shape.points)), hparams)
  state = jax.eval_shape(init, seeds, lanes)
  # Arrays lie where they will lie: that of one that is not used is not guessed.
  spread = place.split if own_teachers else place.copies
  shapes = (place.copies(data), arrays if own_teachers else spread(arrays))
  lowered = segment.lower(state, shapes, lanes, seeds, jnp.int32(0))
  compiled = lowered.compile()
  apart = lambda split: (place.copies(split.data), spread(split.teacher_logits))

  def bound(data, arrays) -> Lanes:
    fixed = place.copies(data), spread(arrays)
    return Lanes(
        shape, lambda seeds, hparams: init(*place.split((seeds, hparams))),
        lambda state, hparams, seeds, length: compiled(
            state, fixed, *place.split((hparams, seeds)),
            place.copies(jnp.int32(length))),
        lambda state, split: evaluation(state, *apart(split)),
        lowered.out_info[1], cost.program_bytes(compiled), bound)

  if own_teachers:
    arrays = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), arrays)
  return bound(data, arrays)


def _init(learner, shape: Shape, place: "_Placement", data):
  """`(seeds, hparams) -> state` of a rectangle, compiled."""
  blank = preprocess.blank(data.inputs)

  def start(seed, hparams):
    return step.init(
        learner, randomness.stream(jax.random.key(seed), "init"), blank, hparams)

  return place.spread(_rectangle(
      start, shape, (None, 0), (0, 0), _HELD), (P(_AXIS), P(_AXIS)), _HELD)


def _evaluation(learner, shape: Shape, place: "_Placement", evaluate, rows):
  """`(state, data, teacher_logits) -> (totals, wrong)` of a rectangle, compiled."""
  def judge(state, data, teacher_logits):
    return evaluate(step.deployed_variables(learner, state),
                    Split(data, teacher_logits))

  return place.spread(
      _rectangle(judge, shape, (_HELD, None, None), (_HELD, None, rows), 0),
      (_HELD, P(), _specs(rows)), 0)


def mapped_segment(
    segment: Callable[..., Any], shape: Shape, teachers: int | None = None
) -> Callable[..., Any]:
  """A segment of `segment.make_segment` over a device's rectangle of lanes.

  `teachers` is the axis of rows of the teacher's arrays, if each has its own.

  Returns:
    `(state, (data, teacher_arrays), hparams, seeds, length) -> (state, totals)`.
  """
  def advance(state, fixed, hparams, seed, length):
    return segment(state, *fixed, hparams, jax.random.key(seed), length)

  return _rectangle(
      advance, shape, (_HELD, None, 0, None, None),
      (_HELD, (None, teachers), 0, 0, None), (_HELD, 0))


def stack(items: list[Any], shape: Shape) -> Any:
  """Trees of scalars, one a lane in the rectangle's order, as `[rows, points]`."""
  return jax.tree.map(
      lambda *x: jnp.asarray(x).reshape(shape.rows, shape.points), *items)


def finite(state: TrainState) -> jax.Array:
  """Which lanes' parameters are all finite, bool `[rows, points]`."""
  fine = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(2, leaf.ndim)))
          for leaf in jax.tree.leaves(state.student.params)]
  return jnp.all(jnp.stack(fine), axis=0)


def _rectangle(function, shape, inner, outer, out):
  """`function` of one lane, mapped over points within seeds."""
  over_points = _over(function, shape.points, inner, out)
  return _over(over_points, shape.seeds, outer, out)


def _over(function, size, in_axes, out_axes):
  """vmap; an axis of one is taken off instead, so that nothing is batched."""
  if size > 1:
    return jax.vmap(function, in_axes=in_axes, out_axes=out_axes)
  off = lambda axes, tree: _mapped(axes, tree, lambda x: jnp.squeeze(x, 0))
  on = lambda axes, tree: _mapped(axes, tree, lambda x: jnp.expand_dims(x, 0))
  return lambda *args: on(out_axes, function(*off(in_axes, args)))


def _mapped(axes, tree, change):
  """Applies `change` to the leaves of `tree` that `axes`, a prefix, maps."""
  return jax.tree.map(
      lambda axis, part: part if axis is None else jax.tree.map(change, part),
      axes, tree, is_leaf=lambda x: x is None)


class _Placement(NamedTuple):
  """How lanes lie on devices: everything on one, or seeds spread over a mesh."""

  mesh: Mesh | None

  @property
  def sharding(self) -> NamedSharding | None:
    """Of arrays whose leading axis is spread over the devices."""
    return None if self.mesh is None else NamedSharding(self.mesh, P(_AXIS))

  def copies(self, tree):
    """A copy on every device."""
    return tree if self.mesh is None else jax.device_put(
        tree, NamedSharding(self.mesh, P()))

  def split(self, tree):
    """The leading axis spread over the devices."""
    return tree if self.mesh is None else jax.device_put(tree, self.sharding)

  def spread(self, function, in_specs, out_specs, *, donate=False):
    """`function` compiled for each device's part of the rows."""
    if self.mesh is not None:
      # Lanes are independent: nothing to check between devices.
      function = jax.shard_map(
          function, mesh=self.mesh, in_specs=_specs(in_specs),
          out_specs=_specs(out_specs), check_vma=False)
    return jax.jit(function, donate_argnums=0 if donate else ())


def _specs(axes):
  """Partition specs of a tree of axes: 0 is spread, None is copied."""
  as_spec = lambda axis: (
      axis if isinstance(axis, P) else P() if axis is None else P(_AXIS))
  return jax.tree.map(
      as_spec, axes, is_leaf=lambda x: x is None or isinstance(x, P))


def _placement(shape: Shape) -> _Placement:
  if shape.devices == 1:
    return _Placement(None)
  devices = np.asarray(jax.local_devices()[:shape.devices])
  return _Placement(Mesh(devices, (_AXIS,)))
