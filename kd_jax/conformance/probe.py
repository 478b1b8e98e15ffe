"""Takes the hard and the soft term of a loss apart, and remembers what it said.

A loss that is linear in alpha is a straight line through any two points inside
(0, 1). Where the line meets alpha = 0 and alpha = 1, one term is alone, whatever
the loss does at the ends themselves. Which of them is which shows in what it
depends on: the hard term on labels, the soft one on the teacher.
"""

import functools
from typing import NamedTuple

import numpy as np

from kd_jax.conformance import oracle
from kd_jax.conformance.adapters import Adapted, Answer, Case

LOW, HIGH = 0.25, 0.75
# A term that changes by less, relative to the whole gradient, does not depend on
# what was changed. Losses that compute in float32 are off by some 1e-6.
_DEPENDS = 1e-3


class Part(NamedTuple):
  """A term: its value and its gradient by the student's logits, `[B, C]`."""

  value: np.float64
  gradient: np.ndarray


class Inseparable(Exception):
  """The soft term cannot be had alone, so nothing can be said of it."""


class Mixture(NamedTuple):
  """What alpha does.

  Attributes:
    kind: "soft" (the weight of the soft term, 1 - alpha of the hard one),
      "hard" (the other way round), "free soft" or "free hard" (alpha weighs that
      term, the other has a weight of its own), "scale" (that of a soft term
      alone), "none" (neither alpha nor labels matter), "fixed" (labels do, alpha
      does not), "unclear".
    bend: How far the loss is from linear in alpha, relative.
  """

  kind: str
  bend: float


class Probe:
  """Asks a loss; terms are those that it shows between alpha = 0 and 1."""

  def __init__(self, loss: Adapted, alpha: str = "soft"):
    self.loss = loss
    self.alpha = alpha
    self.problem = oracle.problem()
    self._asked: dict[tuple, Answer] = {}

  def ask(self, z: np.ndarray, v: np.ndarray, temperature: float, *,
          alpha: float, labels: np.ndarray | None = None,
          dtype: str = "float64") -> Answer:
    """The loss as it is; of what was asked before, the answer of then."""
    if labels is None:
      labels = self.problem.labels
    case = Case(z, v, labels, temperature, alpha, dtype)
    key = tuple(x.tobytes() if isinstance(x, np.ndarray) else x for x in case)
    if key not in self._asked:
      self._asked[key] = self.loss.ask(case)
    return self._asked[key]

  @property
  def mostly_soft(self) -> float:
    """The alpha inside (0, 1) at which the soft term weighs more."""
    return LOW if self.mixture.kind in ("hard", "free hard") else HIGH

  def soft(self, z: np.ndarray, v: np.ndarray, temperature: float, *,
           labels: np.ndarray | None = None) -> Part:
    """The soft term alone, at weight 1.

    Raises:
      Inseparable: If the hard term cannot be taken away.
    """
    kind = self.mixture.kind
    if kind in ("fixed", "unclear"):
      raise Inseparable("the hard term cannot be taken away: see alpha")
    if kind == "none":
      return _part(self.ask(z, v, temperature, alpha=0.5, labels=labels))
    at_0, at_1 = self._ends(z, v, temperature, labels)
    if kind == "free soft":
      return _minus(at_1, at_0)
    # With a free hard term, alpha = 0 leaves the soft one alone as well.
    return at_0 if kind in ("hard", "free hard") else at_1

  def hard(self, z: np.ndarray, v: np.ndarray, temperature: float) -> Part:
    """The hard term alone, at weight 1."""
    at_0, at_1 = self._ends(z, v, temperature, None)
    kind = self.mixture.kind
    if kind == "hard":
      return at_1
    return _minus(at_1, at_0) if kind == "free hard" else at_0

  def _ends(self, z, v, temperature, labels) -> tuple[Part, Part]:
    low, high = (_part(self.ask(z, v, temperature, alpha=a, labels=labels))
                 for a in (LOW, HIGH))
    slope = 1 / (HIGH - LOW)
    line = lambda at: Part(
        low.value + (at - LOW) * slope * (high.value - low.value),
        low.gradient + (at - LOW) * slope * (high.gradient - low.gradient))
    return line(0.0), line(1.0)

  @functools.cached_property
  def mixture(self) -> Mixture:
    """What alpha does, at T = 1, where no factor of T can hide a term."""
    z, v, y = self.problem
    shown = self._ends(z, v, 1.0, y)
    whole = max(np.linalg.norm(end.gradient) for end in shown)
    changed = lambda other: tuple(
        bool(np.linalg.norm(a.gradient - b.gradient) > _DEPENDS * whole)
        for a, b in zip(shown, other))
    teacher = changed(self._ends(z, oracle.another_teacher(), 1.0, y))
    labels = changed(self._ends(z, v, 1.0, (y + 1) % oracle.CLASSES))
    middle = _part(self.ask(z, v, 1.0, alpha=0.5)).gradient
    bend = np.linalg.norm(
        middle - (shown[0].gradient + shown[1].gradient) / 2) / whole
    same = np.linalg.norm(
        shown[0].gradient - shown[1].gradient) <= _DEPENDS * whole
    return Mixture(_kind(teacher, labels, bool(same)), float(bend))

  @functools.cached_property
  def usual(self) -> Part:
    """The soft term of the problem at T = 1."""
    return self.soft(*self.problem[:2], 1.0)


def _kind(teacher: tuple[bool, ...], labels: tuple[bool, ...],
          same: bool) -> str:
  """What alpha does, by what the loss depends on at alpha = 0 and 1."""
  if same:
    return "fixed" if any(labels) else "none"
  kinds: dict[tuple[tuple[bool, ...], ...], str] = {
      ((False, True), (True, False)): "soft",
      ((True, False), (False, True)): "hard",
      ((False, True), (True, True)): "free soft",
      ((True, True), (False, True)): "free hard",
      ((False, True), (False, False)): "scale",
  }
  return kinds.get((teacher, labels), "unclear")


def _part(answer: Answer) -> Part:
  assert answer.student is not None
  return Part(answer.value, answer.student)


def _minus(a: Part, b: Part) -> Part:
  return Part(a.value - b.value, a.gradient - b.gradient)
