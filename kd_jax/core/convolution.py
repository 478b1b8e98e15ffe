r"""A convolution whose gradient is fast within a loop on a CPU.

  y = conv(x, K),   dx = conv(dy, K turned),   dK = conv(x, dy)

XLA's CPU compiler has a fast convolution for one order of axes, and brings others
into it, but not in the body of a loop. There it takes the gradients by plain loops,
that of a kernel 40 times as slowly. An epoch is a loop (`training/segment.py`), so
here both are asked for in that order: a step is 12 to 36 times as fast. Other
devices compute them their own way. The values are the same.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax

_ORDER = ("NHWC", "HWIO", "NHWC")


def convolution(
    x: jax.Array, kernel: jax.Array, window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]], *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None, feature_group_count: int = 1,
    precision: Any = None, **more: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated` of images, as Flax calls it.

  A module of one's own gives it to its layers: `nn.Conv(...,
  conv_general_dilated=convolution)`. It has no forward-mode derivatives.

  Args:
    x: `[batch, height, width, channels]`.
    kernel: `[height, width, channels, outputs]`.
    window_strides: Of both axes.
    padding: Numbers before and after, of both axes, or "SAME" or "VALID".
    lhs_dilation: As of jax; with others than 1, gradients are jax's.
    rhs_dilation: Likewise.
    dimension_numbers: As of jax; default the order of the shapes above. With
      another one, gradients are jax's.
    feature_group_count: As of jax; with more than 1, gradients are jax's.
    precision: As of jax.
    **more: As of jax; with any, gradients are jax's.

  Returns:
    y, `[batch, height, width, outputs]`.

  Example:
    >>> ones = jax.numpy.ones
    >>> convolution(ones((1, 4, 4, 2)), ones((3, 3, 2, 5)), (1, 1), "SAME").shape
    (1, 4, 4, 5)
  """
  ones = lambda values: values is None or all(value == 1 for value in values)
  order = functools.partial(jax.lax.conv_dimension_numbers, x.shape, kernel.shape)
  numbers = _ORDER if dimension_numbers is None else dimension_numbers
  if not (x.ndim == 4 and order(numbers) == order(_ORDER)
          and feature_group_count == 1 and ones(lhs_dilation) and ones(rhs_dilation)
          and all(value is None for value in more.values())):
    return jax.lax.conv_general_dilated(
        x, kernel, window_strides, padding, lhs_dilation, rhs_dilation, numbers,
        feature_group_count, precision=precision, **more)
  strides = tuple(window_strides)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(
        x.shape[1:3], kernel.shape[:2], strides, padding)
  around = tuple((before, after) for before, after in padding)
  return _convolved(x, kernel, strides, around, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolved(x, kernel, strides, padding, precision):
  return jax.lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_ORDER, precision=precision)


def _forward(x, kernel, strides, padding, precision):
  return _convolved(x, kernel, strides, padding, precision), (x, kernel)


def _backward(strides, padding, precision, arrays, dy):
  rule = lambda function: functools.partial(function, strides, padding, precision)
  return jax.lax.platform_dependent(
      *arrays, dy, cpu=rule(_in_order), default=rule(_as_jax))


def _as_jax(strides, padding, precision, x, kernel, dy):
  plain = lambda x, kernel: jax.lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_ORDER, precision=precision)
  return jax.vjp(plain, x, kernel)[1](dy)


def _in_order(strides, padding, precision, x, kernel, dy):
  """Both gradients as convolutions of the order that is fast."""
  conv = functools.partial(
      jax.lax.conv_general_dilated, window_strides=(1, 1),
      dimension_numbers=_ORDER, precision=precision)
  axes = list(zip(x.shape[1:3], kernel.shape[:2], dy.shape[1:3], strides, padding))
  # What a stride has skipped: the places of dy, apart, reach over `span` of them.
  span = lambda places, stride: (places - 1) * stride + 1
  before = [size - 1 - start for _, size, _, _, (start, _) in axes]
  after = [length + size - 1 - span(places, stride) - first for (
      length, size, places, stride, _), first in zip(axes, before)]
  dx = conv(dy, kernel[::-1, ::-1].swapaxes(2, 3),
            padding=tuple(zip(before, after)), lhs_dilation=strides)
  ends = [size - 1 + span(places, stride) - length - start for (
      length, size, places, stride, (start, _)) in axes]
  # The fast convolution takes no negative padding: what no window saw is cut off.
  height, width = (length + min(end, 0) for (length, *_), end in zip(axes, ends))
  dk = conv(
      x[:, :height, :width].transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3),
      padding=tuple((start, max(end, 0)) for (
          *_, (start, _)), end in zip(axes, ends)), rhs_dilation=strides)
  return dx, dk.transpose(1, 2, 0, 3)


_convolved.defvjp(_forward, _backward)
