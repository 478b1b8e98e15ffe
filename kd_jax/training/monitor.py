"""Watching one net train: its last good state, and the best on held-out data."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import types
from kd_jax.training import metrics
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.settings import Training
from kd_jax.training.state import TrainState
from kd_jax.training.train_loop import Epoch, Monitor, Program, checkpoint_of

# One update at such a learning rate leaves no parameter infinite.
_ANY = 1e3


class Diverged(Exception):
  """Training is not finite any more; the last good state is saved."""


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


class Observed(NamedTuple):
  """A copy of a state, and whether its parameters are finite, bool `[]`."""

  state: TrainState
  fine: jax.Array


@jax.jit
def observe(state: TrainState) -> Observed:
  """Copies a state that will be donated."""
  return Observed(
      jax.tree.map(jnp.copy, state), metrics.finite(state.trainable))


class NetMonitor(Monitor):
  """Keeps the last good state of a net, and its best one.

  A state is good if the losses of all steps before it and its parameters are
  finite.
  """

  def __init__(
      self, training: Training, program: Program, checkpoints: Checkpoints, *,
      per_epoch: int, keep_best: bool,
      net: Callable[[TrainState], types.Variables],
      teacher: Callable[[int], str]):
    """`net` gives what comes out of a state.

    `teacher` tells what of the teacher is not finite at a step, counted from 0, and
    of which examples.
    """
    self._net, self._teacher = net, teacher
    self._training, self._program, self._progress = training, program, checkpoints
    self._per_epoch, self._keep_best = per_epoch, keep_best

  @property
  def best(self) -> Best | None:
    """The best net so far, where there is held-out data."""
    return self.kept or None

  def begin(self, state: TrainState, kept: Any = None) -> None:
    self._good = observe(state).state
    self.kept = kept or ()
    if self._keep_best and not kept:
      self.kept = Best(self._net(self._good), jnp.int32(0),
                       jnp.int32(jnp.iinfo(jnp.int32).max))

  def observe(self, state: TrainState) -> Observed:
    return observe(state)

  def check(self, epoch: Epoch) -> None:
    """Looks at an epoch, or at the part that is done.

    Raises:
      Diverged: If a loss or a parameter is not finite.
    """
    if not _finite(epoch.totals, epoch.observed):
      self._diverged(epoch.step)
    if epoch.evaluated is None:
      return
    self._good = epoch.observed.state
    if not self._keep_best:
      return
    errors = epoch.evaluated["heldout"][0]["errors"].total
    number = -(-epoch.step // self._per_epoch)
    if int(errors) < int(self.kept.errors):
      self.kept = Best(self._net(self._good), jnp.int32(number), errors)
    patience = self._training.patience
    self.over = patience is not None and (
        number - int(self.kept.epoch) >= patience)

  def _diverged(self, end: int) -> None:
    """Saves the last good state, finds the step, and says what to do."""
    good = int(self._good.step)
    # A checkpoint within the epoch is as good, and further.
    kept = max(good, self._progress.saved or 0)
    if kept == good:
      self._progress.save(good, checkpoint_of(
          self._good, self._program.no_totals(), good, self.kept), wait=True)
    step = good + self._first_bad(end - good)
    rate = self._training.learning_rate(step)
    cause, remedy = "", "Lower the learning rate"
    if bad := self._teacher(step - 1):
      cause = f", as the teacher's {bad} are not"
      remedy = "Mend the teacher"
    elif step == 1 and rate < _ANY:
      cause = ", the first one, so it is not the learning rate"
      remedy = "Mend the loss or the data, at which python -m kd_jax.doctor looks,"
    raise Diverged(
        f"the loss is not finite at step {step} (learning rate {rate:.3g}, T = "
        f"{float(self._training.hparams.temperature):g}){cause}; the state of step "
        f"{kept} is kept. {remedy} in another --workdir, go on from there with "
        "--resume=force, or pass over such steps with --config.nonfinite=skip")

  def _first_bad(self, steps: int) -> int:
    """The first step after the good state that is not finite, by halving."""
    fine, bad = 0, steps
    while bad - fine > 1:
      middle = (fine + bad) // 2
      state, totals = self._program.run(
          observe(self._good).state, int(self._good.step), middle)
      if _finite(totals, observe(state)):
        fine = middle
      else:
        bad = middle
    return bad


class LanesMonitor(Monitor):
  """Keeps the best state of each lane; a lane that is over keeps the one it has.

  Each ends where it would end by itself, and the chunk with the last of them.
  """

  def __init__(self, patience: int, *, per_epoch: int):
    self.patience, self._per_epoch = patience, per_epoch

  def begin(self, state: TrainState, kept: Any = None) -> None:
    first = jax.tree.leaves(state.student.params)[0]
    nothing = jnp.zeros(first.shape[:2], jnp.int32)
    self.kept = kept or Best(
        observe(_net_of(state)).state, nothing,
        nothing + jnp.iinfo(jnp.int32).max)

  def observe(self, state: TrainState) -> Observed:
    return observe(_net_of(state))

  def check(self, epoch: Epoch) -> None:
    if epoch.evaluated is None:
      return
    number = -(-epoch.step // self._per_epoch)
    errors = epoch.evaluated[1]["heldout"][0]["errors"].total
    # Those of a checkpoint lie on one device.
    kept = self.kept._replace(**{name: jax.device_put(
        getattr(self.kept, name), errors.sharding) for name in ("epoch", "errors")})
    self.kept = _better(kept, Best(
        epoch.observed.state, jnp.full_like(errors, number), errors), self.patience)
    self.over = bool((number - self.kept.epoch >= self.patience).all())

  def with_best(self, state: TrainState) -> TrainState:
    """A state with the best net of each lane."""
    return self.kept.variables.replace(step=state.step, optimizer=state.optimizer)


def _net_of(state: TrainState) -> TrainState:
  """A state without what a net that is trained has no use for."""
  return state.replace(step=(), optimizer=())  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=2)
def _better(before: Best, after: Best, patience: int) -> Best:
  """Of each lane the one with fewer errors, the first if the lane was over."""
  alive = after.epoch - 1 - before.epoch < patience
  better = alive & (after.errors < before.errors)

  def chosen(new, old):
    return jnp.where(better.reshape(
        better.shape + (1,) * (new.ndim - better.ndim)), new, old)

  return jax.tree.map(chosen, after, before)


def _finite(totals: dict[str, metrics.Mean], observed: Observed) -> bool:
  """Whether all losses and parameters are."""
  return bool(observed.fine) and all(
      bool(np.isfinite(mean.total)) for mean in metrics.measured(totals).values())
