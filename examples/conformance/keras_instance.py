"""Keras 3's `LogitsDistillation`, given its loss as an instance."""

from keras import distillation, losses, ops

from kd_jax.conformance import adapters


@adapters.keras
def loss(student_logits, teacher_logits, labels, temperature, alpha):
  """As in `keras_default.py`, but for the loss."""
  soft = distillation.LogitsDistillation(
      temperature, loss=losses.KLDivergence()).compute_loss(
          ops.stop_gradient(teacher_logits), student_logits)
  hard = losses.SparseCategoricalCrossentropy(from_logits=True)(
      labels, student_logits)
  return alpha * hard + (1 - alpha) * soft
