"""How few errors can the paper's 2x800 student make when all else is free?

Two tracks, kept apart. In `permutation-invariant` nothing knows that pixels have
neighbours: teachers are MLPs with dropout, images are never moved. In
`distortion-aware` teachers are convolutional nets, and both they and the student
see images turned, stretched and bent (`kd_jax/data/distort.py`); the student gets
the teachers' logits for the very view that it sees, so that a long training is one
of matching a function (Beyer et al. 2022, "consistent").

`choosing` picks loss and views of either track on a held-out tenth of the training
set; `table` (distortion-aware) and `plain` (permutation-invariant) train on all of
it, each with its own teachers, and look at the test set once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from configs import mnist
from experiments.open_mnist import verdict
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, statistics

CLAIM = "74 distilled; 35 for a far larger MLP; about 57 without distortions"
DATA = "MNIST, as the papers'"
UNIT = "errors of 10,000; the papers' too"
COMMAND = "--config=configs/mnist.py"
SEEDS = 5
EPOCHS = {"permutation-invariant": 40, "distortion-aware": 60}
_CHOOSING_EPOCHS = {"permutation-invariant": 10, "distortion-aware": 10}
_CHOOSING_SEEDS = (100, 101)
# Of hard labels on the same views: beside the fifth seed, so that no core is idle.
_HARD_SEEDS = 1

Point = dict[str, Any]

_TEACHERS: dict[str, Point] = {
    "permutation-invariant": {
        "teacher.name": "mlp", "teacher.widths": (1200, 1200),
        "teacher.views": "none", "teacher.input_dropout": 0.2,
        "teacher.hidden_dropout": 0.5, "teacher.epochs": 40,
        "teacher.count": 3, "teacher.bank": "always"},
    "distortion-aware": {
        "teacher.name": "convnet", "teacher.widths": (32, 64, 96, 128),
        "teacher.views": "distort", "teacher.batch_size": 64,
        "teacher.epochs": 20, "teacher.count": 3, "teacher.bank": "always",
        "teacher.optimizer.learning_rate": 2e-3,
        "teacher.optimizer.warmup_percent": 5.0}}
# For choosing: one, trained for less, as it serves nothing else. A short training
# asks it about fewer images than there are views of them.
_CHOOSING_TEACHERS: dict[str, Point] = {
    "permutation-invariant": {"teacher.count": 1, "teacher.epochs": 20},
    "distortion-aware": {"teacher.count": 1, "teacher.epochs": 8,
                         "teacher.bank": "never"}}
# What is chosen from, likeliest first.
SETTINGS: dict[str, list[Point]] = {
    "permutation-invariant": [
        {"student.views": "none", "alpha": 1.0, "temperature": t,
         "student.input_dropout": dropped}
        for t in (4.0, 10.0) for dropped in (0.2, 0.0)],
    "distortion-aware": [
        {"student.views": views, "alpha": 1.0, "temperature": t,
         "student.input_dropout": 0.0}
        for views, t in (("distort", 4.0), ("distort", 2.0), ("distort", 10.0),
                         ("affine", 4.0))]}
_HARD = {"alpha": 0.0, "temperature": 1.0}
# The rows of each stage but the first.
ROWS = {"table": ("distortion-aware", "hard labels, same views"),
        "plain": ("permutation-invariant",)}
_QUICK = {"student.widths": (40, 40), "steps": 30, "teacher.steps": 30,
          "teacher.count": 1, "teacher.bank": "never"}


def stages(options: Options) -> list[Stage]:
  """Choosing on held-out data, then a track each."""
  made = _smaller if options.quick else lambda config: config
  return [
      Stage("choosing", config=lambda rows: made(choosing())),
      *(Stage(name, config=lambda rows, name=name: made(
          table(rows, name, options.seeds or SEEDS))) for name in ROWS)]


def choosing():
  """Stage one: loss and views of each track, on held-out data."""
  config = hold_out(_config())
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(
          sweep.chain(*(
              sweep.fixed(_TEACHERS[track] | _CHOOSING_TEACHERS[track] | setting
                          | {"epochs": _CHOOSING_EPOCHS[track]})
              for setting in settings)),
          {"seed": _CHOOSING_SEEDS})
      for track, settings in SETTINGS.items())))
  return config


def choose(rows: Sequence[Row], track: str) -> Point:
  """The track's setting with the fewest held-out errors on average."""
  found: dict[int, list[int]] = {}
  for row in rows:
    for place, setting in enumerate(SETTINGS[track]):
      if row["failed"] is None and _sets(row, setting) and _sets(row, {
          "teacher.name": _TEACHERS[track]["teacher.name"]}):
        found.setdefault(place, []).append(row["heldout_errors"])
  # Before anything is chosen, a plan is made with the first.
  means = {n: statistics.summary(errors).mean for n, errors in found.items()}
  return dict(SETTINGS[track][min(means, key=lambda n: (means[n], n), default=0)])


def points(rows: Rows) -> dict[str, Point]:
  """The rows of the table: what each sets, but for its seeds."""
  own = {track: _TEACHERS[track] | choose(rows.get("choosing", ()), track)
         | {"epochs": epochs} for track, epochs in EPOCHS.items()}
  return own | {"hard labels, same views": own["distortion-aware"] | _HARD}


def table(rows: Rows, stage: str, seeds: int = SEEDS):
  """A track on the whole training set, and hard labels beside it."""
  config, own = _config(), points(rows)
  number = lambda name: seeds if name in EPOCHS else min(seeds, _HARD_SEEDS)
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(sweep.fixed(own[name]), {"seed": range(number(name))})
      for name in ROWS[stage])))
  return config


def conclude(rows: Rows) -> str:
  """Each track beside what is published, as markdown."""
  chosen = {track: (choose(rows.get("choosing", ()), track), SETTINGS[track])
            for track in EPOCHS}
  return verdict.told(rows, named(rows), chosen)


def status(rows: Rows) -> str:
  """The tracks' errors."""
  return verdict.phrase(named(rows))


def named(rows: Rows) -> dict[str, list[Row]]:
  """The rows of the table by their names there."""
  found: dict[str, list[Row]] = {
      "distortion-aware": [], "hard labels, same views": [],
      "permutation-invariant": []}
  for row in (row for stage in ROWS for row in rows.get(stage, ())):
    if row["failed"] is not None:
      continue
    if _sets(row, {"teacher.name": "mlp"}):
      found["permutation-invariant"].append(row)
    else:
      hard = row["overrides"]["alpha"] == 0
      found["hard labels, same views" if hard else "distortion-aware"].append(row)
  return found


def _sets(row: Row, wanted: Mapping[str, Any]) -> bool:
  return all(row["overrides"].get(key) == value for key, value in wanted.items())


def _config():
  """What both stages share."""
  config = mnist.get_config()
  config.data.embedded = "never"
  config.min_steps = config.teacher.min_steps = 0
  # Wide nets gain nothing from lanes: one on each core.
  config.sweep.lanes = "1x1"
  return config


def _smaller(config):
  """The same program in a minute: one seed, few settings, small nets."""
  config.data.embedded = "auto"
  nets = {"mlp": (60, 60), "convnet": (4, 8, 8, 16)}
  config.sweep.points = tuple(
      point | _QUICK | {"teacher.widths": nets[point["teacher.name"]]}
      for point in config.sweep.points
      if point["seed"] in (0, _CHOOSING_SEEDS[0])
      # Each is a program of its own to compile.
      and point["student.views"] in ("none", "distort")
      and not (point["student.views"] == "none"
               and point["student.input_dropout"] == 0))
  return config
