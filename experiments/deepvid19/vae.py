"""The variational autoencoder that neighbours are drawn with.

DeepVID (Wang et al. 2019) draws them in the latent space of a VAE (Kingma & Welling
2014). Its encoder gives q(z|x) = N(mean, exp(log_variance)), its decoder the logits
l of pixels, each a Bernoulli variable:

  ELBO(x) = E_q log p(x|z) - KL(q(z|x) || N(0, I))
  log p(x|z) = sum_i x_i l_i - log(1 + exp(l_i))

A grey pixel x_i in (0, 1) counts as a probability.
"""

from collections.abc import Callable
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax.core import randomness
from kd_jax.training.train_loop import Interrupted

LATENT = 10
_BATCH = 128


class Vae(nn.Module):
  """Dense layers, 784-512-10-512-784, for pixels in [0, 1]."""

  pixels: int = 784
  hidden: int = 512
  latent: int = LATENT

  def setup(self):
    """Makes the layers of both halves."""
    self.encoder, self.decoder = nn.Dense(self.hidden), nn.Dense(self.hidden)
    self.mean, self.log_variance = nn.Dense(self.latent), nn.Dense(self.latent)
    self.logits = nn.Dense(self.pixels)

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance of q(z|x), each `[B, latent]`."""
    hidden = nn.relu(self.encoder(x))
    return self.mean(hidden), self.log_variance(hidden)

  def decode(self, z: jax.Array) -> jax.Array:
    """The logits of the pixels, `[B, pixels]`."""
    return self.logits(nn.relu(self.decoder(z)))

  def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
    """The ELBO, `[B]`, with z = mean + exp(log_variance / 2) * noise."""
    mean, log_variance = self.encode(x)
    logits = self.decode(mean + jnp.exp(log_variance / 2) * noise)
    return log_likelihood(x, logits) - kl_to_normal(mean, log_variance)


def log_likelihood(x: jax.Array, logits: jax.Array) -> jax.Array:
  """log p(x|z) of Bernoulli pixels, `[..., pixels]` to `[...]`.

  Example:
    >>> float(log_likelihood(jnp.array([1.0, 0.0]), jnp.zeros(2)))  # 2 log 1/2
    -1.3862943649291992
  """
  return jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)


def kl_to_normal(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL(N(mean, exp(log_variance)) || N(0, I)), `[..., latent]` to `[...]`.

  1/2 sum_j mean_j**2 + exp(v_j) - v_j - 1          (Kingma & Welling, appendix B)

  Example:
    >>> float(kl_to_normal(jnp.array([1.0, 2.0]), jnp.zeros(2)))
    2.5
  """
  return jnp.sum(
      mean**2 + jnp.exp(log_variance) - log_variance - 1, axis=-1) / 2


def train(
    images: jax.Array, *, seed: int, epochs: int,
    stop: Callable[[], bool] = lambda: False,
) -> Any:
  """Trains a VAE with Adam; an epoch is one compiled loop.

  Args:
    images: uint8 `[N, pixels]`. The last N mod 128 of an epoch's order are not
      seen in it.
    seed: Of the initial weights, the order and the noise.
    epochs: How many.
    stop: Asked between epochs.

  Returns:
    Its parameters.

  Raises:
    Interrupted: If `stop` says so.
  """
  model, optimizer, epoch = _programs(images.shape[-1])
  key = randomness.stream(jax.random.key(seed), "vae")
  params = model.init(
      randomness.stream(key, "init"), jnp.zeros((1, model.pixels)),
      jnp.zeros((1, model.latent)))
  state = optimizer.init(params)
  for number in range(epochs):
    if stop():
      raise Interrupted
    params, state = jax.block_until_ready(epoch(
        params, state, images, randomness.stream(key, "epoch", number)))
  return params


def encode(params: Any, x: jax.Array) -> jax.Array:
  """The mean of q(z|x), `[B, latent]`."""
  return Vae(x.shape[-1]).apply(params, x, method="encode")[0]


def decode(params: Any, z: jax.Array) -> jax.Array:
  """The probabilities of the pixels, `[B, pixels]`."""
  pixels = params["params"]["logits"]["bias"].shape[-1]
  return jax.nn.sigmoid(Vae(pixels).apply(params, z, method="decode"))


def mean_elbo(params: Any, x: np.ndarray, *, seed: int = 0) -> float:
  """The mean ELBO in nats, of images `[B, pixels]` and one draw of noise each."""
  noise = jax.random.normal(jax.random.key(seed), (len(x), LATENT))
  return float(jnp.mean(Vae(x.shape[-1]).apply(params, x, noise)))


@functools.cache
def _programs(pixels: int):
  """The module, its optimiser, and an epoch, compiled once."""
  model, optimizer = Vae(pixels), optax.adam(1e-3)

  def loss(params, x, noise):
    return -jnp.mean(model.apply(params, x, noise))

  @jax.jit
  def epoch(params, state, images, key):
    order = jax.random.permutation(randomness.stream(key, "order"), len(images))
    batch = min(_BATCH, len(images))
    steps = len(images) // batch

    def step(carry, inputs):
      params, state = carry
      ids, number = inputs
      noise = jax.random.normal(
          randomness.stream(key, "noise", number), (batch, model.latent))
      x = images[ids].astype(jnp.float32) / 255
      update, state = optimizer.update(jax.grad(loss)(params, x, noise), state)
      return (optax.apply_updates(params, update), state), None

    order = order[:steps * batch].reshape(steps, batch)
    return jax.lax.scan(step, (params, state), (order, jnp.arange(steps)))[0]

  return model, optimizer, epoch
