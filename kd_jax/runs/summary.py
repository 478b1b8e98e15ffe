"""`summary.json`: what a run was, for scripts, and its table for people."""

import collections
from collections.abc import Callable, Mapping, Sequence
import html
import pathlib
import re
from typing import Any

from kd_jax.core.screen import Screen
from kd_jax.runs import records
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.runs.programs import Programs
from kd_jax.runs.results import Results, Row
from kd_jax.runs.shard import Shard

# (errors, examples) -> the ends of an interval of their ratio
Interval = Callable[[int, int], tuple[float, float]]
# What a row says of where it was made and how it is found again.
_OF_ROWS = {
    "schema", "study", "row", "net", "overrides", "command", "packing", "data",
    "data_sha256", "teacher_seed", "teacher_fingerprint", "teacher_sha256",
    "teacher_bank",
    "commit", "dirty", "versions", "device", "processor", "cores", "curve",
    "heldout_curve", "failed"}
_FIGURES = (("test_errors", "d"), ("test_accuracy", ".2%"), ("test_nll", ".4f"),
            ("test_ece", ".4f"), ("agreement", ".2%"), ("parameters", ",d"))
# Of the table of a sweep: columns shown beside its settings, and the most points.
_OF_TABLE, _MOST = {"test errors", "difference", "p (Holm)"}, 20


def of_run(jobs: Sequence[Job], rows: Mapping[str, Row]) -> dict[str, Any]:
  """The summary of a single run: its nets by name, the teacher first."""
  return _of_any(jobs) | {
      name: {key: value for key, value in row.items() if key not in _OF_ROWS}
      for name, row in rows.items()}


def of_sweep(
    jobs: Sequence[Job], planned: Sequence[tuple[Job, Chunk]], results: Results,
    programs: Programs, shard: Shard | None,
) -> dict[str, Any]:
  """The summary of a sweep, or of a shard of it."""
  return {
      **_of_any(jobs),
      "nets": _nets(jobs),
      "groups": len(jobs),
      "compilations": programs.compilations,
      "probe_compilations": programs.probes,
      "lanes": len(results.rows),
      "failed": sum(row["failed"] is not None for row in results.rows),
      "other_rows": results.others,
      "chunks": [{"group": job.program_fingerprint[:16], "shape": list(chunk.shape),
                  "lanes": len(set(chunk.lanes))} for job, chunk in planned],
      **({"shard": str(shard)} if shard else {})}


def show(
    screen: Screen, summary: dict[str, Any], method: str,
    interval: Interval | None = None,
) -> None:
  """Shows the nets of a single run as a table, then intervals of their errors.

  Args:
    screen: Where.
    summary: Of `of_run`.
    method: That of the config.
    interval: Gives the intervals, if they are to be shown.
  """
  nets = {name: value for name, value in summary.items()
          if isinstance(value, dict) and name != "dataset"}
  columns = ["net", "test errors", "accuracy", "NLL", "ECE", "agreement",
             "parameters"]
  rows = [[name, *(format(record[key], form) if key in record else "-"
                   for key, form in _FIGURES)] for name, record in nets.items()]
  dataset, last = summary["dataset"], [*nets.values()][-1]
  title = f"{dataset['name']}: errors of {dataset['test_examples']} test examples"
  if len(nets) > 1:
    title += f"\nloss of {[*nets][-1]}: {last['loss']}"
  if "notice" in dataset:
    title += f"\n{dataset['notice']}"
  screen.table(title, columns, rows)
  if interval is not None:
    _show_intervals(screen, nets, method, interval)


def show_table(screen: Screen, file: pathlib.Path) -> None:
  """Shows what people ask of a small `table.md`; of a large one, where it is."""
  titles, _, *rows = [
      [html.unescape(re.sub(r"\\(.)", r"\1", cell.strip()))
       for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
      for line in file.read_text().splitlines() if line.startswith("|")]
  if len(rows) > _MOST:
    screen.say(f"{file}: {len(rows):,} points with their intervals")
    return
  # The settings come first, up to n, the number of runs.
  kept = [place for place, title in enumerate(titles)
          if place <= titles.index("n") or title in _OF_TABLE]
  screen.table(f"{file} (± and more columns are explained there)",
               [titles[place] for place in kept],
               [[row[place] for place in kept] for row in rows])


def _show_intervals(
    screen: Screen, nets: Mapping[str, Any], method: str, interval: Interval
) -> None:
  # Of a teacher in a file of logits no errors are known.
  ends = {
      name: [rate * record["test_examples"] for rate in interval(
          record["test_errors"], record["test_examples"])]
      for name, record in nets.items() if "test_errors" in record}
  shown = "; ".join(f"{name} {low:.0f} to {high:.0f}"
                    for name, (low, high) in ends.items())
  two = ends.keys() >= {"baseline", "distilled"}
  losses = (f"--sweep.method=hard,{method} \"--config.sweep.reference="
            "(('method','hard'),)\" ") if two else ""
  screen.say(f"95% intervals of the choice of test examples alone: {shown}. What "
             f"other seeds change: {losses}--sweep.seed=0,1,2,3,4 in another "
             "--workdir")
  if two:
    lows, highs = zip(ends["baseline"], ends["distilled"])
    if max(lows) <= min(highs):
      screen.say("those of baseline and distilled overlap: this run does not tell "
                 "which of the two losses is better")


def _nets(jobs: Sequence[Job]) -> dict[str, int]:
  """How many nets of each name the points need; what they share counts once."""
  found: collections.Counter[str] = collections.Counter()
  for job in jobs:
    found[job.net.name] += len(job.wanted)
  return dict(found)


def _of_any(jobs: Sequence[Job]) -> dict[str, Any]:
  """What both have in common: the data, and the main job's teacher."""
  dataset = jobs[0].setup.dataset
  teacher = next((job.prepared.record for job in jobs
                  if job.prepared and not job.net.in_config), None)
  return {
      "schema": records.SCHEMA,
      "dataset": {"name": dataset.name, "source": dataset.source,
                  "train_examples": len(dataset.train_ids),
                  "test_examples": len(dataset.test.label),
                  **({"notice": dataset.notice} if dataset.notice else {})},
      **({"teacher": teacher} if teacher else {})}
