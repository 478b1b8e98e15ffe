"""WKD against NumPy, golden values, by hand, by identities, and where it ends."""

import functools

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from test_features import maps

from kd_jax.losses import wasserstein


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


# Means and deviations of maps.


def slow_moments(s, t, grid, epsilon=1e-5):
  """Cell by cell and channel by channel."""
  found = np.zeros((2, len(s)))
  for b in range(len(s)):
    for cell in np.ndindex(grid, grid):
      for c in range(s.shape[-1]):
        numbers = []
        for x in (s, t):
          high, wide = x.shape[1] // grid, x.shape[2] // grid
          part = x[b, cell[0] * high:(cell[0] + 1) * high,
                   cell[1] * wide:(cell[1] + 1) * wide, c].ravel()
          mean = part.sum() / len(part)
          variance = ((part - mean)**2).sum() / (len(part) - 1)
          numbers.append((mean, np.sqrt(variance + epsilon)))
        (m, d), (n, e) = numbers
        found[:, b] += np.array([(m - n)**2, (d - e)**2]) / grid**2
  return found


@pytest.mark.parametrize("grid", [1, 2])
def test_moments_are_numpys(grid, x64):
  s, t = maps()
  found = wasserstein.gaussian_distance(jnp.array(s), jnp.array(t), grid=grid)
  np.testing.assert_allclose(found, slow_moments(s, t, grid), rtol=1e-12)
  # The maps may have different sizes.
  found = wasserstein.gaussian_distance(jnp.array(s), jnp.array(t[:, :, :2]))
  np.testing.assert_allclose(found, slow_moments(s, t[:, :, :2], 1), rtol=1e-12)


def test_the_golden_value_of_moments(x64):
  means, deviations = wasserstein.gaussian_distance(*map(jnp.array, maps()))
  np.testing.assert_allclose(
      jnp.mean(4 * means + deviations), 15.3345118232, atol=5.1e-11)


def test_moments_by_hand():
  # Means 2 and 0; variances of n - 1 are 2 and 0: 4, and (sqrt 2)**2.
  s = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
  found = wasserstein.gaussian_distance(s, jnp.zeros_like(s), epsilon=0.0)
  np.testing.assert_allclose(np.ravel(found), [4.0, 2.0], rtol=1e-6)


def test_a_constant_gap_is_its_square_a_channel(x64):
  s, _ = map(jnp.array, maps())
  means, deviations = wasserstein.gaussian_distance(s, s + 0.5, grid=2)
  np.testing.assert_allclose(means, 5 * 0.5**2)
  np.testing.assert_allclose(deviations, 0.0, atol=1e-25)


def test_places_within_a_cell_are_not_seen(x64):
  s, t = maps()
  order = np.random.default_rng(0).permutation(8)
  mixed = s.reshape(4, 2, 8, 5)[:, :, order].reshape(s.shape)  # rows of two
  value = lambda s, grid: np.array(
      wasserstein.gaussian_distance(jnp.array(s), jnp.array(t), grid=grid))
  np.testing.assert_allclose(value(mixed, 1), value(s, 1), rtol=1e-12)
  assert np.abs(value(mixed, 2) - value(s, 2)).max() > 1e-3


def test_moments_have_the_gradient_of_differences_and_none_to_the_teacher(x64):
  s, t = (jnp.array(x[:2, :2]) for x in maps())
  both = lambda s: sum(map(jnp.sum, wasserstein.gaussian_distance(s, t)))
  check_grads(both, (s,), order=1, modes=["rev"], rtol=1e-6)
  teacher = jax.grad(lambda t: sum(map(
      jnp.sum, wasserstein.gaussian_distance(s, t))))(t)
  np.testing.assert_array_equal(teacher, 0.0)


def test_a_flat_map_has_a_finite_gradient():
  flat = jnp.ones((1, 2, 2, 3))
  both = lambda s: sum(map(jnp.sum, wasserstein.gaussian_distance(s, 2 * flat)))
  assert np.isfinite(jax.grad(both)(flat)).all()


@pytest.mark.parametrize(("shape", "grid"), [
    ((2, 1, 1, 3), 1), ((2, 4, 4, 3), 4), ((2, 4, 4, 3), 3), ((2, 3), 1),
    ((2, 4, 4, 9), 1)])
def test_cells_of_one_pixel_and_other_channels_are_refused(shape, grid):
  with pytest.raises(ValueError, match="two pixels") as error:
    wasserstein.gaussian_distance(
        jnp.zeros(shape), jnp.zeros((2, 4, 4, 3)), grid=grid)
  assert str(shape) in str(error.value)


# Transport between classes.


def logits(batch=3, classes=6, seed=0):
  draw = np.random.default_rng(seed)
  z, v = 3 * draw.standard_normal((2, batch, classes))
  return z, v, draw.integers(0, classes, batch), draw.standard_normal((4, classes))


def slow_cost(kernel, sharpness):
  n = kernel.shape[1]
  cost = np.zeros((n, n))
  for i in range(n):
    for j in range(n):
      cosine = kernel[:, i] @ kernel[:, j] / (
          np.linalg.norm(kernel[:, i]) * np.linalg.norm(kernel[:, j]))
      cost[i, j] = 1 - np.exp(-sharpness * (1 - cosine))
  return cost


def slow_transport(z, v, y, cost, t, r, iterations=10):
  """Sinkhorn of the classes that are left, example by example."""
  values = []
  for row in range(len(z)):
    left = np.flatnonzero(np.arange(z.shape[1]) != y[row])
    q, p = (np.exp(x[row, left] / t) / np.exp(x[row, left] / t).sum()
            for x in (z, v))
    c = np.maximum(cost[np.ix_(left, left)], 0) + 1e-8
    kernel = np.exp(-c / r)
    u = np.ones(len(left)) / len(left)
    for _ in range(iterations):
      w = p / (kernel.T @ u + 1e-8)
      u = q / (kernel @ w + 1e-8)
    values.append((u[:, None] * kernel * w[None, :] * c).sum())
  return np.array(values)


def test_the_cost_is_numpys_and_has_no_gradient(x64):
  kernel = logits()[-1]
  found = wasserstein.cost_of_classes(jnp.array(kernel), 1.7)
  np.testing.assert_allclose(found, slow_cost(kernel, 1.7), atol=1e-14)
  np.testing.assert_array_equal(np.diag(found), 0.0)
  through = jax.grad(lambda w: jnp.sum(wasserstein.cost_of_classes(w)))(
      jnp.array(kernel))
  np.testing.assert_array_equal(through, 0.0)


@jax.jit
def transport(z, v, y, cost, t, r):
  def total(z, v):
    value = wasserstein.transport_distance(z, v, y, cost, t, regularisation=r)
    return jnp.sum(value), value
  gradients, value = jax.grad(total, (0, 1), has_aux=True)(z, v)
  return value, *gradients


@pytest.mark.parametrize(("t", "r"), [(1.0, 0.05), (8.0, 0.3)])
def test_transport_is_numpys(t, r, x64):
  z, v, y, kernel = logits()
  cost = slow_cost(kernel, 1.0)
  value, gradient, teacher = transport(z, v, y, cost, t, r)
  np.testing.assert_allclose(value, slow_transport(z, v, y, cost, t, r), rtol=1e-11)
  np.testing.assert_array_equal(teacher, 0.0)
  np.testing.assert_array_equal(gradient[np.arange(3), y], 0.0)
  value = lambda z: wasserstein.transport_distance(
      z, v, y, cost, t, regularisation=r)
  check_grads(value, (jnp.array(z),), order=1, modes=["rev"], rtol=1e-5)
  alone = transport(z[1:2], v[1:2], y[1:2], cost, t, r)[0]
  np.testing.assert_allclose(alone, transport(z, v, y, cost, t, r)[0][1:2],
                             rtol=1e-13)


def test_where_all_moves_cost_1_it_is_half_the_gap_of_probabilities(x64):
  """Whatever is too much somewhere has to move; of the others nothing has to."""
  z, v, y, _ = logits()
  value = wasserstein.transport_distance(
      jnp.array(z), jnp.array(v), y, 1 - jnp.eye(6), 2.0, regularisation=0.1,
      iterations=3000)
  others = np.ones((3, 6), bool)
  others[np.arange(3), y] = False
  q, p = (np.where(others, np.exp(x / 2), 0) for x in (z, v))
  q, p = (x / x.sum(-1, keepdims=True) for x in (q, p))
  np.testing.assert_allclose(value, np.abs(q - p).sum(-1) / 2, rtol=5e-3)


def test_alike_classes_are_near_and_a_shift_is_not_seen(x64):
  z = jnp.array([[0.0, 9.0, 0.0, 0.0]])
  y = jnp.array([3])
  cost = jnp.array([[0, 1, 1, 1], [1, 0, 0.1, 1], [1, 0.1, 0, 1], [1, 1, 1, 0]])
  far, near = (wasserstein.transport_distance(z, v, y, cost, 1.0)[0] for v in (
      jnp.array([[9.0, 0, 0, 0]]), jnp.array([[0, 0, 9.0, 0]])))
  assert near < 0.2 * far
  v = jnp.array([[9.0, 0, 0, 0]])
  moved = wasserstein.transport_distance(z + 5, v - 3, y, cost, 1.0)
  np.testing.assert_allclose(moved, [far], rtol=1e-12)


def test_huge_logits_stay_finite():
  z, v, y, kernel = logits()
  found = transport(*(jnp.float32(1000 * x) for x in (z, v)), y,
                    jnp.float32(slow_cost(kernel, 1.0)), 1.0, 0.05)
  assert all(np.isfinite(x).all() for x in found)


# Whole methods of maps and of logits are in test_feature_terms.py.
halves = functools.partial(jnp.asarray, dtype=jnp.bfloat16)


def test_half_precision_is_widened_first():
  s, t = map(halves, maps())
  wide = [x.astype(jnp.float32) for x in (s, t)]
  np.testing.assert_array_equal(
      wasserstein.gaussian_distance(s, t), wasserstein.gaussian_distance(*wide))
