"""What is committed of a study that was stopped, and going on from it."""

import json
import shutil
import subprocess
import sys
import types

from conftest import ROOT
import jax
import pytest

from configs import mnist
from experiments import index, reproduce
from experiments.protocol import Stage
from kd_jax import main
from kd_jax.config import sweep
from kd_jax.core.errors import UserError
from kd_jax.runs import records

NAME = "hinton15_temperature"  # What the toy is called; `reproduce` knows no other.


def rows_of(count, **more):
  return [{"schema": 1, "study": NAME, "fingerprint": f"f{n}", "overrides": {},
           "seed": n, "device": "cpu", "cores": 2, **more} for n in range(count)]


def write(file, rows):
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def toy(monkeypatch, tmp_path):
  """A study of two stages, whose folder is `tmp_path/committed/NAME`."""
  module = types.SimpleNamespace(
      COMMAND="--config=configs/mnist.py", CLAIM="none", DATA="MNIST",
      UNIT="errors", stages=lambda options: [],
      conclude=lambda rows: f"| {len(rows['table'])} rows |\n",
      status=lambda rows: f"{len(rows['table'])} rows")
  folder = tmp_path / "committed" / NAME
  folder.mkdir(parents=True)
  monkeypatch.setattr(index, "ROOT", folder.parent)
  monkeypatch.setattr(index, "STUDIES", (NAME,))
  monkeypatch.setattr(index, "study", lambda name: module)
  monkeypatch.setattr(index, "documents", lambda: {})
  return types.SimpleNamespace(
      module=module, folder=folder, work=tmp_path / "work",
      stages=("choosing", "table"))


def record(toy, **more):
  index.record(NAME, toy.stages, toy.work, **more)


def state(toy):
  return index.table().splitlines()[-1].split(" | ")[4]


def test_a_stopped_study_is_under_way_until_it_is_recorded_whole(toy):
  assert state(toy) == "not run yet"
  plan = {"schema": 1, "chunks": [
      {"group": "g", "shape": [1, 1, 2], "lanes": lanes} for lanes in ("ab", "cc")]}
  write(toy.work / "choosing/results.jsonl", rows_of(2))
  (toy.work / "choosing/plan.json").write_text(json.dumps(plan))
  record(toy, unfinished="choosing")
  assert state(toy) == "under way: choosing, 2 of 3 runs"
  write(toy.work / "choosing/results.jsonl", rows_of(3))
  write(toy.work / "table/results.jsonl", rows_of(4))
  record(toy, unfinished="table")
  # Half a table proves nothing: neither a verdict nor a phrase is made of it.
  assert state(toy) == "under way: table, 4 rows"
  assert not (toy.folder / "conclusion.md").exists()
  write(toy.work / "table/results.jsonl", rows_of(5))
  record(toy)
  assert state(toy) == "5 rows"
  said = (toy.folder / "conclusion.md").read_text()
  assert said.startswith("| 5 rows |\n") and "](results.jsonl)" in said
  assert index.unfinished(toy.folder) is None


def test_a_finished_table_is_told_beside_a_later_stage(toy):
  write(toy.work / "table/results.jsonl", rows_of(5))
  write(toy.work / "later/results.jsonl", rows_of(1))
  toy.stages = ("table", "later")
  record(toy, unfinished="later")
  assert state(toy) == "5 rows; under way: later, 1 rows"
  assert (toy.folder / "conclusion.md").exists()


def test_no_committed_row_is_lost_to_a_stopped_run(toy):
  write(toy.work / "choosing/results.jsonl", rows_of(3))
  record(toy)
  write(toy.work / "choosing/results.jsonl", rows_of(2))
  for how in ({"unfinished": "choosing"}, {"extends": True}):
    with pytest.raises(UserError, match="has 1 rows of choosing that"):
      record(toy, **how)
  assert len(index.committed(toy.folder)["choosing"]) == 3
  # Another machine has made other nets of the same settings and seeds.
  theirs = lambda count: [row | {"fingerprint": f"g{row['seed']}"}
                          for row in rows_of(count)]
  write(toy.work / "choosing/results.jsonl", theirs(2))
  with pytest.raises(UserError, match="has 1 rows of choosing that"):
    record(toy, unfinished="choosing")
  write(toy.work / "choosing/results.jsonl", theirs(3))
  record(toy, unfinished="choosing")
  assert index.committed(toy.folder)["choosing"][0]["fingerprint"] == "g0"


def test_a_workdir_begins_with_what_is_committed(toy, tmp_path):
  write(toy.work / "choosing/results.jsonl", rows_of(3))
  write(toy.work / "choosing/teachers.jsonl", rows_of(1, net="teacher"))
  write(toy.work / "table/results.jsonl", rows_of(2))
  (toy.work / "table/plan.json").write_text('{"chunks": []}')
  record(toy, unfinished="table")
  fresh = tmp_path / "fresh"
  for stage in ("choosing", "table", "later"):
    index.take(NAME, stage, fresh / stage, sweep=stage == "table")
    assert index.whole(NAME, stage) == (stage == "choosing")
  assert not (fresh / "later").exists()
  for file in ("choosing/results.jsonl", "choosing/teachers.jsonl",
               "table/results.jsonl"):
    assert (fresh / file).read_text() == (toy.work / file).read_text()
  assert json.loads((fresh / "table/plan.json").read_text()) == {"chunks": []}
  # What was done since is not overwritten.
  write(fresh / "table/results.jsonl", rows_of(4))
  index.take(NAME, "table", fresh / "table")
  assert len(index.stage_rows(fresh / "table")["table"]) == 4


@pytest.mark.slow
def test_a_study_goes_on_from_what_is_committed(
    toy, own_data, tmp_path, monkeypatch):
  """Stopped in its second stage, gone on elsewhere: the rows of one run."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(records, "commit", lambda: ("c" * 40, False))

  def config(smoothing, seeds=3):
    config = mnist.get_config()
    config.method = "hard"  # Without a teacher, which would be trained each time.
    config.data.name, config.data.dir = "blobs", str(own_data)
    config.student.widths, config.epochs, config.min_steps = (12,), 2, 0
    config.sweep.lanes, config.tensorboard = "1x1", False
    config.sweep.points = tuple(sweep.product(
        {"label_smoothing": (smoothing,), "seed": range(seeds)}))
    return config

  toy.module.stages = lambda options: [
      Stage("choosing", config=lambda rows: config(0.1)),
      Stage("table", config=lambda rows: config(0.0, options.seeds or 3))]

  class Signals:
    """Wishes to stop when there is enough."""
    code = 0

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

    def __call__(self):
      return self.enough()

  def run(where, *flags, enough=lambda: False):
    Signals.enough = staticmethod(enough)
    monkeypatch.setattr(reproduce.door, "Signals", lambda minutes: Signals())
    with jax.numpy_dtype_promotion("standard"):
      assert reproduce.main(
          [NAME, f"--workdir={tmp_path / where}", *flags]) == 0
    return {stage: index.stage_rows(tmp_path / where / stage)[stage]
            for stage in ("choosing", "table")}

  whole = run("whole")
  stopped = run("first", "--record", enough=lambda: bool(
      index.stage_rows(tmp_path / "first/table")["table"]))
  assert [len(stopped[stage]) for stage in ("choosing", "table")] == [3, 1]
  assert state(toy) == "under way: table, 1 of 3 runs"
  gone_on = run("second", "--from-record", "--record")
  assert not (tmp_path / "second/choosing/plan.json").exists(), "it was run again"
  assert gone_on["choosing"] == stopped["choosing"]
  assert gone_on["table"][0] == stopped["table"][0]
  plain = lambda rows: [
      {key: row[key] for key in ("fingerprint", "test_wrong_ids", "curve")}
      for row in rows]
  assert plain(gone_on["table"]) == plain(whole["table"])
  assert state(toy) == "3 rows"
  # A table has more of them with more seeds.
  more = run("third", "--from-record", "--seeds=4", "--record")
  assert not (tmp_path / "third/choosing/plan.json").exists(), "it was run again"
  assert len(more["table"]) == 4
  assert [row for row in more["table"] if row["seed"] < 3] == gone_on["table"]
  assert state(toy) == "4 rows"


@pytest.mark.parametrize("stage", [
    {"config": lambda rows: mnist.get_config()},
    {"run": lambda rows, place: None}])
def test_nothing_is_trained_for_the_record_of_a_tree_with_changes(
    stage, toy, tmp_path, monkeypatch, capsys):
  """The rows could be trained again by nobody."""
  toy.module.stages = lambda options: [Stage("table", **stage)]
  monkeypatch.setattr(records, "commit", lambda: ("c" * 40, True))
  monkeypatch.setattr(reproduce.door, "train", None)  # It would be called in vain.
  assert reproduce.main([NAME, f"--workdir={tmp_path}/w", "--record"]) == 2
  assert "commit them" in capsys.readouterr().err
  assert not (toy.folder / "results.jsonl").exists()


def test_teachers_whose_students_all_have_rows_are_not_trained_again(
    own_data, tmp_path, monkeypatch, capsys):
  """Of two teachers of the main job, one has a student without a row."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)

  def run(where, seeds="0,1", more=()):
    words = ["--config=configs/mnist.py:smoke", "--config.data.name=blobs",
             f"--config.data.dir={own_data}", "--config.tensorboard=false",
             "--config.student.widths=(6,)", "--config.teacher.widths=(8,)",
             "--config.steps=6", "--config.teacher.steps=6",
             "--config.sweep.lanes=1x1", "--sweep.teacher.label_smoothing=0.0,0.1",
             f"--sweep.seed={seeds}", f"--workdir={tmp_path / where}", *more]
    with jax.numpy_dtype_promotion("standard"):
      assert main.run(words) == 0
    read = lambda name: [json.loads(line) for line in (
        tmp_path / where / name).read_text().splitlines()]
    return read("results.jsonl"), read("teachers.jsonl")

  trained = lambda where: sorted(
      each.name for each in (tmp_path / where / "teachers").glob("[!.]*")
      if each.is_dir())
  rows, taught = run("whole")
  assert len(rows) == 4 and len(taught) == len(trained("whole")) == 2
  # The same command again, without the nets, and with all rows.
  shutil.rmtree(tmp_path / "whole/teachers")
  assert run("whole") == (rows, taught) and trained("whole") == []
  # Nor is it said of a folder of the user's that they are trained there.
  capsys.readouterr()
  assert run("whole", more=[f"--config.teacher.dir={tmp_path / 'own'}"])[0] == rows
  assert "holds no teacher" not in capsys.readouterr().out
  # Without the last row of the second: its teacher is there again, and alone.
  left = tmp_path / "left"
  left.mkdir()
  index.write(left / "plan.json", {"chunks": []})
  write(left / "results.jsonl", [
      row for row in rows if row["overrides"] | {"seed": 1} == row["overrides"]
      or row["overrides"]["teacher.label_smoothing"] == 0.0])
  write(left / "teachers.jsonl", taught)
  again, other = run("left")
  assert trained("left") == [
      each["fingerprint"][:16] for each in taught
      if each["teacher"].get("label_smoothing")]
  plain = lambda found: {row["fingerprint"]: row["test_wrong_ids"] for row in found}
  assert plain(again) == plain(rows) and len(again) == 4
  assert [each["fingerprint"] for each in other] == [
      each["fingerprint"] for each in taught]
  # Another seed of both: both are trained.
  assert len(run("left", "0,1,2")[0]) == 6 and len(trained("left")) == 2


def test_jax_does_not_start_before_a_sweep_has_set_it_up():
  # It would see one device, and every lane would wait for the one before.
  subprocess.run([sys.executable, "-c", """
import pathlib, sys
from experiments import index, reproduce
for name in index.STUDIES:
  # The first is no sweep, and the rows of the second were made on one device.
  if name not in ("hinton15_specialists", "hinton15_omitted"):
    index.whole(name, "table")
    index.study(name).stages(reproduce.Options(pathlib.Path("runs")))
assert "jax" not in sys.modules
"""], check=True, cwd=ROOT)


@pytest.mark.parametrize("flag", ["--quick", "--shard=1/2"])
def test_what_the_record_cannot_serve_is_refused(flag, capsys):
  assert reproduce.main([NAME, "--from-record", flag]) == 2
  assert "--from-record: not with" in capsys.readouterr().err
