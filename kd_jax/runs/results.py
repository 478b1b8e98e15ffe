"""The rows of a sweep on disk: what is finished is never done again."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
import pathlib
from typing import Any

from kd_jax.core import strict
from kd_jax.core.errors import UserError

Row = dict[str, Any]

# 1 had the packing in the fingerprint; `schema_1.py` reads it.
SCHEMA, _READ = 2, (1, 2)
# Earlier versions kept in `_ASIDE` the rows that were not asked for.
_SHOWN, _ASIDE = "results.jsonl", "results.other.jsonl"
# Is false in a row that the last run did not ask for.
_ASKED = "asked"


class Results:
  """`results.jsonl`: a row for each finished net, but the main job's teacher.

  The file is always whole. Rows that the present run does not ask for, and second
  rows of the same lane in another packing, are kept with `"asked": false`, and are
  shown if they are asked for again.
  """

  def __init__(self, workdir: pathlib.Path, *, writes: bool = True):
    """Reads what is there; of several processes one alone `writes`."""
    self._workdir, self._writes = workdir, writes
    self._wanted: list[str] = []
    file = workdir / _SHOWN
    rows = read(workdir) if file.is_file() else []
    check(file, rows, "use another workdir")
    self._known = _first(_result, [*rows, *aside(workdir)])

  @property
  def rows(self) -> list[Row]:
    """The finished rows of the run, in its order."""
    return arranged(self._known.values(), self._wanted)[0]

  @property
  def others(self) -> int:
    """How many lanes have rows, but are not asked for by the run."""
    return len({lane for lane, _ in self._known}.difference(self._wanted))

  def has(self, lanes: Iterable[str]) -> bool:
    """Whether all these lanes are finished, in whatever packing."""
    return {lane for lane, _ in self._known} >= set(lanes)

  def convert(self, convert: Callable[[list[Row]], list[Row]]) -> None:
    """Makes rows of schema 2 of older ones."""
    rows = [*self._known.values()]
    if any(row["schema"] < SCHEMA for row in rows):
      self._known = _first(_result, convert(rows))

  def want(self, fingerprints: Sequence[str]) -> None:
    """Says which further rows the run consists of."""
    self._wanted = list(dict.fromkeys([*self._wanted, *fingerprints]))
    self._write()

  def add(self, rows: Sequence[Row], *, again: bool = False) -> None:
    """Writes finished rows; those that were made `again` replace earlier ones.

    Raises:
      UserError: If a row of the same lane and packing has another result.
    """
    for row in rows:
      before = self._known.get(_result(row))
      if before is not None and not again and differing(before, row):
        names = ", ".join(differing(before, row))
        raise UserError(
            f"{self._workdir / _SHOWN}: has another result of "
            f"{row['fingerprint'][:16]}, which differs in {names}; the machine or "
            "a version of jax has changed, so use another --workdir")
    # What this run has made stands before what another has left.
    self._known = _first(_result, [*rows, *self._known.values()])
    self._write()

  def describe(self, names: Mapping[str, Row]) -> None:
    """Calls rows of earlier runs as this one calls its lanes; None goes away."""
    for key, row in self._known.items():
      own = names.get(row["fingerprint"], row)
      if any(row.get(name) != value for name, value in own.items()):
        self._known[key] = {name: value for name, value in (row | own).items()
                            if value is not None or name not in own}
    self._write()

  def _write(self) -> None:
    if self._writes:
      save(self._workdir, *arranged(self._known.values(), self._wanted))


def arranged(
    rows: Iterable[Row], wanted: Iterable[str]
) -> tuple[list[Row], list[Row]]:
  """The rows of the lanes that are wanted, in that order, and all others.

  Of a lane in several packings, which agree to rounding, the first row counts.
  """
  results = _first(_result, rows)
  lanes = _first(lambda row: row["fingerprint"], results.values())
  shown = [lanes[lane] for lane in dict.fromkeys(wanted) if lane in lanes]
  taken = set(map(_result, shown))
  return shown, [row for key, row in results.items() if key not in taken]


def save(workdir: pathlib.Path, rows: Sequence[Row], others: Sequence[Row]) -> None:
  """Writes the rows of a run, and those that it does not ask for."""
  write(workdir / _SHOWN, [*rows, *(row | {_ASKED: False} for row in others)])
  (workdir / _ASIDE).unlink(missing_ok=True)


def aside(workdir: pathlib.Path, *, without: Container[str] = ()) -> list[Row]:
  """Rows that the last run in a workdir did not ask for."""
  rows = []
  for name in (_SHOWN, _ASIDE):
    file = workdir / name
    found = _rows(file, without) if file.is_file() else []
    found = [row for row in found if name == _ASIDE or not row.get(_ASKED, True)]
    check(file, found, "use another workdir")
    rows += found
  return [{key: value for key, value in row.items() if key != _ASKED}
          for row in rows]


def kept(others: int, folder: str = "DIR") -> str:
  """How many rows a table does not show, and how to see them."""
  return (f"{others} more rows, which the last run did not ask for, are kept in "
          f"results.jsonl: python -m kd_jax.report {folder} --all shows them")


def differing(one: Row, other: Row) -> list[str]:
  """The results in which two rows differ that ought to be alike."""
  return [key for key in ("failed", "test_errors", "heldout_errors",
                          "test_wrong_ids", "parameters_sha256")
          if one.get(key) != other.get(key)]


def check(file: pathlib.Path, rows: Iterable[Row], advice: str) -> None:
  """Refuses rows that are not of a sweep that this version reads.

  Raises:
    UserError: With the file and the advice.
  """
  if not all(isinstance(row.get("fingerprint"), str)
             and isinstance(row.get("overrides"), dict)
             and row.get("schema") in _READ for row in rows):
    raise UserError(
        f"{file}: has rows that are not of a sweep of schema "
        f"{' or '.join(map(str, _READ))}; {advice}")


def _result(row: Row) -> tuple[str, str | None]:
  """What has one result: a lane in a packing."""
  return row["fingerprint"], row.get("packing")


def _first(key: Callable[[Row], Any], rows: Iterable[Row]) -> dict[Any, Row]:
  found: dict[Any, Row] = {}
  for row in rows:
    found.setdefault(key(row), row)
  return found


def read(
    study: pathlib.Path, name: str = _SHOWN, *, without: Container[str] = ()
) -> list[Row]:
  """The rows that a study's last run asked for, `without` unwanted fields.

  Raises:
    UserError: If there is no such file, or a line of it is no row.
  """
  return [row for row in _rows(study / name, without) if row.get(_ASKED, True)]


def _rows(file: pathlib.Path, without: Container[str] = ()) -> list[Row]:
  if not file.is_file():
    raise UserError(f"{file}: there is no such file")
  try:
    rows = []
    with file.open(encoding="utf-8") as lines:
      for number, line in enumerate(lines, 1):
        if line.strip():
          row = _row(line, f"{file}, line {number}")
          rows.append({key: row[key] for key in row if key not in without})
  except ValueError:
    raise UserError(f"{file}: is not text, so no rows") from None
  return rows


def _row(line: str, where: str) -> Row:
  try:
    row = strict.loads(line)
  except ValueError:  # Also a number of too many digits.
    row = None
  if not isinstance(row, dict):
    raise UserError(
        f"{where}: is no row of JSON, {{\"name\": value, ...}}; delete the line if "
        "a run was stopped while it wrote it")
  return row


def side_file(folder: pathlib.Path, name: str) -> Any:
  """What a JSON file beside the rows holds; None if there is none.

  Raises:
    UserError: If the file is not JSON.
  """
  file = folder / name
  if not file.is_file():
    return None
  try:
    return strict.read(file)
  except (ValueError, OSError) as error:  # Also what is no text.
    raise UserError(f"{file}: is not JSON ({error})") from None


def write(file: pathlib.Path, rows: Sequence[Row]) -> None:
  """Writes rows whole or not at all."""
  fresh = file.with_name(file.name + ".new")
  fresh.write_text("".join(strict.dumps(row) + "\n" for row in rows))
  fresh.replace(file)
