r"""Teachers at a temperature, the student at none: TTM and WTTM."""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts


@parts.checked
def transformed_teacher_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    weighted: bool = True,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""KL from the power-transformed teacher to the student at T = 1.

  WTTM = U KL(p(T) || q(1)),   p_i(T) = p_i**g / sum_j p_j**g,   g = 1 / T,
  U = sum_j p_j**g, p of T = 1

  A softmax at T is p to the power g, normalised. U, between 1 and N**(1 - g) for
  T >= 1, is large where the teacher is unsure, so those examples weigh more;
  without it the method is TTM. There is no T**2: the student's gradient is
  U (q(1) - p(T)), whose size does not fall with T.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of the teacher alone; a scalar, or `[..., 1]`.
    weighted: Whether to multiply by U (WTTM), or not (TTM).
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    The value in nats, `[...]`.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v = jnp.log(jnp.array([0.64, 0.36]))  # roots 0.8 + 0.6 = 1.4 = U
    >>> z = jnp.log(jnp.array([0.5, 0.5]))  # KL(4/7 || 1/2) = 0.01024
    >>> transformed_teacher_kl(z, v, 2.0).round(4)
    Array(0.0143, dtype=float32)

  Source: Zheng & Yang (2024), Knowledge distillation based on transformed teacher
  matching, ICLR, arXiv 2402.11148.
  """
  log_q = losses.tempered_log_softmax(student_logits, 1.0, where=where)
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  kl = losses.kl(log_p, log_q)
  if not weighted:
    return kl
  at_one = losses.teacher_log_softmax(teacher_logits, 1.0, where)
  exists = losses.existing(teacher_logits, where)
  powers = jnp.where(exists, at_one, 0.0) / temperature
  return jnp.exp(parts.log_sum(powers, exists)) * kl
