"""One mixed model a table, whose cells share teachers.

  y_cti = mu_c + u_t + v_ct + e_cti,   u ~ N(0, T), v ~ N(0, I), e ~ N(0, R)

y_cti is what run i of cell c with teacher t gives, such as test errors. A teacher
is good or bad for all cells (u), and for some more than for others (v). A cell on
labels alone has neither u nor v. T, I and R are fitted to the whole table by
restricted maximum likelihood (REML), so that three teachers of twelve cells give
more than two degrees of freedom. In the difference of two cells of the same
teachers u cancels.

The model takes teachers and runs to vary alike in all cells; `teachers_differ` and
`runs_differ` test this. That cells share seeds is left out, which makes differences
a little wide.

Sources: Patterson & Thompson (1971), Biometrika 58; Henderson (1975), Biometrics
31; Satterthwaite (1946), Biometrics Bulletin 2; Cochran & Cox (1950), Experimental
Designs, section 4.14; Bartlett (1937), Proc. R. Soc. A.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any, NamedTuple

import numpy as np

Cell = Any  # hashable
# Below this share of what varies a component is zero.
_NONE = 1e-6


class Run(NamedTuple):
  """A value, its cell, and its teacher; None if it had none."""

  cell: Cell
  teacher: Any
  value: float


class Components(NamedTuple):
  """Variances: T of teachers, I of teachers by cells, R of runs."""

  teacher: float
  interaction: float
  residual: float


class Estimate(NamedTuple):
  """A mean or a difference, its 95% interval, and the p of "it is zero".

  Attributes:
    degrees: Of freedom of the t-interval; None if all runs of each cell are equal.
  """

  value: float
  low: float | None
  high: float | None
  p: float | None
  degrees: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Runs as the model needs them: a mean for each pair of cell and teacher.

  Attributes:
    cells: Their places in arrays.
    cell, teacher, size, mean: Of each pair, `[pairs]`; teacher -1 is none.
    teachers: How many there are.
    squares: Of each cell, around the means of its pairs, `[cells]`.
    scale: What variances are fitted in units of, squared; 0 if nothing varies.
  """

  cells: Mapping[Cell, int]
  cell: np.ndarray
  teacher: np.ndarray
  size: np.ndarray
  mean: np.ndarray
  teachers: int
  squares: np.ndarray
  scale: float

  @property
  def degrees(self) -> np.ndarray:
    """Of freedom within the pairs of each cell, `[cells]`."""
    return self.sums(self.size - 1)

  def sums(self, of_pairs: np.ndarray) -> np.ndarray:
    """Of each cell, `[pairs] -> [cells]`."""
    return np.bincount(self.cell, of_pairs, len(self.cells))


class _Parts(NamedTuple):
  """What is left of Henderson's equations once the cells are taken out.

  Attributes:
    weight: 1 / variance of each pair's mean but for u, `[pairs]`.
    total: Of a cell, `[cells]`.
    shared: By cell and teacher, `[cells, teachers]`.
    inner: I + T (Z'WZ - Z'WX (X'WX)^-1 X'WZ), `[teachers, teachers]`.
  """

  weight: np.ndarray
  total: np.ndarray
  shared: np.ndarray
  inner: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A fitted table.

  Attributes:
    components: The variances.
    free: Which of them are fitted and not zero.
    covariance: Of these, twice the inverse of the deviance's Hessian.
    means: Of the cells, `[cells]`.
  """

  table: Table
  components: Components
  free: tuple[int, ...]
  covariance: np.ndarray
  means: np.ndarray

  def mean(self, cell: Cell) -> Estimate:
    """The mean of a cell, over teachers."""
    return _estimate(self, {cell: 1.0})

  def difference(self, cell: Cell, other: Cell) -> Estimate:
    """The mean of a cell minus that of another, over teachers."""
    return _estimate(self, {cell: 1.0, other: -1.0})

  def teachers_differ(self) -> float:
    """p of "what runs of a teacher give, on average, varies alike in all cells".

    Cells that share teachers vary together, which makes Bartlett's test find less.
    """
    table = self.table
    taught = table.teacher >= 0
    number = table.sums(taught)
    center = table.sums(taught * table.mean) / np.maximum(number, 1)
    squares = table.sums(taught * (table.mean - center[table.cell])**2)
    return _bartlett(squares, number - 1)

  def runs_differ(self) -> float:
    """p of "runs vary alike in all cells" (Bartlett 1937)."""
    return _bartlett(self.table.squares, self.table.degrees)

  def described(self) -> str:
    """The components as standard deviations, in a phrase."""
    return ", ".join(f"{name} {value**0.5:.1f}" for name, value in zip(
        ("teachers", "teachers by cells", "runs"), self.components))


def fit(runs: Iterable[Run]) -> Model:
  """Fits the model to a table.

  What a table cannot tell apart is in one component: I is in T if no teacher has
  two cells, and in R if no pair of cell and teacher has two runs.

  Raises:
    ValueError: If there is no run, or a value is not finite.

  Example:
    >>> model = fit([Run("kd", 0, 1.0), Run("kd", 0, 3.0), Run("kd", 1, 4.0),
    ...              Run("kd", 1, 6.0)])  # teachers' means 2 and 5
    >>> [round(x, 1) for x in model.mean("kd")[:3]]  # ± 12.706 * 1.5
    [3.5, -15.6, 22.6]
  """
  table = _table(runs)
  may = _estimable(table)
  found = _fitted(table, may)
  free = tuple(at for at in may if found[at] > 1.01 * _NONE)
  hessian = _hessian(lambda some: _deviance(table, _put(found, free, some)),
                     found[list(free)])
  unit = table.scale**2
  return Model(table, Components(*(unit * found).tolist()), free,
               unit**2 * 2 * np.linalg.pinv(hessian), _means(table, found))


def _table(runs: Iterable[Run]) -> Table:
  groups: dict[tuple[Cell, Any], list[float]] = {}
  for cell, teacher, value in runs:
    groups.setdefault((cell, teacher), []).append(float(value))
  if not groups or not all(np.isfinite(each).all() for each in groups.values()):
    raise ValueError("expected runs, with finite values")
  place = lambda names: {name: at for at, name in enumerate(dict.fromkeys(names))}
  cells = place(cell for cell, _ in groups)
  known = place(teacher for _, teacher in groups if teacher is not None)
  cell = np.array([cells[name] for name, _ in groups])
  mean = np.array([np.mean(each) for each in groups.values()])
  squares = np.bincount(
      cell, [len(each) * np.var(each) for each in groups.values()], len(cells))
  beside = mean - (np.bincount(cell, mean) / np.bincount(cell))[cell]
  spread = float(squares.sum() + (beside**2).sum())
  # Rounding leaves specks of equal values.
  varies = spread > 1e-20 * float((mean**2).sum())
  return Table(
      cells, cell, np.array([known.get(name, -1) for _, name in groups]),
      np.array([len(each) for each in groups.values()]), mean, len(known),
      squares, spread**0.5 if varies else 0.0)


def _estimable(table: Table) -> tuple[int, ...]:
  """The components that a table can tell apart."""
  has_teacher = table.teacher >= 0
  if not table.scale:
    return ()
  if table.sums(has_teacher).max() < 2:
    return (2,)
  wide = np.bincount(table.teacher[has_teacher]).max() > 1
  repeated = table.degrees.sum() > 0
  return (*(0,) * bool(wide or repeated), *(1,) * bool(wide and repeated), 2)


def _parts(table: Table, variances: np.ndarray) -> _Parts:
  has_teacher = table.teacher >= 0
  weight = 1 / (variances[1] * has_teacher + variances[2] / table.size)
  total = table.sums(weight)
  shared = np.zeros((len(table.cells), table.teachers))
  shared[table.cell[has_teacher], table.teacher[has_teacher]] = weight[has_teacher]
  inner = np.diag(shared.sum(0)) - shared.T @ (shared / total[:, None])
  return _Parts(weight, total, shared,
                np.eye(table.teachers) + variances[0] * inner)


def _beyond(table: Table, parts: _Parts) -> tuple[np.ndarray, np.ndarray]:
  """What pairs have beyond their cell's weighted mean; its sums by teacher."""
  cells = table.sums(parts.weight * table.mean) / parts.total
  beyond, has_teacher = table.mean - cells[table.cell], table.teacher >= 0
  return beyond, np.bincount(
      table.teacher[has_teacher], (parts.weight * beyond)[has_teacher],
      table.teachers)


def _deviance(table: Table, variances: np.ndarray) -> float:
  """-2 log of the restricted likelihood, but for a constant."""
  parts = _parts(table, variances)
  beyond, left = _beyond(table, parts)
  squares = float((parts.weight * beyond**2).sum()) - variances[0] * float(
      left @ np.linalg.solve(parts.inner, left))
  return float(
      table.degrees.sum() * np.log(variances[2])
      - np.log(parts.weight).sum() + np.log(parts.total).sum()
      + np.linalg.slogdet(parts.inner)[1]
      + (table.squares.sum() / variances[2] + squares) / table.scale**2)


def _means(table: Table, variances: np.ndarray) -> np.ndarray:
  """Of the cells, by generalised least squares, `[cells]`."""
  if not table.scale:
    return table.sums(table.mean) / np.bincount(table.cell)
  parts = _parts(table, variances)
  _, left = _beyond(table, parts)
  effects = variances[0] * np.linalg.solve(parts.inner, left)
  return (table.sums(parts.weight * table.mean)
          - parts.shared @ effects) / parts.total


def _fitted(table: Table, free: tuple[int, ...]) -> np.ndarray:
  """The variances of least deviance, in units of the table's scale squared."""
  from scipy import optimize  # pylint: disable=g-import-not-at-top
  found = np.zeros(3)
  if not free:
    return found
  # R has a floor, as equal runs of each pair would make the likelihood infinite.
  least = [_NONE if at == 2 else 0.0 for at in free]
  unit = 1 / (table.size.sum() * len(free))
  # There may be a minimum with a component, and a lower one without.
  starts = [np.ones(len(free)),
            *np.where(np.eye(len(free), dtype=bool)[:-1], 1e-3, 1.0)]
  tried = [optimize.minimize(
      lambda some: _deviance(table, _put(found, free, some * unit)), start,
      method="L-BFGS-B", jac="3-point",
      bounds=[(low / unit, None) for low in least],
      options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}) for start in starts]
  # Of those that agree, the first.
  best = min(tried, key=lambda one: round(one.fun, 6))
  return _put(found, free, best.x * unit)


def _put(variances: np.ndarray, places: tuple[int, ...], some) -> np.ndarray:
  whole = variances.copy()
  whole[list(places)] = some
  return whole


def _hessian(of: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
  """By central differences, `[n, n]`."""
  steps = np.diag(1e-3 * at)
  change = lambda a, b: (of(at + a + b) - of(at + a - b) - of(at - a + b)
                         + of(at - a - b)) / (4 * a.sum() * b.sum())
  return np.array([[change(a, b) for b in steps] for a in steps]).reshape(
      len(at), len(at))


def _estimate(model: Model, weights: Mapping[Cell, float]) -> Estimate:
  """A weighted sum of the cells' means, with the degrees of `_degrees`."""
  from scipy import special  # pylint: disable=g-import-not-at-top
  table, by_cell = model.table, np.zeros(len(model.table.cells))
  for cell, weight in weights.items():
    by_cell[table.cells[cell]] = weight
  # Digits that the fit has: a mean that ends on a 5 is so on every machine.
  value = float(f"{by_cell @ model.means:.12g}")
  if not table.scale:
    return Estimate(value, value, value, float(value == 0), None)
  if table.size.sum() == len(table.cells):
    return Estimate(value, None, None, None, None)
  own, degrees = _degrees(model, by_cell)
  half = float(f"{special.stdtrit(degrees, 0.975) * own**0.5:.5g}")
  p = 2 * special.stdtr(degrees, -abs(value) / own**0.5)
  # Far out it moves by many times as much as the fit does.
  p = float(f"{p:.5g}" if p > 1e-4 else f"{p:.2g}")
  return Estimate(value, value - half, value + half, p, degrees)


def _degrees(model: Model, by_cell: np.ndarray) -> tuple[float, float]:
  """The variance of a weighted sum of the cells' means, and its degrees of freedom.

  Satterthwaite's are

    2 v**2 / (g' C g),  v the variance, g its gradient by the components, C their
    covariance.

  They are too many where T is known from few teachers: if these are alike by
  chance, v is too small and its degrees are those of the runs. So the quantile is
  at least that of Cochran & Cox (1950),

    w t(g) + (1 - w) t(nu),

  w the share of v that is T's, nu Satterthwaite's degrees of the rest. g is the
  number of teachers less that of groups of teachers that have no cell in common:
  an ensemble that has a cell of its own says nothing of how teachers vary.
  Simulated (tests/test_mixed.py), intervals over three teachers then hold in 95 to
  98% of tables; without it they held in 92 to 96%.
  """
  from scipy import special  # pylint: disable=g-import-not-at-top
  table, fitted = model.table, np.array(model.components)
  quantile = lambda degrees: special.stdtrit(degrees, 0.975)

  def satterthwaite(variances, free):
    variance = lambda some: _variance(table, _put(variances, free, some), by_cell)
    at = variances[list(free)]
    own = variance(at)
    slope = np.array([(variance(at + step) - variance(at - step)) / (2 * step.sum())
                      for step in np.diag(1e-3 * at)])
    known = [model.free.index(each) for each in free]
    spread = slope @ model.covariance[np.ix_(known, known)] @ slope
    return own, 2 * own**2 / float(spread)

  own, degrees = satterthwaite(fitted, model.free)
  others = tuple(each for each in model.free if each != 0)
  alone = np.array([0.0, *fitted[1:]])
  share = 1 - _variance(table, alone, by_cell) / own
  if share > 1e-6 and others:
    least = (share * quantile(_contrasts(table))
             + (1 - share) * quantile(satterthwaite(alone, others)[1]))
    if least > quantile(degrees):
      degrees = float(special.stdtridf(0.975, least))
  return own, degrees


def _contrasts(table: Table) -> int:
  """How many differences between teachers the cells give."""
  shared = _parts(table, np.array([0.0, 0.0, 1.0])).shared
  total = shared.sum(1, keepdims=True)
  between = np.diag(shared.sum(0)) - shared.T @ (shared / np.where(total, total, 1))
  return int(np.linalg.matrix_rank(between))


def _variance(table: Table, variances: np.ndarray, by_cell: np.ndarray) -> float:
  """Of a weighted sum of the cells' means (Henderson 1975)."""
  parts = _parts(table, variances)
  own = by_cell / parts.total
  with_u = parts.shared.T @ own
  return float(by_cell @ own + variances[0] * (
      with_u @ np.linalg.solve(parts.inner, with_u)))


def _bartlett(squares: np.ndarray, degrees: np.ndarray) -> float:
  """p of equal variances: sums of squares and degrees of freedom, `[cells]`."""
  from scipy import special  # pylint: disable=g-import-not-at-top
  squares, degrees = squares[degrees > 0], degrees[degrees > 0]
  if len(degrees) < 2 or not squares.any():
    return 1.0
  if not squares.all():
    return 0.0
  whole = degrees.sum()
  spread = whole * np.log(squares.sum() / whole) - (
      degrees * np.log(squares / degrees)).sum()
  shrunk = spread / (1 + ((1 / degrees).sum() - 1 / whole) / 3
                     / (len(degrees) - 1))
  return float(special.chdtrc(len(degrees) - 1, shrunk))
