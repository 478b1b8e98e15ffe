"""Errors on corrupted test images (`data/corruptions.py`), of finished nets."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from kd_jax.core import types
from kd_jax.data import corruptions
from kd_jax.data.views import VIEWS
from kd_jax.runs.jobs import Job
from kd_jax.training import devices as devices_lib


def errors(job: Job, variables: types.Variables) -> dict[str, Any]:
  """What a row says of them, if asked for: of each kind 3 counts, by strength.

  Each count is of all test examples, or of what is held out in their place.
  """
  setup = job.setup
  if setup.corrupted is None:
    return {}
  predict = devices_lib.make_predict(
      setup.devices, job.training.model, VIEWS["none"])
  logits = predict(variables, setup.corrupted, jnp.int32(0))
  wrong = np.asarray(jnp.argmax(logits, -1) != setup.corrupted.label)
  counts = wrong.reshape(
      len(corruptions.KINDS), corruptions.STRENGTHS, -1).sum(-1)
  return {"corrupted_errors": dict(zip(
      corruptions.KINDS, counts.tolist(), strict=True))}


def in_words(counts: dict[str, list[int]]) -> str:
  """Counts for people.

  Example:
    >>> in_words({"blur": [3, 5, 9], "shift": [1, 2, 4]})
    'blur 3 5 9, shift 1 2 4'
  """
  return ", ".join(
      " ".join([kind, *map(str, some)]) for kind, some in counts.items())
