"""The training of a VAE, for explanations: the one that is no `step`.

It has neither labels nor a teacher, so nothing of a student's step would be used.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax.core import randomness
from kd_jax.models.vae import LATENT, Vae, elbo
from kd_jax.training.train_loop import Interrupted

_BATCH = 128


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


def mean_elbo(params: Any, x: np.ndarray, *, seed: int = 0) -> float:
  """The mean ELBO in nats, of images `[B, pixels]` and one draw of noise each."""
  noise = jax.random.normal(jax.random.key(seed), (len(x), LATENT))
  return float(jnp.mean(elbo(params, jnp.asarray(x), noise)))


@functools.cache
def _programs(pixels: int):
  """The module, its optimiser, and an epoch, compiled once."""
  model, optimizer = Vae(pixels), optax.adam(1e-3)

  def loss(params, x, noise):
    return -jnp.mean(elbo(params, x, noise))

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
