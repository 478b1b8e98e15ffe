"""The residual nets for CIFAR of He et al. (2015), section 4.2."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.linen import BatchNorm


class Resnet(nn.Module):
  """Three stages of basic blocks; 6n + 2 layers for n blocks a stage.

  Attributes:
    num_classes: Number of logits.
    widths: Channels of the three stages; the stem has those of the first.
    blocks: Basic blocks a stage, n.
    dtype: Of the arithmetic; default that of the parameters. BatchNorm's
      statistics keep theirs.

  Features: `stem`, `stage_0`.. and `pooled`, each after its ReLU.
  """

  num_classes: int
  widths: Sequence[int]
  blocks: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(
      self,
      image: jax.Array,
      *,
      train: bool,
      mask: jax.Array | None = None,
      axis_name: str | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    norm = lambda x: BatchNorm()(
        x, train=train, mask=mask, axis_name=axis_name)

    def conv(x, width, size=3, stride=1):
      # Explicit padding: SAME pads a strided window on one side only.
      return nn.Conv(
          width, (size, size), strides=stride, padding=size // 2,
          use_bias=False, kernel_init=_FAN_OUT, dtype=self.dtype)(x)

    x = nn.relu(norm(conv(image, self.widths[0])))
    features = {"stem": x}
    for stage, width in enumerate(self.widths):
      for block in range(self.blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        shortcut = x
        if stride != 1 or x.shape[-1] != width:
          shortcut = norm(conv(x, width, size=1, stride=stride))
        x = nn.relu(norm(conv(x, width, stride=stride)))
        x = nn.relu(shortcut + norm(conv(x, width)))
      features[f"stage_{stage}"] = x
    pooled = jnp.mean(x, axis=(1, 2))
    features["pooled"] = pooled
    return nn.Dense(self.num_classes, dtype=self.dtype)(pooled), features


_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
