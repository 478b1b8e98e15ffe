"""What a config's run would meet, without running it."""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import importlib.util
import pathlib
import tempfile
from typing import Any, NamedTuple

from kd_jax import teachers
from kd_jax.config import build
from kd_jax.config import run as run_lib
from kd_jax.config import sweep as sweeps
from kd_jax.config.run import Run
from kd_jax.core.screen import Screen
from kd_jax.runs import estimate, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.doctor import Visit, cost, machine, size, sources, trial
from kd_jax.runs.setup import Setup


@dataclasses.dataclass
class Findings:
  """What was found out about a run; what could not be is left empty.

  Attributes:
    data: The data set, in a line.
    nets: Student and teacher.
    loss: The loss in words.
    terms: Its terms on the first batch.
    costs: What each training takes.
    bank: Bytes of the bank of logits, and seconds to fill it.
    disk: Bytes that the run needs at most, the bank among them.
    free: Bytes that are free for it.
    sweep: Columns, rows and summary of `--plan`, for a sweep.
  """

  data: str = ""
  nets: list[trial.Net] = dataclasses.field(default_factory=list)
  loss: str = ""
  terms: list[trial.Term] = dataclasses.field(default_factory=list)
  costs: list[cost.Cost] = dataclasses.field(default_factory=list)
  bank: tuple[int, float] = (0, 0.0)
  disk: int = 0
  free: int = 0
  sweep: tuple[list[str], list[list[str]], str] | None = None

  @property
  def seconds(self) -> float:
    """Of the whole run, unless it is a sweep."""
    return sum(each.seconds for each in self.costs) + self.bank[1]


class _Download(Exception):
  """The run would begin with a download, which a look is no reason for."""


class _Silent(Screen):
  """What a run says while it loads, the doctor says in its own words."""

  def say(self, text: str, *, style: str | None = None) -> None:
    # Said by data/tfds_source.py after everything that can be refused without
    # downloading; and without TensorFlow it is refused right afterwards.
    if (text.startswith("data: TFDS downloads")
        and importlib.util.find_spec("tensorflow") is not None):
      raise _Download()


def examine(
    visit: Visit, config: Mapping[str, Any], workdir: pathlib.Path
) -> Findings:
  """Looks at the run of a checked config; every failure is a problem told."""
  findings = Findings()
  read = functools.partial(visit.attempt, "config")
  asked = run = read(functools.partial(run_lib.read, config))
  if run is not None and run.sweep.points:
    run = visit.attempt("sweep", functools.partial(_lane, visit, run))
  if run is None or asked is None:
    return findings
  visit.attempt("names", functools.partial(build.check_names, run.values))
  with contextlib.ExitStack() as stack:
    setup = visit.attempt("data", functools.partial(_setup, visit, run, stack))
    if setup is None:
      return findings
    findings.data = sources.describe(setup.dataset)
    case = _case(visit, setup)
    _look_at_data(visit, case)
    visit.attempt(
        "first batch", functools.partial(_try, visit, case, findings))
    visit.attempt(
        "cost", functools.partial(_reckon, visit, case, workdir, findings))
    if asked.sweep.points:
      findings.sweep = visit.attempt("sweep", functools.partial(
          estimate.table, asked, lambda text: None))
  return findings


def _lane(visit: Visit, run: Run) -> Run:
  """The run of the first lane that distils, after what only sweeps need."""
  for name in ("matplotlib", "scipy"):
    if importlib.util.find_spec(name) is None:
      visit.tell(f"{name}: not installed, and a sweep's tables need it; pip "
                 "install 'kd_jax[report]'")
  groups = sweeps.expand(run.values, run.sweep.points)
  lanes = [lane for group in groups for lane in group.lanes]
  reference = run.sweep.reference
  if reference and not any(
      sweeps.matches(lane.point, reference) for lane in lanes):
    visit.tell(
        f"config.sweep.reference={reference}: no point of the sweep sets that; "
        'add one, or give "--config.sweep.reference=()"')
  soft = [lane for lane in lanes
          if build.student_hparams(lane.values).soft_weight > 0]
  return run_lib.read((soft or lanes)[0].values)


def _setup(
    visit: Visit, run: Run, stack: contextlib.ExitStack
) -> Setup | None:
  """The run's own setup, its records in a folder that goes away again."""
  folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
  try:
    setup = setup_lib.prepare(run, folder, _Silent(), lambda: False)
  except _Download:
    visit.tell(
        f"{run.part('data.name')}: not on this machine, so the run begins "
        "with a download by TFDS; ask again after it to know more",
        fatal=False)
    return None
  stack.callback(setup.recorder.close)
  return setup


class _Case(NamedTuple):
  """What a run is made of, as far as it could be built.

  Attributes:
    setup: What trainings share.
    student: The student's training, about to begin.
    teacher: That of the teacher's first member, where one is trained.
    prepared: Who is asked: untrained members, or a file of logits.
  """

  setup: Setup
  student: trial.Begun | None
  teacher: trial.Begun | None = None
  prepared: teachers.Teacher | None = None


def _case(visit: Visit, setup: Setup) -> _Case:
  """Builds both nets, so that what is wrong with either is told."""
  student = lambda prepared: visit.attempt(
      "student", functools.partial(trial.student, setup, prepared))
  if not setup.run.method.needs_teacher:
    return _Case(setup, student(None))
  if setup.run.teacher.logits is None:
    found = visit.attempt("teacher", functools.partial(trial.teacher, setup))
    return _Case(setup, student(found and found[1]), *(found or ()))
  begun = student(None)
  given = begun and visit.attempt("teacher", functools.partial(
      teacher_store.obtain, setup, begun.training))
  prepared = given and given.teacher._replace(
      arrays=trial.alone(given.teacher.arrays))
  return _Case(setup, student(prepared), prepared=prepared)


def _look_at_data(visit: Visit, case: _Case) -> None:
  setup = case.setup
  if setup.dataset.notice:
    visit.tell(
        f"{setup.dataset.notice} For all of it give --config.data.dir=DIR with "
        "the four idx files", fatal=False)
  number = len(setup.dataset.train_ids)
  for prefix, begun in (("config", case.student), ("config.teacher", case.teacher)):
    if begun is not None and begun.training.batch_size > number:
      visit.tell(
          f"{prefix}.batch_size={begun.training.batch_size}: more than the "
          f"{number} training examples, so every step is a padded epoch; give at "
          f"most {number}", fatal=False)


def _try(visit: Visit, case: _Case, findings: Findings) -> None:
  """One batch through both nets."""
  setup, student, teacher, prepared = case
  run = setup.run
  for name, begun in (("student", student), ("teacher", teacher)):
    if begun is not None:
      findings.nets.append(trial.net(
          name, run.titles[name], begun, setup.train))
  if student is None:
    return  # What is lacking has been told.
  numbers = teacher_store.loss_record(
      run.method, student.training.hparams, student.training.schedules)
  findings.loss = str(numbers["loss"])
  if prepared is not None or not run.method.needs_teacher:
    batch = trial.first_batch(student.training, setup.train)
    findings.terms = trial.terms(build.learner(
        run, student.training, run.method, prepared), student, batch)
    trial.look_at_terms(
        visit, findings.terms, fatal=not run.skip_nonfinite)


def _reckon(
    visit: Visit, case: _Case, workdir: pathlib.Path, findings: Findings
) -> None:
  """Time, memory and disk."""
  setup, student, teacher, prepared = case
  if student is None or (
      prepared is None and setup.run.method.needs_teacher):
    return
  bank = cost.bank_bytes(setup, student.training)
  findings.disk = bank + cost.disk_bytes(setup, student, teacher)
  findings.bank, findings.free = (bank, 0.0), machine.free(workdir)
  if findings.disk > findings.free:
    visit.tell(
        f"--workdir={workdir}: the run needs about {size(findings.disk)} of "
        f"disk, {size(findings.free)} are free; make room, or give a --workdir "
        "elsewhere")
  if not all(map(trial.finite, findings.terms)):
    return
  for planned in cost.plan(setup, student, teacher, prepared):
    found = visit.attempt(planned.name, functools.partial(
        cost.measure, visit, planned, setup))
    if found is not None:
      findings.costs.append(found)
  if bank and teacher is not None and findings.costs:
    findings.bank = bank, cost.bank_seconds(
        setup, student.training, findings.costs[0],
        teacher.training.batch_size)
