"""The state of an unfinished run on disk: whole, checked, and only for its config.

A folder holds the last few checkpoints of one training. Each has the identity of
its config and a SHA-256 of its arrays. Saving is atomic and goes on beside
training; whenever the program dies, an earlier checkpoint is whole.
"""

from collections.abc import Callable
import contextlib
import json
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np

from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.core.files import refuse_pipes
from kd_jax.training import parameters

SCHEMA = 1
_UNITS = {"steps": 1.0, "epochs": 1.0, "minutes": 60.0}
# Of the time of a run, what saving may cost; and the least seconds between saves.
_SHARE, _LEAST_SECONDS = 0.01, 5.0


def pause(cost: float) -> float:
  """Seconds from one save to the next, by what the last one cost.

  Example:
    >>> pause(0.034), pause(2.0)
    (5.0, 200.0)
  """
  return max(_LEAST_SECONDS, cost / _SHARE)


class Checkpoints:
  """The checkpoints of one training.

  Attributes:
    path: Their folder.
    saved: The step of the newest one that this program knows.
  """

  def __init__(
      self,
      path: pathlib.Path,
      identity: dict[str, Any],
      *,
      every: str = "auto",
      keep: int = 2,
      force: bool = False,
      say: Callable[[str], None] = print,
  ):
    """Names a folder; nothing is read or written yet.

    Args:
      path: The folder.
      identity: Everything that determines the training, by name; JSON values.
      every: When to save: a number of steps, epochs or minutes; or "auto", as
        often as costs a hundredth of the time, and not within 5 seconds.
      keep: So many checkpoints are kept.
      force: Whether a run of another identity is continued too.
      say: Told what the user must know.
    """
    self.path = path
    self._identity = json.loads(json.dumps(identity, default=list))
    self._keep, self._force, self._say = keep, force, say
    self._paced = every == "auto"
    number, self._unit = ("0", "minutes") if self._paced else every.split()
    self._interval = pause(0.0) if self._paced else (
        float(number) * _UNITS[self._unit])
    self._manager: Any = None
    self._changed: list[str] = []
    self.saved: int | None = None
    self._last, self._per_epoch = 0.0, 1
    self._began, self._before = time.monotonic(), 0.0

  def begin(self, step: int, per_epoch: int) -> None:
    """The training begins, or goes on, at a step."""
    self._per_epoch = per_epoch
    self.saved = step or None
    self._last = self._now(step)

  def seconds(self) -> float:
    """Of this training since this was made, and of programs before this one.

    Theirs are counted to the save that it goes on from.
    """
    return self._before + time.monotonic() - self._began

  def due(self, step: int) -> bool:
    """Whether to save now, at the end of a segment, as this process sees it."""
    return hosts.first() and self._now(step) - self._last >= self._interval

  def load(self, like: Any) -> Any | None:
    """The newest whole checkpoint in the structure of `like`, or None.

    Raises:
      UserError: If the folder is of another config or version, or not ours.
    """
    return hosts.agreed_arrays(lambda: self._load(like), like)

  def save(self, step: int, tree: Any, *, wait: bool = False) -> None:
    """Saves a tree of arrays; writing goes on in the background.

    Raises:
      UserError: If it, or the one before, cannot be written.
    """
    self._last = self._now(step)
    known, self.saved = self.saved, step
    if not hosts.first() or step == known:
      return
    import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
    with parameters.writing(self.path):
      manager = self._open()
    began = time.monotonic()  # Once it is open: that costs once a run.
    # Copies: the next step may write over the arrays themselves.
    arrays = jax.tree.map(np.array, jax.device_get(tree))
    record = {"schema": SCHEMA, "marks": self._identity, "step": step,
              "seconds": round(self.seconds(), 3), "arrays": _shapes(arrays),
              "sha256": parameters.parameters_sha256(arrays)}
    record["own_sha256"] = parameters.record_sha256(record)
    with parameters.writing(self.path):
      manager.save(step, force=True, args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(arrays),
          record=ocp.args.JsonSave(record)))
      if self._paced:
        self._interval = pause(time.monotonic() - began)
      if wait:
        manager.wait_until_finished()

  def forced(self) -> dict[str, Any]:
    """What a net's record says if it was not trained by its config alone."""
    return {"resumed_although": self._changed} if self._changed else {}

  def drop_if_own(self) -> None:
    """Removes what a program left that died before it could drop it itself."""
    if not hosts.first() or not self.path.is_dir():
      return
    with contextlib.suppress(Exception):  # Damaged or foreign: not ours to take.
      newest = max(self._open().all_steps())
      if self._record(newest)["marks"] == self._identity:
        self.drop()
    self.close()

  def drop(self) -> None:
    """Removes the checkpoints of a training that is finished and kept."""
    if hosts.first():
      self.close()
      shutil.rmtree(self.path, ignore_errors=True)

  def close(self) -> None:
    """Waits for what is being written."""
    manager, self._manager = self._manager, None
    if manager is not None:
      with parameters.writing(self.path):
        manager.close()

  def _now(self, step: int) -> float:
    if self._unit == "minutes":
      return time.monotonic()
    return step / (self._per_epoch if self._unit == "epochs" else 1)

  def _open(self):
    if self._manager is None:
      self.path.mkdir(parents=True, exist_ok=True)
      self._manager = parameters.manager(self.path, self._keep)
    return self._manager

  def _load(self, like: Any) -> Any | None:
    if not self.path.is_dir():
      return None
    # What a program left that died while saving; orbax does not always see it.
    for half in self.path.glob("*.orbax-checkpoint-tmp*"):
      shutil.rmtree(half, ignore_errors=True)
    steps = sorted(self._open().all_steps(), reverse=True)
    if not steps and any(self.path.iterdir()):
      raise UserError(
          f"{self.path}: holds no checkpoint that this version of kd_jax knows; "
          "use another --workdir, or move it away")
    for step in steps:
      try:
        refuse_pipes(self.path / str(step))
        record = self._record(step)
        self._refuse_other(record, like)
        found = self._arrays(step, record, like)
        # Earlier versions did not save it.
        self._before = record.get("seconds", 0.0)
        return found
      except UserError:
        raise
      except Exception as error:  # Whatever damage makes orbax raise.
        self._damaged(step, error)
    if steps:
      self._say(f"{self.path}: no whole checkpoint is left; starting anew")
    return None

  def _damaged(self, step: int, error: Exception) -> None:
    line = " ".join(str(error).split())[:120]
    self._say(f"{self.path}: the checkpoint of step {step} is damaged "
              f"({type(error).__name__}: {line}); using the one before")
    # Another of the same step may be written before long; this one is kept
    # aside, in case that somebody can make something of it.
    self.close()
    aside = self.path.with_name(f"{self.path.name}.damaged") / str(step)
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    (self.path / str(step)).rename(aside)
    self._open()

  def _record(self, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
    record = self._open().restore(
        step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
    if record["schema"] == SCHEMA and record.pop(
        "own_sha256") != parameters.record_sha256(record):
      raise ValueError("its record is not the one that was saved")
    return record

  def _arrays(self, step: int, record: dict[str, Any], like: Any) -> Any:
    import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
    target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    found = self._open().restore(step, args=ocp.args.Composite(
        arrays=ocp.args.StandardRestore(target)))["arrays"]
    if parameters.parameters_sha256(found) != record["sha256"]:
      raise ValueError("its arrays are not those that were saved")
    return found

  def _refuse_other(self, record: dict[str, Any], like: Any) -> None:
    if record["schema"] != SCHEMA:
      raise UserError(
          f"{self.path}: schema {record['schema']}, but this version of kd_jax "
          f"reads {SCHEMA}; use another --workdir")
    changed = changes(record["marks"], self._identity)
    if changed and not self._force:
      raise UserError(
          f"{self.path}: an unfinished run of another config: "
          f"{'; '.join(changed)}. Use another --workdir, or go on from its last "
          "checkpoint with --resume=force")
    if changed:
      self._changed = changed
      self._say(f"{self.path}: goes on although changed: {'; '.join(changed)}")
    if record["arrays"] != _shapes(like):
      raise UserError(
          f"{self.path}: its arrays do not fit this config: it trains another "
          "net, by another optimiser, or with other data held out; use another "
          "--workdir")


def _shapes(tree: Any) -> dict[str, list]:
  """Shape and dtype of every array of a tree, by its path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): [list(leaf.shape), str(leaf.dtype)]
          for path, leaf in leaves}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
  """What differs between two identities, as phrases.

  Example:
    >>> changes({"seed": 0, "epochs": 3}, {"seed": 1, "epochs": 3})
    ['seed was 0, is 1']
  """
  return [f"{key} was {_beginning(before.get(key))}, is {_beginning(now.get(key))}"
          for key in {**before, **now} if before.get(key) != now.get(key)]


def _beginning(value: Any) -> str:
  text = str(value)
  return text if len(text) <= 24 else f"{text[:20]}..."
