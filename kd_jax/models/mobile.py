"""Nets for small devices: MobileNetV2, EfficientNet's style, ShuffleNetV1, V2."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models import layers as layers_lib
from kd_jax.models.layers import UNIFORM, Layers, TappedNet

Taps = dict[str, jax.Array]

# Expansion, blocks and stride of each group of blocks.
_GROUPS = (
    (1, 1, 1), (6, 2, 1), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))
# After which groups a stage ends.
_STAGES = {1: "stage1", 2: "stage2", 4: "stage3", 6: "stage4"}


class MobilenetV2(TappedNet):
  """Inverted residual blocks: to six times the channels, 3x3 of each, and back.

  Attributes:
    head: Channels of the last convolution.

  The widths are those of the seven groups. ReLU, where the paper has ReLU6, and
  strides for images of 32 pixels a side.

  Taps: `stem` after its ReLU; `stage1`.. `stage4`, outputs of linear bottlenecks,
  with both signs, which are also `stage1.preact`..; `pooled`, of the head.

  Source: Sandler et al. (2018), as Tian et al. (2020) train it on CIFAR.
  """

  head: int = 1280

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x = nn.relu(layers.conv_norm(image, 2 * self.widths[0], stride=2))
    taps = {"stem": x}
    for group, (width, (expansion, number, stride)) in enumerate(
        zip(self.widths, _GROUPS, strict=True)):
      for block in range(number):
        x = layers.block(
            _inverted, x, width, expansion, stride if block == 0 else 1)
      if group in _STAGES:
        taps |= {_STAGES[group]: x, f"{_STAGES[group]}.preact": x}
    x = nn.relu(layers.conv_norm(x, self.head, 1))
    taps["pooled"] = layers_lib.pooled(x)
    logits = layers.dense(
        taps["pooled"], self.num_classes, nn.initializers.normal(0.01),
        nn.initializers.zeros)
    return logits, taps


def _inverted(
    layers: Layers, x: jax.Array, width: int, expansion: int, stride: int
) -> jax.Array:
  inner = expansion * x.shape[-1]
  y = nn.relu(layers.conv_norm(x, inner, 1))
  y = nn.relu(layers.conv_norm(y, inner, stride=stride, groups=inner))
  y = layers.conv_norm(y, width, 1)
  return x + y if stride == 1 and x.shape[-1] == width else y


# Expansion, size of the kernel, blocks and stride: the first groups of its B0.
_EFFICIENT = ((1, 3, 1, 1), (6, 3, 2, 2), (6, 5, 2, 2), (6, 3, 3, 2))


class Efficientnet(TappedNet):
  """Inverted residual blocks with squeeze and excitation, and swish for ReLU.

  Attributes:
    stem: Channels before the first block.
    head: Channels of the last convolution.

  In the style of EfficientNet alone: the first four of its seven groups, a stem of
  stride 1 for images of 32 pixels a side, and no stochastic depth.

  Taps: `stem` after its swish, which may be a little below 0; `stage1`.. `stage4`,
  outputs of linear bottlenecks, with both signs, which are also `stage1.preact`..;
  `pooled`, of the head after its swish.

  Source: Tan & Le (2019), table 1; Hu et al. (2018) for the excitation.
  """

  stem: int = 32
  head: int = 320

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x = nn.swish(layers.conv_norm(image, self.stem))
    taps = {"stem": x}
    for stage, (width, (expansion, size, number, stride)) in enumerate(
        zip(self.widths, _EFFICIENT, strict=True)):
      for block in range(number):
        x = layers.block(
            _excited, x, width, expansion, size, stride if block == 0 else 1)
      taps |= {f"stage{stage + 1}": x, f"stage{stage + 1}.preact": x}
    x = nn.swish(layers.conv_norm(x, self.head, 1))
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


def _excited(
    layers: Layers, x: jax.Array, width: int, expansion: int, size: int, stride: int
) -> jax.Array:
  """Where it does not expand, the first convolution is left out."""
  inputs, inner = x.shape[-1], expansion * x.shape[-1]
  y = nn.swish(layers.conv_norm(x, inner, 1)) if expansion > 1 else x
  y = nn.swish(layers.conv_norm(y, inner, size, stride=stride, groups=inner))
  squeezed = nn.swish(layers.dense(layers_lib.pooled(y), max(1, inputs // 4)))
  gate = nn.sigmoid(layers.dense(squeezed, inner))
  y = layers.conv_norm(y * gate[:, None, None], width, 1)
  return x + y if stride == 1 and inputs == width else y


class ShufflenetV1(TappedNet):
  """Bottlenecks of grouped 1x1 convolutions, whose channels are shuffled between.

  Attributes:
    blocks: Of each stage.
    groups: Of the grouped convolutions.

  Taps: `stem`, `stage1`.. and `pooled`, each after its ReLU, and `stage1.preact`..,
  before the last ReLU.

  Source: Zhang et al. (2018), as Tian et al. (2020) train it on CIFAR.
  """

  blocks: Sequence[int] = (4, 8, 4)
  groups: int = 3

  @property
  def kernel_init(self):
    return UNIFORM

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x = nn.relu(layers.conv_norm(image, _STEM, 1))
    taps = {"stem": x}
    for stage, (width, number) in enumerate(
        zip(self.widths, self.blocks, strict=True)):
      for block in range(number):
        y = layers.block(_shuffled, x, width, self.groups, block == 0)
        x = nn.relu(y)
      taps |= {f"stage{stage + 1}": x, f"stage{stage + 1}.preact": y}
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


_STEM = 24


def _shuffled(
    layers: Layers, x: jax.Array, width: int, groups: int, first: bool
) -> jax.Array:
  """A bottleneck of ShuffleNetV1, before its ReLU; the first of a stage halves."""
  outputs = width - x.shape[-1] if first else width
  inner = outputs // 4
  if inner < 1 or any(each % groups for each in (inner, outputs, width // 4)):
    raise ValueError(
        f"a stage of {width} channels after {x.shape[-1]}: widths must grow, from "
        f"{_STEM}, by multiples of {4 * groups}")
  before = 1 if x.shape[-1] == _STEM else groups
  y = nn.relu(layers.conv_norm(x, inner, 1, groups=before))
  y = shuffle(y, before)
  y = nn.relu(layers.conv_norm(y, inner, stride=2 if first else 1, groups=inner))
  y = layers.conv_norm(y, outputs, 1, groups=groups)
  if not first:
    return y + x
  # The mean over 3x3 counts the padding.
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  halved = nn.avg_pool(padded, window_shape=(3, 3), strides=(2, 2))
  return jax.lax.concatenate([y, halved], 3)


class ShufflenetV2(TappedNet):
  """Blocks that pass one half of the channels on and change the other.

  Attributes:
    blocks: Of each stage, the one that halves the map included.
    head: Channels of the last convolution.

  Taps: `stem`, `stage1`.. and `pooled` (of the head), each after its ReLU, and
  `stage1.preact`.., the halves of the last block before its ReLU and its shuffle.

  Source: Ma et al. (2018), as Tian et al. (2020) train it on CIFAR.
  """

  blocks: Sequence[int] = (4, 8, 4)
  head: int = 1024

  @property
  def kernel_init(self):
    return UNIFORM

  def forward(self, image: jax.Array, layers: Layers) -> tuple[jax.Array, Taps]:
    x = nn.relu(layers.conv_norm(image, _STEM, 1))
    taps = {"stem": x}
    for stage, (width, number) in enumerate(
        zip(self.widths, self.blocks, strict=True)):
      x = layers.block(_halving, x, width)
      for _ in range(number - 1):
        x, y = layers.block(_half_passed, x)
      taps |= {f"stage{stage + 1}": x, f"stage{stage + 1}.preact": y}
    x = nn.relu(layers.conv_norm(x, self.head, 1))
    taps["pooled"] = layers_lib.pooled(x)
    return layers.dense(taps["pooled"], self.num_classes), taps


def _halving(layers: Layers, x: jax.Array, width: int) -> jax.Array:
  if width < 2:
    raise ValueError(f"a stage of {width} channel: must have 2 or more, as half of "
                     "them are passed on")
  inputs, half = x.shape[-1], width // 2
  left = layers.conv_norm(x, inputs, stride=2, groups=inputs)
  left = nn.relu(layers.conv_norm(left, half, 1))
  right = nn.relu(layers.conv_norm(x, half, 1))
  right = layers.conv_norm(right, half, stride=2, groups=half)
  right = nn.relu(layers.conv_norm(right, half, 1))
  return shuffle(jax.lax.concatenate([left, right], 3), 2)


def _half_passed(layers: Layers, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  passed, y = jnp.split(x, 2, axis=-1)
  half = y.shape[-1]
  y = nn.relu(layers.conv_norm(y, half, 1))
  y = layers.conv_norm(y, half, groups=half)
  y = layers.conv_norm(y, half, 1)
  joined = lambda y: jax.lax.concatenate([passed, y], 3)
  return shuffle(joined(nn.relu(y)), 2), joined(y)


def shuffle(x: jax.Array, groups: int) -> jax.Array:
  """The channels of all groups by turns.

  Example:
    >>> shuffle(jnp.arange(6).reshape(1, 1, 1, 6), 2).ravel().tolist()
    [0, 3, 1, 4, 2, 5]
  """
  parts = x.reshape((*x.shape[:-1], groups, -1))
  return jnp.swapaxes(parts, -1, -2).reshape(x.shape)
