"""Tables with names over their columns, from .csv, .tsv and .parquet files.

They are read by Python's csv module, or by pyarrow, whatever else is installed: the
same file is the same data everywhere.
"""

from collections.abc import Sequence
import csv
import io
import pathlib
from typing import Any, NamedTuple

import numpy as np

from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.core.files import refuse_pipes
from kd_jax.core.words import counted

SUFFIXES = (".csv", ".tsv", ".parquet")
# What stands in a cell whose value is not known.
_MISSING = frozenset(("", "na", "n/a", "nan", "null"))
_DELIMITERS = ",;\t|"


class Column(NamedTuple):
  """A column of one file.

  Attributes:
    numbers: float64 `[N]`, NaN where missing; None if it has texts.
    texts: What stands in the cells, `[N]`, "" where missing.
    missing: Which cells have no value, bool `[N]`.
    odd: Why it is neither a column of numbers nor one of texts; or "".
  """

  numbers: np.ndarray | None
  texts: Sequence[str]
  missing: np.ndarray
  odd: str = ""


class Table(NamedTuple):
  """A file's columns, and the number of its first row as a spreadsheet counts."""

  path: pathlib.Path
  columns: dict[str, Column]
  first: int

  @property
  def rows(self) -> int:
    return len(next(iter(self.columns.values())).missing)


def read(path: pathlib.Path) -> Table:
  """A table as it is in a file.

  Raises:
    UserError: If it is damaged, has no row, or its columns have no names.
  """
  refuse_pipes(path)
  return _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)


def _csv(path: pathlib.Path) -> Table:
  try:
    text = hosts.read(path).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: byte {error.start} is no text in UTF-8; save the "
                    "table as UTF-8") from None
  delimiter = "\t" if path.suffix.lower() == ".tsv" else max(
      _DELIMITERS, key=text.partition("\n")[0].count)
  reader = csv.reader(
      io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
  try:
    rows = [(reader.line_num, row) for row in reader if row]
  except csv.Error as error:
    raise UserError(f"{path}: line {reader.line_num} is damaged ({error}); save "
                    "the table again") from None
  if len(rows) < 2:
    raise UserError(f"{path}: has no row in it; its first line names the columns, "
                    "and each other line is an example")
  names = [name.strip() for name in rows[0][1]]
  _refuse_names(path, names)
  for line, row in rows[1:]:
    if len(row) != len(names):
      raise UserError(
          f"{path}: line {line} has {counted(len(row), 'cell')}, and the first "
          f"line {counted(len(names), 'name')}; make them alike, and put quotes "
          "around a text that has the delimiter in it")
  cells = zip(*(row for _, row in rows[1:]))
  return Table(path, {
      name: _column([cell.strip() for cell in each])
      for name, each in zip(names, cells)}, 2)


def _refuse_names(path: pathlib.Path, names: Sequence[str]) -> None:
  """Refuses a first line that does not name the columns."""
  if all(_number(name) is not None for name in names):
    raise UserError(f"{path}: its first line has numbers ({', '.join(names[:4])}) "
                    "where the names of the columns belong; add a line of names")
  if twice := [name for name in names if names.count(name) > 1]:
    raise UserError(f"{path}: two columns are called {twice[0]!r}; give each a "
                    "name of its own")


def _column(cells: Sequence[str]) -> Column:
  """A column of the texts of its cells, which may be numbers."""
  missing = np.array([cell.lower() in _MISSING for cell in cells], bool)
  texts = ["" if lacks else cell for cell, lacks in zip(cells, missing)]
  found = [_number(cell) for cell in texts]
  known = sum(number is not None for number in found)
  if known and known + missing.sum() == len(cells):
    return Column(np.array([np.nan if each is None else each for each in found]),
                  texts, missing)
  words = [cell for cell, number in zip(texts, found) if cell and number is None]
  return Column(None, texts, missing, "" if not known else (
      f"has numbers in {known} of {counted(len(cells), 'row')}, and others have "
      f"none, such as {words[0]!r}"))


def _number(cell: str) -> float | None:
  """The finite number that a cell is, or None; Python's 1_000 is none."""
  try:
    number = float(cell)
  except ValueError:
    return None
  return number if "_" not in cell and np.isfinite(number) else None


def _parquet(path: pathlib.Path) -> Table:
  try:
    # pylint: disable=g-import-not-at-top
    import pyarrow
    from pyarrow import parquet
    # pylint: enable=g-import-not-at-top
  except ImportError:
    raise UserError(f"{path}: needs pyarrow: pip install pyarrow") from None
  try:
    table = parquet.read_table(io.BytesIO(hosts.read(path)))
  except (pyarrow.ArrowException, OSError, ValueError) as error:
    line = " ".join(str(error).split())[:160]
    raise UserError(f"{path}: cannot be read as Parquet ({line}); save it again"
                    ) from None
  if not table.num_rows or not table.num_columns:
    raise UserError(f"{path}: has no row in it")
  _refuse_names(path, table.column_names)
  return Table(path, {name: _of_arrow(pyarrow, table.column(name))
                      for name in table.column_names}, 1)


def _of_arrow(pyarrow: Any, column: Any) -> Column:
  """A column of pyarrow: whole numbers and truth values are numbers too."""
  types = pyarrow.types
  if types.is_dictionary(column.type):
    column = column.cast(column.type.value_type)
  missing = np.asarray(column.is_null(nan_is_null=True).to_pylist(), bool)
  kind = column.type
  if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
    numbers = np.array([np.nan if each is None else each
                        for each in column.to_pylist()], np.float64)
    texts = ["" if lacks else f"{each:.17g}"
             for each, lacks in zip(numbers, missing)]
    return Column(numbers, texts, missing)
  if types.is_string(kind) or types.is_large_string(kind):
    texts = [(each or "").strip() for each in column.to_pylist()]
    return Column(None, texts, np.array([not each for each in texts], bool))
  return Column(None, [""] * len(missing), missing,
                f"is of type {kind}, neither numbers nor texts")
