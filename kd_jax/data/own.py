"""What is alike in a user's own files, whether they hold images or a table."""

from collections.abc import Sequence
import hashlib
from typing import NamedTuple

import numpy as np

from kd_jax.core.errors import UserError
from kd_jax.data import check
from kd_jax.data.raw import Arrays
from kd_jax.data.tables import Nominal


class Asked(NamedTuple):
  """What a config says of own files; each key is for some kinds of them alone.

  Attributes:
    test_fraction: Part of each class that is the test set, where there is none.
    resize: `(height, width)` of all images.
    channels: Of all images, 1 or 3.
    label: The column of a table that names the classes.
    without: Columns of a table that are left out.
    first_class: The smallest number of a class, in arrays.
    split: Seed of another draw of both parts, which needs no test set.
    weights: The column of a table with the weights of its examples.
  """

  test_fraction: float | None = None
  resize: tuple[int, int] | None = None
  channels: int | None = None
  label: str | None = None
  without: tuple[str, ...] = ()
  first_class: int = 0
  split: int | None = None
  weights: str | None = None

  def refuse_unused(self, name: str, source: str) -> None:
    """Refuses a key that says nothing of where the data came from."""
    if self.split is not None and self.test_fraction is not None:
      raise UserError(
          f"data.test_fraction={self.test_fraction}: data.split={self.split} draws "
          "both parts anew; give one of them")
    for key, value, used, kind in (
        ("test_fraction", self.test_fraction, ("images", "table"),
         "folders of images and tables"),
        ("channels", self.channels, ("images",), "folders of images"),
        ("label", self.label, ("table",), "tables (.csv, .tsv, .parquet)"),
        ("weights", self.weights, ("table",), "tables; arrays have w_train"),
        ("without", self.without, ("table",), "tables (.csv, .tsv, .parquet)"),
        ("first_class", self.first_class, ("raw",), "files of arrays, as .npz")):
      if value not in (None, (), 0) and source not in used:
        raise UserError(f"data.{key}={value}: is for {kind}, and {name} comes from "
                        f"{source}; leave it out")


class Found(NamedTuple):
  """A data set as its source has it.

  Attributes:
    source: As of `Dataset`, like `named`, `notice` and `nominal`.
    arrays: Train inputs, train labels, test inputs, test labels.
    num_classes: Number of classes.
    where: What the training and the test examples are called, if they have names.
    weights: Of the training examples, as they are given; None for all alike.
  """

  source: str
  arrays: Arrays
  num_classes: int
  named: tuple[str, ...] = ()
  notice: str = ""
  nominal: Nominal = ()
  where: Sequence[Sequence[str]] = ()
  weights: np.ndarray | None = None


class Unclear(UserError):
  """What looks like a data set, where a key must say that it is one."""


def held_back(names: Sequence[str], fraction: float) -> np.ndarray:
  """Which examples of one class are its test set, chosen by a hash of their names.

  So many have the smallest hashes, at least one, and at least one is left. It is
  the same on every machine, and whatever the order. Where an example is added, one
  of the others at most changes its part.

  Args:
    names: Of the examples; equal ones come to one part, unless all are equal.
    fraction: Part of them, in (0, 1), rounded to whole examples.

  Returns:
    bool `[N]`.

  Example:
    >>> held_back(["a", "b", "c", "d"], 0.5).sum()
    np.int64(2)
  """
  digests = np.array([_number(name) for name in names], np.uint64)
  number = min(max(round(fraction * len(names)), 1), len(names) - 1)
  order = np.argsort(digests, kind="stable")
  chosen = digests <= digests[order[number - 1]]
  if chosen.all():
    chosen = digests < digests[order[-1]]
  if not chosen.any():  # All are equal.
    chosen[order[:number]] = True
  return chosen


def shared(arrays: Arrays, where: Sequence[Sequence[str]] = ()) -> str:
  """A sentence on test inputs that are training inputs too; "" if there are none.

  Args:
    arrays: Train inputs, train labels, test inputs, test labels.
    where: What the examples of both parts are called, where it is known.
  """
  pairs = check.shared(arrays[0], arrays[2])
  if not pairs:
    return ""
  test, train = pairs[0]
  example = (f"{where[1][test]} is {where[0][train]}" if where else
             f"test example {test} is training example {train}")
  return (f"{len(pairs)} of {len(arrays[2])} test inputs are in the training set "
          f"too ({example}), so test errors may be too few; leave them out of one "
          "part")


def refuse_classes(train: Sequence[str], test: Sequence[str], where: str) -> None:
  """Refuses classes that nothing can be learnt of, or not be tested.

  Args:
    train: Names of the classes of the training set.
    test: Those of the test set.
    where: The file or folder.
  """
  if len(train) < 2:
    raise UserError(f"{where}: has {'no class' if not train else 'one class, '}"
                    f"{', '.join(train)}, and there must be two or more")
  for name in train:
    if len(name.splitlines()) > 1:
      raise UserError(f"{where}: class {name!r} has more than one line in its "
                      "name; call it otherwise")
  for name in test:
    if name not in train:
      raise UserError(
          f"{where}: class {name!r} is in the test set and not in the training "
          f"set, which has {few(train)}; call it as there, or leave it out")


def alike(named: Sequence[str]) -> str:
  """A sentence on classes that might be meant as one; "" if there are none.

  Example:
    >>> alike(["Cat", "cat ", "dog"])
    "classes 'Cat' and 'cat ' differ in capitals or spaces alone; are they one?"
  """
  seen: dict[str, str] = {}
  for name in named:
    if (other := seen.setdefault("".join(name.casefold().split()), name)) != name:
      return (f"classes {other!r} and {name!r} differ in capitals or spaces alone; "
              "are they one?")
  return ""


def few(names: Sequence[str], most: int = 6) -> str:
  """The first of some names, and how many there are more.

  Example:
    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
  """
  more = len(names) - most
  return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _number(name: str) -> int:
  """A hash of a name, in [0, 2**64)."""
  content = name.encode("utf-8", "surrogateescape")
  return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
