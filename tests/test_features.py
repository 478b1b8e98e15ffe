"""Distances of taps, and FitNets' regressor, against NumPy and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import features
from kd_jax.methods import regressor


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def maps(shape=(4, 4, 4, 5)):
  """A student's and a teacher's tap that have formulas."""
  b, h, w, c = np.ogrid[tuple(slice(n) for n in shape)]
  student = (np.sin(0.37 + 1.1 * b + 0.5 * h + 0.3 * w + 0.7 * c)
             + 0.3 * np.sin((0.2 + 0.9 * b + 0.31 * h + 0.17 * w + 0.43 * c)**2))
  teacher = (np.cos(0.53 + 1.3 * b + 0.7 * h + 0.2 * w + 0.5 * c)
             + 0.3 * np.cos((0.1 + 0.7 * b + 0.23 * h + 0.41 * w + 0.37 * c)**2))
  return student, teacher


# The hint loss.


@jax.jit
def hint(s, t):
  def total(s, t):
    value = features.mean_squared_error(s, t)
    return jnp.sum(value), value

  gradients, value = jax.grad(total, argnums=(0, 1), has_aux=True)(s, t)
  return value, *gradients


def test_the_hint_loss_is_the_mean_over_all_axes_but_the_first(x64):
  s, t = maps()
  np.testing.assert_allclose(
      [s[1, 2, 3, 4], t[1, 2, 3, 4]], [-0.0813634318, 0.5994772843], atol=5.1e-11)
  value, gradient, teacher = hint(s, t)
  assert value.shape == (4,) and value.dtype == jnp.float64
  expected = np.zeros(4)
  for index in np.ndindex(s.shape):
    expected[index[0]] += (s[index] - t[index])**2 / (4 * 4 * 5)
  np.testing.assert_allclose(value, expected, rtol=1e-13)
  np.testing.assert_allclose(gradient, 2 * (s - t) / 80, rtol=1e-13)
  np.testing.assert_array_equal(teacher, 0.0)
  # torch's MSELoss, as RepDistiller has it, is the mean over the batch.
  np.testing.assert_allclose(np.mean(value), 1.3569730770, atol=5.1e-11)
  np.testing.assert_array_equal(features.mean_squared_error(s, t), value)


def test_the_hint_loss_by_hand_and_at_equality():
  s, t = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[3.0, 5.0], [0.0, 0.0]])
  np.testing.assert_array_equal(hint(s, t)[0], [6.5, 0.0])
  for x in hint(t, t):
    np.testing.assert_array_equal(x, 0.0)


def test_half_precision_is_widened_before_the_difference():
  s, t = (jnp.asarray(x).astype(jnp.bfloat16) for x in maps())
  wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (s, t)]
  value, gradient, _ = hint(s, t)
  assert value.dtype == np.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(
      value, np.square(wide[0] - wide[1]).mean((1, 2, 3)), rtol=1e-6)


def test_one_example_is_as_within_a_batch(x64):
  s, t = maps()
  alone, together = hint(s[2:3], t[2:3])[0], hint(s, t)[0]
  np.testing.assert_allclose(alone, together[2:3], rtol=1e-14)


@pytest.mark.parametrize("shapes", [
    ((2, 4, 4, 8), (2, 4, 4, 1)), ((2, 8), (1, 8)), ((2, 4, 4, 8), (2, 8))])
def test_different_shapes_have_no_distance(shapes):
  """Not even those that would broadcast."""
  with pytest.raises(ValueError, match="shapes must be equal") as error:
    features.mean_squared_error(*map(jnp.zeros, shapes))
  assert all(str(shape) in str(error.value) for shape in shapes)


# Pooling.


@pytest.mark.parametrize("size", [(2, 2), (4, 2), (1, 1), (2, 4), (4, 4)])
def test_the_larger_map_is_pooled(size, x64):
  s, t = maps()
  small = t[:, :size[0], :size[1], :3]
  high, wide = 4 // size[0], 4 // size[1]
  expected = np.zeros((4, *size, 5))
  for b, h, w, c in np.ndindex(s.shape):
    expected[b, h // high, w // wide, c] += s[b, h, w, c] / (high * wide)
  pooled, same = features.pooled_alike(s, small)
  np.testing.assert_allclose(pooled, expected, rtol=1e-13, atol=1e-16)
  np.testing.assert_array_equal(same, small)
  same, pooled = features.pooled_alike(small, s)
  np.testing.assert_allclose(pooled, expected, rtol=1e-13, atol=1e-16)
  np.testing.assert_array_equal(same, small)


def test_pooling_is_linear_in_float32():
  x = jnp.full((1, 16, 16, 1), 257.0, jnp.bfloat16)  # 256 in bfloat16
  pooled, _ = features.pooled_alike(x, jnp.zeros((1, 1, 1, 1), jnp.bfloat16))
  assert pooled.dtype == jnp.float32 and pooled.item() == 256.0


@pytest.mark.parametrize("shapes", [
    ((2, 8, 8, 3), (2, 3, 3, 3)),  # no whole ratio
    ((2, 8, 8, 3), (2, 4, 16, 3)),  # neither is the smaller
    ((2, 8, 8, 3), (2, 4, 3, 3)),
    ((2, 8), (2, 8)), ((2, 8, 8, 3), (2, 8))])
def test_what_cannot_be_pooled_is_refused(shapes):
  with pytest.raises(ValueError, match="can be pooled") as error:
    features.pooled_alike(*map(jnp.zeros, shapes))
  assert all(str(shape) in str(error.value) for shape in shapes)


# The regressor.

# Kind of layer, the shape of its kernel, and torch's fan in.
CASES = {
    ((8, 8, 3), (4, 4, 5)): ("down", (3, 3, 3, 5), 27),
    ((2, 2, 3), (1, 1, 5)): ("down", (3, 3, 3, 5), 27),
    ((4, 4, 3), (8, 8, 5)): ("up", (4, 4, 3, 5), 80),
    ((4, 4, 3), (4, 4, 5)): ("valid", (1, 1, 3, 5), 3),
    ((6, 6, 3), (4, 4, 5)): ("valid", (3, 3, 3, 5), 27),
    ((7, 5, 3), (4, 4, 5)): ("valid", (4, 2, 3, 5), 24),
    ((3,), (5,)): ("dense", (3, 5), 3),
}
every = pytest.mark.parametrize("shapes", CASES)
MASK = np.array([True, True, False, True, False])


def slow_layer(kind, kernel, bias, x):
  """By loops over pixels: a transposed convolution spreads what others gather."""
  if kind == "dense":
    return x @ kernel + bias
  if kind == "up":
    height, width = x.shape[1:3]
    y = np.zeros((len(x), 2 * height + 2, 2 * width + 2, kernel.shape[-1]))
    for h in range(height):
      for w in range(width):
        for i in range(4):
          for j in range(4):  # turned by half a turn, as torch's is not
            y[:, 2 * h + i, 2 * w + j] += x[:, h, w] @ kernel[3 - i, 3 - j]
    return y[:, 1:-1, 1:-1] + bias
  stride = 1
  if kind == "down":
    x, stride = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 2
  high, wide = kernel.shape[:2]
  height = (x.shape[1] - high) // stride + 1
  width = (x.shape[2] - wide) // stride + 1
  y = np.zeros((len(x), height, width, kernel.shape[-1]))
  for h in range(height):
    for w in range(width):
      window = x[:, stride * h:stride * h + high, stride * w:stride * w + wide]
      y[:, h, w] = np.einsum("bijc,ijcd->bd", window, kernel) + bias
  return y


def drawn(shapes, batch=5, seed=0):
  """Parameters and state with no number at its first value, a tap, and weights."""
  draw = np.random.default_rng(seed)
  normal = draw.standard_normal
  shaped = jax.eval_shape(lambda key: regressor.init(key, *shapes)[0],
                          jax.random.key(seed))
  params = jax.tree.map(lambda p: jnp.asarray(normal(p.shape)), shaped)
  state = {"norm": {"mean": jnp.asarray(normal(shapes[1][-1])),
                    "variance": jnp.asarray(normal(shapes[1][-1])**2)}}
  return params, state, normal((batch, *shapes[0])), normal((batch, *shapes[1]))


def slow_regressor(params, state, tap, relu, train):
  (kind,) = set(params) - {"norm"}
  layer = {k: np.asarray(v) for k, v in params[kind].items()}
  x = slow_layer(kind, layer["kernel"], layer["bias"], tap)
  y, new = np.zeros_like(x), {"mean": [], "variance": []}
  for c in range(x.shape[-1]):
    mean, variance = (np.asarray(state["norm"][k])[c] for k in new)
    batch = x[..., c].ravel()
    new["mean"].append(0.9 * mean + 0.1 * batch.mean())
    new["variance"].append(0.9 * variance + 0.1 * batch.var(ddof=1))
    if train:
      mean, variance = batch.mean(), batch.var()
    y[..., c] = ((x[..., c] - mean) / np.sqrt(variance + 1e-5)
                 * np.asarray(params["norm"]["scale"])[c]
                 + np.asarray(params["norm"]["bias"])[c])
  return (np.maximum(y, 0) if relu else y), new if train else state["norm"]


@functools.partial(jax.jit, static_argnames=("relu", "train", "axis_name"))
def evaluate(params, state, tap, mask, weight, *, relu, train, axis_name=None):
  """Output, state, and the gradients of a weighted sum over the valid examples."""
  def total(params, tap):
    y, new = regressor.apply(
        params, state, tap, mask, relu=relu, train=train, axis_name=axis_name)
    each = jnp.sum(y * weight, axis=tuple(range(1, y.ndim)))
    return jnp.sum(jnp.where(mask, each, 0.0)), (y, new)

  gradients, (y, new) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, tap)
  return y, new, *gradients


def same(left, right, rtol=1e-10, atol=1e-12):
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
      left, right)


@every
def test_the_layer_fits_and_is_drawn_as_torch_draws(shapes):
  kind, kernel, fan_in = CASES[shapes]
  many = (*shapes[1][:-1], 80)  # outputs, so that extremes are near the bound
  bound = (fan_in * 80 / 5 if kind == "up" else fan_in)**-0.5
  # Of the generators the one that compiles fastest.
  params, state = jax.jit(lambda key: regressor.init(key, shapes[0], many))(
      jax.random.key(0, impl="rbg"))
  assert set(params) == {kind, "norm"}
  assert jax.tree.map(jnp.shape, params[kind]) == {
      "kernel": (*kernel[:-1], 80), "bias": (80,)}
  for values in params[kind].values():
    assert values.dtype == jnp.float32
    assert -bound <= values.min() < -0.8 * bound
    assert 0.8 * bound < values.max() <= bound
  assert not (params[kind]["kernel"].ravel()[:80] == params[kind]["bias"]).any()
  same(params["norm"], {"scale": np.ones(80), "bias": np.zeros(80)})
  same(state, {"norm": {"mean": np.zeros(80), "variance": np.ones(80)}})
  y, new = jax.eval_shape(
      lambda tap: regressor.apply(params, state, tap, None),
      jax.ShapeDtypeStruct((2, *shapes[0]), jnp.float32))
  assert y.shape == (2, *many)
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


@every
@pytest.mark.parametrize(("relu", "train"), [(True, True), (False, False)])
def test_the_regressor_is_numpys_over_the_valid_rows(shapes, relu, train, x64):
  params, state, tap, weight = drawn(shapes)
  assert tap.dtype == params["norm"]["scale"].dtype == np.float64
  expected, moved = slow_regressor(params, state, tap[MASK], relu, train)
  short = evaluate(params, state, tap[MASK], np.ones(3, bool), weight[MASK],
                   relu=relu, train=train)
  tap[2], tap[4] = np.nan, 1e200  # whatever padding holds
  y, new, gradients, by_tap = evaluate(
      params, state, tap, MASK, weight, relu=relu, train=train)
  same(y[MASK], expected)
  same(new["norm"], {k: np.asarray(v) for k, v in moved.items()})
  same(gradients, short[2])
  same(by_tap[MASK], short[3])
  np.testing.assert_array_equal(by_tap[~MASK], 0.0)
  assert np.isfinite(y).all()


def test_the_regressor_by_hand():
  """Two examples of one channel: 3 x + 1 is 4 and 10, of mean 7, deviation 3."""
  params = {"dense": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([1.0])},
            "norm": {"scale": jnp.array([2.0]), "bias": jnp.array([0.5])}}
  state = {"norm": {"mean": jnp.array([1.0]), "variance": jnp.array([2.0])}}
  tap = jnp.array([[1.0], [3.0], [100.0]])
  mask = jnp.array([True, True, False])
  y, new = regressor.apply(params, state, tap, mask, relu=False)
  np.testing.assert_allclose(y[:2, 0], [-1.5, 2.5], rtol=1e-5)
  # 0.9 + 0.7, and 1.8 + a tenth of 9 times 2 / 1.
  same(new["norm"], {"mean": [1.6], "variance": [3.6]}, rtol=1e-6)
  y, new = regressor.apply(params, state, tap, mask)
  np.testing.assert_allclose(y[:2, 0], [0.0, 2.5], rtol=1e-5)
  y, same_state = regressor.apply(params, new, tap, None, relu=False, train=False)
  np.testing.assert_allclose(
      y[:, 0], (np.array([4.0, 10.0, 301.0]) - 1.6) / 3.6**0.5 * 2 + 0.5, rtol=1e-5)
  same(same_state, new, rtol=0, atol=0)


def test_the_state_has_no_gradient_and_one_example_is_finite(x64):
  shapes = ((3,), (5,))
  params, state, tap, weight = drawn(shapes, batch=1)
  y, new, gradients, _ = evaluate(
      params, state, tap, np.ones(1, bool), weight, relu=True, train=True)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((y, new, gradients)))
  through = jax.grad(lambda params: sum(map(jnp.sum, jax.tree.leaves(
      regressor.apply(params, state, tap, None)[1]))))(params)
  assert not any(np.any(x) for x in jax.tree.leaves(through))


def test_a_batch_of_padding_moves_nothing(x64):
  for shapes in (((3,), (5,)), ((8, 8, 3), (4, 4, 5))):
    params, state, tap, weight = drawn(shapes)
    _, new, gradients, by_tap = evaluate(
        params, state, np.nan * tap, np.zeros(5, bool), weight, relu=True,
        train=True)
    same(new, state, rtol=0, atol=0)
    assert not any(np.any(x) for x in jax.tree.leaves((gradients, by_tap)))


@pytest.mark.parametrize("shapes", [((3,), (5,)), ((4, 4, 3), (8, 8, 5))])
def test_devices_share_the_statistics(shapes, x64):
  """Four devices with two examples each: one has one valid, one has none."""
  params, state, tap, weight = drawn(shapes, batch=8)
  mask = np.array([1, 1, 1, 0, 0, 0, 1, 1], bool)
  whole = evaluate(params, state, tap, mask, weight, relu=True, train=True)
  split = lambda x: x.reshape((4, 2) + x.shape[1:])

  def local(tap, mask, weight):
    y, new, gradients, by_tap = evaluate(
        params, state, tap, mask, weight, relu=True, train=True,
        axis_name="devices")
    return y, new, jax.lax.psum(gradients, "devices"), by_tap

  y, new, gradients, by_tap = jax.pmap(local, axis_name="devices")(
      split(tap), split(mask), split(weight))
  same(y.reshape(whole[0].shape)[mask], whole[0][mask])
  of_each = lambda tree: jax.tree.map(lambda x: np.stack([x] * 4), tree)
  same(new, of_each(whole[1]))
  same(gradients, of_each(whole[2]))
  same(by_tap.reshape(whole[3].shape), whole[3])


def test_a_tap_in_half_precision_is_computed_in_float32():
  shapes = ((8, 8, 3), (4, 4, 5))
  params, state, tap, _ = drawn(shapes)
  tap = jnp.asarray(tap).astype(jnp.bfloat16)
  compiled = jax.jit(lambda tap: regressor.apply(params, state, tap, None))
  y, new = compiled(tap)
  wide, _ = compiled(tap.astype(jnp.float32))
  assert y.dtype == new["norm"]["mean"].dtype == jnp.float32
  np.testing.assert_array_equal(y, wide)


def test_a_relu_cannot_reach_a_teacher_below_zero(x64):
  """The least hint loss is then the mean of the squares of the teacher's tap."""
  shapes = ((4, 4, 3), (4, 4, 5))
  params, state, tap, _ = drawn(shapes)
  teacher = -np.abs(np.random.default_rng(1).standard_normal((5, 4, 4, 5)))
  floor = np.square(teacher).mean((1, 2, 3))
  y, _ = regressor.apply(params, state, tap, None)
  assert (hint(y, teacher)[0] >= floor).all()
  y, _ = regressor.apply(params, state, tap, None, relu=False)
  assert (np.asarray(y) < 0).any()


@pytest.mark.parametrize("shapes", [
    ((4, 4, 3), (6, 6, 5)),  # larger, but not twice
    ((4, 4, 3), (16, 16, 5)),
    ((4, 8, 3), (8, 4, 5)), ((8, 4, 3), (4, 8, 5)),  # one side larger, one smaller
    ((4, 4, 3), (5,)), ((3,), (4, 4, 5)), ((4, 3), (4, 5)), ((), ())])
def test_shapes_that_no_layer_fits_are_refused(shapes, key):
  with pytest.raises(ValueError, match="no layer") as error:
    regressor.init(key, *shapes)
  assert all(str(shape) in str(error.value) for shape in shapes)
