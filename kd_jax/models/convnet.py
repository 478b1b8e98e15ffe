"""A small convolutional net, strong on digits and cheap to train on a CPU."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.linen import BatchNorm, Dropout

# Size and stride of each convolution.
_WINDOWS = ((5, 2), (3, 2), (3, 2))


class Convnet(nn.Module):
  """Three convolutions with batch normalisation, two dense layers.

  Conv 5x5 /2 - Conv 3x3 /2 - Conv 3x3 /2 - Dense - Dense, each but the last with a
  ReLU, the convolutions with BatchNorm before it; no pooling, as in the net of
  Simard et al. (2003). 2.1 million multiplications an image of 28 x 28 with the
  preset's widths.

  Attributes:
    num_classes: Number of logits.
    widths: Channels of the three convolutions, units of the hidden layer.
    dtype: Of the arithmetic; default that of the parameters. BatchNorm's
      statistics keep theirs.

  `rates["input"]` drops pixels, `rates["hidden"]` what enters a dense layer. The
  features are `conv_0`, `conv_1`, `conv_2`, `hidden`, each after its ReLU.
  """

  num_classes: int
  widths: Sequence[int]
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(
      self,
      image: jax.Array,
      *,
      train: bool,
      mask: jax.Array | None = None,
      rates: Mapping[str, jax.Array | float] | None = None,
      axis_name: str | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    def drop(x, place):
      if not train or rates is None:
        return x
      return Dropout()(x, rates[place], axis_name=axis_name)

    *channels, units = self.widths
    features = {}
    x = drop(image, "input")
    for index, (width, (size, stride)) in enumerate(
        zip(channels, _WINDOWS, strict=True)):
      x = Conv(width, size, stride, self.dtype)(x, train=train)
      x = nn.relu(BatchNorm()(x, train=train, mask=mask, axis_name=axis_name))
      features[f"conv_{index}"] = x
    x = drop(x.reshape((x.shape[0], -1)), "hidden")
    x = nn.relu(nn.Dense(
        units, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)(x))
    features["hidden"] = x
    x = drop(x, "hidden")
    return nn.Dense(self.num_classes, dtype=self.dtype)(x), features


class Conv(nn.Module):
  """A convolution without bias, padded by size // 2 on every side.

  In training it is one matrix product of the pixels' surroundings: on a CPU XLA
  takes ten times as long for the gradients of a convolution as for those of the
  product. In evaluation, where there are none, the convolution itself is faster.
  """

  width: int
  size: int
  stride: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    shape = (self.size, self.size, x.shape[-1], self.width)
    kernel = self.param("kernel", nn.initializers.he_normal(), shape)
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    if train:
      return surroundings(x, self.size, self.stride) @ kernel.reshape(
          -1, self.width)
    sides = (self.size // 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (self.stride,) * 2, (sides, sides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def surroundings(x: jax.Array, size: int, stride: int) -> jax.Array:
  """The pixels around every stride-th one, `[B, H', W', size * size * C]`."""
  side = size // 2

  def along(x, axis):
    padded = jnp.pad(
        x, [(side, side) if each == axis else (0, 0) for each in range(x.ndim)])
    length = padded.shape[axis] - size + 1
    return jnp.concatenate(
        [jax.lax.slice_in_dim(padded, start, start + length, stride, axis)
         for start in range(size)], axis=-1)

  # Columns, then rows of these: in the order of a kernel's rows, columns, channels.
  return along(along(x, 2), 1)
