"""The pictures of a sweep whose lines are points: learning curves, reliability."""

from collections.abc import Callable, Iterable, Sequence
import itertools
from typing import Any, NamedTuple

from kd_jax.core.words import counted
from kd_jax.report import canvas, names, panels
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, Sweep

# Of bins with fewer examples the accuracy is noise.
LEAST_IN_BIN = 50
_OF_BINS = ("count", "confidence", "correct")
_POINTS = 4  # whose gradients are shown


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
  return _first(found)


def _first(terms: Iterable[str]) -> list[str]:
  """Terms, the hard and the soft one first."""
  return sorted(terms, key=lambda name: (name != "hard", name != "soft", name))


class _Line(NamedTuple):
  """A point in a panel of curves."""

  label: str
  style: dict[str, Any]
  point: Point


def _panels(sweep: Sweep) -> list[tuple[str, list[_Line]]]:
  """Titles and lines: of points that differ in T alone, and of all others."""
  found = []
  fine = {"linewidth": 1.1, "markersize": 3.5, "markevery": 0.2}
  known = panels.panels(sweep)
  place = _places(known)
  for panel in known:
    for line in panel.lines:
      grey = [{"color": canvas.GREY, "linewidth": 1.2, "linestyle": dash}
              for dash in canvas.DASHES]
      shades = canvas.ramp(len(line.points))
      found.append((
          names.label(line.points[0].values,
                      [key for key in sweep.telling if key != panels.T]),
          [_Line(names.label(point.values, [panels.T]),
                 canvas.style(index) | fine | {"color": shade}, point)
           for index, (point, shade) in enumerate(zip(line.points, shades))]
          + [_Line(canvas.wrapped(panels.level(point, sweep)), style, point)
             for point, style in zip(
                 panels.beside(line, panel, sweep), grey)]))
    # Of more than so many some would look alike.
    for start in range(0, len(panel.others), canvas.LOOKS):
      some = panel.others[start:start + canvas.LOOKS]
      title, labels = panels.told_apart(some, sweep)
      found.append((title, [
          _Line(canvas.wrapped(label), canvas.style(place(point)) | fine, point)
          for label, point in zip(labels, some)]))
  return found


def _places(known: Sequence[panels.Panel]) -> Callable[[Point], int]:
  """The look of a point: of its method, where a panel has each method once."""
  apart = [[_method(point) for point in panel.others] for panel in known]
  once = all(len({*methods}) == len(methods) for methods in apart)
  methods = [*dict.fromkeys(itertools.chain(*apart))]
  index = {id(point): place for panel in known
           for place, point in enumerate(panel.others)}
  return lambda point: (
      methods.index(_method(point)) if once else index[id(point)])


def _terms(sweep: Sweep) -> dict[str, list[str]]:
  """The terms of each method's loss that some of its rows have recorded."""
  found: dict[str, list[Point]] = {}
  for point in sweep.points:
    found.setdefault(_method(point), []).append(point)
  return {method: _curves(points, "train_") for method, points in found.items()}


def _method(point: Point) -> str:
  return str(point.runs[0].get("method"))


@canvas.styled
def learning(sweep: Sweep) -> Any:
  """The terms of the loss by epoch, mean of seeds, a line a point."""
  known, shown = _terms(sweep), []
  for title, lines in _panels(sweep):
    wanted = {term: [line.point for line in lines
                     if term in known[_method(line.point)]]
              for term in _first({
                  term for line in lines for term in known[_method(line.point)]})}
    lost = {term: sum(not _recorded(point, term) for point in points)
            for term, points in wanted.items()}
    terms = _curves([line.point for line in lines], "train_")
    # A panel of nothing would look as if it were broken.
    notes = [f"{term} term: not recorded" for term in wanted if term not in terms]
    if terms:
      shown.append((", ".join(filter(None, [title, *notes])), lines, {
          term: f"not recorded: {lost[term]} of {len(wanted[term])}"
          if lost[term] else "" for term in terms}))
  if not shown:
    return None
  # Of logits matched by their squares the soft term has no unit.
  plain = {row.get("method") for row in sweep.rows} <= {"kd", "hard"}
  unit = " (nats)" if plain else ""
  drawn, parts = canvas.stacked(
      [(title, [line.label for line in lines], max(2, len(terms)))
       for title, lines, terms in shown], height=2.4)
  for (_, lines, noted), (_, row) in zip(shown, parts):
    for (term, note), at in zip(noted.items(), row):
      for label, style, point in lines:
        curve = _mean_curve(point.good, f"train_{term}")
        if any(curve):
          at.plot(range(1, len(curve) + 1), curve, label=label, **style)
      at.set(xlabel="epoch", ylabel=f"{term} term{unit}, log scale")
      at.set_title(note, fontsize=8)
      canvas.log_axis(at, "y")
      at.xaxis.get_major_locator().set_params(integer=True)
    for empty in row[len(noted):]:
      empty.remove()
  canvas.legends(parts, [title for title, _, _ in shown])
  return drawn


def _recorded(point: Point, term: str) -> bool:
  return any((row.get("curve") or {}).get(f"train_{term}") for row in point.good)


@canvas.styled
def inspected(sweep: Sweep) -> Any:
  """Shares of the terms in the gradient, and CKA of pairs, by epoch, a row a point.
  """
  kinds = [(kind, label) for kind, label in (
      ("share_", "share of gradient's norm"), ("cka_", "linear CKA"))
           if _curves(sweep.points, kind)]
  found = [point for point in sweep.points
           if any(_curves([point], kind) for kind, _ in kinds)]
  if not found:
    return None
  points, more = found[:_POINTS], len(found) - _POINTS
  titles = [*map(sweep.label, points)]
  if more > 0:
    titles[-1] += f" ({counted(more, 'more point')} not shown)"
  curves = [[{canvas.wrapped(name): _mean_curve(point.good, kind + name)
              for name in _curves([point], kind)} for kind, _ in kinds]
            for point in points]
  drawn, parts = canvas.stacked(
      [(title, [name for both in known for name in both], len(kinds))
       for title, known in zip(titles, curves)], height=2.4)
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
  canvas.legends(parts, titles)
  return drawn


@canvas.styled
def reliability(sweep: Sweep) -> Any:
  """Accuracy against confidence, bins added up over seeds, a line a point."""
  shown = [(title, lines) for title, lines in _panels(sweep) if any(
      _binned(line.point.good) for line in lines)]
  if not shown:
    return None
  drawn, parts = canvas.stacked(
      [(title, [line.label for line in lines], 2) for title, lines in shown],
      height=2.4)
  for (_, lines), (_, (whole, gap)) in zip(shown, parts):
    whole.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    gap.axhline(0, color="black", linewidth=0.8)
    for label, style, point in lines:
      bins = _bins(point.good)
      style = {**style, "markevery": 1}
      whole.plot([c for c, _ in bins], [a for _, a in bins], label=label, **style)
      # On the diagonal a few percent cannot be seen.
      gap.plot([c for c, _ in bins], [a - c for c, a in bins], **style)
    whole.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
    gap.set(ylabel="accuracy minus confidence", xlabel="confidence")
  canvas.legends(parts, [title for title, _ in shown])
  return drawn


def _bins(rows: Sequence[Row]) -> list[tuple[float, float]]:
  """Mean confidence and accuracy of the bins that hold enough."""
  bins = _binned(rows)
  total = lambda name: [sum(values) for values in zip(*(b[name] for b in bins))]
  return accuracy_by_confidence(*map(total, _OF_BINS))


def _binned(rows: Sequence[Row]) -> list[dict[str, Sequence[float]]]:
  """The bins of the rows that have them; those of other programs may not."""
  return [bins for row in rows
          if (bins := row.get("test_bins") or {}).keys() >= {*_OF_BINS}]


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
