"""Function matching: what arms differ in, what is chosen, the verdict."""

import re

from conftest import ROOT
import jax
import pytest

from configs import patient as recipe
from experiments.patient_mnist import study
from kd_jax import config as config_lib
from kd_jax.config import build
from kd_jax.config import recipe as recipe_lib
from kd_jax.config import run as run_lib
from kd_jax.report import plots
from kd_jax.runs import arms as arms_lib


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


def nets(**point):
  values = config_lib.changed(config_lib.flatten(recipe.get_config()), point)
  return {net.name: net for net in recipe_lib.nets(values, swept=True)}


def test_function_matching_has_no_labels_and_one_view_for_both_nets():
  student = nets()["student"].values
  assert (student["alpha"], student["mixup"], student["teacher.sees"]) == (
      1.0, 1.0, "views")
  assert student["student.views"] == "shift2"
  hparams = build.student_hparams(student)
  assert (hparams.hard_weight, hparams.soft_weight) == (0.0, 1.0)
  # Both nets have the same digits.
  assert {net.values["transfer.part"] for net in nets().values()} == {0.05}


def test_arms_differ_in_what_the_teacher_sees_and_in_mixing():
  seen = {}
  for each in study.ARMS:
    assert len(each.settings) == 3, each.name
    made = nets(**each.settings[0])
    values = made["student"].values
    # Whatever the arm, its teacher is the same net, and the student begins alike.
    assert made["teacher"].values == nets()["teacher"].values
    assert (made["teacher"].role, made["student"].role) == (1, 0)
    run_lib.read(values)
    build.check_names(values)
    seen[each.name] = (values["teacher.sees"] if values["alpha"] else None,
                       values["mixup"])
  assert seen == {
      "the same, mixed": ("views", 1), "the same": ("views", 0),
      "independent": ("independent", 0), "independent, mixed": ("independent", 1),
      "fixed": ("clean", 0), "fixed, mixed": ("clean", 1),
      "labels": (None, 0), "labels, mixed": (None, 1)}


def row(each, setting, seed, epochs=None, heldout=None, test=None, net="student"):
  longer = {study._EPOCHS: epochs} if epochs else {}
  return {"net": net, "seed": seed, "failed": None,
          "overrides": {"seed": seed, **setting, **longer},
          "heldout_errors": heldout, "heldout_examples": 6_000,
          "test_errors": test, "test_examples": 10_000, "seconds": 1.0}


def rows_of(errors):
  """Rows of four seeds; `errors` gives those of an arm after so many epochs.

  The second setting of each arm is the best.
  """
  tried = [row(each, setting, seed, heldout=100 + abs(place - 1))
           for each in study.ARMS for place, setting in enumerate(each.settings)
           for seed in (100, 101)]
  noise = lambda name, seed: 3 * seed + (len(name) % 2) * (1, 0, -1, 0)[seed]
  final = [row(each, each.settings[1], seed, epochs,
               test=errors(each.name, epochs) + noise(each.name, seed))
           for each in study.ARMS
           for epochs in study.EPOCHS + study.MORE * (each in study.GO_ON)
           for seed in range(4)]
  final += [row(None, {}, seed, 10, test=200, net="teacher") for seed in range(4)]
  return {"choosing": tried, "table": final}


def test_a_setting_is_chosen_once_for_all_numbers_of_epochs():
  rows = rows_of(lambda name, epochs: 300)
  config = study.table(study._config(None), rows, 3)
  points = config.sweep.points
  assert len(points) == (4 * 8 + 2) * 3
  asked = {}
  for point in points:
    setting = {key: value for key, value in point.items()
               if key not in ("seed", study._EPOCHS)}
    each, = (each for each in study.ARMS if setting in each.settings)
    assert setting == each.settings[1]
    asked.setdefault(each.name, set()).add(point[study._EPOCHS])
  assert asked == {
      each.name: {10, 30, 100, 300, *([1000] if "same" in each.name else [])}
      for each in study.ARMS}
  stage = study.stages(study.Options(None))[0].config({})
  assert (stage.data.test, stage.data.holdout) == ("heldout", 0.1)
  assert stage.nets.student.epochs == 100
  assert len(stage.sweep.points) == 8 * 3 * 2


@pytest.mark.parametrize(("errors", "says"), [
    (lambda name, epochs: 300 - 40 * (name == "labels") * (epochs == 300),
     "better: labels .*; worse: none; fewest errors labels after 300"),
    (lambda name, epochs: 300 + 40 * (name == "fixed") - epochs // 10,
     "better: none; worse: fixed .*; fewest errors the same"),
    (lambda name, epochs: 300, "better: none; worse: none;"),
])
def test_the_verdict_can_go_either_way(errors, says):
  said = study.conclude(rows_of(errors))
  assert re.search(
      rf"^\*\*after 300 epochs the same, mixed \S+ ± .*; {says}", said), said[:200]
  assert "| minus the same, mixed |" in said and "over the 7 comparisons" in said
  assert "The teachers: 200.0 ± 0.0 (4)." in said


def test_patience_is_the_last_number_of_epochs_minus_the_one_before():
  errors = lambda name, epochs: 300 - (epochs == 1000) * 20 + (
      epochs == 300) * (name == "fixed") * 7
  found = study.patience(rows_of(errors))
  assert {name: test.difference for name, test in found.items()} == {
      "the same, mixed": -20.0, "the same": -20.0, "fixed": 7.0,
      "fixed, mixed": 0.0, "independent": 0.0, "independent, mixed": 0.0,
      "labels": 0.0, "labels, mixed": 0.0}
  means = study.errors(rows_of(errors))
  assert means["the same"][1000].mean == 280 + 4.5
  assert 1000 not in means["fixed"]


def test_each_arm_is_compared_with_its_teacher_after_its_most_epochs():
  errors = lambda name, epochs: 300 - epochs // 10
  found = study.against_teachers(rows_of(errors))
  # Of 1,000 and 300 epochs, with 0, 3, 6 and 9 more by seed; teachers make 200.
  assert found["the same, mixed", 1000].difference == 0 + 4.5
  assert found["fixed", 300].difference == 70 + 4.5
  assert len(found) == 8 and all(test.n == 4 for test in found.values())


def test_rows_of_other_epochs_are_another_setting_to_no_arm():
  rows = rows_of(lambda name, epochs: epochs)
  for epochs in (10, 300):
    for each in study.found(rows, epochs):
      assert len(each.errors) == 4, each.name
      assert min(each.errors.values()) >= epochs
  assert {arms_lib.of(each)[study._EPOCHS] for each in rows["table"]} == {
      10, 30, 100, 300, 1000}


def test_the_figure_has_every_arm(tmp_path):
  study.pictures(rows_of(lambda name, epochs: 300), tmp_path)
  assert (tmp_path / "epochs.png").stat().st_size > 5_000
