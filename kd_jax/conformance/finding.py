"""What a judge says, and how it measures and words it."""

import math
from typing import NamedTuple

import numpy as np

# Tolerances. Everything is asked in float64, but a loss may rightly compute in
# float32 inside, where values and gradients are off by some 1e-6, relative; so
# `EXACT` is 1e-4. A gradient is of a known form if at most `CLOSE` = 1e-3 of its
# norm is left over; the wrong forms are off by 1e-1 and more. Where a limit is
# taken, what it leaves out is bounded, and the bound is the tolerance.
EXACT, CLOSE = 1e-4, 1e-3


class Finding(NamedTuple):
  """What came out: whether it holds (None: not judged), words, numbers."""

  holds: bool | None
  found: str
  numbers: dict[str, float]


def relative(found, usual) -> float:
  """The size of a gradient, in sizes of another."""
  norm = np.linalg.norm(usual)
  return float(np.linalg.norm(found) / norm) if norm > 0 else math.nan


def distance(a, b) -> float:
  """Of two gradients, relative to the larger; NaN where either is not finite."""
  size = np.maximum(np.linalg.norm(a), np.linalg.norm(b))
  return float(np.linalg.norm(a - b) / size) if size != 0 else 0.0


def worst(*errors: float) -> float:
  """The largest; NaN if any is, which Python's `max` may pass over."""
  return float(np.max(errors))


def about(number: float, other: float) -> bool:
  """Whether two numbers are the same to 1%."""
  return bool(abs(number - other) <= 0.01 * other)


def snapped(number: float, factors: dict[float, float],
            otherwise: float = 1.0) -> float:
  """The factor of that key which a number is about."""
  return next((factor for key, factor in factors.items()
               if about(number, key)), otherwise)


def figure(x: float) -> str:
  """A number in two digits; rounding is called 0."""
  return "0" if abs(x) < 1e-9 else f"{x:.2g}"


def percent(x: float) -> str:
  """A relative number as a percentage; rounding is called 0%."""
  if not math.isfinite(x):
    return str(x)
  return "0%" if x < 1e-6 else (
      f"{100 * x:.2g}%" if x < 0.995 else f"{100 * x:,.0f}%")
