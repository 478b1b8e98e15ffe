"""The convolutional nets of the Keras knowledge-distillation example."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.core.convolution import convolution


class Cnn(nn.Module):
  """Two strided convolutions with a pool between, then one dense layer.

  Conv 3x3 /2 - LeakyReLU(0.2) - MaxPool 2x2 /1 - Conv 3x3 /2 - Dense, as in the
  example; its teacher has 256 and 512 channels, its student 16 and 32.

  Attributes:
    num_classes: Number of logits.
    widths: Channels of the two convolutions.
    dtype: Of the arithmetic; default that of the parameters.
  """

  num_classes: int
  widths: Sequence[int]
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    first, second = self.widths
    conv = lambda width: nn.Conv(
        width, (3, 3), strides=2, padding="SAME", dtype=self.dtype,
        conv_general_dilated=convolution)
    x = conv(first)(image)
    x = nn.leaky_relu(x, 0.2)
    features = {"conv_0": x}
    x = nn.max_pool(x, window_shape=(2, 2), strides=(1, 1), padding="SAME")
    x = conv(second)(x)
    features["conv_1"] = x
    dense = nn.Dense(self.num_classes, dtype=self.dtype)
    return dense(x.reshape((x.shape[0], -1))), features
