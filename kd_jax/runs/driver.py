"""The driver: the nets of a run in order, trained or found, and the rows of each.

A single run is a sweep of one point. The nets of a recipe come one after the other;
of each net all points are trained before the next begins, since it may learn from
them. What several points have in common is trained once.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import itertools
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax

from kd_jax.config import build, identity, recipe, sweep
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.config.sweep import Lane
from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.runs import chunk as chunks
from kd_jax.runs import (
  commands,
  estimate,
  jobs,
  kept_logits,
  nets,
  plan,
  schema_1,
  soft_targets,
  summary,
)
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.jobs import Job, Wanted
from kd_jax.runs.nets import Kept
from kd_jax.runs.programs import Programs
from kd_jax.runs.results import Results, Row
from kd_jax.runs.setup import Setup
from kd_jax.runs.shard import Shard
from kd_jax.training import cost, train_loop
from kd_jax.training.lanes import Shape
from kd_jax.training.settings import Training

# A chunk, and the job it belongs to.
Planned = list[tuple[Job, plan.Chunk]]
# (folder, overrides of the point to compare with) -> the files written
Report = Callable[[pathlib.Path, dict[str, Any] | None], list[pathlib.Path]]


class Asked(NamedTuple):
  """How a run was asked for, beside its config.

  Attributes:
    stop: Asked between segments; if true, the run saves and ends.
    study: Name in the rows; default the workdir's.
    command: `--config=FILE` of the config, for the command of each row.
    shard: The part of a sweep to run; None for all of it.
    report: Writes tables and pictures of a folder's rows, such as `report.write`.
  """

  stop: Callable[[], bool] = lambda: False
  study: str | None = None
  command: str = ""
  shard: Shard | None = None
  report: Report = lambda folder, reference: []


_PLAINLY = Asked()


def train(
    run: Run, workdir: pathlib.Path, *, screen: Screen, asked: Asked = _PLAINLY
) -> dict[str, Any]:
  """Trains what a config asks for, one run or the points of a sweep.

  What is in `workdir` already is used again; what was interrupted goes on.

  Args:
    run: What the config asks for.
    workdir: Where rows go and where a rerun finds them.
    screen: Tells the user.
    asked: How it was asked for.

  Returns:
    The summary, as in `workdir/summary.json`.

  Raises:
    UserError: If something asked for cannot be.
    train_loop.Interrupted: If `stop` said so. All finished rows are on disk.
  """
  began = time.perf_counter()
  lanes = sweep.lanes(run.values, run.sweep.points or ({},))
  if run.sweep.points:
    check_reference(lanes, run.sweep.reference)
  if asked.shard and run.values["recipe"]:
    raise UserError(f"--shard={asked.shard}: the nets of a recipe learn from one "
                    "another, so one machine trains all; leave it out")
  with contextlib.ExitStack() as stack:
    points = _Points(run, lanes, workdir, stack, screen, asked.stop)
    results = Results(workdir, writes=hosts.first())
    before = plan.load(workdir / "plan.json")
    programs = Programs(
        run.sweep, screen.say, asked.stop, measure=asked.shard is None)
    ready: list[Job] = []
    planned: Planned = []
    try:
      for name in points.names:
        if not points.students(name):
          points.train_members(name)
          continue
        made = points.jobs(name)
        points.first.announce()
        if run.sweep.points:
          results.add(points.found(made, results, asked))
        if not ready or any(job.teachers for job in made):
          _write_sides(run, workdir, made, asked)
        now = _plan(run, made, results, programs, before, workdir)
        ready += made
        results.want(_lanes(made, now))
        results.describe(_described(run, asked, made))
        now = _part(now, results, asked.shard, screen)
        planned += now
        _train_all(run, points, made, now, programs, results, asked)
    except train_loop.Interrupted:
      if run.sweep.points:
        _report(run, asked, workdir, results, screen, began)
      raise
    whole = summary.of_sweep(
        ready, planned, results, programs, asked.shard) if (
            run.sweep.points) else summary.of_run(points.first, ready, points.rows)
    whole["seconds"] = round(time.perf_counter() - began, 2)
    points.first.recorder.write("summary.json", whole)
  if not run.sweep.points:
    summary.show(screen, whole)
  _report(run, asked, workdir, results, screen, began)
  return whole


def check_reference(lanes: Sequence[Lane], reference: dict[str, Any]) -> None:
  """Refuses a reference that no point of a sweep is."""
  if reference and not any(
      sweep.matches(lane.point, reference) for lane in lanes):
    raise UserError(
        f"config.sweep.reference={reference}: no point of the sweep sets that; "
        'add one, or give "--config.sweep.reference=()"')


class _Points:
  """The points of a run: the nets of each, and which are trained.

  Everything that can be refused is refused when it is made.

  Attributes:
    names: The nets in the order in which they are trained.
    first: The setup of the first point.
    rows: Of a single run, the row of each net.
  """

  def __init__(self, run: Run, lanes: Sequence[Lane], workdir, stack, screen, stop):
    self._run, self._screen = run, screen
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

  def found(
      self, ready: Sequence[Job], results: Results, asked: Asked
  ) -> list[Row]:
    """Rows of nets that were trained before, in another workdir or run."""
    study = asked.study or self.first.workdir.name
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
        if net.member is None and run.teacher.logits is not None:
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


def _write_sides(run: Run, workdir, ready: list[Job], asked: Asked) -> None:
  """What lies beside the rows: the config, and what the teachers know."""
  ready[0].setup.recorder.write("config.json", run.values)
  if not hosts.first():
    return
  soft_targets.write(workdir / "teacher.json", ready)
  kept_logits.teachers(workdir, ready, asked.study or workdir.name)
  if run.sweep.keep_logits:
    kept_logits.keep_teachers(workdir, ready)


def _train_all(
    run: Run, points: _Points, ready: Sequence[Job], planned: Planned,
    programs: Programs, results: Results, asked: Asked,
) -> None:
  """Trains the chunks that have no rows yet, and writes their rows."""
  command_of = functools.partial(commands.single_run, run.values, asked.command)
  meter = estimate.Meter(points.first.screen, planned, results) if (
      run.sweep.points) else None
  for job, chunk in planned:
    if meter is None:
      rows = chunks.train_alone(job)
      points.rows[job.net.name] = rows[0]
    elif results.has(chunk.lanes) and not any(
        points.needs(job, lane) for lane in chunk.lanes):
      continue
    else:
      rows = _train(job, chunk, programs, points, meter, asked.stop)
    results.add([
        row | {"study": asked.study or points.first.workdir.name,
               "command": command_of(row["overrides"], chunk)}
        for row in chunks.stamp(rows)], again=meter is None)
    if meter is not None:
      chunks.forget(job, chunk)
      meter.finished(job, chunk)
      _tell_tensorboard(points.first.recorder, rows)
  for job in ready:
    points.finish(job)


def _train(job: Job, chunk: plan.Chunk, programs: Programs, points, meter, stop):
  """The rows of a chunk; seconds are its share of each lane."""
  program = programs.get(job, chunk.shape)
  began = time.perf_counter()
  trained: dict[str, Any] = {}

  def finished(lane, net):
    trained[lane] = net
    if job.setup.run.sweep.keep_logits:
      kept_logits.keep(job.setup.workdir, lane, job, net)

  rows = chunks.train(
      job, chunk, program, stop=stop,
      segment_steps=cost.segment_steps(job.per_epoch, cost.step_seconds(
          job.training, job.setup.train.inputs, job.learner.teacher,
          lanes=chunk.shape.size)),
      tick=functools.partial(meter.tick, job, chunk), finished=finished)
  seconds = round((time.perf_counter() - began) / len(rows), 2)
  rows = [row | {"seconds": seconds} for row in rows]
  for row in rows:
    points.keep(job, row["fingerprint"], trained[row["fingerprint"]], row)
  return rows


def _report(
    run: Run, asked: Asked, workdir: pathlib.Path, results: Results,
    screen: Screen, began: float
) -> None:
  """Tables and pictures of the rows so far."""
  seconds = f"{time.perf_counter() - began:.0f} s"
  if not hosts.first() or not results.rows:
    return
  reference = run.sweep.reference
  there = any(sweep.matches(row["overrides"], reference) for row in results.rows)
  files = asked.report(workdir, reference if there else None)
  beside = "; tables, pictures and report.html beside it" if files else ""
  screen.say(f"{seconds}, {len(results.rows)} rows in "
             f"{workdir / 'results.jsonl'}{beside} ({len(files)} files)")


def _converted(
    ready: Sequence[Job], before: Sequence[plan.Chunk], rows: list[Row]
) -> list[Row]:
  """Rows of schema 1 under the fingerprints of today."""
  known = schema_1.lanes_of(itertools.chain(before, *(
      schema_1.tried(job.program_fingerprint, job.rows, rows) for job in ready)))
  return [schema_1.converted(row, known) for row in rows]


def _plan(
    run: Run, ready: Sequence[Job], results: Results, programs: Programs,
    before: list[plan.Chunk], workdir: pathlib.Path,
) -> Planned:
  """Every chunk of a net, as it was planned before or is now."""
  if not run.sweep.points:
    return [(job, plan.Chunk(
        job.program_fingerprint, Shape(1, 1, 1), tuple(job.lanes)))
            for job in ready]
  results.convert(functools.partial(_converted, ready, before))
  planned: Planned = []
  for job in ready:
    done = [lane for lane in job.lanes if results.has([lane])]
    made = plan.extend(
        before, job.program_fingerprint, job.rows, done,
        functools.partial(programs.shape, job),
        devices=jax.local_device_count())
    planned += [(job, chunk) for chunk in made]
  now = [chunk for _, chunk in planned]
  # What the sweep does not ask for today, it may ask for again.
  before[:] = [c for c in before if c not in now] + now
  mine = {job.program_fingerprint for job in ready}
  plan.save(workdir / "plan.json", [
      c for c in before if c in now or results.has(c.lanes) or (
          run.values["recipe"] and c.group not in mine)])
  return planned


def _lanes(ready: Sequence[Job], planned: Planned) -> list[str]:
  """The lanes of jobs, those that are planned first, in the order of the plan."""
  return [lane for job, chunk in planned for lane in chunk.lanes
          if lane in job.lanes] + [lane for job in ready for lane in job.lanes]


def _described(run: Run, asked: Asked, ready: Sequence[Job]) -> dict[str, Row]:
  """What this run calls its lanes, for rows that another run has left."""
  study = asked.study
  return {lane: chunks.described(job, lane) | ({"study": study} if study else {})
          for job in ready for lane in job.lanes} if run.sweep.points else {}


def _part(planned: Planned, results: Results, shard: Shard | None, screen: Screen):
  """The chunks of a shard, and those that are done already, whoever did them."""
  if shard is None:
    return planned
  dealt = shard.part(planned)
  lanes = lambda some: sum(len(set(chunk.lanes)) for _, chunk in some)
  screen.say(f"shard {shard}: {len(dealt)} of {len(planned)} chunks, "
             f"{lanes(dealt)} of {lanes(planned)} lanes")
  return [each for place, each in enumerate(planned)
          if shard.owns(place) or results.has(each[1].lanes)]


def _tell_tensorboard(recorder, rows) -> None:
  plain = (bool, int, float, str)
  for row in rows:
    recorder.hparams(
        row["fingerprint"][:8],
        {key: value if isinstance(value, plain) else str(value)
         for key, value in row["overrides"].items()},
        {key: row[key] for key in ("test_errors", "heldout_errors", "test_nll")
         if row.get(key) is not None})
