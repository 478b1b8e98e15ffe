"""Does an assistant of a size between help a far smaller student?

All 8 decreasing paths from 1200 past {800, 300, 100} to 30 units, of two layers
each. Paths with the same beginning share its nets, so that 15 nets of a seed are
enough. T of each hop is chosen on held-out digits; then all paths are trained on
all digits with 20 seeds.
"""

from collections.abc import Sequence
import functools
import pathlib

import ml_collections

from configs import assistant_paths as recipe
from experiments import fair, sources, words
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, canvas, comparison, statistics
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm, arm

CLAIM = ("a student learns more from a teacher past assistants of sizes between; "
         "plain nets of 2 layers on CIFAR-10: 70.16% from labels, 72.57% by KD "
         "from 10 layers, 73.51% past one of 4")
DATA = "MNIST; the paper's CIFAR-10"
UNIT = "errors of 10,000; the paper's: accuracy in %"
COMMAND = "--config=configs/assistant_paths.py"
REFERENCE = None
# A row of each of 17 nets a seed: without these they are few enough to commit.
NOT_COMMITTED = dict.fromkeys(("choosing", "table"), fair.NOT_COMMITTED)

TEMPERATURES = (2.0, 4.0, 8.0)
Path = tuple[int, ...]
_DIRECT = (recipe.STUDENT,)


def stages(options: Options) -> list[Stage]:
  """T of each hop, then every path with it."""
  tried, seeds = 2, options.seeds or (2 if options.quick else 20)
  small = _smaller if options.quick else lambda config: config
  return [
      Stage("choosing", config=lambda _: choosing(small(_config()), tried)),
      Stage("table", config=lambda rows: table(small(_config()), rows, seeds))]


def choosing(
    config: ml_collections.ConfigDict, seeds: int
) -> ml_collections.ConfigDict:
  """All nets with one T for all hops, for each T, judged on held-out digits."""
  hold_out(config)
  first = arms_lib.FIRST_SEED
  config.sweep.points = tuple(arms_lib.tried([_arm(_DIRECT)], range(
      first, first + seeds)))
  return config


def table(
    config: ml_collections.ConfigDict, rows: Rows, seeds: int
) -> ml_collections.ConfigDict:
  """All nets with the T that is chosen for each."""
  for path in recipe.PATHS:
    config.nets[recipe.name(path)].temperature = chosen(path, rows)
  config.sweep.points = tuple(sweep.product({"seed": range(seeds)}))
  return config


def chosen(path: Path, rows: Rows) -> float:
  """T of the last hop of a path, by the held-out errors of the net at its end."""
  return fair.best(_arm(path), _of(path, rows.get("choosing", ())))["temperature"]


def shown(path: Path) -> str:
  """A path from the teacher on.

  Example:
    >>> shown((800, 30))
    '1200-800-30'
  """
  return "-".join(map(str, (recipe.TEACHER, *path)))


def _arm(path: Path) -> Arm:
  return arm(shown(path), {"temperature": TEMPERATURES})


def _of(path: Path, rows: Sequence[Row]) -> list[Row]:
  """The rows of the net at the end of a path."""
  return arms_lib.judged(rows, recipe.name(path))


def _config() -> ml_collections.ConfigDict:
  config = recipe.get_config()
  config.data.embedded = "never"
  config.sweep.lanes = "2x1"
  return config


def _smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "only"
  config.steps = 60
  for net in (config.nets[name] for name in config.recipe):
    net.widths = tuple(max(width // 10, 8) for width in net.widths)
  config.nets.teacher.steps = 100
  return config


def found(rows: Rows) -> list[comparison.Result]:
  """What the rows say of each path, of its last net."""
  results, first = [], words.origins(rows["table"])
  for path in recipe.WHOLE:
    # In the table T is of the config, as it is another for each net. The teacher of
    # all that a path has is the one that it begins with.
    setting = {"temperature": chosen(path, rows)}
    final = [row | {"overrides": setting,
                    "teacher_fingerprint": first.get(row.get("fingerprint", ""))}
             for row in _of(path, rows["table"])]
    each = comparison.result(
        _arm(path), setting, _of(path, rows["choosing"]), final)
    results.append(each._replace(edges=hops_at_ends(path, rows)))
  return results


def hops_at_ends(path: Path, rows: Rows) -> list[str]:
  """The hops of a path of which T stands at an end of what was tried, from 1 on."""
  return [f"T of hop {hop}" for hop in range(1, len(path) + 1)
          if fair.ends(*_choice(path[:hop], rows))]


def _choice(path: Path, rows: Rows) -> tuple[fair.Setting, Sequence[fair.Setting]]:
  return {"temperature": chosen(path, rows)}, _arm(path).settings


def steps(rows: Rows) -> dict[int, statistics.Paired]:
  """Of each assistant, what a step over it changes, all else alike.

  mean over the 4 paths without it of (errors with it - errors without it)

  Paired by seed; below 0 where the step helps.
  """
  errors = {path: each.errors
            for path, each in zip(recipe.WHOLE, found(rows), strict=True)}
  tests = {}
  for size in recipe.ASSISTANTS:
    with_it = [path for path in recipe.WHOLE if size in path]
    without = [tuple(each for each in path if each != size) for path in with_it]
    test = statistics.paired_by_seed(*(
        _mean([errors[path] for path in paths]) for paths in (with_it, without)))
    if test:
      tests[size] = test
  return tests


def _mean(of_paths: list[dict[int, int]]) -> dict[int, float]:
  """Mean errors of several paths, by seed, of the seeds that all of them have."""
  seeds = set.intersection(*map(set, of_paths))
  return {seed: sum(each[seed] for each in of_paths) / len(of_paths)
          for seed in sorted(seeds)}


def conclude(rows: Rows) -> str:
  """Every path against direct KD; KD against labels; and each step."""
  results, direct = found(rows), shown(_DIRECT)
  lines = [f"**{status(rows)}.**\n",
           fair.markdown(results, direct, [*map(_arm, recipe.WHOLE)],
                         _of(_DIRECT, rows["choosing"])),
           "T of the last hop of each path. " + fair.at_ends(
               {shown(path): _choice(path, rows) for path in recipe.PATHS})]
  labels, test = _labels(rows), _against_labels(rows)
  if labels and test:
    lines.append(
        f"Labels alone: {fair.mean_with_half(labels)} ({labels.n}); "
        f"{fair.minus(direct, 'labels', test)}.\n")
  lines += [*fair.steps("a step over", "errors with it minus without", steps(rows),
                        functools.partial(_linked, rows)),
            "\nMean over the 4 pairs of paths that differ in this step alone, "
            "paired by seed, with its 95% interval.\n"]
  return "\n".join(lines)


def status(rows: Rows) -> str:
  """Which paths are better than direct KD, which worse, and the fewest errors."""
  results = [each for each in found(rows) if each.errors]
  direct = fair.outcome(results, shown(_DIRECT))
  best = fair.fewest(results, [*_errors_of_labels(rows).values()])
  return f"straight from the teacher, {direct}; {best}"


def _linked(rows: Rows, size: int) -> str:
  return sources.linked(str(size), [
      row for path in recipe.WHOLE if size in path
      for row in _of(path, rows["table"])])


def _errors_of_labels(rows: Rows) -> dict[int, int]:
  return {row["seed"]: row["test_errors"]
          for row in arms_lib.judged(rows["table"], "labels")
          if row["failed"] is None}


def _labels(rows: Rows) -> statistics.Summary | None:
  errors = [*_errors_of_labels(rows).values()]
  return statistics.summary(errors) if errors else None


def _against_labels(rows: Rows) -> statistics.Paired | None:
  direct = next(each for each in found(rows) if each.name == shown(_DIRECT))
  return statistics.paired_by_seed(direct.errors, _errors_of_labels(rows))


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """The accuracy of the last net of every path, and of labels alone."""
  results = [each for each in found(rows) if each.errors]
  of = {each.name: statistics.summary([
      100 * (1 - errors / each.examples) for errors in each.errors.values()])
        for each in results}
  drawn, axes = canvas.figure(1, 1, (5.6, 4.4))
  at = axes[0][0]
  drawn_means = canvas.means(
      at, dict(enumerate(of.values())), 0, "last net of the path")
  drawn_means[0].set_linestyle("none")  # Paths have no order.
  if labels := _errors_of_labels(rows):
    canvas.level(at, statistics.summary([
        100 * (1 - errors / results[0].examples) for errors in labels.values()]),
                 label="labels alone")
  at.set_xticks(range(len(of)), [*of], rotation=90)
  at.set(ylabel="test accuracy in %")
  drawn.legend(*at.get_legend_handles_labels(), loc="outside upper left", ncols=2)
  return canvas.save(drawn, file)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """The last net of every path: its accuracy, and its errors minus direct KD's."""
  _draw(rows, folder / "accuracy.png")
  comparison.draw([each for each in found(rows) if each.errors], shown(_DIRECT),
                  folder / "paths.png")
