r"""Logits to judge on, and gradients in closed form, in float64 NumPy.

For an objective L of one example, with q and p the softmax of z and v at T = 1,

  KL(p || q):  dL/dz = q - p                                     (Hinton, eq. 2)
  KL(q || p):  dL/dz = q * (log q - log p - KL(q || p))

and so on below; `GRADIENTS` names what a wrong loss may be instead. Wherever a
second softmax acts on probabilities, its gradient passes the first one's
Jacobian, J_q g = q * (g - <q, g>).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Numbers that no wrong factor confuses: 1/7, 6, 1/42, and 1/4, 1/16 of T = 4.
EXAMPLES, CLASSES = 6, 7
_SEED = 20150309  # Of arXiv 1503.02531, by its date.
# The logit of a class of no probability: e^-20 of the others' at T = 4. A loss may
# compute in float32, which still holds the e^-80 of T = 1: its logarithm is finite.
NEVER = -80.0


class Problem(NamedTuple):
  """Logits z and v, `[B, classes]`, and labels `[B]`."""

  student: np.ndarray
  teacher: np.ndarray
  labels: np.ndarray


def problem() -> Problem:
  """Logits of a net's size, multiples of 1/4: exact in half precision too."""
  draw = np.random.default_rng(_SEED)
  logits = lambda: np.round(
      4 * draw.normal(0, 2, (EXAMPLES, CLASSES))) / 4
  return Problem(logits(), logits(), draw.integers(0, CLASSES, EXAMPLES))


def another_teacher() -> np.ndarray:
  """Other logits v, `[B, classes]`."""
  draw = np.random.default_rng(_SEED + 1)
  return np.round(4 * draw.normal(0, 2, (EXAMPLES, CLASSES))) / 4


def softmax(logits: np.ndarray) -> np.ndarray:
  """Probabilities of the last axis."""
  weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return weights / weights.sum(axis=-1, keepdims=True)


def entropy(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Of the softmax at T, in nats, `[...]`."""
  p = softmax(logits / temperature)
  return -np.sum(p * np.log(p), axis=-1)


def centred(logits: np.ndarray) -> np.ndarray:
  """Less their mean over classes."""
  return logits - logits.mean(axis=-1, keepdims=True)


def hard_gradient(student: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Of the cross-entropy with the labels at T = 1, an example: q - e_y."""
  return softmax(student) - np.eye(student.shape[-1])[labels]


def fit(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
  """How much of `expected` there is, and what is left over.

  Returns:
    `(size, rest)`: found = size * expected + a remainder of relative norm rest;
    `(0, 1)` where they do not point the same way, or nothing was found.
  """
  norm = np.linalg.norm(found)
  size = float(np.vdot(found, expected) / np.vdot(expected, expected))
  if not norm > 0 or not size > 0:  # Also where it is not a number.
    return 0.0, 1.0
  return size, float(np.linalg.norm(found - size * expected) / norm)


def _forward(z, v):
  return softmax(z) - softmax(v)


def _reverse(z, v):
  q, p = softmax(z), softmax(v)
  gap = np.log(q / p)
  return q * (gap - np.sum(q * gap, axis=-1, keepdims=True))


def _jensen_shannon(z, v):
  q, p = softmax(z), softmax(v)
  gap = np.log(2 * q / (q + p))
  return q * (gap - np.sum(q * gap, axis=-1, keepdims=True)) / 2


def _through_softmax(z, gradient):
  q = softmax(z)
  return q * (gradient - np.sum(q * gradient, axis=-1, keepdims=True))


def _brier(z, v):
  return _through_softmax(z, softmax(z) - softmax(v))


def _raw_targets(z, v):
  return softmax(z) * v.sum(axis=-1, keepdims=True) - v


class Known(NamedTuple):
  """A gradient that losses are seen to have: of `(z, v)` at T = 1.

  Attributes:
    name: What the loss is then.
    once: Whether it applies softmax exactly once to each.
    gradient: In closed form.
  """

  name: str
  once: bool
  gradient: Callable[[np.ndarray, np.ndarray], np.ndarray]


FORWARD = Known("KL(teacher || student)", True, _forward)
GRADIENTS = (
    FORWARD,
    Known("KL(student || teacher), reversed", True, _reverse),
    Known("the Jensen-Shannon divergence", True, _jensen_shannon),
    Known("the squared distance of probabilities", True, _brier),
    Known("KL with its sign turned", True, lambda z, v: -_forward(z, v)),
    Known("softmax applied twice", False, lambda z, v: _through_softmax(
        z, softmax(softmax(z)) - softmax(softmax(v)))),
    Known("softmax applied twice to the student", False, lambda z, v:
          _through_softmax(z, softmax(softmax(z)) - softmax(v))),
    Known("softmax applied twice to the teacher", False, lambda z, v:
          softmax(z) - softmax(softmax(v))),
    Known("no softmax on the student", False, lambda z, v: -softmax(v)),
    Known("no softmax on either, exp(v) weighing v - z", False,
          lambda z, v: -np.exp(v)),
    Known("no softmax on the teacher", False, _raw_targets),
    Known("no softmax on the teacher, exp(v) weighing log q", False,
          lambda z, v: _raw_targets(z, np.exp(v))),
    Known("the squared distance of logits", False, lambda z, v: z - v),
    Known("the squared distance of centred logits", False,
          lambda z, v: centred(z - v)),
)


def recognise(found: np.ndarray, student: np.ndarray, teacher: np.ndarray,
              tolerance: float) -> Known | None:
  """The known gradient that `found` is a multiple of, if any."""
  for known in GRADIENTS:
    if fit(found, known.gradient(student, teacher))[1] < tolerance:
      return known
  return None
