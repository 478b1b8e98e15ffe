"""A tracker of the user's own is told what happens, and ends no run."""

import contextlib
import json
import pathlib

from conftest import ROOT
import jax
import pytest

from kd_jax import main

TRACKER = '''
import json


def track(config, workdir):
  def log(kind, what):
    with open(workdir / "told.jsonl", "a") as file:
      file.write(json.dumps({"kind": kind, **{
          key: str(value) for key, value in what.items()}}) + "\\n")
    FAILS
  log("begin", {"temperature": config["temperature"]})
  return log


def fails(config, workdir):
  raise RuntimeError("no account")


def leaves(config, workdir):
  raise SystemExit(3)


def gives_nothing(config, workdir):
  return None
'''


@pytest.fixture
def run(own_data, tmp_path, teachers, capsys):
  def runs(name, *words, fails="", tracker="track"):
    file = tmp_path / "own_tracker.py"
    file.write_text(TRACKER.replace("FAILS", fails or "pass"))
    with contextlib.chdir(ROOT), jax.numpy_dtype_promotion("standard"):
      code = main.run([
          "--config=configs/mnist.py:smoke", f"--config.data.dir={own_data}",
          "--config.data.name=blobs", "--config.student.widths=(8,)",
          "--config.teacher.widths=(8,)", "--config.steps=4",
          "--config.teacher.steps=4", "--config.tensorboard=false",
          f"--config.teacher.dir={teachers}", "--config.teacher.views=none",
          f"--config.tracker={file}:{tracker}", f"--workdir={tmp_path / name}",
          *words])
    told = tmp_path / name / "told.jsonl"
    lines = told.read_text().splitlines() if told.is_file() else []
    return code, [json.loads(line) for line in lines], capsys.readouterr()
  return runs


def lines_of(file: pathlib.Path):
  return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.pictures
def test_it_is_told_every_epoch_row_and_figure_and_the_end(run, tmp_path):
  code, told, _ = run("swept", "--sweep.temperature=6,2",
                      "--config.sweep.lanes=1x2", "--config.epochs=2",
                      "--config.steps=none", "--config.batch_size=100")
  assert code == 0 and told[0]["kind"] == "begin"
  of = lambda kind: [each for each in told if each["kind"] == kind]
  epochs = [row for row in lines_of(tmp_path / "swept/metrics.jsonl")
            if "event" not in row]
  assert [(each["net"], each["epoch"]) for each in of("epoch")] == [
      (row["net"], str(row["epoch"])) for row in epochs]
  rows = lines_of(tmp_path / "swept/results.jsonl")
  assert [each["fingerprint"] for each in of("result")] == [
      row["fingerprint"] for row in rows]
  assert [each["test_errors"] for each in of("result")] == [
      str(row["test_errors"]) for row in rows]
  figures = {pathlib.Path(each["path"]) for each in of("figure")}
  assert figures == set((tmp_path / "swept").glob("*.png")) and figures
  assert told[-1]["kind"] == "end" and told[-1]["lanes"] == "2"
  assert "tracker" not in rows[-1]["command"]


def test_one_that_raises_is_told_nothing_more_and_the_run_goes_on(run, tmp_path):
  code, told, output = run(
      "raises", fails="if kind == 'epoch': raise OSError('no network')")
  assert code == 0 and (tmp_path / "raises/summary.json").exists()
  assert [each["kind"] for each in told] == ["begin", "epoch"]
  line, = (line for line in output.out.splitlines() if "no network" in line)
  assert "config.tracker=" in line and "the run goes on" in line


@pytest.mark.parametrize("tracker, words", [
    ("fails", "no account"), ("leaves", "SystemExit"),
    ("gives_nothing", "log(kind"), ("not_there", "has no not_there"),
])
def test_one_that_cannot_begin_is_refused_before_anything_is_trained(
    tracker, words, run, tmp_path):
  code, _, output = run("refused", tracker=tracker)
  assert code == 2 and words in output.err
  assert "Traceback" not in output.err
  assert not (tmp_path / "refused/parameters").exists()
