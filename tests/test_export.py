"""Nets as files of other runtimes: the same numbers there, and what they cost."""

import contextlib
import json
import zipfile

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import main
from kd_jax.core.errors import UserError
from kd_jax.export import __main__ as command
from kd_jax.export import cost, files, formats
from kd_jax.models import MODELS
from kd_jax.report import plots
from kd_jax.runs import exports
from kd_jax.training import parameters

SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs", "--config.steps=150",
    "--config.min_steps=0", "--config.teacher.steps=150",
    "--config.student.widths=(32,)", "--config.teacher.widths=(24,)",
    "--config.tensorboard=false", "--config.parallel=single")
# The smallest of each family; the others are slow.
FEW = ("mlp", "resnet8")
NUMBERS = ("onnx", "litert", "stablehlo")


def needs(name: str) -> pytest.MarkDecorator:
  missing = formats.FORMATS[name].missing
  return pytest.mark.skipif(bool(missing), reason=f"{missing}: {formats.INSTALL}")


def of_format(*names: str):
  return [pytest.param(name, marks=needs(name)) for name in names]


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


def served(name: str, shape=(32, 32, 3), **options) -> formats.Served:
  """A new net of the project; every other parameter is drawn, BatchNorm's too."""
  model = MODELS[name](num_classes=10, **options)
  variables = model.init(jax.random.key(0), jnp.zeros((1, *shape)))
  rng = np.random.default_rng(1)
  drawn = lambda leaf, low, high: rng.uniform(low, high, leaf.shape).astype("f4")
  if name != "resnet110":  # New, its activations are near the end of float32.
    variables = jax.tree.map(
        lambda leaf: leaf * drawn(leaf, 0.9, 1.1) + (leaf.ndim == 1) * drawn(
            leaf, 0, 0.02), variables)

  def function(inputs):
    outputs, _ = model.apply(
        variables, inputs.astype(jnp.float32) / 255, train=False)
    return outputs.logits, jax.nn.softmax(outputs.logits)

  card = {"net": name, "classes": [str(each) for each in range(10)]}
  return formats.Served(function, shape, np.dtype("uint8"), card, {})


def pixels(number: int, shape=(32, 32, 3)) -> np.ndarray:
  return np.random.default_rng(2).integers(
      0, 256, (number, *shape), dtype=np.uint8)


def check(name: str, net: formats.Served, tmp_path) -> None:
  """A file has the net's numbers, for one input and for several."""
  chosen = formats.FORMATS[name]
  file = tmp_path / f"net{chosen.suffix}"
  chosen.code.write(net, file)
  run = chosen.code.load(file)
  for number in (1, 5):
    inputs = pixels(number, net.shape)
    wanted = jax.device_get(jax.jit(net.function)(inputs))
    for found, own in zip(run(inputs), wanted):
      assert found.shape == own.shape and found.dtype == np.float32
      np.testing.assert_allclose(
          found, own, atol=1e-4 * max(1, np.abs(own).max()))


@pytest.mark.parametrize("name", of_format(*NUMBERS))
@pytest.mark.parametrize("model", FEW)
def test_a_file_has_the_numbers_of_its_net(name, model, tmp_path):
  options = {"widths": (20, 12)} if model == "mlp" else {}
  check(name, served(model, **options), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", of_format(*NUMBERS))
@pytest.mark.parametrize("model", sorted(set(MODELS) - set(FEW)))
def test_every_net_is_exported(name, model, tmp_path):
  shape = (28, 28, 1) if model in ("cnn", "cnn_small", "convnet") else (32, 32, 3)
  check(name, served(model, shape), tmp_path)


@pytest.mark.parametrize("name", of_format(*NUMBERS))
@pytest.mark.parametrize(("shape", "dtype", "inputs"), [
    ((6,), "float32", np.linspace(-2, 2, 18).reshape(3, 6).astype("float32")),
    ((4,), "int32", np.arange(12, dtype="int32").reshape(3, 4))])
def test_tables_and_tokens_are_inputs_too(name, shape, dtype, inputs, tmp_path):
  kernel = np.random.default_rng(0).normal(size=(12, 6, 3)).astype(np.float32)

  def function(x):
    wide = x @ kernel[0] if dtype == "float32" else jnp.asarray(
        kernel)[x].mean(axis=(1, 2))
    return wide, jax.nn.softmax(wide)

  net = formats.Served(function, shape, np.dtype(dtype),
                       {"net": "net", "classes": ["a", "b", "c"]}, {})
  chosen = formats.FORMATS[name]
  file = tmp_path / f"net{chosen.suffix}"
  chosen.code.write(net, file)
  for found, own in zip(chosen.code.load(file)(inputs), function(inputs)):
    np.testing.assert_allclose(found, own, atol=1e-5)


@pytest.fixture(scope="module")
def run(own_data, tmp_path_factory):
  """The folder of a finished run, whose classes have names."""
  folder = tmp_path_factory.mktemp("run")
  (folder / "blobs.npz").write_bytes((own_data / "blobs.npz").read_bytes())
  (folder / "blobs").mkdir()
  (folder / "blobs/classes.txt").write_text("\n".join("abcdefg"))
  with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    assert main.run([*SMALL, f"--config.data.dir={folder}",
                     f"--workdir={folder / 'run'}"]) == 0
  return folder / "run"


@needs("onnx")
def test_the_command_leaves_files_and_what_they_cost(run, capsys):
  assert command.main([
      str(run), "--format=onnx,npz", "--net=teacher,distilled",
      "--int8=dynamic"]) == 0
  text = capsys.readouterr().out
  assert "6 files in" in text
  rows = exports.read(run)
  assert [(row["net"], row["format"], row["int8"]) for row in rows] == [
      (net, name, kind) for net in ("teacher", "distilled")
      for name, kind in (("onnx", "none"), ("onnx", "dynamic"), ("npz", "none"))]
  for row in rows:
    record = parameters.load_record(run / "parameters" / row["net"])
    file = run / "exports" / row["file"]
    assert file.stat().st_size == row["bytes"] and row["test_examples"] == 110
    if row["int8"] == "none":
      assert row["test_errors"] == record["test_errors"] and row["agreement"] == 1
    if row["format"] == "onnx":
      middle, low, high = row["latency_us"]
      assert 0 < low <= middle <= high and row["latency_us_64"][0] > 0
  card = json.loads((run / "exports/distilled.json").read_text())
  assert card["classes"] == list("abcdefg")
  assert card["input"] == {
      "name": "inputs", "shape": ["batch", 12, 10, 1], "dtype": "uint8"}
  assert (run / "report.html").read_text().count("<td>onnx</td>") == 4
  # Again: rows are replaced, not doubled.
  assert command.main([str(run), "--format=npz"]) == 0
  assert len(exports.read(run)) == len(rows)


@needs("onnx")
def test_an_onnx_file_says_what_it_is(run, tmp_path):
  import onnx  # pylint: disable=g-import-not-at-top
  assert command.main([str(run), "--format=onnx", f"--out={tmp_path}"]) == 0
  model = onnx.load(tmp_path / "distilled.onnx")
  said = {entry.key: entry.value for entry in model.metadata_props}
  assert json.loads(said["classes"]) == list("abcdefg")
  assert json.loads(said["net"]) == "distilled"
  batch = model.graph.input[0].type.tensor_type.shape.dim[0]
  assert batch.dim_param  # Any number of inputs.


@needs("litert")
def test_a_litert_file_says_what_it_is(run, tmp_path):
  assert command.main([
      str(run), "--format=litert", "--int8=static,dynamic",
      f"--out={tmp_path}"]) == 0
  for kind in ("", ".int8-static", ".int8-dynamic"):
    with zipfile.ZipFile(tmp_path / f"distilled{kind}.tflite") as archive:
      assert archive.read("labels.txt").decode().split() == list("abcdefg")


def test_arrays_are_there_by_name(run, tmp_path):
  assert command.main([str(run), "--format=npz", f"--out={tmp_path}"]) == 0
  saved = np.load(tmp_path / "distilled.npz")
  assert saved["params/Dense_0/kernel"].shape == (120, 32)
  # A program of its own that knows NumPy alone.
  net = files.net(run, None, lambda line: None)
  hidden = np.maximum(
      net.inputs.reshape(110, -1) / np.float32(255)
      @ saved["params/Dense_0/kernel"] + saved["params/Dense_0/bias"], 0)
  logits = hidden @ saved["params/Dense_1/kernel"] + saved["params/Dense_1/bias"]
  np.testing.assert_allclose(logits, net.logits, rtol=1e-4, atol=1e-4)


def test_a_file_that_is_another_net_is_not_kept(run, tmp_path, monkeypatch):
  net = files.net(run, None, lambda line: None)
  worse = net.served._replace(
      function=lambda x: [1.01 * each for each in net.served.function(x)])
  written = lambda: list(files.write(
      net._replace(served=worse), ["stablehlo"], [], tmp_path, say=[].append))
  with pytest.raises(UserError, match="logits differ from the net's by"):
    written()
  assert [path.name for path in tmp_path.iterdir()] == ["distilled.json"]
  nan = lambda x: [jnp.nan * each for each in net.served.function(x)]
  worse = net.served._replace(function=nan)
  with pytest.raises(UserError, match="differ from the net's by nan"):
    written()


@needs("onnx")
def test_an_int8_file_that_disagrees_is_not_kept(run, tmp_path, monkeypatch):
  code = formats.FORMATS["onnx"].code
  turned = lambda file, to, kind, calibration: code.write(
      net.served._replace(function=lambda x: [
          -each for each in net.served.function(x)]), to)
  net = files.net(run, None, lambda line: None)
  monkeypatch.setattr(code, "quantise", turned)
  with contextlib.closing(files.write(
      net, ["onnx"], ["dynamic"], tmp_path, say=lambda line: None)) as rows:
    assert next(rows)["int8"] == "none"
    with pytest.raises(UserError, match="names another class than the net"):
      next(rows)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "distilled.json", "distilled.onnx"]


def test_data_that_are_not_those_of_the_run_are_refused(run, capsys):
  file = run.parent / "blobs.npz"
  kept = file.read_bytes()
  with np.load(file) as data:
    arrays = dict(data)
  try:
    np.savez(file, **{name: array[::-1] for name, array in arrays.items()})
    assert command.main([str(run), "--format=npz"]) == 2
  finally:
    file.write_bytes(kept)
  assert "is not that of the run" in capsys.readouterr().err


def test_ranges_of_static_int8_are_those_of_training_inputs(run):
  net = files.net(run, None, lambda line: None)
  with np.load(run.parent / "blobs.npz") as data:
    known = {image.tobytes() for image in data["x_train"]}
  assert len(net.calibration) == 256
  assert all(image.tobytes() in known for image in net.calibration)


@pytest.mark.parametrize("name", of_format("onnx", "litert"))
def test_static_int8_holds_the_largest_it_was_calibrated_with(name, tmp_path):
  net = served("mlp", widths=(20, 12))
  # One input of many is bright: a mean of the largest values would cut it off.
  inputs = pixels(40) // 16
  inputs[20] = pixels(1)[0]
  chosen = formats.FORMATS[name]
  plain, small = (tmp_path / f"{each}{chosen.suffix}" for each in ("net", "int8"))
  chosen.code.write(net, plain)
  chosen.code.quantise(plain, small, "static", inputs)
  wanted, found = (chosen.code.load(file)(inputs[20:21])[0]
                   for file in (plain, small))
  assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize(("words", "says"), [
    (["--format=tflite"], "did you mean"), (["--net=destilled"], "distilled"),
    (["--format=npz", "--int8=static"], "add litert or onnx to --format"),
    (["--int8=static9"], "is no kind of int8")])
def test_mistakes_are_one_line(run, words, says, capsys):
  with contextlib.suppress(SystemExit):
    assert command.main([str(run), *words]) == 2
  error = capsys.readouterr().err
  assert says in error and "Traceback" not in error


def test_a_format_without_its_package_names_the_command(run, monkeypatch, capsys):
  monkeypatch.setitem(formats.FORMATS, "onnx", formats.FORMATS["onnx"]._replace(
      packages=("no_such_package",)))
  assert command.main([str(run), "--format=onnx"]) == 2
  assert formats.INSTALL in capsys.readouterr().err
  said: list[str] = []
  assert "onnx" not in formats.installed(None, said.append)
  assert "onnx needs no_such_package" in said[0]


def test_what_a_format_cannot_express_is_one_line(tmp_path):
  net = served("mlp", widths=(4,))
  broken = net._replace(function=lambda x: 1 / 0)
  full = files.Net(broken, pixels(2), np.zeros(2, int), np.zeros((2, 10)),
                   pixels(2), "")
  with pytest.raises(UserError, match="--format=stablehlo: cannot express mlp"):
    list(files.write(full, ["stablehlo"], [], tmp_path, say=lambda line: None))


def test_a_file_that_cannot_be_run_is_told_in_a_line(tmp_path):
  (tmp_path / "net.jaxexport").write_bytes(b"no program")
  with pytest.raises(UserError, match="cannot be run in a process of its own"):
    cost.of("stablehlo", tmp_path / "net.jaxexport", pixels(1))
