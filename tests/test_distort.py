"""Distorted views against SciPy in float64, and the numbers they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from kd_jax import models
from kd_jax.data import distort
from kd_jax.data import views as views_lib
from kd_jax.runs import logit_bank
from kd_jax.training import devices

NAMES = ("affine", "elastic", "distort")
STRENGTH = {"affine": distort.AFFINE, "elastic": distort.ELASTIC,
            "distort": distort.BOTH}
SIZE = (28, 28)
SOME = (1, 2, 17, distort.COUNT - 1)


def image(height=28, width=28, channels=1, seed=0) -> np.ndarray:
  draw = np.random.default_rng(seed)
  return draw.integers(0, 256, (height, width, channels), np.uint8)


def views_of(name: str, images: np.ndarray, indices) -> np.ndarray:
  return np.asarray(jax.jit(jax.vmap(views_lib.VIEWS[name].view, (None, 0)))(
      jnp.asarray(images), jnp.asarray(indices, jnp.int32)))


def equation(name: str, index: int, height: int, width: int) -> np.ndarray:
  """m_v(p) = c + A_v (p - c) + t_v + u_v(p), pixel by pixel, not rounded."""
  matrix, shift = distort.affinity(STRENGTH[name], index)
  moved = distort.displacements(STRENGTH[name], index, height, width)
  centre = np.array([height - 1, width - 1]) / 2
  places = np.empty((height, width, 2))
  for row in range(height):
    for column in range(width):
      offset = np.array([row, column]) - centre
      places[row, column] = [
          centre[axis] + matrix[axis] @ offset + shift[axis]
          + moved[row, column, axis] for axis in (0, 1)]
  return places


def read(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Bilinear between pixels, zeros outside: an independent interpolation."""
  return np.stack([ndimage.map_coordinates(
      pixels[..., channel].astype(np.float64), np.moveaxis(places, -1, 0),
      order=1, mode="grid-constant") for channel in range(pixels.shape[-1])], -1)


# 28 x 28 of MNIST, 32 x 32 x 3 of CIFAR, and a shape of no square.
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (9, 11, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_a_view_reads_the_image_where_the_equation_says(name, shape):
  pixels = image(*shape)
  found = views_of(name, pixels, SOME)
  for view, index in zip(found, SOME):
    exact = read(pixels, equation(name, index, *shape[:2]))
    # Positions are rounded to 1/256, so by 1/512 in two directions, of noise that
    # rises by up to 255 a pixel, and then the value is rounded.
    off = np.abs(view - exact)
    assert off.max() < 0.5 + 2 * 255 / 512 and off.mean() < 0.5
    assert np.abs(exact - pixels).mean() > 10, "the view is another image"


@pytest.mark.parametrize("name", NAMES)
def test_uint8_is_the_exact_value_rounded_a_half_up(name):
  pixels = image()
  places = distort.positions(STRENGTH[name], *SIZE) / 256
  for view, index in zip(views_of(name, pixels, SOME), SOME):
    exact = read(pixels, places[index])  # Sums of integers / 2**16: exact.
    np.testing.assert_array_equal(view, np.floor(exact + 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_floats_are_not_rounded(name):
  pixels = image(8, 9) / np.float32(255)
  view = views_of(name, pixels, SOME)
  assert view.dtype == np.float32
  places = distort.positions(STRENGTH[name], 8, 9)[list(SOME)] / 256
  for each, place in zip(view, places):
    np.testing.assert_allclose(each, read(pixels, place), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_is_eager_and_many_are_one_by_one(name):
  images = jnp.stack([image(seed=seed) for seed in range(6)])
  indices = jnp.array([0, 1, 5, 64, 126, 127])
  views = views_lib.VIEWS[name]
  together = jax.jit(lambda *a: views_lib.batch_views(views, *a))(images, indices)
  alone = [views.view(*each) for each in zip(images, indices)]
  np.testing.assert_array_equal(together, np.stack(alone))
  # Rows by seeds, as lanes have them.
  lanes = jax.vmap(lambda i: views_lib.batch_views(views, images, i))(
      jnp.stack([indices, indices[::-1]]))
  np.testing.assert_array_equal(lanes[0], together)
  np.testing.assert_array_equal(lanes[1, 0], views.view(images[0], indices[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_all_views_differ_and_none_reads_beyond_one_pixel_outside(name):
  assert views_lib.VIEWS[name].count == distort.COUNT
  seen = views_of(name, image(), range(distort.COUNT))
  assert len({view.tobytes() for view in seen}) == distort.COUNT
  table = distort.positions(STRENGTH[name], *SIZE)
  assert table.shape == (distort.COUNT, *SIZE, 2) and table.dtype == np.int32
  # The padding that a view reads from is one before and two behind.
  assert table.min() >= -256 and table.max() <= 28 * 256
  own = 256 * np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1)
  np.testing.assert_array_equal(table[0], own)


def philox(key: int, counter: list[int]) -> list[int]:
  """Philox4x64-10 of Salmon et al. (2011), so that rows stay what they are."""
  word = 2**64 - 1
  keys = [key & word, key >> 64]
  a, b, c, d = counter
  for _ in range(10):
    first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
    a, b, c, d = ((second >> 64) ^ b ^ keys[0], second & word,
                  (first >> 64) ^ d ^ keys[1], first & word)
    keys = [(keys[0] + 0x9E3779B97F4A7C15) & word,
            (keys[1] + 0xBB67AE8584CAA73B) & word]
  return [a, b, c, d]


def test_views_are_drawn_from_their_index_alone():
  kept = distort.positions(distort.BOTH, *SIZE)
  distort.positions.cache_clear()
  again = distort.positions(distort.BOTH, *SIZE)
  np.testing.assert_array_equal(kept, again)
  assert not again.flags.writeable, "programs share it"
  expected = philox(int.from_bytes(b"affine", "little"), [1, 0, 0, 3])
  np.testing.assert_array_equal(
      distort.even("affine", 3, 4), [(x >> 11) / 2**52 - 1 for x in expected])
  draws = np.stack([distort.even("affine", v, 6) for v in range(400)])
  assert np.abs(draws).max() < 1 and np.abs(draws.mean(0)).max() < 0.1
  assert np.abs(draws.var(0) - 1 / 3).max() < 0.05
  correlation = np.corrcoef(np.hstack([draws[:-1], draws[1:]]).T)
  assert np.abs(correlation - np.eye(12)).max() < 0.2


def blob(at, height=28, width=28, deviation=2.0) -> np.ndarray:
  """A smooth spot, float32, whose centre and mass are known."""
  rows, columns = np.mgrid[:height, :width]
  square = (rows - at[0]) ** 2 + (columns - at[1]) ** 2
  return np.exp(-square / (2 * deviation**2))[..., None].astype(np.float32)


def centroid(view: np.ndarray) -> np.ndarray:
  mass = view[..., 0].astype(np.float64)
  rows, columns = np.mgrid[:mass.shape[0], :mass.shape[1]]
  return np.array([(rows * mass).sum(), (columns * mass).sum()]) / mass.sum()


@pytest.mark.parametrize("index", SOME)
def test_mass_and_centroid_move_as_the_affine_map_says(index):
  at, centre = np.array([11.0, 16.0]), np.array([13.5, 13.5])
  spot = blob(at)
  view = views_of("affine", spot, [index])[0]
  matrix, shift = distort.affinity(distort.AFFINE, index)
  # The view has at q what the image has at c + A (q - c) + t.
  expected = centre + np.linalg.solve(matrix, at - centre - shift)
  np.testing.assert_allclose(centroid(view), expected, atol=0.02)
  assert np.abs(expected - at).max() > 0.1
  # An area shrinks by det A, so its mass does.
  assert view.sum() == pytest.approx(
      spot.sum() / np.linalg.det(matrix), rel=0.015)


def test_an_affine_view_is_within_its_strength():
  own = distort.AFFINE
  assert min(own.degrees, own.scale, own.shear, own.shift) > 0
  for index in range(1, distort.COUNT):
    matrix, shift = distort.affinity(own, index)
    # turn @ [[1, 0], [k, 1]] @ diag(sy, sx), taken apart: its second column is
    # sx (-sin, cos), and det = sy sx.
    length = np.hypot(*matrix[:, 1])
    angle = np.degrees(np.arctan2(-matrix[0, 1], matrix[1, 1]))
    other = np.linalg.det(matrix) / length
    along = matrix[:, 1] @ matrix[:, 0] / length
    assert abs(angle) <= own.degrees
    assert abs(length - 1) <= own.scale and abs(other - 1) <= own.scale
    assert abs(along / other) <= own.shear
    assert np.abs(shift).max() <= own.shift


def test_displacements_are_simards():
  own, height, width = distort.ELASTIC, 28, 20
  reach = 15  # 3 sigma.
  around = (height + 2 * reach, width + 2 * reach, 2)
  noise = distort.even("elastic", 5, int(np.prod(around))).reshape(around)
  expected = np.stack([ndimage.gaussian_filter(
      noise[..., axis], own.sigma, truncate=3.0) for axis in (0, 1)], -1)
  found = distort.displacements(own, 5, height, width)
  np.testing.assert_allclose(
      found, own.alpha * expected[reach:-reach, reach:-reach], atol=1e-12)


def test_displacements_are_as_large_and_as_smooth_as_their_formula():
  own = distort.ELASTIC
  fields = np.stack([distort.displacements(own, v, *SIZE) for v in range(1, 41)])
  # alpha / (sigma sqrt(12 pi)) = 28 / (5 * 6.14) = 0.91 pixels.
  size = own.alpha / (own.sigma * np.sqrt(12 * np.pi))
  assert np.sqrt(np.mean(fields**2)) == pytest.approx(size, rel=0.1)
  assert np.abs(fields).max() < 5 * size < own.alpha
  # A Gaussian of sigma leaves a correlation of sigma sqrt(2): neighbours differ by
  # size / (sigma sqrt(2)), root mean square; those of noise, by size * sqrt(2).
  for axis in (1, 2):
    steps = np.sqrt(np.mean(np.diff(fields, axis=axis) ** 2))
    assert steps == pytest.approx(size / (own.sigma * np.sqrt(2)), rel=0.1)
  # Rows and columns are moved apart from each other.
  both = fields[..., 0].ravel(), fields[..., 1].ravel()
  assert abs(np.corrcoef(*both)[0, 1]) < 0.2


def test_both_is_the_affine_view_with_the_elastic_ones_displacements():
  place = equation("distort", 9, *SIZE)
  affine, elastic = (equation(name, 9, *SIZE) for name in ("affine", "elastic"))
  pixel = np.stack(np.mgrid[:28, :28], -1)
  np.testing.assert_allclose(place, affine + elastic - pixel, atol=1e-12)


def test_a_bank_of_distorted_views_is_the_teacher_on_each(device_data):
  few = device_data._replace(inputs=device_data.inputs[:9],
                             label=device_data.label[:9])
  views = views_lib.VIEWS["distort"]
  net = models.MODELS["mlp"](num_classes=7, widths=(6,))
  held = net.init(jax.random.key(0), jnp.zeros((1, 12, 10, 1)))
  bank = np.empty((9, views.count, 1, 7), np.float32)
  source = logit_bank.Source(
      [net], [held], few, views, devices.choose("single"))
  assert [*logit_bank.build(source, bank)] == [*range(1, views.count + 1)]
  logit_bank.verify(bank, source)
  for row, index in ((3, 0), (8, 77), (0, 127)):
    seen = views.view(few.inputs[row], jnp.int32(index)).astype(jnp.float32) / 255
    said = net.apply(held, seen[None], train=False)[0].logits[0]
    np.testing.assert_allclose(bank[row, index, 0], said, rtol=1e-4, atol=1e-5)


def recoloured(pixels: np.ndarray, index: int, within) -> np.ndarray:
  """Brightness, contrast and saturation of a view, in float64; `within` ends it."""
  draws = distort.even("colour", index, 3)
  x = pixels.astype(np.float64)
  for draw, mean in zip(draws, (
      lambda x: 0.0, np.mean, lambda x: x.mean(axis=-1, keepdims=True))):
    factor = 1 + 0.42 * draw
    x = factor * x + (1 - factor) * mean(x)
  return np.clip(x, *within)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_strong_view_is_colours_then_a_turn_and_a_shear(dtype):
  pixels = image(32, 32, 3).astype(dtype)
  within = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
  found = views_of("crop4_flip_strong", pixels, SOME)
  assert found.dtype == dtype
  for view, index in zip(found, SOME):
    matrix, shift = distort.affinity(distort.STRONG, index)
    assert abs(np.linalg.det(matrix) - 1) < 1e-12 and not shift.any()
    where = np.stack(np.meshgrid(*[np.arange(32) - 15.5] * 2, indexing="ij"), -1)
    expected = read(recoloured(pixels, index, within), 15.5 + where @ matrix.T)
    gap = np.abs(view - expected)
    assert gap.max() < 4 and gap.mean() < 1, index
    assert np.abs(view - read(pixels.astype(float), 15.5 + where @ matrix.T)
                  ).mean() > 3, index


def test_a_strong_view_is_then_cropped_and_flipped():
  pixels = image(32, 32, 3)
  strong = views_of("crop4_flip_strong", pixels, SOME)
  for change, view in zip(SOME, strong):
    crops = views_of("crop4_flip", view, range(162))
    both = views_of("crop4_flip_strong", pixels,
                    change + distort.COUNT * np.arange(162))
    np.testing.assert_array_equal(both, crops)
