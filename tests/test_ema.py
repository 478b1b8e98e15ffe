"""The moving average of the weights is the net; errors of the last are recorded."""

import json

from conftest import ROOT, segments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lanes import lane, singles
from test_lanes import run as run_lanes
from test_patience import BASE
from test_segment import run as run_segments
from test_segment import same_whatever_the_cuts
from test_step import a_batch, distance, hyper, learner

from kd_jax import main
from kd_jax.core import types
from kd_jax.report import plots
from kd_jax.runs import results
from kd_jax.training import lanes
from kd_jax.training import step as step_lib
from kd_jax.training.state import TrainState, averaged

DECAY = 0.6


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name, widths", [("mlp", (8,)), ("resnet8", (2, 2, 2, 2))])
def test_the_average_is_of_the_weights_after_each_step(
    compiled, name, widths, key, device_data):
  """sum_i d**(t - i) w_i / sum_i d**(t - i), of BatchNorm's statistics as well."""
  batch = a_batch(device_data)
  learns = learner(method="hard", name=name, widths=widths)
  numbers = hyper(learning_rate=0.1, ema=DECAY)
  state = step_lib.init(learns, key, batch.inputs, numbers)
  step = step_lib.make_step(learns)
  step = jax.jit(step) if compiled else step
  seen = []
  for _ in range(4 if compiled else 2):
    state, _ = step(state, batch, (), numbers, key)
    seen.append(jax.tree.map(np.float64, state.student))
    weights = DECAY ** np.arange(len(seen))[::-1]
    wanted = jax.tree.map(
        lambda *x, w=weights: sum(a * b for a, b in zip(w, x)) / w.sum(), *seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                 step_lib.deployed_variables(learns, state), wanted)
    jax.tree.map(np.testing.assert_array_equal, state.last.net[0], state.student)


def test_an_average_changes_no_step(key, device_data):
  learns = learner(method="hard")
  after = lambda **more: run_segments(
      learns, device_data, (5,), key, hyper(learning_rate=0.1, **more))[0]
  plain, averaged = after(), after(ema=DECAY)
  jax.tree.map(np.testing.assert_array_equal, averaged.last, plain)
  assert distance(averaged.net[0].params, plain.student.params) > 1e-3


def test_the_average_does_not_depend_on_the_cuts(key, device_data):
  learns, numbers = learner(method="hard"), hyper(learning_rate=0.1, ema=0.9)
  same_whatever_the_cuts(learns, device_data, key, numbers)


def test_lanes_differ_in_their_decay(device_data):
  learns, shape = learner(method="hard"), lanes.Shape(1, 1, 2)
  values = [hyper(learning_rate=0.1, ema=decay) for decay in (0.5, 0.9)]
  _, state, _ = run_lanes(learns, device_data, shape, values)
  alone = singles(learns, device_data)
  averages = [alone(0, each)[0].net[0].params for each in values]
  for number, single in enumerate(averages):
    assert distance(lane(state.net[0], shape, number).params, single) < 1e-5
  assert distance(*averages) > 1e-3


@pytest.fixture(name="run")
def _run(own_data, tmp_path, teachers, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  monkeypatch.setattr(plots, "write", lambda *_: {})

  def runs(name, *words, code=0):
    with jax.numpy_dtype_promotion("standard"):
      assert main.run([
          *BASE, "--config.epochs=3", "--config.optimizer.ema=0.97",
          f"--config.data.dir={own_data}", f"--config.teacher.dir={teachers}",
          f"--workdir={tmp_path / name}", *words]) == code
    return results.split(tmp_path / name)[0] if not code else []
  return runs


def _sha(folder):
  file = folder / "parameters/distilled/record.json"
  return json.loads(file.read_text())["parameters_sha256"]


def test_the_average_is_kept_and_swept_and_the_last_is_recorded(run, tmp_path):
  row, plain = run("averaged")[0], run("plain", "--config.optimizer.ema=None")[0]
  # The same training: its last weights are those of a run without an average.
  for split in ("test", "heldout"):
    assert row[f"{split}_last_errors"] == plain[f"{split}_errors"]
    assert f"{split}_last_errors" not in plain
  assert row["test_errors"] != row["test_last_errors"]
  assert _sha(tmp_path / "averaged") != _sha(tmp_path / "plain")
  assert row["net"] == plain["net"] == "baseline"
  assert row["fingerprint"] != plain["fingerprint"]
  # In lanes of one program.
  swept = run("swept", "--config.method=hard", "--sweep.optimizer.ema=0.5,0.97")
  assert json.loads((tmp_path / "swept/summary.json").read_text())[
      "compilations"] == 1
  nll = {each["overrides"]["optimizer.ema"]: each for each in swept}
  assert nll[0.97]["test_nll"] == pytest.approx(row["test_nll"], rel=1e-4)
  assert nll[0.97]["test_last_errors"] == nll[0.5]["test_last_errors"]
  assert nll[0.5]["test_nll"] != pytest.approx(row["test_nll"], rel=1e-4)


def test_an_averaged_run_goes_on_to_the_same_bits(run, tmp_path):
  run("whole")
  with segments(5):
    run("cut", code=143)
  run("cut")
  assert _sha(tmp_path / "cut") == _sha(tmp_path / "whole")


def test_an_averaged_lane_keeps_its_best_epoch(run, tmp_path):
  words = ("--config.patience=1", "--config.epochs=6")
  row, = (row for row in run("alone", *words) if row["net"] == "distilled")
  swept, = (each for each in run("swept", *words, "--sweep.optimizer.ema=0.97,0.99")
            if each["overrides"]["optimizer.ema"] == 0.97)
  assert swept["test_nll"] == pytest.approx(row["test_nll"], rel=1e-4)


def test_a_net_that_is_started_from_is_in_no_average_of_its_weights(run, tmp_path):
  """The average begins with the first step; that of no step is the net itself."""
  run("first")
  run("more", f"--config.init_from={tmp_path / 'first'}",
      "--config.optimizer.learning_rate=1e-12", "--config.optimizer.ema=0.99")
  assert _nets_apart(tmp_path) < 1e-5


def _nets_apart(tmp_path):
  from kd_jax import checkpoint  # pylint: disable=g-import-not-at-top
  kept = lambda name: tmp_path / name / "parameters/distilled"
  nets = [checkpoint.load_parameters(kept(name)).params
          for name in ("first", "more")]
  return max(jax.tree.leaves(jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), *nets)))


def test_a_net_of_no_step_is_the_one_that_it_starts_from(key, device_data):
  learns, numbers = learner(method="hard"), hyper(ema=DECAY)
  states = [step_lib.init(learns, each, device_data.inputs[:1].astype(jnp.float32),
                          numbers) for each in jax.random.split(key)]
  begun = states[0].starting(states[1].student)
  jax.tree.map(np.testing.assert_array_equal, begun.net[0], states[1].student)


def test_what_starts_from_a_net_and_is_averaged_shares_no_buffer():
  """A state is donated: a buffer that stood in it twice would be taken twice."""
  net = lambda: types.Variables({"w": jnp.ones(3)}, {})
  state = averaged(TrainState(jnp.int32(0), net(), {"layer": jnp.zeros(2)}, {}, {}))
  begun = state.starting(net())
  places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(begun)]
  assert len(places) == 5 and len(set(places)) == 5
  jax.jit(lambda state: state, donate_argnums=0)(begun)
