"""The MNIST numbers of Hinton, Vinyals & Dean (2015), section 3.

A teacher makes 67 errors, a small net on hard labels 146, the same net on soft
targets at T = 20 makes 74.

`choosing` picks optimiser and initial scale on a held-out tenth of the training
set, once for hard labels and once for soft targets, with as many settings for
either. `table` trains every row on all of it, four seeds for each of three
teachers, and looks at the test set once. `search` tries on held-out data what may
bring the distilled net to 74, and `best_N` train what it found as the table was: a
stage for each teacher, which takes as long as its students.
"""

from collections.abc import Sequence
import functools
import json
import math
import pathlib
from typing import Any

from configs import mnist
from experiments import fair
from experiments.hinton15_mnist import closing, verdict
from experiments.protocol import Cell, Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row

CLAIM = "teacher 67 errors, small net 146, distilled 74"
DATA = "MNIST, as the paper's"
UNIT = "errors of 10,000; the paper's too"
COMMAND = "--config=configs/mnist.py:paper"
TEACHERS = 3
SEEDS = 12
# Epochs. The paper's own rows are trained for long, the comparisons for as long as
# two cores can bear, beside the paper's rows at that length.
LONG, SHORT = closing.LONG, 10
_CHOOSING_SEEDS = (100, 101)
# The row that the others are compared with.
REFERENCE = {"alpha": 0.0, "label_smoothing": 0.0}

Point = dict[str, Any]

_HARD = {"alpha": 0.0, "temperature": 1.0}
_SOFT = {"alpha": 0.9, "temperature": 20.0}
_ADAM = {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}
_SGD = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1}
_SLOWER = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.02}


def _scaled(optimizer: Point, *scales: float) -> list[Point]:
  return [optimizer | {"student.init_scale": scale} for scale in scales]


# As many settings for hard labels as for soft targets, whose gradients are larger.
_SETTINGS = {
    "hard": _scaled(_ADAM, 1.0, 0.3, 0.1, 2.0, 4.0) + _scaled(_SGD, 1.0, 2.0)
            + _scaled(_SLOWER, 1.0),
    "soft": _scaled(_ADAM, 1.0, 0.3, 0.1, 2.0, 4.0) + _scaled(_SLOWER, 1.0, 2.0)
            + _scaled(_SGD, 1.0)}
# The control sees the same images for as long, with their labels alone.
BEST, CONTROL = "distilled, best found", "hard labels, the same images"
_QUICK = {"student.widths": (40, 40), "steps": 60, "teacher.widths": (60, 60),
          "teacher.epochs": 1}
# Teachers beside the paper's: what differs from it.
_PLAIN = {"teacher.input_dropout": 0.0, "teacher.hidden_dropout": 0.0,
          "teacher.max_norm": None}
_MEMBERS = _PLAIN | {"teacher.epochs": 20}


def stages(options: Options) -> list[Stage]:
  """Choosing on held-out data, then the table."""
  made = smaller if options.quick else lambda config: config
  seeds = options.seeds or SEEDS
  return [
      Stage("choosing", config=lambda rows: made(choosing())),
      Stage("table", config=lambda rows: made(table(rows, seeds))),
      Stage("search", config=lambda rows: made(search(rows))),
      *(Stage(_best(teacher), config=lambda rows, teacher=teacher: made(
          best(rows, teacher, seeds)))
        for teacher in range(1 if options.quick else min(TEACHERS, seeds)))]


def choosing():
  """Stage one: the settings of both losses, on held-out data."""
  config = hold_out(_config())
  # A teacher of its own, as the others have seen the held-out part.
  config.teacher.epochs = 40
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*(sweep.fixed(loss | setting)
                    for name, loss in (("hard", _HARD), ("soft", _SOFT))
                    for setting in _SETTINGS[name])),
      {"seed": _CHOOSING_SEEDS}))
  return config


def choose(rows: Sequence[Row], name: str) -> Point:
  """The setting with the fewest held-out errors on average, for a loss."""
  loss = {"hard": _HARD, "soft": _SOFT}[name]
  means = []
  for setting in _SETTINGS[name]:
    errors = [row["heldout_errors"] for row in rows
              if closing.sets(row, loss | setting)]
    means.append(sum(errors) / len(errors) if errors else math.inf)
  return dict(_SETTINGS[name][means.index(min(means))])


def points(rows: Rows) -> dict[str, Point]:
  """The rows of the table: what each sets, but for seeds and teachers."""
  found = rows.get("choosing", [])
  hard, soft = choose(found, "hard"), choose(found, "soft")
  small = hard | _HARD | {"label_smoothing": 0.0}
  kd = lambda **more: soft | _SOFT | {
      key.replace("__", "."): value for key, value in more.items()}
  headline = {"small": small, "distilled, T = 20": kd(),
              "distilled, images shifted": kd(student__views="shift2")}
  others = {
      **{f"distilled, T = {t:g}": kd(temperature=t)
         for t in (1.0, 2.0, 4.0, 8.0, 50.0)},
      "soft targets only, T = 20": kd(alpha=1.0),
      **{f"label smoothing, entropy of T = {t}": small | {
          "label_smoothing": _smoothing(rows, str(t))} for t in (1, 20)},
      "distilled, input dropout": kd(student__input_dropout=0.2),
      "logit matching": kd(method="logits", temperature=1.0),
      **{f"from an ensemble of {n}": kd(teacher__count=n) | _MEMBERS
         for n in (2, 5, 10)},
      "self-distillation": kd() | _itself(hard)}
  lasting = lambda epochs, named: {
      f"{name}, {epochs} epochs": point | {"epochs": epochs}
      for name, point in named.items()}
  return lasting(LONG, headline) | lasting(SHORT, headline | others)


def table(rows: Rows, seeds: int = SEEDS):
  """Stage two: every row, its seeds shared out among the teachers."""
  config = _config()
  config.sweep.reference = tuple(REFERENCE.items())
  own = points(rows)
  # One ensemble: its members are what varies within it.
  of_each = lambda name: 1 if "ensemble" in name else TEACHERS
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(sweep.fixed(point), _by_teacher(
          teacher, seeds, teacher % of_each(name)))
      for teacher in range(min(TEACHERS, seeds))
      for name, point in own.items())))
  return config


def _by_teacher(number: int, seeds: int, teacher: int | None = None) -> sweep.Sweep:
  """The students of a teacher: every third seed."""
  own = range(number, seeds, TEACHERS)
  return sweep.zipped({
      "seed": own,
      "teacher.seed": [number if teacher is None else teacher] * len(own)})


def search(rows: Rows):
  """Stage three: what brings the distilled row further, on held-out data."""
  config = choosing()
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*map(sweep.fixed, closing.changed(distilled(rows)).values())),
      {"seed": _CHOOSING_SEEDS}))
  return config


def distilled(rows: Rows) -> Point:
  """The row that is searched for a better one, as the table has it."""
  return choose(rows.get("choosing", []), "soft") | _SOFT | {
      "student.views": "none", "epochs": LONG, "batch_size": 128}


def best_points(rows: Rows) -> dict[str, Point]:
  """What the search found, and labels alone on the same images for as long."""
  row = distilled(rows)
  point = closing.changed(row)[closing.found(row, rows.get("search", ()))]
  hard = choose(rows.get("choosing", []), "hard")
  return {BEST: point, CONTROL: point | hard | _HARD}


def best(rows: Rows, teacher: int, seeds: int = SEEDS):
  """Stage four: those on all data, with a teacher of the table and its seeds."""
  config = _config()
  # Eight students share a teacher, which one of them alone asks about fewer images
  # than there are views of them.
  config.teacher.bank = "always"
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(sweep.fixed(point), _by_teacher(teacher, seeds))
      for point in best_points(rows).values())))
  return config


def _best(teacher: int) -> str:
  """The name of its stage."""
  return f"best_{teacher}"


def lasting(rows: Rows, *, teacher: int, epochs: int, views: str):
  """The distilled row and labels alone, for long, two seeds of one teacher."""
  config = _config()
  # Its students share a teacher, which is asked about each view once.
  config.teacher.bank = "always"
  found = rows.get("choosing", [])
  both = (choose(found, "hard") | _HARD | {"label_smoothing": 0.0},
          choose(found, "soft") | _SOFT)
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*(sweep.fixed(
          point | {"epochs": epochs, "student.views": views}) for point in both)),
      _by_teacher(teacher, 2 * TEACHERS)))
  return config


def _lasting(value: int, why: str, epochs: int, views: str) -> list[Cell]:
  """A cell for each teacher, as each takes as long as its students."""
  return [
      Cell(f"{views}_{epochs}_{teacher}", value, f"{why} (teacher {teacher})",
           functools.partial(
               lasting, teacher=teacher, epochs=epochs, views=views), "2x1")
      for teacher in range(TEACHERS)]


CELLS = (
    *_lasting(3, "does length alone bring the distilled net from 94.5 towards the "
              "paper's 74, and labels alone as far?", 320, "none"),
    *_lasting(3, "on shifted images, do soft targets help at all against labels "
              "alone for as long?", 1000, "shift2"))


def smaller(config):
  """The same program in a minute: two seeds, one of each kind, small nets."""
  config.data.embedded = "auto"
  config.teacher.steps = 200
  config.sweep.points = tuple(
      point | _QUICK for point in config.sweep.points
      if point["seed"] in (0, TEACHERS, *_CHOOSING_SEEDS)
      and point.get("teacher.count", 2) == 2
      # Each of these is a program of its own to compile.
      and point["optimizer.name"] == "adam"
      and point.get("batch_size", 128) == 128
      and point.get("epochs", LONG) <= LONG
      and point.get("student.views") != "affine"
      and (point.get("student.views") != "shift2" or point["epochs"] > SHORT)
      and not point.get("student.input_dropout")
      and "teacher.widths" not in point)
  return config


def conclude(rows: Rows) -> str:
  """Every row beside the paper's, as markdown."""
  told = verdict.told(rows, named(rows)) + "\n" + fair.at_ends({
      name: (choose(rows.get("choosing", []), name), _SETTINGS[name])
      for name in _SETTINGS})
  if not rows.get("search"):
    return told
  tried = closing.tried(distilled(rows), rows["search"])
  return told + "\n" + verdict.searched(
      rows, named(rows), tried, best_named(rows))


def headline(rows: Rows) -> str:
  """The paper's three numbers and the best found, as a table."""
  row, done = distilled(rows), rows.get("search", ())
  name = closing.found(row, done)
  epochs, images = closing.changed(row)[name]["epochs"], name.removesuffix(
      ", three times as long")
  return verdict.headline(
      rows, named(rows), best_named(rows),
      f"of {len(closing.tried(row, done))} changes, by held-out data; {epochs} "
      f"epochs, images {images}")


def status(rows: Rows) -> str:
  """The paper's three numbers as they came out here."""
  return verdict.phrase(rows, named(rows), best_named(rows))


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Every row beside the paper's."""
  verdict.draw(rows, named(rows), best_named(rows), folder / "rows.png")


def named(rows: Rows) -> dict[str, list[Row]]:
  """The rows of the table by their names there."""
  free = {"seed", "teacher.seed", *_QUICK}
  bare = lambda point: json.dumps(
      {key: value for key, value in point.items() if key not in free},
      sort_keys=True)
  own = {bare(point): name for name, point in points(rows).items()}
  named: dict[str, list[Row]] = {name: [] for name in own.values()}
  for row in rows["table"]:
    if (name := own.get(bare(row["overrides"]))) and row["failed"] is None:
      named[name].append(row)
  return named


def best_named(rows: Rows) -> dict[str, list[Row]]:
  """The rows of the last stages by their names."""
  done = [row for teacher in range(TEACHERS)
          for row in rows.get(_best(teacher), ())]
  return {name: [row for row in done
                 if row["failed"] is None and closing.sets(row, point)]
          for name, point in best_points(rows).items()}


def _smoothing(rows: Rows, temperature: str) -> float:
  """epsilon for which smoothed labels have the entropy of the soft targets."""
  taught = [row for row in rows.get("choosing_teachers", ())
            if row["net"] == "teacher"]
  if not taught:
    return 0.1
  wanted, low, high = taught[0]["entropy"][temperature], 0.0, 1.0
  for _ in range(40):
    middle = (low + high) / 2
    low, high = (middle, high) if _entropy(middle) < wanted else (low, middle)
  return round(low, 6)


def _entropy(epsilon: float, classes: int = 10) -> float:
  """Of (1 - epsilon) * one-hot + epsilon / classes, in nats."""
  other = epsilon / classes
  likely = 1 - epsilon + other
  rest = (classes - 1) * other * math.log(other) if other else 0.0
  return -likely * math.log(likely) - rest


def _itself(setting: Point) -> Point:
  """A teacher that is the small net, trained as the small net is."""
  return _PLAIN | {
      "teacher.widths": (800, 800), "teacher.views": "none",
      "teacher.epochs": SHORT, **{
          f"teacher.{key.removeprefix('student.')}": value
          for key, value in setting.items()}}


def _config():
  """What both stages share: the paper's teacher, images that are not shifted."""
  config = mnist.get_config("paper")
  config.data.embedded = "never"
  config.epochs, config.min_steps = SHORT, 0
  # Wide nets gain nothing from lanes: one on each core.
  config.sweep.lanes = "1x1"
  return config
