"""Lanes: many runs of one program at once, as `vmap` of a run.

Lanes lie in a rectangle, seeds by points. The outer `vmap` is over seeds: each
has its own key, so its own initialisation and batches. The inner one is over
points that share their seed's key: order, views, images and bank rows are drawn
once for all of them, and the first layers of all students are one matrix product.
Several devices share the seeds' axis and have nothing to tell each other.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.core import compilation, types
from kd_jax.data import views as views_lib
from kd_jax.training import cost, fit, metrics, step
from kd_jax.training import devices as devices_lib
from kd_jax.training import segment as segment_lib
from kd_jax.training.state import AveragedState, TrainState

# The axes of a state. The step is everyone's: mapped over, it would draw an order
# of its own for each point.
_HELD = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]
_AVERAGED = AveragedState(None, 0, 0, 0, 0, 0)  # type: ignore[arg-type]


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
    own_teachers: Whether each row has a teacher of its own. The teacher's arrays,
      and its logits of a split, then have the leading axis `[rows]`.

  Returns:
    The programs. `segment` is compiled here and never again: other shapes are
    refused. A single lane's is that of a single run, to the bit.
  """
  arrays = learner.teacher.arrays if learner.teacher else ()
  if own_teachers:  # Those of the rows come when the program is bound.
    arrays = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((shape.rows, *x.shape), x.dtype), arrays)
  key = ("lanes", step.key_of(learner), views, batch_size, shape, own_teachers,
         compilation.shapes((data, arrays, hparams)))
  bound = compilation.once(key, lambda: _compiled(
      step.without_arrays(learner), views, batch_size, shape, data, arrays, hparams,
      own_teachers))
  return bound(data, arrays)


def _compiled(
    learner, views, batch_size, shape, data, arrays, hparams, own_teachers
) -> Callable[[segment_lib.DeviceData, types.Tree], Lanes]:
  """`Lanes.bound` of the programs of a rectangle."""
  devices = _devices(shape)
  copies = lambda tree: devices_lib.copies(devices, tree)
  split = lambda tree: devices_lib.split(devices, tree)
  rows, put = (0, split) if own_teachers else (None, copies)
  init, segment, evaluate = _programs(
      learner, views, batch_size, shape, data.inputs, rows,
      _HELD if hparams.ema is None else _AVERAGED)
  seeds = jnp.zeros((shape.rows,), jnp.uint32)
  lanes = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (shape.rows, shape.points)), hparams)
  # Arrays lie where they will lie: that of one that is not used is not guessed.
  lowered = segment.lower(
      jax.eval_shape(init, seeds, lanes), (copies(data), put(_filled(arrays))),
      lanes, seeds, jnp.int32(0))
  compiled = lowered.compile()

  def bound(data, arrays) -> Lanes:
    # Only once they are used: of rows' own teachers there are none before.
    fixed = functools.cache(lambda: (copies(data), put(_filled(arrays))))
    return Lanes(
        shape, lambda seeds, hparams: init(*split((seeds, hparams))),
        lambda state, hparams, seeds, length: compiled(
            state, fixed(), *split((hparams, seeds)), copies(jnp.int32(length))),
        lambda state, part: evaluate(
            state, copies(part.data), put(part.teacher_logits)),
        lowered.out_info[1], cost.program_bytes(compiled), bound)

  return bound


def _filled(arrays: types.Tree) -> types.Tree:
  """Arrays, with zeros for those of which there is the shape alone."""
  return jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(
          x, jax.ShapeDtypeStruct) else x, arrays)


def _programs(learner, views, batch_size, shape, inputs, rows, held):
  """Init, segment and evaluation of a rectangle, to be compiled."""
  begin = segment_lib.make_init(learner, inputs)
  predict = segment_lib.make_predict(
      step.deployed(learner), views_lib.VIEWS["none"])

  def init(seed, hparams):
    return begin(jax.random.key(seed), hparams)

  def evaluate(state, data, teacher_logits):
    return fit.evaluate_state(
        predict, functools.partial(step.deployed_variables, learner), state,
        fit.Split(data, teacher_logits))

  segment = segment_lib.make_segment(learner, views, batch_size)
  return (
      jax.jit(_rectangle(init, shape, (None, 0), (0, 0), held)),
      jax.jit(mapped_segment(segment, shape, rows, held), donate_argnums=0),
      jax.jit(_rectangle(
          evaluate, shape, (held, None, None), (held, None, rows), 0)))


def mapped_segment(
    segment: Callable[..., Any], shape: Shape, teachers: int | None = None,
    held: TrainState = _HELD,
) -> Callable[..., Any]:
  """A segment of `segment.make_segment` over a rectangle of lanes.

  `teachers` is the axis of rows of the teacher's arrays, if each has its own;
  `held` has the axes of the state.

  Returns:
    `(state, (data, teacher_arrays), hparams, seeds, length) -> (state, totals)`.
  """
  def advance(state, fixed, hparams, seed, length):
    return segment(state, *fixed, hparams, jax.random.key(seed), length)

  return _rectangle(
      advance, shape, (held, None, 0, None, None),
      (held, (None, teachers), 0, 0, None), (held, 0))


def stack(items: list[Any], shape: Shape) -> Any:
  """Trees of scalars, one a lane in the rectangle's order, as `[rows, points]`."""
  return jax.tree.map(
      lambda *x: jnp.asarray(x).reshape(shape.rows, shape.points), *items)


def finite(state: TrainState) -> jax.Array:
  """Which lanes' parameters are all finite, bool `[rows, points]`."""
  fine = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(2, leaf.ndim)))
          for leaf in jax.tree.leaves(state.student.params)]
  return jnp.all(jnp.stack(fine), axis=0)


def _devices(shape: Shape) -> devices_lib.Devices:
  return devices_lib.choose(
      "sharded" if shape.devices > 1 else "single", most=shape.devices)


def _rectangle(function, shape, points, rows, out):
  """`function` of one lane over a rectangle: points within seeds within devices.

  `points` are the axes of its arguments over the points of a row, `rows` those over
  rows, which are also how they lie on devices; `out` those of its results.
  """
  over_points = _over(function, shape.points, points, out)
  over_seeds = _over(over_points, shape.seeds, rows, out)
  return devices_lib.spread(_devices(shape), over_seeds, rows, out)


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
