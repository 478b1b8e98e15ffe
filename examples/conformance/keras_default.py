"""Keras 3's `LogitsDistillation`, as its default makes it."""

from keras import distillation, losses, ops

from kd_jax.conformance import adapters


@adapters.keras
def loss(student_logits, teacher_logits, labels, temperature, alpha):
  """As `keras.distillation.Distiller` adds them up; alpha: student_loss_weight.

  The Distiller makes its teacher untrainable; here its logits are stopped.
  """
  soft = distillation.LogitsDistillation(temperature).compute_loss(
      ops.stop_gradient(teacher_logits), student_logits)
  hard = losses.SparseCategoricalCrossentropy(from_logits=True)(
      labels, student_logits)
  return alpha * hard + (1 - alpha) * soft
