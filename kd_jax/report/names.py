"""Keys and values of a config as people write them, and in which order."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import itertools
import json
from typing import Any

from kd_jax import methods

Settings = Mapping[str, Any]
# Makes of a label of a table a link to the rows of its line.
Linked = Callable[[str, Sequence[Mapping[str, Any]]], str]

MISSING = "-"
# In no column: runs that differ in these alone belong to one point.
SEEDS = ("seed", "teacher.seed", "transfer.seed")
_SHORT = {"temperature": "T", "student.widths": "widths"}
_FIRST = ("net", "student.widths", "alpha", "temperature")
# A prefix that says nothing to who knows that students are compared.
_DROPPED = ("student.", "optimizer.", "data.", "nets.")


def shown(value: Any) -> str:
  """A value as text, alike for 2 and 2.0, for tuples and lists.

  Example:
    >>> shown(2.0), shown([30, 30]), shown(None), shown(1e-3)
    ('2', '30x30', 'none', '0.001')
  """
  if value is None:
    return "none"
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, (int, float)):
    # 12 digits tell settings apart, and 0.1 + 0.2 from nothing that was meant.
    return f"{value:.12g}"
  if isinstance(value, (list, tuple)):
    return "x".join(map(shown, value)) if value else "()"
  if isinstance(value, dict):
    return json.dumps(value, sort_keys=True)
  return str(value)


def briefly(value: Any) -> str:
  """A value as the page shows it: repeated numbers are counted, pairs have arrows.

  Example:
    >>> briefly([32] * 30).split(), briefly([["a", "b"], ["c", "d"]])
    (['30', 'x', '32'], 'a→b, c→d')
  """
  if not isinstance(value, (list, tuple)):
    return shown(value)
  if value and all(isinstance(one, (list, tuple)) for one in value):
    return ", ".join("→".join(map(shown, one)) for one in value)
  runs = [(one, len([*same])) for one, same in itertools.groupby(map(shown, value))]
  if max((times for _, times in runs), default=0) < 4:
    return shown(value)
  # Spaces at which no line ends.
  return ", ".join(
      f"{times}\u00a0x\u00a0{one}" if times > 1 else one for one, times in runs)


def order(value: Any) -> tuple:
  """A key to sort values of all kinds by: numbers, then lists, then text."""
  if value is None:
    return (0,)
  if isinstance(value, (int, float)):
    return (1, float(value))
  if isinstance(value, (list, tuple)):
    return (2, tuple(map(order, value)))
  return (3, shown(value))


def columns(keys: Iterable[str]) -> list[str]:
  """Keys in the order in which they are told: widths, alpha, T, others."""
  rank = lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST)
  return sorted(set(keys), key=lambda key: (rank(key), key))


def short(keys: Iterable[str]) -> dict[str, str]:
  """A short name for each key, no two alike.

  Example:
    >>> short(["temperature", "optimizer.b2", "teacher.widths"])
    {'temperature': 'T', 'optimizer.b2': 'b2', 'teacher.widths': 'teacher widths'}
  """
  return dict(_names_of(tuple(keys)))


@functools.lru_cache(64)  # Each of many points has a label of the same keys.
def _names_of(keys: tuple[str, ...]) -> dict[str, str]:
  full = {key: key.replace(".", " ").replace("_", " ") for key in keys}
  names = {}
  for key in full:
    left = key
    for prefix in _DROPPED:
      left = left.removeprefix(prefix)
    names[key] = _SHORT.get(key, left.replace(".", " ").replace("_", " "))
  taken = collections.Counter(names.values())
  return {key: name if taken[name] == 1 else full[key]
          for key, name in names.items()}


def label(settings: Settings, keys: Iterable[str]) -> str:
  """Settings in a phrase, of those keys that they have.

  Example:
    >>> label({"alpha": 0.9, "temperature": 8.0}, ["alpha", "temperature"])
    'alpha 0.9, T 8'
  """
  keys = tuple(keys)
  names = _names_of(keys)
  return ", ".join(
      f"{names[key]} {shown(settings[key])}" for key in keys if key in settings)


def brief(text: str, most: int = 56) -> str:
  """A label cut to a length that leaves a plot its room.

  Example:
    >>> brief("learning rate 0.001, T 8", 16)
    'learning rate 0…'
  """
  return text if len(text) <= most else text[:most - 1] + "…"


def some(items: Sequence[Any], between: str = ", ", most: int = 12) -> str:
  """The first of many things in a phrase, and how many more there are.

  Example:
    >>> some([3, 4, 5], most=2)
    '3, 4 and 1 more'
  """
  more = f" and {len(items) - most:,} more" if len(items) > most else ""
  return between.join(map(str, items[:most])) + more


def same(a: Any, b: Any) -> bool:
  """Whether two values are the same setting."""
  return shown(a) == shown(b)


def setting(row: Mapping[str, Any]) -> dict[str, Any]:
  """The overrides of a row but for the seeds, and its net: what makes its point."""
  net = {"net": row["net"]} if "net" in row else {}
  return net | {key: value for key, value in row["overrides"].items()
                if key not in SEEDS}


def identity(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
  """The setting of a row as text: alike for all rows of a point."""
  return tuple(sorted(
      [(key, shown(value)) for key, value in setting(row).items()]))


def teacher(row: Mapping[str, Any]) -> str | None:
  """The fingerprint of what a row learned from; None if its loss has no such term.

  Example:
    >>> row = {"method": "kd", "teacher_fingerprint": "b42"}
    >>> teacher(row | {"overrides": {"alpha": 0.9}})
    'b42'
    >>> teacher(row | {"overrides": {"alpha": 0.0}})  # hard labels alone
  """
  settings = row.get("overrides", {})
  weight = settings.get("soft_weight")
  if weight is None:
    weight = settings.get("alpha")
  learns = _learns(str(settings.get("method", row.get("method"))), shown(weight))
  return (row.get("teacher_fingerprint") or None) if learns else None


@functools.lru_cache(1000)
def _learns(method: str, weight: str) -> bool:
  """Whether a loss has a term of the teacher, by the weight of its soft term."""
  # What is added to a method has a weight of its own.
  parts = methods.parts(method)
  return parts != ["hard"] and (len(parts) > 1 or weight != shown(0))


def idle(settings: Settings) -> set[str]:
  """Keys that change nothing under these settings.

  Example:
    >>> idle({"alpha": 0.0})
    {'temperature'}
  """
  if settings.get("method") == "hard":
    return {"temperature", "alpha"}
  method = methods.METHODS.get(methods.parts(str(settings.get("method")))[0])
  if method is not None and not method.softens:
    return {"temperature"}
  if same(settings.get("alpha"), 0) or same(settings.get("soft_weight"), 0):
    return {"temperature"}
  return set()
