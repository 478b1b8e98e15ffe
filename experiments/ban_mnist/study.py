"""Does a net gain when it learns from a net of its own architecture, and by what?

Generations 1-4 of 2x800, each the student of the one before; a student of three of
them at once; and controls: the teacher's confidence alone (CWTM), its probabilities
of other classes permuted (DKPP), label smoothing, a virtual teacher (Tf-KD). The
mean of the probabilities of several generations is judged too: nothing is trained.
"""

import functools
import itertools
import pathlib

import ml_collections

from configs import born_again as recipe
from experiments import fair, sources
from experiments.protocol import Options, Place, Rows, Stage
from kd_jax.report import Row, canvas, comparison, statistics
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm, arm

CLAIM = ("nets born again are better than their teachers, ensembles of them most; "
         "so are, by less, those of CWTM and DKPP; DenseNet-112-33 on CIFAR-100: "
         "error 18.25%, by the teacher alone 16.95%, with labels 17.68%, in a "
         "chain 17.61, 17.22, 16.59%, CWTM and DKPP 17.84%, ensemble of three "
         "15.68%")
DATA = "MNIST; the paper's CIFAR-100"
UNIT = "errors of 10,000; the paper's: error in %"
COMMAND = "--config=configs/born_again.py"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(("choosing", "table"), fair.NOT_COMMITTED)

ALPHAS = (0.5, 0.9, 1.0)
_FIRST = recipe.GENERATIONS[:1]
_AT_ONCE = "of generations 1-3"
_CHAIN = recipe.GENERATIONS[1:]


def _student(name: str, method: str, teachers: tuple[str, ...], **axes) -> Arm:
  """An arm of the net that nobody learns from."""
  given = {"method": (method,), "teachers": (teachers,), **axes}
  return arm(name, {f"nets.student.{key}": values for key, values in given.items()})


LABELS = _student(
    "labels", "hard", (), **{"optimizer.learning_rate": (5e-4, 1e-3, 2e-3)})
# Of those that learn from a net, the share of its term is tried.
STUDENTS = (
    LABELS,
    arm(_AT_ONCE, {"alpha": ALPHAS}),
    _student("CWTM", "cwtm", _FIRST, alpha=ALPHAS),
    _student("DKPP", "dkpp", _FIRST, alpha=ALPHAS),
    _student("label smoothing", "hard", (), label_smoothing=(0.05, 0.1, 0.2)),
    _student("Tf-KD", "tfkd", (), alpha=(0.1, 0.5, 0.9)))
GENERATIONS = tuple(
    arm(name.replace("_", " "), {"alpha": ALPHAS}) for name in _CHAIN)
# Means of probabilities, as the paper's without the first teacher; two nets from
# labels beside them.
ENSEMBLES = {
    "mean of 2 from labels": (*_FIRST, "student"),
    **{f"mean of 1-{last}": recipe.GENERATIONS[1:last + 1] for last in (2, 3, 4)}}


def stages(options: Options) -> list[Stage]:
  """The settings of each arm, then all of them with many seeds, and their means."""
  tried, seeds = 2, options.seeds or (2 if options.quick else 10)
  made = lambda: _smaller(_config()) if options.quick else _config()
  return [
      fair.choosing("choosing", lambda _: {"": STUDENTS}, made, seeds=tried),
      Stage("table", config=lambda rows: table(made(), rows, seeds)),
      Stage("ensembles", run=_ensembles, shards=False)]


def table(
    config: ml_collections.ConfigDict, rows: Rows, seeds: int
) -> ml_collections.ConfigDict:
  """All nets, each with what is chosen for it."""
  for name, each in zip(_CHAIN, GENERATIONS, strict=True):
    config.nets[name].alpha = chosen(each, name, rows)
  config.sweep.logits = True
  config.sweep.points = tuple(arms_lib.final(
      (fair.chosen(each, rows) for each in STUDENTS), range(seeds)))
  return config


def chosen(each: Arm, net: str, rows: Rows) -> float:
  """The share of its teacher's term for a generation, by its held-out errors."""
  return fair.best(each, _tried(each, net, rows))["alpha"]


def _tried(each: Arm, net: str, rows: Rows) -> list[Row]:
  """The rows of a generation's settings; points of controls do not set alpha."""
  alpha = {"alpha": recipe.get_config().alpha}
  whole = [row | {"overrides": alpha | row["overrides"]}
           for row in arms_lib.judged(rows.get("choosing", ()), net)]
  return [row for row in whole if arms_lib.of(row) in each.settings]


def _config() -> ml_collections.ConfigDict:
  config = recipe.get_config()
  config.data.embedded = "never"
  config.sweep.lanes = "2x1"
  return config


def _smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "only"
  config.steps = 60
  for name in config.recipe:
    config.nets[name].widths = (40, 40)
  return config


# ---- Means of probabilities, of nets that are there.


def _ensembles(rows: Rows, place: Place) -> None:
  """A row for each ensemble and seed: the test errors of the mean."""
  # jax, which a plan does not need.
  from experiments.ban_mnist import ensembles
  nets = {(row["net"], row["seed"]): row for row in rows["table"]
          if row["failed"] is None and _is_member(row)}
  ensembles.write(nets, ENSEMBLES, _config(), place)


def _is_member(row: Row) -> bool:
  """Whether a row is a generation's, or of a net from labels alone."""
  return row["net"] != "student" or arms_lib.of(row) in LABELS.settings


# ---- What the rows say.


def found(rows: Rows) -> list[comparison.Result]:
  """Of every arm: students, generations, then ensembles."""
  said = fair.results(STUDENTS, rows)
  for name, each in zip(_CHAIN, GENERATIONS, strict=True):
    # In the table alpha is of the config, as it is another for each net.
    setting = {"alpha": chosen(each, name, rows)}
    final = [row | {"overrides": setting}
             for row in arms_lib.judged(rows["table"], name)]
    said.append(comparison.result(each, setting, _tried(each, name, rows), final))
  return said + [_of_ensemble(name, rows) for name in ENSEMBLES]


def _of_ensemble(name: str, rows: Rows) -> comparison.Result:
  own = [row for row in rows.get("ensembles", ())
         if row["overrides"] == {"ensemble": name}]
  return comparison.Result(
      name, {}, [], [], {row["seed"]: row["test_errors"] for row in own},
      max((row["test_examples"] for row in own), default=0), 0, 0.0, own)


def steps(rows: Rows) -> dict[str, statistics.Paired]:
  """Each generation minus the one before, paired by seed; below 0 it gains."""
  tests = {}
  for before, name in itertools.pairwise(recipe.GENERATIONS):
    test = statistics.paired_by_seed(_errors(name, rows), _errors(before, rows))
    if test:
      tests[name.replace("_", " ")] = test
  return tests


def _errors(net: str, rows: Rows) -> dict[int, int]:
  """The test errors of a generation, by seed."""
  return {row["seed"]: row["test_errors"]
          for row in arms_lib.judged(rows["table"], net) if row["failed"] is None}


def conclude(rows: Rows) -> str:
  """Every arm against labels alone, and each generation against the one before."""
  everything = [*STUDENTS, *GENERATIONS]
  lines = [f"**{status(rows)}.**\n",
           fair.markdown(
               found(rows), LABELS.name, everything, fair.tried(LABELS, rows)),
           "Of a mean of probabilities nothing is chosen: its nets are those of "
           "the table.\n"]
  lines += fair.steps("", "errors minus the generation before", steps(rows),
                      functools.partial(_linked, rows))
  return "\n".join(lines) + "\n"


def _linked(rows: Rows, name: str) -> str:
  return sources.linked(
      name, arms_lib.judged(rows["table"], name.replace(" ", "_")))


def status(rows: Rows) -> str:
  """Which arms are better than labels alone, which worse, and the fewest errors."""
  said = [each for each in found(rows) if each.errors]
  return f"{fair.outcome(said, LABELS.name)}; {fair.fewest(said, [])}"


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """Test errors by generation, of nets and of means; then those of other arms."""
  drawn, axes = canvas.figure(1, 1, (6.4, 4.2))
  at, said = axes[0][0], {each.name: each for each in found(rows) if each.errors}
  chain = {number: errors for number, name in enumerate(recipe.GENERATIONS)
           if (errors := _errors(name, rows))}
  means = {number: said[name].errors for number in (2, 3, 4)
           if (name := f"mean of 1-{number}") in said}
  for index, (label, points) in enumerate((
      ("one net", chain), ("mean of generations 1 to it", means))):
    each = {number: statistics.summary([*errors.values()])
            for number, errors in points.items()}
    canvas.means(at, each, index, label)
  others = [each.name for each in STUDENTS if each.name in said]
  ticks = {number: str(number) for number in range(len(recipe.GENERATIONS))}
  for place, name in enumerate(others, len(ticks)):
    canvas.means(at, {place: statistics.summary([*said[name].errors.values()])},
                 2, "nobody learns from it" if name == others[0] else "_")
    ticks[place] = name
  at.set_xticks([*ticks], [*ticks.values()])
  for label in at.get_xticklabels()[len(recipe.GENERATIONS):]:
    label.set(rotation=90)
  at.set(xlabel="generation (0 learns from labels), and the other arms",
         ylabel=f"test errors of {max(each.examples for each in said.values()):,}")
  drawn.legend(*at.get_legend_handles_labels(), loc="outside upper left", ncols=2)
  return canvas.save(drawn, file)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Test errors against the generation."""
  _draw(rows, folder / "generations.png")
