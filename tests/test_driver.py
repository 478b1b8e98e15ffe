"""A sweep from the command to the rows: equal to single runs, and resumable."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys

from conftest import ROOT
import jax
import numpy as np
import pytest

from kd_jax import main
from kd_jax.core import compilation, screen
from kd_jax.report import plots
from kd_jax.runs import chunk as chunks
from kd_jax.runs import kept_logits, plan, probe, results, schema_1
from kd_jax.training import cost, parameters
from kd_jax.training.lanes import Shape

BASE = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=2", "--config.min_steps=0", "--config.teacher.epochs=4",
    "--config.teacher.min_steps=0", "--config.student.widths=(12,)",
    "--config.teacher.widths=(24,)", "--config.batch_size=64",
    "--config.tensorboard=false")
PAPER = "--config=configs/mnist.py:paper"
GRID = ("--sweep.temperature=1,4,8", "--sweep.seed=0,1")
KEPT = ("--config.sweep.logits=true", "--config.data.holdout=0.1")


def _command(own_data, workdir, *more, lanes="2x3"):
  """Runs a sweep; gives exit code, rows and summary."""
  code = main.run([
      *BASE, f"--config.data.dir={own_data}", f"--workdir={workdir}",
      f"--config.sweep.lanes={lanes}", *more])
  read = lambda name: (workdir / name).read_text() if (
      workdir / name).is_file() else ""
  rows = results.split(workdir)[0] if code == 0 else []
  return code, rows, json.loads(read("summary.json") or "null")


@contextlib.contextmanager
def _as_users_run_it(folder):
  with pytest.MonkeyPatch.context() as patch, (
      jax.numpy_dtype_promotion("standard")):
    patch.chdir(ROOT)
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    # The tests' eight host devices would take a whole sweep in one chunk.
    patch.setattr(jax, "local_device_count", lambda: 1)
    patch.setattr(plots, "write", lambda *_: {})
    yield


@pytest.fixture(autouse=True)
def _here(tmp_path):
  with _as_users_run_it(tmp_path):
    yield


@pytest.fixture(scope="module")
def grid(own_data, tmp_path_factory):
  """Workdir, rows and summary of one sweep, which are only read or copied."""
  folder = tmp_path_factory.mktemp("grid")
  with _as_users_run_it(folder):
    code, rows, summary = _command(
        own_data, folder / "w", *GRID, *KEPT, "--config.tensorboard=true")
  assert code == 0
  return folder / "w", rows, summary


@pytest.fixture
def swept(own_data, tmp_path):
  """Runs a sweep; gives exit code, rows and summary."""
  def run(*more, lanes="2x3", workdir="sweep"):
    return _command(own_data, tmp_path / workdir, *more, lanes=lanes)
  run.workdir = tmp_path / "sweep"
  return run


@pytest.fixture
def again(grid, swept):
  """The same in a copy of the grid's workdir, with its keys."""
  shutil.copytree(grid[0], swept.workdir)
  return lambda *more, **kind: swept(*KEPT, *more, **kind)


def test_rows_are_whole_and_one_program_made_them(grid):
  workdir, rows, summary = grid
  assert len(rows) == 6
  assert (summary["groups"], summary["compilations"], summary["lanes"]) == (
      1, 1, 6)
  assert [row["overrides"] for row in rows] == [
      {"temperature": t, "seed": s} for s in (0, 1) for t in (1, 4, 8)]
  for row in rows:
    assert row["schema"] == 2 and row["failed"] is None
    assert row["test_examples"] == 110 and row["heldout_examples"] == 30
    assert row["test_errors"] == len(row["test_wrong_ids"])
    assert row["test_accuracy"] == round(1 - row["test_errors"] / 110, 7)
    assert "heldout_accuracy" not in row
    assert sum(row["test_bins"]["count"]) == 110
    assert sum(row["test_bins"]["correct"]) == 110 - row["test_errors"]
    assert len(row["curve"]["train_soft"]) == len(row["heldout_curve"]) == 2
    assert row["heldout_curve"][-1] == row["heldout_errors"]
    assert row["parameters"] == 1543 and row["seconds"] > 0
    assert row["teacher_fingerprint"] == summary["teacher"]["fingerprint"]
    assert f"T = {row['overrides']['temperature']}" in row["loss"]
  assert len({row["fingerprint"] for row in rows}) == 6
  found = {path.name for path in workdir.iterdir()}
  assert {"table.md", "table.csv", "table.tex", "report.html", "plan.json",
          "teacher.json", "config.json", "manifest.json"} <= found
  # The students' own parameters are not kept, and each is in TensorBoard's table.
  assert [path.name for path in (workdir / "parameters").iterdir()
          if not path.name.endswith("_best")] == ["teacher"]
  parameters.load_parameters(workdir / "parameters" / "teacher")
  assert list((workdir / "tensorboard" / "sweep").rglob("*tfevents*"))


def test_a_sweep_is_at_100_percent_with_its_last_row_and_not_before(
    swept, monkeypatch):
  shown = []
  monkeypatch.setattr(cost, "step_seconds", lambda *_, **__: 1e-5)
  monkeypatch.setattr(
      screen.Screen, "advance", lambda self, what, done, total, message:
      shown.append((what, done / total, message.split()[0])))
  assert swept(*GRID, lanes="1x1")[0] == 0
  parts = [(part == 1, rows == "6") for what, part, rows in shown
           if what == "sweep"]
  assert len(parts) >= 6 and all(done == last for done, last in parts)


def test_a_row_is_the_single_run_of_its_command(grid, tmp_path):
  row = grid[1][-1]
  words = shlex.split(row["command"])
  assert words[:3] == ["python", "-m", "kd_jax.main"]
  place = tmp_path / "single"
  assert main.run([*words[3:], f"--workdir={place}",
                   "--config.sweep.logits=true"]) == 0
  single = json.loads((place / "summary.json").read_text())["distilled"]
  assert single["test_wrong_ids"] == row["test_wrong_ids"]
  assert single["test_nll"] == pytest.approx(row["test_nll"], rel=1e-4)
  assert single["agreement"] == pytest.approx(row["agreement"], abs=1e-6)
  # What its nets say is kept, as of lanes.
  rows = [json.loads(line) for line in
          (place / "results.jsonl").read_text().splitlines()]
  said = kept_logits.load(grid[0], row)
  for name, logits in kept_logits.load(place, rows[1]).items():
    np.testing.assert_allclose(logits, said[name], rtol=0.01, atol=0.01)
  assert kept_logits.load(place, rows[0])["test"].shape == (110, 7)


def test_a_row_of_labels_alone_is_remade_without_a_teacher(swept, tmp_path):
  code, rows, _ = swept("--sweep.alpha=0,0.9", "--config.temperature=2")
  assert code == 0
  alone, taught = rows
  assert alone["overrides"] == {"alpha": 0.0} and "method" not in taught["command"]
  words = shlex.split(alone["command"])
  assert "--config.method=hard" in words
  assert not any(word.startswith(("--config.teacher.", "--config.alpha",
                                  "--config.temperature")) for word in words)
  place = tmp_path / "single"
  assert main.run([*words[3:], f"--workdir={place}"]) == 0
  made, = (json.loads(line) for line in
           (place / "results.jsonl").read_text().splitlines())
  assert made["test_wrong_ids"] == alone["test_wrong_ids"]
  assert made["test_nll"] == pytest.approx(alone["test_nll"], rel=1e-4)
  assert not (place / "teachers.jsonl").exists()


def test_where_labels_are_unknown_a_row_keeps_its_teacher():
  from kd_jax.runs import commands
  base = commands.of_file(PAPER)
  told = lambda **more: commands.single_run(
      base, PAPER, base, {"alpha": 0.0}, Shape(1, 1, 1), **more)
  assert "--config.alpha=0.0" in told() and "method=hard" not in told()
  assert told(labelled=True) == (
      f"python -m kd_jax.main {PAPER} --config.method=hard "
      "--config.sweep.lanes=1x1")


def test_older_rows_of_labels_alone_have_the_command_without_a_teacher():
  from kd_jax.runs import commands
  row = {"method": "kd", "overrides": {"alpha": 0.0},
         "command": f"python -m kd_jax.main {PAPER} --config.teacher.seed=2 "
                    "--config.alpha=0.0 --config.temperature=1 '--config.epochs=3'"}
  assert commands.again(row) == (
      f"python -m kd_jax.main {PAPER} --config.epochs=3 --config.method=hard")
  for other in ({"overrides": {"alpha": 0.9}}, {"method": "kd+rkd"}, {"net": "x"}):
    assert commands.again(row | other) == row["command"].replace("'", "")
  assert commands.again({"overrides": {}}) == ""


def test_the_command_of_a_row_is_exact(own_data, tmp_path):
  """It makes the lane's config, whatever takes what back on the way."""
  from kd_jax.config import command_line, sweep
  from kd_jax.runs import commands
  file = "--config=configs/mnist.py:sweep"
  config, _ = command_line.parse(
      [file, f"--config.data.dir={own_data}", "--config.steps=50"])
  for point in ({"seed": 3}, {"epochs": 7, "seed": 1}, {"alpha": 0.25},
                {"hard_weight": 0.5, "soft_weight": 1.5},
                {"student.name": "cnn"}, {"student.max_norm": 3.0},
                {"student.name": "mlp", "student.widths": (8, 9)}):
    words = shlex.split(commands.single_run(
        config, file, commands.of_file(file), point, Shape(1, 2, 3)))
    assert words.pop() == "--config.sweep.lanes=2x3"
    assert words[:3] == ["python", "-m", "kd_jax.main"]
    made, _ = command_line.parse(words[3:])
    assert commands._values(made) == commands._values(
        sweep.applied(config, point))
    assert made.sweep.points == (), "a single run"


def test_swept_keys_make_way_as_given_ones_do():
  from kd_jax.config import command_line, sweep
  config, _ = command_line.parse(["--config=configs/mnist.py"])
  assert config.min_steps == 2000
  own = sweep.applied(config, {"epochs": 2, "student.name": "cnn"})
  assert own.min_steps == 0 and own.student.widths == ()


def test_a_reference_that_no_point_sets_is_refused_at_once(swept, capsys):
  code, rows, _ = swept(
      "--sweep.temperature=1,4", "--config.sweep.reference=(('alpha',0.0),)")
  assert code == 2 and not rows
  told = capsys.readouterr()
  assert "no point of the sweep sets that" in told.err
  assert "teacher" not in told.out, "before any work"


@pytest.mark.slow
def test_a_static_key_is_a_compilation_more(swept, capsys):
  code, rows, summary = swept(
      "--sweep.temperature=1,4", "--sweep.student.widths=(8,),(12,)",
      "--sweep.method=kd,hard")
  assert code == 0
  assert summary["groups"] == summary["compilations"] == 4
  # Hard labels have no temperature: of these two points one is run.
  assert [row["method"] for row in rows] == ["kd", "kd", "hard"] * 2
  hard = [row for row in rows if row["method"] == "hard"]
  assert all(row["teacher_fingerprint"] is None for row in hard)
  assert "is the same run as temperature=1" in capsys.readouterr().out


def test_later_chunks_compile_nothing(swept, monkeypatch):
  """Also the last one, which is padded: five lanes, two at a time."""
  monkeypatch.setattr(compilation, "use_cache", lambda: None)
  monkeypatch.setattr(compilation, "_programs", {})  # As in a new process.
  seen, done = [], []
  train = chunks.train

  def watched(*args, **more):
    done.append(len(seen))
    return train(*args, **more)

  monkeypatch.setattr("kd_jax.runs.driver.chunks.train", watched)
  listen = lambda name, seconds, **_: seen.append(name) if (
      "backend_compile" in name) else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    code, rows, summary = swept(
        "--sweep.temperature=1,2,3,4,5", lanes="1x2",
        workdir="one")
  finally:
    jax.monitoring.clear_event_listeners()
  assert code == 0 and len(rows) == 5 and summary["compilations"] == 1
  assert [chunk["lanes"] for chunk in summary["chunks"]] == [2, 2, 1]
  # What the first chunk compiles serves the others.
  assert done[0] < done[1] == done[2] == len(seen)


def test_what_is_finished_is_not_done_again(grid, again, monkeypatch):
  """Also where the workdir lies elsewhere by now."""
  _, before, _ = grid
  trained = []
  train = chunks.train
  monkeypatch.setattr("kd_jax.runs.driver.chunks.train", lambda job, chunk, *a, **k:
                      trained.append(chunk) or train(job, chunk, *a, **k))
  _, same, summary = again(*GRID)
  assert not trained and same == before and summary["compilations"] == 0
  # One temperature more: only its lanes run, the others' rows stay.
  code, more, _ = again("--sweep.temperature=1,4,8,20", "--sweep.seed=0,1")
  assert code == 0 and len(more) == 8 and len(trained) == 1
  assert [row for row in more if row["overrides"]["temperature"] != 20] == before
  # A narrower sweep keeps aside what it does not ask for.
  _, less, _ = again("--sweep.temperature=4", "--sweep.seed=0,1")
  assert len(less) == 2 and len(trained) == 1
  _, back, _ = again(*GRID)
  assert back == before and len(trained) == 1


@pytest.mark.parametrize("planned", [True, False])
def test_rows_of_schema_1_are_found_in_their_workdir(
    grid, again, swept, monkeypatch, planned):
  """Also where no plan says any more in which rectangle a lane was."""
  _, before, _ = grid
  folder = swept.workdir
  logits = kept_logits.load(folder, before[0])["test"]
  old = {lane: schema_1.row_fingerprint(lane, chunk)
         for chunk in plan.load(folder / "plan.json") for lane in chunk.lanes}
  rows = []
  for row in before:
    (folder / "logits" / f"{row['fingerprint']}.npz").rename(
        folder / "logits" / f"{old[row['fingerprint']]}.npz")
    rows.append(row | {"schema": 1, "fingerprint": old[row["fingerprint"]]})
    del rows[-1]["packing"]
  (folder / "results.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows))
  if not planned:
    (folder / "plan.json").unlink()
  monkeypatch.setattr("kd_jax.runs.driver.chunks.train", None)
  code, after, _ = again(*GRID, lanes="2x2")
  assert code == 0
  # Without a plan, in the order of the points.
  by_name = lambda rows: sorted(rows, key=lambda row: row["fingerprint"])
  assert by_name(after) == by_name(
      row | {schema_1.KEY: old[row["fingerprint"]]} for row in before)
  first, = (r for r in after if r["fingerprint"] == before[0]["fingerprint"])
  assert (kept_logits.load(folder, first)["test"] == logits).all()


def test_other_settings_and_numerics_are_other_rows(
    grid, again, swept, monkeypatch, capsys):
  _, before, _ = grid
  known = {row["fingerprint"] for row in before}
  _, other, _ = again("--sweep.temperature=4", "--sweep.seed=0",
                      "--config.optimizer.learning_rate=0.01")
  assert known.isdisjoint(row["fingerprint"] for row in other)
  assert results.split(swept.workdir)[1] == before
  monkeypatch.setattr("kd_jax.NUMERICS", 10**6)
  _, after, _ = again("--sweep.temperature=4", "--sweep.seed=0")
  assert known.isdisjoint(row["fingerprint"] for row in after)
  # Half a row is made anew; rows of something else are left alone.
  file = swept.workdir / "results.jsonl"
  for wrong, code in ("{", 0), ('{"net": "teacher"}', 2):
    file.write_text(wrong + "\n")
    assert again("--sweep.temperature=4", "--sweep.seed=0")[0] == code
    told = capsys.readouterr()
    assert "results.jsonl, line 1" in told.out + told.err
    assert (file.read_text() == wrong + "\n") == bool(code)


def test_stopped_and_continued_is_uninterrupted(swept, monkeypatch):
  """Before the first row is there, and after some."""
  sweep = ("--sweep.temperature=1,8", "--sweep.seed=0,1",
           "--config.data.holdout=0.1")
  _, whole, _ = swept(*sweep, lanes="1x1", workdir="whole")
  # Some five of the teacher and its bank, then two a lane; the second program finds
  # both.
  for before, done in ((6, range(1)), (4, range(1, 4))):
    stops = iter([False] * before + [True] * 99)
    with monkeypatch.context() as patch:
      patch.setattr(main.Signals, "__call__", lambda self, stops=stops: next(stops))
      _, _, summary = swept(*sweep, lanes="1x1")
    file = swept.workdir / "results.jsonl"
    rows = file.read_text().splitlines() if file.is_file() else []
    assert summary is None and len(rows) in done
    # What is finished is in the tables already.
    assert (swept.workdir / "report.html").is_file() == bool(rows)
  code, rows, _ = swept(*sweep, lanes="1x1")
  own = lambda row: {k: v for k, v in row.items()
                     if k not in ("seconds", "study", "command")}
  assert code == 0 and list(map(own, rows)) == list(map(own, whole))


@pytest.mark.slow
def test_a_chunk_over_several_devices_goes_on_too(grid, swept, monkeypatch):
  """What orbax restores lies on one device, the program wants two."""
  held = "--config.data.holdout=0.1"
  monkeypatch.setattr(jax, "local_device_count", lambda: 2)
  _, whole, summary = swept(*GRID, held, lanes="1x3", workdir="whole")
  assert [chunk["shape"] for chunk in summary["chunks"]] == [[2, 1, 3]]
  assert ([row["test_wrong_ids"] for row in whole]
          == [row["test_wrong_ids"] for row in grid[1]]), "as on one device"
  train = chunks.train
  shutil.copytree(grid[0] / "teachers", swept.workdir / "teachers")
  with monkeypatch.context() as patch:
    patch.setattr("kd_jax.runs.driver.chunks.train", lambda job, *a, **k: train(
        job._replace(setup=job.setup._replace(stop=lambda: True)), *a, **k))
    _, rows, _ = swept(*GRID, held, lanes="1x3")
  assert not rows and list((swept.workdir / "progress").glob("sweep-*/*"))
  code, rows, _ = swept(*GRID, held, lanes="1x3")
  numbers = lambda row: (row["test_wrong_ids"], row["test_nll"], row["curve"])
  assert code == 0 and list(map(numbers, rows)) == list(map(numbers, whole))
  # A plan for two devices is not run on one; what is finished stays.
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  code, more, _ = swept("--sweep.temperature=1,4,8", "--sweep.seed=0,1,2", held,
                        lanes="1x3")
  assert code == 0 and len(more) == 9 and more[:6] == rows


@pytest.mark.slow
def test_a_killed_sweep_goes_on(own_data, tmp_path):
  """SIGKILL at any time costs the chunk that was running, nothing more."""
  place = tmp_path / "killed"
  command = [sys.executable, "-m", "kd_jax.main", *BASE, *GRID,
             f"--config.data.dir={own_data}", f"--workdir={place}",
             "--config.sweep.lanes=1x1", "--config.epochs=40"]
  env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
  running = subprocess.Popen(command, cwd=ROOT, env=env,
                             stdout=subprocess.PIPE, text=True)
  file = place / "results.jsonl"
  rows = []
  while running.poll() is None and not rows:
    rows = file.read_text().splitlines() if file.is_file() else []
  running.kill()
  running.communicate()
  kept = file.read_text().splitlines()
  done = subprocess.run(command, cwd=ROOT, env=env, check=False,
                        capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert file.read_text().splitlines()[:len(kept)] == kept
  assert len(file.read_text().splitlines()) == 6


def test_a_broken_lane_is_told_and_harms_no_other(grid, swept):
  code, rows, summary = swept(
      "--sweep.optimizer.learning_rate=0.001,1e38", "--config.temperature=4",
      "--config.data.holdout=0.1", lanes="1x2")
  assert code == 0 and summary["failed"] == 1
  fine, broken = rows
  assert fine["failed"] is None and "not finite" in broken["failed"]
  assert broken["test_nll"] is None, "NaN is no JSON"
  same, = (row for row in grid[1] if row["fingerprint"] == fine["fingerprint"])
  assert same["test_wrong_ids"] == fine["test_wrong_ids"]


@pytest.mark.slow
def test_lanes_are_chosen_by_measuring_once(swept, capsys):
  code, _, summary = swept(*GRID, lanes="auto")
  assert code == 0 and "steps a second over all lanes" in capsys.readouterr().out
  assert summary["compilations"] == 1 and summary["probe_compilations"] >= 1
  # Another workdir, the same machine: remembered.
  code, _, summary = swept(*GRID, lanes="auto", workdir="second")
  assert code == 0 and summary["probe_compilations"] == 0
  assert "steps a second" not in capsys.readouterr().out


def test_memory_limits_lanes(monkeypatch):
  made = []

  def make(shape):
    made.append(shape)
    program = type("Lanes", (), {})()
    program.shape, program.bytes = shape, 10 * shape.size
    return program

  monkeypatch.setattr(
      probe, "_measure", lambda fitting, hparams: [1.0] * len(fitting))
  shape = probe.choose(make, [0] * 32, None, limit=100, say=lambda text: None)
  assert shape.size <= 10 < max(s.size for s in made)


def test_the_plan_is_told_before_any_work(swept, capsys):
  code, rows, summary = swept(*GRID, "--plan")
  said = capsys.readouterr().out
  assert code == 0 and not rows and summary is None
  assert "6 runs in 1 compilation, 1 teacher" in said
  assert not swept.workdir.exists()


def test_a_plan_asks_once_for_the_cost_of_a_net_of_many_batch_sizes(
    own_data, capsys, monkeypatch):
  asked, flops = [], cost.flops
  monkeypatch.setattr(cost, "flops", lambda *words: (
      asked.append(words), flops(*words))[1])
  cost._forward_flops.cache_clear()
  sizes = ",".join(map(str, range(1, 31)))
  assert main.run([*BASE, f"--config.data.dir={own_data}", "--plan",
                   f"--sweep.batch_size={sizes}"]) == 0
  told = capsys.readouterr().out
  assert "30 runs in 30 compilations" in told and "batch_size=17" in told
  assert len(asked) <= 2  # Teacher and student.


def test_the_plan_of_a_single_run(own_data, capsys):
  assert main.run([*BASE, f"--config.data.dir={own_data}", "--plan"]) == 0
  said = capsys.readouterr().out
  assert "2 runs in 2 compilations, 1 teacher" in said
  for name, steps in (("teacher", 12), ("baseline", 10), ("distilled", 10)):
    row, = (line for line in said.splitlines() if line.startswith(f"│ {name} "))
    assert f" {steps} │" in row


@pytest.mark.parametrize(("word", "says"), [
    ("--sweep.temprature=1", "did you mean temperature"),
    ("--sweep.temperature=hot", "must be a number > 0"),
    ("--sweep=nowhere.json", "cannot be read"),
    ("--config.sweep.lanes=many", "auto, or seeds x points"),
    ("--sweep.lanes=2x2", "did you mean --config.sweep.lanes=2x2"),
])
def test_mistakes_are_told_in_a_line(word, says, capsys):
  assert main.run([*BASE, word]) == 2
  told = capsys.readouterr().err
  assert says in told and "Traceback" not in told
