"""What cannot be of one sweep is not joined: every conflict in a line."""

from collections.abc import Iterable, Iterator, Mapping
import pathlib
from typing import Any, NamedTuple

from kd_jax.config import identity
from kd_jax.core.errors import UserError
from kd_jax.runs.plan import Chunk
from kd_jax.runs.results import Row

# Of a row: who made it, when and where, not what came out.
_CIRCUMSTANCES = (
    "commit", "cores", "command", "device", "dirty", "fingerprint_of_schema_1",
    "processor", "schema", "seconds", "study", "teacher_sha256", "versions")
_ONE_TEACHER = ("train one, give all shards its --config.teacher.dir=DIR, and run "
                "one of these parts again")


class Part(NamedTuple):
  """What one shard has left.

  Attributes:
    folder: Its workdir.
    rows: Its rows.
    chunks: Its plan.
    config: The config that it ran, flat.
    teachers: Folders of whole teachers, and the hash of their parameters.
  """

  folder: pathlib.Path
  rows: list[Row]
  chunks: list[Chunk]
  config: dict[str, Any]
  teachers: dict[pathlib.Path, str]


class _Claim(NamedTuple):
  """Something that a part says; all that speak of the same must say the same.

  Attributes:
    about: What it speaks of.
    value: What it says.
    where: Which folder says so.
    wrong: What is wrong if another says something else.
    mend: What to do then.
  """

  about: Any
  value: Any
  where: pathlib.Path
  wrong: str
  mend: str


def check(parts: Iterable[Part]) -> None:
  """Refuses parts that are not of one sweep.

  Raises:
    UserError: If two parts differ in their settings, in what came out of the
      same lane, or in the teacher.
  """
  known: dict[Any, _Claim] = {}
  for claim in (claim for part in parts for claim in _claims(part)):
    first = known.setdefault(_frozen(claim.about), claim)
    if first.value != claim.value:
      folders = dict.fromkeys((str(first.where), str(claim.where)))
      raise UserError(
          f"{' and '.join(folders)}: {claim.wrong}, {_beginning(first.value)} and "
          f"{_beginning(claim.value)}; {claim.mend}")


def _claims(part: Part) -> Iterator[_Claim]:
  for key, value in identity.comparable(part.config).items():
    yield _Claim(["config", key], value, part.folder, f"have two values of {key}",
                 "these are two sweeps, so merge those of one command")
  for row in part.rows:
    yield from _claims_of_row(row, part.folder)
  for folder, sha256 in part.teachers.items():
    yield _Claim(["teacher", folder.name], sha256, folder,
                 "are two teachers of the same settings", _ONE_TEACHER)


def _claims_of_row(row: Row, folder: pathlib.Path) -> Iterator[_Claim]:
  lane, name = row["fingerprint"], f"{row.get('row')}, seed {row.get('seed')},"
  # The same lane in the same packing has the same results.
  for column in sorted(row.keys() - _CIRCUMSTANCES,
                       key=lambda column: (column != "test_errors", column)):
    yield _Claim([column, lane, row.get("packing")], row[column], folder,
                 f"{name} ({lane[:8]}) has two results, {column}",
                 "delete its line in one results.jsonl, or leave a folder out")
  # A lane was run once.
  yield _Claim(["lane", row["overrides"], row.get("seed")], lane, folder,
               f"{name} stands under two fingerprints",
               "its settings, teachers or versions differ, so leave a folder out "
               "and run its part again")
  # Students of one study had one teacher, to the bit; a sweep may vary it.
  if row.get("teacher_fingerprint"):
    teaching = {key: value for key, value in row["overrides"].items()
                if key.startswith(("teacher.", "data."))}
    for column in {"teacher_fingerprint", "teacher_sha256"} & row.keys():
      yield _Claim([column, teaching], row[column], folder,
                   "their students had two teachers", _ONE_TEACHER)


def _frozen(value: Any) -> Any:
  """As something to look up; 4 and 4.0 are one."""
  if isinstance(value, Mapping):
    return tuple((key, _frozen(value[key])) for key in sorted(value))
  if isinstance(value, list):
    return tuple(map(_frozen, value))
  return value


def _beginning(value: Any) -> str:
  """A hash by its beginning."""
  text = str(value)
  return text if len(text) < 40 else f"{text[:12]}..."
