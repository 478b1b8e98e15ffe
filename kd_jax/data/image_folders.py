"""Images in folders that are called like their classes.

  DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or, where a part of each class is
  to be the test set (`data.test_fraction`), DIR/CLASS/*.png

Classes are numbered in the order of their names, and images of a class in that of
theirs, as by torchvision's `ImageFolder` and by Keras: logits from there fit. A
file is an image if its name ends as those of images do.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import functools
import math
import pathlib
import time
import unicodedata

import numpy as np

from kd_jax.core import machine
from kd_jax.core.errors import UserError
from kd_jax.core.words import counted
from kd_jax.data import image_cache, image_files, own

# What systems leave in folders, beside all that begins with a dot.
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
_TEST = ("test", "val", "valid", "validation")
# After so many seconds it is said how far decoding is; its result is worth keeping.
_REPORTED, _WORTH_KEEPING = 5.0, 1.0
# So many broken files are named, and so many files are decoded at a time.
_NAMED, _AT_ONCE = 3, 512

# The images of each class.
Classes = dict[str, list[pathlib.Path]]


def parts(
    folder: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path | None] | None:
  """The folders that hold classes, for training and test; None if there are none.

  The second is None where there is no test set. A set may have a class called
  train: its folder then has images in it, and no classes.
  """
  there = {path.name.lower(): path for path in _there(folder) if path.is_dir()}
  if "train" in there and _has_classes(there["train"]):
    tests = [there[name] for name in _TEST
             if name in there and _has_classes(there[name])]
    return there["train"], tests[0] if tests else None
  return (folder, None) if _has_classes(folder) else None


def looked_for(folder: pathlib.Path) -> str:
  """What is looked for in a folder that has none of it, and what is there."""
  there = _listed(folder)
  rename = ", ".join(
      f"{path.name} to {part}" for path in there
      for part, known in (("train", ("train",)), ("test", _TEST))
      if path.name.lower().startswith(known) and path.name.lower() not in known
      and path.is_dir() and _has_classes(path))
  return (f"{folder}: looked for folders of images, train/CLASS and test/CLASS or "
          "CLASS alone, for one .npz and for tables; it has "
          f"{own.few([path.name for path in there]) or 'nothing'}"
          + (f"; rename {rename}" if rename else ""))


def find(
    folder: pathlib.Path, asked: own.Asked, say: Callable[[str], None]
) -> own.Found | None:
  """The images of a folder, decoded; None if it has no folders of images.

  Args:
    folder: It may lack any class.
    asked: `test_fraction`, `resize` and `channels` count here.
    say: Receives a line for each thing worth telling.

  Raises:
    Unclear: If there is no test set, and nothing says how to make one.
    UserError: If images differ, are damaged, or classes do not fit.
  """
  if not (places := parts(folder)):
    return None
  train, test = _both(folder, *places, asked, say)
  named = tuple(train)
  paths = [[path for name in named for path in each.get(name, ())]
           for each in (train, test)]
  labels = [np.repeat(np.arange(len(named), dtype=np.int32),
                      [len(each.get(name, ())) for name in named])
            for each in (train, test)]
  scaled = asked.resize and (f", scaled to {asked.resize[0]} x {asked.resize[1]} "
                             "whatever their proportions")
  say(f"data: images in {folder}, of classes {own.few(named)}{scaled or ''}")
  # In one order, whatever the parts are: what is kept then serves for all of them.
  every = sorted({*paths[0], *paths[1]})
  images = _images(folder, every, asked, say)
  place = {path: number for number, path in enumerate(every)}
  inputs = [_taken(images, [place[path] for path in each]) for each in paths]
  where = [[str(path.relative_to(folder)) for path in each] for each in paths]
  return own.Found(
      "images", (inputs[0], labels[0], inputs[1], labels[1]), len(named), named,
      own.alike(named), where=where)


def _both(
    folder: pathlib.Path, place: pathlib.Path, of_test: pathlib.Path | None,
    asked: own.Asked, say: Callable[[str], None],
) -> tuple[Classes, Classes]:
  """The images of each class, of both parts; what is odd about them is refused."""
  fraction = asked.test_fraction
  found = _classes(place, say)
  if of_test is None and fraction is None and asked.split is None:
    raise own.Unclear(
        f"{folder}: has folders of images ({own.few(list(found))}) and no test "
        "set; give --config.data.test_fraction=0.2, so that a fifth of each class "
        "is the test set, or put them into train/CLASS and test/CLASS")
  if of_test is not None and fraction is not None:
    raise UserError(f"data.test_fraction={fraction}: {of_test} is the test set; "
                    "leave the key out, or move that folder away")
  if of_test is None:
    _refuse_empty(place, found, fraction)
    own.refuse_classes(list(found), (), str(place))
    return (found, {}) if fraction is None else _divided(found, fraction, say)
  if of_test.name.lower() != _TEST[0]:
    say(f"data: {folder} has no folder test, so {of_test.name} is the test set")
  elif more := [path for path in _listed(folder)
                if path.name.lower() in _TEST[1:] and path.is_dir()]:
    say(f"data: {more[0]} is left out; data.holdout holds a part of train back")
  test = {name: images for name, images in _classes(of_test, say).items() if images}
  _refuse_empty(place, found, None)
  own.refuse_classes(list(found), list(test), str(folder))
  if lacking := [name for name in found if name not in test]:
    say(f"data: {of_test} has no image of {own.few(lacking)}")
  return found, test


def _divided(
    found: Classes, fraction: float, say: Callable[[str], None]
) -> tuple[Classes, Classes]:
  """Both parts of images that lie in one folder."""
  train: Classes = {}
  test: Classes = {}
  for name, images in found.items():
    held = own.held_back(
        [_normal(f"{name}/{path.name}") for path in images], fraction)
    train[name] = [path for path, away in zip(images, held) if not away]
    test[name] = [path for path, away in zip(images, held) if away]
  say(f"data: of each class {100 * fraction:g}% are the test set, chosen by a hash "
      "of the files' names")
  return train, test


def _refuse_empty(
    place: pathlib.Path, found: Classes, fraction: float | None
) -> None:
  least = 1 if fraction is None else 2
  for name, images in found.items():
    if len(images) < least:
      raise UserError(
          f"{place / name}: has {counted(len(images), 'image')}, and a class must "
          f"have {'one' if least == 1 else 'two, one for each part'}; put more "
          "there, or take the folder away")


def _classes(place: pathlib.Path, say: Callable[[str], None]) -> Classes:
  """The images in each folder of a folder, both in the order of their names."""
  found: Classes = {}
  others: list[pathlib.Path] = []
  for path in _listed(place):
    if not path.is_dir():
      if _is_image(path):
        raise UserError(f"{path}: is an image beside folders of classes; move it "
                        "into one of them, or away")
      others.append(path)
      continue
    if (name := _normal(path.name)) in found:
      raise UserError(f"{path}: there are two folders of this name, in two "
                      "spellings of Unicode; make them one")
    inside = _listed(path)
    if folders := [each for each in inside if each.is_dir()]:
      raise UserError(f"{folders[0]}: is a folder within a class; move its images "
                      f"to {path}, or it away")
    found[name] = [each for each in inside if _is_image(each)]
    others += [each for each in inside if not _is_image(each)]
  if others:
    say(f"data: left out {counted(len(others), 'file')} in {place} that "
        f"{'is' if len(others) == 1 else 'are'} no images, such as {others[0]}")
  # By their names as people see them, whatever a file system makes of them.
  return dict(sorted(found.items()))


def _images(
    folder: pathlib.Path, paths: Sequence[pathlib.Path], asked: own.Asked,
    say: Callable[[str], None],
) -> np.ndarray:
  """The images of all files, uint8 `[N, H, W, C]`: as kept, or decoded."""
  how = [asked.resize, asked.channels, image_files.version()]
  name = image_cache.signature(folder, paths, how)
  if name and (kept := image_cache.load(name)) is not None and (
      len(kept) == len(paths)):
    say(f"data: {counted(len(kept), 'image')} as decoded before, from the cache")
    return kept
  begun = time.monotonic()
  images = _decoded(folder, paths, asked, say)
  if name and time.monotonic() - begun > _WORTH_KEEPING and (
      # What changed while it was read is another set.
      name == image_cache.signature(folder, paths, how)):
    try:
      image_cache.save(name, images)
    except OSError as error:
      say(f"data: decoded images are not kept for later runs ({error})")
  return images


def _decoded(
    folder: pathlib.Path, paths: Sequence[pathlib.Path], asked: own.Asked,
    say: Callable[[str], None],
) -> np.ndarray:
  """The images of all files, decoded by as many threads as there are cores."""
  if asked.resize:
    _refuse_larger(folder, len(paths), (*asked.resize, asked.channels or 1))
  images: np.ndarray | None = None
  wrong: list[str] = []
  first = paths[0]
  for number, (path, found) in enumerate(zip(paths, _each(paths, asked, say))):
    if isinstance(found, str):
      wrong.append(found)
    elif images is None:
      _refuse_larger(folder, len(paths), found.shape)
      images, first = np.empty((len(paths), *found.shape), np.uint8), path
    elif found.shape != images.shape[1:]:
      raise UserError(_unlike(first, images.shape[1:], path, found.shape))
    if images is not None and not isinstance(found, str):
      images[number] = found
  if wrong or images is None:
    more = len(wrong) - _NAMED
    raise UserError("\n".join(wrong[:_NAMED - (more > 0)]) + (
        f"\nand {more + 1} more of {len(paths)} images cannot be read" if more > 0
        else ""))
  return images


def _each(
    paths: Sequence[pathlib.Path], asked: own.Asked, say: Callable[[str], None]
) -> Iterator[np.ndarray | str]:
  """Each file's pixels in turn, or why it has none."""
  read = functools.partial(_read, size=asked.resize, channels=asked.channels)
  begun = shown = time.monotonic()
  with image_files.strictly(), (
      concurrent.futures.ThreadPoolExecutor(machine.cores())) as pool:
    # So many at a time, so that a refusal does not wait for all of them.
    for start in range(0, len(paths), _AT_ONCE):
      for place, found in enumerate(
          pool.map(read, paths[start:start + _AT_ONCE]), start):
        if (now := time.monotonic()) - shown > _REPORTED:
          shown, left = now, (now - begun) * (len(paths) - place) / max(place, 1)
          say(f"data: {place:,} of {len(paths):,} images are decoded, "
              f"{int(left) // 60}:{int(left) % 60:02d} left")
        yield found


def _read(
    path: pathlib.Path, size: tuple[int, int] | None, channels: int | None
) -> np.ndarray | str:
  try:
    return image_files.decoded(path, size, channels)
  except FileNotFoundError:
    return f"{path}: is a link to nothing, or gone"
  except (UserError, OSError) as error:
    return str(error)


def _taken(images: np.ndarray, places: Sequence[int]) -> np.ndarray:
  """Some of the images; a part as it lies there, where they stand together."""
  if places and list(places) == list(range(places[0], places[0] + len(places))):
    return images[places[0]:places[0] + len(places)]
  return images[np.array(places, np.int64)]


def _refuse_larger(
    folder: pathlib.Path, number: int, shape: tuple[int, ...]
) -> None:
  """Refuses so many images of a shape if they do not fit into memory."""
  needed, there = number * math.prod(shape), machine.memory()
  if needed > there:
    height, width, channels = shape
    raise UserError(
        f"{folder}: {number:,} images of {height} x {width} x {channels} take "
        f"{needed / 2**30:.1f} GiB, and this machine has {there / 2**30:.1f} GiB "
        "of memory; give a smaller --config.data.resize='(HEIGHT,WIDTH)'")


def _unlike(
    first: pathlib.Path, shape: tuple[int, ...], path: pathlib.Path,
    other: tuple[int, ...],
) -> str:
  """Two images that differ, and the keys that make all alike."""
  words, keys = [], []
  if shape[:2] != other[:2]:
    words.append("{0} x {1} pixels")
    keys.append(f"--config.data.resize='({shape[0]},{shape[1]})' to scale all to "
                "(HEIGHT,WIDTH)")
  if shape[2] != other[2]:
    words.append("{2}")
    keys.append("--config.data.channels=1 to make all grey, or 3 for colours")
  both = [" and ".join(words).format(
      *of[:2], "grey" if of[2] == 1 else "coloured") for of in (shape, other)]
  return f"{first} is {both[0]}, {path} is {both[1]}; give {', and '.join(keys)}"


def _has_classes(folder: pathlib.Path) -> bool:
  """Whether a folder has a folder with an image in it."""
  try:
    return any(path.is_dir() and any(map(_is_image, _there(path)))
               for path in _there(folder))
  except OSError:  # Of a folder that is not ours to look into.
    return False


def _is_image(path: pathlib.Path) -> bool:
  """Whether its name ends as those of images do, be it a link to nothing."""
  return path.suffix.lower() in image_files.suffixes() and not path.is_dir()


def _there(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """What is in a folder, without what is hidden or left by systems."""
  return (path for path in folder.iterdir()
          if not path.name.startswith(".")
          and path.name.lower() not in _LEFT_BY_SYSTEMS)


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(_there(folder))


def _normal(name: str) -> str:
  """A name in one spelling: a file system may take letters and accents apart.

  Raises:
    UserError: If it is no text.
  """
  try:
    name.encode()
  except UnicodeEncodeError:
    raise UserError(f"{name!r}: its name is not UTF-8; give another") from None
  return unicodedata.normalize("NFC", name)
