"""How well a linear student explains its teacher."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Fidelity(NamedTuple):
  """Per example, `[N]`: what means and R2 are made of.

  Attributes:
    agreement: 1 where both name the same class.
    kl: KL(p || q), both at T.
    residual: sum_k (p_k - q_k)**2.
    total: sum_k (p_k - mean p_k)**2; R2 = 1 - sum residual / sum total.
  """

  agreement: jax.Array
  kl: jax.Array
  residual: jax.Array
  total: jax.Array


def fidelity(
    teacher: jax.Array, student: jax.Array, *, temperature: float
) -> Fidelity:
  """How near the student's logits are to the teacher's, both `[N, K]`."""
  log_p = jax.nn.log_softmax(teacher / temperature, axis=-1)
  log_q = jax.nn.log_softmax(student / temperature, axis=-1)
  p, q = jnp.exp(log_p), jnp.exp(log_q)
  same = jnp.argmax(teacher, axis=-1) == jnp.argmax(student, axis=-1)
  return Fidelity(
      same.astype(jnp.float32), jnp.sum(p * (log_p - log_q), axis=-1),
      jnp.sum((p - q)**2, axis=-1),
      jnp.sum((p - jnp.mean(p, axis=0, keepdims=True))**2, axis=-1))


def without(x: jax.Array, score: jax.Array, counts: tuple[int, ...]) -> jax.Array:
  """An instance whose pixels of the highest score are set to 0.

  Args:
    x: `[pixels]`.
    score: `[pixels]`, such as weight times pixel.
    counts: How many go.

  Returns:
    `[len(counts), pixels]`.

  Example:
    >>> without(jnp.array([.5, .6, .7]), jnp.array([1., 3., 2.]), (0, 1, 2))
    Array([[0.5, 0.6, 0.7],
           [0.5, 0. , 0.7],
           [0.5, 0. , 0. ]], dtype=float32)
  """
  place = jnp.argsort(jnp.argsort(-score))
  gone = place[None] < jnp.asarray(counts)[:, None]
  return jnp.where(gone, 0.0, jnp.broadcast_to(x, gone.shape))


def stability(maps: np.ndarray) -> np.ndarray:
  """How alike the maps of one instance are from seed to seed.

  Spearman's rank correlation of each seed's map with those of the others, averaged
  over these; pixels of equal weight share a rank.

  Args:
    maps: `[seeds, instances, pixels]`, two seeds or more.

  Returns:
    `[seeds, instances]`.
  """
  from scipy import stats  # pylint: disable=g-import-not-at-top
  ranks = stats.rankdata(maps, axis=-1)
  ranks -= ranks.mean(axis=-1, keepdims=True)
  ranks /= np.maximum(np.linalg.norm(ranks, axis=-1, keepdims=True), 1e-12)
  others = ranks.sum(axis=0, keepdims=True) - ranks
  return (ranks * others).sum(axis=-1) / (len(maps) - 1)
