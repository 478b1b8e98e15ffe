"""Which temperature? Hinton, Vinyals & Dean (2015), section 3.

With 300 or more units a layer "all temperatures above 8 gave fairly similar
results"; with 30 "temperatures in the range 2.5 to 4 worked significantly better
than higher or lower temperatures".

Two stages. `choosing` picks alpha and the learning rate of each width on a held-out
tenth of the training set; `table` trains on all of it and looks at the test set
once. What is tested, and with which margin, is fixed here, before any run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import itertools
from typing import Any

from configs import mnist
from experiments import claims, fair, sources
from experiments.protocol import Cell, Options, Rows, Stage, hold_out
from kd_jax.config import sweep
from kd_jax.report import Row, statistics

TEMPERATURES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 40.0)
# Epochs: what two cores can do in two hours, for ten seeds a point.
EPOCHS = {30: 40, 300: 15, 800: 8}
SEEDS = 10
# Two students are alike if they differ by less, in errors of 10,000.
MARGIN = 10
REFERENCE = {"alpha": 0.0}
CLAIM = "with 300 units all T above 8 are alike, with 30 T = 2.5 to 4 is best"
DATA = "MNIST, as the paper's"
UNIT = "errors of 10,000; the paper gives none"
# What both stages start from.
COMMAND = "--config=configs/mnist.py:paper"
_ALPHAS = (0.5, 0.9, 1.0)
_RATES = {30: (1e-3, 3e-3), 300: (1e-3,), 800: (1e-3,)}
# What a plan is made with before anything is chosen; it costs the same.
_UNCHOSEN = {width: {"alpha": 0.9, "optimizer.learning_rate": 1e-3}
             for width in EPOCHS}
# Both sides of what the paper says of 30 units, so that neither is favoured.
_CHOOSING_TEMPERATURES = (2.5, 8.0)
_CHOOSING_SEEDS = {30: 3, 300: 2, 800: 2}

Label = Callable[[str, Sequence[float]], str]
Choice = Mapping[int, Mapping[str, Any]]


def stages(options: Options) -> list[Stage]:
  """Choosing on held-out data, then the table."""
  made = smaller if options.quick else lambda config: config
  return [
      Stage("choosing", config=lambda rows: made(choosing())),
      Stage("table", config=lambda rows: made(table(
          choose(rows["choosing"]), options.seeds or SEEDS)))]


def choosing():
  """Stage one: alpha and learning rate of each width, on held-out data."""
  config = hold_out(_config())
  # A teacher of its own, as the other has seen the held-out part.
  config.teacher.epochs = 40
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(
          _net(width), {
              "seed": range(100, 100 + _CHOOSING_SEEDS[width]),
              "optimizer.learning_rate": _RATES[width], "alpha": _ALPHAS,
              "temperature": _CHOOSING_TEMPERATURES})
      for width in EPOCHS)))
  return config


def choose(rows: Sequence[Row]) -> dict[int, dict[str, Any]]:
  """For each width, the setting with the fewest held-out errors on average."""
  cells: dict[int, dict[tuple, list[int]]] = {}
  for row in rows:
    own = row["overrides"]
    setting = (own["alpha"], own["optimizer.learning_rate"])
    cells.setdefault(own["student.widths"][0], {}).setdefault(
        setting, []).append(row["heldout_errors"])
  best = {width: min(cell, key=lambda setting, c=cell: (
      sum(c[setting]) / len(c[setting]), setting)) for width, cell in cells.items()}
  return {width: {"alpha": alpha, "optimizer.learning_rate": rate}
          for width, (alpha, rate) in best.items()} or _UNCHOSEN


def table(choice: Choice, seeds: int = SEEDS):
  """Stage two: every temperature, and hard labels, on the whole training set."""
  config = _config()
  config.sweep.reference = tuple(REFERENCE.items())
  config.sweep.points = tuple(sweep.chain(*(
      sweep.product(
          _net(width), {"seed": range(seeds)},
          sweep.fixed({"optimizer.learning_rate":
                       choice[width]["optimizer.learning_rate"]}),
          sweep.chain(
              # alpha = 0 is hard labels alone, whatever the temperature.
              sweep.fixed({"alpha": 0.0, "temperature": 1.0}),
              sweep.product(sweep.fixed({"alpha": choice[width]["alpha"]}),
                            {"temperature": TEMPERATURES})))
      for width in EPOCHS if width in choice)))
  return config


def more_seeds(rows: Rows):
  """Twenty more seeds of 2x300 at the temperatures above 8."""
  config = table(choose(rows["choosing"]))
  config.sweep.points = tuple(
      point | {"seed": SEEDS + more} for more in range(20)
      for point in config.sweep.points
      if point["seed"] == 0 and point["student.widths"] == (300, 300)
      and point["temperature"] > 8)
  config.sweep.reference = ()
  return config


CELLS = (Cell("more_seeds", 2, "are all T above 8 alike with 300 units? Ten seeds "
              "could not show it", more_seeds, "10x4"),)


def smaller(config):
  """The same program in a minute: two seeds of 2x30, an epoch, a small teacher."""
  config.data.embedded = "auto"
  config.teacher.steps, config.teacher.widths = 300, (100, 100)
  config.sweep.lanes = "1x16"
  config.sweep.points = tuple(
      point | {"epochs": 2} for point in config.sweep.points
      if point["student.widths"] == (30, 30) and point["seed"] % 100 < 2)
  return config


def conclude(rows: Rows) -> str:
  """What the rows say of the claim, in words and intervals, as markdown."""
  lines = []
  for width in EPOCHS:
    cells = _cells(rows["table"], width)
    if len(cells) < len(TEMPERATURES) or min(map(len, cells.values())) < 2:
      lines.append(f"**2x{width}**: not all temperatures have two seeds yet.\n")
    else:
      judge = _middle_is_best if width < 300 else _high_are_alike
      lines.append(judge(cells, width, functools.partial(_label, rows, width)))
  return "\n".join([*lines, *_chosen(rows)])


def _chosen(rows: Rows) -> list[str]:
  """The settings of each width, if any rows have chosen them."""
  if not rows.get("choosing"):
    return []
  return [fair.at_ends({
      f"2x{width}": (setting, sweep.product(
          {"alpha": _ALPHAS, "optimizer.learning_rate": _RATES[width]}))
      for width, setting in choose(rows["choosing"]).items()})]


def status(rows: Rows) -> str:
  """What holds, in a phrase."""
  found = [line for line in conclude(rows).splitlines() if "claim for" in line]
  return "; ".join(line[line.index("claim for") + 10:].removesuffix(" here.")
                   for line in found)


def _of(rows: Sequence[Row], width: int) -> Iterator[tuple[float, Row]]:
  """The students on soft targets of a width, with their temperatures."""
  for row in rows:
    own = row["overrides"]
    if (tuple(own["student.widths"]) == (width, width) and own["alpha"]
        and row["failed"] is None):
      yield own["temperature"], row


def _label(
    rows: Rows, width: int, text: str, temperatures: Sequence[float]) -> str:
  """A label that leads to the rows of some temperatures."""
  return sources.linked(text, [
      row for t, row in _of(rows["table"], width) if t in temperatures])


def _cells(rows: Sequence[Row], width: int) -> dict[float, list[int]]:
  """Test errors by temperature, in the order of the seeds that all have."""
  found: dict[float, dict[int, int]] = {}
  for temperature, row in _of(rows, width):
    found.setdefault(temperature, {})[row["seed"]] = row["test_errors"]
  if not found:
    return {}
  common = sorted(set.intersection(*(set(cell) for cell in found.values())))
  return {t: [cell[seed] for seed in common] for t, cell in sorted(found.items())}


def _middle_is_best(
    cells: Mapping[float, Sequence[int]], width: int, label: Label) -> str:
  middle = [t for t in cells if 2.5 <= t <= 4]
  others = {"T < 2.5": [t for t in cells if t < 2.5],
            "T > 4": [t for t in cells if t > 4]}
  tested = {}
  for name, side in others.items():
    contrast = statistics.contrast(cells, middle, side)
    tested[label(name, middle + side)] = statistics.paired(
        contrast, [0.0] * len(contrast))
  lines = [
      f"**2x{width}**: is T from 2.5 to 4 better? Mean errors of T = "
      f"{_listed(middle)} minus those of the others, paired by seed (n = "
      f"{len(cells[middle[0]])}), 95% t-interval; p of the t-test.\n"]
  return "\n".join(lines + _judged(
      f"2x{width}", tested, claims.Claim(below=0.0), ["minus", "95%", "better?"]))


def _high_are_alike(
    cells: Mapping[float, Sequence[int]], width: int, label: Label) -> str:
  pairs = list(itertools.combinations([t for t in cells if t > 8], 2))
  tested = {label(f"{a:g} - {b:g}", (a, b)): statistics.equivalence(
      cells[a], cells[b], margin=MARGIN) for a, b in pairs}
  lines = [
      f"**2x{width}**: are all T above 8 alike? Differences between pairs, "
      f"paired by seed (n = {len(cells[pairs[0][0]])}), 90% t-interval; p of two "
      f"one-sided tests with margin {MARGIN} errors.\n"]
  return "\n".join(lines + _judged(
      f"2x{width}", tested, claims.Claim(-MARGIN, MARGIN), ["T", "90%", "alike?"]))


def _judged(
    net: str, tested: Mapping[str, statistics.Paired | statistics.Equivalence],
    claim: claims.Claim, titles: Sequence[str],
) -> list[str]:
  """A table of tests that a claim needs all of, and whether it holds."""
  name, level, question = titles
  parts = {key: claim.judged(test.low, test.high) for key, test in tested.items()}
  short = {claims.HOLDS: "yes", claims.FAILS: "no", claims.OPEN: "not shown"}
  lines = [f"| {name} | difference | {level} interval | p | {question} |",
           "|---|--:|--:|--:|---|"]
  lines += [
      f"| {key} | {test.difference:+.1f} | {test.low:+.1f} to {test.high:+.1f} "
      f"| {test.p:.2g} | {short[parts[key]]} |" for key, test in tested.items()]
  number = sum(part == claims.HOLDS for part in parts.values())
  return [*lines, f"\nShown: {number} of {len(parts)}, each at 5%, as the claim is "
          f"that all are so; the claim for {net} {claims.every(parts.values())} "
          "here.\n"]


def _config():
  """What both stages share: the paper's teacher, images that are not shifted."""
  config = mnist.get_config("paper")
  config.data.embedded = "never"
  config.min_steps = 0
  return config


def _net(width: int) -> sweep.Sweep:
  return sweep.fixed(
      {"student.widths": (width, width), "epochs": EPOCHS[width]})


def _listed(temperatures: Sequence[float]) -> str:
  return ", ".join(f"{t:g}" for t in temperatures)
