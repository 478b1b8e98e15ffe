"""AT, FT, NST, FSP, AB, VID against NumPy, authors' values, by hand, identities."""

import functools

import derivatives
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from test_features import maps as golden_maps

from kd_jax.losses import features, maps

VARIANCE = np.array([0.5, 5.0, 1.5])


def likelihood(s, t):
  variance = jnp.resize(jnp.asarray(VARIANCE, s.dtype), s.shape[-1:])
  return features.negative_log_likelihood(s, t, variance)


LOSSES = {
    "attention": maps.attention_distance,
    "attention_1": functools.partial(maps.attention_distance, power=1),
    "factor": maps.factor_distance,
    "selectivity": maps.selectivity_distance,
    "flow": lambda s, t: maps.flow_distance(
        (s, s[:, 1:3, 1:3]), (t, t[:, 1:3, 1:3])),
    "boundary": features.boundary_distance,
    "likelihood": likelihood,
}
every = pytest.mark.parametrize("name", LOSSES)
normed = pytest.mark.parametrize(
    "name", ["attention", "attention_1", "factor", "selectivity"])


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def example(channels=(3, 3), batch=2, seed=0):
  draw = np.random.default_rng(seed)
  return tuple(draw.standard_normal((batch, 4, 4, c)) for c in channels)


def over_norm(v):
  return v / max(np.sqrt((v**2).sum()), 1e-12)


def attention(x):
  """By pixels."""
  return over_norm(np.array([
      (x[h, w]**2).mean() for h, w in np.ndindex(x.shape[:2])]))


def kernel(x, y):
  """Mean over two channels of the square of their product."""
  unit = lambda m: [over_norm(m[..., c].ravel()) for c in range(m.shape[-1])]
  return np.mean([np.dot(a, b)**2 for a in unit(x) for b in unit(y)])


def flow(x):
  x, y = x.reshape(2, 2, 2, 2, -1).mean((1, 3)), x[1:3, 1:3]
  return sum(np.outer(x[h, w], y[h, w]) for h, w in np.ndindex(2, 2)) / 4


def boundary(s, t):
  return sum(max(0, 1 - a)**2 if b > 0 else max(0, 1 + a)**2
             for a, b in zip(s.ravel(), t.ravel()))


def log_density(s, t):
  v = np.resize(VARIANCE, s.shape[-1])
  density = np.exp(-(t - s)**2 / (2 * v)) / np.sqrt(2 * np.pi * v)
  return -np.log(density).mean() - np.log(2 * np.pi) / 2


# Of one example.
ORACLES = {
    "attention": lambda s, t: ((attention(s) - attention(t))**2).mean(),
    "attention_1": lambda s, t: np.abs(attention(s) - attention(t)).mean(),
    "factor": lambda s, t: np.abs(over_norm(s) - over_norm(t)).mean(),
    "selectivity": lambda s, t: kernel(t, t) + kernel(s, s) - 2 * kernel(s, t),
    "flow": lambda s, t: ((flow(s) - flow(t))**2).mean(),
    "boundary": boundary,
    "likelihood": log_density,
}


def oracle(name, s, t):
  return np.array([ORACLES[name](*pair) for pair in zip(s, t, strict=True)])


@jax.jit
def values_and_gradients(s, t):
  """All at once: a program for each dtype, not for each test."""
  def one(function):
    def total(s, t):
      value = function(s, t)
      return jnp.sum(value), value

    gradients, value = jax.grad(total, argnums=(0, 1), has_aux=True)(s, t)
    return value, *gradients

  return {name: one(function) for name, function in LOSSES.items()}


def found(name, s, t):
  return [np.asarray(x) for x in values_and_gradients(
      jnp.asarray(s), jnp.asarray(t))[name]]


@every
def test_values_and_gradients_are_the_papers(name, x64):
  s, t = example()
  value, gradient, teacher = found(name, s, t)
  np.testing.assert_allclose(value, oracle(name, s, t), rtol=1e-11)
  np.testing.assert_array_equal(teacher, 0.0)
  np.testing.assert_allclose(gradient, derivatives.slopes(
      lambda s: oracle(name, s, t), s), rtol=1e-6, atol=1e-8)
  check_grads(jax.jit(lambda s: LOSSES[name](s, t)), (s,), order=1, rtol=1e-5)


@pytest.mark.parametrize(("name", "golden"), [
    ("attention", 0.0018788665), ("attention_1", 0.0329715626),
    ("factor", 0.1463280820), ("selectivity", 0.0670933327),
    ("flow", 0.2050773038), ("boundary", 149.3898328)])
def test_the_authors_code_gives_these(name, golden, x64):
  """Released modules in float64, of maps that have formulas; means of the batch."""
  s, t = map(jnp.asarray, golden_maps())
  np.testing.assert_allclose(np.mean(found(name, s, t)[0]), golden, rtol=5e-9,
                             atol=5.1e-11)


def test_the_authors_code_gives_this_of_maps_of_two_sizes_and_of_a_variance(x64):
  s, t = map(jnp.asarray, golden_maps())
  small = t.reshape(4, 2, 2, 2, 2, 5).mean((2, 4))
  value = maps.attention_distance(s, small)
  np.testing.assert_allclose(value.mean(), 0.0055333959, atol=5.1e-11)
  np.testing.assert_array_equal(maps.attention_distance(
      jax.lax.stop_gradient(small), s), value)
  value = features.negative_log_likelihood(s, t, jnp.full(5, 5.0))
  np.testing.assert_allclose(value.mean(), 0.9404162639, atol=5.1e-11)


@every
def test_one_example_is_as_within_a_batch(name, x64):
  s, t = example()
  together = found(name, s, t)
  for place in (0, 1):
    alone = found(name, s[place:place + 1], t[place:place + 1])
    for one, two in zip(alone, together, strict=True):
      np.testing.assert_allclose(one, two[place:place + 1], rtol=1e-12, atol=1e-15)


@every
def test_equal_maps_are_zero_and_stationary(name, x64):
  _, t = example()
  value, gradient, _ = found(name, t, t)
  if name == "boundary":
    # Units on the right side are wrong still, up to the margin.
    np.testing.assert_allclose(
        value, np.square(np.maximum(0, 1 - np.abs(t))).sum((1, 2, 3)))
    return
  floor = 0.5 * np.log(VARIANCE).mean() if name == "likelihood" else 0.0
  np.testing.assert_allclose(value, floor, atol=1e-15)
  if name not in ("attention_1", "factor"):  # |x| has a kink here.
    np.testing.assert_allclose(gradient, 0.0, atol=1e-15)


@normed
def test_scale_is_not_seen(name, x64):
  s, t = example()
  value = found(name, s, t)[0]
  np.testing.assert_allclose(found(name, 37 * s, t)[0], value, rtol=1e-12)
  np.testing.assert_allclose(found(name, s, 37 * t)[0], value, rtol=1e-12)


@pytest.mark.parametrize(("name", "seen"), [
    ("attention", False), ("attention_1", False), ("factor", True),
    ("selectivity", True)])
def test_an_orthogonal_mix_of_the_channels(name, seen, x64):
  s, t = example()
  turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
  value, mixed = found(name, s, t)[0], found(name, s @ turn, t)[0]
  assert np.allclose(value, mixed, rtol=1e-12) != seen


def test_attention_is_a_cosine_and_its_bound(x64):
  """2 / HW of the angle, so that a small map weighs more."""
  s, t = example()
  cosine = [np.dot(attention(a), attention(b)) for a, b in zip(s, t)]
  np.testing.assert_allclose(
      found("attention", s, t)[0], 2 / 16 * (1 - np.array(cosine)), rtol=1e-12)
  s, t = np.zeros((2, 1, 4, 4, 1))
  s[0, 0, 0], t[0, 3, 3] = 1.0, -5.0
  np.testing.assert_allclose(found("attention", s, t)[0], 2 / 16)


def test_selectivity_is_a_distance_of_matrices(x64):
  """Of M = mean of c c' over channels c of norm 1: |M - W|**2, from 0 to 2."""
  s, t = example((3, 30))  # in one form of few channels, and in the other
  def matrix(x):
    unit = [over_norm(x[..., c].ravel()) for c in range(x.shape[-1])]
    return np.mean([np.outer(c, c) for c in unit], axis=0)

  wanted = [((matrix(a) - matrix(b))**2).sum() for a, b in zip(s, t)]
  np.testing.assert_allclose(maps.selectivity_distance(s, t), wanted, rtol=1e-12)
  few = t[..., :2]
  wanted = [((matrix(a) - matrix(b))**2).sum() for a, b in zip(s, few)]
  np.testing.assert_allclose(maps.selectivity_distance(s, few), wanted, rtol=1e-12)
  scales, order = np.array([-3.0, 0.1, 7.0]), [2, 0, 1]
  np.testing.assert_allclose(
      maps.selectivity_distance((scales * s)[..., order], few), wanted, rtol=1e-12)
  s, t = np.zeros((2, 1, 2, 2, 1))
  s[0, 0, 0], t[0, 1, 1] = 1.0, 1.0
  np.testing.assert_allclose(maps.selectivity_distance(s, t), 2.0)


def test_a_dead_channel_counts_among_the_channels(x64):
  """Zero in the kernels, but in 1 / C."""
  s, t = example()
  s[..., 1] = 0.0
  value, gradient, _ = found("selectivity", s, t)
  np.testing.assert_allclose(value, oracle("selectivity", s, t), rtol=1e-12)
  np.testing.assert_array_equal(gradient[..., 1], 0.0)
  assert np.abs(gradient[..., 0]).min() > 0
  assert np.abs(value - oracle("selectivity", s[..., ::2], t)).min() > 1e-3


def test_flow_is_bilinear_and_forgets_where(x64):
  s, t = (np.random.default_rng(seed).standard_normal((2, 2, 4, 4, 3))
          for seed in (0, 1))
  zero = 0.0 * t
  value = maps.flow_distance((s[0], s[1]), (zero[0], zero[1]))
  np.testing.assert_allclose(
      maps.flow_distance((3 * s[0], -2 * s[1]), (zero[0], zero[1])), 36 * value,
      rtol=1e-12)
  order = np.random.default_rng(2).permutation(16)
  moved = s.reshape(2, 2, 16, 3)[:, :, order].reshape(s.shape)
  np.testing.assert_allclose(
      maps.flow_distance(tuple(moved), tuple(t)),
      maps.flow_distance(tuple(s), tuple(t)), rtol=1e-12)
  # One example of one pixel: G = x y'.
  pixel = lambda *v: jnp.array(v).reshape(1, 1, 1, -1)
  value = maps.flow_distance((pixel(1.0, 2.0), pixel(3.0)),
                             (pixel(0.0, 0.0), pixel(1.0)))
  np.testing.assert_allclose(value, [(3.0**2 + 6.0**2) / 2])


def test_a_boundary_is_a_matter_of_the_teachers_sign(x64):
  _, t = example()
  reached = np.where(t > 0, 1.0, -1.0)
  for x in found("boundary", 3 * reached, t)[:2]:
    np.testing.assert_array_equal(x, 0.0)
  np.testing.assert_array_equal(found("boundary", reached, t)[0], 0.0)
  np.testing.assert_allclose(found("boundary", 0 * t, t)[0], 48.0)
  s, _ = example()
  np.testing.assert_array_equal(
      found("boundary", s, t)[0], found("boundary", s, reached * 1e-9)[0])
  # 0 is off.
  np.testing.assert_allclose(found("boundary", reached, 0 * t)[0],
                             4.0 * (t > 0).sum((1, 2, 3)))


def test_the_likelihood_by_hand_and_its_best_variance(x64):
  t = jnp.array([[1.0, -2.0]])
  value = lambda m, v: features.negative_log_likelihood(m, t, jnp.full(2, v))
  np.testing.assert_allclose(value(t, 5.0), 0.8047190, atol=5e-8)  # log(5) / 2
  assert value(t, 0.1) < 0
  # With a residual of 3 the best variance is 9: (1 + log 9) / 2.
  slope = jax.grad(lambda v: value(t + 3.0, v)[0])
  np.testing.assert_allclose(slope(9.0), 0.0, atol=1e-15)
  assert slope(5.0) < -0.01 < 0.01 < slope(20.0)
  np.testing.assert_allclose(value(t + 3.0, 9.0), 0.5 * (1 + np.log(9)))


@every
@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 1e6])
def test_zeros_and_extremes_are_finite(name, size):
  s, t = (np.float32(size) * x.astype(np.float32) for x in example())
  half = lambda x: np.where(np.arange(4)[:, None, None] < 2, x, np.float32(0))
  for student, teacher in ((s, t), (0 * s, t), (s, 0 * t), (half(s), half(t))):
    for x in found(name, student, teacher):
      assert np.isfinite(x).all()


@normed
def test_a_map_of_zeros_has_no_gradient(name):
  s, t = (x.astype(np.float32) for x in example())
  s[0] = 0.0
  value, gradient, _ = found(name, s, t)
  np.testing.assert_array_equal(gradient[0], 0.0)
  assert value[0] > 0 and np.abs(gradient[1]).max() > 0


@every
def test_a_nan_is_not_hidden(name):
  s, t = (x.astype(np.float32) for x in example())
  s[1, 1, 1, 1] = np.nan
  assert np.isnan(found(name, s, t)[0]).tolist() == [False, True]


@every
def test_half_precision_is_widened_first(name):
  s, t = (jnp.asarray(x).astype(jnp.bfloat16) for x in example())
  wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (s, t)]
  value, gradient, _ = found(name, s, t)
  assert value.dtype == np.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(value, oracle(name, *wide), rtol=1e-5)


@every
def test_float32_is_float64_rounded(name):
  s, t = (x.astype(np.float32) for x in example((32, 32)))
  single = found(name, s, t)
  with jax.enable_x64(True):
    double = found(name, s.astype(np.float64), t.astype(np.float64))
  for own, exact in zip(single, double, strict=True):
    assert own.dtype == np.float32 and exact.dtype == np.float64
    np.testing.assert_allclose(own, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "shapes"), [
    ("attention", ((2, 4, 4, 3), (2, 3, 3, 3))), ("attention", ((2, 8), (2, 8))),
    ("factor", ((2, 4, 4, 3), (2, 4, 4, 5))), ("factor", ((2, 8), (2, 8))),
    ("selectivity", ((2, 4, 4, 3), (2, 6, 2, 3))),
    ("flow", ((2, 4, 4, 3), (2, 4, 4, 5))),
    ("boundary", ((2, 4, 4, 3), (2, 4, 4, 1))),
    ("likelihood", ((2, 4, 4, 3), (2, 4, 4, 1)))])
def test_maps_that_do_not_fit_are_refused(name, shapes):
  with pytest.raises(ValueError, match=r"must|have no distance"):
    LOSSES[name](*map(jnp.zeros, shapes))
