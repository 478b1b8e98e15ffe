r"""Logits freed of their scale before the softmax.

With m_z and s_z the mean and the standard deviation of the existing logits of an
example, (z - m_z) / s_z does not change when z is replaced by a z + b, a > 0: the
student need not reproduce the size of the teacher's logits, only their relations.

A softmax does not see m_z, so the two methods here differ in the weight alone that
an example gets: `normalised_kl` is s_v**2 T**2 times `standardised_kl`.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts


def standardise(
    logits: jax.Array,
    *,
    ddof: int = 0,
    epsilon: losses.Scalar = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Z-scores of the logits of each example.

  Z_i = (z_i - m) / (s + epsilon),   s**2 = sum_i (z_i - m)**2 / (N - ddof)

  The gradient passes through m and s. Where all logits are equal s counts as 1:
  the Z-scores are 0 and the gradient is finite, and not 0, so that a student whose
  last layer starts at zero can leave that point.

  Both nets' logits may be passed through it before any objective on logits.

  Args:
    logits: z, `[..., classes]`; -inf marks a masked class.
    ddof: 0 divides the variance by the N existing classes, as the paper does; 1 by
      N - 1, as the authors' code does (`torch.std`).
    epsilon: Added to s; the authors' code has 1e-7, the paper nothing.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    Z, `[..., classes]`, at least float32; -inf for a masked class. By ddof = 0,
    |Z_i| <= sqrt(N - 1).

  Example:
    >>> standardise(jnp.array([1.0, 2.0, 6.0, 7.0])).round(4)  # (z - 4) / sqrt(6.5)
    Array([-1.1767, -0.7845,  0.7845,  1.1767], dtype=float32)

  Source: Sun et al. (2024), Logit standardization in knowledge distillation, CVPR,
  arXiv 2403.01427, algorithm 1.
  """
  centred, deviation, exists = _moments(logits, ddof, where)
  return jnp.where(exists, centred / (deviation + epsilon), -jnp.inf)


@parts.checked
def standardised_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    ddof: int = 0,
    epsilon: losses.Scalar = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""KL of standardised logits, without T**2.

  KL(softmax(Z(v) / T) || softmax(Z(z) / T)),   Z as in `standardise`

  T is the paper's base temperature; its loss is T**2 times this. Zero for every
  z = a v + b with a > 0, so it alone does not make the student as sure as the
  teacher: the paper adds cross-entropy with the labels.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both, in standard deviations; a scalar, or `[..., 1]`.
    ddof: 0 as in the paper, or 1 as in the authors' code.
    epsilon: Added to the standard deviations.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    KL in nats, `[...]`.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> z = jnp.array([0.0, 1.0, 5.0])
    >>> standardised_kl(10.0 * z - 3.0, z, 2.0).round(4)
    Array(0., dtype=float32)

  Source: Sun et al. (2024), arXiv 2403.01427, algorithm 2.
  """
  z = standardise(student_logits, ddof=ddof, epsilon=epsilon, where=where)
  v = standardise(teacher_logits, ddof=ddof, epsilon=epsilon, where=where)
  return losses.distillation_kl(z, v, temperature)


@parts.checked
def normalised_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    ddof: int = 1,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""NormKD: a temperature for every example and net, with its square.

  L = (T s_v)**2 KL(softmax(v / (T s_v)) || softmax(z / (T s_z)))

  The temperature of an example is T times the standard deviation of its logits, the
  teacher's for p and the student's for q. The factor, which the method has instead
  of T**2, is of the teacher's alone.

  Args:
    student_logits: z, `[..., classes]`; the gradient passes through s_z too.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, the method's T_norm, 2 by default there; a scalar, or
      `[..., 1]`.
    ddof: 1 divides the variance by N - 1, as the authors' code does, 0 by N.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    L in squared logits, `[...]`; 0 where all of the teacher's logits are equal.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> z, v = jnp.array([0.0, 3.0, 0.0]), jnp.array([0.0, 0.0, 3.0])
    >>> normalised_kl(z, v, 1.0).round(4)  # s = sqrt(3): 3 sqrt(3) (p_3 - p_2)
    Array(3.159, dtype=float32)

  Source: Chi et al. (2023), NormKD, arXiv 2308.00520, and the authors' code.
  """
  kl = standardised_kl(
      student_logits, teacher_logits, temperature, ddof=ddof, where=where)
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  centred, deviation, _ = _moments(teacher_logits, ddof, where)
  spread = jnp.any(centred != 0, axis=-1, keepdims=True)
  scale = jnp.where(spread, temperature * deviation, 0.0)
  return jnp.square(scale)[..., 0] * kl


def _moments(
    logits: jax.Array, ddof: int, where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Centred logits, their deviation `[..., 1]` (1 for 0), and who exists."""
  exists = losses.existing(logits, where)
  wide = jnp.where(exists, losses.at_least_float32(logits), 0.0)
  # The largest first: equal logits then centre to 0 exactly, whatever their size.
  top = jnp.max(wide, axis=-1, keepdims=True, where=exists, initial=-jnp.inf)
  top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
  shifted = jnp.where(exists, wide - top, 0.0)
  count = jnp.sum(exists, axis=-1, keepdims=True).astype(wide.dtype)
  mean = jnp.sum(shifted, axis=-1, keepdims=True) / jnp.maximum(count, 1.0)
  centred = jnp.where(exists, shifted - mean, 0.0)
  square = jnp.sum(jnp.square(centred), axis=-1, keepdims=True)
  variance = square / jnp.maximum(count - ddof, 1.0)
  # The root of 0 has an infinite slope.
  return centred, jnp.sqrt(jnp.where(variance == 0, 1.0, variance)), exists
