"""The convolutional nets of the Keras knowledge-distillation example."""

from collections.abc import Sequence

import flax.linen as nn
import jax


class Cnn(nn.Module):
  """Two strided convolutions with a pool between, then one dense layer.

  Conv 3x3 /2 - LeakyReLU(0.2) - MaxPool 2x2 /1 - Conv 3x3 /2 - Dense, as in the
  example; its teacher has 256 and 512 channels, its student 16 and 32.

  Attributes:
    num_classes: Number of logits.
    widths: Channels of the two convolutions.
  """

  num_classes: int
  widths: Sequence[int]

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    first, second = self.widths
    x = nn.Conv(first, (3, 3), strides=2, padding="SAME")(image)
    x = nn.leaky_relu(x, 0.2)
    features = {"conv_0": x}
    x = nn.max_pool(x, (2, 2), strides=(1, 1), padding="SAME")
    x = nn.Conv(second, (3, 3), strides=2, padding="SAME")(x)
    features["conv_1"] = x
    return nn.Dense(self.num_classes)(x.reshape((len(x), -1))), features
