"""SP, PKT, CC against NumPy, golden values, by hand, by identities, at the ends."""

import derivatives
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from test_features import maps as golden_maps

from kd_jax.losses import similarity

LOSSES = {
    "similarity": similarity.similarity_loss,
    "affinity": similarity.affinity_loss,
    "congruence": similarity.congruence_loss,
    "kernel": similarity.kernel_loss,
}
# Those of pairs; the teacher of the other has a gradient, and its channels.
PAIRS = ("similarity", "affinity", "kernel")
every = pytest.mark.parametrize("name", LOSSES)
of_pairs = pytest.mark.parametrize("name", PAIRS)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def example(batch=6, channels=(5, 5), seed=0):
  draw = np.random.default_rng(seed)
  return tuple(draw.standard_normal((batch, c)) for c in channels)


def cosine(a, b, beside=0.0):
  norms = [np.linalg.norm(x) + beside for x in (a, b)]
  return np.dot(a, b) / (norms[0] * norms[1])


def oracle(name, s, t):
  n = len(s)
  if name == "congruence":
    gap = np.abs(s - t)
    return np.mean([gap[b] @ gap[b + 1] for b in range(n - 1)])
  total = 0.0
  for i in range(n):
    if name == "similarity":
      rows = [np.array([x[i] @ x[j] for j in range(n)]) for x in (s, t)]
      total += 2 * (1 - cosine(*rows))
    elif name == "affinity":
      near = [np.array([(1 + cosine(x[i], x[j], 1e-7)) / 2 for j in range(n)])
              for x in (s, t)]
      q, p = (x / x.sum() for x in near)
      total += (p * np.log((p + 1e-7) / (q + 1e-7))).sum()
    else:
      for j in range(n):
        c = [0.8 * cosine(x[i], x[j]) for x in (s, t)]
        k = [1 + x + x * x / 2 for x in c]
        total += (np.exp(-0.8) * (k[0] - k[1]))**2
  return total / n**2


found = derivatives.of_batches(LOSSES)


@every
def test_values_and_gradients_are_the_papers(name, x64):
  s, t = example()
  value, gradient, teacher = found(name, s, t)
  np.testing.assert_allclose(value, oracle(name, s, t), rtol=1e-12)
  np.testing.assert_allclose(gradient, derivatives.slopes(
      lambda s: oracle(name, s, t), s), rtol=1e-6, atol=1e-9)
  check_grads(jax.jit(lambda s: LOSSES[name](s, t)), (s,), order=1, rtol=1e-5)
  if name == "congruence":  # Its embedding of the teacher is trained.
    np.testing.assert_allclose(teacher, derivatives.slopes(
        lambda t: oracle(name, s, t), t), rtol=1e-6, atol=1e-9)
  else:
    np.testing.assert_array_equal(teacher, 0.0)


@pytest.mark.parametrize(("name", "golden"), [
    ("similarity", 0.0218437079), ("affinity", 0.0099783599),
    ("congruence", 5.1357897751)])
def test_the_authors_code_gives_these(name, golden, x64):
  """Released modules in float64, of taps that have formulas; SP's are maps."""
  s, t = map(jnp.asarray, golden_maps())
  if name != "similarity":
    s, t = s[:, 0, 0], t[:, 1, 2]
  np.testing.assert_allclose(LOSSES[name](s, t), golden, atol=5.1e-11)


def test_values_by_hand(x64):
  # Two alike, against two that are at right angles.
  s, t = np.ones((2, 2)), np.eye(2)
  # Rows (1, 1) / sqrt(2) and (1, 0): 2 of 2 - sqrt(2), over 4.
  np.testing.assert_allclose(found("similarity", s, t)[0], 1 - np.sqrt(0.5))
  # 1/2 and 1/2, against 2/3 and 1/3, twice over 4.
  np.testing.assert_allclose(
      found("affinity", s, t)[0], np.log(32 / 27) / 6, rtol=1e-6)
  # Off the diagonal exp(-0.8) times 1 + 0.8 + 0.32 and 1.
  np.testing.assert_allclose(
      found("kernel", s, t)[0], 2 * (1.12 * np.exp(-0.8))**2 / 4)
  # Gaps (0, 1), (1, 0): they never meet. Then (1, 1) and (2, 2).
  np.testing.assert_allclose(found("congruence", s, t)[0], 0.0)
  np.testing.assert_allclose(
      found("congruence", s, np.array([[0.0, 0], [3, 3]]))[0], 4.0)


@of_pairs
def test_rotation_and_scale_are_not_seen(name, x64):
  s, t = example()
  value = found(name, s, t)[0]
  turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))
  # Of each row but in SP, where rows with large products count more.
  scale = 3.0 if name == "similarity" else np.arange(1.0, 7.0)[:, None]
  moved = lambda e: scale * e @ turn
  np.testing.assert_allclose(found(name, moved(s), t)[0], value, rtol=1e-5)
  np.testing.assert_allclose(found(name, s, moved(t))[0], value, rtol=1e-5)
  np.testing.assert_allclose(found(name, moved(t), t)[0], 0.0, atol=1e-9)
  # A shift is.
  assert abs(found(name, s + 1.0, t)[0] / value - 1) > 0.01


def test_each_row_of_similarity_has_its_scale_seen(x64):
  s, t = example()
  scaled = 2.0**np.arange(6)[:, None] * s
  value = found("similarity", s, t)[0]
  assert abs(found("similarity", scaled, t)[0] / value - 1) > 0.01


@of_pairs
def test_the_order_of_examples_is_not_seen(name, x64):
  s, t = example()
  order = [3, 1, 5, 0, 2, 4]
  value, gradient, _ = found(name, s, t)
  again, turned, _ = found(name, s[order], t[order])
  np.testing.assert_allclose(again, value, rtol=1e-12)
  np.testing.assert_allclose(turned, gradient[order], rtol=1e-9, atol=1e-14)
  assert abs(found(name, s[order], t)[0] / value - 1) > 0.01


def test_congruence_sees_the_order_and_is_quadratic(x64):
  s, t = example()
  value = found("congruence", s, t)[0]
  order = [3, 1, 5, 0, 2, 4]
  assert abs(found("congruence", s[order], t[order])[0] / value - 1) > 0.01
  np.testing.assert_allclose(found("congruence", t + 3 * (s - t), t)[0], 9 * value)
  constant = np.ones((6, 5))
  np.testing.assert_array_equal(found("congruence", constant, constant)[0], 0.0)


@pytest.mark.parametrize("batch", [2, 6])
def test_similarity_and_affinity_shrink_with_the_batch(batch, x64):
  """A batch that stands there twice counts half; SP is at most 2 / n."""
  s, t = example(batch)
  twice = lambda e: np.concatenate([e, e])
  for name in ("similarity", "affinity"):
    np.testing.assert_allclose(
        found(name, twice(s), twice(t))[0], found(name, s, t)[0] / 2, rtol=1e-5)
  np.testing.assert_allclose(found("kernel", twice(s), twice(t))[0],
                             found("kernel", s, t)[0], rtol=1e-12)
  assert found("similarity", s, t)[0] <= 2 / batch
  opposite = np.full((batch, 5), 1e-3) + np.eye(batch, 5)
  assert found("similarity", opposite, np.ones((batch, 5)))[0] <= 2 / batch


@every
def test_masked_rows_are_as_if_they_were_not_there(name, x64):
  s, t = example()
  for mask in ([1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]):
    mask = np.array(mask, bool)
    short = found(name, s[mask], t[mask])
    for garbage in (0.0, 1e100, np.inf, np.nan):
      student, other = s.copy(), t.copy()
      student[~mask] = other[~mask] = garbage
      long = found(name, student, other, mask)
      np.testing.assert_allclose(long[0], short[0], rtol=1e-13)
      for one, two in zip(long[1:], short[1:], strict=True):
        np.testing.assert_allclose(one[mask], two, rtol=1e-11, atol=1e-15)
        np.testing.assert_array_equal(one[~mask], 0.0)


@every
def test_equal_embeddings_are_zero(name, x64):
  _, t = example()
  value, gradient, _ = found(name, t, t)
  np.testing.assert_allclose(value, 0.0, atol=1e-16)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-8)


@every
@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_examples_are_zero(name, valid):
  s, t = (x.astype(np.float32) for x in example())
  for value, gradient, teacher in (
      found(name, s, t, np.arange(6) < valid), found(name, s[:valid], t[:valid])):
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    for x in (gradient, teacher):
      np.testing.assert_allclose(x, 0.0, atol=1e-6)


@every
def test_two_examples_have_one_pair(name, x64):
  s, t = example(batch=2)
  np.testing.assert_allclose(found(name, s, t)[0], oracle(name, s, t), rtol=1e-11)


@of_pairs
@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 1e6])
def test_zeros_and_extremes_are_finite(name, size):
  """Two equal rows, all rows equal, a row of 0, all rows 0, of either net."""
  s, t = (np.float32(size) * x.astype(np.float32) for x in example())
  some = lambda x: np.concatenate([x[:4], x[:2]])
  dead = lambda x: x * (np.arange(6)[:, None] > 1)
  for make in (some, dead, lambda x: np.zeros_like(x) + x[0], np.zeros_like):
    for student, teacher in ((make(s), t), (s, make(t)), (make(s), make(t))):
      value, gradient, _ = found(name, student, teacher)
      assert np.isfinite(value) and np.isfinite(gradient).all()


@of_pairs
def test_a_row_of_zeros_has_a_small_gradient(name):
  """A dead example: in torch, a slope of 1e7 or 1e12, or NaN."""
  s, t = (x.astype(np.float32) for x in example())
  s[2] = 0.0
  gradient = found(name, s, t)[1]
  assert 1e-4 < np.abs(gradient).max() < 10
  if name != "similarity":  # Its products are numbers of other rows too.
    np.testing.assert_array_equal(gradient[2], 0.0)


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
def test_float32_is_float64_rounded(name):
  s, t = (x.astype(np.float32) for x in example(64, (512, 512)))
  single = found(name, s, t)
  with jax.enable_x64(True):
    double = found(name, s.astype(np.float64), t.astype(np.float64))
  for own, exact in zip(single, double, strict=True):
    assert own.dtype == np.float32 and exact.dtype == np.float64
    np.testing.assert_allclose(own, exact, rtol=1e-4, atol=1e-7)


@of_pairs
def test_taps_may_be_maps_of_any_size(name, x64):
  s, t = example(channels=(36, 8))
  value = LOSSES[name](s.reshape(6, 3, 3, 4), t.reshape(6, 2, 2, 2))
  np.testing.assert_allclose(value, oracle(name, s, t), rtol=1e-11)


@every
@pytest.mark.parametrize("shapes", [((6, 4), (5, 4)), ((6, 4), (6, 3))])
def test_what_does_not_fit_is_refused(name, shapes):
  if name in PAIRS and shapes[0][0] == shapes[1][0]:
    return
  with pytest.raises(ValueError, match="embeddings") as error:
    LOSSES[name](*map(jnp.zeros, shapes))
  assert all(str(shape) in str(error.value) for shape in shapes)
