"""What may bring the distilled net of `study` to the paper's 74 errors.

Changes of its row in the table: images, length, loss, the noise of steps.
Optimisers and initial scales were chosen before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.report import Row, statistics

Point = dict[str, Any]

LONG = 40  # Epochs, of the row.
_SHIFTED = {"student.views": "shift2"}
_TURNED = {"student.views": "affine"}
_LONGER = {"epochs": 3 * LONG}
CHANGES: Mapping[str, Point] = {
    "as in the table": {},
    "shifted": _SHIFTED,
    "shifted, soft targets only": _SHIFTED | {"alpha": 1.0},
    "shifted, T = 4": _SHIFTED | {"temperature": 4.0},
    "shifted, batches of 32": _SHIFTED | {"batch_size": 32},
    "shifted, three times as long": _SHIFTED | _LONGER,
    "turned and stretched": _TURNED,
    "turned and stretched, three times as long": _TURNED | _LONGER,
}


def changed(row: Point) -> dict[str, Point]:
  """The row as it is, and with each of the changes."""
  return {name: row | change for name, change in CHANGES.items()}


def tried(row: Point, done: Sequence[Row]) -> dict[str, list[Row]]:
  """The rows of each change that was tried, one a seed."""
  found = {name: [other for other in done
                  if other["failed"] is None and sets(other, point)]
           for name, point in changed(row).items()}
  return {name: rows for name, rows in found.items() if rows}


def errors(row: Point, done: Sequence[Row]) -> dict[str, list[int]]:
  """Held-out errors of each change that was tried, one a seed."""
  return {name: [other["heldout_errors"] for other in rows]
          for name, rows in tried(row, done).items()}


def found(row: Point, done: Sequence[Row]) -> str:
  """The change with the fewest held-out errors on average; of equals the first."""
  found = errors(row, done)
  # Before anything is known, a plan is made with the longest.
  return min(found, default=[*CHANGES][-1],
             key=lambda name: statistics.summary(found[name]).mean)


def sets(row: Row, point: Point) -> bool:
  """Whether a row was run with all that a point sets."""
  return all(row["overrides"].get(key) == value for key, value in point.items())
