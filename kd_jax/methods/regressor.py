r"""FitNets' regressor: one layer that gives a student's tap the teacher's shape.

y = relu(batch_norm(layer(x)))

A tap is a map `[batch, height, width, channels]` or a vector `[batch, channels]`.
The layer depends on both sizes alone, as in published comparisons:

  down    student's map twice as high and wide: convolution 3x3, stride 2, padding 1
  up      half as high and wide: transposed convolution 4x4, stride 2, padding 1
  valid   at least as high and wide: convolution of 1 + the difference, no padding
  dense   a vector: a dense layer

It is trained beside the student and is no part of what is deployed. With `relu` it
cannot come nearer to a tap with values below 0 than these are to 0: leave it out
where the teacher's tap comes before its own ReLU.

Sources: Romero et al. (2015), FitNets: hints for thin deep nets, ICLR, arXiv
1412.6550; Ioffe & Szegedy (2015), arXiv 1502.03167, algorithm 1. The layers are
those of HobbitLong/RepDistiller, `models/util.py`, class ConvReg.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types

MOMENTUM = 0.9
EPSILON = 1e-5
Shape = tuple[int, ...]


def init(
    key: jax.Array, student_shape: Shape, teacher_shape: Shape
) -> tuple[types.Tree, types.Tree]:
  r"""Parameters and state of the regressor between two shapes.

  kernel, bias ~ U(-b, b),   b = 1 / sqrt(fan in)

  The fan in is height times width times inputs of the kernel; of the transposed
  convolution it is times outputs, as torch counts.

  Args:
    key: Of the random kernel and bias.
    student_shape: Of one example's tap, `(height, width, channels)` or
      `(channels,)`.
    teacher_shape: Likewise of the teacher's tap.

  Returns:
    `(params, state)`, float32: `{KIND: {kernel, bias}, "norm": {scale, bias}}`
    with the kind of layer as listed above, and the running statistics
    `{"norm": {mean, variance}}`.

  Raises:
    ValueError: If no layer takes the one shape to the other.

  Example:
    >>> params, _ = init(jax.random.key(0), (8, 8, 16), (4, 4, 32))
    >>> params["down"]["kernel"].shape
    (3, 3, 16, 32)
  """
  kind, window = _layer(student_shape, teacher_shape)
  inputs, outputs = student_shape[-1], teacher_shape[-1]
  fan_in = math.prod(window) * (outputs if kind == "up" else inputs)
  bound = 1.0 / math.sqrt(fan_in)
  draw = lambda key, shape: jax.random.uniform(
      key, shape, jnp.float32, -bound, bound)
  for_kernel, for_bias = jax.random.split(key)
  # Fresh arrays each: a state is donated, and no buffer can be so twice.
  zeros = lambda: jnp.zeros(outputs, jnp.float32)
  ones = lambda: jnp.ones(outputs, jnp.float32)
  params = {
      kind: {"kernel": draw(for_kernel, (*window, inputs, outputs)),
             "bias": draw(for_bias, (outputs,))},
      "norm": {"scale": ones(), "bias": zeros()},
  }
  return params, {"norm": {"mean": zeros(), "variance": ones()}}


def apply(
    params: types.Tree,
    state: types.Tree,
    tap: jax.Array,
    mask: jax.Array | None,
    *,
    relu: bool = True,
    train: bool = True,
    axis_name: str | None = None,
) -> tuple[jax.Array, types.Tree]:
  r"""The student's tap in the teacher's shape, and the new running statistics.

  y = relu((x - mean) / sqrt(variance + 1e-5) * scale + bias),   x = layer(tap)

  Mean and variance are of the valid examples of all devices while training, and the
  running ones otherwise. A running one follows r <- 0.9 r + 0.1 batch, the variance
  with the factor N / (N - 1), over the N numbers of a channel. Masked rows have no
  influence, whatever they hold; the outputs for them are finite and mean nothing.

  Args:
    params: From `init`.
    state: From `init`, or the last `apply`.
    tap: The student's, `[batch, *student_shape]`.
    mask: True for the valid examples, bool `[batch]`; None for all.
    relu: Whether a ReLU ends it.
    train: Whether to normalise by the batch, and to move the running statistics.
    axis_name: The mapped device axis over which the statistics are added.

  Returns:
    `(y, new_state)`: y `[batch, *teacher_shape]`, float32 at least.

  Example:
    >>> params, state = init(jax.random.key(0), (8,), (4,))
    >>> apply(params, state, jnp.ones((2, 8)), None)[0].shape
    (2, 4)
  """
  x = losses.at_least_float32(tap)
  params = jax.tree.map(lambda p: p.astype(x.dtype), params)
  valid = jnp.ones(len(x), bool) if mask is None else mask
  # Before any arithmetic, as 0 times a NaN of the padding is NaN in gradients.
  x = _project(params, jnp.where(_rows(valid, x), x, 0.0))
  old = state["norm"]
  if train:
    mean, variance, count = _moments(x, valid, axis_name)
    unbiased = variance * (count / jnp.maximum(count - 1.0, 1.0))
    # A batch that holds nothing but padding says nothing.
    rate = jnp.where(count > 0, 1.0 - MOMENTUM, 0.0).astype(x.dtype)
    moved = lambda old, new: jax.lax.stop_gradient(
        old + (rate * (new - old.astype(x.dtype))).astype(old.dtype))
    state = {"norm": {"mean": moved(old["mean"], mean),
                      "variance": moved(old["variance"], unbiased)}}
  else:
    mean, variance = (old[k].astype(x.dtype) for k in ("mean", "variance"))
  norm = params["norm"]
  gain = norm["scale"] * jax.lax.rsqrt(variance + EPSILON)
  y = (x - _channel(mean, x)) * _channel(gain, x) + _channel(norm["bias"], x)
  return (jnp.maximum(y, 0.0) if relu else y), state


def _layer(student_shape: Shape, teacher_shape: Shape) -> tuple[str, Shape]:
  """Which kind of layer it takes, and the height and width of its kernel."""
  s, t = student_shape[:-1], teacher_shape[:-1]
  sizes = list(zip(s, t))
  if len(s) == len(t) == 0 and student_shape and teacher_shape:
    return "dense", ()
  if len(s) == len(t) == 2:
    if all(a == 2 * b for a, b in sizes):
      return "down", (3, 3)
    if all(2 * a == b for a, b in sizes):
      return "up", (4, 4)
    if all(a >= b for a, b in sizes):
      return "valid", tuple(1 + a - b for a, b in sizes)
  raise ValueError(
      f"no layer takes a student's tap of shape {student_shape} to a teacher's of "
      f"shape {teacher_shape}: maps (height, width, channels) must be half as high "
      "and wide as the teacher's, or at least as high and wide; or both be vectors")


def _project(params: types.Tree, x: jax.Array) -> jax.Array:
  """The layer before the normalisation."""
  (kind,) = params.keys() - {"norm"}
  kernel, bias = params[kind]["kernel"], params[kind]["bias"]
  if kind == "dense":
    y = x @ kernel
  else:
    stride, padding, dilation = {
        "down": (2, 1, 1),
        # Its transpose with padding 1: zeros between the pixels, 4 - 1 - 1 around
        # them. Torch stores the same kernel turned by half a turn.
        "up": (1, 2, 2),
        "valid": (1, 0, 1),
    }[kind]
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((padding, padding),) * 2,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return y + _channel(bias, y)


def _moments(
    x: jax.Array, valid: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean and biased variance of each channel, `[channels]`, and of how many."""
  axes = tuple(range(x.ndim - 1))
  rows = _rows(valid, x)
  summed = lambda v: v if axis_name is None else jax.lax.psum(v, axis_name)
  total = lambda v: summed(jnp.sum(jnp.where(rows, v, 0.0), axis=axes))
  positions = math.prod(x.shape[1:-1])
  count = summed(jnp.sum(valid, dtype=x.dtype)) * positions
  some = jnp.maximum(count, 1.0)
  mean = total(x) / some
  return mean, total(jnp.square(x - _channel(mean, x))) / some, count


def _rows(valid: jax.Array, x: jax.Array) -> jax.Array:
  """`[batch]` beside a tap."""
  return valid.reshape((-1,) + (1,) * (x.ndim - 1))


def _channel(v: jax.Array, x: jax.Array) -> jax.Array:
  """`[channels]` beside a tap."""
  return v.reshape((1,) * (x.ndim - 1) + (-1,))
