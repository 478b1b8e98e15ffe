"""Runs in groups, such as the students of one teacher, which are alike.

`Cells` gives the means and differences of a table, each with its interval and with
what that is over: teachers, or runs given the teachers that there are.
"""

from collections.abc import Hashable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from kd_jax.report import mixed, statistics
from kd_jax.report.statistics import Values

# Where teachers or runs of cells vary unlike, with a p of Bartlett's test below
# this, each cell is judged by its own teachers alone.
_ALIKE = 0.01

Pair = tuple[float, float]


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


class Run(NamedTuple):
  """A value, its teacher or None, and its seed."""

  teacher: Hashable | None
  seed: int | None
  value: float


class Cells:
  """The cells of a table, some of which share teachers and seeds.

  A cell of several teachers is judged by the mixed model of the whole table, and is
  over teachers; one of one teacher or none by its own runs, by Student's t. The
  difference of cells that have several teachers or none is the model's. If one has
  a single teacher, which cannot speak for others, it holds given the teachers of
  both, by the differences of runs that share a seed. So does every difference of a
  table without a cell of several teachers.

  Attributes:
    several: Whether a cell has several teachers.
  """

  def __init__(self, cells: Mapping[Hashable, Sequence[Run]]):
    self._runs = {cell: _once(runs) for cell, runs in cells.items() if runs}
    self._teachers = {cell: len({run.teacher for run in runs} - {None})
                      for cell, runs in self._runs.items()}
    self.several = any(number > 1 for number in self._teachers.values())

  @functools.cached_property
  def model(self) -> mixed.Model | None:
    """The table's model, if a cell has several teachers and all vary alike."""
    if not self.several:
      return None
    fitted = mixed.fit(mixed.Run(cell, run.teacher, run.value)
                       for cell, runs in self._runs.items() for run in runs)
    p = min(fitted.teachers_differ(), fitted.runs_differ())
    return fitted if p >= _ALIKE else None

  def over(self, *cells: Hashable) -> str:
    """What the interval of a cell, or of a difference, is over."""
    numbers = {self._teachers[cell] for cell in cells}
    return "teachers" if max(numbers) > 1 and 1 not in numbers else "runs"

  def mean(self, cell: Hashable) -> Nested:
    """The mean of a cell, and its interval."""
    runs = self._runs[cell]
    if self._teachers[cell] < 2:
      plain = statistics.summary([run.value for run in runs])
      # Of runs without a teacher each is a group of its own.
      return Nested(plain.mean, plain.low, plain.high, None, plain.sd,
                    self._teachers[cell] or plain.n, plain.n)
    groups: dict[Any, list[float]] = {}
    for run in runs:
      groups.setdefault(run.teacher, []).append(run.value)
    found = nested(groups)
    if self.model is None:
      return found
    fitted = self.model.mean(cell)
    return found._replace(mean=fitted.value, low=fitted.low, high=fitted.high)

  def difference(self, cell: Hashable, other: Hashable) -> statistics.Paired | None:
    """The mean of a cell minus another's; None if no runs share a seed."""
    pairs = self._pairs(cell, other)
    if not pairs:
      return None
    n = sum(map(len, pairs.values()))
    several = max(self._teachers[cell], self._teachers[other]) > 1
    if self.over(cell, other) == "teachers":
      if self.model is not None:
        fitted = self.model.difference(cell, other)
        return statistics.Paired(*fitted[:4], n)
      # Seeds under one teacher are no independent word on teachers.
      return _paired([np.mean(each, axis=0) for each in pairs.values()])
    if several and len(pairs) > 1:
      return given({key: [a - b for a, b in each] for key, each in pairs.items()})
    return _paired([pair for each in pairs.values() for pair in each])

  def _pairs(self, cell: Hashable, other: Hashable) -> dict[Any, list[Pair]]:
    """Values of runs that share a seed, by the teachers of both."""
    of_seed: dict[int | None, dict[Hashable | None, float]] = {}
    for run in self._runs[other]:
      of_seed.setdefault(run.seed, {})[run.teacher] = run.value
    found: dict[Any, list[Pair]] = {}
    for run in sorted(self._runs[cell], key=lambda run: run.seed or 0):
      beside = of_seed.get(run.seed, {})
      teacher = run.teacher if run.teacher in beside else next(iter(beside), None)
      # A seed of several other teachers has no pair of its own.
      if run.teacher in beside or len(beside) == 1:
        found.setdefault((run.teacher, teacher), []).append(
            (run.value, beside[teacher]))
    return {key: found[key] for key in sorted(found, key=str)}


def _once(runs: Sequence[Run]) -> list[Run]:
  """Runs, but of those without a teacher a mean for each seed.

  Labels alone, trained beside each of several teachers, are the same runs again.
  """
  seeds: dict[int, list[float]] = {}
  for run in runs:
    if run.teacher is None and run.seed is not None:
      seeds.setdefault(run.seed, []).append(run.value)
  if all(len(values) == 1 for values in seeds.values()):
    return list(runs)
  return [run for run in runs if run.teacher is not None or run.seed is None] + [
      Run(None, seed, statistics.summary(values).mean)
      for seed, values in seeds.items()]


def _paired(pairs: Sequence[Pair]) -> statistics.Paired:
  return statistics.paired([a for a, _ in pairs], [b for _, b in pairs])
