r"""The label's class apart from the others: DKD, NKD and RLD, as their terms.

Notation: y the label, p_y and q_y its probabilities at T, and p^, q^ the softmaxes
at T over the other classes only,

  p^_i = p_i / (1 - p_y) = exp(v_i / T) / sum_{j != y} exp(v_j / T),   q^ likewise.

All is done in log space: log(1 - p_y) is the log of the sum of the others, which
does not underflow where p_y rounds to 1, and classes are left out by masks. An
example without any other class has value and gradient 0 in the terms over them.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts


@parts.checked
def target_class_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""DKD's TCKD: KL of the label's class against all others, without T**2.

  TCKD = p_y log(p_y / q_y) + (1 - p_y) log((1 - p_y) / (1 - q_y))

  KD's KL = TCKD + (1 - p_y) NCKD; DKD = alpha TCKD + beta NCKD with free weights,
  so that the second does not vanish where the teacher is sure.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes y, integers `[...]`.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    TCKD in nats, `[...]`.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v, y = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.array(0)
    >>> target_class_kl(jnp.zeros(3), v, y, 1.0).round(4)  # KL(1/2 || 1/3)
    Array(0.0589, dtype=float32)

  Source: Zhao et al. (2022), Decoupled knowledge distillation, CVPR,
  arXiv 2203.08679, equations 4-7.
  """
  label = parts.is_label(labels, student_logits)
  log_q = losses.tempered_log_softmax(student_logits, temperature, where=where)
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  return losses.kl(parts.split(log_p, label), parts.split(log_q, label))


@parts.checked
def non_target_class_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""DKD's NCKD: KL among the classes that are not the label, without T**2.

  NCKD = sum_{i != y} p^_i log(p^_i / q^_i)

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes y, integers `[...]`.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    NCKD in nats, `[...]`; 0 of two classes.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v, y = jnp.log(jnp.array([0.5, 0.4, 0.1])), jnp.array(0)
    >>> non_target_class_kl(jnp.zeros(3), v, y, 1.0).round(4)  # KL(4/5 || 1/2)
    Array(0.1927, dtype=float32)

  Source: Zhao et al. (2022), arXiv 2203.08679, equations 4-7.
  """
  others, some = _others(student_logits, teacher_logits, labels, where)
  kl = losses.distillation_kl(
      student_logits, teacher_logits, temperature, where=others)
  return jnp.where(some, kl, 0.0)


@parts.checked
def confident_cross_entropy(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""NKD's first term: cross-entropy with the label, as the teacher is sure of it.

  C = - p_y log q_y,   at T = 1

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes y, integers `[...]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    C in nats, `[...]`; not stationary at z = v.

  Example:
    >>> v, y = jnp.log(jnp.array([0.5, 0.4, 0.1])), jnp.array(0)
    >>> confident_cross_entropy(jnp.zeros(3), v, y).round(4)  # log(3) / 2
    Array(0.5493, dtype=float32)

  Source: Yang et al. (2023), From knowledge distillation to self-knowledge
  distillation, ICCV, arXiv 2303.13005: NKD.
  """
  log_p = losses.teacher_log_softmax(teacher_logits, 1.0, where)
  p_label = jnp.exp(parts.at_label(log_p, labels))
  return p_label * losses.hard_cross_entropy(student_logits, labels, where=where)


@parts.checked
def non_target_cross_entropy(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""NKD's second term: cross-entropy among the other classes, without T**2.

  C = - sum_{i != y} p^_i log q^_i

  It is NCKD (`non_target_class_kl`) plus the entropy of p^, so has its gradient.
  NKD = confident_cross_entropy + gamma T**2 times this.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes y, integers `[...]`.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    C in nats, `[...]`; 0 of two classes.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v, y = jnp.log(jnp.array([0.5, 0.4, 0.1])), jnp.array(0)
    >>> non_target_cross_entropy(jnp.zeros(3), v, y, 1.0).round(4)  # log(2)
    Array(0.6931, dtype=float32)

  Source: Yang et al. (2023), arXiv 2303.13005: NKD.
  """
  others, some = _others(student_logits, teacher_logits, labels, where)
  cross_entropy = losses.soft_target_cross_entropy(
      student_logits, teacher_logits, temperature, where=others)
  return jnp.where(some, cross_entropy, 0.0)


@parts.checked
def sample_confidence_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""RLD's SCD: how sure to be, whatever the teacher is sure of; without T**2.

  SCD = KL((p_m, 1 - p_m) || (q_y, 1 - q_y)),   p_m = max_i p_i

  The student is to be as sure of the label as the teacher is of its own answer,
  right or wrong. Where the teacher is right it is TCKD.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes y, integers `[...]`.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    SCD in nats, `[...]`.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v, y = jnp.log(jnp.array([0.5, 0.4, 0.1])), jnp.array(2)
    >>> sample_confidence_kl(jnp.zeros(3), v, y, 1.0).round(4)  # KL(1/2 || 1/3)
    Array(0.0589, dtype=float32)

  Source: Sun et al. (2024), Knowledge distillation with refined logits,
  arXiv 2408.07703: sample confidence distillation.
  """
  log_q = losses.tempered_log_softmax(student_logits, temperature, where=where)
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  answer = parts.is_label(jnp.argmax(log_p, axis=-1), log_p)
  label = parts.is_label(labels, student_logits)
  return losses.kl(parts.split(log_p, answer), parts.split(log_q, label))


@parts.checked
def masked_correlation_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""RLD's MCD: KL among the classes that the teacher ranks below the label.

  MCD = KL(p~ || q~),   softmaxes at T over the i with v_i < v_y only; without T**2

  What contradicts the label is left out: every class that the teacher holds at
  least as likely. Where the teacher is right it is NCKD.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes y, integers `[...]`.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    MCD in nats, `[...]`; 0 where the teacher ranks nothing, or one class, below.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v, y = jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1])), jnp.array(1)
    >>> z = jnp.array([9.0, 3.0, 5.0, 7.0])
    >>> masked_correlation_kl(z, v, y, 1.0).round(4)  # one class is left
    Array(0., dtype=float32)

  Source: Sun et al. (2024), arXiv 2408.07703: masked correlation distillation.
  """
  v_label = parts.at_label(teacher_logits, labels)[..., None]
  below, some = parts.restrict(
      losses.existing(student_logits, where)
      & losses.existing(teacher_logits, where)
      & ~(teacher_logits >= v_label))  # so that a NaN is passed on
  kl = losses.distillation_kl(
      student_logits, teacher_logits, temperature, where=below)
  return jnp.where(some, kl, 0.0)


def _others(student_logits, teacher_logits, labels, where):
  """The classes but the label's, as `parts.restrict` gives them."""
  return parts.restrict(
      losses.existing(student_logits, where)
      & losses.existing(teacher_logits, where)
      & ~parts.is_label(labels, student_logits))
