"""Students at many temperatures and alphas, in one program and one table.

  python -m experiments.temperature_sweep --config=configs/mnist.py \\
      --temperatures=1,2,4,8,20 --alphas=0.5,0.9,1.0 --seeds=5 \\
      --widths=30,300,800 --workdir=runs/temperatures

Every point is trained with the same seeds, and beside them a student on hard labels
alone, with which the tables compare. alpha is the share of the SOFT term. The
command can be stopped and given again; --config.KEY=VALUE sets any other key.
"""

import argparse
import pathlib
import sys
import time

from kd_jax import main as door
from kd_jax.config import command_line, sweep
from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, minutes, whole
from kd_jax.runs import shard as shards


def points(arguments: argparse.Namespace) -> sweep.Sweep:
  """The sweep that the arguments ask for."""
  axes = [("temperature", arguments.temperatures), ("alpha", arguments.alphas)]
  grid = sweep.parse([f"{key}={text}" for key, text in axes if text])
  parts: list[sweep.Part] = []
  if arguments.widths:
    widths = [point["student.widths"] for point in sweep.parse(
        [f"student.widths={arguments.widths}"])]
    parts.append({"student.widths": [
        (w, w) if isinstance(w, int) else w for w in widths]})
  # Hard labels alone, whatever the temperature.
  hard = sweep.fixed({"temperature": 1.0, "alpha": 0.0})
  return sweep.product(
      *parts, {"seed": range(arguments.seeds)}, sweep.chain(hard, grid))


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  arguments, rest = _parser().parse_known_args(argv)
  try:
    rest = command_line.of_config(rest)
    config, _ = command_line.parse(rest)
    config.sweep.points = tuple(points(arguments))
    config.sweep.reference = (("alpha", 0.0),)
    shard = shards.parse(arguments.shard) if arguments.shard else None
    workdir = arguments.workdir or shards.apart(pathlib.Path(
        time.strftime("runs/temperatures-%Y%m%d-%H%M%S")), shard)
    if arguments.plan:
      return door.show_plan(config, shard)
    again = command_line.again("experiments.temperature_sweep", argv, workdir)
    command = next(w for w in rest if w.startswith("--config="))
    with door.Signals(arguments.minutes) as stop:
      return door.train(
          config, workdir, stop, command, again=again, shard=shard)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parser() -> Parser:
  parser = Parser(
      prog="python -m experiments.temperature_sweep", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
      epilog="--config=FILE[:VARIANT] and --config.KEY=VALUE as for kd_jax.main")
  parser.add_argument("--temperatures", default="1,2,4,8,20", metavar="T,T,...")
  parser.add_argument("--alphas", metavar="ALPHA,...",
                      help="shares of the soft term (default: the config's)")
  parser.add_argument("--seeds", type=whole, default=3, metavar="N",
                      help="runs of each point (default 3)")
  parser.add_argument("--widths", metavar="N,N,...",
                      help="units of both layers (default: the config's)")
  parser.add_argument("--workdir", type=pathlib.Path,
                      help="where everything goes (default: new, under runs)")
  parser.add_argument("--minutes", type=minutes,
                      help="stop after so many, to go on another time")
  parser.add_argument("--shard", metavar="I/N",
                      help="run the I-th of N parts, in a folder of its own")
  parser.add_argument("--plan", action="store_true",
                      help="tell runs, compilations, memory and time; do nothing")
  return parser


if __name__ == "__main__":
  exits.command(main)
