"""Model cards, files of arrays, and all that docs/export.md shows."""

import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from conftest import ROOT
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from scipy import stats

from kd_jax import data as data_lib
from kd_jax import main, predict
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.export import __main__ as export
from kd_jax.export import arrays, files, formats, model_card
from kd_jax.models import MODELS
from kd_jax.models.nnx import nnx_model
from kd_jax.report import plots, statistics
from kd_jax.runs import exports, trained
from kd_jax.training import parameters

PAGE = (ROOT / "docs/export.md").read_text()
SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs", "--config.steps=150",
    "--config.min_steps=0", "--config.teacher.steps=150",
    "--config.student.widths=(32,)", "--config.teacher.widths=(24,)",
    "--config.tensorboard=false", "--config.parallel=single")
ARRAYS = [name for name, each in formats.FORMATS.items() if not each.runs]


def needs(name: str) -> pytest.MarkDecorator:
  missing = formats.FORMATS[name].missing
  return pytest.mark.skipif(bool(missing), reason=f"{missing}: {formats.INSTALL}")


def of_format(*names: str):
  return [pytest.param(name, marks=needs(name)) for name in names]


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(autouse=True)
def _from_any_folder(monkeypatch):
  """As where kd_jax is installed: processes that are started find it too."""
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(
      [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.fixture(scope="module")
def folder(own_data, tmp_path_factory):
  """A folder with `runs/mnist`, of another data set, and with the page's files."""
  folder = tmp_path_factory.mktemp("page")
  (folder / "runs").mkdir()
  with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    assert main.run([*SMALL, f"--config.data.dir={own_data}",
                     f"--workdir={folder / 'runs/mnist'}"]) == 0
  inputs = data_lib.load("blobs", directory=own_data).test.inputs
  np.save(folder / "images.npy", inputs)
  (folder / "photos").mkdir()
  for name in ("seven.png", "photos/a.png"):
    Image.fromarray(inputs[0, ..., 0]).save(folder / name)
  shutil.copy(ROOT / "requirements-export.txt", folder)
  (folder / "examples").symlink_to(ROOT / "examples")
  return folder


@pytest.fixture
def run(folder) -> pathlib.Path:
  return folder / "runs/mnist"


# ---- The interval


@pytest.mark.parametrize(("errors", "examples"), [
    (0, 10), (10, 10), (1, 110), (74, 10_000), (680, 10_000), (5000, 10_000)])
@pytest.mark.parametrize("level", [0.95, 0.9])
def test_an_interval_is_that_of_scipy(errors, examples, level):
  wanted = stats.binomtest(errors, examples).proportion_ci(level, method="exact")
  found = statistics.binomial_interval(errors, examples, level=level)
  np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_an_interval_by_hand():
  # No error of 10: (1 - p)**10 = 0.025. Of 1 example: p = 0.025 or 0.975.
  assert statistics.binomial_interval(0, 10)[1] == pytest.approx(1 - 0.025**0.1)
  assert statistics.binomial_interval(1, 1) == pytest.approx((0.025, 1.0))
  for wrong in ((-1, 10), (11, 10), (0, 0)):
    with pytest.raises(ValueError, match="no such count"):
      statistics.binomial_interval(*wrong)


# ---- Arrays


class Layers(nnx.Module):
  """A user's net whose layers have numbers, and that has BatchNorm."""

  def __init__(self, *, rngs):
    self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(11)])
    self.norm = nnx.BatchNorm(4, rngs=rngs)

  def __call__(self, x, train: bool = False):
    for layer in self.layers:
      x = layer(x)
    return self.norm(x, use_running_average=not train)


def a_net(kind: str) -> types.Variables:
  if kind == "nnx":
    model, inputs = nnx_model(lambda rngs: Layers(rngs=rngs)), jnp.zeros((1, 4))
  else:
    model, inputs = MODELS[kind](num_classes=10), jnp.zeros((1, 32, 32, 3))
  return model.init(jax.random.key(0), inputs)


@pytest.mark.parametrize("name", of_format(*ARRAYS))
@pytest.mark.parametrize("kind", ["mlp", "resnet8", "nnx"])
def test_arrays_come_back_in_their_places_to_the_bit(name, kind, tmp_path):
  variables = a_net(kind)
  file = tmp_path / f"net{formats.FORMATS[name].suffix}"
  net = trained.Trained("net", None, variables, None, (4,), np.dtype("f4"), (), {})
  formats.FORMATS[name].code.write(formats.Served(
      None, (4,), np.dtype("f4"), {"net": "net"}, files._arrays(net)), file)
  found = arrays.load_variables(file)
  assert jax.tree.structure(found) == jax.tree.structure(variables)
  for own, other in zip(jax.tree.leaves(variables), jax.tree.leaves(found)):
    assert own.dtype == other.dtype and own.shape == other.shape
    assert np.asarray(own).tobytes() == np.asarray(other).tobytes()


def test_an_mlp_may_have_fewer_units_in_a_file(run, tmp_path):
  net = trained.load(run)
  params = jax.tree.map(np.array, net.variables.params)
  for leaf in (params["Dense_0"]["kernel"], params["Dense_0"]["bias"]):
    leaf[..., 5:] = 0
  small = {"Dense_0": {name: leaf[..., :5] for name, leaf in params[
      "Dense_0"].items()}, "Dense_1": params["Dense_1"] | {
          "kernel": params["Dense_1"]["kernel"][:5]}}
  np.savez(tmp_path / "small.npz", **{
      f"params/{layer}/{name}": leaf for layer, each in small.items()
      for name, leaf in each.items()})
  inputs = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 1), dtype=np.uint8)
  full = net._replace(variables=net.variables._replace(params=params))
  found = arrays.into(net, tmp_path / "small.npz")
  np.testing.assert_allclose(
      found.logits(inputs), full.logits(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("change", "says"), [
    ({"params/Dense_0/bias": None}, "lacks params/Dense_0/bias"),
    ({"params/more": np.zeros(2)}, "params/more is none of the net's"),
    ({"params/Dense_1/kernel": np.zeros((33, 7))},
     r"params/Dense_1/kernel has shape \[33, 7\], and the net takes \[32, 7\]"),
    ({"params/Dense_0/kernel": np.zeros((121, 32))}, r"the net takes \[120, 32\]"),
    ({"params/Dense_0/bias": np.zeros(5)},
     r"has shape \[120, 32\], and the net takes \[120, 5\]"),
    ({"params/Dense_0/bias": np.zeros((2, 2))}, "has shape"),
    ({"params/Dense_1/bias": np.array([0, 0, 0, 0, np.nan, 0, 0])},
     "params/Dense_1/bias has a number that is not finite"),
    ({"params/Dense_1/bias": np.zeros(7, complex)}, "is of complex64"),
    ({"params/Dense_1/bias": np.array(["a"] * 7)}, "is no exported net")])
def test_arrays_that_are_not_those_of_the_net_are_one_line(
    run, tmp_path, change, says):
  net = trained.load(run)
  held = files._arrays(net) | change
  np.savez(tmp_path / "net.npz", **{
      name: leaf for name, leaf in held.items() if leaf is not None})
  with pytest.raises(UserError, match=says) as error:
    arrays.into(net, tmp_path / "net.npz")
  text = str(error.value)
  assert "\n" not in text and str(tmp_path / "net.npz") in text


def test_arrays_of_another_precision_are_those_of_the_net(run, tmp_path):
  net = trained.load(run)
  np.savez(tmp_path / "net.npz", **{
      name: leaf.astype(np.float64) for name, leaf in files._arrays(net).items()})
  found = arrays.into(net, tmp_path / "net.npz")
  jax.tree.map(np.testing.assert_array_equal, found.variables, net.variables)
  assert found.variables.params["Dense_0"]["kernel"].dtype == np.float32


def test_a_net_that_only_looks_as_an_mlp_stays_what_it_is(run):
  net = trained.load(run)
  other = net._replace(model="another")
  assert arrays.with_params(other, net.variables.params).model == "another"


@needs("safetensors")
def test_a_safetensors_file_has_the_card_and_the_names_of_the_npz(run, tmp_path):
  from safetensors import safe_open  # pylint: disable=g-import-not-at-top
  assert export.main([
      str(run), "--format=npz,safetensors", f"--out={tmp_path}"]) == 0
  card = json.loads((tmp_path / "distilled.json").read_text())
  with safe_open(tmp_path / "distilled.safetensors", "numpy") as file:
    found = {key: json.loads(value) for key, value in file.metadata().items()}
    assert found == card
    with np.load(tmp_path / "distilled.npz") as saved:
      assert sorted(file.keys()) == sorted(saved.files)
      assert "params/Dense_0/kernel" in saved.files
      for name in saved.files:
        np.testing.assert_array_equal(file.get_tensor(name), saved[name])


@pytest.mark.parametrize(("name", "content", "says"), [
    ("net.onnx", None, "is no file of arrays: .npz, .safetensors"),
    ("net.npz", b"no zip", "is no exported net"),
    ("net.npz", {"weights": 1.0}, "begins neither with params/ nor with state/"),
    ("net.npz", {"params/a": 1.0, "params/a/b": 1.0}, "is no exported net"),
    pytest.param("net.safetensors", b"12345678901", "is no exported net",
                 marks=needs("safetensors"))])
def test_what_is_no_net_is_one_line(name, content, says, tmp_path):
  file = tmp_path / name
  if isinstance(content, dict):
    np.savez(file, **content)
  elif content:
    file.write_bytes(content)
  with pytest.raises(UserError, match=says) as error:
    arrays.load_variables(file)
  assert "\n" not in str(error.value)


def test_a_file_without_its_package_names_the_command(tmp_path, monkeypatch):
  monkeypatch.setitem(
      formats.FORMATS, "safetensors",
      formats.FORMATS["safetensors"]._replace(packages=("no_such_package",)))
  with pytest.raises(UserError, match="needs no_such_package: pip install"):
    arrays.load_variables(tmp_path / "net.safetensors")


# ---- Model cards


@pytest.fixture
def card(run, tmp_path) -> str:
  """The card of both nets' arrays; the teacher's is of no interest."""
  assert export.main([str(run), "--format=npz", "--net=teacher,distilled",
                      f"--out={tmp_path}", "--licence=apache-2.0"]) == 0
  return (tmp_path / "distilled.md").read_text()


def front(text: str) -> dict[str, str]:
  """The lines before the text that have a key and a value."""
  lines = text.split("---\n")[1].splitlines()
  return dict(line.split(": ", 1) for line in lines if re.match(r"\w+: ", line))


def test_a_card_says_what_the_net_is(run, card, tmp_path):
  record, teacher = (parameters.load_record(run / "parameters" / name)
                     for name in ("distilled", "teacher"))
  wrong, of = record["test_errors"], record["test_examples"]
  interval = stats.binomtest(wrong, of).proportion_ci(method="exact")
  written = f"{wrong / of:.2%}; 95% binomial interval {interval.low:.2%} to"
  assert f"- Test errors: {wrong} of {of} ({written} {interval.high:.2%})" in card
  assert f"- Teacher: teacher, {teacher['test_errors']} of {of} (" in card
  assert "- Loss: 0.1 * CE + 0.9 * T**2 * KL, T = 8." in card
  # 120 * 32 + 32, and 32 * 7 + 7.
  assert f"- Parameters: 4,103 (SHA-256 {record['parameters_sha256']})" in card
  row = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
  assert f"commit {row['commit'] or 'unknown'}" in card
  assert "- Data: blobs, from raw; 300 training examples." in card
  assert "12 x 10 x 1, uint8" in card and "apart: 0, 1, 2, 3, 4, 5, 6." in card
  size = (tmp_path / "distilled.npz").stat().st_size
  assert f"| distilled.npz | npz | none | {size:,} | {wrong} of {of} |" in card
  learnt = (tmp_path / "teacher.md").read_text()
  assert "- Teacher: none; it learnt from labels alone." in learnt
  assert "- Loss: cross-entropy with the labels." in learnt


def test_a_hub_reads_licence_task_and_accuracy(run, card):
  found = front(card)
  assert found["license"] == "apache-2.0" and "license_name" not in found
  assert found["pipeline_tag"] == "image-classification"
  record = parameters.load_record(run / "parameters/distilled")
  value = re.search(r"type: accuracy, value: ([\d.]+)", card)[1]
  assert float(value) == pytest.approx(record["test_accuracy"], rel=1e-5)
  assert "datasets:\n- \"blobs\"\nmetrics:\n- accuracy\n" in card
  assert "Licence: apache-2.0." in card


def test_without_a_licence_the_owner_must_choose(run, tmp_path):
  (run / exports.NAME).unlink(missing_ok=True)  # With it goes what was chosen.
  assert export.main([str(run), "--format=npz", f"--out={tmp_path}"]) == 0
  card = (tmp_path / "distilled.md").read_text()
  assert front(card)["license"] == "other"
  assert front(card)["license_name"] == "not-chosen"
  assert "The owner of the run must choose one, by `--licence=ID`" in card


@pytest.mark.parametrize("licence", ["Apache 2", "", "mit\nx: y"])
def test_a_licence_is_an_identifier(run, licence, capsys):
  with pytest.raises(SystemExit) as end:
    export.main([str(run), f"--licence={licence}"])
  assert end.value.code == 2
  assert "must be the identifier of a licence" in capsys.readouterr().err


@pytest.mark.parametrize("names", [
    pytest.param(list(formats.FORMATS), marks=[
        needs(name) for name in formats.FORMATS]), ["npz", "stablehlo"]])
def test_the_lines_of_each_format_run(run, names, tmp_path, monkeypatch):
  assert export.main([
      str(run), f"--format={','.join(names)}", f"--out={tmp_path}"]) == 0
  monkeypatch.chdir(tmp_path)
  card = (tmp_path / "distilled.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", card, re.S)
  assert len(blocks) == len(names)
  # Zeros: what the layers make of their biases alone.
  params, _ = parameters.load_parameters(run / "parameters/distilled")
  hidden = np.maximum(params["Dense_0"]["bias"], 0)
  wanted = hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
  for block in blocks:
    assert len(block.strip().splitlines()) <= 5
    names = {}
    exec(block, names)
    if "logits" in names:
      np.testing.assert_allclose(names["logits"][0], wanted, rtol=1e-4, atol=1e-4)
    else:
      assert names["arrays"]["params/Dense_0/kernel"].shape == (120, 32)
      assert names["variables"].params["Dense_0"]["kernel"].shape == (120, 32)


def test_a_card_has_the_files_that_are_there_and_of_this_net(run, tmp_path):
  assert export.main([str(run), "--format=npz", f"--out={tmp_path}"]) == 0
  rows = exports.read(run)
  try:
    other = next(row for row in rows if row["format"] == "npz")
    exports.record(run, [other | {"int8": "dynamic", "file": "gone.npz"},
                         other | {"int8": "static", "parameters_sha256": "other"}])
    card = json.loads((tmp_path / "distilled.json").read_text())
    sha = other["parameters_sha256"]
    text = model_card.write(
        run, card, sha, tmp_path, exports.read(run)).read_text()
    pruned = model_card.write(
        run, card, "other", tmp_path, exports.read(run)).read_text()
  finally:
    (run / exports.NAME).unlink()
    exports.record(run, rows)
  assert len(re.findall(r"^\| \w+\.npz", text, re.M)) == 1
  line = "- The files are without units that are always 0."
  assert line not in text and line in pruned
  assert len(re.findall(r"^\| \w+\.npz", pruned, re.M)) == 1


def test_a_card_of_a_run_that_lost_its_rows_says_so(run, tmp_path):
  assert export.main([str(run), "--format=npz", f"--out={tmp_path}"]) == 0
  card = json.loads((tmp_path / "distilled.json").read_text())
  rows = (run / "results.jsonl").read_text()
  try:
    for text in ("{damaged", None):
      (run / "results.jsonl").write_text(text) if text else (
          run / "results.jsonl").unlink()
      found = model_card.write(run, card, "", tmp_path, []).read_text()
      assert "- Teacher: not known; the run has no row of this net." in found
      assert "- Loss: not known" in found
  finally:
    (run / "results.jsonl").write_text(rows)


# ---- The page


def shell() -> list[list[str]]:
  """The words of each command of the page."""
  blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
  return [shlex.split(line) for block in blocks
          for line in block.replace("\\\n", "").splitlines()]


def test_the_page_has_the_commands_that_are_run_here():
  assert {tuple(words[:3])[-1] for words in shell() if words[0] == "python"} == {
      "kd_jax.predict", "kd_jax.export",
      "runs/mnist/exports/distilled.onnx"}
  assert {words[0] for words in shell()} == {"python", "pip", "curl"}
  assert len(shell()) == 12
  for words in shell():
    if words[:2] == ["pip", "install"] and "-r" in words:
      assert (ROOT / words[-1]).is_file()
      assert " ".join(words) == formats.INSTALL


@pytest.mark.slow
@pytest.mark.skipif(
    any(each.missing for each in formats.FORMATS.values()), reason=formats.INSTALL)
def test_the_commands_of_the_page_run(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  commands = {"kd_jax.predict": predict.main, "kd_jax.export": export.main}
  found = [words for words in shell() if words[:2] == ["python", "-m"]]
  for words in found:
    assert commands[words[2]](words[3:]) == 0, words
    assert capsys.readouterr().out
  assert len(found) == 6
  assert {file.suffix for file in (folder / "runs/mnist/exports").iterdir()} >= {
      each.suffix for each in formats.FORMATS.values()}


@pytest.mark.parametrize("number", range(PAGE.count("```python")))
def test_the_python_of_the_page_runs(number, folder, monkeypatch, capsys):
  block = re.findall(r"```python\n(.*?)```", PAGE, re.S)[number]
  if "safetensors" in block and formats.FORMATS["safetensors"].missing:
    pytest.skip(formats.INSTALL)
  monkeypatch.chdir(folder)
  wanted = trained.load(folder / "runs/mnist").logits(np.load("images.npy"))
  if "exports/" in block:
    suffix = "safetensors" if "safetensors" in block else "npz"
    assert export.main(["runs/mnist", f"--format={suffix}"]) == 0
  names: dict = {"__name__": "page"}
  monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
  exec(block, names)
  if "logits" in names:
    np.testing.assert_allclose(names["logits"], wanted, rtol=1e-4, atol=1e-4)
    if "arrays.into" in block:
      np.testing.assert_array_equal(names["logits"], wanted)
  else:
    np.testing.assert_allclose(
        names["found"].probabilities, jax.nn.softmax(wanted), atol=1e-5)


@pytest.mark.slow
@needs("onnx")
def test_the_server_of_the_page_answers(folder, monkeypatch):
  for package in ("fastapi", "uvicorn", "multipart"):
    pytest.importorskip(package)
  if not shutil.which("curl"):
    pytest.skip("needs curl")
  monkeypatch.chdir(folder)
  assert export.main(["runs/mnist", "--format=onnx"]) == 0
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    port = str(found.getsockname()[1])
  here = lambda words: [word.replace("8000", port) for word in words]
  serve, measure = (
      [sys.executable, *here(words[1:])] for words in shell()
      if words[1].startswith("examples/"))
  server = subprocess.Popen(serve)
  try:
    for _ in range(600):
      try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        break
      except OSError:
        time.sleep(0.1)
    answers = [json.loads(subprocess.run(
        here(words), capture_output=True, check=True, timeout=60).stdout)
               for words in shell() if words[0] == "curl"]
  finally:
    server.terminate()
    server.wait(20)
  wanted = predict.predict("runs/mnist", np.load("images.npy")[:1])
  prediction, = answers[0]["predictions"]
  assert prediction["label"] == wanted.labels[0]
  np.testing.assert_allclose(
      list(prediction["probabilities"].values()), wanted.probabilities[0],
      atol=1e-5)
  assert answers[1]["status"] == "ok"
  done = subprocess.run([*measure[:-1], "--seconds=1"], capture_output=True,
                        text=True, check=True, timeout=120)
  assert "requests/s of 1 inputs" in done.stdout
