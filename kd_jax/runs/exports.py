"""The rows of exported files: `WORKDIR/exports.jsonl`."""

from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

from kd_jax.core import files, strict

NAME = "exports.jsonl"
_SHOWN = {"net", "format", "int8", "bytes", "test_errors", "test_examples",
          "agreement"}
# The columns of a table of them.
COLUMNS = ("net", "format", "int8", "size", "errors", "agreement", "1 input, us",
           "64 inputs, us", "memory")


def record(workdir: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
  """Writes rows, each in the place of one of the same net, format and int8."""
  key = lambda row: (row["net"], row["format"], row["int8"])
  known = {key(row): row for row in [*read(workdir), *rows]}
  files.write(workdir / NAME, "".join(
      strict.dumps(row) + "\n" for row in known.values()))


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a folder; lines that are none are left out."""
  found = []
  with contextlib.suppress(OSError):
    for line in (workdir / NAME).read_text(errors="replace").splitlines():
      with contextlib.suppress(ValueError):
        row = strict.loads(line)
        if isinstance(row, dict) and row.keys() >= _SHOWN:
          found.append(row)
  return found


def cells(row: dict[str, Any]) -> list[str]:
  """A row as a table shows it, in the order of `COLUMNS`."""
  latency = lambda found: "" if found is None else f"{found[0]:,.0f}"
  return [
      row["net"], row["format"], row["int8"], size(row["bytes"]),
      f"{row['test_errors']:,} of {row['test_examples']:,}",
      f"{row['agreement']:.2%}", latency(row.get("latency_us")),
      latency(row.get("latency_us_64")),
      "" if row.get("memory_bytes") is None else size(row["memory_bytes"])]


def size(number: int) -> str:
  """A number of bytes in words, in powers of 1000."""
  for unit, scale in (("MB", 1e6), ("kB", 1e3)):
    if number >= scale:
      return f"{number / scale:.3g} {unit}"
  return f"{number} bytes"
