"""Training one net, from its data to the numbers of every epoch."""

from collections.abc import Callable
import concurrent.futures
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import types
from kd_jax.core.words import some
from kd_jax.data import views
from kd_jax.training import cost, metrics, train_loop
from kd_jax.training import devices as devices_lib
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.devices import Devices
from kd_jax.training.monitor import Best, NetMonitor
from kd_jax.training.settings import Training
from kd_jax.training.state import AveragedState, TrainState
from kd_jax.training.train_loop import Epoch, Program


class Split(NamedTuple):
  """A part of a data set to evaluate on.

  Attributes:
    data: Its examples, on the device.
    teacher_logits: The teacher's logits at T = 1, `[N, classes]`, or None.
  """

  data: segment_lib.DeviceData
  teacher_logits: jax.Array | None = None


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
    logits: jax.Array, label: jax.Array, teacher_logits: jax.Array | None = None
) -> tuple[dict[str, Any], jax.Array]:
  """Totals of logits `[N, classes]`, and which examples are wrong, `[N]`."""
  mask = jnp.ones(label.shape, bool)
  totals = metrics.classification(logits, label, mask)
  if teacher_logits is not None:
    totals |= metrics.imitation(logits, teacher_logits, mask)
  return totals, metrics.errors(logits, label)


def evaluate(predict, variables: types.Variables, split: Split):
  """Totals over a whole split, and which examples are wrong, `[N]`."""
  logits = predict(variables, split.data, jnp.int32(0))
  return judge(logits, split.data.label, split.teacher_logits)


def evaluate_state(predict, net, state: TrainState, split: Split):
  """`evaluate`, of the net that comes out; beside an average the last weights."""
  totals, wrong = evaluate(predict, net(state), split)
  if isinstance(state, AveragedState):
    totals = totals | {
        "last_errors": evaluate(predict, net(state.last), split)[0]["errors"]}
  return totals, wrong


def fit(
    training: Training,
    learner: step_lib.Learner,
    data: segment_lib.DeviceData,
    splits: dict[str, Split],
    *,
    devices: Devices,
    checkpoints: Checkpoints,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
    tick: Callable[[int], None] = lambda step: None,
    inspect: Callable[[TrainState], dict[str, Any]] = lambda state: {},
    initial: types.Variables | None = None,
    begun: bool = False,
) -> Fitted:
  """Trains one net to the end, from where an interrupted run left it.

  Args:
    training: How it is trained.
    learner: Its step.
    data: What it is trained on, on `devices`.
    splits: What it is evaluated on after every epoch; must have "test".
    devices: Where it is trained.
    checkpoints: Where an unfinished run is kept.
    stop: Asked between segments.
    report: Receives a row of numbers for every epoch.
    tick: As of `train_loop.run_to_end`.
    inspect: Gives more numbers for the row, from the state after an epoch.
    initial: The net that it starts from, on `devices`; default a new one.
    begun: Whether a program before this one has reported epochs of it.

  Raises:
    Interrupted: After saving, if `stop` says so.
    Diverged: After saving the last good state, if the loss is not finite.
  """
  per_epoch = segment_lib.steps_per_epoch(len(data.ids), training.batch_size)
  net = functools.partial(step_lib.deployed_variables, learner)
  state = start(training, learner, data, devices, initial)
  arrays = _teacher_arrays(training, learner, data, devices)
  program = _program(training, learner, data, splits, devices, state, net, arrays)
  pace = _pace()
  last: tuple[dict[str, Any], Any] = {}, []  # The row and errors of an epoch.

  def ended(epoch):
    nonlocal last
    row = _row(training, per_epoch, pace(epoch.step) * training.batch_size, epoch)
    last = row | inspect(epoch.observed.state), epoch.evaluated["test"][1]
    report(last[0])

  def resumed(step):
    pace(step)
    if step or begun:
      report({"event": "resumed", "step": step})

  monitor = NetMonitor(
      training, program, checkpoints, per_epoch=per_epoch, net=net,
      keep_best="heldout" in splits, teacher=functools.partial(
          _not_finite, training, learner, data, arrays))
  state = train_loop.run_to_end(
      program, state, total_steps=training.last_step, per_epoch=per_epoch,
      segment_steps=cost.segment_steps(per_epoch, cost.step_seconds(
          training, data.inputs, learner.teacher)),
      checkpoints=checkpoints, stop=stop, ended=ended, resumed=resumed,
      monitor=monitor, tick=tick)
  if training.patience is not None and monitor.best is not None:
    return _of_epoch(training, monitor.best, per_epoch, splits, devices)
  row, wrong = last
  return Fitted(net(state), row, np.flatnonzero(wrong).tolist(), monitor.best)


def _of_epoch(training, best: Best, per_epoch: int, splits, devices) -> Fitted:
  """The net of an epoch, as the one that comes out."""
  number = int(best.epoch)
  found = untrained(training.model, best.variables, splits, devices)
  return found._replace(row=found.row | {
      "epoch": number, "step": min(number * per_epoch, training.last_step)})


def _not_finite(
    training: Training, learner: step_lib.Learner, data: segment_lib.DeviceData,
    arrays: Callable[[int], types.Tree], number: int,
) -> str:
  """What of a teacher is not finite at a step, and of which examples; or ""."""
  teacher = learner.teacher
  if teacher is None:
    return ""

  @jax.jit
  def look(data, arrays, key):
    batch = segment_lib.batch_of_step(
        data, training.views, training.batch_size, key, number)
    outputs = teacher.members(arrays, batch)
    read = {tap: outputs.features[tap] for _, tap in learner.pairs}
    found = segment_lib.not_finite(outputs._replace(features=read))
    found["logits"] = found["logits"].any(0)  # Of several members.
    return batch.id, {what: bad & batch.mask for what, bad in found.items()}

  ids, found = jax.device_get(
      look(data, arrays(number), jax.random.key(training.seed)))
  return "; ".join(f"{what} of {bad.sum()} of its examples ({some(ids[bad])})"
                   for what, bad in found.items() if bad.any())


def _teacher_arrays(
    training: Training, learner: step_lib.Learner, data: segment_lib.DeviceData,
    devices: Devices,
) -> Callable[[int], types.Tree]:
  """What a teacher's function needs at a step, on the devices.

  Of a bank that stays on the host, the rows of the next epoch come while the
  present one runs.
  """
  teacher = learner.teacher
  rows = teacher.rows if teacher else None
  if rows is None:
    fixed = devices_lib.copies(devices, teacher.arrays if teacher else ())
    return lambda step: fixed
  per_epoch = segment_lib.steps_per_epoch(len(data.ids), training.batch_size)
  # Views are drawn on the CPU: the device is at work.
  host = jax.local_devices(backend="cpu")[0]

  def fetch(epoch):
    with jax.default_device(host):
      view = np.asarray(segment_lib.views_of_epoch(
          jax.random.key(training.seed), epoch, len(data.label), training.views))
    return devices_lib.copies(devices, rows(view))

  reader = concurrent.futures.ThreadPoolExecutor(1)
  coming: dict[int, concurrent.futures.Future] = {}

  def arrays(step):
    epoch = step // per_epoch
    for other in [other for other in coming if not 0 <= other - epoch <= 1]:
      coming.pop(other).cancel()
    for needed in (epoch, epoch + 1):
      if needed not in coming and needed * per_epoch < training.last_step:
        coming[needed] = reader.submit(fetch, needed)
    return coming[epoch].result()

  return arrays


def untrained(
    model: types.Model, variables: types.Variables, splits: dict[str, Split],
    devices: Devices,
) -> Fitted:
  """A net as it is, with the numbers that a training would end with."""
  predict = devices_lib.make_predict(devices, model, views.VIEWS["none"])
  found = {name: evaluate(predict, variables, split)
           for name, split in splits.items()}
  row: dict[str, Any] = {"epoch": 0, "step": 0}
  for name, (totals, _) in found.items():
    row |= computed(name, totals)
  return Fitted(variables, row, np.flatnonzero(found["test"][1]).tolist(), None)


def _pace() -> Callable[[int], float]:
  """A function of the step: how many a second since it was asked last."""
  before = 0, time.perf_counter()

  def steps_per_second(step):
    nonlocal before
    (last_step, last_time), before = before, (step, time.perf_counter())
    return (step - last_step) / max(before[1] - last_time, 1e-9)

  return steps_per_second


def start(
    training: Training, learner: step_lib.Learner, data: segment_lib.DeviceData,
    devices: Devices, initial: types.Variables | None,
) -> TrainState:
  """The state before the first step, from `initial` if it is given."""
  state = devices_lib.compiled_init(devices, learner, data)(
      jax.random.key(training.seed), training.hparams)
  if initial is None:
    return state
  # A copy, as the state is donated.
  return state.starting(jax.tree.map(jnp.copy, initial))


def _program(
    training: Training, learner: step_lib.Learner, data: segment_lib.DeviceData,
    splits: dict[str, Split], devices: Devices, state: TrainState,
    net: Callable[[TrainState], types.Variables],
    arrays: Callable[[int], types.Tree],
) -> Program:
  """The segments of a training, and its evaluation on every split."""
  key = jax.random.key(training.seed)
  segment = devices_lib.compiled_segment(
      devices, learner, training.views, training.batch_size)
  predict = devices_lib.make_predict(
      devices, training.model, views.VIEWS["none"])
  hparams = devices_lib.copies(devices, training.hparams)

  def run(state, step, length):
    return segment(state, data, arrays(step), hparams, key, jnp.int32(length))

  def evaluate_all(state, step):
    del step
    return {name: evaluate_state(predict, net, state, split)
            for name, split in splits.items()}

  totals = jax.eval_shape(lambda state: run(state, 0, 1), state)[1]
  return Program(run, evaluate_all, totals,
                 functools.partial(devices_lib.copies, devices))


def _row(training, per_epoch, rate: float, ended: Epoch) -> dict[str, Any]:
  """Numbers of one epoch, as they go to `metrics.jsonl`; `rate` in examples/s."""
  step, totals, evaluated, _ = ended
  row = {
      "epoch": -(-step // per_epoch), "step": step,
      "total_steps": training.last_step,
      "examples_per_second": round(rate, 1),
      "learning_rate": training.learning_rate(step)}
  row |= computed("train", totals)
  if "gradient_soft" in totals:
    soft, hard = (totals[f"gradient_{n}"].compute() for n in ("soft", "hard"))
    row["train_gradient_ratio"] = (soft / hard) ** 0.5 if hard else None
  for name, (totals, _) in evaluated.items():
    row |= computed(name, totals)
  return row


def computed(split: str, totals: dict[str, Any]) -> dict[str, Any]:
  """`SPLIT_METRIC: value`; errors as the exact count, with the examples."""
  values: dict[str, Any] = {}
  for name, total in metrics.measured(totals).items():
    if name == "errors":
      values |= {f"{split}_errors": int(total.total),
                 f"{split}_examples": int(total.count)}
      values[f"{split}_accuracy"] = 1 - total.compute()
    elif name == "last_errors":
      values[f"{split}_{name}"] = int(total.total)
    else:
      values[f"{split}_{name}"] = total.compute()
  return values
