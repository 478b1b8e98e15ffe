r"""Relations within a batch: DIST's correlations and MLKD's Gram matrices.

Unlike the other objectives these take a whole batch, logits `[batch, classes]`
with `mask` (bool `[batch]`, False for padding), and most return one scalar, over
the valid examples. A masked row leaves every pair and every mean, whatever it
holds, and gets gradient 0. Otherwise the conventions are those of the package.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts

# MLKD's temperatures 2 to 6 as multiples of its base T = 4.
LEVELS = (0.5, 0.75, 1.0, 1.25, 1.5)


@parts.checked
def row_correlation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    epsilon: float = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""DIST's inter-class term of each example, without T**2.

  d_i = 1 - rho(q_i, p_i),   rho Pearson's correlation over the classes

  It asks for the teacher's preferences up to scale and offset, not for its
  probabilities: p_i -> a p_i + b with a > 0 leaves it as it is.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    epsilon: Added to the product of the two norms; the authors' code has 1e-8,
      the paper nothing.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    d in [0, 2], `[...]`; 1, with gradient 0, where either side is even.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> z, v = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 2.0, 1.0])
    >>> row_correlation(z, v, 1.0).round(3)
    Array(0.998, dtype=float32)

  Source: Huang et al. (2022), Knowledge distillation from a stronger teacher,
  NeurIPS, arXiv 2205.10536, equations 6 and 9.
  """
  q, p, exists = _probabilities(
      student_logits, teacher_logits, temperature, where)
  return 1.0 - _pearson(q, p, exists, -1, epsilon)


@parts.checked
def column_correlation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    mask: jax.Array | None = None,
    epsilon: float = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""DIST's intra-class term of a batch, without T**2.

  d = 1 - 1/N sum_j rho(q_:j, p_:j),   rho over the examples of the batch

  Which examples look most like a class j to the teacher shall do so to the student.

  Args:
    student_logits: z, `[batch, classes]`.
    teacher_logits: v, `[batch, classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[batch, 1]`.
    mask: True for the valid examples, bool `[batch]`; default all.
    epsilon: As of `row_correlation`.
    where: True for the classes that exist, bool `[batch, classes]`; default all.

  Returns:
    d in [0, 2], a scalar, over the N classes that exist for any valid example.
    A class with equal probabilities all over the batch counts 1, with gradient
    0: all of them in a batch of one.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> z = jnp.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    >>> column_correlation(z, 2 * z, 1.0).round(4), column_correlation(z, -z, 1.0)
    (Array(0.02, dtype=float32), Array(2., dtype=float32))

  Source: Huang et al. (2022), arXiv 2205.10536, equations 7 and 10.
  """
  q, p, exists = _probabilities(
      student_logits, teacher_logits, temperature, where)
  valid = exists if mask is None else exists & mask[:, None]
  rho = _pearson(q, p, valid, 0, epsilon)
  return 1.0 - jnp.mean(rho, where=jnp.any(valid, axis=0))


@parts.checked
def multi_level_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    levels: Sequence[float] = LEVELS,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""MLKD's instance term: KL at several temperatures, each with its square.

  L = sum_k T_k**2 KL(p(T_k) || q(T_k)),   T_k = T levels_k

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, the middle one; a scalar, or `[..., 1]`.
    levels: The temperatures over T.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    L in nats, `[...]`, T_k**2 in it.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> z, v = jnp.zeros(2), jnp.array([0.0, jnp.log(3.0)])
    >>> multi_level_kl(z, v, 1.0, levels=(1.0,)).round(4)  # KL itself
    Array(0.1308, dtype=float32)

  Source: Jin et al. (2023), Multi-level logit distillation, CVPR, equation 6.
  """
  def level(z: jax.Array, t: losses.Scalar) -> jax.Array:
    kl = losses.distillation_kl(z, teacher_logits, t, where=where)
    square = jnp.square(jnp.asarray(t, kl.dtype))
    return (square[..., 0] if square.ndim else square) * kl

  return _sum_over_levels(level, student_logits, temperature, levels)


@parts.checked
def batch_relations(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    levels: Sequence[float] = LEVELS,
    mask: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""MLKD's batch term: which examples are alike, by their distributions.

  L = sum_k 1/B |P P' - Q Q'|_F**2,   P, Q `[B, N]` of softmaxes at T levels_k

  Args:
    student_logits: z, `[batch, classes]`.
    teacher_logits: v, `[batch, classes]`; receives no gradient.
    temperature: T > 0, the middle one; a scalar, or `[batch, 1]`.
    levels: The temperatures over T.
    mask: True for the B valid examples, bool `[batch]`; default all.
    where: True for the classes that exist, bool `[batch, classes]`; default all.

  Returns:
    L, a scalar without unit.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> sure = jnp.array([[50.0, 0.0], [0.0, 50.0]])
    >>> z = jnp.zeros((2, 2))  # (1/2)**2 four times, over B = 2
    >>> batch_relations(z, sure, 1.0, levels=(1.0,))
    Array(0.5, dtype=float32)

  Source: Jin et al. (2023), CVPR, equations 7 and 8.
  """
  def level(z: jax.Array, t: losses.Scalar) -> jax.Array:
    q, p, number = _rows(z, teacher_logits, t, mask, where)
    return jnp.sum(jnp.square(p @ p.T - q @ q.T)) / number

  return _sum_over_levels(level, student_logits, temperature, levels)


@parts.checked
def class_relations(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    levels: Sequence[float] = LEVELS,
    mask: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""MLKD's class term: which classes are alike, by the examples of the batch.

  L = sum_k 1/N |P' P - Q' Q|_F**2,   P, Q `[B, N]` of softmaxes at T levels_k

  P' P is a sum over the batch, so L grows with the square of its size: batches of
  another size ask for another weight.

  Args:
    student_logits: z, `[batch, classes]`.
    teacher_logits: v, `[batch, classes]`; receives no gradient.
    temperature: T > 0, the middle one; a scalar, or `[batch, 1]`.
    levels: The temperatures over T.
    mask: True for the valid examples, bool `[batch]`; default all.
    where: True for the classes that exist, bool `[batch, classes]`; default all.

  Returns:
    L, a scalar without unit; N counts the columns of the logits.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> sure = jnp.array([[50.0, 0.0], [0.0, 50.0]])
    >>> z = jnp.zeros((2, 2))  # (1/2)**2 four times, over N = 2
    >>> class_relations(z, sure, 1.0, levels=(1.0,))
    Array(0.5, dtype=float32)

  Source: Jin et al. (2023), CVPR, equations 9 and 10.
  """
  classes = student_logits.shape[-1]

  def level(z: jax.Array, t: losses.Scalar) -> jax.Array:
    q, p, _ = _rows(z, teacher_logits, t, mask, where)
    return jnp.sum(jnp.square(p.T @ p - q.T @ q)) / classes

  return _sum_over_levels(level, student_logits, temperature, levels)


def _sum_over_levels(level, student_logits, temperature, levels):
  """sum_k level(z, T levels_k)."""
  # Widened here, so that half precision rounds the sum of the gradients once and
  # not each of them.
  z = losses.at_least_float32(student_logits)
  return functools.reduce(
      jnp.add, (level(z, temperature * factor) for factor in levels))


def _probabilities(student_logits, teacher_logits, temperature, where):
  """q, p and which classes exist for both, each `[..., classes]`."""
  q = losses.tempered_softmax(student_logits, temperature, where=where)
  p = jnp.exp(losses.teacher_log_softmax(teacher_logits, temperature, where))
  exists = (losses.existing(student_logits, where)
            & losses.existing(teacher_logits, where))
  return q, p, exists


def _rows(student_logits, teacher_logits, temperature, mask, where):
  """q and p with 0 in masked rows, `[batch, classes]`, and the number of others."""
  q, p, _ = _probabilities(student_logits, teacher_logits, temperature, where)
  valid = jnp.ones(len(q), bool) if mask is None else mask
  zero = lambda x: jnp.where(valid[:, None], x, 0.0)
  number = jnp.maximum(jnp.sum(valid, dtype=q.dtype), 1.0)
  return zero(q), zero(p), number


def _pearson(a, b, valid, axis, epsilon):
  """Correlation along an axis of the valid entries; 0 where one side is even."""
  def unit(x):
    mean = jnp.mean(x, axis=axis, keepdims=True, where=valid)
    centred = jnp.where(valid, x - mean, 0.0)
    # Columns of small probabilities have squares that underflow.
    size = jax.lax.stop_gradient(
        jnp.max(jnp.abs(centred), axis=axis, keepdims=True))
    some = size != 0  # and not `> 0`, so that a NaN is passed on
    size = jnp.where(some, size, 1.0)
    scaled = jnp.where(some, centred / size, 0.0)
    square = jnp.sum(jnp.square(scaled), axis=axis)
    flat = jnp.squeeze(some, axis)
    norm = jnp.sqrt(jnp.where(flat, square, 1.0))
    return scaled, norm, jnp.squeeze(size, axis), flat

  left, left_norm, left_size, left_some = unit(a)
  right, right_norm, right_size, right_some = unit(b)
  norms = left_norm * right_norm
  if epsilon:
    norms = norms + epsilon / (left_size * right_size)
  rho = jnp.sum(left * right, axis=axis) / norms
  return jnp.where(left_some & right_some, rho, 0.0)
