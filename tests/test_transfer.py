"""Transfer sets, small beginnings, and what a sweep keeps of its nets."""

import json

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import data, main
from kd_jax.config import identity
from kd_jax.runs import alone, kept_logits
from kd_jax.training import optimizers

BASE = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=2", "--config.min_steps=0", "--config.teacher.epochs=4",
    "--config.teacher.min_steps=0", "--config.student.widths=(12,)",
    "--config.teacher.widths=(24,)", "--config.batch_size=64",
    "--config.tensorboard=false", "--config.sweep.lanes=1x1")
LABELS = np.random.default_rng(0).integers(0, 7, 3000)


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  with jax.numpy_dtype_promotion("standard"):
    yield


def run(own_data, workdir, *more):
  code = main.run([*BASE, f"--config.data.dir={own_data}",
                   f"--workdir={workdir}", *more])
  lines = lambda name: [json.loads(line) for line in (
      workdir / name).read_text().splitlines()] if code == 0 else []
  return code, lines


def test_a_part_of_the_training_set_is_nested_and_of_its_size():
  ids = np.arange(100, 3000)
  parts = [data.transfer_ids(ids, LABELS, part=p) for p in (0.01, 0.1, 0.5, 1.0)]
  assert [len(part) for part in parts] == [29, 290, 1450, 2900]
  for small, large in zip(parts, parts[1:]):
    assert set(small) < set(large) and (np.diff(small) > 0).all()
  other = data.transfer_ids(ids, LABELS, part=0.1, seed=1)
  # 29 would be common to two independent tenths.
  assert 10 < len(set(other) & set(parts[1])) < 60
  # Ids are drawn anew: a tenth is not the tenth that would be held out.
  heldout = set(data.split_ids(3000, 0.1)[1])
  tenth = data.transfer_ids(np.arange(3000), LABELS, part=0.1)
  assert 10 < len(heldout & set(tenth)) < 60


def test_classes_that_are_left_out_are_left_out():
  ids = np.arange(3000)
  kept = data.transfer_ids(ids, LABELS, classes=(2, 5))
  np.testing.assert_array_equal(kept, ids[(LABELS == 2) | (LABELS == 5)])
  few = data.transfer_ids(ids, LABELS, classes=(2, 5), part=0.5)
  assert set(few) < set(kept)
  assert len(few) == pytest.approx(len(kept) / 2, rel=0.1)


def test_students_see_the_transfer_set_and_teachers_everything(
    own_data, tmp_path, monkeypatch):
  seen, train = [], alone.train

  def watched(job, fingerprint):
    if job.net.member is not None:
      seen.append(len(job.setup.train.ids))
    return train(job, fingerprint)

  monkeypatch.setattr(alone, "train", watched)
  code, lines = run(own_data, tmp_path / "w", "--sweep.transfer.part=0.5,1.0",
                    "--sweep.seed=0")
  rows = lines("results.jsonl")
  assert code == 0 and [row["train_examples"] for row in rows] == [150, 300]
  assert set(seen) == {300}
  assert rows[0]["teacher_fingerprint"] == rows[1]["teacher_fingerprint"]
  assert rows[0]["fingerprint"] != rows[1]["fingerprint"]
  assert not (tmp_path / "w/logits").exists(), "kept only if asked for"
  # The same run by itself.
  assert run(own_data, tmp_path / "alone", "--config.transfer.part=0.5")[0] == 0
  summary = json.loads((tmp_path / "alone/summary.json").read_text())
  assert summary["distilled"]["test_wrong_ids"] == rows[0]["test_wrong_ids"]
  assert summary["teacher"]["fingerprint"] == rows[0]["teacher_fingerprint"]


@pytest.mark.parametrize(("word", "says"), [
    ("--config.transfer.classes=(7,)", "has classes 0 to 6"),
    ("--config.transfer.part=0.001", "leaves none of 300"),
    ("--config.transfer.part=0.0", "a number in (0, 1]"),
    ("--config.student.init_scale=0", "a number > 0")])
def test_mistakes_are_told_in_a_line(own_data, tmp_path, capsys, word, says):
  assert run(own_data, tmp_path / "w", word)[0] == 2
  error = capsys.readouterr().err
  assert says in error and "Traceback" not in error


def test_kernels_start_small_and_nothing_else():
  params = {"Dense_0": {"kernel": jnp.full((2, 3), 4.0), "bias": jnp.ones(3)}}
  small = optimizers.scaled(params, jnp.float32(0.25))
  np.testing.assert_array_equal(small["Dense_0"]["kernel"], np.ones((2, 3)))
  np.testing.assert_array_equal(small["Dense_0"]["bias"], np.ones(3))
  assert optimizers.scaled(params, None) is params


def test_initial_scales_are_lanes_of_one_program(own_data, tmp_path):
  code, lines = run(
      own_data, tmp_path / "w", "--sweep.student.init_scale=0.1,0.5,1.0",
      "--sweep.seed=0")
  rows = lines("results.jsonl")
  summary = json.loads((tmp_path / "w" / "summary.json").read_text())
  # 1 has no scaling in its program, so that old rows keep their fingerprints.
  assert code == 0 and summary["compilations"] == 2
  assert len({row["test_nll"] for row in rows}) == 3
  code, lines = run(own_data, tmp_path / "w", "--sweep.seed=0")
  assert lines("results.jsonl")[0]["fingerprint"] == rows[2]["fingerprint"]


def test_keys_that_came_later_are_part_of_those_whom_they_concern():
  values = config_lib.flatten(config_lib.default())
  of = lambda values: (
      identity.student(values, content="d", source={}, method="kd", weights=(1, 1)),
      identity.member(values, content="d", source={}, seed=0))
  plain = of(values)
  own = {"transfer.part", "teacher.init_scale", "student.init_scale", "dtype"}
  assert not own & {*plain[0], *plain[1]}
  student, member = of(values | {
      "transfer.part": 0.5, "teacher.init_scale": 0.5, "dtype": "bfloat16"})
  assert student == plain[0] | {"dtype": "bfloat16", "transfer.part": 0.5}
  assert member == plain[1] | {"dtype": "bfloat16", "teacher.init_scale": 0.5}


@pytest.mark.slow
def test_what_the_nets_say_is_kept(own_data, tmp_path):
  place = tmp_path / "w"
  code, lines = run(
      own_data, place, "--config.sweep.logits=true", "--sweep.seed=0,1",
      "--config.data.holdout=0.1", "--config.teacher.count=2")
  assert code == 0
  label = np.load(own_data / "blobs.npz")["y_test"]
  for row in lines("results.jsonl"):
    kept = kept_logits.load(place, row)
    assert kept["test"].shape == (110, 7) and kept["heldout"].shape == (30, 7)
    wrong = np.flatnonzero(kept["test"].argmax(1) != label)
    assert wrong.tolist() == row["test_wrong_ids"]
  teacher, *members = lines("teachers.jsonl")
  assert [row["net"] for row in (teacher, *members)] == [
      "teacher", "member", "member"]
  assert teacher["members"] == [row["fingerprint"] for row in members]
  assert teacher["teacher"]["count"] == 2 and teacher["test_nll"] > 0
  # Entropy rises with the temperature, to log 7 at most.
  entropy = list(teacher["entropy"].values())
  assert entropy == sorted(entropy) and 0 < entropy[0] < entropy[-1] < np.log(7)
  each = kept_logits.load_teacher(place, teacher["fingerprint"])["test"]
  assert each.shape == (2, 110, 7)
  for logits, row in zip(each, members, strict=True):
    assert np.flatnonzero(
        logits.argmax(1) != label).tolist() == row["test_wrong_ids"]


def test_the_entropy_of_targets_is_that_of_training_examples_by_hand(
    own_data, tmp_path):
  label = np.load(own_data / "blobs.npz")["y_train"]
  # The answers differ in the order of their classes alone.
  np.save(tmp_path / "logits.npy", np.float32(3.0) * np.eye(7, dtype="f4")[label])
  code, lines = run(own_data, tmp_path / "w", "--sweep.seed=0",
                    f"--config.teacher.logits={tmp_path / 'logits.npy'}")
  assert code == 0
  teacher, = lines("teachers.jsonl")
  assert teacher["entropy"] == {}, "of test examples the file says nothing"
  for t, found in teacher["train_entropy"].items():
    p = np.array([np.exp(3 / float(t)), *[1.0] * 6])
    p /= p.sum()
    assert found == pytest.approx(-np.sum(p * np.log(p)), abs=2e-6)
