"""A sweep is data: a list of points, each a dict of dotted config keys.

  product({"temperature": (1, 4, 20), "seed": range(5)})      15 points
  zipped({"student.widths": ((30, 30), (800, 800)), "epochs": (40, 20)})
  chain(product(...), product(...))                           one after the other
  fixed({"alpha": 0.0})                                       a single point

Keys whose values a program takes as numbers (`traced`) make *lanes* of one
compiled program; all others split a sweep into *groups*, a compilation each.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import Any, NamedTuple

import ml_collections

from kd_jax import config as config_lib
from kd_jax.config import schema
from kd_jax.core import strict
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home

Point = dict[str, Any]
Sweep = list[Point]
Part = Mapping[str, Iterable[Any]] | Sweep


class Lane(NamedTuple):
  """A run of a sweep: what was asked for, and the flat config that it makes."""

  point: Point
  values: dict[str, Any]

  @property
  def seed(self) -> int:
    return self.values["seed"]

  @property
  def name(self) -> str:
    """The point without its seed, as rows and tables call it."""
    return title({key: value for key, value in self.point.items()
                  if key != "seed"}) or "as configured"


def product(*parts: Part) -> Sweep:
  """Every combination of the parts; the last varies fastest.

  Args:
    *parts: Axes as `{key: values}`, or sweeps.

  Returns:
    The points, as many as the product of the lengths.

  Raises:
    UserError: If a key is unknown, or stands in two parts.

  Example:
    >>> product({"temperature": (1.0, 4.0), "seed": (0, 1)})[1]
    {'temperature': 1.0, 'seed': 1}
  """
  return _merged(itertools.product(*_sweeps(parts)))


def zipped(*parts: Part) -> Sweep:
  """The parts side by side: first with first, second with second.

  Example:
    >>> zipped({"epochs": (40, 20)}, {"batch_size": (128, 256)})
    [{'epochs': 40, 'batch_size': 128}, {'epochs': 20, 'batch_size': 256}]
  """
  sweeps = _sweeps(parts)
  lengths = [len(sweep) for sweep in sweeps]
  if len(set(lengths)) > 1:
    raise UserError(f"zipped: the parts have {lengths} points; must be alike")
  return _merged(zip(*sweeps, strict=True))


def chain(*sweeps: Sweep) -> Sweep:
  """One sweep after the other."""
  return _checked([dict(point) for sweep in sweeps for point in sweep])


def fixed(values: Mapping[str, Any]) -> Sweep:
  """A sweep of a single point; in a product, it sets keys in all the others."""
  return _checked([dict(values)])


def parse(words: Sequence[str]) -> Sweep:
  """A sweep from a command line: the product of words as `KEY=VALUE,VALUE`.

  Example:
    >>> len(parse(["temperature=1,2.5,4", "student.widths=(30,30),(300,300)"]))
    6
  """
  axes: dict[str, list[Any]] = {}
  for word in words:
    key, _, text = word.partition("=")
    _check_key(key)
    axes[key] = _values(key, text)
  return product(axes) if axes else []


def read(file: str) -> Sweep:
  """A sweep from a JSON file: a list of objects of dotted keys."""
  try:
    points = strict.read(at_home(file))
  except (OSError, ValueError) as error:
    raise UserError(f"--sweep={file}: cannot be read as JSON: {error}") from None
  if not isinstance(points, list) or not all(
      isinstance(point, dict) for point in points):
    raise UserError(f"--sweep={file}: must be a list of objects")
  return _checked(points)


def lanes(config: Mapping[str, Any], points: Iterable[Point]) -> list[Lane]:
  """A lane for each point; a point given twice counts once.

  Args:
    config: What the points change, a ConfigDict or its flat values.
    points: The sweep.

  Raises:
    UserError: If a point sets a value that is out of range.
  """
  values = config_lib.flatten(config)
  # A lane tells only that it is of a sweep: each is checked whole, and all would
  # check all points.
  values = {**values, "sweep.points": values["sweep.points"][:1]}
  plain = ({key: schema.plain(value) for key, value in point.items()}
           for point in points)
  different = {repr(sorted(point.items())): point for point in plain}
  return [Lane(point, config_lib.changed(values, point))
          for point in different.values()]


def applied(
    config: Mapping[str, Any], point: Point
) -> ml_collections.ConfigDict:
  """A copy of a config, or of flat values, with a point's values, checked."""
  return config_lib.nested(config_lib.changed(config_lib.flatten(config), point))


def matches(point: Point, reference: Mapping[str, Any]) -> bool:
  """Whether a point sets all that a (non-empty) reference sets."""
  return bool(reference) and all(
      key in point and schema.plain(point[key]) == schema.plain(value)
      for key, value in reference.items())


def title(values: Mapping[str, Any]) -> str:
  """Keys and values as people read them: `widths=30x30 temperature=2.5`."""
  short = lambda key: key.removeprefix("student.").removeprefix("optimizer.")
  return " ".join(f"{short(key)}={_shown(value)}" for key, value in values.items())


def _sweeps(parts: Sequence[Part]) -> list[Sweep]:
  """Parts as sweeps: of a dict, each key is an axis of its own."""
  sweeps = []
  for part in parts:
    if isinstance(part, Mapping):
      for key, values in part.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
          raise UserError(f"sweep of {key}: {values!r} must be several values")
        sweeps.append([{key: value} for value in values])
    else:
      sweeps.append(part)
  return sweeps


def _merged(rows: Iterable[Sequence[Point]]) -> Sweep:
  merged = []
  for row in rows:
    point: Point = {}
    for part in row:
      twice = set(point) & set(part)
      if twice:
        raise UserError(f"sweep: {sorted(twice)[0]} stands in two parts")
      point |= part
    merged.append(point)
  return _checked(merged)


def _checked(points: Sweep) -> Sweep:
  for key in {key for point in points for key in point}:
    _check_key(key)
  return points


def _check_key(key: str) -> None:
  found = schema.find(key)
  if found is None:
    raise UserError(f"sweep of {key}: {config_lib.unknown(key)}")
  if found.affects == schema.RUN:
    raise UserError(f"sweep of {key}: makes no difference to a run")


def _values(key: str, text: str) -> list[Any]:
  """`1,2.5,none` or `(30,30),(300,300)` as values; bare words are text."""
  try:
    found = ast.literal_eval(f"[{text}]")
  except (ValueError, SyntaxError):
    found = [schema.literal(word) for word in text.split(",") if word]
  if not found:
    raise UserError(f"sweep of {key}: needs values, as in {key}=1,2,4")
  return [schema.plain(value) for value in found]


def _shown(value: Any) -> str:
  if isinstance(value, tuple):
    return "x".join(map(str, value))
  return f"{value:g}" if isinstance(value, float) else str(value)
