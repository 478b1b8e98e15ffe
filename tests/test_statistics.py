"""Error bars: values by hand, identities, and coverage by simulation.

Simulations have a fixed seed; a share of N draws is held to four standard errors,
4 sqrt(q (1 - q) / N).
"""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from kd_jax.report import clustered, statistics

approx = pytest.approx
# Quantiles from printed tables of t: 97.5% (two-sided 95%) and 95% (90%).
T975 = {1: 12.7062, 2: 4.30265, 4: 2.77645}
T95 = {1: 6.31375, 2: 2.91999, 3: 2.35336}
few_examples = hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, database=None)
errors = st.integers(0, 200)
runs = st.lists(errors, min_size=2, max_size=8)
pairs = st.lists(st.tuples(errors, errors), min_size=2, max_size=8)
ids = st.sets(st.integers(0, 30))


def four_errors(share, draws):
  return 4 * math.sqrt(share * (1 - share) / draws)


# Summary.


def test_summary_by_hand():
  # Deviations -4 -1 0 1 4: squares 34, variance 34 / 4 = 8.5.
  result = statistics.summary([70, 73, 74, 75, 78])
  half = T975[4] * math.sqrt(8.5 / 5)  # 2.776 * 1.304 = 3.620
  assert result.mean == 74
  assert result.sd == approx(math.sqrt(8.5))
  assert result.low == approx(74 - half, rel=1e-5)
  assert result.high == approx(74 + half, rel=1e-5)
  assert result.n == 5


def test_summary_at_another_level():
  # sd 1, n = 3: 2 ± 2.920 / sqrt(3)
  result = statistics.summary([1, 2, 3], level=0.9)
  assert result.high - 2 == approx(T95[2] / math.sqrt(3), rel=1e-5)


def test_one_run_has_no_error_bar():
  assert statistics.summary([74]) == (74, None, None, None, 1)


def test_equal_runs_have_a_spread_of_exactly_zero():
  # np.mean([0.1] * 3) is 0.10000000000000002.
  assert statistics.summary([0.1] * 3) == (0.1, 0, 0.1, 0.1, 3)


@few_examples
@hypothesis.given(runs, st.integers(-1000, 1000), st.integers(1, 9))
def test_summary_moves_and_scales_with_the_values(values, shift, scale):
  before = statistics.summary(values)
  after = statistics.summary([shift + scale * v for v in values])
  close = {"rel": 1e-9, "abs": 1e-9}
  assert after.mean == approx(shift + scale * before.mean, **close)
  assert after.sd == approx(scale * before.sd, **close)
  assert after.low == approx(shift + scale * before.low, **close)
  assert after.high == approx(shift + scale * before.high, **close)


def test_intervals_cover_the_mean_as_often_as_they_say():
  draws = np.random.default_rng(0).normal(74, 5, (4000, 5))
  for level in (0.95, 0.8):
    covered = [result.low <= 74 <= result.high for result in
               (statistics.summary(values, level=level) for values in draws)]
    assert abs(np.mean(covered) - level) < four_errors(level, 4000)


# Paired.


def test_paired_by_hand():
  # d = 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, s.e. sqrt(26 / 2 / 3).
  result = statistics.paired([72, 84, 69], [70, 80, 60])
  error = math.sqrt(26 / 6)
  assert result.difference == 5
  assert result.low == approx(5 - T975[2] * error, rel=1e-5)
  assert result.high == approx(5 + T975[2] * error, rel=1e-5)
  # With 2 degrees the tail is closed: P(|T| > t) = 1 - t / sqrt(2 + t**2).
  t = 5 / error
  assert result.p == approx(1 - t / math.sqrt(2 + t * t))
  assert result.n == 3


@few_examples
@hypothesis.given(pairs)
def test_paired_is_that_of_scipy(both):
  values, reference = np.array(both, float).T
  hypothesis.assume(np.ptp(values - reference) > 0)
  result = statistics.paired(values, reference, level=0.8)
  desired = stats.ttest_rel(values, reference)
  assert result.p == approx(desired.pvalue)
  assert result[1:3] == approx(tuple(desired.confidence_interval(0.8)))


@few_examples
@hypothesis.given(pairs)
def test_paired_is_antisymmetric(both):
  values, reference = zip(*both)
  result = statistics.paired(values, reference)
  other = statistics.paired(reference, values)
  assert other.difference == approx(-result.difference)
  assert (other.low, other.high) == approx((-result.high, -result.low))
  assert other.p == approx(result.p)


@few_examples
@hypothesis.given(pairs, st.integers(-10**6, 10**6))
def test_paired_ignores_what_both_have(both, shift):
  values, reference = np.array(both).T
  assert statistics.paired(values + shift, reference + shift) == (
      statistics.paired(values, reference))


@few_examples
@hypothesis.given(pairs, st.sampled_from([0.9, 0.95, 0.99]))
def test_p_and_interval_decide_alike(both, level):
  values, reference = zip(*both)
  result = statistics.paired(values, reference, level=level)
  hypothesis.assume(abs(result.p - (1 - level)) > 1e-9)
  assert (result.p < 1 - level) == (not result.low <= 0 <= result.high)


def test_difference_is_that_of_the_summaries():
  values, reference = [70, 75, 81], [71, 73, 70]
  assert statistics.paired(values, reference).difference == approx(
      statistics.summary(values).mean - statistics.summary(reference).mean)


@pytest.mark.parametrize(("values", "reference", "difference", "p"), [
    ([5, 9, 7], [5, 9, 7], 0, 1), ([5, 9], [3, 7], 2, 0), ([3], [1], 2, None)])
def test_differences_without_spread(values, reference, difference, p):
  point = None if p is None else difference
  assert statistics.paired(values, reference) == (
      difference, point, point, p, len(values))


def test_rounding_is_no_effect():
  # 0.3 - 0.2 = 0.1 - 2.8e-17, 0.2 - 0.1 = 0.1: equal differences.
  result = statistics.paired([0.3, 0.2], [0.2, 0.1])
  assert result.p == 0 and result.low == result.high == approx(0.1)
  # 0.1 + 0.2 = 0.3 + 5.6e-17: no difference, and not one that never varies.
  assert statistics.paired([0.1 + 0.2] * 3, [0.3] * 3) == (0, 0, 0, 1, 3)
  assert statistics.paired([0.1 + 0.2, 1], [0.3, 1]) == (0, 0, 0, 1, 2)


def test_small_differences_of_large_values_count():
  result = statistics.paired([1e6 + 1e-6, 1e6 + 2e-6], [1e6, 1e6])
  assert result.low < result.difference < result.high and 0 < result.p < 1


def test_paired_finds_nothing_where_nothing_is_as_often_as_it_should():
  rng = np.random.default_rng(1)
  seeds = rng.normal(70, 9, (4000, 5))  # shared: much more than what differs
  values, reference = seeds + rng.normal(0, 2, (2, 4000, 5))
  p = [statistics.paired(a, b).p for a, b in zip(values, reference)]
  for size in (0.05, 0.5):
    assert abs(np.mean(np.less(p, size)) - size) < four_errors(size, 4000)


def test_pairing_by_seed_takes_the_seeds_out():
  reference = np.array([60.0, 70, 80, 90, 100])
  values = reference + [3, 2, 3, 4, 3]
  assert statistics.paired(values, reference).p < 0.001
  assert statistics.paired(values[::-1], reference).p > 0.5


# Holm.


def test_holm_by_hand():
  # Sorted: 4 * 0.005, 3 * 0.01, then 2 * 0.03, and 1 * 0.04 < 0.06.
  p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
  adjusted = statistics.holm(p)
  assert list(adjusted) == list(p)
  assert adjusted == approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_is_capped_and_ties_stay_ties():
  # 3 * 0.4 = 1.2 and 2 * 0.4 = 0.8, of which the larger, at most 1.
  assert statistics.holm({1: 0.4, 2: 0.4, 3: 0.9}) == {1: 1, 2: 1, 3: 1}
  # 3 * 0.1 goes before 2 * 0.1.
  assert statistics.holm({1: 0.1, 2: 0.9, 3: 0.1}) == approx(
      {1: 0.3, 2: 0.9, 3: 0.3})
  assert statistics.holm({}) == {}


@few_examples
@hypothesis.given(st.dictionaries(
    st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=9))
def test_holm_lies_between_the_raw_p_and_bonferroni_and_keeps_the_order(p):
  adjusted = statistics.holm(p)
  assert list(adjusted) == list(p)
  for key in p:
    assert p[key] <= adjusted[key] <= min(1, len(p) * p[key])
    assert all(adjusted[key] <= adjusted[k] for k in p if p[key] <= p[k])
  smallest = min(p, key=p.__getitem__)
  assert adjusted[smallest] == min(1, len(p) * p[smallest])
  assert statistics.holm({smallest: p[smallest]}) == {smallest: p[smallest]}


def test_holm_rejects_what_the_step_down_procedure_does():
  rng = np.random.default_rng(2)
  for p in rng.uniform(0, 0.1, (200, 5)):
    # Holm's own words: go up while p_(j) <= size / (m - j + 1), then stop.
    rejected = set()
    for j, index in enumerate(np.argsort(p)):
      if p[index] > 0.05 / (5 - j):
        break
      rejected.add(index)
    adjusted = statistics.holm(dict(enumerate(p)))
    assert {key for key, value in adjusted.items() if value <= 0.05} == rejected


# Given groups, and ratios.


def test_given_groups_by_hand():
  # Means 2 and 5; squares 1 + 1 + 1 + 1 = 4 over 4 - 2: within sd sqrt(2). The
  # error of (2 + 5) / 2 is sqrt(2) sqrt(1/2 + 1/2) / 2 = 0.7071; t(2) is 4.302653.
  result = clustered.given({"a": [1, 3], "b": [4, 6]})
  assert result[:3] == approx((3.5, 3.5 - 3.042435, 3.5 + 3.042435), rel=1e-5)
  # P(|T| > t) of 2 degrees is 1 - t / sqrt(2 + t**2); t**2 = 3.5**2 / 0.5 = 24.5.
  assert result.p == approx(1 - math.sqrt(24.5 / 26.5)) and result.n == 4
  assert clustered.given({"a": [1], "b": [4]})[1:4] == (None, None, None)
  assert clustered.given({"a": [2, 2], "b": [2, 2]})[:4] == (2, 2, 2, 0)


def test_one_group_given_is_a_paired_test():
  values, reference = [5, 7, 9, 4], [4, 5, 6, 5]
  d = [a - b for a, b in zip(values, reference)]
  assert clustered.given({0: d}) == approx(statistics.paired(values, reference))


def test_what_groups_share_does_not_widen_what_is_given():
  apart = clustered.given({0: [1, 3], 1: [104, 106]})
  alike = clustered.given({0: [1, 3], 1: [4, 6]})
  assert apart.high - apart.low == approx(alike.high - alike.low)
  assert clustered.nested({0: [1, 3], 1: [104, 106]}).high > apart.high


@few_examples
@hypothesis.given(pairs)
def test_a_ratios_ends_are_where_its_differences_turn(both):
  values, reference = map(np.asarray, zip(*both))
  found = statistics.ratio(values, reference)
  known = statistics.summary(reference)
  if found.low is None:
    zero_is_in = known.low is None or known.low <= 0 <= known.high
    assert zero_is_in or known.mean == 0
    return
  assert found.low <= found.ratio <= found.high
  for end in (found.low, found.high):
    told = statistics.summary(values - end * reference)
    half = told.high - told.mean
    assert abs(told.mean) == approx(half, rel=1e-6, abs=1e-6 * (
        1 + abs(end)) * (1 + np.abs(reference).max()))


def test_a_ratio_by_hand():
  # Equal references: the interval of the values' mean, 2 ± 2.484, over 3.
  assert statistics.ratio([1, 2, 3], [3, 3, 3])[:3] == approx(
      (2 / 3, -0.484138 / 3, 4.484138 / 3), rel=1e-5)
  # 5 ± 12.7 is no gain that anything could be a share of.
  assert statistics.ratio([1, 2], [4, 6])[1:] == (None, None, 2)
  assert statistics.ratio([1, 2], [1, -1]).ratio is None


# Equivalence.


def test_equivalence_by_hand():
  # d = 0, 2, 0, 2: mean 1, variance 4 / 3, s.e. 1 / sqrt(3), 3 degrees.
  result = statistics.equivalence([5, 7, 5, 7], [5, 5, 5, 5], margin=3)
  half = T95[3] / math.sqrt(3)  # 1.359, at 95% one-sided and 90% two-sided
  assert result.difference == 1
  assert (result.low, result.high) == approx((1 - half, 1 + half), rel=1e-5)
  # The nearer side decides: t = (3 - 1) sqrt(3); the other is (3 + 1) sqrt(3).
  # P(T > t) of 3 degrees, with a = t / sqrt(3) = 2, is
  # 1/2 - (atan(a) + a / (1 + a**2)) / pi = 1/2 - (1.1071 + 0.4) / pi = 0.0203
  assert result.p == approx(0.5 - (math.atan(2) + 0.4) / math.pi)
  assert result.equivalent and result.margin == 3
  narrow = statistics.equivalence([5, 7, 5, 7], [5, 5, 5, 5], margin=2.3)
  assert not narrow.equivalent and narrow.p > 0.05


def test_finding_nothing_is_not_equivalence():
  values, reference = [60, 80, 70], [71, 68, 70]
  assert statistics.paired(values, reference).p > 0.05
  assert not statistics.equivalence(values, reference, margin=3).equivalent


@few_examples
@hypothesis.given(
    pairs, st.floats(0.5, 100), st.sampled_from([0.01, 0.05, 0.1]))
def test_equivalent_is_an_interval_within_the_margins(both, margin, size):
  values, reference = zip(*both)
  result = statistics.equivalence(
      values, reference, margin=margin, size=size)
  interval = statistics.paired(values, reference, level=1 - 2 * size)
  assert result[:3] == approx(interval[:3])
  inside = -margin < result.low and result.high < margin
  assert result.equivalent == inside
  if abs(result.p - size) > 1e-9:
    assert result.equivalent == (result.p < size)


@few_examples
@hypothesis.given(pairs, st.floats(0.5, 100))
def test_equivalence_has_no_side(both, margin):
  values, reference = zip(*both)
  result = statistics.equivalence(values, reference, margin=margin)
  other = statistics.equivalence(reference, values, margin=margin)
  assert other.p == approx(result.p)
  assert other.equivalent == result.equivalent
  assert (other.low, other.high) == approx((-result.high, -result.low))


@pytest.mark.parametrize(("difference", "equivalent"), [
    (0, True), (2, True), (-2, True), (3, False), (-3, False), (4, False)])
def test_equivalence_without_spread(difference, equivalent):
  result = statistics.equivalence([difference] * 3, [0] * 3, margin=3)
  assert result == (difference, difference, difference, 1 - equivalent,
                    equivalent, 3)


def test_one_pair_is_not_equivalent():
  assert statistics.equivalence([5], [5], margin=3) == (
      0, None, None, None, False, 3)


@pytest.mark.parametrize("side", [-1, 1])
def test_equivalence_at_the_margin_is_claimed_as_rarely_as_promised(side):
  draws = np.random.default_rng(3).normal(side * 4, 1, (2000, 5))
  claimed = np.mean([statistics.equivalence(d, np.zeros(5), margin=4).equivalent
                     for d in draws])
  # The far margin is 8 sd away, so that the size is reached: neither more
  # nor much less.
  assert abs(claimed - 0.05) < four_errors(0.05, 2000)


def test_equivalence_with_a_wide_spread_claims_less_than_its_size():
  draws = np.random.default_rng(4).normal(1, 4, (1000, 5))
  claimed = np.mean([statistics.equivalence(d, np.zeros(5), margin=1).equivalent
                     for d in draws])
  assert claimed <= 0.05


# McNemar.


def test_mcnemar_by_hand():
  # Only the first: 0..7, eight; only the second: 90, 91; both: 50, 51.
  # n = 10: 2 (C(10,0) + C(10,1) + C(10,2)) / 2**10 = 2 * 56 / 1024
  result = statistics.mcnemar([*range(8), 50, 51], [51, 50, 90, 91])
  assert (result.only_first, result.only_second) == (8, 2)
  assert result.p == approx(112 / 1024)


@few_examples
@hypothesis.given(ids, ids)
def test_mcnemar_is_a_sum_of_binomials_and_symmetric(first, second):
  result = statistics.mcnemar(first, second)
  n = len(first ^ second)
  fewer = min(len(first - second), len(second - first))
  tail = sum(math.comb(n, k) for k in range(fewer + 1))
  assert result.p == approx(min(1.0, 2 * tail / 2**n))
  assert result == (len(first - second), len(second - first), result.p)
  other = statistics.mcnemar(sorted(second), np.array(sorted(first), np.int32))
  assert other == (result.only_second, result.only_first, approx(result.p))


def test_nets_that_err_alike_do_not_differ():
  assert statistics.mcnemar([], []) == (0, 0, 1)
  assert statistics.mcnemar([3, 1], [1, 3]) == (0, 0, 1)
  assert statistics.mcnemar([1], [2]) == (1, 1, 1)


@pytest.mark.parametrize("wrong", [
    [True, False, True], [0, 1, 1, 0], [0.5, 1.0], np.array([True])])
def test_a_mask_is_no_list_of_ids(wrong):
  with pytest.raises(ValueError, match="ids"):
    statistics.mcnemar(wrong, [1])
  with pytest.raises(ValueError, match="ids"):
    statistics.mcnemar([1], wrong)


# Nested.


def test_nested_by_hand():
  # Means 71, 75, 76, theirs 74: squares 9 + 1 + 4 = 14, variance 7.
  result = clustered.nested({0: [70, 72], 1: [72, 75, 78], 2: [76]})
  half = T975[2] * math.sqrt(7 / 3)
  assert result.mean == 74  # that of all six runs is 73.8
  assert (result.low, result.high) == approx((74 - half, 74 + half), rel=1e-5)
  assert result.between_sd == approx(math.sqrt(7))
  # Squares within: 1 + 1, 9 + 0 + 9, 0; degrees 1 + 2 + 0.
  assert result.within_sd == approx(math.sqrt(20 / 3))
  assert (result.groups, result.n) == (3, 6)


def test_nested_with_one_teacher_holds_given_this_teacher():
  result = clustered.nested({"a": [70, 72, 74]})
  assert result == (72, None, None, None, approx(2.0), 1, 3)


def test_nested_with_one_run_a_teacher_is_the_summary():
  values = [70, 73, 74, 75, 78]
  result = clustered.nested({k: [v] for k, v in enumerate(values)})
  mean, sd, low, high, n = statistics.summary(values)
  assert result == (mean, low, high, sd, None, n, n)


def test_one_teacher_with_two_runs_tells_the_spread_within():
  # Squares 1 + 1 over 1 degree.
  assert clustered.nested({0: [70, 72], 1: [80]}).within_sd == approx(2**0.5)


@few_examples
@hypothesis.given(st.lists(runs, min_size=2, max_size=4))
def test_more_of_the_same_runs_of_a_teacher_do_not_help(groups):
  once = clustered.nested(dict(enumerate(groups)), level=0.8)
  twice = clustered.nested(
      {k: values * 2 for k, values in enumerate(groups)}, level=0.8)
  assert twice[:4] == approx(once[:4])
  assert twice.n == 2 * once.n


def test_nested_intervals_cover_where_a_plain_summary_does_not():
  rng = np.random.default_rng(5)
  # 1000 studies of 4 teachers, sd 3, with 5 students each, sd 2.
  studies = rng.normal(0, 3, (1000, 4, 1)) + rng.normal(0, 2, (1000, 4, 5))
  results = [clustered.nested(dict(enumerate(study))) for study in studies]
  covered = np.mean([r.low <= 0 <= r.high for r in results])
  assert abs(covered - 0.95) < four_errors(0.95, 1000)
  # The means spread by sqrt(9 + 4 / 5), students by 2.
  assert np.mean([r.between_sd**2 for r in results]) == approx(9.8, rel=0.1)
  assert np.mean([r.within_sd**2 for r in results]) == approx(4, rel=0.1)
  plain = [statistics.summary(study.ravel()) for study in studies]
  assert np.mean([r.low <= 0 <= r.high for r in plain]) < 0.8


# Contrasts.


def test_contrast_by_hand():
  cells = {"ab": [9, 8], "a": [5, 6], "b": [4, 2], "none": [2, 1]}
  # What both have beyond the sum of each: (9 + 2) / 2 - (5 + 4) / 2 and
  # (8 + 1) / 2 - (6 + 2) / 2.
  assert statistics.contrast(cells, ["ab", "none"], ["a", "b"]) == [1, 0.5]
  # Sides of two and one: (5 + 4) / 2 - 2, (6 + 2) / 2 - 1.
  assert statistics.contrast(cells, ["a", "b"], ["none"]) == [2.5, 3]


@few_examples
@hypothesis.given(pairs)
def test_contrast_of_two_cells_tests_as_the_pair(both):
  values, reference = zip(*both)
  d = statistics.contrast({0: values, 1: reference}, [0], [1])
  assert all(type(x) is float for x in d)
  zeros = [0] * len(d)
  assert statistics.paired(d, zeros) == statistics.paired(values, reference)


def test_contrast_of_what_is_equal_but_for_rounding_is_zero():
  cells = {0: [0.1, 0.7], 1: [0.2, 0.1], 2: [0.3, 0.3], 3: [0.2, 1.1 / 3]}
  # (0.1 + 0.2 + 0.3) / 3 is 0.20000000000000004.
  assert statistics.contrast(cells, [0, 1, 2], [3]) == [0, 0]


@pytest.mark.parametrize(("plus", "minus"), [
    ([], [0]), ([0], []), ([0, 0], [1]), ([0], [0, 1])])
def test_sides_without_cells_or_with_one_twice_are_refused(plus, minus):
  with pytest.raises(ValueError, match="sides"):
    statistics.contrast({0: [1, 2], 1: [3, 4]}, plus, minus)


def test_cells_of_different_seeds_are_refused():
  cells = {0: [1, 2], 1: [3, 4], 2: [5]}
  for plus, minus in (([0], [2]), ([0], [1]), ([0, 2], [1])):
    with pytest.raises(ValueError, match="equally many"):
      statistics.contrast(cells, plus, minus)
  with pytest.raises(KeyError):
    statistics.contrast({0: [1, 2], 1: [3, 4]}, [0], [7])


# Binomial error.


def test_binomial_error_by_hand():
  # sqrt(74 * 0.9926) = sqrt(73.4524)
  assert statistics.binomial_error(74, 10_000) == approx(8.5704, rel=1e-5)
  assert statistics.binomial_error(50, 100) == 5
  assert statistics.binomial_error(0, 9) == statistics.binomial_error(9, 9) == 0


def test_binomial_error_is_the_spread_of_counts():
  counts = np.random.default_rng(6).binomial(10_000, 0.0074, 20_000)
  assert np.std(counts) == approx(
      statistics.binomial_error(74, 10_000), rel=0.03)


@pytest.mark.parametrize(("wrong", "examples"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(wrong, examples):
  with pytest.raises(ValueError, match="no such count"):
    statistics.binomial_error(wrong, examples)


# Bad input.


@pytest.mark.parametrize("values", [
    [], [1.0, math.nan], [math.inf, 1.0], [[1.0, 2.0]], [1.0, None]],
    ids=["empty", "nan", "inf", "2-d", "none"])
def test_values_that_are_no_finite_list_are_refused(values):
  good = [1.0, 2.0]
  for call in (
      lambda: statistics.summary(values),
      lambda: statistics.paired(values, good),
      lambda: statistics.paired(good, values),
      lambda: statistics.equivalence(values, good, margin=1),
      lambda: statistics.equivalence(good, values, margin=1),
      lambda: clustered.nested({0: good, 1: values}),
      lambda: statistics.contrast({0: good, 1: values}, [0], [1]),
  ):
    with pytest.raises(ValueError, match="finite numbers"):
      call()


def test_lengths_that_differ_are_refused_even_where_they_would_broadcast():
  for values in ([1], [1, 2, 3]):
    with pytest.raises(ValueError, match="references"):
      statistics.paired(values, [1, 2])
    with pytest.raises(ValueError, match="references"):
      statistics.equivalence(values, [1, 2], margin=1)


@pytest.mark.parametrize("margin", [0, -1, math.nan, math.inf])
def test_bad_margins_are_refused(margin):
  with pytest.raises(ValueError, match="margin"):
    statistics.equivalence([1, 2], [1, 3], margin=margin)


@pytest.mark.parametrize("share", [0, 1, 95, -0.1, math.nan])
def test_bad_levels_and_sizes_are_refused(share):
  for call in (
      lambda: statistics.summary([1, 2], level=share),
      lambda: statistics.summary([1], level=share),
      lambda: statistics.paired([1, 2], [1, 3], level=share),
      lambda: clustered.nested({0: [1, 2], 1: [3]}, level=share),
  ):
    with pytest.raises(ValueError, match="level"):
      call()
  with pytest.raises(ValueError, match="size"):
    statistics.equivalence([1, 2], [1, 3], margin=1, size=share)


def test_a_level_is_no_size():
  with pytest.raises(ValueError, match="size"):
    statistics.equivalence([1, 2], [1, 3], margin=1, size=0.95)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_impossible_p_values_are_refused(p):
  with pytest.raises(ValueError, match="p-values"):
    statistics.holm({"a": 0.5, "b": p})


def test_no_groups_are_refused():
  with pytest.raises(ValueError):
    clustered.nested({})
