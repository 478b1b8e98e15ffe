"""Banks of teacher logits on disk: `bank[id, view, member]`, and their checks.

A bank computed once makes the teacher free for every further run. It is only
used after proof that it belongs to this teacher, data and augmentation, row by
row: a permuted bank trains a student on other images' targets and looks fine.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.data import views as views_lib
from kd_jax.training import devices as devices_lib
from kd_jax.training import parameters, segment
from kd_jax.training.devices import Devices

_SPOT_CHECKS = 64
# Between saves of a bank that is being built; each writes all of it.
_SAVE_SECONDS = 60.0
# Of the largest logit: matrix products of other shapes round differently.
TOLERANCE = 1e-5


def build(
    models: Sequence[types.Model],
    variables: Sequence[types.Variables],
    data: segment.DeviceData,
    views: views_lib.Views,
    out: np.ndarray,
    *,
    first: int = 0,
    devices: Devices | None = None,
    tick: Callable[[int], None] = lambda view: None,
) -> None:
  """Fills `out` `[N, V, M, classes]` with the logits of every view of every image.

  Args:
    models: The members.
    variables: Their variables.
    data: The images, all N of them.
    views: The augmentation, V = `views.count`.
    out: float32; may be memory-mapped.
    first: The view to begin with; those before it are there.
    devices: The devices; default one.
    tick: Told the number of views done, after each.
  """
  devices = devices or devices_lib.choose("single")
  predicts = [devices_lib.make_predict(devices, model, views) for model in models]
  for view in range(first, views.count):
    for member, predict in enumerate(predicts):
      out[:, view, member] = predict(variables[member], data, jnp.int32(view))
    tick(view + 1)


def obtain(
    path: pathlib.Path,
    identity: dict[str, Any],
    models: Sequence[types.Model],
    variables: Sequence[types.Variables],
    data: segment.DeviceData,
    views: views_lib.Views,
    *,
    num_classes: int,
    devices: Devices | None = None,
    tick: Callable[[int], None] = lambda view: None,
) -> np.ndarray:
  """The bank at `path`, verified; built first where there is none.

  One that was stopped or killed on the way goes on, from the view that it was at or
  had been at a minute before.

  Args:
    path: The .npy file; `path.json` beside it holds the identity.
    identity: What determines the bank: fingerprints of data, teachers, views.
    models: The members, to build or verify with.
    variables: Their variables.
    data: The images, all N of them.
    views: The augmentation.
    num_classes: Number of classes.
    devices: The devices; default one. Several processes keep a bank in memory.
    tick: Told the number of views done, while building.

  Returns:
    float32 `[N, V, M, classes]`, memory-mapped.

  Raises:
    UserError: If the bank belongs to something else or its rows do not agree
      with the teacher.
  """
  shape = (len(data.inputs), views.count, len(models), num_classes)
  identity = {**identity, "shape": list(shape), "dtype": "float32"}
  if jax.process_count() > 1:
    held = np.empty(shape, np.float32)
    build(models, variables, data, views, held, devices=devices, tick=tick)
    return held
  sidecar = path.with_name(path.name + ".json")
  if not sidecar.is_file():
    begun = _Begun(path, identity, tick)
    with begun.kept(shape) as held:
      build(models, variables, data, views, held, first=begun.views,
            devices=devices, tick=begun.tick)
    # The identity comes last: a bank without it is an unfinished one.
    parameters.write_json(sidecar, identity)
    begun.forget()
  try:
    _refuse_other(path, json.loads(sidecar.read_text()), identity)
    bank = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, OSError) as error:
    raise UserError(f"{path}: unreadable bank ({error}); delete it") from None
  if bank.shape != shape or bank.dtype != np.float32:
    raise UserError(
        f"{path}: holds {bank.dtype} {list(bank.shape)}, not float32 "
        f"{list(shape)}; delete it")
  verify(bank, models, variables, data, views, name=str(path))
  return bank


class _Begun:
  """A bank on the way; `path.begun.json` says which, and how many views are done.

  Attributes:
    views: How many of them.
  """

  def __init__(
      self, path: pathlib.Path, identity: dict[str, Any],
      tick: Callable[[int], None]
  ):
    self.views = 0
    self._path, self._identity, self._tick = path, identity, tick
    self._file = path.with_name(path.name + ".begun.json")
    self._saved = time.monotonic()

  @contextlib.contextmanager
  def kept(self, shape: tuple[int, ...]) -> Iterator[np.memmap]:
    """The bank, to be filled from `views` on; what is done stays, come what may."""
    bank = self._left(shape)
    if bank is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self.forget()  # What it says is not of the new file.
      bank = np.lib.format.open_memmap(
          self._path, mode="w+", dtype=np.float32, shape=shape)
      _reserve(self._path)
    self._bank = bank
    try:
      yield bank
    finally:
      self._save()

  def tick(self, views: int) -> None:
    """Counts the views that are done."""
    self.views = views
    if time.monotonic() - self._saved > _SAVE_SECONDS:
      self._save()
    self._tick(views)

  def forget(self) -> None:
    """Ends it: the bank is whole."""
    self._file.unlink(missing_ok=True)

  def _save(self) -> None:
    # Rows first: a view counts once it is on the disk.
    self._bank.flush()
    parameters.write_json(self._file, self._identity | {"done": self.views})
    self._saved = time.monotonic()

  def _left(self, shape: tuple[int, ...]) -> np.memmap | None:
    """What a program that ended on the way has left of this bank."""
    try:
      begun = json.loads(self._file.read_text())
      if begun != self._identity | {"done": begun["done"]}:
        return None
      bank = np.load(self._path, mmap_mode="r+", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError):
      return None
    if bank.shape != shape or bank.dtype != np.float32:
      return None
    self.views = begun["done"]
    return bank


def _reserve(path: pathlib.Path) -> None:
  """Takes the space of a file now: a full disk would kill who writes into it."""
  if hasattr(os, "posix_fallocate"):
    with path.open("r+b") as file:
      os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def verify(
    bank: np.ndarray,
    models: Sequence[types.Model],
    variables: Sequence[types.Variables],
    data: segment.DeviceData,
    views: views_lib.Views,
    *,
    name: str = "bank",
) -> None:
  """Compares random rows of a bank with what the teacher says now.

  Raises:
    UserError: If a row differs by more than 1e-5 of the largest logit.
  """
  draw = np.random.default_rng(0)
  ids = draw.integers(0, bank.shape[0], _SPOT_CHECKS)
  view = draw.integers(0, bank.shape[1], _SPOT_CHECKS)

  @jax.jit
  def spot(variables, data, ids, view):
    batch = segment.take(data, views, ids, view, ids >= 0)
    return jnp.stack([
        model.apply(held, batch.inputs, train=False)[0].logits
        for model, held in zip(models, variables, strict=True)], axis=1)

  fresh = np.asarray(spot(
      tuple(variables), data, jnp.int32(ids), jnp.int32(view)))
  stored = np.asarray(bank[ids, view])
  off = np.abs(fresh - stored).max() / max(np.abs(fresh).max(), 1e-30)
  if not off <= TOLERANCE:
    raise UserError(
        f"{name}: its rows are not this teacher's logits of these images (off by "
        f"{off:.1e} of the largest logit, allowed {TOLERANCE:.0e}): permuted, "
        "foreign or damaged; delete it")


def from_file(
    file: str, found_labels: np.ndarray, *, num_views: int, num_classes: int
) -> tuple[np.ndarray, float]:
  """A bank from a user's logits of the training set, by example id.

  Args:
    file: `.npy` of `[N, classes]` or `[N, V, classes]`, any float type.
    found_labels: Labels of the training set, `[N]`.
    num_views: V of the student's augmentation.
    num_classes: Number of classes.

  Returns:
    float32 `[N, V, 1, classes]`, and the accuracy of view 0.

  Raises:
    UserError: If the file is missing, has another shape, or its accuracy is no
      better than chance, as that of permuted rows would be.
  """
  key = f"config.teacher.logits={file}"
  logits = read_logits(key, file)
  logits = logits[:, None] if logits.ndim == 2 else logits
  expected = (len(found_labels), num_views, num_classes)
  if logits.shape != expected:
    raise UserError(
        f"{key}: has shape {list(logits.shape)}, must be {list(expected)} "
        "(examples, views of the student's augmentation, classes)")
  accuracy = float((logits[:, 0].argmax(-1) == found_labels).mean())
  chance = np.bincount(found_labels).max() / len(found_labels)
  # Permuted rows stay within a few standard errors of chance.
  margin = 5 * (chance * (1 - chance) / len(found_labels)) ** 0.5
  if not np.isfinite(logits.max(-1)).all():
    raise UserError(f"{key}: holds NaN or infinite logits")
  if accuracy <= chance + margin:
    raise UserError(
        f"{key}: agrees with the labels on {accuracy:.1%} of the training set, "
        f"chance is {chance:.1%}; its rows must be in the order of the data set")
  return logits[:, :, None].astype(np.float32), accuracy


def read_logits(key: str, file: str) -> np.ndarray:
  """A user's array of logits, never unpickled."""
  try:
    logits = np.load(file, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f"{key}: cannot be read as .npy: {error}") from None
  if not np.issubdtype(logits.dtype, np.floating):
    raise UserError(f"{key}: holds {logits.dtype}, must be floats")
  return logits


def _refuse_other(path, stored: dict, expected: dict) -> None:
  differing = [key for key in expected if stored.get(key) != expected[key]]
  if differing:
    raise UserError(
        f"{path}: was made with other {', '.join(differing)}; delete it or use "
        "another workdir")
