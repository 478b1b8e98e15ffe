"""The rows of a sweep on disk: what is finished is never done again."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from kd_jax.core.errors import UserError
from kd_jax.runs import records
from kd_jax.runs.plan import Chunk

Row = dict[str, Any]


class Results:
  """`results.jsonl`: a row for each finished lane of the sweep.

  The file is always whole. Rows that the present sweep does not ask for, of
  other settings or another plan, are kept aside in `results.other.jsonl`, and
  come back if they are asked for again.
  """

  def __init__(self, workdir: pathlib.Path):
    self._file = workdir / "results.jsonl"
    self._aside = workdir / "results.other.jsonl"
    self._known = {row["fingerprint"]: row
                   for file in (self._aside, self._file) for row in _read(file)}
    self._wanted: list[str] = []

  @property
  def rows(self) -> list[Row]:
    """The finished rows of the sweep, in its order."""
    return [self._known[f] for f in self._wanted if f in self._known]

  def has(self, chunk: Chunk) -> bool:
    """Whether all lanes of a chunk are finished."""
    return all(chunk.fingerprint(mark) in self._known for mark in chunk.lanes)

  def want(self, fingerprints: Sequence[str]) -> None:
    """Says which rows the sweep consists of."""
    self._wanted = list(dict.fromkeys(fingerprints))
    self._write()

  def add(self, rows: Sequence[Row]) -> None:
    """Writes finished rows."""
    self._known |= {row["fingerprint"]: row for row in rows}
    self._write()

  def _write(self) -> None:
    wanted = set(self._wanted)
    other = [row for f, row in self._known.items() if f not in wanted]
    if other:
      write(self._aside, other)
    write(self._file, self.rows)


def _read(file: pathlib.Path) -> list[Row]:
  if not file.is_file():
    return []
  rows = read(file.parent, file.name)
  foreign = [row for row in rows if "fingerprint" not in row or (
      "overrides" not in row) or row.get("schema") != records.SCHEMA]
  if foreign:
    raise UserError(f"{file}: has rows that are not of a sweep of schema "
                    f"{records.SCHEMA}; use another workdir")
  return rows


def read(study: pathlib.Path, name: str = "results.jsonl") -> list[Row]:
  """The rows of a study's folder.

  Raises:
    UserError: If there is no such file, or a line of it is no row.
  """
  file = study / name
  if not file.is_file():
    raise UserError(f"{file}: there is no such file")
  try:
    text = file.read_text(encoding="utf-8")
  except ValueError:
    raise UserError(f"{file}: is not text, so no rows") from None
  rows = []
  for number, line in enumerate(text.splitlines(), 1):
    if line.strip():
      rows.append(_row(line, f"{file}, line {number}"))
  return rows


def _row(line: str, where: str) -> Row:
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(
        f"{where}: is not JSON ({error.msg}); delete the line if a run was "
        "stopped while it wrote it") from None
  if not isinstance(row, dict):
    raise UserError(f"{where}: is not a row, that is {{\"name\": value, ...}}")
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
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:  # Also what is no text.
    raise UserError(f"{file}: is not JSON ({error})") from None


def write(file: pathlib.Path, rows: Sequence[Row]) -> None:
  """Writes rows whole or not at all."""
  fresh = file.with_name(file.name + ".new")
  fresh.write_text("".join(json.dumps(row) + "\n" for row in rows))
  fresh.replace(file)
