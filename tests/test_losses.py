"""The objectives are the equations of the papers.

Oracles are float64 NumPy, written from the papers in another form than the
code: eq. 1 as q_i = 1 / sum_j exp((z_j - z_i) / T), KL as a difference of
cross-entropies, label smoothing as a smoothed target.
Tests named `test_pN_` hold off a fault found in shipped code elsewhere.
"""

from collections.abc import Callable
import dataclasses
import doctest
import functools
import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.special

from kd_jax import losses
from kd_jax.core import limits
from kd_jax.losses import hinton

log = math.log


# Oracles, from the papers.


def oracle_softmax(z, t):
  """Hinton et al. 2015, eq. 1, reduced by its numerator."""
  with np.errstate(over="ignore"):  # exp of a huge gap is inf, and q_i is 0
    ratio = np.exp((z[..., None, :] - z[..., :, None]) / t)  # [..., i, j]
    return 1.0 / ratio.sum(axis=-1)


def oracle_log_softmax(z, t):
  """The logarithm of eq. 1."""
  return z / t - np.logaddexp.reduce(z / t, axis=-1, keepdims=True)


def oracle_soft(z, v, y, t):
  """- sum_i p_i log q_i (section 2)."""
  return -np.sum(oracle_softmax(v, t) * oracle_log_softmax(z, t), axis=-1)


def oracle_kl(z, v, y, t):
  """Cross-entropy less the teacher's entropy."""
  return oracle_soft(z, v, y, t) - oracle_soft(v, v, y, t)


def oracle_l2(z, v, y, t):
  """Ba & Caruana 2014, eq. 1: 1/2 ||z - v||^2 of one example."""
  return 0.5 * np.linalg.norm(z - v, axis=-1) ** 2


def oracle_centred_l2(z, v, y, t):
  """The same of logits with zero mean, as Hinton's eq. 4 supposes."""
  z = z - z.mean(axis=-1, keepdims=True)
  v = v - v.mean(axis=-1, keepdims=True)
  return oracle_l2(z, v, y, t)


def oracle_hard(z, v, y, t, smoothing=0.0):
  """Cross-entropy at T = 1 with the one-hot target, mixed with the even one."""
  classes = z.shape[-1]
  target = (1 - smoothing) * np.eye(classes)[y] + smoothing / classes
  return -np.sum(target * oracle_log_softmax(z, 1.0), axis=-1)


def oracle_distillation(z, v, y, t, hard, soft, smoothing=0.0):
  """Section 2: the soft term's gradient falls as 1/T^2, so multiply by T^2."""
  return (hard * oracle_hard(z, v, y, t, smoothing)
          + soft * t**2 * oracle_kl(z, v, y, t))


@dataclasses.dataclass(frozen=True)
class Objective:
  function: Callable  # (student, teacher, labels, temperature, where)
  oracle: Callable  # (student, teacher, labels, temperature)
  has_teacher: bool = True
  squares_temperature: bool = False


OBJECTIVES = {
    "soft_target_cross_entropy": Objective(
        lambda z, v, y, t, where: losses.soft_target_cross_entropy(
            z, v, t, where=where),
        oracle_soft),
    "distillation_kl": Objective(
        lambda z, v, y, t, where: losses.distillation_kl(
            z, v, t, where=where),
        oracle_kl),
    "logit_matching": Objective(
        lambda z, v, y, t, where: losses.logit_matching(
            z, v, where=where),
        oracle_l2),
    "logit_matching_zero_mean": Objective(
        lambda z, v, y, t, where: losses.logit_matching(
            z, v, zero_mean=True, where=where),
        oracle_centred_l2),
    "hard_cross_entropy": Objective(
        lambda z, v, y, t, where: losses.hard_cross_entropy(
            z, y, where=where),
        oracle_hard, has_teacher=False),
    "hard_cross_entropy_smoothed": Objective(
        lambda z, v, y, t, where: losses.hard_cross_entropy(
            z, y, label_smoothing=0.3, where=where),
        functools.partial(oracle_hard, smoothing=0.3), has_teacher=False),
    "distillation_loss": Objective(
        lambda z, v, y, t, where: losses.distillation_loss(
            z, v, y, temperature=t, alpha=0.75, where=where),
        functools.partial(oracle_distillation, hard=0.25, soft=0.75),
        squares_temperature=True),
    "distillation_loss_weights_smoothed": Objective(
        lambda z, v, y, t, where: losses.distillation_loss(
            z, v, y, temperature=t, hard_weight=2.0, soft_weight=0.5,
            label_smoothing=0.1, where=where),
        functools.partial(
            oracle_distillation, hard=2.0, soft=0.5, smoothing=0.1),
        squares_temperature=True),
}
# All but the distance of Ba & Caruana, which match the logits themselves.
SHIFT_INVARIANT = [name for name in OBJECTIVES if name != "logit_matching"]
WITH_TEACHER = [name for name, o in OBJECTIVES.items() if o.has_teacher]
# Zero, with zero gradient, where the student's logits are the teacher's.
DISTANCES = ["distillation_kl", "logit_matching", "logit_matching_zero_mean"]

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_objective_with_teacher = pytest.mark.parametrize("name", WITH_TEACHER)


@jax.jit
def evaluate(z, v, y, t, where=None):
  """By name: values `[...]`, and gradients in student, teacher, temperature.

  One program for all objectives, since compiling is what takes the time here.
  """
  def both(function):
    def total(z, v, t):
      values = function(z, v, y, t, where)
      return jnp.sum(values), values
    gradient = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    return gradient(z, v, t)[::-1]
  return {name: both(o.function) for name, o in OBJECTIVES.items()}


def values(name, *args):
  return np.asarray(evaluate(*args)[name][0])


def gradients(name, *args):
  return [np.asarray(g) for g in evaluate(*args)[name][1]]


def example(shape=(4, 7), seed=0, scale=2.0):
  """Skewed student and teacher logits, exact in float32, and labels."""
  rng = np.random.default_rng(seed)
  z, v = scale * rng.gumbel(size=(2, *shape))
  y = rng.integers(shape[-1], size=shape[:-1])
  return *rounded(z, v), y


def rounded(*logits):
  """What float32, or a lower precision, made of the logits, in float64."""
  return [np.asarray(a).astype(np.float32).astype(np.float64) for a in logits]


def on_device(z, v, y):
  """The default precision: float32, or float64 under x64."""
  return jnp.asarray(z), jnp.asarray(v), jnp.asarray(y, jnp.int32)


def close(actual, desired, *, times=1.0):
  """Equal to a few units in the last place, of logarithms `times` T^2."""
  eps = np.finfo(np.asarray(actual).dtype).eps
  np.testing.assert_allclose(
      np.asarray(actual, np.float64), desired, rtol=8 * eps,
      atol=8 * eps * times)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


# Values.


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)], ids=str)
@every_objective
def test_value_equals_the_float64_oracle_for_any_leading_shape(
    name, shape, precision):
  z, v, y = example(shape)
  with jax.enable_x64(precision == "float64"):
    value = values(name, *on_device(z, v, y), 3.0)
  assert value.shape == shape[:-1]
  assert value.dtype == precision
  objective = OBJECTIVES[name]
  close(value, objective.oracle(z, v, y, 3.0),
        times=9.0 if objective.squares_temperature else 1.0)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("function, oracle", [
    (losses.tempered_softmax, oracle_softmax),
    (losses.tempered_log_softmax, oracle_log_softmax),
])
def test_tempered_softmax_equals_the_float64_oracle_for_any_leading_shape(
    function, oracle, shape, precision):
  z, _, _ = example(shape)
  with jax.enable_x64(precision == "float64"):
    value = jax.jit(function)(jnp.asarray(z), 3.0)
  assert value.dtype == precision
  close(value, oracle(z, 3.0))


def test_one_temperature_an_example_equals_one_call_a_temperature():
  z, v, y = on_device(*example())
  t = [1.0, 2.0, 4.0, 20.0]
  for name in ("soft_target_cross_entropy", "distillation_kl"):
    together = jax.jit(getattr(losses, name))(z, v, jnp.array(t)[:, None])
    apart = [values(name, z[i], v[i], y[i], t[i]) for i in range(4)]
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_tempered_softmax_by_hand():
  # exp(z) = 1 : 4 : 25, at T = 2 the roots 1 : 2 : 5, of sum 8.
  z = jnp.array([0.0, log(4), log(25)])
  close(losses.tempered_softmax(z, 2.0), [1 / 8, 2 / 8, 5 / 8])
  close(losses.tempered_softmax(z, 1.0), [1 / 30, 4 / 30, 25 / 30])
  close(losses.tempered_log_softmax(z, 2.0), [-log(8), -log(4), -log(8 / 5)])


# At T = 2: q = (1/8, 2/8, 5/8), and p = 4 : 2 : 2 = (1/2, 1/4, 1/4).
HAND_STUDENT = [0.0, log(4), log(25)]
HAND_TEACHER = [log(16), log(4), log(4)]
# KL(p || q) = 1/2 log(4) + 1/4 log(1) + 1/4 log(2/5) = 0.4641
HAND_KL = 0.5 * log(4) + 0.25 * log(1) + 0.25 * log(2 / 5)
# KL(q || p) = 1/8 log(1/4) + 1/4 log(1) + 5/8 log(5/2) = 0.3994
HAND_REVERSE_KL = 0.125 * log(1 / 4) + 0.25 * log(1) + 0.625 * log(5 / 2)


def test_soft_target_cross_entropy_by_hand():
  value = losses.soft_target_cross_entropy(
      jnp.array(HAND_STUDENT), jnp.array(HAND_TEACHER), 2.0)
  # - sum_i p_i log q_i = 1/2 log 8 + 1/4 log 4 + 1/4 log(8/5) = 1.5038
  close(value, 0.5 * log(8) + 0.25 * log(4) + 0.25 * log(8 / 5))


def test_distillation_kl_by_hand():
  value = losses.distillation_kl(
      jnp.array(HAND_STUDENT), jnp.array(HAND_TEACHER), 2.0)
  close(value, HAND_KL)


@pytest.mark.parametrize("zero_mean, expected", [
    (False, 20.5),  # z - v = (1, 2, 6): (1 + 4 + 36) / 2
    (True, 7.0),  # its mean is 3, less that (-2, -1, 3): (4 + 1 + 9) / 2
])
def test_logit_matching_by_hand(zero_mean, expected):
  value = losses.logit_matching(
      jnp.array([1.0, 3.0, 8.0]), jnp.array([0.0, 1.0, 2.0]),
      zero_mean=zero_mean)
  assert value == expected


@pytest.mark.parametrize("smoothing, expected", [
    # At T = 1, q = (1, 4, 25) / 30: -log q = log 30, log 7.5, log 1.2.
    (0.0, log(7.5)),
    (0.3, 0.7 * log(7.5) + 0.1 * (log(30) + log(7.5) + log(1.2))),
    (1.0, (log(30) + log(7.5) + log(1.2)) / 3),
])
def test_hard_cross_entropy_by_hand(smoothing, expected):
  value = losses.hard_cross_entropy(
      jnp.array(HAND_STUDENT), jnp.array(1), label_smoothing=smoothing)
  close(value, expected)


def test_distillation_loss_by_hand():
  value = losses.distillation_loss(
      jnp.array(HAND_STUDENT), jnp.array(HAND_TEACHER), jnp.array(1),
      temperature=2.0, alpha=0.75)
  # 1/4 of the hard term at T = 1, and 3/4 of T^2 = 4 times the soft one.
  close(value, 0.25 * log(7.5) + 0.75 * 4 * HAND_KL)


def test_documented_examples_hold():
  result = doctest.testmod(hinton)
  assert result.attempted > 0
  assert result.failed == 0


# Hinton, Vinyals & Dean (2015), equations 2 and 4.


@pytest.mark.parametrize("t", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize(
    "name", ["soft_target_cross_entropy", "distillation_kl"])
def test_gradient_is_equation_2(x64, name, t):
  z, v, y = example()
  gradient, _, _ = gradients(name, *on_device(z, v, y), t)
  desired = (oracle_softmax(z, t) - oracle_softmax(v, t)) / t
  np.testing.assert_allclose(gradient, desired, rtol=1e-12, atol=1e-15)


TEMPERATURES = [50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0]


def zero_meaned(shape=(4, 7)):
  z, v, y = example(shape)
  centre = lambda logits: logits - logits.mean(axis=-1, keepdims=True)
  return centre(z), centre(v), y


def slope(t, error):
  return np.polynomial.polynomial.polyfit(np.log(t), np.log(error), 1)[1]


@pytest.mark.parametrize("scale, order", [
    (lambda t: 1.0, -3),  # the bare gradient, of order 1/T^2
    (lambda t: t**2, -1),  # the gradient that T^2 keeps of order 1
])
def test_gradient_tends_to_equation_4_at_the_order_of_the_next_term(
    x64, scale, order):
  z, v, y = zero_meaned()
  equation_4 = lambda t: (z - v) / (z.shape[-1] * t**2)
  error = []
  for t in TEMPERATURES:
    gradient, _, _ = gradients(
        "soft_target_cross_entropy", *on_device(z, v, y), t)
    error.append(scale(t) * np.abs(gradient - equation_4(t)).max())
  assert slope(TEMPERATURES, error) == pytest.approx(order, abs=0.05)


def test_the_term_after_equation_4_is_the_difference_of_squares(x64):
  z, v, y = zero_meaned()
  # With zero mean, N e^{z/T} / sum = 1 + z/T + (z^2 - mean z^2) / (2 T^2) + ...
  # so T^3 (gradient - eq. 4) -> (z^2 - v^2 - mean(z^2 - v^2)) / (2N).
  square = z**2 - v**2
  term = (square - square.mean(axis=-1, keepdims=True)) / (2 * z.shape[-1])
  t = 1e4
  gradient, _, _ = gradients(
      "soft_target_cross_entropy", *on_device(z, v, y), t)
  rest = t**3 * (gradient - (z - v) / (z.shape[-1] * t**2))
  np.testing.assert_allclose(rest, term, atol=2e-3 * np.abs(term).max())


def test_scaled_kl_tends_to_centred_logit_matching_over_classes(x64):
  z, v, y = example()  # not zero-meaned: both sides centre by themselves
  student, teacher, y = on_device(z, v, y)
  limit = losses.logit_matching(student, teacher, zero_mean=True) / 7
  error = [
      np.abs(t**2 * values("distillation_kl", student, teacher, y, t)
             - limit).max() for t in TEMPERATURES]
  assert slope(TEMPERATURES, error) == pytest.approx(-1, abs=0.05)
  assert error[-1] < 0.01 * np.max(limit)


# Identities.


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
def test_adding_a_constant_to_all_logits_changes_nothing(x64, name):
  z, v, y = on_device(*example())
  offset = jnp.array([[5.0], [-3.0], [100.0], [0.1]])
  value = values(name, z, v, y, 3.0)
  np.testing.assert_allclose(
      values(name, z + offset, v, y, 3.0), value, rtol=1e-12)
  np.testing.assert_allclose(
      values(name, z, v - offset, y, 3.0), value, rtol=1e-12)


def test_logit_matching_without_zero_mean_sees_a_constant():
  z, _, _ = on_device(*example())
  # Seven classes, each off by 2: 7 * 4 / 2.
  np.testing.assert_allclose(losses.logit_matching(z + 2.0, z), 14.0, rtol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("t", [1.0, 20.0])
def test_distance_and_its_gradient_are_zero_at_equality(name, t):
  z, _, y = on_device(*example())
  gradient, _, _ = gradients(name, z, z, y, t)
  np.testing.assert_array_equal(values(name, z, z, y, t), 0.0)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@pytest.mark.parametrize("t", [1.0, 20.0])
def test_soft_cross_entropy_at_equality_is_the_entropy_with_zero_gradient(t):
  z, _, y = example()
  p = oracle_softmax(z, t)
  student, _, labels = on_device(z, z, y)
  name = "soft_target_cross_entropy"
  gradient, _, _ = gradients(name, student, student, labels, t)
  close(values(name, student, student, labels, t),
        -np.sum(p * np.log(p), axis=-1))
  np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@every_objective
def test_loss_of_an_example_does_not_depend_on_its_batch(name):
  z, v, y = on_device(*example())
  whole = values(name, z, v, y, 3.0)
  alone = [values(name, z[i], v[i], y[i], 3.0) for i in range(4)]
  np.testing.assert_allclose(whole, alone, rtol=1e-5)
  others = z.at[1:].multiply(-9.0)
  np.testing.assert_array_equal(values(name, others, v, y, 3.0)[0], whole[0])


@every_objective
def test_permuting_examples_permutes_losses_and_gradients(name):
  z, v, y = on_device(*example())
  order = np.array([3, 0, 1, 2])
  permuted = z[order], v[order], y[order], 3.0
  np.testing.assert_allclose(
      values(name, *permuted), values(name, z, v, y, 3.0)[order], rtol=1e-6)
  np.testing.assert_allclose(
      gradients(name, *permuted)[0], gradients(name, z, v, y, 3.0)[0][order],
      rtol=1e-6)


@every_objective
def test_renaming_classes_changes_nothing(x64, name):
  z, v, y = on_device(*example())
  order = np.array([3, 0, 5, 1, 6, 4, 2])
  renamed = jnp.asarray(np.argsort(order)[y], jnp.int32)
  permuted = z[:, order], v[:, order], renamed, 3.0
  np.testing.assert_allclose(
      values(name, *permuted), values(name, z, v, y, 3.0), rtol=1e-12)
  np.testing.assert_allclose(
      gradients(name, *permuted)[0],
      gradients(name, z, v, y, 3.0)[0][:, order], rtol=1e-10)


@every_objective
def test_jit_equals_eager(name):
  z, v, y = on_device(*example())
  np.testing.assert_allclose(
      values(name, z, v, y, 3.0),
      OBJECTIVES[name].function(z, v, y, 3.0, None), rtol=1e-5)


@jax.jit
@jax.vmap
def evaluate_each(z, v, y, t):
  return {name: o.function(z, v, y, t, None) for name, o in OBJECTIVES.items()}


@every_objective
def test_vmap_equals_a_loop(name):
  z, v, y = on_device(*example())
  t = [1.0, 2.0, 4.0, 20.0]
  apart = [values(name, z[i], v[i], y[i], t[i]) for i in range(4)]
  np.testing.assert_allclose(
      evaluate_each(z, v, y, jnp.array(t))[name], apart, rtol=1e-4)


def test_derivatives_of_all_agree_with_finite_differences(x64):
  z, v, y = on_device(*example())
  function = jax.jit(lambda z, t: {
      name: o.function(z, v, y, t, None) for name, o in OBJECTIVES.items()})
  jax.test_util.check_grads(
      function, (z, jnp.asarray(3.0)), order=1, modes=["fwd", "rev"])


def test_temperature_and_weights_are_data_that_compile_once():
  z, v, y = on_device(*example())
  traces = []

  @jax.jit
  def loss(t, alpha):
    traces.append(1)
    return losses.distillation_loss(z, v, y, temperature=t, alpha=alpha)

  for t, alpha in ((1.0, 0.0), (20.0, 1.0), (4.0, 0.5)):
    np.testing.assert_allclose(
        loss(jnp.float32(t), jnp.float32(alpha)),
        (1 - alpha) * values("hard_cross_entropy", z, v, y, t)
        + alpha * t**2 * values("distillation_kl", z, v, y, t), rtol=1e-4)
  assert len(traces) == 1


# Weights.


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.9, 1.0])
def test_alpha_is_short_for_the_weights_one_minus_alpha_and_alpha(alpha):
  assert losses.distillation_weights(alpha) == (1 - alpha, alpha)
  z, v, y = on_device(*example())
  loss = functools.partial(losses.distillation_loss, z, v, y, temperature=4.0)
  np.testing.assert_array_equal(
      loss(alpha=alpha), loss(hard_weight=1 - alpha, soft_weight=alpha))


@pytest.mark.parametrize("kwargs, message", [
    ({}, "give alpha, or both"),
    ({"hard_weight": 1.0}, "give alpha, or both"),
    ({"soft_weight": 1.0}, "give alpha, or both"),
    ({"alpha": 0.5, "hard_weight": 0.5}, "not both"),
    ({"alpha": 0.5, "soft_weight": 0.5}, "not both"),
    ({"alpha": 0.0, "hard_weight": 0.0, "soft_weight": 0.0}, "not both"),
    ({"alpha": -0.1}, "alpha must be"),
    ({"alpha": 1.1}, "alpha must be"),
    ({"alpha": 2}, "alpha must be"),
    ({"alpha": math.nan}, "alpha must be"),
    ({"hard_weight": -1.0, "soft_weight": 1.0}, "hard_weight must be"),
    ({"hard_weight": 1.0, "soft_weight": -1.0}, "soft_weight must be"),
    ({"hard_weight": 1.0, "soft_weight": math.inf}, "soft_weight must be"),
    ({"hard_weight": math.nan, "soft_weight": 1.0}, "hard_weight must be"),
    ({"alpha": 0.5, "label_smoothing": -0.1}, "label_smoothing must be"),
    ({"alpha": 0.5, "label_smoothing": 1.1}, "label_smoothing must be"),
    ({"alpha": 0.5, "label_smoothing": math.nan}, "label_smoothing must be"),
], ids=str)
def test_impossible_weights_are_refused(kwargs, message):
  z = jnp.zeros((1, 2))
  with pytest.raises(ValueError, match=message):
    losses.distillation_loss(
        z, z, jnp.array([0]), temperature=1.0, **kwargs)


@pytest.mark.parametrize("t", [0, 0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("function", [
    losses.tempered_softmax,
    losses.tempered_log_softmax,
    lambda z, t: losses.soft_target_cross_entropy(z, z, t),
    lambda z, t: losses.distillation_kl(z, z, t),
    lambda z, t: losses.distillation_loss(
        z, z, jnp.array([0]), temperature=t, alpha=0.5),
], ids=["softmax", "log_softmax", "soft_cross_entropy", "kl", "loss"])
def test_impossible_temperature_is_refused(function, t):
  with pytest.raises(ValueError, match="temperature must be"):
    function(jnp.zeros((1, 2)), t)


# Masked classes, extremes, NaN.

KEPT = np.array([0, 2, 3, 6])
DROPPED = np.array([1, 4, 5])


def masked_example():
  """Seven classes of which four exist, the same four alone, and both labels."""
  z, v, _ = example()
  y = np.array([0, 1, 3, 2])  # among the four
  return z, v, KEPT[y], z[:, KEPT], v[:, KEPT], y


def kept_only():
  return jnp.asarray(np.isin(np.arange(7), KEPT)[None].repeat(4, axis=0))


@pytest.mark.parametrize("how", ["where", "minus_infinity", "both"])
@every_objective
def test_masking_classes_equals_slicing_them_away(x64, name, how):
  z, v, y, z_kept, v_kept, y_kept = masked_example()
  if how != "where":
    z[:, DROPPED] = v[:, DROPPED] = -np.inf
  where = None if how == "minus_infinity" else kept_only()
  masked = (*on_device(z, v, y), 3.0, where)
  sliced = (*on_device(z_kept, v_kept, y_kept), 3.0)
  np.testing.assert_allclose(
      values(name, *masked), values(name, *sliced), rtol=1e-12)
  student, teacher, temperature = gradients(name, *masked)
  student_kept, _, temperature_kept = gradients(name, *sliced)
  np.testing.assert_allclose(student[:, KEPT], student_kept, atol=1e-13)
  np.testing.assert_array_equal(student[:, DROPPED], 0.0)
  np.testing.assert_array_equal(teacher, 0.0)
  np.testing.assert_allclose(temperature, temperature_kept, rtol=1e-10)


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
@every_objective
def test_what_stands_in_a_masked_class_does_not_matter(x64, name, rubbish):
  z, v, y, _, _, _ = masked_example()
  clean = (*on_device(z, v, y), 3.0, kept_only())
  z[:, DROPPED] = v[:, DROPPED] = rubbish
  dirty = (*on_device(z, v, y), 3.0, kept_only())
  np.testing.assert_array_equal(values(name, *dirty), values(name, *clean))
  for actual, desired in zip(gradients(name, *dirty), gradients(name, *clean)):
    np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize("function", [
    losses.tempered_softmax, losses.tempered_log_softmax])
def test_softmax_of_masked_logits_has_finite_gradients(function):
  z = jnp.array([1.0, -jnp.inf, 2.0, 0.5])
  total = lambda z, t: jnp.sum(jnp.where(z > -jnp.inf, function(z, t), 0.0))
  in_logits, in_temperature = jax.grad(total, argnums=(0, 1))(z, 2.0)
  assert np.isfinite(in_logits).all() and np.isfinite(in_temperature)
  assert in_logits[1] == 0.0
  masked = -np.inf if function is losses.tempered_log_softmax else 0.0
  assert function(z, 2.0)[1] == masked


def test_student_that_excludes_a_class_of_the_teacher_is_infinitely_far():
  z, v, y = example()
  z[:, 2] = -np.inf
  for name in ("soft_target_cross_entropy", "distillation_kl"):
    arguments = (*on_device(z, v, y), 3.0)
    np.testing.assert_array_equal(values(name, *arguments), np.inf)
    assert np.isfinite(gradients(name, *arguments)[0]).all()


def test_class_that_only_the_teacher_excludes_is_pushed_down(x64):
  z, v, y = example()
  v[:, 2] = -1e6  # the same to the oracle: p is 0
  gap = (oracle_softmax(z, 3.0) - oracle_softmax(v, 3.0)) / 3.0  # eq. 2
  v[:, 2] = -np.inf
  assert (gap[:, 2] > 0).all()
  for name in ("soft_target_cross_entropy", "distillation_kl"):
    arguments = (*on_device(z, v, y), 3.0)
    assert np.isfinite(values(name, *arguments)).all()
    student, _, temperature = gradients(name, *arguments)
    np.testing.assert_allclose(student, gap, rtol=1e-10)
    assert np.isfinite(temperature)


@pytest.mark.parametrize("constant", [0.0, 7.0, -1e4])
def test_fully_equal_logits_give_log_of_classes_and_no_gradient(constant):
  z = jnp.full((4, 7), constant)
  y = jnp.array([0, 5, 6, 1], jnp.int32)
  for t in (1.0, 20.0):
    for name in ("soft_target_cross_entropy", "hard_cross_entropy",
                 "hard_cross_entropy_smoothed"):
      close(values(name, z, z, y, t), [log(7)] * 4)
    for name in DISTANCES:
      np.testing.assert_array_equal(values(name, z, z, y, t), 0.0)
      np.testing.assert_array_equal(gradients(name, z, z, y, t)[0], 0.0)


@pytest.mark.parametrize("t", [1.0, 20.0])
@every_objective
def test_huge_logits_stay_finite_and_right(name, t):
  z, v, y = example()
  z[:, :2] += [1e4, -1e4]
  v[:, 1:4] += [-1e4, 1e4, 1e4]
  arguments = (*on_device(z, v, y), t)
  desired = OBJECTIVES[name].oracle(*rounded(z, v), y, t)
  np.testing.assert_allclose(values(name, *arguments), desired, rtol=1e-5)
  for gradient in gradients(name, *arguments):
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name, whose", [
    *((name, "student") for name in OBJECTIVES),
    *((name, "teacher") for name in WITH_TEACHER),
])
def test_nan_logits_are_passed_on_and_only_to_their_own_example(name, whose):
  z, v, y = example()
  (z if whose == "student" else v)[1, 2] = np.nan
  value = values(name, *on_device(z, v, y), 3.0)
  np.testing.assert_array_equal(np.isnan(value), [False, True, False, False])


# Low precision.


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@every_objective
def test_low_precision_logits_give_the_float32_loss(name, dtype, t):
  z, v, y = on_device(*example((8, 100)))
  z, v = z.astype(dtype), v.astype(dtype)
  value = values(name, z, v, y, t)
  assert value.dtype == np.float32
  # The oracle sees the rounded logits, so the loss may add no rounding of its
  # own beyond float32's; bfloat16's is 2**16 times as coarse, float16's 2**13.
  objective = OBJECTIVES[name]
  close(value, objective.oracle(*rounded(z, v), y, t),
        times=t**2 if objective.squares_temperature else 1.0)


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_logits_get_the_rounded_float32_gradient(dtype, t):
  z, v, y = on_device(*example((8, 100)))
  z, v = z.astype(dtype), v.astype(dtype)
  exact_z, exact_v = rounded(z, v)
  # 1/4 of the hard gradient at T = 1, and 3/4 of T^2 times eq. 2.
  hard = 0.25 * (oracle_softmax(exact_z, 1.0) - np.eye(100)[y])
  soft = 0.75 * t * (oracle_softmax(exact_z, t) - oracle_softmax(exact_v, t))
  gradient = gradients("distillation_loss", z, v, y, t)[0]
  assert gradient.dtype == dtype
  # Both are rounded to the precision of the logits, and so is their sum.
  half_unit = 0.5 * float(jnp.finfo(dtype).eps)
  bound = half_unit * (abs(hard) + abs(soft) + abs(hard + soft))
  error = abs(gradient.astype(np.float64) - (hard + soft))
  assert (error <= 1.01 * bound + 1e-6 * t).all()


# Properties over generated logits.

few_examples = hypothesis.settings(
    max_examples=30, deadline=None, derandomize=True)
logits_of_six = hypothesis_numpy.arrays(
    np.float64, 6, elements=st.floats(-50, 50, width=32))
temperatures = st.floats(0.5, 100)


@few_examples
@hypothesis.given(logits_of_six, logits_of_six, temperatures)
def test_kl_is_never_negative(z, v, t):
  with jax.enable_x64(True):
    value = values("distillation_kl", *on_device(z, v, 0), t)
  assert value >= -1e-14
  if np.ptp((z - v) / t) > 0.01:
    assert value > 0


@few_examples
@hypothesis.given(
    logits_of_six, logits_of_six, temperatures, st.floats(-100, 100))
def test_kl_does_not_see_a_shift(z, v, t, offset):
  with jax.enable_x64(True):
    value = values("distillation_kl", *on_device(z, v, 0), t)
    shifted = values("distillation_kl", *on_device(z + offset, v, 0), t)
  np.testing.assert_allclose(shifted, value, rtol=1e-10, atol=1e-12)


@few_examples
@hypothesis.given(logits_of_six, temperatures)
def test_probabilities_are_positive_and_sum_to_one(z, t):
  with jax.enable_x64(True):
    q = np.asarray(jax.jit(losses.tempered_softmax)(jnp.asarray(z), t))
  assert (q > 0).all()
  np.testing.assert_allclose(q.sum(), 1.0, rtol=1e-14)


@few_examples
@hypothesis.given(logits_of_six, temperatures, st.floats(1.01, 10))
def test_entropy_rises_with_temperature(z, t, factor):
  # The cross-entropy of a distribution with itself is its entropy.
  with jax.enable_x64(True):
    entropy = lambda t: values(
        "soft_target_cross_entropy", *on_device(z, z, 0), t)
    low, high = entropy(t), entropy(t * factor)
  assert high >= low - 1e-14
  assert high <= log(6) + 1e-14
  # dH/dT = Var_p(z) / T**3, which may be less than float64 can tell.
  p = np.exp(z / t - np.max(z / t))
  p /= p.sum()
  if p @ (z / t - p @ (z / t))**2 > 1e-6:
    assert high > low


# Faults of shipped code, by their number in the survey of other codebases.


@functools.partial(jax.jit, static_argnames="t")
def soft_term(z, v, t):
  """Values, and gradients in the student, at alpha = 1."""
  def total(z):
    labels = jnp.zeros(z.shape[:-1], jnp.int32)
    values = losses.distillation_loss(z, v, labels, temperature=t, alpha=1.0)
    return jnp.sum(values), values
  gradient, values = jax.grad(total, has_aux=True)(z)
  return values, gradient


def test_p1_softmax_is_taken_whatever_way_the_loss_is_named(x64):
  """Keras 3's default feeds raw logits to KL, without softmax or T^2."""
  z, v, y = example()
  t = 4.0
  value, gradient = soft_term(z, v, t)
  np.testing.assert_allclose(value, t**2 * oracle_kl(z, v, y, t), rtol=1e-12)
  np.testing.assert_allclose(gradient, t * (
      oracle_softmax(z, t) - oracle_softmax(v, t)), rtol=1e-12, atol=1e-14)
  shifted, _ = soft_term(z + 5.0, v + 5.0, t)
  np.testing.assert_allclose(shifted, value, rtol=1e-12)
  value, gradient = soft_term(z, z, t)
  np.testing.assert_array_equal(value, 0.0)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-14)


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_p2_soft_term_is_multiplied_by_the_square_of_temperature(x64, t):
  """TextBrewer, old keras-io and others leave T^2 out, or multiply by T."""
  z, v, y = on_device(*example())
  value, _ = soft_term(z, v, t)
  np.testing.assert_allclose(
      value / values("distillation_kl", z, v, y, t), t**2, rtol=1e-12)


def test_p2_soft_gradient_does_not_fall_with_temperature(x64):
  """Without T^2 it falls 10,000-fold from T = 100 to T = 10,000."""
  z, v, _ = zero_meaned()
  for t in (100.0, 10_000.0):
    _, gradient = soft_term(z, v, t)
    np.testing.assert_allclose(gradient, (z - v) / 7, atol=20.0 / t)


def test_p3_sum_over_classes_is_not_divided_by_their_number():
  """KL `mean` divides by C: at C = 100 the soft term all but vanishes."""
  # Two classes carry all mass, p = (1/2, 1/2) and q = (1/4, 3/4), and the other
  # 98 have e^-200. KL = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3), as for C = 2.
  rest = [-200.0] * 98
  z, v = jnp.array([0.0, log(3), *rest]), jnp.array([0.0, 0.0, *rest])
  for classes in (2, 100):
    close(losses.distillation_kl(z[:classes], v[:classes], 1.0),
          0.5 * log(4 / 3))
    # 1/2 log 4 + 1/2 log(4/3)
    close(losses.soft_target_cross_entropy(z[:classes], v[:classes], 1.0),
          0.5 * log(4) + 0.5 * log(4 / 3))
    close(losses.logit_matching(z[:classes], v[:classes]), 0.5 * log(3) ** 2)
    close(losses.hard_cross_entropy(z[:classes], jnp.array(0)), log(4))


def test_p4_logits_are_taken_as_logits_and_normalised_once():
  """KD_Lib and others take log of log, softmax of softmax, or no log target."""
  # p = (1/10, 9/10), q = (1/4, 3/4): KL = 1/10 log(4/10) + 9/10 log(12/10).
  z, v = jnp.array([0.0, log(3)]), jnp.array([0.0, log(9)])
  kl = functools.partial(losses.distillation_kl, temperature=1.0)
  value = 0.1 * log(0.4) + 0.9 * log(1.2)
  close(kl(z, v), value)
  # Log-probabilities are logits too, and change nothing; probabilities are not.
  close(kl(jax.nn.log_softmax(z), jax.nn.log_softmax(v)), value)
  for wrong in (kl(jax.nn.softmax(z), v), kl(z, jax.nn.softmax(v)),
                kl(jax.nn.softmax(z), jax.nn.softmax(v))):
    assert abs(wrong - value) > 0.05 * value


def test_p5_kl_is_from_teacher_to_student():
  """The Flax cookbook has KL(student || teacher), by argument order."""
  z, v = jnp.array(HAND_STUDENT), jnp.array(HAND_TEACHER)
  assert HAND_KL > HAND_REVERSE_KL + 0.06  # the example tells them apart
  close(losses.distillation_kl(z, v, 2.0), HAND_KL)
  close(losses.distillation_kl(v, z, 2.0), HAND_REVERSE_KL)


def test_p6_alpha_is_the_share_of_the_soft_term():
  """Keras and torchdistill mean the share of the hard term by alpha."""
  z, v, y = on_device(*example())
  loss = functools.partial(losses.distillation_loss, temperature=4.0, alpha=0.9)
  # Student equal to teacher: the soft term is 0 and 1/10 of the hard is left.
  np.testing.assert_allclose(
      loss(z, z, y), 0.1 * losses.hard_cross_entropy(z, y), rtol=1e-5)
  np.testing.assert_allclose(
      loss(z, v, y), 0.1 * losses.hard_cross_entropy(z, y)
      + 0.9 * 16.0 * losses.distillation_kl(z, v, 4.0), rtol=1e-5)


@every_objective_with_teacher
def test_p9_teacher_gets_no_gradient_and_the_student_does(name):
  """TA-KD and KD_Lib train through the teacher; mt-dnn detached both."""
  z, v, y = on_device(*example())
  student, teacher, _ = gradients(name, z, v, y, 3.0)
  np.testing.assert_array_equal(teacher, 0.0)
  assert (np.abs(student).max(axis=-1) > 1e-3).all()


def test_p9_shared_weights_learn_from_the_student_side_alone(x64):
  """A self-distilled net must not move its own target."""
  z, _, y = on_device(*example())
  loss = lambda z: jnp.sum(losses.distillation_loss(
      2.0 * z, z, y, temperature=3.0, alpha=1.0))
  q, p = oracle_softmax(np.asarray(2 * z), 3.0), oracle_softmax(
      np.asarray(z), 3.0)
  # T^2 times eq. 2, times the 2 before z.
  np.testing.assert_allclose(jax.grad(loss)(z), 2 * 3.0 * (q - p), rtol=1e-10)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_p11_ends_of_alpha_are_points_of_a_continuous_family(x64, t):
  """torchdistill branches at alpha = 0, and its loss falls sixteen-fold."""
  z, v, y = on_device(*example())
  loss = lambda alpha: losses.distillation_loss(
      z, v, y, temperature=t, alpha=alpha)
  hard = losses.hard_cross_entropy(z, y)
  soft = t**2 * losses.distillation_kl(z, v, t)
  np.testing.assert_allclose(loss(0.0), hard, rtol=1e-14)
  np.testing.assert_allclose(loss(0), hard, rtol=1e-14)
  np.testing.assert_allclose(loss(1.0), soft, rtol=1e-14)
  # The family is linear: 1e-6 off the end is 1e-6 (soft - hard) off in value.
  np.testing.assert_allclose(
      loss(1e-6) - loss(0.0), 1e-6 * (soft - hard), rtol=1e-6)
  np.testing.assert_allclose(
      loss(1.0 - 1e-6) - loss(1.0), 1e-6 * (hard - soft), rtol=1e-6)


@pytest.mark.parametrize("t", [20.0, 100.0])
def test_p13_bfloat16_logits_do_not_make_a_bfloat16_loss(t):
  """A loss in bfloat16 is 30% off at T = 20 and 135% at T = 100."""
  z, v, y = on_device(*example((8, 100)))
  z, v = z.astype(jnp.bfloat16), v.astype(jnp.bfloat16)
  value = t**2 * values("distillation_kl", z, v, y, t)
  desired = t**2 * oracle_kl(*rounded(z, v), y, t)
  np.testing.assert_allclose(value.mean(), desired.mean(), rtol=1e-3)


def test_p13_probabilities_that_underflow_keep_their_logarithm():
  """log(softmax(z)) is -inf where softmax underflows, here e^-200."""
  z, y = jnp.array([[0.0, 200.0]]), jnp.array([0])
  close(losses.tempered_log_softmax(z, 1.0), [[-200.0, 0.0]])
  close(losses.hard_cross_entropy(z, y), [200.0])
  close(losses.distillation_kl(z, -z, 1.0), [200.0])


@pytest.mark.parametrize("t", [1e2, 1e3, 1e4, 1e5])
def test_p13_kl_reaches_its_limit_in_float32(t):
  """sum p log(p/q) was -2.8 at T = 1e4, where 1.84 is right."""
  z, v = jnp.array([0.0, 1.0, 0.0, 2.0]), jnp.array([3.0, 0.0, -2.0, 1.0])
  loss = lambda z: t**2 * losses.distillation_kl(z, v, t)
  limit = lambda z: losses.logit_matching(z, v, zero_mean=True) / 4
  np.testing.assert_allclose(loss(z), limit(z), rtol=0.02)
  np.testing.assert_allclose(
      jax.grad(loss)(z), jax.grad(limit)(z), atol=0.01)


@pytest.mark.parametrize("t", limits.TEMPERATURES)
@pytest.mark.parametrize("size", [1.0, 5.0, 30.0])
def test_both_ends_of_the_temperature_are_right_in_float32(t, size):
  draw = np.random.default_rng(0)
  z, v = draw.normal(0, size, (2, 200, 10)).astype(np.float32)
  loss = lambda z, t: t**2 * losses.distillation_kl(z, jnp.asarray(v), t)
  right = t**2 * oracle_kl(*np.longdouble([z, v]), None, t)
  for given in (t, jnp.float32(t)):
    np.testing.assert_allclose(
        loss(jnp.asarray(z), given), right, rtol=0.02, atol=0.02 * right.mean())
    slope = jax.grad(lambda z, t: loss(z, t).sum())(jnp.asarray(z), given)
    p, q = (np.asarray(scipy.special.softmax(x.astype(np.float64) / t, axis=-1))
            for x in (v, z))
    np.testing.assert_allclose(slope, t * (q - p), atol=0.01 * t * abs(q - p).max())


@pytest.mark.parametrize("t", [1e-18, 1e-7, 0.0, -1.0, 1e6, 1e8, 1e18, math.nan])
def test_another_temperature_is_refused_or_nan(t):
  z, v, _ = on_device(*example())
  with pytest.raises(ValueError, match=r"in \[1e-06, 100000\]"):
    losses.distillation_kl(z, v, t)
  assert np.isnan(jax.jit(losses.distillation_kl)(z, v, t)).all()
  each = jnp.full((*z.shape[:-1], 1), 2.0).at[0].set(t)
  assert np.isnan(losses.distillation_kl(z, v, each)).sum() == np.isnan(
      losses.distillation_kl(z, v, each)[0]).sum() > 0


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0, 1000.0])
@pytest.mark.parametrize("near", [1e-4, 1e-3, 0.1, 1.0])
def test_p13_kl_is_never_negative_and_right_near_the_teacher(t, near):
  draw = np.random.default_rng(0)
  v = draw.normal(0, 3, (2000, 10)).astype(np.float32)
  z = v + draw.normal(0, near, v.shape).astype(np.float32)
  value = np.asarray(losses.distillation_kl(jnp.asarray(z), jnp.asarray(v), t))
  assert (value >= 0).all()
  right = oracle_kl(*(x.astype(np.longdouble) for x in (z, v)), None, t)
  # The last digit of log p, against differences of near / T.
  assert np.median(np.abs(value / right - 1)) < 1e-6 + 1e-6 * t / near


NO_CLASSES = jnp.array([-100, -1, 7, 2_000_000])


def test_a_label_that_is_no_class_is_nan_and_has_no_gradient():
  z, v, _ = on_device(*example())
  labels = NO_CLASSES.at[2].set(6)  # the last class
  value = losses.hard_cross_entropy(z, labels)
  assert np.isnan(value).tolist() == [True, True, False, True]
  slope = jax.grad(lambda z: losses.hard_cross_entropy(z, labels).sum())(z)
  assert np.asarray(jnp.abs(slope).sum(-1) > 0).tolist() == [
      False, False, True, False]
  loss = functools.partial(
      losses.distillation_loss, z, v, NO_CLASSES, temperature=4.0)
  np.testing.assert_array_equal(
      loss(alpha=1.0), 16 * losses.distillation_kl(z, v, 4.0))
  assert np.isnan(loss(alpha=0.9)).all()
  traced = jax.jit(lambda alpha: loss(alpha=alpha))
  assert np.isfinite(traced(1.0)).all() and np.isnan(traced(0.5)).all()


@every_objective_with_teacher
def test_logits_of_other_shapes_are_refused(name):
  """NumPy's rules would make one class of the teacher all of the student's."""
  z, v, y = on_device(*example())
  for other in (v[:, :1], v[:1], v[:, None]):
    with pytest.raises(ValueError, match="must be alike"):
      OBJECTIVES[name].function(z, other, y, 2.0, None)


def test_labels_of_another_shape_are_refused():
  z, _, y = on_device(*example())
  with pytest.raises(ValueError, match="one label an example"):
    losses.hard_cross_entropy(z, y[:, None])


def test_p14_probability_zero_makes_no_nan():
  """optax's KL has a NaN gradient in zero targets and a NaN masked value."""
  z, v, _ = example()
  z[:, 1] = v[:, 1] = -np.inf  # zero by a mask
  v[:, 2] = -2000.0  # zero by underflow
  y = np.array([0, 2, 3, 4])  # labels of classes that exist
  for student, teacher in ((z, v), (v, v)):
    for name in WITH_TEACHER:
      args = (*on_device(student, teacher, y), 1.0)
      assert np.isfinite(values(name, *args)).all()
      for gradient in gradients(name, *args):
        assert np.isfinite(gradient).all()


def test_p15_label_smoothing_touches_the_hard_term_alone(x64):
  """Smoothing the teacher's targets too is a silent second objective."""
  z, v, y = on_device(*example())
  loss = functools.partial(losses.distillation_loss, z, v, y, temperature=4.0)
  np.testing.assert_array_equal(
      loss(alpha=1.0, label_smoothing=0.3), loss(alpha=1.0))
  hard = lambda s: losses.hard_cross_entropy(z, y, label_smoothing=s)
  np.testing.assert_allclose(
      loss(alpha=0.25, label_smoothing=0.3) - loss(alpha=0.25),
      0.75 * (hard(0.3) - hard(0.0)), rtol=1e-12)


@every_objective_with_teacher
def test_p22_loss_changes_with_the_student_and_with_the_teacher(name):
  """A tutorial compared the teacher with itself, and its loss stayed 0."""
  z, v, y = on_device(*example())
  bump = jnp.zeros((4, 7)).at[:, 3].set(0.5)
  value = values(name, z, v, y, 2.0)
  assert (np.abs(values(name, z + bump, v, y, 2.0) - value) > 1e-4).all()
  assert (np.abs(values(name, z, v + bump, y, 2.0) - value) > 1e-4).all()
