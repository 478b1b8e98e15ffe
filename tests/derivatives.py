"""Gradients for tests of losses: jax's of ours, and differences of an oracle."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of_batches(losses: Mapping[str, Callable[..., Any]]):
  """`found(name, s, t, mask)`: value, gradients in s and t of a loss of a batch."""
  @jax.jit  # All at once: compiling is what takes the time.
  def computed(s, t, mask):
    return {name: jax.value_and_grad(loss, argnums=(0, 1))(s, t, mask)
            for name, loss in losses.items()}

  def found(name, s, t, mask=None):
    mask = np.ones(len(s), bool) if mask is None else mask
    value, gradients = computed(*map(jnp.asarray, (s, t, mask)))[name]
    return [np.asarray(x) for x in (value, *gradients)]

  return found


def slopes(oracle: Callable[[np.ndarray], Any], x: np.ndarray, step=1e-6):
  """The gradient of an oracle, or of the sum of its values: central differences."""
  found = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    bump = np.zeros_like(x)
    bump[index] = step
    found[index] = np.sum(oracle(x + bump) - oracle(x - bump))
  return found / (2 * step)
