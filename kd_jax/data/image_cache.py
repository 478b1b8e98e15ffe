"""Decoded images on disk, so that later runs need not decode them again.

They lie in the user's cache (`compilation.home()`), not beside the images: a folder
of data may be read-only, is not ours to write in, and is used by many runs. A file
is called by a hash of where the images lie and of what `signature` tells of each:
change one of them, and there is no such file. Its content has a checksum.
"""

from collections.abc import Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import time
from typing import Any

import numpy as np

from kd_jax.core import compilation, files, hosts

# Another number, and nothing that was kept before is used.
_FORMAT = 1
# Arrays that are kept of one folder, such as of other sizes.
_KEPT = 3
# A file that changed within these seconds might change again without a trace, as
# clocks of file systems are coarse: it is not kept.
_SETTLED = 3.0
_CHECKSUM = 32


def signature(
    folder: pathlib.Path, paths: Sequence[pathlib.Path], how: Any
) -> str | None:
  """What decoded images depend on, as a name; None if they are not to be kept.

  Beside name, size and time of change of each file it has the inode, and when that
  was changed: no program sets this time, so another file in the place of the first
  is seen, even if it has its size and its time.

  Args:
    folder: The folder of all.
    paths: The image files, in their order.
    how: Whatever else decoding depends on, as JSON.
  """
  facts, latest = [], 0
  try:
    for path in paths:
      of = path.stat()
      latest = max(latest, of.st_mtime_ns, of.st_ctime_ns)
      facts.append((ascii(str(path.relative_to(folder))), of.st_size,
                    of.st_mtime_ns, of.st_ctime_ns, of.st_ino))
  except OSError:  # Reading it will say what is wrong.
    return None
  if latest > time.time_ns() - int(1e9 * _SETTLED):
    return None
  return f"{_hash(str(folder.resolve()))[:16]}-{_hash([_FORMAT, how, facts])[:32]}"


def load(name: str) -> np.ndarray | None:
  """The images that were kept under a name; None if there are none, or damaged."""
  path = _path(name)
  try:
    with path.open("rb") as file:
      checksum = file.read(_CHECKSUM)
      images = np.load(file, allow_pickle=False)
  except (OSError, ValueError, EOFError, MemoryError):
    return None
  if _checksum(images) != checksum:
    return None
  with contextlib.suppress(OSError):  # When it was last used.
    os.utime(path)
  return images


def save(name: str, images: np.ndarray) -> None:
  """Keeps images, and lets go of older ones of the same folder.

  Raises:
    OSError: If they cannot be written.
  """
  if not hosts.first():
    return
  path = _path(name)
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path) as fresh, fresh.open("wb") as file:
    file.write(_checksum(images))
    np.save(file, images, allow_pickle=False)
  kept = sorted(path.parent.glob(f"{name.partition('-')[0]}-*.npy"),
                key=lambda path: path.stat().st_mtime)
  for old in kept[:-_KEPT]:
    old.unlink(missing_ok=True)


def _checksum(images: np.ndarray) -> bytes:
  return hashlib.sha256(np.ascontiguousarray(images).data).digest()


def _path(name: str) -> pathlib.Path:
  return compilation.home() / "images" / f"{name}.npy"


def _hash(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()
