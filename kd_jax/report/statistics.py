"""Claims with error bars: what may be said of a few runs, and how surely.

Values are plain numbers, one a run, such as test errors; intervals and standard
deviations are in their unit. One run has no error bar: what it cannot tell is
None. Where t is used, runs or their differences are independent, near normal.

Sources: Student (1908), Biometrika 6; Clopper & Pearson (1934), Biometrika 26;
McNemar (1947), Psychometrika 12; Holm (1979), Scand. J. Statist. 6; Schuirmann
(1987), J. Pharmacokinet. Biopharm. 15; Dietterich (1998), Neural Computation 10.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
import functools
import math
from typing import NamedTuple, TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)
Values = Sequence[float] | np.ndarray


class Summary(NamedTuple):
  """Mean and sample standard deviation of n runs, and the mean's interval."""

  mean: float
  sd: float | None
  low: float | None
  high: float | None
  n: int


def summary(values: Values, *, level: float = 0.95) -> Summary:
  """Mean of runs `[n]` and its t-interval, of the mean alone if n = 1.

  mean ± t(n - 1; (1 + level) / 2) s / sqrt(n)                 (Student 1908)
  s**2 = sum_i (x_i - mean)**2 / (n - 1)

  Raises:
    ValueError: If there is no value, one is not finite, or level not in (0, 1).

  Example:
    >>> [round(x, 3) for x in summary([1, 2, 3])]  # t(2) = 4.303, s.e. 0.577
    [2.0, 1.0, -0.484, 4.484, 3]
  """
  if not 0 < level < 1:
    raise ValueError(f"level must be in (0, 1), such as 0.95; it is {level}")
  # Without NumPy, as of each of many points.
  if len(values) == 1 and isinstance(values[0], (int, float)) and math.isfinite(
      values[0]):
    return Summary(float(values[0]), None, None, None, 1)
  values = finite(values)
  # So that equal values, such as three of 0.1, have an sd of exactly zero.
  n, offset = len(values), values - values[0]
  mean = float(values[0] + np.mean(offset))
  sd = float(np.std(offset, ddof=1))
  half = _quantile((1 + level) / 2, n - 1) * sd / n**0.5
  return Summary(mean, sd, mean - half, mean + half, n)


@functools.cache
def _quantile(probability: float, degrees: int) -> float:
  """A quantile of Student's t; those of many points are alike."""
  from scipy import special  # pylint: disable=g-import-not-at-top
  return float(special.stdtrit(degrees, probability))


class Paired(NamedTuple):
  """Mean difference of n pairs, its interval, and the p of "it is zero"."""

  difference: float
  low: float | None
  high: float | None
  p: float | None
  n: int


def paired(values: Values, reference: Values, *, level: float = 0.95) -> Paired:
  """Two-sided t test of the differences of runs that share their seeds.

  t = mean(d) sqrt(n) / s,   d_i = values_i - reference_i      (Student 1908)

  Both are `[n]`, in one order of seeds. If all differences are equal, which for
  few runs and small counts may be luck, the interval is that point, and p is 1
  if it is zero, else 0. One pair has neither interval nor p.

  Raises:
    ValueError: If lengths differ, or as in `summary`.

  Example:
    >>> [round(x, 3) for x in paired([5, 7, 9], [4, 5, 6])]  # d = 1, 2, 3
    [2.0, -0.484, 4.484, 0.074, 3]
  """
  from scipy import special  # pylint: disable=g-import-not-at-top
  d = _differences(values, reference)
  mean, sd, low, high, n = summary(d, level=level)
  if not sd:
    return Paired(mean, low, high, None if sd is None else float(mean == 0), n)
  p = 2 * float(special.stdtr(n - 1, -abs(mean) / (sd / n**0.5)))
  return Paired(mean, low, high, p, n)


def paired_by_seed(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Paired | None:
  """`paired` of the seeds that both have; None if there is none.

  Example:
    >>> paired_by_seed({0: 5, 1: 7, 2: 9}, {2: 6, 0: 4}).difference  # 1 and 3
    2.0
  """
  seeds = sorted(values.keys() & reference.keys())
  if not seeds:
    return None
  return paired([values[seed] for seed in seeds],
                [reference[seed] for seed in seeds])


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
  """The p-values of a family of tests, adjusted for their number m.

  adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),   p_(1) <= p_(2) ...

  With claims at adjusted p <= 0.05 the chance of any false one is at most 0.05,
  however the tests depend. Keys keep their order.                (Holm 1979)

  Raises:
    ValueError: If a p-value is not in [0, 1].

  Example:
    >>> holm({"a": 0.5, "b": 0.125})  # 1 * 0.5, 2 * 0.125
    {'a': 0.5, 'b': 0.25}
  """
  if not all(0 <= p <= 1 for p in p_values.values()):
    raise ValueError(f"p-values must be in [0, 1]; they are {dict(p_values)}")
  adjusted, largest = {}, 0.0
  for rank, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
    scaled = (len(p_values) - rank) * p_values[key]
    adjusted[key] = largest = max(largest, min(1.0, scaled))
  return {key: adjusted[key] for key in p_values}


class Equivalence(NamedTuple):
  """Mean difference, its 1 - 2 size interval, and whether margins hold that."""

  difference: float
  low: float | None
  high: float | None
  p: float | None
  equivalent: bool
  margin: float


def equivalence(
    values: Values, reference: Values, *, margin: float, size: float = 0.05
) -> Equivalence:
  """Two one-sided paired t tests: is the difference smaller than the margin?

  p = max(p of "difference <= -margin", p of "difference >= margin")

  Equivalent means p < size: the interval is within (-margin, margin). That
  `paired` finds nothing does not show it. Values are as there; margin, in their
  unit, is chosen before the runs. One pair shows nothing.  (Schuirmann 1987)

  Raises:
    ValueError: If not 0 < margin < inf, not 0 < size < 0.5, or as in `paired`.

  Example:
    >>> result = equivalence([5, 7, 6], [6, 6, 6], margin=3.0)  # d = -1, 1, 0
    >>> [round(x, 3) for x in result[:4]], result.equivalent  # t(2) = 3 sqrt(3)
    ([0.0, -1.686, 1.686, 0.018], True)
  """
  from scipy import stats  # pylint: disable=g-import-not-at-top
  if not 0 < margin < float("inf"):
    raise ValueError(f"margin must be positive and finite; it is {margin}")
  if not 0 < size < 0.5:
    raise ValueError(f"size must be in (0, 0.5), such as 0.05; it is {size}")
  d = _differences(values, reference)
  mean, low, high, *_ = paired(d, np.zeros_like(d), level=1 - 2 * size)
  if low is None or high is None:
    return Equivalence(mean, None, None, None, False, margin)
  inside = -margin < low and high < margin
  if low == high:
    return Equivalence(mean, low, high, float(not inside), inside, margin)
  above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
  below = stats.ttest_1samp(d, margin, alternative="less").pvalue
  return Equivalence(mean, low, high, float(max(above, below)), inside, margin)


class McNemar(NamedTuple):
  """Examples that only one of two nets gets wrong, and the p of "equally"."""

  only_first: int
  only_second: int
  p: float


def mcnemar(
    first_wrong_ids: Iterable[int], second_wrong_ids: Iterable[int]
) -> McNemar:
  """Exact two-sided test of two nets, by the ids of what each gets wrong.

  p = min(1, 2 sum_{k <= b} C(n, k) / 2**n)                    (McNemar 1947)

  Of n examples that one net alone gets wrong, b are the better net's. This says
  nothing of methods, as other seeds make other nets.       (Dietterich 1998)

  Raises:
    ValueError: If ids are not integers or repeat, as those of a mask do.

  Example:
    >>> mcnemar([1, 2, 3, 4], [4])  # 2 * C(3, 0) / 2**3
    McNemar(only_first=3, only_second=0, p=0.25)
  """
  from scipy import stats  # pylint: disable=g-import-not-at-top
  first, second = _ids(first_wrong_ids), _ids(second_wrong_ids)
  b, c = len(first - second), len(second - first)
  # binomtest refuses zero trials.
  p = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
  return McNemar(b, c, p)


class Ratio(NamedTuple):
  """Ratio of the means of n pairs and its interval; None where there is none."""

  ratio: float | None
  low: float | None
  high: float | None
  n: int


def ratio(values: Values, reference: Values, *, level: float = 0.95) -> Ratio:
  """Ratio of two means of pairs, such as the share of a gain that is kept.

  {r: |mean(d)| sqrt(n) <= t(n - 1) s, d_i = values_i - r reference_i}

  is its interval (Fieller 1954). Where the references' mean may be zero at this
  level that set has no end, and there is no interval. Both are `[n]`.

  Raises:
    ValueError: If lengths differ, or as in `summary`.

  Example:
    >>> [round(x, 3) for x in ratio([1, 2, 3], [3, 3, 3])]  # (2 ± 2.484) / 3
    [0.667, -0.161, 1.495, 3]
  """
  x, y = finite(values), finite(reference)
  if len(x) != len(y):
    raise ValueError(f"{len(x)} values but {len(y)} references")
  n, (mean_x, mean_y) = len(x), (float(x.mean()), float(y.mean()))
  text = mean_x / mean_y if mean_y else None
  if n == 1:
    return Ratio(text, None, None, n)
  # a r**2 - 2 b r + c <= 0 in the r above.
  squared = _quantile((1 + level) / 2, n - 1) ** 2 / n
  (s_xx, s_xy), (_, s_yy) = np.cov(x, y)
  a = mean_y**2 - squared * s_yy
  b, c = mean_x * mean_y - squared * s_xy, mean_x**2 - squared * s_xx
  if a <= 0:
    return Ratio(text, None, None, n)
  root = max(b * b - a * c, 0.0) ** 0.5
  return Ratio(text, float((b - root) / a), float((b + root) / a), n)


def contrast(
    cells: Mapping[K, Values], plus: Sequence[K], minus: Sequence[K]
) -> list[float]:
  """What one side of a design has over another, seed by seed.

  contrast_i = mean_{k in plus} cells[k]_i - mean_{k in minus} cells[k]_i

  All cells, used or not, are `[n]` in one order of seeds. `paired` tests the n
  contrasts against zeros; cells of one seed may depend on each other.

  Raises:
    ValueError: If a side is empty, a name comes twice, or cells differ in n.

  Example:
    >>> contrast({"a": [5, 6], "b": [7, 8], "c": [1, 2]}, ["a", "b"], ["c"])
    [5.0, 5.0]
  """
  if not plus or not minus or len({*plus, *minus}) < len(plus) + len(minus):
    raise ValueError(f"both sides need cells, each once: {plus} and {minus}")
  seeds = {key: len(finite(values)) for key, values in cells.items()}
  if len(set(seeds.values())) > 1:
    raise ValueError(f"cells must have equally many seeds; they have {seeds}")
  mean = lambda keys: np.mean([finite(cells[key]) for key in keys], axis=0)
  return _differences(mean(plus), mean(minus)).tolist()


def binomial_error(errors: int, examples: int) -> float:
  """Standard error of a count of errors due to the choice of n test examples.

  sqrt(n p (1 - p)),   p = errors / n

  Raises:
    ValueError: If not 0 <= errors <= examples, or there is no example.

  Example:
    >>> round(binomial_error(74, 10_000), 2)
    8.57
  """
  if examples <= 0 or not 0 <= errors <= examples:
    raise ValueError(f"{errors} errors of {examples} examples: no such count")
  return float((errors * (1 - errors / examples)) ** 0.5)


def binomial_interval(
    errors: int, examples: int, *, level: float = 0.95
) -> tuple[float, float]:
  """Exact interval of an error rate, of the choice of n test examples.

  With B(q; a, b) the quantile of a beta distribution, and a = (1 - level) / 2:
  from B(a; errors, n - errors + 1) to B(1 - a; errors + 1, n - errors), and to 0
  or 1 at the ends.                                  (Clopper & Pearson 1934)

  Raises:
    ValueError: If not 0 <= errors <= examples, or there is no example.

  Example:
    >>> [round(x, 4) for x in binomial_interval(0, 10)]  # 1 - 0.025**(1 / 10)
    [0.0, 0.3085]
  """
  from scipy import special  # pylint: disable=g-import-not-at-top
  binomial_error(errors, examples)
  tail, right = (1 - level) / 2, examples - errors
  low = special.betaincinv(errors, right + 1, tail) if errors else 0.0
  high = special.betaincinv(errors + 1, right, 1 - tail) if right else 1.0
  return float(low), float(high)


def finite(values: Values) -> np.ndarray:
  """Values as a float64 array `[n]`; a ValueError if they are no such list."""
  array = np.asarray(values, np.float64)
  if array.ndim != 1 or not array.size or not np.isfinite(array).all():
    raise ValueError(f"expected a list of finite numbers, got {values}")
  return array


def _differences(values: Values, reference: Values) -> np.ndarray:
  """values - reference `[n]`, without what rounding alone can leave."""
  first, second = finite(values), finite(reference)
  if len(first) != len(second):
    raise ValueError(f"{len(first)} values but {len(second)} references")
  d = first - second
  # 0.3 - 0.2 is not 0.2 - 0.1: in such specks a t test would find an effect.
  speck = 64 * np.finfo(np.float64).eps * np.max(np.abs([first, second]))
  d[np.abs(d) <= speck] = 0.0
  return np.full_like(d, d[0]) if np.ptp(d) <= speck else d


def _ids(wrong: Iterable[int]) -> set[int]:
  ids = np.asarray(list(wrong))
  if ids.size and (ids.dtype.kind not in "iu" or np.unique(ids).size < ids.size):
    raise ValueError("expected the ids of examples, integers, each once")
  return set(ids.tolist())
