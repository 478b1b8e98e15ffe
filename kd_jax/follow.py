"""Following a program to its end: dispatch, look, save, stop, go on.

The device never waits for the host: the next segment is dispatched before the
last one's numbers are read. Between segments the host may look at signals and
save; nothing it does there changes the result.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import hosts, metrics
from kd_jax.progress import Progress


class Interrupted(Exception):
  """The user or the machine asked to stop; what was done is saved."""


class Epoch(NamedTuple):
  """What is known of an epoch, or of a part of it, still on the device.

  Attributes:
    step: Steps done at its end.
    told: Totals of its steps.
    evaluated: Of `Program.evaluate`; None for a part.
    seen: Of `Watch.see`.
  """

  step: int
  told: dict[str, metrics.Mean]
  evaluated: Any
  seen: Any


class Program(NamedTuple):
  """What a training runs, one net or many lanes of them.

  Attributes:
    run: `(state, length) -> (state, totals)`; may donate the state.
    evaluate: `(state, step) -> anything`, dispatched when an epoch ends.
    totals: Shapes of the totals.
    place: Puts a tree from the host to where the program wants it.
  """

  run: Callable[[Any, int], tuple[Any, dict[str, metrics.Mean]]]
  evaluate: Callable[[Any, int], Any]
  totals: dict[str, metrics.Mean]
  place: Callable[[Any], Any] = lambda tree: tree

  def no_totals(self) -> dict[str, metrics.Mean]:
    """Totals of no step."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.totals)


class Watch:
  """Somebody who is shown the states of a training; this one does nothing.

  Attributes:
    kept: Arrays that belong into a checkpoint.
  """

  kept: Any = ()

  def begin(self, state: Any, kept: Any = None) -> None:
    """Training begins with this state; or goes on, with what was kept."""

  def see(self, state: Any) -> Any:
    """Dispatches what is wanted of a state, before it is donated."""

  def check(self, epoch: Epoch) -> None:
    """Reads what is known of an epoch; may raise."""


def follow(
    program: Program,
    state: Any,
    *,
    total_steps: int,
    per_epoch: int,
    piece: int,
    progress: Progress,
    stop: Callable[[], bool],
    ended: Callable[[Epoch], None],
    resumed: Callable[[int], None],
    watch: Watch,
) -> Any:
  """Runs a program to its end, segment by segment; gives the last state.

  Args:
    program: What is run.
    state: Where it begins, unless there is something to resume.
    total_steps: Where it ends.
    per_epoch: Steps of an epoch.
    piece: Steps of a segment.
    progress: Where an unfinished run is kept.
    stop: Asked between segments.
    ended: Told of every epoch, one segment after it was dispatched.
    resumed: Told the step at which an interrupted run goes on.
    watch: Shown every epoch, and whatever is to be saved.

  Raises:
    Interrupted: After saving, if `stop` says so.
  """
  watch.begin(state)
  told, done = program.no_totals(), 0
  found = progress.load(checkpoint_of(state, told, done, watch.kept))
  if found is not None:
    found = program.place(found)
    state, told, done = found["state"], found["told"], int(found["done"])
    watch.begin(state, found["kept"])
    resumed(done)
  progress.begin(done, per_epoch)
  unread: Epoch | None = None

  def read() -> None:
    nonlocal unread
    if unread is not None:
      watch.check(unread)
      ended(unread)
    unread = None

  while done < total_steps:
    end = min((done // per_epoch + 1) * per_epoch, total_steps)
    length = min(piece, end - done)
    state, more = program.run(state, length)
    told = metrics.merge(told, more)
    done += length
    epoch = None
    if done == end:
      epoch = Epoch(done, told, program.evaluate(state, done), watch.see(state))
      told = program.no_totals()
    # By now the next segment is on its way, so this wait costs nothing.
    read()
    unread = epoch
    stopping = hosts.any_of(stop()) and done < total_steps
    if stopping or (done < total_steps and progress.due(done)):
      # What is saved is known to be good.
      read()
      watch.check(Epoch(done, told, None, watch.see(state)))
      progress.save(
          done, checkpoint_of(state, told, done, watch.kept), wait=stopping)
    if stopping:
      raise Interrupted()
  read()
  return state


def checkpoint_of(state: Any, told: Any, done: int, kept: Any) -> dict[str, Any]:
  """What a checkpoint holds: state, totals of the epoch, steps, and more."""
  return {"state": state, "told": told, "done": jnp.int32(done), "kept": kept}
