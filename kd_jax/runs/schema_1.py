"""Rows of schema 1, whose fingerprints also said which lanes ran beside a lane.

A row of schema 2 has the fingerprint of its lane, and its packing in a column. This
is the one place that knows the fingerprints of before: it makes them again from the
lanes and packings that rows may have had, and so finds out whose they are. Rows are
never edited where they are committed; those of a workdir are as it is used.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kd_jax.config import identity
from kd_jax.runs.plan import Chunk, chunks
from kd_jax.training.lanes import Shape

Row = dict[str, Any]
# Where a converted row keeps the fingerprint that it had.
KEY = "fingerprint_of_schema_1"


class Lane(NamedTuple):
  """What a row is of: the fingerprint of a lane, and how it was packed."""

  fingerprint: str
  packing: str


def row_fingerprint(lane: str, chunk: Chunk) -> str:
  """The fingerprint of a lane's row in schema 1."""
  return identity.fingerprint({"lane": lane, "chunk": chunk.fingerprint})


def lanes_of(planned: Iterable[Chunk]) -> dict[str, Lane]:
  """Whose row a fingerprint of schema 1 is, of chunks as they were planned."""
  return {row_fingerprint(lane, chunk): Lane(lane, chunk.packing)
          for chunk in planned for lane in chunk.lanes}


def tried(
    program: str, lanes: Sequence[tuple[int, str]], rows: Iterable[Row]
) -> Iterator[Chunk]:
  """The chunks that lanes may have been in, where no plan says it any more.

  Args:
    program: The fingerprint of their program.
    lanes: Seed and fingerprint of each lane.
    rows: Rows of schema 1, which tell the rectangles, but not over how many
      devices these were spread: one, two or one a row.
  """
  for size, points in {tuple(row["lanes"]) for row in rows if old(row)}:
    for devices in {1, 2, size}:
      if size % devices == 0:
        yield from chunks(program, lanes, Shape(devices, size // devices, points))


def old(row: Mapping[str, Any]) -> bool:
  """Whether a row is of schema 1 and of a sweep; others have no packing."""
  return row.get("schema") == 1 and "lanes" in row


def converted(row: Row, known: Mapping[str, Lane]) -> Row:
  """The row in schema 2, if it is known whose it is, or the row itself."""
  lane = known.get(row.get("fingerprint", "")) if old(row) else None
  if lane is None:
    return row
  return row | {"schema": 2, "fingerprint": lane.fingerprint,
                "packing": lane.packing, KEY: row["fingerprint"]}
