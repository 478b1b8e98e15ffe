"""The pictures of a sweep, as PNG.

Each function takes the sweep (or the teacher) and a path. It returns False, and
draws nothing, where there is nothing to draw.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

from kd_jax.core.errors import UserError
from kd_jax.report import (
  canvas,
  inspected,
  line_plots,
  names,
  panels,
  soft_targets,
)
from kd_jax.report.canvas import GREY, figure, save, styled
from kd_jax.report.sweep import Point, Sweep


def _bars(points: Sequence[Point]) -> list[float]:
  return [point.half or 0.0 for point in points]


@styled
def errors_by_temperature(sweep: Sweep, path: pathlib.Path) -> bool:
  """Test errors against T, a line for all else, the reference as a band."""
  shown = [panel for panel in panels.panels(sweep) if any(
      point.errors is not None for line in panel.lines for point in line.points)]
  if not shown or not panels.varies(sweep):
    return False
  heights = [canvas.height(2.6, len(panel.lines) + len(panel.levels))
             for panel in shown]
  drawn, axes = figure(
      len(shown), 1, (6.4, 0.6 + sum(heights)), height_ratios=heights, sharex=True)
  for panel, at in zip(shown, axes[:, 0]):
    _levels(at, panel.levels, sweep)
    for index, line in enumerate(panel.lines):
      points = [point for point in line.points if point.errors is not None]
      # A few percent aside, or the bars of several lines would hide each other.
      aside = 1.015 ** (index - (len(panel.lines) - 1) / 2)
      at.errorbar(
          [panels.temperature(point) * aside for point in points],
          [point.errors for point in points], yerr=_bars(points),
          **canvas.style(index), markersize=4.5, linewidth=1.2, capsize=2.5,
          label=names.brief(line.label))
    at.set(title=panel.title, ylabel=panels.errors_of(sweep))
    at.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  values = [panels.temperature(point) for panel in shown
            for line in panel.lines for point in line.points]
  canvas.log_temperature(axes[-1, 0], values)
  return save(drawn, path)


def _levels(axes: Any, points: Sequence[Point], sweep: Sweep) -> None:
  """Draws points without T as horizontal bands."""
  for index, point in enumerate(points):
    if point.errors is None:
      continue
    label = names.label(point.values, [
        key for key in sweep.telling if key != "student.widths"])
    axes.axhline(point.errors, color=GREY, linewidth=1.2,
                 linestyle=canvas.DASHES[index % len(canvas.DASHES)],
                 label=names.brief(label) or "reference")
    if point.half:
      axes.axhspan(point.low, point.high, color=GREY, alpha=0.18, linewidth=0)


@styled
def heat_map(sweep: Sweep, path: pathlib.Path) -> bool:
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
    return False
  drawn, axes = figure(
      len(groups), 1, (1.8 + 0.62 * len(across),
                       (0.9 + 0.42 * len(up)) * len(groups)))
  for (title, group), at in zip(groups, axes[:, 0]):
    cells = {(up.index(p.values["alpha"]), across.index(panels.temperature(p))):
             p.errors for p in group}
    image = at.imshow(
        [[cells.get((y, x), float("nan")) for x in range(len(across))]
         for y in range(len(up))], origin="lower", aspect="auto", cmap="cividis_r")
    for (y, x), value in cells.items():
      # Dark cells hold many errors.
      text = "white" if image.norm(value) > 0.5 else "black"
      at.text(x, y, f"{value:.1f}", ha="center", va="center", color=text,
              fontsize=8)
    at.set_xticks(range(len(across)), [names.shown(value) for value in across])
    at.set_yticks(range(len(up)), [names.shown(value) for value in up])
    at.set(title=title, xlabel="temperature T",
           ylabel="alpha (share of the soft term)")
    at.grid(False)
    drawn.colorbar(image, ax=at, label="test errors, mean of seeds")
  return save(drawn, path)


@styled
def differences(sweep: Sweep, path: pathlib.Path) -> bool:
  """Paired differences from the reference with their intervals."""
  shown: list[Any] = [
      point for point in sweep.points if point.difference is not None]
  families = list(dict.fromkeys(point.reference for point in shown))
  if not shown:
    return False
  drawn, axes = figure(
      len(families), 1, (6.4, 0.8 + sum(
          0.55 + 0.2 * sum(p.reference == f for p in shown) for f in families)),
      height_ratios=[2 + sum(p.reference == f for p in shown) for f in families],
      sharex=True)
  for family, at in zip(families, axes[:, 0]):
    members = [point for point in shown if point.reference == family]
    alike = [key for key in sweep.keys if len(
        {names.shown(p.values.get(key)) for p in members}) == 1]
    rest = [key for key in sweep.keys if key not in alike]
    for y, point in enumerate(members):
      canvas.difference(
          at, y, point.difference, point.difference_low, point.difference_high,
          sure=point.p_holm is not None and point.p_holm < 0.05)
    at.set_yticks(range(len(members)), [
        names.brief(names.label(p.values, rest) or sweep.label(p))
        for p in members])
    at.axvline(0, color="black", linewidth=0.8)
    title = names.label(
        members[0].values, [key for key in alike if key in sweep.telling])
    at.set_title(f"{title or 'all points'}, against {_against(sweep)}",
                 loc="left")
    at.set_ylim(len(members) - 0.4, -0.6)
  axes[-1, 0].set_xlabel(
      "test errors minus the reference's, 95% interval; filled: p (Holm) < 0.05")
  return save(drawn, path)


def _against(sweep: Sweep) -> str:
  """The reference as it was asked for."""
  reference = sweep.reference or {}
  return names.label(reference, list(reference)) or "the reference"


def write(
    sweep: Sweep, sides: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Draws all there is to draw; returns the paths by the name of the plot.

  A picture of rows that are no more is removed. Of more points than a picture can
  show, only those of files beside the rows are drawn.

  Args:
    sweep: The points.
    sides: What stands in these files, by their names: `teacher`, `inspected`.
    folder: Where the pictures go.
  """
  of_rows = {
      "errors": errors_by_temperature, "heat": heat_map,
      "differences": differences, "learning": line_plots.learning,
      "inspected": line_plots.inspected, "reliability": line_plots.reliability}
  of_sides = {
      "dark": (soft_targets.knowledge, "teacher"),
      "cka": (inspected.alignment, "inspected"),
      "attention": (inspected.attention, "inspected")}
  found = {}
  for name in (*of_rows, *of_sides):
    path = folder / f"{name}.png"
    if name in of_rows:
      drawn = sweep.drawn and of_rows[name](sweep, path)
    else:
      draw, side = of_sides[name]
      drawn = sides.get(side) is not None and _of_side(draw, side, sides, path)
    if drawn:
      found[name] = path
    else:
      path.unlink(missing_ok=True)
  return found


def _of_side(
    draw: Callable[[Any, pathlib.Path], bool], side: str, sides: Mapping[str, Any],
    path: pathlib.Path,
) -> bool:
  try:
    return draw(sides[side], path)
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    raise UserError(
        f"{path.with_name(f'{side}.json')}: is not what a run writes "
        f"({type(error).__name__}); without it its picture is left out") from None
