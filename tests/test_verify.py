"""A committed row that is trained again: what counts as the same, and the badge."""

import json
import os
import subprocess
import sys

from conftest import ROOT
import jax
import pytest

from experiments import index, reproduce, verify
from kd_jax import main as door
from kd_jax.core.machine import cores

NAME = "fitnets_mnist"  # What the toy is called; `reproduce` knows no other.
COMMAND = "python -m kd_jax.main --config=configs/mnist.py --config.seed="


def row(seed, errors, **more):
  return {"schema": 2, "study": NAME, "row": "method=hard", "method": "hard",
          "overrides": {"method": "hard", "seed": seed}, "seed": seed,
          "fingerprint": f"{seed:x}f00", "packing": "1x1x1", "lanes": [1, 1],
          "device": "cpu", "cores": cores(), "versions": {"jax": "1"},
          "failed": None, "test_errors": errors, "test_nll": 0.5,
          "seconds": 10.0 - seed,
          "test_wrong_ids": list(range(errors)), "command": COMMAND + str(seed),
          "commit": "a" * 40, "dirty": False} | more


def write(file, rows):
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text("".join(json.dumps(each) + "\n" for each in rows))


@pytest.fixture
def toy(monkeypatch, tmp_path):
  """A study of four seeds; seed 3 is the cheapest. Gives what trains `fresh`."""
  monkeypatch.setattr(index, "ROOT", tmp_path / "committed")
  monkeypatch.setattr(index, "documents", lambda: {})
  monkeypatch.setattr(verify, "_refuse_uncommitted", lambda: None)
  monkeypatch.setattr(verify, "use_all_cores", lambda: None)
  write(tmp_path / "committed" / NAME / "results.jsonl",
        [row(seed, errors) for seed, errors in enumerate([10, 12, 14, 12])])

  def trained(*words, fresh):
    def train(config, place, stop, command, **more):
      if fresh:  # Else it was stopped.
        write(place / "results.jsonl", [fresh | {"study": more["study"]}])
      return 0
    monkeypatch.setattr(door, "train", train)
    place = tmp_path / f"place{len([*tmp_path.iterdir()])}"
    return reproduce.main([NAME, "--verify", *words, f"--workdir={place}"])

  return trained


def badges():
  return [(one["row"], one["errors"], one["allowed"])
          for one in index.verified(NAME)]


def test_the_same_wrong_ids_verify_a_row(toy, capsys):
  assert toy(fresh=row(3, 12)) == 0
  said = capsys.readouterr().out
  assert "cheapest row of table: 3f00, method=hard seed=3" in said
  assert ("verified: the row has 12 errors, trained again 12, 0 wrong ids apart; "
          "allowed: the same wrong ids\n") in said
  assert badges() == []  # It was not asked for.


@pytest.mark.parametrize("changed", [
    {"test_wrong_ids": [*range(11), 99]}, {"test_nll": 0.6}])
def test_as_many_errors_are_not_enough_on_the_same_machine(toy, changed, capsys):
  assert toy(fresh=row(3, 12, **changed)) == 1
  said = capsys.readouterr().out
  assert "REFUSED: the row has 12 errors, trained again 12" in said
  assert ("2 wrong ids apart" in said) == ("test_wrong_ids" in changed)


def test_elsewhere_the_study_s_own_seeds_say_how_far_a_row_may_be(toy, capsys):
  # Those beside it are 10, 12, 14: t(2) 4.3027 * s 2 * sqrt(2) = 12.17.
  assert verify.tolerance([10, 12, 14]) == pytest.approx(12.1698, abs=1e-3)
  assert toy(fresh=row(3, 24, cores=64)) == 0
  assert "allowed: within 12.2 errors, as these differ: cores" in (
      capsys.readouterr().out)
  assert toy(fresh=row(3, 25, cores=64)) == 1
  assert "REFUSED: the row has 12 errors, trained again 25" in (
      capsys.readouterr().out)


def test_a_row_that_was_changed_is_refused(toy, capsys):
  """Nor does it widen what is allowed: with the 60 it would be t(3) 24 sqrt(2)."""
  write(index.ROOT / NAME / "results.jsonl",
        [row(seed, errors) for seed, errors in enumerate([10, 12, 14, 60])])
  file = index.ROOT / NAME / index.VERIFIED
  index.write(file, {"rows": []})
  before = file.read_text()
  assert toy("--record", fresh=row(3, 12, packing="2x1x1")) == 1
  assert "has 60 errors, trained again 12" in capsys.readouterr().out
  assert file.read_text() == before


def test_rows_without_ids_are_compared_by_errors_and_nll(toy, capsys):
  bare = lambda **more: {key: value for key, value in row(3, 12, **more).items()
                         if key != "test_wrong_ids"}
  write(index.ROOT / NAME / "results.jsonl", [bare()])
  assert toy(fresh=row(3, 12)) == 0
  assert "allowed: the same errors and NLL" in capsys.readouterr().out
  assert toy(fresh=bare(test_nll=0.6)) == 1


def test_the_index_shows_what_was_verified(toy):
  assert toy("--record", fresh=row(3, 12)) == 0
  assert toy("seed=1", "--record", fresh=row(1, 13, cores=64)) == 0
  assert badges() == [("3f00", [12, 12], "the same wrong ids"),
                      ("1f00", [12, 13], "within 12.2 errors")]
  assert index.verified(NAME)[1]["command"] == (
      f"python -m experiments.reproduce {NAME} --verify 1f00")
  rows = index.committed(index.ROOT / NAME)
  day = index.verified(NAME)[0]["date"]
  shown = index._verified(NAME, rows)
  assert shown == (
      f"[1 row: 12 errors, the same wrong ids; {cores()} cores, {day}, aaaaaaa; "
      f"1 row: 12 errors, again 13, within 12.2 errors; 64 cores, {day}, aaaaaaa]"
      f"({NAME}/verified.json)")
  # The same row on the same kind of machine: the last counts. A lost row has none.
  assert toy("--record", fresh=row(3, 12)) == 0 and len(badges()) == 2
  assert index._verified(NAME, {"table": [row(0, 10)]}) == ""


@pytest.mark.parametrize(("words", "says"), [
    (["metod=hard"], "did you mean method=hard"),
    (["seed=1 seed=2"], "none has all"), (["beef"], "known: method=hard, seed=0"),
    (["--quick"], "not with all"), (["--lanes=2x2"], "not with all"),
    (["--minutes=1"], "stopped before the row was trained")])
def test_what_cannot_be_verified_is_a_line(toy, words, says, capsys):
  assert toy(*words, fresh={}) == 2
  error = capsys.readouterr().err
  assert says in error and len(error.splitlines()) == 1


def test_what_has_no_tolerance_or_no_command_is_refused(toy, capsys):
  file = index.ROOT / NAME / "results.jsonl"
  write(file, [row(3, 12, packing=None), row(4, 12)])
  assert toy("3f00", fresh={}) == 2
  assert "has 1 other seed, and a tolerance needs 2" in capsys.readouterr().err
  write(file, [row(3, 12, command="")])
  assert toy(fresh={}) == 2
  assert "no row has a command" in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
def test_rows_of_another_run_are_not_taken_for_new_ones(tmp_path, capsys):
  write(tmp_path / "run/results.jsonl", [row(3, 12)])
  assert reproduce.main([NAME, "--verify", f"--workdir={tmp_path / 'run'}"]) == 2
  assert "has rows of another run" in capsys.readouterr().err


def test_a_changed_checkout_names_no_commit(monkeypatch, capsys):
  from kd_jax.runs import records
  monkeypatch.setattr(records, "commit", lambda: ("a" * 40, True))
  monkeypatch.setattr(verify, "use_all_cores", lambda: None)
  assert reproduce.main([NAME, "--verify", "--record"]) == 2
  assert "commit them first" in capsys.readouterr().err


@pytest.mark.parametrize(("packing", "more", "expected"), [
    ("2x2x1", {}, (range(4, 8), "2x1")), ("2x1x1", {}, (range(4, 6), "1x1")),
    ("2x2x3", {}, (range(4, 5), "1x1")), ("8x1x1", {}, (range(4, 5), "1x1")),
    ("2x2x1", {"overrides": {"teacher.seed": 1}}, (range(4, 5), "1x1")),
    (None, {}, (range(4, 5), "1x1")),
    ("1x10x1", {"device": "NVIDIA"}, (range(4, 14), "10x1"))])
def test_a_row_is_trained_in_its_lanes_where_they_fit(
    packing, more, expected, monkeypatch):
  monkeypatch.setattr(verify, "cores", lambda: 2)
  assert verify.packed(row(4, 12, packing=packing) | more) == expected


def test_a_row_on_hard_labels_trains_no_teacher():
  """The cheapest of each study has a command that a sweep of it accepts."""
  hard = 0
  for name in index.STUDIES:
    rows = index.committed(index.ROOT / name).get("table", [])
    if any(each.get("command") for each in rows):
      found = verify.pick(name)
      seeds, lanes = verify.packed(found.row)
      config, _ = door.parse(verify.words(found.row, seeds, lanes, ROOT / "t"))
      assert len(config.sweep.points) == len(seeds)
      assert config.teacher.dir == str(ROOT / "t")
      assert config.method == "hard" if "alpha=0 " in found.title else True
      hard += config.method == "hard"
  assert hard >= 5


@pytest.mark.slow
def test_a_row_that_was_just_trained_verifies(own_data, tmp_path, monkeypatch):
  """With no stand-in: as a sweep left it, and with one id changed."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("KD_JAX_DATA", str(own_data))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(verify, "use_all_cores", lambda: None)
  monkeypatch.setattr(index, "ROOT", tmp_path)
  study = tmp_path / NAME
  with jax.numpy_dtype_promotion("standard"):
    assert door.run([
        "--config=configs/mnist.py", "--config.data.name=blobs",
        "--config.method=hard", "--config.epochs=2", "--config.min_steps=0",
        "--config.student.widths=(12,)", "--config.tensorboard=false",
        "--config.sweep.lanes=1x1", "--sweep.seed=0,1,2",
        f"--workdir={study}"]) == 0
    verified = lambda place: reproduce.main(
        [NAME, "--verify", "seed=1", f"--workdir={tmp_path / place}"])
    assert verified("one") == 0
    rows = index.committed(study)["table"]
    rows[1]["test_wrong_ids"] = rows[1]["test_wrong_ids"][1:] + [10**6]
    write(study / "results.jsonl", rows)
    assert verified("two") == 1


@pytest.mark.slow
@pytest.mark.parametrize("study", [NAME, "hinton15_regulariser"])
def test_a_committed_row_is_what_its_command_trains(study, official_data, tmp_path):
  """As a user gives it: compiled as in a run, which the bits of a row are of."""
  done = subprocess.run(
      [sys.executable, "-m", "experiments.reproduce", study, "--verify",
       f"--workdir={tmp_path}"], check=False, cwd=ROOT, capture_output=True,
      text=True,
      env={name: value for name, value in os.environ.items()
           if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")} | {
               "KD_JAX_DATA": str(official_data)})
  assert done.returncode == 0, done.stdout + done.stderr
  assert "verified: the row has" in done.stdout
