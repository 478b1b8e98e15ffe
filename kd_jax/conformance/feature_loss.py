"""Judges of a loss of features, loss(student_features, teacher_features)."""

from collections.abc import Collection
import functools
import math

import numpy as np

from kd_jax.conformance import oracle, taps
from kd_jax.conformance.adapters import Adapted, Answer
from kd_jax.conformance.finding import (
  EXACT,
  Finding,
  about,
  distance,
  figure,
  half_types,
  percent,
  relative,
  worst,
)
from kd_jax.conformance.properties import STOPPED, WIDE, Property

# A gradient of this many times the usual one has divided by about nothing.
_EXPLODED = 1e3


class Probe:
  """Asks a loss of features.

  Attributes:
    loss: What is asked, as of `targets.of_features`.
    shapes: Of the features.
    claims: Names of `taps.INVARIANCES` that the loss shall have.
    relational: Whether a batch may count as a whole.
  """

  def __init__(self, loss: Adapted, shapes: taps.Taps,
               claims: Collection[str] = ("examples",), relational: bool = False):
    self.loss, self.shapes = loss, shapes
    self.claims, self.relational = claims, relational
    self.problem = shapes.problem()

  def ask(self, student: np.ndarray, teacher: np.ndarray,
          dtype: str = "float64") -> Answer:
    """The loss of features `[batch, size]`."""
    return self.loss.ask(taps.case(student, teacher, dtype))

  @functools.cached_property
  def usual(self) -> Answer:
    """Of the problem."""
    return self.ask(*self.problem)


def equality(probe: Probe) -> Finding:
  """L is least where s = t, and dL/ds = 0 there, or L = 0 at a kink."""
  _, t = probe.problem
  there = probe.ask(t, t)
  push = relative(there.student, probe.usual.student)
  others = [probe.usual.value, *(
      probe.ask(t + step, t).value for step in (probe.problem[0] / 8, -t / 8))]
  rounding = EXACT * np.max(np.abs([there.value, *others]))
  least = bool(there.value <= min(others) + rounding)
  zero = abs(there.value) <= EXACT * abs(probe.usual.value)
  kink = bool(zero and push <= _EXPLODED)
  word = "the least" if least else f"{figure(min(others))} elsewhere"
  return Finding(
      least and (push <= EXACT or kink),
      f"gradient {figure(push)} of the usual; value {figure(there.value)}, {word}",
      {"gradient": push, "value": float(there.value)})


def teacher(probe: Probe) -> Finding:
  """dL/dt = 0."""
  if probe.usual.teacher is None:
    return Finding(None, "NumPy has no gradients to stop", {}, absent=True)
  share = relative(probe.usual.teacher, probe.usual.student)
  return Finding(share <= EXACT, f"{figure(share)} of the student's",
                 {"share": share})


def _invariance(name: str, probe: Probe) -> Finding:
  """L is the same; where it is not claimed, how far it is not."""
  s, t = probe.problem
  other = lambda rows: probe.shapes.changed(rows, name)
  changes = {"both": (other(s), other(t))} if taps.INVARIANCES[name].both else {
      "student": (other(s), t), "teacher": (s, other(t))}
  gaps = {which: distance(probe.ask(*pair).value, probe.usual.value)
          for which, pair in changes.items()}
  found = "changes by " + ", ".join(
      f"{percent(gap)} ({which})" for which, gap in gaps.items())
  if name not in probe.claims:
    return Finding(None, f"{found}; not claimed by --invariant", gaps, absent=True)
  return Finding(worst(*gaps.values()) <= EXACT, found, gaps)


def split(probe: Probe) -> Finding:
  """The loss of a batch is the mean of those of its halves."""
  s, t = probe.problem
  half = oracle.EXAMPLES // 2
  parts = [probe.ask(s[rows], t[rows]) for rows in (slice(half), slice(half, None))]
  mean = float(np.mean([part.value for part in parts]))
  gap = worst(distance(mean, probe.usual.value), distance(
      np.concatenate([part.student for part in parts]) / 2, probe.usual.student))
  found = f"{percent(gap)} off the mean of its halves"
  if probe.relational:
    twice = probe.ask(np.concatenate([s, s]), np.concatenate([t, t])).value
    ratio = float(twice / probe.usual.value)
    return Finding(
        None, f"{found}, x {ratio:.3g} when the batch is repeated; a batch counts "
        "as a whole (--relational)", {"gap": gap, "ratio": ratio}, absent=True)
  if about(abs(probe.usual.value), 2 * abs(mean)):
    found += ": a sum over the batch"
  return Finding(gap <= EXACT, found, {"gap": gap})


def half(probe: Probe) -> Finding:
  """Features of half precision: as in float64, on numbers that it holds exactly."""
  errors: dict[str, float] = {}
  for size in (1, 16):
    s, t = (size * x for x in probe.problem)
    exact = probe.ask(s, t)
    for dtype in half_types(probe.loss.framework):
      answer = probe.ask(s, t, dtype)
      errors[f"{dtype}, of size {size}"] = worst(
          distance(answer.value, exact.value),
          0.0 if answer.student is None else distance(
              answer.student, exact.student))
  found = ", ".join(f"{percent(e)} off ({name})" for name, e in errors.items())
  return Finding(all(e <= 0.02 for e in errors.values()), found, errors)


def zeros(probe: Probe) -> Finding:
  """Features of 0, as of dead units: L and dL/ds are finite and not huge."""
  def dead(rows):
    rows = rows.copy()
    rows[:2] = 0.0  # Two, which are also no distance apart.
    return rows

  s, t = probe.problem
  off = np.zeros_like(s)
  asked = {"two of the student's": (dead(s), t),
           "two of the teacher's": (s, dead(t)),
           "both nets'": (dead(s), dead(t)), "all of the student's": (off, t)}
  sizes = {}
  for name, pair in asked.items():
    answer = probe.ask(*pair)
    sizes[name] = relative(answer.student, probe.usual.student) if np.isfinite(
        answer.value) else math.nan
  return Finding(
      all(size <= _EXPLODED for size in sizes.values()),
      ", ".join(f"gradient {figure(size)} of the usual ({name})"
                for name, size in sizes.items()), sizes)


def single(probe: Probe) -> Finding:
  """A batch of one, such as a last one: L and dL/ds are finite."""
  s, t = probe.problem
  answer = probe.ask(s[:1], t[:1])
  assert answer.student is not None
  bad = int((~np.isfinite(answer.student)).sum())
  return Finding(
      bool(np.isfinite(answer.value)) and not bad,
      f"loss {figure(answer.value)}, {bad} of {s.shape[1]} gradients not finite",
      {"value": float(answer.value), "not finite": bad})


def diverged(probe: Probe) -> Finding:
  """NaN in an example's features: L is NaN, and not as if nothing were wrong."""
  values = {}
  for place, name in enumerate(("student", "teacher")):
    s, t = (x.copy() for x in probe.problem)
    (s, t)[place][1] = np.nan
    values[name] = float(probe.ask(s, t).value)
  return Finding(
      all(map(math.isnan, values.values())), "loss " + ", ".join(
          f"{figure(value)} ({name})" for name, value in values.items()), values)


PROPERTIES: dict[str, Property[Probe]] = {
    "equality": Property(
        "least where student = teacher, with gradient 0 or value 0",
        "the gradient moves a student that equals its teacher away", equality),
    "teacher": Property(
        "no gradient into the teacher",
        "a teacher that is not frozen elsewhere moves towards its student; in any "
        "case memory and time are wasted", teacher, STOPPED),
    **{name: Property(
        f"no change with {each.meaning}",
        "the result depends on an order that has no meaning" if each.both else
        "the student is trained to copy what the loss should ignore",
        functools.partial(_invariance, name))
       for name, each in taps.INVARIANCES.items()},
    "split": Property(
        "the loss of a batch is the mean of its halves'",
        "gradient accumulation, more devices or a smaller last batch change the "
        "objective", split),
    "half": Property(
        "within 2% for features in half precision",
        "in mixed precision the loss is wrong or overflows, the sooner the larger "
        "the maps", half, WIDE),
    "zeros": Property(
        "finite loss, gradient at most 1000 times the usual, at features of 0",
        "one example with dead units makes the gradient NaN or huge, and then "
        "every weight", zeros),
    "single": Property(
        "finite loss and gradient for one example",
        "a last batch of one example stops the training", single),
    "diverged": Property(
        "NaN where features are NaN",
        "a net that has diverged looks like a trained one", diverged),
}
