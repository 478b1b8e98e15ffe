"""Shards: the parts of one sweep that several machines run, each its own.

Every shard plans the whole sweep, so that a lane runs in the same rectangle, and
has the same fingerprint and bits, as if one machine had done it all. Then the
chunks are dealt out like cards: a group's chunks cost alike, so the parts of all
groups come out even.
"""

from collections.abc import Sequence
import pathlib
import re
from typing import Any, NamedTuple, TypeVar

from kd_jax.core.errors import UserError

Item = TypeVar("Item")


class Shard(NamedTuple):
  """The `number`-th of `of` parts, counted from 1."""

  number: int
  of: int

  def __str__(self) -> str:
    return f"{self.number}/{self.of}"

  @property
  def suffix(self) -> str:
    """For the names of folders: `1of3`."""
    return f"{self.number}of{self.of}"

  def owns(self, place: int) -> bool:
    """Whether what comes at this place, counted from 0, is this shard's."""
    return place % self.of == self.number - 1

  def part(self, items: Sequence[Item], *, before: int = 0) -> list[Item]:
    """Every `of`-th of the items.

    Args:
      items: In the order of the plan.
      before: How many items came before these.

    Returns:
      Those of this shard.

    Example:
      >>> Shard(2, 3).part("abcdefg")
      ['b', 'e']
      >>> Shard(2, 3).part("efg", before=4)
      ['e']
    """
    return [item for place, item in enumerate(items, before)
            if self.owns(place)]


def parse(text: str) -> Shard:
  """`I/N` as a shard.

  Raises:
    UserError: If it is anything else.

  Example:
    >>> parse("2/3")
    Shard(number=2, of=3)
  """
  found = re.fullmatch("([0-9]+)/([0-9]+)", text, re.ASCII)
  number, count = map(int, found.groups()) if found else (0, 0)
  if not 1 <= number <= count:
    raise UserError(
        f"--shard={text}: must be I/N with 1 <= I <= N, such as --shard=1/3; "
        "an array of jobs counts from 1, as in sbatch --array=1-3")
  return Shard(number, count)


def check(
    shard: Shard | None, points: Sequence[Any], recipe: Sequence[str]
) -> None:
  """Refuses a shard of what is run by one machine.

  Args:
    shard: What is asked for.
    points: `sweep.points` of the config.
    recipe: `recipe` of the config.

  Raises:
    UserError: If there is no sweep, or it is one of a recipe.
  """
  if shard and not points:
    raise UserError(
        f"--shard={shard}: there is no sweep to run a part of; give "
        "--sweep.KEY=VALUE,VALUE or a config that has one")
  if shard and recipe:
    raise UserError(f"--shard={shard}: the nets of a recipe learn from one "
                    "another, so one machine trains all; leave it out")


def taken(argv: Sequence[str]) -> tuple[Shard | None, list[str]]:
  """Takes `--shard=I/N` out of the arguments: the shard, and the rest."""
  words = [arg for arg in argv if arg.split("=")[0] == "--shard"]
  rest = [arg for arg in argv if arg not in words]
  if not words:
    return None, rest
  return parse(words[-1].partition("=")[2]), rest


def apart(workdir: pathlib.Path, shard: Shard | None) -> pathlib.Path:
  """A folder of the shard's own beside that of the whole: `DIR-1of3`."""
  if shard is None:
    return workdir
  return workdir.with_name(f"{workdir.name}-{shard.suffix}")
