"""Nets of convolutions one after the other: VGG, TAKD's planes, FitNets' nets."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import layers as layers_lib
from kd_jax.models.layers import UNIFORM, Layers, TappedNet

Taps = dict[str, jax.Array]

# Convolutions of each block, by the number of layers.
_VGG = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class Vgg(TappedNet):
  """Five blocks of 3x3 convolutions with BatchNorm, and one dense layer.

  Attributes:
    depth: Its layers: 8, 11, 13, 16 or 19.

  The first three blocks end with a maximum over 2x2, the fourth only where the
  image has 64 pixels a side; the last is averaged.

  Taps: `stem` (the first block), `stage1`.. `stage4` and `pooled`, after a ReLU and
  before the pool, and `stage1.preact`.., before the ReLU.

  Source: Simonyan & Zisserman (2015), as Tian et al. (2020) train it on CIFAR.
  """

  depth: int = 8

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x, taps = image, Taps()
    for block, (width, number) in enumerate(
        zip(self.widths, _known(_VGG, self.depth), strict=True)):
      x, y = layers.block(_convolutions, x, width, number, True)
      name = f"stage{block}" if block else "stem"
      taps[name] = x
      if block:
        taps[f"{name}.preact"] = y
      if block < 3 or (block == 3 and image.shape[1] == 64):
        x = _max_pool(x)
    taps["pooled"] = layers_lib.pooled(x)
    logits = layers.dense(
        taps["pooled"], self.num_classes, nn.initializers.normal(0.01),
        nn.initializers.zeros)
    return logits, taps


class Plane(TappedNet):
  """The plain nets of the teacher-assistant paper: 2, 4, 6, 8 or 10 layers.

  Attributes:
    blocks: Convolutions of each block, 3x3 with bias, BatchNorm and ReLU; a block
      ends with a maximum over 2x2.
    last_pool: Whether the last block does.
    hidden: Units of a dense layer before the last; none by default.

  Taps: `stage1`.., after the pool, and `hidden` where there is one.

  The paper has other widths for CIFAR-100, and no last pool in the one of 6 layers:
  `plane6_100` beside `plane6`.

  Source: Mirzadeh et al. (2020), the released code.
  """

  blocks: Sequence[int] = (1, 1)
  last_pool: bool = True
  hidden: int | None = None

  @property
  def kernel_init(self):
    return UNIFORM

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x, taps = image, Taps()
    last = len(self.blocks) - 1
    for block, (width, number) in enumerate(
        zip(self.widths, self.blocks, strict=True)):
      x, _ = layers.block(_convolutions, x, width, number, True)
      if block < last or self.last_pool:
        x = _max_pool(x)
      taps[f"stage{block + 1}"] = x
    # In the order of the released nets: channels, rows, columns.
    x = jnp.moveaxis(x, -1, 1).reshape((x.shape[0], -1))
    if self.hidden:
      taps["hidden"] = x = nn.relu(layers.dense(x, self.hidden))
    return layers.dense(x, self.num_classes), taps


class Fitnet(TappedNet):
  """A thin and deep net: three groups of 3x3 convolutions, each with a pool.

  Attributes:
    blocks: Convolutions of each group; `widths` has a number for every one.

  As in the paper but for its maxout of two pieces, in whose place there are
  BatchNorm and a ReLU: without these, such a net did not learn from labels.

  Taps: `layer1`.., every convolution after its ReLU, and `pooled`.

  Source: Romero et al. (2015), table of FitNets 1 to 4.
  """

  blocks: Sequence[int] = (3, 3, 3)

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x, taps = image, Taps()
    widths = iter(self.widths)
    for group, number in enumerate(self.blocks):
      for _ in range(number):
        x, _ = layers.block(_convolutions, x, next(widths), 1, False)
        taps[f"layer{len(taps) + 1}"] = x
      if group < len(self.blocks) - 1:
        x = _max_pool(x)
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


def _convolutions(
    layers: Layers, x: jax.Array, width: int, number: int, bias: bool
) -> tuple[jax.Array, jax.Array]:
  """Convolutions with BatchNorm and ReLU; also what enters the last ReLU."""
  for _ in range(number):
    y = layers.conv_norm(x, width, bias=bias)
    x = nn.relu(y)
  return x, y


def _max_pool(x: jax.Array) -> jax.Array:
  """The maximum over 2x2; a side of one pixel stays."""
  window = tuple(min(2, side) for side in x.shape[1:3])
  return nn.max_pool(x, window_shape=window, strides=window)


def _known(table: Mapping[int, Sequence[int]], depth: int) -> Sequence[int]:
  if depth not in table:
    depths = ", ".join(map(str, table))
    raise ValueError(f"depth must be one of {depths}; got {depth}")
  return table[depth]
