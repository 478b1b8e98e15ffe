"""What the objectives share: sums of log-probabilities, and masks."""

from collections.abc import Callable
import functools
import inspect
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

P = ParamSpec("P")


def checked(objective: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
  """An objective whose logits and labels fit together.

  It raises a ValueError where the shapes of both nets' logits, or of the labels, do
  not agree: NumPy's rules would stretch a teacher of one class over all. It is NaN
  for an example whose label is no class, and such an example has no gradient.
  """
  signature = inspect.signature(objective)

  @functools.wraps(objective)
  def inner(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
    given: dict[str, Any] = signature.bind(*args, **kwargs).arguments
    logits = "student_logits" if "student_logits" in given else "logits"
    shape = jnp.shape(given[logits])
    teacher, labels = (given.get(name) for name in ("teacher_logits", "labels"))
    if teacher is not None and jnp.shape(teacher) != shape:
      raise ValueError(f"teacher_logits have the shape {jnp.shape(teacher)}, "
                       f"student_logits {shape}; they must be alike")
    if labels is None:
      return objective(*args, **kwargs)
    if jnp.shape(labels) != shape[:-1]:
      raise ValueError(f"labels have the shape {jnp.shape(labels)}, logits "
                       f"{shape}; give one label an example")
    return jnp.where(
        is_class(labels, shape[-1]), objective(*args, **kwargs), jnp.nan)

  return inner


def is_class(labels: jax.Array, classes: int) -> jax.Array:
  """True for labels that are one of so many classes, bool `[...]`."""
  return (labels >= 0) & (labels < classes)


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
  """The value of the labelled class, `[...]`; NaN where a label is no class."""
  # Below 0 an index would count from the end.
  index = jnp.where(labels < 0, values.shape[-1], labels)
  return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
