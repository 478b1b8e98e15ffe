"""Running a training: dispatches segments, reads metrics one segment behind.

The device never waits for the host: the next segment is dispatched before the
last one's metrics are read. Between segments the host may look at signals and
save; nothing it does there changes the result.
"""

from collections.abc import Callable
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import (
  augment,
  hosts,
  loop,
  metrics,
  parallel,
  records,
  rng,
  steps,
  types,
)
from kd_jax.build import Training
from kd_jax.parallel import Parallel
from kd_jax.progress import Progress

# A segment should last about this long, going by a core's plain speed: it is
# how long Ctrl-C waits. Longer ones need fewer programs.
_SEGMENT_SECONDS = 6.0
_FLOPS_PER_CORE = 1e11


class Interrupted(Exception):
  """The user or the machine asked to stop; what was done is saved."""


class Diverged(Exception):
  """The loss became NaN or infinite; the last good state is saved."""


class Split(NamedTuple):
  """A part of a data set to evaluate on.

  Attributes:
    data: Its examples, on the device.
    taught: The teacher's logits at T = 1, `[N, classes]`, or None.
  """

  data: loop.DeviceData
  taught: jax.Array | None = None


class Best(NamedTuple):
  """The net of the epoch with the fewest held-out errors, the first of them.

  Attributes:
    variables: The net.
    epoch: The epoch, int32 `[]`, from 1; 0 before the first.
    errors: Its held-out errors, int32 `[]`.
  """

  variables: types.Variables
  epoch: jax.Array
  errors: jax.Array


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
    where: Parallel,
    progress: Progress,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
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

  Returns:
    The trained net.

  Raises:
    Interrupted: After saving, if `stop` says so.
    Diverged: After saving the last good state, if the loss is not finite.
  """
  key = jax.random.key(training.seed)
  state = _begin(training, learner, data, where, key)
  segment = parallel.compiled_segment(
      where, learner, training.views, training.batch_size)
  predict = parallel.make_predict(
      where, training.model, augment.VIEWS["none"])
  arrays, hparams = parallel.copies(where, (
      learner.teacher.arrays if learner.teacher else (), training.hparams))
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
    return segment(state, data, arrays, hparams, key, jnp.int32(length))

  clock = _Clock(0)
  program = Program(run, evaluate_all, jax.eval_shape(run, state, 1)[1])
  watch = _Watch(
      training, program, progress, per_epoch, keep_best="heldout" in splits)
  state = follow(
      program, state, total_steps=training.total_steps, per_epoch=per_epoch,
      piece=_segment_steps(training, learner, data, state, per_epoch),
      where=where, progress=progress, stop=stop, ended=ended, resumed=resumed,
      watch=watch)
  wrong = np.flatnonzero(last["epoch"].evaluated["test"][1]).tolist()
  return Fitted(state.student, last["row"], wrong, watch.best)


def _begin(training, learner, data, where: Parallel, key):
  """The state before the first step, on every device."""
  image = jnp.zeros((1,) + data.image.shape[1:], jnp.float32)
  start = lambda key, hparams: steps.init(
      learner, rng.stream(key, "init"), image, hparams)
  return parallel.make(where, start)(key, training.hparams)


class Epoch(NamedTuple):
  """What is known when an epoch ends, still on the device.

  `state` is a copy, and only there where somebody watches.
  """

  step: int
  told: dict[str, metrics.Mean]
  evaluated: Any
  state: Any = None


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
    where: Parallel | None = None,
    progress: Progress,
    stop: Callable[[], bool],
    ended: Callable[[Epoch], None],
    resumed: Callable[[int], None],
    watch: "_Watch | None" = None,
) -> Any:
  """Runs a program to its end, segment by segment; gives the last state.

  Args:
    program: What is run.
    state: Where it begins, unless there is something to resume.
    total_steps: Where it ends.
    per_epoch: Steps of an epoch.
    piece: Steps of a segment.
    where: The devices of a single net.
    progress: Where an unfinished run is kept.
    stop: Asked between segments.
    ended: Told of every epoch, one segment after it was dispatched.
    resumed: Told the step at which an interrupted run goes on.
    watch: Told of every epoch too, with a copy of its state.

  Raises:
    Interrupted: After saving, if `stop` says so.
  """
  told = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), program.totals)
  done = 0
  kept = lambda: _saved_as(
      state, told, done, watch.best if watch else None)
  if watch:
    watch.begin(state)
  saved = progress.load(kept())
  if saved is not None:
    # From the host to wherever the program wants it.
    if where:
      saved = parallel.copies(where, saved)
    state, told, done = saved["state"], saved["told"], int(saved["done"])
    if watch:
      watch.begin(state, saved["best"] or None)
    resumed(done)
  progress.begin(done, per_epoch)
  epoch: Epoch | None = None

  def known(epoch: Epoch) -> None:
    if watch:
      watch.check(epoch)
    ended(epoch)

  while done < total_steps:
    end = min((done // per_epoch + 1) * per_epoch, total_steps)
    length = min(piece, end - done)
    state, more = program.run(state, length)
    told = metrics.merge(told, more)
    done += length
    last, epoch = epoch, None
    if done == end:
      epoch = Epoch(done, told, program.evaluate(state, done),
                    _copy(state) if watch else None)
      told = jax.tree.map(jnp.zeros_like, told)
    # By now the next segment is on its way, so this wait costs nothing.
    if last is not None:
      known(last)
    stopping = hosts.any_of(stop()) and done < total_steps
    if stopping or (done < total_steps and progress.due(done)):
      # What is saved is known to be good.
      if epoch is not None:
        known(epoch)
        epoch = None
      elif watch:
        watch.check(Epoch(done, told, None))
      progress.save(done, kept(), wait=stopping)
    if stopping:
      raise Interrupted()
  assert epoch is not None  # A run ends with an epoch, be it a short one.
  known(epoch)
  return state


def _saved_as(state: Any, told: Any, done: int, best: Best | None) -> Any:
  """What a checkpoint holds."""
  return {"state": state, "told": told, "done": jnp.int32(done),
          "best": best or {}}


_copy = jax.jit(functools.partial(jax.tree.map, jnp.copy))


class _Watch:
  """Keeps the last good state of a net, and the best on held-out examples."""

  def __init__(
      self, training: Training, program: Program, progress: Progress,
      per_epoch: int, *, keep_best: bool):
    self.best: Best | None = None
    self._training, self._program, self._progress = training, program, progress
    self._per_epoch, self._keep_best = per_epoch, keep_best

  def begin(self, state: Any, best: Best | None = None) -> None:
    """Training begins with this state, or goes on with it."""
    self._good = _copy(state)
    self.best = best
    if self._keep_best and best is None:
      self.best = Best(
          self._good.student, jnp.int32(0), jnp.int32(jnp.iinfo(jnp.int32).max))

  def check(self, epoch: Epoch) -> None:
    """Looks at what is known of an epoch, or of the part that is done.

    Raises:
      Diverged: If a loss is not finite.
    """
    if not _finite(epoch.told):
      self._diverged(epoch.step)
    if epoch.state is None:
      return
    self._good = epoch.state
    if self.best is None:
      return
    errors = epoch.evaluated["heldout"][0]["errors"].total
    if int(errors) < int(self.best.errors):
      number = -(-epoch.step // self._per_epoch)
      self.best = Best(epoch.state.student, jnp.int32(number), errors)

  def _diverged(self, end: int) -> None:
    """Saves the last good state, finds the step, and says what to do."""
    good = int(self._good.step)
    # A checkpoint within the epoch is as good, and further.
    kept = max(good, self._progress.saved or 0)
    if kept == good:
      nothing = jax.tree.map(
          lambda x: jnp.zeros(x.shape, x.dtype), self._program.totals)
      self._progress.save(
          good, _saved_as(self._good, nothing, good, self.best), wait=True)
    fine, bad = 0, end - good
    while bad - fine > 1:
      middle = (fine + bad) // 2
      told = self._program.run(_copy(self._good), middle)[1]
      fine, bad = (middle, bad) if _finite(told) else (fine, middle)
    step = good + bad
    rate = float(self._training.recipe.schedule(jnp.int32(step - 1))) * float(
        self._training.hparams.learning_rate)
    raise Diverged(
        f"the loss is not finite at step {step} (learning rate {rate:.3g}, T = "
        f"{float(self._training.hparams.temperature):g}); the state of step "
        f"{kept} is kept. Lower the learning rate in another --workdir, go on "
        "from there with --resume=force, or pass over such steps with "
        "--config.nonfinite=skip")


def _finite(told: dict[str, metrics.Mean]) -> bool:
  return all(bool(np.isfinite(mean.total)) for name, mean in told.items()
             if not name.startswith("gradient_"))


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
