"""Lanes equal single runs, whatever the rectangle, and never meet."""

import functools

from conftest import blobs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import a_teacher, distance, hyper, learner

from kd_jax import teachers
from kd_jax.core import randomness
from kd_jax.data import views as views_lib
from kd_jax.data.preprocess import Scaling
from kd_jax.training import fit, lanes, step
from kd_jax.training import segment as segment_lib

SHIFT = views_lib.VIEWS["shift2"]
BATCH = 32  # 150 examples: five steps an epoch
CUTS = (5, 3, 2)


def compiled(learns, data, shape, hparams, views=SHIFT):
  predict = segment_lib.make_predict(learns.model, views_lib.VIEWS["none"])
  return lanes.compile_lanes(
      learns, views, BATCH, shape, data, hparams,
      functools.partial(fit.evaluate, predict))


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


@pytest.fixture
def taught(key, device_data):
  image = device_data.inputs[:1].astype(jnp.float32)
  return learner(teacher=a_teacher(key, image))


SHAPES = [(1, 1, 1), (1, 1, 3), (1, 3, 1), (1, 2, 3), (2, 1, 2), (4, 2, 2)]


@pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_lane_is_the_single_run(shape, taught, device_data):
  shape = lanes.Shape(*shape)
  rates = {"rates": {"input": 0.1, "hidden": 0.3}, "max_norm": 2.0}
  values = points(shape.size, **rates)
  _, state, told = run(taught, device_data, shape, values)
  alone = singles(taught, device_data)
  for number, hparams in enumerate(values):
    single, says = alone(number // shape.points, hparams)
    own = lane(state.student.params, shape, number)
    assert distance(own, single.student.params) < 1e-5
    for name in says:
      mine = lane(told[name], shape, number)
      assert mine.compute() == pytest.approx(says[name].compute(), rel=1e-4)


def test_a_single_lane_is_the_single_run_to_the_bit(taught, device_data):
  shape = lanes.Shape(1, 1, 1)
  _, state, _ = run(taught, device_data, shape, points(1))
  single, _ = singles(taught, device_data)(0, points(1)[0])
  for a, b in zip(jax.tree.leaves(lane(state.student, shape, 0)),
                  jax.tree.leaves(single.student), strict=True):
    np.testing.assert_array_equal(a, b)


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


def test_points_of_a_seed_start_alike_and_seeds_do_not(taught, device_data):
  shape = lanes.Shape(1, 2, 2)
  values = points(4)
  program = compiled(taught, device_data, shape, values[0])
  state = program.init(
      jnp.arange(2, dtype=jnp.uint32), lanes.stack(values, shape))
  kernel = state.student.params["Dense_0"]["kernel"]
  np.testing.assert_array_equal(kernel[0, 0], kernel[0, 1])
  assert not np.array_equal(kernel[0, 0], kernel[1, 0])


def test_the_order_is_drawn_once_a_seed(taught, device_data):
  """Batches of all points are one gather: nothing of them has a points' axis."""
  shape = lanes.Shape(1, 1, 3)
  _, state, _ = run(taught, device_data, shape, points(3))
  hparams = lanes.stack(points(3), shape)
  once = segment_lib.make_segment(taught, SHIFT, BATCH)
  advance = lanes.mapped_segment(once, shape)
  text = str(jax.make_jaxpr(advance)(
      state, (device_data, taught.teacher.arrays), hparams,
      jnp.zeros((1,), jnp.uint32), 5))
  assert "u8[32,12,10,1]" in text
  assert "u8[3,32,12,10,1]" not in text and "i32[3,150]" not in text


def test_a_broken_lane_harms_no_other(taught, device_data):
  shape = lanes.Shape(1, 1, 3)
  values = points(3)
  values[1] = values[1].replace(learning_rate=jnp.float32(jnp.nan))
  _, state, _ = run(taught, device_data, shape, values)
  np.testing.assert_array_equal(lanes.finite(state), [[True, False, True]])
  alone = singles(taught, device_data)
  for number in (0, 2):
    single, _ = alone(0, values[number])
    own = lane(state.student.params, shape, number)
    assert distance(own, single.student.params) < 1e-5


def test_evaluation_is_that_of_each_net(taught, device_data):
  shape = lanes.Shape(1, 2, 2)
  program, state, _ = run(taught, device_data, shape, points(4))
  split = fit.Split(device_data, jnp.zeros((150, 7)))
  totals, wrong = program.evaluate(state, split)
  assert wrong.shape == (2, 2, 150)
  predict = segment_lib.make_predict(taught.model, views_lib.VIEWS["none"])
  for number in range(4):
    own, missed = fit.evaluate(
        predict, lane(state.student, shape, number), split)
    assert int(lane(totals["errors"].total, shape, number)) == int(
        own["errors"].total)
    np.testing.assert_array_equal(lane(wrong, shape, number), missed)


def test_a_program_is_compiled_once_and_refuses_other_shapes(
    taught, device_data):
  shape = lanes.Shape(1, 1, 2)
  program, state, _ = run(taught, device_data, shape, points(2))
  assert program.bytes > 0
  other = lanes.stack(points(3), lanes.Shape(1, 1, 3))
  with pytest.raises(TypeError):
    program.segment(state, other, jnp.zeros((1,), jnp.uint32), 1)


def test_a_bank_serves_all_lanes(key, device_data):
  bank = jax.random.normal(key, (150, 25, 1, 7)) * 3
  learns = learner(teacher=teachers.banked(bank))
  shape = lanes.Shape(1, 1, 2)
  _, state, _ = run(learns, device_data, shape, points(2))
  single, _ = singles(learns, device_data)(0, points(2)[1])
  assert distance(lane(state.student.params, shape, 1),
                  single.student.params) < 1e-5


def test_batch_norm_and_method_state_are_lanes_too(key, device_data):
  image = device_data.inputs[:1].astype(jnp.float32)
  learns = learner(widths=(4, 8), name="cnn", teacher=a_teacher(key, image))
  shape = lanes.Shape(1, 2, 2)
  values = points(4)
  _, state, _ = run(learns, device_data, shape, values)
  single, _ = singles(learns, device_data)(1, values[3])
  own = lane(state.student, shape, 3)
  assert distance(own, single.student) < 1e-3  # ReLU and sums of squares
