r"""Distortions with a number: view v reads an image along one fixed map.

  view_v(p) = image(m_v(p)),    m_v(p) = c + A_v (p - c) + t_v + u_v(p)

p is a pixel (row, column), c the image's centre. A_v turns, shears and scales,
t_v shifts, and u_v is a field of smoothed random displacements. Between pixels the
image is bilinear, outside it is 0. Positions are whole multiples of 1/256 pixel. So
views of uint8 images are sums of integers, with the same bits in every program.
Before that, a view may change brightness, contrast and saturation (`coloured`).

All random numbers of a view depend on v alone. View 0 is the image itself.

Source: Simard, Steinkraus & Platt (2003), "Best practices for convolutional neural
networks applied to visual document analysis", section 2.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Number of views of a family. The tables of positions are constants of a program,
# 0.8 MB for 28 x 28 pixels.
COUNT = 128
# Positions are counted in parts of a pixel, 2**8 of them.
_BITS = 8
_PARTS = 2**_BITS


class Strength(NamedTuple):
  """How strong the distortions are. A field x means: drawn evenly from -x to x.

  Attributes:
    degrees: Angle of the turn.
    scale: Change of each side's length, as a fraction of it.
    shear: Columns of shift per row.
    shift: Pixels in each direction.
    alpha: Pixels; the noise of the displacements before smoothing (Simard's alpha).
    sigma: Pixels; standard deviation of the Gaussian that smooths the noise.
    colour: Change of brightness, contrast and saturation, as a fraction of each.
  """

  degrees: float = 0.0
  scale: float = 0.0
  shear: float = 0.0
  shift: float = 0.0
  alpha: float = 0.0
  sigma: float = 4.0
  colour: float = 0.0


# Chosen on held-out MNIST. Simard et al. have alpha 34 and sigma 4, which is 1.4
# pixels root mean square and needs longer trainings. These are 0.9 pixels.
AFFINE = Strength(degrees=10, scale=0.1, shear=0.1, shift=1)
ELASTIC = Strength(alpha=28, sigma=5)
BOTH = AFFINE._replace(alpha=ELASTIC.alpha, sigma=ELASTIC.sigma)
# Operations of RandAugment (Cubuk et al. 2020) up to a magnitude of 14 of its 30,
# but all at once, each as strong as it is drawn.
STRONG = Strength(degrees=14, shear=0.14, colour=0.42)


def view(image: jax.Array, index: jax.Array, strength: Strength) -> jax.Array:
  """View `index` of an image, in the family of a strength.

  Args:
    image: `[H, W, C]`, uint8 or float.
    index: In [0, COUNT), int32 `[]`.
    strength: The strength of the family, static.

  Returns:
    `[H, W, C]` of the image's dtype; uint8 is rounded to nearest, a half up.
  """
  height, width, _ = image.shape
  if strength.colour:
    image = coloured(image, index, strength)
  # Our own indices are in bounds: no clamping, no filling is needed.
  return read(image, jnp.asarray(positions(strength, height, width)).at[index].get(
      mode="promise_in_bounds"))


def read(image: jax.Array, at: jax.Array) -> jax.Array:
  """An image read at other places: bilinear between pixels, 0 outside.

  Args:
    image: `[H, W, C]`, uint8 or float.
    at: Where each pixel is read, in 1/256 pixel, int32 `[H, W, 2]`, as of `mapped`.

  Returns:
    `[H, W, C]` of the image's dtype; uint8 is rounded to nearest, a half up.
  """
  whole = jnp.issubdtype(image.dtype, jnp.integer)
  kind = jnp.int32 if whole else image.dtype
  # Positions begin at -1. Pixels beyond H and W have weight 0.
  padded = jnp.pad(image, ((1, 2), (1, 2), (0, 0)))
  row, column = ((at[..., axis] >> _BITS) + 1 for axis in (0, 1))
  part = (at & (_PARTS - 1)).astype(kind)
  down, right = part[..., :1], part[..., 1:]

  def line(below: int) -> jax.Array:
    corner = lambda beside: padded.at[row + below, column + beside].get(
        mode="promise_in_bounds").astype(kind)
    return (_PARTS - right) * corner(0) + right * corner(1)

  total = (_PARTS - down) * line(0) + down * line(1)
  if whole:
    return ((total + _PARTS**2 // 2) >> 2 * _BITS).astype(image.dtype)
  return total / _PARTS**2


def coloured(image: jax.Array, index: jax.Array, strength: Strength) -> jax.Array:
  r"""Brightness, contrast and saturation of view `index`, one after the other.

    x <- f x + (1 - f) a

  a is 0 for brightness f, the mean of the image for contrast, and that of a pixel's
  channels for saturation. Factors are multiples of 1/256. Pixels of uint8 end at 0
  and 255; of floats no ends are known.
  """
  whole = jnp.issubdtype(image.dtype, jnp.integer)
  x = image.astype(jnp.int32) if whole else image
  table = np.stack([even("colour", each, 3) for each in range(COUNT)])
  table[0] = 0
  parts = np.round(_PARTS * (1 + strength.colour * table)).astype(np.int32)
  factors = jnp.asarray(parts).at[index].get(mode="promise_in_bounds")
  for factor, axes in zip(factors.astype(x.dtype), ((), (0, 1, 2), (2,))):
    total = jnp.sum(x, axes, keepdims=True) if axes else jnp.zeros_like(x)
    size = math.prod(image.shape[axis] for axis in axes)
    about = total // size if whole else total / size
    x = factor * x + (_PARTS - factor) * about
    x = (x + _PARTS // 2) >> _BITS if whole else x / _PARTS
  return jnp.clip(x, 0, 255).astype(image.dtype) if whole else x


@functools.lru_cache(maxsize=16)
def positions(strength: Strength, height: int, width: int) -> np.ndarray:
  """Where each pixel of each view is read, in 1/256 pixel, int32 `[V, H, W, 2]`."""
  maps = np.empty((COUNT, height, width, 2), np.int32)
  maps[0] = mapped(np.eye(2), np.zeros(2), height, width)
  for index in range(1, COUNT):
    maps[index] = mapped(
        *affinity(strength, index), height, width,
        displacements(strength, index, height, width))
  maps.flags.writeable = False  # It is handed to every program.
  return maps


def mapped(
    matrix: np.ndarray, shift: np.ndarray, height: int, width: int,
    field: np.ndarray | float = 0.0,
) -> np.ndarray:
  """c + A (p - c) + t + u(p) of each pixel p, in 1/256 pixel, int32 `[H, W, 2]`."""
  size = np.array([height, width])
  pixel = np.stack(np.meshgrid(
      np.arange(height), np.arange(width), indexing="ij"), axis=-1)
  centre = (size - 1) / 2
  turned = centre + (pixel - centre) @ matrix.T + shift + field
  # Further than one pixel outside the image, all values are 0.
  return np.round(_PARTS * np.clip(turned, -1, size)).astype(np.int32)


def affinity(strength: Strength, index: int) -> tuple[np.ndarray, np.ndarray]:
  """A_v `[2, 2]`, a turn of a sheared and scaled image, and t_v `[2]`."""
  draw = even("affine", index, 6)
  angle = np.deg2rad(strength.degrees * draw[0])
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[cos, -sin], [sin, cos]])
  shear = np.array([[1.0, 0.0], [strength.shear * draw[1], 1.0]])
  scale = np.diag(1 + strength.scale * draw[2:4])
  return turn @ shear @ scale, strength.shift * draw[4:]


def displacements(
    strength: Strength, index: int, height: int, width: int
) -> np.ndarray:
  r"""u_v, `[H, W, 2]`: alpha times noise that a Gaussian has smoothed.

  u_v(p) = alpha sum_q g(p - q) noise(q),  g(d) ~ exp(-|d|^2 / 2 sigma^2), sum 1

  The noise is uniform in (-1, 1), also around the image, as far as g reaches. If
  sigma is many pixels, the root mean square is alpha / (sigma sqrt(12 pi)).
  """
  reach = int(np.ceil(3 * strength.sigma))
  around = (height + 2 * reach, width + 2 * reach, 2)
  noise = even("elastic", index, int(np.prod(around))).reshape(around)
  steps = np.arange(-reach, reach + 1)
  weight = np.exp(-0.5 * (steps / strength.sigma) ** 2)
  weight /= weight.sum()
  smooth = lambda x: np.convolve(x, weight, mode="valid")
  once = np.apply_along_axis(smooth, 0, noise)
  return strength.alpha * np.apply_along_axis(smooth, 1, once)


def even(name: str, index: int, size: int) -> np.ndarray:
  """Uniform numbers in [-1, 1), the same in every version of NumPy."""
  return (raw(name, index, size) >> np.uint64(11)) * 2.0**-52 - 1


def raw(name: str, index: int, size: int) -> np.ndarray:
  """Independent uint64 `[size]`, the same in every version of NumPy."""
  key = int.from_bytes(name.encode(), "little")
  return np.random.Philox(key=key, counter=[0, 0, 0, index]).random_raw(size)
