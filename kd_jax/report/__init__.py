"""Rows to people: tables, pictures and a page, from `results.jsonl` alone.

  python -m kd_jax.report experiments/mnist

writes them beside the rows; with `--readme FILE` it writes the same table into that
file between its markers. Nobody types a number into a table.

Rows of main runs name a net and become a table a net (`main_table`). Rows of a
sweep have overrides and become a point for all seeds of a setting (`points`),
told by `tables`, `plots` and `page`.
"""

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
import re
import shlex
from typing import Any

from kd_jax.config import schema
from kd_jax.core import files
from kd_jax.core.errors import UserError
from kd_jax.report import fields, names
from kd_jax.report.main_table import PAPER, curves, table
from kd_jax.runs import exports, results
from kd_jax.runs.results import Row, read, side_file

__all__ = ["PAPER", "Row", "curves", "into", "main", "read",
           "side_file", "table", "write"]

_literal = functools.lru_cache(1024)(schema.literal)  # Rows are much alike.
_MARKERS = ("<!-- results: {} -->", "<!-- end of results -->")


def into(text: str, study: str, generated: str) -> str:
  """`text` with what lies between the study's markers replaced.

  Raises:
    UserError: If it has no such markers.
  """
  begin, end = _MARKERS[0].format(study), _MARKERS[1]
  table = f"\n{generated}".replace("\n", "\r\n" if "\r\n" in text else "\n")
  pattern = re.escape(begin) + r".*?" + re.escape(end)
  made, found = re.subn(
      pattern, lambda _: f"{begin}{table}{end}", text, count=1, flags=re.S)
  if not found:
    raise UserError(f"no place for the table: it goes between {begin} and {end}")
  return made


def write(
    folder: pathlib.Path, *, reference: Mapping[str, Any] | None = None,
    everything: bool = False, linked: names.Linked | None = None,
) -> list[pathlib.Path]:
  """Writes the tables, the plots and `report.html` of a sweep's folder.

  Args:
    folder: Holds `results.jsonl`; the files are written beside it.
    reference: Overrides of the point that the others are compared with, such
      as `{"alpha": 0}`.
    everything: Show also the rows that the last run did not ask for.
    linked: Makes of the first cell of a line of `table.md` a link to its rows.

  Returns:
    The files written.
  """
  return write_rows(
      folder, *results.split(folder, fields.reader(everything=everything)),
      reference=reference, everything=everything, linked=linked)


def write_rows(
    folder: pathlib.Path, rows: list[Row], others: list[Row], *,
    reference: Mapping[str, Any] | None, everything: bool,
    linked: names.Linked | None = None, out: pathlib.Path | None = None,
) -> list[pathlib.Path]:
  """As `write`, of rows that `fields.reader` has read; the files go to `out`."""
  # matplotlib and scipy are slow to start; those who only read need neither.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.report import page, plots, points, tables
  if everything:
    rows, others = results.arranged([*rows, *others], [
        row["fingerprint"] for row in (*rows, *others)])
    rows = [*map(_in_full, rows)]
  if not rows:
    raise UserError(f"{folder / 'results.jsonl'}: has no rows yet")
  sweep = points.gather(rows, reference=reference)
  # A lane in another packing is no row more.
  hidden = {row["fingerprint"] for row in others} - {
      row["fingerprint"] for row in rows}
  if hidden:
    sweep = dataclasses.replace(
        sweep, notes=(*sweep.notes, results.more_rows(len(hidden), folder) + "."))
  out = out or folder
  written = tables.write(sweep, out, linked)
  sides = {name: side_file(folder, f"{name}.json") for name in (
      "config", "manifest", "summary", "teacher", "inspected")}
  sides["exports"] = exports.read(folder)
  sides["conclusion"] = (folder / "conclusion.md").is_file()
  pictures = plots.write(sweep, sides, out)
  written += [picture.file for picture in pictures.values()]
  file = out / "report.html"
  files.write(file, page.page(sweep, pictures, sides))
  return [*written, file]


def _in_full(row: Row) -> Row:
  """A row with all that its command sets, to tell it from rows of other configs."""
  try:
    words = shlex.split(row.get("command") or "")
  except ValueError:  # Quotes that nothing closes: a row of somebody else's.
    words = []
  given = {name.removeprefix("--").removeprefix("config."): _literal(text)
           for name, _, text in (word.partition("=") for word in words)
           if name.startswith("--config")}
  given.pop("sweep.lanes", None)
  return row | {"overrides": given | row["overrides"]}


def main(argv: list[str] | None = None) -> int:
  """Runs the command `python -m kd_jax.report`; returns its exit code."""
  from kd_jax.report import __main__  # pylint: disable=g-import-not-at-top
  return __main__.main(argv)
