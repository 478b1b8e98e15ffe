"""Trains a committed row again, by its command, and compares.

`python -m experiments.reproduce NAME --verify [ROW]` trains it in a folder of its
own: in as many lanes as it was, of other seeds, where this machine has the devices
for it; otherwise alone, and one lane agrees with it to rounding.

- It is verified by the same wrong ids and NLL, which the same numerics, lanes, kind
  of machine and versions must give.
- Where one of these differs, it is consistent if it has as many errors, within a
  tolerance that the study's own rows give.
"""

from collections import defaultdict
from collections.abc import Sequence
import datetime
import pathlib
import re
import shlex
import time
from typing import Any, NamedTuple

from experiments import index, sources
from kd_jax import main as door
from kd_jax import report
from kd_jax.core.errors import UserError
from kd_jax.core.machine import cores, use_all_cores
from kd_jax.core.words import counted
from kd_jax.report import Row, names, statistics

# What makes a net, of which the first that differs explains the others; what else
# its bits depend on; what is compared, as much of it as the committed row has.
_NET = ("numerics", "method", "teacher_sha256", "fingerprint")
_MACHINE = ("packing", "device", "processor", "cores")
_RESULTS = ("test_errors", "heldout_errors", "test_wrong_ids", "test_nll")
# What the commands of one run differ in.
_LANES = re.compile(r" --config\.sweep\.lanes=\S+")


class Found(NamedTuple):
  """A row that can be trained again.

  Attributes:
    stage: Its stage.
    row: As it is committed.
    seconds: What was recorded of all that is to be trained.
    others: The errors of the other seeds of its cell.
    alike: How many rows were asked for, of which it is the cheapest.
  """

  stage: str
  row: Row
  seconds: float
  others: tuple[int, ...]
  alike: int = 1

  @property
  def title(self) -> str:
    """Its name and seed."""
    return f"{self.row['row']} seed={self.row['seed']}"

  def __str__(self) -> str:
    of = f", the cheapest of {self.alike} rows that match" * (self.alike > 1)
    return (f"{self.stage}: {self.row['fingerprint'][:12]}, {self.title}{of}; took "
            f"{self.seconds:.1f} s with all teachers on {index.machine(self.row)}")


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
  row, (seeds, packing) = found.row, packed(found.row)
  use_all_cores()
  from kd_jax.runs import records  # Late: it imports jax.
  here = records.manifest()
  if record and here["dirty"] is not False:
    raise UserError("--verify --record: names a commit, and there are changes that "
                    "are in none; commit them first")
  print(f"{name}, {found}\ntrained in {counted(len(seeds), 'lane')}, of seed "
        f"{names.some(seeds)}{', its teachers in their own' * ('net' in row)}; "
        f"expected: {expected(found, here | {'packing': packing})}", flush=True)
  place = workdir or pathlib.Path("runs") / (
      f"verify-{name}-{time.strftime('%Y%m%d-%H%M%S')}")
  if any(one.get("study") != study for one in _rows(place)):
    raise UserError(f"--workdir={place}: has rows of another run, which would be "
                    "found, and not trained again; give another")
  config, _ = door.parse(words(row, teachers))
  code = door.train(
      config, place, stop, shlex.split(row["command"])[3], study=study,
      again=shlex.join([*again, *([] if workdir else [f"--workdir={place}"])]))
  fresh = next((one for one in _rows(place) if one["seed"] == row["seed"]
                and one.get("net") == row.get("net")), None)
  if code:
    return code
  if fresh is None:
    raise UserError("--verify: stopped before the row was trained; go on as above")
  verdict = compare(found, fresh)
  print("{outcome}: the row has {errors[0]} errors, trained again {errors[1]}; ids "
        "wrong in one alone: {apart}; what differs: {unlike}".format(**verdict))
  refused = verdict["outcome"].startswith("REFUSED")
  if record and not refused:
    note(name, found, fresh, verdict)
  return int(refused)


def pick(name: str, asked: str = "") -> Found:
  """The row of a study that is asked for, of several the cheapest.

  Args:
    name: The study.
    asked: As of `sources.chosen`; "" for any, of its table if it has one. Rows
      that have a tolerance come first.

  Raises:
    UserError: If there is none, or none that has a command and errors.
  """
  stages = index.committed(index.ROOT / name)
  rows = [(stage, row) for stage, part in stages.items() for row in part]
  trained = [each for each in rows if _errors(each[1]) is not None]
  cells, nets = defaultdict(list), defaultdict(list)
  for stage, row in trained:
    cells[stage, names.identity(row)].append(row)
    nets[stage, _LANES.sub("", row["command"])].append(row)
  chosen = {id(row) for row in sources.chosen(
      asked, index.ROOT / name, [row for _, row in rows])}
  found = [Found(
      stage, row, _seconds(row, nets[stage, _LANES.sub("", row["command"])], [
          *stages.get(index.teachers_of(stage), ()), *stages[stage]]),
      tuple(_errors(one) for one in cells[stage, names.identity(row)]
            if one is not row)) for stage, row in trained if id(row) in chosen]
  if not found:
    own = {row["fingerprint"] for _, row in rows if id(row) in chosen}
    students = [row["fingerprint"][:8] for _, row in trained
                if names.teacher(row) in own][:4]
    raise UserError(f"{asked or name}" + (
        f" is a teacher's row; name a row of its students: {', '.join(students)}"
        if students else (": its rows have no command of their own; " if rows else
                          " is not run yet; ")
        + f"python -m experiments.reproduce {name} makes all of them"))
  return min(found, key=lambda one: (
      len(one.others) < 2, not asked and one.stage != "table",
      one.seconds))._replace(alike=len(found))


def _seconds(row: Row, nets: Sequence[Row], known: Sequence[Row]) -> float:
  """What the nets of a row's command took in all lanes, and once their teachers."""
  lanes = lambda one: len(packed(row)[0]) if "seed" in one["overrides"] else 1
  times = {names.teacher(one): 1 for one in nets} | {
      one["fingerprint"]: lanes(one) for one in nets}
  return sum(times.get(one["fingerprint"], 0) * (one.get("seconds") or 0)
             for one in known)


def _errors(row: Row) -> Any:
  """Errors, of the test set if it was looked at; None if it has no command."""
  if row.get("failed") is not None or not row.get("command"):
    return None
  return row.get("test_errors", row.get("heldout_errors"))


def packed(row: Row) -> tuple[range, str]:
  """The seeds to train at once, and their packing, for a row's lanes.

  The lanes differ in their seeds alone. Of a row whose lanes were several points,
  had teachers that differ, or ran on other devices than there are, it is the one.

  Example:
    >>> packed({"packing": "1x4x1", "device": "gpu", "overrides": {}, "seed": 4})
    (range(4, 8), '1x4x1')
  """
  devices, seeds, points = map(int, (row.get("packing") or "1x1x1").split("x"))
  here = cores() if row["device"] == "cpu" else 1
  if points > 1 or devices != here or "teacher.seed" in row["overrides"]:
    devices = seeds = 1
  return range(row["seed"], row["seed"] + devices * seeds), f"{devices}x{seeds}x1"


def words(row: Row, teachers: pathlib.Path | None = None) -> list[str]:
  """The command of a row as a sweep over seeds, which trains no net beside them."""
  seeds, packing = packed(row)
  return [*shlex.split(row["command"])[3:], "--config.tensorboard=false",
          *([f"--config.method={_method(row)}"] * (_method(row) != row["method"])),
          *([f"--config.teacher.dir={teachers}"] if teachers else []),
          f"--config.sweep.lanes={packing.partition('x')[2]}",
          f"--sweep.seed={','.join(map(str, seeds))}"]


def _method(row: Row) -> str:
  """What it is trained by: of labels alone the same loss, without a teacher."""
  alone = row["method"] == "kd" and names.teacher(row) is None
  return "hard" if alone else row["method"]


def tolerance(others: Sequence[int]) -> float | None:
  """How far at most two seeds of a cell differ, in 95% of pairs.

  t(n - 1; 0.975) s sqrt(2), with the standard deviation s of the n other seeds: a
  row that was changed does not widen what is allowed. None of fewer than two.

  Example:
    >>> round(tolerance([10, 12, 14]), 2)  # 4.303 * 2 * 1.414
    12.17
  """
  found = statistics.summary(others) if others else None
  if found is None or found.high is None:
    return None
  return (found.high - found.mean) * (2 * found.n) ** 0.5


def unlike(row: Row, fresh: Row) -> str:
  """What rows differ in that their bits depend on: those of one, and of the row."""
  # Rows from before they said it are of version 2, and may be of any processor.
  unsaid = {"numerics": 2, "processor": fresh.get("processor")}
  old, new = ({**unsaid, **one, **one["versions"]} for one in (row, fresh))
  differ = lambda keys: [key for key in keys if old.get(key) != new.get(key)]
  return ", ".join(
      f"{key} {new.get(key)!s:.64} (the row's {old.get(key) or 'unknown'!s:.64})"
      for key in [*differ(_NET)[:1], *differ(_MACHINE), *differ(new["versions"])])


def expected(found: Found, here: Row) -> str:
  """What is to come out, as far as it is known before it is trained.

  Raises:
    UserError: If it could not be compared.
  """
  most = tolerance(found.others)
  differ = unlike(found.row, {**found.row, "method": _method(found.row), **here})
  if differ and most is None:
    raise UserError(
        f"--verify {found.row['fingerprint'][:8]}: its cell has "
        f"{counted(len(found.others), 'other seed')}, and a tolerance needs 2, as "
        f"this differs: {differ}; name another row")
  return (f"within {most:.1f} errors, as this differs: {differ}" if differ
          else "the same wrong ids")


def compare(found: Found, fresh: Row) -> dict[str, Any]:
  """What came out: how it is judged, both errors, wrong ids that only one has."""
  row, most = found.row, tolerance(found.others)
  ids = [set(one["test_wrong_ids"]) for one in (row, fresh)
         if "test_wrong_ids" in one]
  errors, differ = (_errors(row), _errors(fresh)), unlike(row, fresh)
  kind, by = "verified", f"the same {'wrong ids' if ids[1:] else 'errors'} and NLL"
  right = "test_nll" in row and all(
      row[key] == fresh.get(key) for key in _RESULTS if key in row)
  if not right and differ and most is not None:
    kind, by = "consistent", f"within {most:.1f} errors, as 95% of pairs of seeds"
    right = errors[1] is not None and abs(errors[0] - errors[1]) <= most
  return {"outcome": f"{kind} ({by})" if right else f"REFUSED (not {by})",
          "errors": errors, "unlike": differ or "nothing",
          "apart": len(ids[0] ^ ids[1]) if ids[1:] else "unknown"}


def note(name: str, found: Found, fresh: Row, verdict: dict[str, Any]) -> None:
  """Keeps what came out of a row on a kind of machine; makes the index anew."""
  entry = {"row": found.row["fingerprint"], "title": found.title, **verdict,
           "machine": index.machine(fresh), "packing": fresh["packing"],
           "versions": fresh["versions"], "commit": fresh["commit"],
           "date": datetime.date.today().isoformat(),
           "command": f"python -m experiments.reproduce {name} --verify "
                      f"{found.row['fingerprint'][:12]}"}
  alike = lambda one: all(one[key] == entry[key] for key in ("row", "machine"))
  index.write(index.ROOT / name / index.VERIFIED, {"rows": [
      *(one for one in index.verified(name) if not alike(one)), entry]})
  for file, text in index.documents().items():
    file.write_text(text)


def _rows(place: pathlib.Path) -> list[Row]:
  return report.read(place) if (place / "results.jsonl").is_file() else []
