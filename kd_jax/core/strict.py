"""JSON as its standard has it, which knows no NaN and no infinity."""

import json
import math
import os
import pathlib
from typing import Any

from kd_jax.core.files import refuse_pipes

# What is nested deeper could be read, but not be worked with.
_DEEPEST = 64


def dumps(value: Any, **options: Any) -> str:
  """A value as JSON, with null for a number that is not finite.

  Example:
    >>> dumps({"loss": float("nan"), "seeds": (0, 1)})
    '{"loss": null, "seeds": [0, 1]}'
  """
  return json.dumps(_finite(value), allow_nan=False, **options)


def loads(text: str) -> Any:
  """What JSON says; any text that is none, or not to be handled, is a ValueError.

  Example:
    >>> loads("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: nested too deeply
  """
  try:
    value = json.loads(text)
    if text.count("[") + text.count("{") > _DEEPEST and _depth(value) > _DEEPEST:
      raise RecursionError
    # Half a character can be escaped, but not be written, printed or hashed.
    if "\\u" in text and "\\ud" in text.lower():
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except RecursionError:
    raise ValueError("nested too deeply") from None


def read(path: str | os.PathLike) -> Any:
  """What a file of JSON says.

  Raises:
    OSError: If it cannot be read.
    ValueError: If it is not JSON.
  """
  path = pathlib.Path(path)
  refuse_pipes(path)
  return loads(path.read_text(encoding="utf-8-sig"))


def _depth(value: Any) -> int:
  """How many lists and objects lie in one another."""
  level, depth = [value], 0
  while level := [one for one in level if isinstance(one, (list, dict))]:
    level = [inner for one in level for inner in (
        one.values() if isinstance(one, dict) else one)]
    depth += 1
  return depth


def _finite(value: Any) -> Any:
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, dict):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [*map(_finite, value)]
  return value
