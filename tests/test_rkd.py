"""RKD against NumPy, golden values, by hand, by identities, and where it ends."""

import derivatives
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import rkd

LOSSES = {"distance": rkd.distance_loss, "angle": rkd.angle_loss}
every = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def example(batch=6, channels=(4, 7), seed=0):
  draw = np.random.default_rng(seed)
  return tuple(draw.standard_normal((batch, c)) for c in channels)


def smooth_l1(x):
  return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def distances(e):
  """Each over the mean of those between different examples."""
  n = len(e)
  d = np.zeros((n, n))
  for i in range(n):
    for j in range(n):
      if i != j:
        d[i, j] = np.sqrt(max(sum((e[i] - e[j])**2), 1e-12))
  return d / (d.sum() / (n * (n - 1)))


def cosines(e):
  n = len(e)
  a = np.zeros((n, n, n))
  for i in range(n):
    for j in range(n):
      for k in range(n):
        one, two = e[j] - e[i], e[k] - e[i]
        lengths = [max(np.linalg.norm(x), 1e-12) for x in (one, two)]
        a[i, j, k] = np.dot(one, two) / (lengths[0] * lengths[1])
  return a


def oracle(name, s, t):
  relation = distances if name == "distance" else cosines
  gaps = relation(s) - relation(t)
  return sum(smooth_l1(x) for x in gaps.ravel()) / gaps.size


found = derivatives.of_batches(LOSSES)


@every
def test_values_and_gradients_are_the_papers(name, x64):
  s, t = example()
  value, gradient, teacher = found(name, s, t)
  np.testing.assert_allclose(value, oracle(name, s, t), rtol=1e-12)
  np.testing.assert_array_equal(teacher, 0.0)
  np.testing.assert_allclose(gradient, derivatives.slopes(
      lambda s: oracle(name, s, t), s), rtol=1e-6, atol=1e-9)


@every
def test_the_authors_code_says_so(name, x64):
  """RepDistiller's RKDLoss in float64, of embeddings that have formulas."""
  b, c = np.ogrid[:4, :5]
  s = (np.sin(0.37 + 1.1 * b + 0.7 * c)
       + 0.3 * np.sin((0.2 + 0.9 * b + 0.43 * c)**2))
  t = (np.cos(0.53 + 1.3 * b + 0.7 + 0.2 * 2 + 0.5 * c)
       + 0.3 * np.cos((0.1 + 0.7 * b + 0.23 + 0.41 * 2 + 0.37 * c)**2))
  golden = {"distance": 0.0048177837, "angle": 0.0027984588}
  np.testing.assert_allclose(found(name, s, t)[0], golden[name], atol=5.1e-11)


def test_values_by_hand(x64):
  # Three points in a row, 1 apart: D / mean = 3/4, 3/4, 3/2 and cosines 1, -1, 1.
  # A triangle of equal sides: all 1, and all 1/2. Each pair and each angle counts
  # twice: 2 (1/16 + 1/16 + 1/4) / 2 / 3**2, and 2 (1/8 + (3/2 - 1/2) + 1/8) / 3**3.
  row = np.array([[0.0], [1.0], [2.0]])
  triangle = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, np.sqrt(3.0)]])
  np.testing.assert_allclose(found("distance", row, triangle)[0], 1 / 24)
  np.testing.assert_allclose(found("angle", row, triangle)[0], 5 / 54)
  # Beyond 1 it is a line. The student has one point apart from three equal ones:
  # D / mean = 2 three times and (to 1e-6) 0 three times. So has the teacher, but
  # another one. Two pairs have a gap of 2, two of -2, each twice: 8 (3/2) / 4**2.
  s, t = np.array([[0.0], [0.0], [0.0], [4.0]]), np.array([[0.0], [1], [1], [1]])
  np.testing.assert_allclose(found("distance", s, t)[0], 0.75, rtol=1e-5)


@every
def test_rotation_translation_and_scale_are_not_seen(name, x64):
  s, t = example()
  draw = np.random.default_rng(1)
  value = found(name, s, t)[0]

  def moved(e):
    turn, _ = np.linalg.qr(draw.standard_normal((e.shape[1],) * 2))
    return 37.0 * e @ turn + draw.standard_normal(e.shape[1])

  np.testing.assert_allclose(found(name, moved(s), t)[0], value, rtol=1e-11)
  np.testing.assert_allclose(found(name, s, moved(t))[0], value, rtol=1e-11)
  same, gradient, _ = found(name, moved(t), t)
  np.testing.assert_allclose(same, 0.0, atol=1e-26)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-14)
  assert value > 1e-3, "of others it is seen"


def test_the_students_mean_has_a_gradient(x64):
  """As the value does not depend on the scale, no gradient points along it."""
  s, t = example()
  gradient = found("distance", s, t)[1]
  assert abs((gradient * s).sum()) < 1e-15 < 1e-3 < np.abs(gradient).max()


@every
def test_the_order_of_examples_is_not_seen(name, x64):
  s, t = example()
  order = [3, 1, 5, 0, 2, 4]
  value, gradient, _ = found(name, s, t)
  again, turned, _ = found(name, s[order], t[order])
  np.testing.assert_allclose(again, value, rtol=1e-13)
  np.testing.assert_allclose(turned, gradient[order], rtol=1e-10, atol=1e-14)
  assert found(name, s[order], t)[0] > 1.1 * value


@every
def test_masked_rows_are_as_if_they_were_not_there(name, x64):
  s, t = example()
  mask = np.array([True, True, False, True, False, True])
  short = found(name, s[mask], t[mask])
  for garbage in (0.0, 1e200, np.inf, np.nan):
    s[~mask] = t[~mask] = garbage
    value, gradient, teacher = found(name, s, t, mask)
    np.testing.assert_allclose(value, short[0], rtol=1e-14)
    np.testing.assert_allclose(gradient[mask], short[1], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(gradient[~mask], 0.0)
    np.testing.assert_array_equal(teacher, 0.0)


@every
def test_equal_embeddings_are_zero(name, x64):
  s, _ = example()
  value, gradient, _ = found(name, s, s)
  np.testing.assert_allclose(value, 0.0, atol=1e-30)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)


@every
def test_two_examples_have_no_relation_to_learn(name, x64):
  """One distance, which is its own mean, and no triangle."""
  s, t = example(batch=2)
  value, gradient, _ = found(name, s, t)
  np.testing.assert_allclose(value, 0.0, atol=1e-30)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-15)


@every
@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_examples_are_zero(name, valid):
  s, t = (x.astype(np.float32) for x in example())
  value, gradient, _ = found(name, s, t, np.arange(6) < valid)
  assert value == 0.0
  np.testing.assert_array_equal(gradient, 0.0)
  value, gradient, _ = found(name, s[:valid], t[:valid])
  assert value == 0.0
  np.testing.assert_array_equal(gradient, 0.0)


@every
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_examples_that_are_equal_have_small_gradients(name, size):
  """Two equal rows, all rows equal, all rows 0, of either net; float32."""
  s, t = (size * x.astype(np.float32) for x in example())
  some = lambda x: np.concatenate([x[:4], x[:2]])
  for make in (some, lambda x: np.zeros_like(x) + x[0], np.zeros_like):
    for student, teacher in ((make(s), t), (s, make(t)), (make(s), make(t))):
      value, gradient, _ = found(name, student, teacher)
      assert np.isfinite(value)
      assert (size * np.abs(gradient) < 1.0).all()  # and so no NaN


@every
def test_equal_rows_count_as_in_the_authors_code(name, x64):
  """A distance of 1e-6, which is in the mean, and a cosine of 0."""
  s, t = example()
  s[4] = s[1]
  np.testing.assert_allclose(found(name, s, t)[0], oracle(name, s, t), rtol=1e-12)


@every
def test_a_nan_of_a_valid_row_is_not_hidden(name):
  s, t = (x.astype(np.float32) for x in example())
  s[3, 1] = np.nan
  assert np.isnan(found(name, s, t)[0])


@every
def test_half_precision_is_widened_first(name):
  s, t = (jnp.asarray(x).astype(jnp.bfloat16) for x in example())
  wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (s, t)]
  value, gradient, _ = found(name, s, t)
  assert value.dtype == np.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(value, oracle(name, *wide), rtol=1e-5)


@every
def test_float32_is_float64_rounded_however_far_from_zero(name):
  s, t = (1000 + x.astype(np.float32) for x in example(channels=(64, 256)))
  single = found(name, s, t)
  with jax.enable_x64(True):
    double = found(name, s.astype(np.float64), t.astype(np.float64))
  for own, exact in zip(single, double, strict=True):
    assert own.dtype == np.float32 and exact.dtype == np.float64
    np.testing.assert_allclose(own, exact, rtol=2e-5, atol=1e-7)


@every
def test_compiled_is_eager_and_no_mask_is_all_valid(name, x64):
  s, t = map(jnp.asarray, example())
  np.testing.assert_allclose(LOSSES[name](s, t), found(name, s, t)[0], rtol=1e-14)


@every
@pytest.mark.parametrize("shapes", [
    ((6, 4), (5, 4)), ((6, 2, 2, 4), (6, 4)), ((6, 4), (6,))])
def test_what_is_no_embedding_is_refused(name, shapes):
  with pytest.raises(ValueError, match="embeddings") as error:
    LOSSES[name](*map(jnp.zeros, shapes))
  assert all(str(shape) in str(error.value) for shape in shapes)
