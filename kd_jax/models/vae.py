"""A variational autoencoder of images (Kingma & Welling 2014), of dense layers.

DeepVID (Wang et al. 2019) draws the neighbours of an image with it. Its encoder
gives q(z|x) = N(mean, exp(log_variance)), its decoder the logits l of pixels, each
a Bernoulli variable:

  ELBO(x) = E_q log p(x|z) - KL(q(z|x) || N(0, I))
  log p(x|z) = sum_i x_i l_i - log(1 + exp(l_i))

A grey pixel x_i in (0, 1) counts as a probability.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LATENT = 10


class Vae(nn.Module):
  """pixels-512-10-512-pixels, for pixels in [0, 1]."""

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


def elbo(params: Any, x: jax.Array, noise: jax.Array) -> jax.Array:
  """The ELBO `[B]` of images `[B, pixels]` with noise `[B, latent]`."""
  return _applied(params, x.shape[-1], x, noise)


def encode(params: Any, x: jax.Array) -> jax.Array:
  """The mean of q(z|x), `[B, latent]`."""
  return _applied(params, x.shape[-1], x, method="encode")[0]


def decode(params: Any, z: jax.Array) -> jax.Array:
  """The probabilities of the pixels, `[B, pixels]`."""
  pixels = params["params"]["logits"]["bias"].shape[-1]
  return jax.nn.sigmoid(_applied(params, pixels, z, method="decode"))


def _applied(params: Any, pixels: int, *inputs: jax.Array, **which: Any) -> Any:
  return Vae(pixels).apply(params, *inputs, **which)
