"""Tasks of a study that is no sweep: each leaves rows, and is done once.

A task promises rows by their fingerprints, which hash all that determines them. A
task whose rows are there is passed over; so a program that was stopped or killed
goes on with the task that it was at.
"""

from collections.abc import Callable, Sequence
import time
from typing import NamedTuple

from experiments.protocol import Place
from kd_jax.report import Row
from kd_jax.runs import records
from kd_jax.runs.results import Results
from kd_jax.runs.rows import stamp
from kd_jax.training.train_loop import Interrupted


class Task(NamedTuple):
  """A piece of work of seconds or minutes.

  Attributes:
    name: What the user is told.
    fingerprints: Of the rows that it leaves, in their order.
    run: `(stop) -> rows`, each with its fingerprint and overrides. May ask `stop`
      and raise `train_loop.Interrupted`: then the task is not done.
    cost: How long it takes beside the others, for the time left.
  """

  name: str
  fingerprints: tuple[str, ...]
  run: Callable[[Callable[[], bool]], Sequence[Row]]
  cost: float = 1.0


def run(tasks: Sequence[Task], place: Place, *, study: str) -> bool:
  """Does the tasks that have no rows yet, one after the other.

  Rows go to `place.folder/results.jsonl`, in the order of the tasks; those that no
  task promises are kept there as not asked for. Each row gets schema, study, commit
  and machine, and its share of the task's seconds, if it has none.

  Args:
    tasks: All of a stage; of a shard its own are done.
    place: Where, and who is asked and told.
    study: Name in the rows.

  Returns:
    Whether all tasks that are this place's are done.

  Raises:
    UserError: If the folder cannot be written or another program is at work there.
    ValueError: If a task leaves other rows than it promised.
  """
  own = place.shard.part(tasks) if place.shard else list(tasks)
  with records.locked(place.folder):
    book = Results(place.folder, place.say)
    book.want([name for task in tasks for name in task.fingerprints])
    done = {row["fingerprint"] for row in book.rows}
    left = [task for task in own if not done.issuperset(task.fingerprints)]
    if len(left) < len(own):
      place.say(f"{study}: {len(own) - len(left)} of {len(own)} tasks are done")
    clock = _Clock(left)
    for number, task in enumerate(left, len(own) - len(left) + 1):
      rows = None if place.stop() else _rows(task, place.stop)
      if rows is None:
        place.say(f"{study}: stopped with {len(own) - number + 1} of {len(own)} "
                  "tasks to do; the same command goes on")
        return False
      book.add(stamp(rows, study=study))
      place.say(f"{study}: {number} of {len(own)}, {task.name}: "
                f"{clock.told(task)}")
  return True


def _rows(task: Task, stop: Callable[[], bool]) -> list[Row] | None:
  """The rows of a task, or None if it was stopped."""
  began = time.monotonic()
  try:
    rows = task.run(stop)
  except Interrupted:
    return None
  left = tuple(row["fingerprint"] for row in rows)
  if left != task.fingerprints:
    raise ValueError(f"{task.name}: left {left}, promised {task.fingerprints}")
  share = round((time.monotonic() - began) / max(len(rows), 1), 3)
  return [{"seconds": share, **row} for row in rows]


class _Clock:
  """How long tasks took, and the others will."""

  def __init__(self, tasks: Sequence[Task]):
    self._began = self._last = time.monotonic()
    self._left, self._done = sum(task.cost for task in tasks), 0.0

  def told(self, task: Task) -> str:
    """The time of the task that has just ended, and that of those left."""
    now = time.monotonic()
    took, self._last = now - self._last, now
    self._left -= task.cost
    self._done += task.cost
    left = (now - self._began) * self._left / max(self._done, 1e-9)
    return f"{clock(took)}" + (f", {clock(left)} left" if left > 0 else "")


def clock(seconds: float) -> str:
  """Minutes and seconds.

  Example:
    >>> clock(65.4)
    '1:05'
  """
  return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
