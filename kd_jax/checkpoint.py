"""What is kept on disk: trained nets, and the state of an unfinished run.

The only importer of orbax. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import types
from kd_jax.errors import UserError

SCHEMA = 1
_ARRAYS = "arrays"
_RECORD = "record.json"


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
  _put(pathlib.Path(path), arrays, {"schema": SCHEMA, **record})


def load_record(path: str | os.PathLike) -> dict[str, Any] | None:
  """The record of a saved net, or None if there is none (or not a whole one)."""
  _settle(pathlib.Path(path))
  file = pathlib.Path(path) / _RECORD
  if not file.is_file():
    return None
  try:
    record = json.loads(file.read_text())
  except ValueError:
    return None
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
    UserError: If there is no whole net at `path`.

  Example:
    >>> load_parameters("no/such/folder")
    Traceback (most recent call last):
    ...
    kd_jax.errors.UserError: no/such/folder: no saved net here
  """
  path = pathlib.Path(path)
  if not (path / _ARRAYS).is_dir():
    raise UserError(f"{path}: no saved net here")
  saved = jax.tree.map(jnp.asarray, _restore(path / _ARRAYS, None))
  return types.Variables(saved["params"], saved["state"])


def save_progress(path: str | os.PathLike, progress: Any, mark: str) -> None:
  """Saves an unfinished run, any tree of arrays, under the mark of its config."""
  _put(pathlib.Path(path), {"progress": progress},
       {"schema": SCHEMA, "mark": mark})


def load_progress(path: str | os.PathLike, like: Any, mark: str) -> Any | None:
  """The unfinished run at `path` in the structure of `like`, or None.

  A run with another mark was of another config and counts as none.
  """
  path = pathlib.Path(path)
  record = load_record(path)
  if record is None or record.get("mark") != mark:
    return None
  return _restore(path / _ARRAYS, {"progress": like})["progress"]


def drop_progress(path: str | os.PathLike) -> None:
  """Removes an unfinished run that has been finished."""
  shutil.rmtree(path, ignore_errors=True)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file whole or not at all."""
  fresh = path.with_name(path.name + ".new")
  fresh.write_text(json.dumps(value, indent=2) + "\n")
  fresh.replace(path)


def _put(path: pathlib.Path, tree: Any, record: dict[str, Any]) -> None:
  """Writes arrays and record beside `path`, then puts them in its place.

  Whenever the program dies, there is a whole folder: the new one, or the old.
  """
  fresh, old = (path.with_name(path.name + end) for end in (".new", ".old"))
  shutil.rmtree(fresh, ignore_errors=True)
  fresh.mkdir(parents=True)
  _save(fresh / _ARRAYS, tree)
  write_json(fresh / _RECORD, record)
  shutil.rmtree(old, ignore_errors=True)
  if path.exists():
    path.rename(old)
  fresh.rename(path)
  shutil.rmtree(old, ignore_errors=True)


def _settle(path: pathlib.Path) -> None:
  """Takes the old folder back where a program died before the new one came."""
  old = path.with_name(path.name + ".old")
  if old.is_dir() and not path.exists():
    old.rename(path)


def _save(path: pathlib.Path, tree: Any) -> None:
  import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path.absolute(), tree)


def _restore(path: pathlib.Path, like: Any) -> Any:
  import orbax.checkpoint as ocp  # pylint: disable=g-import-not-at-top
  with ocp.StandardCheckpointer() as checkpointer:
    if like is None:
      return checkpointer.restore(path.absolute())
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return checkpointer.restore(path.absolute(), target)
