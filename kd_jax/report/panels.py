"""Which points belong into one picture, on one line, beside which reference."""

from collections.abc import Sequence
from typing import NamedTuple

from kd_jax.report import names
from kd_jax.report.sweep import Point, Sweep

T = "temperature"
_WIDTHS = "student.widths"


class Line(NamedTuple):
  """Points that differ in T alone, by T."""

  label: str
  points: list[Point]


class Panel(NamedTuple):
  """Lines on common axes.

  Attributes:
    title: What all its lines share.
    lines: Of points that have a T.
    levels: Points that T says nothing to: references, and points without T.
  """

  title: str
  lines: list[Line]
  levels: list[Point]


def has_temperature(point: Point) -> bool:
  """Whether a point has a T that can stand on a log axis."""
  value = point.values.get(T)
  return isinstance(value, (int, float)) and value > 0


def temperature(point: Point) -> float:
  """T of a point that has one."""
  return float(point.values[T])


def split(
    points: Sequence[Point], keys: Sequence[str]
) -> list[tuple[str, list[Point]]]:
  """Points by the values of keys, each group with its label, in their order."""
  groups: dict[str, list[Point]] = {}
  for point in points:
    groups.setdefault(names.label(point.values, keys), []).append(point)
  return list(groups.items())


def panels(sweep: Sweep, *, by: Sequence[str] | None = None) -> list[Panel]:
  """The points of a sweep by the keys `by`, then by all others but T.

  Nets of different widths differ too much to share an axis, so that widths are
  what panels differ in unless told otherwise.
  """
  by = [key for key in sweep.telling if key in (by or [_WIDTHS])]
  others = [key for key in sweep.telling if key not in (*by, T)]
  run = [point for point in sweep.points if point.n]
  level = lambda point: point.is_reference or not has_temperature(point)
  lined = [point for point in run if not level(point)]
  found = []
  for title, group in split(lined, by):
    groups = split(group, others)
    plain = "as configured" if len(groups) > 1 else "mean of seeds"
    lines = [Line(label or plain, sorted(points, key=temperature))
             for label, points in groups]
    shared = {point.reference for point in group}
    levels = [point for point in run if level(point) and (
        sweep.label(point) in shared
        or (point.reference is None and not point.is_reference
            and names.label(point.values, by) == title))]
    found.append(Panel(title, lines, levels))
  return found


def level(point: Point, sweep: Sweep) -> str:
  """The label of a point without T beside the lines of its panel."""
  keys = [key for key in sweep.telling if key != _WIDTHS]
  return names.label(point.values, keys) or "reference"


def varies(sweep: Sweep) -> bool:
  """Whether T takes several values, at points that are no reference."""
  return len({temperature(point) for panel in panels(sweep)
              for line in panel.lines for point in line.points}) > 1


def errors_of(sweep: Sweep) -> str:
  """What test errors are errors of: the label of their axis."""
  sizes = {point.examples for point in sweep.points if point.examples}
  return f"test errors of {sizes.pop():,}" if len(sizes) == 1 else "test errors"


def ticks(values: Sequence[float], *, most: int = 14) -> list[float]:
  """Of values on a log axis, those far enough apart to be written.

  Example:
    >>> ticks([1, 1.02, 2, 4])
    [1, 2, 4]
  """
  values = sorted(set(values))
  least = (values[-1] / values[0]) ** (1 / most)
  kept = values[:1]
  for value in values[1:]:
    if value / kept[-1] >= least * (1 - 1e-9):
      kept.append(value)
  return kept
