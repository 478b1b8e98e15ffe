"""Numbers of things, as people write them."""


def counted(number: int, noun: str) -> str:
  """So many of something.

  Example:
    >>> counted(1, "row"), counted(2_000, "row")
    ('1 row', '2,000 rows')
  """
  return f"{number:,} {noun}" + ("" if number == 1 else "s")
