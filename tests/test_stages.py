"""HCL, OFD and CAT against NumPy, golden values, by hand and by identities."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from test_features import maps

from kd_jax.losses import stages

MARGIN = -np.array([0.1, 0.2, 0.3, 0.4, 0.5])
LOSSES = {
    "review": stages.hierarchical_distance,
    "margin": lambda s, t: stages.margin_distance(s, t, jnp.asarray(MARGIN)),
    "classes": stages.class_map_distance,
    "where": lambda s, t: stages.class_map_distance(s, t, normalised=True)}
every = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def windows(x, size):
  """The mean of each of size x size windows of one map `[h, w, c]`."""
  h, w, _ = x.shape
  return np.array([[x[i * h // size:-(-(i + 1) * h // size),
                      j * w // size:-(-(j + 1) * w // size)].mean((0, 1))
                    for j in range(size)] for i in range(size)])


def slow(name, s, t):
  """Of one example."""
  if name == "margin":
    total = 0.0
    for index in np.ndindex(s.shape):
      a, b, m = s[index], t[index], MARGIN[index[-1]]
      # The three cases of mdistiller.
      if b > 0 or (m < b <= 0 and a > b):
        total += (a - b)**2
      elif b <= m and a > m:
        total += (a - m)**2
    return total
  if name == "review":
    total, weights, weight = ((s - t)**2).mean(), 1.0, 1.0
    for size in (4, 2, 1):
      if size < len(s):
        weight /= 2
        total += weight * ((windows(s, size) - windows(t, size))**2).mean()
        weights += weight
    return total / weights
  a, b = windows(s, 2), windows(t, 2)
  if name == "where":
    a, b = (x / np.sqrt((x**2).sum((0, 1), keepdims=True)) for x in (a, b))
  return ((a - b)**2).mean()


def found(name, s, t):
  """Values, and the gradients of their sum in student and teacher."""
  total = lambda s, t: (jnp.sum(LOSSES[name](s, t)), LOSSES[name](s, t))
  gradients, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(
      jnp.asarray(s), jnp.asarray(t))
  return values, *gradients


@every
@pytest.mark.parametrize("shape", [(3, 4, 4, 5), (2, 7, 7, 5), (2, 8, 6, 5)])
def test_values_are_the_papers(name, shape, x64):
  s, t = maps(shape)
  values, _, teacher = found(name, s, t)
  np.testing.assert_allclose(
      values, [slow(name, a, b) for a, b in zip(s, t)], rtol=1e-12)
  np.testing.assert_array_equal(teacher, 0.0)
  alone = found(name, s[1:2], t[1:2])[0]
  np.testing.assert_allclose(alone, values[1:2], rtol=1e-13)


def test_golden_values_of_the_released_modules(x64):
  s, t = maps()
  golden = {"review": 1.2141280080, "margin": 81.7876252707, "classes": 1.16204,
            "where": 0.5802232223}
  for name, value in golden.items():
    np.testing.assert_allclose(np.mean(found(name, s, t)[0]), value, atol=5.1e-11)


@every
def test_the_gradient_is_that_of_differences(name, x64):
  s, t = maps((1, 3, 3, 5))
  check_grads(lambda s: LOSSES[name](s, jnp.array(t)), (jnp.array(s),), order=1,
              modes=["rev"], rtol=1e-6)


@every
def test_equality_is_zero_and_stationary(name, x64):
  s, _ = maps()
  values, gradient, _ = found(name, s, s)
  np.testing.assert_allclose(values, 0.0, atol=1e-30)
  if name != "margin":
    np.testing.assert_allclose(gradient, 0.0, atol=1e-14)


def test_a_constant_gap_is_its_square_at_every_size(x64):
  for height in (1, 2, 3, 4, 8):
    s = maps((2, height, height, 3))[0]
    np.testing.assert_allclose(
        stages.hierarchical_distance(jnp.array(s), jnp.array(s + 0.3)), 0.09)


@pytest.mark.parametrize(("height", "total"), [(2, 1.5), (4, 1.75), (8, 1.875)])
def test_the_sum_of_weights_by_height(height, total):
  """A gap that no window sees counts by the weight of the map's own size."""
  board = np.where(np.indices((height, height)).sum(0) % 2, 1.0, -1.0)
  board = jnp.array(board[None, :, :, None])
  np.testing.assert_allclose(
      stages.hierarchical_distance(board, 0 * board), 1 / total, rtol=1e-6)


def test_below_the_margin_a_student_may_be_anywhere_lower(x64):
  s, t = maps()
  low = np.minimum(t, MARGIN - 1.0)
  values, gradient, _ = found("margin", low - np.abs(s), low)
  np.testing.assert_array_equal(values, 0.0)
  np.testing.assert_array_equal(gradient, 0.0)
  # Above 0 it is the sum of squares.
  values, gradient, _ = found("margin", s, np.abs(t))
  np.testing.assert_allclose(
      values, ((s - np.abs(t))**2).sum((1, 2, 3)), rtol=1e-12)
  np.testing.assert_allclose(gradient, 2 * (s - np.abs(t)), rtol=1e-12)


def test_the_mean_of_class_maps_is_the_logits_without_bias(x64):
  s, _ = maps()
  kernel = np.random.default_rng(0).standard_normal((5, 7))
  a = stages.class_maps(jnp.array(s), jnp.array(kernel))
  np.testing.assert_allclose(
      np.mean(a, (1, 2)), s.mean((1, 2)) @ kernel, rtol=1e-12)
  z, v = s.mean((1, 2)) @ kernel, 0.5 * s.mean((1, 2)) @ kernel
  np.testing.assert_allclose(
      stages.class_map_distance(a, 0.5 * a, resolution=1), ((z - v)**2).mean(-1),
      rtol=1e-12)
  with pytest.raises(ValueError, match=r"5 channels.*takes 6"):
    stages.class_maps(jnp.array(s), jnp.zeros((6, 7)))


def test_a_normalised_map_has_no_size_and_one_of_zeros_no_gradient(x64):
  s, t = maps()
  np.testing.assert_allclose(
      found("where", 7.0 * s, 0.2 * t)[0], found("where", s, t)[0], rtol=1e-12)
  s[:, :, :, 2] = 0.0
  values, gradient, _ = found("where", s, t)
  assert np.isfinite(values).all()
  np.testing.assert_array_equal(gradient[:, :, :, 2], 0.0)


@every
def test_half_precision_is_widened_first(name):
  s, t = (jnp.asarray(x, jnp.bfloat16) for x in maps())
  wide = found(name, *(x.astype(jnp.float32) for x in (s, t)))
  values, gradient, _ = found(name, s, t)
  assert values.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(values, wide[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["review", "margin"])
def test_different_shapes_have_no_distance(name):
  with pytest.raises(ValueError, match="shapes must be equal"):
    LOSSES[name](jnp.zeros((2, 4, 4, 5)), jnp.zeros((2, 2, 2, 5)))
