"""The nets of Keras's example, initialised as Keras does.

The layers are those of `kd_jax.models.convolutional.Cnn`, with parameters of the
same names and shapes; what differs is

- where they start: Glorot's uniform, not LeCun's normal;
- how a convolution is computed: as one product of matrices. On a CPU, XLA's own
  convolution takes about ten times as long within a loop, as which a training is
  compiled.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

_GLOROT = nn.initializers.glorot_uniform()


class Net(nn.Module):
  """Teacher with widths (256, 512), student with (16, 32).

  Attributes:
    num_classes: Number of logits.
    widths: Channels of the two convolutions.
  """

  num_classes: int
  widths: Sequence[int] = (16, 32)

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    first, second = self.widths
    x = _pooled(nn.leaky_relu(Conv(first)(image), 0.2))
    # No activation here: so it is in the example.
    x = Conv(second)(x)
    dense = nn.Dense(self.num_classes, kernel_init=_GLOROT)
    return dense(x.reshape((len(x), -1)))


class Conv(nn.Module):
  """A 3x3 convolution of stride 2, zeros around the image (padding "same").

  Attributes:
    width: Channels that come out.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    kernel = self.param("kernel", _GLOROT, (3, 3, channels, self.width))
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    product = _windows(x) @ kernel.reshape((9 * channels, self.width))
    return product + bias.reshape((1, 1, 1, self.width))


def _windows(x: jax.Array) -> jax.Array:
  """Every second 3x3 window, `[B, ceil(H / 2), ceil(W / 2), 9 C]`.

  Of an even size "same" puts its only zeros at the far end, of an odd size one
  at either end.
  """
  _, high, wide, _ = x.shape
  x = jnp.pad(x, ((0, 0), (high % 2, 1), (wide % 2, 1), (0, 0)))
  span = lambda first, size: slice(first, first + 2 * (-(-size // 2)) - 1, 2)
  return jnp.concatenate(
      [x[:, span(row, high), span(column, wide)]
       for row in range(3) for column in range(3)], axis=-1)


def _pooled(x: jax.Array) -> jax.Array:
  """The maximum of 2x2 windows at stride 1, padding "same": of the same shape."""
  x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-jnp.inf)
  x = jnp.maximum(x[:, 1:], x[:, :-1])
  return jnp.maximum(x[:, :, 1:], x[:, :, :-1])
