"""Reproduces the tables of a paper, from data to verdict.

  python -m experiments.reproduce hinton15_mnist --plan
  python -m experiments.reproduce hinton15_mnist --minutes=60
  python -m experiments.reproduce hinton15_mnist --quick
  python -m experiments.reproduce all --quick
  python -m experiments.reproduce fitnets_mnist --verify

A study runs in stages: settings are chosen on held-out data first, then the nets of
the table are trained with them. What is finished is kept: the same command goes on.

`--record` puts the rows into the study's folder, to be committed, also if the study
was stopped on the way; changes of the source are committed before. `--from-record`
begins with what is there, in a new workdir: it passes over stages that are whole,
and does what is missing of the one that was stopped. With `--seeds=N` too, a table
that has fewer seeds gets more.

On several machines each gives its part, `--shard=1/3` and so on, and leaves it in
`WORKDIR/STAGE-1of3`. The parts of a stage are joined before the next begins:
`python -m kd_jax.report merge WORKDIR/choosing-*of3 --out WORKDIR/choosing`.

`--verify` trains one committed row again, by its command, if rows have one. The row
is verified if the same test examples are wrong. Where the numerics, the kind of
machine or the lanes differ, it is consistent if its errors are within a tolerance
that the study's seeds give. ROW is the letters after `rows.md#` in a link of a
table, or a label of a table, or words of a row such as "method=hard seed=4"; of
several rows it is the cheapest. With `--record` the index shows it. Exit code 1:
something else came out.
"""

import argparse
import itertools
import os
import pathlib
import shlex
import sys
from typing import Any

from experiments import index, verify
from experiments.protocol import Options, Place, Stage
from kd_jax import main as door
from kd_jax import report
from kd_jax.config import schema
from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, minutes, nearest, whole
from kd_jax.core.files import at_home
from kd_jax.runs import shard as shards

STUDIES = index.STUDIES


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  arguments = _parser().parse_args(argv)
  try:
    _check(arguments)
    if arguments.data:
      os.environ["KD_JAX_DATA"] = str(arguments.data)
    shard = shards.parse(arguments.shard) if arguments.shard else None
    if arguments.record and shard:
      raise UserError("--record with --shard: merge the shards, then record "
                      "without --shard")
    names = STUDIES if arguments.study == "all" else (arguments.study,)
    again = ["python", "-m", "experiments.reproduce", *argv]
    with door.Signals(arguments.minutes) as stop:
      if arguments.verify is not None:
        return verify.run(
            arguments.study, arguments.verify, arguments.workdir, again, stop,
            teachers=arguments.teachers, record=arguments.record)
      for name in names:
        job = _Job(name, arguments, shard, stop, shlex.join(again))
        code = job.plan() if arguments.plan else job.run()
        if code or stop():
          return code or stop.code
    return 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _lanes(text: str) -> str:
  """Runs at once, for argparse."""
  rule = schema.every()["sweep.lanes"].rule
  if not rule.check(text):
    raise argparse.ArgumentTypeError(f"{text}: must be {rule.allowed}")
  return text


def _check(arguments) -> None:
  if arguments.study not in (*STUDIES, "all"):
    raise UserError(f"{arguments.study}: no such study; "
                    f"{nearest(arguments.study, (*STUDIES, 'all'))}")
  others = ("plan", "quick", "shard", "seeds", "lanes", "from_record")
  if arguments.verify is not None and (
      arguments.study == "all" or any(vars(arguments)[name] for name in others)):
    raise UserError("--verify: trains one row of one study; not with all, --plan, "
                    "--quick, --shard, --seeds, --lanes or --from-record")
  if arguments.data and not at_home(arguments.data).is_dir():
    raise UserError(f"--data={arguments.data}: there is no such folder; name the "
                    "one that holds the data sets")
  if arguments.record and arguments.quick:
    raise UserError("--record with --quick: a quick run proves nothing")
  if arguments.from_record and (arguments.quick or arguments.shard):
    raise UserError("--from-record: not with --quick, which is another study, nor "
                    "with --shard, whose parts are merged before they are recorded")
  if arguments.study == "all" and arguments.workdir:
    raise UserError("--workdir with all: each study has a folder of its own, "
                    "runs/STUDY")


class _Job:
  """A study, and how the user wants it run."""

  def __init__(self, name: str, arguments, shard, stop, again: str):
    self.name, self.arguments, self.shard = name, arguments, shard
    self.stop, self.again = stop, again
    self.study = index.study(name)
    self.workdir = arguments.workdir or pathlib.Path("runs") / (
        name + ("-quick" if arguments.quick else ""))
    self.stages: list[Stage] = self.study.stages(Options(
        self.workdir, arguments.seeds, arguments.quick))
    if arguments.lanes and arguments.study != "all" and not any(
        stage.config for stage in self.stages):
      raise UserError(f"--lanes: {name} has no sweeps, so it trains no lanes; "
                      "give the command without it")

  def run(self) -> int:
    """All stages, and what they say."""
    rows: dict[str, Any] = {}
    for stage in self.stages:
      folder = self.workdir / stage.name
      if self.arguments.from_record:
        index.take(self.name, stage.name, folder, sweep=(
            stage.config is not None and not self._recorded(stage)))
      if self._recorded(stage):
        _say(f"{self.name}, stage {stage.name}: as it is recorded")
      elif not (self.shard and _whole(folder)):
        if self.shard and not stage.shards:
          raise UserError(f"{stage.name}: one machine does all of it; give the "
                          "command without --shard")
        code = self._stage(stage, rows, folder)
        if code or self.stop():
          if self.stop():
            self._record(unfinished=stage.name)
          return code or self.stop.code
        if self.shard:
          return self._to_merge(stage)
      rows |= index.stage_rows(folder)
    verdict = self.study.conclude(rows)
    (self.workdir / "conclusion.md").write_text(verdict)
    print("\n" + verdict)
    self._record()
    return 0

  def _record(self, unfinished: str | None = None) -> None:
    if self.arguments.record:
      index.record(self.name, [stage.name for stage in self.stages], self.workdir,
                   unfinished=unfinished, extends=self.arguments.from_record)

  def plan(self) -> int:
    """Tells what each stage would take; what is not chosen yet is left open."""
    rows: dict[str, Any] = {}
    if self.arguments.from_record:
      rows |= index.committed(index.ROOT / self.name)
    for stage in self.stages:
      print(f"{self.name}, stage {stage.name}:")
      if self._recorded(stage):
        print("  as it is recorded")
      elif stage.config is None:
        print("  no sweep; its README tells how long it takes")
      else:
        door.show_plan(self._at(stage.config(rows)), self.shard)
      rows |= {name: found for name, found in index.stage_rows(
          self.workdir / stage.name).items() if found or name not in rows}
    return 0

  def _recorded(self, stage: Stage) -> bool:
    """Whether a stage is not to be run, as all its rows are committed.

    Those from the table on have more, if other seeds are asked for.
    """
    from_table = itertools.dropwhile(lambda each: each.name != "table", self.stages)
    more = self.arguments.seeds is not None and stage in [*from_table]
    return (self.arguments.from_record and not more
            and index.whole(self.name, stage.name))

  def _stage(self, stage: Stage, rows, folder: pathlib.Path) -> int:
    place = shards.apart(folder, self.shard)
    if self.arguments.record:
      index.refuse_changes("--record")
    if stage.config is not None:
      return door.train(
          self._at(stage.config(rows)), place, self.stop,
          stage.command or self.study.COMMAND,
          again=self.again, study=self.name, shard=self.shard)
    assert stage.run is not None, stage.name
    stage.run(rows, Place(place, self.stop, _say, self.shard))
    return 0

  def _at(self, config):
    """The config of a stage with what the command says of this machine.

    Teachers are those that lie in `WORKDIR/teachers` or `--teachers`, if any.
    Otherwise each stage keeps its own, which goes with it when it is merged; and
    shards that train at once do not write into one folder.
    """
    if self.arguments.lanes:
      config.sweep.lanes = self.arguments.lanes
    shelf = self.arguments.teachers or self.workdir / "teachers"
    if self.arguments.teachers or shelf.is_dir():
      config.teacher.dir = str(shelf)
    return config

  def _to_merge(self, stage: Stage) -> int:
    """Says what comes when all shards of a stage are through."""
    parts = self.workdir / f"{stage.name}-*of{self.shard.of}"
    after = self.stages[self.stages.index(stage) + 1:]
    then = ("give the same commands again" if after and after[0].shards
            else "give the command without --shard")
    print(f"{stage.name}: shard {self.shard} is done. When all are: python -m "
          f"kd_jax.report merge {parts} --out {self.workdir / stage.name}; then "
          f"{then}", flush=True)
    return 0


def _whole(folder: pathlib.Path) -> bool:
  """Whether a folder holds all rows of a stage, run there or merged."""
  summary = report.side_file(folder, "summary.json")
  if summary is not None:
    return not summary.get("missing")
  return (folder / "results.jsonl").is_file()


def _say(line: str) -> None:
  print(line, flush=True)


def _parser() -> Parser:
  parser = Parser(
      prog="python -m experiments.reproduce", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("study", help=f"all, or one of: {', '.join(STUDIES)}")
  parser.add_argument("--workdir", type=pathlib.Path,
                      help="where everything goes (default: runs/STUDY)")
  parser.add_argument("--data", type=pathlib.Path,
                      help="folder of data sets (default: KD_JAX_DATA)")
  parser.add_argument("--teachers", type=pathlib.Path,
                      help="folder of teachers, for several studies to share")
  parser.add_argument("--seeds", type=whole,
                      help="runs of each point (default: the study's own)")
  parser.add_argument("--minutes", type=minutes,
                      help="stop after so many, to go on another time")
  parser.add_argument("--shard", metavar="I/N",
                      help="run the I-th of N parts, in a folder of its own")
  parser.add_argument("--lanes", metavar="SEEDSxPOINTS", type=_lanes,
                      help="how many runs to train at once, or auto to measure it "
                      "(default: the study's own, for two cores)")
  parser.add_argument("--plan", action="store_true",
                      help="tell runs, compilations, memory, time; train nothing")
  parser.add_argument("--quick", action="store_true",
                      help="the same program in a minute or two; proves nothing")
  parser.add_argument("--record", action="store_true",
                      help="make the study's committed rows and tables anew")
  parser.add_argument("--from-record", action="store_true",
                      help="begin with the committed rows, in a new workdir")
  parser.add_argument("--verify", nargs="?", const="", metavar="ROW",
                      help="train a committed row again, and compare")
  return parser


if __name__ == "__main__":
  exits.command(main)
