"""Is any objective on logits better than Hinton's, on MNIST?

Every method of `kd_jax.methods` on a student of 2x800 and one of 2x30, with one
teacher. Two stages. `choosing` tries six settings of each method and size on a
held-out tenth of the training set, the same number for each. `table` trains each
with the best of its own on all of it, ten seeds, and looks at the test set once.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import ml_collections

from configs import mnist
from experiments import fair
from experiments.methods_mnist import verdict
from experiments.protocol import Cell, Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, names, statistics

CLAIM = "of each paper, on other data: its objective is better than Hinton's"
DATA = "MNIST; the papers' mostly CIFAR-100 and ImageNet"
UNIT = "errors of 10,000; the papers': accuracy in %"
COMMAND = "--config=configs/mnist.py"
# No one row: each method is compared with KD of its own size, in `verdict`.
REFERENCE = None
# Of 432 rows, what nothing is chosen by.
NOT_COMMITTED = {"choosing": ("test_wrong_ids", "test_bins")}

Point = dict[str, Any]


# By name, so that a method of another kind does not change this study's tests.
METHODS = (
    "hard", "kd", "logits", "mse", "reverse_kl", "jsd", "ls", "normkd", "dkd",
    "nkd", "rld", "wttm", "topk", "topk_renormalised", "tfkd", "dist", "mlkd",
    "ctkd")


class Size(NamedTuple):
  """How much is run.

  Attributes:
    methods: Which.
    widths: Of the students.
    settings: Tried of each method.
    choosing: Seeds of the first stage.
    seeds: Runs of each row of the table.
  """

  methods: tuple[str, ...] = METHODS
  widths: tuple[tuple[int, ...], ...] = ((800, 800), (30, 30))
  settings: int = 6
  choosing: tuple[int, ...] = (100, 101)
  seeds: int = 10


_QUICK = Size(("kd", "dkd"), ((12,),), 2, (100,), 2)

# Three values of what a method is most sensitive to, times two learning rates. The
# weights are the paper's; where it has none, alpha = 0.9.
_RATE, _RATES = "optimizer.learning_rate", (1e-3, 3e-3)
_SOFTER = {"temperature": (2.0, 4.0, 8.0)}
_TRIED: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "hard": {"label_smoothing": (0.0, 0.05, 0.1)},
    "logits": {"alpha": (0.5, 0.9, 1.0)},
    "mse": {"alpha": (0.5, 0.9, 1.0)},
    "ls": {"temperature": (1.0, 2.0, 4.0)},
    "normkd": {"temperature": (1.0, 2.0, 4.0)},
    "nkd": {"temperature": (1.0, 2.0, 4.0)},
    "wttm": {"temperature": (2.0, 5.0, 10.0)},
    "tfkd": {"temperature": (10.0, 20.0, 40.0)},
    "ctkd": {"ctkd.span": (5.0, 10.0, 20.0)},
}


def stages(options: Options) -> list[Stage]:
  """Choosing on held-out data, then the table."""
  size = _QUICK if options.quick else Size()
  if options.seeds:
    size = size._replace(seeds=options.seeds)
  made = smaller if options.quick else lambda config: config
  return [
      Stage("choosing", config=lambda rows: made(choosing(size))),
      Stage("table", config=lambda rows: made(table(rows, size)))]


def settings(method: str) -> sweep.Sweep:
  """The settings that are tried of a method, six of each."""
  return sweep.product(
      _TRIED.get(method, _SOFTER), {_RATE: _RATES})


def choosing(size: Size) -> ml_collections.ConfigDict:
  """Stage one: settings of every method and size, on held-out data."""
  config = hold_out(_config())
  config.sweep.points = tuple(sweep.product(
      {"student.widths": size.widths},
      sweep.chain(*(
          sweep.product({"method": (method,)}, settings(method)[:size.settings])
          for method in size.methods)),
      {"seed": size.choosing}))
  return config


def choose(rows: Sequence[Row], method: str, widths: Sequence[int]) -> Point:
  """The setting with the fewest held-out errors; of equals the first."""
  means = []
  for place, setting in enumerate(settings(method)):
    wanted = setting | {"method": method, "student.widths": tuple(widths)}
    errors = [row["heldout_errors"] for row in rows
              if row["failed"] is None and _of(row) == wanted]
    if errors:
      means.append((statistics.summary(errors).mean, place))
  # Before anything is known, for a plan: it makes no difference to the cost.
  return dict(settings(method)[min(means)[1] if means else 0])


def points(rows: Rows, size: Size) -> dict[tuple[tuple[int, ...], str], Point]:
  """The rows of the table by size and method: what each sets, but for seeds."""
  found = rows.get("choosing", [])
  return {(widths, method): choose(found, method, widths) | {
      "method": method, "student.widths": widths}
          for widths in size.widths for method in size.methods}


def table(rows: Rows, size: Size) -> ml_collections.ConfigDict:
  """Stage two: every method on the whole training set."""
  config = _config()
  config.sweep.points = tuple(sweep.product(
      sweep.chain(*map(sweep.fixed, points(rows, size).values())),
      {"seed": range(size.seeds)}))
  return config


def wider(rows: Rows) -> ml_collections.ConfigDict:
  """The same choice with higher learning rates, on held-out data."""
  del rows
  config = choosing(Size())
  config.sweep.points = tuple(
      point | {"optimizer.learning_rate": rate} for rate in (6e-3, 1e-2)
      for point in config.sweep.points
      if point["optimizer.learning_rate"] == max(_RATES))
  return config


CELLS = (Cell(
    "wider", 2, "does a method pass KD where learning rates beyond the range are "
    "tried? In 33 of 36 rows the highest was best", wider, "2x6"),)


def smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The same program in a minute or two: few digits, small nets, short runs."""
  config.data.embedded = "only"
  config.steps, config.teacher.steps = 40, 100
  config.teacher.widths = (40,)
  config.sweep.lanes = "1x2"
  return config


def conclude(rows: Rows) -> str:
  """Every method beside KD, as markdown."""
  return verdict.told(named(rows)) + "\n" + edges(rows)


def edges(rows: Rows) -> str:
  """In how many rows the best setting stood at an end of what was tried."""
  fast, ends = [], []
  for (widths, method), done in named(rows).items():
    tried = settings(method)
    at = fair.ends({key: _of(done[0])[key] for key in tried[0]}, tried)
    fast.append("highest" in at.pop(_RATE, ""))
    if at:
      ends.append(f"{names.shown(widths)} {method}")
  return (
      f"The best setting has the higher learning rate in {sum(fast)} of "
      f"{len(fast)} rows, and in {len(ends)} the lowest or highest of the three "
      f"values of its other key: {', '.join(ends) or 'none'}.\n")


def status(rows: Rows) -> str:
  """Which methods are better than KD, and which are worse."""
  return verdict.phrase(named(rows))


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Every method's difference from KD."""
  verdict.draw(named(rows), folder / "methods.png")


def named(rows: Rows) -> verdict.Named:
  """The rows of the table by size and method."""
  found: dict[tuple[tuple[int, ...], str], list[Row]] = {}
  for row in rows["table"]:
    point = _of(row)
    if row["failed"] is None:
      found.setdefault((point["student.widths"], point["method"]), []).append(row)
  return found


def _of(row: Row) -> Point:
  """What a row sets, but for its seed."""
  return {key: tuple(value) if isinstance(value, list) else value
          for key, value in row["overrides"].items() if key != "seed"}


def _config() -> ml_collections.ConfigDict:
  """What both stages share."""
  config = mnist.get_config()
  config.data.embedded = "never"
  config.epochs, config.min_steps = 10, 0
  return config
