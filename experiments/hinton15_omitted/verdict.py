"""What the rows of `hinton15_omitted` say, beside the paper."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from experiments import claims, sources, words
from experiments.hinton15_omitted import bias
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, statistics

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
        trained = _of(rows.get("trained", ()), classes, soft)
        twins = _of(rows["biases"], classes, soft)
        lines += _lines(f"{name}, {loss}", trained, done, twins,
                        PAPER[name] if soft else ("",) * 4)
  head = ["transfer set, bias", "paper", "errors of 10,000", "paper, left out",
          "errors on what was left out", "bias"]
  return words.table(head, lines) + (
      f"\n{words.SPREAD} {words.APART} *Best on the test set* is chosen on the "
      "very examples that are counted, as in the paper. The others are chosen on a "
      "held-out tenth by two twins of the students, trained on the rest: by its "
      "labels, or by how frequent the classes are alone. Every student is counted "
      "with the bias of each twin: errors are the mean of both, and then those by "
      "each twin; the interval holds given these twins. *As trained* is counted "
      "from the nets' own test errors, the others from their logits in float16, "
      "which gives up to 4 errors more or less at bias 0.\n"
      "\nThe paper's are single runs, of a teacher that is none of ours. They "
      "are looked for where the mean of one more teacher's students lies with 95%, "
      "mean ± t s sqrt(1 + 1 / g), of the means of g teachers, as these differ "
      "more than students of one do:\n\n" + "\n".join([*_papers(rows, sets), ""]))


def _papers(rows: Rows, sets: Sets) -> list[str]:
  """Whether the paper's numbers may be of one more teacher's students."""
  lines = []
  for name, (classes, _) in sets.items():
    done = _of(rows["curves"], classes, True)
    trained = _of(rows.get("trained", ()), classes, True)
    for which, number, own, values in (
        ("as trained", PAPER[name][0], trained, _each(trained, "test_errors")),
        ("best bias", PAPER[name][2], done, _best(done, "errors"))):
      means = [statistics.summary(each).mean
               for each in words.grouped(own, values).values()]
      if place := claims.single(float(number), means):
        lines.append(f"- {name}, {which}: {number} in the paper, one more "
                     f"teacher's in {place.interval}: {place.verdict}.")
  return lines


def phrase(rows: Rows, sets: Sets) -> str:
  """Before and after, in a line."""
  found = []
  for name, (classes, _) in sets.items():
    done = _of(rows["curves"], classes, True)
    if done:
      twins = _of(rows["biases"], classes, True)
      trained = _of(rows.get("trained", ()), classes, True)
      before = words.spread(trained, _each(trained, "test_errors"), ".0f")
      after = words.spread(done, _best(done, "errors"), ".0f")
      found.append(
          f"{name}: {before}, with the bias that is best on the test set {after}, "
          "with one from held-out data "
          f"{_with(done, twins, 'by_labels', 'errors')}")
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
    axes.set(title=f"transfer set: {name}", ylabel="test errors, log scale",
             xlabel="bias added to the classes left out")
    canvas.log_axis(axes, "y")
  panels[0][0].legend()
  return canvas.save(drawn, file)


def _lines(name, trained, done, twins, paper) -> list[list[str]]:
  """As trained; with the best bias; with those chosen without the test set."""
  said = lambda values, form=".0f": words.spread(done, values, form)
  counted = lambda key: words.spread(trained, _each(trained, key), ".0f")
  label = lambda bias: sources.linked(f"{name}: {bias}", done)
  lines = [
      [label("as trained"), paper[0], counted("test_errors"), paper[1],
       counted("omitted_errors"), "0"],
      [label("best on the test set"), paper[2], said(_best(done, "errors")),
       paper[3], said(_best(done, "omitted_errors")), said(_optima(done), ".1f")]]
  chosen_by = {"by_labels": "held-out labels", "by_prior": "class prior"}
  return lines + [
      [label(f"from {called}"), "", _with(done, twins, key, "errors"), "",
       _with(done, twins, key, "omitted_errors"),
       ", ".join(f"{twin[key]:g}" for twin in twins)]
      for key, called in chosen_by.items() if twins]


def _of(rows: Sequence[Row], classes: Sequence[int], soft: bool) -> list[Row]:
  return [row for row in rows
          if tuple(row["overrides"]["transfer.classes"]) == tuple(classes)
          and bool(row["overrides"]["alpha"]) == soft]


def _each(rows: Sequence[Row], key: str) -> list[int]:
  return [row[key] for row in rows]


def _at(rows: Sequence[Row], b: float, name: str) -> list[int]:
  return [bias.at(row[name], b) for row in rows]


def _optima(rows: Sequence[Row]) -> list[float]:
  """The bias with which each student makes the fewest errors."""
  return [bias.best(np.asarray(row["errors"])) for row in rows]


def _best(rows: Sequence[Row], name: str) -> list[int]:
  return [bias.at(row[name], b) for row, b in zip(rows, _optima(rows), strict=True)]


def _with(
    rows: Sequence[Row], twins: Sequence[Row], key: str, name: str
) -> str:
  """The mean over twins' biases of what students count, and with each of them."""
  if not twins:
    return ""
  each = np.array([_at(rows, twin[key], name) for twin in twins])
  apart = " and ".join(f"{count:.0f}" for count in each.mean(axis=1))
  return (f"{words.spread(rows, each.mean(axis=0).tolist(), '.0f')}, {apart} by "
          "each twin")
