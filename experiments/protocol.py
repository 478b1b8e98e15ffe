"""What a study is: stages that leave rows, and what the rows say of the claim.

A study is a module `experiments/NAME/study.py` with

  CLAIM         a sentence of the paper, as `experiments/README.md` shows it
  DATA          what it is on, and in what that differs from the paper's
  UNIT          of its numbers, and of the paper's
  COMMAND       the `--config=FILE` that its sweeps start from; "" without one
  stages(options) -> list[Stage]
                what is run, one stage after the other; those that choose settings
                do so with `hold_out`, and the test set is looked at after them
  conclude(rows: Rows) -> str
                the verdict, as markdown: paper's value | ours, mean +- 95%
                interval, n | verdict
  status(rows: Rows) -> str
                the same in a phrase, for the index of tables
  pictures(rows: Rows, folder) -> None, optional
                plots of its own, beside those that `kd_jax.report` draws
  REFERENCE     optional: the point that `kd_jax.report` compares the others of
                `table` with, if its tables and plots are to be committed; None
                where the study itself compares them
  CELLS         optional: runs beyond its tables that nobody has made yet, which
                `experiments.queue` makes one after the other
  NOT_COMMITTED optional: by stage, the keys of its rows, and of the teacher's
                examples, that stay in the workdir, being large or somebody else's

`rows` holds the rows of every stage by its name, those of the teachers of `table`,
one a net, under "teachers", and of another stage under "STAGE_teachers". What is
committed of a study is made from rows alone. A stage's config must also be had from
no rows at all, for `--plan`.
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import NamedTuple

import ml_collections

from kd_jax.report import Row
from kd_jax.runs.shard import Shard

Rows = Mapping[str, Sequence[Row]]


class Options(NamedTuple):
  """What the user asked for.

  Attributes:
    workdir: Of the study; a stage keeps its rows in `workdir/NAME`.
    seeds: Runs of each point; None for the study's own number.
    quick: Whether to run the same program in a minute or two, on data that
      everybody has; it proves nothing.
  """

  workdir: pathlib.Path
  seeds: int | None = None
  quick: bool = False


class Place(NamedTuple):
  """Where a stage that is no sweep works.

  Attributes:
    folder: Its rows go to `folder/results.jsonl`, each as it is done.
    stop: Asked between runs; if true, end: the same command goes on.
    say: Tells the user a line.
    shard: The part to run; None for all of it.
  """

  folder: pathlib.Path
  stop: Callable[[], bool]
  say: Callable[[str], None]
  shard: Shard | None = None


class Stage(NamedTuple):
  """A part of a study, run when those before it are through.

  Attributes:
    name: Its folder within the workdir. The rows of `table` are committed as
      `results.jsonl`, those of another stage as `NAME.jsonl`.
    config: Gives the sweep, from the rows of the stages before.
    run: Instead of a sweep: leaves rows in a place, and passes over those that
      are there already.
    shards: Whether several machines can share it; otherwise one does all of it.
    command: The `--config=FILE` that it starts from, if it is not the study's.
  """

  name: str
  config: Callable[[Rows], ml_collections.ConfigDict] | None = None
  run: Callable[[Rows, Place], None] | None = None
  shards: bool = True
  command: str | None = None


def hold_out(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Makes a config one that chooses: a tenth of the training set judges its nets.

  The test set is not looked at, as in `kd_jax.compare`: all numbers of its rows
  that are called those of a test are of the tenth (`"test_set": "heldout"`).
  """
  config.data.holdout, config.data.test = 0.1, "heldout"
  return config


class Cell(NamedTuple):
  """Runs that would settle what a study leaves open.

  Attributes:
    name: Their stage: their rows are committed as `NAME.jsonl`.
    value: 3 if a claim of the README hangs on them, 2 one of the study's table,
      1 if they narrow an interval.
    why: What they settle, in a sentence.
    config: Gives the sweep, from the committed rows of the study.
    lanes: How many to train at once on an accelerator, SEEDSxPOINTS.
  """

  name: str
  value: int
  why: str
  config: Callable[[Rows], ml_collections.ConfigDict]
  lanes: str = "4x1"
