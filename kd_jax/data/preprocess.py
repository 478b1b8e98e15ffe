"""What a data set does to its inputs before a model sees them.

Inputs lie on the device as they are stored: images `[N, H, W, C]` of uint8 or
float32, tables `[N, F]` of float32, or integer token ids `[N, L]`. A preprocessing
is a NamedTuple of arrays that is called with some inputs. So it enters a compiled
program as an argument, like the data.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Scaling(NamedTuple):
  """Numbers enter a model as scale * number + offset, float32; both are `[C]`."""

  scale: Any
  offset: Any

  def __call__(self, images: jax.Array) -> jax.Array:
    channel = (1,) * (images.ndim - 1) + (-1,)
    return (images.astype(jnp.float32) * self.scale.reshape(channel)
            + self.offset.reshape(channel))


class AsStored(NamedTuple):
  """Inputs enter a model as they are stored, such as token ids."""

  def __call__(self, inputs: Any) -> Any:
    return inputs


def of(kind: str, inputs: np.ndarray) -> Scaling | AsStored:
  """The preprocessing of a data set.

  Args:
    kind: "unit" for uint8 pixels in [0, 1] and floats as stored, or "standard" for
      mean 0 and deviation 1 of each channel, or column of a table, over the inputs.
    inputs: Those of the training set. Token ids stay as stored.

  Example:
    >>> of("unit", np.full((2, 1, 1, 1), 255, np.uint8))(jnp.full((1, 1), 255))
    Array([[1.]], dtype=float32)
  """
  whole = inputs.dtype == np.uint8
  if inputs.dtype.kind == "i" or (kind == "unit" and not whole):
    return AsStored()
  channels = inputs.shape[-1]
  if kind == "unit":
    return Scaling(np.full((channels,), 1 / 255, np.float32),
                   np.zeros((channels,), np.float32))
  # Over the whole training set, held-out part included: one scaling for both
  # stages of a study, and the test set has no say in it.
  pixels = inputs.reshape(-1, channels)
  mean = pixels.mean(axis=0, dtype=np.float64)
  deviation = pixels.std(axis=0, dtype=np.float64)
  # A constant column of floats becomes 0, whatever its rounding errors are.
  deviation = np.maximum(deviation, 1e-3) if whole else np.where(
      deviation > 1e-6 * np.abs(pixels).max(axis=0), deviation, np.inf)
  return Scaling((1 / deviation).astype(np.float32),
                 (-mean / deviation).astype(np.float32))


def are_images(inputs: Any) -> bool:
  """Whether inputs are images `[N, H, W, C]`; views are for these alone."""
  return getattr(inputs, "ndim", 0) == 4 and inputs.dtype in (np.uint8, np.float32)


def seen(inputs: Any, number: int) -> Any:
  """Shapes and types of `number` examples as a model sees them."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      (number, *x.shape[1:]), jnp.float32 if are_images(x) else x.dtype), inputs)


def blank(inputs: Any, number: int = 1) -> Any:
  """Zeros of those shapes and types."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen(inputs, number))
