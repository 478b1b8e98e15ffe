"""Compares methods fairly: the same number of settings of each, on held-out data.

  python -m kd_jax.compare --config=configs/mnist.py --arms=ARMS.toml \\
      --budget=6 --seeds=10 --workdir=runs/compare

ARMS.toml has one table for each arm (method to compare). Lists are values to try:

  [labels]
  method = "hard"
  label_smoothing = [0.0, 0.05, 0.1]
  optimizer.learning_rate = [1e-3, 3e-3]

  [kd]
  method = "kd"
  temperature = [2, 4, 8]
  optimizer.learning_rate = [1e-3, 3e-3]

First, each setting is trained without the held-out part of the training set and
evaluated on this part; the test set is not used. Then the best setting of each arm
is trained on the whole training set with all seeds. DIR/comparison.md has the
results: differences from the reference, paired by seed, with Holm's correction; the
chosen values that are at the edge of the tried values; the cost of each arm. The
same command resumes after a stop.
"""

import argparse
import sys
import time

from kd_jax import main as door
from kd_jax.config import command_line, schema, sweep
from kd_jax.core import exits
from kd_jax.core.errors import (
  Parser,
  UserError,
  minutes,
  nearest,
  part,
  printable,
  whole,
)
from kd_jax.core.files import at_home

# What a comparison leaves in its folder.
_OURS = {"choosing", "table", "comparison.md", "comparison.json", "comparison.png"}


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  arguments, rest = _parser().parse_known_args(argv)
  try:
    rest = command_line.of_config(rest)
    with door.Signals(arguments.minutes) as stop:
      return _Comparison(arguments, rest, argv, stop).run()
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2


class _Comparison:
  """Both stages, in the folders `choosing` and `table`, and what they say."""

  def __init__(self, arguments, words: list[str], argv: list[str], stop):
    # jax takes seconds to import, so mistakes before are reported first.
    # pylint: disable-next=g-import-not-at-top
    from kd_jax.runs import arms
    self._of, self._words, self._stop, self._lib = arguments, words, stop, arms
    self._arms = arms.read(arguments.arms, arguments.budget)
    names = [each.name for each in self._arms]
    self._names, self._reference = names, arguments.reference or names[0]
    if self._reference not in names:
      raise UserError(f"--reference={self._reference}: no arm is called so; "
                      f"{nearest(self._reference, names)}")
    self._workdir = at_home(arguments.workdir or time.strftime(
        "runs/compare-%Y%m%d-%H%M%S"))
    self._again = command_line.again("kd_jax.compare", argv, self._workdir)

  def run(self) -> int:
    """Runs both; returns the exit code."""
    # pylint: disable-next=g-import-not-at-top
    from kd_jax.report import comparison, read
    self._refuse_foreign()
    first = max(self._lib.FIRST_SEED, self._of.seeds)
    seeds = range(first, first + self._of.choosing_seeds)
    stage = lambda points, *more: command_line.parse(
        [*self._words, *more], points)[0]
    choosing = stage(self._lib.tried(self._arms, seeds),
                     f"--config.data.holdout={self._of.holdout}",
                     "--config.data.test=heldout")
    for each in self._arms:
      try:
        sweep.lanes(choosing, self._lib.tried([each], seeds[:1]))
      except UserError as error:
        raise UserError(f"--arms={self._of.arms}: [{each.name}] {error}") from None
    table = lambda points: stage(
        self._lib.final(points, range(self._of.seeds)), "--config.data.holdout=0",
        "--config.data.test=own")
    if self._of.plan:
      door.show_plan(choosing)
      return door.show_plan(table(each.settings[0] for each in self._arms))
    # A stage that was stopped early may have none.
    judged = lambda stage: self._lib.judged(
        read(self._workdir / stage), schema.judged(choosing.recipe)) if (
            self._workdir / stage / "results.jsonl").exists() else []
    code = self._train("choosing", choosing)
    tried = judged("choosing")
    # With all of them there the next stage says where it was stopped.
    all_tried = sum(len(each.settings) for each in self._arms) * len(seeds)
    if code or (self._stop() and len(tried) < all_tried):
      return code or self._stop.code
    chosen = {each.name: setting for each in self._arms if (
        setting := self._lib.choose(each, tried, len(seeds)))}
    if failed := [name for name in self._names if name not in chosen]:
      raise UserError(
          f"--arms={self._of.arms}: no setting of {', '.join(failed)} ended with "
          "finite numbers for every seed; give lower learning rates")
    code = self._train("table", table(chosen.values()))
    rows = judged("table")
    if len(rows) < len(chosen) * self._of.seeds and (code or self._stop()):
      return code or self._stop.code
    print(printable(comparison.write(
        self._workdir, self._arms, chosen, tried, rows,
        reference=self._reference)), end="")
    return 0

  def _train(self, stage: str, config) -> int:
    """Trains a stage, or goes on with it; returns the exit code."""
    print(f"{stage}:", flush=True)
    command = next(word for word in self._words if word.startswith("--config="))
    return door.train(config, self._workdir / stage, self._stop, command,
                      again=self._again)

  def _refuse_foreign(self) -> None:
    # pylint: disable-next=g-import-not-at-top
    from kd_jax.runs import workdir
    workdir.refuse_file(self._workdir)
    names = {path.name for path in self._workdir.iterdir()} if (
        self._workdir.is_dir()) else set()
    # What it ends in stands beside the stage that it begins with.
    foreign = names - _OURS or (set() if "choosing" in names else names)
    if foreign:
      raise UserError(
          f"--workdir={self._workdir}: holds {min(foreign)}, which is of "
          "no comparison; give a folder that is empty or new")


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.compare", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      epilog="--config=FILE[:VARIANT] and --config.KEY=VALUE as for kd_jax.main")
  parser.add_argument("--arms", required=True, metavar="FILE",
                      help="file of the arms, as above")
  parser.add_argument("--budget", type=whole, metavar="N",
                      help="number of settings to try for each arm (default: the "
                      "number of the arm with the fewest)")
  parser.add_argument("--seeds", type=whole, default=10, metavar="N",
                      help="runs of each arm in the final table (default: 10)")
  parser.add_argument("--choosing_seeds", type=whole, default=2, metavar="N",
                      help="runs of each setting that is tried (default: 2)")
  parser.add_argument("--holdout", type=part, default=0.1, metavar="PART",
                      help="held-out part of the training set (default: 0.1)")
  parser.add_argument("--reference", metavar="ARM",
                      help="arm to compare the others with (default: the first)")
  parser.add_argument("--workdir", metavar="DIR", help="folder for all results "
                      "(default: a new one under runs)")
  parser.add_argument("--minutes", type=minutes,
                      help="stop after this time; the same command resumes")
  parser.add_argument("--plan", action="store_true",
                      help="show runs, compilations, memory, time; train nothing")
  return parser


if __name__ == "__main__":
  exits.command(main)
