r"""Distances of a projected embedding from the teacher's.

An embedding is the last vector before the logits, `[batch, channels]`. The
student's has gone through a projector (`kd_jax/methods/projector.py`). Functions of
a batch take `mask` (bool `[batch]`, False for padding) and give one scalar over the
n valid examples: 0, with gradient 0, if there are fewer than two. The others give
one value per example.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import features
from kd_jax.losses.rkd import valid_rows


def angle_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
  r"""PEFD's loss of each example: one less the cosine of two embeddings.

  L = 1 - <g, t> / (|g| |t|)

  Args:
    student: g, the mean over projectors, `[batch, channels]`.
    teacher: t, `[batch, channels]`; receives no gradient.

  Returns:
    L in [0, 2], `[batch]`; 1, without gradient, where one of them is 0.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> g, t = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[2.0, 0.0]] * 2)
    >>> angle_distance(g, t).round(2)
    Array([0.39999998, 1.        ], dtype=float32)

  Source: Chen et al. (2022), Improved feature distillation via projector ensemble,
  NeurIPS, arXiv 2210.15274, equation 4. The code has no guard: it is NaN at 0.
  """
  g, t = (features.unit(e, -1) for e in features.alike(student, teacher))
  return 1.0 - jnp.sum(g * t, axis=-1)


def direction_distance(
    student: jax.Array, teacher: jax.Array, centre: jax.Array
) -> jax.Array:
  r"""KD++'s loss of each example: direction to the class mean, and a large norm.

  L = 1 - <s, c> / (|c| max(|s|, |t|))

  c is the teacher's mean embedding of the example's class. It is 0 where s points
  to c and is as long as t at least; the gradient goes through the maximum too.

  Args:
    student: s, `[batch, channels]`.
    teacher: t, `[batch, channels]`; receives no gradient.
    centre: c of each example's class, `[batch, channels]`; receives none.

  Returns:
    L in [0, 2], `[batch]`.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> s, t = jnp.array([[3.0, 4.0]]), jnp.array([[10.0, 0.0]])
    >>> direction_distance(s, t, t).round(4)  # 1 - 3 / 10
    Array([0.7], dtype=float32)

  Source: Wang et al. (2023), Improving knowledge distillation via regularizing
  feature norm and direction, arXiv 2305.17007, equation 8.
  """
  s, t = features.alike(student, teacher)
  _, c = features.alike(student, centre)
  square = lambda e: jnp.sum(jnp.square(e), axis=-1)
  # The root of 0 has no finite slope: it never sees one.
  longest = jnp.sqrt(jnp.maximum(
      jnp.maximum(square(s), square(t)), features.LEAST_NORM**2))
  return 1.0 - jnp.sum(s * features.unit(c, -1), axis=-1) / longest


def log_distance(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None, *,
    epsilon: float = 1e-5, of_variance: float = 1e-4,
) -> jax.Array:
  r"""SRD's loss of a batch: the log of the fourth powers of standardised gaps.

  L = log(epsilon + sum_bd (x_bd - y_bd)**4),   x = (s - mean) / sqrt(variance + e)

  Mean and variance (of n) of each channel are over the batch; y is the teacher's.
  The sum is inside the log, so that the gradient does not grow with the batch.

  Args:
    student: s, `[batch, channels]`.
    teacher: t, `[batch, channels]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.
    epsilon: Beside the sum; the code has 0, and tends to -inf at equality.
    of_variance: e, as in the code.

  Returns:
    L, a scalar.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> s, t = jnp.array([[0.0], [2.0]]), jnp.array([[5.0], [1.0]])
    >>> log_distance(s, t, of_variance=0.0).round(4)  # -1, 1 and 1, -1: log 32
    Array(3.4657, dtype=float32)

  Source: Miles & Mikolajczyk (2024), Understanding the role of the projector in
  knowledge distillation, AAAI, arXiv 2303.11098, equation 7;
  roymiles/Simple-Recipe-Distillation, class OurDistillationLoss.
  """
  s, t, valid = valid_rows(student, teacher, mask)
  s, t = features.alike(s, t)
  number = jnp.sum(valid, dtype=s.dtype)

  def standardised(e):
    mean = _mean(e, valid)
    variance = _mean(jnp.square(e - mean), valid)
    return (e - mean) * jax.lax.rsqrt(variance + of_variance)

  gap = jnp.where(valid[:, None], standardised(s) - standardised(t), 0.0)
  several = number > 1
  powers = jnp.sum(jnp.square(jnp.square(gap))) + epsilon
  return jnp.where(several, jnp.log(jnp.where(several, powers, 1.0)), 0.0)


def correlation_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None, *,
    alpha: losses.Scalar = 1.01,
) -> jax.Array:
  r"""ITRD's first loss of a batch: every channel correlates with the teacher's.

  L = log2 sum_d |c_d - 1|**(2 alpha),   c_d = 1/n sum_b x_bd y_bd

  x and y are standardised with the deviation of n - 1. At equality c_d is therefore
  (n - 1) / n, and L not less than log2(channels n**(-2 alpha)).

  Args:
    student: s, `[batch, channels]`.
    teacher: t, `[batch, channels]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.
    alpha: Order of the entropy, > 1/2.

  Returns:
    L in bits, a scalar. A channel that is constant correlates with nothing, without
    gradient; in the code it is NaN.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> s, t = jnp.array([[0.0], [2.0]]), jnp.array([[5.0], [1.0]])  # c = -1/2
    >>> correlation_loss(s, t, alpha=1.0).round(4)  # log2(9/4)
    Array(1.1699, dtype=float32)

  Source: Miles et al. (2022), Information theoretic representation distillation,
  BMVC, arXiv 2112.00459, equation 5; roymiles/ITRD, `distiller_zoo/IT.py`.
  """
  s, t, valid = valid_rows(student, teacher, mask)
  s, t = features.alike(s, t)
  number = jnp.sum(valid, dtype=s.dtype)

  def standardised(e):
    centred = jnp.where(valid[:, None], e - _mean(e, valid), 0.0)
    return features.unit(centred, 0) * jnp.sqrt(jnp.maximum(number - 1.0, 0.0))

  c = jnp.sum(standardised(s) * standardised(t), axis=0) / jnp.maximum(number, 1.0)
  several = number > 1
  gaps = jnp.sum(jnp.square(c - 1.0)**alpha)
  return jnp.where(several, jnp.log2(jnp.where(several, gaps, 1.0)), 0.0)


def information_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""ITRD's second loss of a batch: an entropy of both nets' relations together.

  L = sum_ij (A_ij**2 - B_ij**2),   A = G / tr G,   B = G o H / tr(G o H)

  G holds the cosines of the student's embeddings of two examples, H the teacher's,
  and o is the product of entries. It is the difference of two entropies of order 2,
  without their logarithm.

  Args:
    student: `[batch, channels]`.
    teacher: `[batch, channels]`, of any channels; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.

  Returns:
    L >= 0, a scalar. It does not change when an embedding is scaled.

  Example:
    >>> s = jnp.array([[1.0, 0.0], [1.0, 0.0]])  # A = 1/2 everywhere
    >>> information_loss(s, jnp.eye(2)).round(4)  # 4/4 - 2/4
    Array(0.5, dtype=float32)

  Source: Miles et al. (2022), equation 9, and the code.
  """
  s, t, _ = valid_rows(student, teacher, mask)

  def cosines(e):
    u = features.unit(e, -1)
    return jnp.einsum("ic,jc->ij", u, u, precision=jax.lax.Precision.HIGHEST)

  def of_trace_one(gram):
    trace = jnp.trace(gram)
    some = trace != 0  # and not `> 0`, so that a NaN is passed on
    return jnp.where(some, gram / jnp.where(some, trace, 1.0), 0.0)

  g = cosines(s)
  a, b = of_trace_one(g), of_trace_one(g * cosines(t))
  return jnp.sum(jnp.square(a) - jnp.square(b))


def _mean(e: jax.Array, valid: jax.Array) -> jax.Array:
  """Of each channel over the valid rows, `[1, channels]`."""
  number = jnp.maximum(jnp.sum(valid, dtype=e.dtype), 1.0)
  return jnp.sum(jnp.where(valid[:, None], e, 0.0), axis=0, keepdims=True) / number
