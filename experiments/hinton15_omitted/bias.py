"""What a bias on the classes that a student never saw does to its errors.

The net says argmax_c (z_c + b [c in omitted]). Its training never asked for the
omitted classes' bias, so it is too low; the rest of what the net knows of them came
with the soft targets (Hinton, Vinyals & Dean 2015, section 3).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# The biases of a curve: from -2 to 16 in tenths, then to 40 in halves.
GRID = np.round(np.concatenate(
    [np.arange(-20, 161) * 0.1, np.arange(33, 81) * 0.5]), 1)


class Curve(NamedTuple):
  """Errors at every bias of `GRID`: of all examples, and of the omitted classes."""

  errors: np.ndarray
  omitted: np.ndarray


def curve(logits: np.ndarray, label: np.ndarray, omitted: Sequence[int]) -> Curve:
  """The errors of logits `[N, classes]` under each bias of the omitted classes.

  Example:
    >>> both = curve(np.array([[1.0, 0.55]]), np.array([1]), [1])
    >>> GRID[both.errors == 0][0]  # 0.55 + b > 1
    np.float64(0.5)
  """
  inside = np.isin(np.arange(logits.shape[1]), omitted)
  best = lambda mask: np.where(mask, logits, -np.inf)
  seen, unseen = best(~inside), best(inside)
  margin = seen.max(1) - unseen.max(1)
  right_seen, right_unseen = seen.argmax(1) == label, unseen.argmax(1) == label
  # [biases, N]: whether the bias lifts an omitted class above the others.
  lifted = GRID[:, None] > margin
  wrong = np.where(lifted, ~right_unseen, ~right_seen)
  return Curve(wrong.sum(1), wrong[:, np.isin(label, omitted)].sum(1))


def best(errors: np.ndarray) -> float:
  """The bias with the fewest errors; of several the one in the middle."""
  places = np.flatnonzero(errors == errors.min())
  return float(GRID[places[len(places) // 2]])


def from_prior(
    logits: np.ndarray, omitted: Sequence[int], prior: float
) -> float:
  """The bias at which the omitted classes get `prior` of the probability.

  mean_n sum_{c omitted} softmax(z_n + b)_c = prior, by bisection: no label is
  needed, only how frequent the classes are.
  """
  inside = np.isin(np.arange(logits.shape[1]), omitted)
  total = lambda mask: np.log(np.exp(
      logits[:, mask] - logits.max(1, keepdims=True)).sum(1))
  odds = total(inside) - total(~inside)
  low, high = -50.0, 50.0
  for _ in range(60):
    middle = (low + high) / 2
    mass = np.mean(1 / (1 + np.exp(-(odds + middle))))
    low, high = (middle, high) if mass < prior else (low, middle)
  return round(low, 2)


def at(errors: Sequence[int], bias: float) -> int:
  """A curve's value at the grid's nearest bias."""
  return int(errors[int(np.abs(GRID - bias).argmin())])


def row(logits, label, omitted: Sequence[int]) -> dict[str, Any]:
  """A net's curve, as it is recorded."""
  both = curve(logits, label, omitted)
  return {"omitted": list(omitted), "errors": both.errors.tolist(),
          "omitted_errors": both.omitted.tolist(),
          "omitted_examples": int(np.isin(label, omitted).sum())}


def without(
    row: Mapping[str, Any], label: np.ndarray, omitted: Sequence[int]
) -> dict[str, Any]:
  """The errors of a net with no bias, from the ids that its row has as wrong.

  Its logits are kept in float16, which is enough for a curve, but of 10,000
  examples a few have two classes that float16 does not tell apart.

  Example:
    >>> row = {"test_errors": 2, "test_wrong_ids": [0, 3]}
    >>> without(row, np.array([3, 1, 3, 1]), [3])["omitted_errors"]
    1
  """
  wrong = np.asarray(row["test_wrong_ids"], np.int64)
  return {"omitted": list(omitted), "test_errors": row["test_errors"],
          "omitted_errors": int(np.isin(label[wrong], omitted).sum())}
