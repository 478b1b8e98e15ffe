"""The convolution of the nets: jax's values and gradients, fast within a loop."""

import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.convolution import convolution

ORDER = ("NHWC", "HWIO", "NHWC")
PADDINGS = ("SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0)))


def draw(*shape):
  values = np.random.default_rng(len(shape)).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def gradients(conv, x, kernel, stride, padding, **more):
  def loss(x, kernel):
    return jnp.sum(jnp.sin(conv(
        x, kernel, (stride, stride), padding, dimension_numbers=ORDER, **more)))

  return jax.value_and_grad(loss, (0, 1))(x, kernel)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_values_and_gradients_are_those_of_jax(stride, size):
  for padding, length in itertools.product(PADDINGS, (8, 9)):
    x, kernel = draw(2, length, length + 2, 3), draw(size, size, 3, 4)
    found = gradients(convolution, x, kernel, stride, padding)
    expected = gradients(
        jax.lax.conv_general_dilated, x, kernel, stride, padding)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("more", [
    {"feature_group_count": 2}, {"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 2)}])
def test_others_are_left_to_jax(more):
  groups = more.get("feature_group_count", 1)
  x, kernel = draw(2, 8, 8, 4), draw(3, 3, 4 // groups, 6)
  found = gradients(convolution, x, kernel, 1, PADDINGS[2], **more)
  expected = gradients(
      jax.lax.conv_general_dilated, x, kernel, 1, PADDINGS[2], **more)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_in_a_loop_all_are_of_the_order_that_is_fast(stride):
  """XLA's fast convolution on a CPU takes no other; see the module's docstring."""
  layer = nn.Conv(4, (3, 3), strides=stride, padding=1,
                  conv_general_dilated=convolution)
  x = draw(2, 8, 8, 3)
  params = layer.init(jax.random.key(0), x)

  def step(number, carried):
    loss = lambda params, x: jnp.sum(jnp.square(layer.apply(params, x)))
    return jax.tree.map(lambda value, slope: value - 0.1 * slope, carried,
                        jax.grad(loss, (0, 1))(*carried))

  loop = jax.jit(lambda length, *start: jax.lax.fori_loop(0, length, step, start))
  text = loop.lower(jnp.int32(3), params, x).compile().as_text()
  labels = re.findall(r"convolution\(.*dim_labels=(\S+?),", text)
  assert len(labels) == 3
  assert set(labels) == {"b01f_01io->b01f"}
  assert "rhs_reversal" not in text


def test_another_order_or_type_is_left_to_jax():
  x, kernel = draw(2, 3, 8, 9), draw(4, 3, 3, 3)
  call = lambda conv, **more: conv(x, kernel, (1, 1), "VALID", **more)
  order = {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}
  np.testing.assert_array_equal(
      call(convolution, **order), call(jax.lax.conv_general_dilated, **order))
  wide = convolution(
      x.astype(jnp.bfloat16).transpose(0, 2, 3, 1), kernel.astype(
          jnp.bfloat16).transpose(2, 3, 1, 0), (1, 1), "VALID",
      dimension_numbers=ORDER, preferred_element_type=jnp.float32)
  assert wide.dtype == jnp.float32


def test_halves_stay_halves():
  x, kernel = draw(2, 8, 8, 3), draw(3, 3, 3, 4)
  x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
  slopes = gradients(convolution, x, kernel, 1, "SAME")[1]
  assert {slope.dtype for slope in slopes} == {jnp.dtype(jnp.bfloat16)}
