"""The pictures of a sweep, each drawn once: a PNG, and SVG for the page.

Each function takes the sweep (or what stands in a file beside its rows) and returns
a figure, or None where there is nothing to draw.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from kd_jax.core.errors import UserError
from kd_jax.report import (
  canvas,
  inspected,
  line_plots,
  names,
  panels,
  soft_targets,
  svg,
  tables,
)
from kd_jax.report.canvas import GREY, figure, styled
from kd_jax.report.sweep import Point, Sweep

_BESIDE = 24  # letters of a label at the left of its difference


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
def errors_by_temperature(sweep: Sweep) -> Any:
  """Test errors against T, a line for all else, the reference as a band."""
  shown = [panel for panel in panels.panels(sweep) if any(
      point.errors is not None for line in panel.lines for point in line.points)]
  if not shown or not panels.varies(sweep):
    return None
  drawn, parts = canvas.stacked(
      [(panel.title, [canvas.wrapped(line.label) for line in panel.lines]
        + [canvas.wrapped(panels.level(point, sweep))
           for point in panel.levels]) for panel in shown],
      1, height=2.2)
  values = [panels.temperature(point) for panel in shown
            for line in panel.lines for point in line.points]
  for panel, (_, (at,)) in zip(shown, parts):
    for index, line in enumerate(panel.lines):
      points = [point for point in line.points if point.errors is not None]
      # A few percent aside, or the bars of several lines would hide each other.
      aside = 1.015 ** (index - (len(panel.lines) - 1) / 2)
      across = [panels.temperature(point) * aside for point in points]
      up = [point.errors for point in points]
      look = canvas.style(index)
      at.errorbar(across, up, yerr=[point.half or 0.0 for point in points],
                  fmt="none", color=look["color"], capsize=2.5)
      # A mark at 0 is whole.
      (drawn_line,) = at.plot(
          across, up, **look, markersize=4.5, linewidth=1.2, clip_on=False,
          label=canvas.wrapped(line.label))
      svg.tell(drawn_line, [tooltip(point, sweep) for point in points])
    _levels(at, panel.levels, sweep)
    canvas.log_temperature(at, values)
    # An interval may reach below 0, errors do not.
    at.set(ylabel=panels.errors_of(sweep), ylim=(max(0, at.get_ylim()[0]), None),
           xlim=(min(values) / 1.25, max(values) * 1.25))
  canvas.legends(parts, [panel.title for panel in shown])
  return drawn


def _levels(axes: Any, points: Sequence[Point], sweep: Sweep) -> None:
  """Draws points without T as horizontal bands."""
  for index, point in enumerate(points):
    if point.errors is None:
      continue
    line = axes.axhline(
        point.errors, color=GREY, linewidth=1.2,
        linestyle=canvas.DASHES[index % len(canvas.DASHES)],
        label=canvas.wrapped(panels.level(point, sweep)))
    svg.tell(line, [tooltip(point, sweep)])
    if point.half:
      axes.axhspan(point.low, point.high, color=GREY, alpha=0.18, linewidth=0)


@styled
def heat_map(sweep: Sweep) -> Any:
  """Test errors over T and alpha, a panel for all else."""
  shown = [point for point in sweep.points if point.errors is not None
          and panels.has_temperature(point)
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
      [(title, []) for title, _ in groups], 1, height=0.6 + 0.3 * len(up),
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
  labelled = []
  for members in families.values():
    alike = [key for key in sweep.keys if len(
        {names.shown(p.values.get(key)) for p in members}) == 1]
    title = names.label(
        members[0].values, [key for key in alike if key in sweep.telling])
    rest = [key for key in sweep.keys if key not in alike]
    labels = [names.label(p.values, rest) or sweep.label(p) for p in members]
    labelled.append((
        canvas.wrapped(f"{title or 'all points'}, against {_against(sweep)}", 40),
        [canvas.wrapped(label, _BESIDE) for label in labels], members))
  lines = [1.5 + title.count("\n") + sum(
      label.count("\n") + 1.4 for label in labels) for title, labels, _ in labelled]
  drawn, axes = figure(
      len(families), 1, (canvas.WIDTH, 0.5 + 0.16 * sum(lines)),
      height_ratios=lines, sharex=True)
  for (title, labels, members), at in zip(labelled, axes[:, 0]):
    for y, point in enumerate(members):
      line = canvas.difference(
          at, y, point.difference, point.difference_low, point.difference_high,
          sure=point.p_holm is not None and point.p_holm < 0.05)
      svg.tell(line, [tooltip(point, sweep)])
    at.set_yticks(range(len(members)), labels, fontsize=8)
    at.axvline(0, color="black", linewidth=0.8)
    at.set_title(title, loc="left")
    at.set_ylim(len(members) - 0.4, -0.6)
  axes[-1, 0].set_xlabel("test errors minus the reference's")
  return drawn


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
        errors_by_temperature, "Test errors against temperature",
        "Means over runs with 95% intervals; point at a mark, or reach it by Tab, "
        "for its values. A grey line with its band is a point to which T means "
        "nothing."),
    "heat": _Kind(
        heat_map, "Heat map of mean test errors over temperature and alpha",
        "Mean test errors over T and alpha, the share of the soft term; fewer are "
        "lighter."),
    "differences": _Kind(
        differences, "Differences in test errors from the reference",
        "Test errors minus those of the reference, paired, with 95% intervals. "
        "Filled marks: p (Holm) below 0.05."),
    "learning": _Kind(
        line_plots.learning, "Learning curves of the terms of the loss by epoch",
        "Terms of the loss while training, means over seeds."),
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
        "Dark knowledge: what the teacher says beside the label. Orange is the "
        "label's class.", "teacher"),
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
  return found
