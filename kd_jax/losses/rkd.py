r"""Relational knowledge distillation: distances and angles within a batch.

Both objectives take the embeddings of a whole batch, `[batch, channels]`, with
`mask` (bool `[batch]`, False for padding), and return one scalar over the n valid
examples. A masked row is in no pair and in no mean, whatever it holds, and gets
gradient 0. With fewer than two valid examples the value is 0, with gradient 0.
The student may have another number of channels than the teacher.

Neither objective changes when the embeddings of one net are rotated, moved or
scaled by a positive number. Differences are formed before anything is squared,
because |x|**2 + |y|**2 - 2 xy loses small distances in float32. This takes arrays
of batch**2 times channels, and the angles take batch**3 numbers.

Source: Park et al. (2019), Relational knowledge distillation, CVPR, arXiv
1904.05068. The paper sums over pairs and triples; the authors' code takes the mean,
and so do these. Its weights in published comparisons are 25 and 50.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses

# Least squared distance and least norm of a difference, of the authors' code.
LEAST_SQUARE = 1e-12
LEAST_NORM = 1e-12


def distance_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""RKD-D: which examples are far from each other, in units of the mean distance.

  L = 1/n**2 sum_ij h(D_ij / mean D - E_ij / mean E)

  D_ij = |s_i - s_j| of the student and E_ij of the teacher. The means are over the
  n (n - 1) pairs of different examples, and the gradient goes through the student's
  mean, too. h(x) = x**2 / 2 for |x| < 1, else |x| - 1/2.

  Args:
    student: s, `[batch, channels]`.
    teacher: t, `[batch, channels]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.

  Returns:
    L, a scalar without unit. Equal embeddings count as 1e-6 apart.

  Raises:
    ValueError: If a shape is not `[batch, channels]`, or the batches differ.

  Example:
    >>> s = jnp.array([[0.0], [1.0], [2.0]])  # D / mean D = 3/4, 3/4, 3/2
    >>> t = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])  # E / mean E = 1
    >>> distance_loss(s, t).round(4)  # 2 (1/16 + 1/16 + 1/4) / 2 / 9
    Array(0.0417, dtype=float32)

  Source: Park et al. (2019), "Distance-wise distillation loss".
  """
  s, t, valid = valid_rows(student, teacher, mask)
  number = jnp.sum(valid, dtype=s.dtype)
  pairs = valid[:, None] & valid[None, :] & ~jnp.eye(len(valid), dtype=bool)

  def relative(e: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(_differences(e)), axis=-1)
    # The root of 0 has no finite slope: it never sees one.
    distance = jnp.sqrt(jnp.maximum(square, LEAST_SQUARE))
    distance = jnp.where(pairs, distance, 0.0)
    count = number * (number - 1.0)
    mean = jnp.sum(distance) / jnp.maximum(count, 1.0)
    return distance / jnp.where(count > 0, mean, 1.0)

  gaps = _smooth_l1(relative(s) - relative(t))
  return jnp.sum(gaps) / jnp.maximum(number, 1.0)**2


def angle_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""RKD-A: the angles of all triangles between three examples.

  L = 1/n**3 sum_ijk h(a_ijk - b_ijk),   a_ijk = <u_ij, u_ik>

  u_ij = (s_j - s_i) / |s_j - s_i|, so a_ijk is the cosine of the angle at i; b is
  the teacher's. h is that of `distance_loss`.

  Args:
    student: s, `[batch, channels]`.
    teacher: t, `[batch, channels]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.

  Returns:
    L, a scalar without unit. An angle with a side of length 0 counts as a cosine
    of 0, without gradient through that side; in the authors' code its gradient is
    of the order of 1e12.

  Raises:
    ValueError: If a shape is not `[batch, channels]`, or the batches differ.

  Example:
    >>> s = jnp.array([[0.0], [1.0], [2.0]])  # cosines 1, -1, 1
    >>> t = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])  # all 1/2
    >>> angle_loss(s, t).round(4)  # 2 (1/8 + 1 + 1/8) / 27
    Array(0.0926, dtype=float32)

  Source: Park et al. (2019), "Angle-wise distillation loss".
  """
  s, t, valid = valid_rows(student, teacher, mask)
  number = jnp.sum(valid, dtype=s.dtype)
  pairs = valid[:, None] & valid[None, :]

  def cosines(e: jax.Array) -> jax.Array:
    # By the law of cosines, so that the arrays of batch**3 have no channels:
    # <u_ij, u_ik> = (D_ij^2 + D_ik^2 - D_jk^2) / (2 D_ij D_ik).
    square = jnp.sum(jnp.square(_differences(e)), axis=-1)
    # Sides that are too short, and masked examples, make no angle in either net.
    long = pairs & (square >= LEAST_NORM**2)
    side = jnp.sqrt(jnp.where(long, square, 1.0))
    inverse = jnp.where(long, 1.0 / side, 0.0)
    dot = square[:, :, None] + square[:, None, :] - square[None, :, :]
    return 0.5 * dot * inverse[:, :, None] * inverse[:, None, :]

  gaps = _smooth_l1(cosines(s) - cosines(t))
  return jnp.sum(gaps) / jnp.maximum(number, 1.0)**3


def valid_rows(student, teacher, mask):
  """Both embeddings with 0 in masked rows, and which rows are valid."""
  if not student.ndim == teacher.ndim == 2 or len(student) != len(teacher):
    raise ValueError(
        "relations need embeddings [batch, channels] of one batch, not shapes "
        f"{student.shape} and {teacher.shape}")
  valid = jnp.ones(len(student), bool) if mask is None else mask
  # Before any arithmetic, as 0 times a NaN of the padding is NaN in gradients.
  clean = lambda e: jnp.where(valid[:, None], losses.at_least_float32(e), 0.0)
  return clean(student), jax.lax.stop_gradient(clean(teacher)), valid


def _differences(e: jax.Array) -> jax.Array:
  """e_j - e_i at `[i, j]`, `[batch, batch, channels]`."""
  return e[None, :, :] - e[:, None, :]


def _smooth_l1(x: jax.Array) -> jax.Array:
  """x**2 / 2 up to 1, and from there on the line that goes on from it."""
  size = jnp.abs(x)
  return jnp.where(size < 1.0, 0.5 * jnp.square(x), size - 0.5)
