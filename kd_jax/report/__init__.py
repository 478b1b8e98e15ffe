"""Rows to people: tables, pictures and a page, from `results.jsonl` alone.

  python -m kd_jax.report experiments/mnist

writes them beside the rows, and the same table into the README between its
markers. Nobody types a number into a table.

Rows of main runs name a net and become a table a net (`main_table`). Rows of a
sweep have overrides and become a point for all seeds of a setting (`points`),
told by `tables`, `plots` and `page`.
"""

from collections.abc import Mapping
import importlib.util
import pathlib
import re
from typing import Any

from kd_jax.core.errors import UserError
from kd_jax.report import fields
from kd_jax.report.main_table import PAPER, curves, table
from kd_jax.runs import results
from kd_jax.runs.results import Row, read, side_file

__all__ = ["PAPER", "Row", "check_installed", "curves", "into", "main", "read",
           "side_file", "table", "write"]

_MARKERS = ("<!-- results: {} -->", "<!-- end of results -->")


def into(text: str, study: str, generated: str) -> str:
  """`text` with what lies between the study's markers replaced."""
  begin, end = _MARKERS[0].format(study), _MARKERS[1]
  pattern = re.escape(begin) + r".*?" + re.escape(end)
  return re.sub(pattern, lambda _: f"{begin}\n{generated}{end}", text, count=1,
                flags=re.S)


def check_installed() -> None:
  """Refuses, before a run, what its report would fail for.

  Raises:
    UserError: Naming the packages that are missing.
  """
  missing = [name for name in ("matplotlib", "scipy")
             if importlib.util.find_spec(name) is None]
  if missing:
    raise UserError(f"the report of a run needs {' and '.join(missing)}: pip "
                    f"install {' '.join(missing)}")


def write(
    folder: pathlib.Path, *, reference: Mapping[str, Any] | None = None
) -> list[pathlib.Path]:
  """Writes the tables, the plots and `report.html` of a sweep's folder.

  Args:
    folder: Holds `results.jsonl`; the files are written beside it.
    reference: Overrides of the point that the others are compared with, such
      as `{"alpha": 0}`.

  Returns:
    The files written.
  """
  # matplotlib and scipy are slow to start; those who only read need neither.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.report import page, plots, points, tables
  rows = fields.checked(folder / "results.jsonl", _rows(folder))
  results.check(
      folder / "results.jsonl", rows, "see python -m kd_jax.report --help")
  if not rows:
    raise UserError(f"{folder / 'results.jsonl'}: has no rows yet")
  sweep = points.gather(rows, reference=reference)
  written = tables.write(sweep, folder)
  teacher = side_file(folder, "teacher.json")
  pictures = plots.write(sweep, teacher, folder)
  written += list(pictures.values())
  sides = {name: side_file(folder, f"{name}.json")
           for name in ("config", "manifest", "summary")}
  file = folder / "report.html"
  file.write_text(page.page(sweep, pictures, sides), encoding="utf-8")
  return [*written, file]


def _rows(folder: pathlib.Path) -> list[Row]:
  """Rows without the longest field, which no table shows."""
  return read(folder, without=("test_wrong_ids",))


def main(argv: list[str] | None = None) -> int:
  """Runs the command `python -m kd_jax.report`; returns its exit code."""
  from kd_jax.report import __main__  # pylint: disable=g-import-not-at-top
  return __main__.main(argv)
