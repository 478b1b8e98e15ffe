r"""Corrupted images: 8 kinds in 3 strengths, what a trained net is tested with.

Nothing is drawn when a net is tested: a corruption is a function of the image, its
place in the set, the kind and the strength, with the same bits everywhere. Sizes in
pixels are those of an image of 28 pixels, and grow with it.

  rotate    by 10, 20, 30 degrees clockwise about the centre
  shear     by 0.2, 0.4, 0.6 columns a row, the upper half to the right
  scale     to 0.85, 0.7, 0.55 of its size
  shift     by 1, 2, 3 pixels down and right
  shot      y = 255 k / c, k of Poisson(c x / 255), c = 12, 4, 1.5 photons
  impulse   5, 10, 20% of the pixels, to the next 256th, are 0 or 255
  blur      a Gaussian of deviation 1, 1.5, 2 pixels
  stripes   2, 4, 6 columns at the left and right are inverted, x <- 255 - x

Source: the kinds are of MNIST-C (Mu & Gilmer 2019, arXiv 1906.02337), whose blurs
are of glass and of motion. The strengths are ours.
"""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data import distort

STRENGTHS = 3
_SIDE = 28
_AFFINE = {
    "rotate": (10.0, 20.0, 30.0), "shear": (0.2, 0.4, 0.6),
    "scale": (0.85, 0.7, 0.55), "shift": (1.0, 2.0, 3.0)}
_PHOTONS = (12.0, 4.0, 1.5)
_IMPULSES = (0.05, 0.1, 0.2)
_DEVIATIONS = (1.0, 1.5, 2.0)
_COLUMNS = (2.0, 4.0, 6.0)


def corrupted(images: np.ndarray, kind: str, strength: int) -> np.ndarray:
  """Images in a corruption.

  Args:
    images: `[N, H, W, C]`, uint8. Noise depends on the place in the set.
    kind: One of `KINDS`.
    strength: 0, 1 or 2, the strongest.

  Returns:
    `[N, H, W, C]`, uint8.

  Raises:
    TypeError: If images are not of uint8: what is black in others is not known.

  Example:
    >>> columns = np.arange(28, dtype=np.uint8).reshape(1, 1, 28, 1)
    >>> corrupted(columns, "stripes", 0)[0, 0, :4, 0]
    array([255, 254,   2,   3], dtype=uint8)
  """
  if images.dtype != np.uint8 or images.ndim != 4:
    raise TypeError(f"images of uint8 are corrupted, not {images.dtype} of "
                    f"{images.ndim} axes")
  return _KINDS[kind](images, strength)


def every(images: np.ndarray) -> np.ndarray:
  """Images in every corruption, `[8 * 3 * N, H, W, C]`: kind, strength, image."""
  return np.concatenate([
      corrupted(images, kind, strength)
      for kind in KINDS for strength in range(STRENGTHS)])


def _moved(images: np.ndarray, strength: int, kind: str) -> np.ndarray:
  """Images read along an affine map: bilinear, and 0 outside."""
  at = jnp.asarray(positions(kind, strength, *images.shape[1:3]))
  read = jax.jit(jax.vmap(lambda image: distort.read(image, at)))
  return np.asarray(read(images))


def positions(kind: str, strength: int, height: int, width: int) -> np.ndarray:
  """Where each pixel is read, in 1/256 pixel, int32 `[H, W, 2]`.

  p is read at m(p) = c + A (p - c) - t: the inverse of what is done to the image.
  """
  value, matrix, shift = _AFFINE[kind][strength], np.eye(2), np.zeros(2)
  size = np.array([height, width])
  if kind == "rotate":
    cos, sin = np.cos(np.deg2rad(value)), np.sin(np.deg2rad(value))
    matrix = np.array([[cos, -sin], [sin, cos]])
  elif kind == "shear":
    matrix = np.array([[1.0, 0.0], [value, 1.0]])
  elif kind == "scale":
    matrix = np.eye(2) / value
  else:
    shift = np.round(value * size / _SIDE)
  return distort.mapped(matrix, -shift, height, width)


def _shot(images: np.ndarray, strength: int) -> np.ndarray:
  draws = _bytes("shot", strength, images.shape)
  return poisson_table(_PHOTONS[strength])[images, draws]


@functools.cache
def poisson_table(photons: float) -> np.ndarray:
  """255 k / c of every pixel x and draw r, uint8 `[256, 256]`.

  k is the quantile of Poisson(c x / 255) at (r + 1/2) / 256.
  """
  rate = photons * np.arange(256)[:, None] / 255
  counts = np.arange(1, 60 + 4 * math.ceil(photons))
  # P(k) = exp(-rate) rate**k / k!
  ratios = np.cumprod(rate / counts, axis=1)
  below = np.cumsum(np.exp(-rate) * np.hstack([np.ones_like(rate), ratios]), axis=1)
  quantile = (np.arange(256) + 0.5) / 256
  number = (below[:, None, :] < quantile[:, None]).sum(-1)
  return np.minimum(np.floor(255 * number / photons + 0.5), 255).astype(np.uint8)


def _impulse(images: np.ndarray, strength: int) -> np.ndarray:
  draws = _bytes("impulse", strength, images.shape[:3])[..., None]
  # Of 256 draws the first are black, and as many white.
  each = round(128 * _IMPULSES[strength])
  return np.where(draws < each, np.uint8(0), np.where(
      draws < 2 * each, np.uint8(255), images))


def _blur(images: np.ndarray, strength: int) -> np.ndarray:
  """Weights are multiples of 1/256; at an edge its pixels are repeated."""
  blurred = images.astype(np.int32)
  for axis in (1, 2):
    # The axis of pixels goes first, to be cut.
    pixels = np.moveaxis(blurred, axis, 0)
    weights = gaussian(_DEVIATIONS[strength] * len(pixels) / _SIDE)
    reach, total = len(weights) // 2, np.zeros_like(pixels)
    padded = np.pad(pixels, [(reach, reach), *[(0, 0)] * 3], mode="edge")
    for start, weight in enumerate(weights):
      total += weight * padded[start:start + len(pixels)]
    blurred = np.moveaxis(total, 0, axis)
  return ((blurred + 2**15) >> 16).astype(np.uint8)


def gaussian(deviation: float) -> list[int]:
  """Weights of a Gaussian out to 3 deviations, of sum 256."""
  steps = np.arange(-math.ceil(3 * deviation), math.ceil(3 * deviation) + 1)
  weights = np.exp(-0.5 * (steps / deviation) ** 2)
  whole = np.round(256 * weights / weights.sum()).astype(int)
  whole[len(whole) // 2] += 256 - whole.sum()
  return whole.tolist()


def _stripes(images: np.ndarray, strength: int) -> np.ndarray:
  width = images.shape[2]
  columns = round(_COLUMNS[strength] * width / _SIDE)
  place = np.arange(width)[:, None]
  inside = (place < columns) | (place >= width - columns)
  return np.where(inside, 255 - images, images)


def _bytes(kind: str, strength: int, shape: tuple[int, ...]) -> np.ndarray:
  """Independent draws from 0 to 255; those of an image depend on its place."""
  number = math.prod(shape)
  raw = distort.raw(kind, strength, -(-number // 8))
  return raw.astype("<u8").view(np.uint8)[:number].reshape(shape)


_KINDS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    **{kind: functools.partial(_moved, kind=kind) for kind in _AFFINE},
    "shot": _shot, "impulse": _impulse, "blur": _blur, "stripes": _stripes}
KINDS = tuple(_KINDS)
