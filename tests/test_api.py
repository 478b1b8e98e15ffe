"""Runs in Python: the same as those of the command, and their nets asked."""

import json
import signal

import jax
import numpy as np
import pandas as pd
import pytest

import kd_jax
from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.checkpoint import load_parameters
from kd_jax.core.errors import UserError
from kd_jax.report import plots
from kd_jax.training import train_loop

SMALL = {"data.name": "blobs", "student.widths": (8,), "teacher.widths": (8,),
         "steps": 4, "teacher.steps": 4, "tensorboard": False,
         "teacher.views": "none", "batch_size": 50, "parallel": "single"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  """In a folder of a user's, with promotion as users have it."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def small(own_data, teachers):
  return SMALL | {"data.dir": str(own_data), "teacher.dir": str(teachers)}


def test_a_run_is_that_of_the_command_and_is_found_again(small, own_data, tmp_path):
  run = kd_jax.run("mnist:smoke", "one", small | {"temperature": 6}, quiet=True)
  words = [f"--config.{key}={value}" for key, value in small.items()]
  assert main.run(["--config=mnist:smoke", "--workdir=two", *words,
                   "--config.temperature=6"]) == 0
  of = lambda name: json.loads((tmp_path / name / "summary.json").read_text())
  for net in ("baseline", "distilled"):
    one, two = (of(name)[net]["parameters_sha256"] for name in ("one", "two"))
    assert one == two
  assert run.summary == of("one") and run.config["temperature"] == 6.0
  assert run.nets == ["baseline", "distilled", "teacher"]
  assert "distilled" in repr(run)
  again = kd_jax.load("one")
  assert (again.rows.test_errors == run.rows.test_errors).all()
  assert set(run.rows.net) == {"baseline", "distilled"}
  assert [*run.rows.columns[:5]] == [
      "net", "method", "seed", "test_errors", "test_accuracy"]
  last = run.metrics.groupby("net").last()
  for row in run.rows.itertuples():
    assert last.loc[row.net].test_errors == row.test_errors
  # What a net says is what its arrays say.
  with np.load(own_data / "blobs.npz") as arrays:
    images, labels = arrays["x_test"], arrays["y_test"]
  said = again.net("distilled").predict(images)
  wrong = np.flatnonzero([int(name) for name in said.labels] != labels)
  row = run.rows[run.rows.net == "distilled"].iloc[0]
  assert wrong.tolist() == row.test_wrong_ids
  np.testing.assert_allclose(
      said.probabilities, jax.nn.softmax(said.logits), rtol=1e-5)
  kept = load_parameters("one/parameters/distilled")
  jax.tree.map(np.testing.assert_array_equal,
               again.net("distilled").variables, kept)
  assert again.net().name == "distilled" and "7 classes" in repr(again.net())


def test_metrics_are_of_the_last_training_of_a_net(small, tmp_path):
  run = kd_jax.run("mnist:smoke", "one", small, quiet=True)
  whole, file = run.metrics, tmp_path / "one/metrics.jsonl"
  # One with another config was killed before, and this one in its first epoch.
  lines = file.read_text().splitlines()
  other = [json.dumps(row | {"fingerprint": "other", "test_errors": 99})
           for row in map(json.loads, lines) if row.get("net") == "distilled"]
  file.write_text("\n".join([*lines[:1], *other, *lines]) + "\n")
  pd.testing.assert_frame_equal(run.metrics, whole)
  table = run.metrics.pivot(index="epoch", columns="net", values="test_errors")
  assert {"baseline", "distilled"} <= {*table.columns}


def test_a_config_of_python_sweeps(small, tmp_path):
  config = config_lib.default()
  config.alpha = 0.5
  run = kd_jax.run(config, "swept", small | {"sweep.lanes": "1x2"}, quiet=True,
                   sweep={"temperature": (1, 4), "seed": [0]})
  rows = run.rows
  assert [*rows.columns[:3]] == ["temperature", "seed", "test_errors"]
  lanes = run.metrics[run.metrics.net == "sweep"]
  assert {len(each) for each in lanes.train_errors} == {2}
  assert sorted(rows.temperature) == [1, 4] and run.config["alpha"] == 0.5
  assert run.summary["compilations"] == 1 and config.temperature == 4.0
  # The same call finds its rows.
  before = (tmp_path / "swept/results.jsonl").read_bytes()
  kd_jax.run(config, "swept", small | {"sweep.lanes": "1x2"}, quiet=True, sweep=[
      {"temperature": 1.0, "seed": 0}, {"temperature": 4.0, "seed": 0}])
  assert (tmp_path / "swept/results.jsonl").read_bytes() == before


def test_a_notebooks_stop_button_saves_and_the_same_call_goes_on(
    small, tmp_path, monkeypatch):
  dispatched = train_loop._Pace.dispatched

  def stopped(pace, *arguments):
    signal.raise_signal(signal.SIGINT)
    return dispatched(pace, *arguments)

  long = small | {"steps": 12}
  monkeypatch.setattr(train_loop._Pace, "dispatched", stopped)
  with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
    kd_jax.run("mnist:smoke", "cut", long, quiet=True)
  assert kd_jax.load("cut").summary == {}
  monkeypatch.setattr(train_loop._Pace, "dispatched", dispatched)
  assert "distilled" in kd_jax.run("mnist:smoke", "cut", long, quiet=True).summary


@pytest.mark.parametrize("call, words", [
    (lambda: kd_jax.run("mnist:smoke", "w", {"temprature": 3}), "temperature"),
    (lambda: kd_jax.run("mnist:smoke", "w", {"alpha": 3}), "config.alpha=3"),
    (lambda: kd_jax.run("nothing.py", "w"), "there is no such file"),
    (lambda: kd_jax.run("mnist:smoke", "w", sweep={"nothing": (1,)}), "nothing"),
    (lambda: kd_jax.load("w"), "holds no run"),
])
def test_mistakes_are_one_error_of_ours(call, words):
  with pytest.raises(UserError, match=words):
    call()


def test_what_is_not_there_is_no_attribute():
  with pytest.raises(AttributeError):
    kd_jax.runn  # noqa: B018


@pytest.mark.parametrize(("given", "says"), [
    (({"temperature": 8},), r"keys come after it, as in kd_jax\.run\("),
    (("r", {"student.name": dict}), "give 'mine.py:dict'"),
    (("r", {"method": lambda student_logits: 0}), "%%writefile mine.py")])
def test_what_is_likely_in_a_notebook_is_refused_with_the_way(given, says):
  with pytest.raises(UserError, match=says):
    kd_jax.run("mnist:smoke", *given)
