"""Noisy students: the recipe, what is chosen, and a verdict of either kind."""

import collections

from conftest import ROOT
import jax
import numpy as np
import pytest

from configs import noisy_student as recipe
from experiments.noisy_student_mnist import study
from experiments.protocol import Options
from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import recipe as recipe_lib
from kd_jax.data import corruptions
from kd_jax.report import plots
from kd_jax.runs import results


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


def nets(config, **point):
  values = config_lib.changed(config_lib.flatten(config), point)
  return {net.name: net for net in recipe_lib.nets(values, swept=True)}


def test_each_student_is_the_teacher_of_the_next():
  made = nets(recipe.get_config())
  assert {name: net.teachers for name, net in made.items()} == {
      "teacher": (), "student_1": ("teacher",), "student_2": ("student_1",),
      "student": ("student_2",)}
  for name, net in made.items():
    assert net.values["transfer.labelled"] == 1_000
    assert net.values["method"] == ("hard" if name == "teacher" else "kd")
    assert (net.values["hard_weight"], net.values["soft_weight"]) == (1, 1)
    # A teacher is asked of the image as it is.
    assert net.values["teacher.sees"] == "clean"
  assert len({net.role for net in made.values()}) == 4


@pytest.mark.parametrize("kind", study.KINDS)
def test_an_arm_changes_the_students_and_not_their_teacher(kind):
  argmax, noise, larger = kind
  usual = nets(study._config())["teacher"]
  for setting in study.STUDENTS[kind].settings:
    # As in a stage, the teacher's own settings are given.
    made = nets(study._taught(study._config(), {}), **setting)
    teacher = made.pop("teacher")
    for key in ("student.widths", "student.views", "method", "optimizer.schedule"):
      assert teacher.values[key] == usual.values[key], key
    assert teacher.values["student.hidden_dropout"] == 0.2
    assert teacher.values["optimizer.learning_rate"] == 5e-4
    assert len(made) == 3
    for net in made.values():
      values = net.values
      assert values["method"] == ("pseudo_label" if argmax else "kd")
      assert (values["hard_weight"], values["soft_weight"]) == (1.0, 1.0)
      assert (values["student.views"] == "shift2") is noise
      assert (values["student.hidden_dropout"] > 0) is noise
      assert values["student.widths"] == ((800, 800) if larger else (400, 400))


def test_every_arm_has_four_settings_that_are_judged_without_the_test_set(tmp_path):
  assert {len(each.settings) for each in (
      study.TEACHER, *study.STUDENTS.values())} == {4}
  first, second, third = (stage.config({}) for stage in study.stages(
      Options(tmp_path)))
  for config, arms in ((first, 1), (second, 8)):
    assert (config.data.test, config.data.holdout) == ("heldout", 0.1)
    assert len(config.sweep.points) == arms * 4 * 2
    assert {(point["seed"], point["transfer.seed"])
            for point in config.sweep.points} == {(100, 100), (101, 101)}
    assert not config.evaluate.corruptions and config.transfer.labelled == 1_000
  assert first.recipe == ("teacher",) and second.recipe == ("teacher", "student")
  assert third.evaluate.corruptions and third.data.test == "own"
  assert len(third.recipe) == 4 and len(third.sweep.points) == 3 * 8 * 5
  assert {(point["seed"], point["transfer.seed"])
          for point in third.sweep.points} == {(d, d) for d in range(5)}


@pytest.mark.slow
def test_a_teacher_is_trained_once_for_all_its_students(own_data, tmp_path):
  config = ["--config=configs/noisy_student.py", "--config.data.name=blobs",
            f"--config.data.dir={own_data}", "--config.tensorboard=false",
            "--config.steps=4", "--config.nets.teacher.steps=4",
            "--config.batch_size=64", f"--workdir={tmp_path}",
            "--config.sweep.lanes=1x1", "--config.student.widths=(6,)",
            "--config.nets.teacher.widths=(6,)", "--config.transfer.labelled=21"]
  assert main.run([*config, "--sweep.method=kd,pseudo_label",
                   "--sweep.transfer.seed=0,1"]) == 0
  rows, _ = results.split(tmp_path)
  assert collections.Counter(row["net"] for row in rows) == {
      "teacher": 2, "student_1": 4, "student_2": 4, "student": 4}
  known = {row["fingerprint"]: row for row in rows}
  for row in rows:
    if row["net"] == "teacher":
      assert row["train_examples"] == 21
      continue
    teacher = known[row["teacher_fingerprint"]]
    assert row["train_examples"] == 300
    draw = lambda of: of["overrides"]["transfer.seed"]
    assert draw(teacher) == draw(row)
    before = {"student_1": "teacher", "student_2": "student_1",
              "student": "student_2"}
    assert teacher["net"] == before[row["net"]]


def row(net, draw, overrides=None, heldout=None, test=None, spoilt=0):
  return {"net": net, "seed": draw, "failed": None, "overrides": {
              "seed": draw, "transfer.seed": draw, **(overrides or {})},
          "heldout_errors": heldout, "heldout_examples": 6_000,
          "test_errors": test, "test_examples": 10_000, "seconds": 1.0,
          "corrupted_errors": {kind: [spoilt - 3, spoilt, spoilt + 3]
                               for kind in corruptions.KINDS}}


def rows_of(errors):
  """Rows of five draws; `errors` gives clean and corrupted ones of a net.

  It is asked with the number of labels, the arm (None for the teacher) and the
  round. The second setting of each arm is the best.
  """
  tried = lambda net, arms: [
      row(net, draw, setting, heldout=100 + abs(place - 1))
      for each in arms for place, setting in enumerate(each.settings)
      for draw in (100, 101)]
  noise = lambda draw, kind: (
      3 * draw + (len(str(kind)) % 2) * (1, 0, -1, 0, 0)[draw])
  table = []
  for labelled in study.LABELLED:
    for draw in range(5):
      for rounds, net in enumerate(("teacher", *recipe.STUDENTS)):
        for kind in study.KINDS if rounds else (None,):
          point = dict(study.STUDENTS[kind].settings[1]) if kind else {}
          test, spoilt = errors(labelled, kind, rounds)
          more = noise(draw, kind)
          table.append(row(net, draw, {"transfer.labelled": labelled, **point},
                           test=test + more, spoilt=spoilt + more))
  return {"teacher_choosing": tried("teacher", [study.TEACHER]),
          "choosing": tried("student", study.STUDENTS.values()), "table": table}


def alike(labelled, kind, rounds):
  return 500, 2_000


def test_settings_are_chosen_by_held_out_errors_and_go_into_the_table():
  rows = rows_of(alike)
  kind = (False, True, True)
  assert study.chosen(kind, rows) == study.STUDENTS[kind].settings[1]
  for each in rows["choosing"]:
    if study._plain([each], "student")[0]["overrides"] | {"seed": 0} == (
        study.STUDENTS[kind].settings[3] | {"seed": 0}):
      each["heldout_errors"], each["test_errors"] = 7, 9_999
  assert study.chosen(kind, rows) == study.STUDENTS[kind].settings[3]
  config = study._taught(study._config(), rows)
  assert config.nets.teacher.hidden_dropout == 0.2
  assert config.nets.teacher.optimizer.learning_rate == 2e-3
  made = study.table(config, rows, (300,), 2)
  points = [point for point in made.sweep.points
            if point["student.widths"] == (800, 800)
            and point["student.views"] == "shift2" and point["method"] == "kd"]
  assert [point["student.hidden_dropout"] for point in points] == [0.5, 0.5]


def test_shares_by_hand():
  one = row("student", 0, test=123, spoilt=2_000)
  assert study.clean(one) == pytest.approx(1.23)
  assert study.corrupted(one) == pytest.approx(20.0)
  one["corrupted_errors"]["blur"] = [10_000, 10_000, 10_000]
  # Six kinds of 20% and one of 100%; shifts are noise of training, and not counted.
  one["corrupted_errors"]["shift"] = [0, 0, 0]
  assert study.corrupted(one) == pytest.approx((6 * 20 + 100) / 7)


def verdicts(text, label):
  """Of the claim, by labels: clean and corrupted."""
  lines = [[cell.strip() for cell in line.split("|")[2:-1]]
           for line in text.splitlines() if line.startswith(f"| {label}")]
  return {line[0]: (line[3], line[6]) for line in lines}


@pytest.mark.parametrize(("errors", "first", "last"), [
    (alike, ("is not shown", "is not shown"), ("is not shown", "is not shown")),
    (lambda n, kind, r: (500 - 100 * (kind == study.CLAIMED and r == 3), 2_000),
     ("is not shown", "is not shown"), ("holds", "is not shown")),
    (lambda n, kind, r: (500, 2_000 + 300 * bool(kind)),
     ("is not shown", "does not hold"), ("is not shown", "does not hold"))])
def test_the_verdict_can_go_either_way(errors, first, last):
  text = study.conclude(rows_of(errors))
  assert verdicts(text, "after round 1") == dict.fromkeys(
      ("300", "1,000", "3,000"), first)
  assert verdicts(text, "after round 3") == dict.fromkeys(
      ("300", "1,000", "3,000"), last)
  # The claim is a family of its own, as the others are.
  assert "The claim has 12 comparisons" in text
  assert "over the 12 of the claim" in text and "over the 42 of all other" in text
  assert "over 24" in text


def test_other_arms_are_named_where_something_is_shown_of_them():
  text = study.conclude(rows_of(lambda n, kind, r: (
      500 - 100 * (n == 300 and kind == (True, False, False) and r == 3),
      2_000 + 300 * (n == 3_000 and bool(kind) and r == 3))))
  clean, corrupted = (line for line in text.splitlines()
                      if line.startswith("Of the other 7 arms"))
  assert "first teacher: argmax (300 labels). More: none." in clean
  assert "first teacher: none. More: soft (3,000 labels); " in corrupted
  assert corrupted.count("3,000 labels") == 7, "all others"


def test_what_is_told_before_there_are_rows():
  chosen = {**rows_of(alike), "table": []}
  assert "no rows yet" in study.status(chosen)
  assert study.conclude(chosen) and study.conclude({})
  first = rows_of(alike)
  first["table"] = [each for each in first["table"] if each["net"] != "student"]
  assert "after round 3 |" in study.conclude(first)


def test_what_stands_at_an_end_of_what_was_tried_is_named():
  told = study.conclude(rows_of(alike)).splitlines()[-1]
  assert "hidden dropout 0.2 (the lowest of 2), " in told
  assert "5 of 9 have a number at an end" in told


def test_a_factor_is_compared_with_all_else_alike():
  def errors(labelled, kind, rounds):
    if not rounds:
      return 900, 3_000
    argmax, noise, larger = kind
    return (500 + 40 * argmax - 20 * (rounds - 1),
            2_000 - 500 * noise - 100 * larger * noise)
  found = study.effects(study.Nets(rows_of(errors))).tests
  effect = lambda measure, name: found[measure, 1_000, name].difference
  assert effect("clean", "argmax") == pytest.approx(0.4, abs=0.01)
  assert effect("clean", "two more rounds") == pytest.approx(-0.4)
  assert effect("corrupted", "noise") == pytest.approx(-5.5, abs=0.02)
  # Half of the pairs have noise.
  assert effect("corrupted", "larger") == pytest.approx(-0.5, abs=0.02)
  assert effect("corrupted", "two more rounds") == pytest.approx(0.0)
  against = study.of_the_claim(study.Nets(rows_of(errors)))
  best = "corrupted", 300, (False, True, True), 3
  assert against.verdict(best) == "holds"
  assert against.tests[best].difference == pytest.approx(-16.0, abs=0.02)


def test_a_net_that_diverged_is_left_out():
  rows = rows_of(alike)
  for each in rows["table"]:
    if each["seed"] == 4 and each["net"] == "student":
      each["failed"], each["corrupted_errors"] = "not finite in epoch 1", {}
  nets = study.Nets(rows)
  assert {test.n for test in study.of_others(nets).tests.values()} == {4}
  claim = study.of_the_claim(nets).tests
  assert {key[-1]: test.n for key, test in claim.items()} == {1: 5, 3: 4}
  text = study.conclude(rows)
  assert "] (4)" in text and "one that is not: 24 nets." in text


def test_the_figure_has_every_round(tmp_path):
  study.pictures(rows_of(alike), tmp_path)
  assert (tmp_path / "rounds.png").stat().st_size > 5_000
  np.testing.assert_equal(len(study.KINDS), 8)
