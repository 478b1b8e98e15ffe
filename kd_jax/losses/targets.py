r"""Targets other than a teacher's distribution: its top k, or no teacher at all."""

from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts


def top_k_classes(
    teacher_logits: jax.Array,
    k: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  """The k classes that the teacher holds most likely.

  Args:
    teacher_logits: v, `[..., classes]`.
    k: How many, >= 1; may be traced, and a whole number of any type. More than
      there are means all.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    True for them, bool `[..., classes]`; of equal logits the first come first.

  Raises:
    ValueError: If k is a Python number below 1.

  Example:
    >>> top_k_classes(jnp.array([1.0, 3.0, 3.0, 2.0]), 2)
    Array([False,  True,  True, False], dtype=bool)
  """
  if isinstance(k, (int, float)) and k < 1:
    raise ValueError(f"k must be >= 1, got {k}")
  exists = losses.existing(teacher_logits, where)
  v = jnp.where(exists, losses.at_least_float32(teacher_logits), -jnp.inf)
  order = jnp.argsort(v, axis=-1, descending=True)
  # The inverse of a permutation is its argsort: the rank of each class.
  rank = jnp.argsort(order, axis=-1).astype(jnp.float32)
  return exists & (rank < jnp.asarray(k).astype(jnp.float32))


@parts.checked
def pseudo_label_cross_entropy(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Cross-entropy with the class that the teacher holds most likely, at T = 1.

  C = - log q_m,   m = argmax_i v_i

  The limit of cross-entropy with the teacher's probabilities when the teacher's own
  T goes to 0: how sure it is, and what it thinks of other classes, is lost.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient. Of equal largest
      logits the first counts.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    C in nats, `[...]`.

  Example:
    >>> z = jnp.log(jnp.array([1.0, 3.0]))
    >>> pseudo_label_cross_entropy(z, jnp.array([0.2, 0.1])).round(4)  # log 4
    Array(1.3863, dtype=float32)

  Source: Lee (2013), Pseudo-label, ICML workshop, equation 14; "hard pseudo labels"
  of Xie et al. (2020), arXiv 1911.04252.
  """
  exists = losses.existing(teacher_logits, where)
  v = jnp.where(exists, jax.lax.stop_gradient(teacher_logits), -jnp.inf)
  value = losses.hard_cross_entropy(student_logits, jnp.argmax(v, -1), where=where)
  # A NaN is no class, and must not look like one.
  return jnp.where(jnp.isnan(jnp.max(v, axis=-1)), jnp.nan, value)


@parts.checked
def top_k_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    k: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""KL over the teacher's k likeliest classes, both renormalised; without T**2.

  KL(p' || q'),   p'_i = p_i / sum_{j in K} p_j,   q'_i = q_i / sum_{j in K} q_j

  The student is told nothing of how much belongs outside of K. (To renormalise the
  teacher alone asks for all of it inside, and biases the student.)

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    k: How many classes, >= 1; may be traced.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    KL in nats, `[...]`; 0 for k = 1, and KD's for k = N.

  Raises:
    ValueError: If T or k is a Python number that is out of range.

  Example:
    >>> v = jnp.log(jnp.array([0.5, 0.125, 0.375]))  # p' = (4/7, -, 3/7)
    >>> top_k_kl(jnp.zeros(3), v, 1.0, 2).round(4)  # KL(4/7 || 1/2)
    Array(0.0102, dtype=float32)
  """
  inside = top_k_classes(teacher_logits, k, where=where)
  return losses.distillation_kl(
      student_logits, teacher_logits, temperature, where=inside)


@parts.checked
def bucket_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    k: losses.Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""KL over the teacher's k likeliest classes and the rest as one; without T**2.

  KL_k = sum_{i in K} p_i log(p_i / q_i) + p_r log(p_r / q_r),
  p_r = sum_{i not in K} p_i,   q_r likewise

  It needs of the teacher k numbers and their sum, and loses little:
  KL - KL_k = p_r KL(rest of p || rest of q) >= 0, and the gradients in z differ by
  at most 2 p_r / T in the 1-norm.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    k: How many classes, >= 1; may be traced.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    KL_k in nats, `[...]`; KD's KL for k = N - 1 and k = N.

  Raises:
    ValueError: If T or k is a Python number that is out of range.

  Example:
    >>> v = jnp.log(jnp.array([0.5, 0.125, 0.375]))
    >>> bucket_kl(jnp.zeros(3), v, 1.0, 1).round(4)  # KL(1/2 || 1/3)
    Array(0.0589, dtype=float32)
  """
  inside = top_k_classes(teacher_logits, k, where=where)
  log_q = losses.tempered_log_softmax(student_logits, temperature, where=where)
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  return losses.kl(_bucketed(log_p, inside), _bucketed(log_q, inside))


def manual_teacher_logits(
    labels: jax.Array,
    classes: int,
    correct: losses.Scalar = 0.99,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Logits of a teacher who is right with probability a, and otherwise at a loss.

  softmax(v)_y = a,   softmax(v)_i = (1 - a) / (N - 1) for i != y

  Any objective takes it for a teacher.

  Args:
    labels: True classes y, integers `[...]`.
    classes: Their number.
    correct: a in (0, 1].
    where: True for the N classes that exist, bool `[..., classes]`; default all.

  Returns:
    v, float32 `[..., classes]`: log-probabilities, -inf for probability 0, NaN
    where a label is no class.

  Raises:
    ValueError: If a is a Python number outside (0, 1].

  Example:
    >>> jnp.exp(manual_teacher_logits(jnp.array(1), 3, 0.5))
    Array([0.25, 0.5 , 0.25], dtype=float32)

  Source: Yuan et al. (2020), Revisiting knowledge distillation via label smoothing
  regularization, CVPR, arXiv 1909.11723, section 4 (Tf-KD_reg).
  """
  exists = jnp.broadcast_to(
      True if where is None else where, (*labels.shape, classes))
  p = _manual_probabilities(labels, exists, correct, float)
  return _of_classes(labels, jnp.log(p))


def smoothed_label_logits(
    labels: jax.Array,
    classes: int,
    smoothing: losses.Scalar = 0.1,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Logits of label smoothing, seen as a teacher.

  softmax(v)_i = (1 - s) [i = y] + s / N

  The KL to it at T = 1 is label-smoothed cross-entropy, less its entropy.

  Args:
    labels: True classes y, integers `[...]`.
    classes: Their number.
    smoothing: s in [0, 1].
    where: True for the N classes that exist, bool `[..., classes]`; default all.

  Returns:
    v, float32 `[..., classes]`: log-probabilities, -inf for probability 0, NaN
    where a label is no class.

  Raises:
    ValueError: If s is a Python number outside [0, 1].

  Example:
    >>> jnp.exp(smoothed_label_logits(jnp.array(1), 4, 0.5))
    Array([0.125, 0.625, 0.125, 0.125], dtype=float32)

  Source: Yuan et al. (2020), arXiv 1909.11723, section 3.1.
  """
  if isinstance(smoothing, (int, float)) and not 0 <= smoothing <= 1:
    raise ValueError(f"smoothing must be in [0, 1], got {smoothing}")
  exists = jnp.broadcast_to(
      True if where is None else where, (*labels.shape, classes))
  label = jax.nn.one_hot(labels, classes, dtype=float)
  even = exists.astype(float) / jnp.sum(exists, axis=-1, keepdims=True, dtype=float)
  return _of_classes(labels, jnp.log((1.0 - smoothing) * label + smoothing * even))


@parts.checked
def virtual_teacher_kl(
    student_logits: jax.Array,
    labels: jax.Array,
    temperature: losses.Scalar,
    correct: losses.Scalar = 0.99,
    *,
    student_temperature: losses.Scalar = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Tf-KD's regulariser: KL from a teacher made by hand, without T**2.

  KL(softmax(u / T) || softmax(z)),   u_y = a, u_i = (1 - a) / (N - 1)

  The *probabilities* u take the place of logits, so that the target is nearly even
  at any T; `manual_teacher_logits` gives the teacher whose softmax they are. This
  is the authors' code, where KL is a mean over classes, that is this over N.

  Args:
    student_logits: z, `[..., classes]`.
    labels: True classes y, integers `[...]`.
    temperature: T > 0, of u; a scalar, or `[..., 1]`. The authors take 20 and more.
    correct: a in (0, 1].
    student_temperature: Of z; T for one temperature of both.
    where: True for the N classes that exist, bool `[..., classes]`; default all.

  Returns:
    KL in nats, `[...]`.

  Raises:
    ValueError: If T or a is a Python number that is out of range.

  Example:
    >>> z, y = jnp.array([1.0, 0.0]), jnp.array(0)
    >>> virtual_teacher_kl(z, y, 1.0, correct=1.0)  # u = z
    Array(0., dtype=float32)

  Source: Yuan et al. (2020), arXiv 1909.11723, section 4 (Tf-KD_reg), and the
  authors' code.
  """
  exists = losses.existing(student_logits, where)
  dtype = losses.at_least_float32(student_logits).dtype
  u = _manual_probabilities(labels, exists, correct, dtype)
  log_p = losses.teacher_log_softmax(u, temperature, exists)
  log_q = losses.tempered_log_softmax(
      student_logits, student_temperature, where=exists)
  return losses.kl(log_p, log_q)


def _of_classes(labels: jax.Array, logits: jax.Array) -> jax.Array:
  """Logits, NaN where a label is no class."""
  known = parts.is_class(labels, logits.shape[-1])
  return jnp.where(known[..., None], logits, jnp.nan)


def _bucketed(log_p: jax.Array, inside: jax.Array) -> jax.Array:
  """Log-probabilities of the classes inside, and of the others together."""
  rest = parts.log_sum(log_p, ~inside)[..., None]
  return jnp.concatenate([jnp.where(inside, log_p, -jnp.inf), rest], axis=-1)


def _manual_probabilities(
    labels: jax.Array, exists: jax.Array, correct: losses.Scalar, dtype: Any
) -> jax.Array:
  """a for the label, and the rest shared by the other classes that exist."""
  if isinstance(correct, (int, float)) and not 0 < correct <= 1:
    raise ValueError(f"correct must be in (0, 1], got {correct}")
  label = jax.nn.one_hot(labels, exists.shape[-1], dtype=bool)
  others = exists & ~label
  count = jnp.sum(others, axis=-1, keepdims=True, dtype=dtype)
  share = others.astype(dtype) / jnp.maximum(count, 1.0)
  return correct * label.astype(dtype) + (1.0 - correct) * share
