"""A sweep in parts, on any number of machines: the rows are those of one run."""

import json
import pickle
import shutil

from conftest import ROOT
import jax
import numpy as np
import pytest

from experiments import reproduce, temperature_sweep
from kd_jax import main, report
from kd_jax.config import build, command_line
from kd_jax.core.errors import UserError
from kd_jax.report import plots
from kd_jax.runs import chunk as chunks
from kd_jax.runs import plan, results, shard
from kd_jax.training import train_loop
from kd_jax.training.lanes import Shape

BASE = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=1", "--config.min_steps=0", "--config.teacher.epochs=2",
    "--config.teacher.min_steps=0", "--config.student.widths=(12,)",
    "--config.teacher.widths=(24,)", "--config.batch_size=64",
    "--config.tensorboard=false")
# Rows of two lanes: four chunks, of which the second and fourth are ragged.
GRID = ("--sweep.temperature=1,4,8", "--sweep.seed=0,1",
        "--config.sweep.lanes=1x2")
# When and where a row was made, and what its folder was called.
OF_THE_RUN = ("seconds", "study", "command")


@pytest.fixture(scope="module")
def sweeps(own_data, tmp_path_factory):
  """Runs the sweep as a command would; `sweeps.whole` and three shards."""
  place = tmp_path_factory.mktemp("shards")

  def run(*more, workdir, grid=GRID):
    return main.run([*BASE, *grid, f"--config.data.dir={own_data}",
                     f"--workdir={workdir}", *more])

  run.whole = place / "whole"
  run.shards = [place / f"part-{number}" for number in (1, 2, 3)]
  with pytest.MonkeyPatch.context() as patch, (
      jax.numpy_dtype_promotion("standard")):
    patch.chdir(ROOT)
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    patch.setattr(jax, "local_device_count", lambda: 1)
    patch.setattr(plots, "write", lambda *_: {})
    assert run(workdir=run.whole) == 0
    for number, folder in enumerate(run.shards, 1):
      if number > 1:  # One trains its own, to the same bits.
        shutil.copytree(run.whole / "teachers", folder / "teachers")
      assert run(f"--shard={number}/3", workdir=folder) == 0
    yield run


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def parts(sweeps, tmp_path):
  """Copies of the three shards, to be spoilt."""
  return [shutil.copytree(folder, tmp_path / folder.name)
          for folder in sweeps.shards]


def own(rows):
  return [{k: v for k, v in row.items() if k not in OF_THE_RUN} for row in rows]


def merge(folders, out):
  return report.main(["merge", *map(str, folders), "--out", str(out)])


def change(folder, edit):
  """Applies `edit` to the first row of a folder."""
  first, *others = report.read(folder)
  (folder / "results.jsonl").write_text("".join(
      json.dumps(row) + "\n" for row in [{**first, **edit(first)}, *others]))


def test_three_shards_leave_the_rows_of_one_run(sweeps, tmp_path, capsys):
  rows = [report.read(folder) for folder in sweeps.shards]
  # Of four chunks the first shard has two.
  assert list(map(len, rows)) == [3, 1, 2]
  plans = {(folder / "plan.json").read_text()
           for folder in (sweeps.whole, *sweeps.shards)}
  assert len(plans) == 1
  for folder in sweeps.shards:
    assert (folder / "report.html").is_file()
  out = tmp_path / "out"
  assert merge(sweeps.shards, out) == 0
  said = capsys.readouterr().out
  assert "6 rows of 3 folders; none of the plan's 6 lanes is missing" in said
  merged = report.read(out)
  assert own(merged) == own(report.read(sweeps.whole))
  assert {row["study"] for row in merged} == {"out"}
  assert (out / "table.md").read_text() in said
  assert {"plan.json", "config.json", "manifest.json", "teacher.json",
          "summary.json", "report.html", "table.csv"} <= {
              path.name for path in out.iterdir()}
  # Again, with all of it there already, changes nothing.
  assert merge([sweeps.whole, *sweeps.shards], out) == 0
  assert "6 rows of 5 folders, 12 of them twice" in capsys.readouterr().out
  assert report.read(out) == merged


def test_what_is_missing_is_told_and_alone_done(
    sweeps, tmp_path, capsys, monkeypatch):
  out = tmp_path / "out"
  assert merge(sweeps.shards[::2], out) == 0
  told = capsys.readouterr().out
  assert "1 of the plan's 6 lanes are missing" in told
  assert json.loads((out / "summary.json").read_text())["missing"] == 1
  trained = []
  train = chunks.train
  monkeypatch.setattr(
      "kd_jax.runs.driver.chunks.train", lambda job, chunk, *a, **k:
      trained.append(len(set(chunk.lanes))) or train(job, chunk, *a, **k))
  assert sweeps(workdir=out) == 0
  assert trained == [1] and "already trained" in capsys.readouterr().out
  assert own(report.read(out)) == own(report.read(sweeps.whole))
  assert "missing" not in json.loads((out / "summary.json").read_text())


def test_a_shard_goes_on_and_another_keeps_its_rows(
    sweeps, parts, capsys, monkeypatch):
  before = report.read(parts[0])
  with monkeypatch.context() as patch:
    patch.setattr("kd_jax.runs.driver.chunks.train", None)
    assert sweeps("--shard", "1/3", workdir=parts[0]) == 0
  said = capsys.readouterr().out
  assert "shard 1/3: 2 of 4 chunks, 3 of 6 lanes" in said
  assert report.read(parts[0]) == before
  # Chunks 2 and 4, of which 4 was the first shard's of three.
  assert sweeps("--shard=2/2", workdir=parts[0]) == 0
  assert "sweep: 3 of 4 lanes are done" in capsys.readouterr().out
  after = report.read(parts[0])
  assert len(after) == 4 and all(row in after for row in before)


def test_more_shards_than_chunks(sweeps, tmp_path):
  empty = tmp_path / "empty"
  shutil.copytree(sweeps.shards[0] / "teachers", empty / "teachers")
  assert sweeps("--shard=5/5", workdir=empty) == 0
  assert report.read(empty) == []
  assert merge([empty, *sweeps.shards], tmp_path / "out") == 0
  assert merge([empty], tmp_path / "none") == 2


@pytest.mark.parametrize(("edit", "says"), [
    (lambda row: {"test_errors": row["test_errors"] + 1}, "has two results, te"),
    (lambda row: {"fingerprint": "f" * 64}, "stands under two fingerprints"),
    (lambda row: {"fingerprint": "f" * 64, "seed": 9,
                  "overrides": {**row["overrides"], "seed": 9},
                  "teacher_fingerprint": "e" * 64}, "had two teachers"),
    (lambda row: {"fingerprint": "f" * 64, "seed": 9,
                  "overrides": {**row["overrides"], "seed": 9},
                  "teacher_sha256": ["e" * 64]}, "had two teachers"),
])
def test_conflicts_are_refused(sweeps, parts, tmp_path, capsys, edit, says):
  change(parts[1], edit)
  out = tmp_path / "out"
  assert merge([sweeps.whole, parts[1]], out) == 2
  error = capsys.readouterr().err
  assert says in error and error.count("\n") == 1 and error.startswith("error: ")
  assert str(parts[1]) in error and str(sweeps.whole) in error
  assert not out.exists(), "nothing is written"


def test_of_two_packings_of_a_lane_the_first_is_kept(
    sweeps, parts, tmp_path, capsys):
  """They agree to rounding, which can be some errors of many."""
  change(parts[1], lambda row: {
      "packing": "4x1x1", "test_errors": row["test_errors"] + 1})
  second = report.read(parts[1])[0]
  out = tmp_path / "out"
  assert merge([sweeps.whole, parts[1]], out) == 0
  assert own(report.read(out)) == own(report.read(sweeps.whole))
  assert results.split(out)[1] == [second | {"study": "out"}]
  assert "keeps 1 row of other packings" in capsys.readouterr().out
  # Going on there keeps both.
  assert sweeps(workdir=out) == 0
  assert results.split(out)[1] == [second | {"study": "out"}]


def test_a_sweep_that_varies_the_teacher_has_several(parts, tmp_path):
  for folder, epochs in zip(parts, (2, 4)):
    rows = report.read(folder)
    (folder / "results.jsonl").write_text("".join(json.dumps(row | {
        "fingerprint": f"{epochs}{row['fingerprint']}",
        "overrides": row["overrides"] | {"teacher.epochs": epochs},
        "teacher_fingerprint": str(epochs) * 64}) + "\n" for row in rows))
  assert merge(parts[:2], tmp_path / "out") == 0


@pytest.mark.parametrize(("name", "key", "says"), [
    ("config.json", "epochs", "two values of epochs, 1 and 7"),
    ("teachers/*/record.json", "parameters_sha256", "are two teachers of the"),
])
def test_other_settings_are_another_sweep(
    parts, tmp_path, capsys, name, key, says):
  (file,) = parts[2].glob(name)
  file.write_text(json.dumps({**json.loads(file.read_text()), key: 7}))
  assert merge(parts, tmp_path / "out") == 2
  assert says in capsys.readouterr().err


def test_where_things_lie_is_no_setting(parts, tmp_path):
  file = parts[2] / "config.json"
  file.write_text(json.dumps(
      {**json.loads(file.read_text()), "data.dir": "elsewhere"}))
  assert merge(parts, tmp_path / "out") == 0


@pytest.mark.parametrize(("content", "says"), [
    (None, "there is no such file"),
    (b'{"schema": 1, "ov', "line 1: is no row of JSON"),
    (b'{"net": "teacher"}', "no row of a sweep"),
    (b'{"schema": 9, "overrides": {}, "fingerprint": "f"}', "of schema 1"),
    (pickle.dumps(print, protocol=4) + b"\xff", "line 1: is no row of JSON"),
])
def test_folders_that_are_none_are_told(
    sweeps, tmp_path, capsys, content, says):
  wrong = tmp_path / "wrong"
  wrong.mkdir()
  if content is not None:
    (wrong / "results.jsonl").write_bytes(content)
  assert merge([sweeps.shards[0], wrong], tmp_path / "out") == 2
  error = capsys.readouterr().err
  assert says in error and str(wrong) in error and error.count("\n") == 1


def test_a_device_beside_the_rows_is_not_copied(parts, tmp_path, capsys):
  (parts[0] / "manifest.json").unlink(missing_ok=True)
  (parts[0] / "manifest.json").symlink_to("/dev/zero")
  assert merge(parts, tmp_path / "out") == 2
  error = capsys.readouterr().err
  assert "manifest.json" in error and error.count("\n") == 1
  assert not (tmp_path / "out").exists()


def test_what_shards_kept_of_their_nets_is_joined(parts, tmp_path):
  for number, folder in enumerate(parts):
    (folder / "logits").mkdir()
    (folder / "logits" / f"{number}.npz").write_bytes(bytes([number]))
  told = (parts[0] / "teachers.jsonl").read_text()
  assert merge(parts, tmp_path / "out") == 0
  assert (tmp_path / "out" / "teachers.jsonl").read_text() == told
  kept = sorted((tmp_path / "out" / "logits").iterdir())
  assert [file.read_bytes() for file in kept] == [
      bytes([number]) for number in range(len(parts))]


def test_rows_without_a_plan_are_joined_and_it_is_told(parts, tmp_path, capsys):
  for folder in parts:
    (folder / "plan.json").unlink()
  assert merge(parts, tmp_path / "out") == 0
  assert "no plan.json says whether" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "a/b", "1", "1/0", "-1/3", "1/3/5", "1.0/3"])
def test_malformed_shards_are_told(text, capsys):
  for run in (lambda word: main.run([*BASE, *GRID, word]),
              lambda word: temperature_sweep.main([*BASE, word]),
              lambda word: reproduce.main(["hinton15_temperature", word])):
    assert run(f"--shard={text}") == 2
    error = capsys.readouterr().err
    assert f"--shard={text}: must be I/N" in error and error.count("\n") == 1


def test_a_shard_without_a_number_is_told(capsys):
  for words in (["--shard"], ["--shard="]):
    assert main.run([*BASE, *GRID, *words]) == 2
    assert "--shard=: must be I/N" in capsys.readouterr().err


@pytest.mark.parametrize("plan", [(), ("--plan",)])
def test_a_shard_of_a_single_run_is_refused(plan, capsys):
  assert main.run([*BASE, "--shard=1/3", *plan]) == 2
  assert "--shard=1/3: there is no sweep" in capsys.readouterr().err


def test_the_plan_of_a_shard_is_its_part(sweeps, tmp_path, capsys):
  assert sweeps("--plan", "--shard=1/3", workdir=tmp_path / "none") == 0
  said = capsys.readouterr().out
  assert "shard 1/3: 3 of 6 runs in 1 compilation" in said
  assert "2 of 4" in said and not (tmp_path / "none").exists()


def test_every_chunk_is_dealt_to_one_shard():
  items = list(range(11))
  dealt = [shard.Shard(number, 4).part(items) for number in (1, 2, 3, 4)]
  assert sorted(item for part in dealt for item in part) == items
  assert {len(part) for part in dealt} == {2, 3}
  # Group by group, as the plan is told, it is the same.
  assert [shard.Shard(3, 4).part(items[:6])
          + shard.Shard(3, 4).part(items[6:], before=6)] == [dealt[2]]


def test_a_folder_of_its_own_unless_one_is_given(monkeypatch):
  seen = []
  monkeypatch.setattr(main, "train", lambda config, workdir, *a, **k:
                      seen.append((workdir, k["shard"], k["again"])) or 0)
  assert main.run([*BASE, *GRID, "--shard=2/3"]) == 0
  assert main.run([*BASE, *GRID, "--shard=2/3", "--workdir=mine"]) == 0
  (first, part, again), (second, _, _) = seen
  assert first.name.endswith("-2of3") and second.name == "mine"
  assert part == shard.Shard(2, 3) and "--shard=2/3" in again


def stopped(*args, **more):
  raise train_loop.Interrupted()


def test_shards_go_by_rule_and_do_not_measure(
    sweeps, tmp_path, capsys, monkeypatch):
  def measured(*args, **more):
    raise AssertionError("a shard measures")

  monkeypatch.setattr("kd_jax.runs.probe.choose", measured)
  monkeypatch.setattr("kd_jax.runs.probe.remembered", measured)
  # The plan is written before anything is compiled.
  monkeypatch.setattr("kd_jax.runs.driver.Programs.get", stopped)
  grid = (*GRID[:2], "--config.sweep.lanes=auto")
  for number in (1, 2):
    place = tmp_path / f"{number}"
    shutil.copytree(sweeps.whole / "teachers", place / "teachers")
    assert sweeps(f"--shard={number}/2", workdir=place, grid=grid) == 0
    assert "by rule, as shards do not measure" in capsys.readouterr().out
  assert (tmp_path / "1/plan.json").read_text() == (
      tmp_path / "2/plan.json").read_text()
  assert sweeps("--plan", "--shard=1/2", workdir=tmp_path, grid=grid) == 0


def trained(widths, own_data):
  config, _ = command_line.parse(
      [*BASE, f"--config.data.dir={own_data}",
       f"--config.student.widths={widths}"])
  return build.student(config, build.dataset(config, say=lambda text: None))


@pytest.mark.parametrize(("widths", "backend", "expected"), [
    ("(30,30)", "cpu", Shape(1, 1, 20)), ("(300,300)", "cpu", Shape(1, 1, 7)),
    ("(800,800)", "cpu", Shape(1, 1, 1)),
    ("(30,30)", "gpu", Shape(1, 2, 20)),
    # 108 million weights, gradients and two moments: 1.7 GB, four in 8 GiB.
    ("(10000,10000)", "gpu", Shape(1, 1, 4)),
])
def test_the_rule_knows_the_program_and_the_kind_of_device(
    own_data, monkeypatch, widths, backend, expected):
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  image = np.zeros((1, 28, 28, 1), np.uint8)
  seeds = [seed for seed in range(4) for _ in range(20)]
  assert plan.by_rule(trained(widths, own_data), image, seeds) == expected


def test_a_temperature_sweep_in_parts(monkeypatch, capsys):
  seen = []
  monkeypatch.setattr("kd_jax.main.train", lambda config, workdir, *a, **k:
                      seen.append((workdir.name, k["shard"])) or 0)
  assert temperature_sweep.main([*BASE, "--shard=2/3", "--workdir=runs/w"]) == 0
  assert seen == [("w", shard.Shard(2, 3))]
  assert temperature_sweep.main([*BASE, "--shard=2/3"]) == 0
  assert seen[1][0].endswith("-2of3")


def test_a_study_in_parts_stops_between_its_stages(
    tmp_path, monkeypatch, capsys):
  seen = []
  monkeypatch.setattr("kd_jax.main.train", lambda config, workdir, *a, **k:
                      seen.append((workdir.name, k["shard"])) or 0)
  command = ["hinton15_temperature", f"--workdir={tmp_path}"]
  assert reproduce.main([*command, "--shard=2/3"]) == 0
  assert seen == [("choosing-2of3", shard.Shard(2, 3))]
  said = capsys.readouterr().out
  assert f"merge {tmp_path}/choosing-*of3 --out {tmp_path}/choosing" in said
  # The stage is merged, with a shard missing, and then whole.
  (tmp_path / "choosing").mkdir()
  shutil.copy(ROOT / "experiments/hinton15_temperature/choosing.jsonl",
              tmp_path / "choosing" / "results.jsonl")
  for missing, stage in ((4, "choosing-2of3"), (0, "table-2of3")):
    (tmp_path / "choosing" / "summary.json").write_text(
        json.dumps({"missing": missing}))
    assert reproduce.main([*command, "--shard=2/3"]) == 0
    assert seen[-1] == (stage, shard.Shard(2, 3))
  assert "without --shard" in capsys.readouterr().out
  assert reproduce.main([*command, "--shard=2/3", "--record"]) == 2


def test_a_shards_text_is_that_of_its_flag():
  assert str(shard.parse("2/3")) == "2/3"
  with pytest.raises(UserError, match="counts from 1"):
    shard.parse("0/3")


def test_a_teacher_trained_beforehand_serves_all_shards(
    sweeps, tmp_path, capsys, monkeypatch):
  """As the README says: a run of one step that leaves its teacher in DIR."""
  store = f"--config.teacher.dir={tmp_path / 'shelf'}"
  with monkeypatch.context() as patch:
    patch.setattr("kd_jax.runs.driver._Driver._train_alone", stopped)
    assert sweeps("--config.steps=1", store, grid=(), workdir=tmp_path / "a") == 0
  capsys.readouterr()
  # Of four chunks this one has none: it asks for the teacher alone.
  assert sweeps("--shard=5/5", store, workdir=tmp_path / "b") == 0
  assert "teacher: already trained" in capsys.readouterr().out
  assert not (tmp_path / "b" / "teachers").exists()
