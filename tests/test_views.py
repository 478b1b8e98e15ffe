"""Views against NumPy: slices of an image padded with zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.data import views as views_lib

NAMES = sorted(views_lib.VIEWS)


def _image(height=9, width=11, channels=2, seed=0) -> np.ndarray:
  """No pixel is 0 and no two rows, columns or channels are alike."""
  draw = np.random.default_rng(seed)
  return draw.integers(1, 256, (height, width, channels), np.uint8)


def _rolled(image: np.ndarray, down: int, right: int) -> np.ndarray:
  """The image moved down and right, zeros where it came from."""
  moved = np.roll(image, (down, right), axis=(0, 1))
  height, width, _ = image.shape
  rows, columns = np.arange(height) - down, np.arange(width) - right
  moved[(rows < 0) | (rows >= height)] = 0
  moved[:, (columns < 0) | (columns >= width)] = 0
  return moved


def _cropped(image: np.ndarray, top: int, left: int, flip: bool) -> np.ndarray:
  """Pad 4 zeros, crop at (top, left), flip: the standard of CIFAR."""
  padded = np.zeros(
      (image.shape[0] + 8, image.shape[1] + 8, image.shape[2]), image.dtype)
  padded[4:-4, 4:-4] = image
  crop = padded[top:top + image.shape[0], left:left + image.shape[1]]
  return crop[:, ::-1] if flip else crop


def _all_views(name: str, image: np.ndarray) -> np.ndarray:
  views = views_lib.VIEWS[name]
  return np.asarray(jax.jit(jax.vmap(views.view, (None, 0)))(
      jnp.asarray(image), jnp.arange(views.count)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_view_0_is_the_image(name, dtype):
  image = _image().astype(dtype)
  view = views_lib.VIEWS[name].view(jnp.asarray(image), jnp.int32(0))
  assert view.dtype == dtype
  np.testing.assert_array_equal(view, image)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_keeps_shape_and_uint8(name):
  views = _all_views(name, _image(5, 6, 3))
  assert views.shape == (views_lib.VIEWS[name].count, 5, 6, 3)
  assert views.dtype == np.uint8


def test_shift2_has_25_views_one_for_every_shift_by_up_to_2_pixels():
  image = _image()
  views = _all_views("shift2", image)
  assert len({view.tobytes() for view in views}) == views_lib.VIEWS[
      "shift2"].count == 25
  shifts = {_rolled(image, down, right).tobytes()
            for down in range(-2, 3) for right in range(-2, 3)}
  assert {view.tobytes() for view in views} == shifts


@pytest.mark.parametrize("index", range(25))
def test_shift2_walks_the_shifts_row_by_row_from_none(index):
  # 12 is the middle of the 5 x 5 offsets; a lower crop moves the image up.
  offset = (index + 12) % 25
  image = _image()
  view = views_lib.VIEWS["shift2"].view(jnp.asarray(image), jnp.int32(index))
  expected = _rolled(image, 2 - offset // 5, 2 - offset % 5)
  np.testing.assert_array_equal(view, expected)


def test_crop4_flip_is_pad_crop_flip_in_162_views():
  image = _image()
  views = _all_views("crop4_flip", image)
  assert len({view.tobytes() for view in views}) == views_lib.VIEWS[
      "crop4_flip"].count == 162
  for index, view in enumerate(views):
    # 40 is the middle of the 9 x 9 offsets; the upper half is flipped.
    top, left = divmod((index % 81 + 40) % 81, 9)
    np.testing.assert_array_equal(
        view, _cropped(image, top, left, flip=index >= 81))


def test_cutout_blackens_one_of_16_squares_after_the_crop():
  image = _image(32, 32, 3)
  views = views_lib.VIEWS["crop4_flip_cutout"]
  assert views.count == 17 * 162
  crops = _all_views("crop4_flip", image)
  for index, view in enumerate(_all_views("crop4_flip_cutout", image)):
    square, crop = divmod(index, 162)
    expected = crops[crop].copy()
    if square:
      row, column = divmod(square - 1, 4)
      top, left = 8 * row - 4, 8 * column - 4  # Centres are 4, 12, 20 and 28.
      expected[max(top, 0):top + 16, max(left, 0):left + 16] = 0
    np.testing.assert_array_equal(view, expected)


def test_a_square_is_as_large_on_average_as_that_of_the_paper():
  """Its centre there is any pixel, so a side of it is 14 pixels on average."""
  views = views_lib.VIEWS["crop4_flip_cutout"]
  image = jnp.ones((32, 32, 1), jnp.uint8)
  squares = jax.vmap(views.view, (None, 0))(image, 162 * jnp.arange(1, 17))
  centres = np.arange(32)
  side = np.mean(np.minimum(centres + 8, 32) - np.maximum(centres - 8, 0))
  assert (squares == 0).sum(axis=(1, 2, 3)).mean() == side**2 == 14**2


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_views_is_the_views_one_by_one(name):
  views = views_lib.VIEWS[name]
  images = jnp.stack([_image(seed=seed) for seed in range(12)])
  indices = np.random.default_rng(1).integers(0, views.count, 12, np.int32)
  batch = views_lib.batch_views(views, images, jnp.asarray(indices))
  loop = [views.view(image, jnp.int32(index))
          for image, index in zip(images, indices)]
  assert batch.dtype == jnp.uint8
  np.testing.assert_array_equal(batch, np.stack(loop))


@pytest.mark.parametrize("name", ["shift2", "crop4_flip"])
def test_indices_out_of_step_with_the_images_change_every_row(name):
  # So that the comparison above cannot pass with indices of other rows.
  views = views_lib.VIEWS[name]
  images = jnp.stack([_image(seed=seed) for seed in range(12)])
  indices = jnp.arange(12) * 2
  batch = views_lib.batch_views(views, images, indices)
  for wrong in (jnp.roll(indices, 1), indices + 1):
    other = views_lib.batch_views(views, images, wrong)
    assert (batch != other).any(axis=(1, 2, 3)).all()


def test_a_batch_without_augmentation_is_the_images_themselves():
  images = jnp.stack([_image(seed=seed) for seed in range(3)])
  same = views_lib.batch_views(views_lib.VIEWS["none"], images, jnp.arange(3))
  np.testing.assert_array_equal(same, images)
