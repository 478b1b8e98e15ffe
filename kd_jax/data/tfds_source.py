"""TensorFlow Datasets (TFDS): sets that are prepared, or that it prepares.

Sets prepared as array_record are read without TensorFlow. To prepare a set, or to
read tfrecord, TensorFlow is needed.
"""

from collections.abc import Callable
import contextlib
import logging
import os
import pathlib
import threading

import numpy as np

from kd_jax.core import hosts
from kd_jax.core.errors import UserError, nearest
from kd_jax.data.own import few

# Where TFDS downloads from. We try it first, since its own attempts hang for
# minutes.
_PROBE = "https://storage.googleapis.com"
_PROBE_SECONDS = 3.5
_CHUNK = 2048
# The format of files that needs no TensorFlow, and gives single examples.
_BY_EXAMPLE = "array_record"


class Unavailable(Exception):
  """TFDS knows the set, but it can be neither read nor fetched here."""


def load(
    name: str,
    *,
    directory: str | os.PathLike | None = None,
    resize: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
    fetching: Callable[[str], None] | None = None,
) -> tuple[
    tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int, tuple[str, ...]]:
  """Reads a set through TFDS, preparing it first where the network allows.

  Args:
    name: Name of an image-classification set.
    directory: TFDS's data folder, looked at before its own (TFDS_DATA_DIR or
      ~/tensorflow_datasets).
    resize: `(height, width)` to scale images to; needed where sizes differ.
    say: Receives a line for each long step.
    fetching: Receives the line before a download instead; it may refuse it.

  Returns:
    uint8 images `[N, H, W, C]` and int32 labels `[N]`, train then test (or
    validation, where a set has no test part), the class count, and their names.

  Raises:
    Unavailable: If the set is not prepared and cannot be.
    UserError: If the name is unknown, the set does not fit or is damaged.
  """
  tfds = import_tfds()
  builder = _prepared_builder(tfds, name, directory)
  if builder is None:
    builder = known_builder(tfds, name, directory)
    _keys(builder, name)  # Refused, if at all, before anything is downloaded.
    _require_network()
    (fetching or say)(
        f"data: TFDS downloads and prepares {name} in {builder.data_dir}")
    prepare(builder)
  keys = _keys(builder, name)
  splits = ("train", _test_split(builder, name))
  file_format = builder.info.file_format.value
  if file_format != _BY_EXAMPLE:
    _import_tensorflow(f"reading {file_format}")
    say(f"data: {name} was prepared as {file_format}: read once through "
        "TensorFlow (array_record would not need it)")
  train, test = (_read(builder, name, split, keys, resize) for split in splits)
  label = builder.info.features[keys[1]]
  return (*train, *test), label.num_classes, tuple(label.names)


def prepare(builder) -> None:
  """Downloads (or takes from the download cache) and writes array_record."""
  tfds = import_tfds()
  _import_tensorflow("preparing a set with TFDS")
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  try:
    builder.download_and_prepare(
        file_format=_BY_EXAMPLE, download_config=config)
  except Exception as error:  # TFDS raises whatever its builders raise.
    raise Unavailable(f"TFDS could not prepare it: {_line(error)}") from error


def import_tfds():
  """Imports TFDS when it is first needed; Unavailable if it is not installed."""
  try:
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise Unavailable(
        "tensorflow-datasets is not installed: pip install tensorflow-datasets "
        "importlib_resources"
    ) from None
  # Its advice to install OpenCV and its notices of beam are not for our users.
  logging.getLogger("absl").setLevel(logging.ERROR)
  return tfds


def _import_tensorflow(purpose: str) -> None:
  """Imports TensorFlow and hides the accelerators from it, since JAX uses them."""
  try:
    import tensorflow as tf  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise Unavailable(
        f"{purpose} needs TensorFlow: pip install tensorflow-cpu (tensorflow "
        "on macOS)") from None
  with contextlib.suppress(RuntimeError):  # Already in use by the caller.
    tf.config.set_visible_devices([], "GPU")


def _prepared_builder(tfds, name, directory):
  """A builder of the set that is prepared on disk, or None."""
  # pylint: disable-next=g-import-not-at-top
  from tensorflow_datasets.core import naming, read_only_builder
  try:
    naming.parse_builder_name_kwargs(name)
  except ValueError:
    return None
  for where in ([directory, None] if directory else [None]):
    try:
      return read_only_builder.builder_from_files(name, data_dir=where)
    except tfds.core.registered.DatasetNotFoundError:
      continue
    except Exception as error:  # Whatever its files may raise.
      raise _unreadable(
          name, f"what TFDS prepared in {where or 'its own folder'}",
          error) from None
  return None


def _unreadable(name: str, what: str, error: Exception) -> UserError:
  return UserError(
      f"data.name={name}: {what} is unreadable ({_line(error)}); "
      "delete it and prepare it again")


def known_builder(tfds, name: str, directory: str | os.PathLike | None):
  """A builder of a set that TFDS can prepare; UserError if it cannot."""
  # TFDS would search for an unknown name among community sets, on line and slowly.
  names = tfds.list_builders(with_community_datasets=False)
  if name.split("/")[0].split(":")[0] not in names:
    where, there = "data.dir gives no folder", []
    if directory and (folder := pathlib.Path(directory)).is_dir():
      there = sorted(path.stem for path in folder.iterdir()
                     if not path.name.startswith("."))
      where = (f"no {name} or {name}.npz in {folder}, which has "
               f"{few(there) or 'nothing'}")
    near = nearest(name, {*names, *there})
    raise UserError(
        f"data.name={name}: no such set in TFDS, and {where}"
        + (f"; {near}" if near.startswith("did") or not there else ""))
  try:
    return tfds.builder(
        name, data_dir=directory, try_gcs=False, file_format=_BY_EXAMPLE)
  except Exception as error:  # Of a config or version that does not exist, ...
    raise UserError(f"data.name={name}: {_line(error)}") from None


def _line(error: Exception) -> str:
  """The kind of an error and its first line, without TFDS's "Failed to ..."."""
  first = (str(error).strip().splitlines() or [""])[0].split('}": ')[-1]
  return f"{type(error).__name__}: {first[:200].rstrip(':')}"


def _require_network() -> None:
  """Refuses to go on without network; in a thread, as look-ups ignore time-outs."""
  import requests  # pylint: disable=g-import-not-at-top
  answered = threading.Event()

  def ask():
    with contextlib.suppress(Exception):  # For any reason, nothing answered.
      requests.head(_PROBE, timeout=_PROBE_SECONDS)
      answered.set()

  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(_PROBE_SECONDS)
  if not answered.is_set():
    raise Unavailable(
        "no raw files, no prepared TFDS set, and no network to download it")


def _keys(builder, name: str) -> tuple[str, str]:
  """Names of the image and the label feature."""
  tfds = import_tfds()
  features = builder.info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    features = {}
  keys = builder.info.supervised_keys or ("image", "label")
  # Sets of other kinds have nested keys, or features without names.
  image, label = (
      features[key] if isinstance(key, str) and key in features else None
      for key in keys[:2])
  if not (isinstance(image, tfds.features.Image) and
          isinstance(label, tfds.features.ClassLabel) and label.num_classes):
    raise UserError(
        f"data.name={name}: not an image-classification set (its features are "
        f"{', '.join(features)})")
  if image.np_dtype != np.uint8:
    raise UserError(
        f"data.name={name}: its images are {np.dtype(image.np_dtype)}, "
        "not uint8")
  return keys[0], keys[1]


def _test_split(builder, name: str) -> str:
  splits = builder.info.splits
  for split in ("test", "validation"):
    if split in splits and "train" in splits:
      return split
  raise UserError(
      f"data.name={name}: needs a train and a test split, has "
      f"{', '.join(splits)}")


def _read(builder, name, split, keys, resize):
  """All images and labels of a split."""
  images, labels = [], []
  for image, label in _examples(builder, name, split, keys):
    images.append(_sized(image, resize))
    labels.append(label)
    if images[-1].shape != images[0].shape:
      raise UserError(
          f"data.name={name}: its images differ in size: {images[0].shape}, "
          f"{images[-1].shape}; give --config.data.resize='(HEIGHT,WIDTH)'")
  found = np.asarray(images, np.uint8), np.asarray(labels, np.int32)
  if builder.info.file_format.value != _BY_EXAMPLE:
    return found
  number = builder.info.splits[split].num_examples
  return tuple(hosts.joined(array, number) for array in found)


def _examples(builder, name, split, keys):
  """Yields `(image, label)` of each example, in the order of the files.

  A process reads its share of them, or all where single ones cannot be read.
  """
  try:
    if builder.info.file_format.value != _BY_EXAMPLE:
      for example in import_tfds().as_numpy(builder.as_dataset(split=split)):
        yield example[keys[0]], int(example[keys[1]])
      return
    source = builder.as_data_source(split=split)
    own = hosts.share(len(source))
    for start in range(own.start, own.stop, _CHUNK):
      stop = min(start + _CHUNK, own.stop)
      for example in source.__getitems__(list(range(start, stop))):
        yield np.asarray(example[keys[0]]), int(example[keys[1]])
  except Exception as error:  # Whatever damaged files may raise.
    raise _unreadable(
        name, f"the {split} part in {builder.data_dir}", error) from error


def _sized(image: np.ndarray, resize: tuple[int, int] | None) -> np.ndarray:
  if resize is None or image.shape[:2] == tuple(resize):
    return image
  from PIL import Image  # pylint: disable=g-import-not-at-top
  flat = image[..., 0] if image.shape[-1] == 1 else image
  height, width = resize
  scaled = Image.fromarray(flat).resize(
      (width, height), Image.Resampling.BILINEAR)
  return np.asarray(scaled).reshape(height, width, image.shape[-1])
