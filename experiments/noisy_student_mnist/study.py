"""Does a student of few labels become better, and more robust, than its teacher?

Of 60,000 digits 300, 1,000 or 3,000 have a label. A teacher learns from these, and
students from what it says of all digits, in three rounds: with its softmax or its
class (argmax), with noise or without, as large as it or larger. All nets are judged
on clean digits and on corrupted ones.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
import pathlib
from typing import NamedTuple

import ml_collections

from configs import noisy_student as recipe
from experiments import claims, fair, sources
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.core.words import counted
from kd_jax.report import Row, canvas, comparison, names, statistics, tables
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm, arm

CLAIM = ("noisy students that are not smaller than their teachers become better "
         "than them, and far more robust, round by round: EfficientNet-L2 on "
         "ImageNet 88.4%, corruption error (mCE) 45.7 to 28.3")
DATA = "MNIST; the paper's ImageNet and 300 million images"
UNIT = "errors of 10,000; the paper's: top-1 accuracy in %"
COMMAND = "--config=configs/noisy_student.py"
REFERENCE = None
_STAGES = ("teacher_choosing", "choosing", "table")
NOT_COMMITTED = dict.fromkeys(_STAGES, fair.NOT_COMMITTED)

LABELLED = (300, 1_000, 3_000)
# Settings are chosen with so many labels.
_TYPICAL = 1_000
_SMALL, _LARGE = (400, 400), (800, 800)
TEACHER = arm("labels alone", {
    "nets.teacher.hidden_dropout": (0.2, 0.5),
    "nets.teacher.optimizer.learning_rate": (5e-4, 2e-3)})
# What students differ in.
FACTORS = ("argmax", "noise", "larger")
Kind = tuple[bool, ...]
KINDS: tuple[Kind, ...] = tuple(itertools.product((False, True), repeat=3))
# The keys of a draw; all others of a row are the setting of its arm.
_OF_DRAWS = ("transfer.seed", "transfer.labelled")


def _student(kind: Kind) -> Arm:
  """An arm of students: four settings each, of dropout where it has noise."""
  argmax, noise, larger = kind
  tried = {"student.hidden_dropout": (0.2, 0.5),
           "optimizer.learning_rate": (5e-4, 2e-3)} if noise else {
               "student.hidden_dropout": (0.0,),
               "optimizer.learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3)}
  return arm(shown(kind), {
      "method": ("pseudo_label" if argmax else "kd",),
      "student.views": ("shift2" if noise else "none",),
      "student.widths": (_LARGE if larger else _SMALL,), **tried})


def shown(kind: Kind) -> str:
  """The name of an arm.

  Example:
    >>> shown((False, True, True))
    'soft, noise, larger'
  """
  more = [factor for factor, there in zip(FACTORS[1:], kind[1:], strict=True)
          if there]
  return ", ".join(["argmax" if kind[0] else "soft", *more])


STUDENTS = {kind: _student(kind) for kind in KINDS}


# ---- Stages.


def stages(options: Options) -> list[Stage]:
  """The teacher's settings, those of students of one round, then three rounds."""
  draws = options.seeds or (2 if options.quick else 5)
  labelled = (100,) if options.quick else LABELLED
  small, choosing = (_shorter, _quickly) if options.quick else (
      lambda config: config, _choosing)
  return [
      Stage("teacher_choosing", command=f"{COMMAND}:labels",
            config=lambda _: choosing(small(_config("labels")), [TEACHER])),
      Stage("choosing", command=f"{COMMAND}:once", config=lambda rows: choosing(
          _taught(small(_config("once")), rows), [*STUDENTS.values()])),
      Stage("table", config=lambda rows: table(
          _taught(small(_config()), rows), rows, labelled, draws))]


def _choosing(
    config: ml_collections.ConfigDict, arms: Sequence[Arm], *,
    labelled: int = _TYPICAL, draws: int = 2,
) -> ml_collections.ConfigDict:
  """Every setting of some arms, judged on held-out digits."""
  hold_out(config)
  config.transfer.labelled = labelled
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*(each.settings for each in arms)),
      _draws(arms_lib.FIRST_SEED, draws)))
  return config


def _quickly(
    config: ml_collections.ConfigDict, arms: Sequence[Arm]
) -> ml_collections.ConfigDict:
  """The same of the first setting of each, so that nothing is chosen."""
  return _choosing(config, [each._replace(settings=each.settings[:1])
                            for each in arms], labelled=100, draws=1)


def table(
    config: ml_collections.ConfigDict, rows: Rows, labelled: Sequence[int],
    draws: int,
) -> ml_collections.ConfigDict:
  """All arms with what is chosen for each, of every number of labels."""
  config.evaluate.corruptions = True
  config.sweep.points = tuple(sweep.product(
      {"transfer.labelled": labelled},
      sweep.chain(*(sweep.fixed(chosen(kind, rows)) for kind in KINDS)),
      _draws(0, draws)))
  return config


def _draws(first: int, number: int) -> sweep.Sweep:
  """Draws of the labelled digits, each with a seed of its own."""
  each = range(first, first + number)
  return sweep.zipped({"seed": each, "transfer.seed": each})


def chosen(kind: Kind, rows: Rows) -> sweep.Point:
  """The setting of students with the fewest held-out errors after one round."""
  return fair.best(STUDENTS[kind], _plain(rows.get("choosing", ()), "student"))


def _taught(config, rows: Rows) -> ml_collections.ConfigDict:
  """A config with what is chosen for the teacher."""
  best = fair.best(TEACHER, _plain(rows.get("teacher_choosing", ()), "teacher"))
  config.update_from_flattened_dict(best)
  return config


def _plain(rows: Sequence[Row], net: str) -> list[Row]:
  """The rows of a net, as if the draw were its seed alone."""
  left = lambda point: {
      key: value for key, value in point.items() if key not in _OF_DRAWS}
  return [row | {"overrides": left(row["overrides"])}
          for row in arms_lib.judged(rows, net)]


def _config(variant: str = "default") -> ml_collections.ConfigDict:
  config = recipe.get_config(variant)
  config.data.embedded = "never"
  config.epochs = 8
  config.nets.teacher.widths = _SMALL
  config.sweep.lanes = "1x1"
  return config


def _shorter(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, short runs."""
  config.data.embedded = "only"
  config.steps, config.nets.teacher.steps = 20, 40
  return config


# ---- What the rows say.


def clean(row: Row) -> float:
  """Errors on clean digits, in percent."""
  return 100 * row["test_errors"] / row["test_examples"]


def corrupted(row: Row) -> float:
  """Errors on corrupted digits, in percent: the mean of kinds and strengths."""
  of_kinds = [_mean(counts) for counts in row["corrupted_errors"].values()]
  return 100 * _mean(of_kinds) / row["test_examples"]


MEASURES: dict[str, Callable[[Row], float]] = {
    "clean": clean, "corrupted": corrupted}
# Percent by draw.
Shares = dict[int, float]


class Nets:
  """The rows of the table by labels, arm and round; round 0 is the teacher."""

  def __init__(self, rows: Rows):
    done = [row for row in rows["table"] if row["failed"] is None]
    self.labelled = sorted({row["overrides"]["transfer.labelled"] for row in done})
    settings = {kind: chosen(kind, rows) for kind in KINDS}
    self._found: dict[tuple[int, Kind | None, int], list[Row]] = {}
    for place, net in enumerate(("teacher", *recipe.STUDENTS)):
      own = arms_lib.judged(done, net)
      for row, plain in zip(own, _plain(own, net), strict=True):
        for kind in KINDS if place else (None,):
          if kind is None or arms_lib.of(plain) == settings[kind]:
            key = row["overrides"]["transfer.labelled"], kind, place
            self._found.setdefault(key, []).append(row)

  def of(self, labelled: int, kind: Kind | None, rounds: int) -> list[Row]:
    """The rows of a net, one a draw."""
    return self._found.get((labelled, kind if rounds else None, rounds), [])

  def shares(
      self, measure: str, labelled: int, kind: Kind | None, rounds: int
  ) -> Shares:
    """Errors by draw, in percent."""
    return {row["seed"]: MEASURES[measure](row)
            for row in self.of(labelled, kind, rounds)}


class Effect(NamedTuple):
  """A difference of errors in points, paired by draw, and p by Holm."""

  test: statistics.Paired
  p: float | None = None

  @property
  def sure(self) -> bool:
    return self.p is not None and self.p < comparison.LEVEL


def _adjusted(tests: dict) -> dict:
  p = claims.Family(tests).adjusted
  return {key: Effect(test, p.get(key)) for key, test in tests.items()}


def against_teachers(nets: Nets) -> dict[tuple[str, int, Kind], Effect]:
  """Students of the last round minus the teacher of their draw."""
  last = len(recipe.STUDENTS)
  tests = {}
  for measure, labelled, kind in itertools.product(MEASURES, nets.labelled, KINDS):
    if test := statistics.paired_by_seed(
        nets.shares(measure, labelled, kind, last),
        nets.shares(measure, labelled, None, 0)):
      tests[measure, labelled, kind] = test
  return _adjusted(tests)


def effects(nets: Nets) -> dict[tuple[str, int, str], Effect]:
  """What each factor changes, all else alike, and what two more rounds do.

  mean over the 4 pairs of arms of (errors with it - errors without it), after the
  last round; of rounds, mean over the 8 arms of (round 3 - round 1).
  """
  tests, last = {}, len(recipe.STUDENTS)
  for measure, labelled in itertools.product(MEASURES, nets.labelled):
    of = lambda kinds, rounds, m=measure, n=labelled: _mean_by_draw(
        [nets.shares(m, n, kind, rounds) for kind in kinds])
    pairs = {factor: [of([kind for kind in KINDS if kind[place] is there], last)
                      for there in (True, False)]
             for place, factor in enumerate(FACTORS)}
    pairs["two more rounds"] = [of(KINDS, last), of(KINDS, 1)]
    for name, (some, others) in pairs.items():
      if test := statistics.paired_by_seed(some, others):
        tests[measure, labelled, name] = test
  return _adjusted(tests)


def _mean_by_draw(shares: Sequence[Shares]) -> Shares:
  """The mean over nets, of the draws that all of them have."""
  draws = set.intersection(*map(set, shares)) if shares else set()
  return {draw: _mean([each[draw] for each in shares]) for draw in sorted(draws)}


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def status(rows: Rows) -> str:
  """How many arms are better than their teachers after three rounds, and worse."""
  nets = Nets(rows)
  found = against_teachers(nets)
  told = []
  for measure in MEASURES:
    each = []
    for labelled in nets.labelled:
      sure = [effect.test.difference for (m, n, _), effect in found.items()
              if (m, n) == (measure, labelled) and effect.sure]
      better = sum(difference < 0 for difference in sure)
      each.append(
          f"{labelled:,} labels {better} better, {len(sure) - better} worse")
    told.append(f"{measure} digits: {', '.join(each)}")
  return (f"of {counted(len(KINDS), 'arm')} after 3 rounds, against their "
          f"teachers, on {'; on '.join(told)}")


def conclude(rows: Rows) -> str:
  """Every arm against its teacher, each factor, and errors by corruption."""
  nets = Nets(rows)
  return "\n".join([f"**{status(rows)}.**\n", *_table(nets), *_factors(nets),
                    *_by_kind(nets), _settings(rows)])


def _table(nets: Nets) -> Iterator[str]:
  found = against_teachers(nets)
  for labelled in nets.labelled:
    yield f"{labelled:,} labels, errors in % (draws):\n"
    yield ("| arm | clean, rounds 1, 2 | round 3 | minus teacher | p (Holm) | "
           "corrupted, rounds 1, 2 | round 3 | minus teacher | p (Holm) |")
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    cells = [cell for measure in MEASURES for cell in (
        "", _half(nets.shares(measure, labelled, None, 0)), "reference", "")]
    yield _line(sources.linked(TEACHER.name, nets.of(labelled, None, 0)), cells)
    for kind in KINDS:
      label = sources.linked(shown(kind), nets.of(labelled, kind, 3))
      yield _line(label, [cell for measure in MEASURES for cell in (
          *_rounds(nets, measure, labelled, kind),
          *_told(found.get((measure, labelled, kind))))])
    yield ""
  yield ("± and brackets: 95%, over draws; differences are paired by draw. p is "
         f"corrected by Holm over all {len(found)}.\n")


def _rounds(nets: Nets, measure: str, labelled: int, kind: Kind) -> list[str]:
  """Errors after the first rounds, and after the last."""
  first, second, last = (nets.shares(measure, labelled, kind, rounds)
                         for rounds in (1, 2, 3))
  return [", ".join(map(_short, (first, second))), _half(last)]


def _factors(nets: Nets) -> Iterator[str]:
  found = effects(nets)
  yield _line("with it minus without", [
      "labels", "clean", "p (Holm)", "corrupted", "p (Holm)"])
  yield "|---|--:|--:|--:|--:|--:|"
  for name in (*FACTORS, "two more rounds"):
    for labelled in nets.labelled:
      own = [row for kind in KINDS for row in nets.of(labelled, kind, 3)]
      yield _line(sources.linked(name, own), [f"{labelled:,}", *(
          cell for measure in MEASURES
          for cell in _told(found.get((measure, labelled, name))))])
  yield ("\nIn points of errors, all else alike: mean over 4 pairs of arms, or "
         f"over 8 arms, paired by draw; p by Holm over {len(found)}.\n")


def _by_kind(nets: Nets) -> Iterator[str]:
  """Of each kind of corruption, mean of strengths and draws."""
  labelled = nets.labelled[len(nets.labelled) // 2]
  columns = {TEACHER.name: nets.of(labelled, None, 0)} | {
      shown(kind): nets.of(labelled, kind, 3) for kind in KINDS}
  yield _line(f"{labelled:,} labels, errors in %", [*columns])
  yield "|---|" + "--:|" * len(columns)
  own = [row for rows in columns.values() for row in rows]
  for corruption in own[0]["corrupted_errors"]:
    share = lambda row, c=corruption: (
        100 * _mean(row["corrupted_errors"][c]) / row["test_examples"])
    yield _line(sources.linked(corruption, own), [
        tables.number(_mean([*map(share, rows)]), 1) if rows else ""
        for rows in columns.values()])
  yield ""


def _line(first: str, cells: Sequence[str]) -> str:
  return f"| {' | '.join([first, *cells])} |"


def _settings(rows: Rows) -> str:
  teacher = fair.best(TEACHER, _plain(rows.get("teacher_choosing", ()), "teacher"))
  told = [(TEACHER, teacher), *(
      (STUDENTS[kind], chosen(kind, rows)) for kind in KINDS)]
  each = []
  for one, setting in told:
    tried = [key for key, values in one.axes.items() if len(values) > 1]
    each.append(f"{one.name}: {names.label(setting, names.columns(tried))}")
  return f"Chosen of four settings each: {'; '.join(each)}.\n"


def _told(effect: Effect | None) -> tuple[str, str]:
  if effect is None:
    return "", ""
  value, low, high = (tables.number(each, 2, sign=True)
                      for each in effect.test[:3])
  return f"{value} [{low}, {high}]" if low else value, tables.probability(effect.p)


def _short(shares: Shares) -> str:
  return tables.number(_mean([*shares.values()]), 2) if shares else ""


def _half(shares: Shares) -> str:
  if not shares:
    return ""
  found = statistics.summary([*shares.values()])
  half = "" if found.high is None else (
      f" ± {tables.number(found.high - found.mean, 2)}")
  return f"{tables.number(found.mean, 2)}{half} ({found.n})"


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """Errors against the round, clean above, corrupted below; a column a number."""
  nets = Nets(rows)
  drawn, axes = canvas.figure(
      2, len(nets.labelled), (2.2 + 2.2 * len(nets.labelled), 4.6), sharex=True)
  for line, measure in enumerate(MEASURES):
    for column, labelled in enumerate(nets.labelled):
      at = axes[line][column]
      for place, kind in enumerate(KINDS):
        means = {rounds: _mean([*shares.values()]) for rounds in range(4)
                 if (shares := nets.shares(measure, labelled, kind, rounds))}
        at.plot([*means], [*means.values()], label=shown(kind), markersize=4,
                linewidth=1, linestyle="--" if kind[0] else "-",
                **canvas.style(place % 4))
      at.set_xticks(range(4))
      if not line:
        at.set_title(f"{labelled:,} labels")
      if not column:
        at.set_ylabel(f"errors on {measure} digits, %")
      if line:
        at.set_xlabel("round; 0: labels alone")
  axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  return canvas.save(drawn, file)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Errors against the round."""
  _draw(rows, folder / "rounds.png")
