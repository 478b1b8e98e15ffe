"""The pictures of a sweep whose lines are points: learning curves, reliability."""

from collections.abc import Iterator, Sequence
from typing import Any

from kd_jax.report import canvas, names, panels
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, Sweep

# Of bins with fewer examples the accuracy is noise.
LEAST_IN_BIN = 50
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
def learning(sweep: Sweep) -> Any:
  """The terms of the loss by epoch, mean of seeds, a line a point."""
  shown = _one_line_panels(sweep)
  few = [point for point in sweep.points if point.n]
  if not shown and few and len(few) <= len(canvas.COLOURS):
    # None has a T, as in a single run.
    shown = [panels.Panel("", [panels.Line("", few)], [])]
  terms = _curves(sweep.points, "train_")[:_TERMS]
  if not shown or not terms:
    return None
  # Of logits matched by their squares the soft term has no unit.
  plain = {row.get("method") for row in sweep.rows} <= {"kd", "hard"}
  unit = " (nats)" if plain else ""
  drawn, parts = _panels(shown, sweep, len(terms), height=2.4)
  for panel, (_, row) in zip(shown, parts):
    for term, at in zip(terms, row):
      for label, style, point in _drawn(panel, sweep):
        curve = _mean_curve(point.good, f"train_{term}")
        if any(curve):
          at.plot(range(1, len(curve) + 1), curve, label=label, **style)
      at.set(xlabel="epoch", ylabel=f"{term} term{unit}, log scale")
      canvas.log_loss(at)
      at.xaxis.get_major_locator().set_params(integer=True)
  canvas.legends(parts, [panel.title for panel in shown])
  return drawn


def _panels(shown: Sequence[panels.Panel], sweep: Sweep, columns: int, **more: Any):
  """`canvas.stacked` with the labels of what `_drawn` gives."""
  return canvas.stacked(
      [(panel.title, [label for label, _, _ in _drawn(panel, sweep)])
       for panel in shown], columns,
      width=canvas.WIDTH / 2 * max(columns, 2), **more)


def _drawn(
    panel: panels.Panel, sweep: Sweep
) -> Iterator[tuple[str, dict[str, Any], Point]]:
  """Label, style and point of everything in a panel."""
  points = [(line, point) for line in panel.lines for point in line.points]
  # The shades of a ramp are in the order of T, which several lines are not in.
  styles: list[dict[str, Any]] = [
      canvas.style(index) for index in range(len(points))]
  if len(panel.lines) == 1:
    styles = [style | {"color": shade}
             for style, shade in zip(styles, _shades([p for _, p in points]))]
  for (line, point), style in zip(points, styles):
    at = names.label(point.values, [panels.T]) or sweep.label(point)
    label = at if len(panel.lines) == 1 else f"{at}, {line.label}"
    yield canvas.wrapped(label), style | {
        "linewidth": 1.1, "markersize": 3.5, "markevery": 0.2}, point
  for index, point in enumerate(panel.levels):
    yield canvas.wrapped(panels.level(point, sweep)), {
        "color": canvas.GREY, "linewidth": 1.2,
        "linestyle": canvas.DASHES[index % len(canvas.DASHES)]}, point


@canvas.styled
def inspected(sweep: Sweep) -> Any:
  """Shares of the terms in the gradient, and CKA of pairs, by epoch, a row a point.
  """
  kinds = [(kind, label) for kind, label in (
      ("share_", "share of gradient's norm"), ("cka_", "linear CKA"))
           if _curves(sweep.points, kind)]
  points = [point for point in sweep.points
            if any(_curves([point], kind) for kind, _ in kinds)][:_POINTS]
  if not points:
    return None
  curves = [[{canvas.wrapped(name): _mean_curve(point.good, kind + name)
              for name in _curves([point], kind)} for kind, _ in kinds]
            for point in points]
  drawn, parts = canvas.stacked(
      [(sweep.label(point), [name for both in known for name in both])
       for point, known in zip(points, curves)], len(kinds), height=2.4)
  for known, (_, row) in zip(curves, parts):
    looks = [*dict.fromkeys(name for lines in known for name in lines)]
    for (_, label), lines, at in zip(kinds, known, row):
      if not lines:
        at.set_axis_off()
        continue
      for name, curve in lines.items():
        at.plot(range(1, len(curve) + 1), curve, label=name, markersize=3.5,
                linewidth=1.1, markevery=0.2, **canvas.style(looks.index(name)))
      lowest = min(min(curve) for curve in lines.values())
      at.set(ylabel=label, ylim=(min(0.0, lowest), 1.02), xlabel="epoch")
      at.xaxis.get_major_locator().set_params(integer=True)
  canvas.legends(parts, map(sweep.label, points))
  return drawn


@canvas.styled
def reliability(sweep: Sweep) -> Any:
  """Accuracy against confidence, bins added up over seeds, a line a point."""
  shown = [panel for panel in _one_line_panels(sweep) if any(
      row.get("test_bins") for line in panel.lines for point in line.points
      for row in point.good)]
  if not shown:
    return None
  drawn, parts = _panels(shown, sweep, 2, height=2.4)
  for panel, (_, (whole, gap)) in zip(shown, parts):
    whole.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    gap.axhline(0, color="black", linewidth=0.8)
    for label, style, point in _drawn(panel, sweep):
      bins = _bins(point.good)
      style = {**style, "markevery": 1}
      whole.plot([c for c, _ in bins], [a for _, a in bins], label=label, **style)
      # On the diagonal a few percent cannot be seen.
      gap.plot([c for c, _ in bins], [a - c for c, a in bins], **style)
    whole.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
    gap.set(ylabel="accuracy minus confidence", xlabel="confidence")
  canvas.legends(parts, [panel.title for panel in shown])
  return drawn


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
