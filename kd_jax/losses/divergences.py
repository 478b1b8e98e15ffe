r"""Divergences between teacher and student other than KL(p || q).

Notation as in `kd_jax.losses`: q at T of the student's logits z, p of the
teacher's v.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts


@parts.checked
def reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Kullback-Leibler divergence from student to teacher, without T**2.

  KL(q || p) = sum_i q_i (log q_i - log p_i)

  dKL/dz_i = q_i (log q_i - log p_i - KL) / T

  It punishes mass that the student puts where the teacher has none, and lets the
  student leave out modes. T**2 times it has the same limit at high T as KD's.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    KL in nats, `[...]`; +inf where the teacher excludes (-inf) a class that the
    student does not.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> student_logits = jnp.array([0.0, jnp.log(3.0)])  # q = (1/4, 3/4)
    >>> reverse_kl(student_logits, jnp.zeros(2), 1.0).round(4)
    Array(0.1308, dtype=float32)

  Source: Gu et al. (2024), MiniLLM, arXiv 2306.08543, equation 1, per position.
  """
  log_q = losses.tempered_log_softmax(student_logits, temperature, where=where)
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  return losses.kl(log_q, log_p)


@parts.checked
def jensen_shannon(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    beta: losses.Scalar = 0.5,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Generalised Jensen-Shannon divergence, without T**2.

  JSD = beta KL(p || m) + (1 - beta) KL(q || m),   m = beta p + (1 - beta) q

  It is bounded by the entropy of (beta, 1 - beta), log 2 at 1/2, even where the
  supports are disjoint. It vanishes at both ends, and there
  JSD / beta -> KL(p || q) as beta -> 0, JSD / (1 - beta) -> KL(q || p) as
  beta -> 1. So beta changes the size of the term as well as its shape.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    beta: Share of the teacher in m, in [0, 1].
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    JSD in nats, `[...]`.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5], or beta
      one outside [0, 1].

  Example:
    >>> a, b = jnp.array([0.0, -jnp.inf]), jnp.array([-jnp.inf, 0.0])
    >>> jensen_shannon(a, b, 1.0).round(4)  # log(2), of disjoint supports
    Array(0.6931, dtype=float32)

  Source: Huszar (2015), arXiv 1511.05101, equation 8; Agarwal et al. (2024), GKD,
  arXiv 2306.13649, equation 1.
  """
  if isinstance(beta, (int, float)) and not 0 <= beta <= 1:
    raise ValueError(f"beta must be in [0, 1], got {beta}")
  log_q = losses.tempered_log_softmax(student_logits, temperature, where=where)
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  # log(beta p) and log((1 - beta) q), whose sum is m.
  log_a, log_b = jnp.log(beta) + log_p, jnp.log(1.0 - beta) + log_q
  a, b = jnp.exp(log_a), jnp.exp(log_b)
  some = (a > 0) | (b > 0)  # elsewhere m = 0, and -inf - -inf is NaN
  log_m = jnp.logaddexp(
      jnp.where(some, log_a, 0.0), jnp.where(some, log_b, 0.0))
  gap_p = jnp.where(a > 0, log_p, 0.0) - jnp.where(a > 0, log_m, 0.0)
  gap_q = jnp.where(b > 0, log_q, 0.0) - jnp.where(b > 0, log_m, 0.0)
  return jnp.sum(a * gap_p + b * gap_q, axis=-1)
