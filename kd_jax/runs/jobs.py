"""Jobs: groups of lanes made ready, with data, teacher and fingerprints."""

from collections.abc import Callable
import contextlib
import functools
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections

from kd_jax import config as config_lib
from kd_jax.config import build
from kd_jax.config import identity as identity_lib
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
    build.check_names(group.config)
  known: dict[str, Setup] = {}
  opened = functools.partial(_bench, known, stack, workdir, screen, stop)
  built = []
  for group in groups:
    setup = opened(group.config)
    own = setup_lib.transfer(setup, group.config)
    built.append((group, setup, own, build.student(group.config, own.dataset)))
  teachers: dict[str, teacher_store.PreparedTeacher] = {}
  return [_job(*each, teachers) for each in built]


def _bench(known, stack, workdir, screen, stop, config) -> Setup:
  """The bench of a config's data, made once."""
  values = config_lib.flatten(config)
  key = json.dumps(setup_lib.select(values, (), ("data.",)), sort_keys=True)
  if key not in known:
    known[key] = setup_lib.prepare(config, workdir, screen, stop)
    stack.callback(known[key].recorder.close)
  return known[key]._replace(values=values)


def _job(group: Group, setup: Setup, own: Setup, training, teachers) -> Job:
  method = build.method(group.config)
  prepared = None
  if method.needs_teacher:
    prepared = _prepared(group.config, setup, training, teachers)
  learner = build.learner(
      group.config, training, method, prepared and prepared.teacher)
  lanes: dict[str, Lane] = {}
  for lane in group.lanes:
    same = lanes.setdefault(lane_fingerprint(lane, own, prepared), lane)
    if same is not lane:
      own.screen.say(f"sweep: {lane.name} is the same run as {same.name}")
  return Job(
      own, training, learner, prepared, lanes,
      identity_lib.program(config_lib.flatten(group.config)))


def _prepared(
    config: ml_collections.ConfigDict, setup: Setup, training, teachers
) -> teacher_store.PreparedTeacher:
  """The teacher of a group; groups that want the same one share it."""
  wanted: dict[str, Any] = setup_lib.select(
      setup.values, ("student.views",), ("teacher.", "data."))
  wanted["banked"] = teacher_store.wants_bank(config, setup, training)
  key = json.dumps(wanted, sort_keys=True)
  if key not in teachers:
    teachers[key] = teacher_store.obtain(config, setup, training)
  return teachers[key]


def lane_fingerprint(
    lane: Lane, setup: Setup, prepared: teacher_store.PreparedTeacher | None
) -> str:
  """What determines a lane, but for the machine and the lanes beside it."""
  own = setup._replace(values=config_lib.flatten(lane.config))
  hparams = build.student_hparams(lane.config)
  return identity_lib.fingerprint(teacher_store.student_identity(
      own, hparams, prepared, lane.config.method))
