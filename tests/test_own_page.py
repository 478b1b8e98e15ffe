"""The Python of docs/own.md, as the file `mine.py`, runs by the page's commands."""

import re
import sys
import types as python_types

from conftest import ROOT
import jax
import numpy as np
import pytest
from test_main import SMALL, _at_the_root, ran  # noqa: F401

from kd_jax import doctor
from kd_jax.conformance import __main__ as conformance
from kd_jax.core import sources

PAGE = (ROOT / "docs/own.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.S)


class _Torch:
  """Of PyTorch, which need not be there, what the page uses; its net sees NCHW."""

  class Tensor(np.ndarray):
    def permute(self, *axes):
      return self.transpose(axes)

  class no_grad:
    def __enter__(self):
      return self
    def __exit__(self, *_):
      pass

  def from_numpy(self, x):
    return x.view(self.Tensor)

  @property
  def jit(self):
    def net(x):
      assert x.shape[1:] == (1, 12, 10) and x.flags["C_CONTIGUOUS"]
      return x[:, 0, 5, :7], x
    return python_types.SimpleNamespace(load=lambda _: python_types.SimpleNamespace(
        eval=lambda: net))


@pytest.fixture(name="mine")
def _mine(tmp_path, monkeypatch):
  """The page's file."""
  monkeypatch.setitem(sys.modules, "torch", _Torch())
  (tmp_path / "mine.py").write_text("".join(CODE).replace(
      "teacher.npz", str(tmp_path / "teacher.npz")))
  draw = np.random.default_rng(0)
  np.savez(tmp_path / "teacher.npz", b0=np.zeros(5), b1=np.zeros(7), **{
      name: draw.normal(size=size) for name, size in (
          ("w0", (120, 5)), ("w1", (5, 7)))})
  with jax.numpy_dtype_promotion("standard"):
    yield str(tmp_path / "mine.py")


@pytest.fixture(name="run")
def _run(own_data, tmp_path, teachers):
  def run(*words, workdir="run"):
    own = [] if "teacher.name" in words[0] else [f"--config.teacher.dir={teachers}"]
    return ran(tmp_path / workdir, f"--config.data.dir={own_data}", *own, *words)
  return run


@pytest.mark.parametrize("word", [
    "student.name=mine.py:Net", "teacher.name=mine.py:foreign",
    "teacher.name=mine.py:plain", "method=mine.py:loss", "method=mine.py:focal"])
def test_a_piece_of_the_page_of_ones_own_runs(run, mine, word):
  assert f"--config.{word}" in PAGE
  check = ["--config.teacher.check=off"] if "teacher" in word else []
  if "plain" in word:
    check += ["--config.method=kd+hint",
              "--config.features.pairs=(('pooled','pooled'),)"]
  code, summary = run(f"--config.{word}".replace("mine.py", mine), *check)
  assert code == 0 and np.isfinite(summary["distilled"]["test_nll"])


def test_the_loss_of_the_page_is_distillation(mine, capsys):
  assert conformance.main([f"{mine}:loss"]) == 0


def test_the_foreign_features_of_the_page_come_back_as_they_went(mine):
  images = np.random.default_rng(0).random((3, 12, 10, 1), np.float32)
  logits, features = sources.load("key", f"{mine}:foreign")(images)
  np.testing.assert_array_equal(features["maps"], images)
  np.testing.assert_array_equal(logits, images[:, 5, :7, 0])


def test_the_doctor_lists_what_the_page_says(own_data, mine, tmp_path, capsys):
  assert doctor.run([*SMALL, f"--config.data.dir={own_data}",
                     f"--workdir={tmp_path / 'run'}",
                     "--config.method=kd+hint"]) == 0
  said = " ".join(capsys.readouterr().out.split())
  assert said.count("; taps ") == 3 and re.search(
      r"compared \w+ 12 with \w+ 24", said)
  assert "│ hint │" in said
