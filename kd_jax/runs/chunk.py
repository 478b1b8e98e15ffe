"""A chunk of lanes, trained together, and the rows that it leaves."""

from collections.abc import Callable
import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config import build
from kd_jax.core import randomness, types
from kd_jax.runs import rows
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.runs.rows import Row
from kd_jax.training import (
  cost,
  fit,
  lanes,
  metrics,
  parameters,
  step,
  train_loop,
)
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.monitor import LanesMonitor
from kd_jax.training.state import TrainState

# Digits that a record keeps of a float: float32 has seven.
_DIGITS = 7


def train(
    job: Job, chunk: Chunk, program: lanes.Lanes, *, tick: Callable[[int], None]
) -> list[tuple[Row, types.Variables]]:
  """Trains the lanes of a chunk together, from where they were left.

  Args:
    job: The group they belong to.
    chunk: The lanes.
    program: Compiled for the chunk's shape.
    tick: Told the steps done, within and after each epoch.

  Returns:
    What was measured of each lane, and its net; padding left out.

  Raises:
    train_loop.Interrupted: After saving, if the setup's `stop` says so.
  """
  checkpoints = _checkpoints(job, chunk)
  hparams, seeds = _given(job, chunk)
  arrays, splits = job.of_rows(chunk.lanes, chunk.shape)
  program = program.bound(job.setup.train, arrays)
  total, patience = job.training.last_step, job.training.patience
  last: dict[str, Any] = {}

  def evaluate(state, done):
    # The test set is looked at once, when the training is over.
    wanted = [name for name in splits if name != "test" or (
        done == total and patience is None)]
    return lanes.finite(state), {
        name: program.evaluate(state, splits[name]) for name in wanted}

  def ended(epoch):
    row = _epoch(epoch, chunk, job.per_epoch)
    job.setup.recorder.row("sweep", row)
    last["evaluated"] = epoch.evaluated[1]
    tick(epoch.step)

  def resumed(done):
    if not done and not rows.epochs(
        job.setup.workdir, "sweep", chunk.fingerprint):
      return
    job.setup.recorder.row(
        "sweep", {"event": "resumed", "step": done, "chunk": chunk.fingerprint})
    tick(done)

  monitor = train_loop.Monitor() if patience is None else LanesMonitor(
      patience, per_epoch=job.per_epoch)
  with contextlib.closing(checkpoints):
    state = train_loop.run_to_end(
        train_loop.Program(
            lambda state, _, length: program.segment(
                state, hparams, seeds, length),
            evaluate, program.totals),
        _started(job, chunk, program.init(seeds, hparams)), total_steps=total,
        per_epoch=job.per_epoch, segment_steps=_segment_steps(job, chunk),
        checkpoints=checkpoints, stop=job.setup.stop, ended=ended,
        resumed=resumed, monitor=monitor, tick=tick)
  best = None
  if isinstance(monitor, LanesMonitor):
    state, best = monitor.with_best(state), monitor.kept.epoch
    last["evaluated"] = {name: program.evaluate(state, splits[name])
                         for name in splits}
    tick(total)
  trained = _rows(job, chunk, state, last["evaluated"], best)
  seconds = round(checkpoints.seconds() / len(trained), 2)
  return [(row | {"seconds": seconds}, net) for row, net in trained]


def _given(job: Job, chunk: Chunk) -> tuple[types.Hparams, jax.Array]:
  """The numbers of each lane `[rows, points]`, and the seed of each row."""
  asked = [job.wanted[lane].lane for lane in chunk.lanes]
  hparams = lanes.stack(
      [build.student_hparams(lane.values) for lane in asked], chunk.shape)
  return hparams, jnp.asarray([
      randomness.of_role(lane.seed, job.net.role)
      for lane in asked[::chunk.shape.points]], jnp.uint32)


def forget(job: Job, chunk: Chunk) -> None:
  """Removes the checkpoints of a chunk whose rows are written."""
  _checkpoints(job, chunk).drop()


def _checkpoints(job: Job, chunk: Chunk) -> Checkpoints:
  return job.setup.checkpoints(
      f"sweep-{chunk.fingerprint[:16]}", {"chunk": chunk.fingerprint})


def _segment_steps(job: Job, chunk: Chunk) -> int:
  return cost.segment_steps(job.per_epoch, cost.step_seconds(
      job.training, job.setup.train.inputs, job.learner.teacher,
      lanes=chunk.shape.size))


def _started(job: Job, chunk: Chunk, state: TrainState) -> TrainState:
  """The state before the first step, from the nets that lanes start from."""
  starts = [start.variables for lane in chunk.lanes
            if (start := job.wanted[lane].start)]
  if not starts:
    return state
  student = jax.tree.map(
      lambda old, *new: jax.device_put(
          jnp.stack(new).reshape(old.shape), old.sharding),
      state.student, *starts)
  return state.starting(student)


def _rows(job: Job, chunk: Chunk, state: TrainState, evaluated, best):
  """The row and the net of each lane of a chunk, padding left out.

  `best` `[rows, points]` is the epoch that each net is of, None for the last.
  """
  state = state.replace(step=(), optimizer=())  # type: ignore[attr-defined]
  epochs = rows.epochs(job.setup.workdir, "sweep", chunk.fingerprint)
  trained = []
  for lane in dict.fromkeys(chunk.lanes):
    number = chunk.lanes.index(lane)
    place = divmod(number, chunk.shape.points)
    own = [{key: value[number] if isinstance(value, list) else value
            for key, value in row.items()} for row in epochs]
    last = len(own) if best is None else int(best[place])
    if job.training.patience:  # The epochs that it would have by itself.
      own = own[:last + job.training.patience]
    # What comes out of a lane may be a function of its arrays, such as rounding.
    variables = step.deployed_variables(job.learner, jax.tree.map(
        lambda leaf, at=place: leaf[at], state))
    broken = [row["epoch"] for row in own if not row["finite"]]
    trained.append(({
        **rows.about(job, lane), "loss": rows.loss(job, lane)["loss"],
        **({"net": job.net.name} if job.net.in_config else {}),
        "packing": chunk.packing,
        "lanes": [chunk.shape.rows, chunk.shape.points],
        **_numbers(evaluated, *place),
        "failed": f"not finite in epoch {broken[0]}" if broken else None,
        "train_errors": own[last - 1]["train_errors"], **rows.curves(own),
        "parameters": parameters.num_parameters(variables.params)}, variables))
  return trained


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


def _numbers(evaluated, row: int, point: int) -> Row:
  """The last epoch's numbers of one lane."""
  numbers: Row = {}
  for split, (totals, wrong) in evaluated.items():
    own = jax.tree.map(lambda x: np.asarray(x[row, point]), totals)
    numbers |= fit.computed(split, own)
    if split == "test":
      numbers["test_bins"] = _bins(own["ece"])
      numbers["test_wrong_ids"] = np.flatnonzero(wrong[row, point]).tolist()
  numbers.pop("heldout_accuracy", None)
  return rows.as_students({
      name: _plain(value) if isinstance(value, float) else value
      for name, value in numbers.items()})


def _bins(ece: metrics.Calibration) -> dict[str, list]:
  return {"count": ece.count.tolist(), "correct": ece.correct.tolist(),
          "confidence": [_plain(value) for value in ece.confidence.tolist()]}


def _plain(value: float) -> float | None:
  """A float as records hold it; NaN is no JSON."""
  value = float(value)
  if value != value or abs(value) == float("inf"):
    return None
  return float(f"{value:.{_DIGITS}g}")
