"""What a training costs, by arithmetic alone: FLOPs, seconds, bytes.

Whatever needs a cost before anything runs asks here: how an epoch is cut into
segments, how far a sweep is, what `--plan` and the doctor print, and how many
lanes the shards of a sweep run at once. Figures of time are rough, good enough to
weigh small nets against large ones and to tell hours from minutes.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

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


def forward_flops(model: types.Model, inputs: Any, number: int) -> float:
  """XLA's count for a batch of so many examples, from that for two.

  Thousands of batch sizes in a sweep are then one question.

  Args:
    model: The net.
    inputs: Of the data set, for shapes and types.
    number: Examples of the batch.
  """
  leaves, form = jax.tree.flatten(preprocess.seen(inputs, 2))
  return number / 2 * _forward_flops(model, form, *leaves)


@functools.cache
def _forward_flops(model, form, *leaves) -> float:
  batch = jax.tree.unflatten(form, leaves)
  return flops(lambda held, batch: model.apply(held, batch, train=False)[0].logits,
               variables(model, batch), batch)


def step_flops(
    training: Training, inputs: Any, teacher: teachers.Teacher | None = None
) -> float:
  """Of a step: forward, twice as much back, and what the teacher computes.

  Args:
    training: Of the net.
    inputs: Of the data set, for shapes and types.
    teacher: Who is asked in every step; its arrays may be mere shapes.
  """
  number = training.rows
  own = 3 * forward_flops(training.model, inputs, number)
  if teacher is None:
    return own
  column = jnp.zeros((number,), jnp.int32)
  batch = jax.eval_shape(lambda: types.Batch(
      preprocess.blank(inputs, number), column, column, column, column == 0))
  return own + flops(teacher.members, shapes(teacher.arrays), batch)


def step_seconds(
    training: Training, inputs: Any, teacher: teachers.Teacher | None = None,
    *, lanes: int = 1,
) -> float:
  """Of a step of one net on all of this machine, or of several lanes at once."""
  needed = lanes * step_flops(training, inputs, teacher)
  if jax.default_backend() != "cpu":
    return needed / (_FLOPS_PER_ACCELERATOR * jax.device_count()) + _STEP_SECONDS
  # Lanes of a device run one after another, those of several side by side.
  turns = -(-lanes // jax.local_device_count())
  return needed / (_FLOPS_PER_CORE * cores()) + turns * _STEP_SECONDS


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


def variables(model: types.Model, inputs: Any) -> types.Variables:
  """Shapes and types of a net's variables."""
  return jax.eval_shape(
      model.init, jax.random.key(0), preprocess.seen(inputs, 1))


def lane_bytes(training: Training, inputs: Any) -> int:
  """Weights, gradients and two moments; activations forth and back."""
  held = variables(training.model, inputs)
  weights = sum(leaf.size for leaf in jax.tree.leaves(held))
  widest = max(
      (leaf.shape[-1] for leaf in jax.tree.leaves(held) if leaf.shape), default=0)
  layers = len(jax.tree.leaves(held.params))
  return 4 * (4 * weights + 2 * training.rows * widest * layers)


def shapes(tree: Any) -> Any:
  """Shapes and types of arrays, for programs that are only lowered."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def num_bytes(tree: Any) -> int:
  """Bytes of the arrays in a tree, or of those that its shapes stand for."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def program_bytes(compiled: Any) -> int:
  """Bytes of a program's arguments, results and scratch, on one device."""
  try:
    memory = compiled.memory_analysis()
    return (memory.argument_size_in_bytes + memory.output_size_in_bytes
            + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
  except (AttributeError, NotImplementedError):
    return 0  # Not every backend tells.


def flops(function: Callable[..., Any], *arguments: Any) -> float:
  """XLA's count for a call, lowered but not compiled."""
  cost = jax.jit(function).lower(*arguments).cost_analysis() or {}
  return float(cost.get("flops", 0.0))
