"""Ensemble selection from a library of models (Caruana et al. 2004, ICML)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


def rmse(p: np.ndarray, label: np.ndarray) -> np.ndarray:
  """sqrt(mean_i (p_i - y_i)**2), of the probability p of class 1, y in {0, 1}.

  Args:
    p: `[..., N]`.
    label: `[N]`.

  Returns:
    `[...]`.

  Example:
    >>> rmse(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 1]))
    array([0.70710678, 0.5       ])
  """
  return np.sqrt(np.mean(np.square(p - label), axis=-1))


def cross_entropy(p: np.ndarray, label: np.ndarray) -> np.ndarray:
  """-mean_i log of the probability of the label, in nats; arguments as of `rmse`.

  Example:
    >>> cross_entropy(np.array([0.5, 0.5]), np.array([0, 1])).round(4)
    np.float64(0.6931)
  """
  p = np.clip(p, 1e-6, 1 - 1e-6)
  return -np.mean(np.where(label == 1, np.log(p), np.log(1 - p)), axis=-1)


class Selected(NamedTuple):
  """An ensemble.

  Attributes:
    counts: How often each model is in it, int `[M]`.
    score: Its score on the examples that chose it.
    course: The score after each round, `[rounds]`.
  """

  counts: np.ndarray
  score: float
  course: np.ndarray

  @property
  def weights(self) -> np.ndarray:
    """Of the mean of the models' probabilities, `[M]`; they add up to 1."""
    return self.counts / self.counts.sum()


def select(
    p: np.ndarray, label: np.ndarray, *, rounds: int,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray] = rmse,
) -> Selected:
  """The best of the ensembles that greedy selection with replacement goes through.

  Each round adds the model with which the mean of the probabilities has the least
  score, whether it is in the ensemble or not; of equals the first. What is given
  back is the ensemble of the round with the least score, the earliest of equals.

  Args:
    p: Probabilities of class 1 on examples that no model has seen, `[M, N]`.
    label: `[N]`.
    rounds: How many models are added.
    score: `(p [M, N], label) -> [M]`, less is better.

  Example:
    >>> p = np.array([[0.8, 0.4], [0.4, 0.8], [0.6, 0.1]])
    >>> select(p, np.array([1, 1]), rounds=3).counts
    array([1, 1, 0])
  """
  total, chosen, course = np.zeros(p.shape[1]), [], []
  for size in range(1, rounds + 1):
    scores = score((total + p) / size, label)
    best = int(np.argmin(scores))
    chosen.append(best)
    course.append(float(scores[best]))
    total = total + p[best]
  end = int(np.argmin(course))
  return Selected(np.bincount(chosen[:end + 1], minlength=len(p)), course[end],
                  np.array(course))
