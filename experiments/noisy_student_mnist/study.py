"""Does a student of few labels become better, and more robust, than its teacher?

Of 60,000 digits 300, 1,000 or 3,000 have a label. A teacher learns from these, and
students from what it says of all digits, in three rounds: with its softmax or its
class (argmax), with noise or without, as large as it or larger. All nets are judged
on clean digits and on corrupted ones. The paper's students are soft, have noise and
are larger; what is claimed of them is tested apart from all else.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
import itertools
import pathlib

import ml_collections

from configs import noisy_student as recipe
from experiments import claims, fair, sources
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.core.words import counted
from kd_jax.report import Row, canvas, statistics, tables
from kd_jax.runs import arms as arms_lib
from kd_jax.runs.arms import Arm, arm

CLAIM = ("noisy students that are not smaller than their teachers become better "
         "than them, and far more robust, round by round: EfficientNet-L2 on "
         "ImageNet 88.4%, corruption error (mCE) 28.3, the best before it 45.7")
DATA = "MNIST; the paper's ImageNet and 300 million images"
UNIT = "errors in %; the paper's: top-1 accuracy in %"
COMMAND = "--config=configs/noisy_student.py"
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
# The paper's: soft, noise, larger.
CLAIMED: Kind = (False, True, True)
OTHERS = tuple(kind for kind in KINDS if kind != CLAIMED)
LAST = len(recipe.STUDENTS)
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
  """Errors on corrupted digits, in percent: the mean of kinds and strengths.

  Without shifted ones: they are what some nets see as noise, and others never.
  """
  of_kinds = [_mean(counts) for kind, counts in row["corrupted_errors"].items()
              if kind not in _AS_NOISE]
  return 100 * _mean(of_kinds) / row["test_examples"]


_AS_NOISE = ("shift",)
MEASURES: dict[str, Callable[[Row], float]] = {
    "clean": clean, "corrupted": corrupted}
# Percent by draw.
Shares = dict[int, float]


class Nets:
  """The rows of the table by labels, arm and round; round 0 is the teacher."""

  def __init__(self, rows: Rows):
    every = rows.get("table", ())
    done = [row for row in every if row["failed"] is None]
    self.failed = len(every) - len(done)
    self.draws = len({row["seed"] for row in every})
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


def of_the_claim(nets: Nets) -> claims.Family:
  """The paper's students minus the first teacher of their draw.

  By measure, labels, arm and round: after the first round, where that teacher is
  their own and smaller than they are, and after the last.
  """
  return _minus_teacher(nets, [CLAIMED], (1, LAST))


def of_others(nets: Nets) -> claims.Family:
  """Students of the other arms after the last round, in the same way."""
  return _minus_teacher(nets, OTHERS, (LAST,))


def _minus_teacher(
    nets: Nets, kinds: Sequence[Kind], rounds: Sequence[int]) -> claims.Family:
  return claims.Family({
      (measure, labelled, kind, after): test
      for measure, labelled, kind, after in itertools.product(
          MEASURES, nets.labelled, kinds, rounds)
      if (test := statistics.paired_by_seed(
          nets.shares(measure, labelled, kind, after),
          nets.shares(measure, labelled, None, 0)))})


def effects(nets: Nets) -> claims.Family:
  """What each factor changes, and two more rounds, by measure, labels and name.

  mean over the 4 pairs of arms of (errors with it - errors without it), after the
  last round; of rounds, mean over the 8 arms of (round 3 - round 1). Whole chains
  are compared, each at the setting that was chosen for it.
  """
  tests = {}
  for measure, labelled in itertools.product(MEASURES, nets.labelled):
    of = lambda kinds, rounds, m=measure, n=labelled: _mean_by_draw(
        [nets.shares(m, n, kind, rounds) for kind in kinds])
    pairs = {factor: [of([kind for kind in KINDS if kind[place] is there], LAST)
                      for there in (True, False)]
             for place, factor in enumerate(FACTORS)}
    pairs[_ROUNDS] = [of(KINDS, LAST), of(KINDS, 1)]
    for name, (some, others) in pairs.items():
      if test := statistics.paired_by_seed(some, others):
        tests[measure, labelled, name] = test
  return claims.Family(tests)


_ROUNDS = "two more rounds"


def _mean_by_draw(shares: Sequence[Shares]) -> Shares:
  """The mean over nets, of the draws that all of them have."""
  draws = set.intersection(*map(set, shares)) if shares else set()
  return {draw: _mean([each[draw] for each in shares]) for draw in sorted(draws)}


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def status(rows: Rows) -> str:
  """The paper's students after the last round against their first teacher."""
  nets = Nets(rows)
  found = of_the_claim(nets)
  told = []
  for measure in MEASURES:
    each = [f"{labelled:,} labels {_told(nets, found, key)[0]}"
            for labelled in nets.labelled
            if (key := (measure, labelled, CLAIMED, LAST)) in found.tests]
    told.append(f"{measure} digits: {', '.join(each) or 'no rows yet'}")
  return (f"{shown(CLAIMED)}, after {LAST} rounds, minus the first teacher, in "
          f"points of errors on {'; on '.join(told)}")


def conclude(rows: Rows) -> str:
  """The claim, every arm against its teacher, each factor, errors by corruption."""
  nets = Nets(rows)
  return "\n".join([
      f"**{status(rows)}.**\n", *_claim(nets), *_table(nets), *_factors(nets),
      *_by_kind(nets), _settings(rows)])


def _claim(nets: Nets) -> Iterator[str]:
  """Whether the paper's students make fewer errors than their first teacher."""
  found = of_the_claim(nets)
  yield _line(f"{shown(CLAIMED)}: fewer errors than the first teacher", [
      "labels", *(cell for measure in MEASURES
                  for cell in (measure, "p (Holm)", ""))])
  yield "|---|--:|" + "--:|--:|---|" * len(MEASURES)
  when = {1: "after round 1: its own teacher, a smaller net",
          LAST: f"after round {LAST}"}
  for (rounds, label), labelled in itertools.product(when.items(), nets.labelled):
    keys = [(measure, labelled, CLAIMED, rounds) for measure in MEASURES]
    yield _line(sources.linked(label, nets.of(labelled, CLAIMED, rounds)), [
        f"{labelled:,}", *(cell for key in keys for cell in (
            *_told(nets, found, key),
            found.verdict(key) if key in found.tests else ""))])
  yield (f"\nThe claim has {counted(len(found.tests), 'comparison')}; p by Holm "
         "over these.\n")
  others = of_others(nets)
  for measure in MEASURES:
    listed = lambda verdict, m=measure: "; ".join(
        f"{shown(kind)} ({labelled:,} labels)"
        for of, labelled, kind, _ in others.having(verdict) if of == m) or "none"
    yield (f"Of the other {counted(len(OTHERS), 'arm')} after {LAST} rounds, fewer "
           f"errors on {measure} digits than the first teacher: "
           f"{listed(claims.HOLDS)}. More: {listed(claims.FAILS)}. Of the rest "
           "neither is shown.\n")


def _table(nets: Nets) -> Iterator[str]:
  claim, others = of_the_claim(nets), of_others(nets)
  for labelled in nets.labelled:
    yield f"{labelled:,} labels, errors in % (draws):\n"
    yield _line("arm", [head for measure in MEASURES for head in (
        f"{measure}, rounds 1, 2", "round 3", "minus first teacher", "p (Holm)")])
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    cells = [cell for measure in MEASURES for cell in (
        "", _half(nets.shares(measure, labelled, None, 0)), "reference", "")]
    yield _line(sources.linked(TEACHER.name, nets.of(labelled, None, 0)), cells)
    for kind in KINDS:
      family = claim if kind == CLAIMED else others
      own = [row for rounds in range(1, LAST + 1)
             for row in nets.of(labelled, kind, rounds)]
      yield _line(sources.linked(shown(kind), own), [
          cell for measure in MEASURES for cell in (
              *_rounds(nets, measure, labelled, kind),
              *_told(nets, family, (measure, labelled, kind, LAST)))])
    yield ""
  failed = "" if not nets.failed else (
      " Left out, as not finite or taught by one that is not: "
      f"{counted(nets.failed, 'net')}.")
  yield ("± and brackets: 95%, over draws. Differences are paired by draw; where "
         f"some of {nets.draws} are lost, of how many stands behind. Corrupted: "
         f"without {' and '.join(_AS_NOISE)}, which is noise of training too. p by "
         f"Holm over the {len(claim.tests)} of the claim, and over the "
         f"{len(others.tests)} of all other arms.{failed}\n")


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
  for name in (*FACTORS, _ROUNDS):
    for labelled in nets.labelled:
      own = [row for kind in KINDS
             for rounds in ((1, LAST) if name == _ROUNDS else (LAST,))
             for row in nets.of(labelled, kind, rounds)]
      yield _line(sources.linked(name, own), [f"{labelled:,}", *(
          cell for measure in MEASURES
          for cell in _told(nets, found, (measure, labelled, name)))])
  yield ("\nIn points of errors: mean over 4 pairs of arms, or over 8 arms, paired "
         "by draw. Whole chains are compared, each at the setting that was chosen "
         "for it, so that the teachers of the last rounds differ too. p by Holm "
         f"over {len(found.tests)}.\n")


def _by_kind(nets: Nets) -> Iterator[str]:
  """Of each kind of corruption, mean of strengths and draws."""
  if not nets.labelled:
    return
  labelled = nets.labelled[len(nets.labelled) // 2]
  columns = {TEACHER.name: nets.of(labelled, None, 0)} | {
      shown(kind): nets.of(labelled, kind, LAST) for kind in KINDS}
  own = [row for rows in columns.values() for row in rows]
  yield _line(f"{labelled:,} labels, errors in %", [*columns])
  yield "|---|" + "--:|" * len(columns)
  for corruption in own[0]["corrupted_errors"] if own else ():
    share = lambda row, c=corruption: (
        100 * _mean(row["corrupted_errors"][c]) / row["test_examples"])
    yield _line(sources.linked(corruption, own), [
        tables.number(_mean([*map(share, rows)]), 1) if rows else ""
        for rows in columns.values()])
  yield ""


def _line(first: str, cells: Sequence[str]) -> str:
  return f"| {' | '.join([first, *cells])} |"


def _settings(rows: Rows) -> str:
  if not (rows.get("teacher_choosing") and rows.get("choosing")):
    return ""
  teacher = fair.best(TEACHER, _plain(rows["teacher_choosing"], "teacher"))
  choices = [(TEACHER, teacher), *(
      (STUDENTS[kind], chosen(kind, rows)) for kind in KINDS)]
  return fair.at_ends({
      arm.name: (setting, arm.settings) for arm, setting in choices})


def _told(nets: Nets, found: claims.Family, key: Hashable) -> tuple[str, str]:
  """A difference, of how many draws if some are lost, and p."""
  if (test := found.tests.get(key)) is None:
    return "", ""
  value, low, high = (tables.number(each, 2, sign=True) for each in test[:3])
  lost = f" ({test.n})" if test.n < nets.draws else ""
  return (f"{value} [{low}, {high}]" if low else value) + lost, (
      tables.probability(found.adjusted.get(key)))


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
  """Errors against the round, clean above, corrupted below; a column a number.

  The last round, which is judged, has its interval, beside those of the others.
  """
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
        if last := [*nets.shares(measure, labelled, kind, LAST).values()]:
          found = statistics.summary(last)
          beside = LAST + 0.15 + 0.07 * place
          at.plot([beside, beside], [found.low or found.mean,
                                     found.high or found.mean],
                  linewidth=1.2, linestyle="--" if kind[0] else "-",
                  color=canvas.style(place % 4)["color"])
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
