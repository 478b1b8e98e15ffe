"""Does a teacher that stopped early teach more than the whole one?

Students of 2x30 learn from a teacher of 2x400 as it is after 1, 2, 5, 10, 20 and 40
epochs, and one from the whole teacher for the first half of its own training alone.
T of each is chosen on held-out digits; each seed has a teacher of its own.
"""

from collections.abc import Sequence
import pathlib

import ml_collections

from configs import early_stopped as recipe
from experiments import claims, fair, sources
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, canvas, comparison, statistics
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import arm

CLAIM = ("a larger, longer trained teacher need not teach more: one that stopped "
         "early does, and KD itself is to stop early; ResNet-18 on ImageNet: top-1 "
         "error 30.24% from labels, 30.57, 30.79, 30.95% from ResNet-18, 34, 50, "
         "and 29.01, 29.16, 29.35% with both stopped early")
DATA = "MNIST; the paper's ImageNet, CIFAR-10"
UNIT = "errors of 10,000; the paper's: top-1 error in %"
COMMAND = "--config=configs/early_stopped.py"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(("choosing", "table"), fair.NOT_COMMITTED)

TEMPERATURES = (2.0, 4.0, 8.0)
ARMS = {name: arm(name.replace("of_", "epoch "), {"temperature": TEMPERATURES})
        for name in (*recipe.STUDENTS, "stopped")}
ARMS["stopped"] = ARMS["stopped"]._replace(name="KD for half of it")
# The student of the whole teacher.
WHOLE = recipe.STUDENTS[-1]


def stages(options: Options) -> list[Stage]:
  """T of each student, then all of them with it."""
  tried, seeds = 2, options.seeds or (2 if options.quick else 10)
  small = _smaller if options.quick else lambda config: config
  return [
      Stage("choosing", config=lambda _: choosing(small(_config()), tried)),
      Stage("table", config=lambda rows: table(small(_config()), rows, seeds))]


def choosing(
    config: ml_collections.ConfigDict, seeds: int
) -> ml_collections.ConfigDict:
  """All nets with one T for all students, for each T, judged on held-out digits."""
  hold_out(config)
  first = arms_lib.FIRST_SEED
  config.sweep.points = tuple(
      arms_lib.tried([ARMS[WHOLE]], range(first, first + seeds)))
  return config


def table(
    config: ml_collections.ConfigDict, rows: Rows, seeds: int
) -> ml_collections.ConfigDict:
  """All nets, each student with the T that is chosen for it."""
  for name in ARMS:
    config.nets[name].temperature = chosen(name, rows)
  config.sweep.points = tuple(sweep.product({"seed": range(seeds)}))
  return config


def chosen(name: str, rows: Rows) -> float:
  """T of a student, by its held-out errors."""
  return fair.best(ARMS[name], _of(name, rows.get("choosing", ())))["temperature"]


def _of(name: str, rows: Sequence[Row]) -> list[Row]:
  return arms_lib.judged(rows, name)


def _config() -> ml_collections.ConfigDict:
  config = recipe.get_config()
  config.data.embedded = "never"
  config.sweep.lanes = "2x1"
  return config


def _smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "only"
  config.epochs = 2
  config.nets.teacher.widths = (40, 40)
  for name in ("labels", *ARMS):
    config.nets[name].widths = (12, 12)
  return config


# ---- What the rows say.


def found(rows: Rows) -> list[comparison.Result]:
  """What the rows say of each student that has a teacher."""
  results = []
  for name, each in ARMS.items():
    # In the table T is of the config, as it is another for each net.
    setting = {"temperature": chosen(name, rows)}
    final = [row | {"overrides": setting} for row in _of(name, rows["table"])]
    results.append(comparison.result(
        each, setting, _of(name, rows["choosing"]), final))
  return results


def teachers(rows: Rows) -> dict[int, statistics.Summary]:
  """The test errors of the teacher after each number of epochs."""
  errors = {epoch: [*_errors(_at(epoch), rows).values()] for epoch in recipe.EPOCHS}
  return {epoch: statistics.summary(each) for epoch, each in errors.items() if each}


def _at(epoch: int) -> str:
  """The net that the teacher is after an epoch."""
  return "teacher" if epoch == recipe.LAST else f"teacher_at_{epoch}"


def _errors(net: str, rows: Rows) -> dict[int, int]:
  """The test errors of a net, by seed."""
  return {row["seed"]: row["test_errors"] for row in _of(net, rows["table"])
          if row["failed"] is None}


def against_labels(rows: Rows) -> dict[str, statistics.Paired]:
  """The errors of each student minus those of labels alone, paired by seed."""
  labels = _errors("labels", rows)
  tests = {each.name: statistics.paired_by_seed(_errors(name, rows), labels)
           for name, each in ARMS.items()}
  return {name: test for name, test in tests.items() if test is not None}


def conclude(rows: Rows) -> str:
  """Each student against that of the whole teacher, and labels; the teachers."""
  results = found(rows)
  of = {each.name: each for each in results}
  lines = [f"**{status(rows)}.**\n", fair.markdown(
      results, ARMS[WHOLE].name, [*ARMS.values()], _of(WHOLE, rows["choosing"]))]
  if tests := against_labels(rows):
    labels = fair.with_half([*_errors("labels", rows).values()])
    lines += [f"Labels alone, with nothing to choose, make {labels} errors. The "
              "claim is that early stopping is better than these:\n",
              *fair.steps("arm", "errors minus labels alone", tests, lambda name: (
                  fair.linked(name, [of[name]]))), ""]
  lines += ["| after epoch | the teacher's test errors | its student's |",
            "|--:|--:|--:|"]
  for epoch, mean in teachers(rows).items():
    if own := [*of[f"epoch {epoch}"].errors.values()]:
      label = sources.linked(str(epoch), _of(_at(epoch), rows["table"]))
      lines.append(f"| {label} | {fair.mean_with_half(mean)} | "
                   f"{fair.mean_with_half(statistics.summary(own))} |")
  return "\n".join(lines) + "\n"


def status(rows: Rows) -> str:
  """Which students are better than the whole teacher's or labels, which worse."""
  results = [each for each in found(rows) if each.errors]
  best = fair.fewest(results, [*_errors("labels", rows).values()])
  family = claims.Family(against_labels(rows))

  def listed(verdict: str) -> str:
    those = family.having(verdict)
    return f"all {len(those)}" if len(those) == len(ARMS) else (
        ", ".join(those) or "none")

  return (f"{fair.outcome(results, ARMS[WHOLE].name)}; better than labels alone: "
          f"{listed(claims.HOLDS)}; worse: {listed(claims.FAILS)}; {best}")


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """Test errors of the teacher and of its student, against the teacher's epochs."""
  drawn, axes = canvas.figure(1, 1, (5.0, 3.2))
  at = axes[0][0]
  students = {epoch: statistics.summary([*errors.values()])
              for epoch, name in zip(recipe.EPOCHS, recipe.STUDENTS, strict=True)
              if (errors := _errors(name, rows))}
  for index, (label, points) in enumerate((
      ("teacher", teachers(rows)), ("its student", students))):
    canvas.means(at, points, index, label)
  for index, (label, net) in enumerate((
      ("labels alone", "labels"), (ARMS["stopped"].name, "stopped"))):
    if errors := _errors(net, rows):
      canvas.level(at, statistics.summary([*errors.values()]), label=label,
                   colour=canvas.COLOURS[index + 2], dash=index)
  canvas.log_values(at, recipe.EPOCHS)
  at.set(xlabel="epochs of the teacher, of 40", ylabel="test errors, 95% interval")
  drawn.legend(*at.get_legend_handles_labels(), loc="outside upper left", ncols=2)
  return canvas.save(drawn, file)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """What a teacher teaches, against how long it was trained."""
  _draw(rows, folder / "epochs.png")
