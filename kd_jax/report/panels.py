"""Which points belong into one picture, on one line, beside which reference."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kd_jax.report import names
from kd_jax.report.sweep import Point, Sweep

T = "temperature"
_WIDTHS = "student.widths"
_BANDS = 2  # beside lines, or they hide each other


class Line(NamedTuple):
  """Points that differ in T alone, by T; at least two."""

  label: str
  points: list[Point]


class Panel(NamedTuple):
  """Points of one kind: those on lines against T, and all others.

  Attributes:
    title: What they share.
    lines: Of points of several T.
    levels: What lines are seen beside: references, or a few points without T.
    others: Those on no line; none if they would be the levels alone.
  """

  title: str
  lines: list[Line]
  levels: list[Point]
  others: list[Point]


def settings(point: Point, sweep: Sweep) -> dict[str, Any]:
  """The settings of a point that mean something to it.

  The T of smoothed labels and of logits matched by their squares does not.
  """
  idle = names.idle({**sweep.common, **point.values})
  return {key: value for key, value in point.values.items()
          if key != T or key not in idle}


def has_temperature(point: Point, sweep: Sweep) -> bool:
  """Whether a point has a T that can stand on a log axis."""
  value = settings(point, sweep).get(T)
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


def panels(sweep: Sweep) -> list[Panel]:
  """The points of a sweep by their widths, then by all other keys but T.

  Nets of different widths differ too much to share an axis.
  """
  by = [key for key in sweep.telling if key == _WIDTHS]
  rest = [key for key in sweep.telling if key not in (*by, T)]
  run = [point for point in sweep.points if point.n]
  level = lambda point: point.is_reference or not has_temperature(point, sweep)
  found = []
  for title, group in split(run, by):
    lines = [(label, sorted(points, key=temperature)) for label, points in split(
        [point for point in group if not level(point)], rest)]
    lines = [(label, points) for label, points in lines if len(points) > 1]
    plain = "as configured" if len(lines) > 1 else "mean of seeds"
    drawn = [point for _, points in lines for point in points]
    others = _without(group, drawn)
    wanted = {point.reference for point in drawn}
    levels = [point for point in run if sweep.label(point) in wanted] or [
        point for point in others if level(point)]
    levels = levels if lines and len(levels) <= _BANDS else []
    found.append(Panel(
        title, [Line(label or plain, points) for label, points in lines], levels,
        others if _without(others, levels) else []))
  return found


def _without(points: Sequence[Point], left_out: Sequence[Point]) -> list[Point]:
  known = {id(point) for point in left_out}
  return [point for point in points if id(point) not in known]


def beside(line: Line, panel: Panel, sweep: Sweep) -> list[Point]:
  """The levels of a panel that a line is seen beside: no other's reference."""
  own = {point.reference for point in line.points}
  return [point for point in panel.levels
          if not point.is_reference or sweep.label(point) in own]


def told_apart(
    points: Sequence[Point], sweep: Sweep, but: Sequence[str] = ()
) -> tuple[str, list[str]]:
  """What points share, in a phrase, and what tells each from the others.

  Args:
    points: At least one.
    sweep: Theirs.
    but: Keys that are left out.
  """
  found = [settings(point, sweep) for point in points]
  telling = [key for key in sweep.telling if key not in but]
  keys = [key for key in telling if len(points) > 1 and len(
      {names.shown(each.get(key)) for each in found}) == 1]
  title = names.label(found[0], keys)
  rest = [key for key in telling if key not in keys]
  labels = [names.label(each, rest) for each in found]
  if not all(labels) or len({*labels}) < len(labels):
    labels = [*map(sweep.label, points)]
  return title, labels


def level(point: Point, sweep: Sweep) -> str:
  """The label of a point beside the lines of its panel."""
  keys = [key for key in sweep.telling if key != _WIDTHS]
  return names.label(settings(point, sweep), keys) or "reference"


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
