"""A small net of inception blocks, in the style of GoogLeNet."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import layers as layers_lib
from kd_jax.models.layers import Layers, TappedNet


class Googlenet(TappedNet):
  """Three stages of blocks of four branches, with a pool between stages.

  Attributes:
    blocks: Of each stage.
    stem: Channels of the convolution before them.

  The widths, best multiples of 16, are those that a block gives, in the shares of
  block 3a of the paper, where it is 256. In its style alone: for images of 32
  pixels a side, with BatchNorm, 6 blocks, no auxiliary classifiers and no dropout.

  Taps: `stem`, `stage1`.. and `pooled`, each after its ReLU and before a pool, and
  `stage1.preact`.., before the ReLU.

  Source: Szegedy et al. (2015), figure 2b and table 1.
  """

  blocks: Sequence[int] = (2, 2, 2)
  stem: int = 32

  def forward(
      self, image: jax.Array, layers: Layers
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    x = nn.relu(layers.conv_norm(image, self.stem))
    taps = {"stem": x}
    for stage, (width, number) in enumerate(
        zip(self.widths, self.blocks, strict=True)):
      x = _pooled(x, 2) if stage else x
      for _ in range(number):
        x, y = layers.block(_inception, x, width)
      taps |= {f"stage{stage + 1}": x, f"stage{stage + 1}.preact": y}
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


def _inception(
    layers: Layers, x: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
  """1x1, 3x3 and 5x5 after fewer channels, and 1x1 of a maximum, side by side."""
  part = lambda sixteenths: max(1, width * sixteenths // 16)
  fewer = lambda sixteenths: nn.relu(layers.conv_norm(x, part(sixteenths), 1))
  y = jax.lax.concatenate([
      layers.conv_norm(x, part(4), 1),
      layers.conv_norm(fewer(6), part(8)),
      layers.conv_norm(fewer(1), part(2), 5),
      layers.conv_norm(_pooled(x, 1), part(2), 1)], 3)
  return nn.relu(y), y


def _pooled(x: jax.Array, stride: int) -> jax.Array:
  """The maximum over 3x3."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  return nn.max_pool(padded, window_shape=(3, 3), strides=(stride, stride))
