"""Running a training: dispatches segments, reads metrics one segment behind.

The device never waits for the host: the next segment is dispatched before the
last one's metrics are read. Between segments the host may look at signals and
save; nothing it does there changes the result.
"""

from collections.abc import Callable
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import (
  augment,
  checkpoint,
  loop,
  metrics,
  records,
  rng,
  steps,
  types,
)
from kd_jax.build import Training

# A segment should last about this long, going by a core's plain speed: it is
# how long Ctrl-C waits. Longer ones need fewer programs.
_SEGMENT_SECONDS = 6.0
_FLOPS_PER_CORE = 1e11


class Interrupted(Exception):
  """The user or the machine asked to stop; what was done is saved."""


class Split(NamedTuple):
  """A part of a data set to evaluate on.

  Attributes:
    data: Its examples, on the device.
    taught: The teacher's logits at T = 1, `[N, classes]`, or None.
  """

  data: loop.DeviceData
  taught: jax.Array | None = None


class Fitted(NamedTuple):
  """A trained net: variables, the last epoch's row, and test ids it misses."""

  variables: types.Variables
  row: dict[str, Any]
  test_wrong_ids: list[int]


@jax.jit
def _evaluate(logits, label, taught):
  mask = jnp.ones(label.shape, bool)
  told = metrics.classification(logits, label, mask)
  if taught is not None:
    told |= metrics.imitation(logits, taught, mask)
  return told, metrics.errors(logits, label)


def evaluate(predict, variables: types.Variables, split: Split):
  """Totals over a whole split, and which examples are wrong, `[N]`."""
  logits = predict(variables, split.data, jnp.int32(0))
  return _evaluate(logits, split.data.label, split.taught)


def fit(
    training: Training,
    learner: steps.Learner,
    data: loop.DeviceData,
    splits: dict[str, Split],
    *,
    progress: pathlib.Path,
    mark: str,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> Fitted:
  """Trains one net to the end, from where an interrupted run left it.

  Args:
    training: How it is trained.
    learner: Its step.
    data: What it is trained on.
    splits: What it is evaluated on after every epoch; must have "test".
    progress: Where an interrupted run is saved.
    mark: Fingerprint of the training; only a run of the same mark is continued.
    stop: Asked between segments.
    report: Receives a row of numbers for every epoch.

  Returns:
    The trained net.

  Raises:
    Interrupted: After saving, if `stop` says so.
  """
  key = jax.random.key(training.seed)
  image = jnp.zeros((1,) + data.image.shape[1:], jnp.float32)
  start = functools.partial(steps.init, learner)
  state = jax.jit(start)(rng.stream(key, "init"), image, training.hparams)
  segment = loop.compiled_segment(
      learner, training.views, training.batch_size)
  predict = loop.make_predict(training.model, augment.VIEWS["none"])
  arrays = learner.teacher.arrays if learner.teacher else ()
  per_epoch = loop.steps_per_epoch(len(data.ids), training.batch_size)
  last: dict[str, Any] = {}

  def evaluate_all(state, step):
    del step
    return {name: evaluate(predict, state.student, split)
            for name, split in splits.items()}

  def ended(epoch):
    last["epoch"] = epoch
    last["row"] = _row(training, per_epoch, clock, epoch)
    report(last["row"])

  def resumed(step):
    clock.step = step
    report({"event": "resumed", "step": step})

  def run(state, length):
    return segment(state, data, arrays, training.hparams, key, length)

  clock = _Clock(0)
  program = Program(run, evaluate_all, jax.eval_shape(run, state, 1)[1])
  state = follow(
      program, state, total_steps=training.total_steps, per_epoch=per_epoch,
      piece=_segment_steps(training, learner, data, state, per_epoch),
      progress=progress, mark=mark, stop=stop, ended=ended, resumed=resumed)
  wrong = np.flatnonzero(last["epoch"].evaluated["test"][1]).tolist()
  return Fitted(state.student, last["row"], wrong)


class Epoch(NamedTuple):
  """What is known when an epoch ends, still on the device."""

  step: int
  told: dict[str, metrics.Mean]
  evaluated: Any


class Program(NamedTuple):
  """What a training runs, one net or many lanes of them.

  Attributes:
    run: `(state, length) -> (state, totals)`; may donate the state.
    evaluate: `(state, step) -> anything`, dispatched when an epoch ends.
    totals: Shapes of the totals.
  """

  run: Callable[[Any, int], tuple[Any, dict[str, metrics.Mean]]]
  evaluate: Callable[[Any, int], Any]
  totals: dict[str, metrics.Mean]


def follow(
    program: Program,
    state: Any,
    *,
    total_steps: int,
    per_epoch: int,
    piece: int,
    progress: pathlib.Path,
    mark: str,
    stop: Callable[[], bool],
    ended: Callable[[Epoch], None],
    resumed: Callable[[int], None],
) -> Any:
  """Runs a program to its end, segment by segment; gives the last state.

  Args:
    program: What is run.
    state: Where it begins, unless there is something to resume.
    total_steps: Where it ends.
    per_epoch: Steps of an epoch.
    piece: Steps of a segment.
    progress: Where an interrupted run is saved.
    mark: Fingerprint; only a run of the same mark is continued.
    stop: Asked between segments.
    ended: Told of every epoch, one segment after it was dispatched.
    resumed: Told the step at which an interrupted run goes on.

  Raises:
    Interrupted: After saving, if `stop` says so.
  """
  told = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), program.totals)
  done = 0
  saved = checkpoint.load_progress(progress, (state, told, jnp.int32(0)), mark)
  if saved is not None:
    # From the host: orbax puts all on one device, a program may want several.
    state, told, at = jax.device_get(saved)
    done = int(at)
    resumed(done)
  epoch: Epoch | None = None
  while done < total_steps:
    end = min((done // per_epoch + 1) * per_epoch, total_steps)
    length = min(piece, end - done)
    state, more = program.run(state, length)
    told = metrics.merge(told, more)
    done += length
    last, epoch = epoch, None
    if done == end:
      epoch = Epoch(done, told, program.evaluate(state, done))
      told = jax.tree.map(jnp.zeros_like, told)
    # By now the next segment is on its way, so this wait costs nothing.
    if last is not None:
      ended(last)
    if stop() and done < total_steps:
      checkpoint.save_progress(progress, (state, told, jnp.int32(done)), mark)
      if epoch is not None:
        ended(epoch)
      raise Interrupted()
  assert epoch is not None  # A run ends with an epoch, be it a short one.
  ended(epoch)
  checkpoint.drop_progress(progress)
  return state


class _Clock:
  """Examples a second since the last row."""

  def __init__(self, step: int):
    self.step, self.time = step, time.perf_counter()

  def lap(self, step: int) -> float:
    now = time.perf_counter()
    seconds, steps_done = now - self.time, step - self.step
    self.step, self.time = step, now
    return steps_done / max(seconds, 1e-9)


def _row(training, per_epoch, clock, ended: Epoch) -> dict[str, Any]:
  """Numbers of one epoch, as they go to `metrics.jsonl`."""
  step, told, evaluated = ended
  rate = clock.lap(step) * training.batch_size
  schedule = float(training.recipe.schedule(jnp.int32(step - 1)))
  row = {
      "epoch": -(-step // per_epoch), "step": step,
      "total_steps": training.total_steps,
      "examples_per_second": round(rate, 1),
      "learning_rate": schedule * float(training.hparams.learning_rate)}
  row |= _computed("train", told)
  if "gradient_soft" in told:
    soft, hard = (told[f"gradient_{n}"].compute() for n in ("soft", "hard"))
    row["train_gradient_ratio"] = (soft / hard) ** 0.5 if hard else None
  for name, (totals, _) in evaluated.items():
    row |= _computed(name, totals)
  return row


def _computed(split: str, totals: dict) -> dict[str, Any]:
  """`SPLIT_METRIC: value`; errors as the exact count, with the examples."""
  values: dict[str, Any] = {}
  for name, total in totals.items():
    if name == "errors":
      values |= {f"{split}_errors": int(total.total),
                 f"{split}_examples": int(total.count)}
      values[f"{split}_accuracy"] = 1 - total.compute()
    elif not name.startswith("gradient_"):
      values[f"{split}_{name}"] = total.compute()
  return values


def _segment_steps(training, learner, data, state, per_epoch) -> int:
  """Steps of a segment: an epoch, or equal parts of one that takes long."""
  if jax.default_backend() != "cpu":
    return per_epoch
  ids = jnp.zeros((training.batch_size,), jnp.int32)
  batch = loop.take(data, augment.VIEWS["none"], ids, ids, ids == 0)
  flops = 3 * _flops(
      lambda held, batch: training.model.apply(
          held, batch.image, train=False)[0].logits, state.student, batch)
  if learner.teacher is not None:
    flops += _flops(learner.teacher.members, learner.teacher.arrays, batch)
  seconds = per_epoch * flops / (_FLOPS_PER_CORE * records.cores())
  pieces = max(1, min(per_epoch, round(seconds / _SEGMENT_SECONDS)))
  return -(-per_epoch // pieces)


def _flops(function, *arguments) -> float:
  """XLA's count for a call, lowered but not compiled."""
  cost = jax.jit(function).lower(*arguments).cost_analysis()
  return float((cost or {}).get("flops", 0.0))
