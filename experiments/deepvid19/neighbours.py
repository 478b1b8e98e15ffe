"""Neighbours of an instance: drawn without a VAE, or found among real images.

An instance x is `[pixels]` in [0, 1]; what is drawn is `[number, pixels]`.
"""

import jax
import jax.numpy as jnp

_CELL = 4


def by_masks(key: jax.Array, x: jax.Array, *, number: int) -> jax.Array:
  """In the manner of LIME (Ribeiro et al. 2016): cells of 4 x 4 pixels go.

  Each cell is set to 0, the background, with probability 1/2. Unlike there, all
  neighbours have the same weight in the fit.
  """
  side = round(x.shape[-1]**0.5)
  cells = -(-side // _CELL)
  kept = jax.random.bernoulli(key, 0.5, (number, cells, cells))
  mask = jnp.repeat(jnp.repeat(kept, _CELL, 1), _CELL, 2)[:, :side, :side]
  return mask.reshape(number, -1) * x[None]


def by_noise(
    key: jax.Array, x: jax.Array, *, number: int, sd: float = 0.3
) -> jax.Array:
  """Gaussian noise on every pixel, cut to [0, 1]."""
  noise = sd * jax.random.normal(key, (number, x.shape[-1]))
  return jnp.clip(x[None] + noise, 0.0, 1.0)


@jax.jit(static_argnames="number")
def nearest(
    instances: jax.Array, examples: jax.Array, *, number: int
) -> jax.Array:
  """The nearest examples of each instance by Euclidean distance, nearest first.

  Args:
    instances: `[I, D]`.
    examples: `[N, D]`; uint8 if they are pixels, which are then divided by 255.
    number: How many to find.

  Returns:
    Their places among the examples, int32 `[I, number]`.

  Example:
    >>> places = nearest(jnp.array([[1.0]]), jnp.array([[3.0], [0.5], [2.0]]),
    ...                  number=2)
    >>> places.tolist()
    [[1, 2]]
  """
  if examples.dtype == jnp.uint8:
    examples = examples.astype(jnp.float32) / 255
  # |e|^2 - 2 e x orders as |e - x|^2 does.
  distance = jnp.sum(examples**2, axis=-1)[None] - 2 * instances @ examples.T
  return jax.lax.top_k(-distance, number)[1]
