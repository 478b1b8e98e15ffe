"""What rows must hold to be reported: a row of another kind is named, not met."""

import array
from collections.abc import Callable
import math
import sys
from typing import Any, NamedTuple

from kd_jax.core.errors import UserError
from kd_jax.report import names
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import MOST
from kd_jax.runs import results

_NEEDED = ("row", "net", "source", "test_examples", "seed", "test_errors", "loss",
           "seconds")
# No number of a run is larger; a float holds a little more.
_LARGEST = 1e300
_DEEPEST = 16


class Kind(NamedTuple):
  """A kind of field: what it must be, in words, by type and beyond that."""

  words: str
  types: type | tuple[type, ...]
  holds: Callable[[Any], bool] | None = None
  # What is kept of it, in less memory.
  compact: Callable[[Any], Any] | None = None


def reader(*, everything: bool = False) -> results.Each:
  """What keeps of one row after the other the fields that are reported.

  What is null or not finite is left out, and curves once there are more points than
  a picture shows. Of rows of a sweep that its last run did not ask for, the names
  alone are kept, unless `everything` is reported.

  Raises:
    UserError: Naming the row and the field that cannot be reported.
  """
  of_sweep = results.of_sweep("see python -m kd_jax.report --help")
  points: set[Any] = set()
  versions: dict[str, Any] = {}  # Those of most rows are alike, and kept once.

  def each(row: Row, where: str) -> Row:
    if "overrides" not in row:
      return _reported(row, where, _OF_MAIN)
    row = of_sweep(row, where)
    if results.is_other(row) and not everything:
      return {"fingerprint": row["fingerprint"]}
    if len(points) > MOST:
      found = _reported(row, where, _WITHOUT_CURVES)
    else:
      found = _reported(row | _drawn(row), where, _OF_SWEEP)
      points.add(names.identity(found))
    if "versions" in found:
      found["versions"] = versions.setdefault(
          str(found["versions"]), found["versions"])
    return found
  return each


def complete(row: Row, where: str) -> Row:
  """The row of a main run, which has all that its table shows."""
  for key in _NEEDED:
    if key not in row:
      raise UserError(f"{where}: has no {key}, which every row of a main run has")
  return row


def _reported(row: Row, where: str, kinds: dict[str, Kind]) -> Row:
  found: Row = {}
  for key, value in row.items():
    if value is None or (kind := kinds.get(key)) is None:
      continue
    words, types, holds, compact = kind
    if isinstance(value, types) and (holds is None or holds(value)):
      # Each row that JSON reads brings names of its own.
      found[sys.intern(key)] = value if compact is None else compact(value)
    elif not (isinstance(value, float) and not math.isfinite(value)):
      raise UserError(f"{where}: {key} is {_brief(value)}, must be {words}")
  errors, examples = found.get("test_errors"), found.get("test_examples")
  if errors is not None and examples is not None and not 0 <= errors <= examples:
    raise UserError(f"{where}: test_errors is {errors:g} of {examples:g} examples")
  return found


def _drawn(row: Row) -> Row:
  """The curves of a row without what ended in NaN."""
  found: Row = {}
  for key in _DRAWN:
    if isinstance(value := row.get(key), dict):
      found[key] = {name: values for name, values in value.items()
                    if not (isinstance(values, list) and None in values)}
      if key == "test_bins" and len(found[key]) < len(value):
        found[key] = None  # All of its series are needed.
  return found


def _small(value: float) -> bool:
  return -_LARGEST < value < _LARGEST


def _numbers(value: Any) -> bool:
  return isinstance(value, list) and {*map(type, value)} <= {int, float, bool} and (
      not value or max(map(abs, value)) < _LARGEST)


def _series(value: dict[str, Any]) -> bool:
  return all(map(_numbers, value.values()))


def _plain(value: Any, depth: int = 0) -> bool:
  """Whether a value is of this depth at most, without numbers beyond a float."""
  if isinstance(value, (list, dict)):
    inner = value.values() if isinstance(value, dict) else value
    return depth < _DEEPEST and all([_plain(one, depth + 1) for one in inner])
  return not isinstance(value, int) or _small(value)


def _compact(value: Any) -> Any:
  """Numbers in a quarter of the memory that a list takes, and names once."""
  if isinstance(value, list):
    return array.array("d", value)
  return {sys.intern(name): _compact(one) for name, one in value.items()}


def _brief(value: Any) -> str:
  if isinstance(value, int):
    return str(value) if _small(value) else "too large"
  if isinstance(value, (dict, list)):
    return f"a {type(value).__name__} that is not so"
  return repr(value)[:40]


_DRAWN = ("curve", "test_bins")
_CURVE = Kind("a list of numbers", list, _numbers, _compact)
_OF_SWEEP = {
    **dict.fromkeys((
        "test_errors", "test_examples", "test_nll", "test_ece", "agreement",
        "seconds", "heldout_errors", "heldout_examples", "train_examples", "seed",
        "cores", "numerics"), Kind("a number", (int, float), _small)),
    **dict.fromkeys(("fingerprint", "command"), Kind("text", str)),
    **dict.fromkeys((
        "net", "method", "loss", "teacher_fingerprint", "data_sha256", "commit",
        "device", "processor", "study", "packing", "test_set"),
        Kind("text", str, compact=sys.intern)),
    "heldout_curve": _CURVE,
    **dict.fromkeys(
        _DRAWN, Kind("lists of numbers by name", dict, _series, _compact)),
    "versions": Kind("an object", dict),
    "overrides": Kind("values of config keys", dict, _plain, lambda value: {
        sys.intern(key): one for key, one in value.items()}),
    **dict.fromkeys(("failed", "dirty"), Kind("", object))}
_WITHOUT_CURVES = {
    key: kind for key, kind in _OF_SWEEP.items() if key not in _DRAWN}
_OF_MAIN = _OF_SWEEP | {"curve": _CURVE} | dict.fromkeys(
    ("row", "source"), Kind("text", str))
