"""What a sweep is once its rows are gathered: points, and what they share."""

import collections
from collections.abc import Hashable
import dataclasses
import functools
from typing import Any, NamedTuple

from kd_jax.report import names
from kd_jax.report.main_table import Row

# Points that a picture, a table for reading, or a page of one shows at most.
MOST = 500
# Keys whose values say enough.
_BARE = ("net", "method")
# Keys that are often chosen for each of the others.
_CHOSEN = ("epochs", "optimizer.")

class Point(NamedTuple):
  """One setting: its values of the varying keys, its runs, what they say.

  Numbers are None where the rows do not say, or too few runs do.

  Attributes:
    values: Varying keys that this point has.
    cell: What it is called where cells are compared.
    runs: Its distinct rows, failed ones too, by teacher and seed.
    errors, low, high: Mean test errors and their 95% t-interval.
    over: What it is over: "teachers", or "runs" given the teacher, if there is one.
    sd: Sample standard deviation over seeds, given one teacher.
    between_sd, within_sd: The same between and within several teachers.
    binomial: sqrt(n p (1 - p)) at the mean: what another test set of the same
      size would add; not in the interval.
    heldout: Mean held-out errors of the last epoch.
    heldout_best: Those of the epoch `best_epoch`, which has the fewest.
    difference, difference_low, difference_high, p, pairs: Test errors minus
      those of the reference point, and of how many pairs.
    difference_over: As `over`.
    p_holm: `p` corrected within all points that share the reference point.
  """

  values: dict[str, Any]
  runs: tuple[Row, ...]
  n: int
  failed: int
  cell: Hashable = None
  teachers: int = 0
  examples: int | None = None
  errors: float | None = None
  low: float | None = None
  high: float | None = None
  over: str | None = None
  sd: float | None = None
  between_sd: float | None = None
  within_sd: float | None = None
  binomial: float | None = None
  heldout: float | None = None
  heldout_best: float | None = None
  best_epoch: int | None = None
  heldout_examples: int | None = None
  nll: float | None = None
  ece: float | None = None
  agreement: float | None = None
  seconds: float | None = None
  is_reference: bool = False
  reference: str | None = None
  difference: float | None = None
  difference_low: float | None = None
  difference_high: float | None = None
  difference_over: str | None = None
  p: float | None = None
  p_holm: float | None = None
  pairs: int | None = None

  @property
  def good(self) -> list[Row]:
    """The runs that did not fail."""
    return [row for row in self.runs if row.get("failed") is None]

  @property
  def half(self) -> float | None:
    """Half the width of the interval of the errors."""
    if self.low is None or self.high is None:
      return None
    return (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True, eq=False)  # A key of caches.
class Sweep:
  """All points of a study, and what they have in common.

  Attributes:
    points: Sorted by their values.
    keys: The varying keys, in the order of the columns.
    common: Keys alike in all points, with their values.
    teachers: Fingerprints of all teachers, sorted.
    reference: What the reference point was asked to be.
    notes: Sentences on rows that were left out or look wrong.
    model: The standard deviations of the mixed model behind intervals over
      teachers, in a phrase; None where each point is judged by itself.
  """

  study: str
  points: tuple[Point, ...]
  keys: tuple[str, ...]
  common: dict[str, Any]
  teachers: tuple[str, ...]
  reference: dict[str, Any] | None
  notes: tuple[str, ...]
  model: str | None = None

  @property
  def rows(self) -> list[Row]:
    """The distinct rows, in the order of the points."""
    return [row for point in self.points for row in point.runs]

  @property
  def drawn(self) -> bool:
    """Whether pictures can show the points."""
    return len(self.points) <= MOST

  @functools.cached_property
  def has(self) -> frozenset[str]:
    """The numbers that some point has."""
    return frozenset(name for at, name in enumerate(Point._fields) if any(
        point[at] is not None for point in self.points))

  @property
  def nested(self) -> bool:
    """Whether points have several teachers, so that intervals are over them."""
    return any(point.teachers > 1 for point in self.points)

  @functools.cached_property
  def telling(self) -> tuple[str, ...]:
    """The keys that a label needs: without those that go with the widths.

    Where each width was trained for its own number of epochs, the width says it.
    """
    widths = "student.widths"
    if widths not in self.keys:
      return self.keys
    values: dict[str, dict[str, set[str]]] = {}
    for point in self.points:
      for key in self.keys:
        values.setdefault(key, {}).setdefault(
            names.shown(point.values.get(widths)), set()).add(
                names.shown(point.values.get(key)))
    return tuple(key for key in self.keys if key == widths or any(
        len(found) > 1 for found in values[key].values()))

  @functools.cached_property
  def usual(self) -> dict[str, str]:
    """Settings that four of five points share, and what they are there."""
    found = {}
    for key in self.keys:
      value, number = collections.Counter(
          self.value(key, point) for point in self.points).most_common(1)[0]
      if number >= 0.8 * len(self.points):
        found[key] = value
    return found

  @functools.cached_property
  def _naming(self) -> tuple[str, ...]:
    """The keys that tell points apart, each beside those before it."""
    found, known, number = [], [0] * len(self.points), 1
    for key in sorted(self.keys, key=lambda key: (
        key not in _BARE, key.startswith(_CHOSEN))):
      ids: dict[tuple[int, str], int] = {}
      finer = [ids.setdefault((at, self.value(key, point)), len(ids))
               for at, point in zip(known, self.points)]
      if key in self.usual or len(ids) > number:
        found.append(key)
        known, number = finer, len(ids)
    return tuple(found)

  def value(self, key: str, point: Point) -> str:
    """A setting of a point in words; its method too where only others set one."""
    if key in point.values:
      return names.briefly(point.values[key])
    return (key == "method" and point.runs[0].get(key)) or names.MISSING

  def name(self, point: Point) -> str:
    """A point as short as others allow: what all or most are is left out."""
    short = names.short(self.keys)
    words = [value if key in _BARE else f"{short[key]} {value}"
             for key in self._naming if (value := self.value(key, point))
             != self.usual.get(key, names.MISSING)]
    return ", ".join(words) or ("as most" if self.keys else "all runs")

  def label(self, point: Point) -> str:
    """A point in a phrase."""
    return names.label(point.values, self.keys) or "all runs"
