"""Points against their reference point, paired by teacher and seed."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from kd_jax.core.errors import UserError, nearest
from kd_jax.report import names, statistics
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, run


def compared(
    points: Sequence[Point],
    reference: Mapping[str, Any],
    keys: Sequence[str],
    common: Mapping[str, Any],
    *,
    several: bool,
) -> list[Point]:
  """The points, with their differences from the reference of each.

  Args:
    points: All points of the sweep.
    reference: What the reference is: settings by full or short name.
    keys: The varying keys.
    common: The others, with their values.
    several: Whether intervals are over teachers.

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
  found = []
  for point in points:
    if is_wanted(point):
      found.append(dataclasses.replace(point, is_reference=True))
      continue
    other = _reference_of(point, references, wanted, keys, common)
    if other is not None:
      point = _difference(point, other, keys, several=several)
    found.append(point)
  return _holm(found)


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


def _reference_of(
    point: Point,
    references: Sequence[Point],
    wanted: Mapping[str, Any],
    keys: Sequence[str],
    common: Mapping[str, Any],
) -> Point | None:
  """The reference whose other settings are those of the point."""
  best = None
  for other in references:
    idle = names.idle({**common, **other.values})
    unlike = {key for key in keys if key not in wanted and not names.same(
        point.values.get(key), other.values.get(key))}
    # Of references that differ in what changes nothing there (the T of an alpha
    # of 0), that with the same value comes first.
    if unlike <= idle and (best is None or len(unlike) < best[0]):
      best = (len(unlike), other)
  return best[1] if best else None


def _difference(
    point: Point, other: Point, keys: Sequence[str], *, several: bool
) -> Point:
  """The point with its difference from another."""
  fields: dict[str, Any] = {"reference": names.label(other.values, keys)
                          or "the reference", "pairs": 0}
  pairs = _pairs(point.good, other.good, alone=not several)
  if pairs:
    if several:
      # Seeds under one teacher are no independent word on teachers.
      pairs = {teacher: [_middle(both)] for teacher, both in pairs.items()}
    both = [pair for name in sorted(pairs) for pair in pairs[name]]
    test = statistics.paired([a for a, _ in both], [b for _, b in both])
    fields |= {"difference": test.difference, "difference_low": test.low,
             "difference_high": test.high, "p": test.p, "pairs": test.n}
  return dataclasses.replace(point, **fields)


def _middle(pairs: list[tuple[float, float]]) -> tuple[float, float]:
  mean = lambda values: sum(values) / len(values)
  return mean([a for a, _ in pairs]), mean([b for _, b in pairs])


def _pairs(
    rows: Sequence[Row], others: Sequence[Row], *, alone: bool
) -> dict[str, list[tuple[float, float]]]:
  """Test errors of runs with the same teacher and seed, by teacher.

  A reference may have no teacher (hard labels only), or each point one teacher
  of its own (`alone`); then the seed decides.
  """
  fields = [row for row in others if row.get("test_errors") is not None]
  errors = {run(row): row["test_errors"] for row in fields}
  if alone:
    errors |= {(None, row.get("seed")): row["test_errors"] for row in fields}
  found: dict[str, list[tuple[float, float]]] = {}
  for row in sorted(rows, key=lambda row: row.get("seed") or 0):
    teacher, seed = run(row)
    other = errors.get((teacher, seed), errors.get((None, seed)))
    if other is not None and row.get("test_errors") is not None:
      found.setdefault(teacher or "", []).append((row["test_errors"], other))
  return found


def _holm(points: Sequence[Point]) -> list[Point]:
  """The points with p corrected within those that share a reference."""
  families: dict[str, dict[int, float]] = {}
  for index, point in enumerate(points):
    if point.reference is not None and point.p is not None:
      families.setdefault(point.reference, {})[index] = point.p
  corrected: dict[int, float] = {}
  for family in families.values():
    corrected |= statistics.holm(family)
  return [dataclasses.replace(point, p_holm=corrected.get(index))
          for index, point in enumerate(points)]
