"""The notebook runs, and what is stored of it is what its source says; so does the
program where a notebook's cells are, in an event loop, and in a thread."""

import asyncio
import importlib.util
import json
import re
import signal
import threading
import warnings

from conftest import ROOT
import jax
import pytest
from test_main import SMALL

from kd_jax import checkpoint, main

FOLDER = ROOT / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))


def _make():
  spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _cells(file) -> list[tuple[str, str]]:
  return [(cell["cell_type"], "".join(cell["source"]))
          for cell in json.loads(file.read_text())["cells"]]


def test_there_is_a_notebook():
  assert [file.name for file in FILES] == ["dark_knowledge.ipynb"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_that_of_its_source(file):
  source = file.with_suffix(".py").read_text()
  assert _cells(file) == _make().cells(source)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_it_showed_is_stored_and_names_no_machine(file):
  text = file.read_text()
  assert len(text) < 200_000
  book = json.loads(text)
  code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
  assert [cell["execution_count"] for cell in code] == list(
      range(1, len(code) + 1))
  outputs = [output for cell in code for output in cell["outputs"]]
  assert {output["output_type"] for output in outputs} <= {
      "stream", "display_data"}
  assert all(output.get("name") != "stderr" for output in outputs)
  shown = sum("image/png" in output.get("data", {}) for output in outputs)
  assert shown == sum("plt.show()" in source for _, source in _cells(file)) > 3
  # Pictures are base64, which may spell anything.
  plain = re.sub(r'"image/png": "[^"]*"', "", text)
  assert not re.search(r"/(home|root|tmp|Users|work)\b|site-packages", plain)
  assert set(book["metadata"]["language_info"]) <= {"name", "version"} | {
      "codemirror_mode", "file_extension", "mimetype", "nbconvert_exporter",
      "pygments_lexer"}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_code_runs(file, monkeypatch):
  import matplotlib.pyplot as plt
  plt.switch_backend("agg")
  monkeypatch.setenv("KD_JAX_NOTEBOOK_QUICK", "1")
  monkeypatch.chdir(FOLDER)
  drawn = []
  monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.close("all")))
  names: dict = {"__name__": "__main__"}
  # A reader's session promotes dtypes and ranks as jax does by itself.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion(
      "allow"), plt.rc_context(), warnings.catch_warnings():
    for kind, source in _cells(file):
      if kind == "code":
        exec(compile(source, file.name, "exec"), names)
  assert len(drawn) == 4
  teacher = names["errors"](names["said"], names["truth"])
  assert teacher < 400
  for logits in names["students"].values():
    assert logits[1].shape == (2, 1000, 10)


def _in_a_loop(work):
  async def cell():
    return work()
  return asyncio.run(cell())


def _in_a_thread(work):
  found = []
  thread = threading.Thread(target=lambda: found.append(_in_a_loop(work)))
  thread.start()
  thread.join()
  return found[0]


@pytest.fixture
def ran(own_data, teachers):
  """Runs the small job, which saves at every step, where it is told to."""
  def run(where, place, *words):
    def work():
      with jax.numpy_dtype_promotion("standard"):
        code = main.run([
            *SMALL, f"--config.data.dir={own_data}", f"--workdir={place}",
            f"--config.teacher.dir={teachers}", "--config.checkpoint.every=1 steps",
            "--config.epochs=1", "--config.teacher.epochs=1", *words])
        return code, checkpoint.load_parameters(place / "parameters/distilled")
    return where(work)
  return run


@pytest.mark.parametrize("where", [_in_a_loop, _in_a_thread])
def test_the_program_runs_where_a_notebook_runs_it(
    ran, tmp_path, monkeypatch, where):
  monkeypatch.chdir(ROOT)
  before = signal.getsignal(signal.SIGINT)
  code, net = ran(where, tmp_path / "there")
  assert code == 0 and signal.getsignal(signal.SIGINT) is before
  code, plain = ran(lambda work: work(), tmp_path / "here")
  assert code == 0 and jax.tree.all(jax.tree.map(
      lambda x, y: bool((x == y).all()), net, plain))
  # A cell that is run again finds what is done.
  rows = (tmp_path / "there/results.jsonl").read_bytes()
  assert ran(where, tmp_path / "there")[0] == 0
  assert (tmp_path / "there/results.jsonl").read_bytes() == rows
