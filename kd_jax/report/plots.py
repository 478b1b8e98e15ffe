"""The pictures of a sweep, as PNG.

Each function takes the sweep (or the teacher) and a path. It returns False, and
draws nothing, where there is nothing to draw.
"""

from collections.abc import Sequence
import pathlib
from typing import Any

from kd_jax.report import canvas, dark, names, panels
from kd_jax.report.canvas import (
  COLOURS,
  MARKERS,
  figure,
  log_temperature,
  save,
  styled,
)
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, Sweep

_GREY = "#595959"
# Of bins with fewer examples the accuracy is noise.
_LEAST_IN_BIN = 50
_ABOVE = 90  # letters of a title above a row of two axes


def _bars(points: Sequence[Point]) -> list[float]:
  return [point.half or 0.0 for point in points]


@styled
def errors_by_temperature(sweep: Sweep, path: pathlib.Path) -> bool:
  """Test errors against T, a line for all else, the reference as a band."""
  shown = [panel for panel in panels.panels(sweep) if any(
      point.errors is not None for line in panel.lines for point in line.points)]
  if not shown or not panels.varies(sweep):
    return False
  drawn, axes = figure(
      len(shown), 1, (6.4, 0.6 + 2.6 * len(shown)), sharex=True)
  for panel, at in zip(shown, axes[:, 0]):
    _levels(at, panel.levels, sweep)
    for index, line in enumerate(panel.lines):
      told = [point for point in line.points if point.errors is not None]
      # A few percent aside, or the bars of several lines would hide each other.
      aside = 1.015 ** (index - (len(panel.lines) - 1) / 2)
      at.errorbar(
          [panels.temperature(point) * aside for point in told],
          [point.errors for point in told], yerr=_bars(told),
          color=COLOURS[index % 7], marker=MARKERS[index % 7], markersize=4.5,
          linewidth=1.2, capsize=2.5, label=names.brief(line.label))
    at.set(title=panel.title, ylabel=panels.errors_of(sweep))
    at.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  values = [panels.temperature(point) for panel in shown
            for line in panel.lines for point in line.points]
  log_temperature(axes[-1, 0], values)
  return save(drawn, path)


def _levels(axes: Any, points: Sequence[Point], sweep: Sweep) -> None:
  """Draws points without T as horizontal bands."""
  for index, point in enumerate(points):
    if point.errors is None:
      continue
    label = names.label(point.values, [
        key for key in sweep.telling if key != "student.widths"])
    axes.axhline(point.errors, color=_GREY, linewidth=1.2,
                 linestyle=("--", ":", "-.")[index % 3],
                 label=names.brief(label) or "reference")
    if point.half:
      axes.axhspan(point.low, point.high, color=_GREY, alpha=0.18, linewidth=0)


@styled
def heat_map(sweep: Sweep, path: pathlib.Path) -> bool:
  """Test errors over T and alpha, a panel for all else."""
  told = [point for point in sweep.points if point.errors is not None
          and panels.has_temperature(point) and "alpha" in point.values]
  across = sorted({panels.temperature(point) for point in told})
  up = sorted({point.values["alpha"] for point in told})
  groups = panels.split(told, [
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


def _mean_curve(rows: Sequence[Row], name: str) -> list[float]:
  """The mean of curves; nothing where they are one epoch long, and no curves."""
  curves = [curve for row in rows
            if (curve := (row.get("curve") or {}).get(name))
            and None not in curve]
  means = [sum(values) / len(values) for values in zip(*curves)]
  return means if len(means) > 1 else []


def _shades(points: Sequence[Point]) -> list[Any]:
  """Colours in the order of the points: the palette, or a ramp for many."""
  if len(points) <= len(COLOURS):
    return list(COLOURS[:len(points)])
  return canvas.ramp(len(points))


def _one_line_panels(sweep: Sweep) -> list[panels.Panel]:
  """Panels whose points differ in T alone."""
  return panels.panels(
      sweep, by=[key for key in sweep.telling if key != panels.T] or ["-"])


@styled
def learning_curves(sweep: Sweep, path: pathlib.Path) -> bool:
  """Hard and soft term by epoch, mean of seeds, a line a point."""
  shown = _one_line_panels(sweep)
  terms = [(name, title) for name, title in (
      ("train_hard", "hard term"), ("train_soft", "soft term"))
           if any(_mean_curve(p.good, name) for p in sweep.points)]
  if not shown or not terms:
    return False
  # Of logits matched by their squares the soft term has no unit.
  plain = {row.get("method") for row in sweep.rows} <= {"kd", "hard"}
  unit = "nats, " if plain else ""
  drawn, axes = figure(
      len(shown), len(terms),
      (1.4 + 3.2 * len(terms), 0.6 + 2.4 * len(shown)), sharex=True)
  for panel, row in zip(shown, axes):
    for (name, title), at in zip(terms, row):
      for label, style, point in _drawn(panel, sweep):
        curve = _mean_curve(point.good, name)
        if curve:
          at.plot(range(1, len(curve) + 1), curve, label=label, **style)
      at.set_ylabel(f"{title}, {unit}log scale")
      canvas.log_loss(at)
    _named(row, panel)
    _legend(row)
  for at in axes[-1]:
    at.set_xlabel("epoch")
    at.xaxis.get_major_locator().set_params(integer=True)
  return save(drawn, path)


def _named(row: Sequence[Any], panel: panels.Panel) -> None:
  """The panel's title above a row of axes, once, as it may be long."""
  row[0].set_title(names.brief(panel.title, _ABOVE), loc="left")


def _legend(row: Sequence[Any]) -> None:
  """One legend for all axes of a row, at its right."""
  known: dict[str, Any] = {}
  for at in row:
    handles, labels = at.get_legend_handles_labels()
    known |= dict(zip(labels, handles))
  row[-1].legend(list(known.values()), list(known), loc="center left",
                 bbox_to_anchor=(1.0, 0.5), fontsize=7)


def _drawn(panel: panels.Panel, sweep: Sweep):
  """Label, style and point of everything in a panel of lines by T."""
  points = [point for line in panel.lines for point in line.points]
  for index, (point, shade) in enumerate(zip(points, _shades(points))):
    label = names.brief(
        names.label(point.values, [panels.T]) or sweep.label(point))
    yield label, {"color": shade, "linewidth": 1.1, "markersize": 3.5,
                  "marker": MARKERS[index % 7], "markevery": 0.2}, point
  for point in panel.levels:
    label = names.label(point.values, [
        key for key in sweep.telling if key != "student.widths"])
    yield names.brief(label) or "reference", {
        "color": _GREY, "linestyle": "--", "linewidth": 1.2}, point


@styled
def reliability(sweep: Sweep, path: pathlib.Path) -> bool:
  """Accuracy against confidence, bins added up over seeds, a line a point."""
  shown = [panel for panel in _one_line_panels(sweep) if any(
      row.get("test_bins") for line in panel.lines for point in line.points
      for row in point.good)]
  if not shown:
    return False
  drawn, axes = figure(
      len(shown), 2, (8.0, 0.5 + 2.7 * len(shown)), sharex=True, sharey="col")
  for panel, (whole, gap) in zip(shown, axes):
    whole.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="calibrated")
    gap.axhline(0, color="black", linewidth=0.8)
    for label, style, point in _drawn(panel, sweep):
      bins = _bins(point.good)
      style = {**style, "markevery": 1}
      whole.plot([c for c, _ in bins], [a for _, a in bins], label=label, **style)
      # On the diagonal a few percent cannot be seen.
      gap.plot([c for c, _ in bins], [a - c for c, a in bins], **style)
    whole.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    gap.set(ylabel="accuracy minus confidence")
    _named([whole, gap], panel)
    _legend([whole, gap])
  for at in axes[-1]:
    at.set_xlabel(f"confidence (bins of {_LEAST_IN_BIN} or more, all seeds)")
  return save(drawn, path)


def _bins(rows: Sequence[Row]) -> list[tuple[float, float]]:
  """Mean confidence and accuracy of the bins that hold enough."""
  bins = [row["test_bins"] for row in rows if row.get("test_bins")]
  total = lambda name: [sum(values) for values in zip(*(b[name] for b in bins))]
  return [(confidence / count, correct / count) for count, confidence, correct
          in zip(total("count"), total("confidence"), total("correct"))
          if count >= _LEAST_IN_BIN]


@styled
def differences(sweep: Sweep, path: pathlib.Path) -> bool:
  """Paired differences from the reference with their intervals."""
  told: list[Any] = [
      point for point in sweep.points if point.difference is not None]
  families = list(dict.fromkeys(point.reference for point in told))
  if not told:
    return False
  drawn, axes = figure(
      len(families), 1, (6.4, 0.8 + sum(
          0.55 + 0.2 * sum(p.reference == f for p in told) for f in families)),
      height_ratios=[2 + sum(p.reference == f for p in told) for f in families],
      sharex=True)
  for family, at in zip(families, axes[:, 0]):
    members = [point for point in told if point.reference == family]
    alike = [key for key in sweep.keys if len(
        {names.shown(p.values.get(key)) for p in members}) == 1]
    rest = [key for key in sweep.keys if key not in alike]
    for y, point in enumerate(members):
      sure = point.p_holm is not None and point.p_holm < 0.05
      colour = COLOURS[0 if point.difference < 0 else 1] if sure else _GREY
      half = None if point.difference_low is None else [
          [point.difference - point.difference_low],
          [point.difference_high - point.difference]]
      at.errorbar([point.difference], [y], xerr=half, color=colour, capsize=2,
                  marker="o", markersize=4,
                  markerfacecolor=colour if sure else "white")
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
    sweep: Sweep, teacher: dict[str, Any] | None, folder: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Draws all there is to draw; returns the paths by the name of the plot.

  A picture of rows that are no more is removed.
  """
  drawings = {
      "errors": errors_by_temperature, "heat": heat_map,
      "differences": differences, "learning": learning_curves,
      "reliability": reliability,
      "dark": lambda _, path: dark.knowledge(teacher, path)}
  found = {}
  for name, draw in drawings.items():
    path = folder / f"{name}.png"
    if draw(sweep, path):
      found[name] = path
    else:
      path.unlink(missing_ok=True)
  return found
