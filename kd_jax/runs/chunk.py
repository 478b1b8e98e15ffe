"""Training a chunk of lanes, and the rows that it leaves."""

from collections.abc import Callable
import contextlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config import build
from kd_jax.runs import kept_logits, records, results, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.training import lanes, metrics, parameters, train_loop
from kd_jax.training.checkpoints import Checkpoints

Row = dict[str, Any]
# Digits that a record keeps of a float: float32 has seven.
_DIGITS = 7


def train(
    job: Job,
    chunk: Chunk,
    program: lanes.Lanes,
    *,
    segment_steps: int,
    stop: Callable[[], bool],
    tick: Callable[[int], None],
) -> list[Row]:
  """Trains the lanes of a chunk together, from where they were left.

  Args:
    job: The group they belong to.
    chunk: The lanes.
    program: Compiled for the chunk's shape.
    segment_steps: Steps of a segment.
    stop: Asked between segments.
    tick: Told the steps done, within and after each epoch.

  Returns:
    What was measured of each lane, padding left out.

  Raises:
    train_loop.Interrupted: After saving, if `stop` says so.
  """
  members = [job.lanes[lane] for lane in chunk.lanes]
  hparams = lanes.stack(
      [build.student_hparams(lane.values) for lane in members], chunk.shape)
  seeds = jnp.asarray(
      [lane.seed for lane in members[::chunk.shape.points]], jnp.uint32)
  splits = job.prepared.splits if job.prepared else job.setup.splits
  total = job.training.total_steps
  last: dict[str, Any] = {}

  def evaluate(state, step):
    # The test set is looked at once, when the training is over.
    wanted = [name for name in splits if name != "test" or step == total]
    return lanes.finite(state), {
        name: program.evaluate(state, splits[name]) for name in wanted}

  def ended(epoch):
    row = _epoch(epoch, chunk, job.per_epoch)
    job.setup.recorder.row("sweep", row)
    last["evaluated"] = epoch.evaluated[1]
    tick(epoch.step)

  def resumed(step):
    job.setup.recorder.row(
        "sweep", {"event": "resumed", "step": step, "chunk": chunk.fingerprint})
    tick(step)

  checkpoints = _checkpoints(job, chunk)
  with contextlib.closing(checkpoints):
    state = train_loop.run_to_end(
        train_loop.Program(
            lambda state, length: program.segment(state, hparams, seeds, length),
            evaluate, program.totals),
        program.init(seeds, hparams), total_steps=total,
        per_epoch=job.per_epoch, segment_steps=segment_steps,
        checkpoints=checkpoints, stop=stop, ended=ended, resumed=resumed,
        monitor=train_loop.Monitor(), tick=tick)
  curves = _curves(job, chunk)
  sizes = parameters.num_parameters(state.student.params) // chunk.shape.size
  real = list(dict.fromkeys(chunk.lanes))
  places = [divmod(chunk.lanes.index(lane), chunk.shape.points) for lane in real]
  numbers = [_numbers(last["evaluated"], *place) for place in places]
  if job.setup.run.sweep.keep_logits:
    for lane, place in zip(real, places, strict=True):
      net = jax.tree.map(lambda leaf, place=place: leaf[place], state.student)
      kept_logits.keep(job.setup.workdir, lane, job, net)
  return [
      _row(job, chunk, lane) | number | _curve(curves, chunk.lanes.index(lane))
      | {"parameters": sizes} for lane, number in zip(real, numbers, strict=True)]


def forget(job: Job, chunk: Chunk) -> None:
  """Removes the checkpoints of a chunk whose rows are written."""
  _checkpoints(job, chunk).drop()


def _checkpoints(job: Job, chunk: Chunk) -> Checkpoints:
  # Half a training goes on where its other half was: its bits depend on it.
  return setup_lib.open_checkpoints(
      job.setup, f"sweep-{chunk.fingerprint[:16]}",
      {"chunk": chunk.fingerprint, **records.runtime()})


def _epoch(epoch: train_loop.Epoch, chunk: Chunk, per_epoch: int) -> Row:
  """An epoch of all lanes, as lists in the chunk's order."""
  fine, evaluated = epoch.evaluated
  row: Row = {"fingerprint": chunk.fingerprint,
              "epoch": -(-epoch.step // per_epoch),
              "finite": np.asarray(fine).ravel().tolist()}
  totals = {f"train_{name}": mean for name, mean in epoch.totals.items()
          if not name.startswith("gradient_")}
  if "heldout" in evaluated:
    totals["heldout_errors"] = evaluated["heldout"][0]["errors"]
  for name, mean in totals.items():
    values = np.asarray(mean.total).ravel()
    if name.endswith("errors"):
      row[name] = values.tolist()  # The exact count.
      continue
    means = values / np.maximum(np.asarray(mean.count).ravel(), 1)
    row[name] = [_plain(value) for value in means.tolist()]
  return row


def _curves(job: Job, chunk: Chunk) -> list[Row]:
  """The epochs of a chunk, also those before an interruption."""
  file = job.setup.workdir / "metrics.jsonl"
  found = {}
  for line in file.read_text().splitlines():
    row = _parsed(line)
    if row.get("fingerprint") == chunk.fingerprint:
      found[row["epoch"]] = row
  return [found[epoch] for epoch in sorted(found)]


def _curve(curves: list[Row], lane: int) -> Row:
  """The curves of one lane, and the epoch in which it broke, if it did."""
  series = lambda name: [row[name][lane] for row in curves]
  broken = [row["epoch"] for row in curves if not row["finite"][lane]]
  curve = {name: series(name) for name in ("train_hard", "train_soft")
           if name in curves[0]}
  row: Row = {"failed": f"not finite in epoch {broken[0]}" if broken else None,
              "train_errors": series("train_errors")[-1], "curve": curve}
  if "heldout_errors" in curves[0]:
    row["heldout_curve"] = series("heldout_errors")
  return row


def _numbers(evaluated, row: int, point: int) -> Row:
  """The last epoch's numbers of one lane."""
  numbers: Row = {}
  for split, (totals, wrong) in evaluated.items():
    own = jax.tree.map(lambda x: np.asarray(x[row, point]), totals)
    errors = own.pop("errors")
    numbers |= {f"{split}_errors": int(errors.total),
                f"{split}_examples": int(errors.count)}
    for name, total in own.items():
      # The student's names for how well it follows the teacher on the test set.
      full = name if (name in ("agreement", "kl") and split == "test") else (
          f"{split}_{name}")
      numbers[full] = _plain(total.compute())
    if split == "test":
      numbers["test_bins"] = _bins(own["ece"])
      numbers["test_wrong_ids"] = np.flatnonzero(wrong[row, point]).tolist()
  numbers["test_accuracy"] = _plain(
      1 - numbers["test_errors"] / numbers["test_examples"])
  return numbers


def _bins(ece: metrics.Calibration) -> dict[str, list]:
  return {"count": ece.count.tolist(), "correct": ece.correct.tolist(),
          "confidence": [_plain(value) for value in ece.confidence.tolist()]}


def _row(job: Job, chunk: Chunk, fingerprint: str) -> Row:
  """Which lane it is."""
  lane = job.lanes[fingerprint]
  loss = teacher_store.loss_record(
      job.learner.method, build.student_hparams(lane.values),
      job.learner.schedules)
  return {
      "row": lane.name, "method": job.setup.run.method_name, "loss": loss["loss"],
      "overrides": lane.point, "seed": lane.seed,
      "fingerprint": fingerprint, "packing": chunk.packing,
      "teacher_seed": job.setup.run.teacher.seed,
      "teacher_fingerprint":
          job.prepared.record["fingerprint"] if job.prepared else None,
      "lanes": [chunk.shape.rows, chunk.shape.points],
      "data": job.setup.dataset.source,
      "train_examples": len(job.setup.train.ids)}


def _plain(value: float) -> float | None:
  """A float as records hold it; NaN is no JSON."""
  value = float(value)
  if value != value or abs(value) == float("inf"):
    return None
  return float(f"{value:.{_DIGITS}g}")


def _parsed(line: str) -> Row:
  try:
    return json.loads(line)
  except ValueError:
    return {}  # The last line of a killed program.


def stamp(rows: list[Row], **more: Any) -> list[Row]:
  """Adds what rows that were made together share: schema, machine, commit."""
  manifest = records.manifest()
  kept = ("commit", "dirty", "versions", "device", "cores")
  return [{"schema": results.SCHEMA, **row, **more,
           **{key: manifest[key] for key in kept}} for row in rows]
