r"""Projectors: what a student's embedding goes through before it is compared.

y = 1/m sum_i a(x W_i + b_i)

m dense layers whose outputs are averaged, with a ReLU (a) or without one. PEFD has
three with a ReLU; SRD, ITRD and KD++ have one without. They are trained beside the
student and are no part of what is deployed.

Sources: Chen et al. (2022), arXiv 2210.15274; Miles & Mikolajczyk (2024), arXiv
2303.11098.
"""

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.methods import layers

Shape = tuple[int, ...]


def init(
    key: jax.Array, student_shape: Shape, teacher_shape: Shape, *, count: int = 1
) -> types.Tree:
  r"""The layers: kernel, bias ~ U(-b, b), b = 1 / sqrt(inputs).

  Args:
    key: Of the draw.
    student_shape: Of one example's embedding, `(channels,)`.
    teacher_shape: Likewise.
    count: m.

  Returns:
    `[{kernel, bias}] * m`, float32.

  Raises:
    ValueError: If one of them is no vector.

  Example:
    >>> init(jax.random.key(0), (8,), (4,), count=3)[2]["kernel"].shape
    (8, 4)
  """
  if not len(student_shape) == len(teacher_shape) == 1:
    raise ValueError(
        f"a projector takes vectors to vectors, not a student's tap of shape "
        f"{student_shape} to a teacher's of shape {teacher_shape}")
  return [layers.linear_init(key, student_shape[0], teacher_shape[0])
          for key in jax.random.split(key, count)]


def apply(
    params: types.Tree, tap: jax.Array, mask: jax.Array | None, *,
    relu: bool = False,
) -> jax.Array:
  """The student's embedding in the teacher's space, `[batch, channels]`.

  Masked rows may hold anything; what comes out for them means nothing.
  """
  x = layers.clean(tap, mask)
  each = jnp.stack([layers.linear(layer, x) for layer in params])
  return jnp.mean(jnp.maximum(each, 0.0) if relu else each, axis=0)
