"""Tables of the UCI repository, from their official files.

  letter      letter-recognition.data: 16 attributes, 26 classes; of 20,000 rows the
              last 4,000 are the test set (Frey & Slate 1991)
  letter.p1   the same rows; class 1 is the letter O (Bucila et al. 2006)
  letter.p2   the same rows; class 1 is a letter from A to M
  adult       adult.data and adult.test: 14 attributes; class 1 earns above 50K

Columns are float32 in [0, 1]: a number minus the least of its column, divided by
its range over all rows (letters: 0 to 15). A nominal attribute has a column for
each of its values; all of them are 0 where the value is unknown ("?"). An attribute
of two values has one column. So adult has 104 columns.
"""

from collections.abc import Callable, Sequence
import functools
import string

import numpy as np

from kd_jax.core.errors import UserError

# Of each attribute of adult the number of its values; 0 for a number.
_ADULT = (0, 8, 0, 16, 0, 7, 14, 6, 5, 2, 0, 0, 0, 41)
_ATTRIBUTES = 16
_LETTERS_TEST = 4000
# Rows of each file.
_ROWS = {"letter": (20_000,), "adult": (32_561, 16_281)}
_POSITIVE = {"letter.p1": "O", "letter.p2": string.ascii_uppercase[:13]}

# The spans of columns, first and one past the last, of nominal attributes.
Nominal = tuple[tuple[int, int], ...]
# Text of each file, to (train inputs, train labels, test inputs, test labels).
Reader = Callable[[Sequence[str]], list[np.ndarray]]


def _columns(values: int) -> int:
  """How many columns an attribute of so many values has."""
  return max(values, 1) if values != 2 else 1


def nominal(name: str) -> Nominal:
  """The columns of the nominal attributes of a data set; () for all others.

  Example:
    >>> nominal("adult")[:2], nominal("adult")[-1], nominal("letter")
    (((1, 9), (10, 26)), (63, 104), ())
  """
  if name != "adult":
    return ()
  ends = np.cumsum([_columns(values) for values in _ADULT]).tolist()
  return tuple((end - _columns(values), end)
               for end, values in zip(ends, _ADULT) if values)


def letters(name: str, texts: Sequence[str]) -> list[np.ndarray]:
  """The arrays of letter, letter.p1 or letter.p2.

  Raises:
    ValueError: If the text is not that of the file.
  """
  rows, = _rows("letter", texts, 1 + _ATTRIBUTES)
  labels, numbers = [row[0] for row in rows], _numbers([row[1:] for row in rows])
  if not set(labels) <= set(string.ascii_uppercase):
    raise ValueError("a row does not begin with a capital letter")
  positive = _POSITIVE.get(name)
  label = np.array([string.ascii_uppercase.index(each) if positive is None
                    else each in positive for each in labels], np.int32)
  inputs, last = (numbers / 15).astype(np.float32), len(rows) - _LETTERS_TEST
  return [inputs[:last], label[:last], inputs[last:], label[last:]]


def adult(texts: Sequence[str]) -> list[np.ndarray]:
  """The arrays of adult.

  Raises:
    ValueError: If the texts are not those of the files.
  """
  # The first line of adult.test is a remark, and its classes end in a full stop.
  parts = _rows("adult", texts, len(_ADULT) + 1)
  rows, number = [row for part in parts for row in part], len(parts[0])
  earns = [row[-1].rstrip(".") for row in rows]
  if set(earns) != {"<=50K", ">50K"}:
    raise ValueError("the last column is not <=50K or >50K")
  label = np.array([each == ">50K" for each in earns], np.int32)
  columns = [_attribute([row[place] for row in rows], values)
             for place, values in enumerate(_ADULT)]
  inputs = np.concatenate(columns, axis=1).astype(np.float32)
  return [inputs[:number], label[:number], inputs[number:], label[number:]]


def _attribute(cells: Sequence[str], values: int) -> np.ndarray:
  """The columns of an attribute, `[N, columns]`."""
  if not values:
    column = _numbers([[cell] for cell in cells])
    return (column - column.min()) / max(np.ptp(column), 1e-12)
  known = sorted(set(cells) - {"?"})
  if len(known) != values:
    raise ValueError(f"an attribute has {len(known)} values where it must have "
                     f"{values}: {', '.join(known[:5])}, ...")
  found = np.array(cells)[:, None] == np.array(known)
  return found[:, -_columns(values):]


def _rows(name: str, texts: Sequence[str], length: int) -> list[list[list[str]]]:
  """The cells of each line of each file; empty lines and remarks are left out."""
  found = []
  for text, number in zip(texts, _ROWS[name], strict=True):
    lines = [line.strip() for line in text.splitlines()]
    rows = [[cell.strip() for cell in line.split(",")] for line in lines
            if line and not line.startswith("|")]
    for place, row in enumerate(rows, 1):
      if len(row) != length:
        raise ValueError(f"row {place} has {len(row)} cells, not {length}")
    if len(rows) != number:
      raise ValueError(f"{len(rows)} rows where there must be {number}")
    found.append(rows)
  return found


def _numbers(cells: Sequence[Sequence[str]]) -> np.ndarray:
  return np.array(cells).astype(np.float64)


# By name: the files, and their reader.
KINDS: dict[str, tuple[tuple[str, ...], Reader]] = {
    **{name: (("letter-recognition.data",), functools.partial(letters, name))
       for name in ("letter", *_POSITIVE)},
    "adult": (("adult.data", "adult.test"), adult)}


def split(
    arrays: Sequence[np.ndarray], seed: int, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Training and test examples drawn anew, without regard to their classes.

  Args:
    arrays: Train inputs, train labels, test inputs, test labels.
    seed: Of the draw.
    number: Of training examples; all others are the test set.

  Returns:
    The same four.

  Raises:
    UserError: If there are no more examples than that.
  """
  inputs = np.concatenate(arrays[::2])
  label = np.concatenate(arrays[1::2])
  if number >= len(label):
    raise UserError(f"data.split_size={number}: there are {len(label)} examples, "
                    "and some must be left for the test set; give less")
  order = np.random.default_rng(seed).permutation(len(label))
  train, test = order[:number], order[number:]
  return inputs[train], label[train], inputs[test], label[test]
