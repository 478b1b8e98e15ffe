"""Optimisers and schedules against formulas in NumPy, float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.core import types
from kd_jax.training import optimizers

# Rates of the hand-written optimisers below.
LR, MU, DECAY, B2, EPSILON = 0.1, 0.9, 0.05, 0.99, 1e-3
TOTAL = 8


def _sgd(w, g, memory, *, nesterov=False):
  """PyTorch's SGD: L2 joins the gradient before the momentum."""
  g = g + DECAY * w
  memory["m"] = MU * memory.get("m", 0.0) + g
  return g + MU * memory["m"] if nesterov else memory["m"]


def _adam(w, g, memory):
  """Kingma & Ba (2015), algorithm 1, with L2 in the gradient."""
  return _adam_direction(g + DECAY * w, memory)


def _adamw(w, g, memory):
  """Loshchilov & Hutter (2019): the decay is apart from the moments."""
  return _adam_direction(g, memory) + DECAY * w


def _adam_direction(g, memory):
  t = memory["t"] = memory.get("t", 0) + 1
  memory["m"] = MU * memory.get("m", 0.0) + (1 - MU) * g
  memory["v"] = B2 * memory.get("v", 0.0) + (1 - B2) * g**2
  m, v = memory["m"] / (1 - MU**t), memory["v"] / (1 - B2**t)
  return m / (np.sqrt(v) + EPSILON)


def _rmsprop(w, g, memory):
  """PyTorch's RMSprop: momentum of the scaled gradient, epsilon on the root."""
  g = g + DECAY * w
  memory["v"] = B2 * memory.get("v", 0.0) + (1 - B2) * g**2
  scaled = g / (np.sqrt(memory["v"]) + EPSILON)
  memory["m"] = MU * memory.get("m", 0.0) + scaled
  return memory["m"]


DIRECTIONS = {
    "sgd": _sgd,
    "nesterov": lambda w, g, memory: _sgd(w, g, memory, nesterov=True),
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
}


def _recipe(name: str, schedule=None) -> optimizers.OptimizerSpec:
  return optimizers.OptimizerSpec(
      "sgd" if name == "nesterov" else name,
      schedule or optimizers.schedule("linear", total_steps=TOTAL),
      nesterov=name == "nesterov", b2=B2, epsilon=EPSILON)


def _hparams(learning_rate=LR, momentum=MU, weight_decay=DECAY):
  return types.Hparams(
      learning_rate=jnp.float32(learning_rate), momentum=jnp.float32(momentum),
      weight_decay=jnp.float32(weight_decay))


def _weights_and_gradients(steps: int):
  draw = np.random.default_rng(0)
  weights = draw.normal(size=(3, 4))
  # Of several sizes, so that Adam and RMSprop are not SGD in disguise.
  return weights, draw.normal(size=(steps, 3, 4)) * np.array([1e-3, 0.1, 1, 9])


def _run(optimizer_spec, hparams, weights, gradients) -> np.ndarray:
  """The weights after each step."""

  @jax.jit
  def step(params, state, gradient, hparams):
    with jax.numpy_dtype_promotion("standard"):
      updates, state = optimizers.optimizer(optimizer_spec, hparams).update(
          gradient, state, params)
      return optax.apply_updates(params, updates), state

  params = {"kernel": jnp.float32(weights)}
  with jax.numpy_dtype_promotion("standard"):
    state = optimizers.optimizer(optimizer_spec, hparams).init(params)
  seen = []
  for gradient in gradients:
    params, state = step(
        params, state, {"kernel": jnp.float32(gradient)}, hparams)
    seen.append(np.asarray(params["kernel"]))
  return np.stack(seen)


@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_four_steps_of_an_optimiser_equal_its_formula(name):
  weights, gradients = _weights_and_gradients(4)
  found = _run(_recipe(name), _hparams(), weights, gradients)
  memory = {}
  for step, gradient in enumerate(gradients):
    direction = DIRECTIONS[name](weights, gradient, memory)
    # The linear schedule: 1, 7/8, 6/8, 5/8.
    weights = weights - LR * (1 - step / TOTAL) * direction
    np.testing.assert_allclose(found[step], weights, rtol=2e-5, atol=2e-6)


def test_every_optimiser_has_a_formula_above():
  assert set(optimizers.OPTIMIZERS) | {"nesterov"} == set(DIRECTIONS)


@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_the_learning_rate_is_a_factor_of_the_update(name):
  # Powers of two are exact: doubling the rate doubles the update to the bit.
  _, gradients = _weights_and_gradients(1)
  start = np.zeros((3, 4))
  once, twice = (
      _run(_recipe(name), _hparams(learning_rate=rate), start, gradients)
      for rate in (0.25, 0.5))
  assert np.abs(once).max() > 0
  np.testing.assert_array_equal(2 * once, twice)


@pytest.mark.parametrize("name", sorted(DIRECTIONS))
def test_rates_are_traced_and_compile_once(name):
  optimizer_spec = _recipe(name)
  weights, gradients = _weights_and_gradients(1)
  params = {"kernel": jnp.float32(weights)}
  traces = []

  @jax.jit
  def two_steps(params, gradient, hparams):
    traces.append(hparams)
    with jax.numpy_dtype_promotion("standard"):
      optimizer = optimizers.optimizer(optimizer_spec, hparams)
      state = optimizer.init(params)
      for _ in range(2):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params["kernel"]

  gradient = {"kernel": jnp.float32(gradients[0])}
  results = [
      np.asarray(two_steps(params, gradient, hparams)) for hparams in (
          _hparams(), _hparams(learning_rate=0.3), _hparams(momentum=0.5),
          _hparams(weight_decay=0.5))]
  assert len(traces) == 1
  for index, result in enumerate(results):
    for other in results[:index]:
      assert (result != other).any()


# (name, options, {step: expected}); every number from the schedule's own words.
SCHEDULES = [
    ("constant", {}, {0: 1, 1: 1, 5: 1, 99: 1, 100: 1}),
    # Warm-up of 4 steps: 1/5, 2/5, 3/5, 4/5, then the peak.
    ("constant", {"warmup_steps": 4},
     {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1, 5: 1, 99: 1}),
    # 1 - step / 100.
    ("linear", {}, {0: 1, 1: 0.99, 25: 0.75, 50: 0.5, 99: 0.01, 100: 0}),
    # After the warm-up 1 - (step - 20) / 80.
    ("linear", {"warmup_steps": 20},
     {0: 1 / 21, 9: 10 / 21, 19: 20 / 21, 20: 1, 21: 79 / 80, 60: 0.5,
      99: 1 / 80}),
    # (1 + cos(pi step / 100)) / 2; at the last step sin(pi / 200)**2 = 2.5e-4.
    ("cosine", {}, {0: 1, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5,
                    75: (1 - math.sqrt(0.5)) / 2,
                    99: math.sin(math.pi / 200)**2, 100: 0}),
    ("cosine", {"warmup_steps": 20},
     {0: 1 / 21, 19: 20 / 21, 20: 1, 40: (1 + math.sqrt(0.5)) / 2, 60: 0.5,
      99: math.sin(math.pi / 160)**2}),
    # Multiplied from the boundary on, not from the step after it.
    ("step", {"boundaries": (50, 75)},
     {0: 1, 49: 1, 50: 0.1, 51: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
    ("step", {"boundaries": [30], "factor": 0.5, "warmup_steps": 10},
     {0: 1 / 11, 9: 10 / 11, 10: 1, 29: 1, 30: 0.5, 99: 0.5}),
    # A boundary within the warm-up holds after it.
    ("step", {"boundaries": (5, 50), "warmup_steps": 10},
     {4: 5 / 11, 9: 10 / 11, 10: 0.1, 49: 0.1, 50: 0.01}),
    # In a short run two boundaries may fall on one step: both multiply.
    ("step", {"boundaries": (1, 1)},
     {0: 1, 1: 0.01, 2: 0.01, 3: 0.01, 9: 0.01}),
    ("step", {}, {0: 1, 1: 1, 50: 1, 75: 1, 99: 1}),
    # Epochs of 10 steps: after the first 1/2, after the second 1/4.
    ("exponential", {"factor": 0.5, "per_epoch": 10},
     {0: 1, 9: 1, 10: 0.5, 19: 0.5, 20: 0.25, 99: 0.5**9}),
    # Epochs are counted from the end of the warm-up.
    ("exponential", {"factor": 0.998, "per_epoch": 7, "warmup_steps": 4},
     {0: 0.2, 3: 0.8, 4: 1, 10: 1, 11: 0.998, 17: 0.998, 18: 0.998**2,
      99: 0.998**13}),
]


@pytest.mark.parametrize(("name", "options", "expected"), SCHEDULES)
def test_a_schedule_does_what_it_says(name, options, expected):
  shape = jax.jit(optimizers.schedule(name, total_steps=100, **options))
  found = {step: float(shape(jnp.int32(step))) for step in expected}
  assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_a_schedule_is_float32_in_0_to_1_and_peaks_at_1(name, warmup_steps):
  shape = optimizers.schedule(
      name, total_steps=50, warmup_steps=warmup_steps, boundaries=(25,),
      per_epoch=5)
  values = jax.vmap(shape)(jnp.arange(50))
  assert values.dtype == jnp.float32
  assert values[warmup_steps] == 1
  # No step of a run is lost, neither the first nor the last.
  assert ((values > 0) & (values <= 1)).all()
  rises = jnp.diff(values) > 0
  assert rises.tolist() == [step < warmup_steps for step in range(49)]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_last_step_of_a_falling_schedule_is_near_0(name):
  shape = optimizers.schedule(name, total_steps=1000, warmup_steps=100)
  assert 0 < shape(jnp.int32(999)) < 2e-3


def test_the_optimiser_counts_its_steps_from_the_first_of_the_schedule():
  # Plain SGD, gradient 1: the steps taken are the schedule itself.
  shape = optimizers.schedule(
      "step", total_steps=6, warmup_steps=2, boundaries=(4,))
  weights = _run(_recipe("sgd", shape), _hparams(1.0, 0.0, 0.0),
                 np.zeros((1,)), np.ones((6, 1)))
  taken = -np.diff(weights[:, 0], prepend=0.0)
  np.testing.assert_allclose(taken, [1/3, 2/3, 1, 1, 0.1, 0.1], rtol=1e-5)


def test_an_unknown_schedule_is_refused():
  with pytest.raises(KeyError):
    optimizers.schedule("polynomial", total_steps=10)


def _params():
  """Units of norms from far within a ball of 2 to far without."""
  draw = np.random.default_rng(0)
  dense = draw.normal(size=(50, 6))
  dense *= np.array([0, 1e-12, 0.5, 1.99, 2.01, 300]) / np.linalg.norm(
      dense, axis=0)
  conv = draw.normal(size=(3, 3, 4, 5))
  conv *= np.array([0.1, 1.9, 2.1, 5, 0]) / np.sqrt((conv**2).sum((0, 1, 2)))
  return jax.tree.map(jnp.float32, {
      "Dense_0": {"kernel": dense, "bias": draw.normal(size=6) * 100},
      "Conv_0": {"kernel": conv, "bias": draw.normal(size=5) * 100},
      "BatchNorm_0": {"scale": np.full(5, 100.0), "bias": np.full(5, -100.0)},
  })


@pytest.mark.parametrize("compiled", [False, True])
def test_projection_puts_units_on_the_ball_and_leaves_those_within(compiled):
  project = jax.jit(optimizers.project) if compiled else optimizers.project
  before = _params()
  after = project(before, jnp.float32(2))
  for layer, within in (("Dense_0", [1, 1, 1, 1, 0, 0]),
                        ("Conv_0", [1, 1, 0, 0, 1])):
    old = np.asarray(before[layer]["kernel"], np.float64).reshape(
        -1, len(within))
    new = np.asarray(after[layer]["kernel"], np.float64).reshape(
        -1, len(within))
    inside = np.asarray(within, bool)
    np.testing.assert_array_equal(new[:, inside], old[:, inside])
    norms = np.linalg.norm(new, axis=0)
    np.testing.assert_allclose(norms[~inside], 2, rtol=1e-6)
    # Shortened, not turned.
    np.testing.assert_allclose(
        new[:, ~inside] / 2,
        old[:, ~inside] / np.linalg.norm(old[:, ~inside], axis=0), rtol=1e-5)


def test_projection_leaves_biases_and_scales_alone():
  before, after = _params(), optimizers.project(_params(), jnp.float32(2))
  for layer, name in (("Dense_0", "bias"), ("Conv_0", "bias"),
                      ("BatchNorm_0", "scale"), ("BatchNorm_0", "bias")):
    np.testing.assert_array_equal(after[layer][name], before[layer][name])


def test_units_of_zero_weights_stay_zero():
  for max_norm in (1e-6, 2.0):
    after = optimizers.project({"kernel": jnp.zeros((4, 3))}, jnp.float32(max_norm))
    np.testing.assert_array_equal(after["kernel"], np.zeros((4, 3)))


def test_units_within_any_ball_keep_their_bits():
  # m / sqrt(m**2) is not 1 for many m: that must not matter.
  kernel = jnp.float32(np.random.default_rng(0).normal(size=(5, 4)) * 1e-3)
  project = jax.jit(jax.vmap(
      lambda max_norm: optimizers.project({"kernel": kernel}, max_norm)["kernel"]))
  for after in project(jnp.linspace(0.05, 5.0, 200)):
    np.testing.assert_array_equal(after, kernel)
  for max_norm in (0.1, 0.3, 1.7, 3.5):
    after = optimizers.project({"kernel": kernel}, max_norm)["kernel"]
    np.testing.assert_array_equal(after, kernel)


def test_projecting_twice_is_projecting_once():
  once = optimizers.project(_params(), jnp.float32(2))
  twice = optimizers.project(once, jnp.float32(2))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), once, twice)


def test_no_constraint_is_the_identity():
  params = _params()
  assert optimizers.project(params, None) is params
