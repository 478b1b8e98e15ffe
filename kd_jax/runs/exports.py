"""The rows of exported files: `WORKDIR/exports.jsonl`."""

from collections.abc import Iterator, Mapping, Sequence
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


@contextlib.contextmanager
def in_turn(folder: pathlib.Path) -> Iterator[None]:
  """Waits until no other program changes the rows of a folder; keeps others out."""
  # It starts jax, which those who only read rows can do without.
  from kd_jax.runs import records  # pylint: disable=g-import-not-at-top
  with records.in_turn(
      folder / NAME, say=lambda line: None, stop=lambda: False):
    yield


def record(
    folder: pathlib.Path, rows: Sequence[dict[str, Any]],
    gone: Sequence[tuple[str, str, str]] = (),
) -> None:
  """Writes rows, each in the place of one of the same net, format and int8.

  A licence is of a net: the last that was chosen stands in all its rows.

  Args:
    folder: Where they are, for this program alone.
    rows: The new ones.
    gone: Net, format and int8 of rows to remove, whose files are no more.
  """
  key = lambda row: (row["net"], row["format"], row["int8"])
  every = [*read(folder), *rows]
  licences = {row["net"]: {"licence": row["licence"]}
              for row in every if "licence" in row}
  known = {key(row): row | licences.get(row["net"], {}) for row in every}
  with files.replacing(folder / NAME) as fresh:
    fresh.write_text("".join(
        strict.dumps(row) + "\n" for place, row in known.items()
        if place not in gone), encoding="utf-8")


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
      errors(row),
      f"{row['agreement']:.2%}", latency(row.get("latency_us")),
      latency(row.get("latency_us_64")),
      "" if row.get("memory_bytes") is None else size(row["memory_bytes"])]


def errors(row: Mapping[str, Any]) -> str:
  """The test errors of a row, which has none where the data were not at hand.

  Example:
    >>> errors({"test_errors": 74, "test_examples": 10_000})
    '74 of 10,000'
  """
  if row["test_errors"] is None:
    return "not counted"
  return f"{row['test_errors']:,} of {row['test_examples']:,}"


def size(number: int) -> str:
  """A number of bytes in words, in powers of 1000."""
  for unit, scale in (("MB", 1e6), ("kB", 1e3)):
    if number >= scale:
      return f"{number / scale:.3g} {unit}"
  return f"{number} bytes"
