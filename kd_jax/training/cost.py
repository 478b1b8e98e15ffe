"""What a training costs, by arithmetic alone: FLOPs, seconds, bytes.

Whatever needs a cost before anything runs asks here: how an epoch is cut into
segments, how far a sweep is, what `--plan` and the doctor print, and how many
lanes the shards of a sweep run at once. Figures of time are rough, good enough to
weigh small nets against large ones and to tell hours from minutes.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import teachers
from kd_jax.core import types
from kd_jax.core.machine import cores
from kd_jax.data import preprocess
from kd_jax.training.settings import Training

# Plain speeds, and what a step costs beside its arithmetic.
_FLOPS_PER_CORE, _FLOPS_PER_ACCELERATOR = 1e11, 1e13
_STEP_SECONDS = 8e-4
# A segment should last no longer: a wish to stop waits for two, and a save. Where
# steps are slower than reckoned, the loop shortens the segments that follow.
SEGMENT_SECONDS = 3.0
# Points side by side on a CPU, by the forward FLOPs an example below which they
# gain: what benchmarks/README.md found for 2x30, 2x300 and 2x800 on MNIST, which
# have 0.06, 0.9 and 3.3 million.
_CPU_POINTS = ((2e5, 32), (1.5e6, 8), (float("inf"), 1))
# Elsewhere: enough to be busy with small nets, and few enough that there are
# chunks to deal out; in a memory that every device has by now.
_LANES, _BYTES = 64, 8 * 2**30


def forward_flops(
    model: types.Model, inputs: Any, number: int, *, initialised: bool = True
) -> float:
  """XLA's count for a batch of so many examples.

  Args:
    model: The net.
    inputs: Of the data set, for shapes and types.
    number: Examples of the batch.
    initialised: Whether the net has its parameters; if not, making them counts.
  """
  leaves, form = jax.tree.flatten(preprocess.seen(inputs, number))
  return _forward_flops(model, tuple(leaves), form, initialised)


@functools.cache
def _forward_flops(model, leaves, form, initialised) -> float:
  key, batch = jax.random.key(0), jax.tree.unflatten(form, leaves)
  first = lambda batch: jax.tree.map(lambda x: x[:1], batch)
  make = lambda key, batch: model.init(key, first(batch))
  apply = lambda held, batch: model.apply(held, batch, train=False)[0].logits
  if initialised:
    return _flops(apply, jax.eval_shape(make, key, batch), batch)
  return _flops(lambda key, batch: apply(make(key, batch), batch), key, batch)


def step_flops(
    training: Training, inputs: Any, teacher: teachers.Teacher | None = None
) -> float:
  """Of a step: forward, twice as much back, and what the teacher computes.

  Args:
    training: Of the net.
    inputs: Of the data set, for shapes and types.
    teacher: Who is asked in every step; its arrays may be mere shapes.
  """
  number = training.batch_size
  flops = 3 * forward_flops(training.model, inputs, number)
  if teacher is None:
    return flops
  column = jnp.zeros((number,), jnp.int32)
  batch = jax.eval_shape(lambda: types.Batch(
      preprocess.blank(inputs, number), column, column, column, column == 0))
  return flops + _flops(teacher.members, shapes(teacher.arrays), batch)


def step_seconds(
    training: Training, inputs: Any, teacher: teachers.Teacher | None = None,
    *, lanes: int = 1,
) -> float:
  """Of a step of one net on all of this machine, or of several lanes at once."""
  flops = lanes * step_flops(training, inputs, teacher)
  if jax.default_backend() != "cpu":
    return flops / (_FLOPS_PER_ACCELERATOR * jax.device_count()) + _STEP_SECONDS
  # Lanes of a device run one after another, those of several side by side.
  turns = -(-lanes // jax.local_device_count())
  return flops / (_FLOPS_PER_CORE * cores()) + turns * _STEP_SECONDS


def machine() -> str:
  """What the seconds are reckoned for, in words."""
  if jax.default_backend() == "cpu":
    return f"{cores()} cores"
  return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def segment_steps(per_epoch: int, seconds: float) -> int:
  """Steps of a segment: an epoch, or equal parts of one that takes long.

  Args:
    per_epoch: Steps of an epoch.
    seconds: Of a step, as of `step_seconds`.
  """
  pieces = round(per_epoch * seconds / SEGMENT_SECONDS)
  return -(-per_epoch // max(1, min(per_epoch, pieces)))


def lane_bytes(training: Training, inputs: Any) -> int:
  """Weights, gradients and two moments; activations forth and back."""
  held = jax.eval_shape(
      training.model.init, jax.random.key(0), preprocess.blank(inputs))
  weights = sum(leaf.size for leaf in jax.tree.leaves(held))
  widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(held) if leaf.shape)
  layers = len(jax.tree.leaves(held.params))
  return 4 * (4 * weights + 2 * training.batch_size * widest * layers)


def rectangle(
    training: Training, inputs: Any, seeds: Sequence[int]
) -> tuple[int, int, int]:
  """Devices, seeds and points of lanes to run at once, the same on all machines.

  Shards do not measure how many lanes to run at once: another machine would
  measure, and plan, something else, and the chunks dealt out would not be those
  of one sweep.

  Args:
    training: Of any of the lanes.
    inputs: Of the data set, for shapes and types.
    seeds: The seed of each lane.

  Returns:
    On a CPU, many points of a narrow net, or single lanes of a wide one, on each
    device; elsewhere as many lanes as fit.
  """
  points = max(seeds.count(seed) for seed in set(seeds))
  if jax.default_backend() == "cpu":
    # The limits were found with initialisation counted; shards keep their plans.
    flops = forward_flops(
        training.model, inputs, training.batch_size, initialised=False)
    rows, across = 1, next(
        n for most, n in _CPU_POINTS if flops / training.batch_size < most)
  else:
    lanes = max(1, min(_LANES, _BYTES // lane_bytes(training, inputs)))
    across = min(points, lanes)
    rows = lanes // across
  return jax.local_device_count(), rows, across


def shapes(tree: Any) -> Any:
  """Shapes and types of arrays, for programs that are only lowered."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def num_bytes(tree: Any) -> int:
  """Bytes of the arrays in a tree, or of those that its shapes stand for."""
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
             for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))


def program_bytes(compiled: Any) -> int:
  """Bytes of a program's arguments, results and scratch, on one device."""
  try:
    memory = compiled.memory_analysis()
    return (memory.argument_size_in_bytes + memory.output_size_in_bytes
            + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
  except (AttributeError, NotImplementedError):
    return 0  # Not every backend tells.


def _flops(function: Callable[..., Any], *arguments: Any) -> float:
  """XLA's count for a call, lowered but not compiled."""
  cost = jax.jit(function).lower(*arguments).cost_analysis() or {}
  return float(cost.get("flops", 0.0))
