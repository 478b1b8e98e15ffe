"""Studies of arms: settings chosen without the test set, then seeds, by groups.

A group has arms that are compared with one another, such as those of one student.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
from typing import Any

import ml_collections

from experiments import claims, sources
from experiments.protocol import Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, comparison, names, statistics, tables
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm

Groups = Mapping[str, Sequence[Arm]]
Setting = Mapping[str, Any]
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


def ends(chosen: Setting, tried: Sequence[Setting]) -> dict[str, str]:
  """At which end of what was tried a chosen number stands, by key.

  Of settings that differ in what is no number, such as the optimiser, those count
  that have what was chosen, as a number of another is of another range.

  Example:
    >>> tried = [{"alpha": alpha, "T": 4.0} for alpha in (0.5, 0.9, 1.0)]
    >>> ends(tried[2], tried), ends(tried[1], tried)
    ({'alpha': 'the highest of 3'}, {})
  """
  numbers = [key for key, value in chosen.items() if type(value) in (int, float)
             and all(key in each for each in tried)]
  alike = [each for each in tried if all(
      names.same(value, each.get(key))
      for key, value in chosen.items() if type(value) not in (int, float))]
  found = {}
  for key in Arm("", dict.fromkeys(numbers, ()), alike).edges(chosen):
    values = {each[key] for each in alike}
    end = "lowest" if chosen[key] == min(values) else "highest"
    found[key] = f"the {end} of {len(values)}"
  return found


def described(chosen: Setting, tried: Sequence[Setting]) -> str:
  """What was chosen of the keys that were tried, and what stands at an end.

  Example:
    >>> tried = [{"alpha": alpha, "T": 4.0} for alpha in (0.5, 0.9, 1.0)]
    >>> described(tried[2], tried), described(tried[1], tried)
    ('alpha 1 (the highest of 3)', 'alpha 0.9')
  """
  at = ends(chosen, tried)
  varied = names.columns(key for key in chosen if len(
      {names.shown(each.get(key)) for each in tried}) > 1)
  return ", ".join(
      f"{short} {names.shown(chosen[key])}" + f" ({at.get(key)})" * (key in at)
      for key, short in names.short(varied).items())


def at_ends(choices: Mapping[str, tuple[Setting, Sequence[Setting]]]) -> str:
  """A paragraph on what was chosen on held-out data, and in which ranges.

  Args:
    choices: By a name, the setting that was chosen, and those that were tried.
  """
  number = sum(bool(ends(*choice)) for choice in choices.values())
  listed = "; ".join(
      f"{name}: {described(*choice)}" for name, choice in choices.items())
  at = (f"{number} of {len(choices)} have a number at an end of what was tried, so "
        "that a better one may lie beyond" if number else
        "None has a number at an end of what was tried")
  return f"Chosen on held-out data: {listed}. {at}.\n"


def results(
    arms: Sequence[Arm], rows: Rows, stages: Sequence[str] = ("table",)
) -> list[comparison.Result]:
  """What the rows say of the arms of a group."""
  final = [row for name in stages for row in arms_lib.judged(rows.get(name, ()))]
  return [comparison.result(arm, chosen(arm, rows), tried(arm, rows), final)
          for arm in arms]


# The table of a comparison, its arms with links to their rows.
markdown = functools.partial(comparison.markdown, linked=sources.linked)


def outcome(found: Sequence[comparison.Result], reference: str) -> str:
  """The reference's errors; which arms are better or worse, and by how much."""
  tests = comparison.differences(found, reference)[0]
  family = claims.Family(tests)
  listed = lambda verdict: ", ".join(
      f"{name} {difference(tests[name])}" for name in family.having(verdict)
  ) or "none"
  own = next(each for each in found if each.name == reference)
  return (f"{reference} {own.mean}; better: {listed(claims.HOLDS)}; "
          f"worse: {listed(claims.FAILS)}")


def fewest(found: Sequence[comparison.Result], labels: Sequence[int]) -> str:
  """The arm with the fewest errors on average, beside labels alone, which are none.

  Args:
    found: What the rows say of each arm; of some there may be none yet.
    labels: Errors of labels alone; they come first if theirs are fewer.
  """
  mean = lambda errors: statistics.summary([*errors]).mean
  best = min((each for each in found if each.errors),
             key=lambda each: mean(each.errors.values()))
  own = f"{best.name}, {best.mean}"
  if not labels:
    return f"fewest errors {own}"
  alone = with_half(labels)
  if mean(labels) < mean(best.errors.values()):
    return f"fewest errors labels alone, {alone}; of the others {own}"
  return f"fewest errors {own} (labels alone {alone})"


def with_half(errors: Sequence[int]) -> str:
  """Mean errors ± half their interval, and of how many runs, as arms show them."""
  found = statistics.summary(errors)
  return f"{mean_with_half(found)} ({found.n})"


def mean_with_half(found: statistics.Summary) -> str:
  """A mean ± half its interval, as tables show it."""
  half = None if found.high is None else found.high - found.mean
  return tables.with_half(found.mean, half)


def difference(test: statistics.Paired) -> str:
  """A difference with its interval, as comparisons show it."""
  return tables.with_interval(test.difference, test.low, test.high)


def minus(one: str, other: str, test: statistics.Paired) -> str:
  """A difference of no table, in a phrase."""
  return (f"{one} minus {other}: {difference(test)}, "
          f"p {tables.probability(test.p)}")


def between(
    found: Sequence[comparison.Result], one: str, other: str
) -> str:
  """A line on two arms, neither of which the table compares all others with.

  It is one comparison more than those that Holm's correction counts. It is empty
  before both have rows.
  """
  both = [each for each in found if each.name in (one, other)]
  if len(both) < 2:
    return ""
  test = comparison.differences(both, other)[0].get(one)
  return "" if test is None else f"\n{minus(one, other, test)}.\n"


def linked(text: str, results: Iterable[comparison.Result]) -> str:
  """A label of a table that leads to the rows of these arms."""
  return sources.linked(text, [row for each in results for row in each.rows])


def steps(
    head: str, of: str, tests: Mapping[Any, statistics.Paired],
    label: Callable[[Any], str],
) -> list[str]:
  """The lines of a table of differences, p corrected within it."""
  adjusted = claims.Family(tests).adjusted
  return [f"| {head} | {of} | p (Holm) |", "|---|--:|--:|", *(
      f"| {label(key)} | {difference(test)} | "
      f"{tables.probability(adjusted.get(key))} |" for key, test in tests.items())]
