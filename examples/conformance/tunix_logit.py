"""tunix's `LogitStrategy`, asked as its trainer does."""

from flax import nnx
import jax
from tunix.distillation.strategies.logit import LogitStrategy

from kd_jax.conformance import adapters


@adapters.jax
def loss(student_logits, teacher_logits, labels, temperature, alpha):
  """Both models say what they are given; labels are one-hot."""
  strategy = LogitStrategy(
      student_forward_fn=lambda model, student, teacher, labels: student,
      teacher_forward_fn=lambda model, student, teacher, labels: teacher,
      labels_fn=lambda student, teacher, labels: labels,
      temperature=temperature, alpha=alpha)
  inputs = {"student": student_logits, "teacher": teacher_logits,
            "labels": jax.nn.one_hot(labels, student_logits.shape[-1])}
  said = strategy.get_teacher_outputs(nnx.Module(), inputs)
  return strategy.get_train_loss(nnx.Module(), said, inputs)[0]
