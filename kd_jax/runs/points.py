"""The points of a run: the nets of each, and those that are trained by now."""

from collections.abc import Sequence
import functools
import json
from typing import Any

from kd_jax.config import build, identity, recipe
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.config.sweep import Lane
from kd_jax.runs import chunk as chunks
from kd_jax.runs import jobs, nets
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.jobs import Job, Wanted
from kd_jax.runs.nets import Kept
from kd_jax.runs.results import Results, Row
from kd_jax.runs.setup import Setup
from kd_jax.training.settings import Training


class Points:
  """The points of a run: the nets of each, and which are trained.

  Everything that can be refused is refused when it is made.

  Attributes:
    names: The nets in the order in which they are trained.
    first: The setup of the first point.
    rows: Of a single run, the row of each net.
  """

  def __init__(self, run: Run, lanes: Sequence[Lane], workdir, stack, screen, stop):
    self._screen = screen
    self.rows: dict[str, Row] = {}
    self._lanes = lanes
    self._recipes = [
        {net.name: net for net in recipe.nets(
            lane.values, swept=bool(run.sweep.points))} for lane in lanes]
    for nets_of in self._recipes:
      for net in nets_of.values():
        build.check_net(net)
    self.names = _in_order(self._recipes)
    self._opened: dict[str, Setup] = {}
    self._open = functools.partial(_opened, self._opened, stack, workdir, screen,
                                   stop)
    self._kept: dict[tuple[int, str], Kept] = {}
    self._teachers = jobs.Teachers()
    self._check()
    self.first = next(iter(self._opened.values()))
    self._needed = {other for nets_of in self._recipes for net in nets_of.values()
                    for other in (*net.teachers, net.start) if other}
    self._asked: dict[str, list[tuple[int, str]]] = {}
    self._known_as: dict[str, str] = {}
    self._loaded: dict[str, Kept] = {}

  def students(self, name: str) -> bool:
    """Whether the net is a student, or else a member of the teacher."""
    return any(name in nets_of and nets_of[name].member is None
               for nets_of in self._recipes)

  def train_members(self, name: str) -> None:
    """Trains or finds a member of the main job's teacher, for every point."""
    known: dict[str, Kept] = {}
    for number, net, setup in self._having(name):
      key = setup.run.part("teacher.", "data.", "dtype", "nonfinite")
      if key not in known:
        known[key] = nets.member(setup, name, net.member)
      self._kept[number, name] = known[key]

  def jobs(self, name: str) -> list[Job]:
    """What is to be trained of a net, all points together."""
    groups: dict[str, list[tuple[int, Net, Setup, Wanted]]] = {}
    for number, net, setup in self._having(name):
      wanted = Wanted(
          self._lane(number, net),
          tuple(self._kept[number, teacher] for teacher in net.teachers),
          self._kept[number, net.start] if net.start else None)
      groups.setdefault(self._program(number, net), []).append(
          (number, net, setup, wanted))
    made = []
    for program, group in groups.items():
      numbers, of, setups, all_wanted = zip(*group, strict=True)
      job, found = jobs.make(of[0], setups[0], all_wanted, self._teachers)
      if of[0].in_config:
        job = job._replace(program=program)
      self._tell_same(job, found, all_wanted)
      self._asked.setdefault(name, []).extend(zip(numbers, found, strict=True))
      made.append(_agreed(job, [each.lane for each in all_wanted], found))
    return made

  def _program(self, number: int, net: Net) -> str:
    """What a net's program is compiled for, with the nets that are compiled in."""
    if not net.in_config:
      return identity.group(net.values)
    of = self._recipes[number]
    return json.dumps([identity.group(net.values), net.name, net.start is None, *(
        identity.group(of[teacher].values) for teacher in net.teachers)])

  def needs(self, job: Job, lane: str) -> bool:
    """Whether a net that others learn from is not there, though its row may be."""
    if job.net.name not in self._needed:
      return False
    return self._find(job, lane) is None

  def found(self, ready: Sequence[Job], results: Results, study: str) -> list[Row]:
    """Rows of nets that were trained before, in another workdir or run."""
    found = [chunks.of_record(job, lane, kept.record) for job in ready
             if job.net.name in self._needed for lane in job.lanes
             if not results.has([lane])
             and (kept := self._find(job, lane)) is not None]
    return [row | {"study": study, "command": ""} for row in chunks.stamp(found)]

  def keep(self, job: Job, lane: str, net: Any, row: Row) -> None:
    """Keeps a trained net for those that learn from it."""
    if job.net.name in self._needed:
      nets.save(job.setup, lane, net, row)
      self._loaded.pop(lane, None)

  def finish(self, job: Job) -> None:
    """Loads the nets of a job for those that learn from them."""
    if job.net.name not in self._needed:
      return
    found = {lane: self._find(job, lane) for lane in job.lanes}
    for number, lane in self._asked[job.net.name]:
      kept = found.get(lane)
      if kept is not None:
        self._kept[number, job.net.name] = kept

  def _find(self, job: Job, lane: str) -> Kept | None:
    if lane not in self._loaded:
      found = nets.find(job.setup, job.training, lane)
      if found is None:
        return None
      self._loaded[lane] = found
    return self._loaded[lane]

  def _having(self, name: str):
    """Number, net and setup of each point that has the net."""
    for number, nets_of in enumerate(self._recipes):
      if name in nets_of:
        net = nets_of[name]
        yield number, net, self._open(run_lib.read(net.values))

  def _lane(self, number: int, net: Net) -> Lane:
    """What a point asks of a net."""
    if net.name == "baseline" and not net.in_config:
      return Lane({"method": "hard"}, net.values)
    return Lane(self._lanes[number].point, net.values)

  def _check(self) -> None:
    """Builds every net once, so that what cannot be is refused now."""
    known: dict[str, Training] = {}
    for nets_of in self._recipes:
      before: dict[str, Training] = {}
      keys: dict[str | None, str] = {None: ""}
      for net in nets_of.values():
        run = run_lib.read(net.values)
        setup = self._open(run)
        key = keys[net.name] = net.name + run.part("") + str([
            net.epoch, net.start, *(
                keys[other] for other in (*net.teachers, net.start))])
        if key not in known:
          known[key] = jobs.check(net, setup, before, nets_of)
        before[net.name] = known[key]
        if net.member is None and run.values["teacher.logits"] is not None:
          self._teachers.of(setup, known[key], ())  # The file is read now.

  def _tell_same(
      self, job: Job, found: Sequence[str], wanted: Sequence[Wanted]
  ) -> None:
    """Says which points, or nets, are one run where each was to be its own."""
    if job.net.in_config:
      for fingerprint in job.lanes:
        other = self._known_as.setdefault(fingerprint, job.net.name)
        if other != job.net.name:
          self._screen.say(f"{job.net.name}: is the same net as {other}; give it "
                           f"another seed, --config.nets.{job.net.name}.seed=N")
      return
    for fingerprint, each in zip(found, wanted, strict=True):
      same = job.lanes[fingerprint]
      if same is not each.lane:
        self._screen.say(
            f"sweep: {each.lane.name} is the same run as {same.name}")


def _in_order(recipes: Sequence[dict[str, Net]]) -> list[str]:
  """The names of nets, each after all that it needs at any point."""
  needed: dict[str, set[str]] = {}
  for nets_of in recipes:
    for net in nets_of.values():
      needed.setdefault(net.name, set()).update(
          other for other in (*net.teachers, net.start) if other)
  done: list[str] = []
  while len(done) < len(needed):
    done.append(next(name for name in needed if name not in done
                     and needed[name] <= set(done)))
  return done


def _agreed(job: Job, lanes: Sequence[Lane], found: Sequence[str]) -> Job:
  """The job, each lane named by what all points that want it have in common."""
  if not job.net.in_config:
    return job
  shared = {}
  for fingerprint, lane in job.lanes.items():
    points = [other.point for other, each in zip(lanes, found, strict=True)
              if each == fingerprint]
    shared[fingerprint] = lane._replace(point={
        key: value for key, value in lane.point.items()
        if all(point.get(key) == value for point in points)})
  return job._replace(lanes=shared)


def _opened(known, stack, workdir, screen, stop, run: Run) -> Setup:
  """The setup of a run's data, made once."""
  key = run.part("data.")
  if key not in known:
    known[key] = setup_lib.prepare(run, workdir, screen, stop)
    stack.callback(known[key].recorder.close)
  return known[key]._replace(run=run)
