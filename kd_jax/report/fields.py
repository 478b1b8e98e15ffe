"""What rows must hold to be reported: a row of another kind is named, not met."""

import array
from collections.abc import Callable
import math
import sys
from typing import Any

from kd_jax.core.errors import UserError
from kd_jax.report import names
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import MOST
from kd_jax.runs import results

_NEEDED = ("row", "net", "source", "test_examples", "seed", "test_errors", "loss",
           "seconds")
# Of a field: what it must be, in words; whether it is; what is kept of it.
Kind = tuple[str, Callable[[Any], bool], Callable[[Any], Any]]
# No number of a run is larger; a float holds a little more.
_LARGEST = 1e300
_DEEPEST = 16


def reader(*, everything: bool = False) -> results.Each:
  """What keeps of one row after the other the fields that are reported.

  What is null or not finite is left out, and curves once there are more points than
  a picture shows. Of rows of a sweep that its last run did not ask for, the names
  alone are kept, unless `everything` is reported.

  Raises:
    UserError: Naming the row and the field that cannot be reported.
  """
  of_sweep = results.of_sweep("see python -m kd_jax.report --help")
  points: set[str] = set()
  alike: dict[Any, Any] = {}  # Of many rows with one commit, that is kept once.

  def each(row: Row, where: str) -> Row:
    if "overrides" not in row:
      return _kept(row, where, _OF_MAIN)
    row = of_sweep(row, where)
    if not (everything or row.get(results.ASKED, True)):
      return {"fingerprint": row["fingerprint"]}
    kept = _kept(row, where, _OF_SWEEP)
    for key in _ALIKE & kept.keys():
      kept[key] = alike.setdefault((key, str(kept[key])), kept[key])
    if len(points) <= MOST:
      points.add(names.identity(kept))
    else:
      for key in _DRAWN & kept.keys():
        del kept[key]
    return kept
  return each


def complete(row: Row, where: str) -> Row:
  """The row of a main run, which has all that its table shows."""
  for key in _NEEDED:
    if key not in row:
      raise UserError(f"{where}: has no {key}, which every row of a main run has")
  return row


def _kept(row: Row, where: str, kinds: dict[str, Kind]) -> Row:
  kept = {}
  for key, (kind, holds, short) in kinds.items():
    value = row.get(key)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
      continue
    if key in _DRAWN and isinstance(value, dict):  # What ended in NaN is not drawn.
      value = {name: values for name, values in value.items()
               if not (isinstance(values, list) and None in values)}
      if key == "test_bins" and len(value) < len(row[key]):
        continue  # All of its series are needed.
    if not holds(value):
      raise UserError(f"{where}: {key} is {_brief(value)}, must be {kind}")
    kept[key] = short(value)
  return kept


def _number(value: Any) -> bool:
  return isinstance(value, (int, float)) and abs(value) < _LARGEST


def _numbers(value: Any) -> bool:
  return isinstance(value, list) and {*map(type, value)} <= {int, float, bool} and (
      not value or max(map(abs, value)) < _LARGEST)


def _series(value: Any) -> bool:
  return isinstance(value, dict) and all(map(_numbers, value.values()))


def _short(value: Any) -> Any:
  """Numbers in a quarter of the memory that a list takes."""
  if isinstance(value, dict):
    return {sys.intern(name): _short(values) for name, values in value.items()}
  return array.array("d", value)


def _interned(value: dict[str, Any]) -> dict[str, Any]:
  return {sys.intern(key): one for key, one in value.items()}


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


_is = lambda kind: lambda value: isinstance(value, kind)
_as_it_is = lambda value: value
_CURVE: Kind = ("a list of numbers", _numbers, _short)
_OF_SWEEP: dict[str, Kind] = {
    **dict.fromkeys((
        "test_errors", "test_examples", "test_nll", "test_ece", "agreement",
        "seconds", "heldout_errors", "heldout_examples", "train_examples", "seed",
        "cores", "numerics"), ("a number", _number, _as_it_is)),
    **dict.fromkeys((
        "net", "row", "source", "method", "loss", "fingerprint",
        "teacher_fingerprint", "commit", "device", "study", "command", "packing"),
        ("text", _is(str), _as_it_is)),
    "heldout_curve": _CURVE,
    **dict.fromkeys(("curve", "test_bins"), (
        "lists of numbers by name", _series, _short)),
    "versions": ("an object", _is(dict), _as_it_is),
    "overrides": ("values of config keys", _plain, _interned),
    **dict.fromkeys(("failed", "dirty"), ("", lambda value: True, _as_it_is))}
_OF_MAIN = _OF_SWEEP | {"curve": _CURVE}
_DRAWN = {"curve", "test_bins"}
_ALIKE = {"net", "method", "loss", "teacher_fingerprint", "commit", "device",
          "study", "packing", "versions"}
