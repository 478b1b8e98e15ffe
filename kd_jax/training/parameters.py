"""What is kept on disk: trained nets, whole and checked. Nothing is unpickled.

With `checkpoints.py` the only importer of orbax.
"""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import hosts, strict, types
from kd_jax.core.errors import UserError
from kd_jax.core.files import refuse_pipes

SCHEMA = 1
ARRAYS = "arrays"
_RECORD = "record.json"
CHECKSUM = "arrays_sha256"
RECORD_CHECKSUM = "record_sha256"


class Damaged(UserError):
  """What was saved is not what lies there; it can be made again."""


def record_sha256(record: dict[str, Any]) -> str:
  """SHA-256 over all that a record says, but for its own checksum."""
  own = {key: value for key, value in record.items() if key != RECORD_CHECKSUM}
  # As it is when it is read again: names are text, tuples are lists, NaN is null.
  plain = strict.loads(strict.dumps(own))
  return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_with_checksum(path: pathlib.Path, record: dict[str, Any]) -> None:
  """Writes a record with a checksum of itself, whole or not at all."""
  write_json(path, record | {RECORD_CHECKSUM: record_sha256(record)})


def read_with_checksum(path: pathlib.Path) -> dict[str, Any]:
  """A record that is as it was written; those of earlier versions have no checksum.

  Raises:
    Damaged: If it is not, or is none.
  """
  try:
    record = strict.read(path)
    whole = record.get(RECORD_CHECKSUM, sha := record_sha256(record)) == sha
  except (OSError, ValueError, AttributeError):
    whole = False
  if not whole:
    raise Damaged(f"{path}: a damaged record: it is not the one that was saved; "
                  "the command that made it makes it anew")
  return record


def parameters_sha256(params: types.Tree) -> str:
  """SHA-256 over all parameter leaves in the order of their paths.

  Each leaf counts with its path, dtype, shape and bytes, so that two nets have
  the same hash only if they are the same to the bit.
  """
  digest = hashlib.sha256()
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  named = sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves)
  for name, leaf in named:
    array = np.ascontiguousarray(leaf)
    digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def num_parameters(params: types.Tree) -> int:
  """Number of trained scalars of a net."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def save_net(
    path: str | os.PathLike, variables: types.Variables, record: dict[str, Any]
) -> None:
  """Saves a trained net and what is known of it; replaces a net at `path`."""
  # From the host: what a GPU has saved, a machine without one can load.
  arrays = jax.device_get({"params": variables.params, "state": variables.state})
  if not hosts.first():
    return
  path = pathlib.Path(path)
  with writing(path):
    _put(path, arrays, {
        "schema": SCHEMA, **record, CHECKSUM: _checksum(arrays)})


def load_record(path: str | os.PathLike) -> dict[str, Any] | None:
  """The record of a saved net, or None if there is none.

  Raises:
    Damaged: If it is not the one that was saved.
    UserError: If it is of another version.
  """
  path = pathlib.Path(path)
  old, file = path.with_name(path.name + ".old"), path / _RECORD
  if old.is_dir() and not path.exists():
    old.rename(path)  # A program died before the new net came.
  if not file.is_file():
    return None
  record = read_with_checksum(file)
  if record.get("schema") != SCHEMA:
    raise UserError(
        f"{file}: schema {record.get('schema')}, but this version of kd_jax "
        f"reads {SCHEMA}; use another folder")
  return record


def load_parameters(path: str | os.PathLike) -> types.Variables:
  """Loads a net that a run left in `WORKDIR/parameters/NAME`.

  Args:
    path: The folder of the net.

  Returns:
    Its parameters and running state (`{}` without BatchNorm).

  Raises:
    UserError: If there is no whole net at `path`. What its record says beside
      the checksum of the arrays is not looked at.

  Example:
    >>> load_parameters("no/such/folder")
    Traceback (most recent call last):
    ...
    kd_jax.errors.UserError: no/such/folder: no saved net here
  """
  path = pathlib.Path(path)
  if not (path / ARRAYS).is_dir():
    raise UserError(f"{path}: no saved net here")
  try:
    record = load_record(path) or {}
  except Damaged:
    record = _said(path / _RECORD)
  try:
    refuse_pipes(path / ARRAYS)
    with _checkpointer() as checkpointer:
      saved = checkpointer.restore((path / ARRAYS).absolute())
  except Exception as error:  # Whatever damage makes orbax raise.
    line = " ".join(str(error).split())[:160]
    raise Damaged(f"{path}: a damaged net ({line}); the command that made it "
                  "trains it anew") from None
  # Nets of earlier versions have no checksum of all arrays.
  if record.get(CHECKSUM, sha := _checksum(saved)) != sha:
    raise Damaged(
        f"{path}: a damaged net: its arrays are not those that were saved; the "
        "command that made it trains it anew")
  saved = jax.tree.map(jnp.asarray, saved)
  return types.Variables(saved["params"], saved["state"])


def manager(path: pathlib.Path, keep: int):
  """Orbax's manager of a folder of checkpoints, of which it keeps the last."""
  import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
  from orbax.checkpoint import checkpoint_managers  # pylint: disable=g-import-not-at-top
  return ocp.CheckpointManager(
      path.absolute(), item_names=("arrays", "record"),
      options=ocp.CheckpointManagerOptions(
          preservation_policy=checkpoint_managers.LatestN(keep), create=False,
          cleanup_tmp_directories=True, multiprocessing_options=_alone()))


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Tells whatever a file system or orbax raises meanwhile as a UserError."""
  try:
    yield
  except Exception as error:
    raise UserError(unwritten(path, error)) from None


def unwritten(path: pathlib.Path, error: Exception) -> str:
  """What to tell of a file that cannot be written."""
  line = " ".join(str(UserError(error)).split())
  if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in line:
    return (f"{path}: the disk is full; what was saved before is kept. Make "
            "space, then the same command goes on")
  return (f"{path}: cannot be written ({line[:160]}); what was saved before is "
          "kept. Mend it, then the same command goes on")


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file whole or not at all."""
  fresh = path.with_name(path.name + ".new")
  fresh.write_text(strict.dumps(value, indent=2) + "\n")
  fresh.replace(path)


def _said(file: pathlib.Path) -> dict[str, Any]:
  """What a damaged record says all the same."""
  try:
    record = strict.read(file)
  except (OSError, ValueError):
    return {}
  return record if isinstance(record, dict) else {}


def _checksum(tree: types.Tree) -> str:
  """`parameters_sha256`, alike for a tree and what orbax gives back for it."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return parameters_sha256({
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf
      for path, leaf in leaves})


def _put(path: pathlib.Path, tree: Any, record: dict[str, Any]) -> None:
  """Writes arrays and record beside `path`, then puts them in its place.

  Whenever the program dies, there is a whole folder: the new one, or the old.
  """
  fresh, old = (path.with_name(path.name + end) for end in (".new", ".old"))
  shutil.rmtree(fresh, ignore_errors=True)
  fresh.mkdir(parents=True)
  with _checkpointer() as checkpointer:
    checkpointer.save((fresh / ARRAYS).absolute(), tree)
  write_with_checksum(fresh / _RECORD, record)
  shutil.rmtree(old, ignore_errors=True)
  if path.exists():
    path.rename(old)
  fresh.rename(path)
  shutil.rmtree(old, ignore_errors=True)


def quiet() -> None:
  """Orbax tells its failures by exceptions; we tell them once, in a line.

  Its log would repeat them with tracebacks, and its threads complain of event
  loops that an exception has closed.
  """
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  before = sys.unraisablehook

  def hook(found):
    if "Event loop is closed" not in str(found.exc_value):
      before(found)

  sys.unraisablehook = hook


def _checkpointer():
  import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
  return ocp.StandardCheckpointer(multiprocessing_options=_alone())


def _alone():
  """Orbax on process 0 alone, which waits for no other."""
  # pylint: disable-next=g-import-not-at-top
  from orbax.checkpoint.options import MultiprocessingOptions
  if jax.process_count() == 1:
    return MultiprocessingOptions()
  return MultiprocessingOptions(
      primary_host=0, active_processes={0}, barrier_sync_key_prefix="kd_jax")
