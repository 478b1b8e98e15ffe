"""DIST, MLKD and CTKD against NumPy, by hand, by identities, and where they end."""

import functools

import derivatives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_features import maps as golden_maps

from kd_jax import losses
from kd_jax.core import types
from kd_jax.losses import curriculum, relations
from kd_jax.methods import METHODS
from kd_jax.methods import terms as terms_lib

BATCH = {
    "column_correlation": relations.column_correlation,
    "batch_relations": relations.batch_relations,
    "class_relations": relations.class_relations,
}
ROWS = {"row_correlation": relations.row_correlation,
        "multi_level_kl": relations.multi_level_kl}
every = pytest.mark.parametrize("name", [*ROWS, *BATCH])
every_batch = pytest.mark.parametrize("name", BATCH)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def example(shape=(6, 5), seed=0):
  draw = np.random.default_rng(seed)
  return 3 * draw.standard_normal(shape), 3 * draw.standard_normal(shape)


def softmax(z, t):
  e = np.exp((z - z.max(-1, keepdims=True)) / t)
  return e / e.sum(-1, keepdims=True)


def oracle(name, z, v, t):
  """From the papers, in float64: np.corrcoef, and sums of squares by loops."""
  q, p = softmax(z, t), softmax(v, t)
  if name == "row_correlation":
    return np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p)])
  if name == "column_correlation":
    return np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T)])
  total = 0.0
  for level in (0.5, 0.75, 1.0, 1.25, 1.5):
    q, p = softmax(z, level * t), softmax(v, level * t)
    if name == "multi_level_kl":
      total = total + (level * t)**2 * (p * np.log(p / q)).sum(-1)
      continue
    q, p = (q, p) if name == "batch_relations" else (q.T, p.T)
    for i in range(len(q)):
      for j in range(len(q)):
        total += (np.dot(p[i], p[j]) - np.dot(q[i], q[j]))**2 / len(q)
  return total


@jax.jit
def values_and_gradients(z, v, t, mask):
  """All objectives at once: a program for each dtype, not for each test."""
  def one(function):
    def total(z, v):
      found = function(z, v, t)
      return jnp.sum(found), found

    gradients, value = jax.grad(total, argnums=(0, 1), has_aux=True)(z, v)
    return value, *gradients

  whole = {name: functools.partial(function, mask=mask)
           for name, function in BATCH.items()}
  return {name: one(function) for name, function in (ROWS | whole).items()}


def found(name, z, v, t=2.0, mask=None):
  mask = np.ones(len(z), bool) if mask is None else mask
  return [np.asarray(x) for x in values_and_gradients(
      jnp.asarray(z), jnp.asarray(v), t, jnp.asarray(mask))[name]]


@every
def test_values_and_gradients_are_the_papers(name, x64):
  z, v = example()
  value, gradient, teacher = found(name, z, v)
  np.testing.assert_allclose(value, oracle(name, z, v, 2.0), rtol=1e-12)
  np.testing.assert_array_equal(teacher, 0.0)
  np.testing.assert_allclose(gradient, derivatives.slopes(
      lambda z: oracle(name, z, v, 2.0), z, step=1e-5), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "golden"), [
    ("row_correlation", 29.2205288706), ("column_correlation", 29.3579937063)])
def test_the_authors_code_gives_these(name, golden, x64):
  """DIST with T**2 and its epsilon; the logits are taps that have formulas."""
  s, t = map(jnp.asarray, golden_maps())
  value = (ROWS | BATCH)[name](s[:, 0, 0], t[:, 1, 2], 4.0, epsilon=1e-8)
  np.testing.assert_allclose(4.0**2 * np.mean(value), golden, atol=5.1e-11)


def test_correlations_and_relations_by_hand(x64):
  # Rows of q = (2, 1, 1) / 4 and of p = (1, 2, 1) / 4, and so on round: less their
  # means (2, -1, -1) / 12 and (-1, 2, -1) / 12, of which the product sums to
  # -3 / 144 and the squares to 6 / 144: a correlation of -1/2. Columns likewise.
  z = np.log(np.array([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]]))
  v = np.roll(z, 1, axis=1)
  np.testing.assert_allclose(found("row_correlation", z, v, 1.0)[0], [1.5] * 3)
  np.testing.assert_allclose(found("column_correlation", z, v, 1.0)[0], 1.5)
  # p p^T is the identity of a certain teacher, q q^T is 1/2 everywhere of an even
  # student: four squares of 1/4 over two rows (or columns), at five temperatures.
  z, v = np.zeros((2, 2)), np.array([[1e4, 0.0], [0.0, 1e4]])
  np.testing.assert_allclose(found("batch_relations", z, v, 1.0)[0], 2.5)
  np.testing.assert_allclose(found("class_relations", z, v, 1.0)[0], 2.5)
  # KL = log 2 at each of them, times (1/4 + 9/16 + 1 + 25/16 + 9/4) = 5.625.
  np.testing.assert_allclose(
      found("multi_level_kl", z, v, 1.0)[0], [5.625 * np.log(2)] * 2)


@every
def test_vmap_is_a_loop(name, x64):
  pairs = [example(seed=seed) for seed in range(3)]
  z, v = (jnp.stack(x) for x in zip(*pairs))
  function = (ROWS | BATCH)[name]
  each = jax.vmap(lambda z, v: function(z, v, 2.0))(z, v)
  for value, pair in zip(each, pairs, strict=True):
    np.testing.assert_allclose(value, found(name, *pair)[0], rtol=1e-12)


@every
def test_it_is_zero_and_stationary_at_the_teacher(name, x64):
  z, _ = example()
  value, gradient, _ = found(name, z, z)
  np.testing.assert_allclose(value, 0.0, atol=1e-14)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-13)


@every
def test_a_shift_of_a_row_of_logits_is_not_seen(name, x64):
  z, v = example()
  shift = np.arange(6.0)[:, None]
  np.testing.assert_allclose(
      found(name, z + shift, v - 2 * shift)[0], found(name, z, v)[0], rtol=1e-12)


def test_rows_may_be_any_affine_map_of_the_teachers_probabilities(x64):
  """DIST's row term alone: q = a p + (1 - a) / N still sums to one."""
  _, v = example()
  p = softmax(v, 1.0)
  for a in (0.9, 0.1):
    affine = np.log(a * p + (1 - a) / 5)
    for name in ("row_correlation", "column_correlation"):
      value = found(name, affine, v, 1.0)[0]
      np.testing.assert_allclose(value, 0.0, atol=1e-13)
    kl = (p * (np.log(p) - affine)).sum(-1)
    assert kl.min() > 1e-4, "KD sees the difference"
  # Another a for each row is seen by the columns.
  each = np.linspace(0.1, 0.9, 6)[:, None]
  mixed = np.log(each * p + (1 - each) / 5)
  rows = found("row_correlation", mixed, v, 1.0)[0]
  columns = found("column_correlation", mixed, v, 1.0)[0]
  np.testing.assert_allclose(rows, 0.0, atol=1e-13)
  assert columns > 1e-3


@every
def test_a_permutation_of_classes_or_examples_is_not_seen(name, x64):
  z, v = example()
  rows, columns = [3, 1, 5, 0, 2, 4], [4, 2, 0, 1, 3]
  value = np.sum(found(name, z, v)[0])
  for index in ((rows, slice(None)), (slice(None), columns)):
    np.testing.assert_allclose(
        np.sum(found(name, z[index], v[index])[0]), value, rtol=1e-12)


@every_batch
def test_masked_rows_leave_every_pair_and_mean(name, x64):
  z, v = example()
  mask = np.array([True, True, False, True, False, True])
  z[2], v[4] = 1e4, np.nan  # whatever padding holds
  value, gradient, _ = found(name, z, v, mask=mask)
  np.testing.assert_allclose(
      value, oracle(name, z[mask], v[mask], 2.0), rtol=1e-12)
  np.testing.assert_array_equal(gradient[~mask], 0.0)
  assert np.abs(gradient[mask]).max(-1).min() > 1e-6


@every
def test_a_masked_class_is_as_if_it_were_not_there(name, x64):
  z, v = example()
  short = z[:, :4], v[:, :4]
  z[:, 4] = v[:, 4] = -np.inf
  value, gradient, _ = found(name, z, v)
  # MLKD's class term divides by the columns of the logits.
  factor = 4 / 5 if name == "class_relations" else 1.0
  np.testing.assert_allclose(value, factor * oracle(name, *short, 2.0), rtol=1e-12)
  np.testing.assert_array_equal(gradient[:, 4], 0.0)
  assert np.isfinite(gradient).all() and gradient[:, :4].any()


@pytest.mark.parametrize("valid", [6, 1])
@pytest.mark.parametrize("classes", [5, 2])
@pytest.mark.parametrize("size", [0.0, 1.0, 2000.0])
@every
def test_degenerate_batches_are_finite(name, valid, classes, size):
  """One example, two classes, equal logits, huge logits; float32."""
  z, v = (size * x.astype(np.float32) for x in example())
  z[:, classes:] = v[:, classes:] = -np.inf
  mask = np.arange(6) < valid
  even = np.where(z > -np.inf, np.float32(0), z)
  for student, teacher in ((z, v), (z, z), (even, v), (z, even)):
    for x in found(name, student, teacher, 1.0, mask):
      assert np.isfinite(x).all()


def test_an_even_side_counts_one():
  z, v = (x.astype(np.float32) for x in example())
  alone = np.arange(6) < 1
  assert found("column_correlation", z, v, mask=alone)[0] == 1.0
  np.testing.assert_array_equal(found("row_correlation", 0 * z, v)[0], 1.0)


def test_small_probabilities_keep_their_correlation():
  """The squares of a column of 1e-30 underflow; its correlation does not."""
  z, v = (x.astype(np.float32) for x in example())
  z[:, 0] -= 140.0
  v[:, 0] -= 140.0
  value, gradient, _ = found("column_correlation", z, v, 2.0)
  expected = oracle("column_correlation", z.astype(float), v.astype(float), 2.0)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  assert np.isfinite(gradient).all()


@every
def test_half_precision_is_widened_first(name):
  z, v = (jnp.asarray(x).astype(jnp.bfloat16) for x in example())
  wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (z, v)]
  value, gradient, _ = found(name, z, v)
  assert value.dtype == np.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(value, oracle(name, *wide, 2.0), rtol=2e-5)
  # Rounded once: by half a unit, 2**-8 at most.
  single = found(name, *(x.astype(np.float32) for x in wide))[1]
  np.testing.assert_allclose(
      gradient.astype(np.float32), single, rtol=1.01 * 2**-8, atol=1e-6)


@every
def test_float32_is_float64_rounded(name):
  z, v = (x.astype(np.float32) for x in example())
  single = found(name, z, v)
  with jax.enable_x64(True):
    double = found(name, z.astype(np.float64), v.astype(np.float64))
  for own, exact in zip(single, double, strict=True):
    assert own.dtype == np.float32 and exact.dtype == np.float64
    np.testing.assert_allclose(own, exact, rtol=2e-5, atol=2e-5)


def test_the_authors_epsilon_of_dist(x64):
  """Their cosine has 1e-8 in its denominator: a / (|x| |y| + epsilon)."""
  z, v = example()
  q, p = softmax(z, 1.0), softmax(v, 1.0)
  q, p = q - q.mean(-1, keepdims=True), p - p.mean(-1, keepdims=True)
  norms = np.linalg.norm(q, axis=-1) * np.linalg.norm(p, axis=-1)
  value = relations.row_correlation(
      jnp.asarray(z), jnp.asarray(v), 1.0, epsilon=0.1)
  np.testing.assert_allclose(
      value, 1 - (q * p).sum(-1) / (norms + 0.1), rtol=1e-12)


# CTKD.


def test_the_temperature_climbs_what_the_student_descends(x64):
  z, v = example()
  theta = 0.3

  def oracle_loss(theta):
    t = 1 + 20 / (1 + np.exp(-theta))
    q, p = softmax(z, t), softmax(v, t)
    return t**2 * (p * np.log(p / q)).sum(-1).mean()

  def loss(theta, strength):
    t = curriculum.learned_temperature(theta, strength)
    return jnp.mean(t**2 * losses.distillation_kl(
        jnp.asarray(z), jnp.asarray(v), t))

  slope = (oracle_loss(theta + 1e-6) - oracle_loss(theta - 1e-6)) / 2e-6
  for strength in (0.0, 0.5, 1.0):
    value, gradient = jax.value_and_grad(loss)(jnp.float64(theta), strength)
    np.testing.assert_allclose(value, oracle_loss(theta), rtol=1e-12)
    np.testing.assert_allclose(gradient, -strength * slope, rtol=1e-6, atol=1e-12)


def test_the_ramp_by_hand():
  ramp = lambda *x: float(curriculum.cosine_ramp(*x))
  assert ramp(0.0, 0.5) == 0.0
  assert ramp(1 / 6, 0.5) == pytest.approx(0.25)  # cos(pi / 3) = 1/2
  assert ramp(0.5, 0.5) == ramp(1.0, 0.5) == 1.0
  assert ramp(0.0, 0.0) == ramp(0.3, 0.0) == 1.0, "no ramp"


def test_the_annealing_factor_by_hand():
  # T = 4, 3, 2, 1 of T_max = 4: 1 - 3/4, 1 - 2/4, 1 - 1/4, 1 - 0.
  found = [float(curriculum.annealing_factor(step / 8, 4.0)) for step in range(9)]
  assert found == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0]
  # The authors' code: 200 epochs, T one more every 20 of them, T / 10.
  epochs = np.arange(200)
  found = jax.vmap(lambda p: curriculum.annealing_factor(p, 10.0))(
      jnp.float32(epochs) / 200)
  np.testing.assert_allclose(found, (1 + epochs // 20) / 10, rtol=1e-6)


def test_annealed_of_one_level_is_mse(x64):
  (z, v), y = example(), jnp.arange(6) % 5
  soft = lambda name, progress, levels: METHODS[name].terms(
      terms_lib.Own({}, {}), types.Outputs(jnp.asarray(z), {}),
      types.Outputs(jnp.asarray(v), {}), types.Batch(None, y, None, None, None),
      types.Hparams(progress=progress, numbers={"levels": levels}))["soft"].value
  mse = ((z - v)**2).mean(-1)
  np.testing.assert_allclose(soft("mse", None, None), mse, rtol=1e-12)
  for progress, levels in ((0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.9, 10.0)):
    np.testing.assert_allclose(
        soft("annealed", progress, levels), mse, rtol=1e-12)
  # The first of four: a quarter of the teacher is where it is least.
  np.testing.assert_allclose(
      soft("annealed", 0.1, 4.0), ((z - v / 4)**2).mean(-1), rtol=1e-12)


def test_the_authors_first_temperature():
  # 1 + 20 / (1 + 1/e)
  t = curriculum.learned_temperature(jnp.float32(1.0), 1.0)
  assert float(t) == pytest.approx(15.6212, abs=1e-4)
