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
import time
from typing import Any, NamedTuple

import jax

from kd_jax.config import sweep
from kd_jax.config.run import Run
from kd_jax.config.sweep import Lane
from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.runs import chunk as chunks
from kd_jax.runs import (
  commands,
  estimate,
  kept_logits,
  plan,
  schema_1,
  soft_targets,
  summary,
)
from kd_jax.runs.jobs import Job
from kd_jax.runs.points import Points
from kd_jax.runs.programs import Programs
from kd_jax.runs.results import Results, Row
from kd_jax.runs.shard import Shard
from kd_jax.training import cost, train_loop
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
  with contextlib.ExitStack() as stack:
    points = Points(run, lanes, workdir, stack, screen, asked.stop)
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
        if run.sweep.points:  # A single run finds its nets one by one.
          results.add(points.found(made, results, _study(asked, workdir)))
        if not ready or any(job.teachers for job in made):
          _write_sides(run, workdir, made, asked)
        now = _plan(run, made, results, programs, before, workdir)
        ready += made
        results.want(_lanes(made, now))
        if run.sweep.points:
          results.describe(_described(asked, made))
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


def _study(asked: Asked, workdir: pathlib.Path) -> str:
  return asked.study or workdir.name


def _write_sides(run: Run, workdir, ready: list[Job], asked: Asked) -> None:
  """What lies beside the rows: the config, and what the teachers know."""
  ready[0].setup.recorder.write("config.json", run.values)
  if not hosts.first():
    return
  soft_targets.write(workdir / "teacher.json", ready)
  kept_logits.teachers(workdir, ready, _study(asked, workdir))
  if run.sweep.keep_logits:
    kept_logits.keep_teachers(workdir, ready)


def _train_all(
    run: Run, points: Points, ready: Sequence[Job], planned: Planned,
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
        row | {"study": _study(asked, points.first.workdir),
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
  beside = f"; report.html and {len(files) - 1} more files beside it" * bool(files)
  screen.say(f"{seconds}, {len(results.rows)} rows in "
             f"{workdir / 'results.jsonl'}{beside}")


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


def _described(asked: Asked, ready: Sequence[Job]) -> dict[str, Row]:
  """What this sweep calls its lanes, for rows that another run has left."""
  study = {"study": asked.study} if asked.study else {}
  return {lane: chunks.described(job, lane) | study
          for job in ready for lane in job.lanes}


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
