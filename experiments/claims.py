"""What rows say of a paper's claims: one rule for all studies.

A claim is on a difference, a ratio or a mean, and an interval judges it: one of 95%
tests "below 0" as a two-sided t test does at 5%, one of 90% tests "within a margin"
as two one-sided tests do at 5%.

Sources: Schuirmann (1987), J. Pharmacokinet. Biopharm. 15; Berger (1982),
Technometrics 24, on claims of several parts.
"""

from collections.abc import Iterable, Sequence
import math
from typing import NamedTuple

from experiments import words

HOLDS, FAILS, OPEN = "holds", "does not hold", "is not shown"


class Claim(NamedTuple):
  """That what is estimated lies between two numbers.

  Attributes:
    above, below: The numbers; an open side has none.
  """

  above: float = -math.inf
  below: float = math.inf

  def judged(self, low: float | None, high: float | None) -> str:
    """Whether it holds, by an interval; None is no interval.

    It does not hold only where the interval excludes it: what was not found may be
    there.

    Example:
      >>> less = Claim(below=0)
      >>> less.judged(-3, -1), less.judged(1, 2), less.judged(-1, 2)
      ('holds', 'does not hold', 'is not shown')
    """
    if low is None or high is None:
      return OPEN
    if self.above < low and high < self.below:
      return HOLDS
    return FAILS if high <= self.above or low >= self.below else OPEN


def every(parts: Iterable[str]) -> str:
  """A claim that all of its parts hold.

  Each is tested at the level of the whole: that all hold is claimed by mistake only
  if one is that does not, so no correction is needed       (Berger 1982).
  """
  found = set(parts)
  return FAILS if FAILS in found else HOLDS if found == {HOLDS} else OPEN


class Single(NamedTuple):
  """Where one more run lies with 95%, and whether a published one may be it."""

  low: float
  high: float
  verdict: str

  @property
  def interval(self) -> str:
    """As text, of one digit."""
    return f"[{self.low:.1f}, {self.high:.1f}]"


def single(published: float | None, values: Sequence[float]) -> Single | None:
  """A paper's single run beside ours: no mean, so no comparison of means.

  mean ± t(n - 1) s sqrt(1 + 1 / n), of runs that are taken as independent.

  Example:
    >>> single(7.0, [1, 2, 3])  # 2 ± 4.303 sqrt(4 / 3)
    Single(low=-2.968..., high=6.968..., verdict='excluded, above')
  """
  place = words.single(values) if len(values) else None
  if published is None or place is None:
    return None
  verdict = ("excluded, below" if published < place[0] else
             "not excluded" if published <= place[1] else "excluded, above")
  return Single(*place, verdict)
