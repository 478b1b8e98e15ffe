"""JSON as its standard has it, which knows no NaN and no infinity."""

import json
import math
from typing import Any


def dumps(value: Any, **options: Any) -> str:
  """A value as JSON, with null for a number that is not finite.

  Example:
    >>> dumps({"loss": float("nan"), "seeds": (0, 1)})
    '{"loss": null, "seeds": [0, 1]}'
  """
  return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, dict):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, (list, tuple)):
    return [*map(_finite, value)]
  return value
