r"""Controls of born-again networks: CWTM and DKPP (Furlanello et al. 2018).

Does a student learn from the probabilities that its teacher gives to other classes,
or does the teacher's confidence only weigh the examples? CWTM keeps the confidence
alone, as weights of cross-entropy with the labels. DKPP keeps the probabilities,
but not which of the other classes they belong to.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses


def teacher_max_weights(
    teacher_logits: jax.Array,
    temperature: losses.Scalar,
    *,
    mask: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""CWTM's weights of the examples of a batch, of mean 1.

  w_s = B max_i p_i,s / sum_u max_i p_i,u

  The mean of w_s * CE_s over the B examples has the paper's gradient,
  sum_s (w_s / B) (q_s - y_s), where y is the one-hot label: a teacher that is sure
  counts, also where it is wrong. Examples that it is equally sure of weigh 1.

  Args:
    teacher_logits: v, `[batch, classes]`; receives no gradient.
    temperature: T > 0, of p; a scalar, or `[batch, 1]`. The paper has 1.
    mask: True for the valid examples, bool `[batch]`; default all.
    where: True for the classes that exist, bool `[batch, classes]`; default all.

  Returns:
    w, `[batch]`, at least float32; 0 for an example that is not valid.

  Raises:
    ValueError: If T is a Python number outside [1e-6, 1e5].

  Example:
    >>> v = jnp.array([[90.0, 0.0], [0.0, 0.0]])  # of p = (1, 0) and (1/2, 1/2)
    >>> teacher_max_weights(v, 1.0).round(4)  # 2 * 1 / 1.5 and 2 * 0.5 / 1.5
    Array([1.3333, 0.6667], dtype=float32)

  Source: Furlanello et al. (2018), Born-again neural networks, ICML, arXiv
  1805.04770, confidence-weighted by teacher max.
  """
  log_p = losses.teacher_log_softmax(teacher_logits, temperature, where)
  confidence = jnp.exp(jnp.max(log_p, axis=-1))
  valid = jnp.ones(confidence.shape, bool) if mask is None else mask
  mean = jnp.mean(confidence, where=valid)
  return jnp.where(valid, confidence / mean, 0.0)


def permuted_logits(
    teacher_logits: jax.Array, draws: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  r"""DKPP's teacher: its largest logit stays, the others change places.

  v'_m = v_m,   v'_i = v_phi(i) for i != m,   m = argmax_i v_i

  phi is a permutation of the other classes. Probabilities at any T are permuted
  with the logits, so the confidence, the entropy and every moment of the others
  stay. Any objective takes v' for a teacher; the paper's is cross-entropy with it
  alone. The class that stays is the teacher's own largest, not the label's; the two
  differ where the teacher is wrong.

  Args:
    teacher_logits: v, `[..., classes]`; receives no gradient. Of equal largest
      logits the first stays.
    draws: Random numbers without an order, `[..., classes]`: the k-th of the other
      classes gets the logit of the class with the k-th smallest of their numbers.
      Of independent uniform numbers, every permutation is equally likely.
    where: True for the classes that exist, bool `[..., classes]`; default all.
      Those that do not, also by a logit of -inf, stay where they are.

  Returns:
    v', as v.

  Example:
    >>> v = jnp.array([1.0, 9.0, 2.0, 3.0])
    >>> permuted_logits(v, jnp.array([0.7, 0.0, 0.1, 0.4]))  # 0.1, 0.4, 0.7
    Array([2., 9., 3., 1.], dtype=float32)

  Source: Furlanello et al. (2018), arXiv 1805.04770, dark knowledge with
  permuted predictions.
  """
  v = jax.lax.stop_gradient(teacher_logits)
  exists = losses.existing(v, where)
  largest = jnp.argmax(jnp.where(exists, v, -jnp.inf), axis=-1)
  free = exists & ~jax.nn.one_hot(largest, v.shape[-1], dtype=bool)
  # The free classes come first, in the order of their numbers.
  order = jnp.argsort(jnp.where(free, draws, jnp.inf), axis=-1)
  place = jnp.maximum(jnp.cumsum(free, axis=-1) - 1, 0)
  drawn = jnp.take_along_axis(order, place, axis=-1)
  return jnp.take_along_axis(
      v, jnp.where(free, drawn, jnp.arange(v.shape[-1])), axis=-1)
