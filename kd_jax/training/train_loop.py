"""Following a program to its end: dispatch, look, save, stop, go on.

The device never waits for the host: the next segment is dispatched before the
last one's numbers are read. Between segments the host may look at signals and
save; nothing it does there changes the result.
"""

from collections.abc import Callable
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.training import cost, metrics
from kd_jax.training.checkpoints import Checkpoints


class Interrupted(Exception):
  """The user or the machine asked to stop; what was done is saved."""


class Epoch(NamedTuple):
  """What is known of an epoch, or of a part of it, still on the device.

  Attributes:
    step: Steps done at its end.
    totals: Of its steps.
    evaluated: Of `Program.evaluate`; None for a part.
    observed: Of `Monitor.observe`.
  """

  step: int
  totals: dict[str, metrics.Mean]
  evaluated: Any
  observed: Any


class Program(NamedTuple):
  """What a training runs, one net or many lanes of them.

  Attributes:
    run: `(state, step, length) -> (state, totals)`, from that step on; may donate
      the state.
    evaluate: `(state, step) -> anything`, dispatched when an epoch ends.
    totals: Shapes of the totals.
    place: Puts a tree from the host to where the program wants it.
  """

  run: Callable[[Any, int, int], tuple[Any, dict[str, metrics.Mean]]]
  evaluate: Callable[[Any, int], Any]
  totals: dict[str, metrics.Mean]
  place: Callable[[Any], Any] = lambda tree: tree

  def no_totals(self) -> dict[str, metrics.Mean]:
    """Totals of no step."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.totals)


class Monitor:
  """Somebody who is shown the states of a training; this one does nothing.

  Attributes:
    kept: Arrays that belong into a checkpoint.
    over: Whether the training is to end with the last epoch that was checked.
  """

  kept: Any = ()
  over: bool = False

  def begin(self, state: Any, kept: Any = None) -> None:
    """Training begins with this state; or goes on, with what was kept."""

  def observe(self, state: Any) -> Any:
    """Dispatches what is wanted of a state, before it is donated."""

  def check(self, epoch: Epoch) -> None:
    """Reads what is known of an epoch; may raise."""


def run_to_end(
    program: Program, state: Any, *,
    total_steps: int, per_epoch: int, segment_steps: int,
    checkpoints: Checkpoints,
    stop: Callable[[], bool],
    ended: Callable[[Epoch], None],
    resumed: Callable[[int], None],
    monitor: Monitor,
    tick: Callable[[int], None] = lambda step: None,
) -> Any:
  """Runs a program to its end, or its monitor's; gives the last state.

  Args:
    program, state: What is run, and from where, unless it was interrupted.
    total_steps: Where it ends; `per_epoch` steps are an epoch, `segment_steps` at
      most a segment.
    checkpoints: Where an unfinished run is kept.
    stop: Asked between segments.
    ended: Called with every epoch, one segment after it was dispatched.
    resumed: Called with the step at which it begins: 0, or where it goes on.
    monitor: Sees every epoch, and whatever is to be saved.
    tick: Called with the steps done before each segment within an epoch.

  Raises:
    Interrupted: After saving, if `stop` says so.
  """
  state, totals, done = _resumed(
      program, state, checkpoints, monitor, total_steps, resumed)
  checkpoints.begin(done, per_epoch)
  pace = _Pace(segment_steps)
  unread: list[Epoch] = []

  def read() -> None:
    # Of an epoch after the end nothing is read, however segments were cut.
    while unread and not monitor.over:
      epoch = unread.pop()
      monitor.check(epoch)
      ended(epoch)

  while done < total_steps and not monitor.over:
    end = min((done // per_epoch + 1) * per_epoch, total_steps)
    length = min(pace.steps, end - done)
    state, more = program.run(state, done, length)
    # The device never waits; a wish to stop waits for two segments at most.
    pace.dispatched(length, more)
    if done % per_epoch:
      tick(done)
    totals, done = metrics.merge(totals, more), done + length
    # What is wanted of this state is dispatched before an epoch is read.
    finished = []
    if done == end:
      finished = [Epoch(
          done, totals, program.evaluate(state, done), monitor.observe(state))]
      totals = program.no_totals()
    read()
    unread += finished
    stopping = hosts.any_of(stop()) and done < total_steps
    if done < total_steps and (stopping or hosts.any_of(checkpoints.due(done))):
      read()
      if monitor.over:
        break
      _save(checkpoints, monitor, state, totals, done, wait=stopping)
    if stopping:
      raise Interrupted()
  read()
  return state


def _save(checkpoints, monitor, state, totals, done, *, wait: bool) -> None:
  """Saves a state that is known to be good."""
  monitor.check(Epoch(done, totals, None, monitor.observe(state)))
  checkpoints.save(
      done, checkpoint_of(state, totals, done, monitor.kept), wait=wait)


def _resumed(
    program: Program, state: Any, checkpoints: Checkpoints, monitor: Monitor,
    total_steps: int, resumed: Callable[[int], None],
) -> tuple[Any, dict[str, metrics.Mean], int]:
  """State, totals of the epoch and steps done: of a checkpoint, if there is one."""
  monitor.begin(state)
  totals = program.no_totals()
  found = checkpoints.load(checkpoint_of(state, totals, 0, monitor.kept))
  if found is None:
    resumed(0)
    return state, totals, 0
  found = program.place(found)
  done = int(found["done"])
  if done >= total_steps:
    raise UserError(
        f"{checkpoints.path}: is at step {done}, and this config ends at "
        f"{total_steps}; use another --workdir")
  monitor.begin(found["state"], found["kept"])
  resumed(done)
  return found["state"], found["told"], done


class _Pace:
  """Steps of the next segment, by the time that the last ones took.

  How a run is cut has no influence on its result.
  """

  def __init__(self, most: int):
    self.steps = self._most = hosts.agreed(lambda: most)
    self._running: tuple[int, Any] | None = None
    self._since: float | None = None

  def dispatched(self, length: int, totals: Any) -> None:
    """Waits for the segment before, now that the next one is dispatched."""
    if self._running is not None:
      before, ready = self._running
      jax.block_until_ready(ready)
      now = time.monotonic()
      if self._since is not None:
        wanted = int(before * cost.SEGMENT_SECONDS / max(now - self._since, 1e-6))
        steps = max(1, min(self._most, wanted))
        self.steps = hosts.agreed(lambda: steps)
      self._since = now
    self._running = length, totals


def checkpoint_of(state: Any, totals: Any, done: int, kept: Any) -> dict[str, Any]:
  """What a checkpoint holds; its totals are called "told" in files."""
  return {"state": state, "told": totals, "done": jnp.int32(done), "kept": kept}
