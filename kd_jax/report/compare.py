"""Points against their reference point, paired by teacher and seed."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from kd_jax.core.errors import UserError, nearest
from kd_jax.report import names, statistics
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Point, Run, run

Shown = tuple[str, ...]  # Values as text.


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
  find = _finder(references, wanted, keys, common)
  errors = [_by_run(other.good, alone=not several) for other in references]
  found: list[dict[str, Any]] = []
  for point in points:
    if is_wanted(point):
      found.append({"is_reference": True})
    elif (place := find(point)) is not None:
      found.append({
          "reference": names.label(references[place].values, keys)
                       or "the reference",
          **_difference(point, errors[place], several=several)})
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
    point: Point, errors: Mapping[Run, float], *, several: bool
) -> dict[str, Any]:
  """The fields of a point's difference from the runs of another."""
  pairs = _pairs(point.good, errors)
  if not pairs:
    return {"pairs": 0}
  if several:
    # Seeds under one teacher are no independent word on teachers.
    pairs = {teacher: [_middle(both)] for teacher, both in pairs.items()}
  both = [pair for name in sorted(pairs) for pair in pairs[name]]
  test = statistics.paired([a for a, _ in both], [b for _, b in both])
  return {"difference": test.difference, "difference_low": test.low,
          "difference_high": test.high, "p": test.p, "pairs": test.n}


def _middle(pairs: list[tuple[float, float]]) -> tuple[float, float]:
  mean = lambda values: sum(values) / len(values)
  return mean([a for a, _ in pairs]), mean([b for _, b in pairs])


def _by_run(rows: Sequence[Row], *, alone: bool) -> dict[Run, float]:
  """Test errors by teacher and seed.

  A reference may have no teacher (hard labels only), or each point one teacher
  of its own (`alone`); then the seed decides.
  """
  judged = [row for row in rows if row.get("test_errors") is not None]
  errors: dict[Run, float] = {run(row): row["test_errors"] for row in judged}
  if alone:
    errors |= {(None, row.get("seed")): row["test_errors"] for row in judged}
  return errors


def _pairs(
    rows: Sequence[Row], errors: Mapping[Run, float]
) -> dict[str, list[tuple[float, float]]]:
  """Test errors of runs beside those of the same teacher and seed, by teacher."""
  found: dict[str, list[tuple[float, float]]] = {}
  for row in sorted(rows, key=lambda row: row.get("seed") or 0):
    teacher, seed = run(row)
    other = errors.get((teacher, seed), errors.get((None, seed)))
    if other is not None and row.get("test_errors") is not None:
      found.setdefault(teacher or "", []).append((row["test_errors"], other))
  return found


def _correct(found: Sequence[dict[str, Any]]) -> None:
  """Adds p corrected within those that share a reference."""
  families: dict[str, dict[int, float]] = {}
  for index, fields in enumerate(found):
    if fields.get("p") is not None:
      families.setdefault(fields["reference"], {})[index] = fields["p"]
  for family in families.values():
    for index, p in statistics.holm(family).items():
      found[index]["p_holm"] = p
