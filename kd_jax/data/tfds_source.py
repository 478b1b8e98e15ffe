"""TensorFlow Datasets: prepared sets, or sets it downloads and prepares.

Sets prepared as array_record are read without importing TensorFlow; preparing,
and reading tfrecord, need it.
"""

from collections.abc import Callable
import logging
import os
import pathlib
import shutil
import threading

import numpy as np

from kd_jax.errors import UserError, nearest

# Where TFDS fetches from; asked first, because its own attempts hang for minutes.
_PROBE = "https://storage.googleapis.com"
_PROBE_SECONDS = 4.0
_CHUNK = 2048


class Unavailable(Exception):
  """TFDS knows the set, but it can be neither read nor fetched here."""


def load(
    name: str,
    *,
    directory: str | os.PathLike | None = None,
    resize: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]:
  """Reads a set through TFDS, preparing it first where the network allows.

  Args:
    name: Name of an image-classification set.
    directory: TFDS's data folder; default its own (TFDS_DATA_DIR or
      ~/tensorflow_datasets).
    resize: `(height, width)` to scale images to; needed where sizes differ.
    say: Receives a line for each long step.

  Returns:
    uint8 images `[N, H, W, C]` and int32 labels `[N]`, train then test (or
    validation, where a set has no labelled test part), and the class count.

  Raises:
    Unavailable: If the set is not prepared and cannot be.
    UserError: If the name is unknown or the set does not fit.
  """
  tfds = _import_tfds()
  builder = _prepared_builder(tfds, name, directory)
  if builder is None:
    builder = _known_builder(tfds, name, directory)
    _require_network()
    say(f"data: TFDS downloads and prepares {name} in {builder.data_dir}")
    prepare(builder)
  image_key, label_key = _keys(builder, name)
  parts = []
  for split in ("train", _test_split(builder, name)):
    parts += _read(builder, split, image_key, label_key, resize, say)
  return tuple(parts), builder.info.features[label_key].num_classes


def prepare(builder) -> None:
  """Downloads (or takes from the download cache) and writes array_record."""
  tfds = _import_tfds()
  try:
    import tensorflow  # pylint: disable=g-import-not-at-top,unused-import
  except ImportError:
    raise Unavailable(
        "preparing a set with TFDS needs TensorFlow: pip install tensorflow-cpu "
        "(tensorflow on macOS)") from None
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  try:
    builder.download_and_prepare(
        file_format="array_record", download_config=config)
  except Exception as error:  # TFDS raises whatever its builders raise.
    first = str(error).strip().splitlines()[:1]
    raise Unavailable(
        f"TFDS could not prepare it: {type(error).__name__}: "
        f"{(first or [''])[0][:160]}") from error


def prepare_from(
    name: str,
    source: pathlib.Path,
    *,
    directory: str | os.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
  """Prepares a set without network from its official files in a folder.

  Args:
    name: Name of a set that TFDS knows.
    source: Folder that holds the files under their official names.
    directory: TFDS's data folder; default its own.
    say: Receives a line for each file.

  Returns:
    The folder of the prepared set.

  Raises:
    UserError: If a file is missing or TFDS does not list the set's files.
    Unavailable: If TensorFlow is not installed or a checksum is wrong.
  """
  tfds = _import_tfds()
  # pylint: disable=g-import-not-at-top
  from etils import epath
  from tensorflow_datasets.core.download import resource
  # pylint: enable=g-import-not-at-top
  if not source.is_dir():
    raise UserError(f"--from {source}: there is no such folder")
  builder = _known_builder(tfds, name, directory)
  if not builder.url_infos:
    raise UserError(f"{name}: TFDS does not list the files this set is made of")
  cache = pathlib.Path(builder._data_dir_root) / "downloads"
  cache.mkdir(parents=True, exist_ok=True)
  for url, info in builder.url_infos.items():
    file = source / url.rsplit("/", 1)[-1]
    if not file.is_file():
      raise UserError(f"--from {source}: lacks {file.name}, a file of {name}")
    target = cache / resource.get_dl_fname(url, info.checksum)
    shutil.copyfile(file, target)
    resource.write_info_file(
        url=url, path=epath.Path(target), dataset_name=name,
        original_fname=file.name, url_info=info)
    say(f"data: {file.name} -> {target}")
  prepare(builder)
  return pathlib.Path(builder.data_dir)


def _import_tfds():
  try:
    import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise Unavailable(
        "tensorflow-datasets is not installed: pip install 'kd_jax[data]'"
    ) from None
  # Its advice to install OpenCV and its notices of beam are not for our users.
  logging.getLogger("absl").setLevel(logging.ERROR)
  return tfds


def _prepared_builder(tfds, name, directory):
  """A builder of the set as it lies prepared on disk, or None."""
  # pylint: disable-next=g-import-not-at-top
  from tensorflow_datasets.core import read_only_builder
  for where in ([directory, None] if directory else [None]):
    try:
      return read_only_builder.builder_from_files(name, data_dir=where)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, OSError):
      continue
  return None


def _known_builder(tfds, name, directory):
  # TFDS looks an unknown name up among community sets, on line, for long.
  names = tfds.list_builders(with_community_datasets=False)
  if name.split("/")[0].split(":")[0] not in names:
    raise UserError(
        f"data.name={name}: no such set in TFDS, and no folder of raw files of "
        f"that name; {nearest(name, names)}")
  return tfds.builder(
      name, data_dir=directory, try_gcs=False, file_format="array_record")


def _require_network() -> None:
  """Finds out within seconds, in a thread, as name look-ups ignore time-outs."""
  import requests  # pylint: disable=g-import-not-at-top
  answered = threading.Event()

  def ask():
    try:
      requests.head(_PROBE, timeout=_PROBE_SECONDS)
      answered.set()
    except requests.RequestException:
      pass

  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(_PROBE_SECONDS)
  if not answered.is_set():
    raise Unavailable(
        "no raw files, no prepared TFDS set, and no network to download it from")


def _keys(builder, name: str) -> tuple[str, str]:
  """Names of the image and the label feature."""
  features = builder.info.features
  keys = builder.info.supervised_keys or ("image", "label")
  image, label = keys[0], keys[1]
  classes = getattr(features[label] if label in features else None,
                    "num_classes", None)
  if image not in features or classes is None:
    raise UserError(
        f"data.name={name}: not an image-classification set (its features are "
        f"{', '.join(features)})")
  return image, label


def _test_split(builder, name: str) -> str:
  splits = builder.info.splits
  for split in ("test", "validation"):
    if split in splits and "train" in splits:
      return split
  raise UserError(
      f"data.name={name}: needs a train and a test split, has "
      f"{', '.join(splits)}")


def _read(builder, split, image_key, label_key, resize, say):
  """All images and labels of a split."""
  images, labels = [], []
  for example in _examples(builder, split, say):
    images.append(_sized(np.asarray(example[image_key]), resize))
    labels.append(int(example[label_key]))
  shapes = {image.shape for image in images}
  if len(shapes) != 1:
    raise UserError(
        f"data.name={builder.name}: its images differ in size; give "
        "--config.data.resize='(HEIGHT,WIDTH)'")
  stacked = np.stack(images)
  if stacked.dtype != np.uint8:
    raise UserError(
        f"data.name={builder.name}: images are {stacked.dtype}, not uint8")
  return stacked, np.asarray(labels, np.int32)


def _examples(builder, split, say):
  tfds = _import_tfds()
  file_format = builder.info.file_format
  if file_format != tfds.core.FileFormat.ARRAY_RECORD:
    say(f"data: {builder.name} was prepared as {file_format.value}: read once "
        "through TensorFlow (array_record would not need it)")
    try:
      yield from tfds.as_numpy(builder.as_dataset(split=split))
    except ImportError:
      raise Unavailable(
          f"reading {file_format.value} needs TensorFlow: "
          "pip install tensorflow-cpu") from None
    return
  source = builder.as_data_source(split=split)
  for start in range(0, len(source), _CHUNK):
    stop = min(start + _CHUNK, len(source))
    yield from source.__getitems__(list(range(start, stop)))


def _sized(image: np.ndarray, resize: tuple[int, int] | None) -> np.ndarray:
  if resize is None or image.shape[:2] == tuple(resize):
    return image
  from PIL import Image  # pylint: disable=g-import-not-at-top
  flat = image[..., 0] if image.shape[-1] == 1 else image
  height, width = resize
  scaled = Image.fromarray(flat).resize((width, height), Image.BILINEAR)
  return np.asarray(scaled).reshape(height, width, image.shape[-1])
