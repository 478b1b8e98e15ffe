"""Rows: what `results.jsonl` says of a net, alone or as a lane."""

import pathlib
from typing import Any

from kd_jax.config import build
from kd_jax.config.run import Run
from kd_jax.core import strict
from kd_jax.runs import records, results, teacher_store
from kd_jax.runs.jobs import Job
from kd_jax.runs.results import Row
from kd_jax.training import parameters

# How the numbers of an epoch begin that are drawn as curves, and which are none.
_DRAWN = ("train_", "test_errors", "heldout_errors", "share_", "cka_")
_NO_TERMS = ("train_errors", "train_examples", "train_accuracy", "train_skipped",
             "train_gradient_ratio")


def found(job: Job, fingerprint: str, record: Row) -> Row:
  """The row of a net that was trained alone, or found, by its record."""
  # As it was before it was saved.
  record = {key: value for key, value in record.items()
            if key not in ("schema", parameters.CHECKSUM)}
  return {"curve": {}, **record, **about(job, fingerprint),
          **loss(job, fingerprint), "net": job.net.name,
          # Of a lane that has diverged its record says so.
          "failed": record.get("failed"),
          "alpha": job.setup.run.values["alpha"]}


def lost(job: Job, fingerprint: str) -> Row:
  """The row of a net that cannot be trained, as one that it needs has failed."""
  return {"curve": {}, **about(job, fingerprint), **loss(job, fingerprint),
          "net": job.net.name, "failed": job.wanted[fingerprint].lost,
          "test_errors": None, "seconds": 0.0}


def about(job: Job, fingerprint: str) -> Row:
  """What was asked for, and of whom it learnt."""
  wanted = job.wanted[fingerprint]
  lane, teacher = wanted.lane, wanted.teacher
  run = job.setup.run
  return {
      "row": f"{job.net.name} {lane.name}" if job.net.in_config else lane.name,
      "method": run.values["method"], "overrides": lane.point,
      "seed": lane.seed, "fingerprint": fingerprint,
      "teacher_seed": run.values["teacher.seed"],
      "teacher_fingerprint": teacher and teacher.record["fingerprint"],
      "teacher_sha256": teacher and teacher.identity,
      **({"teacher_bank": teacher.record["bank"]}
         if teacher and "bank" in teacher.record else {}),
      "data": job.setup.dataset.source,
      "data_sha256": job.setup.dataset.fingerprint,
      "train_examples": len(job.setup.train.ids), **judged(run)}


def judged(run: Run) -> Row:
  """What a net is judged by, where that is not the test set."""
  # Rows of before say nothing of it.
  return {} if run.values["data.test"] == "own" else {"test_set": "heldout"}


def described(job: Job, fingerprint: str) -> Row:
  """What a lane's row says of what was asked for; None is left out of it."""
  asked = about(job, fingerprint)
  return {"row": asked["row"], "overrides": asked["overrides"],
          "net": job.net.name if job.net.in_config else None}


def loss(job: Job, fingerprint: str) -> Row:
  """The loss in words and its numbers."""
  return teacher_store.loss_record(
      job.learner.method,
      build.student_hparams(job.wanted[fingerprint].lane.values),
      job.learner.schedules)


def as_students(numbers: Row) -> Row:
  """Numbers with the student's names for how well it follows its teacher."""
  own = {"test_agreement": "agreement", "test_kl": "kl"}
  return {own.get(name, name): value for name, value in numbers.items()}


def epochs(workdir: pathlib.Path, net: str, fingerprint: str) -> list[Row]:
  """The epochs of a training in `metrics.jsonl`, each as it was told last."""
  return sorted((row for row in every_epoch(workdir) if (
      row["net"], row["fingerprint"]) == (net, fingerprint)),
                key=lambda row: int(row["epoch"]))


def every_epoch(workdir: pathlib.Path) -> list[Row]:
  """Those of all trainings, each as it was told last; of a sweep's, all lanes'."""
  file = workdir / "metrics.jsonl"
  known: dict[tuple[str, str, int], Row] = {}
  # Of several processes the first alone writes it.
  text = file.read_text(errors="replace") if file.is_file() else ""
  for line in text.splitlines():
    try:
      row = strict.loads(line)
      key = str(row["net"]), str(row["fingerprint"]), int(row["epoch"])
      known.pop(key, None)  # What was told last stands last.
      known[key] = row
    except (ValueError, KeyError, TypeError, OverflowError):
      continue  # The last line of a killed program, or an event.
  return list(known.values())


def curves(epochs: list[Row]) -> Row:
  """The curves of one net, by its epochs: terms, errors, what was inspected."""
  names = dict.fromkeys(name for row in epochs for name in row if (
      name.startswith(_DRAWN) and name not in _NO_TERMS))
  series = {name: [row[name] for row in epochs if name in row] for name in names}
  held = series.pop("heldout_errors", None)
  return {"curve": series, **({"heldout_curve": held} if held else {})}


def stamp(rows: list[Row], **more: Any) -> list[Row]:
  """Adds what rows that were made together share: schema, machine, commit."""
  manifest = records.manifest()
  shared = (
      "commit", "dirty", "versions", "numerics", "device", "processor", "cores")
  return [{"schema": results.SCHEMA, **row, **more,
           **{key: manifest[key] for key in shared}} for row in rows]
