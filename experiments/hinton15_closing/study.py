"""What brings the distilled net of Hinton et al. (2015) from 94.5 to 74 errors?

The student is 2x800 at T = 20, its images are not shifted. Three things are tried
on held-out data: targets that are averaged over the shifts of an image (`targets`),
optimisers other than Adam (`sgd`), and 22 kinds of teachers (`kinds`). What is best
of the last two is trained on all images, and looks at the test set once: the best
kind of teacher against the base of all (`table`), and the best optimiser for 10 to
1,000 epochs, with soft targets and with labels alone (`long`). Of each training by
these optimisers the last weights are judged, and their moving average.

The teachers of `targets`, `sgd` and `long` are their logits, made by `teachers.py`:
so a student can be trained anywhere, without the half hour of its teacher.
"""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any

import ml_collections

from configs import mnist
from experiments import fair
from experiments.hinton15_closing import teachers, verdict
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, statistics
from kd_jax.runs import arms as arms_lib

CLAIM = ("a net of 2x800 that is regularised by the soft targets of a teacher of "
         "67 errors alone makes 74, where labels alone make 146")
DATA = "MNIST, as the paper's"
UNIT = "errors of 10,000; the paper's too"
COMMAND = "--config=configs/mnist.py:paper"
REFERENCE = None
NOT_COMMITTED = dict.fromkeys(("targets", "kinds", "sgd"), fair.NOT_COMMITTED)

Point = dict[str, Any]
Named = Mapping[str, Point]

TEACHERS = len(teachers.SEEDS)
# Epochs of students: of `targets`, with seeds of each; of `sgd`; of `long`.
TARGETED = {40: 4, 320: 3}
SHORT, TRIED, LENGTHS = 40, 150, (10, 40, 150, 1000)
LONGEST = LENGTHS[-1]

# ---- a. Targets of the image itself, and averaged over its 25 shifts.
TARGETS: Named = {
    f"{name}, {epochs} epochs": {
        "teacher.logits": teachers.file(logits), "epochs": epochs}
    for epochs in TARGETED
    for name, logits in ((verdict.OWN, teachers.FIRST),
                         (verdict.AVERAGED, teachers.AVERAGED))}

# ---- b. Kinds of teachers. What each changes of the base.
BASE = verdict.BASE
_BASE = {"teacher.epochs": 20}
_NONE = {"teacher.input_dropout": 0.0, "teacher.hidden_dropout": 0.0}
_STILL, _TURNED = {"teacher.views": "none"}, {"teacher.views": "affine"}
_SMOOTH = {"teacher.label_smoothing": 0.1}
_CHANGES: Named = {
    BASE: {},
    "no dropout": _NONE,
    "input dropout only": {"teacher.hidden_dropout": 0.0},
    "hidden dropout only": {"teacher.input_dropout": 0.0},
    "half the dropout": {"teacher.input_dropout": 0.05,
                         "teacher.hidden_dropout": 0.25},
    "no jitter": _STILL,
    "affine": _TURNED,
    **{f"{epochs} epochs": {"teacher.epochs": epochs}
       for epochs in (5, 10, 60, 200)},
    **{f"width {width}": {"teacher.widths": (width, width)}
       for width in (300, 800, 2000)},
    **{f"smoothing {share:g}": {"teacher.label_smoothing": share}
       for share in (0.05, 0.1, 0.3)},
    "no jitter, no dropout": _STILL | _NONE,
    "affine, no dropout": _TURNED | _NONE,
    "60 epochs, no dropout": {"teacher.epochs": 60} | _NONE,
    "smoothing 0.1, no dropout": _SMOOTH | _NONE,
    "smoothing 0.1, 60 epochs": _SMOOTH | {"teacher.epochs": 60},
}
KINDS: Named = {name: _BASE | change for name, change in _CHANGES.items()}
# Of which a plan is made before anything is known: it takes longest.
_SLOWEST = "200 epochs"

# ---- c. Optimisers. SGD is that of the paper on dropout, but for its rates.
LOSSES: Named = {verdict.SOFT: {"alpha": 0.9, "temperature": 20.0},
                 verdict.HARD: {"method": "hard"}}
ADAM = verdict.ADAM
_SGD = {"optimizer.name": "sgd", "optimizer.schedule": "exponential",
        "optimizer.factor": 0.998, "optimizer.momentum": 0.5,
        "optimizer.momentum_end": 0.99, "batch_size": 100,
        # A fifth of He et al.'s deviation, sqrt(2 / 800) = 0.05, is 0.01.
        "student.init_scale": 0.2}
_NORM = {"student.max_norm": 15.0**0.5}
SETTINGS: Named = {
    ADAM: {"optimizer.name": "adam"},
    **{f"SGD {rate:g}{norm}": _SGD | {"optimizer.learning_rate": rate} | more
       for rate in (0.05, 0.2, 0.5)
       for norm, more in (("", {}), (verdict.BOUND, _NORM))},
    **{f"AdamW, decay {decay:g}": {
        "optimizer.name": "adamw", "optimizer.weight_decay": decay}
       for decay in (0.1, 0.3, 1.0)},
}
# A training has both, so each setting stands for two nets.
_AVERAGE, _AVERAGED = {"optimizer.ema": 0.999}, ", averaged"
_QUICK = {"steps": 60, "teacher.steps": 100}
# What points of one name may differ in.
_OF_TEACHERS = ("teacher.logits", "teacher.seed")


def stages(options: Options) -> list[Stage]:
  """Three questions on held-out data; then what was best, on all images."""
  small = smaller if options.quick else lambda config: config
  # The first two of what there is are enough to see that it runs.
  few = lambda named: dict([*named.items()][:2] if options.quick else named)
  seeds, lasting = (2, 1) if options.quick else (
      options.seeds or 12, options.seeds or 6)
  return [
      Stage("targets", config=lambda _: small(targets(few(TARGETS)))),
      Stage("sgd", config=lambda _: small(sgd(few(SETTINGS)))),
      Stage("kinds", config=lambda _: small(kinds(few(KINDS)))),
      Stage("table", config=lambda rows: small(table(rows, seeds))),
      Stage("long", config=lambda rows: small(longest(rows, lasting)))]


def targets(named: Named) -> ml_collections.ConfigDict:
  """Students of a teacher of 200 epochs, by what its targets are the answer to."""
  return _tried(*((point, TARGETED[point["epochs"]]) for point in named.values()))


def sgd(named: Named) -> ml_collections.ConfigDict:
  """Each optimiser with soft targets and with labels alone."""
  whose = {verdict.SOFT: {"teacher.logits": teachers.file(teachers.FIRST)},
           verdict.HARD: {}}
  return _tried(*((trained(setting, loss, TRIED) | whose[loss], 1)
                  for loss in LOSSES for setting in named.values()))


def kinds(named: Named) -> ml_collections.ConfigDict:
  """Students of a teacher of each kind."""
  return _short_teachers(_tried(*((point, 2) for point in named.values())))


def table(rows: Rows, seeds: int) -> ml_collections.ConfigDict:
  """The best kind of teacher against the base, on all images."""
  config = _short_teachers(_config())
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*map(sweep.fixed, compared(rows).values())),
      sweep.zipped({"seed": range(seeds),
                    "teacher.seed": [seed % TEACHERS for seed in range(seeds)]})))
  return config


def longest(rows: Rows, seeds: int) -> ml_collections.ConfigDict:
  """The best optimiser of each loss for each length, on all images.

  Soft targets are of the teachers in turn; labels alone have none.
  """
  each = range(seeds)
  whose = {verdict.SOFT: {"teacher.logits": [
      teachers.file(teachers.SEEDS[seed % TEACHERS]) for seed in each]},
           verdict.HARD: {}}
  config = _config()
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(sweep.fixed(point), sweep.zipped({"seed": each, **whose[loss]}))
      for epochs in LENGTHS for loss, point in lasting(rows, epochs).items())))
  return config


def trained(setting: Point, loss: str, epochs: int) -> Point:
  """An optimiser with a loss for so many epochs, half of which momentum moves."""
  moves = "optimizer.momentum_end" in setting
  return setting | LOSSES[loss] | {"epochs": epochs} | _AVERAGE | (
      {"optimizer.momentum_epochs": epochs / 2} if moves else {})


def best_kind(rows: Rows) -> str:
  """The kind, other than the base, whose students make fewest held-out errors."""
  found = named(rows.get("kinds", ()), KINDS)
  return _fewest({name: done for name, done in found.items() if name != BASE},
                 _SLOWEST)


def compared(rows: Rows) -> Named:
  """What `table` compares, by name."""
  return {name: KINDS[name] for name in (best_kind(rows), BASE)}


def chosen(rows: Rows, loss: str) -> str:
  """The optimiser with fewest held-out errors; Adam is there to compare with."""
  found = both(named(rows.get("sgd", ()), {
      name: trained(setting, loss, TRIED) for name, setting in SETTINGS.items()
      if name != ADAM}), "heldout_errors")
  return _fewest(found, [*found][-1])


def both(found: Mapping[str, Sequence[Row]], errors: str) -> dict[str, list[Row]]:
  """Rows of each setting twice: with errors of the last weights, of the average."""
  last = errors.replace("_", "_last_")
  return {name: made for each, done in found.items() for name, made in (
      (each, [row | {errors: row.get(last)} for row in done]),
      (f"{each}{_AVERAGED}", [*done]))}


def lasting(rows: Rows, epochs: int = LONGEST) -> Named:
  """What `long` trains for so long, by loss."""
  return {loss: trained(
      SETTINGS[chosen(rows, loss).removesuffix(_AVERAGED)], loss, epochs)
          for loss in LOSSES}


def named(done: Sequence[Row], points: Named) -> dict[str, list[Row]]:
  """The rows of each point that came to their end, by its name."""
  return {name: [row for row in of if row["failed"] is None]
          for name, of in all_named(done, points).items()}


def all_named(done: Sequence[Row], points: Named) -> dict[str, list[Row]]:
  """The same with those that did not."""
  def fits(row: Row, point: Point) -> bool:
    own = arms_lib.of(row)
    return own == {key: own.get(key) for key in (*_QUICK, *_OF_TEACHERS)
                   if key in own} | point
  return {name: [row for row in arms_lib.judged(done) if fits(row, point)]
          for name, point in points.items()}


def _fewest(found: Mapping[str, Sequence[Row]], otherwise: str) -> str:
  means = {name: statistics.summary([row["heldout_errors"] for row in done]).mean
           for name, done in found.items() if done}
  return min(means, default=otherwise, key=lambda name: means.get(name, math.inf))


def _tried(*points: tuple[Point, int]) -> ml_collections.ConfigDict:
  """Points, with so many seeds of each, on 54,000 images.

  The other 6,000 are held out, and the test set stays unseen.
  """
  config, first = hold_out(_config()), arms_lib.FIRST_SEED
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(sweep.fixed(point), {"seed": range(first, first + seeds)})
      for point, seeds in points)))
  return config


def _short_teachers(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Five epochs of a teacher are five: by default it has at least 4,000 steps."""
  config.teacher.min_steps = 0
  return config


def _config() -> ml_collections.ConfigDict:
  """The paper's teacher and student; wide nets gain nothing from lanes on a CPU."""
  config = mnist.get_config("paper")
  config.data.embedded = "never"
  config.epochs, config.min_steps = SHORT, 0
  config.teacher.bank = "always"
  config.sweep.lanes = "1x1"
  return config


def smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "auto"
  # A point that has epochs has them unless it has steps too.
  config.sweep.points = tuple(
      _with_a_net(point) | _QUICK for point in config.sweep.points)
  config.student.widths, config.teacher.widths = (40, 40), (60, 60)
  return config


def _with_a_net(point: Point) -> Point:
  """A point whose teacher is trained: there are no logits of few digits."""
  if "teacher.logits" not in point:
    return point
  averaged = point["teacher.logits"] == teachers.file(teachers.AVERAGED)
  return {key: value for key, value in point.items() if key != "teacher.logits"} | (
      {"teacher.sees": "shift2"} if averaged else {})


# ---- What the rows say.


def conclude(rows: Rows) -> str:
  """What each stage found, as far as it is run."""
  told = [f"**{status(rows)}.**\n"] if rows.get("table") else []
  if done := rows.get("targets"):
    told.append(verdict.targets(named(done, TARGETS), [*TARGETED]))
  if done := rows.get("sgd"):
    told.append(verdict.sgd({
        loss: both(all_named(done, {
            name: trained(setting, loss, TRIED)
            for name, setting in SETTINGS.items()}), "heldout_errors")
        for loss in LOSSES}, TRIED))
    best = {loss: SETTINGS[chosen(rows, loss).removesuffix(_AVERAGED)]
            for loss in LOSSES}
    told.append(fair.at_ends({
        f"{loss}, {chosen(rows, loss)}": (own, [
            each for each in SETTINGS.values() if each.keys() == own.keys()])
        for loss, own in best.items()}))
  if done := rows.get("kinds"):
    told.append(verdict.kinds(named(done, KINDS), rows.get("kinds_teachers", ())))
  if rows.get("table"):
    told.append(verdict.table(_compared(rows)))
  if done := rows.get("long"):
    told.append(verdict.long(
        _lengths(rows), {loss: chosen(rows, loss) for loss in LOSSES},
        _both_lasting(rows), sum(row["failed"] is not None for row in done)))
  return "\n".join(told)


def status(rows: Rows) -> str:
  """The best kind of teacher against the base, and the longest training."""
  return verdict.phrase(_compared(rows), _lengths(rows)[LONGEST], LONGEST)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Students' errors against what their teachers are like, and against epochs."""
  found = {epochs: of for epochs, of in _lengths(rows).items() if any(of.values())}
  if found:
    verdict.draw_lengths(found, folder / "epochs.png")
  if done := rows.get("kinds"):
    verdict.draw(named(done, KINDS), rows.get("kinds_teachers", ()),
                 folder / "kinds.png")


def _compared(rows: Rows) -> dict[str, list[Row]]:
  return named(rows.get("table", ()), compared(rows))


def _both_lasting(rows: Rows, epochs: int = LONGEST) -> dict[str, list[Row]]:
  return both(named(rows.get("long", ()), lasting(rows, epochs)), "test_errors")


def _lengths(rows: Rows) -> dict[int, dict[str, list[Row]]]:
  """Of each length and loss that of the two nets which held-out data chose."""
  suffix = {loss: _AVERAGED if chosen(rows, loss).endswith(_AVERAGED) else ""
            for loss in LOSSES}
  return {epochs: {loss: found[loss + suffix[loss]] for loss in LOSSES}
          for epochs in LENGTHS for found in [_both_lasting(rows, epochs)]}
