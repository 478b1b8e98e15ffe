"""What a net says of image files and arrays, and the image files themselves."""

import io
import json
import pathlib
import shutil
import struct
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from kd_jax import data as data_lib
from kd_jax import predict
from kd_jax.config import build
from kd_jax.core import types
from kd_jax.core.errors import Notice, UserError
from kd_jax.data import image_files, preprocess
from kd_jax.runs import trained
from kd_jax.training import parameters


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
  """The folder of a run whose data are gone, and whose classes have names."""
  folder = tmp_path_factory.mktemp("copy") / "run"
  shutil.copytree(finished_run, folder)
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(
      config | {"data.dir": str(folder / "gone")}))
  return folder


@pytest.fixture(scope="module")
def test_inputs(own_data) -> np.ndarray:
  return data_lib.load("blobs", directory=own_data).test.inputs


def by_hand(folder: pathlib.Path, inputs: np.ndarray) -> np.ndarray:
  """The softmax of a net of one hidden layer, in NumPy."""
  params = parameters.load_parameters(folder).params
  first, second = (
      {name: np.asarray(array, np.float64)
       for name, array in params[f"Dense_{i}"].items()} for i in (0, 1))
  hidden = np.maximum(inputs.reshape(len(inputs), -1) / 255 @ first["kernel"]
                      + first["bias"], 0)
  exp = np.exp(hidden @ second["kernel"] + second["bias"])
  return exp / exp.sum(axis=1, keepdims=True)


# ---- The function


@pytest.mark.parametrize("net", ["teacher", "baseline", "distilled"])
def test_probabilities_are_those_of_the_net(run, test_inputs, net):
  found = predict.predict(run, test_inputs, net)
  wanted = by_hand(run / "parameters" / net, test_inputs)
  assert found.classes == tuple("abcdefg")
  assert found.probabilities.dtype == np.float32
  np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
  assert found.labels == tuple("abcdefg"[each] for each in wanted.argmax(axis=1))


def test_more_inputs_than_a_batch_are_in_order(run, test_inputs, monkeypatch):
  monkeypatch.setattr(predict, "_BATCH", 50)
  assert len(test_inputs) == 110
  found = predict.predict(run, test_inputs)
  np.testing.assert_allclose(
      found.probabilities, by_hand(run / "parameters/distilled", test_inputs),
      atol=1e-5)
  assert predict.predict(run, test_inputs[:0]).probabilities.shape == (0, 7)


def test_grey_images_may_lack_their_last_axis(run, test_inputs):
  np.testing.assert_array_equal(
      predict.predict(run, test_inputs[..., 0]).probabilities,
      predict.predict(run, test_inputs).probabilities)


def a_net(shape, dtype, classes=("x", "y", "z"), border=None) -> trained.Trained:
  """A net whose logits are the sums of the first three numbers, times 1, 2, 3."""
  def apply(variables, inputs, **_):
    total = inputs.reshape(len(inputs), -1)[:, :3].sum(axis=1).astype(jnp.float32)
    return types.Outputs(total[:, None] * jnp.arange(1, 4)[None], {}), {}
  return trained.Trained(
      "net", types.Model(lambda *_: None, apply), types.Variables({}, {}),
      preprocess.AsStored(), shape, np.dtype(dtype), classes, {}, border)


@pytest.mark.parametrize(("dtype", "inputs"), [
    ("float32", np.array([[0.5, -0.5, 1.0, 9.0]])),
    ("int32", np.array([[3, -1, -1, 9]], np.int64))])
def test_tables_and_tokens_are_inputs_too(dtype, inputs):
  net = a_net((4,), dtype)
  asked = predict.checked(net, inputs, "inputs")
  assert asked.dtype == dtype
  # Logits 1, 2, 3: the softmax is 0.0900, 0.2447, 0.6652.
  found = predict.ask(net, asked)
  np.testing.assert_allclose(
      found.probabilities[0], [.0900, .2447, .6652], atol=1e-4)
  assert found.labels == ("z",)


@pytest.mark.parametrize(("shape", "dtype", "inputs", "says"), [
    ((12, 10, 1), "uint8", np.zeros((2, 10, 12, 1), np.uint8),
     r"has shape \[2, 10, 12, 1\], and net takes \[N, 12, 10, 1\]"),
    ((12, 10, 3), "uint8", np.zeros((2, 12, 10), np.uint8),
     r"takes \[N, 12, 10, 3\]"),
    ((12, 10, 1), "uint8", np.zeros((12, 10, 1), np.uint8), "has shape"),
    ((4,), "float32", np.float32(1), r"has shape \[\]"),
    ((2, 2, 1), "uint8", np.ones((1, 2, 2, 1), np.float32),
     r"is of float32, and net takes uint8, pixels from 0 to 255; of x from 0 to 1"),
    ((2, 2, 1), "uint8", np.ones((1, 2, 2, 1), np.uint16), "is of uint16"),
    ((2,), "float32", np.ones((1, 2), np.int32), "of int32, and net takes float32"),
    ((2,), "float32", np.array([["a", "b"]]), "net takes float32"),
    ((2,), "int32", np.ones((1, 2)), "is of float64, and net takes int32"),
    ((2,), "float32", np.array([[1.0, np.nan]]), "not finite"),
    ((2,), "float32", np.array([[1.0, 1e39]]), "not finite in float32"),
    ((2,), "int32", np.array([[1, 2**40]]), "ids that int32 does not hold")])
def test_other_inputs_are_refused(shape, dtype, inputs, says):
  with pytest.raises(UserError, match=says) as error:
    predict.checked(a_net(shape, dtype), inputs, "inputs")
  assert "\n" not in str(error.value)


def test_floats_of_another_scale_come_with_a_warning():
  net = a_net((2,), "float32")._replace(range=(0.0, 0.9))
  fine = np.array([[0.1, -0.8], [1.7, 0.0]])
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    predict.checked(net, fine, "x")
    predict.checked(net, fine[:0], "x")
  for wrong in (255 * fine, fine - 1):
    with pytest.warns(Notice, match=r"trained on 0 to 0\.9; scale them alike"):
      predict.checked(net, wrong, "x")


def test_the_range_of_floats_is_kept_beside_a_net():
  floats = data_lib.stand_in(np.float32([[0.5], [-2.0], [3.0]]), ("a", "b"))
  assert trained.use(floats, preprocess.AsStored())["range"] == [-2.0, 3.0]
  pixels = data_lib.stand_in(np.zeros((1, 2, 2, 1), np.uint8), ("a", "b"))
  assert "range" not in trained.use(pixels, preprocess.AsStored())


@pytest.mark.parametrize(("shape", "single"), [
    ((28, 28, 1), (28, 28)), ((28, 28, 1), (28, 28, 1)), ((8, 8, 3), (8, 8, 3)),
    ((5,), (5,))])
def test_a_single_input_is_refused_with_what_makes_it_a_batch(shape, single):
  net = a_net(shape, "float32")
  array = np.ones(single, np.float32)
  with pytest.raises(UserError, match=r"give array\[None\]"):
    predict.checked(net, array, "inputs")
  assert predict.checked(net, array[None], "inputs").shape == (1, *shape)


def test_lists_of_several_lengths_are_no_inputs(run):
  with pytest.raises(UserError, match="lists of equal lengths"):
    predict.predict(run, [[[1, 2], [3]]])


@pytest.mark.parametrize("own", [True, False])
def test_an_own_net_that_was_edited_is_named(own):
  net = a_net((4,), "float32")
  def apply(*_, **__):
    raise ValueError("kernel has shape (4, 3)\nand not (4, 2)")
  net = net._replace(
      model=types.Model(lambda *_: None, apply), values={
          "student.name": "own/net.py:Net" if own else "mlp", "data.dir": "C:data",
          "method": "kd"})
  # That of a net of ours is our mistake, and not the user's.
  says = (r"net: cannot be run: kernel has shape \(4, 3\) and not \(4, 2\); is "
          r"own/net.py:Net as it was when") if own else "kernel"
  with pytest.raises(UserError if own else ValueError, match=says):
    predict.ask(net, np.zeros((1, 4), np.float32))


# ---- Image files


def read(image, tmp_path, shape, name="a.png", **more) -> list:
  """The pixels of an image, in its first channel of each row, past a file."""
  keep = {key: more.pop(key) for key in ("exif", "transparency") if key in more}
  image.save(tmp_path / name, **keep)
  return image_files.read(
      tmp_path / name, shape, say=lambda _: None, **more).tolist()


def pixels(rows, mode: str) -> Image.Image:
  return Image.fromarray(np.array(rows, np.uint8), mode) if mode in (
      "L", "RGB") else Image.frombytes(
          mode, (len(rows[0]), len(rows)), np.array(rows, np.uint8).tobytes())


def test_colours_are_made_grey(tmp_path):
  # 0.299 * 255 = 76.2, 0.587 * 255 = 149.7, 0.114 * 255 = 29.1.
  image = pixels([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], "RGB")
  assert read(image, tmp_path, (1, 3, 1)) == [[[76], [150], [29]]]
  assert read(image, tmp_path, (1, 3, 3)) == [
      [[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


def test_grey_is_made_rgb_and_inverted(tmp_path):
  image = pixels([[0, 200]], "L")
  assert read(image, tmp_path, (1, 2, 3)) == [[[0] * 3, [200] * 3]]
  assert read(image, tmp_path, (1, 2, 1), invert=True) == [[[255], [55]]]


@pytest.mark.parametrize(("mode", "row", "grey"), [
    # Of 255 by alpha / 255: black that is half there is 255 * (1 - 128 / 255).
    ("RGBA", [[0, 0, 0, 0], [0, 0, 0, 128], [0, 0, 0, 255]], [255, 127, 0]),
    ("LA", [[9, 0], [0, 128], [9, 255]], [255, 127, 9])])
def test_what_is_transparent_is_white(mode, row, grey, tmp_path):
  found = read(pixels([row], mode), tmp_path, (1, 3, 1))
  assert [each for each, in found[0]] == grey


def test_a_palette_has_its_colours_and_its_transparency(tmp_path):
  image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
  image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
  assert read(image, tmp_path, (1, 3, 3)) == [
      [[10, 20, 30], [200, 100, 50], [1, 2, 3]]]
  assert read(image, tmp_path, (1, 3, 3), transparency=1)[0][1] == [255] * 3
  assert read(image, tmp_path, (1, 3, 3), "a.gif")[0][1] == [200, 100, 50]


def test_a_camera_held_upright_is_honoured(tmp_path):
  exif = Image.Exif()
  exif[274] = 6  # Orientation: to be turned by 90 degrees, clockwise.
  image = pixels([[10, 20, 30], [40, 50, 60]], "L")
  assert read(image, tmp_path, (3, 2, 1), exif=exif) == [
      [[40], [10]], [[50], [20]], [[60], [30]]]


def test_another_size_is_scaled_and_reported(tmp_path):
  lines: list[str] = []
  file = tmp_path / "a.png"
  pixels([[0, 100], [100, 200]], "L").save(file)
  # Bilinear, to one pixel: their mean.
  assert image_files.read(file, (1, 1, 1), say=lines.append).tolist() == [[[100]]]
  assert lines == [f"{file}: scaled from 2 x 2 to 1 x 1 pixels"]
  image_files.read(file, (1, 2, 1), say=lines.append)
  assert "scaled from 2 x 2 to 2 x 1 pixels, which changes its prop" in lines[1]
  image_files.read(file, (2, 2, 1), say=lines.append)
  assert len(lines) == 2


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "LAB", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_other_colours_are_read_or_refused(mode, channels, tmp_path):
  file = tmp_path / "a.tiff"
  try:
    Image.new(mode, (2, 2)).save(file)
  except OSError:
    pytest.skip("no file has this mode")
  try:
    found = image_files.read(file, (2, 2, channels))
    assert found.shape == (2, 2, channels) and found.dtype == np.uint8
  except UserError as error:
    assert mode == "LAB" and "\n" not in str(error)


def png_of_16_bits(width: int = 1, height: int = 1) -> bytes:
  """A PNG of RGB pixels of 16 bits a channel, which Pillow cannot write."""
  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(
        ">I", zlib.crc32(kind + data))
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(
      ">IIBBBBB", width, height, 16, 2, 0, 0, 0)) + chunk(
          b"IDAT", zlib.compress((b"\0" + b"\1\2" * 3 * width) * height)) + chunk(
              b"IEND", b"")


def written(save) -> bytes:
  out = io.BytesIO()
  save(out)
  return out.getvalue()


def wrong_files() -> dict[str, tuple[bytes, str]]:
  """Files that are refused, and with what words."""
  grey = pixels([[0, 100], [100, 200]], "L")
  noise = Image.fromarray(np.random.default_rng(0).integers(
      0, 256, (60, 60, 3), dtype=np.uint8), "RGB")
  png, jpeg = (written(lambda out, kind=kind: noise.save(out, kind))
               for kind in ("PNG", "JPEG"))
  deep = Image.fromarray(np.array([[0, 60_000]], np.uint16))
  real = Image.fromarray(np.array([[0, 0.5]], np.float32))
  frames = lambda out, kind: grey.save(
      out, kind, save_all=True, append_images=[noise.convert("L").resize((2, 2))])
  return {
      "a.gif": (written(lambda out: frames(out, "GIF")), "has 2 frames; save one"),
      "b.tiff": (written(lambda out: frames(out, "TIFF")), "has 2 frames"),
      "c.png": (written(lambda out: deep.save(out, "PNG")), "more than 8 bits"),
      "d.png": (png_of_16_bits(), "more than 8 bits a channel; save it with 8"),
      "e.tiff": (written(lambda out: real.save(out, "TIFF")), "more than 8 bits"),
      "f.png": (png[:len(png) // 2], "a damaged image"),
      "g.jpg": (jpeg[:len(jpeg) // 2], "a damaged image"),
      "h.png": (png[:60] + bytes(40) + png[100:], "a damaged image"),
      "i.png": (b"no image", "is no image that Pillow can read; give a PNG"),
      "j.png": (b"", "is no image"),
      "k.png": (png[:20], "image")}


@pytest.mark.parametrize("name", wrong_files())
def test_a_wrong_file_is_one_line_with_the_remedy(name, tmp_path):
  content, says = wrong_files()[name]
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=says) as error:
    image_files.read(tmp_path / name, (2, 2, 1))
  assert str(error.value).startswith(str(tmp_path / name))
  assert "\n" not in str(error.value)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
  pixels([[0] * 30] * 30, "L").save(tmp_path / "a.png")
  for most in (800, 400):  # Pillow warns of the first, and refuses the second.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(UserError, match=f"has more than {most} pixels"):
      image_files.read(tmp_path / "a.png", (30, 30, 1))


# ---- The command


@pytest.fixture
def pictures(test_inputs, tmp_path) -> pathlib.Path:
  """A folder with two images of the test set, and a text."""
  folder = tmp_path / "pictures"
  folder.mkdir()
  for number in (0, 1):
    Image.fromarray(test_inputs[number, ..., 0]).save(folder / f"{number}.png")
  (folder / "notes.txt").write_text("no image")
  return folder


def test_a_block_an_image(run, test_inputs, pictures, capsys):
  assert predict.main([str(run), str(pictures), "--top=2"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines.pop(0).endswith(
      "left out 1 file of other kinds than images and .npy")
  wanted = by_hand(run / "parameters/distilled", test_inputs[:2])
  for number in (0, 1):
    best, second = np.argsort(-wanted[number])[:2]
    assert lines[3 * number:3 * number + 3] == [
        f"{pictures / str(number)}.png: {'abcdefg'[best]}",
        f"  {'abcdefg'[best]}  {wanted[number, best]:.4f}",
        f"  {'abcdefg'[second]}  {wanted[number, second]:.4f}"]
  assert len(lines) == 6


def test_a_line_of_json_an_input(run, test_inputs, pictures, capsys):
  np.save(pictures / "three.npy", test_inputs[:3])
  assert predict.main([
      str(run), str(pictures / "three.npy"), str(pictures), "--json", "--top=9",
      "--net=teacher"]) == 0
  out, error = capsys.readouterr()
  rows = [json.loads(line) for line in out.splitlines()]
  assert "left out 1 file" in error
  assert [pathlib.Path(row["input"]).name for row in rows] == [
      "three.npy[0]", "three.npy[1]", "three.npy[2]", "0.png", "1.png",
      "three.npy[0]", "three.npy[1]", "three.npy[2]"]
  wanted = by_hand(run / "parameters/teacher", test_inputs[:3])
  for row, p in zip(rows, [*wanted, *wanted[:2]]):
    assert row["label"] == row["top"][0]["class"] == "abcdefg"[p.argmax()]
    assert len(row["top"]) == 7
    for each in row["top"]:
      assert each["probability"] == pytest.approx(
          p["abcdefg".index(each["class"])], abs=1e-5)


def test_the_inverse_of_an_inverted_image_is_the_image(run, pictures, capsys):
  image = Image.open(pictures / "0.png")
  Image.fromarray(255 - np.asarray(image)).save(pictures / "9.png")
  np.save(pictures / "8.npy", 255 - np.asarray(image)[None])
  top = lambda *words: predict.main([str(run), *words, "--json"]) or json.loads(
      capsys.readouterr().out)["top"]
  wanted = top(str(pictures / "0.png"))
  assert top(str(pictures / "9.png")) != wanted
  assert top(str(pictures / "9.png"), "--invert") == wanted
  assert top(str(pictures / "8.npy"), "--invert") == wanted


def test_a_wrong_file_among_others_is_one_line(run, pictures, capsys):
  (pictures / "broken.png").write_bytes(b"broken")
  np.save(pictures / "flat.npy", np.zeros((2, 3), np.uint8))
  assert predict.main([str(run), str(pictures), "--json"]) == 2
  out, error = capsys.readouterr()
  assert len(out.splitlines()) == 2
  lines = [line for line in error.splitlines() if line.startswith("error: ")]
  assert len(lines) == 2 and "Traceback" not in error
  assert "broken.png: is no image" in lines[0] and "flat.npy: has shape" in lines[1]


def with_header(header: str) -> bytes:
  """A .npy with a header and three bytes after it."""
  text = header.encode("latin1") + b"\n"
  return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + b"abc"


def wrong_arrays() -> dict[str, bytes]:
  """Arrays that cannot be read: NumPy raises six kinds of error for them."""
  of = lambda shape, kind="|u1": with_header(
      f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}")
  return {
      "empty": b"", "text": b"text", "huge": of((10**15, 12, 10)),
      "larger than an index": of((10**30, 12, 10)), "cut": of((5, 12, 10)),
      "negative": of((-1, 12, 10)), "many axes": of((1,) * 70),
      "no dtype": of((1,), "zzz"), "objects": of((1,), "|O"),
      "no end": with_header("{'descr':"), "nested": with_header("(" * 9000),
      "a future version": b"\x93NUMPY\x09\0abc", "an archive": b"PK\x03\x04abc"}


@pytest.mark.parametrize("name", wrong_arrays())
def test_an_array_that_cannot_be_read_is_one_line(name, tmp_path):
  file = tmp_path / "a.npy"
  file.write_bytes(wrong_arrays()[name])
  with pytest.raises(UserError) as error:
    predict._array(file)
  line = str(error.value)
  assert line.startswith(f"{file}: cannot be read: ") and "\n" not in line
  assert line.endswith("; give an array of numbers, saved by np.save")
  assert len(line) < 500


def test_what_no_memory_is_left_for_is_one_line(run, pictures, monkeypatch, capsys):
  def ask(*_):
    raise MemoryError
  monkeypatch.setattr(predict, "ask", ask)
  assert predict.main([str(run), str(pictures / "0.png")]) == 2
  assert capsys.readouterr().err == (
      "error: out of memory; give fewer inputs at once\n")


def test_an_array_of_no_inputs_is_named(run, tmp_path, capsys):
  np.save(tmp_path / "none.npy", np.zeros((0, 12, 10), np.uint8))
  assert predict.main([str(run), str(tmp_path / "none.npy")]) == 0
  assert capsys.readouterr() == (f"{tmp_path}/none.npy: holds no inputs\n", "")


def test_a_file_that_may_not_be_read_is_one_line(
    run, pictures, monkeypatch, capsys):
  np.save(pictures / "2.npy", np.zeros((1, 12, 10), np.uint8))
  own = pathlib.Path.open
  def refused(self, *words, **more):
    if self.parent == pictures:
      raise PermissionError(13, "Permission denied", str(self))
    return own(self, *words, **more)
  monkeypatch.setattr(pathlib.Path, "open", refused)
  assert predict.main([str(run), str(pictures)]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 3 and all("Permission denied" in line for line in lines)


def test_files_that_only_other_programs_read_are_no_images(tmp_path):
  # Pillow would start Ghostscript for one, and knows no reader of the other.
  names = image_files.suffixes()
  assert {".png", ".jpg", ".jpeg", ".gif", ".webp", ".tiff", ".bmp"} <= names
  assert not names & {".eps", ".ps", ".h5", ".pdf", ".mpg", ".grib"}
  file = tmp_path / "a.png"
  file.write_bytes(
      b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\n")
  with pytest.raises(UserError, match="is no image that Pillow can read"):
    image_files.read(file, (2, 2, 1))


def test_test_examples_are_asked_by_their_numbers(run, own_data, capsys):
  test = np.load(own_data / "blobs.npz")
  found = predict.predict(run, test["x_test"][[3, 0, 1]])
  told = lambda number: f"test example {number}, of class " + (
      "abcdefg"[test["y_test"][number]])
  here = [str(run), f"--data={own_data}"]  # The run's own folder is gone.
  assert predict.main([*here, "--id=3,0-1", "--top=1"]) == 0
  assert capsys.readouterr().out.splitlines()[-6::2] == [
      f"{told(number)}: {label}" for number, label in zip((3, 0, 1), found.labels)]
  for words, says in ((here, "--id=110: must be from 0 to 109"),
                      (here[:1], "no such folder")):
    assert predict.main([*words, "--id=110"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (["nothing.png"], "nothing.png: no such file or folder"),
    ([], "nothing to predict; give files, or test examples with --id=0-4"),
    (["--id=x"], "must be ids such as 7"),
    (["{empty}"], "has no image and no .npy in it"),
    (["{text}"], "is no image that Pillow can read"),
    (["{pickle}"], "holds Python objects, not numbers"),
    (["{cut}"], "cannot be read: "), (["{several}"], "holds several arrays (a, b)"),
    (["{text}", "--net=destilled"], "did you mean distilled"),
    (["{text}", "--top=0"], "must be 1 or more")])
def test_mistakes_are_one_line(run, words, says, tmp_path, capsys):
  files = {name: tmp_path / f"{name}.npy" for name in ("pickle", "cut", "several")}
  files |= {"empty": tmp_path / "empty", "text": tmp_path / "text.txt"}
  files["empty"].mkdir()
  files["text"].write_text("text")
  np.save(files["pickle"], np.array([{}]), allow_pickle=True)
  np.save(files["cut"], np.zeros((5, 12, 10), np.uint8))
  files["cut"].write_bytes(files["cut"].read_bytes()[:200])
  with files["several"].open("wb") as out:
    np.savez(out, a=np.zeros(1), b=np.zeros(1))
  try:
    assert predict.main([str(run), *(word.format(**files) for word in words)]) == 2
  except SystemExit as end:
    assert end.code == 2
  out, error = capsys.readouterr()
  assert says in error and not out and len(error.splitlines()) == 1


def test_a_net_of_a_table_takes_no_image(tmp_path):
  with pytest.raises(UserError, match=r"net takes float32 \[4\], and no image"):
    predict._refuse_images(a_net((4,), "float32"), tmp_path)
  predict._refuse_images(a_net((4, 4, 3), "uint8"), tmp_path)


def test_no_data_set_is_asked_for(run, pictures, monkeypatch, capsys):
  monkeypatch.setattr(build, "dataset", None)
  assert predict.main([str(run), str(pictures)]) == 0


# ---- Light paper


def test_a_border_that_is_as_in_training_when_inverted_is_reported(tmp_path):
  net = a_net((4, 4, 1), "uint8", border=(0.0, 3.0))
  lines: list[str] = []
  def hint(brightness, invert=False):
    lines.clear()
    image = np.full((1, 4, 4, 1), brightness, np.uint8)
    image[:, 1:-1, 1:-1] = 128
    predict._hint(net, image, tmp_path / "a.png", invert, lines.append)
    return list(lines)
  assert hint(250) == [
      f"{tmp_path}/a.png: its border is 250 of 255 bright, and that of almost all "
      "training images 0 to 3: try it with --invert"]
  assert hint(250, invert=True)[0].endswith("without --invert")
  assert not hint(2) and not hint(128) and not hint(15)
  for border in (None, (0.0, 255.0)):
    net = net._replace(border=border)
    assert not hint(250)


def test_a_net_remembers_the_borders_of_its_training_images(run, own_data):
  images = data_lib.load("blobs", directory=own_data).train.inputs
  flat = images[..., 0].astype(float)
  outer = [[*each[0], *each[-1], *each[1:-1, 0], *each[1:-1, -1]] for each in flat]
  wanted = np.percentile(np.mean(outer, axis=1), (1, 99))
  np.testing.assert_allclose(trained.load(run).border, wanted, rtol=1e-9)
