r"""Distances of feature taps: one value per example of a batch of maps or vectors.

A tap is what a layer gives out: maps `[batch, height, width, channels]` or vectors
`[batch, channels]`. The conventions are those of the package: one bare value per
example, float32 at least, no gradient to the teacher, no weight in a value.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses

# Least norm that is divided by, that of torch's `normalize`.
LEAST_NORM = 1e-12


def mean_squared_error(
    student_tap: jax.Array, teacher_tap: jax.Array
) -> jax.Array:
  r"""FitNets' hint loss of each example, without its weight.

  L = 1/N sum_i (s_i - t_i)**2,   over the N entries of an example's tap

  Here s is what the student's regressor makes of its tap. The paper has 1/2 of the
  sum; the mean, as published comparisons have it, does not grow with the map.

  Args:
    student_tap: s, `[batch, ...]`.
    teacher_tap: t, `[batch, ...]` of the same shape; receives no gradient.

  Returns:
    L in squared activations, `[batch]`.

  Raises:
    ValueError: If the two shapes differ.

  Example:
    >>> s, t = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]])
    >>> mean_squared_error(s, t)  # (4 + 9) / 2
    Array([6.5], dtype=float32)

  Source: Romero et al. (2015), FitNets: hints for thin deep nets, ICLR, arXiv
  1412.6550, "Hint-based training".
  """
  s, t = alike(student_tap, teacher_tap)
  return _mean(jnp.square(s - t))


def negative_log_likelihood(
    mean: jax.Array, teacher_tap: jax.Array, variance: jax.Array
) -> jax.Array:
  r"""VID's loss of each example: how unlikely a Gaussian finds the teacher's tap.

  L = 1/(2N) sum_i ((t_i - m_i)**2 / v_c + log v_c),   N entries, i of channel c

  It is -log p(t | s) / N without the constant log(2 pi) / 2: the student shall hold
  what is needed to predict the teacher's tap. It may be below 0.

  Args:
    mean: m, what a module makes of the student's tap, `[batch, ..., channels]`.
    teacher_tap: t, of the same shape; receives no gradient.
    variance: v > 0 of each channel, `[channels]`, in squared activations.

  Returns:
    L in nats an entry, `[batch]`.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> m, t = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]])
    >>> negative_log_likelihood(m, t, jnp.ones(2))  # (4 + 9) / 4
    Array([3.25], dtype=float32)

  Source: Ahn et al. (2019), Variational information distillation for knowledge
  transfer, CVPR, arXiv 1904.05835; the authors' code takes the mean.
  """
  m, t = alike(mean, teacher_tap)
  v = losses.at_least_float32(variance)
  v = v.reshape((1,) * (m.ndim - 1) + (-1,))
  return _mean(0.5 * (jnp.square(t - m) / v + jnp.log(v)))


def boundary_distance(
    student_tap: jax.Array, teacher_tap: jax.Array, *, margin: float = 1.0
) -> jax.Array:
  r"""AB's loss of each example: units that are on in one net and off in the other.

  L = sum_i max(0, m - s_i)**2  if t_i > 0,  else  max(0, m + s_i)**2

  Only the sign of the teacher's tap counts. It is a sum, so it grows with the map.

  Args:
    student_tap: s, before a ReLU, `[batch, ...]`.
    teacher_tap: t, before a ReLU, of the same shape; receives no gradient.
    margin: m, how far beyond 0 the student shall be.

  Returns:
    L in squared activations, `[batch]`.

  Raises:
    ValueError: If the two shapes differ.

  Example:
    >>> s, t = jnp.array([[0.5, -3.0, -3.0]]), jnp.array([[9.0, 9.0, -9.0]])
    >>> boundary_distance(s, t)  # 0.5**2 + 4**2 + 0
    Array([16.25], dtype=float32)

  Source: Heo et al. (2019), Knowledge transfer via distillation of activation
  boundaries formed by hidden neurons, AAAI, arXiv 1811.03233, the alternative loss.
  """
  s, t = alike(student_tap, teacher_tap)
  # A NaN of the teacher's is neither, and is passed on.
  short = margin - jnp.where(t > 0, s, jnp.where(t <= 0, -s, t))
  return jnp.sum(jnp.square(jnp.maximum(short, 0.0)), axis=tuple(range(1, s.ndim)))


def pooled_alike(
    left: jax.Array, right: jax.Array
) -> tuple[jax.Array, jax.Array]:
  r"""Two maps at the size of the smaller one, by the mean of each window.

  y_hw = 1/(r q) sum_ij x_(rh+i)(qw+j),   0 <= i < r, 0 <= j < q

  r and q are the ratios of the heights and of the widths, whole numbers, so that
  the windows cover the map and do not overlap.

  Args:
    left: A map, `[batch, height, width, channels]`.
    right: Another; its channels, too, may be others.

  Returns:
    Both maps, in float32 at least; the one that is no larger has its values.

  Raises:
    ValueError: If one of them is no map, if their batches differ, or if neither
      has a height and a width that are whole multiples of the other's.

  Example:
    >>> x = jnp.array([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 2, 2, 1)
    >>> pooled_alike(x, jnp.zeros((1, 1, 1, 8)))[0].ravel()
    Array([4.], dtype=float32)
  """
  def fits(big, small):
    return all(a % b == 0 for a, b in zip(big.shape[1:3], small.shape[1:3]))

  maps = left.ndim == right.ndim == 4 and len(left) == len(right)
  if not maps or not (fits(left, right) or fits(right, left)):
    raise ValueError(
        f"neither of the shapes {left.shape} and {right.shape} can be pooled to "
        "the other: both must be [batch, height, width, channels] of one batch, "
        "and height and width of one a whole multiple of the other's")
  size = (right if fits(left, right) else left).shape[1:3]
  return _pool(left, size), _pool(right, size)


def unit(x: jax.Array, axes: int | tuple[int, ...]) -> jax.Array:
  r"""An array divided by its norm over some axes.

  u = x / |x|_2,   0, without gradient, where |x|_2 <= 1e-12

  Example:
    >>> unit(jnp.array([[3.0, 4.0], [0.0, 0.0]]), 1)[1]
    Array([0., 0.], dtype=float32)
  """
  square = jnp.sum(jnp.square(x), axis=axes, keepdims=True)
  short = square <= LEAST_NORM**2  # and not `>`, so that a NaN is passed on
  return jnp.where(short, 0.0, x * jax.lax.rsqrt(jnp.where(short, 1.0, square)))


def _pool(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
  """The mean of each window, as many windows as `size` says."""
  x = losses.at_least_float32(x)
  batch, height, width, channels = x.shape
  if (height, width) == size:
    return x
  windows = (batch, size[0], height // size[0], size[1], width // size[1], channels)
  return jnp.mean(x.reshape(windows), axis=(2, 4))


def alike(
    student_tap: jax.Array, teacher_tap: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Both taps, of one shape, wide enough; the teacher's without a gradient."""
  if student_tap.shape != teacher_tap.shape:
    raise ValueError(
        f"a student's tap of shape {student_tap.shape} and a teacher's of shape "
        f"{teacher_tap.shape} have no distance: the shapes must be equal")
  return (losses.at_least_float32(student_tap),
          losses.at_least_float32(jax.lax.stop_gradient(teacher_tap)))


def _mean(x: jax.Array) -> jax.Array:
  """Of each example."""
  return jnp.mean(x, axis=tuple(range(1, x.ndim)))
