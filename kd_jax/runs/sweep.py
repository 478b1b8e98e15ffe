"""A sweep, as a protocol: teachers, plan, chunks of lanes, rows, report."""

from collections.abc import Callable, Sequence
import contextlib
import functools
import itertools
import pathlib
import time
from typing import Any

import jax

from kd_jax.config import sweep
from kd_jax.config.run import Run
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.runs import chunk as chunks
from kd_jax.runs import (
  commands,
  estimate,
  jobs,
  kept_logits,
  plan,
  records,
  schema_1,
  soft_targets,
)
from kd_jax.runs.jobs import Job
from kd_jax.runs.programs import Programs
from kd_jax.runs.results import Results, Row
from kd_jax.runs.shard import Shard
from kd_jax.training import cost, train_loop

# A chunk, and the job it belongs to.
Planned = list[tuple[Job, plan.Chunk]]
# (folder, overrides of the point to compare with) -> the files written
Report = Callable[[pathlib.Path, dict[str, Any] | None], list[pathlib.Path]]


def run_sweep(
    run: Run,
    workdir: pathlib.Path,
    *,
    screen: Screen,
    stop: Callable[[], bool] = lambda: False,
    study: str | None = None,
    command: str = "",
    shard: Shard | None = None,
    report: Report = lambda folder, reference: [],
) -> dict[str, Any]:
  """Runs the points of a sweep as lanes of compiled programs.

  Args:
    run: What the config asks for.
    workdir: Where rows go and where a rerun finds them.
    screen: Tells the user.
    stop: Asked between segments; if true, the sweep saves and ends.
    study: Name in the rows; default the workdir's.
    command: `--config=FILE` of the config, for the command of each row.
    shard: The part to run; None for all of it.
    report: Writes tables and pictures of a folder's rows, such as `report.write`.

  Returns:
    The summary, as written to `workdir/summary.json`.

  Raises:
    UserError: If something asked for cannot be.
    train_loop.Interrupted: If `stop` said so. All finished rows are on disk.
  """
  began = time.perf_counter()
  groups = sweep.expand(run.values, run.sweep.points)
  check_reference(groups, run.sweep.reference)
  with contextlib.ExitStack() as stack:
    ready = jobs.prepare(groups, workdir, stack, screen=screen, stop=stop)
    ready[0].setup.announce()
    recorder = ready[0].setup.recorder
    recorder.write("config.json", run.values)
    soft_targets.write(workdir / "teacher.json", ready)
    kept_logits.teachers(workdir, ready, study or workdir.name)
    if run.sweep.keep_logits:
      kept_logits.keep_teachers(workdir, ready)
    before = plan.load(workdir / "plan.json")
    results = Results(workdir, functools.partial(_converted, ready, before))
    programs = Programs(run.sweep, screen.say, stop, measure=shard is None)
    planned = _plan(ready, results, programs, before, workdir / "plan.json")
    results.want([lane for job, chunk in planned
                  for lane in chunk.lanes if lane in job.lanes]
                 + [lane for job in ready for lane in job.lanes])
    planned = _part(planned, results, shard, screen)
    write_report = functools.partial(
        _report, report, run.sweep.reference, workdir, results, screen, began)
    meter = estimate.Meter(screen, planned, results)
    command_of = functools.partial(commands.single_run, run.values, command)
    try:
      for job, chunk in planned:
        if not results.has(chunk.lanes):
          rows = _train(job, chunk, programs, meter, stop)
          results.add([
              row | {"study": study or workdir.name,
                     "command": command_of(row["overrides"], chunk),
                     "teacher_sha256": job.prepared and job.prepared.identity}
              for row in rows])
          chunks.forget(job, chunk)
          meter.finished(job, chunk)
          _tell_tensorboard(recorder, rows)
    except train_loop.Interrupted:
      write_report()
      raise
    summary = _summary(ready, planned, results, programs)
    if shard:
      summary["shard"] = str(shard)
    summary["seconds"] = round(time.perf_counter() - began, 2)
    recorder.write("summary.json", summary)
  write_report()
  return summary


def check_reference(
    groups: Sequence[sweep.Group], reference: dict[str, Any]
) -> None:
  """Refuses a reference that no point of a sweep is."""
  lanes = (lane for group in groups for lane in group.lanes)
  if reference and not any(
      sweep.matches(lane.point, reference) for lane in lanes):
    raise UserError(
        f"config.sweep.reference={reference}: no point of the sweep sets that; "
        'add one, or give "--config.sweep.reference=()"')


def _train(job: Job, chunk: plan.Chunk, programs: Programs, meter, stop):
  """The rows of a chunk; seconds are its share of each lane."""
  program = programs.get(job, chunk.shape)
  began = time.perf_counter()
  rows = chunks.train(
      job, chunk, program, stop=stop,
      segment_steps=cost.segment_steps(job.per_epoch, cost.step_seconds(
          job.training, job.setup.train.image, job.learner.teacher,
          lanes=chunk.shape.size)),
      tick=functools.partial(meter.tick, job, chunk))
  seconds = (time.perf_counter() - began) / len(rows)
  return chunks.stamp(rows, seconds=round(seconds, 2))


def _report(
    report: Report, reference: dict[str, Any], workdir: pathlib.Path,
    results: Results, screen: Screen, began: float
) -> None:
  """Tables and pictures of the rows so far."""
  if not results.rows:
    return
  there = any(sweep.matches(row["overrides"], reference) for row in results.rows)
  files = report(workdir, reference if there else None)
  screen.say(f"{time.perf_counter() - began:.0f} s, {len(results.rows)} rows in "
             f"{workdir / 'results.jsonl'}; tables, pictures and report.html "
             f"beside it ({len(files)} files)")


def _converted(
    ready: Sequence[Job], before: Sequence[plan.Chunk], rows: list[Row]
) -> list[Row]:
  """Rows of schema 1 under the fingerprints of today."""
  if not any(map(schema_1.old, rows)):
    return rows
  known = schema_1.lanes_of(itertools.chain(before, *(
      schema_1.tried(job.program_fingerprint, job.seeds, rows) for job in ready)))
  return [schema_1.converted(row, known) for row in rows]


def _plan(
    ready, results: Results, programs: Programs, before: Sequence[plan.Chunk],
    file: pathlib.Path,
) -> Planned:
  """Every chunk of the sweep, as it was planned before or is now."""
  planned: Planned = []
  for job in ready:
    done = [lane for lane in job.lanes if results.has([lane])]
    made = plan.extend(
        before, job.program_fingerprint, job.seeds, done,
        functools.partial(programs.shape, job),
        devices=jax.local_device_count())
    planned += [(job, chunk) for chunk in made]
  now = [chunk for _, chunk in planned]
  # What the sweep does not ask for today, it may ask for again.
  plan.save(file, [c for c in before if c not in now and results.has(c.lanes)]
            + now)
  return planned


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


def _tell_tensorboard(recorder: records.Recorder, rows) -> None:
  plain = (bool, int, float, str)
  for row in rows:
    recorder.hparams(
        row["fingerprint"][:8],
        {key: value if isinstance(value, plain) else str(value)
         for key, value in row["overrides"].items()},
        {key: row[key] for key in ("test_errors", "heldout_errors", "test_nll")
         if row.get(key) is not None})


def _summary(ready, planned: Planned, results: Results, programs: Programs):
  """What the sweep was, for machines."""
  prepared = [job.prepared for job in ready if job.prepared]
  dataset = ready[0].setup.dataset
  return {
      "schema": records.SCHEMA,
      "dataset": {"name": dataset.name, "source": dataset.source,
                  "train_examples": len(dataset.train_ids),
                  "test_examples": len(dataset.test.label),
                  **({"notice": dataset.notice} if dataset.notice else {})},
      **({"teacher": prepared[0].record} if prepared else {}),
      "groups": len(ready),
      "compilations": programs.compilations,
      "probe_compilations": programs.probes,
      "lanes": len(results.rows),
      "failed": sum(row["failed"] is not None for row in results.rows),
      "chunks": [{"group": job.program_fingerprint[:16], "shape": list(chunk.shape),
                  "lanes": len(set(chunk.lanes))} for job, chunk in planned]}
