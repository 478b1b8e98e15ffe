"""A committed row that is trained again: what counts as the same, and the badge."""

import json
import os
import re
import subprocess
import sys

from conftest import ROOT
import jax
import pytest

from experiments import index, reproduce, verify
from kd_jax import main as door
from kd_jax.core.errors import UserError
from kd_jax.core.machine import cores
from kd_jax.runs import records

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
  monkeypatch.setattr(records, "manifest", lambda: {
      "versions": {"jax": "1"}, "device": "cpu", "cores": cores(), "dirty": False})
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
  return [(one["row"], one["errors"], one["outcome"])
          for one in index.verified(NAME)]


def test_the_same_wrong_ids_verify_a_row(toy, capsys):
  assert toy(fresh=row(3, 12)) == 0
  assert capsys.readouterr().out == (
      "fitnets_mnist, table: 3f00, method=hard seed=3, the cheapest of 4 rows that "
      f"match; took 7.0 s with all teachers on {cores()} cores\n"
      "trained in 1 lane, of seed 3; expected: the same wrong ids\n"
      "verified (the same wrong ids and NLL): the row has 12 errors, trained again "
      "12; ids wrong in one alone: 0; what differs: nothing\n")
  assert badges() == []  # It was not asked for.


@pytest.mark.parametrize("changed", [
    {"test_wrong_ids": [*range(11), 99]}, {"test_nll": 0.6}])
def test_as_many_errors_are_not_enough_on_the_same_machine(toy, changed, capsys):
  assert toy(fresh=row(3, 12, **changed)) == 1
  said = capsys.readouterr().out
  assert ("REFUSED (not the same wrong ids and NLL): the row has 12 errors, "
          "trained again 12;") in said
  assert ("in one alone: 2;" in said) == ("test_wrong_ids" in changed)


def test_elsewhere_the_study_s_own_seeds_say_how_far_a_row_may_be(toy, capsys):
  # Those beside it are 10, 12, 14: t(2) 4.3027 * s 2 * sqrt(2) = 12.17.
  assert verify.tolerance([10, 12, 14]) == pytest.approx(12.1698, abs=1e-3)
  assert toy(fresh=row(3, 24, cores=64)) == 0
  said = capsys.readouterr().out
  assert "\nconsistent (within 12.2 errors, as 95% of pairs of seeds): the" in said
  assert f"alone: 12; what differs: cores 64 (the row's {cores()})\n" in said
  assert toy(fresh=row(3, 25, cores=64)) == 1
  assert ("REFUSED (not within 12.2 errors, as 95% of pairs of seeds): the row has "
          "12 errors, trained again 25;") in capsys.readouterr().out


def test_as_many_errors_with_other_ids_are_consistent_alone(toy, capsys):
  other = {"test_wrong_ids": [*range(11), 99], "numerics": 3, "fingerprint": "1f3"}
  assert toy(fresh=row(3, 12, **other)) == 0
  said = capsys.readouterr().out
  assert "\nconsistent (within" in said and "verified" not in said
  # The numerics are why the fingerprint is another.
  assert said.endswith("what differs: numerics 3 (the row's 2)\n")


@pytest.mark.parametrize(("changed", "says"), [
    ({}, ""), ({"fingerprint": "b42"}, "fingerprint b42 (the row's 3f00)"),
    ({"numerics": 3, "fingerprint": "b42"}, "numerics 3 (the row's 2)"),
    ({"method": "kd", "teacher_sha256": ["a"]}, "method kd (the row's hard)"),
    ({"packing": "2x1x1", "versions": {"jax": "2"}},
     "packing 2x1x1 (the row's 1x1x1), jax 2 (the row's 1)"),
    ({"processor": "B"}, "processor B (the row's A)")])
def test_what_bits_depend_on_is_named_with_its_values(changed, says):
  one = row(3, 12, processor="A")
  assert verify.unlike(one, one | changed) == says
  # Of rows from before they said it the processor is not known.
  assert verify.unlike(row(3, 12), one) == ""
  assert verify.unlike(row(3, 12, packing=None), row(3, 12)) == (
      "packing 1x1x1 (the row's unknown)")


def test_errors_alone_verify_nothing():
  """Of a row that has neither ids nor NLL."""
  bare = {key: value for key, value in row(3, 12).items()
          if key not in ("test_nll", "test_wrong_ids")}
  found = verify.Found("table", bare, 1.0, (10, 12, 14))
  assert verify.compare(found, row(3, 12))["outcome"].startswith("REFUSED")
  assert verify.compare(found, row(3, 12, cores=64))["outcome"] == (
      "consistent (within 12.2 errors, as 95% of pairs of seeds)")


def test_a_row_that_was_changed_is_refused(toy, capsys):
  """Nor does it widen what is allowed: with the 60 it would be t(3) 24 sqrt(2)."""
  write(index.ROOT / NAME / "results.jsonl",
        [row(seed, errors) for seed, errors in enumerate([10, 12, 14, 60])])
  file = index.ROOT / NAME / index.VERIFIED
  index.write(file, {"rows": []})
  before = file.read_text()
  assert toy("--record", fresh=row(3, 12, packing="2x1x1")) == 1
  assert "has 60 errors, trained again 12;" in capsys.readouterr().out
  assert file.read_text() == before


def test_rows_without_ids_are_compared_by_errors_and_nll(toy, capsys):
  bare = lambda **more: {key: value for key, value in row(3, 12, **more).items()
                         if key != "test_wrong_ids"}
  write(index.ROOT / NAME / "results.jsonl", [bare()])
  assert toy(fresh=row(3, 12)) == 0
  assert "verified (the same errors and NLL): the row" in capsys.readouterr().out
  assert toy(fresh=bare(test_nll=0.6)) == 1


def test_the_index_shows_what_was_verified(toy):
  assert toy("--record", fresh=row(3, 12)) == 0
  assert toy("seed=1", "--record", fresh=row(1, 13, cores=64)) == 0
  same = "verified (the same wrong ids and NLL)"
  near = "consistent (within 12.2 errors, as 95% of pairs of seeds)"
  assert badges() == [("3f00", [12, 12], same), ("1f00", [12, 13], near)]
  assert index.verified(NAME)[1]["command"] == (
      f"python -m experiments.reproduce {NAME} --verify 1f00")
  rows = index.committed(index.ROOT / NAME)
  day = index.verified(NAME)[0]["date"]
  shown = index._verified(NAME, rows)
  assert shown == (
      f"[1 row {same}: 12 errors; {cores()} cores, {day}, aaaaaaa; "
      f"1 row {near}: 12 errors, again 13; 64 cores, {day}, aaaaaaa]"
      f"({NAME}/verified.json)")
  # The same row on the same kind of machine: the last counts. A lost row has none.
  assert toy("--record", fresh=row(3, 12)) == 0 and len(badges()) == 2
  assert index._verified(NAME, {"table": [row(0, 10)]}) == ""
  # What is consistent is not counted with what is verified on the same machine.
  assert toy("seed=0", "--record", fresh=row(0, 11, versions={"jax": "2"})) == 0
  assert toy("seed=1", "--record", fresh=row(1, 12)) == 0
  shown = index._verified(NAME, rows)
  assert f"2 rows {same}: 12 errors; {cores()} cores" in shown
  assert shown.count("1 row consistent (") == 2 and "10 errors, again 11;" in shown


@pytest.mark.parametrize(("words", "says"), [
    (["metod=hard"], "did you mean method=hard"),
    (["seed=1 seed=2"], "none has all"), (["beef"], "known: method=hard, seed=0"),
    (["beef"], "seed=3 (or a label of a table, or the eight letters after rows.md"),
    (["--quick"], "not with all"), (["--lanes=2x2"], "not with all"),
    (["--minutes=1"], "stopped before the row was trained")])
def test_what_cannot_be_verified_is_a_line(toy, words, says, capsys):
  assert toy(*words, fresh={}) == 2
  error = capsys.readouterr().err
  assert says in error and len(error.splitlines()) == 1


def test_what_has_no_tolerance_or_no_command_is_refused(toy, capsys):
  file = index.ROOT / NAME / "results.jsonl"
  write(file, [row(3, 12, packing=None), row(4, 12)])
  place = index.ROOT.parent / "untouched"
  # Before it is trained: `train` is not replaced here.
  assert reproduce.main([NAME, "--verify", "3f00", f"--workdir={place}"]) == 2
  assert capsys.readouterr().err == (
      "error: --verify 3f00: its cell has 1 other seed, and a tolerance needs 2, "
      "as this differs: packing 1x1x1 (the row's unknown); name another row\n")
  assert not place.exists()
  # Where all is alike, ids can be compared; if others come out, that is no error.
  write(file, [row(3, 12), row(4, 12)])
  assert toy("3f00", fresh=row(3, 12)) == 0
  assert toy("3f00", fresh=row(3, 13, teacher_sha256=["b"])) == 1
  assert "REFUSED (not the same wrong ids and NLL)" in capsys.readouterr().out
  write(file, [row(3, 12, command="")])
  for words in (), ("3f00",):
    assert toy(*words, fresh={}) == 2
    assert capsys.readouterr().err == (
        f"error: {(*words, NAME)[0]}: its rows have no command of their own; "
        f"python -m experiments.reproduce {NAME} makes all of them\n")
  file.unlink()
  assert toy(fresh={}) == 2
  assert f"error: {NAME} is not run yet; python -m" in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
def test_the_cheapest_row_is_one_that_others_give_a_tolerance():
  rows = [row(seed, 12) for seed in range(4)]
  alone = row(9, 12, overrides={"method": "hard", "epochs": 1, "seed": 9})
  write(index.ROOT / NAME / "results.jsonl", [*rows, alone | {"seconds": 0.1}])
  assert verify.pick(NAME).row["seed"] == 3
  assert verify.pick(NAME, "seed=9").others == ()


def learned(seed, **more):
  return row(seed, 12, method="kd", teacher_fingerprint="beef" * 16, overrides={
      "alpha": 0.9, "seed": seed}, **more)


@pytest.mark.usefixtures("toy")
def test_a_teacher_costs_what_it_took_for_its_stage():
  """Not in another, which ran on another machine; and it names its students."""
  folder = index.ROOT / NAME
  teacher = {"net": "teacher", "fingerprint": "beef" * 16}
  write(folder / "results.jsonl", [learned(seed) for seed in range(3)])
  write(folder / "teachers.jsonl", [teacher | {"seconds": 1771.6}])
  write(folder / "later.jsonl", [learned(seed + 10) for seed in range(3)])
  write(folder / "later_teachers.jsonl", [teacher | {"seconds": 101.0}])
  assert verify.pick(NAME, "2f00").seconds == pytest.approx(8.0 + 1771.6)
  assert verify.pick(NAME, "cf00").seconds == pytest.approx(-2.0 + 101.0)
  with pytest.raises(UserError, match=(
      r"^beefbeef is a teacher's row; name a row of its students: af00, bf00, "
      r"cf00, 0f00$")):
    verify.pick(NAME, "beefbeef")


def test_a_recipe_costs_all_its_nets_in_all_lanes_and_its_teacher_once(monkeypatch):
  monkeypatch.setattr(verify, "cores", lambda: 2)
  root = row(0, 12, overrides={}, fingerprint="t", seconds=60.0)
  mid = learned(5, seconds=8.0) | {"teacher_fingerprint": "t", "fingerprint": "m"}
  last = learned(5, seconds=2.0, packing="2x2x1") | {
      "teacher_fingerprint": "m", "fingerprint": "l"}
  known = [root, mid, last, row(1, 12, fingerprint="of another command")]
  assert verify._seconds(last, [mid, last], known) == 4 * (8 + 2) + 60
  # With the command of the first seeds, which names the teacher too.
  assert verify._seconds(last, [root, mid, last], known) == 4 * (8 + 2) + 60


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("asked", "seed", "alike"), [
    ("small, T = 1", 3, 3), ("small, T = 1 seed=2", 2, 1),
    ("seed=2 small, T = 1", 2, 1), ("1f00", 1, 1), ("rows.md#1f00", 1, 1),
    ("hard", 3, 3), ("method=hard", 3, 3), ("guided", 7, 1), ("by two", 3, 4),
    ("", 3, 4)])
def test_a_row_has_the_names_that_a_reader_sees(asked, seed, alike):
  """Labels lead to all seeds of their points; also values and names of nets."""
  folder = index.ROOT / NAME
  write(folder / "results.jsonl", [
      *(row(seed, 12, fingerprint=f"{seed}f00" + 60 * "0") for seed in (1, 2, 3)),
      row(7, 12, net="guided", row="guided", fingerprint="7f00" + 60 * "0")])
  (folder / "conclusion.md").write_text(
      "| [small, T = 1](rows.md#1f000000) | [by two](rows.md#7f000000-2f000000) |")
  found = verify.pick(NAME, asked)
  assert (found.row["seed"], found.alike) == (seed, alike)
  assert (f"the cheapest of {alike} rows that match" in str(found)) == (alike > 1)


@pytest.mark.usefixtures("toy")
def test_a_row_of_another_study_is_named_there():
  write(index.ROOT / "toy/results.jsonl", [row(3, 12, fingerprint="ab" * 32)])
  with pytest.raises(UserError, match=(
      r"^abababab is a row of toy; python -m experiments.reproduce toy --verify "
      r"abababab$")):
    verify.pick(NAME, "abababab")


@pytest.mark.usefixtures("toy")
def test_a_try_without_data_says_so_and_leaves_no_folder(
    monkeypatch, tmp_path, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("KD_JAX_DATA", "nope")  # To be as it was afterwards.
  command = (f"python -m kd_jax.main --config={ROOT}/configs/mnist.py "
             "--config.data.embedded=never")
  write(index.ROOT / NAME / "results.jsonl", [
      row(seed, 12, command=command) for seed in range(3)])
  assert reproduce.main([NAME, "--verify", "--data=nope"]) == 2
  assert capsys.readouterr().err == (
      "error: --data=nope: there is no such folder; name the one that holds the "
      "data sets\n")
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "here").mkdir()
  for words, says in (([], "name one that holds mnist\n"),
                      (["--data=~/here"], "forbids the embedded digits;")):
    assert reproduce.main([NAME, "--verify", *words]) == 2
    assert says in capsys.readouterr().err
  assert not [*tmp_path.glob("runs/*")]


@pytest.mark.usefixtures("toy")
def test_rows_of_another_run_are_not_taken_for_new_ones(tmp_path, capsys):
  write(tmp_path / "run/results.jsonl", [row(3, 12)])
  assert reproduce.main([NAME, "--verify", f"--workdir={tmp_path / 'run'}"]) == 2
  assert "has rows of another run" in capsys.readouterr().err


def test_a_changed_checkout_names_no_commit(monkeypatch, capsys):
  monkeypatch.setattr(records, "commit", lambda: ("a" * 40, True))
  monkeypatch.setattr(verify, "use_all_cores", lambda: None)
  assert reproduce.main([NAME, "--verify", "--record"]) == 2
  assert "commit them first" in capsys.readouterr().err


@pytest.mark.parametrize(("packing", "more", "expected"), [
    ("2x2x1", {}, (range(4, 8), "2x2x1")), ("2x1x1", {}, (range(4, 6), "2x1x1")),
    ("2x2x3", {}, (range(4, 5), "1x1x1")), ("8x1x1", {}, (range(4, 5), "1x1x1")),
    ("2x2x1", {"overrides": {"teacher.seed": 1}}, (range(4, 5), "1x1x1")),
    (None, {}, (range(4, 5), "1x1x1")),
    ("1x10x1", {"device": "NVIDIA"}, (range(4, 14), "1x10x1"))])
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
      seeds, packing = verify.packed(found.row)
      config, _ = door.parse(verify.words(found.row, ROOT / "t"))
      assert len(config.sweep.points) == len(seeds)
      assert config.sweep.lanes == packing[2:] and len(found.others) > 1, name
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
  # Another processor than the row's gives other bits: as many errors, then.
  assert re.search(r"^(verified|consistent) \(.+\): the row has", done.stdout, re.M)
