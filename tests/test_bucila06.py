"""Model compression: ensemble selection, the library, a cell, the verdict."""

import itertools
import pathlib

import numpy as np
import pytest
from sklearn import svm

from experiments.bucila06 import library, plan, select, study, verdict, work
from experiments.protocol import Options, Place

# Ensemble selection.


def greedy(p, label, rounds, score):
  """By its words: all ensembles of one model more are made and scored."""
  members, best, course = [], None, []
  for _ in range(rounds):
    scores = [float(score(np.mean([p[i] for i in [*members, new]], axis=0), label))
              for new in range(len(p))]
    members.append(scores.index(min(scores)))
    course.append(min(scores))
    if best is None or course[-1] < best[0] - 1e-12:
      best = course[-1], list(members)
  return best, course


@pytest.mark.parametrize("score", [select.rmse, select.cross_entropy])
def test_selection_is_greedy_with_replacement_and_takes_the_best_prefix(score):
  for seed in range(5):
    draw = np.random.default_rng(seed)
    p, label = draw.random((6, 30)), draw.integers(0, 2, 30)
    (least, members), course = greedy(p, label, 12, score)
    found = select.select(p, label, rounds=12, score=score)
    np.testing.assert_allclose(found.course, course)
    np.testing.assert_allclose(found.score, least)
    np.testing.assert_array_equal(found.counts, np.bincount(members, minlength=6))
    np.testing.assert_allclose(found.weights.sum(), 1)


def test_the_best_prefix_by_hand():
  # One model is perfect: all that follow are it again, and the first round counts.
  p = np.array([[1.0, 0.0], [0.5, 0.5]])
  found = select.select(p, np.array([1, 0]), rounds=5)
  assert found.counts.tolist() == [1, 0] and found.course.tolist() == [0.0] * 5
  # 0.9 is over, 0.4 is under 0.6666: only two parts of the second hit it.
  p = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
  found = select.select(p, np.array([1, 1, 1]), rounds=3)
  assert found.counts.tolist() == [1, 1, 1]
  np.testing.assert_allclose(found.score, 1 / 3)


def test_scores_by_hand():
  p, label = np.array([0.8, 0.4]), np.array([1, 0])
  np.testing.assert_allclose(select.rmse(p, label), ((0.2**2 + 0.4**2) / 2)**0.5)
  np.testing.assert_allclose(
      select.cross_entropy(p, label), -(np.log(0.8) + np.log(0.6)) / 2)
  # p of 0 for what is there costs much, but not all.
  assert np.isfinite(select.cross_entropy(np.array([0.0]), np.array([1])))


# The library.


@pytest.fixture(scope="module", name="parts")
def fixture_parts():
  draw = np.random.default_rng(0)
  x = draw.random((400, 3))
  label = (x[:, 0] + x[:, 1] + 0.2 * draw.normal(size=400) > 1).astype(int)
  return (x[:250], label[:250]), (x[250:], label[250:])


def test_decision_is_that_of_scikit_learn(parts, monkeypatch):
  (x, label), (other, _) = parts
  model = svm.SVC(C=3, gamma=2.0).fit(x, label)
  monkeypatch.setattr(library, "_ROWS", 64)  # Several parts.
  np.testing.assert_allclose(
      library.decision(model, other), model.decision_function(other), atol=1e-9)


def test_platt_has_the_least_cross_entropy_of_smoothed_targets(parts):
  from scipy import optimize
  _, (x, label) = parts
  score = lambda rows: 5 * (rows[:, 0] + rows[:, 1]) - 4
  found = library.platt(score, x, label)(x)
  zeros, ones = np.bincount(label)
  target = np.where(label == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2))

  def loss(ab):
    p = 1 / (1 + np.exp(-(ab[0] * score(x) + ab[1])))
    return -np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))

  a, b = optimize.minimize(loss, (1.0, 0.0), tol=1e-12).x
  np.testing.assert_allclose(
      found, 1 / (1 + np.exp(-(a * score(x) + b))), atol=1e-4)


def test_a_library_says_probabilities_and_an_ensemble_their_mean(parts):
  train, (x, label) = parts
  stopped = []
  models = library.models(0, quick=True)
  found = library.fit(models, train, (x, label), stop=lambda: stopped.append(1))
  assert [model.name for model in found] == list(models) == list(library._FEW)
  assert len(stopped) == len(models) and set(library._FEW) < set(library.models(0))
  p = np.stack([model.ask(x) for model in found])
  assert p.shape == (len(models), 150) and 0 <= p.min() <= p.max() <= 1
  assert all(model.size > 100 and model.seconds >= 0 for model in found)
  # Class 1 is it: each is far better than a constant.
  assert (select.rmse(p, label) < 0.45).all()
  weights = np.zeros(len(models))
  weights[[0, 2]] = 0.25, 0.75
  np.testing.assert_allclose(
      library.asked(found, weights, x), 0.25 * p[0] + 0.75 * p[2])


# What a cell runs.


def test_all_settings_of_an_arm_are_as_many():
  for form in (plan.FULL, plan.QUICK):
    numbers = {arm: len(plan.choices(form, arm)) for arm in plan.ARMS}
    assert numbers["labels"] == numbers["soft"] == numbers["munge"] > 1
    assert numbers["nbe"] == numbers["random"] == numbers["single"] == 0
    assert sorted(form.sizes) == list(form.sizes)
    assert sorted(form.hidden) == list(form.hidden)
    rows = [*plan.items(form), *(
        item for arm in plan.ARMS for item in plan.choices(form, arm))]
    assert len(set(rows)) == len(rows)
  # As in the paper: 4k to 400k examples, 1 to 256 units.
  full = plan.items(plan.FULL)
  assert {item.size for item in full if item.arm == "munge"} == set(plan.FULL.sizes)
  assert {item.hidden for item in full if item.arm == "munge"} == {
      2**power for power in range(9)}


def test_logits_are_log_probabilities_and_back():
  p = np.array([0.0, 0.2, 0.5, 1.0])
  found = work.logits(p)
  assert np.isfinite(found).all() and found.dtype == np.float32
  np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-6)
  np.testing.assert_allclose(work.probability(found), p, atol=2e-6)
  # Only the difference of two logits counts.
  np.testing.assert_allclose(
      work.probability(found + 3), work.probability(found), atol=1e-6)


@pytest.mark.slow
def test_a_cell_leaves_all_its_rows_and_goes_on(tmp_path, monkeypatch):
  form = plan.QUICK._replace(
      splits=1, hidden=(2, 8), steps=30, settings=((20, 0.0), (30, 0.0)),
      choosing=300, sizes=(200, 500),
      most={"munge": 500, "nbe": 500, "random": 200})
  told = []
  place = Place(tmp_path / "table", lambda: False, told.append)
  made = []
  asked = work.Cell._asked
  monkeypatch.setattr(work.Cell, "_asked", lambda cell, inputs: (
      made.append(len(inputs)) or asked(cell, inputs)))
  work.run(form, place)
  from kd_jax import report
  rows = report.read(tmp_path / "table")
  cell = work.Cell(form, "toy", 0, place)
  assert [row["fingerprint"] for row in rows] == [
      cell.fingerprint(item) for item in cell.items]
  for row, item in zip(rows, cell.items, strict=True):
    assert row["overrides"]["arm"] == item.arm
    # No number of the test set of what was only tried.
    assert ("test_rmse" in row) == (item.stage == "table")
    assert not any(key.startswith("test") for key in row) or item.stage == "table"
  # The best setting on what is held out, and its numbers.
  for arm in ("labels", "soft", "munge"):
    tried = {tuple(row["overrides"]["setting"]): row["heldout_rmse"] for row in rows
             if row["method"] == arm and row["overrides"]["stage"] == "choosing"}
    best = [tuple(row["chosen"]) for row in rows
            if row["method"] == arm and row["overrides"]["stage"] == "table"]
    assert set(best) == {min(tried, key=tried.get)} and len(tried) == 2
  # 500 own examples, and pseudo ones: each generator is asked once, of its most.
  assert made == [500, 800, 800, 1000, 1000, 700]
  # Of a net the row says what its logits say.
  nets = [row for row in rows if row["overrides"]["hidden"] == 8]
  assert {row["bytes"] for row in nets} == {4 * (4 * 8 + 8 + 8 * 2 + 2)}
  again = [dict(row) for row in rows]
  work.run(form, place)
  assert report.read(tmp_path / "table") == again
  assert any("1 of 1 tasks are done" in line for line in told)


# The verdict.


def row(arm, rmse, seed, size=0, hidden=0, stage="table", problem="letter.p1"):
  item = plan.Item(arm, size, hidden, (), stage)
  return {"method": arm, "seed": seed, "failed": None, "test_rmse": rmse,
          "heldout_rmse": rmse, "seconds_10k": 2.0 if hidden else 500.0,
          "bytes": 10**6, "overrides": plan.overrides(problem, seed, item)}


def rows_of(munge=0.08, labels=0.10, ensemble=0.075):
  """Rows of three splits that differ alike for all arms."""
  found = []
  for seed, off in enumerate((0.0, 0.004, -0.003)):
    jitter = 0.0002 * seed
    found += [
        row("ensemble", ensemble + off, seed), row("single", 0.09 + off, seed),
        row("labels", labels + off + jitter, seed, hidden=256),
        row("labels", 0.2 + off, seed, hidden=1),
        row("soft", 0.099 + off, seed, hidden=256),
        row("munge", munge + off - jitter, seed, 400_000, 256),
        row("munge", 0.15 + off, seed, 400_000, 1),
        row("munge", 0.05, seed, 36_000, 256, stage="choosing")]
    found += [row(arm, value + off + jitter, seed, size, 256)
              for (arm, value), size in itertools.product(
                  (("nbe", 0.095), ("random", 0.12)), (8000, 100_000))]
    found += [row("munge", 0.09 + off, seed, size, 256) for size in (8000, 100_000)]
  return {"table": found}


def test_table_2_has_the_papers_numbers_and_the_share_of_the_gain():
  rows = rows_of()
  # (0.1 - 0.08) / (0.1 - 0.075), but for the jitter.
  np.testing.assert_allclose(verdict.kept(rows, "letter.p1")[0], 0.8)
  told = verdict.conclude(rows)
  line = next(line for line in told.split("\n") if line.startswith("| letter.p1"))
  assert [cell.split("[")[-1] for cell in line.split(" | ")[1:5]] == [
      "0.075]", "0.075]", "0.092]", "0.092]"]
  assert line.startswith("| letter.p1 | 0.0801 ± ") and "0.0753 ± " in line
  # NBE is compared with as many examples of MUNGE: 0.09, not 0.08.
  assert "letter.p1: MUNGE minus net, NBE | -0.0052" in told
  assert "MUNGE minus net, labels | -0.0204" in told
  assert verdict.status(rows) == (
      "RMSE letter.p1 labels 0.1005 ± 0.0085 (3), compressed 0.0801 ± 0.0089 (3), "
      "ensemble 0.0753 ± 0.0087 (3)")


def test_a_difference_is_called_only_where_it_is_shown():
  told = verdict.conclude(rows_of())
  better = {line.split(" minus ")[1].split(" |")[0]: line.split(" | ")[-1][:-2]
            for line in told.split("\n") if " minus " in line}
  assert better == {"net, labels": "MUNGE", "ensemble": "the other",
                    "net, NBE": "MUNGE", "net, RANDOM": "MUNGE"}
  alike = verdict.conclude(rows_of(munge=0.1002, labels=0.1))
  line = next(line for line in alike.split("\n") if "minus net, labels" in line)
  assert line.endswith("| not shown |")


def test_rows_that_are_not_all_there_are_no_problem_yet():
  rows = rows_of()
  rows["table"] = [each for each in rows["table"] if each["method"] != "nbe"]
  assert verdict.conclude(rows) == "No problem has all its rows yet.\n"
  assert verdict.status(rows) == "no problem yet"
  assert verdict.conclude({}) == "No problem has all its rows yet.\n"


@pytest.mark.pictures
def test_the_picture_is_drawn(tmp_path):
  verdict.pictures(rows_of(), tmp_path)
  assert (tmp_path / "curves.png").stat().st_size > 5000


def test_seeds_are_splits():
  stage, = study.stages(Options(pathlib.Path("anywhere"), seeds=2))
  form, = stage.run.args
  assert form.splits == 2 and form.problems == tuple(plan.PAPER)
