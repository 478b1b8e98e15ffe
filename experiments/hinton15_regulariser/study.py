"""Soft targets as regularisers: section 6 of Hinton, Vinyals & Dean (2015).

On 3% of its speech data a net overfits: with early stopping it gets 44.5% of the
test frames right, where one on all the data gets 58.9%. With soft targets the same
3% give 57.0%, without early stopping. Here the same is asked of MNIST: 1, 3, 10 and
100% of the training set, and a teacher that has seen all of it.

`choosing` follows the held-out errors of hard labels for each part and finds the
epoch to stop at; `table` trains hard labels to that epoch and to the end, and soft
targets to the end.
"""

from collections.abc import Sequence
import pathlib

import numpy as np

from configs import mnist
from experiments import index
from experiments.hinton15_mnist import study as whole
from experiments.hinton15_regulariser import verdict
from experiments.protocol import Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row

CLAIM = ("on 3% of the data: hard labels 44.5%, soft targets 57.0%, where all the "
         "data give 58.9%")
DATA = "MNIST; the paper's 2,000 hours of speech"
UNIT = "test accuracy in %; the paper's: frame accuracy in %"
COMMAND = "--config=configs/mnist.py:paper"
SEEDS = 12
# Parts of the training set, and for how many epochs.
PARTS = {0.01: 150, 0.03: 80, 0.1: 40}
_CHOOSING_SEEDS = (100, 101)


def stages(options: Options) -> list[Stage]:
  """When to stop, then the table."""
  made = _smaller if options.quick else lambda config: config
  return [
      Stage("choosing", config=lambda rows: made(_choosing())),
      Stage("table", config=lambda rows: made(
          _table(rows, options.seeds or SEEDS)))]


def conclude(rows: Rows) -> str:
  """Training and test accuracy by part and loss, as markdown."""
  return verdict.told(rows, PARTS, _all_data())


def status(rows: Rows) -> str:
  """How much of what all the data give the soft targets recover."""
  return verdict.phrase(rows, PARTS, _all_data())


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Accuracy against the share of the data."""
  verdict.draw(rows, PARTS, _all_data(), folder / "accuracy.png")


def stop_at(rows: Sequence[Row], part: float) -> int:
  """The epoch with the fewest held-out errors, on average over seeds."""
  curves = [row["heldout_curve"] for row in rows
            if row["overrides"]["transfer.part"] == part]
  if not curves:
    return PARTS[part]
  return int(np.mean(curves, axis=0).argmin()) + 1


def _choosing():
  config = hold_out(_config())
  config.teacher.epochs = 40
  config.sweep.points = tuple(sweep.product(
      sweep.zipped({"transfer.part": PARTS, "epochs": PARTS.values()}),
      sweep.fixed(_loss("small")), sweep.zipped({
          "seed": _CHOOSING_SEEDS, "transfer.seed": (0, 1)})))
  return config


def _table(rows: Rows, seeds: int):
  config = _config()
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(
          sweep.fixed({"transfer.part": part, **point}), sweep.zipped({
              "seed": range(teacher, seeds, whole.TEACHERS),
              # Each teacher with a part of its own.
              "teacher.seed": [teacher] * (own := len(
                  range(teacher, seeds, whole.TEACHERS))),
              "transfer.seed": [teacher] * own}))
      for teacher in range(whole.TEACHERS) for part, epochs in PARTS.items()
      for point in (
          _loss("small") | {"epochs": stop_at(rows.get("choosing", ()), part)},
          _loss("small") | {"epochs": epochs},
          _loss("distilled, T = 20") | {"epochs": epochs})
      if range(teacher, seeds, whole.TEACHERS))))
  return config


def _loss(name: str) -> whole.Point:
  """Hard labels or soft targets, as they were chosen for all the data."""
  known = whole.points(index.committed(index.ROOT / "hinton15_mnist"))
  point = known[f"{name}, {whole.SHORT} epochs"]
  return {key: value for key, value in point.items() if key != "epochs"}


def _all_data() -> dict[str, list[Row]]:
  """The rows of `hinton15_mnist`, which has the same nets on all the data."""
  rows = index.committed(index.ROOT / "hinton15_mnist")
  found = whole.named(rows) if rows.get("table") else {}
  end = f", {whole.SHORT} epochs"
  return {name.removesuffix(end): done for name, done in found.items()
          if name.endswith(end)}


def _config():
  config = mnist.get_config("paper")
  config.data.embedded, config.min_steps = "never", 0
  # A rate that does not fall: how long to train is what is asked.
  config.optimizer.schedule = "constant"
  config.sweep.lanes = "1x1"
  return config


def _smaller(config):
  config.data.embedded = "auto"
  config.teacher.steps, config.teacher.widths = 300, (60, 60)
  config.sweep.points = tuple(
      point | {"student.widths": (40, 40), "epochs": min(point["epochs"], 5)}
      for point in config.sweep.points if point["seed"] in (0, *_CHOOSING_SEEDS))
  return config
