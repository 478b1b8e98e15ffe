"""Test errors against T as SVG: the picture of a page that tells its values."""

from collections.abc import Sequence
import html
import math
from typing import Any

from kd_jax.report import names, panels, tables
from kd_jax.report.panels import Line, Panel
from kd_jax.report.sweep import Point, Sweep

# Of the viewBox: a panel, and what is left of its axes for labels.
_WIDTH, _HEIGHT = 760, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 46, 42
# Marks around (0, 0), in the order of the lines.
_MARKS = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z", "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "M0 -4.8L4.6 3.6H-4.6Z", "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 4.8L4.6 -3.6H-4.6Z", "M-1.6 -4.8H1.6V-1.6H4.8V1.6H1.6V4.8H-1.6V1.6H-4.8"
    "V-1.6H-1.6Z", "M0 -5L4.8 -1.5L3 4.2H-3L-4.8 -1.5Z")


def steps(low: float, high: float, *, about: int = 5) -> list[float]:
  """Round numbers in an interval, some five of them.

  Example:
    >>> steps(72.0, 131.0)
    [80.0, 90.0, 100.0, 110.0, 120.0, 130.0]
  """
  rough = (high - low) / about or 1.0
  unit = 10.0 ** math.floor(math.log10(rough))
  step = min((unit * factor for factor in (1, 2, 5, 10)),
             key=lambda size: abs(math.log(size / rough)))
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [step * index for index in range(first, last + 1)]


class _Axes:
  """Where a T and a number of errors lie in a panel."""

  def __init__(self, across: Sequence[float], up: Sequence[float]):
    self.across = [math.log(value) for value in (min(across), max(across))]
    margin = 0.06 * (max(up) - min(up)) or 1.0
    self.up = (min(up) - margin, max(up) + margin)

  def x(self, temperature: float) -> float:
    low, high = self.across
    inner = _WIDTH - _LEFT - _RIGHT - 40
    return _LEFT + 20 + inner * (math.log(temperature) - low) / (high - low or 1)

  def y(self, errors: float) -> float:
    low, high = self.up
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - errors) / (high - low)


def errors_by_temperature(sweep: Sweep) -> str:
  """The picture, or nothing where T does not vary.

  Every point is a group with a title, its values in words.
  """
  has = lambda points: any(point.errors is not None for point in points)
  shown = [panel for panel in panels.panels(sweep)
           if any(has(line.points) for line in panel.lines)]
  across = [panels.temperature(point) for panel in shown
            for line in panel.lines for point in line.points]
  if not shown or not panels.varies(sweep):
    return ""
  # Where nothing has a title, its line is cut.
  cut = 0 if any(panel.title for panel in shown) else 18
  height = _HEIGHT * len(shown) - cut
  parts = [
      f'<svg class="plot" viewBox="0 {cut} {_WIDTH} {height}" role="group" '
      'aria-label="Test errors against temperature, with 95% intervals; the '
      'values are in the table below">']
  for index, panel in enumerate(shown):
    parts.append(f'<g transform="translate(0 {index * _HEIGHT})">')
    parts += _panel(panel, across, sweep)
    parts.append("</g>")
  return "\n".join([*parts, "</svg>"])


def _panel(panel: Panel, across: Sequence[float], sweep: Sweep) -> list[str]:
  points = [p for line in panel.lines for p in line.points] + panel.levels
  up = [value for p in points for value in (p.errors, p.low, p.high)
        if value is not None]
  axes = _Axes(across, up)
  levels = [point for point in panel.levels if point.errors is not None]
  parts = _frame(axes, across, panels.errors_of(sweep))
  parts += _legend(panel, levels, sweep)
  for index, point in enumerate(levels):
    parts += _level(axes, point, index, sweep)
  for index, line in enumerate(panel.lines):
    aside = 5 * (index - (len(panel.lines) - 1) / 2)
    parts += _line(axes, line, index, aside, sweep)
  return parts


def _text(x: float, y: float, text: str, *, anchor: str = "middle",
          kind: str = "tick") -> str:
  return (f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" '
          f'text-anchor="{anchor}">{html.escape(text)}</text>')


def _frame(axes: _Axes, across: Sequence[float], label: str) -> list[str]:
  """The grid, its numbers, and the labels of the axes."""
  bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
  parts = []
  for value in steps(*axes.up):
    y = axes.y(value)
    parts += [f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>',
              _text(_LEFT - 6, y + 4, f"{value:g}", anchor="end")]
  for value in panels.ticks(across):
    x = axes.x(value)
    parts += [f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>',
              _text(x, bottom + 16, names.shown(value))]
  middle = (_TOP + bottom) / 2
  return [*parts, f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
          _text((_LEFT + right) / 2, bottom + 33, "temperature T (log scale)"),
          f'<text class="tick" transform="translate(14 {middle:.1f}) '
          f'rotate(-90)" text-anchor="middle">{label}</text>']


def _legend(panel: Panel, levels: Sequence[Point], sweep: Sweep) -> list[str]:
  """The title, and the lines and levels on the line under it."""
  parts = [_text(_LEFT, 14, panel.title, anchor="start", kind="title")]
  x = float(_LEFT)
  for index, line in enumerate(panel.lines):
    label = line.label
    parts += [
        f'<path class="mark c{index % 7}" transform="translate({x + 8:.1f} 29)" '
        f'd="{_MARKS[index % 7]}"/>',
        _text(x + 18, 33, label, anchor="start", kind="key")]
    x += 34 + 6.6 * len(label)
  for index, point in enumerate(levels):
    label = names.label(point.values, _rest(sweep)) or "reference"
    parts += [f'<path class="level l{index % 6}" d="M{x:.1f} 29h18"/>',
              _text(x + 23, 33, label, anchor="start", kind="key")]
    x += 39 + 6.6 * len(label)
  return parts


def _rest(sweep: Sweep) -> list[str]:
  return [key for key in sweep.telling if key != "student.widths"]


def tooltip(point: Point, sweep: Sweep) -> str:
  """A point in a line: its settings, errors, number of runs, difference."""
  words = [sweep.label(point),
           f"{tables.with_half(point.errors, point.half)} test errors",
           f"n {point.n}"]
  if point.difference is not None:
    words.append(f"{tables.difference(point)} against {point.reference}")
  return "; ".join(words)


def _level(axes: _Axes, point: Point, index: int, sweep: Sweep) -> list[str]:
  right = _WIDTH - _RIGHT
  y = axes.y(point.errors or 0.0)
  title = html.escape(tooltip(point, sweep))
  parts = ['<g class="point">', f"<title>{title}</title>"]
  if point.low is not None and point.high is not None:
    top, end = axes.y(point.high), axes.y(point.low)
    parts.append(f'<rect class="band" x="{_LEFT}" y="{top:.1f}" '
                 f'width="{right - _LEFT}" height="{end - top:.1f}"/>')
  line = f'<path class="level l{index % 6}" d="M{_LEFT} {y:.1f}H{right}"/>'
  return [*parts, line, "</g>"]


def _line(axes: _Axes, line: Line, index: int, aside: float, sweep: Sweep
          ) -> list[str]:
  """A line, the bars of its points, and their marks."""
  colour = f"c{index % 7}"
  at: list[tuple[float, Any]] = [
      (axes.x(panels.temperature(point)) + aside, point)
      for point in line.points if point.errors is not None]
  way = "L".join(f"{x:.1f} {axes.y(point.errors):.1f}" for x, point in at)
  parts = [f'<path class="line {colour}" d="M{way}"/>'] if at else []
  for x, point in at:
    bar = ""
    if point.low is not None and point.high is not None:
      top, end = axes.y(point.high), axes.y(point.low)
      bar = (f'<path class="bar {colour}" d="M{x:.1f} {top:.1f}V{end:.1f}'
             f'M{x - 3:.1f} {top:.1f}h6M{x - 3:.1f} {end:.1f}h6"/>')
    parts.append(
        f'<g class="point" data-point="{html.escape(sweep.label(point))}">'
        f"<title>{html.escape(tooltip(point, sweep))}</title>{bar}"
        f'<path class="mark {colour}" transform="translate({x:.1f} '
        f'{axes.y(point.errors):.1f})" d="{_MARKS[index % 7]}"/></g>')
  return parts
