"""The pictures of a sweep whose lines are points: learning curves, reliability."""

from collections.abc import Sequence
import pathlib
from typing import Any

from kd_jax.report import canvas, names, panels
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, Sweep

# Of bins with fewer examples the accuracy is noise.
LEAST_IN_BIN = 50
_ABOVE = 90  # letters of a title above a row of two axes
_TERMS, _POINTS = 5, 4  # at most beside each other, and below each other


def _mean_curve(rows: Sequence[Row], name: str) -> list[float]:
  """The mean of curves; nothing where they are one epoch long, and no curves."""
  curves = [curve for row in rows
            if (curve := (row.get("curve") or {}).get(name))
            and None not in curve]
  means = [sum(values) / len(values) for values in zip(*curves)]
  return means if len(means) > 1 else []


def _curves(points: Sequence[Point], kind: str) -> list[str]:
  """The names of curves that begin so, without that; the hard and soft term first.
  """
  # The names first: a point may have as many rows as seeds.
  known = lambda point: {
      name for row in point.good for name in row.get("curve") or {}}
  found = {name.removeprefix(kind) for point in points for name in known(point)
           if name.startswith(kind) and any(_mean_curve(point.good, name))}
  return sorted(found, key=lambda name: (name != "hard", name != "soft", name))


def _shades(points: Sequence[Point]) -> list[Any]:
  """Colours in the order of the points: the palette, or a ramp for many."""
  if len(points) <= len(canvas.COLOURS):
    return list(canvas.COLOURS[:len(points)])
  return canvas.ramp(len(points))


def _one_line_panels(sweep: Sweep) -> list[panels.Panel]:
  """Panels whose points differ in T alone; of the widths, where T does not vary."""
  found = panels.panels(
      sweep, by=[key for key in sweep.telling if key != panels.T] or ["-"])
  varies = any(len(line.points) > 1 for panel in found for line in panel.lines)
  return found if varies else panels.panels(sweep)


@canvas.styled
def learning(sweep: Sweep, path: pathlib.Path) -> bool:
  """The terms of the loss by epoch, mean of seeds, a line a point."""
  shown = _one_line_panels(sweep)
  few = [point for point in sweep.points if point.n]
  if not shown and few and len(few) <= len(canvas.COLOURS):
    # None has a T, as in a single run.
    shown = [panels.Panel("", [panels.Line("", few)], [])]
  terms = _curves(sweep.points, "train_")[:_TERMS]
  if not shown or not terms:
    return False
  # Of logits matched by their squares the soft term has no unit.
  plain = {row.get("method") for row in sweep.rows} <= {"kd", "hard"}
  unit = "nats, " if plain else ""
  heights = [canvas.height(2.4, _lines(panel)) for panel in shown]
  drawn, axes = canvas.figure(
      len(shown), len(terms), (1.4 + 3.2 * len(terms), 0.6 + sum(heights)),
      height_ratios=heights, sharex=True)
  for panel, row in zip(shown, axes):
    for term, at in zip(terms, row):
      for label, style, point in _drawn(panel, sweep):
        curve = _mean_curve(point.good, f"train_{term}")
        if any(curve):
          at.plot(range(1, len(curve) + 1), curve, label=label, **style)
      at.set_ylabel(f"{term} term, {unit}log scale")
      canvas.log_loss(at)
    _named(row, panel)
    _legend(row)
  for at in axes[-1]:
    at.set_xlabel("epoch")
    at.xaxis.get_major_locator().set_params(integer=True)
  return canvas.save(drawn, path)


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


def _lines(panel: panels.Panel) -> int:
  """How many lines `_drawn` gives."""
  return sum(len(line.points) for line in panel.lines) + len(panel.levels)


def _drawn(panel: panels.Panel, sweep: Sweep):
  """Label, style and point of everything in a panel."""
  points = [(line, point) for line in panel.lines for point in line.points]
  # The shades of a ramp are in the order of T, which several lines are not in.
  styles = [canvas.style(index) for index in range(len(points))]
  if len(panel.lines) == 1:
    styles = [style | {"color": shade}
             for style, shade in zip(styles, _shades([p for _, p in points]))]
  for (line, point), style in zip(points, styles):
    at = names.label(point.values, [panels.T]) or sweep.label(point)
    label = at if len(panel.lines) == 1 else f"{at}, {line.label}"
    yield names.brief(label), style | {
        "linewidth": 1.1, "markersize": 3.5, "markevery": 0.2}, point
  for index, point in enumerate(panel.levels):
    label = names.label(point.values, [
        key for key in sweep.telling if key != "student.widths"])
    yield names.brief(label) or "reference", {
        "color": canvas.GREY, "linewidth": 1.2,
        "linestyle": canvas.DASHES[index % len(canvas.DASHES)]}, point


@canvas.styled
def inspected(sweep: Sweep, path: pathlib.Path) -> bool:
  """Shares of the terms in the gradient, and CKA of pairs, by epoch, a row a point.
  """
  kinds = [(kind, label) for kind, label in (
      ("share_", "share of the gradient's norm"), ("cka_", "linear CKA"))
           if _curves(sweep.points, kind)]
  points = [point for point in sweep.points
            if any(_curves([point], kind) for kind, _ in kinds)][:_POINTS]
  if not points:
    return False
  drawn, axes = canvas.figure(
      len(points), len(kinds), (0.6 + 4.4 * len(kinds), 0.4 + 2.4 * len(points)))
  for point, row in zip(points, axes):
    for (kind, label), at in zip(kinds, row):
      curves = {name: _mean_curve(point.good, kind + name)
                for name in _curves([point], kind)}
      if not curves:
        at.set_axis_off()
        continue
      for index, (name, curve) in enumerate(curves.items()):
        at.plot(range(1, len(curve) + 1), curve, label=name, markersize=3.5,
                linewidth=1.1, markevery=0.2, **canvas.style(index))
      lowest = min(min(curve) for curve in curves.values())
      at.set(ylabel=label, ylim=(min(0.0, lowest), 1.02), xlabel="epoch")
      at.xaxis.get_major_locator().set_params(integer=True)
      at.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    row[0].set_title(names.brief(sweep.label(point), _ABOVE), loc="left")
  return canvas.save(drawn, path)


@canvas.styled
def reliability(sweep: Sweep, path: pathlib.Path) -> bool:
  """Accuracy against confidence, bins added up over seeds, a line a point."""
  shown = [panel for panel in _one_line_panels(sweep) if any(
      row.get("test_bins") for line in panel.lines for point in line.points
      for row in point.good)]
  if not shown:
    return False
  heights = [canvas.height(2.7, 1 + _lines(panel)) for panel in shown]
  drawn, axes = canvas.figure(
      len(shown), 2, (8.0, 0.5 + sum(heights)), height_ratios=heights,
      sharex=True, sharey="col")
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
    at.set_xlabel(f"confidence (bins of {LEAST_IN_BIN} or more, all seeds)")
  return canvas.save(drawn, path)


def _bins(rows: Sequence[Row]) -> list[tuple[float, float]]:
  """Mean confidence and accuracy of the bins that hold enough."""
  bins = [row["test_bins"] for row in rows if row.get("test_bins")]
  total = lambda name: [sum(values) for values in zip(*(b[name] for b in bins))]
  return accuracy_by_confidence(
      total("count"), total("confidence"), total("correct"))


def accuracy_by_confidence(
    count: Sequence[int], confidence: Sequence[float], correct: Sequence[int]
) -> list[tuple[float, float]]:
  """Mean confidence and accuracy of each bin that holds enough, from its sums.

  Example:
    >>> accuracy_by_confidence([100, 1], [60.0, 0.9], [50, 1])
    [(0.6, 0.5)]
  """
  return [(sure / each, right / each) for each, sure, right
          in zip(count, confidence, correct) if each >= LEAST_IN_BIN]
