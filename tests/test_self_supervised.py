"""Two views without labels against NumPy, by hand, and by what they do not see."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from kd_jax.losses import self_supervised

T = 0.5
ID = np.array([7, 3, 5, 7, 3, 5])
SECOND = np.arange(6) >= 3


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def draw(channels=4, seed=0, rows=6):
  return np.random.default_rng(seed).standard_normal((rows, channels))


def unit(z):
  return z / np.linalg.norm(z, axis=-1, keepdims=True)


def nt_xent(z, id, second, t):
  """Row by row, as the paper says it."""
  u, found = unit(z), []
  for b, row in enumerate(u):
    s = np.exp(u @ row / t)
    (twin,) = np.flatnonzero((id == id[b]) & (second != second[b]))
    found.append(-np.log(s[twin] / sum(s[c] for c in range(len(u)) if c != b)))
  return np.array(found)


def likeness(z, second, t):
  """For each row, who of the other view is like it."""
  u = unit(z)
  rows = []
  for b, row in enumerate(u):
    s = np.exp(u[second != second[b]] @ row / t)
    rows.append(s / s.sum())
  return np.array(rows)


def test_the_other_view_among_all_rows_is_numpys(x64):
  z = draw()
  got = self_supervised.nt_xent(jnp.asarray(z), ID, SECOND, T)
  np.testing.assert_allclose(got, nt_xent(z, ID, SECOND, T), rtol=1e-12)


def test_how_alike_others_are_is_numpys(x64):
  student, teacher = draw(4, 1), draw(9, 2)
  got = self_supervised.likeness_divergence(
      jnp.asarray(student), jnp.asarray(teacher), SECOND, 0.1)
  q, p = (likeness(z, SECOND, 0.1) for z in (student, teacher))
  np.testing.assert_allclose(got, (p * np.log(p / q)).sum(-1), rtol=1e-12)


def test_order_scale_and_rotation_are_not_seen(x64):
  """As a batch of several devices has its rows in another order."""
  z, order = draw(), np.array([4, 0, 5, 2, 1, 3])
  turn = np.linalg.qr(draw(4, 5, 4))[0]
  moved = jnp.asarray(3.0 * (z @ turn)[order])
  np.testing.assert_allclose(
      self_supervised.nt_xent(moved, ID[order], SECOND[order], T),
      nt_xent(z, ID, SECOND, T)[order], rtol=1e-12)
  other = jnp.asarray(draw(3, 2))
  np.testing.assert_allclose(
      self_supervised.likeness_divergence(moved, other[order], SECOND[order], T),
      self_supervised.likeness_divergence(jnp.asarray(z), other, SECOND, T)[order],
      rtol=1e-12)


def test_nets_that_find_the_same_alike_learn_nothing_from_each_other(x64):
  z = jnp.asarray(draw())
  value, gradient = jax.value_and_grad(
      lambda x: self_supervised.likeness_divergence(
          x, 2.0 * z, SECOND, T).sum())(z)
  np.testing.assert_allclose(value, 0, atol=1e-14)
  np.testing.assert_allclose(gradient, 0, atol=1e-14)


def test_who_is_asked_receives_no_gradient(x64):
  gradient = jax.grad(lambda t: self_supervised.likeness_divergence(
      jnp.asarray(draw()), t, SECOND, T).sum())(jnp.asarray(draw(3, 1)))
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("of", ["nt_xent", "divergence"])
def test_gradients_are_those_of_differences(x64, of):
  losses = {
      "nt_xent": lambda z: self_supervised.nt_xent(z, ID, SECOND, T),
      "divergence": lambda z: self_supervised.likeness_divergence(
          z, jnp.asarray(draw(3, 1)), SECOND, T)}
  check_grads(losses[of], (jnp.asarray(draw()),), order=1, modes=("rev",))


def test_masked_rows_are_in_no_sum(x64):
  """Also rows of an example that is valid elsewhere, as padding repeats ids."""
  z, mask = draw(rows=10), np.array([1, 1, 1, 0, 0, 1, 1, 1, 0, 0], bool)
  id = jnp.asarray([7, 3, 5, 7, 3] * 2)
  second, other = jnp.arange(10) >= 5, draw(3, 1, 10)

  def both(z):
    return (self_supervised.nt_xent(z, id, second, T, mask)[mask],
            self_supervised.likeness_divergence(
                z, jnp.asarray(other), second, T, mask)[mask])

  contrast, alike = both(jnp.asarray(z))
  np.testing.assert_allclose(
      contrast, nt_xent(z[mask], ID, SECOND, T), rtol=1e-12)
  q, p = (likeness(x[mask], SECOND, T) for x in (z, other))
  np.testing.assert_allclose(alike, (p * np.log(p / q)).sum(-1), rtol=1e-12)
  gradient = jax.grad(lambda z: sum(map(jnp.sum, both(z))))(jnp.asarray(z))
  np.testing.assert_array_equal(gradient[~mask], 0)


def test_one_example_has_nothing_to_be_told_from():
  z, second = jnp.eye(2), jnp.array([False, True])
  one = jnp.zeros(2, jnp.int32)
  np.testing.assert_array_equal(
      self_supervised.nt_xent(z, one, second, T), 0)
  np.testing.assert_array_equal(
      self_supervised.likeness_divergence(z, z, second, T), 0)


def test_zeros_equal_rows_and_a_cold_temperature_stay_finite():
  large = 1e6 * jnp.asarray(draw(), jnp.float32)
  for z in (jnp.zeros((6, 4)), jnp.ones((6, 4)), large):
    loss = lambda z: (
        self_supervised.nt_xent(z, ID, SECOND, 0.01).sum()
        + self_supervised.likeness_divergence(
            z, jnp.asarray(draw(3, 1), jnp.float32), SECOND, 0.01).sum())
    value, gradient = jax.value_and_grad(loss)(z)
    assert np.isfinite(value) and np.isfinite(gradient).all()
