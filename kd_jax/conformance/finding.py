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
  """What came out.

  Attributes:
    holds: Whether the property does; None if it was not judged.
    found: What was found, in words and numbers.
    numbers: The numbers.
    absent: Whether there is nothing that it could be judged of. If not, what
      was not judged is hidden by something that fails, and no pass.
  """

  holds: bool | None
  found: str
  numbers: dict[str, float]
  absent: bool = False


def relative(found, usual) -> float:
  """The size of a gradient, in sizes of another."""
  norm = np.linalg.norm(usual)
  return float(np.linalg.norm(found) / norm) if norm > 0 else math.nan


def distance(a, b, *others) -> float:
  """Of two gradients, relative to the largest, of others too; NaN for NaN."""
  size = np.max([np.linalg.norm(x) for x in (a, b, *others)])
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


def half_types(framework: str) -> tuple[str, ...]:
  """The types of half precision that a framework has."""
  return ("float16",) if framework == "numpy" else ("float16", "bfloat16")


def figure(x: float) -> str:
  """A number in two digits; rounding is called 0."""
  return "0" if abs(x) < 1e-9 else f"{x:.2g}"


def percent(x: float) -> str:
  """A relative number as a percentage; rounding is called 0%."""
  if not math.isfinite(x):
    return str(x)
  return "0%" if x < 1e-6 else (
      f"{100 * x:.2g}%" if x < 0.995 else f"{100 * x:,.0f}%")
