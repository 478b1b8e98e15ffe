"""Folders of images: classes are their names, and nothing is learnt wrong."""

import hashlib
import json
import os
import pathlib
import re
import threading
import time
import unicodedata

import numpy as np
from PIL import Image
import pytest

from kd_jax import data as data_lib
from kd_jax import main
from kd_jax.core import machine
from kd_jax.core.errors import UserError
from kd_jax.data import image_cache, image_files, image_folders, own
from kd_jax.runs.doctor import sources


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory) -> pathlib.Path:
  """An empty cache, which keeps all that is decoded, however new it is."""
  home = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("XDG_CACHE_HOME", str(home))
  monkeypatch.delenv(data_lib.ENVIRONMENT_VARIABLE, raising=False)
  monkeypatch.setattr(image_cache, "_SETTLED", -1.0)
  monkeypatch.setattr(image_folders, "_WORTH_KEEPING", -1.0)
  return home / "kd_jax/images"


def save(file: pathlib.Path, pixels: np.ndarray) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(file)


def drawn(seed: int, shape=(6, 5, 3)) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


CLASSES = ("an owl", "chat", "été")


@pytest.fixture(name="pets")
def fixture_pets(tmp_path) -> pathlib.Path:
  """DIR/pets: 4 training and 2 test images a class, called 0.png, 1.PNG, ..."""
  for part, first, last in (("train", 0, 4), ("test", 4, 6)):
    for number, name in enumerate(CLASSES):
      for i in range(first, last):
        save(tmp_path / f"pets/{part}/{name}/{i}.{'PNG' if i % 2 else 'png'}",
             drawn(10 * number + i))
  return tmp_path


def load(directory, name="pets", **how):
  lines: list[str] = []
  found = data_lib.load(name, directory=directory, say=lines.append, **how)
  return found, " ".join(lines)


def refusal(directory, name="pets", **how) -> str:
  with pytest.raises(UserError) as error:
    load(directory, name, **how)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_an_image_folder_has_every_pixel_in_the_order_of_names(pets):
  found, told = load(pets)
  assert found.source == "images" and found.class_names == CLASSES
  assert found.train.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4
  assert found.test.label.tolist() == [0, 0, 1, 1, 2, 2]
  for part, first, last in ((found.train, 0, 4), (found.test, 4, 6)):
    expected = [drawn(10 * number + i) for number in range(3)
                for i in range(first, last)]
    np.testing.assert_array_equal(part.inputs, expected)
  assert "an owl, chat, été" in told and not found.notice
  # The folder itself may be given, under any name that is no known set.
  np.testing.assert_array_equal(
      load(pets / "pets", "anything")[0].train.inputs, found.train.inputs)


def test_what_systems_leave_is_skipped_and_other_files_are_told(pets):
  before = load(pets)[0].fingerprint
  train = pets / "pets/train"
  for file in (".DS_Store", "chat/Thumbs.db", "chat/._0.png", "chat/desktop.ini",
               "__MACOSX/chat/0.png", ".hidden/0.png"):
    (train / file).parent.mkdir(parents=True, exist_ok=True)
    (train / file).write_bytes(b"junk")
  found, told = load(pets)
  assert found.fingerprint == before and "left out" not in told
  (train / "chat/notes.txt").write_text("a note")
  (train / "labels.csv").write_text("a,b")
  found, told = load(pets)
  assert found.fingerprint == before
  assert "left out 2 files" in told and str(train / "chat/notes.txt") in told


def test_links_to_images_and_to_classes_are_followed(pets):
  train = pets / "pets/train"
  before = load(pets)[0].fingerprint
  (train / "chat").rename(pets / "elsewhere")
  (train / "chat").symlink_to(pets / "elsewhere")
  (pets / "elsewhere/0.png").rename(pets / "one.png")
  (pets / "elsewhere/0.png").symlink_to(pets / "one.png")
  assert load(pets)[0].fingerprint == before
  (pets / "one.png").unlink()
  assert "chat/0.png: is a link to nothing" in refusal(pets)


@pytest.mark.parametrize("kind", ["NFC", "NFD"])
def test_a_name_in_two_spellings_of_unicode_is_one_class(pets, kind):
  test = pets / "pets/test"
  (test / "été").rename(test / unicodedata.normalize(kind, "été"))
  assert load(pets)[0].class_names == CLASSES
  (pets / "pets/train" / unicodedata.normalize("NFD", "été")).mkdir()
  assert "two spellings" in refusal(pets)


def test_a_validation_folder_is_the_test_set_if_there_is_no_other(pets):
  (pets / "pets/val").mkdir()
  for number, name in enumerate(CLASSES):
    save(pets / f"pets/val/{name}/0.png", drawn(99 + number))
  found, told = load(pets)
  assert len(found.test.label) == 6 and "val is left out" in told
  (pets / "pets/test").rename(pets / "gone")
  found, told = load(pets)
  assert len(found.test.label) == 3 and "val is the test set" in told


# Classes that do not fit.


def test_folders_of_other_names_are_told_with_what_was_looked_for(pets):
  place = pets / "pets"
  looked = (f"{place}: looked for folders of images, train/CLASS and test/CLASS or "
            "CLASS alone, for one .npz and for tables; it has ")
  (place / "train").rename(place / "training")
  assert refusal(pets) == looked + "test, training; rename training to train"
  assert refusal(place, "cats").startswith(f"{place}: looked for")
  (place / "test").rename(place / "testing")
  assert refusal(pets) == (
      looked + "testing, training; rename testing to test, training to train")
  (place / "training").rename(place / "pictures")
  (place / "testing").rename(place / "others")
  assert refusal(pets) == looked + "others, pictures"
  # A folder of several sets is none that is called wrongly.
  assert "no such set in TFDS" in refusal(pets, "cats")
  (pets / "empty").mkdir()
  assert refusal(pets, "empty").endswith("it has nothing")


def test_a_class_of_the_test_set_that_training_lacks_is_refused(pets):
  test = pets / "pets/test"
  (test / "chat").rename(test / "Chat")
  told = refusal(pets)
  assert "'Chat' is in the test set and not in the training set" in told
  assert "an owl, chat, été" in told
  for file in (test / "Chat").iterdir():
    file.unlink()
  # An empty folder is no class; and a test set may lack one, which is told.
  found, told = load(pets)
  assert len(found.test.label) == 4 and "has no image of chat" in told


def test_a_class_without_images_is_refused(pets):
  (pets / "pets/train/dog").mkdir()
  assert "train/dog: has 0 images" in refusal(pets)
  (pets / "pets/train/dog/a.heic2").write_bytes(b"no image")
  assert "train/dog: has 0 images" in refusal(pets)


def test_one_class_alone_is_refused(tmp_path):
  for part in ("train", "test"):
    save(tmp_path / f"pets/{part}/chat/0.png", drawn(0))
  assert "has one class, chat" in refusal(tmp_path)


def test_an_image_or_a_folder_in_a_wrong_place_is_refused(pets):
  train = pets / "pets/train"
  save(train / "loose.png", drawn(0))
  assert "loose.png: is an image beside folders of classes" in refusal(pets)
  (train / "loose.png").unlink()
  save(train / "chat/more/0.png", drawn(0))
  assert "more: is a folder within a class" in refusal(pets)


def test_classes_that_differ_in_capitals_are_reported(pets):
  train = pets / "pets/train"
  for i in range(2):
    save(train / f"An Owl/{i}.png", drawn(60 + i))
  assert "'An Owl' and 'an owl' differ in capitals" in load(pets)[0].notice
  (train / "An Owl").rename(train / "an\nowl")
  assert "more than one line" in refusal(pets)


def test_a_known_set_is_never_read_from_images_and_a_line_says_how(pets):
  place = pets / "pets"
  found, told = load(place, "mnist", embedded="auto")
  assert found.source == "embedded"
  assert f"{place} has images in folders" in told and "data.name" in told


# Images that differ, or cannot be read.


def test_mixed_sizes_are_refused_with_two_files_and_the_key(pets):
  train = pets / "pets/train"
  save(train / "chat/2.png", drawn(1, (8, 4, 3)))
  told = refusal(pets)
  # "test" comes before "train" in the alphabet.
  assert "test/an owl/4.png is 6 x 5 pixels" in told
  assert "train/chat/2.png is 8 x 4 pixels" in told
  key, = re.findall(r"--config\.data\.resize='\((\d+),(\d+)\)'", told)
  found, told = load(pets, resize=tuple(map(int, key)))
  assert found.train.inputs.shape == (12, 6, 5, 3) and "scaled to 6 x 5" in told
  # Others stay as they are, and one is scaled by Pillow's bilinear filter.
  np.testing.assert_array_equal(found.train.inputs[0], drawn(0))
  scaled = Image.fromarray(drawn(1, (8, 4, 3))).resize(
      (5, 6), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(found.train.inputs[6], np.asarray(scaled))


def test_grey_among_colours_is_refused_with_the_key(pets):
  save(pets / "pets/train/chat/2.png", drawn(12)[..., 0])
  told = refusal(pets)
  assert "4.png is coloured" in told and "2.png is grey" in told
  assert "--config.data.channels=1" in told and "resize" not in told
  found, _ = load(pets, channels=3)
  np.testing.assert_array_equal(
      found.train.inputs[6], drawn(12)[..., :1].repeat(3, -1))
  found, _ = load(pets, channels=1)
  assert found.train.inputs.shape == (12, 6, 5, 1)
  np.testing.assert_array_equal(found.train.inputs[6, ..., 0], drawn(12)[..., 0])
  # 0.299 R + 0.587 G + 0.114 B, as predict makes grey of colours.
  grey = drawn(0) @ np.array([0.299, 0.587, 0.114])
  assert np.abs(found.train.inputs[0, ..., 0] - grey).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_an_image_folder_reads_as_predict_does(tmp_path, mode):
  suffix = "tiff" if mode == "CMYK" else "png"
  for part, seed in (("train", 0), ("test", 7)):
    for number, name in enumerate("ab"):
      file = tmp_path / f"pets/{part}/{name}/0.{suffix}"
      file.parent.mkdir(parents=True)
      Image.fromarray(drawn(seed + number)).convert(mode).save(file)
  found, _ = load(tmp_path)
  channels = 1 if mode in ("1", "L", "LA") else 3
  assert found.train.inputs.shape == (2, 6, 5, channels)
  np.testing.assert_array_equal(found.train.inputs[0], image_files.read(
      tmp_path / f"pets/train/a/0.{suffix}", (6, 5, channels)))


def test_unreadable_files_are_all_counted_and_some_named(pets):
  train = pets / "pets/train"
  (train / "chat/1.PNG").write_bytes(b"")
  told = refusal(pets)
  assert "chat/1.PNG: is no image, as it has 0 bytes" in told
  (train / "chat/0.png").write_bytes((train / "chat/2.png").read_bytes()[:60])
  for i in (2, 3):
    (train / f"été/{i}.{'PNG' if i % 2 else 'png'}").write_bytes(b"text")
  with pytest.raises(UserError) as error:
    load(pets)
  lines = str(error.value).splitlines()
  assert len(lines) == 3 and "chat/0.png: a damaged image" in lines[0]
  assert lines[2] == "and 2 more of 18 images cannot be read"


def test_images_larger_than_the_memory_are_refused_before_all_are_read(
    pets, monkeypatch):
  monkeypatch.setattr(machine, "memory", lambda: 18 * 6 * 5 * 3 - 1)
  told = refusal(pets)
  assert "18 images of 6 x 5 x 3 take 0.0 GiB" in told and "data.resize" in told
  # Of another size it is known before any is decoded.
  with monkeypatch.context() as patch:
    patch.setattr(image_files, "decoded", None)
    assert "take 167638063.4 GiB" in refusal(pets, resize=(10**8, 10**8))
  monkeypatch.setattr(machine, "memory", lambda: 18 * 6 * 5 * 3)
  assert load(pets)[0].train.inputs.shape == (12, 6, 5, 3)


def test_decoding_that_takes_long_says_how_long(pets, monkeypatch):
  monkeypatch.setattr(image_folders, "_REPORTED", 0.0)
  _, told = load(pets)
  assert re.search(r"17 of 18 images are decoded, 0:00 left", told)


def test_test_images_that_are_training_images_are_told_by_name(pets):
  test = pets / "pets/test/an owl/4.png"
  test.write_bytes((pets / "pets/train/chat/3.PNG").read_bytes())
  notice = load(pets)[0].notice
  assert notice.startswith("1 of 6 test inputs are in the training set too")
  assert "test/an owl/4.png is train/chat/3.PNG" in notice


# One folder, of which a part is the test set.


@pytest.fixture(name="flat")
def fixture_flat(tmp_path) -> pathlib.Path:
  """DIR/flat: 10 images of `a`, 15 of `b`, called 0.png, 1.png, ..."""
  for name, number in (("a", 10), ("b", 15)):
    for i in range(number):
      save(tmp_path / f"flat/{name}/{i}.png", drawn(100 * number + i))
  return tmp_path


def of_test(directory, **how) -> set[bytes]:
  found, told = load(directory, "flat", test_fraction=0.2, **how)
  assert "20% are the test set, chosen by a hash of the files' names" in told
  return {image.tobytes() for image in found.test.inputs}


def test_one_folder_is_split_by_class_and_the_same_for_ever(flat):
  found, _ = load(flat, "flat", test_fraction=0.2)
  assert np.bincount(found.test.label).tolist() == [2, 3]
  assert np.bincount(found.train.label).tolist() == [8, 12]
  parts = [{image.tobytes() for image in part.inputs}
           for part in (found.train, found.test)]
  assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 25
  # The three smallest of all hashes, whatever order names are in.
  names = [f"b/{i}.png" for i in range(15)]
  held = own.held_back(names, 0.2)
  assert {name for name, away in zip(names, held) if away} == set(sorted(
      names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest()
  )[:3])
  np.testing.assert_array_equal(own.held_back(names[::-1], 0.2), held[::-1])


def test_an_image_that_is_added_moves_one_other_at_most(flat):
  before = of_test(flat)
  for number in range(6):
    save(flat / f"flat/a/new{number}.png", drawn(5000 + number))
    new = drawn(5000 + number).tobytes()
    after = of_test(flat)
    assert len((after ^ before) - {new}) <= 1
    before = after


def test_a_part_is_kept_for_a_test_however_small(tmp_path):
  for name in "ab":
    for i in range(2):
      save(tmp_path / f"flat/{name}/{i}.png", drawn(ord(name) + 10 * i))
  for fraction in (0.01, 0.99):
    found, _ = load(tmp_path, "flat", test_fraction=fraction)
    assert found.train.label.tolist() == found.test.label.tolist() == [0, 1]
  (tmp_path / "flat/a/1.png").unlink()
  assert "a: has 1 image" in refusal(tmp_path, "flat", test_fraction=0.5)


def test_one_folder_needs_the_key_and_two_folders_refuse_it(flat, pets):
  told = refusal(flat, "flat")
  assert "no test set; give --config.data.test_fraction=0.2" in told
  assert "no test set" in refusal(flat / "flat", "whatever")
  assert "is the test set; leave the key out" in refusal(pets, test_fraction=0.2)
  told = refusal(flat, "flat", test_fraction=0.2, split=0)
  assert "data.split=0 draws both parts" in told
  found, _ = load(flat, "flat", split=0, split_size=20)
  assert (len(found.train.label), len(found.test.label)) == (20, 5)


@pytest.mark.parametrize(("key", "value"), [
    ("test_fraction", 0.2), ("channels", 3), ("label", "species"),
    ("without", ("id",)), ("first_class", 1)])
def test_a_key_of_other_files_is_refused(own_data, pets, key, value):
  place, name = (pets, "pets") if key == "first_class" else (own_data, "blobs")
  assert f"data.{key}={value}: is for" in refusal(place, name, **{key: value})


def test_a_class_may_be_called_train(tmp_path):
  for name in ("train", "test", "bus"):
    for i in range(3):
      save(tmp_path / f"flat/{name}/{i}.png", drawn(len(name) + 10 * i))
  found, _ = load(tmp_path, "flat", test_fraction=0.3)
  assert found.class_names == ("bus", "test", "train")


# What was decoded is kept, and never used for anything else.


@pytest.fixture(name="decoded")
def fixture_decoded(monkeypatch) -> list[pathlib.Path]:
  """The files that are decoded, as they are."""
  found: list[pathlib.Path] = []
  lock, decode = threading.Lock(), image_files.decoded

  def note(file, size=None, channels=None):
    with lock:
      found.append(file)
    return decode(file, size, channels)

  monkeypatch.setattr(image_files, "decoded", note)
  return found


def test_images_are_decoded_once(pets, decoded, cache):
  first, _ = load(pets)
  assert len(decoded) == 18 and len(list(cache.glob("*.npy"))) == 1
  again, told = load(pets)
  assert len(decoded) == 18 and "from the cache" in told
  assert again.fingerprint == first.fingerprint
  np.testing.assert_array_equal(again.train.inputs, first.train.inputs)
  np.testing.assert_array_equal(again.test.inputs, first.test.inputs)
  load(pets, resize=(3, 3))
  load(pets, channels=1)
  assert len(decoded) == 3 * 18


def replaced(file: pathlib.Path) -> None:
  """Another image of the same size in bytes, and the same time of change."""
  before = file.stat()
  content = bytearray(file.read_bytes())
  other = drawn(77)
  for seed in range(500):  # PNGs of noise differ in length now and then.
    save(file, other := drawn(seed + 1000))
    if file.stat().st_size == len(content):
      break
  os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
  after = file.stat()
  assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
  assert bytes(content) != file.read_bytes() and other is not None


@pytest.mark.parametrize("change", [
    replaced,
    lambda file: file.unlink(),
    lambda file: file.rename(file.with_name("zz.png")),
    lambda file: save(file.with_name("new.png"), drawn(50)),
    lambda file: file.rename(file.parent.parent / "été" / "moved.png")])
def test_a_changed_folder_is_decoded_anew(pets, decoded, change):
  load(pets)
  before = len(decoded)
  time.sleep(0.02)  # Clocks of file systems are coarse.
  change(pets / "pets/train/chat/2.png")
  found, told = load(pets)
  assert "from the cache" not in told and len(decoded) > before
  fresh = [image_files.read(file, (6, 5, 3)) for name in CLASSES
           for file in sorted((pets / "pets/train" / name).iterdir())]
  np.testing.assert_array_equal(found.train.inputs, fresh)


def test_a_damaged_cache_is_not_used(pets, decoded, cache):
  whole, _ = load(pets)
  file, = cache.glob("*.npy")
  content = file.read_bytes()
  for damage in (content[:-1] + bytes([content[-1] ^ 1]), content[:50], b"",
                 content[:40] + b"x" + content[41:]):
    file.write_bytes(damage)
    before = len(decoded)
    again, told = load(pets)
    assert len(decoded) == before + 18 and "from the cache" not in told
    assert again.fingerprint == whole.fingerprint


def test_what_is_new_is_not_kept_as_it_might_change_unseen(
    pets, cache, monkeypatch):
  monkeypatch.setattr(image_cache, "_SETTLED", 60.0)
  load(pets)
  assert not list(cache.glob("*"))


def test_a_folder_or_a_cache_that_cannot_be_written_is_no_hindrance(
    pets, cache, decoded):
  folders = [path for path in (pets / "pets").rglob("*") if path.is_dir()]
  for folder in folders:
    folder.chmod(0o555)
  before = sorted((pets / "pets").rglob("*"))
  try:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file, where a folder would be")
    _, told = load(pets)
  finally:
    for folder in folders:
      folder.chmod(0o755)
  assert "are not kept for later runs" in told and len(decoded) == 18
  assert sorted((pets / "pets").rglob("*")) == before


def test_old_caches_of_a_folder_go_away(pets, cache, flat):
  load(flat, "flat", test_fraction=0.2)
  for size in range(2, 8):
    load(pets, resize=(size, size))
  assert len(list(cache.glob("*.npy"))) == 3 + 1


# A run, its record, and what asks its nets later.


def test_a_run_on_an_image_folder_names_its_classes(pets, capsys):
  workdir = pets / "run"
  words = [
      "--config=configs/mnist.py:smoke", "--config.steps=3", "--config.method=hard",
      "--config.student.widths=(8,)", "--config.tensorboard=false",
      "--config.data.name=pets", f"--config.data.dir={pets}",
      "--config.data.resize=4", f"--workdir={workdir}"]
  assert main.run(words) == 0
  told = " ".join(capsys.readouterr().out.split())
  assert "pets from images, 12 training, 6 test examples, 3 classes of 4" in told
  assert "4 x 4 x 3 uint8 pixels" in told
  from kd_jax.runs import trained
  net = trained.load(workdir)
  assert net.classes == CLASSES and net.shape == (4, 4, 3)
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["dataset"]["source"] == "images"
  # The same again: nothing is trained anew, as the data is the same.
  assert main.run(words) == 0
  rows = (workdir / "results.jsonl").read_text().splitlines()
  assert len({json.loads(row)["fingerprint"] for row in rows}) == len(rows)


def test_the_doctor_says_which_own_files_there_are(pets, flat):
  (pets / "trees.csv").write_text("a,b")
  assert sources.own(pets) == ["flat (images)", "pets (images)", "trees (.csv)"]
  told = sources.describe(load(pets)[0])
  assert "12 training and 6 test inputs of 6x5x3" in told
  assert "3 classes (an owl, chat, été)" in told
