"""Training one net, from its data to the numbers of every epoch."""

from collections.abc import Callable
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import randomness, types
from kd_jax.core.machine import cores
from kd_jax.data import views
from kd_jax.training import devices, metrics
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib
from kd_jax.training.checkpoints import Progress
from kd_jax.training.devices import Parallel
from kd_jax.training.monitor import Best, NetWatch
from kd_jax.training.settings import Training
from kd_jax.training.train_loop import Epoch, Program, follow

# The first segments should last about this long, going by a plain speed; later
# ones go by the time that these took.
_SEGMENT_SECONDS = 2.0
_FLOPS_PER_CORE, _FLOPS_PER_ACCELERATOR = 1e11, 1e13


class Split(NamedTuple):
  """A part of a data set to evaluate on.

  Attributes:
    data: Its examples, on the device.
    taught: The teacher's logits at T = 1, `[N, classes]`, or None.
  """

  data: segment_lib.DeviceData
  taught: jax.Array | None = None


class Fitted(NamedTuple):
  """A trained net.

  Attributes:
    variables: The net after the last epoch.
    row: That epoch's numbers.
    test_wrong_ids: Test examples that it misses.
    best: The best net on the held-out split, if there is one.
  """

  variables: types.Variables
  row: dict[str, Any]
  test_wrong_ids: list[int]
  best: Best | None


@jax.jit
def judge(
    logits: jax.Array, label: jax.Array, taught: jax.Array | None = None
) -> tuple[dict[str, Any], jax.Array]:
  """Totals of logits `[N, classes]`, and which examples are wrong, `[N]`."""
  mask = jnp.ones(label.shape, bool)
  told = metrics.classification(logits, label, mask)
  if taught is not None:
    told |= metrics.imitation(logits, taught, mask)
  return told, metrics.errors(logits, label)


def evaluate(predict, variables: types.Variables, split: Split):
  """Totals over a whole split, and which examples are wrong, `[N]`."""
  logits = predict(variables, split.data, jnp.int32(0))
  return judge(logits, split.data.label, split.taught)


def fit(
    training: Training,
    learner: step_lib.Learner,
    data: segment_lib.DeviceData,
    splits: dict[str, Split],
    *,
    where: Parallel,
    progress: Progress,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
    tick: Callable[[int], None] = lambda step: None,
) -> Fitted:
  """Trains one net to the end, from where an interrupted run left it.

  Args:
    training: How it is trained.
    learner: Its step.
    data: What it is trained on, on the devices of `where`.
    splits: What it is evaluated on after every epoch; must have "test".
    where: The devices.
    progress: Where an unfinished run is kept.
    stop: Asked between segments.
    report: Receives a row of numbers for every epoch.
    tick: As of `follow`.

  Returns:
    The trained net.

  Raises:
    Interrupted: After saving, if `stop` says so.
    Diverged: After saving the last good state, if the loss is not finite.
  """
  key = jax.random.key(training.seed)
  state = _begin(training, learner, data, where, key)
  segment = devices.compiled_segment(
      where, learner, training.views, training.batch_size)
  predict = devices.make_predict(
      where, training.model, views.VIEWS["none"])
  arrays, hparams = devices.copies(where, (
      learner.teacher.arrays if learner.teacher else (), training.hparams))
  per_epoch = segment_lib.steps_per_epoch(len(data.ids), training.batch_size)
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
    return segment(state, data, arrays, hparams, key, jnp.int32(length))

  clock = _Clock(0)
  program = Program(run, evaluate_all, jax.eval_shape(run, state, 1)[1],
                    functools.partial(devices.copies, where))
  watch = NetWatch(training, program, progress, per_epoch=per_epoch,
                   keep_best="heldout" in splits)
  state = follow(
      program, state, total_steps=training.total_steps, per_epoch=per_epoch,
      piece=_segment_steps(training, learner, data, state, per_epoch),
      progress=progress, stop=stop, ended=ended, resumed=resumed, watch=watch,
      tick=tick)
  wrong = np.flatnonzero(last["epoch"].evaluated["test"][1]).tolist()
  return Fitted(state.student, last["row"], wrong, watch.best)


def _begin(training, learner, data, where: Parallel, key):
  """The state before the first step, on every device."""
  image = jnp.zeros((1,) + data.image.shape[1:], jnp.float32)
  start = lambda key, hparams: step_lib.init(
      learner, randomness.stream(key, "init"), image, hparams)
  return devices.make(where, start)(key, training.hparams)


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
  step, told, evaluated, _ = ended
  rate = clock.lap(step) * training.batch_size
  schedule = float(training.recipe.schedule(jnp.int32(step - 1)))
  row = {
      "epoch": -(-step // per_epoch), "step": step,
      "total_steps": training.total_steps,
      "examples_per_second": round(rate, 1),
      "learning_rate": schedule * float(training.hparams.learning_rate)}
  row |= computed("train", told)
  if "gradient_soft" in told:
    soft, hard = (told[f"gradient_{n}"].compute() for n in ("soft", "hard"))
    row["train_gradient_ratio"] = (soft / hard) ** 0.5 if hard else None
  for name, (totals, _) in evaluated.items():
    row |= computed(name, totals)
  return row


def computed(split: str, totals: dict[str, Any]) -> dict[str, Any]:
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
  ids = jnp.zeros((training.batch_size,), jnp.int32)
  batch = segment_lib.take(data, views.VIEWS["none"], ids, ids, ids == 0)
  flops = 3 * _flops(
      lambda held, batch: training.model.apply(
          held, batch.image, train=False)[0].logits, state.student, batch)
  if learner.teacher is not None:
    flops += _flops(learner.teacher.members, learner.teacher.arrays, batch)
  speed = _FLOPS_PER_CORE * cores()
  if jax.default_backend() != "cpu":
    speed = _FLOPS_PER_ACCELERATOR * jax.device_count()
  seconds = per_epoch * flops / speed
  pieces = max(1, min(per_epoch, round(seconds / _SEGMENT_SECONDS)))
  return -(-per_epoch // pieces)


def _flops(function, *arguments) -> float:
  """XLA's count for a call, lowered but not compiled."""
  cost = jax.jit(function).lower(*arguments).cost_analysis()
  return float((cost or {}).get("flops", 0.0))
