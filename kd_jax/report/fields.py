"""What rows must hold to be reported: a row of another kind is named, not met."""

from collections.abc import Callable, Iterable
import math
import pathlib
from typing import Any

from kd_jax.core.errors import UserError
from kd_jax.report.main_table import Row

_NUMBERS = ("test_errors", "test_examples", "test_nll", "test_ece", "agreement",
            "seconds", "heldout_errors", "heldout_examples", "train_examples",
            "seed", "cores")
_TEXTS = ("net", "row", "source", "method", "loss", "fingerprint",
          "teacher_fingerprint", "commit", "device", "study", "command")
_OF_MAIN = ("row", "net", "source", "test_examples", "seed", "test_errors", "loss",
            "seconds")
# No number of a run is larger; a float holds a little more.
_LARGEST = 1e300
_DEEPEST = 16


def checked(file: pathlib.Path, rows: Iterable[Row]) -> list[Row]:
  """The rows without what is null or not finite.

  Args:
    file: Where they are from, for messages.
    rows: Rows of a sweep, or of main runs.

  Raises:
    UserError: Naming the row and the field that cannot be reported.
  """
  return [_row(row, f"{file}, row {number}") for number, row in enumerate(rows, 1)]


def _row(row: Row, where: str) -> Row:
  kept = {key: value for key, value in row.items()
          if value is not None and not (
              isinstance(value, float) and not math.isfinite(value))}
  for key in ("curve", "test_bins"):  # What ended in NaN is not drawn.
    if isinstance(kept.get(key), dict):
      kept[key] = {name: values for name, values in kept[key].items()
                   if not (isinstance(values, list) and None in values)}
  if "test_bins" in kept and kept["test_bins"] != row["test_bins"]:
    del kept["test_bins"]  # All of its series are needed.
  for key, value in kept.items():
    kind = _kind(key, row)
    if kind is not None and not kind[1](value):
      raise UserError(f"{where}: {key} is {_brief(value)}, must be {kind[0]}")
  if "overrides" not in row:
    for key in _OF_MAIN:
      if key not in kept:
        raise UserError(f"{where}: has no {key}, which every row of a main run has")
  return kept


def _kind(key: str, row: Row) -> tuple[str, Callable[[Any], bool]] | None:
  if key in _NUMBERS:
    return "a number", _number
  if key in _TEXTS:
    return "text", lambda value: isinstance(value, str)
  if key in ("heldout_curve", "test_wrong_ids") or (
      key == "curve" and "overrides" not in row):
    return "a list of numbers", _numbers
  if key in ("curve", "test_bins"):
    return "lists of numbers by name", lambda value: isinstance(
        value, dict) and all(map(_numbers, value.values()))
  if key == "versions":
    return "an object", lambda value: isinstance(value, dict)
  if key == "overrides":
    return "values of config keys", lambda value: isinstance(
        value, dict) and _plain(value)
  return None


def _number(value: Any) -> bool:
  return isinstance(value, (int, float)) and abs(value) < _LARGEST


def _numbers(value: Any) -> bool:
  return isinstance(value, list) and {*map(type, value)} <= {int, float, bool} and (
      not value or max(map(abs, value)) < _LARGEST)


def _plain(value: Any, depth: int = 0) -> bool:
  """Whether a value is of this depth at most, without numbers beyond a float."""
  if isinstance(value, (list, dict)):
    inner = value.values() if isinstance(value, dict) else value
    return depth < _DEEPEST and all(_plain(one, depth + 1) for one in inner)
  return not isinstance(value, int) or abs(value) < _LARGEST


def _brief(value: Any) -> str:
  if isinstance(value, int):
    return "too large"
  if isinstance(value, (dict, list)):
    return f"a {type(value).__name__} that is not so"
  return repr(value)[:40]
