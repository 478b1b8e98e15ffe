"""Models against NumPy: sizes, layers, features, and what padding must not."""

import functools
import itertools
import math

from conftest import blobs
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from kd_jax import losses, models
from kd_jax.core import types
from kd_jax.models import MODELS
from kd_jax.models.convnet import Conv
from kd_jax.models.linen import BatchNorm, Dropout

DEVICES = 8
# Presets, small enough to run; test_nets.py has the other nets of papers.
SMALL = {
    "mlp": {"widths": (8, 6)},
    "cnn": {"widths": (4, 5)},
    "cnn_small": {"widths": (4, 5)},
    "convnet": {"widths": (4, 5, 6, 7)},
    "resnet8": {"widths": (3, 3, 4)},
    "wrn": {"widths": (3, 4, 4), "depth": 10, "stem": 3},
}
NAMES = sorted(SMALL)


class _Quick:
  """A model compiled, with variables drawn by NumPy, none of them special.

  Fresh biases are 0 and fresh scales 1, which would hide a net without them;
  and compiling an `init` takes seconds.
  """

  def __init__(self, model: types.Model, image: jax.Array):
    draw = np.random.default_rng(0)
    normal = lambda leaf: jnp.float32(draw.normal(0, 0.3, leaf.shape))
    uniform = lambda leaf: jnp.float32(draw.uniform(0.5, 2, leaf.shape))
    fresh = jax.eval_shape(model.init, jax.random.key(0), image)
    self.variables = types.Variables(
        jax.tree.map(normal, fresh.params), jax.tree.map(uniform, fresh.state))
    self.model, self.image = model, image
    self._apply = jax.jit(model.apply, static_argnames="train")

  def __call__(self, image=None, variables=None, *, train=False, **options):
    return self._apply(
        self.variables if variables is None else variables,
        self.image if image is None else image, train=train, **options)


def _init(model: types.Model):
  """Fresh variables; compiled in a hurry, else it takes seconds."""
  return jax.jit(model.init, compiler_options={
      "xla_backend_optimization_level": 0})


@functools.cache
def _small(name: str) -> _Quick:
  return _Quick(
      models.MODELS[name](num_classes=3, **SMALL[name]), _images())


def _mlp(*widths: int) -> _Quick:
  return _Quick(models.MODELS["mlp"](num_classes=3, widths=widths), _images())


def _images(number=4, shape=(4, 4, 3), seed=0) -> jax.Array:
  draw = np.random.default_rng(seed)
  return jnp.asarray(draw.normal(size=(number, *shape)), jnp.float32)


def _num_parameters(model: types.Model, shape) -> int:
  """Counted without computing any."""
  variables = jax.eval_shape(
      model.init, jax.random.key(0), jax.ShapeDtypeStruct(
          (1, *shape), jnp.float32))
  return sum(math.prod(p.shape) for p in jax.tree.leaves(variables.params))


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _assert_close(one, other, tolerance):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=tolerance, atol=tolerance), one, other)


# Sizes.


@pytest.mark.parametrize(("widths", "expected"), [
    # sum over layers of (inputs + 1) * units, 784 inputs, 10 classes.
    ((800, 800), 785 * 800 + 801 * 800 + 801 * 10),
    ((800, 800), 1_276_810),
    ((1200, 1200), 2_395_210),
    ((300, 300), 328_810),
    ((30, 30), 24_790),
    ((), 7_850),
    ((5, 7, 9), 785 * 5 + 6 * 7 + 8 * 9 + 10 * 10),
])
def test_an_mlp_has_the_parameters_of_its_formula(widths, expected):
  model = models.MODELS["mlp"](num_classes=10, widths=widths)
  assert _num_parameters(model, (28, 28, 1)) == expected


@pytest.mark.parametrize(("name", "expected"), [
    # 784-800-800-10, the student of Hinton et al. (2015).
    ("mlp", 1_276_810),
    # 9*1*256+256 = 2,560; 9*256*512+512 = 1,180,160; 28 -> 14 -> 7 pixels, so
    # 7*7*512*10+10 = 250,890.
    ("cnn", 2_560 + 1_180_160 + 250_890),
    # 9*1*16+16 = 160; 9*16*32+32 = 4,640; 7*7*32*10+10 = 15,690.
    ("cnn_small", 160 + 4_640 + 15_690),
    # 25*32 = 800, 9*32*64 = 18,432, 9*64*96 = 55,296, 2*(32+64+96) = 384 of
    # norms; 28 -> 14 -> 7 -> 4 pixels, so 4*4*96*128+128 = 196,736; 128*10+10.
    ("convnet", 800 + 18_432 + 55_296 + 384 + 196_736 + 1_290),
])
def test_a_preset_has_the_parameters_of_its_paper_on_mnist(name, expected):
  model = models.MODELS[name](num_classes=10)
  assert _num_parameters(model, (28, 28, 1)) == expected


@pytest.mark.parametrize(("options", "expected"), [
    # stem     9*3*16 + 2*16                                           =    464
    # stage 1  2 * (9*16*16 + 2*16), no projection                     =  4,672
    # stage 2  9*16*32 + 9*32*32 + 1*16*32, and 3 norms of 2*32        = 14,528
    # stage 3  9*32*64 + 9*64*64 + 1*32*64, and 3 norms of 2*64        = 57,728
    # dense    64*10 + 10                                              =    650
    ({}, 464 + 4_672 + 14_528 + 57_728 + 650),
    ({}, 78_042),
    # Two more blocks a stage: 2*4,672, 2*2*(9*32*32+64), 2*2*(9*64*64+128).
    ({"depth": 20}, 78_042 + 9_344 + 37_120 + 147_968),
])
def test_a_resnet_has_the_parameters_counted_by_hand(options, expected):
  model = models.MODELS["resnet8"](num_classes=10, **options)
  assert _num_parameters(model, (32, 32, 3)) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "num_classes"), [
    ((28, 28, 1), 10), ((32, 32, 3), 100), ((7, 5, 2), 2), ((1, 1, 4), 2)])
def test_any_image_gives_float32_logits(name, shape, num_classes):
  model = models.MODELS[name](num_classes=num_classes)
  image = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
  said, _ = jax.eval_shape(
      lambda image: model.apply(
          model.init(jax.random.key(0), image), image, train=False), image)
  assert said.logits.shape == (3, num_classes)
  assert said.logits.dtype == jnp.float32


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("mlp", (28, 28, 1), {
        "hidden_0": (800,), "hidden_1": (800,), "pooled": (800,)}),
    ("cnn", (28, 28, 1), {"conv_0": (14, 14, 256), "conv_1": (7, 7, 512)}),
    ("cnn_small", (28, 28, 1), {"conv_0": (14, 14, 16), "conv_1": (7, 7, 32)}),
    ("convnet", (28, 28, 1), {
        "conv_0": (14, 14, 32), "conv_1": (7, 7, 64), "conv_2": (4, 4, 96),
        "hidden": (128,)}),
    ("resnet8", (32, 32, 3), {
        "stem": (32, 32, 16), "stage1": (32, 32, 16), "stage2": (16, 16, 32),
        "stage3": (8, 8, 64), "pooled": (64,), "stage1.preact": (32, 32, 16),
        "stage2.preact": (16, 16, 32), "stage3.preact": (8, 8, 64)}),
])
def test_features_have_names_and_shapes(name, shape, expected):
  model = models.MODELS[name](num_classes=10)
  image = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
  said, _ = jax.eval_shape(
      lambda image: model.apply(
          model.init(jax.random.key(0), image), image, train=False), image)
  assert {k: v.shape[1:] for k, v in said.features.items()} == expected
  assert all(v.shape[0] == 3 for v in said.features.values())


# Purity.


OPTIONS = {"mask": jnp.arange(4) != 1, "rates": {"input": 0.2, "hidden": 0.5}}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_a_pure_function(name, key):
  net = _small(name)
  kept = jax.tree.map(jnp.copy, net.variables)
  once = net(train=True, rngs={"dropout": key}, **OPTIONS)
  _assert_equal(net(train=True, rngs={"dropout": key}, **OPTIONS), once)
  _assert_equal(net.variables, kept)
  # Evaluation has no randomness and leaves the state as it is.
  plain = net()
  _assert_close(net(rngs={"dropout": key}, **OPTIONS), plain, 1e-6)
  _assert_equal(plain[1], net.variables.state)


@pytest.mark.parametrize("name", NAMES)
def test_fresh_variables_are_a_function_of_the_key(name, key):
  init = _init(_small(name).model)
  once, other = init(key, _images()), init(jax.random.key(1), _images(seed=1))
  _assert_equal(init(key, _images(seed=1)), once)
  for path, leaf in jax.tree_util.tree_leaves_with_path(once.params):
    if path[-1].key == "bias":
      # Where released nets draw it, by the number of inputs, here 4.
      most = 0.5 if (name, path[-2].key) == ("resnet8", "Dense_0") else 0
      assert (abs(leaf) <= most).all()
    elif path[-1].key == "kernel":
      assert leaf.std() > 0.05
  differ = jax.tree.map(lambda a, b: bool((a != b).any()), once, other)
  assert any(jax.tree.leaves(differ.params))
  assert not any(jax.tree.leaves(differ.state))


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_of_an_image_does_not_look_at_the_others(name):
  net, image = _small(name), _images()
  together = net()[0].logits
  # The same two images in another company and another order.
  others = jnp.stack([image[3], image[0] * 9, image[1] - 5, image[0]])
  apart = net(others)[0].logits
  _assert_close(apart[jnp.array([3, 0])], together[jnp.array([0, 3])], 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_is_eager(name, key):
  net = _small(name)
  eager = net.model.apply(
      net.variables, net.image, train=True, rngs={"dropout": key}, **OPTIONS)
  _assert_close(net(train=True, rngs={"dropout": key}, **OPTIONS), eager, 2e-5)


# The nets themselves, in NumPy.


def _conv(image, layer, *, stride, low, high):
  """Convolution of `[B, H, W, C]` padded by (low, high), the slow way."""
  kernel = np.asarray(layer["kernel"], np.float64)
  size = len(kernel)
  padded = np.pad(image, ((0, 0), (low, high), (low, high), (0, 0)))
  tall, wide = ((side - size) // stride + 1 for side in padded.shape[1:3])
  out = np.zeros((len(image), tall, wide, kernel.shape[-1]))
  for row, column in itertools.product(range(tall), range(wide)):
    top, left = row * stride, column * stride
    patch = padded[:, top:top + size, left:left + size]
    out[:, row, column] = np.tensordot(patch, kernel, 3)
  return out + np.asarray(layer.get("bias", 0.0))


def _dense(x, layer):
  return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])


def test_the_mlp_is_relu_layers_and_a_linear_one():
  net = _small("mlp")
  said, _ = net()
  params = net.variables.params
  first = np.maximum(_dense(
      np.asarray(net.image, np.float64).reshape(4, -1), params["Dense_0"]), 0)
  second = np.maximum(_dense(first, params["Dense_1"]), 0)
  assert 0 < (second == 0).mean() < 1
  np.testing.assert_allclose(said.features["hidden_0"], first, atol=1e-5)
  np.testing.assert_allclose(said.features["hidden_1"], second, atol=1e-5)
  np.testing.assert_allclose(
      said.logits, _dense(second, params["Dense_2"]), atol=1e-5)


def test_the_mlp_without_hidden_layers_is_linear(key):
  net = _mlp()
  said, _ = net()
  assert said.features == {}
  linear = _dense(
      np.asarray(net.image).reshape(4, -1), net.variables.params["Dense_0"])
  np.testing.assert_allclose(said.logits, linear, atol=1e-5)
  # Its one dropout is of the pixels.
  train = functools.partial(net, train=True, rngs={"dropout": key})
  dropped, _ = train(rates={"input": 0.5, "hidden": 0.0})
  kept, _ = train(rates={"input": 0.0, "hidden": 0.5})
  assert (np.abs(dropped.logits - linear) > 1e-3).any()
  np.testing.assert_allclose(kept.logits, linear, atol=1e-5)


def test_the_cnn_is_that_of_the_keras_example():
  net = _small("cnn")
  params = net.variables.params
  # SAME of a 3x3 window, stride 2, on an even side pads nothing and one.
  first = _conv(np.asarray(net.image, np.float64), params["Conv_0"],
                stride=2, low=0, high=1)
  first = np.where(first > 0, first, 0.2 * first)
  # 2x2 maxima at stride 1: each pixel with its right and lower neighbours.
  edge = np.pad(first, ((0, 0), (0, 1), (0, 1), (0, 0)),
                constant_values=-np.inf)
  pooled = np.max([edge[:, :-1, :-1], edge[:, 1:, :-1],
                   edge[:, :-1, 1:], edge[:, 1:, 1:]], axis=0)
  second = _conv(pooled, params["Conv_1"], stride=2, low=0, high=1)
  said, _ = net()
  np.testing.assert_allclose(said.features["conv_0"], first, atol=1e-5)
  np.testing.assert_allclose(said.features["conv_1"], second, atol=1e-5)
  np.testing.assert_allclose(
      said.logits, _dense(second.reshape(4, -1), params["Dense_0"]), atol=1e-4)


def _norm(x, layer, state):
  mean, variance = (np.asarray(state[k]) for k in ("mean", "variance"))
  y = (x - mean) / np.sqrt(variance + 1e-5)
  return y * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def test_the_resnet_is_that_of_he_et_al():
  net = _small("resnet8")
  params, state = net.variables
  said, _ = net()
  numbers = itertools.count()

  def conv_norm(x, size=3, stride=1):
    number = next(numbers)
    # Both sides are padded alike, whatever the stride.
    x = _conv(x, params[f"Conv_{number}"], stride=stride, low=size // 2,
              high=size // 2)
    layer = f"BatchNorm_{number}"
    return _norm(x, params[layer], state["batch_stats"][layer])

  relu = lambda x: np.maximum(x, 0)
  x = relu(conv_norm(np.asarray(net.image, np.float64)))
  np.testing.assert_allclose(said.features["stem"], x, atol=1e-4)
  for stage, stride in enumerate((1, 2, 2)):
    y = conv_norm(relu(conv_norm(x, stride=stride)))
    y += x if stage == 0 else conv_norm(x, size=1, stride=stride)
    x = relu(y)
    np.testing.assert_allclose(said.features[f"stage{stage + 1}"], x, atol=1e-3)
  pooled = x.mean((1, 2))
  np.testing.assert_allclose(said.features["pooled"], pooled, atol=1e-3)
  np.testing.assert_allclose(
      said.logits, _dense(pooled, params["Dense_0"]), atol=2e-3)


def test_the_convnet_is_what_it_says():
  net = _small("convnet")
  params, state = net.variables
  said, _ = net()
  x = np.asarray(net.image, np.float64)
  for index, (size, stride) in enumerate(((5, 2), (3, 2), (3, 2))):
    x = _conv(x, params[f"Conv_{index}"], stride=stride, low=size // 2,
              high=size // 2)
    layer = f"BatchNorm_{index}"
    x = np.maximum(_norm(x, params[layer], state["batch_stats"][layer]), 0)
    np.testing.assert_allclose(said.features[f"conv_{index}"], x, atol=1e-3)
  hidden = np.maximum(_dense(x.reshape(4, -1), params["Dense_0"]), 0)
  np.testing.assert_allclose(said.features["hidden"], hidden, atol=2e-3)
  np.testing.assert_allclose(
      said.logits, _dense(hidden, params["Dense_1"]), atol=5e-3)


@pytest.mark.parametrize(("size", "stride", "shape"), [
    (5, 2, (8, 8, 3)), (3, 2, (7, 5, 2)), (3, 1, (7, 5, 2)), (3, 2, (1, 1, 4))])
def test_a_convolution_is_the_same_in_training(size, stride, shape, key):
  # As one matrix product, for the sake of its gradients' speed.
  layer = Conv(6, size, stride)
  image = _images(shape=shape)
  held = {"params": {"kernel": jax.random.normal(
      key, (size, size, shape[-1], 6))}}

  @functools.partial(jax.jit, static_argnums=2)
  def loss(held, image, train):
    y = layer.apply(held, image, train=train)
    weight = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return jnp.sum(weight * jnp.square(y)), y

  grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
  (trained, y), (plain, expected) = (
      grad(held, image, train) for train in (True, False))
  assert y.shape == (4, -(-shape[0] // stride), -(-shape[1] // stride), 6)
  _assert_close(y, expected, 1e-5)
  _assert_close(trained, plain, 1e-4)
  np.testing.assert_allclose(y, _conv(
      np.asarray(image, np.float64), held["params"], stride=stride,
      low=size // 2, high=size // 2), atol=1e-4)


def test_the_convnet_drops_pixels_and_what_enters_dense_layers(key):
  net = _small("convnet")
  apply = lambda pixels, units: net(
      train=True, rngs={"dropout": key},
      rates={"input": pixels, "hidden": units})[0]
  plain, units, pixels = apply(0.0, 0.0), apply(0.0, 0.5), apply(0.5, 0.0)
  np.testing.assert_array_equal(
      units.features["conv_2"], plain.features["conv_2"])
  assert (units.features["hidden"] != plain.features["hidden"]).any()
  last = lambda said: _dense(np.asarray(said.features["hidden"]),
                             net.variables.params["Dense_1"])
  assert (np.abs(units.logits - last(units)) > 1e-2).any()
  np.testing.assert_allclose(pixels.logits, last(pixels), atol=1e-4)
  assert (pixels.features["conv_0"] != plain.features["conv_0"]).any()


# Dropout.


@functools.partial(jax.jit, static_argnames="axis_name")
def _drop(key, x, rate, axis_name=None):
  return Dropout().apply(
      {}, x, rate, axis_name=axis_name, rngs={"dropout": key})


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_the_rate_and_keeps_the_mean(rate, key):
  x = jnp.ones((64, 4095))
  y = np.asarray(_drop(key, x, rate))
  number = y.size
  sigma = math.sqrt(rate * (1 - rate) / number)
  assert abs((y == 0).mean() - rate) < 4 * sigma
  # y is 1 / (1 - rate) or 0: mean 1, deviation sqrt(rate / (1 - rate)).
  assert abs(y.mean(dtype=np.float64) - 1) < 4 * math.sqrt(
      rate / (1 - rate) / number)
  # The rate in steps of 2**-16 is what the scale is of: mean exactly 1.
  kept = 1 - round(rate * 65536) / 65536
  np.testing.assert_allclose(y[y > 0], 1 / kept, rtol=1e-6)
  # Neither rows nor columns are favoured: 5 sigma for the worst of 4,095.
  for axis, length in ((0, 64), (1, 4095)):
    worst = np.abs((y == 0).mean(axis) - rate).max()
    assert worst < 5.5 * math.sqrt(rate * (1 - rate) / length)


def test_dropout_of_rate_0_is_the_identity(key):
  x = _images(5, (7, 3, 2))
  np.testing.assert_array_equal(_drop(key, x, 0.0), x)


@pytest.mark.parametrize("rate", [0.9, 0.999999, 1.0])
def test_dropout_of_a_rate_near_1_has_finite_gradients(rate, key):
  gradient = jax.grad(lambda x: jnp.sum(_drop(key, x, rate)))(
      jnp.ones((6, 200)))
  assert jnp.isfinite(gradient).all()


def test_dropout_draws_by_key_by_row_and_by_layer(key):
  x = jnp.ones((6, 200))
  y = _drop(key, x, 0.5)
  np.testing.assert_array_equal(_drop(key, x, 0.5), y)
  assert (_drop(jax.random.key(1), x, 0.5) != y).any()
  assert len({row.tobytes() for row in np.asarray(y)}) == 6
  # A longer batch has the rows of the shorter one, and more.
  np.testing.assert_array_equal(_drop(key, jnp.ones((9, 200)), 0.5)[:6], y)

  class Two(nn.Module):

    @nn.compact
    def __call__(self, x):
      return Dropout()(x, 0.5), Dropout()(x, 0.5)

  first, second = jax.jit(Two().apply)({}, x, rngs={"dropout": key})
  assert (first != second).any()


def test_a_higher_rate_drops_what_a_lower_one_drops_and_more(key):
  # One draw serves every rate, so points of a sweep are compared in pairs.
  x = jnp.ones((6, 200))
  low, high = (_drop(key, x, rate) == 0 for rate in (0.2, 0.6))
  assert (high | ~low).all()
  assert high.sum() > low.sum()


def test_dropout_rates_are_traced_and_compile_once(key):
  net = _small("mlp")
  traces = []

  @jax.jit
  def logits(rates):
    traces.append(rates)
    return net.model.apply(net.variables, net.image, train=True, rates=rates,
                           rngs={"dropout": key})[0].logits

  results = [
      np.asarray(logits({"input": jnp.float32(a), "hidden": jnp.float32(b)}))
      for a, b in ((0, 0), (0.2, 0), (0, 0.5), (0.2, 0.5))]
  assert len(traces) == 1
  for index, result in enumerate(results):
    for other in results[:index]:
      assert (result != other).any()
  # Rates of 0, no rates and evaluation are the net itself.
  np.testing.assert_allclose(results[0], net()[0].logits, rtol=1e-5, atol=1e-6)
  plain = net(train=True, rngs={"dropout": key})[0].logits
  np.testing.assert_allclose(results[0], plain, rtol=1e-5, atol=1e-6)


def test_the_mlp_drops_pixels_and_the_units_of_every_hidden_layer(key):
  net = _mlp(50, 40)
  apply = lambda pixels, units: net(
      train=True, rngs={"dropout": key},
      rates={"input": pixels, "hidden": units})[0]
  last = lambda said: _dense(np.asarray(said.features["hidden_1"]),
                             net.variables.params["Dense_2"])
  plain = apply(0.0, 0.0)
  units = apply(0.0, 0.5)
  # Nothing before the first layer; between the first two; before the last.
  np.testing.assert_array_equal(
      units.features["hidden_0"], plain.features["hidden_0"])
  assert (units.features["hidden_1"] != plain.features["hidden_1"]).any()
  assert (np.abs(units.logits - last(units)) > 1e-2).any()
  pixels = apply(0.5, 0.0)
  assert (pixels.features["hidden_0"] != plain.features["hidden_0"]).any()
  np.testing.assert_allclose(pixels.logits, last(pixels), atol=1e-4)


def _pmapped(function, x):
  split = x.reshape((DEVICES, -1, *x.shape[1:]))
  return jax.pmap(function, axis_name="devices")(split).reshape(x.shape)


def _sharded(function, x):
  mesh = jax.make_mesh(
      (DEVICES,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
  rows = PartitionSpec("devices")
  return jax.jit(jax.shard_map(
      function, mesh=mesh, in_specs=rows, out_specs=rows))(x)


@pytest.mark.parametrize("spread", [_pmapped, _sharded])
def test_devices_draw_together_the_mask_of_one(spread, key):
  x = jnp.ones((DEVICES * 3, 51))
  local = lambda x: _drop(key, x, 0.4, axis_name="devices")
  np.testing.assert_array_equal(spread(local, x), _drop(key, x, 0.4))


# Batch normalisation.


def _statistics(x, mask):
  """Mean and biased variance of each channel over the valid rows."""
  valid = np.asarray(x, np.float64)[np.asarray(mask)]
  axes = tuple(range(valid.ndim - 1))
  return valid.mean(axes), valid.var(axes)


def _batch(shape=(16, 4, 4, 5), valid=11, mean=10):
  """Rows far from mean 0 and variance 1, of which the last are padding."""
  draw = np.random.default_rng(0)
  channel = np.arange(1, shape[-1] + 1)
  x = draw.normal(size=shape) * channel + mean * channel
  return jnp.float32(x), jnp.arange(shape[0]) < valid


@functools.partial(
    jax.jit, static_argnames=("axis_name", "train", "momentum"))
def _normalize(params, x, mask, *, axis_name=None, train=True, momentum=0.9):
  """Output and new running statistics, from a mean of 2 and a variance of 3."""
  state = {"mean": jnp.full(x.shape[-1], 2.0),
           "variance": jnp.full(x.shape[-1], 3.0)}
  y, new = BatchNorm(momentum).apply(
      {"params": params, "batch_stats": state}, x, train=train, mask=mask,
      axis_name=axis_name, mutable="batch_stats")
  return y, new["batch_stats"]


def _layer(channels=5):
  draw = np.random.default_rng(1)
  return {"scale": jnp.float32(draw.normal(size=channels)),
          "bias": jnp.float32(draw.normal(size=channels))}


@pytest.mark.parametrize("shape", [(16, 5), (16, 4, 4, 5)])
@pytest.mark.parametrize("momentum", [0.9, 0.6])
def test_batch_norm_equals_numpy_over_valid_rows(shape, momentum):
  x, mask = _batch(shape)
  params = _layer()
  y, state = _normalize(params, x, mask, momentum=momentum)
  mean, variance = _statistics(x, mask)
  expected = (np.asarray(x) - mean) / np.sqrt(variance + 1e-5) * np.asarray(
      params["scale"]) + np.asarray(params["bias"])
  np.testing.assert_allclose(y[:11], expected[:11], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      state["mean"], momentum * 2 + (1 - momentum) * mean, rtol=1e-5)
  # Over the N numbers of a channel: the running one is that of a sample.
  number = 11 * x[0].size // x.shape[-1]
  unbiased = variance * number / (number - 1)
  np.testing.assert_allclose(
      state["variance"], momentum * 3 + (1 - momentum) * unbiased, rtol=1e-5)


def test_the_running_variance_of_one_number_is_finite():
  x, _ = _batch((4, 5))
  _, state = _normalize(_layer(), x, jnp.arange(4) < 1)
  np.testing.assert_allclose(state["variance"], jnp.full(5, 2.7), rtol=1e-6)


def test_batch_norm_without_a_mask_takes_all_rows():
  x, _ = _batch()
  _assert_equal(_normalize(_layer(), x, None),
                _normalize(_layer(), x, jnp.ones(len(x), bool)))


def test_batch_norm_starts_from_mean_0_and_variance_1(key):
  variables = jax.jit(functools.partial(BatchNorm().init, train=True))(
      key, _batch()[0])
  expected = {
      "params": {"scale": jnp.ones(5), "bias": jnp.zeros(5)},
      "batch_stats": {"mean": jnp.zeros(5), "variance": jnp.ones(5)}}
  _assert_equal(variables, expected)


def test_evaluation_uses_the_running_statistics_and_keeps_them():
  x, mask = _batch()
  params = _layer()
  y, state = _normalize(params, x, mask, train=False)
  expected = (np.asarray(x) - 2) / np.sqrt(3 + 1e-5) * np.asarray(
      params["scale"]) + np.asarray(params["bias"])
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  _assert_equal(state, {"mean": jnp.full(5, 2.0), "variance": jnp.full(5, 3.0)})


def _weighted(y, mask):
  """A loss of valid rows that no symmetry makes 0."""
  weight = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
  valid = mask.reshape((-1,) + (1,) * (y.ndim - 1))
  return jnp.sum(jnp.where(valid, weight * jnp.square(y), 0.0))


def test_padding_changes_no_output_no_statistic_and_no_gradient():
  x, mask = _batch()
  valid = mask.reshape(-1, 1, 1, 1)
  garbage = _images(16, (4, 4, 5), seed=9) * 1e6

  def loss(params, x):
    y, state = _normalize(params, x, mask)
    return _weighted(y, mask), (y[:11], state)

  run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  found = run(_layer(), x)
  other = run(_layer(), jnp.where(valid, x, garbage))
  _assert_equal(found, other)
  np.testing.assert_array_equal(found[1][1][11:], 0.0)


def test_batch_norm_has_the_gradients_of_its_formula():
  x, mask = _batch()

  def formula(params, x):
    valid = x[:11]
    mean = jnp.mean(valid, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean((valid - mean)**2, axis=(0, 1, 2), keepdims=True)
    y = (x - mean) / jnp.sqrt(variance + 1e-5)
    y = (y * params["scale"].reshape(1, 1, 1, -1)
         + params["bias"].reshape(1, 1, 1, -1))
    return _weighted(y, mask)

  found = jax.grad(
      lambda *a: _weighted(_normalize(*a, mask)[0], mask), argnums=(0, 1))
  _assert_close(jax.jit(found)(_layer(), x),
                jax.jit(jax.grad(formula, argnums=(0, 1)))(_layer(), x), 2e-4)


def _relative(found, expected) -> float:
  """|found - expected| / |expected| over a whole tree."""
  norm = lambda tree: math.sqrt(sum(
      float(np.sum(np.square(np.float64(x)))) for x in jax.tree.leaves(tree)))
  gap = jax.tree.map(
      lambda a, b: np.float64(a) - np.float64(b), found, expected)
  return norm(gap) / norm(expected)


def test_devices_normalise_as_one_even_where_one_holds_only_padding():
  # Of a small mean, so that 1e-6 is a bound on rounding in both.
  x, _ = _batch((DEVICES * 2, 3, 3, 5), mean=1)
  # Device 3 has nothing valid, device 5 one of two rows.
  mask = jnp.ones(len(x), bool).at[jnp.array([6, 7, 11])].set(False)
  x = jnp.where(mask.reshape(-1, 1, 1, 1), x, 1e6)
  weight = jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)

  def run(params, x, mask, weight, axis_name):
    def loss(params, x):
      y, state = _normalize(params, x, mask, axis_name=axis_name)
      valid = mask.reshape(-1, 1, 1, 1)
      y = jnp.where(valid, y, 0.0)
      return jnp.sum(weight * jnp.square(y)), (y, state)
    gradients, (y, state) = jax.grad(
        loss, argnums=(0, 1), has_aux=True)(params, x)
    if axis_name is not None:
      gradients = (jax.lax.psum(gradients[0], axis_name), gradients[1])
    return y, state, *gradients

  split = lambda v: v.reshape((DEVICES, -1, *v.shape[1:]))
  one = jax.jit(run, static_argnums=4)(_layer(), x, mask, weight, None)
  y, state, of_params, of_x = jax.pmap(
      functools.partial(run, axis_name="devices"), axis_name="devices",
      in_axes=(None, 0, 0, 0))(_layer(), split(x), split(mask), split(weight))
  many = (y.reshape(x.shape), jax.tree.map(lambda s: s[3], state),
          jax.tree.map(lambda g: g[3], of_params), of_x.reshape(x.shape))
  for found, expected in zip(many, one):
    assert _relative(found, expected) < 1e-6
  # Every device holds the same statistics.
  jax.tree.map(
      lambda s: np.testing.assert_array_equal(s, np.stack([s[0]] * 8)), state)


def test_a_batch_of_padding_alone_gives_no_nan():
  x, _ = _batch()
  mask = jnp.zeros(len(x), bool)

  def loss(params, x):
    y, state = _normalize(params, x, mask)
    return _weighted(y, mask), (y, state)

  found = jax.jit(jax.value_and_grad(
      loss, argnums=(0, 1), has_aux=True))(_layer(), x)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("name", ["resnet8", "convnet"])
def test_a_net_with_batch_norm_does_not_see_padding(name, key):
  net = _small(name)
  # The options of the tests above, for which it is compiled.
  train = functools.partial(net, train=True, rngs={"dropout": key}, **OPTIONS)
  said, state = train()
  other, other_state = train(_images().at[1].set(1e3))
  valid = OPTIONS["mask"]
  _assert_close(other.logits[valid], said.logits[valid], 1e-6)
  _assert_close(other_state, state, 1e-6)
  moved = jax.tree.map(
      lambda a, b: bool((a != b).any()), state, net.variables.state)
  assert all(jax.tree.leaves(moved))


def test_halves_of_a_batch_make_the_whole_of_it(key):
  # As devices do: statistics are of all rows, masks go by the global row.
  net = _small("convnet")
  said, state = net(train=True, rngs={"dropout": key}, **OPTIONS)
  half = lambda image, mask: net.model.apply(
      net.variables, image, train=True, rngs={"dropout": key}, mask=mask,
      rates=OPTIONS["rates"], axis_name="devices")
  split = lambda x: x.reshape((2, 2, *x.shape[1:]))
  halves, states = jax.jit(jax.vmap(half, axis_name="devices"))(
      split(net.image), split(OPTIONS["mask"]))
  _assert_close(halves.logits.reshape(said.logits.shape), said.logits, 1e-4)
  for one in (0, 1):
    _assert_close(jax.tree.map(lambda x, n=one: x[n], states), state, 1e-5)


# A user's own modules.


class _Bare(nn.Module):

  @nn.compact
  def __call__(self, image):
    return nn.Dense(3)(image.reshape((len(image), -1)))


class _Tapped(nn.Module):

  @nn.compact
  def __call__(self, image, train, mask=None, *, depth=1):
    x = image.reshape((len(image), -1))
    for _ in range(depth):
      x = nn.relu(nn.Dense(20)(x))
    dropped = nn.Dropout(0.5, deterministic=not train)(x)
    seen = jnp.float32(0) if mask is None else jnp.sum(mask, dtype=jnp.float32)
    return nn.Dense(3)(dropped), {"hidden": x, "seen": seen}


class _Normed(nn.Module):

  @nn.compact
  def __call__(self, image, *, train):
    x = image.reshape((len(image), -1))
    return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))


class _Demanding(nn.Module):

  @nn.compact
  def __call__(self, image, depth, *, train):
    del depth, train
    return image


def test_a_module_may_know_nothing_of_this_package(key):
  net = _Quick(models.linen_model(_Bare()), _images())
  assert net.variables.state == {}
  said, state = net(train=True, rngs={"dropout": key}, **OPTIONS)
  assert said.features == {}
  assert state == {}
  np.testing.assert_allclose(said.logits, _dense(
      np.asarray(net.image).reshape(4, -1), net.variables.params["Dense_0"]),
      atol=1e-5)


def test_a_module_gets_train_and_mask_and_may_name_features():
  net = _Quick(models.linen_model(_Tapped()), _images())
  plain = net(**OPTIONS)[0]
  train = lambda seed: net(
      train=True, rngs={"dropout": jax.random.key(seed)}, **OPTIONS)[0]
  assert plain.features["hidden"].shape == (4, 20)
  assert plain.features["seen"] == 3
  assert (train(1).logits != train(2).logits).any()
  assert (train(1).logits != plain.logits).any()
  _assert_equal(train(1), train(1))


def test_a_module_with_linens_batch_norm_keeps_its_state():
  net = _Quick(models.linen_model(_Normed()), _images() + 5)
  _, kept = net()
  _assert_equal(kept, net.variables.state)
  _, state = net(train=True)
  mean, old = (s["batch_stats"]["BatchNorm_0"]["mean"]
               for s in (state, net.variables.state))
  # Linen's own momentum is 0.99.
  batch = np.asarray(net.image).reshape(4, -1).mean(0)
  np.testing.assert_allclose(
      mean, 0.99 * np.asarray(old) + 0.01 * batch, rtol=1e-4)


def test_a_module_may_take_any_arguments_that_it_does_not_ask_for():
  # nn.Sequential's __call__ has *args and **kwargs.
  module = nn.Sequential([lambda x: x.reshape((len(x), -1)), nn.Dense(3)])
  net = _Quick(models.linen_model(module), _images())
  assert net(train=True, **OPTIONS)[0].logits.shape == (4, 3)


def test_a_module_that_asks_for_something_unknown_is_refused_by_name():
  with pytest.raises(TypeError, match=r"_Demanding.*asks for 'depth'"):
    models.linen_model(_Demanding())


def test_the_same_model_is_made_once_whatever_holds_its_widths():
  made = lambda widths: MODELS["mlp"](num_classes=3, widths=widths)
  assert made([4, 5]) is made((4, 5)) and made((4, 6)) is not made((4, 5))


def test_models_pass_on_only_what_a_module_has():
  with pytest.raises(TypeError, match="depth"):
    models.MODELS["mlp"](num_classes=3, depth=3)


@pytest.mark.parametrize(("name", "widths"), [
    ("mlp", (800, 800)), ("cnn", (32, 64)), ("resnet8", (8, 16, 32))])
def test_losses_of_bfloat16_nets_stay_within_bounds(name, widths):
  # 8 bits of mantissa: logits are good to about 1%. The loss itself is computed
  # in float32; in bfloat16 the KL at T = 20 would be lost in rounding. Bounds: 2%
  # of the mean loss, and for no example more than 5% of it.
  image, label = blobs(128)
  image = jnp.asarray(image, jnp.float32) / 255
  wide = MODELS[name](num_classes=7, widths=widths)
  narrow = MODELS[name](num_classes=7, widths=widths, dtype="bfloat16")
  init = _init(wide)
  student, teacher = (init(jax.random.key(seed), image[:1]) for seed in (1, 2))
  same = jax.tree.map(
      lambda a, b: a.dtype == b.dtype,
      jax.eval_shape(narrow.init, jax.random.key(1), image[:1]), student)
  assert all(jax.tree.leaves(same)), "parameters are float32 in both"
  logits = lambda model: jax.jit(
      lambda held: 4 * model.apply(held, image, train=False)[0].logits)
  z, v = map(logits(wide), (student, teacher))
  rounded_z, rounded_v = map(logits(narrow), (student, teacher))
  assert rounded_z.dtype == jnp.float32
  assert not np.array_equal(z, rounded_z), "it does compute in bfloat16"
  for t in (1.0, 20.0):
    exact = t**2 * losses.distillation_kl(z, v, t)
    rounded = t**2 * losses.distillation_kl(rounded_z, rounded_v, t)
    mean = float(exact.mean())
    assert abs(float(rounded.mean()) - mean) < 0.02 * mean
    assert float(jnp.abs(rounded - exact).max()) < 0.05 * mean
  hard = [float(losses.hard_cross_entropy(logits, jnp.asarray(label)).mean())
          for logits in (z, rounded_z)]
  assert hard[1] == pytest.approx(hard[0], rel=0.02)


def test_batch_norm_keeps_float32_statistics_in_bfloat16(key):
  image, _ = blobs(32)
  image = jnp.asarray(image, jnp.float32) / 255
  wide, narrow = (MODELS["resnet8"](num_classes=7, widths=(4, 4, 4), dtype=dtype)
                  for dtype in ("float32", "bfloat16"))
  held = _init(wide)(key, image)
  states = [jax.jit(lambda held, model=model: model.apply(
      held, image, train=True)[1])(held) for model in (wide, narrow)]
  for a, b in zip(*map(jax.tree.leaves, states)):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(b, a, rtol=0.05, atol=0.02)
