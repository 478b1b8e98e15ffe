"""What a run would take: time, memory of the device, and disk."""

from collections.abc import Iterator
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import methods, teachers
from kd_jax.config import build
from kd_jax.runs import estimate, probe, teacher_store
from kd_jax.runs.doctor import Visit, size, trial
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib
from kd_jax.training.settings import Training

# Long enough for a steady figure; a step longer than the second is not run at
# all, but reckoned.
_SECONDS, _LONGEST_STEP, _MOST_STEPS = 0.3, 2.0, 100


class Cost(NamedTuple):
  """What a training takes.

  Attributes:
    name: Of the net, with the number of times it is trained.
    steps: Steps of one training.
    step: Seconds a step.
    measured: Whether steps were run; if not, `step` is from arithmetic.
    memory: Bytes of the device that the step's program needs.
    seconds: Of all trainings, evaluation after each epoch included.
  """

  name: str
  steps: int
  step: float
  measured: bool
  memory: int
  seconds: float


class Planned(NamedTuple):
  """Trainings that the run has ahead, so many `times` the same."""

  name: str
  times: int
  begun: trial.Begun
  learner: step_lib.Learner


def plan(
    setup: Setup, student: trial.Begun, teacher: trial.Begun | None,
    prepared: teachers.Teacher | None,
) -> Iterator[Planned]:
  """The trainings of a run, or of the first lane of a sweep."""
  hard, run = methods.METHODS["hard"], setup.run
  method = run.method
  banked = bank_bytes(setup, student.training) > 0

  def planned(name, times, begun, method, prepared=None):
    return Planned(name, times, begun, build.learner(
        run, begun.training, method, prepared))

  if teacher is not None:
    count = run.teacher.members
    yield planned("teacher" if count == 1 else f"teacher, {count} members",
                  count, teacher, hard)
  if banked:
    shape = bank_shape(setup, student.training)
    prepared = teachers.banked(
        jax.ShapeDtypeStruct(shape, jnp.float32),  # type: ignore[arg-type]
        weights=run.teacher.weights, mean=run.teacher.mean)
  if run.sweep.points:
    yield planned("a lane", 1, student, method, prepared)
  elif not method.needs_teacher:
    yield planned("baseline", 1, student, hard)
  elif banked or teacher is None or student.state.method:
    # What stored logits add to a step does not show: one program less.
    yield planned("baseline, distilled", 2, student, method, prepared)
  else:
    yield planned("baseline", 1, student, hard)
    yield planned("distilled", 1, student, method, prepared)


def bank_shape(setup: Setup, student: Training):
  """Shape of the bank that a run would make."""
  return (len(setup.train.label), student.views.count,
          setup.run.teacher.members, setup.dataset.num_classes)


def bank_bytes(setup: Setup, student: Training) -> int:
  """Bytes of the bank that a run would make, or 0 if it would make none."""
  if (not setup.run.method.needs_teacher
      or setup.run.teacher.logits is not None
      or not teacher_store.wants_bank(setup, student)):
    return 0
  return 4 * math.prod(bank_shape(setup, student))


def measure(visit: Visit, planned: Planned, setup: Setup) -> Cost:
  """Compiles the step of a training, and runs a few where that is quick."""
  name, times, (training, _), learner = planned
  compiled = _compiled(planned, setup)
  memory = _memory(compiled) + _bytes(setup.splits)
  step = estimate.step_seconds(
      training.model, setup.train.image, training.batch_size)
  fits = memory <= probe.device_bytes()
  measured = fits and step <= _LONGEST_STEP
  if not fits:
    visit.tell(
        f"{name}: a step needs {size(memory)} of the device's "
        f"{size(probe.device_bytes())}; give a smaller config.batch_size, "
        "smaller widths or --config.teacher.bank=never")
  if measured:
    if setup.devices.kind != "single":
      compiled = devices_lib.compiled_segment(
          setup.devices, learner, training.views, training.batch_size)
    step, totals = _timed(compiled, planned, setup)
    _look_at_totals(visit, name, totals)
  return Cost(name, training.total_steps, step, measured, memory,
              times * _seconds(training, setup, step))


def _compiled(planned: Planned, setup: Setup):
  """The segment of a training, as a run on one device would compile it."""
  training, state = planned.begun
  arrays = planned.learner.teacher.arrays if planned.learner.teacher else ()
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
      (state, setup.train, arrays, training.hparams, jax.random.key(0)))
  segment: Any = segment_lib.compiled_segment(
      planned.learner, training.views, training.batch_size)
  return segment.lower(*shapes, 1).compile()


def _memory(compiled: Any) -> int:
  """Bytes of a program's arguments, results and scratch."""
  memory = compiled.memory_analysis()
  if memory is None:
    return 0  # Not every backend tells.
  return (memory.argument_size_in_bytes + memory.output_size_in_bytes
          + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def bank_seconds(setup: Setup, student, teacher: Cost, batch_size: int):
  """Seconds to ask a teacher for every view of every image."""
  images = math.prod(bank_shape(setup, student)[:3])
  return _forward(teacher.step, batch_size) * images


def disk_bytes(
    setup: Setup, student: trial.Begun, teacher: trial.Begun | None
) -> int:
  """Bytes of the nets that a run leaves, and of unfinished ones at the worst."""
  kept, unfinished = 0, 0
  for begun, copies in ((student, 2), (teacher, 2 * setup.run.teacher.members)):
    if begun is not None:
      # A teacher lies in its store and among the run's own parameters.
      kept += copies * _bytes(begun.state.student)
      best = _bytes(begun.state.student) if "heldout" in setup.splits else 0
      unfinished = max(unfinished, _bytes(begun.state) + best)
  # Those that are kept, and the one that is being written.
  return kept + (setup.run.checkpoints.keep + 1) * unfinished


def _timed(segment: Any, planned: Planned, setup: Setup):
  """Seconds a step on the devices of the run, and the totals of the last ones."""
  training, state = planned.begun
  arrays = planned.learner.teacher.arrays if planned.learner.teacher else ()
  # A bank is only a shape so far. The state is copied, as programs take it over.
  arrays = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(
      x, jax.ShapeDtypeStruct) else x, arrays)
  state, arrays, hparams = devices_lib.copies(setup.devices, (
      jax.tree.map(np.array, state), arrays, training.hparams))
  key = jax.random.key(training.seed)

  def run(state, length):
    began = time.perf_counter()
    state, totals = jax.block_until_ready(
        segment(state, setup.train, arrays, hparams, key, length))
    return state, totals, time.perf_counter() - began

  # The first is slower: memory is fetched, threads wake up.
  state, totals, first = run(state, 1)
  if first > _SECONDS:
    return first, totals
  state, totals, one = run(state, 1)
  more = min(_MOST_STEPS, max(1, round(_SECONDS / one)))
  state, totals, all_ = run(state, 1 + more)
  # The difference leaves out what a segment costs once, such as its order.
  return max(all_ - one, 1e-6) / more, totals


def _look_at_totals(visit: Visit, name: str, totals) -> None:
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(totals)]
  if not all(np.isfinite(each).all() for each in leaves):
    prefix = "config.teacher" if name.startswith("teacher") else "config"
    visit.tell(
        f"{name}: NaN or infinite after a few steps; give a smaller "
        f"--{prefix}.optimizer.learning_rate")


def _seconds(training: Training, setup: Setup, step: float) -> float:
  """Of a training: its steps, and a look at every split after each epoch."""
  per_epoch = segment_lib.steps_per_epoch(len(setup.train.ids), training.batch_size)
  epochs = -(-training.total_steps // per_epoch)
  images = sum(len(split.data.label) for split in setup.splits.values())
  return training.total_steps * step + epochs * images * _forward(
      step, training.batch_size)


def _forward(step: float, batch_size: int) -> float:
  """Seconds an example without gradients: a third of the work of a step."""
  return step / (3 * batch_size)


def _bytes(tree: Any) -> int:
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
             for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))
