"""`summary.json`: what a run was, for scripts, and its table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.core.screen import Screen
from kd_jax.runs import records
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.runs.programs import Programs
from kd_jax.runs.results import Results, Row
from kd_jax.runs.shard import Shard

# What a row says of where it was made and how it is found again.
_OF_ROWS = {
    "schema", "study", "row", "net", "overrides", "command", "packing", "data",
    "data_sha256", "teacher_seed", "teacher_fingerprint", "teacher_sha256",
    "teacher_bank",
    "commit", "dirty", "versions", "device", "cores", "curve", "heldout_curve",
    "failed"}
_FIGURES = (("test_errors", "d"), ("test_accuracy", ".2%"), ("test_nll", ".4f"),
            ("test_ece", ".4f"), ("agreement", ".2%"), ("parameters", ",d"))


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
      "groups": len(jobs),
      "compilations": programs.compilations,
      "probe_compilations": programs.probes,
      "lanes": len(results.rows),
      "failed": sum(row["failed"] is not None for row in results.rows),
      "other_rows": results.others,
      "chunks": [{"group": job.program_fingerprint[:16], "shape": list(chunk.shape),
                  "lanes": len(set(chunk.lanes))} for job, chunk in planned],
      **({"shard": str(shard)} if shard else {})}


def of_examples(errors: int, examples: int) -> tuple[float, float]:
  r"""The errors of so many examples that other draws of them would give, in 95%.

    (p + z**2 / 2n -+ z sqrt(p (1 - p) / n + z**2 / 4n**2)) / (1 + z**2 / n),
    times n, with p = errors / n and z = 1.96

  Source: Wilson (1927). Another seed gives another net, of which it says nothing.

  Example:
    >>> [round(end) for end in of_examples(74, 10_000)]
    [59, 93]
  """
  n, p, z = examples, errors / examples, 1.96
  middle = p + z * z / (2 * n)
  half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
  low, high = ((middle + sign * half) * n / (1 + z * z / n) for sign in (-1, 1))
  return max(low, 0.0), high


def show(screen: Screen, summary: dict[str, Any]) -> None:
  """Shows the nets of a single run as a table."""
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
  ends = {name: of_examples(record["test_errors"], record["test_examples"])
          for name, record in nets.items() if "test_errors" in record}
  shown = "; ".join("{} {:.0f} to {:.0f}".format(name, *end)
                    for name, end in ends.items())
  screen.say(f"95% intervals of the choice of test examples alone: {shown}. What "
             "other seeds change: --sweep.seed=0,1,2,3,4 in another --workdir")
  if ends.keys() >= {"baseline", "distilled"} and (
      max(low for low, _ in (ends["baseline"], ends["distilled"]))
      <= min(high for _, high in (ends["baseline"], ends["distilled"]))):
    screen.say("those of baseline and distilled overlap: this run does not tell "
               "which of the two losses is better")


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
