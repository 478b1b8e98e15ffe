"""What is tried to bring the distilled net to 74: the plan, and the verdict."""

import math

import pytest

from experiments.hinton15_closing import study, verdict
from experiments.protocol import Options
from kd_jax import config as config_lib


def planned(tmp_path, **options):
  """The configs of all stages by name, before anything is known."""
  return {stage.name: stage.config({})
          for stage in study.stages(Options(tmp_path, **options))}


def test_what_is_chosen_is_chosen_without_the_test_set(tmp_path):
  configs = planned(tmp_path)
  assert list(configs) == ["targets", "kinds", "table", "sgd", "long_0", "long_1",
                           "long_2"]
  chooses = {name: (config.data.test, config.data.holdout)
             for name, config in configs.items()}
  assert {name for name, how in chooses.items() if how == ("heldout", 0.1)} == {
      "targets", "kinds", "sgd"}
  assert {how for name, how in chooses.items()
          if name == "table" or name.startswith("long")} == {("own", 0.0)}
  # Two lengths of two targets; 22 kinds; one seed of 10 optimisers, of each loss.
  assert {name: len(config.sweep.points) for name, config in configs.items()} == {
      "targets": 4 * 2, "kinds": 22 * 2, "table": 2 * 12, "sgd": 2 * 10,
      **{f"long_{teacher}": 4 * 2 * 2 for teacher in range(3)}}
  for config in configs.values():
    assert config.student.views == "none" and config.student.widths == (800, 800)
    for point in config.sweep.points:
      config_lib.check(config_lib.flatten(config) | point)


def test_students_are_shared_out_among_teachers(tmp_path):
  configs = planned(tmp_path)
  pairs = lambda name: [(point["seed"], point["teacher.seed"])
                        for point in configs[name].sweep.points]
  assert pairs("table") == [(seed, seed % 3) for seed in range(12)] * 2
  assert pairs("long_1") == [(1, 1), (4, 1)] * 2 * len(study.LENGTHS)


def test_each_kind_of_teacher_changes_what_it_is_named_for(tmp_path):
  points = [{key: value for key, value in point.items() if key != "seed"}
            for point in planned(tmp_path)["kinds"].sweep.points]
  assert len({str(sorted(point.items())) for point in points}) == 22
  # 20 epochs unless a kind says otherwise, and five are five: no least of steps.
  assert sorted({point["teacher.epochs"] for point in points}) == [
      5, 10, 20, 60, 200]
  assert planned(tmp_path)["kinds"].teacher.min_steps == 0
  base = study.KINDS["base"]
  changed = {name: {key for key in point if point[key] != base.get(key)}
             for name, point in study.KINDS.items()}
  assert changed["base"] == set()
  assert changed["no dropout"] == {
      "teacher.input_dropout", "teacher.hidden_dropout"}
  assert changed["width 300"] == {"teacher.widths"}
  assert changed["smoothing 0.1, 60 epochs"] == {
      "teacher.label_smoothing", "teacher.epochs"}


def test_sgd_is_that_of_the_paper_on_dropout():
  one = study.trained(study.SETTINGS["SGD 0.2, max-norm"], verdict.SOFT, 150)
  assert one == {
      "optimizer.name": "sgd", "optimizer.schedule": "exponential",
      "optimizer.factor": 0.998, "optimizer.momentum": 0.5,
      "optimizer.momentum_end": 0.99, "optimizer.momentum_epochs": 75.0,
      "optimizer.learning_rate": 0.2, "batch_size": 100, "student.init_scale": 0.2,
      "student.max_norm": math.sqrt(15), "alpha": 0.9, "temperature": 20.0,
      "optimizer.ema": 0.999, "epochs": 150}
  adamw = study.trained(study.SETTINGS["AdamW, decay 1"], verdict.HARD, 1000)
  assert "optimizer.momentum_epochs" not in adamw and adamw["alpha"] == 0


def row(point, seed, *, heldout=None, test=None, teacher="t0", failed=None, ema=0):
  """A student; its average makes `ema` errors more than its last weights."""
  more = lambda errors: errors and errors + ema
  return {"overrides": point | {"seed": seed}, "seed": seed, "failed": failed,
          "heldout_errors": more(heldout), "heldout_last_errors": heldout,
          "test_errors": more(test), "test_last_errors": test,
          "teacher_fingerprint": teacher}


def rows_of_kinds(errors):
  """Two students of a teacher of each kind, and the teachers."""
  tried = [row(study.KINDS[name], 100 + n, heldout=each + n, teacher=name)
           for name, each in errors.items() for n in (0, 1)]
  teachers = [{"net": "teacher", "fingerprint": name, "heldout_errors": 50 - place,
               "heldout_nll": 0.01 * each, "entropy": {"20": 2.0}}
              for place, (name, each) in enumerate(errors.items())]
  return {"kinds": tried, "kinds_teachers": teachers}


def test_the_best_kind_is_another_than_the_base():
  rows = rows_of_kinds({"base": 40, "no dropout": 60, "affine": 50, "5 epochs": 70})
  assert study.best_kind({}) == "200 epochs"
  assert study.best_kind(rows) == "affine"
  assert list(study.compared(rows)) == ["affine", "base"]
  points = study.table(rows, 3).sweep.points
  assert {point.get("teacher.views") for point in points} == {"affine", None}
  # A kind of which one student failed is judged by the other.
  rows["kinds"][4] |= {"failed": "not finite", "heldout_errors": None}
  assert study.best_kind(rows) == "affine"


def test_rank_correlation_by_hand():
  # d = 0, 1, 1, 0: rho = 1 - 6 * 2 / (4 * 15) = 0.8, z = ln(1.8 / 0.2) / 2.
  z, wide = math.log(9) / 2, 1.959964 * math.sqrt(1.32 / 1)
  found = verdict.spearman([10, 20, 30, 40], [1, 3, 2, 4])
  assert found.rho == pytest.approx(0.8)
  assert (found.low, found.high) == pytest.approx(
      (math.tanh(z - wide), math.tanh(z + wide)), abs=1e-5)
  # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
  tied = verdict.spearman([5, 5, 9, 10], [1, 2, 3, 4])
  assert tied.rho == pytest.approx(4.5 / math.sqrt(22.5))
  # Of three, no interval.
  assert verdict.spearman([1, 2, 3], [1, 3, 2]) == (0.5, None, None, 3)
  assert verdict.spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == (-1, None, None, 5)
  assert verdict.spearman([1, 1], [1, 2]) is verdict.spearman([], []) is None


def test_kinds_are_told_with_what_goes_with_their_students(tmp_path):
  rows = rows_of_kinds({"base": 40, "no dropout": 60, "affine": 50, "5 epochs": 70})
  told = study.conclude(rows)
  lines = [line for line in told.splitlines() if line.startswith("| ")]
  # The best first, students 40 and 41; errors 50 to 47 have ranks 4, 3, 2, 1.
  assert lines[1] == "| base | 50 | 0.4000 | 2.0000 | 40.5 | 40, 41 |"
  assert [line.split(" | ")[0] for line in lines[1:5]] == [
      "| base", "| affine", "| no dropout", "| 5 epochs"]
  # Students 1, 3, 2, 4: rho -0.8; NLL goes with them; all entropies are alike.
  assert "| teacher's held-out errors | -0.80 | [-1.00, +0.82] |" in told
  assert "| teacher's held-out NLL | +1.00 |  |" in told
  assert "| teacher's entropy of targets |  |  |" in told
  study.pictures(rows, tmp_path)
  assert (tmp_path / "kinds.png").stat().st_size > 2000


@pytest.mark.parametrize(("averaged", "says"), [
    # -4 and -6: -5 ± 12.706 sqrt(2) / sqrt(2).
    ((56, 55), "-5.0 [-17.7, +7.7] (2 seeds, one teacher); that averaging brings "
               "fewer errors is not shown"),
    ((50, 51), "-10.0 [-10.0, -10.0] (2 seeds, one teacher); that averaging brings "
               "fewer errors holds"),
    ((70, 71), "fewer errors does not hold")])
def test_targets_are_compared_by_seed_at_each_length(averaged, says):
  named = dict(zip(study.TARGETS, [(60, 61), averaged, (80, 80), (80, 82)]))
  rows = {"targets": [
      row(study.TARGETS[name], 100 + n, heldout=each)
      for name, errors in named.items() for n, each in enumerate(errors)]}
  told = study.conclude(rows)
  assert f"After 40 epochs, averaged minus own: {says}" in told or says in told
  assert "| its own answer, 40 epochs | 60.5 | 60, 61 |" in told
  assert "After 320 epochs, averaged minus own: +1.0" in told


def rows_of_sgd(errors, ema=5):
  """One row of each optimiser and loss; None has failed."""
  return [row(study.trained(setting, loss, study.TRIED), 100, ema=ema,
              heldout=errors.get((loss, name), 90),
              failed=None if errors.get((loss, name), 90) else "not finite")
          for loss in study.LOSSES for name, setting in study.SETTINGS.items()]


def test_each_loss_has_its_best_optimiser_for_long():
  soft, hard = study.LOSSES
  rows = {"sgd": rows_of_sgd({
      (soft, "Adam"): 10, (soft, "SGD 0.2"): 70, (hard, "SGD 0.05, max-norm"): 80,
      (soft, "SGD 0.5"): None})}
  # Adam is there to compare with, and what failed has no errors.
  assert study.chosen(rows, soft) == "SGD 0.2"
  assert study.chosen(rows, hard) == "SGD 0.05, max-norm"
  assert study.chosen({}, soft) == "AdamW, decay 1, averaged"
  points = study.longest(rows, 0, 6).sweep.points
  assert {(p["alpha"], p.get("student.max_norm") is None) for p in points} == {
      (0.9, True), (0.0, False)}
  assert {(p["epochs"], p["optimizer.momentum_epochs"]) for p in points} == {
      (10, 5.0), (40, 20.0), (150, 75.0), (1000, 500.0)}
  told = study.conclude(rows)
  assert "| SGD 0.5 | diverged | 90 |" in told and "| Adam | 10 | 90 |" in told
  assert "| SGD 0.2, averaged | 75 | 95 |" in told


def test_the_average_is_chosen_on_held_out_data_and_judged_on_the_test_set():
  soft = verdict.SOFT
  rows = {"sgd": rows_of_sgd({(soft, "SGD 0.2"): 70}, ema=-5)}
  assert study.chosen(rows, soft) == "SGD 0.2, averaged"
  assert study.lasting(rows)[soft]["optimizer.learning_rate"] == 0.2
  rows["long_0"] = [row(point | {"teacher.seed": 0}, seed, test=80 + seed, ema=-6)
                    for point in study.lasting(rows).values() for seed in (0, 3)]
  # 74 and 77 of the averages, where the last weights make 80 and 83.
  assert "soft targets, 1000 epochs 75.5 ±" in study.status(rows)
  text = study.conclude(rows)
  assert "| soft targets | 81.5 ±" in text and "targets, averaged | 75.5 ±" in text
  rows["sgd"] = rows_of_sgd({(soft, "SGD 0.2"): 70})
  assert "soft targets, 1000 epochs 81.5 ±" in study.status(rows)


def final(rows, names, errors):
  """Rows on all images: seeds 0 to 5, two of each of three teachers."""
  return [row(point | {"teacher.seed": seed % 3}, seed, teacher=f"{name}{seed % 3}",
              test=errors[name](seed))
          for name, point in names(rows).items() for seed in range(6)]


def test_the_best_kind_is_judged_over_teachers():
  rows = rows_of_kinds({"base": 60, "affine": 50})
  # Differences -10, -11 and -12 of teachers: -11 ± 4.303 / sqrt(3).
  rows["table"] = final(rows, study.compared, {
      "base": lambda seed: 90 + seed, "affine": lambda seed: 80 + seed - seed % 3})
  told = study.conclude(rows)
  assert ("affine minus base: -11.0 [-13.5, -8.5] (6 pairs of 3 seeds of "
          "teachers); fewer errors: holds.") in told
  assert study.status(rows).startswith("best teacher (affine) 81.5 ±")
  assert "(6/3), base 92.5 ±" in study.status(rows)
  rows["table"] = final(rows, study.compared, {
      "base": lambda seed: 90 + seed, "affine": lambda seed: 100 + seed})
  assert "fewer errors: does not hold" in study.conclude(rows)


@pytest.mark.parametrize(("errors", "says"), [
    (74, "lies in [74.0, 74.0] with 95%: the paper's 74 is not excluded"),
    (90, "is excluded, below")])
def test_the_longest_training_is_set_beside_74(errors, says):
  rows = {"sgd": rows_of_sgd({})}
  done = final(rows, study.lasting, {
      verdict.SOFT: lambda seed: errors, verdict.HARD: lambda seed: 120})
  rows |= {f"long_{n}": [each for each in done
                         if each["overrides"]["teacher.seed"] == n]
           for n in range(3)}
  told = study.conclude(rows)
  assert says in told
  assert f"soft targets minus labels alone: {errors - 120:+.1f}" in told
  assert f"soft targets, 1000 epochs {errors}.0 ± 0.0 (6/3)" in study.status(rows)
  line = f"| 1,000 | {errors}.0 ± 0.0 (6/3) | 120.0 ± 0.0 (6) | {errors - 120:+.1f}"
  assert line in told and "| 10 |  |  |  |" in told
  # Labels alone have no teacher: six runs are six.
  assert "labels alone, 1000 epochs 120.0 ± 0.0 (6)" in study.status(rows)
