"""What is promised of every objective on logits, tried on all of them alike.

The list, with the equations as oracles, is in `logit_objectives.py`: what is added
there is tried here. Values by hand and identities: `test_logit_identities.py`.
"""

import doctest
import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
from logit_objectives import OBJECTIVES
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import decoupled

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
SHAPE = (4, 7)


# Compiling is what takes the time here.
quickly = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@quickly
def evaluate(z, v, y, t, where=None):
  """By name: values `[...]`, and gradients in student, teacher, temperature."""
  def both(function):
    def total(z, v, t):
      values = function(z, v, y, t, where)
      return jnp.sum(values), values
    gradient = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    return gradient(z, v, t)[::-1]
  return {name: both(o.function) for name, o in OBJECTIVES.items()}


def example(shape=SHAPE, seed=0, scale=2.0):
  """Skewed student and teacher logits, exact in float32, and labels.

  Some of the labels are the teacher's answer, and some of them are not.
  """
  rng = np.random.default_rng(seed)
  z, v = scale * rng.gumbel(size=(2, *shape))
  z, v = (a.astype(np.float32).astype(np.float64) for a in (z, v))
  y = np.array(rng.integers(shape[-1], size=shape[:-1]))
  y[..., ::2] = v.argmax(axis=-1)[..., ::2]
  return z, v, y


def on_device(z, v, y):
  """The default precision: float32, or float64 under x64."""
  return jnp.asarray(z), jnp.asarray(v), jnp.asarray(y, jnp.int32)


def close(actual, desired, *, eps=None, name=""):
  """Equal to a few units in the last place of numbers of size 1."""
  actual = np.asarray(actual)
  eps = eps or np.finfo(actual.dtype).eps
  np.testing.assert_allclose(
      actual.astype(np.float64), desired, rtol=32 * eps, atol=32 * eps,
      err_msg=name)


@pytest.fixture(scope="module")
def in_float32():
  """Arguments at T = 3, and what float32 makes of them."""
  args = example()
  return args, jax.device_get(evaluate(*on_device(*args), 3.0))


@pytest.fixture(scope="module")
def in_float64():
  args = example()
  with jax.enable_x64(True):
    return args, jax.device_get(evaluate(*on_device(*args), 3.0))


def slope(f, h=1e-4):
  """df/dx at 0, by central differences of the fourth order."""
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def slopes(name, z, v, y, t):
  """The oracle's gradient in the student's logits, `[B, classes]`."""
  bumps = np.eye(z.shape[-1])[:, None]  # [classes, 1, classes]
  return slope(lambda h: OBJECTIVES[name].oracle(z + h * bumps, v, y, t)).T


def test_a_label_that_is_no_class_is_nan():
  """`one_hot` is zero there, and an index of -1 is the last class."""
  z, v, _ = on_device(*example())
  labels = jnp.full(z.shape[:-1], -1).at[0].set(0)
  at_2 = [functools.partial(objective, temperature=2.0) for objective in (
      decoupled.target_class_kl, decoupled.non_target_class_kl,
      decoupled.non_target_cross_entropy, decoupled.sample_confidence_kl,
      decoupled.masked_correlation_kl)]
  for objective in (decoupled.confident_cross_entropy, *at_2):
    for bad in (labels, jnp.where(labels < 0, z.shape[-1], labels)):
      found = np.isnan(objective(z, v, bad))
      assert not found[0] and found[1:].all(), objective


# Values and gradients.


@every_objective
def test_value_is_the_equation_in_float32(name, in_float32):
  args, found = in_float32
  value, _ = found[name]
  assert value.shape == SHAPE[:1]
  assert value.dtype == np.float32
  close(value, OBJECTIVES[name].oracle(*args, 3.0))


@every_objective
def test_value_is_the_equation_in_float64(name, in_float64):
  args, found = in_float64
  value, _ = found[name]
  assert value.dtype == np.float64
  close(value, OBJECTIVES[name].oracle(*args, 3.0))


@every_objective
def test_gradient_is_the_slope_of_the_equation(name, in_float64):
  (z, v, y), found = in_float64
  _, (by_student, by_teacher, by_temperature) = found[name]
  oracle = OBJECTIVES[name].oracle
  np.testing.assert_allclose(
      by_student, slopes(name, z, v, y, 3.0), atol=1e-10)
  assert (np.abs(by_student).max(axis=-1) > 1e-3).any()
  np.testing.assert_array_equal(by_teacher, 0.0)
  # Of the teacher's softmax too: it is the logits that get no gradient.
  if OBJECTIVES[name].feels_temperature:
    desired = slope(lambda h: oracle(z, v, y, 3.0 + h)).sum()
    np.testing.assert_allclose(by_temperature, desired, atol=1e-9)


@every_objective
def test_float32_gradient_is_the_float64_one(name, in_float32, in_float64):
  for single, double in zip(
      in_float32[1][name][1], in_float64[1][name][1], strict=True):
    assert single.dtype == np.float32
    close(single, double)


def test_teacher_counts_and_gets_no_gradient(in_float32):
  (z, v, y), found = in_float32
  of_another = jax.device_get(evaluate(*on_device(z, v[::-1], y), 3.0))
  for name, (value, (_, by_teacher, _)) in found.items():
    np.testing.assert_array_equal(by_teacher, 0.0, err_msg=name)
    changed = (np.abs(value - of_another[name][0]) > 1e-4).any()
    assert changed == OBJECTIVES[name].has_teacher, name


# One program, many ways to run it.


@quickly
def forward(z, v, y, t):
  return {name: o.function(z, v, y, t, None) for name, o in OBJECTIVES.items()}


def test_any_leading_shape(in_float64):
  args, found = in_float64
  with jax.enable_x64(True):
    shaped = [a.reshape(2, 2, *a.shape[1:]) for a in on_device(*args)]
    again = forward(*shaped, 3.0)
  for name, value in again.items():
    close(value, found[name][0].reshape(2, 2), name=name)


def test_vmap_over_examples_and_temperatures_is_a_loop():
  """Also a temperature of `[..., 1]`: one an example."""
  z, v, y = example()
  t = np.array([1.0, 2.0, 3.0, 20.0])
  with jax.enable_x64(True):
    args = on_device(z, v, y)
    mapped = quickly(jax.vmap(forward.__wrapped__))(*args, jnp.asarray(t))
    together = forward(*args, jnp.asarray(t)[:, None])
  for name, objective in OBJECTIVES.items():
    loop = [objective.oracle(z[i], v[i], y[i], t[i]) for i in range(4)]
    close(mapped[name], loop, eps=1e-14, name=name)  # T**2 of a rounding
    close(together[name], loop, eps=1e-14, name=name)


# Invariances.


def test_neither_a_shift_nor_an_order_of_classes_is_seen(in_float64):
  (z, v, y), found = in_float64
  order = np.random.default_rng(1).permutation(SHAPE[-1])
  with jax.enable_x64(True):
    shifted = evaluate(*on_device(z + 5.0, v - 3.0, y), 3.0)
    permuted = evaluate(
        *on_device(z[:, order], v[:, order], np.argsort(order)[y]), 3.0)
  for name, (value, (by_student, _, _)) in found.items():
    close(np.sum(by_student, axis=-1), 0.0, name=name)
    for again in (permuted, shifted):
      if name.startswith(("mixture", "confidence")) and again is shifted:
        continue  # there the members are not shifts of one another
      close(again[name][0], value, eps=1e-14, name=name)
    close(permuted[name][1][0], by_student[:, order], name=name)


def test_a_student_like_the_teacher_has_nothing_to_learn(in_float64):
  (_, v, _), _ = in_float64
  right = v.argmax(axis=-1)
  with jax.enable_x64(True):
    told, wrong = (
        jax.device_get(evaluate(*on_device(v, v, y), 3.0))
        for y in (right, (right + 1) % SHAPE[-1]))
  for name, objective in OBJECTIVES.items():
    for labels, found in (("right", told), ("wrong", wrong)):
      if objective.least in ("teacher", labels):
        close(found[name][0], 0.0, name=name)
        close(found[name][1][0], 0.0, name=name)
    if objective.least == "flat":
      close(told[name][1][0], 0.0, name=name)
    if objective.least == "":
      assert np.abs(told[name][1][0]).max() > 1e-3, name


# Masked classes.

EXISTS = np.array([True, False, True, True, False, True, True])


@pytest.fixture(scope="module")
def masked():
  """Logits of which two classes do not exist, and the oracle's arguments."""
  z, v, _ = example()
  y = np.array([0, 2, 6, 5])
  small = (z[:, EXISTS], v[:, EXISTS], np.cumsum(EXISTS)[y] - 1)
  return (z, v, y), small


@pytest.mark.parametrize("fill", [0.0, 1e30, np.nan, -np.inf])
def test_a_class_left_out_is_no_class(masked, fill):
  (z, v, y), small = masked
  with jax.enable_x64(True):
    z, v = (np.where(EXISTS, a, fill) for a in (z, v))
    where = None if fill == -np.inf else jnp.asarray(
        np.broadcast_to(EXISTS, SHAPE))
    found = evaluate(*on_device(z, v, y), 3.0, where)
  for name, (value, (by_student, by_teacher, _)) in found.items():
    close(value, OBJECTIVES[name].oracle(*small, 3.0), name=name)
    np.testing.assert_array_equal(by_student[:, ~EXISTS], 0.0, err_msg=name)
    np.testing.assert_array_equal(by_teacher, 0.0, err_msg=name)
    np.testing.assert_allclose(
        by_student[:, EXISTS], slopes(name, *small, 3.0), atol=1e-10,
        err_msg=name)


def test_a_nan_is_passed_on_and_only_to_its_own_example():
  z, v, y = example()
  # In a class that every objective looks at: the teacher's second after the label.
  *_, second, y[1] = np.argsort(v[1])
  for whose in ("student", "teacher"):
    bad_z, bad_v = z.copy(), v.copy()
    (bad_z if whose == "student" else bad_v)[1, second] = np.nan
    found = evaluate(*on_device(bad_z, bad_v, y), 3.0)
    for name, (value, _) in found.items():
      if whose == "student" or OBJECTIVES[name].has_teacher:
        np.testing.assert_array_equal(
            np.isnan(value), [False, True, False, False], err_msg=name)


# Degenerate and extreme inputs.


def finite(found):
  for name, (value, gradients) in found.items():
    for leaf in (value, *gradients):
      assert np.isfinite(leaf).all(), name


def test_one_example_of_two_classes():
  for label in (0, 1):
    args = (np.array([[0.5, -1.0]]), np.array([[-2.0, 0.25]]), np.array([label]))
    found = evaluate(*on_device(*args), 2.0)
    finite(found)
    for name in set(OBJECTIVES) - {"top_k_kl", "bucket_kl"}:  # k = 3 is all
      close(found[name][0], OBJECTIVES[name].oracle(*args, 2.0), name=name)


def test_one_class_alone_is_certain():
  z, v, _ = example()
  where = jnp.asarray(np.broadcast_to(np.arange(7) == 4, SHAPE))
  with jax.enable_x64(True):
    found = evaluate(*on_device(z, v, np.full(4, 4)), 3.0, where)
  finite(found)
  for name, (value, (by_student, _, _)) in found.items():
    close(value, 0.0, name=name)
    close(by_student, 0.0, name=name)


@pytest.mark.parametrize("size", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_equal_logits(whose, size):
  """Also of a size whose mean float32 cannot hold: 0.1 * 7 / 7 is not 0.1."""
  z, v, y = example()
  z = z if whose == "teacher" else np.full_like(z, size)
  v = v if whose == "student" else np.full_like(v, size)
  found = evaluate(*on_device(z, v, y), 3.0)
  finite(found)
  for name, (_, (by_student, _, _)) in found.items():
    assert np.abs(by_student).max() < 10, name
    if whose == "student" and OBJECTIVES[name].least == "teacher":
      # It is not stuck there, as with a last layer that starts at zero.
      assert (np.abs(by_student).max(axis=-1) > 1e-3).any(), name


@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
def test_huge_logits(size):
  """Probabilities of the unlikely underflow; their logarithms do not."""
  z, v, y = example()
  exact = [np.asarray(np.float32(size * a), np.float64) for a in (z, v)]
  found = evaluate(*on_device(*exact, y), 3.0)
  for name, (value, (by_student, by_teacher, _)) in found.items():
    if name in ("mixture_logits_geometric", "normalised_kl") and size > 1e20:
      continue  # squares that float32 does not hold
    for leaf in (value, by_student, by_teacher):
      assert np.isfinite(leaf).all(), name


# Low precision.


def low_precision(dtype):
  z, v, y = example()
  low = [jnp.asarray(a, jnp.float32).astype(dtype) for a in (z, v)]
  exact = [np.asarray(a.astype(jnp.float32), np.float64) for a in low]
  return (*low, jnp.asarray(y, jnp.int32)), (*exact, y)


def test_float16_logits_give_the_float32_loss():
  low, exact = low_precision("float16")
  for name, value in forward(*low, 3.0).items():
    assert value.dtype == np.float32
    # The oracle sees the rounded logits: no rounding but float32's is added.
    close(value, OBJECTIVES[name].oracle(*exact, 3.0), name=name)


def test_bfloat16_logits_get_the_float32_loss_and_gradient_rounded_once():
  low, exact = low_precision("bfloat16")
  found = jax.device_get(evaluate(*low, 3.0))
  single = jax.device_get(evaluate(*on_device(*exact), 3.0))
  half_unit = 0.5 * float(jnp.finfo(jnp.bfloat16).eps)
  for name, (value, (by_student, _, _)) in found.items():
    assert value.dtype == np.float32 and by_student.dtype == jnp.bfloat16
    close(value, OBJECTIVES[name].oracle(*exact, 3.0), name=name)
    desired = single[name][1][0].astype(np.float64)
    error = np.abs(by_student.astype(np.float64) - desired)
    assert (error <= 1.01 * half_unit * np.abs(desired) + 1e-6).all(), name


@pytest.mark.slow
def test_documented_examples_hold():
  attempted = 0
  for found in pkgutil.iter_modules(losses.__path__):
    module = importlib.import_module(f"kd_jax.losses.{found.name}")
    result = doctest.testmod(module)
    assert result.failed == 0, found.name
    attempted += result.attempted
  assert attempted > 30
