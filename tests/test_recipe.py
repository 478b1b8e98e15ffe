"""Recipes: nets in order, each trained once, alone or as lanes."""

import contextlib
import json
import re
import shutil

from conftest import ROOT
import jax
import numpy as np
import pytest
from test_main import SMALL

from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import recipe
from kd_jax.core.errors import UserError
from kd_jax.report import plots
from kd_jax.runs import results
from kd_jax.training import parameters

CHAIN = (
    "--config=tests/fixtures/chain.py", "--config.tensorboard=false",
    "--config.parallel=single")
NETS = ["teacher", "first", "student"]
SEEDS = ("--sweep.seed=0,1", "--config.sweep.lanes=2x1")


@contextlib.contextmanager
def _as_users_run_it():
  with pytest.MonkeyPatch.context() as patch, (
      jax.numpy_dtype_promotion("standard")):
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    yield


@pytest.fixture(autouse=True)
def _at_the_root():
  with _as_users_run_it():
    yield


def trained(own_data, place, *more):
  """Runs the small chain; gives the rows by net, in order."""
  assert main.run([*CHAIN, f"--config.data.dir={own_data}",
                   f"--workdir={place}", "--resume=keep", *more]) == 0
  found: dict[str, list] = {}
  for row in results.split(place)[0]:
    found.setdefault(row["net"], []).append(row)
  return found


@pytest.fixture(scope="module")
def once(own_data, tmp_path_factory):
  """The chain's workdir and rows, to be read or copied."""
  place = tmp_path_factory.mktemp("once") / "w"
  with _as_users_run_it():
    return place, trained(own_data, place)


@pytest.fixture(scope="module")
def seeds(own_data, tmp_path_factory):
  """The same of two seeds."""
  place = tmp_path_factory.mktemp("seeds") / "w"
  with _as_users_run_it():
    return place, trained(own_data, place, *SEEDS)


@pytest.fixture
def chain(own_data, tmp_path):
  """Runs the small chain, in a copy of another's workdir if one is given."""
  def run(*more, workdir="run", copy=None):
    if copy:
      shutil.copytree(copy[0], tmp_path / workdir)
    return trained(own_data, tmp_path / workdir, *more)
  return run


def small(*nets):
  config = config_lib.default(*nets)
  config.data.name, config.alpha = "blobs", 0.9
  return config


def nets(config, swept=False):
  return {net.name: net for net in recipe.nets(
      config_lib.flatten(config), swept=swept)}


def test_the_main_job_is_a_recipe():
  config = config_lib.default()
  assert [*nets(config)] == ["teacher", "baseline", "distilled"]
  assert nets(config)["distilled"].teachers == ("teacher",)
  assert nets(config)["baseline"].values["method"] == "hard"
  assert [*nets(config, swept=True)] == ["teacher", "student"]
  config.teacher.count = 2
  assert nets(config)["distilled"].teachers == ("teacher_0", "teacher_1")
  config.method = "hard"
  assert [*nets(config)] == ["baseline"]
  config.method = "tfkd"  # It makes its own targets.
  assert [*nets(config)] == ["baseline", "distilled"]


def test_nets_that_others_learn_from_have_roles_of_their_own():
  config = small("first", "second", "alone", "last")
  config.nets.second.teachers = ("first",)
  config.nets.last.teachers = ("second", "first")
  config.nets.last.teacher_epochs = (0, 2)
  made = nets(config)
  assert {name: net.role for name, net in made.items()} == {
      "first": 1, "first_at_2": 1, "second": 2, "alone": 0, "last": 0}
  assert {name: net.role for name, net in nets(config_lib.default()).items()} == {
      "teacher": 1, "baseline": 0, "distilled": 0}


def test_a_net_has_the_runs_keys_where_it_sets_none():
  config = small("one", "two")
  config.temperature, config.epochs, config.optimizer.learning_rate = 7.0, 9, 0.5
  config.nets.two.teachers = ("one",)
  config.nets.two.temperature = 2.0
  config.nets.two.widths = (5,)
  config.nets.two.optimizer.learning_rate = 0.25
  one, two = nets(config).values()
  assert (one.values["method"], two.values["method"]) == ("hard", "kd")
  assert one.values["optimizer.learning_rate"] == 0.5
  assert two.values["optimizer.learning_rate"] == 0.25
  assert (two.values["temperature"], two.values["epochs"]) == (2.0, 9)
  assert two.values["student.widths"] == (5,)
  assert one.values["student.widths"] == config.student.widths
  # A method that is chosen by name brings its paper's numbers, as everywhere.
  config.nets.two.method = "dkd"
  config.nets.two.temperature = None
  assert nets(config)["two"].values["temperature"] == 4.0
  config.nets.two.teacher_sees = "clean"
  assert nets(config)["two"].values["teacher.sees"] == "clean"
  assert nets(config)["one"].values["teacher.sees"] == "views"
  config.nets.two.dkd.beta = 2.0
  assert nets(config)["two"].values["dkd.beta"] == 2.0


def test_a_teacher_at_an_epoch_is_a_net_before():
  config = small("one", "two")
  config.nets.two.teachers = ("one", "one")
  config.nets.two.teacher_epochs = (3, 0)
  made = nets(config)
  assert [*made] == ["one", "one_at_3", "two"]
  assert made["one_at_3"].epoch == 3
  assert made["two"].teachers == ("one_at_3", "one")
  assert made["two"].values["teacher.count"] == 2


@pytest.mark.parametrize(("key", "value", "words"), [
    ("two.teachers", ("on",), "'on' is no net before it; did you mean one"),
    ("one.teachers", ("two",), "'two' is no net before it; it is the first"),
    ("two.init_from", "three", "is no net before it"),
    ("two.teacher_epochs", (1, 2), "must be one epoch for each of 1 teachers"),
    ("two.teachers", (), "config.nets.two.method=kd: needs a teacher"),
    ("two.method", "hard", "asks no teacher; leave out config.nets.two.teachers"),
    ("two.method", "kdd", "config.nets.two.method='kdd': no such method"),
])
def test_a_recipe_that_cannot_be_is_refused(key, value, words):
  config = small("one", "two")
  config.nets.one.method = "hard"
  config.nets.two.method = "kd"
  config.nets.two.teachers = ("one",)
  name, leaf = key.split(".")
  config.nets[name][leaf] = value
  with pytest.raises(UserError) as refused:
    nets(config)
  assert words in str(refused.value)


def test_a_chain_is_trained_in_order_and_found_again(
    once, chain, tmp_path, capsys):
  place, rows = once
  assert [*rows] == NETS and all(len(some) == 1 for some in rows.values())
  shas = {name: row["parameters_sha256"] for name, (row,) in rows.items()}
  for before, name in zip(NETS, NETS[1:]):
    assert rows[name][0]["teacher_sha256"] == [shas[before]]
    assert "T = 8" in rows[name][0]["loss"] and "agreement" in rows[name][0]
  assert rows["teacher"][0]["teacher_sha256"] is None
  for name in NETS:
    held = parameters.load_parameters(place / "parameters" / name)
    assert parameters.parameters_sha256(held.params) == shas[name]
  summary = json.loads((place / "summary.json").read_text())
  assert [*summary] == ["schema", "dataset", *NETS, "seconds"]
  again = chain("--config.nets.student.temperature=2", copy=once)
  assert capsys.readouterr().out.count("already trained") == 2
  for name in NETS[:-1]:
    changed = {"command", "dirty", "study"}
    assert {key: value for key, value in again[name][0].items()
            if key not in changed} == {
                key: value for key, value in rows[name][0].items()
                if key not in changed}
  assert again["student"][0]["parameters_sha256"] != shas["student"]


def key(row):
  return row["seed"], json.dumps(row["overrides"], sort_keys=True)


@pytest.mark.parametrize("lanes", [
    pytest.param("1x1", marks=pytest.mark.slow), "2x2"])
def test_a_swept_chain_is_trained_once_and_is_its_single_runs(
    chain, tmp_path, lanes, capsys):
  swept = chain("--sweep.seed=0,1", "--sweep.nets.student.temperature=2,8",
                f"--config.sweep.lanes={lanes}", workdir="swept")
  number = {"teacher": 2, "first": 2, "student": 4}
  assert {name: len(some) for name, some in swept.items()} == number
  summary = json.loads((tmp_path / "swept/summary.json").read_text())
  assert summary["nets"] == number and summary["lanes"] == 8
  # Each net has a bar of its own.
  bars = re.findall(r"(\w+) +100%  (\d) of (\d) lanes", capsys.readouterr().out)
  assert bars == [(name, *2 * (str(of),)) for name, of in number.items()]
  assert all(row["overrides"] == {"seed": row["seed"]} for row in swept["first"])
  # Each student learns from the net of its own seed.
  by_print = {row["fingerprint"]: row for some in swept.values() for row in some}
  for before, name in zip(NETS, NETS[1:]):
    for row in swept[name]:
      teacher = by_print[row["teacher_fingerprint"]]
      assert (teacher["net"], teacher["seed"]) == (before, row["seed"])
  alone = chain("--config.seed=1", "--config.nets.student.temperature=2",
                workdir="alone")
  wanted = {"seed": 1, "nets.student.temperature": 2}
  mine = next(row for row in swept["student"] if row["overrides"] == wanted)
  for name in NETS[:-1]:
    other = next(row for row in swept[name] if row["seed"] == 1)
    assert other["test_wrong_ids"] == alone[name][0]["test_wrong_ids"]
    if lanes == "1x1":  # A single lane is a single run, to the bit.
      assert other["fingerprint"] == alone[name][0]["fingerprint"]
  assert mine["test_errors"] == alone["student"][0]["test_errors"]
  assert mine["test_nll"] == pytest.approx(
      alone["student"][0]["test_nll"], rel=1e-4)


@pytest.mark.slow
def test_what_a_sweep_lost_is_made_again(seeds, chain, tmp_path):
  _, first = seeds
  shutil.copytree(seeds[0], tmp_path / "run")
  # Also where no plan says any more what ran with it.
  (tmp_path / "run/plan.json").unlink()
  for folder in (tmp_path / "run/teachers").iterdir():
    if folder.is_dir():
      (folder / "record.json").unlink()
  second = chain(*SEEDS, "--sweep.nets.student.alpha=0.5")
  for name in NETS[:-1]:
    assert [row["test_wrong_ids"] for row in first[name]] == [
        row["test_wrong_ids"] for row in second[name]]
  assert len(second["student"]) == 2
  assert second["student"][0]["fingerprint"] != first["student"][0]["fingerprint"]


@pytest.mark.slow
def test_rows_of_another_machine_give_way_to_nets_trained_again(
    seeds, chain, tmp_path, capsys):
  """Rows that came without their nets, as those of `reproduce --from-record`."""
  _, first = seeds
  theirs = [row | {"test_wrong_ids": [0], "test_errors": 1}
            for name in NETS[:-1] for row in first[name]]
  shutil.copytree(seeds[0], tmp_path / "run")
  shutil.rmtree(tmp_path / "run/teachers")
  results.save(tmp_path / "run", theirs, [])
  capsys.readouterr()
  second = chain(*SEEDS)
  printed = capsys.readouterr().out
  assert "teacher: 2 nets with a row, but not there for those that" in printed
  assert printed.count("was trained again, and differs from its row in") == 4
  ids = lambda rows: [row["test_wrong_ids"] for row in rows]
  assert {name: ids(rows) for name, rows in second.items()} == {
      name: ids(rows) for name, rows in first.items()}


def _kept(place):
  """The nets that others learn from which a workdir has: names and seeds."""
  found = [json.loads(path.read_text()) for path in place.glob("*/record.json")]
  return sorted((row["net"], row["seed"]) for row in found)


@pytest.mark.slow
def test_rows_alone_are_gone_on_from(seeds, chain, tmp_path):
  """A net that has its row is trained again only if one without learns from it."""
  _, first = seeds
  shutil.copytree(seeds[0], tmp_path / "run")
  shutil.rmtree(tmp_path / "run/teachers")
  second = chain("--sweep.seed=0,1,2", SEEDS[1])
  for name in NETS:
    assert second[name][:2] == first[name] and len(second[name]) == 3
  assert _kept(tmp_path / "run/teachers") == [("first", 2), ("teacher", 2)]


def test_what_needs_a_net_that_is_not_finite_is_told_and_harms_no_other(
    chain, tmp_path, capsys):
  words = ("--sweep.nets.teacher.optimizer.learning_rate=0.001,1e38",
           "--config.sweep.lanes=1x1")
  rows = chain(*words)
  assert [[row["failed"] for row in rows[net]] for net in NETS] == [
      [None, "not finite in epoch 1"],
      [None, "teacher, which it needs, has failed"],
      [None, "first, which it needs, has failed"]]
  summary = json.loads((tmp_path / "run/summary.json").read_text())
  assert summary["failed"] == 3 and (tmp_path / "run/table.md").exists()
  # The same nets as without the other.
  alone = chain("--sweep.nets.teacher.optimizer.learning_rate=0.001",
                "--config.sweep.lanes=1x1", workdir="alone")
  for net in NETS:
    assert rows[net][0]["test_wrong_ids"] == alone[net][0]["test_wrong_ids"]
  capsys.readouterr()
  assert chain(*words) == rows
  assert "trained again" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_trained_together_is_trained_again_together(
    chain, tmp_path, monkeypatch):
  """One of two seeds lacks a row; its teachers had the other seed beside them."""
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  sweep = ("--sweep.seed=0,1", "--sweep.nets.student.temperature=2,8",
           "--config.sweep.lanes=2x1")
  first = chain(*sweep)
  lost = first["student"][-1]
  assert lost["seed"] == 1
  left = [row for some in first.values() for row in some if row != lost]
  results.save(tmp_path / "run", left, [])
  shutil.rmtree(tmp_path / "run/teachers")
  second = chain(*sweep)
  keys = "fingerprint", "overrides", "test_wrong_ids", "teacher_sha256"
  same = lambda rows: [{key: row.get(key) for key in keys} for row in rows]
  assert {name: same(rows) for name, rows in second.items()} == {
      name: same(rows) for name, rows in first.items()}
  assert len(_kept(tmp_path / "run/teachers")) == 4


@pytest.mark.parametrize(("sweep", "uncut"), [
    pytest.param((), "once", marks=pytest.mark.slow), (SEEDS, "seeds")])
def test_a_stopped_chain_goes_on_to_the_same_bits(
    chain, own_data, tmp_path, sweep, uncut, request, monkeypatch):
  _, whole = request.getfixturevalue(uncut)
  place, asked = tmp_path / "cut", []

  def late(signals):
    asked.append(None)
    return len(asked) > 4

  stops = 0
  with monkeypatch.context() as patch:
    patch.setattr(main.Signals, "__call__", late)
    while not (place / "summary.json").is_file():
      stops += 1
      asked.clear()
      assert main.run([*CHAIN, *sweep, f"--config.data.dir={own_data}",
                       f"--workdir={place}"]) == 0
      assert stops < 20
    assert stops > 2
  cut = chain(*sweep, workdir="cut")
  for name in NETS:
    for one, other in zip(whole[name], cut[name], strict=True):
      for key in ("test_wrong_ids", "test_nll", "fingerprint"):
        assert one[key] == other[key]


def test_several_teachers_at_once(once, chain):
  rows = chain(
      "--config.nets.student.teachers=('first','teacher')",
      "--config.nets.student.teacher_weights=(1.0,3.0)",
      "--config.nets.student.teacher_mean=logits", copy=once)
  assert rows["student"][0]["teacher_sha256"] == [
      rows[name][0]["parameters_sha256"] for name in ("first", "teacher")]


def test_teachers_of_some_classes_are_asked_for_these(
    once, chain, own_data, tmp_path, capsys):
  several = ("--config.nets.student.teachers=('first','teacher')",
             "--config.nets.student.teacher_mean=certainty")
  whole, = chain(*several, copy=once)["student"]
  parts, = chain(*several, "--config.nets.student.teacher_classes=((0,1,2),())",
                 workdir="parts", copy=once)["student"]
  assert whole["teacher_sha256"] == parts["teacher_sha256"]
  for key in ("fingerprint", "parameters_sha256"):
    assert whole[key] != parts[key]
  assert main.run([
      *CHAIN, *several, "--config.nets.student.teacher_classes=((9,),())",
      f"--config.data.dir={own_data}", f"--workdir={tmp_path}/refused"]) == 2
  assert "config.nets.student.teacher_classes: 9 is no class of blobs" in (
      capsys.readouterr().err)


def test_a_teacher_at_an_epoch_is_that_of_its_training(once, chain, tmp_path):
  # 300 examples in batches of 64: 5 steps an epoch.
  at = "--config.nets.first.teacher_epochs=(1,)"
  rows = chain(at, copy=once)
  early, = rows["teacher_at_1"]
  assert early["step"] == 5 and rows["teacher"][0]["step"] == 12
  assert rows["first"][0]["teacher_sha256"] == [early["parameters_sha256"]]
  # The first epoch of the whole training has the same numbers.
  lines = [json.loads(line) for line in
           (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
  of = lambda net: next(row for row in lines
                        if row["net"] == net and row.get("epoch") == 1)
  for name in ("test_errors", "test_nll", "train_hard", "learning_rate"):
    assert of("teacher")[name] == of("teacher_at_1")[name]
  swept = chain(at, *SEEDS, workdir="swept")
  assert swept["teacher_at_1"][0]["test_wrong_ids"] == early["test_wrong_ids"]


def test_a_teacher_at_its_last_epoch_is_itself(chain, capsys):
  rows = chain("--config.nets.first.teacher_epochs=(1,)", "--config.steps=5",
               "--config.nets.student.widths=(24,)",
               "--config.nets.student.init_from=teacher_at_1")
  assert [*rows] == NETS and "same net" not in capsys.readouterr().out
  assert rows["first"][0]["teacher_sha256"] == [
      rows["teacher"][0]["parameters_sha256"]]


@pytest.mark.parametrize("sweep", [
    pytest.param((), marks=pytest.mark.slow), SEEDS])
def test_a_net_starts_from_another(chain, sweep):
  """Two stages: of one step each, the second goes on where the first ended."""
  same = ("--config.nets.student.widths=(16,)", "--config.nets.first.method=hint",
          "--config.nets.first.hard_weight=0.0",
          "--config.nets.first.soft_weight=0.0", *sweep)
  new = chain(*same)
  rows = chain(*same, "--config.nets.student.init_from=first")
  one, other = new["student"][0], rows["student"][0]
  assert one["fingerprint"] != other["fingerprint"]
  assert one["test_nll"] != other["test_nll"]
  # With a learning rate of nearly nothing it stays what it started from.
  still = chain(*same, "--config.nets.student.init_from=first",
                "--config.nets.student.optimizer.learning_rate=1e-12")
  assert new["first"] == still["first"] or not sweep
  assert [row["test_wrong_ids"] for row in still["student"]] == [
      row["test_wrong_ids"] for row in still["first"]]
  assert np.isclose(still["student"][0]["test_nll"], still["first"][0]["test_nll"])


@pytest.mark.parametrize(("more", "words"), [
    (("--config.nets.student.init_from=first",), "have not the same parameters"),
    (("--config.nets.first.name=mpl",), "config.nets.first.name='mpl'"),
    (("--config.nets.first.width=(3,)",), "did you mean"),
    (("--config.nets.first.temperature=0",), "must be a number > 0"),
    (("--config.nets.first.method=hint", "--config.nets.first.teachers=()"),
     "needs a teacher"),
    (("--config.nets.first.teacher_epochs=(99,)",), "after its training"),
    (("--config.nets.student.method=hint",
      "--config.nets.student.features.pairs=(('stage9','hidden_0'),)"),
     "the student has no tap 'stage9'"),
    (("--sweep.seed=0,1", "--shard=1/2"), "one machine trains all"),
    (("--sweep.seed=0,1", "--shard=1/2", "--plan"), "one machine trains all"),
    (("--sweep.nets.first.teacher_epochs=(1,),(2,)", "--sweep.nets.third.alpha=1"),
     "nets.third.alpha"),
    (("--config.recipe=('a','b')",), "the config file says which nets"),
    (("--sweep.recipe=('a',)",), "makes no difference"),
    (("--config.teacher.widths=(3,)",), "is of the main job's teacher"),
    (("--config.teacher.logits=t.npy",), "is of the main job's teacher"),
    (("--config.nets.student.teachers=('teacher','first')",
      "--config.nets.student.method=simkd"), "use one of its teachers"),
])
def test_a_mistake_is_a_line_before_anything_is_trained(
    more, words, own_data, tmp_path, capsys):
  code = main.run([*CHAIN, f"--config.data.dir={own_data}",
                   f"--workdir={tmp_path / 'run'}", *more])
  told = capsys.readouterr().err
  assert code == 2 and words in told, told
  assert len(told.strip().splitlines()) <= 3 and "Traceback" not in told
  assert not (tmp_path / "run/teachers").exists()


def test_a_plan_counts_nets_once(own_data, capsys):
  assert main.run([
      *CHAIN, f"--config.data.dir={own_data}", "--sweep.seed=0,1,2",
      "--sweep.nets.first.alpha=0.5,0.9", "--plan"]) == 0
  said = capsys.readouterr().out
  assert "15 runs in 3 compilations" in said  # 3 + 6 + 6
  # T is nothing to the teacher, which learns from labels.
  assert main.run([
      *CHAIN, f"--config.data.dir={own_data}", "--sweep.seed=0,1,2",
      "--sweep.temperature=2,8", "--plan"]) == 0
  assert "15 runs in 3 compilations" in capsys.readouterr().out


# What an independent reading found.


@pytest.fixture
def swept(own_data, tmp_path):
  """Runs a small sweep of the main job; gives its rows."""
  def run(*more, workdir="run"):
    place = tmp_path / workdir
    assert main.run([
        *SMALL, f"--config.data.dir={own_data}", f"--workdir={place}",
        "--config.epochs=1", "--config.teacher.epochs=1", *more]) == 0
    return [json.loads(line) for line in
            (place / "results.jsonl").read_text().splitlines()]
  return run


@pytest.mark.slow
def test_points_may_need_other_nets_and_other_taps(swept):
  rows = swept("--sweep.method=hard,kd,rkd,hint", "--sweep.seed=0",
               "--config.teacher.bank=always")
  assert [row["method"] for row in rows] == ["hard", "kd", "rkd", "hint"]
  assert [row["teacher_fingerprint"] is None for row in rows] == [
      True, False, False, False]


@pytest.mark.slow
def test_a_teacher_comes_before_its_students_at_every_point(chain):
  rows = chain("--sweep.nets.first.teacher_epochs=(0,),(1,)",
               "--config.sweep.lanes=1x1")
  assert len(rows["first"]) == 2 and len(rows["teacher_at_1"]) == 1
  assert [*rows].index("teacher_at_1") < [*rows].index("first")


@pytest.mark.slow
def test_what_is_compiled_in_is_never_another_points(chain):
  """Starts, and live teachers of other widths, make programs of their own."""
  rows = chain(
      "--config.nets.student.widths=(16,)", "--config.teacher.bank=never",
      "--sweep.nets.student.init_from=none,first",
      "--sweep.nets.teacher.widths=(24,),(20,)", "--config.sweep.lanes=1x4")
  assert {name: len(some) for name, some in rows.items()} == {
      "teacher": 2, "first": 2, "student": 4}
  assert len({row["fingerprint"] for row in rows["student"]}) == 4
  assert len({row["test_nll"] for row in rows["student"]}) == 4


def test_two_names_for_one_net_are_told(once, chain, capsys):
  rows = chain("--config.nets.first.widths=(8,)",
               "--config.nets.student.teachers=('teacher',)", copy=once)
  assert "student: is the same net as first; give it another" in (
      capsys.readouterr().out)
  assert len([*rows]) == 2


@pytest.mark.slow
def test_single_runs_and_sweeps_name_a_net_alike(swept, tmp_path):
  store = f"--config.teacher.dir={tmp_path / 'store'}"
  first = swept(store, "--sweep.temperature=2,8", "--config.sweep.lanes=1x2")
  alone = swept(store, "--config.temperature=2", workdir="alone")
  summary = json.loads((tmp_path / "alone/summary.json").read_text())
  assert [row["net"] for row in alone] == ["baseline", "distilled"]
  assert summary["distilled"]["fingerprint"] == first[0]["fingerprint"]


def test_nets_of_a_store_are_found_by_sweeps_and_single_runs(
    once, chain, tmp_path):
  _, alone = once
  store = f"--config.teacher.dir={tmp_path / 'store'}"
  shutil.copytree(once[0] / "teachers", tmp_path / "store")
  swept = chain(store, *SEEDS, workdir="swept")
  for name in NETS[:-1]:
    mine = next(row for row in swept[name] if row["seed"] == 0)
    assert mine["parameters_sha256"] == alone[name][0]["parameters_sha256"]
    assert mine["overrides"] == {"seed": 0}
  again = chain(store, workdir="again")
  assert [row["parameters_sha256"] for (row,) in again.values()] == [
      row["parameters_sha256"] for (row,) in alone.values()]


@pytest.mark.parametrize("names", [("a", "a"), ("a b",), ("dataset",)])
def test_names_of_nets_are_words(names):
  with pytest.raises(UserError, match="a net called"):
    config_lib.default(*names)
