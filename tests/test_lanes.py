"""Lanes equal single runs, whatever the rectangle, and never meet."""

import functools
import os

from conftest import blobs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import a_teacher, distance, hyper, learner

from kd_jax import models, teachers
from kd_jax.core import randomness
from kd_jax.data import views as views_lib
from kd_jax.data.preprocess import Scaling
from kd_jax.training import fit, lanes, step
from kd_jax.training import segment as segment_lib

SHIFT = views_lib.VIEWS["shift2"]
BATCH = 32  # 150 examples: five steps an epoch
CUTS = (5, 3, 2)


def compiled(learns, data, shape, hparams, views=SHIFT):
  return lanes.compile_lanes(learns, views, BATCH, shape, data, hparams)


def run(learns, data, shape, points, views=SHIFT):
  """All lanes, lane k with the k-th hparams and the seed of its row."""
  program = compiled(learns, data, shape, points[0], views)
  hparams = lanes.stack(points, shape)
  seeds = jnp.arange(shape.rows, dtype=jnp.uint32)
  state = program.init(seeds, hparams)
  for length in CUTS:
    state, told = program.segment(state, hparams, seeds, length)
  return program, state, told


def singles(learns, data, views=SHIFT):
  """The single run of a seed and values, compiled once."""
  image = jnp.zeros((1,) + data.inputs.shape[1:], jnp.float32)
  start = jax.jit(functools.partial(step.init, learns))
  segment = segment_lib.compiled_segment(learns, views, BATCH)
  arrays = learns.teacher.arrays if learns.teacher else ()

  def alone(seed, hparams):
    key = jax.random.key(seed)
    state = start(randomness.stream(key, "init"), image, hparams)
    for length in CUTS:
      state, told = segment(state, data, arrays, hparams, key, length)
    return state, told

  return alone


def lane(tree, shape, number):
  row, point = divmod(number, shape.points)
  return jax.tree.map(lambda x: x[row, point], tree)


def points(number, **more):
  return [hyper(temperature=1.0 + k, learning_rate=0.1 + 0.01 * k, momentum=0.9,
                soft_weight=0.1 * (k % 10), **more) for k in range(number)]


@pytest.fixture(scope="module")
def data():
  image, label = blobs(150)
  return segment_lib.DeviceData(
      jnp.asarray(image), jnp.asarray(label), jnp.arange(150, dtype=jnp.int32),
      Scaling(jnp.full((1,), 1 / 255, "f4"), jnp.zeros((1,), "f4")))


@pytest.fixture(scope="module")
def taught(data):
  image = data.inputs[:1].astype(jnp.float32)
  return learner(teacher=a_teacher(jax.random.key(0), image))


@pytest.fixture(scope="module")
def dropped(taught, data):
  """The single run with dropout and max-norm."""
  return singles(taught, data)


def test_lanes_take_their_batches_in_parts(taught, data):
  learns, shape = taught._replace(accumulate=3), lanes.Shape(1, 2, 2)
  values = points(4)
  _, state, told = run(learns, data, shape, values)
  single, says = singles(taught, data)(1, values[3])  # In one part.
  own = lane(state.student, shape, 3)
  assert distance(own.params, single.student.params) < 1e-5
  assert float(lane(told["soft"].total, shape, 3)) == pytest.approx(
      float(says["soft"].total), rel=1e-4)


@pytest.mark.slow
def test_lanes_compute_blocks_again(taught, data):
  net = lambda remat: models.MODELS["resnet8"](
      num_classes=7, widths=(2, 2, 3), remat=remat)
  shape, values = lanes.Shape(1, 2, 2), points(4)
  _, state, _ = run(taught._replace(model=net(True)), data, shape, values)
  single, _ = singles(taught._replace(model=net(False)), data)(1, values[3])
  own = lane(state.student, shape, 3)
  assert distance(own.params, single.student.params) < 1e-4
  assert distance(own.state, single.student.state) < 1e-4


@pytest.fixture(scope="module")
def square(taught, data):
  """Two points of two seeds, trained."""
  shape = lanes.Shape(1, 2, 2)
  return shape, *run(taught, data, shape, points(4))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 3), pytest.param((2, 1, 2), marks=pytest.mark.slow),
              (2, 2, 1)],
    ids=lambda shape: "x".join(map(str, shape)))
def test_every_lane_is_the_single_run(shape, taught, data, dropped):
  shape = lanes.Shape(*shape)
  values = points(
      shape.size, rates={"input": 0.1, "hidden": 0.3}, max_norm=2.0)
  _, state, told = run(taught, data, shape, values)
  for number, hparams in enumerate(values):
    single, says = dropped(number // shape.points, hparams)
    own = lane(state.student, shape, number)
    if shape.size == 1:
      jax.tree.map(np.testing.assert_array_equal, own, single.student)
    assert distance(own.params, single.student.params) < 1e-5
    for name in says:
      mine = lane(told[name], shape, number)
      assert mine.compute() == pytest.approx(says[name].compute(), rel=1e-4)


@pytest.mark.skipif(
    "level=0" in os.environ["XLA_FLAGS"],
    reason="some float32 is left, such as Adam's, which only optimised programs "
    "round alike: XLA_FLAGS= pytest")
def test_lanes_are_single_runs_in_double_precision(key):
  # Rounding aside, nothing differs: 1e-12 after ten steps.
  image, label = blobs(150)
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    data = segment_lib.DeviceData(
        jnp.asarray(image), jnp.asarray(label), jnp.arange(150, dtype=jnp.int32),
        Scaling(jnp.full((1,), 1 / 255, jnp.float32), jnp.zeros((1,), jnp.float32)))
    wide = lambda tree: jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)
    learns = learner(teacher=None, method="hard")
    init = learns.model.init
    learns = learns._replace(model=learns.model._replace(
        init=lambda key, image: wide(init(key, image))))
    values = [wide(value) for value in points(4)]
    shape = lanes.Shape(1, 2, 2)
    _, state, _ = run(learns, data, shape, values, views_lib.VIEWS["none"])
    alone = singles(learns, data, views_lib.VIEWS["none"])
    for number, hparams in enumerate(values):
      single, _ = alone(number // 2, hparams)
      own = lane(state.student.params, shape, number)
      assert jax.tree.leaves(own)[0].dtype == jnp.float64
      assert distance(own, single.student.params) < 1e-12


def test_points_of_a_seed_start_alike_and_seeds_do_not(square):
  shape, program, _, _ = square
  state = program.init(
      jnp.arange(2, dtype=jnp.uint32), lanes.stack(points(4), shape))
  kernel = state.student.params["Dense_0"]["kernel"]
  np.testing.assert_array_equal(kernel[0, 0], kernel[0, 1])
  assert not np.array_equal(kernel[0, 0], kernel[1, 0])


def test_the_order_is_drawn_once_a_seed(taught, data, key):
  """Batches of all points are one gather: nothing of them has a points' axis."""
  shape, values = lanes.Shape(1, 1, 3), points(3)
  single = segment_lib.make_init(taught, data.inputs)(key, values[0])
  state = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (1, 3, *x.shape)), single).replace(
          step=single.step)
  once = segment_lib.make_segment(taught, SHIFT, BATCH)
  advance = lanes.mapped_segment(once, shape)
  text = str(jax.make_jaxpr(advance)(
      state, (data, taught.teacher.arrays), lanes.stack(values, shape),
      jnp.zeros((1,), jnp.uint32), 5))
  assert "u8[32,12,10,1]" in text
  assert "u8[3,32,12,10,1]" not in text and "i32[3,150]" not in text


def test_a_broken_lane_of_a_bank_harms_no_other(data, key):
  learns = learner(teacher=teachers.banked(
      jax.random.normal(key, (150, 25, 1, 7)) * 3))
  shape = lanes.Shape(1, 1, 3)
  values = points(3)
  values[1] = values[1].replace(learning_rate=jnp.float32(jnp.nan))
  _, state, _ = run(learns, data, shape, values)
  np.testing.assert_array_equal(lanes.finite(state), [[True, False, True]])
  alone = singles(learns, data)
  for number in (0, 2):
    single, _ = alone(0, values[number])
    own = lane(state.student.params, shape, number)
    assert distance(own, single.student.params) < 1e-5


def test_evaluation_is_that_of_each_net(taught, data, square):
  shape, program, state, _ = square
  split = fit.Split(data, jnp.zeros((150, 7)))
  totals, wrong = program.evaluate(state, split)
  assert wrong.shape == (2, 2, 150)
  predict = segment_lib.make_predict(taught.model, views_lib.VIEWS["none"])
  for number in range(4):
    own, missed = fit.evaluate(
        predict, lane(state.student, shape, number), split)
    assert int(lane(totals["errors"].total, shape, number)) == int(
        own["errors"].total)
    np.testing.assert_array_equal(lane(wrong, shape, number), missed)


def test_a_program_is_compiled_once_and_refuses_other_shapes(square):
  _, program, state, _ = square
  assert program.bytes > 0
  other = lanes.stack(points(6), lanes.Shape(1, 2, 3))
  with pytest.raises(TypeError):
    program.segment(state, other, jnp.zeros((2,), jnp.uint32), 1)


def test_batch_norm_is_a_lane_too(data, key):
  image = data.inputs[:1].astype(jnp.float32)
  learns = learner((8,), name="normed", teacher=a_teacher(key, image))
  shape, values = lanes.Shape(1, 2, 2), points(4)
  _, state, _ = run(learns, data, shape, values)
  single, _ = singles(learns, data)(1, values[3])
  assert distance(lane(state.student, shape, 3), single.student) < 1e-5
