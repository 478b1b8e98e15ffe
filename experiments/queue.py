"""The runs that studies still lack, the most telling first, and what they take.

  python -m experiments.queue                           makes experiments/queue.md
  python -m experiments.queue --run --minutes=60        makes the next runs
  python -m experiments.queue --run --only=STUDY.CELL   makes those of one cell
  python -m experiments.queue --record OUT/queue.jsonl  takes the rows in

A *cell* is some runs that belong together (`protocol.Cell`). `--run` makes those of
one cell after the other, ends when the time is over, and goes on another time. Its
nets stay in `runs/queue`; its rows also go to one small file, `--out/queue.jsonl`,
as soon as they are there, to be carried elsewhere and recorded. On a machine
that is not kept, `--whole` passes over cells of which no run would be finished
in time.

How long a cell takes is reckoned from the committed rows: what the most similar net
took an example, on the same kind of machine. `--run` needs MNIST's files in
`$KD_JAX_DATA/mnist`, and for cells on CIFAR-10 those in `$KD_JAX_DATA/cifar10`.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import functools
import itertools
import json
import math
import os
import pathlib
import statistics
import sys
import time
from typing import Any, NamedTuple

from experiments import index
from experiments.protocol import Cell
from kd_jax import config as config_lib
from kd_jax import main as door
from kd_jax import report
from kd_jax.config import sweep
from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, minutes, nearest
from kd_jax.core.machine import cores
from kd_jax.report import Row

PAGE = index.ROOT / "queue.md"
ROWS, REHEARSED = "queue.jsonl", "queue-rehearsal.jsonl"
MACHINES = ("2 cores", "H100")
# Shape of an image, classes, and training examples of the sets that studies use.
_SETS = {"mnist": ((28, 28, 1), 10, 60_000), "cifar10": ((32, 32, 3), 10, 50_000),
         "cifar100": ((32, 32, 3), 100, 50_000)}
# Seconds until an accelerator's program is imported, compiled and tuned.
_STARTING = 30.0
_WORK = "KD_JAX_WORK"


class Rate(NamedTuple):
  """What a recorded run took.

  Attributes:
    machine: One of `MACHINES`.
    study: That it is of.
    parameters: Of its net.
    work: Of its net, see `_work`.
    augmented: Whether its images were shifted, turned or bent.
    seconds: An example of an epoch.
  """

  machine: str
  study: str
  parameters: int
  work: int
  augmented: bool
  seconds: float


class Estimate(NamedTuple):
  """Seconds of a cell on a machine: of its teachers, and of each of its runs."""

  teachers: float
  each: float
  runs: int

  @property
  def minutes(self) -> float:
    return (self.teachers + self.each * self.runs) / 60


class Todo(NamedTuple):
  """A cell and what of it is missing: the points, and the config of each."""

  study: str
  cell: Cell
  config: Any
  points: tuple[dict[str, Any], ...]
  runs: tuple[Any, ...]

  @property
  def name(self) -> str:
    return f"{self.study}.{self.cell.name}"


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
  os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores()))
  try:
    if args.record:
      print(record(args.record))
    if args.run or args.rehearse:
      return run(args)
    PAGE.write_text(page())
    print(f"{PAGE.name} is made anew")
    return 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parser() -> Parser:
  parser = Parser(prog="python -m experiments.queue", description=__doc__,
                  formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--run", action="store_true", help="make the next runs")
  parser.add_argument("--only", metavar="STUDY.CELL", help="those of this cell")
  parser.add_argument("--minutes", type=minutes,
                      help="stop after so many, to go on another time")
  parser.add_argument("--whole", action="store_true",
                      help="pass over cells of which no run would be finished")
  parser.add_argument(
      "--out", type=pathlib.Path, default=pathlib.Path("runs/queue"),
      help=f"folder of {ROWS} (default runs/queue)")
  parser.add_argument("--workdir", type=pathlib.Path,
                      default=pathlib.Path(os.environ.get(_WORK, "runs/queue")),
                      help=f"folder of nets (default ${_WORK}, or runs/queue)")
  parser.add_argument("--rehearse", action="store_true",
                      help="the first cell with tiny nets on the built-in digits")
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE",
                      help=f"put a {ROWS} into the studies' folders")
  return parser


def todo() -> list[Todo]:
  """What cells lack, the most telling first, of equals the cheapest."""
  found = [each for study in index.STUDIES for each in _of(study) if each.points]
  known = rates()
  return sorted(found, key=lambda each: (
      -each.cell.value, estimate(each, MACHINES[0], known).minutes))


def _of(study: str) -> Iterator[Todo]:
  module, rows = index.study(study), index.committed(index.ROOT / study)
  for cell in getattr(module, "CELLS", ()):
    config = cell.config(rows)
    made = {_bare(row["overrides"]) for row in rows.get(cell.name, ())}
    points = tuple(
        point for point in config.sweep.points if _bare(point) not in made)
    yield Todo(study, cell, config, points, _runs(config, points))


def _runs(config, points) -> tuple[Any, ...]:
  return tuple(sweep.applied(config, point) for point in points)


def _bare(point: Mapping[str, Any]) -> str:
  return json.dumps(point, sort_keys=True)  # Tuples and lists are alike there.


def rates() -> list[Rate]:
  """What the committed runs took, students and teachers, an example."""
  found = []
  for study in index.STUDIES:
    stages = index.committed(index.ROOT / study)
    works = _works(study, stages)
    for stage, rows in stages.items():
      for row in rows:
        device = row.get("device") or _device(stages, stage)
        if device and (seconds := _seconds(row)):
          found.append(Rate(
              MACHINES[0] if device == "cpu" else MACHINES[1], study,
              row["parameters"], works.get(row["parameters"], row["parameters"]),
              _augmented(row), seconds))
  return found


def _works(study: str, rows: Mapping[str, Sequence[Row]]) -> dict[int, int]:
  """The work of the nets that a study's cells have, by their parameters."""
  nets = [net for cell in getattr(index.study(study), "CELLS", ())
          for config in [cell.config(rows)]
          for net in (_net(config.student, config.data.name),
                      _net(config.teacher, config.data.name))]
  return dict(itertools.starmap(_work, nets))


def _device(stages: Mapping[str, Sequence[Row]], stage: str) -> str | None:
  """Where the students of a stage ran: their teachers were trained there, too."""
  name = "table" if stage == "teachers" else stage.removesuffix("_teachers")
  return next((row["device"] for row in stages.get(name, ()) if "device" in row),
              None)


def _seconds(row: Row) -> float | None:
  """Seconds an example of an epoch, or None for a row that does not tell."""
  curve = row.get("curve")
  epochs = row.get("epoch") or (
      len(next(iter(curve.values()))) if isinstance(curve, dict) and curve else 0)
  examples = epochs * (row.get("train_examples") or 0)
  if not examples or not row.get("seconds") or row.get("net") == "member":
    return None
  return row["seconds"] / examples


def _augmented(row: Row) -> bool:
  return (row.get("net") == "teacher"
          or row.get("overrides", {}).get("student.views", "none") != "none")


def estimate(each: Todo, machine: str, known: Sequence[Rate]) -> Estimate:
  """What the missing runs of a cell take on a machine, teachers included."""
  known = [rate for rate in known if rate.machine == machine]
  teachers: dict[str, float] = {}
  runs = 0.0
  for config in each.runs:
    data = config.data.name
    alike = functools.partial(_second_an_example, known, each.study, data)
    examples = _SETS[data][2] * (1 - config.data.holdout)
    runs += _passes(config, examples * config.transfer.part) * alike(
        config.student, config.student.views != "none")
    if config.alpha == 0:
      continue  # The others of the sweep have a teacher; labels alone have none.
    own = {key: str(value) for key, value in config_lib.flatten(config).items()
           if key.startswith(("teacher.", "data."))}
    teachers[_bare(own)] = config.teacher.count * _passes(
        config.teacher, examples) * alike(config.teacher, True)
  return Estimate(sum(teachers.values()), runs / max(1, len(each.points)),
                  len(each.points))


def _passes(training, examples: float) -> float:
  """Examples that a training sees, counted each time."""
  steps = max(training.min_steps, training.steps or 0)
  if training.steps is not None:
    return training.steps * training.batch_size
  return max(training.epochs * examples, steps * training.batch_size)


def _second_an_example(known, study: str, data: str, net, augmented: bool) -> float:
  """Seconds an example of the recorded nets that are most like this one."""
  size, work = _work(*_net(net, data))
  unlike = lambda rate: (
      abs(math.log(rate.parameters / size)) + abs(math.log(rate.work / work)),
      rate.augmented != augmented, rate.study != study)
  least = min(map(unlike, known))
  alike = [rate for rate in known if unlike(rate) == least]
  # A larger net takes longer in proportion; a smaller one need not be faster.
  scale = max(1.0, work / alike[0].work)
  return scale * statistics.median(rate.seconds for rate in alike)


def _net(net, data: str) -> tuple[str, tuple[tuple[str, Any], ...], str]:
  """What `_work` takes: the name of a net, its size, and the set of its images."""
  # Late: the number of host devices is fixed from then on.
  from kd_jax.config import names
  own = config_lib.flatten(net).__getitem__
  return net.name, tuple(names.sizes(own).items()), data


@functools.cache
def _work(
    name: str, size: tuple[tuple[str, Any], ...], data: str
) -> tuple[int, int]:
  """Parameters of a net, and the same times the uses of one for an image.

  A dense layer uses each of them once, a convolution once for every pixel.
  """
  import jax  # Late: the number of host devices is fixed from then on.
  import numpy as np

  from kd_jax import data as data_lib
  from kd_jax.config import names
  from kd_jax.training import cost
  shape, classes, _ = _SETS[data]
  few = data_lib.Examples(np.zeros((1, *shape), np.uint8), np.zeros(1, np.int32))
  model, *_ = names.model(
      name, dict(size), data_lib.Dataset(
          data, "", "", few, few, np.arange(1), np.arange(0), classes, ""),
      prefix="student")
  held = jax.eval_shape(
      model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(held.params))
  # A use is a multiplication and an addition.
  uses = round(cost.forward_flops(model, few.inputs, 1) / (2 * parameters))
  return parameters, parameters * max(1, uses)


def page() -> str:
  """The queue as a document."""
  known = rates()
  lines = [
      "# The queue: runs that the studies still lack", "",
      "Made by `python -m experiments.queue` from the studies' `CELLS` and their "
      "committed rows; the most telling first, of equals the cheapest. *Value*: 3 "
      "settles a claim of the README, 2 one of a study's table, 1 narrows an "
      "interval. Minutes are reckoned from the recorded seconds of the most "
      "similar net, teachers included, as if none were at hand. Most rows of the "
      "H100 were made ten programs at a time, so that alone a run may take less.",
      "",
      "To travel: the repository, and MNIST's four files (11 MB) in a folder that "
      "`KD_JAX_DATA` names, as `DIR/mnist`; for features_cifar CIFAR-10's binary "
      "files (170 MB), as `DIR/cifar10`. Teachers are trained where the runs are "
      "made, unless `runs/queue/teachers` comes along.", "",
      "`python -m experiments.queue --run --minutes=N` makes the next ones on any "
      "machine; `--record FILE` takes their rows in.", "",
      "| value | what it settles | runs | minutes on 2 cores | on an H100 "
      "| command |",
      "|---|---|--:|--:|--:|---|"]
  for each in todo():
    times = [_short(estimate(each, machine, known).minutes) for machine in MACHINES]
    lines.append(
        f"| {each.cell.value} | {each.cell.why} | {len(each.points)} | "
        f"{' | '.join(times)} | `python -m experiments.queue --run "
        f"--only={each.name}` |")
  return "\n".join([*lines, *_stopped()]) + "\n"


def _stopped() -> list[str]:
  """The studies that were stopped on the way, and what is left of their stage."""
  lines = []
  for name in index.STUDIES:
    rows = index.committed(index.ROOT / name)
    if (at := index.under_way(name, rows)) is None:
      continue
    took = [row["seconds"] for row in rows.get(at.stage, ()) if row.get("seconds")]
    left = max(0, at.asked - at.done)
    cost = _short(left * statistics.median(took) / 60) if took else ""
    lines.append(
        f"| {name} | {at.stage} | {at.done} of {at.asked or '?'} | {cost} | "
        f"`python -m experiments.reproduce {name} --from-record --record "
        f"--workdir=runs/{name}` |")
  return lines and [
      "", "Studies that were stopped on the way; their command does what is "
      "missing. Minutes by the recorded runs of the stage, without its teachers; a "
      "stage that has none yet has them in the study's README.", "",
      "| study | stage | runs | minutes left | command |", "|---|---|--:|--:|---|",
      *lines]


def _short(minutes: float) -> str:
  return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def run(args) -> int:
  """Makes the next runs, and puts their rows aside as they are done."""
  queue = todo()
  if args.only:
    queue = [each for each in queue if each.name == args.only]
    if not queue:
      raise UserError(f"--only={args.only}: has nothing to do; "
                      f"{nearest(args.only, [each.name for each in todo()])}")
  if args.rehearse:
    queue = [_rehearsed(queue[0])]
  args.out.mkdir(parents=True, exist_ok=True)
  known, broken = rates(), 0
  with door.Signals(args.minutes) as stop:
    end = time.monotonic() + 60 * (args.minutes or math.inf)
    for each in queue:
      if args.whole and not _fits(each, known, end - time.monotonic()):
        continue
      machine, _ = _here(each.cell)
      _say(f"{each.name}: {len(each.points)} runs, about "
           f"{estimate(each, machine, known).minutes:.1f} minutes by the recorded "
           f"rates of {machine}")
      began = time.monotonic()
      try:
        code = _make(each, args, stop)
      except (RuntimeError, MemoryError) as error:
        # Of a lent machine's time, the other cells are to have the rest.
        _say(f"{each.name}: broke off, {type(error).__name__}: {str(error)[:200]}")
        code, broken = 0, 1
      _say(f"{each.name}: {(time.monotonic() - began) / 60:.1f} minutes")
      if code or stop():
        return code or stop.code
  return broken


def _fits(each: Todo, known: Sequence[Rate], seconds: float) -> bool:
  """Whether the first runs of a cell would be finished in time; says if not."""
  machine, lanes = _here(each.cell)
  expected, lanes = estimate(each, machine, known), min(lanes, len(each.points))
  first = expected.teachers + expected.each * lanes
  if machine != MACHINES[0]:
    first += _STARTING
  if first > seconds:
    _say(f"{each.name}: passed over; {lanes} runs and their teachers take about "
         f"{first / 60:.1f} minutes here")
  return first <= seconds


def _here(cell: Cell) -> tuple[str, int]:
  """The kind of machine this is, and how many runs it trains at once."""
  import jax  # Late: the number of host devices is fixed from then on.
  if jax.default_backend() == "cpu":
    return MACHINES[0], cores()
  seeds, points = map(int, cell.lanes.split("x"))
  return MACHINES[1], seeds * points


def _make(each: Todo, args, stop) -> int:
  """Runs what is missing of a cell; its rows are collected while it runs."""
  config = each.config
  config.sweep.points = each.points
  config.tensorboard = False  # What writes it may not be there.
  if _here(each.cell)[0] != MACHINES[0]:
    config.sweep.lanes = each.cell.lanes
  config.teacher.dir = str(args.workdir / "teachers")
  place = args.workdir / each.study / each.cell.name
  aside = args.out / (REHEARSED if args.rehearse else ROWS)
  seen = [0]

  class Watching:
    """`stop`, which also looks for new rows whenever it is asked."""

    code = property(lambda self: stop.code)

    def __call__(self) -> bool:
      file = place / "results.jsonl"
      if file.is_file() and file.stat().st_size != seen[0]:
        seen[0] = file.stat().st_size
        collect(each, place, aside)
      return stop()

  again = f"python -m experiments.queue --run --only={each.name}"
  try:
    return door.train(config, place, Watching(), index.study(each.study).COMMAND,
                      again=again, study=each.study)
  finally:
    collect(each, place, aside)


def collect(each: Todo, place: pathlib.Path, file: pathlib.Path) -> None:
  """Puts the rows of a cell into the one small file, which is written anew."""
  tag = {"study": each.study, "cell": each.cell.name}
  kept = [line for line in _lines(file)
          if {key: line[key] for key in tag} != tag]
  kept += [tag | {"file": name, "row": row}
           for name in ("results.jsonl", "teachers.jsonl")
           if (place / name).is_file() for row in report.read(place, name)]
  _write(file, kept)


def _write(file: pathlib.Path, rows: Sequence[Row]) -> None:
  from kd_jax.runs import results  # Late: it imports jax.
  results.write(file, rows)


def _lines(file: pathlib.Path) -> list[dict[str, Any]]:
  if not file.is_file():
    return []
  lines = report.read(file.parent, file.name)
  if all({"study", "cell", "file", "row"} <= line.keys() for line in lines):
    return lines
  raise UserError(f"{file}: not a file that experiments.queue --run wrote")


def _rehearsed(each: Todo) -> Todo:
  """The same program in seconds: it proves that the cell runs, and nothing else."""
  config = each.config
  config.data.embedded = "only"
  config.epochs, config.steps, config.min_steps = 1, 20, 0
  config.teacher.steps, config.teacher.widths = 20, (16,)
  small = {"student.widths": (8,), "epochs": 1}
  points = tuple(point | small for point in each.points[:2])
  return each._replace(
      config=config, cell=each.cell._replace(name=f"{each.cell.name}-rehearsal"),
      points=points, runs=_runs(config, points))


def record(file: pathlib.Path) -> str:
  """Puts the rows of a file of `--run` into the studies' folders.

  Raises:
    UserError: If a cell is unknown, or a row was recorded with another result.
  """
  if not file.is_file():
    raise UserError(f"--record {file}: there is no such file")
  lines = _lines(file)
  known = {each.name for study in index.STUDIES for each in _of(study)}
  for name in {f"{line['study']}.{line['cell']}" for line in lines}:
    if name not in known:
      raise UserError(f"--record {file}: {name} is no cell; {nearest(name, known)}")
  stages: dict[pathlib.Path, list[Row]] = {}
  for line in lines:
    suffix = "" if line["file"] == "results.jsonl" else "_teachers"
    target = index.ROOT / line["study"] / f"{line['cell']}{suffix}.jsonl"
    stages.setdefault(target, []).append(line["row"])
  # All of them are looked at before any is written.
  joined = {target: _joined(target, rows) for target, rows in stages.items()}
  for target, rows in joined.items():
    _write(target, rows)
  index.main()
  return f"{len(lines)} rows are in; experiments/ is made anew"


def _joined(target: pathlib.Path, rows: Sequence[Row]) -> list[Row]:
  """The rows of a stage with new ones, each once."""
  there = report.read(target.parent, target.name) if target.is_file() else []
  known = {row["fingerprint"]: row for row in there}
  for row in rows:
    before = known.setdefault(row["fingerprint"], row)
    if before.get("test_wrong_ids") != row.get("test_wrong_ids"):
      raise UserError(
          f"{target}: has another result of {row['fingerprint'][:16]}; nothing was "
          "recorded. Was it run with other versions?")
  return list(known.values())


def _say(line: str) -> None:
  print(line, flush=True)


if __name__ == "__main__":
  exits.command(main)
