"""Does a patient student that sees what its teacher sees come nearest to it?

Students of 2x100 learn from a teacher of 2x800, for 10 to 1,000 epochs of the same
3,000 digits: both nets see the same shifted digits, or each its own, or the teacher
the digits as they are; with mixed digits or without; and from labels alone.
"""

import functools
import pathlib

import ml_collections

from configs import patient as recipe
from experiments import fair, sources
from experiments.protocol import Options, Rows, Stage
from kd_jax.config import sweep
from kd_jax.report import canvas, comparison, statistics
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm, arm

CLAIM = ("a teacher is to see what its student sees, mixed too, and the student is "
         "to be patient: no other way is as good after many epochs; ResNet-50 on "
         "ImageNet: 80.5% at 160 pixels and 82.8% at 224 after 9,600 epochs, its "
         "teacher 83.0%")
DATA = "MNIST; the paper's ImageNet"
UNIT = "errors of 10,000; the paper's: top-1 accuracy in %"
COMMAND = "--config=configs/patient.py"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(("choosing", "table"), fair.NOT_COMMITTED)

# Of all arms, and more of those of which the claim is that they go on to gain.
EPOCHS, MORE, CHOOSING_EPOCHS = (10, 30, 100, 300), (1000,), 100
_EPOCHS = "nets.student.epochs"


def _arm(name: str, mixup: float, sees: str | None = None) -> Arm:
  """An arm: what its teacher sees, or labels alone where it is not asked."""
  axes = {"mixup": (mixup,)} | (
      {"alpha": (0.0,), "optimizer.learning_rate": (5e-4, 1e-3, 2e-3)}
      if sees is None else
      {"teacher_sees": (sees,), "temperature": (1.0, 2.0, 5.0)})
  return arm(name, {f"nets.student.{key}": values for key, values in axes.items()})


MATCHING = _arm("the same, mixed", 1.0, "views")
ARMS = (
    MATCHING,
    _arm("the same", 0.0, "views"),
    _arm("independent", 0.0, "independent"),
    _arm("independent, mixed", 1.0, "independent"),
    _arm("fixed", 0.0, "clean"),
    _arm("fixed, mixed", 1.0, "clean"),
    _arm("labels", 0.0),
    _arm("labels, mixed", 1.0))
GO_ON = ARMS[:2]


def stages(options: Options) -> list[Stage]:
  """The settings of each arm, then each of them for several numbers of epochs."""
  seeds = options.seeds or (2 if options.quick else 10)
  made = lambda epochs: _smaller(_config(2)) if options.quick else _config(epochs)
  return [
      fair.choosing("choosing", lambda _: {"": ARMS},
                    lambda: made(CHOOSING_EPOCHS), seeds=2),
      Stage("table", config=lambda rows: table(
          made(None), rows, seeds, *([(1, 2), ()] if options.quick else ())))]


def table(
    config: ml_collections.ConfigDict, rows: Rows, seeds: int,
    epochs: tuple[int, ...] = EPOCHS, more: tuple[int, ...] = MORE,
) -> ml_collections.ConfigDict:
  """What is chosen of each arm, for each number of epochs."""
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*(sweep.product(
          sweep.fixed(fair.chosen(each, rows)),
          {_EPOCHS: epochs + more * (each in GO_ON)}) for each in ARMS)),
      {"seed": range(seeds)}))
  return config


def _config(epochs: int | None) -> ml_collections.ConfigDict:
  config = recipe.get_config()
  config.data.embedded = "never"
  config.sweep.lanes = "2x1"
  if epochs:
    config.nets.student.epochs = epochs
  return config


def _smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "only"
  config.transfer.part = 0.5
  config.nets.teacher.epochs = 5
  config.nets.teacher.widths, config.nets.student.widths = (40, 40), (20, 20)
  return config


# ---- What the rows say.


def epochs_of(rows: Rows) -> list[int]:
  """The numbers of epochs that there are rows of."""
  return sorted({row["overrides"][_EPOCHS]
                 for row in arms_lib.judged(rows["table"])})


def found(rows: Rows, epochs: int) -> list[comparison.Result]:
  """What the rows say of the arms after so many epochs."""
  own = [row | {"overrides": {
      key: value for key, value in row["overrides"].items() if key != _EPOCHS}}
         for row in arms_lib.judged(rows["table"])
         if row["overrides"][_EPOCHS] == epochs]
  return fair.results(ARMS, {**rows, "table": own})


def errors(rows: Rows) -> dict[str, dict[int, statistics.Summary]]:
  """Test errors of each arm by the number of epochs."""
  means: dict[str, dict[int, statistics.Summary]] = {each.name: {} for each in ARMS}
  for epochs in epochs_of(rows):
    for each in found(rows, epochs):
      if each.errors:
        means[each.name][epochs] = statistics.summary([*each.errors.values()])
  return means


def _compared(rows: Rows) -> int:
  """The largest number of epochs that every arm has."""
  return min(max(points) for points in errors(rows).values() if points)


def _lengths(rows: Rows) -> dict[str, dict[int, dict[int, int]]]:
  """The errors of each arm by the number of epochs, then by seed."""
  each = [(result, epochs) for epochs in epochs_of(rows)
          for result in found(rows, epochs) if result.errors]
  return {one.name: {epochs: result.errors for result, epochs in each
                     if result.name == one.name} for one in ARMS}


def patience(rows: Rows) -> dict[str, statistics.Paired]:
  """Of each arm, the most epochs minus the next fewer, paired by seed."""
  tests = {}
  for name, of in _lengths(rows).items():
    own = [*of.values()]
    if len(own) > 1 and (test := statistics.paired_by_seed(own[-1], own[-2])):
      tests[name] = test
  return tests


def against_teachers(rows: Rows) -> dict[tuple[str, int], statistics.Paired]:
  """Each arm after its most epochs minus the teacher of its seed."""
  teachers = _teachers(rows)
  tests = {}
  for name, of in _lengths(rows).items():
    if of and (test := statistics.paired_by_seed(of[max(of)], teachers)):
      tests[name, max(of)] = test
  return tests


def _linked(rows: Rows, after: tuple[str, int]) -> str:
  """The label of an arm after so many epochs."""
  name, epochs = after
  return fair.linked(f"{name}, {epochs:,} epochs", [
      each for each in found(rows, epochs) if each.name == name])


def conclude(rows: Rows) -> str:
  """Each arm against matching of mixed digits, and what patience brings."""
  means, compared = errors(rows), _compared(rows)
  lines = [f"**{status(rows)}.**\n", f"After {compared} epochs:\n",
           fair.markdown(found(rows, compared), MATCHING.name, ARMS,
                         fair.tried(MATCHING, rows))]
  all_epochs, tests = epochs_of(rows), patience(rows)
  head = ["test errors after epochs", *(f"{epochs:,}" for epochs in all_epochs),
          "the last minus the one before"]
  lines += ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
  for name, points in means.items():
    cells = [fair.mean_with_half(points[epochs]) if epochs in points else ""
             for epochs in all_epochs]
    test = tests.get(name)
    cells.append(fair.difference(test) if test else "")
    own = {row.get("fingerprint") for epochs in points for each in found(
        rows, epochs) if each.name == name for row in each.rows}
    label = sources.linked(name, [
        row for row in rows["table"] if row.get("fingerprint") in own])
    lines.append(f"| {label} | " + " | ".join(cells) + " |")
  if teachers := _teachers(rows):
    lines += [f"\nThe teachers: {fair.with_half([*teachers.values()])}.\n",
              *fair.steps("after its most epochs", "errors minus its teacher's",
                          against_teachers(rows), functools.partial(_linked, rows))]
  return "\n".join(lines) + "\n"


def _teachers(rows: Rows) -> dict[int, int]:
  """The test errors of the teacher of each seed."""
  return {row["seed"]: row["test_errors"]
          for row in arms_lib.judged(rows["table"], "teacher")
          if row["failed"] is None}


def status(rows: Rows) -> str:
  """Which arms are better than matching of mixed digits, and the fewest errors."""
  compared = _compared(rows)
  best, epochs, mean = min(
      ((name, epochs, mean) for name, points in errors(rows).items()
       for epochs, mean in points.items()), key=lambda each: each[2].mean)
  return (f"after {compared} epochs "
          f"{fair.outcome(found(rows, compared), MATCHING.name)}; fewest errors "
          f"{best} after {epochs:,}, {fair.mean_with_half(mean)} ({mean.n})")


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """Test errors against the number of epochs, a curve for each arm."""
  drawn, axes = canvas.figure(1, 1, (5.6, 3.4))
  at = axes[0][0]
  for index, (name, points) in enumerate(errors(rows).items()):
    canvas.means(at, points, index, name)
  if teachers := _teachers(rows):
    canvas.level(at, statistics.summary([*teachers.values()]), label="teacher")
  canvas.log_axis(at, "x")
  canvas.log_axis(at, "y")
  at.set(xlabel="epochs of the student", ylabel="test errors, 95% interval")
  drawn.legend(*at.get_legend_handles_labels(), loc="outside right upper")
  return canvas.save(drawn, file)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Test errors against the number of epochs."""
  _draw(rows, folder / "epochs.png")
