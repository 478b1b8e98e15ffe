"""Arms of a comparison as a table and a picture: each against the reference."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from kd_jax.core import files, strict
from kd_jax.core.words import counted
from kd_jax.report import canvas, dots, names, statistics, tables
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm
from kd_jax.runs.results import Row

LEVEL = 0.05


class Result(NamedTuple):
  """What the rows say of an arm.

  Attributes:
    name: Of the arm.
    setting: What was chosen.
    tried: Its keys of which several values were tried.
    edges: Its keys that have the lowest or highest number tried.
    errors: Test errors of its runs, by seed.
    examples: Test examples.
    failed: Runs that diverged; they are in no mean.
    seconds: Of its runs in both stages, without teachers and other nets.
    rows: Its runs.
  """

  name: str
  setting: Mapping[str, Any]
  tried: list[str]
  edges: list[str]
  errors: dict[int, int]
  examples: int
  failed: int
  seconds: float
  rows: Sequence[Row] = ()

  @property
  def parameters(self) -> int | None:
    """Of the net that comes out; None where rows do not say."""
    return max((row.get("parameters") or 0 for row in self.rows), default=0) or None

  @property
  def mean(self) -> str:
    """Mean test errors ± half their interval, and of how many runs (`runs`)."""
    failed = f", {self.failed} diverged" if self.failed else ""
    if not self.errors:
      return f"none{failed}"
    found = statistics.summary([*self.errors.values()])
    half = None if found.high is None else found.high - found.mean
    return f"{tables.with_half(found.mean, half)} ({self.runs}{failed})"

  @property
  def runs(self) -> str:
    """How many have an end, and /1 where all of them learned from one teacher.

    Example:
      >>> rows = [{"teacher_fingerprint": "a", "failed": None, "method": method}
      ...         for method in ("kd", "kd")]
      >>> Result("kd", {}, [], [], {0: 5, 1: 7}, 9, 0, 1.0, rows).runs
      '2/1'
    """
    teachers = {names.teacher(row) for row in self.rows if row["failed"] is None}
    alone = len(self.errors) > 1 and len(teachers) == 1 and None not in teachers
    return f"{len(self.errors)}{'/1' * alone}"


def result(each: Arm, setting: Mapping[str, Any], tried: Sequence[Row],
           table: Sequence[Row]) -> Result:
  """What the rows of both stages say of an arm."""
  own = [row for row in table if arms_lib.of(row) == setting]
  good = [row for row in own if row["failed"] is None]
  spent = own + [row for row in tried if arms_lib.of(row) in each.settings]
  return Result(
      each.name, setting,
      [key for key, values in each.axes.items() if len(values) > 1],
      each.edges(setting),
      {row["seed"]: row["test_errors"] for row in good},
      max((row["test_examples"] for row in good), default=0),
      len(own) - len(good), sum(row.get("seconds") or 0 for row in spent), own)


def differences(
    results: Sequence[Result], reference: str
) -> tuple[dict[str, statistics.Paired], dict[str, float]]:
  """Each arm minus the reference, paired by seed; and p by Holm over all arms."""
  against = next(each for each in results if each.name == reference).errors
  found = {}
  for each in results:
    if each.name != reference and (
        test := statistics.paired_by_seed(each.errors, against)):
      found[each.name] = test
  return found, statistics.holm(
      {name: test.p for name, test in found.items() if test.p is not None})


def write(
    folder: pathlib.Path, arms: Sequence[Arm],
    chosen: Mapping[str, Mapping[str, Any]], tried: Sequence[Row],
    table: Sequence[Row], *, reference: str,
) -> str:
  """Writes `comparison.md`, `.json` and `.png` into a folder.

  Args:
    folder: Where they go.
    arms: What was compared.
    chosen: The setting of each, by name.
    tried: The rows of stage one.
    table: Those of stage two.
    reference: The arm that the others are compared with.

  Returns:
    The table, as markdown.
  """
  results = [result(each, chosen[each.name], tried, table) for each in arms]
  text = markdown(results, reference, arms, tried)
  tests, adjusted = differences(results, reference)
  files.write(folder / "comparison.md", text)
  as_plain = lambda each: {
      key: value for key, value in each._asdict().items() if key != "rows"} | {
          "difference": tests[each.name]._asdict() if each.name in tests else None,
          "p_holm": adjusted.get(each.name)}
  files.write(folder / "comparison.json", strict.dumps(
      {"reference": reference, "arms": [*map(as_plain, results)]}, indent=1) + "\n")
  draw(results, reference, folder / "comparison.png")
  return text


def markdown(
    results: Sequence[Result], reference: str, arms: Sequence[Arm],
    tried: Sequence[Row], linked: names.Linked | None = None,
) -> str:
  """The table, and without what it cannot be read.

  Parameters have a column where nets differ in them: a method may leave a module in
  the net that comes out.

  Args:
    results: What the rows say of each arm.
    reference: The arm that the others are compared with.
    arms: What was compared.
    tried: The rows of stage one.
    linked: Makes of an arm's name a link to its rows.
  """
  tests, adjusted = differences(results, reference)
  lines = [["arm", "chosen", "test errors (n)", "accuracy %",
            f"minus {reference}", "p (Holm)", "at an edge", "seconds"],
           ["---", "---", *["--:"] * 4, "---", "--:"]]
  for each in results:
    lines.append([each.name, names.label(each.setting, names.columns(each.tried)),
                  *_errors(each), _difference(each, reference, tests),
                  tables.probability(adjusted.get(each.name)),
                  ", ".join(names.short(each.edges).values()),
                  f"{each.seconds:.0f}"])
  if len({each.parameters for each in results if each.parameters}) > 1:
    more = ["parameters", "--:", *(
        f"{each.parameters:,}" if each.parameters else "" for each in results)]
    lines = [[*line, cell] for line, cell in zip(lines, more, strict=True)]
  lines = [[*map(tables.as_markdown, line)] for line in lines]
  if linked:
    for line, each in zip(lines[2:], results, strict=True):
      line[0] = linked(line[0], each.rows)
  body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
  return f"{body}\n\n{_caption(results, reference, arms, tried)}\n"


def _errors(each: Result) -> tuple[str, str]:
  if not each.errors:
    return each.mean, ""
  mean = statistics.summary([*each.errors.values()]).mean
  return each.mean, tables.number(100 * (1 - mean / each.examples), 2)


def _difference(
    each: Result, reference: str, tests: Mapping[str, statistics.Paired]
) -> str:
  if each.name == reference:
    return "reference"
  if each.name not in tests:
    return ""
  test = tests[each.name]
  return tables.with_interval(test.difference, test.low, test.high)


def _caption(
    results: Sequence[Result], reference: str, arms: Sequence[Arm],
    tried: Sequence[Row],
) -> str:
  heldout = max(row["heldout_examples"] for row in tried
                if row["failed"] is None)
  seeds = len({row["seed"] for row in tried})
  at = sum(bool(each.edges) for each in results)
  alike = len({each.examples for each in results}) == 1
  of = f" of {results[0].examples:,}" if alike else ""
  alone = next((each.runs for each in results if "/" in each.runs), None)
  given = "" if alone is None else (
      f"; ({alone}) is of {alone.split('/')[0]} runs with one teacher, and says "
      "nothing of others")
  return (
      f"Of each arm {counted(len(arms[0].settings), 'setting')} tried with "
      f"{counted(seeds, 'seed')}; chosen by the errors on {heldout:,} held-out "
      f"training examples, without a look at the test set. Test errors{of}: mean ± "
      "half the 95% t-interval over seeds, of nets trained on all training data"
      f"{given}. "
      f"Differences are paired by seed, with their 95% interval; p is corrected by "
      f"Holm over the {counted(len(results) - 1, 'comparison')} with {reference}. "
      f"At an edge: keys whose chosen number was the lowest or highest tried "
      f"({at} of {len(results)} arms), so that a better one may lie beyond. "
      "Seconds: of the arm's runs in both stages, without its teachers and the "
      "other nets of a recipe.")


@canvas.styled
def draw(results: Sequence[Result], reference: str, file: pathlib.Path) -> bool:
  """Differences from the reference with their intervals; filled if sure."""
  tests, adjusted = differences(results, reference)
  found = sorted(tests.items(), key=lambda item: item[1].difference)
  shown = {"": [dots.compared(name, test, sure=adjusted.get(name, 1.0) < LEVEL)
                for name, test in found]}
  return canvas.save(dots.alone(
      shown, f"test errors minus those of {reference}\n{dots.COMPARED}",
      zero=True), file)
