"""The residual nets for CIFAR: basic blocks, bottlenecks, and wide ones."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from kd_jax.models import layers as layers_lib
from kd_jax.models.layers import Layers, TappedNet

Taps = dict[str, jax.Array]
Both = tuple[jax.Array, jax.Array]


def blocks(depth: int, layers: int, rest: int) -> int:
  """Blocks a stage of a net of a depth.

  Args:
    depth: The net's layers, `layers * blocks + rest`.
    layers: Layers that a block adds over all stages.
    rest: Layers outside of blocks.

  Raises:
    ValueError: If no number of blocks gives this depth.

  Example:
    >>> blocks(20, 6, 2)
    3
  """
  number, left = divmod(depth - rest, layers)
  if left or number < 1:
    near = layers * max(1, number) + rest, layers * max(2, number + 1) + rest
    raise ValueError(
        f"depth must be {layers} n + {rest}, such as {near[0]} or {near[1]}; got "
        f"{depth}")
  return number


class Resnet(TappedNet):
  """Three stages of basic blocks; 6n + 2 layers for n blocks a stage.

  Attributes:
    depth: Its layers: 8, 14, 20, ...
    stem: Channels before the first stage; default those of the first stage.

  Taps: `stem`, `stage1`.. and `pooled`, each after its ReLU, and `stage1.preact`..,
  the sums before that ReLU.

  Source: He et al. (2015), section 4.2, with projections where channels change.
  """

  depth: int = 20
  stem: int | None = None

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    number = blocks(self.depth, 6, 2)
    x = nn.relu(layers.conv_norm(image, self.stem or self.widths[0]))
    taps = {"stem": x}
    for stage, width in enumerate(self.widths):
      for block in range(number):
        stride = 2 if stage > 0 and block == 0 else 1
        x, y = layers.block(_basic, x, width, stride)
      taps |= {f"stage{stage + 1}": x, f"stage{stage + 1}.preact": y}
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


class BottleneckResnet(TappedNet):
  """Four stages of bottlenecks of 1x1, 3x3 and 1x1 convolutions, as in ResNet50.

  Attributes:
    blocks: Bottlenecks of each stage.

  The widths are those of the 3x3 convolutions; a stage has four times as many
  channels. The stem is one 3x3 convolution, without a pool: the form for CIFAR.

  Taps: `stem`, `stage1`.. `stage4` and `pooled`, each after its ReLU, and
  `stage1.preact`.., the sums before that ReLU.

  Source: He et al. (2015), table 1, as Tian et al. (2020) train it on CIFAR.
  """

  blocks: Sequence[int] = (3, 4, 6, 3)

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x = nn.relu(layers.conv_norm(image, self.widths[0]))
    taps = {"stem": x}
    for stage, (width, number) in enumerate(
        zip(self.widths, self.blocks, strict=True)):
      for block in range(number):
        stride = 2 if stage > 0 and block == 0 else 1
        x, y = layers.block(_bottleneck, x, width, stride)
      taps |= {f"stage{stage + 1}": x, f"stage{stage + 1}.preact": y}
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


class WideResnet(TappedNet):
  """Wide residual nets with BatchNorm and ReLU before the convolutions.

  Attributes:
    depth: Its layers, 6n + 4 for n blocks a stage: 16, 40, ...
    stem: Channels before the first stage.

  Taps: `stem`, `stage1`.. and `pooled`. Those of the stages are the raw sums, with
  both signs; `stage1.preact`.. are what the next BatchNorm makes of them.

  Source: Zagoruyko & Komodakis (2016), as Tian et al. (2020) train it: where the
  channels change, the shortcut too begins after BatchNorm and ReLU.
  """

  depth: int = 16
  stem: int = 16

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    number = blocks(self.depth, 6, 4)
    x = layers.conv(image, self.stem)
    taps = {"stem": x}
    for stage, width in enumerate(self.widths):
      for block in range(number):
        stride = 2 if stage > 0 and block == 0 else 1
        x, normed = layers.block(_wide, x, width, stride)
        if stage and not block:
          taps[f"stage{stage}.preact"] = normed
      taps[f"stage{stage + 1}"] = x
    normed = layers.norm(x)
    taps[f"stage{len(self.widths)}.preact"] = normed
    taps["pooled"] = layers_lib.pooled(nn.relu(normed))
    logits = layers.dense(
        taps["pooled"], self.num_classes, bias_init=nn.initializers.zeros)
    return logits, taps


def _basic(layers: Layers, x: jax.Array, width: int, stride: int) -> Both:
  y = nn.relu(layers.conv_norm(x, width, stride=stride))
  y = layers.conv_norm(y, width)
  y += _shortcut(layers, x, width, stride)
  return nn.relu(y), y


def _bottleneck(layers: Layers, x: jax.Array, width: int, stride: int) -> Both:
  y = nn.relu(layers.conv_norm(x, width, 1))
  y = nn.relu(layers.conv_norm(y, width, stride=stride))
  y = layers.conv_norm(y, 4 * width, 1)
  y += _shortcut(layers, x, 4 * width, stride)
  return nn.relu(y), y


def _wide(layers: Layers, x: jax.Array, width: int, stride: int) -> Both:
  """The block's sum, and what its first BatchNorm makes of x."""
  normed = layers.norm(x)
  entered = nn.relu(normed)
  y = nn.relu(layers.conv_norm(entered, width, stride=stride))
  y = layers.conv(y, width)
  same = x.shape[-1] == width and stride == 1
  x = y + (x if same else layers.conv(entered, width, 1, stride=stride))
  return x, normed


def _shortcut(layers: Layers, x: jax.Array, width: int, stride: int) -> jax.Array:
  if stride == 1 and x.shape[-1] == width:
    return x
  return layers.conv_norm(x, width, 1, stride=stride)
