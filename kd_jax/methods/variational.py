r"""VID's Gaussian: what a student's tap says of the teacher's.

m = W3 relu(W2 relu(W1 f)),   v_c = log(1 + exp(a_c)) + 1e-5

The matrices act on the channels alone, as 1x1 convolutions without bias: from the
student's channels to the teacher's, and twice from these to these. The variance v
of a channel is 5 at first. All are trained beside the student.

Source: Ahn et al. (2019), Variational information distillation for knowledge
transfer, CVPR, arXiv 1904.05835. The modules are those of HobbitLong/RepDistiller,
`distiller_zoo/VID.py`, which has them from the authors.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types
from kd_jax.methods import layers

VARIANCE = 5.0  # At first.
LEAST = 1e-5


def init(
    key: jax.Array, student_channels: int, teacher_channels: int
) -> types.Tree:
  """The three matrices and the variances between two taps.

  Example:
    >>> init(jax.random.key(0), 8, 4)["layer_0"]["kernel"].shape
    (8, 4)
  """
  inputs = (student_channels, teacher_channels, teacher_channels)
  chain = {f"layer_{place}": layers.linear_init(
      jax.random.fold_in(key, place), each, teacher_channels, bias=False)
           for place, each in enumerate(inputs)}
  start = math.log(math.expm1(VARIANCE - LEAST))
  return chain | {"variance": jnp.full(teacher_channels, start, jnp.float32)}


def apply(params: types.Tree, tap: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The mean `[batch, ..., teacher_channels]` and variance `[teacher_channels]`.

  Example:
    >>> apply(init(jax.random.key(0), 8, 4), jnp.ones((2, 8)))[1].round(3)
    Array([5., 5., 5., 5.], dtype=float32)
  """
  x = losses.at_least_float32(tap)
  for place in range(3):
    x = layers.linear(params[f"layer_{place}"], jax.nn.relu(x) if place else x)
  spread = losses.at_least_float32(params["variance"])
  return x, jax.nn.softplus(spread) + LEAST
