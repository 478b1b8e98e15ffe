"""Numbers of things, as people write them."""

from typing import Any


def counted(number: int, noun: str) -> str:
  """So many of something.

  Example:
    >>> counted(1, "row"), counted(2_000, "row")
    ('1 row', '2,000 rows')
  """
  return f"{number:,} {noun}" + ("" if number == 1 else "s")


def some(numbers: Any, most: int = 10) -> str:
  """The first of some numbers, a sequence or an array.

  Example:
    >>> some([3, 5, 8], 2), some([3])
    ('3, 5, ...', '3')
  """
  shown = ", ".join(map(str, numbers[:most]))
  return shown + (", ..." if len(numbers) > most else "")
