"""Training a chunk of lanes, or one net alone, and the rows that it leaves."""

from collections.abc import Callable
import contextlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config import build
from kd_jax.core import types
from kd_jax.runs import jobs, nets, records, results, teacher_store
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.training import lanes, metrics, parameters, step, train_loop
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.state import TrainState

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
    finished: Callable[[str, types.Variables], None] = lambda lane, net: None,
) -> list[Row]:
  """Trains the lanes of a chunk together, from where they were left.

  Args:
    job: The group they belong to.
    chunk: The lanes.
    program: Compiled for the chunk's shape.
    segment_steps: Steps of a segment.
    stop: Asked between segments.
    tick: Told the steps done, within and after each epoch.
    finished: Given the fingerprint and the net of each lane at the end.

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
  arrays, splits = job.of_rows(chunk.lanes, chunk.shape)
  program = program.bound(job.setup.train, arrays)
  total = job.training.last_step
  last: dict[str, Any] = {}

  def evaluate(state, done):
    # The test set is looked at once, when the training is over.
    wanted = [name for name in splits if name != "test" or done == total]
    return lanes.finite(state), {
        name: program.evaluate(state, splits[name]) for name in wanted}

  def ended(epoch):
    row = _epoch(epoch, chunk, job.per_epoch)
    job.setup.recorder.row("sweep", row)
    last["evaluated"] = epoch.evaluated[1]
    tick(epoch.step)

  def resumed(done):
    job.setup.recorder.row(
        "sweep", {"event": "resumed", "step": done, "chunk": chunk.fingerprint})
    tick(done)

  checkpoints = _checkpoints(job, chunk)
  with contextlib.closing(checkpoints):
    state = train_loop.run_to_end(
        train_loop.Program(
            lambda state, length: program.segment(state, hparams, seeds, length),
            evaluate, program.totals),
        _started(job, chunk, program.init(seeds, hparams)), total_steps=total,
        per_epoch=job.per_epoch, segment_steps=segment_steps,
        checkpoints=checkpoints, stop=stop, ended=ended, resumed=resumed,
        monitor=train_loop.Monitor(), tick=tick)
  return _rows(job, chunk, step.deployed_variables(job.learner, state),
               last["evaluated"], finished)


def _rows(job: Job, chunk: Chunk, net: types.Variables, evaluated, finished):
  """The rows of a chunk, padding left out; each net is given to `finished`."""
  curves = _epochs(job.setup.workdir, "sweep", chunk.fingerprint)
  sizes = parameters.num_parameters(net.params) // chunk.shape.size
  rows = []
  for lane in dict.fromkeys(chunk.lanes):
    number = chunk.lanes.index(lane)
    place = divmod(number, chunk.shape.points)
    finished(lane, jax.tree.map(lambda leaf, at=place: leaf[at], net))
    rows.append(
        _row(job, chunk, lane) | _numbers(evaluated, *place)
        | _curve(curves, number) | {"parameters": sizes})
  return rows


def train_alone(job: Job) -> list[Row]:
  """Trains the one net of a job alone, on all devices that its setup has.

  A single run is so: it has numbers of every epoch, and its best net of held-out
  data. A net that is found trained is not trained again.

  Returns:
    Its row.
  """
  (fingerprint, lane), = job.lanes.items()
  start = job.starts.get(fingerprint)
  identity = jobs.identity(
      lane, job.setup, job.prepared, start=start, epoch=job.net.epoch)
  make = lambda path, identity: nets.obtain(
      job.setup, job.net.name, path, identity, job.training, job.learner,
      job.prepared.splits if job.prepared else job.setup.splits,
      start=start and start.variables)
  if job.net.in_config:
    record = nets.in_store(
        job.setup, job.net.name, job.training, identity,
        lambda path: make(path, identity)).record
  else:
    del identity["lane"]
    record = make(
        job.setup.workdir / "parameters" / job.net.name,
        identity | records.runtime() | job.setup.placing | {"net": job.net.name})
  shape = job.setup.devices
  packing = "1x1x1" if shape.kind == "single" else f"{shape.kind} {shape.size}"
  # A net that a sweep left has its own packing and curves.
  return [{"packing": packing, **of_record(job, fingerprint, record),
           **_own_curves(job, record["fingerprint"])}]


def of_record(job: Job, fingerprint: str, record: Row) -> Row:
  """The row of a net that was trained alone, or found, by its record."""
  loss = teacher_store.loss_record(
      job.learner.method, build.student_hparams(job.lanes[fingerprint].values),
      job.training.schedules)
  # As it was before it was saved.
  record = {key: value for key, value in record.items()
            if key not in ("schema", parameters.CHECKSUM)}
  return {"curve": {}, **record, **_about(job, fingerprint), **loss,
          "net": job.net.name, "failed": None,
          "alpha": job.setup.run.values["alpha"]}


def described(job: Job, fingerprint: str) -> Row:
  """What a row says of what was asked for; None is left out of it."""
  about = _about(job, fingerprint)
  return {"row": about["row"], "overrides": about["overrides"],
          "net": job.net.name if job.net.in_config else None}


def _started(job: Job, chunk: Chunk, state: TrainState) -> TrainState:
  """The state before the first step, from the nets that lanes start from."""
  if not job.starts:
    return state
  nets_of = [job.starts[lane].variables for lane in chunk.lanes]
  student = jax.tree.map(
      lambda old, *new: jax.device_put(
          jnp.stack(new).reshape(old.shape), old.sharding),
      state.student, *nets_of)
  return state.replace(student=student)  # type: ignore[attr-defined]


def forget(job: Job, chunk: Chunk) -> None:
  """Removes the checkpoints of a chunk whose rows are written."""
  _checkpoints(job, chunk).drop()


def _checkpoints(job: Job, chunk: Chunk) -> Checkpoints:
  # Half a training goes on where its other half was: its bits depend on it.
  return job.setup.checkpoints(
      f"sweep-{chunk.fingerprint[:16]}",
      {"chunk": chunk.fingerprint, **records.runtime()})


def _epoch(epoch: train_loop.Epoch, chunk: Chunk, per_epoch: int) -> Row:
  """An epoch of all lanes, as lists in the chunk's order."""
  fine, evaluated = epoch.evaluated
  row: Row = {"fingerprint": chunk.fingerprint,
              "epoch": -(-epoch.step // per_epoch),
              "finite": np.asarray(fine).ravel().tolist()}
  totals = {f"train_{name}": mean
            for name, mean in metrics.measured(epoch.totals).items()}
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


def _own_curves(job: Job, fingerprint: str) -> Row:
  """The curves of a net that was trained alone."""
  epochs = _epochs(job.setup.workdir, job.net.name, fingerprint[:16])
  if not epochs:
    return {}
  series = lambda name: [row[name] for row in epochs if name in row]
  curve = {name: series(name) for name in (
      "train_hard", "train_soft", "test_errors") if series(name)}
  held = series("heldout_errors")
  return {"curve": curve} | ({"heldout_curve": held} if held else {})


def _epochs(workdir: pathlib.Path, net: str, fingerprint: str) -> list[Row]:
  """The epochs of a training in `metrics.jsonl`, each as it was told last."""
  file, found = workdir / "metrics.jsonl", {}
  # Of several processes the first alone writes it.
  for line in file.read_text().splitlines() if file.is_file() else ():
    row = _parsed(line)
    if (row.get("net"), row.get("fingerprint")) == (net, fingerprint) and (
        "epoch" in row):
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
      **_about(job, fingerprint), "loss": loss["loss"],
      **({"net": job.net.name} if job.net.in_config else {}),
      "packing": chunk.packing,
      "lanes": [chunk.shape.rows, chunk.shape.points]}


def _about(job: Job, fingerprint: str) -> Row:
  """What was asked for, and of whom it learnt."""
  lane, run = job.lanes[fingerprint], job.setup.run
  name = f"{job.net.name} {lane.name}" if job.net.in_config else lane.name
  teacher = job.teachers.get(fingerprint)
  return {
      "row": name, "method": run.values["method"], "overrides": lane.point,
      "seed": lane.seed, "fingerprint": fingerprint,
      "teacher_seed": run.values["teacher.seed"],
      "teacher_fingerprint": teacher and teacher.record["fingerprint"],
      "teacher_sha256": teacher and teacher.identity,
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
