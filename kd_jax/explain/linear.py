"""DeepVID (Wang et al. 2019): a linear student that explains a net at an image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.models import vae


def neighbours(
    key: jax.Array, params: Any, x: jax.Array, *, b: jax.Array | float, number: int
) -> jax.Array:
  """Images near one, `[number, pixels]`: what a VAE decodes around its mean.

  z = mean of q(z|x) + U(-b, b) in every dimension.

  Args:
    key: Of the draws.
    params: The VAE's.
    x: `[pixels]` in [0, 1].
    b: How far to go, in latent units.
    number: How many.
  """
  mean = vae.encode(params, x[None])
  offset = jax.random.uniform(
      key, (number, mean.shape[-1]), minval=-1.0, maxval=1.0)
  return vae.decode(params, jnp.broadcast_to(mean, offset.shape) + b * offset)


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
