"""Nets as files of other runtimes: the same numbers there, and what they cost."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import threading
import time
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
from kd_jax.runs import exports, trained
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
  assert not list(tmp_path.iterdir())
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
    assert command.main([str(run), "--format=stablehlo"]) == 2
  finally:
    file.write_bytes(kept)
  error = capsys.readouterr().err
  assert "is not that of the run" in error and "with --data=DIR" in error


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


# ---- What lies there, who writes it, and what stops it


@pytest.fixture
def own_run(run, tmp_path) -> pathlib.Path:
  """A copy of the run, for tests that change it."""
  return pathlib.Path(shutil.copytree(
      run, tmp_path / "run", ignore=shutil.ignore_patterns("export*", "*.html")))


def worse(code):
  """What writes the net as another one."""
  return lambda served, file: code(served._replace(
      function=lambda x: [1.1 * each for each in served.function(x)]), file)


def test_a_run_whose_data_has_moved_is_exported(own_run, capsys):
  values = json.loads((own_run / "config.json").read_text())
  moved = pathlib.Path(values["data.dir"])
  values["data.dir"] = str(own_run / "nowhere")
  (own_run / "config.json").write_text(json.dumps(values))
  words = [str(own_run), "--format=npz,stablehlo"]
  assert command.main(words) == 2
  error = capsys.readouterr().err
  assert "there is no such folder" in error and "--data=DIR" in error
  row, = exports.read(own_run)
  assert (row["format"], row["test_errors"], row["agreement"]) == ("npz", None, 1)
  assert "| not counted |  |" in (own_run / "exports/distilled.md").read_text()
  assert command.main([*words, f"--data={moved}"]) == 0
  record = parameters.load_record(own_run / "parameters/distilled")
  assert [row["test_errors"] for row in exports.read(own_run)] == (
      [record["test_errors"]] * 2)
  assert command.main([str(own_run), "--format=npz"]) == 0
  assert "errors are not counted: " in capsys.readouterr().out


def test_two_that_export_the_same_net_at_once(own_run, monkeypatch):
  code, written = formats.FORMATS["npz"].code, []
  write = code.write

  def in_the_middle(served, file):
    written.append(file)
    file.write_bytes(b"half")
    if len(written) == 1:
      assert command.main([str(own_run), "--format=npz"]) == 0
    write(served, file)

  monkeypatch.setattr(code, "write", in_the_middle)
  assert command.main([str(own_run), "--format=npz"]) == 0
  assert len(set(written)) == 2
  assert len(exports.read(own_run)) == 1
  assert not list((own_run / "exports").glob("new-*"))


def a_row(number: int) -> dict:
  return {"net": f"net{number}", "format": "npz", "int8": "none", "bytes": 1,
          "test_errors": 0, "test_examples": 1, "agreement": 1}


def test_rows_of_several_programs_are_all_there(tmp_path, monkeypatch):
  read = exports.read

  def slow(folder):
    found = read(folder)
    time.sleep(0.02)
    return found

  monkeypatch.setattr(exports, "read", slow)

  def add(number):
    with exports.in_turn(tmp_path):
      exports.record(tmp_path, [a_row(number)])

  threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
  for each in threads:
    each.start()
  for each in threads:
    each.join()
  assert len(read(tmp_path)) == 6


def test_the_command_waits_for_who_writes_rows(own_run):
  done = threading.Thread(target=command.main, args=([
      str(own_run), "--format=npz"],))
  with exports.in_turn(own_run):
    done.start()
    while not (own_run / "exports/distilled.npz").is_file():
      time.sleep(0.05)
    time.sleep(0.5)
    assert not exports.read(own_run)
  done.join()
  assert len(exports.read(own_run)) == 1


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_stopped_leaves_nothing_half_done(
    own_run, monkeypatch, capfd, request, number, code):
  write = formats.FORMATS["stablehlo"].code.write

  def stopped(served, file):
    file.write_bytes(b"half")
    with formats.quiet():
      os.kill(os.getpid(), number)
      write(served, file)

  monkeypatch.setattr(formats.FORMATS["stablehlo"].code, "write", stopped)
  # Whoever runs the tests may ignore Ctrl-C, and what is ignored stays so.
  usual = signal.signal(number, signal.default_int_handler)
  request.addfinalizer(lambda: signal.signal(number, usual))
  before = signal.getsignal(number)
  assert command.main([str(own_run), "--format=npz,stablehlo"]) == code
  assert signal.getsignal(number) is before
  assert "stopped" in capfd.readouterr().err
  assert sorted(path.name for path in (own_run / "exports").iterdir()) == [
      "distilled.json", "distilled.md", "distilled.npz"]


def test_a_run_that_may_not_be_written_has_its_rows_beside_the_files(
    own_run, tmp_path, monkeypatch):
  content = lambda: {path: path.stat().st_mtime_ns for path in own_run.rglob("*")}
  before = content()
  monkeypatch.setattr(os, "access", lambda path, mode: path != own_run)
  out = tmp_path / "out"
  assert command.main([str(own_run), "--format=npz", f"--out={out}"]) == 0
  assert content() == before
  assert [row["file"] for row in exports.read(out)] == ["distilled.npz"]
  assert "| distilled.npz |" in (out / "distilled.md").read_text()


def test_a_licence_is_chosen_once(own_run):
  licence = lambda net: (own_run / f"exports/{net}.md").read_text().splitlines()[1]
  assert command.main([str(own_run), "--format=npz", "--net=teacher"]) == 0
  assert command.main([str(own_run), "--format=npz", "--licence=apache-2.0"]) == 0
  assert command.main([str(own_run), "--format=npz"]) == 0
  assert licence("distilled") == "license: apache-2.0"
  assert licence("teacher") == "license: other"
  assert command.main([str(own_run), "--format=stablehlo", "--licence=mit"]) == 0
  assert licence("distilled") == "license: mit"
  assert {row["net"]: row.get("licence") for row in exports.read(own_run)} == {
      "teacher": None, "distilled": "mit"}


@needs("onnx")
def test_a_page_keeps_the_licence_and_shows_a_net_once(own_run):
  assert command.main([str(own_run), "--format=npz", "--licence=mit"]) == 0
  assert command.main([str(own_run), "--page", "--net=distilled,distilled"]) == 0
  card = (own_run / "exports/distilled.md").read_text()
  assert card.splitlines()[1] == "license: mit"
  page = (own_run / "exports/page.html").read_text()
  assert page.count('"name": "distilled"') == 1


def test_a_good_file_of_the_same_net_outlives_one_that_is_refused(
    own_run, monkeypatch, capsys):
  words = [str(own_run), "--format=stablehlo"]
  assert command.main(words) == 0
  file = own_run / "exports/distilled.jaxexport"
  before, content = exports.read(own_run), file.read_bytes()
  code = formats.FORMATS["stablehlo"].code
  monkeypatch.setattr(code, "write", worse(code.write))
  assert command.main(words) == 2
  assert "is as good as the net, and is kept" in capsys.readouterr().err
  assert file.read_bytes() == content
  same = ("file", "bytes", "test_errors", "parameters_sha256", "largest_difference")
  assert [[row[key] for key in same] for row in exports.read(own_run)] == [
      [row[key] for key in same] for row in before]


def test_a_file_of_another_net_goes_with_its_row(own_run, monkeypatch, capsys):
  words = [str(own_run), "--format=npz,stablehlo"]
  code = formats.FORMATS["stablehlo"].code
  assert command.main(words) == 0
  net = files.net(own_run, None, lambda line: None)
  file = own_run / "exports/distilled.jaxexport"
  worse(code.write)(net.served, file)  # Of the run as it was before.
  monkeypatch.setattr(code, "write", worse(code.write))
  assert command.main(words) == 2
  assert "differs too, and is removed" in capsys.readouterr().err
  assert not file.exists()
  assert [row["format"] for row in exports.read(own_run)] == ["npz"]
  assert "jaxexport" not in (own_run / "exports/distilled.md").read_text()


def test_a_file_that_nothing_can_compare_stays(own_run, monkeypatch, capsys):
  words = [str(own_run), "--format=stablehlo"]
  assert command.main(words) == 0
  before = exports.read(own_run)
  monkeypatch.setattr(formats.FORMATS["stablehlo"].code, "load", lambda file: 1 / 0)
  assert command.main(words) == 2
  assert "cannot be compared, and stays" in capsys.readouterr().err
  assert (own_run / "exports/distilled.jaxexport").is_file()
  assert exports.read(own_run) == before


def test_all_files_have_the_mode_of_a_new_one(own_run, monkeypatch):
  write = formats.FORMATS["npz"].code.write

  def private(served, file):
    write(served, file)
    file.chmod(0o600)

  monkeypatch.setattr(formats.FORMATS["npz"].code, "write", private)
  assert command.main([str(own_run), "--format=npz"]) == 0
  (own_run / "new").touch()
  assert {path.stat().st_mode for path in (own_run / "exports").iterdir()} == {
      (own_run / "new").stat().st_mode}


def test_a_folder_that_cannot_be_written_is_told_with_its_flag(own_run, capsys):
  (own_run / "taken").write_text("")
  assert command.main([
      str(own_run), "--format=npz", f"--out={own_run / 'taken'}"]) == 2
  error = capsys.readouterr().err
  assert f"{own_run / 'taken'}: cannot be written" in error
  assert "--out=DIR" in error


@pytest.mark.parametrize(("words", "says"), [
    (["--page", "--format=npz"], "leave out --format and --int8"),
    (["--page", "--int8=static"], "leave out --format and --int8"),
    (["--net="], "must be NAME")])
def test_what_goes_not_together_is_refused(run, words, says, capsys):
  with contextlib.suppress(SystemExit):
    assert command.main([str(run), *words]) == 2
  assert says in capsys.readouterr().err


def test_a_kind_of_int8_without_its_packages_names_the_command(
    run, monkeypatch, capsys):
  monkeypatch.setitem(formats.FORMATS, "litert", formats.FORMATS["litert"]._replace(
      packages=("no_such_package",)))
  assert command.main([str(run), "--int8=dynamic4"]) == 2
  error = capsys.readouterr().err
  assert "litert alone has it" in error and formats.INSTALL in error


@pytest.mark.parametrize("name", of_format("onnx", "stablehlo"))
@pytest.mark.parametrize("number", [len, lambda x: int(x.shape[0])])
def test_a_net_that_counts_its_batch_is_told_what_to_write(name, number, tmp_path):
  net = served("mlp", widths=(4,))
  counts = net._replace(function=lambda x: [
      each / number(x) for each in net.function(x)])
  full = files.Net(counts, pixels(2), np.zeros(2, int), np.zeros((2, 10)),
                   pixels(2), "")
  with pytest.raises(UserError, match=r"as len\(x\), int\(x.shape\[0\]\) or a"):
    files.one(full, name, "none", tmp_path, say=lambda line: None)


@needs("onnx")
def test_a_product_without_a_bias_is_made_static_int8(tmp_path):
  kernel = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)

  def function(x):
    logits = jnp.dot(x.astype(jnp.float32).reshape(x.shape[0], -1) / 255, kernel)
    return logits, jax.nn.softmax(logits)

  net = formats.Served(function, (4, 4, 3), np.dtype("uint8"), {
      "net": "net", "classes": ["a", "b", "c"]}, {})
  code, inputs = formats.FORMATS["onnx"].code, pixels(20, (4, 4, 3))
  plain, small = tmp_path / "net.onnx", tmp_path / "int8.onnx"
  code.write(net, plain)
  code.quantise(plain, small, "static", inputs)
  wanted = np.asarray(function(inputs)[0])
  np.testing.assert_allclose(code.load(plain)(inputs)[0], wanted, atol=1e-4)
  assert np.abs(code.load(small)(inputs)[0] - wanted).max() < 0.1 * np.abs(
      wanted).max()


@pytest.fixture(scope="module")
def half_run(own_data, tmp_path_factory):
  """A run in bfloat16 with held-out data."""
  folder = tmp_path_factory.mktemp("half")
  with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    assert main.run([*SMALL, "--config.dtype=bfloat16", "--config.data.holdout=0.2",
                     f"--config.data.dir={own_data}", f"--workdir={folder}"]) == 0
  return folder


@pytest.mark.parametrize("name", of_format(*NUMBERS))
def test_a_net_in_bfloat16_has_files_in_float32(half_run, name, tmp_path, capsys):
  assert command.main([
      str(half_run), f"--format={name}", f"--out={tmp_path}"]) == 0
  assert "it computes in bfloat16 in its run" in capsys.readouterr().out
  row = next(row for row in exports.read(half_run) if row["format"] == name)
  assert row["agreement"] == 1
  card = (tmp_path / "distilled.md").read_text()
  assert "- Arithmetic: it computes in bfloat16 in its run, its files in" in card
  net = trained.load(half_run)
  inputs = pixels(5, (12, 10, 1))
  x = inputs.reshape(5, -1) / np.float32(255)
  params = jax.tree.map(np.asarray, net.variables.params)
  for layer in range(2):
    x = x @ params[f"Dense_{layer}"]["kernel"] + params[f"Dense_{layer}"]["bias"]
    x = np.maximum(x, 0) if layer == 0 else x
  chosen = formats.FORMATS[name]
  found, _ = chosen.code.load(tmp_path / f"distilled{chosen.suffix}")(inputs)
  np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)
  # The run's own is as bfloat16 rounds.
  gap = np.abs(np.asarray(net.logits(inputs)) - x).max()
  assert 1e-4 < gap < 0.05 * np.abs(x).max()


def test_the_net_of_the_best_epoch_is_opened_and_exported(half_run, tmp_path):
  assert trained.load(half_run).name == "distilled"
  name = "distilled" + trained.BEST
  record = parameters.load_record(half_run / "parameters" / name)
  saved = parameters.load_parameters(half_run / "parameters" / name)
  net = trained.load(half_run, name)
  assert net.name == name and net.classes == tuple("0123456")
  jax.tree.map(np.testing.assert_array_equal, net.variables, saved)
  assert command.main([
      str(half_run), f"--net={name}", "--format=npz", f"--out={tmp_path}"]) == 0
  row = next(row for row in exports.read(half_run) if row["net"] == name)
  card = (tmp_path / f"{name}.md").read_text()
  assert (f"- Epoch: {record['epoch']}, after which distilled had the fewest "
          f"held-out errors, {record['heldout_errors']}.") in card
  assert f"- Test errors: {row['test_errors']} of 110 (" in card
  assert "- Loss: 0.1 * CE + 0.9 * T**2 * KL" in card
  assert "always 0" not in card
