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
1412.6550. The layers are those of HobbitLong/RepDistiller, `models/util.py`, class
ConvReg.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.methods import layers

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
  fan_in = math.prod(window) * outputs if kind == "up" else None
  norm, state = layers.norm_init(outputs)
  layer = layers.linear_init(key, inputs, outputs, window, fan_in=fan_in)
  return {kind: layer, "norm": norm}, {"norm": state}


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
  x = _project(params, layers.clean(tap, mask))
  y, norm = layers.norm(
      params["norm"], state["norm"], x, mask, train=train, axis_name=axis_name)
  return (jnp.maximum(y, 0.0) if relu else y), {"norm": norm}


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
  stride, padding, dilation = {
      "dense": (1, 0, 1),
      "down": (2, 1, 1),
      # Its transpose with padding 1: zeros between the pixels, 4 - 1 - 1 around
      # them. Torch stores the same kernel turned by half a turn.
      "up": (1, 2, 2),
      "valid": (1, 0, 1),
  }[kind]
  return layers.linear(
      params[kind], x, stride=stride, padding=padding, dilation=dilation)
