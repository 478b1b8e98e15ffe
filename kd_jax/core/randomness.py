"""Randomness as a function of names and counters, never of history.

A run has one key. Code that needs random numbers folds a name and counters into it.
So a run may be cut, resumed, or spread over devices, and still draws the same
numbers. Every point of a sweep sees the same batches.
"""

import zlib

import jax
import jax.numpy as jnp

Counter = jax.Array | int


def stream(key: jax.Array, name: str, *counters: Counter) -> jax.Array:
  """The key of a named stream at the given counters.

  Args:
    key: A typed key, `[]`.
    name: What the numbers are for, such as "order", "views" or "dropout".
    *counters: Integers such as the epoch or the step; may be traced.

  Returns:
    A typed key, `[]`.

  Example:
    >>> key = stream(jax.random.key(0), "order", 3)
    >>> bool(key == stream(jax.random.key(0), "order", 3))
    True
  """
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  for counter in counters:
    key = jax.random.fold_in(key, counter)
  return key


def of_role(seed: int, role: int) -> int:
  """The seed of a net's draws: its own, or another one if others learn from it.

  With one seed, a teacher and a student of the same architecture would begin as the
  same net, and see the same batches. Students that are compared do begin alike.

  Args:
    seed: The seed that a user gave.
    role: 0 for a net that nobody learns from, else 1 more than the number of nets
      above it, teacher of teacher.

  Example:
    >>> of_role(7, 0), of_role(7, 1) == of_role(7, 2)
    (7, False)
  """
  return zlib.crc32(f"teacher {role} {seed}".encode()) if role else seed


def epoch_order(key: jax.Array, epoch: Counter, ids: jax.Array) -> jax.Array:
  """The order in which an epoch visits the examples: `ids` `[N]`, permuted."""
  return jax.random.permutation(stream(key, "order", epoch), ids)


def epoch_views(
    key: jax.Array, epoch: Counter, *, num_examples: int, num_views: int
) -> jax.Array:
  """The view of every example in an epoch, int32 `[num_examples]`.

  This is one draw, indexed by example id. So the view of an example does not depend
  on the batch size, the number of devices, or a held-out split.
  """
  if num_views == 1:
    return jnp.zeros((num_examples,), jnp.int32)
  shape = (num_examples,)
  return jax.random.randint(stream(key, "views", epoch), shape, 0, num_views)
