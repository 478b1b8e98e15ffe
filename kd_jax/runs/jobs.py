"""Jobs: groups of lanes made ready, with data, teachers and fingerprints."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.sweep import Lane
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess
from kd_jax.runs import setup as setup_lib
from kd_jax.runs import teacher_store
from kd_jax.runs.nets import Kept
from kd_jax.runs.setup import Setup
from kd_jax.runs.teacher_store import PreparedTeacher
from kd_jax.training import segment, step
from kd_jax.training.lanes import Shape
from kd_jax.training.settings import Training


class Wanted(NamedTuple):
  """A net that is to be trained.

  Attributes:
    lane: What was asked for, and the flat config whose student it is.
    teachers: The nets that it learns from.
    start: The net that it starts from, or None.
  """

  lane: Lane
  teachers: tuple[Kept, ...] = ()
  start: Kept | None = None


class Job(NamedTuple):
  """A group of lanes of one net, ready to run.

  Attributes:
    net: The net of the recipe; all lanes are alike in all but traced values.
    setup: Data, splits, records.
    training: How each lane is trained, but for its numbers.
    learner: The step.
    lanes: The lanes by their fingerprints.
    teachers: The teacher of each lane; none where the method needs none.
    starts: The net that each lane starts from, where it is not a new one.
    program: What the program is compiled for, as text.
  """

  net: Net
  setup: Setup
  training: Training
  learner: step.Learner
  lanes: dict[str, Lane]
  teachers: dict[str, PreparedTeacher]
  starts: dict[str, Kept]
  program: str

  @property
  def prepared(self) -> PreparedTeacher | None:
    """The teacher of the first lane, for what is alike in all."""
    return next(iter(self.teachers.values()), None)

  @property
  def own_teachers(self) -> bool:
    """Whether lanes have different teachers."""
    return len({tuple(each.identity) for each in self.teachers.values()}) > 1

  @property
  def program_fingerprint(self) -> str:
    """Of the program, for plans."""
    own = {"teachers": "of each row"} if self.own_teachers else {}
    return identity_lib.fingerprint({"program": self.program, **own})

  @property
  def rows(self) -> list[tuple[Any, str]]:
    """Each lane's fingerprint, after its seed (and teacher): alike in a row."""
    if not self.own_teachers:
      return [(lane.seed, each) for each, lane in self.lanes.items()]
    return [((lane.seed, *self.teachers[each].identity), each)
            for each, lane in self.lanes.items()]

  @property
  def per_epoch(self) -> int:
    """Steps of an epoch."""
    return segment.steps_per_epoch(
        len(self.setup.train.ids), self.training.batch_size)

  def of_rows(self, lanes: tuple[str, ...], shape: Shape):
    """Teacher's arrays and splits for a rectangle of these lanes."""
    if not self.teachers:
      return (), self.setup.splits
    chosen = [self.teachers[lane] for lane in lanes[::shape.points]]
    if not self.own_teachers:
      return chosen[0].teacher.arrays, chosen[0].splits
    stacked = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    return stacked(*(each.teacher.arrays for each in chosen)), {
        name: split._replace(teacher_logits=stacked(
            *(each.splits[name].teacher_logits for each in chosen)))
        for name, split in chosen[0].splits.items()}


class Teachers:
  """Teachers made ready, each once: its bank is shared by who learns from it."""

  def __init__(self) -> None:
    self._made: dict[str, PreparedTeacher] = {}

  def of(
      self, setup: Setup, training: Training, members: tuple[Kept, ...]
  ) -> PreparedTeacher | None:
    """What a training asks; None where its method asks nobody."""
    run = setup.run
    if not run.method.needs_teacher:
      return None
    file = run.values["teacher.logits"]
    banked = file is not None or teacher_store.wants_bank(
        run, setup.dataset, training, members[0].training.taps)
    # Which taps are stored is a matter of the method.
    taps = () if run.method.pairs is None else ("method", "features.", "student.")
    key = run.part("student.views", "teacher.", "data.", *taps) + str(
        [banked, *(net.sha256 for net in members)])
    if key not in self._made:
      self._made[key] = (teacher_store.of_nets(setup, training, members)
                         if file is None
                         else teacher_store.from_file(setup, training))
    return self._made[key]


def make(
    net: Net, setup: Setup, wanted: Iterable[Wanted], teachers: Teachers
) -> tuple[Job, list[str]]:
  """The job of some nets, alike in all that is not traced.

  Args:
    net: The net of the first.
    setup: The setup of its run.
    wanted: What is to be trained.
    teachers: Those made ready before.

  Returns:
    The job, and the fingerprint of each that is wanted; the same net may be wanted
    twice.
  """
  run, own = setup.run, setup_lib.transfer(setup, setup.run)
  training = build.training(net, own.dataset)
  lanes: dict[str, Lane] = {}
  prepared: dict[str, PreparedTeacher] = {}
  starts: dict[str, Kept] = {}
  fingerprints = []
  for each in wanted:
    teacher = teachers.of(setup, training, each.teachers)
    fingerprint = lane_fingerprint(
        each.lane, own, teacher, start=each.start, epoch=net.epoch)
    fingerprints.append(fingerprint)
    lanes.setdefault(fingerprint, each.lane)
    if teacher is not None:
      prepared[fingerprint] = teacher
    if each.start is not None:
      starts[fingerprint] = each.start
  first = next(iter(prepared.values()), None)
  learner = build.learner(run, training, run.method, first and first.teacher)
  # What is evaluated, kept and learnt from is the net that comes out.
  training = training._replace(model=step.deployed(learner))
  return Job(net, own, training, learner, lanes, prepared, starts,
             identity_lib.program(run.values)), fingerprints


def lane_fingerprint(
    lane: Lane, setup: Setup, prepared: PreparedTeacher | None, *,
    start: Kept | None = None, epoch: int | None = None,
) -> str:
  """What determines a lane, but for the machine and the lanes beside it."""
  return identity_lib.fingerprint(
      identity(lane, setup, prepared, start=start, epoch=epoch))


def identity(
    lane: Lane, setup: Setup, prepared: PreparedTeacher | None, *,
    start: Kept | None = None, epoch: int | None = None,
) -> dict[str, Any]:
  """The identity that `lane_fingerprint` is of."""
  run = run_lib.read(lane.values)
  return teacher_store.student_identity(
      setup._replace(run=run), build.student_hparams(lane.values), prepared,
      run.values["method"], start=start, epoch=epoch)


def check(
    net: Net, setup: Setup, before: dict[str, Training], nets: dict[str, Net]
) -> Training:
  """Refuses a net that cannot be, before anything is trained; gives its training.

  Args:
    net: The net.
    setup: The setup of its run.
    before: The trainings of the nets before it, by name.
    nets: All nets of its recipe.
  """
  training = build.training(net, setup_lib.transfer(setup, setup.run).dataset)
  if net.member is not None:
    return training
  with net.told():
    _check(net, setup, training, before, nets)
  return training


def _check(net, setup, training, before, nets) -> None:
  taps = before[net.teachers[0]].taps if len(net.teachers) == 1 else {}
  if net.teachers:
    stored = teacher_store.compared(setup.run, training, taps)
    large = [name for name, shape in stored.items() if len(shape) > 1]
    if large and setup.run.values["teacher.bank"] == "always":
      raise UserError(
          f"config.teacher.bank=always: the tap {large[0]} of shape "
          f"{stored[large[0]]} is too large to store; use teacher.bank=auto")
  if net.start is not None:
    shapes = [_shapes(setup, each.model)
              for each in (training, before[net.start])]
    if shapes[0] != shapes[1]:
      raise UserError(
          f"config.nets.{net.name}.init_from={net.start}: the two nets have not "
          "the same parameters; give both the same name and widths")
    if any(run_lib.read(each.values).method.inference
           for each in (net, nets[net.start])):
      raise UserError(
          f"config.nets.{net.name}.init_from={net.start}: the method of one of "
          "them keeps a module in its net; such a net is no start")


def _shapes(setup: Setup, model) -> Any:
  made = jax.eval_shape(
      model.init, jax.random.key(0), preprocess.blank(setup.train.inputs))
  return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), made)
