"""The pictures of a sweep, each drawn once: a PNG, and SVG for the page.

Each function takes the sweep (or what stands in a file beside its rows) and returns
a figure, or None where there is nothing to draw.
"""

from collections.abc import Callable, Mapping, Sequence
import gc
import math
import pathlib
from typing import Any, NamedTuple

from kd_jax.core.errors import UserError
from kd_jax.report import (
  canvas,
  dots,
  inspected,
  line_plots,
  names,
  panels,
  soft_targets,
  statistics,
  svg,
  tables,
)
from kd_jax.report.canvas import GREY, styled
from kd_jax.report.sweep import Point, Sweep


class Picture(NamedTuple):
  """A figure as a file and as an element of a page, and how to read it."""

  file: pathlib.Path
  svg: str
  caption: str


def tooltip(point: Point, sweep: Sweep) -> str:
  """A point in a line: its settings, errors, number of runs, difference."""
  words = [sweep.label(point),
           f"{tables.with_half(point.errors, point.half)} test errors",
           f"n {point.n}"]
  if point.difference is not None:
    words.append(f"{tables.difference(point)} against {point.reference}")
  return "; ".join(words)


@styled
def errors(sweep: Sweep) -> Any:
  """Test errors: lines against T where T varies, all others below each other."""
  found = [*map(_with_errors, panels.panels(sweep))]
  if not any(panel.lines for panel in found) and sum(
      len(panel.others) for panel in found) < 2:
    return None
  against = [panel for panel in found if panel.lines]
  apart: dict[str, list[dots.Dot]] = {}
  for panel in found:
    if panel.others:
      title, each = _apart(panel.others, sweep)
      apart.setdefault(title, []).extend(each)
  heights = canvas.stacked_heights(
      [(*_labels(panel, sweep), 1) for panel in against], height=2.2)
  drawn, parts = canvas.below_each_other(
      [*heights, *[dots.height(apart)] * bool(apart)])
  values = [panels.temperature(point) for panel in against
            for line in panel.lines for point in line.points]
  lined = [(part, [part.subplots()]) for part, _ in zip(parts, against)]
  for panel, (_, (at,)) in zip(against, lined):
    _against_t(at, panel, sweep, values)
  canvas.legends(lined, [_labels(panel, sweep)[0] for panel in against])
  if apart:
    dots.draw(parts[-1], apart, panels.errors_of(sweep) + ", 95% interval")
  return drawn


def _with_errors(panel: panels.Panel) -> panels.Panel:
  """A panel without the points of which no test errors are known."""
  known = lambda points: [point for point in points if point.errors is not None]
  lines = [line._replace(points=known(line.points)) for line in panel.lines]
  return panel._replace(
      lines=[line for line in lines if line.points],
      levels=known(panel.levels), others=known(panel.others))


def _labels(panel: panels.Panel, sweep: Sweep) -> tuple[str, list[str]]:
  """The title of lines against T; labels of them and of what they are beside."""
  title, labels = panels.told_apart(
      [line.points[0] for line in panel.lines] + panel.levels, sweep, [panels.T])
  return title, [*map(canvas.wrapped, labels)]


def _apart(points: Sequence[Point], sweep: Sweep) -> tuple[str, list[dots.Dot]]:
  """Points as dots, references grey, and what they share."""
  title, labels = panels.told_apart(points, sweep)
  return title, [
      dots.Dot(label + ", reference" * point.is_reference, mean.mean, mean.low,
                 mean.high, GREY if point.is_reference else canvas.COLOURS[0],
                 not point.is_reference, tooltip(point, sweep))
      for label, point in zip(labels, points) for mean in [_mean(point)]]


def _mean(point: Point) -> statistics.Summary:
  """The mean test errors of a point that has some."""
  assert point.errors is not None
  return statistics.Summary(point.errors, point.sd, point.low, point.high, point.n)


def _against_t(
    at: Any, panel: panels.Panel, sweep: Sweep, values: Sequence[float]) -> None:
  """Lines of points against T, and levels; `values` are the T of all panels."""
  _, labels = _labels(panel, sweep)
  for index, (point, label) in enumerate(zip(
      panel.levels, labels[len(panel.lines):])):
    canvas.tell(canvas.level(
        at, _mean(point), dash=index, label=label), [tooltip(point, sweep)])
  room = math.log(1.6 * max(values) / min(values))
  for index, (line, label) in enumerate(zip(panel.lines, labels)):
    # A mark's width aside, or the bars of several lines would hide each other.
    aside = math.exp(min(0.018, 0.15 / len(panel.lines)) * room * (
        index - (len(panel.lines) - 1) / 2))
    across = [panels.temperature(point) * aside for point in line.points]
    up = [point.errors for point in line.points]
    look = canvas.style(index)
    at.errorbar(across, up, yerr=[point.half or 0.0 for point in line.points],
                fmt="none", color=look["color"], capsize=2.5)
    # A mark at 0 is whole.
    (drawn_line,) = at.plot(across, up, **look, markersize=4.5, linewidth=1.2,
                            clip_on=False, label=label)
    canvas.tell(drawn_line, [tooltip(point, sweep) for point in line.points])
  canvas.log_temperature(at, values)
  # An interval may reach below 0, errors do not.
  at.set(ylabel=panels.errors_of(sweep), ylim=(max(0, at.get_ylim()[0]), None),
         xlim=(min(values) / 1.25, max(values) * 1.25))


@styled
def heat_map(sweep: Sweep) -> Any:
  """Test errors over T and alpha, a panel for all else."""
  shown = [point for point in sweep.points if point.errors is not None
          and panels.has_temperature(point, sweep)
          and isinstance(point.values.get("alpha"), (int, float))]
  across = sorted({panels.temperature(point) for point in shown})
  up = sorted({point.values["alpha"] for point in shown})
  groups = panels.split(shown, [
      key for key in sweep.telling if key not in ("alpha", panels.T)])
  # A row of one cell, as of hard labels, is no row of a map.
  rows = lambda group: [
      sum(p.values["alpha"] == alpha for p in group) for alpha in up]
  groups = [(title, group) for title, group in groups
            if sum(row > 1 for row in rows(group)) > 1]
  if not groups:
    return None
  drawn, parts = canvas.stacked(
      [(title, [], 1) for title, _ in groups], height=0.6 + 0.3 * len(up),
      width=max(canvas.WIDTH, 0.7 + 0.42 * len(across)))
  for (_, group), (_, (at,)) in zip(groups, parts):
    values: list[list[Any]] = [[float("nan")] * len(across) for _ in up]
    for point in group:
      values[up.index(point.values["alpha"])][
          across.index(panels.temperature(point))] = point.errors
    canvas.cells(at, values, digits=1)
    at.set_xticks(range(len(across)), [names.shown(value) for value in across])
    at.set_yticks(range(len(up)), [names.shown(value) for value in up])
    at.invert_yaxis()
    at.set(xlabel="temperature T", ylabel="alpha")
  canvas.legends(parts, [title for title, _ in groups])
  return drawn


@styled
def differences(sweep: Sweep) -> Any:
  """Paired differences from the reference with their intervals."""
  families: dict[Any, list[Any]] = {}
  for point in sweep.points:
    if point.difference is not None:
      families.setdefault(point.reference, []).append(point)
  if not families:
    return None
  found: dict[str, list[dots.Dot]] = {}
  for members in families.values():
    title, labels = panels.told_apart(members, sweep)
    shared = f"{title}, against" if title else "against"
    found.setdefault(f"{shared} {_against(sweep)}", []).extend(
        dots.compared(
            label, statistics.Paired(
                point.difference, point.difference_low, point.difference_high,
                point.p, point.pairs),
            sure=point.p_holm is not None and point.p_holm < 0.05,
            tells=tooltip(point, sweep))
        for label, point in zip(labels, members))
  return dots.alone(
      found, "test errors minus the reference's\n" + dots.COMPARED, zero=True,
      shared=True)


def _against(sweep: Sweep) -> str:
  """The reference as it was asked for."""
  reference = sweep.reference or {}
  return names.label(reference, list(reference)) or "the reference"


class _Kind(NamedTuple):
  """A kind of picture.

  Attributes:
    draw: What draws it.
    shows: What it shows, in words, for those who do not see it.
    caption: How to read it.
    side: The file beside the rows that it is drawn from; None for the rows.
  """

  draw: Callable[[Any], Any]
  shows: str
  caption: str
  side: str | None = None


_KINDS = {
    "errors": _Kind(
        errors, "Test errors with their intervals, against T where it varies",
        "Means over runs with 95% intervals; point at a mark, or reach it by Tab, "
        "for its values. Settings that were run at several T are lines; all others "
        "stand below each other. A grey line with its band, and an open mark, is a "
        "reference, or a point to which T means nothing."),
    "heat": _Kind(
        heat_map, "Heat map of mean test errors over temperature and alpha",
        "Mean test errors over T and alpha, the share of the soft term; fewer are "
        "lighter."),
    "differences": _Kind(
        differences, "Differences in test errors from the reference",
        "Test errors minus those of the reference, paired, with 95% intervals. "
        "Filled marks: p (Holm) below 0.05, blue fewer, orange more; open ones: no "
        "difference is shown."),
    "learning": _Kind(
        line_plots.learning, "Learning curves of the terms of the loss by epoch",
        "Terms of the loss while training, means over seeds; some older rows did "
        "not record all."),
    "inspected": _Kind(
        line_plots.inspected,
        "Share of each term in the gradient, and CKA of each pair, by epoch",
        "The norm of each weighted term's gradient with respect to the student's "
        "parameters, as a share of the sum of these norms, on the first batch; and "
        "the linear CKA (unbiased) of the taps that are compared, on training "
        "images as they are."),
    "reliability": _Kind(
        line_plots.reliability, "Reliability diagrams: accuracy against confidence",
        "Accuracy against confidence on the test set, bins added up over seeds; "
        "at the right the gap between them."),
    "dark": _Kind(
        soft_targets.knowledge,
        "Entropy of the soft targets against temperature, and examples with the "
        "teacher's probabilities at several temperatures",
        "Dark knowledge: what the teacher says beside the label, of the likeliest "
        "classes. Orange is the label's class. Each T has a scale of its own.",
        "teacher"),
    "cka": _Kind(
        inspected.alignment,
        "Heat maps of CKA of all taps of student and teacher, before and after",
        "Linear CKA (unbiased) of every tap of the student with every tap of its "
        "teacher, on training images as they are; 1 is alike.", "inspected"),
    "attention": _Kind(
        inspected.attention,
        "Test images with attention maps of student and teacher, stage by stage",
        "Where the maps of each stage are large: the mean over channels of their "
        "squares, each divided by its largest value; brighter is larger.",
        "inspected")}


def write(
    sweep: Sweep, sides: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, Picture]:
  """Draws all there is to draw; returns the pictures by their names.

  A picture of rows that are no more is removed, if the page that is there shows it:
  another of its name is not ours. Of more points than a picture can show, only
  those of files beside the rows are drawn.

  Args:
    sweep: The points.
    sides: What stands in these files, by their names: `teacher`, `inspected`.
    folder: Where the pictures go.

  Raises:
    UserError: If a file beside the rows is not what a run writes.
  """
  found = {}
  page = folder / "report.html"
  before = page.read_bytes() if page.is_file() else b""
  for name, kind in _KINDS.items():
    file = folder / f"{name}.png"
    if kind.side is not None:
      content = sides.get(kind.side)
    else:
      content = sweep if sweep.drawn else None
    try:
      drawn = None if content is None else kind.draw(content)
      if drawn is None:
        if f'aria-label="Picture: {name}"'.encode() in before:
          file.unlink(missing_ok=True)
        continue
      # Of what is pixels in the page too, the file is a part of the page.
      colours = 64 if svg.crowded(drawn) else 256
      canvas.save(drawn, file, colours=None if name == "attention" else colours)
      drawn.set_layout_engine("none")  # It is laid out, which takes long.
      text = svg.inline(drawn, file, kind.shows)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
      if kind.side is None:
        raise
      raise UserError(
          f"{folder / kind.side}.json: is not what a run writes "
          f"({type(error).__name__}); without it its picture is left out") from None
    found[name] = Picture(file, text, kind.caption)
    # A figure is a circle of references, which outlives the last one to it.
    del drawn
    gc.collect(0)
  return found
