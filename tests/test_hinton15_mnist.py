"""The three studies on MNIST: what they choose, count and conclude."""

import re

import numpy as np
import pytest

from experiments import index, words
from experiments.hinton15_mnist import closing, study, verdict
from experiments.hinton15_omitted import bias
from experiments.hinton15_omitted import study as omitted
from experiments.hinton15_omitted import verdict as omitted_verdict
from experiments.hinton15_regulariser import study as regulariser
from experiments.hinton15_regulariser import verdict as regulariser_verdict
from kd_jax.report import statistics

MAIN, SMALL = "distilled, T = 20", "small"


def chosen(name, errors_of):
  """Rows of the choosing stage: two seeds of every setting of a loss."""
  loss = {"hard": study._HARD, "soft": study._SOFT}[name]
  return [{"overrides": loss | setting | {"seed": seed},
           "heldout_errors": errors_of(place) + seed - 100, "test_errors": 1}
          for place, setting in enumerate(study._SETTINGS[name])
          for seed in study._CHOOSING_SEEDS]


def test_both_losses_have_the_same_budget():
  hard, soft = study._SETTINGS["hard"], study._SETTINGS["soft"]
  assert len(hard) == len(soft) == 8
  assert len(study.choosing().sweep.points) == 16 * len(study._CHOOSING_SEEDS)
  assert study.choosing().data.holdout == 0.1


def test_each_loss_has_the_setting_that_is_best_on_held_out_data():
  rows = chosen("hard", lambda place: 90 - place) + chosen(
      "soft", lambda place: 80 + abs(place - 3))
  assert study.choose(rows, "hard") == study._SETTINGS["hard"][-1]
  assert study.choose(rows, "soft") == study._SETTINGS["soft"][3]
  # Of equals the first, which is the plain one.
  assert study.choose([], "soft") == study._SETTINGS["soft"][0]


def test_the_table_is_what_its_readme_says():
  config = study.table({}, study.SEEDS)
  per_seed = {}
  for point in config.sweep.points:
    per_seed.setdefault(point["seed"], []).append(point)
  assert set(per_seed) == set(range(12)) and study.TEACHERS == 3
  assert {len(points) for points in per_seed.values()} == {3 + 3 + 14}
  for seed, points in per_seed.items():
    assert {p["teacher.seed"] for p in points if "teacher.count" not in p} == {
        seed % 3}
    assert {p["teacher.seed"] for p in points if "teacher.count" in p} == {0}
  assert config.data.holdout == 0 and config.data.embedded == "never"


def tried(errors_of):
  """Rows of the search: two seeds of every change."""
  points = closing.changed(study.distilled({}))
  return [{"overrides": point | {"seed": seed}, "seed": seed, "failed": None,
           "heldout_errors": errors_of(name) + seed - 100}
          for name, point in points.items() for seed in study._CHOOSING_SEEDS]


def test_the_search_is_on_held_out_data_and_of_at_most_eight_changes():
  config = study.search({})
  assert len(closing.CHANGES) == 8
  assert len(config.sweep.points) == 16 and config.data.holdout == 0.1
  assert study.best({}, 0).data.holdout == 0


def test_what_the_search_found_is_trained_beside_its_control():
  better = "shifted, T = 4"
  rows = {"search": tried(lambda name: 40 if name == better else 41)}
  errors = closing.errors(study.distilled({}), rows["search"])
  # No row counts for two changes.
  assert errors == {name: [40, 41] if name == better else [41, 42]
                    for name in closing.CHANGES}
  points = [point for teacher in range(study.TEACHERS)
            for point in study.best(rows, teacher).sweep.points]
  assert len(points) == 24
  assert {(p["seed"] % 3, p["teacher.seed"]) for p in points} == {
      (n, n) for n in range(3)}
  found, control = study.best_points(rows).values()
  assert (found["temperature"], found["student.views"]) == (4.0, "shift2")
  assert control["alpha"] == 0 and {
      key for key in control if control[key] != found[key]} == {
          "alpha", "temperature"}


@pytest.mark.parametrize(("errors", "said"), [
    (74, "[74.0, 74.0]: not excluded"),
    # 79.5 ± t(3) s sqrt(5 / 4) = 3.18 * 1.29 * 1.118.
    (78, "[74.9, 84.1]: excluded, below")])
def test_the_verdict_tells_how_close_the_search_came(errors, said):
  rows = rows_of({SMALL: lambda seed: 146, MAIN: lambda seed: 95 + seed})
  rows["search"] = tried(lambda name: 40)
  assert "Tried on held-out" in study.conclude(rows)
  like = {row["seed"]: row for row in rows["table"]}
  # 78 + seed: 79.5, 79 and 80 with teachers 0, 1 and 2; 79.5 in the mean.
  for teacher, seeds in enumerate([(0, 3), (1,), (2,)]):
    rows[f"best_{teacher}"] = [
        like[seed] | {"overrides": point | {"seed": seed},
                      "test_errors": (errors + seed * (errors > 74)
                                      if point["alpha"] else 120)}
        for point in study.best_points(rows).values() for seed in seeds]
  told = study.conclude(rows)
  assert said in told and "| hard labels, the same images |" in told
  assert "best found" in study.status(rows)
  # Trained anew, they are other nets: (146 - 74) / (146 - 50) = 0.75.
  for teacher in range(study.TEACHERS):
    rows[f"best_{teacher}_teachers"] = [
        rows["teachers"][teacher] | {"test_errors": 50}]
  told = study.conclude(rows)
  assert ("| 0.75 ± 0.00 (3) |" in told) == (errors == 74)
  assert "Their teachers make 50.0 ± 0.0 (3) errors" in told


def test_smoothed_labels_have_the_entropy_that_is_wanted():
  # 1/2 on the right class and 1/2 spread over 10: p = 0.55, others 0.05.
  # H = -0.55 ln 0.55 - 9 * 0.05 ln 0.05 = 0.32881 + 1.34808.
  assert study._entropy(0.5) == pytest.approx(1.67689, abs=1e-5)
  assert study._entropy(1.0) == pytest.approx(np.log(10))
  rows = {"choosing_teachers": [
      {"net": "teacher", "entropy": {"20": 1.67689, "1": 0.0}}]}
  assert study._smoothing(rows, "20") == pytest.approx(0.5, abs=1e-4)
  assert study._smoothing(rows, "1") == pytest.approx(0, abs=1e-6)


def rows_of(errors, seeds=4, epochs=study.LONG):
  """Rows of the MNIST table by the names of their points."""
  points, table = study.points({}), []
  for name, errors_of in errors.items():
    for seed in range(seeds):
      table.append({
          "overrides": points[f"{name}, {epochs} epochs"] | {
              "seed": seed, "teacher.seed": seed % 3},
          "seed": seed, "failed": None, "teacher_fingerprint": f"t{seed % 3}",
          "test_errors": errors_of(seed), "agreement": 0.99, "test_nll": 0.03,
          "test_ece": 0.003, "train_errors": 10, "train_examples": 60000,
          "test_examples": 10000})
  teachers = [{"net": "teacher", "fingerprint": f"t{n}", "test_errors": 60 + n,
               "test_nll": 0.02, "test_ece": 0.001} for n in range(3)]
  return {"table": table, "teachers": teachers, "choosing": []}


@pytest.mark.parametrize(("small", "distilled", "said"), [
    # Teachers 61 ± 4.303 sqrt(4 / 3), which is below 67.
    (146, 74, ["excluded, above", "not excluded", "not excluded"]),
    (129, 75, ["excluded, above"] * 2 + ["excluded, below"])])
def test_the_papers_numbers_may_be_one_more_run_of_ours(small, distilled, said):
  rows = rows_of({SMALL: lambda seed: small, MAIN: lambda seed: distilled})
  told = study.conclude(rows)
  lines = [line for line in told.splitlines() if "excluded" in line]
  assert [line.rsplit("| ", 1)[1].removesuffix(" |") for line in lines] == said
  assert study.status(rows) == (
      f"teacher 61.0 ± 2.5 (3), small {small}.0 ± 0.0 (4), "
      f"distilled {distilled}.0 ± 0.0 (4/3)")


def test_the_share_of_the_gain_is_that_of_its_own_teacher():
  # With teacher 0: (85 + 88) / 2 = 86.5 of seeds 0 and 3.
  rows = rows_of({SMALL: lambda seed: 159 + 2 * (seed % 2),
                  MAIN: lambda seed: 85 + seed})
  named = study.named(rows)
  shares = verdict._shares(
      named[f"{MAIN}, 40 epochs"], named[f"{SMALL}, 40 epochs"],
      verdict._teachers(rows["teachers"]))
  # (160 - 86.5) / (160 - 60), (160 - 86) / (160 - 61), (160 - 87) / (160 - 62).
  assert shares == pytest.approx([73.5 / 100, 74 / 99, 73 / 98])
  # Of a teacher that one more small net may be there is no share: 157 is not
  # within 160 ± t(3) s / sqrt(4) = 160 ± 1.8, but within sqrt(5) times that.
  for teacher in rows["teachers"]:
    teacher["test_errors"] = 157
  assert verdict._shares(
      named[f"{MAIN}, 40 epochs"], named[f"{SMALL}, 40 epochs"],
      verdict._teachers(rows["teachers"])) == []
  assert not re.search(r"\b(inf|nan)\b", study.conclude(rows))


def test_a_bias_is_counted_as_by_hand():
  draw = np.random.default_rng(0)
  logits, label = draw.normal(size=(200, 5)) * 3, draw.integers(0, 5, 200)
  left_out = [1, 4]
  both = bias.curve(logits, label, left_out)
  for place in (0, 20, 57, 180):
    moved = logits.copy()
    moved[:, left_out] += bias.GRID[place]
    wrong = moved.argmax(1) != label
    assert both.errors[place] == wrong.sum()
    assert both.omitted[place] == wrong[np.isin(label, left_out)].sum()
  assert bias.at(both.errors, 0.04) == both.errors[20]  # 0.0 is the nearest
  assert bias.GRID[20] == 0


def test_the_best_bias_is_the_middle_of_the_best():
  errors = np.full(len(bias.GRID), 9)
  errors[[40, 41, 42]] = 3
  assert bias.best(errors) == pytest.approx(bias.GRID[41])


def test_the_priors_bias_gives_the_prior():
  draw = np.random.default_rng(1)
  logits = draw.normal(size=(300, 4)) * 2
  for prior in (0.05, 0.4, 0.9):
    b = bias.from_prior(logits, [2], prior)
    moved = np.exp(logits + b * (np.arange(4) == 2))
    mass = (moved[:, 2] / moved.sum(1)).mean()
    assert mass == pytest.approx(prior, abs=2e-3)  # b has two digits


def test_what_was_chosen_without_the_test_set_is_told_apart():
  classes, _ = omitted.SETS["no 3s"]
  about = {"overrides": {"transfer.classes": list(classes), "alpha": 0.9}}
  curve = np.full(len(bias.GRID), 200)
  curve[55], curve[49], curve[51] = 100, 120, 140  # at 3.5, 2.9 and 3.1
  rows = {
      # The nets' own count, where float16 has 200.
      "trained": [about | {"test_errors": errors, "omitted_errors": 150}
                  for errors in (201, 203, 205)],
      "curves": [about | {"errors": curve.tolist(), "omitted_examples": 1010,
                          "omitted_errors": [7] * len(curve)}] * 3,
      "biases": [about | {"by_labels": 2.9, "by_prior": 0.5},
                 about | {"by_labels": 3.1, "by_prior": 0.7}]}
  told = omitted_verdict.told(rows, omitted.SETS).splitlines()
  line = lambda word: next(text for text in told if word in text)
  assert "| 206 | 203 ± 5 (3) | 133 of 1010 | 150 ± 0 (3) |" in line("as trained")
  assert "| 109 | 100 ± 0 (3) |" in line("best on the test")
  assert "| 130 ± 0 (3), 120 and 140 by each twin |" in line("held-out labels")
  assert "| 2.9, 3.1 |" in line("held-out labels")
  assert "| 200 ± 0 (3), 200 and 200 by each twin |" in line("class prior")
  # 203 ± t(2) 2 sqrt(4 / 3) = 4.303 * 2.309.
  assert line("- no 3s, as trained").endswith("[193.1, 212.9]: not excluded.")
  assert line("- no 3s, best bias").endswith("[100.0, 100.0]: excluded, above.")
  assert ("203 ± 5 (3), with the bias that is best on the test set 100"
          ) in omitted_verdict.phrase(rows, omitted.SETS)


def test_as_trained_is_counted_from_the_rows_own_wrong_ids():
  told = bias.without(
      {"test_errors": 4, "test_wrong_ids": [5, 0, 2, 3]},
      np.array([3, 3, 7, 1, 3, 7]), [3, 7])
  assert told == {"omitted": [3, 7], "test_errors": 4, "omitted_errors": 3}


def test_every_student_of_classes_left_out_is_counted_as_its_row_says():
  rows = index.committed(index.ROOT / "hinton15_omitted")
  of = lambda stage: {row["fingerprint"]: row["test_errors"] for row in rows[stage]}
  assert of("trained") == of("table") and len(of("table")) == 48
  counted = {row["fingerprint"]: row["errors"][20] for row in rows["curves"]}
  apart = [abs(counted[name] - errors) for name, errors in of("trained").items()]
  assert bias.GRID[20] == 0 and sum(map(bool, apart)) == 20 and max(apart) == 4


def part(way, seed, errors, epochs):
  soft = way == "soft"
  return {"overrides": {"transfer.part": 0.03, "alpha": 0.9 if soft else 0.0,
                        "transfer.seed": seed % 2, "epochs": epochs},
          "teacher_fingerprint": f"t{seed % 2}", "seed": seed, "failed": None,
          "train_errors": 0, "train_examples": 1800, "test_errors": errors,
          "test_examples": 10000}


@pytest.mark.parametrize(("soft", "holds"), [(400, True), (640, False)])
def test_soft_targets_recover_what_the_missing_data_cost(soft, holds):
  table = [row for seed in range(4) for row in (
      part("hard", seed, 640 + 2 * (seed // 2), 12), part("hard", seed, 650, 80),
      part("soft", seed, soft + 2 * (seed % 2), 80))]
  whole = {"small": [{**part("hard", seed, 140, 10), "train_examples": 60000}
                     for seed in range(4)]}
  told = regulariser_verdict.told({"table": table}, regulariser.PARTS, whole)
  assert ("soft targets do better holds here" in told) == holds
  if holds:
    # (641 - 400) / (641 - 140) = 0.481 and (641 - 402) / 501 = 0.477.
    assert "| 0.48 ± 0.03 (2) |" in told
    assert "They recover 0.48 ± 0.03 (2) of" in told
    assert "(over 2 teachers, p 0.0027)" in told
  assert "the paper's is 0.87" in told  # (57.0 - 44.5) / (58.9 - 44.5)


def test_hard_labels_stop_where_held_out_errors_are_least():
  rows = [{"overrides": {"transfer.part": 0.03}, "heldout_curve": curve}
          for curve in ([9, 5, 6, 8], [9, 7, 4, 8])]  # means 9, 6, 5, 8
  assert regulariser.stop_at(rows, 0.03) == 3
  assert regulariser.stop_at(rows, 0.1) == regulariser.PARTS[0.1]


def test_intervals_are_of_what_the_runs_are_a_sample_of():
  rows = [{"overrides": {"alpha": 0.9}, "teacher_fingerprint": t} for t in "aabb"]
  values = [1.0, 3.0, 4.0, 6.0]
  # Means 2 and 5: 3.5 ± t(1) 2.121 / sqrt(2) = 12.706 * 1.5 = 19.06.
  assert words.spread(rows, values) == "3.5 ± 19.1 (4/2)"
  # 3.5 ± t(3) 2.082 / 2 = 3.182 * 1.041 = 3.31: hard labels have no teacher.
  hard = [row | {"overrides": {"alpha": 0.0}} for row in rows]
  assert words.spread(hard, values) == "3.5 ± 3.3 (4)"
  # But they share the part of the data that they see.
  parts = [row | {"overrides": {"alpha": 0.0, "transfer.seed": n // 2}}
           for n, row in enumerate(rows)]
  assert words.spread(parts, values) == "3.5 ± 19.1 (4/2)"
  # 2 ± t(1) 1.414 / sqrt(2) = 12.706, of two students of one teacher.
  assert words.spread(rows[:2], values[:2]) == "2.0 ± 12.7 (2/1)"
  assert words.spread([], []) == ""


def test_numbers_in_words():
  assert words.interval([5.0]) == "5.0 (1)" and words.interval([]) == ""
  assert words.p_value(0.0004) == "< 0.001" and words.p_value(None) == ""
  test = statistics.paired([5, 7, 9], [4, 5, 6])
  assert words.difference(test) == "+2.0 [-0.5, +4.5]"
  assert words.table(["a", "b"], [["x", "1"]]) == (
      "| a | b |\n|---|--:|\n| x | 1 |\n")
