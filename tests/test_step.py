"""The step: its gradient, its mask, its modes, and its metrics."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses, methods, teachers
from kd_jax.core import types
from kd_jax.data import views
from kd_jax.methods import terms
from kd_jax.models import MODELS, linen_model
from kd_jax.models.linen import BatchNorm
from kd_jax.training import devices, optimizers, segment
from kd_jax.training import step as step_lib

CLASSES = 7
NONE = views.VIEWS["none"]


class Normed(nn.Module):
  """Running state at the price of an MLP, and no kinks: tanh after BatchNorm."""

  num_classes: int
  widths: Sequence[int]

  @nn.compact
  def __call__(self, image, *, train, mask=None, axis_name=None):
    x = image.reshape((len(image), -1))
    for width in self.widths:
      x = BatchNorm()(nn.Dense(width)(x), train=train, mask=mask,
                      axis_name=axis_name)
      x = jnp.tanh(x)
    return nn.Dense(self.num_classes)(x)


def a_model(name, widths) -> types.Model:
  if name == "normed":
    return linen_model(Normed(CLASSES, widths))
  return MODELS[name](num_classes=CLASSES, widths=widths)


def hyper(**changes) -> types.Hparams:
  values = {"temperature": 3.0, "hard_weight": 0.3, "soft_weight": 0.7,
            "learning_rate": 0.5, "momentum": 0.0} | changes
  return jax.tree.map(jnp.float32, types.Hparams(**values))


def learner(widths=(16,), *, method="kd", name="mlp", teacher=None, **optimizer):
  constant = optimizers.schedule("constant", total_steps=100)
  options = {"name": "sgd", "schedule": constant} | optimizer
  return step_lib.Learner(
      a_model(name, widths), methods.METHODS[method],
      optimizers.OptimizerSpec(**options), teacher)


def a_teacher(key, image, name="mlp", widths=(24,)):
  model = a_model(name, widths)
  return teachers.live([model], [model.init(key, image)])


def a_batch(data, number=32, valid=32):
  ids = jnp.arange(number, dtype=jnp.int32)
  return segment.take(data, NONE, ids, ids * 0, ids < valid)


def a_step(learner, key, batch, hparams):
  state = step_lib.init(learner, key, batch.inputs, hparams)
  arrays = learner.teacher.arrays if learner.teacher else ()
  after, told = jax.jit(step_lib.make_step(learner))(
      state, batch, arrays, hparams, key)
  return state, after, told


def distance(a, b) -> float:
  """||a - b|| / ||b|| over whole trees."""
  norm = lambda t: np.sqrt(sum(float(jnp.sum(jnp.square(x)))
                               for x in jax.tree.leaves(t)))
  return norm(jax.tree.map(jnp.subtract, a, b)) / norm(b)


def test_a_step_is_gradient_descent_on_the_papers_loss(key, device_data):
  # A linear model, so that the gradient can be written down:
  #   dL/dz = hard (q1 - y) + soft T (qT - pT),  dL/dW = x' dL/dz / B.
  batch = a_batch(device_data)
  teacher = a_teacher(key, batch.inputs)
  learns = learner(widths=(), teacher=teacher)
  before, after, _ = a_step(learns, key, batch, hyper())

  softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  x = np.asarray(batch.inputs, np.float64).reshape(32, -1)
  w = np.asarray(before.student.params["Dense_0"]["kernel"], np.float64)
  z = x @ w
  v = np.asarray(teacher.members(teacher.arrays, batch).logits[0], np.float64)
  y = np.eye(CLASSES)[np.asarray(batch.label)]
  dz = 0.3 * (softmax(z) - y) + 0.7 * 3 * (softmax(z / 3) - softmax(v / 3))
  expected = w - 0.5 * x.T @ dz / 32
  got = after.student.params["Dense_0"]["kernel"]
  np.testing.assert_allclose(got, expected, atol=2e-6)


def test_a_step_on_mixed_inputs_is_on_the_mixture_of_both_labels(
    key, device_data):
  # Zhang et al. (2018): dL/dz = hard (q1 - y_mixed) + soft T (qT - pT), where
  # student and teacher are asked for the same mixture.
  batch = a_batch(device_data)
  other = jax.tree.map(lambda x: jnp.roll(x, 5, axis=0), batch)
  share = 0.3
  mixed = segment.mixed(batch, other, jnp.float32(share))
  teacher = a_teacher(key, batch.inputs)
  learns = learner(widths=(), teacher=teacher)
  before, after, told = a_step(learns, key, mixed, hyper())

  blend = lambda first, second: (1 - share) * first + share * second
  inputs = blend(batch.inputs, other.inputs)
  softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  x = np.asarray(inputs, np.float64).reshape(32, -1)
  w = np.asarray(before.student.params["Dense_0"]["kernel"], np.float64)
  z = x @ w
  v = np.asarray(teacher.members(
      teacher.arrays, batch._replace(inputs=inputs)).logits[0], np.float64)
  y = blend(*(np.eye(CLASSES)[np.asarray(each.label)] for each in (batch, other)))
  dz = 0.3 * (softmax(z) - y) + 0.7 * 3 * (softmax(z / 3) - softmax(v / 3))
  got = after.student.params["Dense_0"]["kernel"]
  np.testing.assert_allclose(got, w - 0.5 * x.T @ dz / 32, atol=2e-6)
  hard = -(y * np.log(softmax(z))).sum(-1).mean()
  assert told["hard"].compute() == pytest.approx(hard, rel=1e-5)
  assert (np.asarray(y).argmax(-1) == np.asarray(mixed.label)).all()


def test_padding_takes_no_part(key, device_data):
  # 20 valid rows of 32 must teach what a batch of just those 20 teaches.
  whole, short = a_batch(device_data, 32, valid=20), a_batch(device_data, 20, 20)
  garbage = jnp.where(whole.mask[:, None, None, None], whole.inputs, 1e3)
  learns = learner(teacher=a_teacher(key, whole.inputs))
  _, padded, told = a_step(
      learns, key, whole._replace(inputs=garbage), hyper())
  _, sliced, told_short = a_step(learns, key, short, hyper())
  assert distance(padded.student.params, sliced.student.params) < 1e-6
  assert int(told["errors"].count) == 20
  assert int(told["errors"].total) == int(told_short["errors"].total)


@pytest.mark.parametrize("method", [
    name for name, own in methods.METHODS.items() if own.on_logits])
def test_the_teacher_is_left_alone_by_every_method(method, key, device_data):
  # P7, P9: no gradient reaches a teacher, whatever a method does with it.
  own = methods.METHODS[method]
  batch = a_batch(device_data, 8, 7)
  said, taught = 3 * jax.random.normal(key, (2, 8, CLASSES))
  hparams = hyper(numbers=dict(own.numbers), progress=0.5)

  def loss(taught, said):
    found = own.terms(
        terms.Own(*own.init(key, {}, {}), key=key), types.Outputs(said, {}),
        types.Outputs(taught, {}), batch, hparams)
    return jnp.mean(terms.total(found), where=batch.mask)

  taught, learned = jax.jit(jax.grad(loss, argnums=(0, 1)))(taught, said)
  np.testing.assert_array_equal(taught, 0.0)
  assert (np.abs(learned[:7]).max(-1) > 0).all()
  np.testing.assert_array_equal(learned[7], 0.0)


def test_the_teachers_parameters_and_state_are_left_alone(key, device_data):
  batch = a_batch(device_data)
  teacher = a_teacher(key, batch.inputs, "normed", (8,))
  learns = learner(teacher=teacher)
  state = step_lib.init(learns, key, batch.inputs, hyper())
  step = step_lib.make_step(learns)

  def loss_after(arrays, params):
    held = state.replace(student=types.Variables(params, {}))
    after, told = step(held, batch, arrays, hyper(), key)
    leaves = jax.tree.leaves(after.student.params)
    return sum(jnp.sum(leaf) for leaf in leaves) + told["hard"].total

  taught, learned = jax.jit(jax.grad(loss_after, argnums=(0, 1)))(
      teacher.arrays, state.student.params)
  assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(taught))
  assert any(jnp.any(leaf) for leaf in jax.tree.leaves(learned))


def test_the_teacher_is_asked_in_evaluation_mode(key, device_data):
  # P7: in training mode BatchNorm would use the batch's own statistics.
  batch = a_batch(device_data)
  teacher = a_teacher(key, batch.inputs, "normed", (8,))
  model = a_model("normed", (8,))
  quiet, _ = model.apply(teacher.arrays[0], batch.inputs, train=False)
  said = teachers.outputs(teacher, teacher.arrays, batch, 1.0)
  np.testing.assert_array_equal(said.logits, quiet.logits)
  loud, _ = model.apply(teacher.arrays[0], batch.inputs, train=True)
  assert np.abs(np.asarray(loud.logits - quiet.logits)).max() > 1e-3


def test_the_student_learns_in_training_mode(key, device_data):
  # P8: BatchNorm follows the batches, and dropout is at work.
  batch = a_batch(device_data)
  learns = learner((8,), name="normed", method="hard")
  before, after, _ = a_step(learns, key, batch, hyper())
  assert distance(after.student.state, before.student.state) > 0
  dropped = hyper(rates={"input": 0.5, "hidden": 0.5})
  plain = learner(method="hard")
  _, kept, _ = a_step(plain, key, batch, hyper())
  _, thinned, _ = a_step(plain, key, batch, dropped)
  assert distance(kept.student.params, thinned.student.params) > 0


def test_dropout_differs_from_step_to_step(key, device_data):
  batch = a_batch(device_data)
  learns = learner(method="hard")
  hparams = hyper(rates={"input": 0.5, "hidden": 0.5}, learning_rate=0.0)
  state, after, first = a_step(learns, key, batch, hparams)
  assert int(after.step) == int(state.step) + 1
  _, second = jax.jit(step_lib.make_step(learns))(after, batch, (), hparams, key)
  assert float(first["hard"].total) != float(second["hard"].total)


def test_metrics_are_those_of_the_parameters_before_the_update(
    key, device_data):
  batch = a_batch(device_data)
  learns = learner(teacher=a_teacher(key, batch.inputs))
  before, _, told = a_step(learns, key, batch, hyper())
  logits = learns.model.apply(
      before.student, batch.inputs, train=False)[0].logits
  v = learns.teacher.members(learns.teacher.arrays, batch).logits[0]
  hard = losses.hard_cross_entropy(logits, batch.label)
  soft = 9.0 * losses.distillation_kl(logits, v, 3.0)
  assert told["hard"].compute() == pytest.approx(float(hard.mean()), rel=1e-5)
  assert told["soft"].compute() == pytest.approx(float(soft.mean()), rel=1e-5)
  # The terms' weighted gradients, (eq. 2) scaled: soft T (qT - pT) a row.
  gap = 0.7 * 3.0 * (losses.tempered_softmax(logits, 3.0)
                     - losses.tempered_softmax(v, 3.0))
  square = float(jnp.sum(jnp.square(gap)))
  assert float(told["gradient_soft"].total) == pytest.approx(square, rel=1e-4)


def test_weights_are_projected_after_the_update(key, device_data):
  batch = a_batch(device_data)
  learns = learner(method="hard")
  _, after, _ = a_step(
      learns, key, batch, hyper(max_norm=0.5, learning_rate=5.0))
  kernel = np.asarray(after.student.params["Dense_0"]["kernel"])
  assert np.linalg.norm(kernel, axis=0).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("parts", [2, 5, 32])
def test_a_step_in_parts_is_the_whole_step(parts, key, device_data):
  # 27 valid rows of 32, which 5 does not divide; of 32 parts, five have none.
  batch = a_batch(device_data, 32, valid=27)
  whole = learner(teacher=a_teacher(key, batch.inputs))
  _, after, told = a_step(whole, key, batch, hyper())
  _, summed, says = a_step(whole._replace(accumulate=parts), key, batch, hyper())
  assert distance(summed.student.params, after.student.params) < 1e-6
  for name, total in told.items():
    assert int(says[name].count) == int(total.count)
    assert float(says[name].total) == pytest.approx(float(total.total), rel=1e-5)


def test_gradients_of_terms_are_summed_over_parts_before_a_method_has_them(
    key, device_data):
  batch = a_batch(device_data, 32, valid=27)
  plain = learner(teacher=a_teacher(key, batch.inputs))
  norms = lambda own, found, hparams: jax.tree.map(
      lambda hard, soft: hard / (1 + jnp.linalg.norm(hard)) + soft,
      found["hard"], found["soft"])
  apart = plain._replace(method=plain.method._replace(gradients=norms))
  _, after, _ = a_step(apart, key, batch, hyper())
  _, summed, _ = a_step(apart._replace(accumulate=4), key, batch, hyper())
  _, other, _ = a_step(plain, key, batch, hyper())
  assert distance(summed.student.params, after.student.params) < 1e-6
  assert distance(other.student.params, after.student.params) > 1e-4


@pytest.mark.parametrize("valid", [27, 2])
def test_statistics_of_parts_move_one_after_the_other(valid, key, device_data):
  """BatchNorm has the rows of a part; a part without any changes nothing."""
  parts = 3
  batch = a_batch(device_data, 32, valid)
  learns = learner((8,), name="normed", method="hard")._replace(accumulate=parts)
  before, after, _ = a_step(learns, key, batch, hyper())

  def part_loss(params, state, rows):
    outputs, state = learns.model.apply(
        types.Variables(params, state), batch.inputs[rows], train=True)
    return jnp.sum(losses.hard_cross_entropy(
        outputs.logits, batch.label[rows])) / valid, state

  gradient, state = None, before.student.state
  for first in range(min(parts, valid)):
    found, state = jax.grad(part_loss, has_aux=True)(
        before.student.params, state, np.arange(first, valid, parts))
    gradient = found if gradient is None else jax.tree.map(
        jnp.add, gradient, found)
  expected = jax.tree.map(
      lambda x, g: x - 0.5 * g, before.student.params, gradient)
  assert distance(after.student.params, expected) < 1e-5
  assert distance(after.student.state, state) < 1e-5


def test_every_part_has_dropout_of_its_own(key, device_data):
  batch = a_batch(device_data, 16, 16)
  twice = jax.tree.map(lambda x: jnp.repeat(x[:8], 2, axis=0), batch)
  hparams = hyper(rates={"input": 0.5, "hidden": 0.5})
  apart = learner(method="hard")._replace(accumulate=2)
  # Both parts have the same rows: with one mask they would be one part.
  _, _, told = a_step(apart, key, twice, hparams)
  _, _, half = a_step(apart, key, twice._replace(
      mask=jnp.arange(16) % 2 == 0), hparams)
  assert float(told["hard"].total) != pytest.approx(
      2 * float(half["hard"].total), rel=1e-3)


@pytest.mark.slow
def test_eight_devices_take_the_step_of_one(key, device_data):
  # 57 valid rows of 64: the last device holds one, so local means would be off.
  batch = a_batch(device_data, 64, valid=57)
  learns = learner((8,), name="normed", teacher=a_teacher(key, batch.inputs))
  state, alone, told = a_step(learns, key, batch, hyper())
  shards = jax.tree.map(lambda x: x.reshape((8, 8) + x.shape[1:]), batch)
  step = step_lib.make_step(learns, axis_name="device")
  spread, shared = jax.pmap(
      step, axis_name="device", in_axes=(None, 0, None, None, None))(
          state, shards, learns.teacher.arrays, hyper(), key)
  ones = jax.tree.map(lambda x: x[0], spread)
  assert distance(ones.student.params, alone.student.params) < 1e-5
  assert int(shared["errors"].total[0]) == int(told["errors"].total)
  assert int(shared["errors"].count[3]) == 57


def test_a_nan_is_passed_on_and_not_hidden(key, device_data):
  batch = a_batch(device_data)
  image = batch.inputs.at[0, 0, 0, 0].set(jnp.nan)
  _, after, _ = a_step(
      learner(method="hard"), key, batch._replace(inputs=image), hyper())
  leaves = jax.tree.leaves(after.student.params)
  assert any(bool(jnp.isnan(leaf).any()) for leaf in leaves)


def test_methods_without_soft_weight_are_hard_labels(key, device_data):
  # P11: no value of the weights is a special case.
  batch = a_batch(device_data)
  teacher = a_teacher(key, batch.inputs)
  only_hard = hyper(hard_weight=1.0, soft_weight=0.0)
  _, plain, _ = a_step(learner(method="hard"), key, batch, hyper())
  for method in ("kd", "logits"):
    _, after, _ = a_step(
        learner(method=method, teacher=teacher), key, batch, only_hard)
    assert distance(after.student.params, plain.student.params) < 1e-6


def test_a_step_that_is_not_finite_can_be_passed_over(key, device_data):
  batch = a_batch(device_data)
  bad = batch._replace(inputs=batch.inputs.at[0, 0, 0, 0].set(jnp.inf))
  careful = learner((8,), name="normed", method="hard")._replace(
      skip_nonfinite=True)
  before, after, told = a_step(careful, key, bad, hyper())
  jax.tree.map(np.testing.assert_array_equal, after.student, before.student)
  jax.tree.map(np.testing.assert_array_equal, after.optimizer, before.optimizer)
  assert int(after.step) == 1, "the next batch is another"
  assert float(told["skipped"].compute()) == 1.0
  assert int(told["hard"].count) == 0 and float(told["hard"].total) == 0
  # A step that is fine is the same with and without.
  _, plain, _ = a_step(
      careful._replace(skip_nonfinite=False), key, batch, hyper())
  _, after, told = a_step(careful, key, batch, hyper())
  # Another program: the last bit may differ.
  assert distance(after.student.params, plain.student.params) < 1e-6
  assert float(told["skipped"].compute()) == 0.0


def test_programs_are_shared_by_learners_that_are_alike(key, device_data):
  image = device_data.inputs[:1].astype(jnp.float32)
  bank = lambda seed: jax.random.normal(jax.random.key(seed), (150, 1, 2, 7))
  banked = lambda seed=0, weights=(0.5, 0.5), mean="probabilities": teachers.banked(
      bank(seed), weights=weights, mean=mean)
  live = lambda: a_teacher(jax.random.key(1), image)
  made = lambda: learner(teacher=banked())
  assert step_lib.key_of(made()) == step_lib.key_of(learner(teacher=banked(seed=3)))
  assert step_lib.key_of(learner(teacher=live())) == step_lib.key_of(
      learner(teacher=live()))
  unlike = [
      made(), learner((17,), teacher=banked()), learner(teacher=None),
      learner(teacher=live()), learner(method="dkd", teacher=banked()),
      learner(teacher=banked(weights=(0.25, 0.75))),
      learner(teacher=banked(mean="logits")),
      made()._replace(skip_nonfinite=True), made()._replace(pairs=(("a", "a"),)),
      made()._replace(schedules=step_lib.STILL._replace(warmup=2.0)),
      made()._replace(optimizer_spec=made().optimizer_spec._replace(b2=0.9)),
      made()._replace(optimizer_spec=made().optimizer_spec._replace(
          schedule=optimizers.schedule("cosine", total_steps=9)))]
  assert len({step_lib.key_of(each) for each in unlike}) == len(unlike)

  # One program, and yet each is taught by its own bank.
  where = devices.choose("single")
  programs = [devices.compiled_segment(
      where, learner(teacher=banked(seed)), views.VIEWS["none"], 32)
              for seed in (0, 3)]
  assert programs[0] is programs[1]
  for seed in (0, 3):
    own = learner(teacher=banked(seed))
    init = devices.compiled_init(where, own, device_data)
    after = [run(init(key, hyper()), device_data, bank(seed), hyper(), key,
                 jnp.int32(2))[0].student.params
             for run in (programs[0], segment.compiled_segment(
                 own, views.VIEWS["none"], 32))]
    jax.tree.map(np.testing.assert_array_equal, *after)
