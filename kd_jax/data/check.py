"""Do arrays mean what a net will take them for? And what they are, in words."""

from collections.abc import Callable
import hashlib

import numpy as np

# A test set may differ from its training set so many times in size, not more.
_ALIKE = 20.0
# Examples of each part that are looked at, and how rarely chance may explain them.
_LOOKED_AT = 1000
_CHANCE = 1e-6
# Numbers of this size are what nets are set up for.
_USUAL = (0.1, 10.0)
# Classes for each class that has an example, where the labels alone tell of both.
_SPARSE = 2


def labels(
    train: np.ndarray, test: np.ndarray, num_classes: int, *, counted: bool
) -> str:
  """Why labels cannot be those of a task, with the remedy; or "".

  Args:
    train: Of the training set, integers `[N]`; -1 where unknown.
    test: Of the test set.
    num_classes: Number of classes.
    counted: Whether that number is the largest label's, plus one.
  """
  last = num_classes - 1
  for label in (train, test):
    low, high = label.min(), label.max()
    if low < -1 or high > last:
      return (f"labels from {low} to {high}, not within 0 to {last} (-1: unknown); "
              "is data.num_classes right?")
  if (test < 0).all():
    return "no test example has a label, so there is no test error; label some"
  found, counts = np.unique(np.concatenate([train, test]), return_counts=True)
  unknown = int(found[0] == -1)
  found, counts = found[unknown:], counts[unknown:]
  if not counted:
    return ""
  ends = lambda y: np.array([y[y >= 0].min(), y.max()])
  if (train >= 0).any() and (abs(gap := ends(test) - ends(train)) == 1).all() and (
      gap[0] == gap[1]):
    low, high = ends(train)
    return (f"training labels run from {low} to {high}, test labels from "
            f"{low + gap[0]} to {high + gap[0]}; number both alike, or give "
            f"--config.data.num_classes={num_classes} if it is meant")
  if len(found) < 2:
    more = ("" if not unknown else
            " or unknown (-1)" if not last else
            "; -1 means unknown: if it is a class, number classes from 0")
    return (f"all labels are {last}{more}, so there is nothing to learn; is "
            "data.num_classes right?")
  if num_classes > _SPARSE * len(found):
    first = ", ".join(map(str, found[:-1][:4])) + (
        ", ..." if len(found) > 5 else "")
    return (
        f"labels are {first}, {last} ({counts[-1]} of {counts.sum()} examples have "
        f"the last), so {num_classes - len(found)} of {num_classes} classes would "
        f"have no example; number them 0 to {len(found) - 1}, as numpy.unique(y, "
        "return_inverse=True) does, leave out what is no label, or give "
        f"--config.data.num_classes={num_classes} (100000 at most) if it is meant")
  return ""


def weights(
    given: np.ndarray, number: int,
    named: Callable[[int], str] = "w_train[{}]".format,
) -> str:
  """Why numbers cannot be the weights of the training examples, or "".

  Args:
    given: One for each of them, `[N]`.
    number: N, how many there are.
    named: What the weight in a place is called.

  Example:
    >>> weights(np.array([1.0, -2.0]), 2)
    'w_train[1] is -2; weights must be numbers >= 0 that float32 holds'
  """
  if given.shape != (number,) or given.dtype.kind not in "biuf":
    return (f"weights must be numbers [{number}], one for each training example; "
            f"got {given.dtype} {list(given.shape)}")
  with np.errstate(over="ignore"):
    held = given.astype(np.float32)
  if (wrong := ~(np.isfinite(held) & (held >= 0))).any():
    place = int(wrong.argmax())
    return (f"{named(place)} is {given[place]:g}; weights must be numbers >= 0 "
            "that float32 holds")
  return "" if held.any() else (
      "the weights of all training examples are 0; give some a weight")


def inputs(train: np.ndarray, test: np.ndarray) -> str:
  """Why inputs `[N, ...]` cannot be those of one task, with the remedy; or ""."""
  shape, of_test = train.shape[1:], test.shape[1:]
  if train.ndim == 4 and shape[0] <= 4 < min(shape[1:]):
    return (f"images are {_times(shape)}, so their channels come first; save "
            "numpy.moveaxis(x, 1, -1)")
  if shape != of_test:
    return f"training inputs {shape} differ in shape from test inputs {of_test}"
  if train.dtype != test.dtype:
    return (f"training inputs are {train.dtype} ({_range(train)}), test inputs "
            f"{test.dtype} ({_range(test)}); save both alike")
  for part, x in (("training", train), ("test", test)):
    if x.dtype.kind == "f" and len(bad := np.argwhere(~np.isfinite(x))):
      return (f"{len(bad)} NaN or infinite numbers in "
              f"{len(np.unique(bad[:, 0]))} of {len(x)} {part} inputs; leave these "
              "out, or put numbers there")
    if len(x) > 1 and all(np.array_equal(each, x[0]) for each in x):
      return f"all {part} inputs are the same"
  if train.dtype.kind != "i":
    times = _times_as_large(train, test)
    if not 1 / _ALIKE < times < _ALIKE:
      return (f"test inputs are {times:.2g} times as large as training inputs "
              f"({_range(test)}, training {_range(train)}); scale both alike")
  if train.dtype.kind == "f":
    for one, other, words in ((train, test, ("training", "test")),
                              (test, train, ("test", "training"))):
      if _lacks_negatives(other, one):
        return (
            f"most pixels or columns of {words[0]} inputs have numbers below 0, "
            f"those of {words[1]} inputs none, as if one part were standardised "
            f"({_range(one)}, {_range(other)}); scale both alike")
  return ""


def in_words(train: np.ndarray, test: np.ndarray) -> str:
  """What inputs are: their shape, type and range."""
  if train.ndim == 4:
    what = f"{_times(train.shape[1:])} {train.dtype} pixels"
  else:
    kind = ("integers (token ids, or features as they are)"
            if train.dtype.kind == "i" else str(train.dtype))
    what = f"a {_times(train.shape)} table of {kind}"
  of_test = "" if _range(train) == _range(test) else f" (test {_range(test)})"
  return f"{what}, {_range(train)}{of_test}"


def remarks(train: np.ndarray, scale: str) -> list[str]:
  """What may be wrong with inputs, and may be meant.

  Args:
    train: Of the training set.
    scale: As of `preprocess.of`.
  """
  found, rows = [], train.reshape(len(train), -1)
  shape = train.shape[1:]
  if train.ndim == 4 and shape[0] < shape[1] == shape[2]:
    found.append(f"images of {_times(shape)} have {shape[2]} channels; if their "
                 f"channels come first, {shape[0]} of them, save "
                 "numpy.moveaxis(x, 1, -1)")
  if train.ndim == 4 and (same := (rows.max(1) == rows.min(1)).sum()):
    found.append(f"{same} training images are of one colour")
  if train.dtype.kind == "f" and train.ndim == 2 and (
      same := (rows.max(0) == rows.min(0)).sum()):
    found.append(f"{same} of {rows.shape[1]} columns are constant")
  size = max(abs(float(rows.max())), abs(float(rows.min())))
  if train.dtype == np.uint8:
    size /= 255
  if scale == "unit" and train.dtype.kind != "i" and not (
      _USUAL[0] <= size <= _USUAL[1]):
    found.append(
        f"inputs reach a net as numbers up to {size:.3g} in size, where about 1 is "
        "usual; --config.data.scale=standard gives them mean 0 and deviation 1")
  return found


def shared(train: np.ndarray, test: np.ndarray) -> list[tuple[int, int]]:
  """Pairs `(test, train)` of equal inputs: a test example, the first equal to it.

  Example:
    >>> shared(np.array([[1], [2], [2]]), np.array([[3], [2]]))
    [(1, 1)]
  """
  digest = lambda x: hashlib.blake2b(
      np.ascontiguousarray(x).data, digest_size=16).digest()
  first: dict[bytes, int] = {}
  for place, x in enumerate(train):
    first.setdefault(digest(x), place)
  return [(place, first[found]) for place, x in enumerate(test)
          if (found := digest(x)) in first]


def _times_as_large(train: np.ndarray, test: np.ndarray) -> float:
  """How many times as large test inputs are: the median over pixels or columns."""
  sizes = [np.abs(_some(x), dtype=np.float32).mean(0) for x in (train, test)]
  both = (sizes[0] > 0) & (sizes[1] > 0)
  return float(np.median(sizes[1][both] / sizes[0][both])) if both.any() else 1.0


def _lacks_negatives(other: np.ndarray, one: np.ndarray) -> bool:
  """Whether most pixels or columns are below 0 in `one` but by no chance here.

  If a part p of the examples is below 0, none of n others is with (1 - p)**n.
  """
  one, other = _some(one), _some(other)
  chance = (1 - (one < 0).mean(0)) ** len(other)
  used = one.any(0) | other.any(0)
  return bool(
      ((chance < _CHANCE) & (other >= 0).all(0))[used].sum() > 0.5 * used.sum())


def _some(x: np.ndarray) -> np.ndarray:
  """Some of the examples, spread over all, as rows."""
  some = x[::max(len(x) // _LOOKED_AT, 1)]
  return some.reshape(len(some), -1)


def _range(x: np.ndarray) -> str:
  return f"{x.min():.4g} to {x.max():.4g}"


def _times(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))
