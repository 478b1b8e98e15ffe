"""The norm of a gradient is bounded, and classes have weights."""

import json

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import a_batch, a_step, a_teacher, distance, hyper, learner

from kd_jax import config as config_lib
from kd_jax import losses, main, teachers
from kd_jax.config import build
from kd_jax.core.errors import UserError
from kd_jax.data import Dataset, Examples

WEIGHTS = (0.0, 3.0, 1.0, 0.25, 1.0, 2.0, 0.5)


def moved(before, after):
  """By how much all parameters moved together."""
  return float(optax.tree.norm(jax.tree.map(
      jnp.subtract, after.student.params, before.student.params)))


def test_a_gradient_is_scaled_to_the_norm_and_a_smaller_one_is_left(
    key, device_data):
  batch = a_batch(device_data)
  own = learner(teacher=a_teacher(key, batch.inputs))
  before, free, _ = a_step(own, key, batch, hyper())
  norm = moved(before, free) / 0.5  # SGD of rate 0.5 and no momentum.
  _, clipped, _ = a_step(own, key, batch, hyper(clip_norm=norm / 4))
  expected = jax.tree.map(
      lambda old, new: old + (new - old) / 4, before.student.params,
      free.student.params)
  assert distance(clipped.student.params, expected) < 1e-6
  assert moved(before, clipped) == pytest.approx(0.5 * norm / 4, rel=1e-4)
  _, loose, _ = a_step(own, key, batch, hyper(clip_norm=1.01 * norm))
  jax.tree.map(np.testing.assert_array_equal, loose.student.params,
               free.student.params)


def test_it_is_the_whole_gradient_of_a_batch_in_parts(key, device_data):
  batch = a_batch(device_data, 32, valid=27)
  own = learner(teacher=a_teacher(key, batch.inputs))
  small = hyper(clip_norm=0.01)
  _, whole, _ = a_step(own, key, batch, small)
  before, parts, _ = a_step(own._replace(accumulate=4), key, batch, small)
  assert moved(before, parts) == pytest.approx(0.005, rel=1e-3)
  assert distance(parts.student.params, whole.student.params) < 1e-6


@pytest.mark.parametrize("unlabelled", [False, True])
def test_the_hard_term_counts_by_class_and_the_soft_term_does_not(
    unlabelled, key, device_data):
  batch = a_batch(device_data, 32, valid=30)
  known = np.arange(32) % 3 > 0 if unlabelled else np.ones(32, bool)
  teacher = a_teacher(key, batch.inputs)
  own = learner(teacher=teacher)._replace(
      class_weights=WEIGHTS, unlabelled=unlabelled)
  seen = batch._replace(label=jnp.where(known, batch.label, -1))
  before, after, totals = a_step(own, key, seen, hyper())
  weight = jnp.where(known, jnp.asarray(WEIGHTS)[batch.label], 0.0)

  def terms(params):
    logits = own.model.apply(
        before.student._replace(params=params), batch.inputs, train=False)[0].logits
    said = teachers.outputs(teacher, teacher.arrays, batch, 3.0).logits
    return (weight * losses.hard_cross_entropy(logits, batch.label),
            9 * losses.distillation_kl(logits, said, 3.0))

  def loss(params):
    hard, soft = terms(params)
    return jnp.sum((0.3 * hard + 0.7 * soft)[:30]) / 30

  wanted = jax.tree.map(lambda p, g: p - 0.5 * g, before.student.params,
                        jax.grad(loss)(before.student.params))
  assert distance(after.student.params, wanted) < 1e-6
  hard, soft = terms(before.student.params)
  assert float(totals["hard"].total) == pytest.approx(
      float(jnp.sum(hard[:30])), rel=1e-5)
  assert float(totals["soft"].total) == pytest.approx(
      float(jnp.sum(soft[:30])), rel=1e-5)
  # A class of weight 0 pulls at nothing; all weights of 1 change nothing.
  assert float(weight.min()) == 0 and float(weight.max()) == 3
  _, even, _ = a_step(own._replace(class_weights=(1.0,) * 7), key, seen, hyper())
  _, plain, _ = a_step(own._replace(class_weights=()), key, seen, hyper())
  assert distance(even.student.params, plain.student.params) < 1e-6
  assert distance(after.student.params, plain.student.params) > 1e-3


def a_set(labels, classes):
  label = np.asarray(labels, np.int32)
  examples = Examples(np.zeros((len(label), 4), np.float32), label)
  ids = np.arange(len(label), dtype=np.int32)
  return Dataset("few", "raw", "", examples, examples, ids[:-1], ids[-1:], classes,
                 "f")


def trained_with(labels=(0, 0, 0, 1, -1, 2), classes=3, **changes):
  config = config_lib.default()
  config.student.widths, config.batch_size, config.alpha = (4,), 4, 0.5
  values = config_lib.flatten(config) | changes
  return build.student(values, a_set(labels, classes)).class_weights


def test_balanced_weights_have_a_mean_of_one_over_the_examples_to_train_on():
  # Known: three of class 0 and one of class 1; the last is held out.
  assert trained_with(class_weights=("balanced",)) == pytest.approx(
      (4 / (2 * 3), 4 / (2 * 1), 4 / 2))
  assert trained_with() == ()
  assert trained_with(class_weights=(1.0, 0.0, 5)) == (1.0, 0.0, 5)


@pytest.mark.parametrize("changes, words", [
    ({"class_weights": (1.0, 2.0)}, "3 classes"),
    ({"class_weights": (0.0, 0.0, 0.0)}, "no class counts"),
    ({"class_weights": ("balanced",), "mixup": 0.2}, "mixup"),
])
def test_weights_that_say_nothing_are_refused(changes, words):
  with pytest.raises(UserError, match=words):
    trained_with(**changes)


def test_the_command_line_takes_both_of_student_and_teacher_and_sweeps_the_norm(
    own_data, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)

  def rows(name, *words):
    with jax.numpy_dtype_promotion("standard"):
      assert main.run([
          "--config=configs/mnist.py:smoke", f"--config.data.dir={own_data}",
          "--config.data.name=blobs", "--config.student.widths=(8,)",
          "--config.teacher.widths=(8,)", "--config.steps=4",
          "--config.teacher.steps=4", "--config.tensorboard=false",
          "--config.class_weights=balanced", "--config.teacher.views=none",
          "--config.teacher.class_weights=balanced",
          "--config.teacher.optimizer.clip_norm=1",
          # Adam's steps have one size, however small a gradient is.
          "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.1",
          "--config.sweep.lanes=1x2",
          f"--workdir={tmp_path / name}", *words]) == 0
    lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]

  swept = rows("swept", "--sweep.optimizer.clip_norm=0.01,100")
  summary = json.loads((tmp_path / "swept/summary.json").read_text())
  assert summary["compilations"] == 1
  assert "optimizer.clip_norm" in json.dumps(swept[0])
  single = rows("single", "--config.optimizer.clip_norm=0.01")
  one, = (row for row in single if row.get("net") == "distilled")
  same, = (row for row in swept if "0.01" in row["command"])
  assert one["test_nll"] == pytest.approx(same["test_nll"], rel=1e-4)
  other, = (row for row in swept if row is not same)
  assert other["test_nll"] != pytest.approx(same["test_nll"], rel=1e-3)
  assert "class_weights" in same["command"]
