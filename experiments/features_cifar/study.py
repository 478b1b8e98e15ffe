"""Is a method on features better than KD, on CIFAR-10 with small residual nets?

A resnet8 learns from a resnet14. Each arm is tried with two settings on held-out
images; then the better one is trained on all images with four seeds. The last arm
adds the method on features that was best on held-out images to KD.
"""

import pathlib

import ml_collections

from configs import cifar10
from experiments import fair
from experiments.protocol import Cell, Options, Rows, Stage
from kd_jax.config import sweep
from kd_jax.report import comparison
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm, arm

CLAIM = ("of Tian et al. (2020) and others, on CIFAR-100 with schedules of 240 "
         "epochs: features, relations or contrast teach more than KD")
DATA = "CIFAR-10; the papers' CIFAR-100"
UNIT = "errors of 10,000; the papers': top-1 accuracy in %"
COMMAND = "--config=configs/cifar10.py"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(("choosing", "sum_choosing"), fair.NOT_COMMITTED)

# The weights of their papers.
_WEIGHTS = {"at": 1000.0, "sp": 3000.0, "rkd": 1.0, "pkt": 30_000.0, "crd": 0.8,
            "wkd_f": 0.08}
# A schedule of a few epochs leaves less time for the labels.
_PARTS = (1.0, 0.25)
# The methods on features that are in no arm, and some that compare unlike nets.
OTHERS = ("hint", "vid", "cc", "cc_kernel", "nst", "fsp", "ab", "ft",
          "ft_attention", "ofd", "reviewkd", "simkd", "cat", "wkd_l", "pefd", "srd",
          "itrd", "nd", "crd_drawn")
UNLIKE = ("at", "sp", "rkd", "pkt", "crd", "vid", "reviewkd", "wkd_l", "pefd",
          "srd", "itrd", "nd")
_SUM, _SEEDS = "kd + best", 4


def stages(options: Options) -> list[Stage]:
  """Choosing, the sum of KD and what was best there, then the table."""
  made = _smaller if options.quick else _config
  few = 1 if options.quick else len(_WEIGHTS)
  return [
      fair.choosing("choosing", lambda _: {"": _alone()[:2 + few]}, made, seeds=1),
      fair.choosing("sum_choosing", lambda rows: {"": [_sum(rows)]}, made, seeds=1),
      fair.table("table", lambda rows: {"": arms(rows, few)}, made,
                 seeds=options.seeds or (2 if options.quick else _SEEDS))]


def arms(rows: Rows, few: int = len(_WEIGHTS)) -> list[Arm]:
  """All arms: the last is KD with the best method on features."""
  return [*_alone()[:2 + few], _sum(rows)]


def _alone() -> list[Arm]:
  return [
      arm("labels", {"method": ("hard",), "optimizer.learning_rate": (0.1, 0.05)}),
      arm("kd", {"method": ("kd",), "temperature": (4.0, 2.0)}),
      *(arm(name, {"method": (name,), f"{name}.weight": [
          part * weight for part in _PARTS]}) for name, weight in _WEIGHTS.items())]


def best(rows: Rows) -> tuple[str, float]:
  """The method on features with the fewest held-out errors, and its weight."""
  found = {}
  for each in _alone()[2:]:
    setting = fair.chosen(each, rows)
    errors = [row["heldout_errors"] for row in fair.tried(each, rows)
              if row["failed"] is None and arms_lib.of(row) == setting]
    found[each.name] = min(errors, default=float("inf")), setting
  name = min(found, key=lambda each: found[each][0])
  return name, found[name][1][f"{name}.weight"]


def _sum(rows: Rows) -> Arm:
  name, weight = best(rows)
  return arm(_SUM, {
      "method": (f"kd+{name}",), f"{name}.weight": (weight, 0.25 * weight)})


def _config() -> ml_collections.ConfigDict:
  """What all share: the teacher, and a schedule that two cores can afford."""
  config = cifar10.get_config()
  for net, depth in ((config.student, 8), (config.teacher, 14)):
    net.name, net.widths = "resnet", (16, 32, 64)
    net.model.depth = depth
  config.batch_size, config.epochs, config.teacher.epochs = 64, 7, 14
  for run in (config, config.teacher):
    run.optimizer.learning_rate = 0.1
  config.sweep.lanes = "1x1"
  return config


def others(rows: Rows) -> ml_collections.ConfigDict:
  """The other methods on features with their papers' weights, of the same nets."""
  del rows
  return _beside_kd(_config(), OTHERS)


def unlike(rows: Rows) -> ml_collections.ConfigDict:
  """Another family as the student, with the rate of Tian et al. (2020) for such."""
  del rows
  config = _config()
  config.student.name, config.student.widths = "mobilenetv2_half", ()
  config.student.model.depth = None
  config.optimizer.learning_rate = 0.01
  return _beside_kd(config, UNLIKE)


def _beside_kd(config, names) -> ml_collections.ConfigDict:
  """Labels, KD and some methods with each seed, whose teacher they share."""
  config.sweep.points = tuple(sweep.product(
      {"method": ("hard", "kd", *names), "seed": range(_SEEDS)}))
  return config


CELLS = (
    Cell("others", 2, "is any of the other methods on features better than KD, "
         "from resnet14 to resnet8 on CIFAR-10?", others, "4x1"),
    Cell("unlike", 2, "do features teach more than KD between nets of two "
         "families, from resnet14 to mobilenetv2_half on CIFAR-10?", unlike, "4x1"))


def _smaller() -> ml_collections.ConfigDict:
  """The same program in minutes: digits, narrow nets, few steps."""
  config = _config()
  config.data.name, config.data.embedded = "mnist", "only"
  config.student.widths = config.teacher.widths = (4, 8, 8)
  config.steps = config.teacher.steps = 10
  return config


def found(rows: Rows) -> list[comparison.Result]:
  """What the rows say of each arm that has some.

  T of the last is shown, as KD alone may have been chosen at another.
  """
  own = [each for each in fair.results(arms(rows), rows)
         if each.errors or each.failed]
  t = f"{_config().temperature:g} (not chosen)"
  return [each._replace(setting={**each.setting, "temperature": t},
                        tried=[*each.tried, "temperature"])
          if each.name == _SUM else each for each in own]


def conclude(rows: Rows) -> str:
  """Every arm against KD; the sum against the method that it adds to KD; labels."""
  results = found(rows)
  tests = comparison.differences(results, "labels")[0]
  lines = [f"- {fair.minus(name, 'labels', tests[name])}."
           for name in _WEIGHTS if name in tests]
  return "\n".join([
      f"**{status(rows)}.**\n",
      fair.markdown(results, "kd", arms(rows), rows["choosing"]),
      "The study was stopped some times, and rows counted the seconds of a "
      "training since it last began: the seconds of this table are too few, most "
      "of all those of wkd_f.", fair.between(results, _SUM, best(rows)[0]),
      "The methods on features minus labels alone, by seed and beside the "
      "comparisons of the table; p is not corrected.\n", *lines, ""])


def status(rows: Rows) -> str:
  """Which are better than KD, and which are worse."""
  return fair.outcome(found(rows), "kd")


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Differences from KD."""
  comparison.draw(found(rows), "kd", folder / "arms.png")
