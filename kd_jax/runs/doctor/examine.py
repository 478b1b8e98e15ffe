"""What a config's run would meet, without running it."""

from collections.abc import Mapping
import contextlib
import dataclasses
import importlib.util
import math
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import methods, teachers
from kd_jax.config import build
from kd_jax.config import run as run_lib
from kd_jax.config import sweep as sweeps
from kd_jax.config.run import Run
from kd_jax.core.screen import Screen
from kd_jax.runs import estimate, probe, sweep, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.doctor import (
  Remark,
  Visit,
  first_batch,
  machine,
  size,
  sources,
)
from kd_jax.runs.doctor.first_batch import Begun
from kd_jax.runs.setup import Setup
from kd_jax.training import cost, segment
from kd_jax.training import devices as devices_lib

# A few steps show whether a training diverges at once; long ones are not run.
_STEPS, _LONGEST_STEP = 3, 2.0


class Cost(NamedTuple):
  """What a training takes, by arithmetic; memory as the compiler says.

  Attributes:
    name: Of the net, with the number of times it is trained; or of a bank.
    steps: Steps of one training.
    step: Seconds a step.
    memory: Bytes of the device that the step's program needs, or the bank.
    seconds: Of all trainings, evaluation after each epoch included.
  """

  name: str
  steps: int
  step: float
  memory: int
  seconds: float


@dataclasses.dataclass
class Findings:
  """What was found out about a run; what could not be is left empty.

  Attributes:
    facts: Data, nets and disk, in a line each.
    loss: The loss in words.
    terms: Its terms on the first batch.
    costs: What each training takes, and the bank of logits.
    disk: Bytes that the run needs at most, the bank among them.
    sweep: Columns, rows and summary of `--plan`, for a sweep.
  """

  facts: dict[str, str] = dataclasses.field(default_factory=dict)
  loss: str = ""
  terms: list[first_batch.Term] = dataclasses.field(default_factory=list)
  costs: list[Cost] = dataclasses.field(default_factory=list)
  disk: int = 0
  sweep: tuple[list[str], list[list[str]], str] | None = None


class _Silent(Screen):
  """What a run says while it loads, the doctor says in its own words."""

  def say(self, text: str, *, style: str | None = None) -> None:
    # Said by data/tfds_source.py after everything that can be refused without
    # downloading; and without TensorFlow it is refused right afterwards.
    if (text.startswith("data: TFDS downloads")
        and importlib.util.find_spec("tensorflow") is not None):
      raise Remark(
          f"{text}: not on this machine, so the run begins with a download by "
          "TFDS; ask again after it to know more")


def examine(
    visit: Visit, config: Mapping[str, Any], workdir: pathlib.Path
) -> Findings:
  """Looks at the run of a checked config; every failure is a problem told."""
  found = Findings()
  asked = run = visit.attempt("config", run_lib.read, config)
  if asked is not None and asked.sweep.points:
    run = visit.attempt("sweep", _lane, visit, asked)
  if run is None or asked is None:
    return found
  visit.attempt("names", build.check_names, run.values)
  # The records of the run's own setup go away again.
  with tempfile.TemporaryDirectory() as folder:
    setup = visit.attempt("data", setup_lib.prepare, run, pathlib.Path(folder),
                          _Silent(), lambda: False)
    if setup is None:
      return found
    with contextlib.closing(setup.recorder):
      visit.attempt("run", _look, visit, setup, workdir, found)
  if asked.sweep.points:
    found.sweep = visit.attempt("sweep", estimate.table, asked, lambda text: None)
  return found


def _lane(visit: Visit, run: Run) -> Run:
  """The run of the first lane that distils, after what only sweeps need."""
  for name in ("matplotlib", "scipy"):
    if importlib.util.find_spec(name) is None:
      visit.tell(f"{name}: not installed, and a sweep's tables need it; pip "
                 "install 'kd_jax[report]'")
  groups = sweeps.expand(run.values, run.sweep.points)
  visit.attempt("sweep", sweep.check_reference, groups, run.sweep.reference)
  lanes = [lane for group in groups for lane in group.lanes]
  soft = [lane for lane in lanes
          if build.student_hparams(lane.values).soft_weight > 0]
  return run_lib.read((soft or lanes)[0].values)


def _look(
    visit: Visit, setup: Setup, workdir: pathlib.Path, found: Findings
) -> None:
  """The data, both nets, one batch through them, and what it all takes."""
  run = setup.run
  found.facts["data"] = sources.describe(setup.dataset)
  if setup.dataset.notice:
    visit.tell(
        f"{setup.dataset.notice} For all of it give --config.data.dir=DIR with "
        "the four idx files", fatal=False)
  own = setup_lib.transfer(setup, run)
  # Both nets are built, so that what is wrong with either is told.
  training = visit.attempt("student", build.student, run.values, own.dataset)
  member = asked = None
  if run.method.needs_teacher:
    member, asked = visit.attempt(
        "teacher", first_batch.teacher, setup, training) or (None, None)
  student = training and visit.attempt(
      "student", first_batch.begin, own, training, run.method, asked)
  for name, prefix, begun in (("student", "config", student),
                              ("teacher", "config.teacher", member)):
    if begun is not None:
      found.facts[name] = first_batch.net(run.titles[name], begun)
      asks, number = begun.training.batch_size, len(begun.data.ids)
      if asks > number:
        visit.tell(
            f"{prefix}.batch_size={asks}: more than the {number} training "
            "examples, so every step is a padded epoch; give at most "
            f"{number}", fatal=False)
  if student is None:
    return  # What is lacking has been told.
  found.loss = str(teacher_store.loss_record(
      run.method, student.training.hparams, student.training.schedules)["loss"])
  if asked is not None or not run.method.needs_teacher:
    found.terms = visit.attempt(
        "first batch", first_batch.terms, student) or []
    first_batch.look_at_terms(visit, found.terms, fatal=not run.skip_nonfinite)
    visit.attempt("cost", _reckon, visit, setup, student, member, workdir, found)


def _reckon(
    visit: Visit, setup: Setup, student: Begun, teacher: Begun | None,
    workdir: pathlib.Path, found: Findings,
) -> None:
  """Time, memory and disk."""
  asked, training = setup.run.teacher, student.training
  shape = (len(setup.train.label), training.views.count, asked.members,
           setup.dataset.num_classes)
  banked = teacher is not None and teacher_store.wants_bank(setup, training)
  if banked:
    stored: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
    student = student._replace(learner=student.learner._replace(
        teacher=teachers.banked(stored, weights=asked.weights, mean=asked.mean)))
  bank, nets = banked * 4 * math.prod(shape), _disk_bytes(setup, student, teacher)
  found.disk, free = bank + nets, machine.free(workdir)
  found.facts["disk needed"] = (
      f"at most {size(found.disk)} of {size(free)}: bank of logits {size(bank)}, "
      f"nets and checkpoints {size(nets)}")
  if found.disk > free:
    visit.tell(
        f"--workdir={workdir}: the run needs about {size(found.disk)} of disk, "
        f"{size(free)} are free; make room, or give a --workdir elsewhere")
  if not all(term.finite for term in found.terms):
    return
  for name, times, begun in _trainings(setup, student, teacher, banked):
    taken = visit.attempt(name, _cost, visit, setup, name, times, begun)
    found.costs += [taken] if taken else []
  if banked and teacher is not None and found.costs:
    seconds = math.prod(shape[:3]) * found.costs[0].step / _per_step(teacher)
    found.costs.append(Cost("bank of logits", 0, 0.0, bank, seconds))


def _trainings(
    setup: Setup, student: Begun, teacher: Begun | None, banked: bool
) -> list[tuple[str, int, Begun]]:
  """Name, number and kind of the trainings of a run, or of a sweep's first lane."""
  run, hard, made = setup.run, methods.METHODS["hard"], []
  if teacher is not None:
    count = run.teacher.members
    name = "teacher" if count == 1 else f"teacher, {count} members"
    made.append((name, count, teacher))
  if run.sweep.points:
    return [*made, ("a lane", 1, student)]
  if run.method is hard:
    return [*made, ("baseline", 1, student)]
  if teacher is None or banked:
    # What stored logits add to a step does not show: one program less.
    return [*made, ("baseline, distilled", 2, student)]
  baseline = first_batch.begin(
      setup._replace(train=student.data), student.training, hard)
  return [*made, ("baseline", 1, baseline), ("distilled", 1, student)]


def _cost(
    visit: Visit, setup: Setup, name: str, times: int, begun: Begun
) -> Cost:
  """Compiles the step of a training, and runs a few where that is quick."""
  training, learner, data, state = begun
  arrays = learner.teacher.arrays if learner.teacher else ()
  key, length = jax.random.key(training.seed), jnp.int32(_STEPS)
  program: Any = segment.compiled_segment(
      learner, training.views, training.batch_size)
  compiled = program.lower(*cost.shapes((
      state, data, arrays, training.hparams, key, length))).compile()
  memory = cost.program_bytes(compiled) + cost.num_bytes(setup.splits)
  step = cost.step_seconds(training, data.image, learner.teacher)
  if memory > probe.device_bytes():
    visit.tell(
        f"{name}: a step needs {size(memory)} of the device's "
        f"{size(probe.device_bytes())}; give a smaller config.batch_size, "
        "smaller widths or --config.teacher.bank=never")
  elif step <= _LONGEST_STEP:
    if setup.devices.kind != "single":
      compiled = devices_lib.compiled_segment(
          setup.devices, learner, training.views, training.batch_size)
    # A bank is only a shape so far. The state is copied, as programs take it over.
    arrays, hparams = devices_lib.copies(setup.devices, jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else jnp.zeros(x.shape, x.dtype),
        (arrays, training.hparams)))
    _, totals = compiled(
        jax.tree.map(jnp.copy, state), data, arrays, hparams, key, length)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(totals)):
      prefix = "config.teacher" if name.startswith("teacher") else "config"
      visit.tell(
          f"{name}: NaN or infinite after a few steps; give a smaller "
          f"--{prefix}.optimizer.learning_rate")
  epochs = -(-training.total_steps // segment.steps_per_epoch(
      len(data.ids), training.batch_size))
  images = epochs * sum(len(split.data.label) for split in setup.splits.values())
  return Cost(name, training.total_steps, step, memory, times * step * (
      training.total_steps + images / _per_step(begun)))


def _per_step(begun: Begun) -> int:
  """Examples in the time of a step, if no gradients are wanted: a third of it."""
  return 3 * begun.training.batch_size


def _disk_bytes(setup: Setup, student: Begun, teacher: Begun | None) -> int:
  """Bytes of the nets that a run leaves, and of unfinished ones at the worst."""
  kept, unfinished = 0, 0
  for begun, copies in ((student, 2), (teacher, 2 * setup.run.teacher.members)):
    if begun is not None:
      # A teacher lies in its store and among the run's own parameters.
      net = cost.num_bytes(begun.state.student)
      kept += copies * net
      best = net if "heldout" in setup.splits else 0
      unfinished = max(unfinished, cost.num_bytes(begun.state) + best)
  # Those that are kept, and the one that is being written.
  return kept + (setup.run.checkpoints.keep + 1) * unfinished
