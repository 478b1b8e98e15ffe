"""Corrupted images, by hand and by identities, and errors counted on them."""

import json
import math

from conftest import ROOT
import jax
import numpy as np
import pytest

from kd_jax import data, main
from kd_jax.checkpoint import load_parameters
from kd_jax.data import corruptions, distort


@pytest.fixture
def images():
  draw = np.random.default_rng(0)
  return draw.integers(0, 256, (6, 28, 28, 1), np.uint8)


def test_there_are_eight_kinds_in_three_strengths_and_all_differ(images):
  assert corruptions.KINDS == (
      "rotate", "shear", "scale", "shift", "shot", "impulse", "blur", "stripes")
  made = corruptions.every(images)
  assert made.shape == (24 * 6, 28, 28, 1) and made.dtype == np.uint8
  each = made.reshape(24, *images.shape)
  assert len({part.tobytes() for part in [*each, images]}) == 25
  np.testing.assert_array_equal(
      each[3 * 4 + 2], corruptions.corrupted(images, "shot", 2))
  # A stronger one changes an image more.
  off = np.abs(each.astype(int) - images).mean((1, 2, 3, 4)).reshape(8, 3)
  assert (np.diff(off, axis=1) > 0).all(), off


def test_the_noise_of_an_image_depends_on_its_place_and_on_no_other_image(images):
  again = corruptions.every(images)
  np.testing.assert_array_equal(again, corruptions.every(images))
  few = corruptions.every(images[:2]).reshape(24, 2, 28, 28, 1)
  np.testing.assert_array_equal(few, again.reshape(24, *images.shape)[:, :2])
  alike = np.repeat(images[:1], 6, axis=0)
  for kind in corruptions.KINDS:
    made = corruptions.corrupted(alike, kind, 1)
    assert len({image.tobytes() for image in made}) == (
        6 if kind in ("shot", "impulse") else 1)


def test_shifts_by_hand(images):
  for strength in range(3):
    moved = corruptions.corrupted(images, "shift", strength)
    by = strength + 1
    np.testing.assert_array_equal(moved[:, by:, by:], images[:, :-by, :-by])
    assert not moved[:, :by].any() and not moved[:, :, :by].any()
  # Of an image of 56 pixels twice as many.
  large = images.repeat(2, 1).repeat(2, 2)
  moved = corruptions.corrupted(large, "shift", 1)
  np.testing.assert_array_equal(moved[:, 4:, 4:], large[:, :-4, :-4])


def test_maps_by_hand(images, monkeypatch):
  of = lambda kind, value, *size: (
      monkeypatch.setitem(corruptions._AFFINE, kind, (value,)),
      corruptions.corrupted(images, kind, 0))[1]
  # A quarter of a turn, clockwise.
  np.testing.assert_array_equal(
      of("rotate", 90.0), np.rot90(images, -1, axes=(1, 2)))
  for kind, nothing in (("rotate", 0.0), ("shear", 0.0), ("scale", 1.0)):
    np.testing.assert_array_equal(of(kind, nothing), images)
  # Two columns a row about 13.5: row 13 moves right by 1, and row 14 left.
  sheared = of("shear", 2.0)
  np.testing.assert_array_equal(sheared[:, 13, 1:], images[:, 13, :-1])
  np.testing.assert_array_equal(sheared[:, 14, :-1], images[:, 14, 1:])
  # Half the size: pixel p is read at 13.5 + 2 (p - 13.5) = 2p - 13.5, so between
  # two pixels in each direction, and nothing is beside the small image.
  small = of("scale", 0.5)
  x = images.astype(int)
  mean = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2])
  np.testing.assert_array_equal(
      small[:, 7:21, 7:21], (mean + 2) // 4)
  assert not small[:, :6].any() and not small[:, 22:].any()


def test_stripes_by_hand(images):
  for strength, columns in enumerate((2, 4, 6)):
    striped = corruptions.corrupted(images, "stripes", strength)
    np.testing.assert_array_equal(
        corruptions.corrupted(striped, "stripes", strength), images)
    inside = np.arange(28) % 28
    edge = (inside < columns) | (inside >= 28 - columns)
    np.testing.assert_array_equal(striped[:, :, ~edge], images[:, :, ~edge])
    np.testing.assert_array_equal(striped[:, :, edge], 255 - images[:, :, edge])


def test_a_blur_is_a_mean_of_weights_of_sum_1():
  weights = corruptions.gaussian(1.0)
  assert sum(weights) == 256 and len(weights) == 7 and weights == weights[::-1]
  # exp(-1/2) of the middle one's.
  assert weights[2] / weights[3] == pytest.approx(math.exp(-0.5), abs=0.01)
  even = np.full((2, 28, 28, 1), 201, np.uint8)
  dot = np.zeros((1, 28, 28, 1), np.uint8)
  dot[0, 14, 14] = 255
  for strength, deviation in enumerate((1.0, 1.5, 2.0)):
    np.testing.assert_array_equal(
        corruptions.corrupted(even, "blur", strength), even)
    each = corruptions.gaussian(deviation)
    reach = len(each) // 2
    wanted = np.floor(255 * np.outer(each, each) / 2**16 + 0.5)
    found = corruptions.corrupted(dot, "blur", strength)[0, ..., 0]
    around = slice(14 - reach, 15 + reach)
    np.testing.assert_array_equal(found[around, around], wanted)
    assert found.sum() == wanted.sum()


@pytest.mark.parametrize("strength", range(3))
def test_shot_noise_counts_photons(strength):
  photons = corruptions._PHOTONS[strength]
  assert not corruptions.corrupted(
      np.zeros((2, 28, 28, 1), np.uint8), "shot", strength).any()
  table = corruptions.poisson_table(photons)
  for x in (1, 60, 128, 200):
    rate = photons * x / 255
    # P(k = 0) = exp(-rate), of 256 draws.
    assert (table[x] == 0).sum() == pytest.approx(256 * math.exp(-rate), abs=1)
    counts = table[x][table[x] < 255] * photons / 255
    assert np.abs(counts - counts.round()).max() < photons / 255
    assert (np.diff(table[x].astype(int)) >= 0).all()
  # k of Poisson(1.2) is 0, 1, 2, 3 up to .3012, .6626, .8795, .9662.
  if photons == 12.0:
    x = round(255 * 0.1)  # 1.176...: exp(-1.2) is not it, so by its own rate.
    rate = 12 * x / 255
    ends = np.cumsum([math.exp(-rate) * rate**k / math.factorial(k)
                      for k in range(4)])
    below = [(table[x] <= math.floor(255 * k / 12 + 0.5)).sum() for k in range(4)]
    np.testing.assert_allclose(below, 256 * ends, atol=0.51)
  made = corruptions.corrupted(
      np.full((40, 28, 28, 1), 60, np.uint8), "shot", strength)
  if photons > 2:  # Else bright pixels end at 255.
    # Deviation of one: 255 sqrt(rate) / c.
    spread = 255 * math.sqrt(photons * 60 / 255) / photons
    assert made.mean() == pytest.approx(60, abs=4 * spread / math.sqrt(made.size)
                                        + 0.5)


@pytest.mark.parametrize(("strength", "share"), [(0, 0.05), (1, 0.1), (2, 0.2)])
def test_impulses_are_black_and_white_and_leave_the_others(strength, share):
  grey = np.full((40, 28, 28, 3), 77, np.uint8)
  made = corruptions.corrupted(grey, "impulse", strength)
  # All channels of a pixel at once.
  assert (made == made[..., :1]).all() and set(np.unique(made)) == {0, 77, 255}
  pixels = made[..., 0].size
  for value in (0, 255):
    found = (made[..., 0] == value).mean()
    deviation = math.sqrt(share / 2 / pixels)
    assert found == pytest.approx(share / 2, abs=1 / 512 + 4 * deviation)


def test_what_is_no_image_of_uint8_is_refused(images):
  for wrong in (images / np.float32(255), images[..., 0]):
    with pytest.raises(TypeError, match="uint8"):
      corruptions.corrupted(wrong, "blur", 0)


def test_one_map_is_read_by_views_and_corruptions():
  """A view's map is that of its affinity, shifted by its displacements."""
  at = distort.positions(distort.AFFINE, 9, 8)
  matrix, shift = distort.affinity(distort.AFFINE, 5)
  np.testing.assert_array_equal(at[5], distort.mapped(matrix, shift, 9, 8))
  rows, columns = np.mgrid[:9, :8]
  np.testing.assert_array_equal(at[0], 256 * np.stack([rows, columns], -1))


# ---- Errors of finished nets.

BASE = (
    "--config=configs/mnist.py:smoke", "--config.data.embedded=only",
    "--config.steps=40", "--config.teacher.steps=40",
    "--config.teacher.views=none", "--config.student.widths=(24,)",
    "--config.teacher.widths=(24,)", "--config.tensorboard=false")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)

  def go(*words, workdir="run"):
    with jax.numpy_dtype_promotion("standard"):
      code = main.run([*BASE, f"--workdir={tmp_path / workdir}", *words])
    told = capsys.readouterr()
    if code:
      return told.err
    rows = (tmp_path / workdir / "results.jsonl").read_text().splitlines()
    return {row.get("net", "student"): row
            for row in map(json.loads, rows)}, told.out
  return go


def errors_of(place):
  """Errors by a net of matrices, in NumPy."""
  params = jax.tree.map(np.asarray, load_parameters(place).params)
  found = data.load("mnist", embedded="only").test
  made = corruptions.every(found.inputs).reshape(8, 3, len(found.label), -1)
  hidden = np.maximum(made / 255.0 @ params["Dense_0"]["kernel"]
                      + params["Dense_0"]["bias"], 0)
  logits = hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
  return (logits.argmax(-1) != found.label).sum(-1)


@pytest.mark.slow
def test_a_finished_net_is_tested_with_corrupted_images(run, tmp_path):
  rows, _ = run("--config.method=hard")
  assert "corrupted_errors" not in rows["baseline"]
  trained = rows["baseline"]["seconds"]
  # The net is found again, and judged.
  rows, told = run("--config.method=hard", "--config.evaluate.corruptions=true")
  row = rows["baseline"]
  assert row["seconds"] == trained and "already trained" in told
  assert list(row["corrupted_errors"]) == list(corruptions.KINDS)
  found = np.array([*row["corrupted_errors"].values()])
  wanted = errors_of(tmp_path / "run/parameters/baseline")
  assert np.abs(found - wanted).max() <= 1  # A tie, rounded otherwise.
  assert f"rotate {found[0, 0]} {found[0, 1]}" in " ".join(told.split())
  # More than on clean digits, and more where it is stronger.
  assert found.mean() > row["test_errors"]
  assert found[:, 2].sum() > found[:, 0].sum()
  # As a lane of a sweep, to the bit.
  lane, _ = run("--config.method=hard", "--config.evaluate.corruptions=true",
                "--sweep.seed=0", "--config.sweep.lanes=1x1", workdir="lanes")
  assert lane["student"]["corrupted_errors"] == row["corrupted_errors"]


def test_what_cannot_be_corrupted_is_refused_in_a_line(run, tmp_path):
  draw = np.random.default_rng(0)
  x = draw.normal(size=(60, 5)).astype(np.float32)
  np.savez(tmp_path / "table.npz", x_train=x, y_train=np.arange(60) % 3,
           x_test=x, y_test=np.arange(60) % 3)
  told = run("--config.method=hard", "--config.data.embedded=auto",
             "--config.data.name=table", f"--config.data.dir={tmp_path}",
             "--config.evaluate.corruptions=true")
  assert "config.evaluate.corruptions" in told and "Traceback" not in told
