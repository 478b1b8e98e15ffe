"""Do hints train a thin deep student, where labels and KD do not?

A teacher of three wide layers and students of 5, 15 and 30 layers of 32 units. Each
arm of each depth is tried with six settings on held-out digits; then the best is
trained on all digits with ten seeds. In two stages, as in the paper, a net learns
the hint alone, and the student starts from it and learns by KD. As two stages take
twice the epochs, KD is given as many too.
"""

import pathlib

import ml_collections

from configs import fitnets, mnist
from experiments import fair
from experiments.protocol import Options, Rows, Stage
from kd_jax.report import canvas, comparison, statistics
from kd_jax.runs.arms import Arm, arm

CLAIM = ("deep thin students learn by hints where they do not by labels or KD; on "
         "MNIST 1.9% from labels, 0.65% by KD, 0.51% with hints")
DATA = "MNIST, as the paper's"
UNIT = "errors of 10,000; the paper's: error in %"
COMMAND = "--config=configs/mnist.py"
_STAGED = "--config=configs/fitnets.py"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(
    ("choosing", "longer_choosing", "longer", "staged_choosing", "staged"),
    fair.NOT_COMMITTED)

DEPTHS = (5, 15, 30)
_UNITS, _TEACHER = 32, (400, 400, 400)
_RATES = (1e-3, 3e-3)
_TEMPERATURES = (2.0, 4.0, 8.0)
_HINTS = (1.0, 10.0, 100.0)
_STAGES = "hint then kd"
_LONGER = "kd for 20 epochs"  # Those of both stages together.
_BESIDE = "labels + {} of 3 hints"


def stages(options: Options) -> list[Stage]:
  """Choosing and the table of what is trained at once; then of two stages."""
  quick = options.quick
  seeds = options.seeds or (2 if quick else 10)
  depths = DEPTHS[:1] if quick else DEPTHS
  small = _smaller if quick else lambda config: config
  joint = lambda _: {str(depth): at_once(depth) for depth in depths}
  more = lambda _: {str(depth): [longer(depth)] for depth in depths}
  staged = lambda _: {str(depth): [in_stages(depth)] for depth in depths}
  return [
      fair.choosing("choosing", joint, lambda: small(_config()), seeds=1),
      fair.table("table", joint, lambda: small(_config()), seeds=seeds),
      fair.choosing("longer_choosing", more, lambda: small(_config()), seeds=1),
      fair.table("longer", more, lambda: small(_config()), seeds=seeds),
      fair.choosing("staged_choosing", staged, lambda: small(_recipe()), seeds=1,
                    command=_STAGED),
      fair.table("staged", staged, lambda: small(_recipe()), seeds=seeds,
                 command=_STAGED)]


def at_once(depth: int) -> list[Arm]:
  """The arms of a depth whose terms are trained together."""
  student = {"student.widths": ((_UNITS,) * depth,)}
  rates = {"optimizer.learning_rate": _RATES}
  hint = lambda pairs: arm(_BESIDE.format(len(pairs)), {
      **student, "method": ("hint",), "features.pairs": (pairs,),
      "hint.weight": _HINTS, **rates})
  return [
      arm("labels", {**student, "method": ("hard",),
                     "label_smoothing": (0.0, 0.05, 0.1), **rates}),
      arm("kd", {**student, "method": ("kd",), "temperature": _TEMPERATURES,
                 **rates}),
      *(hint(pairs(depth, levels)) for levels in ((1,), (0, 1), (0, 1, 2)))]


def longer(depth: int) -> Arm:
  """KD for as many epochs as both stages take."""
  kd = next(each for each in at_once(depth) if each.name == "kd")
  return arm(_LONGER, {**kd.axes, "epochs": (20,)})


def in_stages(depth: int) -> Arm:
  """The hint of the middle first, then KD."""
  net = lambda name, key: f"nets.{name}.{key}"
  return arm(_STAGES, {
      net("guided", "widths"): ((_UNITS,) * depth,),
      net("student", "widths"): ((_UNITS,) * depth,),
      net("guided", "features.pairs"): (pairs(depth, (1,)),),
      net("student", "temperature"): _TEMPERATURES,
      net("student", "optimizer.learning_rate"): _RATES})


def arms(depth: int) -> list[Arm]:
  """All arms of a depth."""
  return [*at_once(depth), longer(depth), in_stages(depth)]


def pairs(depth: int, levels: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
  """A student's layers at the same parts of its depth as the teacher's levels.

  Example:
    >>> pairs(15, (0, 2))
    (('hidden_4', 'hidden_0'), ('hidden_14', 'hidden_2'))
  """
  return tuple((f"hidden_{(level + 1) * depth // 3 - 1}", f"hidden_{level}")
               for level in levels)


def _config() -> ml_collections.ConfigDict:
  """What all that is trained at once shares."""
  config = mnist.get_config()
  config.data.embedded = "never"
  config.teacher.widths = _TEACHER
  config.epochs, config.min_steps = 10, 0
  config.sweep.lanes = "2x3"
  return config


def _recipe() -> ml_collections.ConfigDict:
  """The teacher, the net that learns the hint, and the student that it becomes."""
  config = fitnets.get_config()
  config.data.embedded = "never"
  config.nets.teacher.widths = _TEACHER
  config.sweep.lanes = "2x3"
  return config


def _smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "only"
  config.steps = 40
  if config.recipe:
    config.nets.teacher.widths, config.nets.teacher.steps = (24, 24, 24), 100
  else:
    config.teacher.widths, config.teacher.steps = (24, 24, 24), 100
  return config


def found(rows: Rows) -> dict[int, list[comparison.Result]]:
  """What the rows say of each arm, by depth."""
  known = {}
  for depth in DEPTHS:
    results = fair.results(arms(depth), rows, ("table", "longer", "staged"))
    if any(each.errors or each.failed for each in results):
      known[depth] = [each for each in results if each.errors or each.failed]
  return known


def conclude(rows: Rows) -> str:
  """A table for each depth, every arm against labels alone, and as long ones."""
  parts = [f"**{status(rows)}.**\n"]
  for depth, results in found(rows).items():
    of = [each for each in arms(depth)
          if each.name in {result.name for result in results}]
    parts.append(f"{depth} layers of {_UNITS} units:\n\n" + fair.markdown(
        results, "labels", of, fair.tried(of[0], rows)) + "".join(
            fair.between(results, *both) for both in (
                (_BESIDE.format(3), "kd"), (_STAGES, _LONGER))))
  return "\n".join(parts)


def status(rows: Rows) -> str:
  """Which arms are better than labels alone, and which are worse, by depth."""
  return ". ".join(
      f"{depth} layers: {fair.outcome(results, 'labels')}"
      for depth, results in found(rows).items())


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """Test errors against depth, a line an arm, with 95% intervals."""
  known = found(rows)
  drawn, axes = canvas.figure(1, 1, (5.6, 3.2))
  at = axes[0][0]
  names = dict.fromkeys(each.name for results in known.values() for each in results)
  for place, name in enumerate(names):
    canvas.means(at, {
        depth + 0.25 * (place - len(names) / 2): statistics.summary(
            [*each.errors.values()])
        for depth, results in known.items() for each in results
        if each.name == name and each.errors}, place, name)
  at.set(xlabel=f"hidden layers of {_UNITS} units", ylabel="test errors of 10,000",
         xticks=list(known))
  drawn.legend(*at.get_legend_handles_labels(), loc="outside upper left", ncols=3)
  return canvas.save(drawn, file)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Test errors against depth."""
  _draw(rows, folder / "depth.png")
