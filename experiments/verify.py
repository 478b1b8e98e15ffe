"""Trains a committed row again, by its command, and compares.

`python -m experiments.reproduce NAME --verify [ROW]` picks a row, trains it in a
folder of its own, and says whether the same came out. A row that was made in lanes
is trained in as many lanes, of other seeds, where this machine has the devices for
it; otherwise alone, and one lane agrees with it to rounding.

- The same fingerprint, lanes, kind of machine and versions: the same wrong ids and
  NLL.
- Otherwise as many errors, within a tolerance that the study's own rows give.
"""

from collections import Counter
from collections.abc import Sequence
import datetime
import itertools
import math
import pathlib
import shlex
import time
from typing import Any, NamedTuple

from experiments import index
from kd_jax import main as door
from kd_jax import report
from kd_jax.core.errors import UserError, nearest
from kd_jax.core.machine import cores, use_all_cores
from kd_jax.core.words import counted
from kd_jax.report import Row, names, statistics

# Rows that are alike in these have the same bits.
_BITS = ("fingerprint", "packing", "device", "cores", "versions")
# What is then compared: as much of it as the committed row has.
_RESULTS = ("test_errors", "heldout_errors", "test_wrong_ids", "test_nll")
_LANES = "--config.sweep.lanes="


class Found(NamedTuple):
  """A row that can be trained again.

  Attributes:
    stage: Its stage.
    row: As it is committed.
    seconds: What was recorded of all that is to be trained.
    others: The errors of the other seeds of its cell.
  """

  stage: str
  row: Row
  seconds: float
  others: tuple[int, ...]

  @property
  def title(self) -> str:
    """Its name and seed."""
    return f"{self.row['row']} seed={self.row['seed']}"


class Verdict(NamedTuple):
  """What came out.

  Attributes:
    verified: Whether it is what was committed.
    allowed: What counts as that.
    errors: Those committed, and those of the row that was trained again.
    apart: How many wrong ids only one of them has; None without ids.
    unlike: What they differ in, if that is why their bits do.
  """

  verified: bool
  allowed: str
  errors: tuple[int, int]
  apart: int | None
  unlike: tuple[str, ...]

  def __str__(self) -> str:
    apart = "" if self.apart is None else (
        f", {counted(self.apart, 'wrong id')} apart")
    why = f", as these differ: {', '.join(self.unlike)}" if self.unlike else ""
    return (f"{'verified' if self.verified else 'REFUSED'}: the row has "
            f"{self.errors[0]} errors, trained again {self.errors[1]}{apart}; "
            f"allowed: {self.allowed}{why}")


def run(
    name: str, asked: str, workdir: pathlib.Path | None, again: Sequence[str],
    stop: door.Signals, *, teachers: pathlib.Path | None = None,
    record: bool = False,
) -> int:
  """Trains a row of a study again and compares.

  Args:
    name: The study.
    asked: Which row, as of `pick`.
    workdir: Where it is trained; None for a new folder below `runs`.
    again: The command that was given.
    stop: Whether to save and stop.
    teachers: Folder of teachers that need not be trained again.
    record: Whether the index is to show it.

  Returns:
    The exit code: 0 if it is the row, 1 if not, that of `door.train` if a signal
    stopped it.

  Raises:
    UserError: If the row cannot be trained again, or that not be recorded.
  """
  found, study = pick(name, asked), f"verify {name}"
  seeds, lanes = packed(found.row)
  print(f"{name}, {'row' if asked else 'cheapest row'} of {found.stage}: "
        f"{found.row['fingerprint'][:12]}, {found.title}; took "
        f"{found.seconds:.1f} s on {index.machine(found.row)}")
  as_it_was = math.prod(map(int, (found.row.get("packing") or "0").split("x")))
  print(f"trained in {counted(len(seeds), 'lane')}, as it was"
        if as_it_was == len(seeds) else
        "trained alone: a row made in lanes agrees to rounding, so within "
        f"{tolerance(found.others):.1f} errors, as 95% of pairs of its seeds",
        flush=True)
  use_all_cores()
  if record:
    _refuse_uncommitted()
  place = workdir or pathlib.Path("runs") / (
      f"verify-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
  if any(row.get("study") != study for row in _rows(place)):
    raise UserError(f"--workdir={place}: has rows of another run, which would be "
                    "found, and not trained again; give another")
  config, _ = door.parse(words(found.row, seeds, lanes, teachers))
  code = door.train(
      config, place, stop, shlex.split(found.row["command"])[3], study=study,
      again=shlex.join([*again, *([] if workdir else [f"--workdir={place}"])]))
  fresh = next((row for row in _rows(place) if row["seed"] == found.row["seed"]
                and row.get("net") == found.row.get("net")), None)
  if code:
    return code
  if fresh is None:
    raise UserError("--verify: stopped before the row was trained; give it again")
  verdict = compare(found, fresh)
  print(verdict)
  if verdict.verified and record:
    note(name, found, fresh, verdict)
  return int(not verdict.verified)


def pick(name: str, asked: str = "") -> Found:
  """The row of a study that is asked for, of several the cheapest.

  Args:
    name: The study.
    asked: The beginning of a fingerprint, or words of rows' `row` and `seed=N`, in
      any order; "" for any, of the study's table if it has one.

  Raises:
    UserError: If there is none, or none that has a command and errors.
  """
  stages = index.committed(index.ROOT / name)
  known = [(stage, row) for stage, rows in stages.items() for row in rows
           if row.get("command") and _errors(row) is not None]
  if not known:
    raise UserError(f"--verify: {name} is not run yet, or no row has a command; "
                    f"python -m experiments.reproduce {name} makes all of them")
  of_row = lambda row: {*row["row"].split(), f"seed={row['seed']}"}
  wanted = set(asked.split())
  chosen = [(stage, row) for stage, row in known if wanted <= of_row(row)
            or row["fingerprint"].startswith(asked)]
  if not chosen:
    every = {word for _, row in known for word in of_row(row) if "=" in word}
    lost = min(wanted - every, default=None)
    raise UserError(f"--verify {asked}: {name} has no such row; " + (
        nearest(lost, every) if lost else "none has all of these words"))
  own: Counter[str] = Counter()  # Of a recipe's nets, which one command trains.
  teachers: dict[str, float] = {}
  for row in itertools.chain.from_iterable(stages.values()):
    own[_command(row)] += row.get("seconds") or 0
    if row.get("net") == "teacher":
      teachers[row["fingerprint"]] = row.get("seconds") or 0
  seconds = lambda row: len(packed(row)[0]) * own[_command(row)] + teachers.get(
      names.teacher(row) or "", 0)
  stage, row = min(chosen, key=lambda each: (
      not asked and each[0] != "table", seconds(each[1])))
  cell = [one for where, one in known if where == stage and one is not row
          and names.identity(one) == names.identity(row)]
  return Found(stage, row, seconds(row), tuple(map(_errors, cell)))


def _command(row: Row) -> str:
  return " ".join(word for word in (row.get("command") or "").split()
                  if not word.startswith(_LANES))


def _errors(row: Row) -> Any:
  """Errors of a row, on the test set if it was looked at; None of other rows."""
  if row.get("failed") is not None or "overrides" not in row:
    return None
  return row.get("test_errors", row.get("heldout_errors"))


def packed(row: Row) -> tuple[range, str]:
  """The seeds to train at once, and `sweep.lanes`, for a row's lanes.

  The lanes differ in their seeds alone. Of a row whose lanes were several points,
  had teachers that differ, or ran on other devices than there are, it is the one.

  Example:
    >>> packed({"packing": "1x4x1", "device": "gpu", "overrides": {}, "seed": 4})
    (range(4, 8), '4x1')
  """
  devices, seeds, points = map(int, (row.get("packing") or "1x1x1").split("x"))
  here = cores() if row["device"] == "cpu" else 1
  if points > 1 or devices != here or "teacher.seed" in row["overrides"]:
    devices = seeds = 1
  return range(row["seed"], row["seed"] + devices * seeds), f"{seeds}x1"


def words(
    row: Row, seeds: Sequence[int], lanes: str, teachers: pathlib.Path | None = None
) -> list[str]:
  """The command of a row as a sweep over seeds, which trains no net beside them."""
  given = [*shlex.split(row["command"])[3:], "--config.tensorboard=false"]
  if row["method"] == "kd" and names.teacher(row) is None:
    given.append("--config.method=hard")  # The same loss, without a teacher.
  if teachers:
    given.append(f"--config.teacher.dir={teachers}")
  return [*given, _LANES + lanes, f"--sweep.seed={','.join(map(str, seeds))}"]


def tolerance(others: Sequence[int]) -> float:
  """How far at most two seeds of a cell differ, in 95% of pairs.

  t(n - 1; 0.975) s sqrt(2), with the standard deviation s of the n other seeds: a
  row that was changed does not widen what is allowed.

  Raises:
    UserError: If there are fewer than two.

  Example:
    >>> round(tolerance([10, 12, 14]), 2)  # 4.303 * 2 * 1.414
    12.17
  """
  if len(others) < 2:
    raise UserError(
        f"--verify: the row's cell has {counted(len(others), 'other seed')}, and a "
        "tolerance needs 2; name a row of another cell")
  found = statistics.summary(others)
  assert found.high is not None
  return (found.high - found.mean) * (2 * found.n) ** 0.5


def compare(found: Found, fresh: Row) -> Verdict:
  """Whether a row that was trained again is the committed one."""
  row = found.row
  unlike = tuple(key for key in _BITS if row.get(key) != fresh.get(key))
  ids = [set(one["test_wrong_ids"]) for one in (row, fresh)
         if "test_wrong_ids" in one]
  apart = len(ids[0] ^ ids[1]) if len(ids) == 2 else None
  errors = _errors(row), _errors(fresh)
  same = all(row[key] == fresh.get(key) for key in _RESULTS if key in row)
  if same or not unlike:
    allowed = "the same wrong ids" if ids[1:] else "the same errors and NLL"
    return Verdict(same, allowed, errors, apart, ())
  most = tolerance(found.others)
  within = errors[1] is not None and abs(errors[0] - errors[1]) <= most
  return Verdict(within, f"within {most:.1f} errors", errors, apart, unlike)


def note(name: str, found: Found, fresh: Row, verdict: Verdict) -> None:
  """Keeps that a row was verified on a kind of machine; makes the index anew."""
  entry = {"row": found.row["fingerprint"], "title": found.title,
           "errors": verdict.errors, "apart": verdict.apart,
           "allowed": verdict.allowed, "machine": index.machine(fresh),
           "packing": fresh["packing"], "versions": fresh["versions"],
           "date": datetime.date.today().isoformat(), "commit": fresh["commit"],
           "command": f"python -m experiments.reproduce {name} --verify "
                      f"{found.row['fingerprint'][:12]}"}
  alike = lambda one: all(one[key] == entry[key] for key in ("row", "machine"))
  index.write(index.ROOT / name / index.VERIFIED, {"rows": [
      *(one for one in index.verified(name) if not alike(one)), entry]})
  for file, text in index.documents().items():
    file.write_text(text)


def _refuse_uncommitted() -> None:
  from kd_jax.runs import records  # Late: it imports jax.
  if records.commit()[1] is not False:
    raise UserError("--verify --record: names a commit, and there are changes that "
                    "are in none; commit them first")


def _rows(place: pathlib.Path) -> list[Row]:
  return report.read(place) if (place / "results.jsonl").is_file() else []
