"""What cannot be of one sweep is not joined: every conflict in a line."""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any, NamedTuple

from kd_jax.config import identity
from kd_jax.core.errors import UserError
from kd_jax.runs.plan import Chunk
from kd_jax.runs.results import Row

# Of a row: who made it, when and where, not what came out.
_CIRCUMSTANCES = (
    "commit", "cores", "command", "device", "dirty", "fingerprint_of_schema_1",
    "schema", "seconds", "study", "teacher_sha256", "versions")

class Part(NamedTuple):
  """What one shard has left."""

  folder: pathlib.Path
  rows: list[Row]
  chunks: list[Chunk]
  config: dict[str, Any]


def check(parts: Iterable[Part]) -> None:
  """Refuses parts that are not of one sweep.

  Raises:
    UserError: If two parts differ in their settings, in what came out of the
      same lane, or in the teacher.
  """
  parts = list(parts)
  for part in parts[1:]:
    _check_settings(parts[0], part)
  results: dict[Any, tuple[Row, Part]] = {}
  lanes: dict[Any, tuple[Row, Part]] = {}
  prepared: dict[Any, tuple[Row, Part]] = {}
  for part in parts:
    for row in part.rows:
      _check_result(row, part, *results.setdefault(
          (row["fingerprint"], row.get("packing")), (row, part)))
      _check_lane(row, part, *lanes.setdefault(
          _frozen([row["overrides"], row.get("seed")]), (row, part)))
      if row.get("teacher_fingerprint"):
        _check_teacher(row, part, *prepared.setdefault(
            _teaching(row), (row, part)))


def _check_settings(one: Part, other: Part) -> None:
  differing = [key for key in identity.comparable(one.config)
               if key in other.config and one.config[key] != other.config[key]]
  if differing:
    key = differing[0]
    raise UserError(
        f"{one.folder} and {other.folder}: {key} is {one.config[key]} in one and "
        f"{other.config[key]} in the other, so they are of two sweeps; merge "
        "those of one command")


def _check_result(row: Row, part: Part, known: Row, where: Part) -> None:
  """The same lane in the same packing has the same results."""
  keys = sorted(key for key in {*row, *known} - {*_CIRCUMSTANCES}
                if row.get(key) != known.get(key))
  if keys:
    key = "test_errors" if "test_errors" in keys else keys[0]
    raise UserError(
        f"{_both(where, part)}: {_named(row)} ({row['fingerprint'][:8]}) has two "
        f"results, {key} {_short(known.get(key))} and {_short(row.get(key))}; "
        f"delete its line in one results.jsonl, or leave a folder out")


def _check_lane(row: Row, part: Part, known: Row, where: Part) -> None:
  """A lane was run once."""
  if row["fingerprint"] != known["fingerprint"]:
    raise UserError(
        f"{_both(where, part)}: {_named(row)} stands under two fingerprints, "
        f"{known['fingerprint'][:8]} and {row['fingerprint'][:8]}: other settings, "
        "teachers or versions; leave a folder out and run its part again")


def _check_teacher(row: Row, part: Part, known: Row, where: Part) -> None:
  """Students of one study had one teacher, to the bit."""
  for key in ("teacher_fingerprint", "teacher_sha256"):
    one, other = known.get(key), row.get(key)
    if one and other and one != other:
      raise UserError(
          f"{_both(where, part)}: their students had two teachers, "
          f"{_short(one)} and {_short(other)}; train one, give all shards its "
          "--config.teacher.dir=DIR, and run one of these parts again")


def _teaching(row: Row) -> Any:
  """Rows alike in this have the same teacher; a sweep may vary the teacher."""
  return _frozen({key: value for key, value in row["overrides"].items()
                  if key.startswith(("teacher.", "data."))})


def _frozen(value: Any) -> Any:
  """As something to look up; 4 and 4.0 are one."""
  if isinstance(value, Mapping):
    return tuple((key, _frozen(value[key])) for key in sorted(value))
  if isinstance(value, list):
    return tuple(map(_frozen, value))
  return value


def _both(one: Part, other: Part) -> str:
  if one is other:
    return str(one.folder)
  return f"{one.folder} and {other.folder}"


def _named(row: Row) -> str:
  return f"{row.get('row')}, seed {row.get('seed')},"


def _short(value: Any) -> str:
  """A hash by its beginning, a list by its first."""
  if isinstance(value, list):
    return _short(value[0]) if value else "nothing"
  return str(value)[:12]
