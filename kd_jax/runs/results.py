"""The rows of a sweep on disk: what is finished is never done again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import errno
import hashlib
import itertools
import json
import os
import pathlib
import shlex
import shutil
from typing import Any

from kd_jax.core import strict
from kd_jax.core.errors import UserError
from kd_jax.core.words import counted

Row = dict[str, Any]
# What is kept of a row, which stands in a file and line.
Each = Callable[[Row, str], Row]

# 1 had the packing in the fingerprint; `schema_1.py` reads it.
SCHEMA, _READ = 2, (1, 2)
# Earlier versions kept in `_ASIDE` the rows that were not asked for.
_SHOWN, _ASIDE = "results.jsonl", "results.other.jsonl"
# Is false in a row that the last run did not ask for.
_ASKED = "asked"
# Ends a row's line: the first 16 digits of SHA-256 over the row without it.
_CHECKSUM = "row_sha256"


class Results:
  """`results.jsonl`: a row for each finished net, but the main job's teacher.

  The file is always whole; what a run adds in its order goes to the end. Rows that
  the present run does not ask for, and second rows of the same lane in another
  packing, are kept with `"asked": false`, and shown if they are asked for again.
  """

  def __init__(
      self, workdir: pathlib.Path, say: Callable[[str], None], *,
      writes: bool = True):
    """Reads what is there, and says what is damaged; one process alone `writes`."""
    self._workdir, self._writes, self._say = workdir, writes, say
    # The lanes of the run, and the place of each; of its last row in the file.
    self._wanted: dict[str, int] = {}
    self._rows: list[Row] = []
    self._last = -1
    damaged: list[str] = []
    rows, others = split(workdir, of_sweep("use another workdir"), damaged)
    self._known = _first(_result, [*rows, *others])
    self._lanes = {lane for lane, _ in self._known}
    # The hash of the data of the last run, by the overrides that choose data.
    self.data = {
        of_data(row["overrides"]): row["data_sha256"]
        for row in rows if "data_sha256" in row}
    if damaged and writes:
      number = len(list(workdir.glob("results.damaged*.jsonl")))
      copy = workdir / f"results.damaged{number or ''}.jsonl"
      shutil.copyfile(workdir / _SHOWN, copy)
      for text in damaged:
        say(f"{text}; it is left out, and made anew where it is asked for; "
            f"{copy} has it")

  @property
  def rows(self) -> list[Row]:
    """The finished rows of the run, in its order."""
    return [*self._rows]

  @property
  def others(self) -> int:
    """How many lanes have rows, but are not asked for by the run."""
    return len(self._lanes.difference(self._wanted))

  def has(self, lanes: Iterable[str]) -> bool:
    """Whether all these lanes are finished, in whatever packing."""
    return self._lanes.issuperset(lanes)

  def teachers(self) -> dict[str, list[list[str]]]:
    """Of the teachers of rows, by fingerprint, the hashes of their members.

    Where two machines have trained one, it has both.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for row in self._known.values():
      teacher, hashes = row.get("teacher_fingerprint"), row.get("teacher_sha256")
      if teacher and hashes:
        found.setdefault(teacher, {})[str(hashes)] = hashes
    return {teacher: [*each.values()] for teacher, each in found.items()}

  def convert(self, convert: Callable[[list[Row]], list[Row]]) -> None:
    """Makes rows of schema 2 of older ones."""
    rows = [*self._known.values()]
    if any(row["schema"] < SCHEMA for row in rows):
      self._known = _first(_result, convert(rows))
      self._write()

  def want(self, fingerprints: Sequence[str]) -> None:
    """Says which further rows the run consists of."""
    for lane in fingerprints:
      self._wanted.setdefault(lane, len(self._wanted))
    self._write()

  def add(
      self, rows: Sequence[Row], *, again: bool = False, for_others: bool = False
  ) -> None:
    """Writes finished rows.

    Args:
      rows: Those of a chunk, or of a net.
      again: Whether they were made again on purpose, and replace earlier ones.
      for_others: Whether they were made again for those that learn from them: they
        replace earlier ones too, and it is said what differs.

    Raises:
      UserError: If a row of the same lane and packing has another result otherwise.
    """
    for row in rows:
      before = self._known.get(_result(row))
      if before is None or again or not differing(before, row):
        continue
      names = ", ".join(differing(before, row))
      changed = "the machine or a version of jax has changed"
      if not for_others:
        raise UserError(
            f"{self._workdir / _SHOWN}: has another result of "
            f"{row['fingerprint'][:16]}, which differs in {names}; {changed}, so "
            "use another --workdir")
      self._say(
          f"{row.get('row') or row['fingerprint'][:8]}: was trained again, and "
          f"differs from its row in {names}: {changed}. Its row is the new one")
    places = [self._wanted.get(row["fingerprint"], -1) for row in rows]
    if all(one < two for one, two in itertools.pairwise([self._last, *places])):
      # They come after all others of the run: the file need not be written anew,
      # which would take the square of the number of rows.
      self._known |= {_result(row): row for row in rows}
      self._lanes.update(row["fingerprint"] for row in rows)
      self._rows += rows
      self._last = [self._last, *places][-1]
      if self._writes:
        append(self._workdir / _SHOWN, rows)
      return
    # What this run has made stands before what another has left.
    self._known = _first(_result, [*rows, *self._known.values()])
    self._write()

  def describe(self, names: Mapping[str, Row]) -> None:
    """Calls rows of earlier runs as this one calls its lanes; None goes away."""
    for key, row in self._known.items():
      own = names.get(row["fingerprint"], {})
      if any(row.get(name) != value for name, value in own.items()):
        self._known[key] = {name: value for name, value in (row | own).items()
                            if value is not None or name not in own}
    self._write()

  def _write(self) -> None:
    self._lanes = {lane for lane, _ in self._known}
    self._rows, others = arranged(self._known.values(), self._wanted)
    self._last = max(
        (self._wanted[row["fingerprint"]] for row in self._rows), default=-1)
    if self._writes:
      save(self._workdir, self._rows, others)


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


def split(
    workdir: pathlib.Path, each: Each = lambda row, where: row,
    damaged: list[str] | None = None,
) -> tuple[list[Row], list[Row]]:
  """The rows that the last run in a workdir asked for, and the others.

  Args:
    workdir: It may have no rows.
    each: Makes of a row, and of where it stands, what is kept of it.
    damaged: Gets a sentence for each row that is not as it was written. Without a
      list, such a row is refused.

  Raises:
    UserError: If a line is no row.
  """
  asked: list[Row] = []
  others: list[Row] = []
  for name in (_SHOWN, _ASIDE):
    file = workdir / name
    for row, where in _rows(file, damaged) if file.is_file() else ():
      other = is_other(row)
      row = each(row, where)
      if other:
        row.pop(_ASKED, None)
      (others if other or name == _ASIDE else asked).append(row)
  return asked, others


def of_data(overrides: Row) -> str:
  """Those of the overrides that choose data, as text."""
  return json.dumps({key: value for key, value in sorted(overrides.items())
                     if key.startswith("data.")})


def is_other(row: Row) -> bool:
  """Whether a row is one that the last run did not ask for."""
  return row.get(_ASKED) is False  # A study may have a number of this name.


def more_rows(others: int, folder: pathlib.Path) -> str:
  """How many rows a table does not show, and how to see them."""
  return (f"results.jsonl keeps {counted(others, 'more row')}, which the last run "
          "did not ask for: python -m kd_jax.report "
          f"{shlex.quote(str(folder))} --all shows all")


def differing(one: Row, other: Row) -> list[str]:
  """The results that two rows have, in which they differ but ought to be alike."""
  return [key for key in ("failed", "test_errors", "heldout_errors",
                          "test_wrong_ids", "parameters_sha256")
          if key in one and key in other and one[key] != other[key]]


def of_sweep(advice: str) -> Each:
  """Refuses, with the advice, rows that are not of a sweep that is read here."""
  def each(row: Row, where: str) -> Row:
    if not (isinstance(row.get("fingerprint"), str)
            and isinstance(row.get("overrides"), dict)
            and row.get("schema") in _READ):
      raise UserError(
          f"{where}: is no row of a sweep of schema "
          f"{' or '.join(map(str, _READ))}; {advice}")
    return row
  return each


def _result(row: Row) -> tuple[str, str | None]:
  """What has one result: a lane in a packing."""
  return row["fingerprint"], row.get("packing")


def _first(key: Callable[[Row], Any], rows: Iterable[Row]) -> dict[Any, Row]:
  found: dict[Any, Row] = {}
  for row in rows:
    found.setdefault(key(row), row)
  return found


def read(study: pathlib.Path, name: str = _SHOWN) -> list[Row]:
  """The rows that a study's last run asked for.

  Raises:
    UserError: If there is no such file, or a line of it is no row, or not the row
      that was written.
  """
  return [row for row, _ in _rows(study / name) if not is_other(row)]


def _rows(
    file: pathlib.Path, damaged: list[str] | None = None
) -> Iterator[tuple[Row, str]]:
  if not file.is_file():
    raise UserError(f"{file}: there is no such file")
  name = str(file)
  # What is not text is no JSON either, so a line with it is damaged like another.
  with file.open(encoding="utf-8", errors="surrogateescape") as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      where = f"{name}, line {number}"
      row = _row(line)
      if row is not None and _as_written(row, line):
        yield row, where
        continue
      text = f"{where}: is not the row that was written (its {_CHECKSUM} differs)"
      if row is None:
        text = f"{where}: is no row of JSON, {{\"name\": value, ...}}"
      if damaged is None:
        raise UserError(
            f"{text}; give the command of the run again, which makes it anew, or "
            f"delete the line, or {_CHECKSUM} in it if it was changed on purpose")
      damaged.append(text)


def _as_written(row: Row, line: str) -> bool:
  """Whether a row has the checksum that it says, which is taken out of it."""
  if (given := row.pop(_CHECKSUM, None)) is None:
    return True  # Of an earlier version.
  text = line.rstrip().removesuffix(_end(given)) + "}"
  # Other programs set other spaces.
  return given == _digest(text) or given == _digest(json.dumps(row))


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _end(digest: str) -> str:
  return f', "{_CHECKSUM}": "{digest}"}}'


def _row(line: str) -> Row | None:
  try:
    line.encode()  # Fails for what was no text.
    row = strict.loads(line)
  except ValueError:  # Also a number of too many digits.
    return None
  return row if isinstance(row, dict) else None


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
  """Writes rows, each with its checksum, whole or not at all."""
  fresh = file.with_name(file.name + ".new")
  fresh.write_text("".join(map(_line, rows)))
  fresh.replace(file)


def append(file: pathlib.Path, rows: Sequence[Row]) -> None:
  """Adds rows to those of a file, all or none of them."""
  text = "".join(map(_line, rows)).encode()
  with file.open("ab", buffering=0) as out:
    size = out.tell()
    try:
      if out.write(text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    except OSError:
      out.truncate(size)
      raise


def _line(row: Row) -> str:
  text = strict.dumps(row)
  return text[:-1] + _end(_digest(text)) + "\n"
