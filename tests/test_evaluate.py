"""A finished net evaluated: numbers by hand, and the command."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest

import kd_jax
from kd_jax import data, evaluate, main
from kd_jax.core.errors import UserError
from kd_jax.explain import __main__ as explain
from kd_jax.report import evaluation, plots

LOGITS = np.array([[3.0, 0, 0], [0, 1, 0], [0, 2, 1], [1, 0, 0], [0, 0, 4]])
LABEL = np.array([0, 1, 2, 1, 2])


# ---- Numbers by hand.


def test_scores_are_those_of_the_formulas():
  found = evaluation.scores(LOGITS, LABEL)
  p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  assert (found.examples, found.errors, found.top5_errors) == (5, 2, None)
  assert found.nll == pytest.approx(-np.log(p[range(5), LABEL]).mean(), rel=1e-5)
  # No two confidences are in one bin of 15.
  right = np.array([1, 1, 0, 0, 1])
  assert len({int(c * 15) for c in p.max(-1)}) == 4
  same = (int(p[1].max() * 15), int(p[3].max() * 15))
  assert same[0] == same[1]
  gaps = right - p.max(-1)
  assert found.ece == pytest.approx(
      (abs(gaps[0]) + abs(gaps[1] + gaps[3]) + abs(gaps[2]) + abs(gaps[4])) / 5,
      rel=1e-5)
  assert 0.05 < found.low < 0.4 < found.high < 0.9
  # T moves neither errors nor their interval.
  hot = evaluation.scores(LOGITS, LABEL, 3.0)
  assert hot[:5] == found[:5] and hot.nll != found.nll


def test_top_five_counts_labels_that_five_others_are_above():
  logits = np.tile(np.arange(12.0), (12, 1))  # Class 11 first, class 7 fifth.
  found = evaluation.scores(logits, np.arange(12))
  assert (found.errors, found.top5_errors) == (11, 7)


def test_the_temperature_is_the_one_of_the_least_nll():
  draw = np.random.default_rng(0)
  logits = 6 * draw.normal(size=(400, 5))
  # Labels are drawn at T = 2.5.
  p = np.exp(logits / 2.5)
  label = np.array([draw.choice(5, p=row / row.sum()) for row in p])
  found = evaluation.fitted_temperature(logits, label)
  nll = lambda t: evaluation.scores(logits, label, t).nll
  assert nll(found) <= min(nll(found * 1.01), nll(found / 1.01))
  assert 2 < found < 3.2
  # All right: the surer the likelier, up to the bound.
  assert evaluation.fitted_temperature(
      logits, logits.argmax(-1)) == pytest.approx(0.01, rel=1e-3)


def test_classes_and_confusion_count_what_is_taken_for_what():
  said = LOGITS.argmax(-1)
  table = evaluation.confusion(said, LABEL, 4)
  assert table.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0] * 4]
  a, b, c, d = evaluation.by_class(table, ["a", "b", "c", "d"])
  assert a == ("a", 1, 0, 1, 1.0, 0.5, None)
  assert b == ("b", 2, 1, 1, 0.5, 0.5, ("a", 1))
  assert c == ("c", 2, 1, 0, 0.5, 1.0, ("b", 1))
  assert d == ("d", 0, 0, 0, None, None, None)


def test_flips_are_told_both_ways():
  first = np.array([0, 0, 2, 1, 0, 0])
  second = np.array([0, 1, 1, 1, 0, 2])
  found = evaluation.flips(first, second, np.array([0, 1, 2, 1, 2, 1]))
  assert found.mended.tolist() == [1] and found.broken.tolist() == [2]
  assert found.both.tolist() == [4, 5] and found.alike == 1
  assert found.agreement == pytest.approx(3 / 6) and found.p == 1


# ---- The command.


@pytest.fixture(scope="module")
def run(own_data, tmp_path_factory):
  place = tmp_path_factory.mktemp("evaluated") / "run"
  with pytest.MonkeyPatch.context() as patch, (
      jax.numpy_dtype_promotion("standard")):
    patch.setattr(plots, "write", lambda *_: {})
    assert main.run([
        "--config=mnist:smoke", f"--config.data.dir={own_data}",
        "--config.data.name=blobs", "--config.student.widths=(12,)",
        "--config.teacher.widths=(16,)", "--config.epochs=3",
        "--config.batch_size=32", "--config.teacher.steps=12",
        "--config.tensorboard=false", "--config.data.holdout=0.2",
        "--config.teacher.views=none", f"--workdir={place}"]) == 0
  return place


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.mark.pictures
def test_the_command_tells_and_keeps_what_the_runs_row_says(
    run, own_data, capsys):
  assert evaluate.main([str(run)]) == 0
  told = capsys.readouterr().out
  kept = json.loads((run / "evaluation/distilled/evaluation.json").read_text())
  rows = {row["net"]: row for row in map(
      json.loads, (run / "results.jsonl").read_text().splitlines())}
  row, summary = rows["distilled"], json.loads((run / "summary.json").read_text())
  assert kept["scores"]["errors"] == row["test_errors"]
  assert kept["scores"]["nll"] == pytest.approx(row["test_nll"], rel=1e-4)
  assert kept["scores"]["ece"] == pytest.approx(row["test_ece"], abs=1e-4)
  name, of_teacher, changed = kept["beside"]
  assert name == "teacher"
  assert of_teacher["errors"] == summary["teacher"]["test_errors"]
  wrong = {net: set(each["test_wrong_ids"]) for net, each in rows.items()}
  assert set(changed["broken"]) | set(changed["both"]) == wrong["distilled"]
  assert changed["agreement"] == pytest.approx(row["agreement"], abs=1e-6)
  # No other temperature makes the held-out labels likelier.
  with np.load(own_data / "blobs.npz") as arrays:
    held = data.split_ids(300, 0.2)[1]
    images, labels = arrays["x_train"][held], arrays["y_train"][held]
  logits = kd_jax.load(run).net().predict(images).logits
  nll = lambda t: evaluation.scores(logits, labels, t).nll
  fitted = kept["temperature"]
  assert nll(fitted) <= min(nll(1.05 * fitted), nll(fitted / 1.05))
  assert f"{len(changed['mended'])} mended" in told and "T = " in told
  with (run / "evaluation/distilled/confusion.csv").open() as file:
    lines = list(csv.reader(file))
  counts = np.array([line[1:] for line in lines[1:]], int)
  with np.load(own_data / "blobs.npz") as arrays:
    assert counts.sum(1).tolist() == np.bincount(arrays["y_test"]).tolist()
  assert counts.sum() - np.trace(counts) == row["test_errors"]
  for picture in ("confusion", "reliability", "flips"):
    assert (run / f"evaluation/distilled/{picture}.png").stat().st_size > 3000


def test_data_that_have_moved_are_the_runs_own(run, own_data, tmp_path):
  shutil.copy(own_data / "blobs.npz", tmp_path)
  found = evaluate.evaluate(
      run, overrides={"data.dir": str(tmp_path)}, out=tmp_path / "moved")
  same = evaluate.evaluate(run, out=tmp_path / "same")
  assert found.temperature == same.temperature and found.scores == same.scores
  # Where they are nowhere, other data are evaluated without a temperature.
  elsewhere = shutil.copytree(run, tmp_path / "run")
  config = json.loads((elsewhere / "config.json").read_text())
  (elsewhere / "config.json").write_text(json.dumps(
      config | {"data.dir": str(tmp_path / "gone")}))
  other = evaluate.evaluate(elsewhere, out=tmp_path / "other", overrides={
      "data.name": "blobs", "data.dir": str(tmp_path)})
  assert other.temperature is None and other.scores == same.scores


def test_other_data_and_another_net_are_evaluated(run, tmp_path):
  draw = np.random.default_rng(5)
  images = draw.integers(0, 255, (20, 12, 10), np.uint8)
  np.savez(tmp_path / "others.npz", x_train=images, y_train=np.arange(20) % 7,
           x_test=images[:9], y_test=np.arange(9) % 7)
  given = {"data.name": "others", "data.dir": str(tmp_path)}
  found = evaluate.evaluate(run, "baseline", beside="distilled", overrides=given,
                            out=tmp_path / "out")
  assert found.scores.examples == 9 and found.beside[0] == "distilled"
  # The temperature is of the run's own held-out data.
  assert found.temperature == evaluate.evaluate(
      run, "baseline", out=tmp_path / "own").temperature
  assert (tmp_path / "out/evaluation.json").exists()


@pytest.mark.parametrize("words, told", [
    (["--net=nothing"], "has no net 'nothing'"),
    (["--beside=distilled"], "is the net itself"),
    (["--config.temperature=3"], "only keys of the data set"),
    (["--config.data.name=other", "--config.data.dir={dir}"],
     "and distilled takes"),
    (["--config.data.name=many", "--config.data.dir={dir}"], "has 9 classes"),
    (["--config.data.nam=x"], "did you mean data.name"),
])
def test_what_cannot_be_is_told_in_a_line(words, told, run, tmp_path, capsys):
  for name, shape, classes in (("other", (5, 5), 7), ("many", (12, 10), 9)):
    images = np.random.default_rng(0).integers(0, 255, (30, *shape), np.uint8)
    np.savez(tmp_path / f"{name}.npz", x_train=images, x_test=images,
             y_train=np.arange(30) % classes, y_test=np.arange(30) % classes)
  assert evaluate.main([str(run), *(w.format(dir=tmp_path) for w in words)]) == 2
  error = capsys.readouterr().err
  assert told in error and error.startswith("error: ") and error.count("\n") <= 2


def test_a_folder_of_no_run_is_refused():
  with pytest.raises(UserError, match="holds no run"):
    evaluate.evaluate("nowhere")


@pytest.mark.pictures
def test_the_commands_take_data_that_have_moved(run, own_data, tmp_path, capsys):
  elsewhere = shutil.copytree(run, tmp_path / "run")
  config = json.loads((elsewhere / "config.json").read_text())
  (elsewhere / "config.json").write_text(json.dumps(
      config | {"data.dir": str(tmp_path / "gone")}))
  evaluated = lambda *words: evaluate.main([str(elsewhere), *words])
  explained = lambda *words: explain.main(
      [f"--workdir={elsewhere}", "--id=0", "--epochs=1", *words])
  for command in (evaluated, explained):
    assert command() == 2 and "gone" in capsys.readouterr().err
    assert command(f"--data={own_data}") == 0
