"""Values by hand, and what the equations of the papers imply of each other.

The former are without jit, and `test_logit_losses.py` is with it.
"""

import functools
import math

import jax
import jax.numpy as jnp
from logit_objectives import OBJECTIVES, softmax
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import (
  decoupled,
  divergences,
  mixtures,
  parts,
  standardised,
  targets,
  transformed,
)

log, sqrt = math.log, math.sqrt
# Compiling is what takes the time here.
quickly = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def example(seed=0, shape=(4, 7)):
  rng = np.random.default_rng(seed)
  z, v = 2.0 * rng.gumbel(size=(2, *shape))
  return z, v, rng.integers(shape[-1], size=shape[:-1])


@pytest.fixture(scope="module")
def x64():
  with jax.enable_x64(True):
    yield


def compiled(function):
  """Values `[B]` and the gradient of their sum in z, of `(z, ...)`."""
  def total(z, *others):
    values = function(z, *others)
    return jnp.sum(values), values
  both = quickly(jax.grad(total, has_aux=True))

  def run(z, *others):
    gradient, values = both(jnp.asarray(z), *others)
    return np.asarray(values), np.asarray(gradient)
  return run


def value_and_gradient(function, z):
  return compiled(function)(z)


def same(one, other, z, *, atol=1e-13):
  """Two functions of the student's logits have equal values and gradients."""
  values, gradient = value_and_gradient(lambda z: one(z) - other(z), z)
  np.testing.assert_allclose(values, 0.0, atol=atol)
  np.testing.assert_allclose(gradient, 0.0, atol=atol)


def same_gradient(one, other, z, *, atol=1e-13):
  _, gradient = value_and_gradient(lambda z: one(z) - other(z), z)
  np.testing.assert_allclose(gradient, 0.0, atol=atol)


# Values by hand.

# At T = 2: q = (1/8, 2/8, 5/8), and p = 4 : 2 : 2 = (1/2, 1/4, 1/4).
STUDENT = [0.0, log(4), log(25)]
TEACHER = [log(16), log(4), log(4)]
T = 2.0
BY_HAND = {
    # 1/8 log(1/4) + 1/4 log 1 + 5/8 log(5/2)
    "reverse_kl": 0.125 * log(1 / 4) + 0.625 * log(5 / 2),
    # m = (5/16, 4/16, 7/16)
    "jensen_shannon": 0.5 * (0.5 * log(8 / 5) + 0.25 * log(4 / 7))
                      + 0.5 * (0.125 * log(2 / 5) + 0.625 * log(10 / 7)),
    # The label is 1: p_y = q_y = 1/4.
    "target_class_kl": 0.0,
    # Without it p^ = (2/3, 1/3), q^ = (1/6, 5/6).
    "non_target_class_kl": 2 / 3 * log(4) + 1 / 3 * log(2 / 5),
    # At T = 1 p = 16 : 4 : 4, q = 1 : 4 : 25: p_y = 1/6, q_y = 4/30.
    "confident_cross_entropy": 1 / 6 * log(30 / 4),
    "non_target_cross_entropy": 2 / 3 * log(6) + 1 / 3 * log(6 / 5),
    # p_m = 1/2 against q_y = 1/4.
    "sample_confidence_kl": 0.5 * log(2) + 0.5 * log(2 / 3),
    # Class 2 ties with the label, class 0 is above: nothing is below.
    "masked_correlation_kl": 0.0,
    # p at T = 1 = (2/3, 1/6, 1/6), of roots that sum to
    # sqrt(2/3) + 2 sqrt(1/6) = 4 / sqrt(6); q at T = 1 = (1, 4, 25) / 30.
    "transformed_teacher_kl": 4 / sqrt(6) * (
        0.5 * log(15) + 0.25 * log(30 / 16) + 0.25 * log(3 / 10)),
    "transformed_teacher_kl_unweighted":
        0.5 * log(15) + 0.25 * log(30 / 16) + 0.25 * log(3 / 10),
    # The teacher's class is 0, whatever the label and T: q_0 = 1/30.
    "pseudo_label_cross_entropy": log(30),
    # u = (1/20, 9/10, 1/20) at T = 2 is 1 : exp(17/40) : 1; q at 1 as above.
    "virtual_teacher_kl":
        1 / (2 + math.exp(0.425)) * (log(30) + log(30 / 25))
        + math.exp(0.425) / (2 + math.exp(0.425)) * (log(30 / 4) + 0.425)
        - log(2 + math.exp(0.425)),
    # The roots of (1/20, 18/20, 1/20) are 1 : sqrt(18) : 1.
    "manual_teacher_logits":
        1 / (2 + sqrt(18)) * (log(8) + log(8 / 5))
        + sqrt(18) / (2 + sqrt(18)) * (log(4) + log(18) / 2)
        - log(2 + sqrt(18)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_value_by_hand(name):
  arguments = jnp.array([STUDENT]), jnp.array([TEACHER]), jnp.array([1])
  value = OBJECTIVES[name].function(*arguments, T, None)
  np.testing.assert_allclose(value, [BY_HAND[name]], rtol=2e-6, atol=2e-7)


def test_standardised_and_normalised_by_hand():
  # Of (0, 0, 3) and (0, 3, 0) the mean is 1 and the centred square 6: with N = 3
  # s**2 = 2 and Z = (-1, -1, 2) / sqrt(2), with N - 1 = 2 s**2 = 3.
  z, v = jnp.array([0.0, 3.0, 0.0]), jnp.array([0.0, 0.0, 3.0])
  np.testing.assert_allclose(
      standardised.standardise(v), np.array([-1, -1, 2]) / sqrt(2), rtol=1e-6)
  # One class apart by d = 3 / (s T): KL = d (p_3 - p_2) = d (e^d - 1) / (e^d + 2).
  kl = lambda d: d * (math.exp(d) - 1) / (math.exp(d) + 2)
  np.testing.assert_allclose(
      standardised.standardised_kl(z, v, 2.0), kl(3 / (2 * sqrt(2))), rtol=1e-5)
  np.testing.assert_allclose(
      standardised.normalised_kl(z, v, 2.0),
      (2 * sqrt(3))**2 * kl(3 / (2 * sqrt(3))), rtol=1e-5)


def test_top_k_by_hand():
  # p = (8, 4, 3, 1) / 16 and q even. K = {0, 1}: p' = (2/3, 1/3), q' = (1/2, 1/2).
  z, v = jnp.zeros(4), jnp.log(jnp.array([8.0, 4.0, 3.0, 1.0]))
  np.testing.assert_allclose(
      targets.top_k_kl(z, v, 1.0, 2),
      2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3), rtol=1e-5)
  # With the rest in a bucket p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2).
  np.testing.assert_allclose(
      targets.bucket_kl(z, v, 1.0, 2),
      1 / 2 * log(2) + 1 / 4 * log(1 / 2), rtol=1e-5)


def test_pseudo_labels_are_labels_and_the_limit_of_a_sure_teacher(x64):
  z, v, _ = example()
  found = targets.pseudo_label_cross_entropy(z, v)
  np.testing.assert_array_equal(
      found, losses.hard_cross_entropy(z, jnp.asarray(v.argmax(-1))))
  # The teacher at its own T of 1e-4, the student at 1.
  np.testing.assert_allclose(
      found, losses.soft_target_cross_entropy(z, 1e4 * v, 1.0), rtol=1e-12)


def test_mixtures_by_hand():
  # p_1 = (4/5, 1/5), p_2 = (1/2, 1/2), w = (1/3, 2/3).
  v = jnp.log(jnp.array([[4.0, 1.0], [1.0, 1.0]]))
  w = jnp.array([1 / 3, 2 / 3])
  mix = functools.partial(mixtures.mixture_logits, v, 1.0, w)
  np.testing.assert_allclose(jax.nn.softmax(mix()), [0.6, 0.4], rtol=1e-6)
  # The cube roots of 4 : 1.
  np.testing.assert_allclose(
      jax.nn.softmax(mix(mean="geometric")),
      np.array([4**(1 / 3), 1]) / (4**(1 / 3) + 1), rtol=1e-6)
  # exp(c) = 5 and 2 for label 1: 1 - 5/7 and 1 - 2/7, over M - 1 = 1.
  np.testing.assert_allclose(
      mixtures.confidence_weights(v, jnp.array(1)), [2 / 7, 5 / 7], rtol=1e-6)


# Decoupled objectives.


def test_dkd_with_beta_1_minus_p_is_kd(x64):
  """Zhao et al. 2022, equation 6, at the temperature of both."""
  z, v, y = example()
  for t in (1.0, 4.0):
    p = softmax(v, t).astype(np.float64)
    share = 1.0 - np.take_along_axis(p, y[:, None], -1)[:, 0]
    dkd = lambda z, t=t, share=share: (
        decoupled.target_class_kl(z, v, y, t)
        + share * decoupled.non_target_class_kl(z, v, y, t))
    same(dkd, lambda z, t=t: losses.distillation_kl(z, v, t), z)


@pytest.mark.parametrize("gap", [50.0, 1e4, 1e30])
def test_dkd_does_not_underflow(gap):
  """In shipped code log(1 - q_y) is -inf from a gap of 104 on in float32."""
  z, v, y = jnp.array([gap, 0.0, 0.0]), jnp.zeros(3), jnp.array(0)
  value, gradient = jax.value_and_grad(decoupled.target_class_kl)(z, v, y, 1.0)
  # log q_y = 0, log(1 - q_y) = log 2 - gap; p_y = 1/3:
  # 1/3 log 1/3 + 2/3 (log 2/3 - log 2 + gap) = 2/3 gap - log 3.
  np.testing.assert_allclose(value, 2 / 3 * gap - log(3), rtol=1e-6)
  # q - p of label against others, the others' share halved between them.
  np.testing.assert_allclose(gradient, [2 / 3, -1 / 3, -1 / 3], rtol=1e-6)
  # A teacher as sure as that, and a student who is not.
  value, gradient = jax.value_and_grad(decoupled.target_class_kl)(v, z, y, 1.0)
  np.testing.assert_allclose(value, log(3), rtol=1e-6)
  np.testing.assert_allclose(gradient, [-2 / 3, 1 / 3, 1 / 3], rtol=1e-6)


def test_nkd_is_nckd_and_an_entropy(x64):
  z, v, y = example()
  same_gradient(lambda z: decoupled.non_target_cross_entropy(z, v, y, 3.0),
                lambda z: decoupled.non_target_class_kl(z, v, y, 3.0), z)
  # Where p = 1 the first term is the hard cross-entropy.
  sure = 1e3 * np.eye(7)[y]
  same(lambda z: decoupled.confident_cross_entropy(z, jnp.asarray(sure), y),
       lambda z: losses.hard_cross_entropy(z, jnp.asarray(y)), z)


def test_rld_is_dkd_where_the_teacher_is_right(x64):
  z, v, _ = example()
  right = v.argmax(axis=-1)
  same(lambda z: decoupled.sample_confidence_kl(z, v, right, 4.0),
       lambda z: decoupled.target_class_kl(z, v, right, 4.0), z)
  same(lambda z: decoupled.masked_correlation_kl(z, v, right, 4.0),
       lambda z: decoupled.non_target_class_kl(z, v, right, 4.0), z)


def test_rld_says_nothing_of_classes_above_the_label(x64):
  z, v, _ = example()
  third = np.argsort(-v, axis=-1)[:, 2]
  _, gradient = value_and_gradient(
      lambda z: decoupled.masked_correlation_kl(z, v, third, 4.0), z)
  above = v >= np.take_along_axis(v, third[:, None], -1)
  assert (above.sum(axis=-1) == 3).all()
  np.testing.assert_array_equal(gradient[above], 0.0)
  assert (gradient[~above] != 0).all()
  last = v.argmin(axis=-1)
  value, gradient = value_and_gradient(
      lambda z: decoupled.masked_correlation_kl(z, v, last, 4.0), z)
  np.testing.assert_array_equal(value, 0.0)
  np.testing.assert_array_equal(gradient, 0.0)


# Standardised logits.


@pytest.mark.parametrize("ddof", [0, 1])
def test_standardisation_does_not_see_scale_and_shift(x64, ddof):
  z, v, _ = example()
  scale = np.array([[0.01], [1.0], [7.0], [1e4]])
  z_score = functools.partial(standardised.standardise, ddof=ddof)
  np.testing.assert_allclose(
      z_score(jnp.asarray(scale * z - 3.0)), z_score(jnp.asarray(z)), rtol=1e-10)
  np.testing.assert_allclose(
      z_score(jnp.asarray(-z)), -z_score(jnp.asarray(z)), rtol=1e-12)
  found = np.asarray(z_score(jnp.asarray(z)))
  np.testing.assert_allclose(found.mean(axis=-1), 0.0, atol=1e-14)
  np.testing.assert_allclose(found.std(axis=-1, ddof=ddof), 1.0, rtol=1e-12)
  assert ddof or (np.abs(found) <= sqrt(6)).all()
  # So the gradient is orthogonal to what it does not see, the scale of z too.
  _, gradient = value_and_gradient(
      lambda z: standardised.standardised_kl(z, v, 2.0, ddof=ddof), z)
  np.testing.assert_allclose(np.sum(gradient * z, axis=-1), 0.0, atol=1e-13)


def test_normalised_is_standardised_of_another_weight(x64):
  z, v, _ = example()
  weight = (2.0 * v.std(axis=-1, ddof=1))**2
  same(lambda z: standardised.normalised_kl(z, v, 2.0),
       lambda z: weight * standardised.standardised_kl(z, v, 2.0, ddof=1), z)
  # Or KD, at one temperature for each net and example.
  t_z, t_v = (2.0 * a.std(axis=-1, ddof=1, keepdims=True) for a in (z, v))
  kd = losses.distillation_kl(jnp.asarray(z / t_z), jnp.asarray(v / t_v), 1.0)
  np.testing.assert_allclose(
      standardised.normalised_kl(jnp.asarray(z), jnp.asarray(v), 2.0),
      t_v[:, 0]**2 * kd, rtol=1e-12)


def test_the_authors_epsilon_changes_little(x64):
  z, v, _ = example()
  paper = standardised.standardised_kl(jnp.asarray(z), jnp.asarray(v), 2.0)
  code = standardised.standardised_kl(
      jnp.asarray(z), jnp.asarray(v), 2.0, epsilon=1e-7)
  np.testing.assert_allclose(code, paper, rtol=1e-6)
  # Their N - 1 is a higher temperature, by sqrt(N / (N - 1)).
  code = standardised.standardised_kl(jnp.asarray(z), jnp.asarray(v), 2.0, ddof=1)
  hotter = standardised.standardised_kl(
      jnp.asarray(z), jnp.asarray(v), 2.0 * sqrt(7 / 6))
  np.testing.assert_allclose(code, hotter, rtol=1e-12)


# Divergences.


def test_jensen_shannon_tends_to_both_kl_at_its_ends(x64):
  z, v, _ = map(jnp.asarray, example())
  forward, reverse = (
      losses.distillation_kl(z, v, 2.0), divergences.reverse_kl(z, v, 2.0))
  jsd = functools.partial(divergences.jensen_shannon, z, v, 2.0)
  ends = []
  for b in (1e-4, 1e-5):
    ends.append((jsd(b) / b - forward, jsd(1 - b) / b - reverse))
    for gap in ends[-1]:
      assert (np.abs(gap) < 100 * b).all()
  # The distance is of first order: ten times less for a tenth of beta.
  np.testing.assert_allclose(np.divide(*ends), 10.0, rtol=0.01)


def test_jensen_shannon_at_its_ends_is_zero_and_smooth():
  z, v, _ = example()
  v[:, 3] = -np.inf
  for beta in (0.0, 1.0, jnp.float32(0.0), jnp.float32(1.0)):
    value, gradient = value_and_gradient(
        lambda z, b=beta: divergences.jensen_shannon(
            z, jnp.asarray(v, jnp.float32), 2.0, b), z.astype(np.float32))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_jensen_shannon_is_symmetric_and_bounded(x64):
  z, v, _ = map(jnp.asarray, example())
  jsd = divergences.jensen_shannon
  np.testing.assert_allclose(
      jsd(z, v, 2.0, 0.3), jsd(v, z, 2.0, 0.7), rtol=1e-12)
  far = jsd(1e5 * jnp.eye(3)[:1], 1e5 * jnp.eye(3)[1:2], 1.0, 0.3)
  np.testing.assert_allclose(far, -0.3 * log(0.3) - 0.7 * log(0.7), rtol=1e-12)


@pytest.mark.parametrize("function, factor", [
    (losses.distillation_kl, 1.0),
    (divergences.reverse_kl, 1.0),
    (divergences.jensen_shannon, 0.25),  # beta (1 - beta)
])
def test_logit_matching_is_the_limit_at_high_temperature(x64, function, factor):
  z, v, _ = map(jnp.asarray, example())
  limit = losses.logit_matching(z, v, zero_mean=True) / 7
  gaps = [np.abs(t**2 * function(z, v, t) - factor * limit) for t in (1e3, 1e4)]
  assert (gaps[0] < 0.1).all()
  np.testing.assert_allclose(gaps[0] / gaps[1], 10.0, rtol=0.1)


def test_reverse_kl_is_kl_with_the_nets_swapped(x64):
  z, v, _ = map(jnp.asarray, example())
  np.testing.assert_allclose(
      divergences.reverse_kl(z, v, 3.0), losses.distillation_kl(v, z, 3.0),
      rtol=1e-13)


def test_excluded_by_the_teacher_is_infinite_in_reverse_only():
  z, v = jnp.zeros(2), jnp.array([0.0, -jnp.inf])
  assert divergences.reverse_kl(z, v, 1.0) == jnp.inf
  np.testing.assert_allclose(losses.distillation_kl(z, v, 1.0), log(2), rtol=1e-6)
  # m = (3/4, 1/4): 1/2 log(4/3) + 1/2 (1/2 log(2/3) + 1/2 log 2)
  np.testing.assert_allclose(
      divergences.jensen_shannon(z, v, 1.0),
      0.5 * log(4 / 3) + 0.25 * log(4 / 3), rtol=1e-6)


# Transformed teachers.


def test_ttm_at_temperature_1_is_kd(x64):
  z, v, _ = example()
  for weighted in (True, False):
    same(lambda z, w=weighted: transformed.transformed_teacher_kl(
             z, v, 1.0, weighted=w),
         lambda z: losses.distillation_kl(z, v, 1.0), z)


def test_ttm_has_the_gradient_of_the_paper(x64):
  z, v, _ = example()
  weight = np.sum(softmax(v, 1.0)**(1 / 5.0), axis=-1, keepdims=True)
  assert (weight > 1).all() and (weight <= 7**(1 - 1 / 5.0)).all()
  for weighted, u in ((True, weight), (False, 1.0)):
    _, gradient = value_and_gradient(
        lambda z, w=weighted: transformed.transformed_teacher_kl(
            z, v, 5.0, weighted=w), z)
    np.testing.assert_allclose(
        gradient, u * (softmax(z, 1.0) - softmax(v, 5.0)), atol=1e-13)


# Sparse targets.


def test_a_bucket_loses_what_is_within_it(x64):
  z, v, _ = example()
  t = 2.0
  likely = np.argsort(-v, axis=-1)
  bucket = compiled(lambda z, k: targets.bucket_kl(z, v, t, k))
  full, of_full = value_and_gradient(
      lambda z: losses.distillation_kl(z, v, t), z)
  for k in range(1, 8):
    p, q = (np.take_along_axis(softmax(a, t), likely[:, k:], -1) for a in (v, z))
    p_rest, q_rest = p.sum(axis=-1), q.sum(axis=-1)
    lost = np.zeros(4)
    if k < 7:
      p, q = p / p_rest[:, None], q / q_rest[:, None]
      lost = p_rest * np.sum(p * np.log(p / q), axis=-1)
      assert k == 6 or (lost > 0).all()
    less, of_less = bucket(z, k)
    np.testing.assert_allclose(full - less, lost, atol=1e-14)
    distance = np.abs(of_full - of_less).sum(axis=-1)
    assert (distance <= 2 * p_rest / t + 1e-14).all()


def test_top_k_of_all_is_kd_and_of_one_is_nothing(x64):
  z, v, _ = example()
  kd = lambda z: losses.distillation_kl(z, v, 2.0)
  for k in (7.0, 100):
    same(lambda z, k=k: targets.top_k_kl(z, v, 2.0, k), kd, z)
  same(lambda z: targets.top_k_kl(z, v, 2.0, 1), lambda z: 0.0 * kd(z), z)
  # One class and a bucket: the teacher's answer against the others.
  same(lambda z: targets.bucket_kl(z, v, 2.0, 1),
       lambda z: decoupled.target_class_kl(z, v, v.argmax(axis=-1), 2.0), z)


def test_k_is_traced():
  _, v, _ = example()
  count = jax.jit(lambda k: jnp.sum(targets.top_k_classes(
      jnp.asarray(v, jnp.float32), k), axis=-1))
  for k in (1, 3, 7):
    np.testing.assert_array_equal(count(jnp.int32(k)), k)
    np.testing.assert_array_equal(count(jnp.float32(k)), k)
  np.testing.assert_array_equal(
      jax.vmap(count)(jnp.array([2, 5])), [[2] * 4, [5] * 4])


def test_top_k_takes_the_first_of_equal_logits():
  found = targets.top_k_classes(jnp.array([[1.0, 1.0, 1.0, 2.0]]), 2)
  np.testing.assert_array_equal(found, [[True, False, False, True]])


# Virtual teachers.


def test_label_smoothing_is_a_teacher(x64):
  z, _, y = example()
  y = jnp.asarray(y)
  v = targets.smoothed_label_logits(y, 7, 0.3)
  entropy = losses.soft_target_cross_entropy(v, v, 1.0)
  same(lambda z: losses.distillation_kl(z, v, 1.0),
       lambda z: losses.hard_cross_entropy(z, y, label_smoothing=0.3) - entropy, z)
  # Nothing smoothed is the labels themselves, with an entropy of 0.
  none = targets.smoothed_label_logits(y, 7, 0.0)
  same(lambda z: losses.distillation_kl(z, none, 1.0),
       lambda z: losses.hard_cross_entropy(z, y), z)


def test_the_manual_teacher_is_label_smoothing_of_another_name(x64):
  _, _, y = example()
  y = jnp.asarray(y)
  np.testing.assert_allclose(
      targets.manual_teacher_logits(y, 7, 0.9),
      targets.smoothed_label_logits(y, 7, 0.1 * 7 / 6), rtol=1e-12)


def test_tf_kd_takes_probabilities_for_logits(x64):
  z, _, y = example()
  y = jnp.asarray(y)
  u = jnp.exp(targets.manual_teacher_logits(y, 7, 0.99))
  np.testing.assert_allclose(u.max(axis=-1), 0.99, rtol=1e-12)
  same(lambda z: targets.virtual_teacher_kl(z, y, 20.0, student_temperature=20.0),
       lambda z: losses.distillation_kl(z, u, 20.0), z)
  # The student's is 1 where nothing is said.
  same(lambda z: targets.virtual_teacher_kl(z, y, 20.0),
       lambda z: losses.distillation_kl(20.0 * z, u, 20.0), z)


# Several teachers.


@pytest.mark.parametrize("per_example", [False, True])
def test_a_mixture_has_the_gradient_of_its_members(x64, per_example):
  z, _, _ = example()
  v = 2.0 * np.random.default_rng(5).gumbel(size=(3, 4, 7))
  w = np.random.default_rng(6).dirichlet([1, 1, 1], 4).T
  if not per_example:
    w = w[:, 0]
  v, w = jnp.asarray(v), jnp.asarray(w)
  mixed = {mean: mixtures.mixture_logits(v, 3.0, w, mean=mean)
           for mean in mixtures.MEANS}
  each = w if per_example else w[:, None]
  several = lambda function, z: jnp.sum(each * jnp.stack(
      [function(z, member, 3.0) for member in v]), axis=0)
  same_gradient(
      lambda z: losses.distillation_kl(z, mixed["arithmetic"], 3.0),
      lambda z: several(losses.distillation_kl, z), z)
  same_gradient(
      lambda z: divergences.reverse_kl(z, mixed["geometric"], 3.0),
      lambda z: several(divergences.reverse_kl, z), z)
  # And each is no further from the members than another is: it is their minimum.
  for mean, function in (("arithmetic", losses.distillation_kl),
                         ("geometric", divergences.reverse_kl)):
    _, gradient = value_and_gradient(
        functools.partial(several, function), np.asarray(mixed[mean]))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-14)


def test_weights_are_even_by_default_and_one_teacher_is_itself(x64):
  v = jnp.asarray(2.0 * np.random.default_rng(5).gumbel(size=(3, 4, 7)))
  third = jnp.full((3,), 1 / 3)
  for mean in mixtures.MEANS:
    mix = functools.partial(mixtures.mixture_logits, mean=mean)
    np.testing.assert_allclose(mix(v, 2.0), mix(v, 2.0, third), rtol=1e-12)
    np.testing.assert_allclose(
        losses.tempered_softmax(mix(v[:1], 2.0), 2.0), softmax(v[0], 2.0),
        rtol=1e-12)


def test_a_class_that_a_member_excludes_is_the_others_in_the_arithmetic_mixture():
  """(1, 0, 0) and (0, 1/4, 3/4), weighted 1/5 and 4/5; no member has class 4."""
  v = jnp.log(jnp.array([[1.0, 0, 0, 0], [0, 1, 3, 0]]))
  w = jnp.array([0.2, 0.8])
  mix = functools.partial(mixtures.mixture_logits, v, 2.0, w)
  square = np.array([1, 3**0.5]) / (1 + 3**0.5)  # p**(1 / T) of the second
  np.testing.assert_allclose(
      losses.tempered_softmax(mix(), 2.0), [0.2, *(0.8 * square), 0], rtol=1e-6)
  # A product with a factor of 0.
  np.testing.assert_array_equal(mix(mean="geometric"), -np.inf)


def test_weights_by_certainty_by_hand():
  # H = log 2 of (1/2, 1/2), 2 log 2 of four alike, so 2/3 and 1/3.
  v = jnp.log(jnp.array([[1.0, 1.0, 0, 0], [1, 1, 1, 1]]))
  np.testing.assert_allclose(
      mixtures.certainty_weights(v), [2 / 3, 1 / 3], rtol=1e-6)
  # One that is sure counts alone, whatever its class is; two that are, alike.
  sure = jnp.log(jnp.array([[0.0, 0, 0, 1], [1, 0, 0, 0]]))
  several = jnp.stack([v[0], sure[0], v[1]])
  mixed = mixtures.mixture_logits(several, 2.0, mixtures.certainty_weights(several))
  np.testing.assert_allclose(
      losses.tempered_softmax(mixed, 2.0), [0, 0, 0, 1], atol=1e-6)
  np.testing.assert_allclose(mixtures.certainty_weights(
      jnp.stack([sure[0], v[0], sure[1]])), [0.5, 0, 0.5], atol=1e-6)


def test_weights_by_agreement_by_hand():
  # p.p' of three: 1 & 2 1/2, 1 & 3 0, 2 & 3 1/2; so a = 1/2, 1, 1/2.
  v = jnp.log(jnp.array([[1.0, 0, 0], [1, 1, 0], [0, 1, 0]]))
  np.testing.assert_allclose(
      mixtures.agreement_weights(v), [0.25, 0.5, 0.25], rtol=1e-6)
  # Two outvote a third that is as sure; two alone count alike.
  p = jnp.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0, 0, 1.0]])
  np.testing.assert_allclose(
      mixtures.agreement_weights(jnp.log(p)), [0.5, 0.5, 0], atol=1e-6)
  np.testing.assert_allclose(
      mixtures.agreement_weights(jnp.log(p)[1:]), [0.5, 0.5], rtol=1e-6)
  # Nobody agrees with anybody.
  np.testing.assert_allclose(mixtures.agreement_weights(
      jnp.log(jnp.eye(3))), np.full(3, 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("name", mixtures.BY_EXAMPLE)
def test_weights_of_examples_are_shares_and_even_of_equal_members(x64, name):
  weights = mixtures.BY_EXAMPLE[name]
  v = jnp.asarray(2.0 * np.random.default_rng(5).gumbel(size=(3, 4, 7)))
  w = np.asarray(weights(v))
  assert w.shape == (3, 4) and (w > 0).all()
  np.testing.assert_allclose(w.sum(axis=0), 1.0, rtol=1e-12)
  # Of an example, whoever stands beside it; of no class more than of another.
  np.testing.assert_allclose(weights(v[:, 1:2]), w[:, 1:2], rtol=1e-12)
  np.testing.assert_allclose(weights(v[..., ::-1] + 3.0), w, rtol=1e-12)
  order = np.array([2, 0, 1])
  np.testing.assert_allclose(weights(v[order]), w[order], rtol=1e-12)
  np.testing.assert_allclose(
      weights(jnp.stack([v[0]] * 4)), np.full((4, 4), 0.25), rtol=1e-12)
  np.testing.assert_array_equal(weights(v[:1]), np.ones((1, 4)))
  where = jnp.arange(7) < 5
  np.testing.assert_allclose(
      weights(v.at[..., 5:].set(1e30), where=jnp.broadcast_to(where, (4, 7))),
      weights(v[..., :5]), rtol=1e-12)


def test_weights_by_certainty_and_agreement_are_their_definitions(x64):
  v = 2.0 * np.random.default_rng(5).gumbel(size=(3, 4, 7))
  p = softmax(v, 1.0)
  each = 1 / -(p * np.log(p)).sum(-1)
  np.testing.assert_allclose(
      mixtures.certainty_weights(jnp.asarray(v)), each / each.sum(0), rtol=1e-12)
  alike = np.array([sum((p[m] * p[j]).sum(-1) for j in range(3) if j != m)
                    for m in range(3)])
  np.testing.assert_allclose(
      mixtures.agreement_weights(jnp.asarray(v)), alike / alike.sum(0), rtol=1e-12)


def test_members_that_know_some_classes_by_hand():
  """(1/4, 3/4) of classes 0, 1 and (1/2, 1/2) of 1, 2; weights 1/3, 2/3."""
  v = jnp.log(jnp.array([[1.0, 3, 0, 0], [0, 1, 1, 0]]))
  w = jnp.array([1 / 3, 2 / 3])
  mix = functools.partial(mixtures.mixture_logits, v, 1.0, w, partial=True)
  # 2/1 * 1/3 * 1/4 by the first alone; by both; 2/1 * 2/3 * 1/2 by the second.
  parts_of = np.array([1 / 6, 1 / 4 + 1 / 3, 2 / 3, 0])
  np.testing.assert_allclose(
      losses.tempered_softmax(mix(), 1.0), parts_of / parts_of.sum(), rtol=1e-6)
  geometric = np.array([1 / 4, (3 / 4)**(1 / 3) * (1 / 2)**(2 / 3), 1 / 2, 0])
  np.testing.assert_allclose(
      losses.tempered_softmax(mix(mean="geometric"), 1.0),
      geometric / geometric.sum(), rtol=1e-6)
  # Of members that share no class, both side by side: of mass w, or of 1/2 each.
  apart = jnp.log(jnp.array([[1.0, 3, 0, 0], [0, 0, 2, 3]]))
  for mean, mass in (("arithmetic", w), ("geometric", [1 / 2, 1 / 2])):
    np.testing.assert_allclose(losses.tempered_softmax(
        mixtures.mixture_logits(apart, 1.0, w, mean=mean, partial=True), 1.0),
        np.repeat(mass, 2) * np.array([1 / 4, 3 / 4, 2 / 5, 3 / 5]), rtol=1e-6)
  # Members that know all classes: as before, to the bit.
  full = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
  for mean in mixtures.MEANS:
    whole = functools.partial(mixtures.mixture_logits, full, 2.0, mean=mean)
    np.testing.assert_allclose(whole(partial=True), whole(), rtol=1e-6)


def test_confidence_weights_are_shares(x64):
  v = 2.0 * np.random.default_rng(5).gumbel(size=(3, 4, 7))
  y = jnp.asarray(example()[2])
  w = np.asarray(mixtures.confidence_weights(jnp.asarray(v), y))
  np.testing.assert_allclose(w.sum(axis=0), 1.0, rtol=1e-12)
  assert (w >= 0).all() and (w <= 0.5).all()
  p = np.take_along_axis(softmax(v, 1.0), np.asarray(y)[None, :, None], -1)[..., 0]
  np.testing.assert_array_equal(np.argsort(w, axis=0), np.argsort(p, axis=0))
  np.testing.assert_array_equal(
      mixtures.confidence_weights(jnp.asarray(v[:1]), y), np.ones((1, 4)))


# What is refused.


@pytest.mark.parametrize("call, word", [
    (lambda z: divergences.jensen_shannon(z, z, 1.0, 1.5), "beta"),
    (lambda z: divergences.reverse_kl(z, z, 0.0), "temperature"),
    (lambda z: targets.top_k_kl(z, z, 1.0, 0), "k must"),
    (lambda z: targets.virtual_teacher_kl(z, jnp.array(0), 1.0, 0.0), "correct"),
    (lambda z: targets.manual_teacher_logits(jnp.array(0), 3, 1.5), "correct"),
    (lambda z: targets.smoothed_label_logits(jnp.array(0), 3, -0.1), "smoothing"),
    (lambda z: mixtures.mixture_logits(z[None], 1.0, mean="median"), "median"),
])
def test_numbers_out_of_range_are_refused(call, word):
  with pytest.raises(ValueError, match=word):
    call(jnp.zeros(3))


def test_an_empty_sum_has_no_nan_in_it():
  gradient = jax.grad(lambda a: jnp.where(
      jnp.isfinite(found := parts.log_sum(a, jnp.array([False, False]))), found, 0))
  assert parts.log_sum(jnp.zeros(2), jnp.array([False, False])) == -jnp.inf
  np.testing.assert_array_equal(gradient(jnp.zeros(2)), 0.0)
