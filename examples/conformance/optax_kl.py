"""One-liners with optax's KL divergence, right and wrong."""

import jax
import jax.numpy as jnp
import optax

log_softmax, softmax = jax.nn.log_softmax, jax.nn.softmax


def right(student_logits, teacher_logits, labels, temperature, alpha):
  """Log-probabilities of the student, probabilities of a stopped teacher."""
  t = temperature
  soft = t**2 * optax.losses.kl_divergence(
      log_softmax(student_logits / t),
      softmax(jax.lax.stop_gradient(teacher_logits) / t))
  hard = optax.losses.softmax_cross_entropy_with_integer_labels(
      student_logits, labels)
  return jnp.mean((1 - alpha) * hard + alpha * soft)


def log_targets(student_logits, teacher_logits, labels, temperature, alpha):
  """The same with log-probabilities of both."""
  t = temperature
  soft = t**2 * optax.losses.kl_divergence_with_log_targets(
      log_softmax(student_logits / t),
      log_softmax(jax.lax.stop_gradient(teacher_logits) / t))
  hard = optax.losses.softmax_cross_entropy_with_integer_labels(
      student_logits, labels)
  return jnp.mean((1 - alpha) * hard + alpha * soft)


def cross_entropy(student_logits, teacher_logits, labels, temperature, alpha):
  """The cross-entropy with soft targets, which optax takes as they are."""
  t = temperature
  soft = t**2 * optax.losses.softmax_cross_entropy(
      student_logits / t, softmax(jax.lax.stop_gradient(teacher_logits) / t))
  hard = optax.losses.softmax_cross_entropy_with_integer_labels(
      student_logits, labels)
  return jnp.mean((1 - alpha) * hard + alpha * soft)


def swapped(student_logits, teacher_logits, labels, temperature, alpha):
  """Teacher and student in the wrong order: KL is reversed."""
  t = temperature
  soft = t**2 * optax.losses.kl_divergence(
      log_softmax(jax.lax.stop_gradient(teacher_logits) / t),
      softmax(student_logits / t))
  hard = optax.losses.softmax_cross_entropy_with_integer_labels(
      student_logits, labels)
  return jnp.mean((1 - alpha) * hard + alpha * soft)


def logits(student_logits, teacher_logits, labels, temperature, alpha):
  """`kl_divergence` of logits, with no softmax."""
  del labels, alpha
  return jnp.mean(temperature**2 * optax.losses.kl_divergence(
      student_logits / temperature, teacher_logits / temperature))


def log_logits(student_logits, teacher_logits, labels, temperature, alpha):
  """`kl_divergence_with_log_targets` of logits, with no softmax."""
  del labels, alpha
  return jnp.mean(
      temperature**2 * optax.losses.kl_divergence_with_log_targets(
          student_logits / temperature, teacher_logits / temperature))
