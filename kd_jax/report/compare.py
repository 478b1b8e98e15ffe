"""Points against their reference point."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from kd_jax.core.errors import UserError, nearest
from kd_jax.report import clustered, names, statistics
from kd_jax.report.sweep import Point

Shown = tuple[str, ...]  # Values as text.


def compared(
    points: Sequence[Point],
    reference: Mapping[str, Any],
    keys: Sequence[str],
    common: Mapping[str, Any],
    cells: clustered.Cells,
) -> list[Point]:
  """The points, with their differences from the reference of each.

  Args:
    points: All points of the sweep.
    reference: What the reference is: settings by full or short name.
    keys: The varying keys.
    common: The others, with their values.
    cells: The points as cells.

  Raises:
    UserError: If a key is not known, or no point is the reference.
  """
  wanted = _wanted(reference, [*keys, *common])
  is_wanted = lambda point: _has({**common, **point.values}, wanted)
  references = [point for point in points if is_wanted(point)]
  if not references:
    raise UserError(
        f"--reference {_as_text(reference)}: no point is so; there are "
        + ", ".join(f"{key}={value}" for key, value in _known(
            points, common, wanted)))
  find = _finder(references, wanted, keys, common)
  found: list[dict[str, Any]] = []
  for point in points:
    if is_wanted(point):
      found.append({"is_reference": True})
    elif (place := find(point)) is not None:
      found.append({
          "reference": names.label(references[place].values, keys)
                       or "the reference",
          **_difference(point, references[place], cells)})
    else:
      found.append({})
  _correct(found)
  return [point._replace(**fields) if fields else point
          for point, fields in zip(points, found)]


def _has(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
  return all(key in settings and names.same(settings[key], value)
             for key, value in wanted.items())


def _as_text(reference: Mapping[str, Any]) -> str:
  return " ".join(
      f"{key}={names.shown(value)}" for key, value in reference.items())


def _known(points, common, wanted) -> list[tuple[str, str]]:
  """A few values that the points have of the wanted keys."""
  found = {(key, names.shown(value)) for point in points
           for key, value in {**common, **point.values}.items() if key in wanted}
  return sorted(found)[:12]


def _wanted(reference: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
  """The reference by full names."""
  by_name = {**{name: key for key, name in names.short(keys).items()},
             **{key: key for key in keys}}
  for name in reference:
    if name not in by_name:
      raise UserError(
          f"--reference {name}: no run sets that; {nearest(name, by_name)}")
  return {by_name[name]: value for name, value in reference.items()}


def _finder(
    references: Sequence[Point],
    wanted: Mapping[str, Any],
    keys: Sequence[str],
    common: Mapping[str, Any],
) -> Callable[[Point], int | None]:
  """What finds the place of the reference whose other settings are a point's."""
  rest = [key for key in keys if key not in wanted]
  # By the keys that change nothing at a reference (the T of an alpha of 0): by the
  # values of all others and of these, the first of the references.
  known: dict[tuple[int, ...], dict[Shown, dict[Shown, int]]] = {}
  shown = lambda point: tuple(names.shown(point.values.get(key)) for key in rest)
  for place, other in enumerate(references):
    idle = names.idle({**common, **other.values})
    free = tuple(at for at, key in enumerate(rest) if key in idle)
    must, may = _parts(shown(other), free)
    known.setdefault(free, {}).setdefault(must, {}).setdefault(may, place)

  @functools.cache
  def find(values: Shown) -> int | None:
    found = []
    for free, groups in known.items():
      must, may = _parts(values, free)
      for others, place in groups.get(must, {}).items():
        # That with the same value comes first.
        found.append((sum(a != b for a, b in zip(may, others)), place))
    return min(found)[1] if found else None
  return lambda point: find(shown(point))


def _parts(values: Shown, free: tuple[int, ...]) -> tuple[Shown, Shown]:
  """The values that must be alike, and those that may differ."""
  return (tuple(value for at, value in enumerate(values) if at not in free),
          tuple(values[at] for at in free))


def _difference(
    point: Point, other: Point, cells: clustered.Cells
) -> dict[str, Any]:
  """The fields of a point's difference from another."""
  if point.errors is None or other.errors is None:
    return {"pairs": 0}
  test = cells.difference(point.cell, other.cell)
  if test is None:
    return {"pairs": 0}
  fields = {"difference": test.difference, "difference_low": test.low,
            "difference_high": test.high, "p": test.p, "pairs": test.n}
  over = {} if test.low is None else {
      "difference_over": cells.over(point.cell, other.cell)}
  return fields | over


def _correct(found: Sequence[dict[str, Any]]) -> None:
  """Adds p corrected within those that share a reference."""
  families: dict[str, dict[int, float]] = {}
  for index, fields in enumerate(found):
    if fields.get("p") is not None:
      families.setdefault(fields["reference"], {})[index] = fields["p"]
  for family in families.values():
    for index, p in statistics.holm(family).items():
      found[index]["p_holm"] = p
