"""The command: nets of a run into files, rows and a table."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

from kd_jax.core.screen import Screen
from kd_jax.core.words import counted
from kd_jax.export import files
from kd_jax.training import parameters

_COLUMNS = ("net", "format", "int8", "size", "errors", "agreement", "1 input",
            "64 inputs", "memory")


def run(
    workdir: pathlib.Path, nets: Sequence[str] | None, names: Sequence[str],
    kinds: Sequence[str], folder: pathlib.Path, *, say: Callable[[str], None],
) -> list[dict[str, Any]]:
  """Exports nets of a run; returns the rows, which stand in the folder as well.

  Args:
    workdir: Of a finished run.
    nets: Names; None for the one that the run is about.
    names: Of formats.
    kinds: Of int8.
    folder: Where the files go.
    say: Tells the user.

  Raises:
    UserError: If something cannot be exported; what was written before is kept.
  """
  parameters.quiet()
  rows: list[dict[str, Any]] = []
  wanted: Sequence[str | None] = nets or [None]
  for name in wanted:
    net = files.net(workdir, name, say)
    folder.mkdir(parents=True, exist_ok=True)
    for row in files.write(net, names, kinds, folder, say=say):
      files.record(workdir, [row])
      rows.append(row)
  Screen().table(
      f"{rows[0]['data']}: errors of {rows[0]['test_examples']:,} test examples; "
      "microseconds and memory on one core", list(_COLUMNS),
      list(map(_cells, rows)))
  say(f"{counted(len(rows), 'file')} in {folder}, rows in {workdir / files.ROWS}")
  return rows


def _cells(row: dict[str, Any]) -> list[str]:
  latency = lambda found: "" if found is None else f"{found[0]:,.0f}"
  return [
      row["net"], row["format"], row["int8"], size(row["bytes"]),
      f"{row['test_errors']:,}", f"{row['agreement']:.2%}",
      latency(row.get("latency_us")),
      latency(row.get("latency_us_64")),
      "" if row.get("memory_bytes") is None else size(row["memory_bytes"])]


def size(number: int) -> str:
  """A number of bytes in words, in powers of 1000."""
  for unit, scale in (("MB", 1e6), ("kB", 1e3)):
    if number >= scale:
      return f"{number / scale:.3g} {unit}"
  return f"{number} bytes"
