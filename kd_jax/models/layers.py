"""The layers that the convolutional nets of the papers are made of."""

from collections.abc import Callable, Sequence
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.core.convolution import convolution
from kd_jax.models import remat as remat_lib
from kd_jax.models.linen import BatchNorm

# He et al. (2015), by the number of outputs: N(0, 2 / (k^2 C_out)).
FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of the released nets.
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Layers:
  """The layers of one call of a net, which know how it is called.

  They are numbered by kind in the order in which they are made: `Conv_0`,
  `BatchNorm_0`, ... That is also the order of the released nets, so that weights
  are read from these by it.

  Args:
    train: Whether BatchNorm takes its statistics from the batch.
    mask: Marks the valid examples, bool `[batch]`; None for all.
    axis_name: The mapped device axis, if there is one.
    dtype: Of the arithmetic; None for that of the parameters.
    kernel_init: Of the convolutions.
    remat: The module whose blocks are computed again in the backward pass, or None.
  """

  def __init__(
      self, *, train: bool, mask: jax.Array | None, axis_name: str | None,
      dtype: Any, kernel_init: Any, remat: nn.Module | None = None,
  ):
    self._call: dict[str, Any] = {
        "train": train, "mask": mask, "axis_name": axis_name}
    self._dtype, self._kernel_init, self._remat = dtype, kernel_init, remat

  def block(self, function: Callable[..., Any], x: jax.Array, *options: Any) -> Any:
    """`function(layers, x, *options)`: a block, which `remat` does not store."""
    if self._remat is None:
      return function(self, x, *options)

    def computed(module, mask, x):
      del module  # Its layers are those of the call.
      call = self._call | {"mask": mask}
      return function(Layers(
          **call, dtype=self._dtype, kernel_init=self._kernel_init), x, *options)
    return remat_lib.lifted(computed)(self._remat, self._call["mask"], x)

  def norm(self, x: jax.Array) -> jax.Array:
    """BatchNorm."""
    return BatchNorm()(x, **self._call)

  def conv(
      self, x: jax.Array, width: int, size: int = 3, *, stride: int = 1,
      groups: int = 1, bias: bool = False,
  ) -> jax.Array:
    """A convolution, padded by size // 2 on every side."""
    # Explicit padding: SAME pads a strided window on one side only.
    fan_in = size * size * x.shape[-1] // groups
    return nn.Conv(
        width, (size, size), strides=stride, padding=size // 2, use_bias=bias,
        feature_group_count=groups, kernel_init=self._kernel_init,
        bias_init=self._bias(fan_in), dtype=self._dtype,
        conv_general_dilated=convolution)(x)

  def conv_norm(
      self, x: jax.Array, width: int, size: int = 3, **options: Any
  ) -> jax.Array:
    """A convolution and its BatchNorm."""
    return self.norm(self.conv(x, width, size, **options))

  def dense(
      self, x: jax.Array, width: int, kernel_init: Any = UNIFORM,
      bias_init: Any = None,
  ) -> jax.Array:
    """A dense layer; its bias, too, is drawn by the number of inputs."""
    return nn.Dense(
        width, kernel_init=kernel_init, dtype=self._dtype,
        bias_init=bias_init or uniform_bias(x.shape[-1]))(x)

  def _bias(self, fan_in: int) -> Any:
    return uniform_bias(fan_in) if self._kernel_init is UNIFORM else (
        nn.initializers.zeros)


class TappedNet(nn.Module):
  """What the convolutional nets of the papers have in common.

  Attributes:
    num_classes: Number of logits.
    widths: Channels of the stages.
    dtype: Of the arithmetic; default that of the parameters. BatchNorm's
      statistics keep theirs.
    remat: Whether training stores no more of a block than what enters it, and
      computes the rest again for the gradients.

  Subclasses say in `forward` what is between the image and the logits.
  """

  num_classes: int
  widths: Sequence[int]
  dtype: Any = None
  remat: bool = False

  @property
  def kernel_init(self):
    """How the convolutions begin."""
    return FAN_OUT

  @nn.compact
  def __call__(
      self,
      image: jax.Array,
      *,
      train: bool,
      mask: jax.Array | None = None,
      axis_name: str | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    again = self if self.remat and train and not self.is_initializing() else None
    return self.forward(image, Layers(
        train=train, mask=mask, axis_name=axis_name, dtype=self.dtype,
        kernel_init=self.kernel_init, remat=again))

  def forward(
      self, image: jax.Array, layers: Layers
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The logits and the taps by name."""
    raise NotImplementedError


def uniform_bias(fan_in: int) -> Any:
  """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), whatever the bias's own shape is."""
  bound = 1.0 / math.sqrt(fan_in)

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)
  return init


def pooled(x: jax.Array) -> jax.Array:
  """The mean over all places of a map, `[batch, channels]`."""
  return jnp.mean(x, axis=(1, 2))
