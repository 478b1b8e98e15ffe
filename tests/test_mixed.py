"""The mixed model of a table, and what is said of its cells.

Balanced tables have closed forms, by mean squares: with g teachers, c cells and n
runs of each, E MS_T = R + n I + n c T, E MS_I = R + n I, E MS_R = R.
"""

import math

import numpy as np
import pytest
from scipy import stats

from kd_jax.report import clustered, mixed, statistics
from kd_jax.report.clustered import Cells
from kd_jax.report.mixed import Run

approx = pytest.approx


def simulated(rng, c, g, n, teacher, interaction, residual):
  """Values `[c, g, n]` around zero."""
  return (rng.normal(0, 1, (1, g, 1)) * teacher
          + rng.normal(0, 1, (c, g, 1)) * interaction
          + rng.normal(0, residual, (c, g, n)))


def runs_of(values):
  return [Run(cell, teacher, value) for cell, of in enumerate(values)
          for teacher, each in enumerate(of) for value in each]


def mean_squares(values):
  """MS_T, MS_I, MS_R."""
  c, g, n = values.shape
  means = values.mean(2)
  by_teacher, by_cell, whole = means.mean(0), means.mean(1), means.mean()
  beyond = means - by_teacher - by_cell[:, None] + whole
  return (n * c * ((by_teacher - whole)**2).sum() / (g - 1),
          n * (beyond**2).sum() / ((g - 1) * (c - 1)),
          ((values - means[:, :, None])**2).sum() / (c * g * (n - 1)))


def half(variance, degrees):
  return stats.t.ppf(0.975, degrees) * math.sqrt(variance)


def test_mixed_components_by_hand():
  # Teachers' means 2 and 8, 4 and 6, each of two runs, 1 to either side. By teacher
  # 3 and 7, of cells 5: MS_T = 2 * 2 * (4 + 4) / 1 = 32; beyond these -1, 1, 1, -1:
  # MS_I = 2 * 4 / 1 = 8; MS_R = 8 / 4 = 2. R = 2, I = (8 - 2) / 2, T = 24 / 4.
  values = np.array([[[1, 3], [7, 9]], [[3, 5], [5, 7]]])
  model = mixed.fit(runs_of(values))
  assert model.components == approx((6, 3, 2), rel=1e-4)
  # Of a mean (MS_T + MS_I) / (g n c) = 40 / 8. Satterthwaite's degrees would be
  # 40**2 / (32**2 + 8**2); but T is known from two teachers, and I from one degree.
  found = model.mean(0)
  assert found.value == 5 and found.degrees == approx(1, rel=1e-3)
  assert found.high - 5 == approx(half(5, 1), rel=1e-3)
  # Of a difference 2 MS_I / (g n) = 4, of the interaction's one degree.
  found = model.difference(0, 1)
  assert found.value == 0 and found.degrees == approx(1, rel=1e-3)
  assert found.high == approx(half(4, 1), rel=1e-3) and found.p == approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_mixed_agrees_with_mean_squares_of_balanced_tables(seed):
  rng = np.random.default_rng(seed)
  c, g, n = 6, 4, 3
  values = 100 + simulated(rng, c, g, n, 6, 4, 3)
  ms_t, ms_i, ms_r = mean_squares(values)
  assert ms_t > ms_i > ms_r  # Else REML has another form, as below.
  model = mixed.fit(runs_of(values))
  assert model.components == approx(
      ((ms_t - ms_i) / (n * c), (ms_i - ms_r) / n, ms_r), rel=1e-3)
  total = ms_t + (c - 1) * ms_i
  found = model.mean(2)
  assert found.value == approx(values[2].mean(), rel=1e-10)
  # What T adds to the variance has g - 1 degrees, what is left those of MS_I.
  share, t = (ms_t - ms_i) / total, lambda degrees: stats.t.ppf(0.975, degrees)
  quantile = share * t(g - 1) + (1 - share) * t((g - 1) * (c - 1))
  assert found.high - found.value == approx(
      quantile * math.sqrt(total / (g * n * c)), rel=1e-3)
  assert t(found.degrees) == approx(quantile, rel=1e-6)
  satterthwaite = total**2 / (ms_t**2 / (g - 1)
                              + ((c - 1) * ms_i)**2 / ((g - 1) * (c - 1)))
  assert found.degrees < satterthwaite
  found = model.difference(2, 5)
  assert found.degrees == approx((g - 1) * (c - 1), rel=1e-3)
  assert found.high - found.value == approx(
      half(2 * ms_i / (g * n), (g - 1) * (c - 1)), rel=1e-3)
  t = abs(found.value) / math.sqrt(2 * ms_i / (g * n))
  assert found.p == approx(2 * stats.t.sf(t, (g - 1) * (c - 1)), rel=1e-2)


def test_mixed_squares_are_pooled_where_a_component_is_zero():
  # Teachers' means are alike, so T is zero and its degree goes to the interaction:
  # MS_T = 0, MS_I = 8 as above, pooled (0 + 8) / 2 = 4; I = (4 - 2) / 2 = 1.
  values = np.array([[[3, 5], [5, 7]], [[5, 7], [3, 5]]])
  model = mixed.fit(runs_of(values))
  assert model.components == approx((0, 1, 2), abs=1e-4) and model.free == (1, 2)
  found = model.mean(0)
  assert found.degrees == approx(2, rel=1e-3)  # those of the interaction
  assert found.high - 5 == approx(half(4 / 4, 2), rel=1e-3)


def test_mixed_of_one_cell_is_students_t_over_teachers():
  values = np.array([[[70, 72, 74], [75, 76, 80], [71, 78, 79]]])
  model = mixed.fit(runs_of(values))
  assert model.free == (0, 2)
  plain = statistics.summary(values.mean(2)[0])
  assert model.mean(0)[:3] == approx((plain.mean, plain.low, plain.high), rel=1e-4)
  single = mixed.fit([Run("a", at, value) for at, value in enumerate([1, 2, 3])])
  assert single.free == (2,)
  assert single.mean("a")[1:3] == approx(statistics.summary([1, 2, 3])[2:4],
                                         rel=1e-4)


def test_mixed_of_one_run_each_pairs_by_teacher():
  # Two cells of four teachers: the t test of paired differences.
  a, b = np.array([5.0, 7, 9, 4]), np.array([4.0, 5, 6, 5])
  model = mixed.fit(runs_of(np.stack([a, b])[:, :, None]))
  plain = statistics.paired(a, b)
  found = model.difference(0, 1)
  assert found[:4] == approx(plain[:4], rel=1e-3)
  assert found.degrees == approx(3, rel=1e-3)


def test_mixed_agrees_with_the_likelihood_of_whole_matrices():
  """An unbalanced table, with a cell without teachers, against dense algebra."""
  rng = np.random.default_rng(3)
  values = 50 + simulated(rng, 3, 3, 4, 5, 6, 3)
  runs = [run for at, run in enumerate(runs_of(values)) if at % 5]
  runs += [Run("labels", None, value) for value in rng.normal(70, 3, 5)]
  model = mixed.fit(runs)
  cells = list(model.table.cells)
  y = np.array([run.value for run in runs])
  x = np.array([[run.cell == cell for cell in cells] for run in runs], float)
  same = lambda a, b: a.teacher is not None and a.teacher == b.teacher
  of_teacher = np.array([[same(a, b) for b in runs] for a in runs], float)
  of_pair = of_teacher * np.array([[a.cell == b.cell for b in runs] for a in runs])
  kernels = (of_teacher, of_pair, np.eye(len(runs)))

  def dense(variances):
    inverse = np.linalg.inv(sum(v * k for v, k in zip(variances, kernels)))
    cov = np.linalg.inv(x.T @ inverse @ x)
    projected = inverse - inverse @ x @ cov @ x.T @ inverse
    return inverse, cov, projected

  def slopes(variances):
    """Of -2 log restricted likelihood: tr(P K) - y'P K P y, zero at its least."""
    *_, p = dense(variances)
    return [np.trace(p @ k) - y @ p @ k @ p @ y for k in kernels]
  assert model.free == (0, 1, 2)
  information = [np.trace(dense(model.components)[2] @ k) for k in kernels]
  assert np.abs(np.divide(slopes(model.components), information)).max() < 1e-3
  inverse, cov, _ = dense(model.components)
  assert model.means == approx(cov @ x.T @ inverse @ y, rel=1e-6)
  weights = np.array([1.0, 0, 0, -1])
  found = model.difference(cells[0], cells[3])
  error = (found.high - found.value) / stats.t.ppf(0.975, found.degrees)
  assert error**2 == approx(weights @ cov @ weights, rel=1e-4)


def test_mixed_without_spread_and_without_runs():
  model = mixed.fit(runs_of(np.full((2, 2, 2), 0.1)))
  assert model.mean(0) == (0.1, 0.1, 0.1, 0.0, None)
  assert model.difference(0, 1)[:4] == (0, 0, 0, 1)
  for runs in ([], [Run("a", None, math.nan)]):
    with pytest.raises(ValueError, match="finite"):
      mixed.fit(runs)
  # Equal runs of each pair: teachers are all that there is.
  model = mixed.fit(runs_of(np.array([[[1.0, 1.0], [3.0, 3.0]]])))
  assert model.mean(0)[:2] == approx((2, 2 - half(1, 1)), rel=1e-3)


def test_runs_that_vary_unlike_are_noticed():
  rng = np.random.default_rng(0)
  alike = simulated(rng, 4, 3, 5, 1, 1, 3)
  unlike = alike * np.array([1, 1, 1, 5])[:, None, None]
  assert mixed.fit(runs_of(alike)).runs_differ() > 0.05
  assert mixed.fit(runs_of(unlike)).runs_differ() < 1e-4
  # Of one teacher it is scipy's test of the runs.
  one = rng.normal(0, 1, (3, 1, 6)) * np.array([1, 2, 3])[:, None, None]
  assert mixed.fit(runs_of(one)).runs_differ() == approx(
      stats.bartlett(*one[:, 0]).pvalue)


def test_teachers_that_vary_unlike_are_noticed_by_one_run_of_each():
  rng = np.random.default_rng(0)
  alike = rng.normal(0, 1, (3, 8, 1))
  unlike = alike * np.array([1, 1, 8])[:, None, None]
  labels = [Run("labels", None, value) for value in rng.normal(0, 99, 8)]
  for values, differ in ((alike, False), (unlike, True)):
    model = mixed.fit([*runs_of(values), *labels])
    assert model.runs_differ() == 1
    # Labels have no teachers; without these it is scipy's test of the others.
    assert model.teachers_differ() == approx(stats.bartlett(*values[..., 0]).pvalue)
    assert (model.teachers_differ() < 1e-4) == differ
  # By means of a teacher's runs, where it has several.
  several = simulated(rng, 3, 6, 4, 1, 1, 1)
  assert mixed.fit(runs_of(several)).teachers_differ() == approx(
      stats.bartlett(*several.mean(-1)).pvalue)


# Cells.


def cells_of(**cells):
  """Of each cell its runs as (teacher, seed, value)."""
  return Cells({name: [clustered.Run(*run) for run in runs]
                for name, runs in cells.items()})


def test_a_cell_of_no_teacher_or_one_is_judged_by_its_own_runs():
  three = [(f"t{seed % 3}", seed, 70 + seed % 3 + seed % 2) for seed in range(6)]
  labels = [(None, seed, value) for seed, value in enumerate([80, 81, 84])]
  single = [("ensemble", seed, value) for seed, value in enumerate([60, 63, 63])]
  cells = cells_of(three=three, labels=labels, single=single)
  assert cells.several and cells.model
  for name, runs in (("labels", labels), ("single", single)):
    plain = statistics.summary([value for *_, value in runs])
    assert cells.mean(name)[:3] == (plain.mean, plain.low, plain.high)
    assert cells.over(name) == "runs"
  assert cells.mean("three")[:3] == cells.model.mean("three")[:3]
  assert cells.over("three") == cells.over("three", "labels") == "teachers"
  # A single teacher cannot speak for others.
  assert cells.over("three", "single") == cells.over("labels", "single") == "runs"
  assert cells.difference("three", "labels")[:4] == cells.model.difference(
      "three", "labels")[:4]
  # Pairs of seeds 0, 1, 2, one with each teacher: nothing within.
  found = cells.difference("three", "single")
  assert (found.low, found.n) == (None, 3)
  assert found.difference == approx((70 - 60 + 72 - 63 + 72 - 63) / 3)


def test_cells_of_one_teacher_are_paired_by_seed():
  a = [("t", seed, value) for seed, value in enumerate([5, 7, 9])]
  b = [("t", seed, value) for seed, value in enumerate([4, 5, 6])]
  cells = cells_of(a=a, b=b, c=[("t", 9, 1)])
  assert cells.difference("a", "b") == statistics.paired([5, 7, 9], [4, 5, 6])
  assert cells.difference("a", "c") is None and cells.model is None
  # Labels alone are paired with students of whichever teacher.
  alone = cells_of(a=a, b=[(None, seed, value) for _, seed, value in b])
  assert alone.difference("a", "b") == cells.difference("a", "b")


def test_cells_whose_runs_vary_unlike_are_judged_apart():
  rng = np.random.default_rng(1)
  runs = lambda sd: [(f"t{at % 3}", at, rng.normal(0, sd)) for at in range(12)]
  cells = cells_of(narrow=runs(1), wide=runs(20))
  assert cells.several and cells.model is None
  groups = {}
  for run in cells._runs["narrow"]:
    groups.setdefault(run.teacher, []).append(run.value)
  assert cells.mean("narrow") == clustered.nested(groups)
  found = cells.difference("wide", "narrow")
  assert found.n == 3  # teachers
  # By one run of each teacher too.
  one = lambda sd: [(f"t{at}", at, rng.normal(0, sd)) for at in range(8)]
  assert cells_of(a=one(1), b=one(20)).model is None
  assert cells_of(a=one(1), b=one(1)).model is not None


def several_kinds(rng, teacher, interaction, residual):
  """Twelve cells share three teachers; four others have teachers of their own."""
  kinds = [*((cell, (0, 1, 2), 4) for cell in range(12)), ("self", (3, 4, 5), 4),
           *((f"ensemble {each}", (each,), 12) for each in (6, 7, 8))]
  of = rng.normal(0, teacher, 9)
  runs = [Run(cell, each, of[each] + beside + noise)
          for cell, teachers, n in kinds for each in teachers
          for beside in [rng.normal(0, interaction)]
          for noise in rng.normal(0, residual, n)]
  return runs + [Run("labels", None, each) for each in rng.normal(0, residual, 12)]


@pytest.mark.parametrize("seed", [42, 489, 546])
def test_mixed_of_two_minima_is_the_lower(seed):
  model = mixed.fit(several_kinds(np.random.default_rng(seed), 1.2, 1.8, 4.7))
  unit = model.table.scale**2
  deviance = lambda *some: mixed._deviance(model.table, np.array(some) / unit)
  lowest = min(deviance(teacher, interaction, model.components.residual)
               for teacher in np.linspace(0, 15, 31)
               for interaction in np.linspace(0, 15, 31))
  assert deviance(*model.components) <= lowest + 1e-6
  found = model.mean(0)
  assert found.high - found.value < 8


def test_teachers_of_one_cell_alone_say_nothing_of_how_teachers_vary():
  rng = np.random.default_rng(0)
  runs = several_kinds(rng, 5, 2, 4)
  assert mixed._contrasts(mixed._table(runs)) == (3 - 1) + (3 - 1)
  alone = [run for run in runs if run.cell in range(12)]
  assert mixed._contrasts(mixed._table(alone)) == 3 - 1


def test_the_quantile_of_a_mean_over_teachers_by_hand():
  """w t(g) + (1 - w) t(nu), of a cell whose teachers are four contrasts."""
  model = mixed.fit(several_kinds(np.random.default_rng(0), 2.5, 1.8, 4.7))
  teacher, interaction, residual = model.components
  rest = interaction / 3 + residual / 12
  found = model.mean(0)
  own = ((found.high - found.value) / stats.t.ppf(0.975, found.degrees))**2
  # Means of equal weights, as all cells of these teachers have the same runs.
  assert own == approx(teacher / 3 + rest, rel=1e-3)
  share = teacher / 3 / own
  infinite = share * stats.t.ppf(0.975, 4) + (1 - share) * stats.norm.ppf(0.975)
  assert infinite < stats.t.ppf(0.975, found.degrees) < (
      share * stats.t.ppf(0.975, 4) + (1 - share) * stats.t.ppf(0.975, 20))


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "interaction"), [
    (0, 1.8), (1.2, 1.8), (2.5, 1.8), (5, 1.8), (10, 1.8)])
def test_mixed_coverage_with_teachers_of_several_kinds(teacher, interaction):
  rng = np.random.default_rng(3)
  held, tables = np.zeros(2), 400
  for _ in range(tables):
    model = mixed.fit(several_kinds(rng, teacher, interaction, 4.7))
    for at, found in enumerate((model.mean(0), model.difference(0, 1))):
      held[at] += found.low <= 0 <= found.high
  print(teacher, interaction, held / tables)
  assert (np.abs(held / tables - 0.95) < 0.02 + 2 * 0.011).all()


@pytest.mark.slow
@pytest.mark.parametrize(("c", "teacher", "interaction"), [
    (12, 0, 0), (12, 1, 1.6), (12, 2.5, 2.5), (12, 5, 2.5), (12, 10, 2.5),
    (12, 20, 2.5), (3, 0, 2.5), (3, 2.5, 0)])
def test_mixed_coverage_with_three_teachers(c, teacher, interaction):
  """93 to 97% of tables: 3 teachers of 4 runs whose standard deviation is 5."""
  rng = np.random.default_rng(7)
  held, tables = np.zeros(2), 400
  for _ in range(tables):
    model = mixed.fit(runs_of(simulated(rng, c, 3, 4, teacher, interaction, 5)))
    for at, found in enumerate((model.mean(0), model.difference(0, 1))):
      held[at] += found.low <= 0 <= found.high
  print(c, teacher, interaction, held / tables)
  assert (np.abs(held / tables - 0.95) < 0.02 + 2 * 0.011).all()
