"""What rows say of a paper's claims: one rule for all studies.

A claim is on a difference, a ratio or a mean, and an interval judges it: one of 95%
tests "below 0" as a two-sided t test does at 5%, one of 90% tests "within a margin"
as two one-sided tests do at 5%.

Sources: Schuirmann (1987), J. Pharmacokinet. Biopharm. 15; Berger (1982),
Technometrics 24, on claims of several parts.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

from experiments import words
from kd_jax.report import statistics

HOLDS, FAILS, OPEN = "holds", "does not hold", "is not shown"
# Of the tests, and of all of a family together.
LEVEL = 0.05


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


LESS, MORE = Claim(below=0.0), Claim(above=0.0)


@dataclasses.dataclass(frozen=True)
class Family:
  """Differences of which each is a claim of its own: p corrected (Holm) for all.

  Attributes:
    tests: The differences, by what they are of.
    claim: What is claimed of each, of all alike, or by the same keys.
  """

  tests: Mapping[Any, statistics.Paired]
  claim: Claim | Mapping[Any, Claim] = LESS

  @functools.cached_property
  def adjusted(self) -> dict[Any, float]:
    """p of each test that has one, by Holm."""
    return statistics.holm({key: test.p for key, test in self.tests.items()
                            if test.p is not None})

  def verdict(self, key: Hashable) -> str:
    """Whether a claim holds; is not shown, where the corrected p is not small.

    Example:
      >>> less = statistics.paired([1.0, 2.0, 3.0], [5.0, 6.1, 7.0])
      >>> both = Family({"a": less, "b": less}, {"a": LESS, "b": MORE})
      >>> both.verdict("a"), both.verdict("b")
      ('holds', 'does not hold')
    """
    if self.adjusted.get(key, 1.0) >= LEVEL:
      return OPEN
    claim = self.claim if isinstance(self.claim, Claim) else self.claim[key]
    return claim.judged(self.tests[key].low, self.tests[key].high)

  def having(self, verdict: str) -> list[Any]:
    """Of which a claim has a verdict."""
    return [key for key in self.tests if self.verdict(key) == verdict]

  def line(self, key: Hashable, form: str = "+.1f") -> list[str]:
    """The cells of a table: the difference with its interval, and p."""
    test = self.tests.get(key)
    return ["", ""] if test is None else [
        words.difference(test, form), words.p_value(self.adjusted.get(key))]

  def table(
      self, label: Callable[[Any], str], form: str, column: str,
      shown: Mapping[str, str],
  ) -> str:
    """All of them, and the verdicts in a study's own words."""
    return words.table(["", "difference", "p (Holm)", column], [
        [label(key), *self.line(key, form), shown[self.verdict(key)]]
        for key in self.tests])


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
