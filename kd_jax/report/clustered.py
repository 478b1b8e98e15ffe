"""Runs in groups, such as the students of one teacher, which are alike."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kd_jax.report import statistics
from kd_jax.report.statistics import Values


class Nested(NamedTuple):
  """Mean of n runs in groups, its interval, and spread between and within."""

  mean: float
  low: float | None
  high: float | None
  between_sd: float | None
  within_sd: float | None
  groups: int
  n: int


def nested(groups: Mapping[Any, Values], *, level: float = 0.95) -> Nested:
  """Mean of runs that share teachers; the sample is the g teachers' means.

  mean ± t(g - 1) between_sd / sqrt(g)                         (Student 1908)
  within_sd**2 = sum_j sum_i (x_ji - mean_j)**2 / sum_j (n_j - 1)

  More runs `[n_j]` do not make up for few teachers, and teachers count alike.
  `between_sd`, of the means, has a share of the noise within. With one teacher
  it and the interval are None: what is said then holds given this teacher.

  Raises:
    ValueError: If there is no group, or as in `summary`.

  Example:
    >>> [round(x, 3) for x in nested({0: [1, 3], 1: [4, 6]})]  # t(1) = 12.706
    [3.5, -15.559, 22.559, 2.121, 1.414, 2, 4]
  """
  runs = [statistics.finite(values) for values in groups.values()]
  means = [statistics.summary(values).mean for values in runs]
  mean, sd, low, high, g = statistics.summary(means, level=level)
  n = sum(len(values) for values in runs)
  squares = sum(len(values) * float(np.var(values)) for values in runs)
  within = (squares / (n - g)) ** 0.5 if n > g else None
  return Nested(mean, low, high, sd, within, g, n)


def given(
    groups: Mapping[Any, Values], *, level: float = 0.95
) -> statistics.Paired:
  """Two-sided t test of the mean of the groups' means, given these very groups.

  mean ± t(n - g) within_sd sqrt(sum_j 1 / n_j) / g             (cf. `nested`)

  The g teachers are no sample here: what is found holds of these, and that it
  does of others is not said. Values are differences, `[n_j]` of each group.

  Raises:
    ValueError: As in `nested`.

  Example:
    >>> [round(x, 3) for x in given({0: [1, 3], 1: [4, 6]})]  # t(2) = 4.303
    [3.5, 0.458, 6.542, 0.038, 4]
  """
  from scipy import stats  # pylint: disable=g-import-not-at-top
  found = nested(groups)
  mean, n = found.mean, found.n
  if found.within_sd is None:
    return statistics.Paired(mean, None, None, None, n)
  if not found.within_sd:
    return statistics.Paired(mean, mean, mean, float(mean == 0), n)
  error = found.within_sd / found.groups * sum(
      1 / len(values) for values in groups.values()) ** 0.5
  spread = stats.t(n - found.groups)
  half = float(spread.ppf((1 + level) / 2)) * error
  return statistics.Paired(
      mean, mean - half, mean + half, 2 * float(spread.sf(abs(mean) / error)), n)
