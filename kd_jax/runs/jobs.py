"""Jobs: groups of lanes made ready, with data, teacher and fingerprints."""

from collections.abc import Callable
import contextlib
import functools
import pathlib
from typing import NamedTuple

from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.config import run as run_lib
from kd_jax.config.run import Run
from kd_jax.config.sweep import Group, Lane
from kd_jax.core.screen import Screen
from kd_jax.runs import setup as setup_lib
from kd_jax.runs import teacher_store
from kd_jax.runs.setup import Setup
from kd_jax.training import segment, step
from kd_jax.training.settings import Training


class Job(NamedTuple):
  """A group of lanes, ready to run.

  Attributes:
    setup: Data, splits, records.
    training: How each lane is trained, but for its numbers.
    learner: The step.
    prepared: The teacher, or None where the method needs none.
    lanes: The lanes by their fingerprints.
    program: What the program is compiled for, as text.
  """

  setup: Setup
  training: Training
  learner: step.Learner
  prepared: teacher_store.PreparedTeacher | None
  lanes: dict[str, Lane]
  program: str

  @property
  def program_fingerprint(self) -> str:
    """Of the program, for plans."""
    return identity_lib.fingerprint({"program": self.program})

  @property
  def seeds(self) -> list[tuple[int, str]]:
    """Seed and fingerprint of each lane, as plans take them."""
    return [(lane.seed, fingerprint) for fingerprint, lane in self.lanes.items()]

  @property
  def per_epoch(self) -> int:
    """Steps of an epoch."""
    return segment.steps_per_epoch(
        len(self.setup.train.ids), self.training.batch_size)


def prepare(
    groups: list[Group],
    workdir: pathlib.Path,
    stack: contextlib.ExitStack,
    *,
    screen: Screen,
    stop: Callable[[], bool],
) -> list[Job]:
  """Loads data, trains or finds teachers, and fingerprints every lane.

  Args:
    groups: Of `sweep.expand`.
    workdir: Where everything is kept.
    stack: Closes the records at the end.
    screen: Tells the user.
    stop: Asked between segments.

  Returns:
    A job for each group. Everything that can be refused has been, before
    anything is trained.
  """
  for group in groups:
    build.check_names(group.values)
  known: dict[str, Setup] = {}
  opened = functools.partial(_setup, known, stack, workdir, screen, stop)
  built = []
  for group in groups:
    setup = opened(run_lib.read(group.values))
    own = setup_lib.transfer(setup, setup.run)
    built.append((group, setup, own, build.student(group.values, own.dataset)))
  teachers: dict[str, teacher_store.PreparedTeacher] = {}
  return [_job(*each, teachers) for each in built]


def _setup(known, stack, workdir, screen, stop, run: Run) -> Setup:
  """The setup of a run's data, made once."""
  key = run.part("data.")
  if key not in known:
    known[key] = setup_lib.prepare(run, workdir, screen, stop)
    stack.callback(known[key].recorder.close)
  return known[key]._replace(run=run)


def _job(group: Group, setup: Setup, own: Setup, training, teachers) -> Job:
  run, prepared = setup.run, None
  if run.method.needs_teacher:
    prepared = _prepared(setup, training, teachers)
  learner = build.learner(
      run, training, run.method, prepared and prepared.teacher)
  lanes: dict[str, Lane] = {}
  for lane in group.lanes:
    same = lanes.setdefault(lane_fingerprint(lane, own, prepared), lane)
    if same is not lane:
      own.screen.say(f"sweep: {lane.name} is the same run as {same.name}")
  return Job(
      own, training, learner, prepared, lanes, identity_lib.program(run.values))


def _prepared(
    setup: Setup, training, teachers
) -> teacher_store.PreparedTeacher:
  """The teacher of a group; groups that want the same one share it."""
  banked = teacher_store.wants_bank(setup, training)
  key = setup.run.part("student.views", "teacher.", "data.") + str(banked)
  if key not in teachers:
    teachers[key] = teacher_store.obtain(setup, training)
  return teachers[key]


def lane_fingerprint(
    lane: Lane, setup: Setup, prepared: teacher_store.PreparedTeacher | None
) -> str:
  """What determines a lane, but for the machine and the lanes beside it."""
  run = run_lib.read(lane.values)
  return identity_lib.fingerprint(teacher_store.student_identity(
      setup._replace(run=run), build.student_hparams(lane.values), prepared,
      run.method_name))
