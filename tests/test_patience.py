"""A training that ends when held-out errors fall no more: which net, and when."""

import contextlib
import json
import signal

from conftest import ROOT, segments
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import main
from kd_jax.core import types
from kd_jax.report import plots
from kd_jax.runs import results
from kd_jax.training import cost, metrics, monitor, train_loop
from kd_jax.training.state import TrainState

EPOCHS, PATIENCE = 9, 2
# A constant rate, so that a training of fewer epochs is the same up to there.
BASE = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    f"--config.epochs={EPOCHS}", "--config.min_steps=0",
    "--config.teacher.epochs=1", "--config.teacher.min_steps=0",
    "--config.student.widths=(12,)", "--config.teacher.widths=(12,)",
    "--config.batch_size=32",
    "--config.optimizer.schedule=constant", "--config.optimizer.learning_rate=0.03",
    "--config.data.holdout=0.3", "--config.tensorboard=false",
    "--config.sweep.lanes=2x2", "--config.parallel=single")
WAITS = f"--config.patience={PATIENCE}"


@pytest.fixture
def run(own_data, tmp_path, teachers):
  """Runs the command; gives its rows."""
  def runs(name, *words, code=0):
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(ROOT), (
        jax.numpy_dtype_promotion("standard")):
      patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
      patch.setattr(jax, "local_device_count", lambda: 1)
      patch.setattr(plots, "write", lambda *_: {})
      assert main.run([
          *BASE, f"--config.data.dir={own_data}",
          f"--config.teacher.dir={teachers}", f"--workdir={tmp_path / name}",
          *words]) == code
    return results.split(tmp_path / name)[0] if code == 0 else []
  return runs


def sha(folder, net="distilled"):
  record = json.loads((folder / "parameters" / net / "record.json").read_text())
  return record["parameters_sha256"]


def test_the_net_is_that_of_the_best_epoch_and_training_ends_after_it(
    run, tmp_path, monkeypatch):
  row, = (row for row in run("waits", WAITS) if row["net"] == "distilled")
  curve = row["heldout_curve"]
  best = 1 + int(np.argmin(curve))
  assert row["epoch"] == best and row["heldout_errors"] == min(curve)
  assert len(curve) == best + PATIENCE < EPOCHS
  assert not (tmp_path / "waits/parameters/distilled_best").exists()
  # The same net as of a run that has so many epochs.
  short, = (row for row in run("short", f"--config.epochs={best}")
            if row["net"] == "distilled")
  assert sha(tmp_path / "waits") == sha(tmp_path / "short")
  for key in ("test_errors", "test_nll", "agreement", "test_wrong_ids"):
    assert row[key] == short[key]
  # Cut into single steps, it ends there too.
  monkeypatch.setattr(cost, "segment_steps", lambda *_: 1)
  cut, = (row for row in run("cut", WAITS) if row["net"] == "distilled")
  assert sha(tmp_path / "cut") == sha(tmp_path / "waits")
  assert cut["heldout_curve"] == curve


def test_stopped_between_the_best_epoch_and_the_end_it_goes_on_to_the_same_net(
    run, tmp_path, monkeypatch):
  monkeypatch.setattr(cost, "segment_steps", lambda *_: 5)
  with segments(None) as passed:
    row, = (row for row in run("whole", WAITS) if row["net"] == "distilled")
  # Two segments an epoch of 7 steps; the last two epochs wait in vain.
  with segments(len(passed) - 3):
    run("again", WAITS, code=128 + signal.SIGTERM)
  again, = (row for row in run("again", WAITS) if row["net"] == "distilled")
  assert sha(tmp_path / "again") == sha(tmp_path / "whole")
  assert again["heldout_curve"] == row["heldout_curve"]


def test_each_lane_ends_as_it_would_by_itself(run, tmp_path):
  points = ("--sweep.optimizer.learning_rate=0.003,0.03", "--sweep.seed=0,1")
  swept = {row["fingerprint"]: row for row in run("swept", WAITS, *points)}
  singles = {row["fingerprint"]: row for row in run(
      "singles", WAITS, *points, "--config.sweep.lanes=1x1")}
  assert swept.keys() == singles.keys() and len(swept) == 4
  ends = set()
  for fingerprint, row in swept.items():
    alone = singles[fingerprint]
    assert row["heldout_curve"] == alone["heldout_curve"]
    assert row["test_errors"] == alone["test_errors"]
    assert row["train_errors"] == alone["train_errors"]
    assert row["heldout_errors"] == min(row["heldout_curve"])
    assert row["test_nll"] == pytest.approx(alone["test_nll"], rel=1e-3)
    ends.add(len(row["heldout_curve"]))
  assert len(ends) > 1, "lanes that end together show nothing"
  with segments(3):
    run("cut", WAITS, *points, code=128 + signal.SIGTERM)
  for row in run("cut", WAITS, *points):
    same = swept[row["fingerprint"]]
    for key in ("heldout_curve", "test_nll", "test_wrong_ids", "train_errors"):
      assert row[key] == same[key]


def test_a_lane_that_is_over_keeps_its_net_whatever_comes():
  def state(number):
    leaf = jnp.full((1, 3, 2), number, jnp.float32)
    return TrainState(
        jnp.int32(number), types.Variables({"w": leaf}, {}), {}, {}, {"m": leaf})

  watch = monitor.LanesMonitor(2, per_epoch=10)
  watch.begin(state(0))
  told = []
  for number, errors in enumerate(
      [(5, 9, 7), (6, 8, 7), (6, 7, 6), (1, 7, 7), (0, 7, 7), (0, 0, 0)], start=1):
    totals = {"errors": metrics.Mean(jnp.array([errors]), jnp.array([[9, 9, 9]]))}
    watch.check(train_loop.Epoch(
        10 * number, {}, (None, {"heldout": (totals, None)}),
        watch.observe(state(number))))
    told.append(watch.over)
  # By themselves they end after epochs 3, 5 and 5.
  assert told == [False] * 4 + [True] * 2
  assert watch.kept.epoch.tolist() == [[1, 3, 3]]
  assert watch.kept.errors.tolist() == [[5, 7, 6]]
  best = watch.with_best(state(6)).student.params["w"]
  assert best[..., 0].tolist() == [[1, 3, 3]]


@pytest.mark.parametrize("key", ["patience", "teacher.patience"])
def test_without_held_out_data_there_is_nothing_to_wait_for(key, run, capsys):
  run("refused", f"--config.{key}=3", "--config.data.holdout=0", code=2)
  assert f"config.{key}=3" in capsys.readouterr().err


def test_a_teacher_may_wait_too(run, tmp_path):
  run("teacher", "--config.teacher.patience=1", "--config.epochs=1",
      "--config.teacher.epochs=9", "--config.teacher.batch_size=32",
      "--config.teacher.optimizer.schedule=constant")
  record = json.loads(
      (tmp_path / "teacher/parameters/teacher/record.json").read_text())
  told = [json.loads(line) for line in
          (tmp_path / "teacher/metrics.jsonl").read_text().splitlines()]
  curve = [row["heldout_errors"] for row in told if row.get("net") == "teacher"]
  assert record["heldout_errors"] == min(curve)
  assert record["epoch"] == 1 + int(np.argmin(curve))
