"""Our own losses as targets.

  python -m kd_jax.conformance kd_jax.conformance.ours:kd
"""

import jax

from kd_jax import losses


def kd(student_logits: jax.Array, teacher_logits: jax.Array, labels: jax.Array,
       temperature: float, alpha: float) -> jax.Array:
  """`losses.distillation_loss`, of which training by `method=kd` is the mean."""
  return losses.distillation_loss(
      student_logits, teacher_logits, labels, temperature=temperature,
      alpha=alpha)


def cross_entropy(
    student_logits: jax.Array, teacher_logits: jax.Array, labels: jax.Array,
    temperature: float, alpha: float) -> jax.Array:
  """The same with Hinton's equation 2 instead of KL: of the same gradient."""
  hard = losses.hard_cross_entropy(student_logits, labels)
  soft = losses.soft_target_cross_entropy(
      student_logits, teacher_logits, temperature)
  return (1 - alpha) * hard + alpha * temperature**2 * soft
