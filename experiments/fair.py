"""Studies of arms: settings chosen without the test set, then seeds, by groups.

A group has arms that are compared with one another, such as those of one student.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import ml_collections

from experiments import claims, sources
from experiments.protocol import Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, comparison, statistics, tables
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm

Groups = Mapping[str, Sequence[Arm]]
# Of rows of which only held-out errors are read.
NOT_COMMITTED = ("test_wrong_ids", "test_bins", "curve")


def choosing(
    name: str, groups: Callable[[Rows], Groups],
    config: Callable[[], ml_collections.ConfigDict], *, seeds: int,
    command: str | None = None,
) -> Stage:
  """A stage that tries the settings of arms, of which rows before may decide."""
  def made(rows: Rows) -> ml_collections.ConfigDict:
    tried = hold_out(config())
    tried.sweep.points = tuple(arms_lib.tried(
        every(groups(rows)),
        range(arms_lib.FIRST_SEED, arms_lib.FIRST_SEED + seeds)))
    return tried
  return Stage(name, config=made, command=command)


def table(
    name: str, groups: Callable[[Rows], Groups],
    config: Callable[[], ml_collections.ConfigDict], *, seeds: int,
    command: str | None = None,
) -> Stage:
  """A stage that trains the chosen setting of each arm on everything."""
  def made(rows: Rows) -> ml_collections.ConfigDict:
    final = config()
    final.sweep.points = tuple(arms_lib.final(
        (chosen(arm, rows) for arm in every(groups(rows))), range(seeds)))
    return final
  return Stage(name, config=made, command=command)


def every(groups: Groups) -> list[Arm]:
  """The arms of all groups."""
  return [arm for arms in groups.values() for arm in arms]


def tried(arm: Arm, rows: Rows) -> list[Row]:
  """The rows of an arm's settings, of all stages that choose."""
  return [row for name, found in rows.items() if name.endswith("choosing")
          for row in arms_lib.judged(found) if arms_lib.of(row) in arm.settings]


def chosen(arm: Arm, rows: Rows) -> sweep.Point:
  """The best setting of an arm, by the rows of all stages that choose."""
  return best(arm, tried(arm, rows))


def best(arm: Arm, tried: Sequence[Row]) -> sweep.Point:
  """The best setting that was tried; the first before any is, for a plan."""
  return arms_lib.choose(arm, tried, len({row["seed"] for row in tried})) or dict(
      arm.settings[0])


def results(
    arms: Sequence[Arm], rows: Rows, stages: Sequence[str] = ("table",)
) -> list[comparison.Result]:
  """What the rows say of the arms of a group."""
  final = [row for name in stages for row in arms_lib.judged(rows.get(name, ()))]
  return [comparison.result(arm, chosen(arm, rows), tried(arm, rows), final)
          for arm in arms]


# The table of a comparison, its arms with links to their rows.
markdown = functools.partial(comparison.markdown, linked=sources.linked)


def phrase(found: Sequence[comparison.Result], reference: str) -> str:
  """Which arms are better than the reference, and which are worse."""
  family = claims.Family(comparison.differences(found, reference)[0])
  listed = lambda verdict: ", ".join(family.having(verdict)) or "none"
  return (f"better than {reference}: {listed(claims.HOLDS)}; "
          f"worse: {listed(claims.FAILS)}")


def difference(test: statistics.Paired) -> str:
  """A difference with its interval, as comparisons show it."""
  return tables.with_interval(test.difference, test.low, test.high)


def minus(one: str, other: str, test: statistics.Paired) -> str:
  """A difference of no table, in a phrase."""
  return (f"{one} minus {other}: {difference(test)}, "
          f"p {tables.probability(test.p)}")


def steps(
    head: str, of: str, tests: Mapping[Any, statistics.Paired],
    label: Callable[[Any], str],
) -> list[str]:
  """The lines of a table of differences, p corrected within it."""
  adjusted = claims.Family(tests).adjusted
  return [f"| {head} | {of} | p (Holm) |", "|---|--:|--:|", *(
      f"| {label(key)} | {difference(test)} | "
      f"{tables.probability(adjusted.get(key))} |" for key, test in tests.items())]
