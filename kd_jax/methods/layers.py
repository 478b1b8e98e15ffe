r"""Layers that methods train beside the student: pure `init` and `apply`.

Weights begin as torch's do, u in U(-b, b) with b = 1 / sqrt(fan in), and are kept
in float32. Taps are maps `[batch, height, width, channels]` or vectors `[batch,
channels]`. BatchNorm's statistics are of the valid examples of all devices.

Source: Ioffe & Szegedy (2015), arXiv 1502.03167, algorithm 1.
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types
from kd_jax.core.convolution import convolution

MOMENTUM = 0.9
EPSILON = 1e-5


def linear_init(
    key: jax.Array, inputs: int, outputs: int, window: Sequence[int] = (), *,
    bias: bool = True, fan_in: int | None = None, gain: float = 1.0,
) -> types.Tree:
  r"""A dense layer, or a convolution with a window.

  kernel, bias ~ U(-b, b),   b = gain / sqrt(fan in)

  Args:
    key: Of the random numbers.
    inputs: Channels in.
    outputs: Channels out.
    window: Height and width of a convolution's kernel; () for a dense layer, which
      is also a convolution of 1 x 1.
    bias: Whether it has one.
    fan_in: Default the window's size times `inputs`.
    gain: sqrt(3) gives torch's `kaiming_uniform_(a=1)`.

  Returns:
    `{"kernel": [*window, inputs, outputs], "bias": [outputs]}`, float32.
  """
  bound = gain / math.sqrt(fan_in or math.prod(window) * inputs)
  draw = lambda key, shape: jax.random.uniform(
      key, shape, jnp.float32, -bound, bound)
  for_kernel, for_bias = jax.random.split(key)
  kernel = {"kernel": draw(for_kernel, (*window, inputs, outputs))}
  return kernel | ({"bias": draw(for_bias, (outputs,))} if bias else {})


def linear(
    params: types.Tree, x: jax.Array, *, stride: int = 1,
    padding: int | None = None, dilation: int = 1,
) -> jax.Array:
  """Such a layer of a tap; `dilation` zeros between pixels, as in a transpose.

  Without `padding` a convolution leaves height and width as they are.
  """
  kernel = params["kernel"].astype(x.dtype)
  if kernel.ndim == 2:
    y = x @ kernel
  else:
    around = len(kernel) // 2 if padding is None else padding
    y = convolution(x, kernel, (stride, stride), ((around, around),) * 2,
                    lhs_dilation=(dilation, dilation))
  if "bias" not in params:
    return y
  return y + of_channels(params["bias"].astype(x.dtype), y)


def norm_init(channels: int) -> tuple[types.Tree, types.Tree]:
  """Parameters and running statistics of a BatchNorm, as arrays of their own."""
  # Fresh arrays each: a state is donated, and no buffer can be so twice.
  zeros = lambda: jnp.zeros(channels, jnp.float32)
  ones = lambda: jnp.ones(channels, jnp.float32)
  return ({"scale": ones(), "bias": zeros()}, {"mean": zeros(), "variance": ones()})


def norm(
    params: types.Tree, state: types.Tree, x: jax.Array, mask: jax.Array | None, *,
    train: bool = True, axis_name: str | None = None,
) -> tuple[jax.Array, types.Tree]:
  r"""BatchNorm of a tap, and its new running statistics.

  y = (x - mean) / sqrt(variance + 1e-5) * scale + bias

  Mean and variance are of the batch while training, and the running ones
  otherwise. A running one follows r <- 0.9 r + 0.1 batch, the variance with the
  factor N / (N - 1), over the N numbers of a channel.

  Args:
    params: From `norm_init`.
    state: From `norm_init`, or the last `norm`.
    x: A tap, finite in masked rows too (`clean`).
    mask: True for the valid examples, bool `[batch]`; None for all.
    train: Whether to normalise by the batch, and to move the running statistics.
    axis_name: The mapped device axis over which the statistics are added.
  """
  if train:
    mean, variance, count = moments(x, mask, axis_name)
    unbiased = variance * (count / jnp.maximum(count - 1.0, 1.0))
    # A batch that holds nothing but padding says nothing.
    rate = jnp.where(count > 0, 1.0 - MOMENTUM, 0.0).astype(x.dtype)
    moved = lambda old, new: jax.lax.stop_gradient(
        old + (rate * (new - old.astype(x.dtype))).astype(old.dtype))
    state = {"mean": moved(state["mean"], mean),
             "variance": moved(state["variance"], unbiased)}
  else:
    mean, variance = (state[k].astype(x.dtype) for k in ("mean", "variance"))
  gain = params["scale"].astype(x.dtype) * jax.lax.rsqrt(variance + EPSILON)
  shift = params["bias"].astype(x.dtype)
  y = (x - of_channels(mean, x)) * of_channels(gain, x) + of_channels(shift, x)
  return y, state


def moments(
    x: jax.Array, mask: jax.Array | None, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean and biased variance of each channel, `[channels]`, and of how many."""
  axes = tuple(range(x.ndim - 1))
  valid = jnp.ones(len(x), bool) if mask is None else mask
  rows = of_rows(valid, x)
  summed = lambda v: v if axis_name is None else jax.lax.psum(v, axis_name)
  total = lambda v: summed(jnp.sum(jnp.where(rows, v, 0.0), axis=axes))
  positions = math.prod(x.shape[1:-1])
  count = summed(jnp.sum(valid, dtype=x.dtype)) * positions
  some = jnp.maximum(count, 1.0)
  mean = total(x) / some
  return mean, total(jnp.square(x - of_channels(mean, x))) / some, count


def clean(tap: jax.Array, mask: jax.Array | None) -> jax.Array:
  """A tap in float32 at least, with 0 in masked rows.

  It comes before any arithmetic, as 0 times a NaN of the padding is NaN in
  gradients.
  """
  x = losses.at_least_float32(tap)
  return x if mask is None else jnp.where(of_rows(mask, x), x, 0.0)


def of_rows(valid: jax.Array, x: jax.Array) -> jax.Array:
  """`[batch]` beside a tap."""
  return valid.reshape((-1,) + (1,) * (x.ndim - 1))


def of_channels(v: jax.Array, x: jax.Array) -> jax.Array:
  """`[channels]` beside a tap."""
  return v.reshape((1,) * (x.ndim - 1) + (-1,))
