"""The driver: the nets of a run in order, trained or found, and the rows of each.

A single run is a sweep of one point. The nets of a recipe come one after the other;
of each net all points are trained before the next begins, since it may learn from
them. What several points have in common is trained once.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import itertools
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax

from kd_jax.config import sweep
from kd_jax.config.run import Run
from kd_jax.config.sweep import Lane
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.core.words import counted
from kd_jax.runs import (
  alone,
  commands,
  corrupted,
  estimate,
  inspected,
  kept_logits,
  nets,
  plan,
  results,
  rows,
  schema_1,
  summary,
  tracker,
)
from kd_jax.runs import chunk as chunks
from kd_jax.runs import shard as shards
from kd_jax.runs import workdir as workdirs
from kd_jax.runs.jobs import Job
from kd_jax.runs.points import Points
from kd_jax.runs.programs import Programs
from kd_jax.runs.results import Results, Row
from kd_jax.runs.shard import Shard
from kd_jax.training import train_loop
from kd_jax.training.lanes import Shape

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
    interval: Of a count of errors, such as `report.statistics.binomial_interval`;
      None to show none.
  """

  stop: Callable[[], bool] = lambda: False
  study: str | None = None
  command: str = ""
  shard: Shard | None = None
  report: Report = lambda folder, reference: []
  interval: summary.Interval | None = None


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
  shards.check(asked.shard, run.sweep.points, run.values["recipe"])
  lanes = sweep.lanes(run.values, run.sweep.points or ({},))
  if run.sweep.points:
    check_reference(lanes, run.sweep.reference)
  hosts.agreed(lambda: workdirs.refuse_other(run.values, workdir, screen.say))
  with contextlib.ExitStack() as stack:
    log = tracker.start(run.values, workdir, screen.say)
    points = Points(run, lanes, workdir, stack, screen, asked.stop, log)
    driver = _Driver(run, workdir, screen, asked, points)
    points.look()
    try:
      for name in points.names:
        driver.train(name)
    except train_loop.Interrupted:
      if run.sweep.points:
        driver.report(began)
      raise
    whole = driver.summary()
    whole["seconds"] = round(time.perf_counter() - began, 2)
    points.first.recorder.write("summary.json", whole)
  if not run.sweep.points:
    summary.show(screen, whole, run.values["method"], asked.interval)
  driver.report(began)
  log("end", whole)
  return whole


def check_reference(lanes: Sequence[Lane], reference: dict[str, Any]) -> None:
  """Refuses a reference that no point of a sweep is."""
  if reference and not any(
      sweep.matches(lane.point, reference) for lane in lanes):
    raise UserError(
        f"config.sweep.reference={reference}: no point of the sweep sets that; "
        'add one, or give "--config.sweep.reference=()"')


class _Driver:
  """Trains the entries of a recipe, and writes what is known of them."""

  def __init__(
      self, run: Run, workdir: pathlib.Path, screen: Screen, asked: Asked,
      points: Points):
    self._run, self._asked, self._points = run, asked, points
    self._workdir, self._screen = workdir, screen
    self._study = asked.study or workdir.name
    self._base = commands.of_file(asked.command)
    self._recorder = points.first.recorder
    self._results = Results(workdir, screen.say, writes=hosts.first())
    self._before = plan.load(workdir / "plan.json")
    self._programs = Programs(
        run.sweep, screen.say, asked.stop, measure=asked.shard is None)
    if run.sweep.points:
      # Of a chunk that is not whole no lane is done: they are trained together.
      open_ = {lane for chunk in self._before if not self._results.has(chunk.lanes)
               for lane in chunk.lanes}
      points.pass_over(
          lambda lane: self._results.has([lane]) and lane not in open_,
          self._results.teachers(), [chunk.lanes for chunk in self._before])
    # Of all entries that leave rows: all but the main job's teachers.
    self._jobs: list[Job] = []
    self._planned: Planned = []
    self._alone: dict[str, Row] = {}
    self._inspected: dict[str, Any] = {}

  def train(self, name: str) -> None:
    """Trains an entry of the recipe at every point, or finds it."""
    jobs = self._points.jobs(name)
    if jobs[0].net.member is not None:
      for job in jobs:
        for lane, wanted in job.wanted.items():
          if not wanted.passed_over:
            self._points.keep(lane, alone.train(job, lane))
      return
    self._begin(jobs)
    self._jobs += jobs
    if jobs[0].alone:
      self._train_alone(*jobs)
    else:
      self._train_lanes(self._in_lanes(jobs))

  def report(self, began: float) -> None:
    """Tables and pictures of the rows so far."""
    seconds = f"{time.perf_counter() - began:.0f} s"
    done, reference = self._results.rows, self._run.sweep.reference
    if not hosts.first() or not done:
      return
    there = any(sweep.matches(row["overrides"], reference) for row in done)
    files = self._asked.report(self._workdir, reference if there else None)
    for file in files:
      if file.suffix == ".png":
        self._recorder.log("figure", {"name": file.stem, "path": file})
    more = counted(len(files) - 1, "more file")
    beside = f"; report.html and {more} beside it" if files else ""
    if (table := self._workdir / "table.md") in files and self._run.sweep.points:
      summary.show_table(self._screen, table)
    self._screen.say(f"{seconds}, {counted(len(done), 'row')} in "
                     f"{self._workdir / 'results.jsonl'}{beside}")
    if self._results.others:
      self._screen.say(results.more_rows(self._results.others, self._workdir))

  def summary(self) -> dict[str, Any]:
    """What the run was."""
    if not self._run.sweep.points:
      return summary.of_run(self._jobs, self._alone)
    return summary.of_sweep(
        self._jobs, self._planned, self._results, self._programs,
        self._asked.shard)

  def _begin(self, jobs: Sequence[Job]) -> None:
    """What is known of an entry before it is trained."""
    self._points.first.announce()
    if self._jobs and not any(job.prepared for job in jobs):
      return
    self._recorder.write("config.json", self._run.values)
    # What is there of teachers that are passed over is kept.
    if hosts.first() and (
        any(job.prepared for job in jobs) or not self._points.passed_over):
      kept_logits.teachers(
          self._workdir, jobs, self._study, more=self._points.passed_over)

  def _done(self, job: Job, lane: str) -> bool:
    return self._results.has([lane]) and not self._points.lacks(job, lane)

  def _in_lanes(self, jobs: Sequence[Job]) -> Planned:
    """The chunks of an entry that are this shard's, planned before or now."""
    lanes = [(job, lane) for job in jobs for lane in job.wanted]
    self._say_other_data(jobs)
    # Nets that were trained before, in another workdir or run, or cannot be.
    for job, lane in lanes:
      if job.wanted[lane].lost and not self._results.has([lane]):
        self._add([rows.lost(job, lane)])
      if not self._results.has([lane]) and (net := self._points.find(job, lane)):
        more = self._looked_at(job, lane, net.variables)
        self._add([rows.found(job, lane, net.record) | more])
      elif job.net.peer is not None and not self._done(job, lane):
        self._take(job, lane)
    self._results.convert(functools.partial(_converted, jobs, self._before))
    planned = [(job, chunk) for job in jobs for chunk in plan.extend(
        self._before, job.program_fingerprint, job.rows,
        [lane for lane in job.wanted if self._done(job, lane)],
        functools.partial(self._programs.shape, job),
        devices=jax.local_device_count())]
    now = [chunk for _, chunk in planned]
    # What the sweep does not ask for today, it may ask for again.
    self._before = [c for c in self._before if c not in now] + now
    mine = {job.program_fingerprint for job in jobs}
    plan.save(self._workdir / "plan.json", [
        c for c in self._before if c in now or self._results.has(c.lanes) or (
            self._run.values["recipe"] and c.group not in mine)])
    # Those that are planned first, in the order of the plan.
    self._results.want([
        lane for job, chunk in planned for lane in chunk.lanes
        if lane in job.wanted] + [lane for _, lane in lanes])
    # What this sweep calls its lanes, for rows that another run has left.
    study = {"study": self._asked.study} if self._asked.study else {}
    self._results.describe({
        lane: rows.described(job, lane) | study for job, lane in lanes})
    return self._part(planned)

  def _say_other_data(self, jobs: Sequence[Job]) -> None:
    """Says once of each data set that it was another at the last run here."""
    for job in jobs:
      data = job.setup.dataset
      for wanted in job.wanted.values():
        was = self._results.data.pop(
            results.of_data(wanted.lane.point), data.fingerprint)
        if was != data.fingerprint:
          self._screen.say(workdirs.other_data(data.name, was, data.fingerprint))

  def _part(self, planned: Planned) -> Planned:
    """The chunks of a shard, and those that are done already, whoever did them."""
    shard = self._asked.shard
    if shard is None:
      return planned
    dealt = shard.part(planned)
    lanes = lambda some: sum(len(set(chunk.lanes)) for _, chunk in some)
    self._screen.say(f"shard {shard}: {len(dealt)} of {len(planned)} chunks, "
                     f"{lanes(dealt)} of {lanes(planned)} lanes")
    return [each for place, each in enumerate(planned)
            if shard.owns(place) or self._results.has(each[1].lanes)]

  def _train_alone(self, job: Job) -> None:
    """Trains the one net of a single run by itself, or finds it."""
    lane, = job.wanted
    self._results.want([lane])
    net = alone.train(job, lane)
    self._points.keep(lane, net)
    more = self._looked_at(job, lane, net.variables)
    if more:
      self._screen.say(f"{job.net.name}: errors on corrupted test images, by "
                       f"strength: {corrupted.in_words(more['corrupted_errors'])}")
    self._inspect(job, inspected.pictures(job, job.wanted[lane], net.variables))
    self._alone[job.net.name] = row = alone.row(job, lane, net.record) | more
    self._add([row], Shape(1, 1, 1), again=True)

  def _take(self, job: Job, lane: str) -> None:
    """Takes a net from those that it trained with, as they have a row."""
    record, variables = alone.take(job, lane)
    start = job.wanted[lane].start
    ran = {key: start.record[key] for key in ("packing", "lanes", "failed")
           if start and key in start.record}
    row = rows.found(job, lane, record | ran)
    row |= self._looked_at(job, lane, variables)
    if self._points.lacks(job, lane):
      self._points.keep(lane, nets.save(
          job.setup, job.training, job.wanted[lane].identity, variables, row))
    sizes = re.fullmatch("([0-9]+)x([0-9]+)x([0-9]+)", ran.get("packing") or "")
    self._add([row], Shape(*map(int, sizes.groups())) if sizes else None)

  def _looked_at(
      self, job: Job, lane: str, variables: types.Variables) -> dict[str, Any]:
    """What is asked for of a finished net: logits are kept, its row has more."""
    kept_logits.keep(job, lane, variables)
    return corrupted.errors(job, variables)

  def _inspect(self, job: Job, found: dict[str, Any]) -> None:
    """Writes what the report draws of the nets of a single run, if anything."""
    self._inspected |= {job.net.name: found} if found else {}
    if self._inspected:
      self._recorder.write("inspected.json", self._inspected)
    else:
      self._recorder.remove("inspected.json")  # Of an older run.

  def _train_lanes(self, planned: Planned) -> None:
    """Trains the chunks that have no rows yet."""
    self._planned += planned
    done: Planned = []
    missing: Planned = []
    for job, chunk in planned:
      whole = all(self._done(job, lane) for lane in chunk.lanes)
      (done if whole else missing).append((job, chunk))
    if again := {lane for job, chunk in missing for lane in chunk.lanes
                 if self._results.has([lane]) and self._points.lacks(job, lane)}:
      self._screen.say(
          f"{planned[0][0].net.name}: {counted(len(again), 'net')} with a row, but "
          "not there for those that learn from it: trained again")
    meter = estimate.Meter(self._screen, planned, self._results, done)
    for job, chunk in missing:
      trained = chunks.train(
          job, chunk, self._programs.get(job, chunk.shape),
          tick=functools.partial(meter.tick, job, chunk))
      for row, variables in trained:
        lane = row["fingerprint"]
        row |= self._looked_at(job, lane, variables)
        if self._points.lacks(job, lane):
          self._points.keep(lane, nets.save(
              job.setup, job.training, job.wanted[lane].identity, variables, row))
      made = [row for row, _ in trained]
      self._add(made, chunk.shape, for_others=bool(again.intersection(chunk.lanes)))
      chunks.forget(job, chunk)
      meter.finished(job, chunk)
      _tell_tensorboard(self._recorder, made)

  def _add(
      self, made: list[Row], shape: Shape | None = None, *,
      again: bool = False, for_others: bool = False) -> None:
    """Writes rows; those that this run has trained so have a command."""
    labelled = all(job.setup.dataset.train.known.all() for job in self._jobs)
    whole = [row | {
        "study": self._study,
        "command": "" if shape is None else commands.single_run(
            self._run.values, self._asked.command, self._base, row["overrides"],
            shape, labelled=labelled)} for row in rows.stamp(made)]
    self._results.add(whole, again=again, for_others=for_others)
    for row in whole:
      self._recorder.log("result", row)


def _converted(
    jobs: Sequence[Job], before: Sequence[plan.Chunk], rows: list[Row]
) -> list[Row]:
  """Rows of schema 1 under the fingerprints of today."""
  known = schema_1.lanes_of(itertools.chain(before, *(
      schema_1.tried(job.program_fingerprint, job.rows, rows) for job in jobs)))
  return [schema_1.converted(row, known) for row in rows]


def _tell_tensorboard(recorder, rows) -> None:
  plain = (bool, int, float, str)
  for row in rows:
    recorder.hparams(
        row["fingerprint"][:8],
        {key: value if isinstance(value, plain) else str(value)
         for key, value in row["overrides"].items()},
        {key: row[key] for key in ("test_errors", "heldout_errors", "test_nll")
         if row.get(key) is not None})
