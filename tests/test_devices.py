"""Several devices do what one does: same rows, same sums, same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import CLASSES, distance, hyper, learner

from kd_jax import teachers
from kd_jax.core import randomness
from kd_jax.core.errors import UserError
from kd_jax.data import views
from kd_jax.training import devices, fit, step
from kd_jax.training import segment as segment_lib

SHIFTS = views.VIEWS["shift2"]
DEVICES = (2, 4, 8)
WRAPPERS = [(kind, most) for kind in ("pmap", "sharded") for most in DEVICES]


@pytest.fixture
def bank(key):
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


def both(wrapper, learns, data, hparams, *, batch_size, segments=(3,)):
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


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=str)
def test_fifty_steps_of_any_devices_are_those_of_one(
    wrapper, bank, device_data):
  # 50 a batch is no multiple of 4 or 8; float64, so that rounding cannot hide
  # a gradient that is off by a device.
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    wide = lambda tree: jax.tree.map(
        lambda x: x.astype("f8") if x.dtype == np.float32 else x, tree)
    learns = learner((16,), teacher=bank)
    init = learns.model.init
    learns = learns._replace(model=learns.model._replace(
        init=lambda key, image: wide(init(key, image))))
    hparams = wide(hyper(learning_rate=0.1, momentum=0.9))
    segments = (3,) * 16 + (2,)
    (spread, told), (alone, single) = both(
        wrapper, learns, device_data, hparams, batch_size=50,
        segments=segments)
    assert jax.tree.leaves(spread.student.params)[0].dtype == np.float64
    assert int(spread.step) == 50
    assert distance(spread.student.params, alone.student.params) < 1e-12
    counts_agree(told, single)


@pytest.mark.parametrize(("name", "batch_size"), [
    pytest.param("resnet8", 5, marks=pytest.mark.slow),
    pytest.param("resnet8", 64, marks=pytest.mark.slow), ("mlp", 150)])
@pytest.mark.parametrize("wrapper", [("pmap", 8), ("sharded", 8)], ids=str)
def test_any_batch_and_batch_norm(name, wrapper, batch_size, bank, device_data):
  # Of 5 rows, three of eight devices have none; of 64, the last batch has 22.
  widths = {"mlp": (16,), "resnet8": (4, 4, 4)}[name]
  learns = learner(widths, name=name, teacher=bank)
  length = -(-150 // batch_size) if batch_size > 5 else 2
  (spread, told), (alone, single) = both(
      wrapper, learns, device_data, hyper(learning_rate=0.05),
      batch_size=batch_size, segments=(min(length, 2),))
  assert distance(spread.student, alone.student) < 1e-5
  counts_agree(told, single)


@pytest.mark.parametrize("wrapper", [("pmap", 4), ("sharded", 8)], ids=str)
def test_dropout_draws_the_same_mask_on_any_devices(
    wrapper, bank, device_data):
  hparams = hyper(rates={"input": 0.2, "hidden": 0.5})
  (spread, told), (alone, single) = both(
      wrapper, learner((16,), teacher=bank), device_data, hparams,
      batch_size=50, segments=(1,))
  assert distance(spread.student.params, alone.student.params) < 1e-5
  counts_agree(told, single)


def test_a_batch_is_padded_with_masked_rows_at_its_end(device_data, key):
  order, mask, _ = segment_lib._epoch(
      device_data, SHIFTS, 50, 3, randomness.stream(key, "data"), 1)
  padded = devices._padded(order, 8)
  assert padded.shape == (3, 56)
  np.testing.assert_array_equal(padded[:, :50], order)
  mask = devices._padded(mask, 8)
  assert int(mask.sum()) == 150 and not mask[:, 50:].any()


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=str)
def test_the_same_parameters_make_exactly_the_same_errors(
    wrapper, device_data, key):
  kind, most = wrapper
  learns = learner((16,), method="hard")
  held = learns.model.init(
      key, device_data.preprocess(device_data.inputs[:1]))
  none = views.VIEWS["none"]
  found = []
  for where in (devices.choose(kind, most=most), devices.choose("single")):
    predict = devices.make_predict(where, learns.model, none)
    split = fit.Split(devices.copies(where, device_data))
    held = devices.copies(where, held)
    totals, wrong = fit.evaluate(predict, held, split)
    found.append((int(totals["errors"].total), np.asarray(wrong),
                  np.asarray(predict(held, split.data, jnp.int32(0)))))
  assert found[0][0] == found[1][0] > 0
  np.testing.assert_array_equal(found[0][1], found[1][1])
  np.testing.assert_array_equal(found[0][2], found[1][2])


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
