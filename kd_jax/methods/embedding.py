r"""A net's tap as a vector of 128 numbers: one dense layer, trained beside the net.

y = x W + b,   x all entries of an example's tap

Source: class Embed of HobbitLong/RepDistiller, `crd/criterion.py`, without its
normalisation.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types

CHANNELS = 128


def init(
    key: jax.Array, shape: tuple[int, ...], channels: int = CHANNELS
) -> types.Tree:
  r"""Parameters of the layer: kernel, bias ~ U(-b, b), b = 1 / sqrt(inputs).

  Args:
    key: Of the draw.
    shape: Of one example's tap.
    channels: How many numbers come out.

  Returns:
    `{kernel, bias}`, float32.

  Example:
    >>> init(jax.random.key(0), (4, 4, 8))["kernel"].shape
    (128, 128)
  """
  inputs = math.prod(shape)
  bound = 1.0 / math.sqrt(inputs)
  draw = lambda key, shape: jax.random.uniform(
      key, shape, jnp.float32, -bound, bound)
  for_kernel, for_bias = jax.random.split(key)
  return {"kernel": draw(for_kernel, (inputs, channels)),
          "bias": draw(for_bias, (channels,))}


def apply(
    params: types.Tree, tap: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""The vectors of a batch, `[batch, channels]`, float32 at least.

  Args:
    params: From `init`.
    tap: `[batch, ...]`.
    mask: True for the valid examples, bool `[batch]`; others count as zeros.

  Example:
    >>> apply(init(jax.random.key(0), (8,)), jnp.ones((2, 8))).shape
    (2, 128)
  """
  x = losses.at_least_float32(tap).reshape(len(tap), -1)
  if mask is not None:  # Before any arithmetic: 0 times NaN is NaN.
    x = jnp.where(mask[:, None], x, 0.0)
  kernel, bias = (params[name].astype(x.dtype) for name in ("kernel", "bias"))
  return x @ kernel + bias[None, :]
