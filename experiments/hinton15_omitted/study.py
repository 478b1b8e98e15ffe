"""What a student knows of classes that it never saw: section 3 of the paper.

Hinton, Vinyals & Dean (2015) leave all 3s out of the transfer set, and then all but
7s and 8s. The teacher saw everything. The errors on what was left out fall when the
bias of those classes is raised.

`choosing` trains twins of the students on nine tenths of the data; `biases` finds
the bias on the held-out tenth, from its labels, and from the class prior alone;
`table` trains the students; `curves` counts their errors at every bias, from their
logits as they are kept, in float16; `trained` counts them without one, as they were
trained.
"""

from collections.abc import Callable, Iterator, Sequence
import pathlib
from typing import Any

import numpy as np

from configs import mnist
from experiments import index
from experiments.hinton15_mnist import study as whole
from experiments.hinton15_omitted import bias, verdict
from experiments.protocol import Options, Place, Rows, Stage, hold_out
from kd_jax import report
from kd_jax.config import build, sweep
from kd_jax.report import Row
from kd_jax.runs import kept_logits, records, results
from kd_jax.runs import rows as rows_lib

CLAIM = "without 3s 206 errors, with a bias 109; with only 7s and 8s 47.3%, 13.2%"
DATA = "MNIST, as the paper's"
UNIT = "errors of 10,000; the paper's too, or %"
COMMAND = "--config=configs/mnist.py:paper"
SEEDS = 12
_CHOOSING_SEEDS = (100, 101)
# The classes that students see, and for how many epochs.
SETS = {"no 3s": ((0, 1, 2, 4, 5, 6, 7, 8, 9), whole.SHORT),
        "only 7s and 8s": ((7, 8), 2 * whole.SHORT)}
_CLASSES = range(10)


def stages(options: Options) -> list[Stage]:
  """Twins on held-out data, their biases, the table, its curves."""
  made = _smaller if options.quick else lambda config: config
  seeds = options.seeds or SEEDS
  return [
      Stage("choosing", config=lambda rows: made(_choosing())),
      Stage("biases", run=_biases, shards=False),
      Stage("table", config=lambda rows: made(_table(seeds))),
      Stage("curves", run=_curves, shards=False),
      Stage("trained", run=_trained, shards=False)]


def conclude(rows: Rows) -> str:
  """Errors before and after, beside the paper's, as markdown."""
  return verdict.told(rows, SETS)


def status(rows: Rows) -> str:
  """The paper's four numbers as they came out here."""
  return verdict.phrase(rows, SETS)


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Error against the bias."""
  verdict.draw(rows, SETS, folder / "bias.png")


def omitted(classes: Sequence[int]) -> list[int]:
  """The classes that are left out."""
  return [c for c in _CLASSES if c not in classes]


def _choosing():
  config = hold_out(_config())
  config.teacher.epochs = 40
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*_losses()), {"seed": _CHOOSING_SEEDS}))
  return config


def _table(seeds: int):
  config = _config()
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(loss, sweep.zipped({
          "seed": range(teacher, seeds, whole.TEACHERS),
          "teacher.seed": [teacher] * len(
              range(teacher, seeds, whole.TEACHERS))}))
      for teacher in range(whole.TEACHERS) for loss in _losses()
      if range(teacher, seeds, whole.TEACHERS))))
  return config


def _losses() -> Iterator[sweep.Sweep]:
  """Soft targets and, to compare, hard labels, on each transfer set."""
  known = whole.points(index.committed(index.ROOT / "hinton15_mnist"))
  for name in ("distilled, T = 20", "small"):
    for classes, epochs in SETS.values():
      yield sweep.fixed(known[f"{name}, {whole.SHORT} epochs"] | {
          "transfer.classes": classes, "epochs": epochs})


def _config():
  config = mnist.get_config("paper")
  config.data.embedded, config.min_steps = "never", 0
  config.sweep.lanes, config.sweep.logits = "1x1", True
  return config


def _smaller(config):
  config.data.embedded = "auto"
  config.teacher.steps, config.teacher.widths = 300, (60, 60)
  quick = {"student.widths": (40, 40), "steps": 100}
  config.sweep.points = tuple(
      point | quick for point in config.sweep.points
      if point["seed"] in (0, *_CHOOSING_SEEDS))
  return config


def _biases(rows: Rows, place: Place) -> None:
  """The bias of each twin, by held-out labels and by the class prior."""
  before = place.folder.parent / "choosing"
  dataset = _data(before)
  label = dataset.train.label[dataset.heldout_ids]

  def chosen(row: Row) -> dict[str, Any]:
    left_out = omitted(row["overrides"]["transfer.classes"])
    logits = kept_logits.load(before, row)["heldout"]
    curve = bias.curve(logits, label, left_out)
    prior = float(np.isin(
        dataset.train.label[dataset.train_ids], left_out).mean())
    return {
        "by_labels": bias.best(curve.errors),
        "by_prior": bias.from_prior(logits, left_out, prior), "prior": prior}

  _analyse(rows["choosing"], chosen, place)


def _curves(rows: Rows, place: Place) -> None:
  """The errors of every student at every bias."""
  before = place.folder.parent / "table"
  label = _data(before).test.label
  _analyse(rows["table"], lambda row: bias.row(
      kept_logits.load(before, row)["test"], label,
      omitted(row["overrides"]["transfer.classes"])), place)


def _trained(rows: Rows, place: Place) -> None:
  """The errors of every student as trained, which its row names one by one."""
  label = _data(place.folder.parent / "table").test.label
  _analyse(rows["table"], lambda row: bias.without(
      row, label, omitted(row["overrides"]["transfer.classes"])), place)


def _data(folder: pathlib.Path):
  """The data set that a stage was run on."""
  config = _choosing() if folder.name == "choosing" else _config()
  values = report.side_file(folder, "config.json") or {}
  config.data.embedded = values.get("data.embedded", config.data.embedded)
  return build.dataset(config, say=lambda line: None)


def _analyse(
    nets: Sequence[Row], told: Callable[[Row], dict[str, Any]], place: Place
) -> None:
  """A row for each net that was trained to its end: what its logits say."""
  who = lambda row: {key: row[key] for key in (
      "overrides", "seed", "fingerprint", "teacher_fingerprint")}
  found = [who(row) | told(row) for row in nets if row["failed"] is None]
  with records.locked(place.folder):
    results.write(place.folder / "results.jsonl",
               rows_lib.stamp(found, study="hinton15_omitted"))
