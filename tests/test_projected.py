"""Distances of projected embeddings against NumPy, golden values, identities."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from test_features import maps

from kd_jax.losses import features, projected

BATCH = {
    "log": projected.log_distance, "correlation": projected.correlation_loss,
    "information": projected.information_loss}
of_a_batch = pytest.mark.parametrize("name", BATCH)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def example(batch=6, channels=(4, 4), seed=0):
  draw = np.random.default_rng(seed)
  return tuple(draw.standard_normal((batch, c)) for c in channels)


def slow(name, s, t, alpha=1.01):
  n = len(s)
  if name == "log":
    x, y = ((e - e.mean(0)) / np.sqrt(e.var(0) + 1e-4) for e in (s, t))
    return np.log(1e-5 + sum(abs(g)**4 for g in (x - y).ravel()))
  if name == "correlation":
    total = 0.0
    for d in range(s.shape[1]):
      x, y = ((e[:, d] - e[:, d].mean()) / e[:, d].std(ddof=1) for e in (s, t))
      total += abs(x @ y / n - 1)**(2 * alpha)
    return np.log2(total)
  gram = lambda e: np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                              for b in e] for a in e])
  g, joint = gram(s), gram(s) * gram(t)
  return ((g / np.trace(g))**2).sum() - ((joint / np.trace(joint))**2).sum()


def found(name, s, t, mask=None):
  """Value and gradients in student and teacher."""
  mask = np.ones(len(s), bool) if mask is None else mask
  value, gradients = _found(name)(jnp.asarray(s), jnp.asarray(t), jnp.asarray(mask))
  return value, *gradients


def _found(name):
  return jax.jit(jax.value_and_grad(BATCH[name], argnums=(0, 1)))


@of_a_batch
def test_values_are_the_papers(name, x64):
  s, t = example()
  value, _, teacher = found(name, s, t)
  np.testing.assert_allclose(value, slow(name, s, t), rtol=1e-12)
  np.testing.assert_array_equal(teacher, 0.0)
  check_grads(lambda s: BATCH[name](s, jnp.array(t)), (jnp.array(s),), order=1,
              modes=["rev"], rtol=1e-6)


def test_golden_values_of_the_released_modules(x64):
  s, t = maps()
  s, t = jnp.array(s[:, 0, 0, :]), jnp.array(t[:, 1, 2, :])
  close = lambda value, golden: np.testing.assert_allclose(
      value, golden, atol=5.1e-11)
  close(projected.log_distance(s, t, epsilon=0.0), 6.1498495887)
  close(projected.correlation_loss(s, t), 3.7487486338)
  close(jnp.mean(projected.angle_distance(jnp.maximum(s, 0), t)), 1.4802449681)


def test_values_by_hand():
  s, t = jnp.array([[0.0], [2.0]]), jnp.array([[5.0], [1.0]])
  # Standardised -1, 1 and 1, -1: 2 * 2**4. Of n - 1 they are 1 / sqrt 2 of that:
  # c = 1/2 * 2 * -1/2 = -1/2.
  np.testing.assert_allclose(
      projected.log_distance(s, t, of_variance=0.0, epsilon=0.0), np.log(32),
      rtol=1e-6)
  np.testing.assert_allclose(
      projected.correlation_loss(s, t, alpha=1.0), np.log2(9 / 4), rtol=1e-5)
  # All alike and all unlike: 1/2 everywhere against 1/2 on the diagonal.
  alike = jnp.array([[1.0, 0.0], [3.0, 0.0]])
  np.testing.assert_allclose(
      projected.information_loss(alike, jnp.eye(2)), 0.5, rtol=1e-6)


@of_a_batch
def test_masked_rows_are_as_if_they_were_not_there(name, x64):
  s, t = example()
  mask = np.array([True, True, False, True, False, True])
  short = found(name, s[mask], t[mask])
  for garbage in (0.0, 1e100, np.inf, np.nan):
    s[~mask] = t[~mask] = garbage
    value, gradient, teacher = found(name, s, t, mask)
    np.testing.assert_allclose(value, short[0], rtol=1e-13)
    np.testing.assert_allclose(gradient[mask], short[1], rtol=1e-11, atol=1e-14)
    np.testing.assert_array_equal(gradient[~mask], 0.0)
    np.testing.assert_array_equal(teacher, 0.0)


@of_a_batch
@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_examples_are_zero(name, valid):
  s, t = (x.astype(np.float32) for x in example())
  for value, gradient, _ in (found(name, s, t, np.arange(6) < valid),
                             found(name, s[:valid], t[:valid])):
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@of_a_batch
def test_dead_channels_rows_and_equal_batches_are_finite(name):
  s, t = (x.astype(np.float32) for x in example())
  dead, empty = s.copy(), s.copy()
  dead[:, 1], empty[2] = 7.0, 0.0
  for student, teacher in ((dead, t), (s, dead), (empty, t), (s, empty), (t, t),
                           (np.zeros_like(s), t), (s[:2], t[:2])):
    value, gradient, _ = found(name, student, teacher)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@of_a_batch
def test_the_order_of_examples_is_not_seen(name, x64):
  s, t = example()
  order = [3, 1, 5, 0, 2, 4]
  value = found(name, s, t)[0]
  np.testing.assert_allclose(found(name, s[order], t[order])[0], value, rtol=1e-12)
  assert abs(found(name, s[order], t)[0] - value) > 1e-3


def test_what_does_not_change_the_distances_of_a_batch(x64):
  s, t = example()
  affine = 3.0 * t * np.array([1.0, 2.0, 0.5, 4.0]) - 7.0
  np.testing.assert_allclose(  # up to the 1e-4 beside the variance
      found("log", s, affine)[0], found("log", s, t)[0], rtol=1e-3)
  np.testing.assert_allclose(found("correlation", s, affine)[0],
                             found("correlation", s, t)[0], rtol=1e-11)
  np.testing.assert_allclose(found("correlation", 5 * s + 1, t)[0],
                             found("correlation", s, t)[0], rtol=1e-11)
  turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))
  np.testing.assert_allclose(found("information", 3 * s @ turn, 0.2 * t)[0],
                             found("information", s, t)[0], rtol=1e-11)


def test_the_log_distance_does_not_grow_with_the_batch_but_by_its_log(x64):
  s, t = example()
  twice = lambda e: np.concatenate([e, e])
  one, two = found("log", s, t), found("log", twice(s), twice(t))
  np.testing.assert_allclose(two[0], one[0] + np.log(2), rtol=1e-5)
  np.testing.assert_allclose(2 * two[1][:6], one[1], rtol=1e-4)


def test_equality_is_the_floor_that_is_told(x64):
  s, _ = example(batch=50)
  np.testing.assert_allclose(found("log", s, s)[0], np.log(1e-5), rtol=1e-12)
  np.testing.assert_allclose(
      found("correlation", s, s)[0], np.log2(4 * 50**-2.02), rtol=1e-10)
  _, gradient, _ = found("log", s, s)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-20)


def test_information_of_a_teacher_without_relations_to_add_is_zero(x64):
  """Its Gram matrix is of ones: everything is alike."""
  s, _ = example()
  t = np.outer(np.arange(1.0, 7.0), np.ones(3))
  np.testing.assert_allclose(found("information", s, t)[0], 0.0, atol=1e-15)
  assert found("information", s, example(seed=2)[1])[0] > 0.01


# Those of an example.


@jax.jit
def angle(s, t):
  total = lambda s, t: jnp.sum(projected.angle_distance(s, t))
  return projected.angle_distance(s, t), *jax.grad(total, (0, 1))(s, t)


def test_the_angle_is_numpys_and_has_no_scale(x64):
  s, t = example(channels=(5, 5))
  value, _, teacher = angle(s, t)
  np.testing.assert_allclose(value, [
      1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(s, t)],
      rtol=1e-12)
  np.testing.assert_array_equal(teacher, 0.0)
  np.testing.assert_allclose(angle(3 * s, 0.1 * t)[0], value, rtol=1e-12)
  np.testing.assert_allclose(angle(2 * t, t)[0], 0.0, atol=1e-15)
  np.testing.assert_allclose(angle(-t, t)[0], 2.0)
  check_grads(lambda s: projected.angle_distance(s, jnp.array(t)),
              (jnp.array(s),), order=1, modes=["rev"], rtol=1e-6)
  np.testing.assert_allclose(angle(s[:1], t[:1])[0], value[:1], rtol=1e-14)


def test_an_angle_with_nothing_is_1_without_gradient():
  value, gradient, _ = angle(jnp.zeros((2, 3)), jnp.ones((2, 3)))
  np.testing.assert_array_equal(value, 1.0)
  np.testing.assert_array_equal(gradient, 0.0)


@jax.jit
def direction(s, t, c):
  total = lambda *given: jnp.sum(projected.direction_distance(*given))
  return (projected.direction_distance(s, t, c),
          jax.grad(total, (0, 1, 2))(s, t, c))


def test_the_direction_is_numpys(x64):
  s, t = example(channels=(5, 5))
  c = example(seed=1, channels=(5,))[0]
  s[:3] *= 5  # Longer than the teacher's, so in the maximum.
  value, (_, *others) = direction(s, t, c)
  norm = np.linalg.norm
  np.testing.assert_allclose(value, [
      1 - a @ (k / norm(k)) / max(norm(a), norm(b)) for a, b, k in zip(s, t, c)],
      rtol=1e-12)
  for each in others:
    np.testing.assert_array_equal(each, 0.0)
  check_grads(lambda s: projected.direction_distance(s, jnp.array(t), jnp.array(c)),
              (jnp.array(s),), order=1, modes=["rev"], rtol=1e-6)


def test_the_direction_is_zero_only_along_the_centre_and_long_enough(x64):
  t, c = example(channels=(5, 5))
  along = c / np.linalg.norm(c, axis=-1, keepdims=True)
  length = np.linalg.norm(t, axis=-1, keepdims=True)
  np.testing.assert_allclose(direction(length * along, t, c)[0], 0.0, atol=1e-15)
  np.testing.assert_allclose(
      direction(9 * length * along, t, c)[0], 0.0, atol=1e-15)
  np.testing.assert_allclose(direction(length / 2 * along, t, c)[0], 0.5)
  np.testing.assert_allclose(direction(-9 * length * along, t, c)[0], 2.0)
  # Longer than the teacher there is no gradient along the embedding.
  _, (gradient, *_) = direction(9 * t, t, c)
  np.testing.assert_allclose((gradient * t).sum(-1), 0.0, atol=1e-15)


def test_a_student_of_zeros_is_finite():
  zeros = jnp.zeros((2, 3))
  for t, c in ((zeros, zeros), (zeros, zeros + 1), (zeros + 1, zeros)):
    value, gradients = direction(zeros, t, c)
    assert np.isfinite(value).all() and np.isfinite(gradients[0]).all()


@of_a_batch
def test_what_is_no_embedding_is_refused(name):
  with pytest.raises(ValueError, match="one batch"):
    BATCH[name](jnp.zeros((2, 2, 3)), jnp.zeros((2, 3)))


@pytest.mark.parametrize("net", [0, 1])
@pytest.mark.parametrize("loss", [
    projected.angle_distance, projected.log_distance, projected.correlation_loss,
    projected.information_loss, features.boundary_distance])
def test_a_net_that_has_diverged_shows(loss, net):
  both = [np.ones((4, 3)), np.eye(4, 3)]
  both[net] = both[net].copy()
  both[net][1, 2] = np.nan
  assert np.isnan(np.asarray(loss(*map(jnp.asarray, both)))).any()
