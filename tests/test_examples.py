"""The examples run as a reader would run them."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "examples").glob("*.py"))


def _run(name: str, *arguments: str) -> str:
  """What a program prints; from an empty PYTHONPATH, as in a fresh clone."""
  environment = {k: v for k, v in os.environ.items()
                 if k not in ("PYTHONPATH", "JAX_NUM_CPU_DEVICES")}
  done = subprocess.run(
      [sys.executable, "-W", "error", f"examples/{name}", *arguments],
      cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300,
      check=False)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_function_of_an_example_is_at_most_40_lines(file):
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 40, node.name


@pytest.mark.slow
def test_the_losses_serve_loops_of_plain_jax_and_of_nnx():
  said = _run("own_loop.py")
  found = re.findall(
      r"^(.*): teacher (\d+), student (\d+) errors of 1000$", said, re.M)
  assert [name for name, _, _ in found] == ["plain JAX", "Flax NNX"]
  for _, teacher, student in found:
    # Chance is 900; a linear model on these digits makes more than 100.
    assert 20 < int(teacher) < 100
    assert 20 < int(student) < 150


def _distils(make: str, folder: pathlib.Path, *, best: int) -> None:
  _run("own_teacher.py", f"--make={make}", f"--workdir={folder}",
       "--config.steps=300", "--config.tensorboard=false")
  logits, test_logits = (
      np.load(folder / f"{make}{part}.npy") for part in ("", "_test"))
  assert logits.shape == (4000, 10)
  assert test_logits.shape == (1000, 10)
  summary = json.loads((folder / make / "summary.json").read_text())
  assert summary["teacher"]["test_errors"] < best
  assert summary["teacher"]["train_accuracy"] > 0.95
  distilled = summary["distilled"]
  assert 20 < distilled["test_errors"] < 150
  # It follows this teacher: two nets of 10% errors would agree on 81% or more.
  assert distilled["agreement"] > 0.85


@pytest.mark.slow
def test_a_numpy_function_may_be_the_teacher(tmp_path):
  _distils("numpy", tmp_path, best=50)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["forest", "svm"])
def test_any_model_of_scikit_learn_may_be_the_teacher(model, tmp_path):
  _run("any_model.py", f"--model={model}", f"--workdir={tmp_path}",
       "--config.steps=1000", "--config.tensorboard=false")
  logits, test_logits = (
      np.load(tmp_path / f"{model}{part}.npy") for part in ("", "_test"))
  assert logits.shape == (400 + 20_000, 2) and test_logits.shape == (169, 2)
  np.testing.assert_allclose(np.exp(test_logits).sum(axis=1), 1, atol=1e-5)
  summary = json.loads((tmp_path / model / "summary.json").read_text())
  assert summary["teacher"]["test_errors"] <= 12
  # More than a third of the patients have cancer.
  assert summary["distilled"]["test_errors"] <= 14
  assert summary["distilled"]["agreement"] > 0.94
  assert summary["baseline"]["test_examples"] == 169


@pytest.mark.slow
def test_a_pytorch_module_may_be_the_teacher(tmp_path):
  pytest.importorskip("torch", reason="needs PyTorch, which kd_jax does not")
  _distils("torch", tmp_path, best=100)
