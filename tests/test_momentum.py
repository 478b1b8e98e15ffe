"""SGD's momentum moves from one value to another, alone and as lanes."""

import json

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lanes import lane, singles
from test_lanes import run as run_lanes
from test_segment import run as run_segments
from test_segment import same_whatever_the_cuts
from test_step import a_batch, distance, hyper, learner

from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import build
from kd_jax.data import Dataset, Examples
from kd_jax.training import lanes
from kd_jax.training import step as step_lib

RATE = 0.1


def by_hand(params, batch, momenta):
  """W after each step of a linear net: m = p m + x'(q - y) / B, W = W - 0.1 m."""
  x = np.asarray(batch.inputs, np.float64).reshape(len(batch.label), -1)
  x = np.hstack([x, np.ones((len(x), 1))])
  w = np.vstack([params["kernel"], params["bias"]]).astype(np.float64)
  m, y, seen = 0.0, np.eye(w.shape[1])[np.asarray(batch.label)], []
  for momentum in momenta:
    q = np.exp(x @ w)
    m = momentum * m + x.T @ (q / q.sum(-1, keepdims=True) - y) / len(x)
    w = w - RATE * m
    seen.append(w)
  return seen


@pytest.mark.parametrize("compiled", [True, False])
def test_momentum_moves_linearly_and_then_stays(compiled, key, device_data):
  batch = a_batch(device_data)
  learns = learner(widths=(), method="hard", momentum_steps=4.0)
  numbers = hyper(learning_rate=RATE, momentum=0.5, momentum_end=0.9)
  state = step_lib.init(learns, key, batch.inputs, numbers)
  wanted = by_hand(state.student.params["Dense_0"], batch,
                   [0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
  step = step_lib.make_step(learns)
  step = jax.jit(step) if compiled else step
  for each in wanted:
    state, _ = step(state, batch, (), numbers, key)
    net = state.student.params["Dense_0"]
    np.testing.assert_allclose(
        np.vstack([net["kernel"], net["bias"]]), each, rtol=1e-4, atol=1e-6)


def test_momentum_that_moves_nowhere_is_that_which_stays(key, device_data):
  learns = learner(method="hard", momentum_steps=7.0)
  still = hyper(learning_rate=RATE, momentum=0.9)
  ends = [run_segments(learns, device_data, (5, 5), key, numbers)[0].student.params
          for numbers in (still, still.replace(momentum_end=jnp.float32(0.9)),
                          still.replace(momentum_end=jnp.float32(0.1)))]
  assert distance(ends[1], ends[0]) < 1e-6 < 1e-2 < distance(ends[2], ends[0])


def test_momentum_that_moves_does_not_depend_on_the_cuts(key, device_data):
  learns = learner(method="hard", momentum_steps=8.0)
  numbers = hyper(learning_rate=RATE, momentum=0.5, momentum_end=0.99)
  same_whatever_the_cuts(learns, device_data, key, numbers)


def test_lanes_differ_in_what_momentum_moves_to(device_data):
  learns, shape = learner(method="hard", momentum_steps=6.0), lanes.Shape(1, 1, 2)
  values = [hyper(learning_rate=RATE, momentum=0.5, momentum_end=end)
            for end in (0.6, 0.95)]
  _, state, _ = run_lanes(learns, device_data, shape, values)
  alone = singles(learns, device_data)
  ends = [alone(0, each)[0].student.params for each in values]
  for number, single in enumerate(ends):
    assert distance(lane(state.student, shape, number).params, single) < 1e-5
  assert distance(*ends) > 1e-3


def a_training(**changes):
  """That of a student of 10 examples, in batches of 4."""
  examples = Examples(np.zeros((11, 4), np.float32), np.zeros(11, np.int32))
  ids = np.arange(11, dtype=np.int32)
  found = Dataset("few", "raw", "", examples, examples, ids[:-1], ids[-1:], 2, "f")
  values = config_lib.flatten(config_lib.default()) | {
      "student.widths": (3,), "batch_size": 4, "epochs": 9, "alpha": 0.5,
      "min_steps": 0, "optimizer.name": "sgd"} | changes
  return build.student(values, found)


def test_epochs_of_momentum_are_those_of_its_data():
  # Three steps an epoch; without a number all of the run.
  steps = lambda **changes: a_training(**changes).optimizer_spec.momentum_steps
  moves = {"optimizer.momentum_end": 0.99}
  assert steps(**moves, **{"optimizer.momentum_epochs": 2.5}) == 7.5
  assert steps(**moves) == 27 and steps() == steps(epochs=5)
  assert a_training().hparams.momentum_end is None
  assert float(a_training(**moves).hparams.momentum_end) == np.float32(0.99)


def test_a_rate_that_falls_each_epoch_counts_the_steps_of_its_data():
  training = a_training(**{"optimizer.schedule": "exponential",
                           "optimizer.factor": 0.5, "optimizer.learning_rate": 0.8})
  rates = [training.learning_rate(step) for step in (1, 3, 4, 6, 7)]
  assert rates == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


def test_what_momentum_moves_to_is_swept_by_one_program(
    own_data, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)

  def run(name, *words):
    with jax.numpy_dtype_promotion("standard"):
      assert main.run([
          "--config=configs/mnist.py:smoke", f"--config.data.dir={own_data}",
          "--config.data.name=blobs", "--config.student.widths=(8,)",
          "--config.teacher.widths=(8,)", "--config.steps=6",
          "--config.teacher.steps=4", "--config.tensorboard=false",
          "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.05",
          "--config.optimizer.schedule=exponential", "--config.sweep.lanes=1x2",
          "--config.teacher.optimizer.name=sgd", "--config.optimizer.momentum=0.5",
          "--config.teacher.optimizer.momentum_end=0.95",
          f"--workdir={tmp_path / name}", *words]) == 0
    lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]

  swept = run("swept", "--sweep.optimizer.momentum_end=0.6,0.99")
  assert json.loads((tmp_path / "swept/summary.json").read_text())[
      "compilations"] == 1
  one, = (row for row in run("single", "--config.optimizer.momentum_end=0.99")
          if row["net"] == "distilled")
  nll = {row["overrides"]["optimizer.momentum_end"]: row["test_nll"]
         for row in swept}
  assert one["test_nll"] == pytest.approx(nll[0.99], rel=1e-4)
  assert nll[0.6] != pytest.approx(nll[0.99], rel=1e-3)
