"""What a run leaves behind: config, manifest, metrics, summary, fingerprints."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import functools
from importlib import metadata
import importlib.util
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from typing import IO, Any

import filelock
import jax

import kd_jax
from kd_jax.core import hosts, strict
from kd_jax.core.errors import UserError
from kd_jax.core.files import refuse_pipes
from kd_jax.core.machine import cores, processor
from kd_jax.runs import tracker
from kd_jax.training import parameters

SCHEMA = 1
# Every line of `metrics.jsonl` that tells of an epoch has these.
EPOCH = ("net", "time", "fingerprint", "step")


def runtime() -> dict[str, Any]:
  """What the bits of a result depend on beside its config."""
  device = jax.devices()[0]
  return {"jax": jax.__version__, "platform": device.platform,
          "device": device.device_kind, "devices": jax.device_count(),
          "cores": cores()}


def manifest(**more: Any) -> dict[str, Any]:
  """Versions, commit, machine and command of this process."""
  packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
              "ml_collections")
  versions = {"kd_jax": kd_jax.__version__, "python": platform.python_version()}
  versions |= {name: metadata.version(name) for name in packages}
  name, dirty = commit()
  return {"schema": SCHEMA, "versions": versions, "commit": name,
          "dirty": dirty, **runtime(), "processor": processor(),
          "system": platform.platform(),
          "command": shlex.join(["python", "-m", "kd_jax.main", *sys.argv[1:]]),
          "numerics": kd_jax.NUMERICS, **more}


class Recorder:
  """Writes a run's files into its workdir.

  `metrics.jsonl` gets a line an epoch, at once; TensorBoard events go beside it.
  Of several processes the first alone writes.
  """

  def __init__(
      self, workdir: pathlib.Path, *, tensorboard: bool,
      say: Callable[[str], None] = print, log: tracker.Log = tracker.nothing):
    """Opens the files of a workdir.

    `say` is told what the user must know, and `log` what happens.
    """
    self.log = log
    self.workdir, self._say = workdir, say
    self._writes = hosts.first()
    self._metrics: IO | None = None
    hosts.agreed(self._start)
    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
      raise UserError(
          "config.tensorboard=True: needs pip install tensorboardX; or give "
          "--config.tensorboard=false")
    self._tensorboard = tensorboard
    self._writers: dict[str, Any] = {}

  def _start(self) -> None:
    refuse_newer(self.workdir / "manifest.json", self._say)
    self._metrics = _appended(self.workdir / "metrics.jsonl")

  def write(self, name: str, value: dict[str, Any]) -> None:
    """Writes `name` as a whole JSON file."""
    if self._writes:
      parameters.write_json(self.workdir / name, value)

  def remove(self, name: str) -> None:
    """Removes a file, if there is one."""
    if self._writes:
      (self.workdir / name).unlink(missing_ok=True)

  def row(self, net: str, row: dict[str, Any]) -> None:
    """Appends an epoch of a net to the metrics."""
    if self._metrics is None:
      return
    line = {"net": net, "time": round(time.time(), 3), **row}
    self._metrics.write(strict.dumps(line) + "\n")
    self._metrics.flush()
    if "event" not in row:
      self.log("epoch", line)
    if self._tensorboard and "step" in row and "event" not in row:
      writer = self._writer(net)
      for key, value in row.items():
        if isinstance(value, (int, float)):
          writer.add_scalar(key, value, row["step"])

  def hparams(
      self, name: str, hparams: dict[str, Any], results: dict[str, float]
  ) -> None:
    """A finished lane in TensorBoard's table of hyper-parameters."""
    if self._tensorboard and self._writes:
      self._writer("sweep").add_hparams(hparams, results, name=name)

  def close(self) -> None:
    if self._metrics is not None:
      self._metrics.close()
    for writer in self._writers.values():
      writer.close()

  def _writer(self, net: str):
    if net not in self._writers:
      import tensorboardX  # pylint: disable=g-import-not-at-top
      self._writers[net] = tensorboardX.SummaryWriter(
          str(self.workdir / "tensorboard" / net))
    return self._writers[net]


def _appended(path: pathlib.Path) -> IO:
  """A file of lines, open to add some."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
      # A killed program may have left half a line.
      if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
          file.write(b"\n")
    return path.open("a")
  except OSError as error:
    raise UserError(
        f"--workdir={path.parent}: cannot be written: {error}") from None


def begins_with(file: pathlib.Path, *names: str) -> bool:
  """Whether the first line of a file is a JSON object with these names."""
  try:
    refuse_pipes(file)
    with file.open(encoding="utf-8") as lines:
      row = strict.loads(lines.readline())
  except (OSError, ValueError):
    return False
  return isinstance(row, dict) and row.keys() >= set(names)


def refuse_newer(manifest: pathlib.Path, say: Callable[[str], None]) -> None:
  """A folder of a later version, or of something else, is left alone."""
  if not manifest.is_file():
    return
  try:
    found = strict.read(manifest)
    schema, _ = found["schema"], found["versions"]["kd_jax"]
  except (ValueError, KeyError, TypeError, OSError) as error:
    # A run that wrote a manifest had begun its metrics before.
    if isinstance(error, (ValueError, TypeError)) and begins_with(
        manifest.with_name("metrics.jsonl"), *EPOCH):
      say(f"{manifest}: is damaged; it is written anew")
      return
    raise UserError(
        f"--workdir={manifest.parent}: its {manifest.name} is not of kd_jax; use "
        "another folder") from None
  if schema != SCHEMA:
    raise UserError(
        f"--workdir={manifest.parent}: has schema {schema}, but this version of "
        f"kd_jax writes {SCHEMA}; use another folder")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other programs out of a workdir; a dead program's lock is open.

  A workdir that it has made, and in which nothing was left, is removed again.

  Raises:
    UserError: If another program is at work there, or it cannot be written.
  """
  lock, new = _lock(workdir / ".lock"), not workdir.exists()
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    ours = _is_ours(lock)
  except OSError as error:
    raise UserError(f"--workdir={workdir}: cannot be written: {error}") from None
  if not ours:
    raise UserError(
        f"--workdir={workdir}: another program is at work there; wait for it, "
        "or give another folder")
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      if new and os.listdir(workdir) == [".lock"]:
        (workdir / ".lock").unlink()
        workdir.rmdir()
    lock.release()


@contextlib.contextmanager
def in_turn(
    path: pathlib.Path, *, say: Callable[[str], None],
    stop: Callable[[], bool]) -> Iterator[None]:
  """Waits until no other program is at work on the net at `path`, or `stop`."""
  with contextlib.ExitStack() as stack:
    # A store that cannot be written to has no one at work on it.
    with contextlib.suppress(OSError):
      if hosts.first():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path.with_name(f".{path.name}.lock"))
        stack.callback(lock.release)
        announced = False
        while not stop() and not _is_ours(lock):
          if not announced:
            say(f"{path}: another program is training this net; waiting for it")
          announced = True
          time.sleep(0.2)
    yield


def _lock(path: pathlib.Path) -> filelock.BaseFileLock:
  """The lock of a file; the system opens it when its program dies."""
  return filelock.FileLock(path, fallback_to_soft=False)


def _is_ours(lock: filelock.BaseFileLock) -> bool:
  """Takes a lock, unless another program has it."""
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    return False
  except NotImplementedError:
    pass  # A file system without locks.
  except OSError as error:
    if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
      raise
  return True


@functools.cache  # What runs is what was there when the program started.
def commit() -> tuple[str | None, bool | None]:
  """Commit of the source tree this package runs from, and whether it is dirty."""
  root = pathlib.Path(kd_jax.__file__).parents[1]
  if not (root / ".git").exists():
    return None, None
  git = lambda *words: subprocess.run(
      ["git", "-C", str(root), *words], capture_output=True, text=True,
      check=True).stdout.strip()
  try:
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
  except (OSError, subprocess.CalledProcessError):
    return None, None
