"""Random numbers depend on names and counters, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import methods, models
from kd_jax.core import randomness, types
from kd_jax.data import views as views_lib
from kd_jax.data.preprocess import Scaling
from kd_jax.methods import terms as terms_lib
from kd_jax.training import optimizers
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib

_RAISE = "the numbers changed: if that is meant, raise kd_jax.NUMERICS"


def _bits(key: jax.Array) -> tuple[int, ...]:
  return tuple(jax.random.key_data(key).tolist())


def test_streams_differ_by_name_by_counter_and_by_the_order_of_counters(key):
  streams = [
      randomness.stream(key, "order"), randomness.stream(key, "views"),
      randomness.stream(key, "order", 0), randomness.stream(key, "order", 1),
      randomness.stream(key, "views", 1), randomness.stream(key, "order", 1, 2),
      randomness.stream(key, "order", 2, 1),
      randomness.stream(key, "order", 1, 2, 0),
      randomness.stream(jax.random.key(1), "order")]
  assert len({_bits(stream) for stream in streams} | {_bits(key)}) == 10


def test_a_stream_is_a_function_of_its_name_and_counters(key):
  again = randomness.stream(jax.random.key(0), "dropout", 7)
  assert _bits(randomness.stream(key, "dropout", 7)) == _bits(again)


def test_a_traced_counter_gives_the_stream_of_the_integer(key):
  traced = jax.jit(lambda key, step: randomness.stream(key, "dropout", step, 3))
  assert _bits(traced(key, jnp.int32(9))) == _bits(
      randomness.stream(key, "dropout", 9, 3))


def test_the_numbers_are_those_of_version_1(key):
  assert _bits(randomness.stream(key, "order", 3)) == (
      3275723437, 3039705163), _RAISE
  order = randomness.epoch_order(key, 0, jnp.arange(100, dtype=jnp.int32))
  assert order[:5].tolist() == [79, 99, 92, 52, 0], _RAISE
  views = randomness.epoch_views(key, 0, num_examples=100, num_views=25)
  assert views[:5].tolist() == [0, 13, 17, 4, 22], _RAISE


def test_roles_draw_apart_and_students_by_their_seed_alone():
  drawn = [randomness.of_role(seed, role)
           for seed in range(100) for role in range(5)]
  assert len(set(drawn)) == 500 and drawn[::5] == list(range(100))
  assert all(0 <= seed < 2**32 for seed in drawn)
  assert randomness.of_role(0, 1) == 1383757381, _RAISE


@pytest.mark.parametrize("ids", [range(97), [5, 3, 1000, 8]])
def test_an_epoch_visits_every_id_once(key, ids):
  ids = jnp.asarray(list(ids), jnp.int32)
  order = randomness.epoch_order(key, 0, ids)
  assert order.dtype == jnp.int32
  assert sorted(order.tolist()) == sorted(ids.tolist())


def test_orders_differ_by_epoch_and_by_key(key):
  ids = jnp.arange(97, dtype=jnp.int32)
  keys = [(key, 0), (key, 1), (key, 2), (jax.random.key(1), 0)]
  orders = {tuple(randomness.epoch_order(k, e, ids).tolist()) for k, e in keys}
  assert len(orders) == 4
  assert tuple(ids.tolist()) not in orders


def test_the_order_is_uniform(key):
  # The first of 4 ids over 2000 epochs: 500 each, deviation sqrt(2000*3/16)=19.
  first = jax.vmap(lambda epoch: randomness.epoch_order(
      key, epoch, jnp.arange(4, dtype=jnp.int32))[0])(jnp.arange(2000))
  counts = np.bincount(first, minlength=4)
  assert np.abs(counts - 500).max() < 4 * 19.4


@pytest.mark.parametrize("num_views", [1, 2, 25, 162])
def test_all_views_occur_alike(key, num_views):
  number = 400 * num_views
  views = randomness.epoch_views(
      key, 3, num_examples=number, num_views=num_views)
  assert views.shape == (number,)
  assert views.dtype == jnp.int32
  counts = np.bincount(views, minlength=num_views)
  assert len(counts) == num_views
  # 400 of each, deviation at most sqrt(400) = 20.
  assert np.abs(counts - 400).max() < 5 * 20


def test_views_differ_by_epoch_and_are_not_the_order(key):
  draw = lambda epoch: randomness.epoch_views(
      key, epoch, num_examples=100, num_views=25)
  assert (draw(0) != draw(1)).any()
  np.testing.assert_array_equal(draw(1), draw(1))


def test_order_and_views_are_the_same_compiled(key):
  ids = jnp.arange(50, dtype=jnp.int32)

  @jax.jit
  def both(key, epoch):
    return (randomness.epoch_order(key, epoch, ids),
            randomness.epoch_views(key, epoch, num_examples=50, num_views=25))

  order, views = both(key, jnp.int32(2))
  np.testing.assert_array_equal(order, randomness.epoch_order(key, 2, ids))
  np.testing.assert_array_equal(
      views, randomness.epoch_views(key, 2, num_examples=50, num_views=25))


def _spied_epoch(key, batch_size: int, ids: np.ndarray, epoch: int) -> float:
  """The sum over an epoch of a hash of (id, view), as a method sees them."""

  def terms(params, student, teacher, batch, hparams):
    del params, student, teacher, hparams
    spied = jnp.sin(1.0 + batch.id.astype(jnp.float32)) * (
        batch.view.astype(jnp.float32))
    return {"spied": terms_lib.Term(0.0, spied)}

  learner = step_lib.Learner(
      models.MODELS["mlp"](num_classes=2, widths=()),
      methods.Method("", methods.nothing, terms, needs_teacher=False),
      optimizers.OptimizerSpec(
          "sgd", optimizers.schedule("constant", total_steps=99)))
  hparams = jax.tree.map(jnp.float32, types.Hparams())
  data = segment_lib.DeviceData(
      jnp.zeros((40, 4, 4, 1), jnp.uint8), jnp.zeros((40,), jnp.int32),
      jnp.asarray(ids, jnp.int32), Scaling(jnp.ones(1), jnp.zeros(1)))
  state = step_lib.init(learner, key, jnp.zeros((1, 4, 4, 1)), hparams)
  length = segment_lib.steps_per_epoch(len(ids), batch_size)
  state = state.replace(step=jnp.int32(epoch * length))
  segment = segment_lib.compiled_segment(
      learner, views_lib.VIEWS["shift2"], batch_size)
  _, told = segment(state, data, (), hparams, key, length)
  assert told["spied"].count == len(ids)
  return float(told["spied"].total)


def test_the_view_of_an_example_belongs_to_its_id_not_to_its_batch(key):
  # 13 of the 40 examples are trained on; batches of 5 and of 8 are ragged.
  ids = np.arange(1, 40, 3)
  views = randomness.epoch_views(
      randomness.stream(key, "data"), 2, num_examples=40, num_views=25)
  expected = float(np.sum(np.sin(1.0 + ids) * np.asarray(views)[ids]))
  for batch_size in (5, 8):
    spied = _spied_epoch(key, batch_size, ids, epoch=2)
    assert spied == pytest.approx(expected, rel=1e-4)
