"""Banks of teacher logits on disk: `bank[id, view, member]`, and their checks.

A bank computed once makes the teacher free for every further run. It is only
used after proof that it belongs to this teacher, data and augmentation, row by
row: a permuted bank trains a student on other images' targets and looks fine. Its
blocks have checksums; a damaged bank is made again from its teacher.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import hashlib
import math
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import teachers
from kd_jax.core import machine, strict, types
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home, damage, refuse_pipes
from kd_jax.data import views as views_lib
from kd_jax.training import devices as devices_lib
from kd_jax.training import parameters, segment
from kd_jax.training.checkpoints import pause
from kd_jax.training.devices import Devices

_SPOT_CHECKS = 64
# Bytes that must be free beside a user's logits: XLA would abort without them.
_SPARE = 400 * 1024**2
# Bytes under one checksum.
_BLOCK = 16 * 1024**2
# Of the largest logit: matrix products of other shapes round differently.
TOLERANCE = 1e-5


class Source(NamedTuple):
  """What a bank holds: the logits of every view of every image.

  Attributes:
    models: The members.
    variables: Their variables, on the devices.
    data: The images, all N of them, on the devices.
    views: The augmentation, V = `views.count`.
    devices: The devices.
  """

  models: Sequence[types.Model]
  variables: Sequence[types.Variables]
  data: segment.DeviceData
  views: views_lib.Views
  devices: Devices


class Rounding:
  """What float16 costs: KL(p || q), p of the teacher's logits, q of the bank's.

  Attributes:
    numbers: T, how many rows were compared, and the sum and the largest of their
      KL in nats.
  """

  def __init__(self, temperature: float):
    self.numbers = {"temperature": temperature, "rows": 0, "total_kl": 0.0,
                    "max_kl": 0.0}

  def add(self, exact: np.ndarray, stored: np.ndarray) -> None:
    """Compares logits `[N, classes]`; may raise UserError."""
    if np.isinf(stored.max(-1)).any():
      raise UserError("teacher: has logits that float16 does not hold; give "
                      "config.teacher.bank_dtype=float32")
    shifted = (x.astype(np.float64) / self.numbers["temperature"]
               for x in (exact, stored))
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in shifted)
    with np.errstate(invalid="ignore"):  # Of classes at -inf, of probability 0.
      kl = np.where(np.exp(p) > 0, np.exp(p) * (p - q), 0.0).sum(-1)
    self.numbers["rows"] += len(kl)
    self.numbers["total_kl"] += float(kl.sum())
    self.numbers["max_kl"] = max(self.numbers["max_kl"], float(kl.max()))

  def record(self) -> dict[str, Any]:
    """What the records say of it."""
    rows, total = self.numbers["rows"], self.numbers["total_kl"]
    return {"dtype": "float16", "temperature": self.numbers["temperature"],
            "mean_kl": total / rows, "max_kl": self.numbers["max_kl"]}


def build(
    source: Source, out: np.ndarray, *, first: int = 0,
    rounding: Rounding | None = None,
) -> Iterator[int]:
  """Fills `out`, view after view.

  Args:
    source: What is stored.
    out: `[N, V, M, classes]`, float32, or float16 with `rounding`; may be
      memory-mapped.
    first: The view to begin with; those before it are there.
    rounding: Adds up what float16 costs.

  Yields:
    The number of views that are done, after each.

  Raises:
    UserError: If logits are not finite.
  """
  predicts = [devices_lib.make_predict(source.devices, model, source.views)
              for model in source.models]
  for view in range(first, source.views.count):
    for member, predict in enumerate(predicts):
      logits = np.asarray(predict(
          source.variables[member], source.data, jnp.int32(view)))
      if bad := np.count_nonzero(~np.isfinite(logits.max(-1))):
        raise UserError(
            f"teacher: gives NaN or infinite logits of {bad} training examples in "
            f"view {view}")
      with np.errstate(over="ignore"):  # It is told of.
        out[:, view, member] = logits
      if rounding is not None:
        rounding.add(logits, out[:, view, member])
    yield view + 1


def obtain(
    path: pathlib.Path,
    identity: dict[str, Any],
    source: Source,
    *,
    num_classes: int,
    tick: Callable[[int], None] = lambda view: None,
    say: Callable[[str], None] = print,
    rounding: Rounding | None = None,
) -> np.ndarray:
  """The bank at `path`, verified; built first where there is none that is whole.

  One that was stopped or killed on the way goes on, from the view that it was at or
  had been at some seconds before. Several processes keep a bank in memory.

  Args:
    path: The .npy file; `path.json` beside it holds the identity and checksums.
    identity: What determines the bank: fingerprints of data, teachers, views.
    source: What it holds, to build or verify with.
    num_classes: Number of classes.
    tick: Told the number of views done, while building.
    say: Told what the user must know.
    rounding: Of a bank of float16; gets the numbers of when it was made.

  Returns:
    float32, or float16, `[N, V, M, classes]`, memory-mapped.

  Raises:
    UserError: If the bank belongs to something else, or its rows do not agree
      with the teacher although they were made just now.
  """
  shape = (len(source.data.inputs), source.views.count, len(source.models),
           num_classes)
  dtype = "float32" if rounding is None else "float16"
  identity = {**identity, "shape": list(shape), "dtype": dtype}
  if jax.process_count() > 1:
    held = np.empty(shape, dtype)
    for done in build(source, held, rounding=rounding):
      tick(done)
    return held
  sidecar = path.with_name(path.name + ".json")
  if sidecar.is_file():
    try:
      return _checked(path, sidecar, identity, source, say, rounding)
    except parameters.Damaged as error:
      say(f"{error}; making it again from its teacher")
      sidecar.unlink()
  bank = _build_on_disk(path, identity, source, tick, rounding)
  try:
    verify(bank, source, name=str(path))
  except parameters.Damaged as error:  # What was gone on with was another's.
    _begun(path).unlink()
    raise UserError(f"{error}; the same command makes it again") from None
  # The identity comes last: a bank without it is an unfinished one.
  parameters.write_with_checksum(
      sidecar, identity | _noted(rounding) | {"blocks": _checksums(bank)})
  _begun(path).unlink()
  return np.lib.format.open_memmap(path, mode="r")


def _checked(
    path: pathlib.Path, sidecar: pathlib.Path, identity: dict[str, Any],
    source: Source, say: Callable[[str], None], rounding: Rounding | None,
) -> np.memmap:
  """The bank that lies there, if it is whole, and the one that is wanted."""
  stored = parameters.read_with_checksum(sidecar)
  try:
    refuse_pipes(path)
    bank = np.lib.format.open_memmap(path, mode="r")
  except Exception as error:  # Whatever damage makes NumPy raise.
    raise parameters.Damaged(f"{path}: unreadable bank ({error})") from None
  if differing := [key for key in identity if stored.get(key) != identity[key]]:
    raise UserError(
        f"{path}: was made with other {', '.join(differing)}; delete it or use "
        "another workdir")
  if [*bank.shape] != identity["shape"] or bank.dtype != identity["dtype"]:
    raise parameters.Damaged(
        f"{path}: holds {bank.dtype} {list(bank.shape)}, not {identity['dtype']} "
        f"{identity['shape']}")
  if rounding is not None:
    rounding.numbers = stored["rounding"]
  if (sums := stored.get("blocks")) is None:
    say(f"{path}: has no checksums, as it is of an earlier version; some of its "
        "rows are compared with the teacher")
    verify(bank, source, name=str(path))
    return bank
  # The file is read once, for this: where the device is the CPU it uses these pages
  # as they are. Meanwhile the program that compares rows is compiled.
  with concurrent.futures.ThreadPoolExecutor(1) as beside:
    found = beside.submit(_checksums, bank)
    verify(bank, source, name=str(path))
  if sums != found.result():
    raise parameters.Damaged(
        f"{path}: a damaged bank: its numbers are not those that were saved")
  return bank


def _build_on_disk(
    path: pathlib.Path, identity: dict[str, Any], source: Source,
    tick: Callable[[int], None], rounding: Rounding | None,
) -> np.memmap:
  """Builds a bank, or goes on with it; what is done stays, come what may."""
  bank, first = _left(path, identity, rounding)
  if bank is None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _begun(path).unlink(missing_ok=True)  # What it says is not of the new file.
    bank = np.lib.format.open_memmap(
        path, mode="w+", dtype=identity["dtype"], shape=tuple(identity["shape"]))
    _reserve(path)
  done, due = first, time.monotonic() + pause(0.0)

  def save():
    # Rows first: a view counts once it is on the disk.
    bank.flush()
    parameters.write_json(
        _begun(path), identity | _noted(rounding) | {"done": done})

  try:
    for done in build(source, bank, first=first, rounding=rounding):
      if (began := time.monotonic()) > due:
        save()
        due = began + pause(time.monotonic() - began)
      tick(done)
  finally:
    save()
  return bank


def _checksums(bank: np.ndarray) -> list[str]:
  """SHA-256 of each block of a bank, which are read side by side."""
  plain = bank.reshape(-1).view(np.uint8)
  blocks = [plain[at:at + _BLOCK] for at in range(0, plain.size, _BLOCK)]
  with concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool:
    return list(pool.map(lambda block: hashlib.sha256(block).hexdigest(), blocks))


def _begun(path: pathlib.Path) -> pathlib.Path:
  """The file that says which bank is on its way, and how many views are done."""
  return path.with_name(path.name + ".begun.json")


def _noted(rounding: Rounding | None) -> dict[str, Any]:
  return {} if rounding is None else {"rounding": rounding.numbers}


def _left(
    path: pathlib.Path, identity: dict[str, Any], rounding: Rounding | None
) -> tuple[np.memmap | None, int]:
  """What a program that ended on the way has left of a bank, and how many views."""
  try:
    begun = strict.read(_begun(path))
    refuse_pipes(path)
    bank = np.lib.format.open_memmap(path, mode="r+")
    if rounding is not None:
      rounding.numbers = begun["rounding"]
    if begun == identity | _noted(rounding) | {"done": begun["done"]} and (
        [*bank.shape], bank.dtype) == (identity["shape"], identity["dtype"]):
      return bank, begun["done"]
  except (OSError, ValueError, KeyError, TypeError):
    pass
  return None, 0


def _reserve(path: pathlib.Path) -> None:
  """Takes the space of a file now: a full disk would kill who writes into it."""
  if hasattr(os, "posix_fallocate"):
    with path.open("r+b") as file:
      os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def verify(bank: np.ndarray, source: Source, *, name: str = "bank") -> None:
  """Compares random rows of a bank with what the teacher says now.

  Raises:
    Damaged: If a row differs by more than 1e-5 of the largest logit, and by what
      float16 rounds off.
  """
  draw = np.random.default_rng(0)
  ids = draw.integers(0, bank.shape[0], _SPOT_CHECKS)
  view = draw.integers(0, bank.shape[1], _SPOT_CHECKS)

  @jax.jit
  def see(data, ids, view):
    return segment.take(data, source.views, ids, view, ids >= 0).inputs

  inputs = see(source.data, jnp.int32(ids), jnp.int32(view))
  fresh = np.stack([
      np.asarray(_logits(model, held, inputs))
      for model, held in zip(source.models, source.variables, strict=True)], axis=1)
  # A class that the teacher masks lies below what float16 holds.
  edge = float(np.finfo(bank.dtype).max)
  fresh, stored = (np.clip(x.astype(np.float32), -edge, edge)
                   for x in (fresh, bank[ids, view]))
  largest = np.abs(fresh[np.abs(fresh) < edge]).max(initial=1e-30)
  off = np.abs(fresh - stored).max() / largest
  allowed = TOLERANCE + (bank.dtype == np.float16) * 2.0**-11
  if not off <= allowed:
    raise parameters.Damaged(
        f"{name}: its rows are not this teacher's logits of these images (off by "
        f"{off:.1e} of the largest logit, allowed {allowed:.0e}): permuted, "
        "foreign or damaged")


def _logits(
    model: types.Model, variables: types.Variables, inputs: types.Tree
) -> Any:
  """What a net says of inputs; one on the host is asked there.

  Within a program of several devices it would be asked on one of them, for whom the
  others wait in vain where there are as few threads as devices.
  """
  if model.on_host is not None:
    return model.on_host(np.asarray(inputs)).logits
  return jax.jit(lambda held, inputs: model.apply(
      held, inputs, train=False)[0].logits)(variables, inputs)


def from_file(
    file: str, found_labels: np.ndarray, *, num_views: int, num_classes: int,
    check: str = "on",
) -> tuple[np.ndarray, float | None]:
  """A bank from a user's logits of the training set, by example id.

  Args:
    file: `.npy`, or `.npz` of one array, of `[N, classes]` or
      `[N, V, classes]`, any float type.
    found_labels: Labels of the training set, `[N]`; -1 where unknown.
    num_views: V of the student's augmentation.
    num_classes: Number of classes.
    check: "off" takes logits that do not look like those of these examples.

  Returns:
    float32 `[N, V, 1, classes]`, and the accuracy of view 0, None without labels.

  Raises:
    UserError: If the file is missing, has another shape, or holds something else
      than the logits of these examples and classes.
  """
  key = f"config.teacher.logits={file}"
  logits = read_logits(
      key, file, (len(found_labels), num_views, num_classes), found_labels, check)
  known = found_labels >= 0
  right = logits[:, 0].argmax(-1) == found_labels
  accuracy = float(right[known].mean()) if known.any() else None
  return logits[:, :, None], accuracy


def read_logits(
    key: str, file: str, shape: tuple[int, ...], labels: np.ndarray,
    check: str = "on",
) -> np.ndarray:
  """A user's logits as float32, checked; an axis of views may be left out."""
  logits = _opened(key, file)
  if logits.dtype.kind == "V":
    raise UserError(f"{key}: is of a type that NumPy has no name for, such as "
                    "bfloat16; save logits.astype('float32')")
  if not np.issubdtype(logits.dtype, np.floating):
    raise UserError(f"{key}: holds {logits.dtype}, must be floats")
  if (logits.ndim, len(shape)) == (2, 3):
    logits = logits[:, None]
  if logits.shape != shape:
    axes = ("examples", "views of the student's augmentation", "classes")
    raise UserError(
        f"{key}: has shape {list(logits.shape)}, must be {list(shape)} "
        f"({', '.join(axes if len(shape) == 3 else axes[::2])})"
        + _other_classes(logits.shape, shape, labels))
  try:
    held = _empty(shape)
    np.empty(_SPARE, np.uint8)  # Let go at once.
  except MemoryError:
    raise UserError(f"{key}: {4 * math.prod(shape) / 1e9:.1f} GB as float32 do not "
                    "fit in memory beside the run") from None
  # Part by part, so that one copy is in memory.
  for part in _parts(len(logits), math.prod(shape[1:])):
    with np.errstate(over="ignore"):  # What float32 does not hold is told below.
      held[part] = logits[part]
    bad = ~np.isfinite(held[part].max(-1))
    if bad.any():
      found = logits[part].max(-1)[bad]
      large = found[np.isfinite(found)]
      raise UserError(f"{key}: holds " + (
          f"{large[0]:.3g}, which is farther from 0 than float32 holds (3.4e38)"
          if large.size else "NaN or infinite logits"))
  if check == "on" and (problem := teachers.problem(held, labels)):
    raise UserError(f"{key}: {problem}, or --config.teacher.check=off")
  return held


def _empty(shape: tuple[int, ...]) -> np.ndarray:
  """float32 that begins where jax takes it without a copy, on a CPU."""
  plain = np.empty(4 * math.prod(shape) + 64, np.uint8)
  start = -plain.ctypes.data % 64
  return plain[start:start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def digest(file: str) -> str:
  """The SHA-256 of a user's logits as they are stored, read part by part."""
  logits, found = _opened(file, file), hashlib.sha256()
  for part in _parts(len(logits), math.prod(logits.shape[1:])):
    found.update(np.ascontiguousarray(logits[part]).data)
  return found.hexdigest()


def _other_classes(
    found: tuple[int, ...], shape: tuple[int, ...], labels: np.ndarray
) -> str:
  if found[:-1] != shape[:-1] or found[-1] < 2:
    return ""
  if found[-1] > shape[-1]:
    return (f"; if the task has {found[-1]} classes, of which the data has no "
            f"example of the last, set --config.data.num_classes={found[-1]}")
  last = labels.max(initial=-1)
  if last >= found[-1]:
    return f"; the data has labels up to {last}: are they numbered from 0?"
  fit = f"labels of these examples are at most {last}, so they fit" if (
      last >= 0) else "no label of these examples says otherwise"
  return (f"; {fit}: {shape[-1]} classes come from config.data.num_classes or from "
          "labels of the other part of the data")


def _parts(number: int, width: int) -> Iterator[slice]:
  size = max(2**22 // max(width, 1), 1)
  return (slice(at, at + size) for at in range(0, number, size))


def _opened(key: str, file: str) -> np.ndarray:
  """The array of a file, never unpickled; that of a `.npy` stays on disk."""
  try:
    path = at_home(file)
    refuse_pipes(path)
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
      return found
    with found:
      if len(found.files) == 1 and isinstance(
          array := found[found.files[0]], np.ndarray):
        return array
    what = f"is an archive of {len(found.files)} files, not one array"
  except Exception as error:  # Whatever damage makes NumPy raise.
    if isinstance(error, FileNotFoundError):
      raise UserError(f"{key}: cannot be read: there is no such file") from None
    what = f"cannot be read as .npy, or as .npz of one array ({damage(error)})"
  raise UserError(
      f"{key}: {what}; save it with numpy.save(FILE, logits), a tensor of PyTorch "
      "as logits.float().cpu().numpy()")
