"""What the rows of `hinton15_omitted` say, beside the paper."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from experiments import words
from experiments.hinton15_omitted import bias
from experiments.protocol import Rows
from kd_jax import statistics
from kd_jax.report import Row, canvas

Sets = Mapping[str, tuple[Sequence[int], int]]

# In the paper, of 10,000: errors, errors on what was left out, and the same with
# the bias that is best on the test set.
PAPER = {"no 3s": ("206", "133 of 1010", "109", "14"),
         "only 7s and 8s": ("4730", "", "1320", "")}
_LOSSES = {"soft targets": True, "hard labels": False}


def told(rows: Rows, sets: Sets) -> str:
  """Errors as trained and with each bias, for each transfer set."""
  lines: list[list[str]] = []
  for name, (classes, _) in sets.items():
    for loss, soft in _LOSSES.items():
      done = _of(rows["curves"], classes, soft)
      if done:
        twins = _of(rows["biases"], classes, soft)
        lines += _lines(f"{name}, {loss}", done, twins,
                        PAPER[name] if soft else ("",) * 4)
  head = ["transfer set, bias", "paper", "errors of 10,000", "paper, left out",
          "errors on what was left out", "bias"]
  return words.table(head, lines) + (
      "\nMean ± half the 95% t-interval over students (n), a third with each of "
      "three teachers. *Best on the test set* is chosen on the very examples that "
      "are counted, as in the paper; the other two are means over two students "
      "that were trained on nine tenths of the data, chosen on the held-out "
      "tenth: by its labels, or by how frequent the classes are alone.\n")


def phrase(rows: Rows, sets: Sets) -> str:
  """Before and after, in a line."""
  found = []
  for name, (classes, _) in sets.items():
    done = _of(rows["curves"], classes, True)
    if done:
      before, after = _at(done, 0.0, "errors"), _best(done)
      chosen = _chosen(_of(rows["biases"], classes, True), "by_labels")
      honest = [] if chosen is None else _at(done, chosen, "errors")
      found.append(
          f"{name}: {words.interval(before, '.0f')}, with the best bias "
          f"{words.interval(after, '.0f')}, with one from held-out data "
          f"{words.interval(honest, '.0f')}")
  return "; ".join(found)


@canvas.styled
def draw(rows: Rows, sets: Sets, file: pathlib.Path) -> bool:
  """Errors against the bias, a panel for each transfer set."""
  drawn, panels = canvas.figure(1, len(sets), (3.6 * len(sets), 3.0))
  for axes, (name, (classes, _)) in zip(panels[0], sets.items(), strict=True):
    for number, (loss, soft) in enumerate(_LOSSES.items()):
      curves = [row["errors"] for row in _of(rows["curves"], classes, soft)]
      for curve in curves:
        axes.plot(bias.GRID, curve, color=canvas.COLOURS[number], linewidth=0.5,
                  alpha=0.6, label=loss if curve is curves[0] else None)
    axes.set(title=f"transfer set: {name}", yscale="log", ylabel="test errors",
             xlabel="bias added to the classes left out")
    axes.legend()
  return canvas.save(drawn, file)


def _lines(name, done, twins, paper) -> list[list[str]]:
  """As trained; with the best bias; with those chosen without the test set."""
  cells = lambda b, *known: [
      known[0] if known else "", words.interval(_at(done, b, "errors"), ".0f"),
      known[1] if known else "",
      words.interval(_at(done, b, "omitted_errors"), ".0f"), f"{b:g}"]
  optima = [bias.best(np.asarray(row["errors"])) for row in done]
  lines = [
      [f"{name}: as trained", *cells(0.0, *paper[:2])],
      [f"{name}: best on the test set", paper[2],
       words.interval(_best(done), ".0f"), paper[3],
       words.interval([bias.at(row["omitted_errors"], b)
                       for row, b in zip(done, optima, strict=True)], ".0f"),
       words.interval(optima)]]
  chosen_by = {"by_labels": "held-out labels", "by_prior": "class prior"}
  for key, called in chosen_by.items():
    chosen = _chosen(twins, key)
    if chosen is not None:
      lines.append([f"{name}: from {called}", *cells(chosen)])
  return lines


def _of(rows: Sequence[Row], classes: Sequence[int], soft: bool) -> list[Row]:
  return [row for row in rows
          if tuple(row["overrides"]["transfer.classes"]) == tuple(classes)
          and bool(row["overrides"]["alpha"]) == soft]


def _at(rows: Sequence[Row], b: float, name: str) -> list[int]:
  return [bias.at(row[name], b) for row in rows]


def _best(rows: Sequence[Row]) -> list[int]:
  return [min(row["errors"]) for row in rows]


def _chosen(twins: Sequence[Row], key: str) -> float | None:
  """The mean over twins, to a tenth."""
  if not twins:
    return None
  return round(statistics.summary([row[key] for row in twins]).mean, 1)
