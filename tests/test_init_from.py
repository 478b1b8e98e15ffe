"""A finished run goes on: the nets of a new one start from its nets."""

import contextlib
import json
import signal

from conftest import ROOT, segments
import jax
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.checkpoint import load_parameters
from kd_jax.config import recipe
from kd_jax.report import plots
from kd_jax.runs import nets, results
from kd_jax.training import cost

# Without momentum an optimiser that begins anew goes on as it was.
BASE = (
    "--config=configs/mnist.py", "--config.data.name=blobs", "--config.epochs=2",
    "--config.min_steps=0", "--config.teacher.epochs=1",
    "--config.teacher.min_steps=0", "--config.student.widths=(12,)",
    "--config.teacher.widths=(12,)", "--config.batch_size=64",
    "--config.optimizer.name=sgd", "--config.optimizer.momentum=0",
    "--config.optimizer.schedule=constant", "--config.optimizer.learning_rate=0.1",
    "--config.tensorboard=false", "--config.parallel=single")


@pytest.fixture(scope="module")
def run(own_data, tmp_path_factory, teachers):
  """Runs the command in a folder; gives its rows."""
  cache = tmp_path_factory.mktemp("cache")

  def runs(place, *words, code=0):
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(ROOT), (
        jax.numpy_dtype_promotion("standard")):
      patch.setenv("XDG_CACHE_HOME", str(cache))
      patch.setattr(jax, "local_device_count", lambda: 1)
      patch.setattr(plots, "write", lambda *_: {})
      assert main.run([
          *BASE, f"--config.data.dir={own_data}",
          f"--config.teacher.dir={teachers}", f"--workdir={place}",
          *words]) == code
    return results.split(place)[0] if code == 0 else []
  return runs


@pytest.fixture(scope="module")
def before(run, tmp_path_factory):
  place = tmp_path_factory.mktemp("before") / "run"
  return place, {row["net"]: row for row in run(place)}


def test_each_net_goes_on_from_that_of_its_name(run, before, tmp_path):
  folder, old = before
  new = {row["net"]: row for row in run(
      tmp_path / "more", f"--config.init_from={folder}", "--config.seed=5")}
  assert new["distilled"]["teacher_sha256"] == old["distilled"]["teacher_sha256"]
  # A step so small that nothing moves: the net is the one it started from.
  run(tmp_path / "still", f"--config.init_from={folder}", "--config.steps=1",
      "--config.optimizer.learning_rate=1e-12")
  for net in ("baseline", "distilled"):
    assert len({rows[net]["fingerprint"] for rows in (old, new)}) == 2
    still, kept = (load_parameters(place / f"parameters/{net}")
                   for place in (tmp_path / "still", folder))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(
        one, other, atol=1e-9), still, kept)
    assert new[net]["test_nll"] < old[net]["test_nll"], "it goes on"


def test_lanes_of_a_sweep_start_from_the_net_that_is_named(
    run, before, tmp_path, monkeypatch):
  folder, _ = before
  net = folder / "parameters/distilled"
  points = ("--sweep.optimizer.learning_rate=0.1,0.01",
            f"--config.init_from={net}", "--config.seed=5")
  swept = run(tmp_path / "swept", *points, "--config.sweep.lanes=1x2")
  single = {row["net"]: row for row in run(
      tmp_path / "single", f"--config.init_from={net}", "--config.seed=5")}
  lane, = (row for row in swept if "0.01" not in row["row"])
  for key in ("test_errors", "test_nll"):
    assert lane[key] == pytest.approx(single["distilled"][key], rel=1e-4)
  monkeypatch.setattr(cost, "segment_steps", lambda *_: 2)
  with segments(stop_at=2):
    run(tmp_path / "cut", *points, "--config.sweep.lanes=1x2",
        code=128 + signal.SIGTERM)
  again = run(tmp_path / "cut", *points, "--config.sweep.lanes=1x2")
  assert [row["test_wrong_ids"] for row in again] == [
      row["test_wrong_ids"] for row in swept]


@pytest.mark.parametrize("words, told", [
    (("--config.init_from=no/such/run",), "give the folder of a finished run"),
    (("--config.init_from={run}", "--sweep.seed=0,1"),
     "it holds baseline, distilled"),
    (("--config.init_from={run}", "--config.student.widths=(13,)"),
     "has not the parameters of baseline"),
    (("--config.init_from={run}/parameters/distilled",
      "--config.student.name=cnn", "--config.student.widths=(4,4)"),
     "has not the parameters of"),
])
def test_a_start_that_cannot_be_is_refused_before_anything_is_trained(
    words, told, run, before, tmp_path, capsys):
  run(tmp_path / "no", *(word.format(run=before[0]) for word in words), code=2)
  error = capsys.readouterr().err
  assert "config.init_from=" in error and told in error
  assert not (tmp_path / "no/parameters").exists()


def test_more_epochs_in_the_same_folder_are_refused_with_the_way_to_go_on(
    run, before, capsys):
  run(before[0], "--config.epochs=4", code=2)
  assert f"--config.init_from={before[0]}" in capsys.readouterr().err


def test_what_the_new_run_has_of_other_settings_is_told(
    run, before, tmp_path, capsys):
  """Each net by what it depends on; the length and the rate may well be others."""
  folder, _ = before
  more = f"--config.init_from={folder}"
  capsys.readouterr()
  run(tmp_path / "same", more, "--config.epochs=1", "--config.seed=7",
      "--config.optimizer.learning_rate=0.01")
  assert "other settings" not in capsys.readouterr().out
  run(tmp_path / "other", more, "--config.epochs=1", "--config.temperature=2.5",
      "--config.label_smoothing=0.1", "--config.optimizer.weight_decay=0.01")
  told = {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines()
          if "other settings" in line}
  assert "label_smoothing was 0.0, is 0.1" in told["baseline"]
  assert "optimizer.weight_decay was 0.0, is 0.01" in told["baseline"]
  assert "temperature was 8.0, is 2.5" in told["distilled"]
  assert "temperature" not in told["baseline"]


def test_a_net_of_another_size_is_refused_with_what_differs(
    run, before, tmp_path, capsys):
  folder, _ = before
  run(tmp_path / "wide", f"--config.init_from={folder}",
      "--config.student.widths=(13,)", code=2)
  assert "student.widths was [12], is [13]; give what" in capsys.readouterr().err


def test_a_net_of_a_recipe_is_compared_with_its_own_settings(tmp_path):
  config = config_lib.default("first", "student")
  config.data.name, config.alpha = "mnist", 0.5
  config.nets.first.widths, config.nets.student.widths = (30,), (7,)
  config.nets.student.views = "shift2"
  values = config_lib.flatten(config)
  (tmp_path / "config.json").write_text(json.dumps(values))
  now = config_lib.changed(
      config_lib.flatten(config_lib.default()),
      {"data.name": "mnist", "alpha": 0.5, "student.widths": (7,),
       "method": "hard"})
  own = recipe.Net("baseline", now)
  changed = lambda name: nets._changed(tmp_path / "parameters" / name, own, now)
  assert changed("student") == ["student.views was shift2, is none"]
  assert changed("first") == ["student.widths was [30], is [7]"]
