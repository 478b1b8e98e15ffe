"""What a finished net gets right and wrong, class by class, and how sure it is."""

from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kd_jax.report import canvas, line_plots, statistics
from kd_jax.training import metrics

# Top-5 says little of fewer classes than these.
_TOP, _MANY = 5, 10
# Of classes above this, the picture of the confusion has no numbers, and no names.
_NUMBERS, _NAMES = 20, 40
_SHOWN = 12


class Scores(NamedTuple):
  """How good N answers are.

  Attributes:
    examples: N.
    errors: Whose most probable class is another than the label.
    low, high: The exact 95% interval of errors / N, of the choice of examples.
    top5_errors: Whose label is not among the five; None for few classes.
    nll: Mean negative log-likelihood, in nats.
    ece: Expected calibration error (Guo et al. 2017).
  """

  examples: int
  errors: int
  low: float
  high: float
  top5_errors: int | None
  nll: float
  ece: float


class OfClass(NamedTuple):
  """A class among the answers.

  Attributes:
    name: Of the class.
    examples: That have its label.
    errors: Of these, not taken for it.
    taken: Of other labels, taken for it.
    recall, precision: Of what has its label, and of what is taken for it, the part
      that is right; None of nothing.
    most: The class that it is most often taken for, and how often; None without
      errors.
  """

  name: str
  examples: int
  errors: int
  taken: int
  recall: float | None
  precision: float | None
  most: tuple[str, int] | None


def scores(
    logits: np.ndarray, label: np.ndarray, temperature: float = 1.0
) -> Scores:
  """How good the answers softmax(logits / T) are.

  Args:
    logits: `[N, classes]`.
    label: `[N]`.
    temperature: T, which moves NLL and ECE alone.

  Example:
    >>> found = scores(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    >>> found.errors, round(found.nll, 3)
    (1, 0.72)
  """
  number, classes = logits.shape
  found = _measured(logits / temperature, label)
  wrong = int(found["errors"].total)
  top5 = None
  if classes >= _MANY:
    # A label is among the five where fewer than five classes are above it.
    above = np.sum(logits > logits[np.arange(number), label][:, None], axis=-1)
    top5 = int(np.sum(above >= _TOP))
  low, high = statistics.binomial_interval(wrong, number)
  return Scores(
      number, wrong, low, high, top5, found["nll"].compute(),
      found["ece"].compute())


def fitted_temperature(logits: np.ndarray, label: np.ndarray) -> float:
  r"""The T that makes held-out answers most likely.

    T* = argmin_T -mean log softmax(logits / T)[label]

  The mean is convex in 1 / T, with the slope mean(sum_k p_k z_k - z_label), whose
  zero is found by halving. T is from 0.01 to 100.

  Source: Guo et al. (2017), section 4.2, temperature scaling.

  Example:
    >>> z = np.array([[4.0, 0.0]] * 4)  # 3 of 4 right: p = 0.75 at z / T = log 3
    >>> round(fitted_temperature(z, np.array([0, 0, 0, 1])), 3)
    3.641
  """
  own = logits[np.arange(len(label)), label]
  low, high = np.log(0.01), np.log(100.0)  # Of 1 / T.
  for _ in range(60):
    inverse = np.exp(middle := (low + high) / 2)
    p = np.exp(_log_softmax(inverse * logits))
    slope = np.mean(np.sum(p * logits, -1) - own)
    low, high = (low, middle) if slope > 0 else (middle, high)
  return float(np.exp(-(low + high) / 2))


def confusion(predicted: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
  """How often a label (row) is taken for a class (column), `[classes, classes]`.

  Example:
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
  """
  return np.bincount(label * classes + predicted, minlength=classes**2).reshape(
      classes, classes)


def by_class(table: np.ndarray, names: Sequence[str]) -> list[OfClass]:
  """A line for each class of a `confusion`."""
  found = []
  for place, (name, row) in enumerate(zip(names, table)):
    right, examples = int(row[place]), int(row.sum())
    taken, other = int(table[:, place].sum()), row.copy()
    other[place] = 0
    most = (names[int(other.argmax())], int(other.max())) if other.any() else None
    found.append(OfClass(
        name, examples, examples - right, taken - right,
        right / examples if examples else None,
        right / taken if taken else None, most))
  return found


class Flips(NamedTuple):
  """What changed from one net to another, by ids of the examples.

  Attributes:
    mended: Wrong of the first, right of the second.
    broken: Right of the first, wrong of the second.
    both: Wrong of both, alike or not.
    alike: Of these, taken for the same class.
    agreement: Part of all examples that both take for the same class.
    p: Of "as many mended as broken" (McNemar's exact test).
  """

  mended: np.ndarray
  broken: np.ndarray
  both: np.ndarray
  alike: int
  agreement: float
  p: float


def flips(first: np.ndarray, second: np.ndarray, label: np.ndarray) -> Flips:
  """What changed between the classes that two nets say, `[N]`.

  Example:
    >>> found = flips(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0, 0, 0]))
    >>> found.mended.tolist(), found.broken.tolist(), found.both.tolist()
    ([1], [], [2])
  """
  wrong = first != label, second != label
  test = statistics.mcnemar(*(np.flatnonzero(each).tolist() for each in wrong))
  both = wrong[0] & wrong[1]
  return Flips(
      np.flatnonzero(wrong[0] & ~wrong[1]), np.flatnonzero(~wrong[0] & wrong[1]),
      np.flatnonzero(both),
      int(np.sum(both & (first == second))), float(np.mean(first == second)),
      test.p)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  z = logits.astype(np.float64)
  z -= z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _measured(logits: np.ndarray, label: np.ndarray) -> dict[str, Any]:
  """Errors, NLL and calibration, as of any split of a run."""
  return metrics.classification(
      jnp.asarray(logits, jnp.float32), jnp.asarray(label),
      jnp.ones(len(label), bool))


@canvas.styled
def draw_confusion(
    table: np.ndarray, names: Sequence[str], title: str, path: pathlib.Path
) -> bool:
  """The errors of a `confusion` as a picture; what is right is left out."""
  off = table.astype(float)
  np.fill_diagonal(off, np.nan)
  side = min(2.2 + 0.34 * len(names), 9.0)
  drawn, ((axes,),) = canvas.figure(1, 1, (side + 0.8, side))
  most = max(float(np.nanmax(off)) if len(names) > 1 else 0, 1)
  shown = axes.imshow(off, cmap="Blues", vmin=0, vmax=most)
  axes.grid(visible=False)
  axes.set(xlabel="taken for", ylabel="label", title=title)
  if len(names) <= _NAMES:
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
  if len(names) <= _NUMBERS:
    for row, column in np.argwhere(off > 0):
      value = int(off[row, column])
      axes.text(column, row, str(value), ha="center", va="center", fontsize=7,
                color="white" if value > 0.6 * most else "black")
  drawn.colorbar(shown, ax=axes, label="examples", shrink=0.7)
  return canvas.save(drawn, path, colours=None)


@canvas.styled
def draw_reliability(
    answers: Sequence[tuple[str, np.ndarray, np.ndarray]], path: pathlib.Path
) -> bool:
  """Accuracy against confidence; `(name, logits, label)` of each curve."""
  curves = []
  for name, logits, label in answers:
    bins = _measured(logits, label)["ece"]
    if points := line_plots.accuracy_by_confidence(
        bins.count.tolist(), bins.confidence.tolist(), bins.correct.tolist()):
      curves.append((name, points))
  if not curves:
    return False  # Too few examples for any bin.
  drawn, ((axes,),) = canvas.figure(1, 1, (4.4, 4.0))
  axes.plot([0, 1], [0, 1], color=canvas.GREY, linewidth=0.8, linestyle="--")
  for index, (name, points) in enumerate(curves):
    axes.plot(*zip(*points), markersize=4, label=name, **canvas.style(index))
  axes.set(xlabel=f"confidence (bins of {line_plots.LEAST_IN_BIN} or more)",
           ylabel="accuracy", xlim=(0, 1), ylim=(0, 1),
           title="Is a net as often right as it is sure?")
  axes.legend(loc="upper left")
  return canvas.save(drawn, path)


@canvas.styled
def draw_flips(
    images: np.ndarray, label: np.ndarray, predicted: tuple[np.ndarray, np.ndarray],
    found: Flips, names: Sequence[str], nets: tuple[str, str], path: pathlib.Path
) -> bool:
  """Images, uint8 `[N, H, W, 1 or 3]`, on which one of two nets alone is wrong."""
  groups = [(f"{nets[1]} mends", found.mended), (f"{nets[1]} breaks", found.broken)]
  groups = [(title, ids[:_SHOWN]) for title, ids in groups if len(ids)]
  if not groups:
    return False
  columns = 6
  lines = [-(-len(ids) // columns) for _, ids in groups]
  drawn, axes = canvas.figure(sum(lines), columns, (7.2, 1.5 * sum(lines) + 0.3))
  for each in axes.ravel():
    each.axis("off")
  row = 0
  for (title, ids), height in zip(groups, lines):
    for place, number in enumerate(ids):
      at = axes[row + place // columns][place % columns]
      canvas.picture(at, images[number].tolist())
      first, second = (names[each[number]] for each in predicted)
      at.set_title(f"{names[label[number]]}: {first} → {second}", fontsize=7)
    axes[row][0].text(-0.15, 0.5, title, rotation=90, va="center", ha="right",
                      fontsize=8, transform=axes[row][0].transAxes)
    row += height
  drawn.suptitle(f"label: {nets[0]} → {nets[1]}", fontsize=9)
  return canvas.save(drawn, path, colours=None)


def as_json(value: Any) -> Any:
  """Named tuples and arrays as JSON has them."""
  if isinstance(value, tuple) and hasattr(value, "_asdict"):
    return {name: as_json(each) for name, each in value._asdict().items()}
  if isinstance(value, dict):
    return {name: as_json(each) for name, each in value.items()}
  if isinstance(value, (list, tuple)):
    return [as_json(each) for each in value]
  return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
