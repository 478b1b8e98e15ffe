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
    independent: Whether its teacher sees views that are drawn for it alone.
    twice: Whether each example is in a batch twice, in two independent views, which
      its teacher sees too.
    averaged: Of a teacher whose answer is the mean over all views of a family, this
      family, whatever its student sees.
  """

  count: int
  view: Callable[[jax.Array, jax.Array], jax.Array]
  clean: bool = False
  independent: bool = False
  twice: bool = False
  averaged: "Views | None" = None

  @property
  def of_teacher(self) -> "Views":
    """What the teacher of a student sees."""
    once = dataclasses.replace(self, twice=False) if self.twice else self
    return self.averaged or (VIEWS["none"] if self.clean else once)


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


def _cutout(image: jax.Array, index: jax.Array) -> jax.Array:
  """Blackens one of 16 squares; index 0 is the image.

  A square has 16 pixels a side, less where it leaves the image. Their centres lie
  on a grid of 4 x 4: of an image of 32 pixels, after crops that shift by up to 4, a
  square may begin at any pixel of what is shown. A side of it is 14 pixels on
  average, as of the paper's, whose centre is any pixel.

  Source: DeVries & Taylor (2017), section 3; 16 is their choice for CIFAR-10.
  """
  square = index > 0
  for axis, place in enumerate(jnp.divmod(index - 1, 4)):
    pixel = jax.lax.broadcasted_iota(jnp.int32, image.shape, axis)
    centre = (2 * place + 1) * image.shape[axis] // 8
    square &= (centre - 8 <= pixel) & (pixel < centre + 8)
  return jnp.where(square, jnp.zeros_like(image), image)


def _distorted(strength: distort.Strength) -> Views:
  return Views(distort.COUNT, functools.partial(distort.view, strength=strength))


def _then(first: Views, second: Views) -> Views:
  """Every view of one family, followed by every view of another."""
  return Views(first.count * second.count, lambda image, index: second.view(
      first.view(image, index % first.count), index // first.count))


_CROP4_FLIP = Views(162, _crop4_flip)

VIEWS: dict[str, Views] = {
    # The image as it is.
    "none": Views(1, _identity),
    # "Jittered by up to two pixels in any direction" (Hinton et al. 2015, s. 3).
    "shift2": Views(25, functools.partial(_shifted, reach=2)),
    # Pad by 4, crop, flip: the standard of CIFAR (He et al. 2015, section 4.2).
    "crop4_flip": _CROP4_FLIP,
    # The same, then a black square of 16 pixels or none: 2,754 views.
    "crop4_flip_cutout": _then(_CROP4_FLIP, Views(17, _cutout)),
    # Before it one of 128 changes of shape and colours: 20,736 views.
    "crop4_flip_strong": _then(_distorted(distort.STRONG), _CROP4_FLIP),
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
