r"""Objectives of distillation: pure functions of logits, one equation each.

Every function takes *logits* of any leading shape, `[..., classes]`, and returns
one value per example, `[...]`; the caller masks, weighs and averages. All work is
done in log space and in float32 (float64 where the logits are), whatever the
precision of the logits. The teacher never receives a gradient.

Notation: student logits z, teacher logits v, temperature T, and

  q_i(T) = exp(z_i / T) / sum_j exp(z_j / T),   p_i(T) likewise of v.

A class that does not exist for an example is masked, either by `where` (bool,
`[..., classes]`) or by a logit of -inf; it has probability 0 and gradient 0.

Sources: Hinton, Vinyals & Dean (2015), arXiv 1503.02531, equations 1-4; Bucila,
Caruana & Niculescu-Mizil (2006); Ba & Caruana (2014), arXiv 1312.6184.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax.core import limits
from kd_jax.losses import parts

Scalar = jax.Array | float


def tempered_log_softmax(
    logits: jax.Array, temperature: Scalar, *, where: jax.Array | None = None
) -> jax.Array:
  r"""Log-probabilities of the softmax at a temperature.

  log q_i = z_i / T - log sum_j exp(z_j / T)       (Hinton et al. 2015, eq. 1)

  Args:
    logits: Unnormalised scores z, `[..., classes]`; -inf marks a masked class.
    temperature: T > 0, a scalar, or `[..., 1]` for one T an example.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    log q, `[..., classes]`, at least float32; -inf for a masked class. NaN for an
    array's T of less than half, or more than twice, of what a Python number may be.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> tempered_log_softmax(jnp.array([0.0, jnp.log(9.0)]), 2.0).round(4)
    Array([-1.3863, -0.2877], dtype=float32)
  """
  temperature = _checked_temperature(temperature)
  exists = existing(logits, where)
  # Masked logits leave before any arithmetic: -inf / T has a NaN gradient in T.
  scores = jnp.where(exists, at_least_float32(logits), 0.0) / temperature
  return jax.nn.log_softmax(scores, axis=-1, where=exists)


def tempered_softmax(
    logits: jax.Array, temperature: Scalar, *, where: jax.Array | None = None
) -> jax.Array:
  r"""Probabilities of the softmax at a temperature.

  q_i = exp(z_i / T) / sum_j exp(z_j / T)          (Hinton et al. 2015, eq. 1)

  Args:
    logits: Unnormalised scores z, `[..., classes]`; -inf marks a masked class.
    temperature: T > 0, a scalar, or `[..., 1]` for one T an example.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    q, `[..., classes]`, at least float32, summing to 1 over classes.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> tempered_softmax(jnp.array([0.0, jnp.log(9.0)]), 2.0)  # 1 : sqrt(9)
    Array([0.25, 0.75], dtype=float32)
  """
  return jnp.exp(tempered_log_softmax(logits, temperature, where=where))


@parts.checked
def soft_target_cross_entropy(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Cross-entropy of the student with the teacher's soft targets, without T**2.

  C = - sum_i p_i log q_i,   dC/dz_i = (q_i - p_i) / T     (eq. 2)

  For zero-meaned logits and T much larger than they are, over N classes,
  dC/dz_i ~ (z_i - v_i) / (N T**2)                         (eq. 4)

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    C in nats, `[...]`. It is the teacher's entropy where z = v.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> logits = jnp.zeros((1, 4))
    >>> soft_target_cross_entropy(logits, logits, 20.0)  # log(4)
    Array([1.3862944], dtype=float32)
  """
  log_q = tempered_log_softmax(student_logits, temperature, where=where)
  p = jnp.exp(teacher_log_softmax(teacher_logits, temperature, where))
  return -_expectation(p, log_q)


@parts.checked
def distillation_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: Scalar,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Kullback-Leibler divergence from teacher to student, without T**2.

  KL(p || q) = sum_i p_i (log p_i - log q_i)

  It has the gradient of `soft_target_cross_entropy` and is zero where z = v.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    temperature: T > 0, of both; a scalar, or `[..., 1]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    KL in nats, `[...]`; +inf where the student excludes (-inf) a class that the
    teacher does not.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> teacher_logits = jnp.array([0.0, jnp.log(3.0)])  # p = (1/4, 3/4)
    >>> distillation_kl(jnp.zeros(2), teacher_logits, 1.0).round(4)
    Array(0.1308, dtype=float32)
  """
  log_q = tempered_log_softmax(student_logits, temperature, where=where)
  log_p = teacher_log_softmax(teacher_logits, temperature, where)
  return kl(log_p, log_q)


@parts.checked
def logit_matching(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    zero_mean: bool = False,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Squared distance of logits.

  L = 1/2 sum_i (z_i - v_i)**2        (Ba & Caruana 2014, eq. 1, per example)

  With `zero_mean`, the mean over classes is first taken from both, so that L
  does not change when a constant is added to all logits. Over N classes, T**2
  times the distillation KL then tends to L / N as T grows (Hinton, eq. 4).

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    zero_mean: Whether to centre both sets of logits over their classes.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    L in squared logits, `[...]`.

  Example:
    >>> logit_matching(jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]))  # (4+9)/2
    Array(6.5, dtype=float32)
    >>> logit_matching(
    ...     jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]), zero_mean=True)
    Array(0.25, dtype=float32)
  """
  exists = existing(student_logits, where) & existing(teacher_logits, where)
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  z = jnp.where(exists, at_least_float32(student_logits), 0.0)
  v = jnp.where(exists, at_least_float32(teacher_logits), 0.0)
  gap = z - v
  if zero_mean:
    # The mean of a difference is the difference of the means.
    gap = gap - jnp.mean(gap, axis=-1, keepdims=True, where=exists)
  return 0.5 * jnp.sum(jnp.square(gap), axis=-1, where=exists)


@parts.checked
def hard_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: Scalar = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Cross-entropy with the true labels, at T = 1.

  C = - (1 - s) log q_y - s/N sum_i log q_i

  Smoothing s belongs to this term alone: the teacher's targets are soft already.

  Args:
    logits: z, `[..., classes]`.
    labels: True classes y in [0, classes), integers `[...]`.
    label_smoothing: s in [0, 1], spread evenly over the N existing classes.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    C in nats, `[...]`.

  Raises:
    ValueError: If s is a Python number outside [0, 1].

  Example:
    >>> hard_cross_entropy(jnp.array([0.0, jnp.log(3.0)]), jnp.array(1)).round(4)
    Array(0.2877, dtype=float32)
  """
  number = isinstance(label_smoothing, (int, float))
  if number and not 0 <= label_smoothing <= 1:
    raise ValueError(
        f"label_smoothing must be in [0, 1], got {label_smoothing}")
  log_q = tempered_log_softmax(logits, 1.0, where=where)
  log_q_label = parts.at_label(log_q, labels)
  exists = existing(logits, where)
  even = jnp.mean(jnp.where(exists, log_q, 0.0), axis=-1, where=exists)
  return -(1.0 - label_smoothing) * log_q_label - label_smoothing * even


def distillation_weights(
    alpha: Scalar | None = None,
    hard_weight: Scalar | None = None,
    soft_weight: Scalar | None = None,
) -> tuple[Scalar, Scalar]:
  """Hard and soft weight, from alpha or given by themselves.

  hard_weight = 1 - alpha, soft_weight = alpha

  Args:
    alpha: Share of the soft term, in [0, 1].
    hard_weight: Weight of the hard term, >= 0.
    soft_weight: Weight of the soft term, >= 0.

  Returns:
    `(hard_weight, soft_weight)`.

  Raises:
    ValueError: If alpha is given together with a weight, if only one weight or
      nothing is given, or if a Python number is out of range.

  Example:
    >>> distillation_weights(alpha=0.75)
    (0.25, 0.75)
  """
  if alpha is not None:
    if hard_weight is not None or soft_weight is not None:
      raise ValueError("give alpha, or hard_weight and soft_weight, not both")
    if isinstance(alpha, (int, float)) and not 0 <= alpha <= 1:
      raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    return 1 - alpha, alpha
  if hard_weight is None or soft_weight is None:
    raise ValueError("give alpha, or both hard_weight and soft_weight")
  for name, weight in (("hard", hard_weight), ("soft", soft_weight)):
    if isinstance(weight, (int, float)) and not 0 <= weight < float("inf"):
      raise ValueError(f"{name}_weight must be >= 0 and finite, got {weight}")
  return hard_weight, soft_weight


def distillation_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: Scalar,
    alpha: Scalar | None = None,
    hard_weight: Scalar | None = None,
    soft_weight: Scalar | None = None,
    label_smoothing: Scalar = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""The weighted sum of the hard and the soft term of distillation.

  L = hard_weight * hard_cross_entropy + soft_weight * T**2 * distillation_kl

  `alpha` is shorthand for hard_weight = 1 - alpha, soft_weight = alpha: here it
  is the share of the *soft* term (in Keras and torchdistill, of the hard one).
  T**2 keeps the size of the soft term's gradient while T changes (Hinton et al.
  2015, section 2). No value of alpha or T is a special case.

  Args:
    student_logits: z, `[..., classes]`.
    teacher_logits: v, `[..., classes]`; receives no gradient.
    labels: True classes, integers `[...]`.
    temperature: T > 0 of the soft term; the hard term is at T = 1.
    alpha: Share of the soft term, in [0, 1]; excludes the two weights.
    hard_weight: Weight of the hard term, >= 0.
    soft_weight: Weight of the soft term, >= 0.
    label_smoothing: Smoothing of the hard term only, in [0, 1].
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    L in nats, `[...]`.

  Raises:
    ValueError: If alpha is given together with a weight, or a value that is a
      Python number is out of range.

  Example:
    >>> logits, labels = jnp.zeros((1, 2)), jnp.array([0])
    >>> distillation_loss(  # the soft term is 0, the hard one log(2)
    ...     logits, logits, labels, temperature=4.0, alpha=0.5).round(4)
    Array([0.3466], dtype=float32)
  """
  hard_weight, soft_weight = distillation_weights(
      alpha, hard_weight, soft_weight)
  hard = hard_cross_entropy(
      student_logits, labels, label_smoothing=label_smoothing, where=where)
  soft = temperature**2 * distillation_kl(
      student_logits, teacher_logits, temperature, where=where)
  # Without a hard term there need be no labels, and whatever stands there is NaN.
  hard = jnp.where(hard_weight == 0, 0.0, hard_weight * hard)
  return hard + soft_weight * soft


def _checked_temperature(temperature: Scalar) -> Scalar:
  low, high = limits.TEMPERATURES
  if not isinstance(temperature, (int, float)):
    # MLKD softens at 0.5 to 1.5 times T.
    fine = (temperature >= low / 2) & (temperature <= 2 * high)
    return jnp.where(fine, temperature, jnp.nan)
  if not low <= temperature <= high:
    raise ValueError(
        f"temperature must be in [{low:g}, {high:g}], got {temperature}")
  return temperature


def at_least_float32(logits: jax.Array) -> jax.Array:
  """Logits in float32, or in float64 if that is what they are."""
  # Not `promote_types`, which refuses two dtypes under strict promotion.
  wide = logits.dtype == jnp.float64
  return logits.astype(jnp.float64 if wide else jnp.float32)


def existing(logits: jax.Array, where: jax.Array | None) -> jax.Array:
  """Which classes exist, bool `[..., classes]`: not masked by `where` or -inf."""
  # Not `logits > -inf`, which would hide a NaN instead of passing it on.
  exists = logits != -jnp.inf
  return exists if where is None else exists & where


def teacher_log_softmax(
    logits: jax.Array, temperature: Scalar, where: jax.Array | None
) -> jax.Array:
  """log p of a teacher, `[..., classes]`, who gets no gradient."""
  logits = jax.lax.stop_gradient(logits)
  return tempered_log_softmax(logits, temperature, where=where)


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  r"""KL(p || q) of log-probabilities `[..., classes]`, of which -inf is zero.

  KL = sum_i p_i d_i + q_i - p_i,   d = log p - log q

  As p and q sum to 1, the two further terms add nothing to the sum, but with them
  no class is below 0, and p d does not cancel that of other classes where p is near
  q: p (d - 1 + exp(-d)) = p (d**2 / 2 - d**3 / 6 + ...).
  """
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  # Subtract where p has mass only: -inf - -inf is NaN.
  gap = jnp.where(p > 0, log_p, 0.0) - jnp.where(p > 0, log_q, 0.0)
  near = (p > 0) & (jnp.abs(gap) < 1 / 8)
  d = jnp.where(near, gap, 0.0)
  series = jnp.zeros_like(d)
  # All that follows is below the last digit.
  for n in range(6 if d.dtype == jnp.float32 else 11, 1, -1):
    series = 1 / math.factorial(n) - series * d
  return jnp.sum(jnp.where(near, p * d**2 * series, p * gap + (q - p)), axis=-1)


def _expectation(p: jax.Array, values: jax.Array) -> jax.Array:
  """sum_i p_i values_i, in which a class of probability 0 adds nothing."""
  return jnp.sum(p * jnp.where(p > 0, values, 0.0), axis=-1)
