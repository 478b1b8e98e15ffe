"""A linear student of one neighbourhood, and how well it explains its teacher."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Linear(NamedTuple):
  """Logits x W + b: weights `[pixels, K]`, bias `[K]`."""

  weights: jax.Array
  bias: jax.Array

  def __call__(self, x: jax.Array) -> jax.Array:
    """The logits `[..., K]` of inputs `[..., pixels]`."""
    logits = x @ self.weights
    return logits + jnp.broadcast_to(self.bias, logits.shape)


def objective(
    student: Linear, x: jax.Array, target: jax.Array, *,
    temperature: jax.Array | float, l2: float
) -> jax.Array:
  """What `fit` minimises (Hinton et al. 2015, on soft targets alone).

  T**2 mean_n KL(p_n || softmax((x_n W + b) / T)) + l2/2 |W|**2

  Args:
    student: W and b.
    x: Neighbours, `[N, pixels]`.
    target: The teacher's softmax at T, `[N, K]`; rows of 0 and 1 also serve.
    temperature: T.
    l2: Weight of the penalty, > 0, so that there is one minimum.
  """
  log_q = jax.nn.log_softmax(student(x) / temperature, axis=-1)
  kl = jnp.sum(jax.scipy.special.xlogy(target, target) - target * log_q, axis=-1)
  return (temperature**2 * jnp.mean(kl) + l2 / 2 * jnp.sum(student.weights**2))


def fit(
    x: jax.Array, target: jax.Array, *, temperature: jax.Array | float, l2: float,
    steps: int
) -> Linear:
  """The linear student of `objective`, by accelerated gradient descent.

  The step is 1 / L. The Hessian of softmax is at most 1/2, so L = s / 2 + l2, with
  s the largest eigenvalue of the covariance of x (or 1, for the bias). Inputs are
  centred for the fit, which makes s ten times smaller and is no other model, as the
  bias is free. Momentum begins anew when it points uphill (O'Donoghue & Candes
  2015).

  Args:
    x: `[N, pixels]`.
    target: `[N, K]`.
    temperature: As of `objective`; may be traced.
    l2: As of `objective`.
    steps: Of the descent.
  """
  centre = jnp.mean(x, axis=0, keepdims=True)
  x = x - centre
  number = len(x)
  rate = 1 / (jnp.maximum(1.1 * _largest(x), 1.0) / 2 + l2)

  def gradient(at):
    q = jax.nn.softmax(at(x) / temperature, axis=-1)
    error = temperature * (q - target) / number
    return Linear(x.T @ error + l2 * at.weights, jnp.sum(error, axis=0))

  def step(_, carry):
    last, ahead, t = carry
    slope = gradient(ahead)
    now = jax.tree.map(lambda a, g: a - rate * g, ahead, slope)
    moved = jax.tree.map(jnp.subtract, now, last)
    uphill = sum(jnp.vdot(g, m) for g, m in zip(slope, moved)) > 0
    t = jnp.where(uphill, 1.0, t)
    longer = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
    momentum = jnp.where(uphill, 0.0, (t - 1) / longer)
    ahead = jax.tree.map(lambda a, m: a + momentum * m, now, moved)
    return now, ahead, longer

  zero = Linear(jnp.zeros((x.shape[1], target.shape[1])),
                jnp.zeros(target.shape[1:]))
  found, _, _ = jax.lax.fori_loop(0, steps, step, (zero, zero, jnp.float32(1)))
  return found._replace(bias=found.bias - (centre @ found.weights)[0])


def _largest(x: jax.Array) -> jax.Array:
  """The largest eigenvalue of x'x / N, nearly, by 20 powers."""
  def step(_, v):
    v = x.T @ (x @ v)
    return v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
  v = jax.lax.fori_loop(0, 20, step, jnp.ones(x.shape[1]) / x.shape[1]**0.5)
  return jnp.sum((x @ v)**2) / len(x)


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
