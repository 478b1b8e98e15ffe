"""Features to judge a loss on, and what a loss of features may not look at."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import numpy as np

from kd_jax.conformance import oracle
from kd_jax.conformance.adapters import Case

# Of a map of an example, where nothing else is asked for; no size is the batch's.
SHAPE = (4, 4, 5)
_SEED = 20141219  # Of arXiv 1412.6550, by its date.


class Taps(NamedTuple):
  """What a loss of features is given of each net.

  Attributes:
    shapes: Of an example's features, a shape a tap.
    axis: Of the channels in a batch, 1 or -1.
  """

  shapes: tuple[tuple[int, ...], ...] = (SHAPE,)
  axis: int = -1

  def of(self, rows: Any) -> Any:
    """Rows `[batch, size]` of any framework as a tap, or as a tuple of them."""
    found, end = [], 0
    for shape in self.shapes:
      begin, end = end, end + math.prod(shape)
      found.append(rows[:, begin:end].reshape((rows.shape[0], *shape)))
    return found[0] if len(found) == 1 else tuple(found)

  def changed(self, rows: np.ndarray, name: str) -> np.ndarray:
    """The rows after what an invariance says; alike for taps of one size."""
    taps = self.of(rows)
    changed = []
    for tap in taps if isinstance(taps, tuple) else (taps,):
      draw = np.random.default_rng(_SEED + 1)
      last = INVARIANCES[name].change(draw, np.moveaxis(tap, self.axis, -1))
      changed.append(np.moveaxis(last, -1, self.axis).reshape(len(rows), -1))
    return np.concatenate(changed, axis=1)

  def problem(self) -> tuple[np.ndarray, np.ndarray]:
    """Features of student and teacher, `[batch, size]`, exact in bfloat16 too."""
    draw = np.random.default_rng(_SEED)
    size = sum(map(math.prod, self.shapes))
    rows = lambda: np.round(8 * draw.normal(0, 1, (oracle.EXAMPLES, size))) / 8
    return rows(), rows()


def case(student: np.ndarray, teacher: np.ndarray, dtype: str = "float64") -> Case:
  """A question about features, which has neither labels nor T nor alpha."""
  return Case(student, teacher, np.zeros(len(student), int), 1.0, 1.0, dtype)


class Invariance(NamedTuple):
  """A change of features that a loss may claim not to see.

  Attributes:
    meaning: What does not change a loss of this name.
    change: Of a tap with channels last, `[batch, ..., channels]`.
    both: Whether both nets change together, or each alone.
  """

  meaning: str
  change: Callable[[np.random.Generator, np.ndarray], np.ndarray]
  both: bool = False


def _order(draw: np.random.Generator, number: int) -> np.ndarray:
  """Another order, if there is one."""
  order = draw.permutation(number)
  other = number < 2 or np.any(np.diff(order) != 1)
  return order if other else _order(draw, number)


def _rotation(draw, tap):
  return tap @ np.linalg.qr(draw.normal(size=(tap.shape[-1],) * 2))[0]


def _examples(draw, tap):
  return tap * draw.uniform(0.5, 4, (len(tap),) + (1,) * (tap.ndim - 1))


def _pixels(draw, tap):
  flat = tap.reshape(len(tap), -1, tap.shape[-1])
  return flat[:, _order(draw, flat.shape[1])].reshape(tap.shape)


INVARIANCES = {
    "examples": Invariance(
        "the examples in another order",
        lambda draw, tap: tap[_order(draw, len(tap))], both=True),
    "pixels": Invariance(
        "the pixels in another order, the same in both nets", _pixels, both=True),
    "channels": Invariance(
        "the channels of a net in another order",
        lambda draw, tap: tap[..., _order(draw, tap.shape[-1])]),
    "rotation": Invariance(
        "the channels of a net mixed by an orthogonal matrix", _rotation),
    "scale": Invariance(
        "a net's features times a number > 0", lambda draw, tap: 3.0 * tap),
    "example-scale": Invariance(
        "a net's features times a number > 0 an example", _examples),
    "channel-scale": Invariance(
        "a net's features times a number > 0 a channel",
        lambda draw, tap: tap * draw.uniform(0.5, 4, tap.shape[-1])),
    "shift": Invariance(
        "a constant a channel added to a net's features",
        lambda draw, tap: tap + draw.normal(size=tap.shape[-1])),
}
