"""Raw files in a folder: idx, CIFAR's binary version, UCI's tables, or one .npz."""

from collections.abc import Callable, Sequence
import functools
import gzip
import hashlib
import io
import itertools
import math
import pathlib
import struct
import zipfile
import zlib

import numpy as np

from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.core.files import damage, refuse_pipes, replacing
from kd_jax.data import tables

# (train images, train labels, test images, test labels)
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_IDX = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)
# SHA-256 of the four files' content, uncompressed. That of the official .gz
# files is 440fcabf..., 3552534a..., 8d422c7b..., f7ae60f9...
_MNIST_SHA256 = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
# The kind of files a well-known set comes in, and where the official archives and
# torchvision put them; a user's own set may be of any kind, and is called
# otherwise.
KNOWN = {
    "mnist": ("idx", "MNIST/raw"),
    "fashion_mnist": ("idx", "FashionMNIST/raw"),
    "kmnist": ("idx", "KMNIST/raw"),
    "cifar10": ("cifar10", "cifar-10-batches-bin"),
    "cifar100": ("cifar100", "cifar-100-binary"),
    **{name: (name, "uci") for name in tables.KINDS},
}
# Files that name the classes, one a line.
_NAMES = ("classes.txt", "batches.meta.txt", "fine_label_names.txt")
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
# Beside these there may be the weights of the training examples.
_WEIGHTS = "w_train"
# Of what a file may hold beside its arrays.
Weights = np.ndarray | None


def find(
    name: str, directory: pathlib.Path, *, say: Callable[[str], None]
) -> tuple[Arrays, Weights] | None:
  """The arrays of a set, from the first folder that holds its files.

  Looks for `directory/name.npz`, then in `directory/name`, in the official
  folder names and in `directory` itself.

  Args:
    name: Name of the set; names that are not known are a user's own sets.
    directory: An existing folder.
    say: Receives a line for each folder that is passed over.

  Returns:
    uint8 images `[N, H, W, C]`, or another kind of inputs, and int32 labels `[N]`,
    train then test; and the weights of the training examples as they are, or None.
    None if no folder holds files of a known kind.

  Raises:
    UserError: If a file is missing beside others of its set, truncated,
      malformed or not the official one.
  """
  own = directory / f"{name}.npz"
  if own.exists():  # What is no file is refused when it is read.
    return _of_npz(own)
  kinds, folders = _KINDS, [directory / name, directory]
  if name in KNOWN:
    kind, official = KNOWN[name]
    kinds = {kind: _KINDS.get(kind) or _table(kind)}
    folders.insert(1, directory / official)
  for folder in filter(pathlib.Path.is_dir, folders):
    for names, read in kinds.values():
      if files := _files(folder, names):
        arrays = as_arrays(read(files), folder)
        if names is _IDX:
          _refuse_other(name, files, arrays)
        return arrays, None
    if archive := _archive(name, folder):
      return _of_npz(archive)
    say(f"data: {folder} passed over: no files of {name} of a known kind (idx, "
        "CIFAR's binary version, UCI's tables, .npz, folders of images)")
  return None


def numbered(arrays: Arrays, first_class: int) -> Arrays:
  """The arrays with labels from 0, of such from another number; -1 stays unknown.

  Example:
    >>> labels = np.array([1, 2, -1], np.int32)
    >>> numbered((labels, labels, labels, labels), 1)[1].tolist()
    [0, 1, -1]
  """
  if not first_class:
    return arrays
  train, test = (
      np.where((label == -1) & (first_class > -1), -1, label - first_class)
      for label in arrays[1::2])
  for label, from_0 in zip(arrays[1::2], (train, test)):
    if (from_0 < -1).any() or ((from_0 == -1) & (label != -1)).any():
      raise UserError(f"data.first_class={first_class}: there are labels from "
                      f"{label[label != -1].min()}; give the smallest")
  return arrays[0], train, arrays[2], test


def class_names(name: str, directory: pathlib.Path) -> tuple[str, ...]:
  """The names of the classes of a set, from a file beside it; () if there is none.

  A user writes a name a line into `classes.txt`; the archives of CIFAR have files
  of their own.
  """
  folders = [directory / name, *(
      [directory / KNOWN[name][1]] if name in KNOWN else [])]
  for folder, file in itertools.product(folders, _NAMES):
    if (folder / file).is_file():
      lines = (folder / file).read_text(errors="replace").splitlines()
      return tuple(line.strip() for line in lines if line.strip())
  return ()


def is_mnist(arrays: Arrays) -> bool:
  """Whether arrays have the SHA-256 of MNIST's files, whatever they came from."""
  return all(_of_mnist(arrays))


def _of_mnist(arrays: Arrays) -> list[bool]:
  """Which of the arrays are those of MNIST's files."""
  return [hashlib.sha256(_idx(array)).hexdigest() == official
          for array, official in zip(arrays, _MNIST_SHA256)]


def _idx(array: np.ndarray) -> bytes:
  """An array as the content of an idx file; images without their channel."""
  sizes = array.shape[:3]
  header = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
  return header + np.ascontiguousarray(array.astype(np.uint8)).tobytes()


def _refuse_other(name: str, files: list[pathlib.Path], arrays: Arrays) -> None:
  """Refuses files as MNIST's that are not, and MNIST's under another name."""
  for path, official in zip(files, _of_mnist(arrays)):
    if name == "mnist" and not official:
      raise UserError(
          f"{path}: wrong checksum, so not MNIST's official file; fetch it "
          "again, or give your own data another data.name")
    if name != "mnist" and official:
      raise UserError(
          f"{path}: this is MNIST's file, not one of {name}; for MNIST give "
          "data.name=mnist")


def _files(folder: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path]:
  """The files of these names, all of them; none if not one is there."""
  found, missing = [], []
  for name in names:
    # Some archives write t10k-images.idx3-ubyte.
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = [folder / (s + end) for s in spellings for end in ("", ".gz")]
    existing = [file for file in candidates if file.exists()]
    found += existing[:1]
    missing += [] if existing else [name]
  if found and missing:
    raise UserError(
        f"{folder}: has {found[0].name} but lacks {', '.join(missing)}")
  return found


def _archive(name: str, folder: pathlib.Path) -> pathlib.Path | None:
  """In a folder called NAME: NAME.npz, or the only .npz with such arrays."""
  last = pathlib.PurePath(name).name
  if folder.name != last:
    return None
  archives = [file for file in folder.glob("*.npz") if _holds_arrays(file)]
  named = [file for file in archives if file.stem == last]
  return (named or archives)[0] if len(named or archives) == 1 else None


def _holds_arrays(path: pathlib.Path) -> bool:
  try:
    refuse_pipes(path)
    with zipfile.ZipFile(path) as archive:
      return any(f"{key}.npy" in archive.namelist() for key in _NPZ_KEYS)
  except (OSError, zipfile.BadZipFile):
    return True  # Reading it will say what is wrong.


def _read_idx(files: list[pathlib.Path]) -> list[np.ndarray]:
  return [_parse_idx(_content(path), path) for path in files]


def _content(path: pathlib.Path) -> bytes:
  try:
    refuse_pipes(path)
    content = hosts.read(path)
    return gzip.decompress(content) if path.suffix == ".gz" else content
  except (EOFError, OSError, zlib.error, MemoryError) as error:
    raise UserError(f"{path}: truncated or unreadable "
                    f"({damage(error)})") from None


def _parse_idx(content: bytes, path: pathlib.Path) -> np.ndarray:
  """An idx array of bytes: 0, 0, 8, rank, sizes as big-endian uint32, data."""
  if len(content) < 4 or content[:3] != b"\x00\x00\x08":
    raise UserError(f"{path}: not an idx file of unsigned bytes")
  start = 4 + 4 * content[3]
  whole = len(content) >= start
  sizes = struct.unpack(f">{content[3]}I", content[4:start]) if whole else ()
  expected = start + math.prod(sizes)
  if len(content) != expected:
    raise UserError(
        f"{path}: truncated or damaged: {len(content)} bytes where its header "
        f"says {expected}; fetch it again")
  return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _read_cifar(files: list[pathlib.Path], label_bytes: int) -> list[np.ndarray]:
  """CIFAR's binary version: label byte(s), then 3 x 32 x 32 pixels, planar."""
  size = label_bytes + 3072
  arrays = []
  for part in (files[:-1], files[-1:]):
    records = []
    for file in part:
      content = _content(file)
      if not content or len(content) % size:
        raise UserError(
            f"{file}: truncated: {len(content)} bytes are no whole number of "
            f"{size}-byte records; fetch it again")
      records.append(np.frombuffer(content, np.uint8).reshape(-1, size))
    rows = np.concatenate(records)
    pixels = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    # CIFAR-100 stores the coarse label first; the fine one is the last.
    arrays += [pixels.transpose(0, 2, 3, 1), rows[:, label_bytes - 1]]
  return arrays


# File names, training files before those of the test, and what reads the files.
_KINDS: dict[str, tuple[Sequence[str], Callable[..., list[np.ndarray]]]] = {
    "idx": (_IDX, _read_idx),
    "cifar10": ((*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
                functools.partial(_read_cifar, label_bytes=1)),
    "cifar100": (("train.bin", "test.bin"),
                 functools.partial(_read_cifar, label_bytes=2)),
}


def _table(name: str) -> tuple[Sequence[str], Callable[..., list[np.ndarray]]]:
  """File names of a table, and what reads the files."""
  names, parse = tables.KINDS[name]

  def read(files: list[pathlib.Path]) -> list[np.ndarray]:
    try:
      return parse([_content(file).decode("ascii") for file in files])
    except ValueError as error:
      raise UserError(f"{files[0]}: not the official file of {name} "
                      f"({damage(error)}); fetch it again") from None

  return names, read


def _of_npz(path: pathlib.Path) -> tuple[Arrays, Weights]:
  arrays = _read_npz(path)
  four = as_arrays([arrays[key] for key in _NPZ_KEYS], path)
  return four, arrays.get(_WEIGHTS)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  content = io.BytesIO(_content(path))
  if not zipfile.is_zipfile(content):
    raise UserError(f"{path}: truncated, or not an .npz archive")
  try:
    with np.load(content, allow_pickle=False) as archive:
      missing = [key for key in _NPZ_KEYS if key not in archive]
      if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; it holds "
            f"{', '.join(archive) or 'nothing'}, and must hold "
            f"{', '.join(_NPZ_KEYS)}")
      return {key: np.asarray(archive[key])
              for key in (*_NPZ_KEYS, _WEIGHTS) if key in archive}
  except UserError:
    raise
  except Exception as error:  # Whatever damage makes NumPy raise.
    raise UserError(f"{path}: unreadable as .npz ({damage(error)})") from None


def as_arrays(arrays: list[np.ndarray], path: pathlib.Path | str) -> Arrays:
  """Train inputs, train labels, test inputs and test labels as a data set has them.

  Args:
    arrays: These four, of other types.
    path: What they are called in a refusal.

  Raises:
    UserError: If one of them is of a type or shape that is not taken.
  """
  train_inputs, train_label, test_inputs, test_label = arrays
  return (
      _as_inputs(train_inputs, path), _as_labels(train_label, path),
      _as_inputs(test_inputs, path), _as_labels(test_label, path))


def write(
    file: pathlib.Path, arrays: Arrays, names: Sequence[str],
    weights: Weights = None,
) -> None:
  """Writes arrays as an .npz that `find` takes, and `classes.txt` beside it.

  Raises:
    UserError: If there are other arrays, or other names, in that place.
  """
  classes = file.parent / _NAMES[0]
  text = "".join(f"{name}\n" for name in names)
  keyed = dict(zip(_NPZ_KEYS, arrays)) | (
      {} if weights is None else {_WEIGHTS: weights})
  if file.exists():
    there = classes.read_text(encoding="utf-8") if classes.exists() else ""
    kept = _read_npz(file)
    if there != text or kept.keys() != keyed.keys() or any(
        x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes()
        for x, y in ((kept[key], keyed[key]) for key in keyed)):
      raise UserError(f"{file}: holds another data set; give another name or "
                      "directory, or move it away")
    return
  file.parent.mkdir(parents=True, exist_ok=True)
  if names:
    classes.write_text(text, encoding="utf-8")
  with replacing(file) as fresh, fresh.open("wb") as out:
    np.savez(out, **keyed)  # type: ignore[arg-type]


def _as_inputs(inputs: np.ndarray, path: pathlib.Path | str) -> np.ndarray:
  """Images `[N, H, W, C]` and tables `[N, F]` of floats as float32, other images
  as uint8, and token ids as int32 `[N, L]`."""
  kind, images = inputs.dtype.kind, inputs.ndim in (3, 4)
  shaped = inputs[..., None] if inputs.ndim == 3 else inputs
  if images and inputs.dtype == np.uint8:
    return np.ascontiguousarray(shaped)
  if kind == "f" and (images or inputs.ndim == 2):
    with np.errstate(over="ignore"):  # What float32 does not hold is told later.
      return np.ascontiguousarray(shaped, np.float32)
  if inputs.ndim == 2 and kind in "iu" and inputs.dtype != np.uint8 and (
      not inputs.size or 0 <= inputs.min() <= inputs.max() < 2**31):
    return np.ascontiguousarray(inputs, np.int32)
  raise UserError(
      f"{path}: inputs must be images [N, H, W] or [N, H, W, C] of uint8 or floats"
      ", a table [N, F] of floats, or token ids [N, L] of a wider integer type, "
      f"from 0; got {inputs.dtype} {list(inputs.shape)}{_remedy(inputs, images)}")


def _remedy(inputs: np.ndarray, images: bool) -> str:
  """How to save inputs of a type that is not taken."""
  kind = inputs.dtype.kind
  if kind not in "iub" or not inputs.size or not (images or inputs.ndim == 2):
    return ""
  low, high = int(inputs.min()), int(inputs.max())
  found = f", {low} to {high}; save "
  if not images:
    return (
        f"{found}flat images as x.reshape(-1, H, W), a table as x.astype('float32')"
        ", or token ids as x.astype('int32')" if inputs.dtype == np.uint8 else
        f"; token ids from {low} to {high}, must be 0 to 2**31 - 1; save a table "
        "as x.astype('float32')")
  if low >= 0 and 1 < high <= 255:
    return f"{found}x.astype('uint8')"
  if kind == "b" or max(high, -low) <= 1:
    return f"{found}x.astype('float32')"
  largest = (np.iinfo(inputs.dtype).max if inputs.dtype.itemsize == 2
             else max(high, -low))
  return (f"{found}(x / {largest}).astype('float32'), or divide by the largest "
          "number that there can be")


def _as_labels(label: np.ndarray, path: pathlib.Path | str) -> np.ndarray:
  if label.ndim == 2 and label.shape[1] == 1:
    label = label[:, 0]
  if label.ndim != 1 or label.dtype.kind not in "iu":
    raise UserError(
        f"{path}: labels must be integers [N], got {label.dtype} "
        f"{list(label.shape)}; {_integers(label)}")
  whole = label.astype(np.int32)
  if not np.array_equal(whole, label):
    raise UserError(f"{path}: labels beyond 32 bits; number classes from 0")
  return whole


def _integers(label: np.ndarray) -> str:
  """How to make classes of labels of another kind."""
  if label.ndim == 2 and label.dtype.kind in "iufb":
    return "if they are one-hot, save y.argmax(1)"
  if label.ndim == 1 and label.dtype.kind in "US":
    return "save numpy.unique(y, return_inverse=True)[1] of both parts together"
  if label.ndim == 1 and label.dtype.kind in "fb" and not (label % 1).any():
    return "save y.astype('int32')"
  return "number the classes from 0"
