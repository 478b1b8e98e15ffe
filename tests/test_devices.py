"""Several devices do what one does: same rows, same sums, same parameters."""

import functools

from conftest import blobs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import CLASSES, distance, hyper, learner

from kd_jax import models, teachers
from kd_jax.core import randomness
from kd_jax.core.errors import UserError
from kd_jax.data import views
from kd_jax.data.preprocess import Scaling
from kd_jax.training import devices, fit, step
from kd_jax.training import segment as segment_lib

SHIFTS = views.VIEWS["shift2"]
def a_bank(key):
  return teachers.banked(3 * jax.random.normal(key, (150, 25, 1, CLASSES)))


def trained(where, learns, data, hparams, *, batch_size, segments):
  """State and totals after some segments; from the same start everywhere."""
  key = jax.random.key(5)
  image = data.preprocess(data.inputs[:1])
  put = lambda tree: devices.copies(where, tree)
  begin = lambda key, image, hparams: step.init(learns, key, image, hparams)
  state = devices.make(where, begin)(key, image, hparams)
  segment = devices.compiled_segment(where, learns, SHIFTS, batch_size)
  arrays = put(learns.teacher.arrays) if learns.teacher else ()
  for length in segments:
    state, told = segment(
        state, put(data), arrays, put(hparams), key, jnp.int32(length))
  return state, told


def both(wrapper, learns, data, hparams, *, batch_size, segments):
  kind, most = wrapper
  where = devices.choose(kind, most=most)
  assert where.size == most
  run = lambda where: trained(
      where, learns, data, hparams, batch_size=batch_size, segments=segments)
  return run(where), run(devices.choose("single"))


def counts_agree(told, alone):
  assert int(told["errors"].count) == int(alone["errors"].count)
  assert int(told["errors"].total) == int(alone["errors"].total)
  assert float(told["hard"].total) == pytest.approx(
      float(alone["hard"].total), rel=1e-5)


@pytest.fixture(scope="module")
def fifty_steps():
  """Fifty steps with dropout somewhere, in float64: on one device just once.

  50 a batch is no multiple of 4 or 8, and rounding cannot hide a gradient that is
  off by a device.
  """
  wide = lambda tree: jax.tree.map(
      lambda x: x.astype("f8") if x.dtype == np.float32 else x, tree)

  @functools.cache
  def run(kind, most):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
      image, label = blobs(150)
      data = segment_lib.DeviceData(
          jnp.asarray(image), jnp.asarray(label), jnp.arange(150, dtype=jnp.int32),
          Scaling(jnp.full((1,), 1 / 255, "f4"), jnp.zeros((1,), "f4")))
      learns = learner((16,), teacher=a_bank(jax.random.key(0)))
      init = learns.model.init
      learns = learns._replace(model=learns.model._replace(
          init=lambda key, image: wide(init(key, image))))
      hparams = wide(hyper(learning_rate=0.1, momentum=0.9,
                           rates={"input": 0.2, "hidden": 0.5}))
      return trained(
          devices.choose(kind, most=most), learns, data, hparams, batch_size=50,
          segments=(3,) * 16 + (2,))

  return run


slow = lambda value: pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("wrapper", [
    slow(("pmap", 2)), ("pmap", 8), ("shard_map", 8), slow(("sharded", 4)),
    ("sharded", 8)], ids=str)
def test_fifty_steps_of_any_devices_are_those_of_one(wrapper, fifty_steps):
  spread, told = fifty_steps(*wrapper)
  alone, single = fifty_steps("single", 1)
  assert jax.tree.leaves(spread.student.params)[0].dtype == np.float64
  assert int(spread.step) == 50
  with jax.enable_x64(True):
    assert distance(spread.student.params, alone.student.params) < 1e-12
  counts_agree(told, single)


@pytest.mark.parametrize("name", [
    "normed", pytest.param("resnet8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "wrapper", [("pmap", 8), ("shard_map", 8), ("sharded", 8)], ids=str)
def test_any_batch_and_batch_norm(name, wrapper, device_data, key):
  # Of 5 rows, three of eight devices have none.
  learns = learner((4, 4, 4) if name == "resnet8" else (8,), name=name,
                   teacher=a_bank(key))
  (spread, told), (alone, single) = both(
      wrapper, learns, device_data, hyper(learning_rate=0.05), batch_size=5,
      segments=(2,))
  assert distance(spread.student, alone.student) < 1e-5
  counts_agree(told, single)


def test_a_batch_is_padded_with_masked_rows_at_its_end(device_data, key):
  order, mask, _ = segment_lib._epoch(
      device_data, SHIFTS, 50, 3, randomness.stream(key, "data"), 1)
  padded = devices._padded(order, 8)
  assert padded.shape == (3, 56)
  np.testing.assert_array_equal(padded[:, :50], order)
  mask = devices._padded(mask, 8)
  assert int(mask.sum()) == 150 and not mask[:, 50:].any()


def test_the_same_parameters_make_exactly_the_same_errors(device_data, key):
  model = learner((16,), method="hard").model
  net = model.init(key, device_data.preprocess(device_data.inputs[:1]))

  def evaluated(where):
    predict = devices.make_predict(where, model, views.VIEWS["none"])
    split = fit.Split(devices.copies(where, device_data))
    held = devices.copies(where, net)
    totals, wrong = fit.evaluate(predict, held, split)
    return (int(totals["errors"].total), np.asarray(wrong),
            np.asarray(predict(held, split.data, jnp.int32(0))))

  alone = evaluated(devices.choose("single"))
  assert alone[0] > 0
  for kind, most in (("pmap", 4), ("sharded", 8)):
    found = evaluated(devices.choose(kind, most=most))
    jax.tree.map(np.testing.assert_array_equal, found, alone)


def test_auto_takes_all_devices_there_are():
  assert devices.choose("auto").kind == "pmap"
  assert devices.choose("auto").size == 8
  assert devices.choose("auto", most=1).kind == "single"
  assert devices.choose("single").size == 1


def test_pmap_is_for_one_host(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert devices.choose("auto").kind == "sharded"
  with pytest.raises(UserError, match="several processes work as one"):
    devices.choose("pmap")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pmap", "sharded"])
def test_a_batch_is_mixed_across_devices(kind, key, device_data):
  # 50 a batch: seven rows a device, so most are mixed with one of another.
  learns = learner((8,), name="normed", method="hard")._replace(mixup=1.0)
  (spread, told), (alone, says) = both(
      (kind, 8), learns, device_data, hyper(), batch_size=50, segments=(3,))
  assert distance(spread.student.params, alone.student.params) < 1e-5
  counts_agree(told, says)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pmap", "shard_map", "sharded"])
def test_a_part_has_the_same_rows_on_any_number_of_devices(kind, key, device_data):
  # 50 a batch in 3 parts on 8 devices: BatchNorm and dropout are of a part, so they
  # would show it.
  for name, rates in (("normed", None), ("mlp", {"input": 0.2, "hidden": 0.5})):
    learns = learner((8,), name=name, method="hard")._replace(accumulate=3)
    (spread, told), (alone, says) = both(
        (kind, 8), learns, device_data, hyper(rates=rates), batch_size=50,
        segments=(3,))
    assert distance(spread.student.params, alone.student.params) < 1e-5
    counts_agree(told, says)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pmap", "shard_map", "sharded"])
def test_blocks_are_computed_again_on_several_devices(kind, key, device_data):
  net = lambda remat: models.MODELS["resnet8"](
      num_classes=CLASSES, widths=(2, 2, 3), remat=remat)
  plain = learner((8,), method="hard")
  train = lambda where, remat: trained(
      where, plain._replace(model=net(remat)), device_data,
      hyper(learning_rate=0.1), batch_size=50, segments=(3,))
  alone, says = train(devices.choose("single"), False)
  spread, told = train(devices.choose(kind, most=8), True)
  assert distance(spread.student.params, alone.student.params) < 1e-4
  assert distance(spread.student.state, alone.student.state) < 1e-4
  counts_agree(told, says)
