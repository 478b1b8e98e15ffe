"""What a config's run would meet, without running it.

Each net of the recipe is made and its first steps are compiled. The state, the
batch and the dropout are those of the run's own first step. Only a teacher is
another: an untrained one, unless it is a file of logits.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import importlib.util
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import teachers
from kd_jax.config import build, recipe
from kd_jax.config import run as run_lib
from kd_jax.config import sweep as sweeps
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.core.screen import Screen
from kd_jax.runs import driver, estimate, probe, teacher_store
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
    name: Of the net, or of a bank.
    steps: Steps of the training.
    step: Seconds a step.
    memory: Bytes of the device that the step's program needs, or the bank.
    seconds: Of the training, evaluation after each epoch included.
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
    loss: The loss of the last net in words.
    terms: Its terms on the first batch.
    costs: What each training takes, and banks of logits.
    disk: Bytes that the run needs at most, the banks among them.
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
    pass


def _fetching(text: str) -> None:
  """A download is announced and not begun; without TensorFlow it is refused."""
  if importlib.util.find_spec("tensorflow") is not None:
    raise Remark(
        f"{text}: not on this machine, so the run begins with a download by TFDS; "
        "ask again after it to know more")


def examine(
    visit: Visit, config: Mapping[str, Any], workdir: pathlib.Path
) -> Findings:
  """Looks at the run of a checked config; every failure is a problem told."""
  found = Findings()
  asked = run = visit.attempt("config", run_lib.read, config)
  if asked is None:
    return found
  if asked.sweep.points:
    run = visit.attempt("sweep", _lane, visit, asked)
  nets = run and visit.attempt("config", functools.partial(
      recipe.nets, run.values, swept=bool(asked.sweep.points)))
  if run is None or nets is None:
    return found
  for net in nets:
    visit.attempt("names", build.check_net, net)
  # The records of the run's own setup go away again.
  with tempfile.TemporaryDirectory() as folder:
    setup = visit.attempt("data", setup_lib.prepare, run, pathlib.Path(folder),
                          _Silent(), lambda: False, _fetching)
    if setup is None:
      return found
    with contextlib.closing(setup.recorder):
      visit.attempt("run", _look, visit, setup, nets, workdir, found)
  if asked.sweep.points:
    found.sweep = visit.attempt("sweep", estimate.table, asked, lambda text: None)
  return found


def _lane(visit: Visit, run: Run) -> Run:
  """The run of the first lane that distils, after what only sweeps need."""
  for name in ("matplotlib", "scipy"):
    if importlib.util.find_spec(name) is None:
      visit.tell(f"{name}: not installed, and a sweep's tables need it; pip "
                 "install 'kd_jax[report]'")
  lanes = sweeps.lanes(run.values, run.sweep.points)
  visit.attempt("sweep", driver.check_reference, lanes, run.sweep.reference)
  soft = [lane for lane in lanes
          if build.student_hparams(lane.values).soft_weight > 0]
  return run_lib.read((soft or lanes)[0].values)


def _look(
    visit: Visit, setup: Setup, nets: list[Net], workdir: pathlib.Path,
    found: Findings,
) -> None:
  """The data, every net, one batch through the last, and what it all takes."""
  found.facts["data"] = sources.describe(setup.dataset)
  if setup.dataset.notice:
    visit.tell(
        f"{setup.dataset.notice} For all of it give --config.data.dir=DIR with "
        "the four idx files", fatal=False)
  begun: dict[str, Begun] = {}
  # All nets are made, so that what is wrong with any is told.
  for net in nets:
    made = visit.attempt(net.name, first_batch.begin, visit, setup, net, begun)
    if made is not None:
      begun[net.name] = made
      found.facts[net.name] = first_batch.net(made)
      _look_at_batch(visit, made)
  last = begun.get(nets[-1].name)
  if last is None:
    return  # What is lacking has been told.
  run = last.setup.run
  found.loss = str(teacher_store.loss_record(
      run.method, last.training.hparams, last.training.schedules)["loss"])
  if last.learner.teacher is not None or not run.method.needs_teacher:
    found.terms = visit.attempt("first batch", first_batch.terms, last) or []
    first_batch.look_at_terms(
        visit, found.terms, fatal=run.values["nonfinite"] == "stop")
    visit.attempt("cost", _reckon, visit, setup, begun, workdir, found)


def _look_at_batch(visit: Visit, begun: Begun) -> None:
  number, asks = len(begun.setup.train.ids), begun.training.batch_size
  if asks > number:
    prefix = "config.teacher" if begun.net.member is not None else "config"
    visit.tell(
        f"{prefix}.batch_size={asks}: more than the {number} training examples, so "
        f"every step is a padded epoch; give at most {number}", fatal=False)


def _reckon(
    visit: Visit, setup: Setup, begun: dict[str, Begun], workdir: pathlib.Path,
    found: Findings,
) -> None:
  """Time, memory and disk."""
  banks = {name: _bank(each) for name, each in begun.items() if _banked(each)}
  stored, nets = sum(banks.values()), _disk_bytes(setup, begun)
  found.disk, free = stored + nets, machine.free(workdir)
  found.facts["disk needed"] = (
      f"at most {size(found.disk)} of {size(free)}: banks of logits "
      f"{size(stored)}, nets and checkpoints {size(nets)}")
  if found.disk > free:
    visit.tell(
        f"--workdir={workdir}: the run needs about {size(found.disk)} of disk, "
        f"{size(free)} are free; make room, or give a --workdir elsewhere")
  if not all(term.finite for term in found.terms):
    return
  for name, each in begun.items():
    if name in banks:
      members = [begun[teacher] for teacher in each.net.teachers]
      asked = each.training.views.count * len(each.setup.train.label)
      found.costs.append(Cost(
          f"bank for {name}", 0, 0.0, banks[name],
          sum(asked * cost.step_seconds(member.training, each.setup.train.inputs)
              / _per_step(member) for member in members)))
    taken = visit.attempt(name, _cost, visit, each, name in banks)
    found.costs += [taken] if taken else []


def _banked(begun: Begun) -> bool:
  teacher = begun.learner.teacher
  return bool(begun.net.teachers and teacher is not None and (
      teacher_store.wants_bank(begun.setup, begun.training, teacher.taps)))


def _bank(begun: Begun) -> int:
  """Bytes of the bank that a student learns from."""
  return cost.num_bytes(_stored(begun).arrays)


def _stored(begun: Begun) -> teachers.Teacher:
  """A bank of zeros, of the size of the one that a student learns from."""
  setup, run = begun.setup, begun.setup.run
  examples = (len(setup.train.label), begun.training.views.count)
  taps = teacher_store.compared(
      setup, begun.training, begun.learner.teacher.taps if begun.learner.teacher
      else {})
  return teachers.banked(
      jnp.zeros((*examples, len(begun.net.teachers), setup.dataset.num_classes)),
      weights=run.weights, mean=run.values["teacher.mean"],
      features={name: jnp.zeros((*examples, *shape))
                for name, shape in taps.items()})


def _cost(visit: Visit, begun: Begun, banked: bool) -> Cost:
  """Compiles the step of a training, and runs a few where that is quick."""
  setup, training, learner, state = (
      begun.setup, begun.training, begun.learner, begun.state)
  name, data = begun.net.name, setup.train
  if banked:
    learner = learner._replace(teacher=_stored(begun))
  arrays = learner.teacher.arrays if learner.teacher else ()
  key, length = jax.random.key(training.seed), jnp.int32(_STEPS)
  program: Any = segment.compiled_segment(
      learner, training.views, training.batch_size)
  compiled = program.lower(*cost.shapes((
      state, data, arrays, training.hparams, key, length))).compile()
  memory = cost.program_bytes(compiled) + cost.num_bytes(setup.splits)
  step = cost.step_seconds(training, data.inputs, learner.teacher)
  if memory > probe.device_bytes():
    visit.tell(
        f"{name}: a step needs {size(memory)} of the device's "
        f"{size(probe.device_bytes())}; give a smaller config.batch_size, "
        "smaller widths or --config.teacher.bank=never")
  elif step <= _LONGEST_STEP:
    if setup.devices.kind != "single":
      compiled = devices_lib.compiled_segment(
          setup.devices, learner, training.views, training.batch_size)
    arrays, hparams = devices_lib.copies(
        setup.devices, (arrays, training.hparams))
    # The state is copied, as programs take it over.
    _, totals = compiled(
        jax.tree.map(jnp.copy, state), data, arrays, hparams, key, length)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(totals)):
      prefix = "config.teacher" if begun.net.member is not None else "config"
      visit.tell(
          f"{name}: NaN or infinite after a few steps; give a smaller "
          f"--{prefix}.optimizer.learning_rate")
  epochs = -(-training.last_step // segment.steps_per_epoch(
      len(data.ids), training.batch_size))
  images = epochs * sum(len(split.data.label) for split in setup.splits.values())
  return Cost(name, training.last_step, step, memory, step * (
      training.last_step + images / _per_step(begun)))


def _per_step(begun: Begun) -> int:
  """Examples in the time of a step, if no gradients are wanted: a third of it."""
  return 3 * begun.training.batch_size


def _disk_bytes(setup: Setup, begun: dict[str, Begun]) -> int:
  """Bytes of the nets that a run leaves, and of unfinished ones at the worst."""
  kept, unfinished = 0, 0
  for each in begun.values():
    # A teacher lies in its store and among the run's own parameters.
    own = each.net.in_config or each.net.member is not None
    net = cost.num_bytes(each.state.student)
    kept += (2 if own else 1) * net
    best = net if "heldout" in setup.splits else 0
    unfinished = max(unfinished, cost.num_bytes(each.state) + best)
  # Those that are kept, and the one that is being written.
  return kept + (setup.run.values["checkpoint.keep"] + 1) * unfinished
