"""Enumerable augmentation: view v of an image is one fixed transform.

A family of views has a finite number of members. So the teacher's logits can be
stored for every view, and integers describe the batch of a student. View 0 is
always the image itself.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp

from kd_jax.data import distort


@dataclasses.dataclass(frozen=True)
class Views:
  """A family of transforms.

  Attributes:
    count: Number of views V; indices are in [0, V).
    view: `(image, index) -> image`, `[H, W, C]` of any dtype to the same shape.
    clean: Whether a student alone sees them, and its teacher the images themselves.
  """

  count: int
  view: Callable[[jax.Array, jax.Array], jax.Array]
  clean: bool = False

  @property
  def of_teacher(self) -> "Views":
    """What the teacher of a student sees."""
    return VIEWS["none"] if self.clean else self


def _identity(image: jax.Array, index: jax.Array) -> jax.Array:
  del index
  return image


def _shifted(image: jax.Array, index: jax.Array, reach: int) -> jax.Array:
  """Shifts by up to `reach` pixels in each direction, filled with zeros.

  Indices count the (2 reach + 1)**2 offsets row by row. They start at no shift, so
  index 0 is the identity.
  """
  width = 2 * reach + 1
  offset = (index + (width * width) // 2) % (width * width)
  padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)))
  start = (offset // width, offset % width, jnp.zeros_like(offset))
  return jax.lax.dynamic_slice(padded, start, image.shape)


def _crop4_flip(image: jax.Array, index: jax.Array) -> jax.Array:
  image = _shifted(image, index % 81, 4)
  return jnp.where(index >= 81, image[:, ::-1], image)


def _distorted(strength: distort.Strength) -> Views:
  return Views(distort.COUNT, functools.partial(distort.view, strength=strength))


VIEWS: dict[str, Views] = {
    # The image as it is.
    "none": Views(1, _identity),
    # "Jittered by up to two pixels in any direction" (Hinton et al. 2015, s. 3).
    "shift2": Views(25, functools.partial(_shifted, reach=2)),
    # Pad by 4, crop, flip: the standard of CIFAR (He et al. 2015, section 4.2).
    "crop4_flip": Views(162, _crop4_flip),
    # Turned, sheared, scaled and shifted a little.
    "affine": _distorted(distort.AFFINE),
    # Elastic distortions (Simard et al. 2003, section 2), and both at once.
    "elastic": _distorted(distort.ELASTIC),
    "distort": _distorted(distort.BOTH),
}


def batch_views(views: Views, images: jax.Array, indices: jax.Array) -> jax.Array:
  """View `indices[b]` of each image: `[B, H, W, C]`, `[B]` -> `[B, H, W, C]`."""
  if views.count == 1:
    return images
  return jax.vmap(views.view)(images, indices)
