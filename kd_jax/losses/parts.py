"""What the objectives share: sums of log-probabilities, and masks."""

import jax
import jax.numpy as jnp


def log_sum(log_p: jax.Array, where: jax.Array) -> jax.Array:
  """log of the sum of probabilities over the classes in `where`, `[...]`.

  -inf, with gradient 0, where no class is left: `logsumexp` has NaN there.
  """
  inside = jnp.where(where, log_p, -jnp.inf)
  top = jax.lax.stop_gradient(jnp.max(inside, axis=-1))
  top = jnp.where(jnp.isfinite(top), top, 0.0)
  total = jnp.sum(jnp.exp(inside - top[..., None]), axis=-1)
  some = total != 0  # and not `> 0`, so that a NaN is passed on
  return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, -jnp.inf)


def split(log_p: jax.Array, where: jax.Array) -> jax.Array:
  """Log-probabilities inside and outside of `where`, `[..., 2]`."""
  return jnp.stack([log_sum(log_p, where), log_sum(log_p, ~where)], axis=-1)


def restrict(where: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A mask `[..., classes]` that is never empty, and where it was not, `[...]`.

  A softmax over no class is NaN; over all of them it can be computed and dropped.
  """
  some = jnp.any(where, axis=-1)
  return where | ~some[..., None], some


def is_label(labels: jax.Array, logits: jax.Array) -> jax.Array:
  """True at the labelled class of each example, bool `[..., classes]`."""
  return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


def at_label(values: jax.Array, labels: jax.Array) -> jax.Array:
  """The value of the labelled class, `[...]`."""
  return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]
