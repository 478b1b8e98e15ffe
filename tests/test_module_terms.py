"""Whole losses of methods with modules, against NumPy; padding; what is reused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_features import slow_regressor
import test_projected
import test_stages
import test_wasserstein

from kd_jax import methods
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.methods import fusion, layers, projector, stage_terms, transfer
from kd_jax.methods import terms as terms_lib
from kd_jax.methods.pairs import in_order
from kd_jax.models import MODELS, head

STUDENT = {"stage1": (4, 4, 3), "stage1.preact": (4, 4, 3), "stage2": (2, 2, 5),
           "stage2.preact": (2, 2, 5), "pooled": (5,)}
TEACHER = {"stage1": (4, 4, 4), "stage1.preact": (4, 4, 4), "stage2": (4, 4, 6),
           "stage2.preact": (4, 4, 6), "pooled": (6,)}
CLASSES, BATCH, PROGRESS = 7, 6, 0.7
# No two alike, and none the default.
NUMBERS = {
    "pefd": {"weight": 1.7}, "srd": {"weight": 1.7},
    "itrd": {"weight": 1.7, "correlation": 0.6, "information": 40.0, "alpha": 1.2},
    "nd": {"weight": 1.7},
    "wkd_l": {"weight": 1.7, "target": 0.6, "sharpness": 1.3,
              "regularisation": 0.3, "decay": 0.4},
    "wkd_f": {"weight": 1.7, "mean": 0.6, "grid": 2.0, "decay": 0.4},
    "reviewkd": {"weight": 1.7, "warmup": 0.9}, "ofd": {"weight": 1.7},
    "cat": {"weight": 1.7, "resolution": 2.0, "normalised": 0.0},
    "simkd": {"weight": 1.7}}
every = pytest.mark.parametrize("name", NUMBERS)


@pytest.fixture(autouse=True)
def promoted():
  """States and weights that move are float32, as in a run, whatever taps are."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def bound(name, student=STUDENT, teacher=TEACHER):
  """The method, and its parameters and state with no number at its first value."""
  method, pairs = methods.bind(methods.find(name), student, teacher, ())
  shapes = [{"-".join(pair): taps[pair[of]] for pair in pairs}
            for of, taps in enumerate((student, teacher))]
  own = method.init(
      jax.random.key(0), *shapes, **methods.sizes(method, 0, CLASSES))
  draw = np.random.default_rng(5)
  # Squares, as variances and counts cannot be below 0.
  params, state = jax.tree.map(lambda x: draw.standard_normal(x.shape), own)
  state = jax.tree.map(np.square, state)
  return method, pairs, params, state


def inputs(name, seed=0, batch=BATCH, **nets):
  """Outputs of both nets with the method's taps, labels, and last layers."""
  draw = np.random.default_rng(seed).standard_normal
  _, pairs, *_ = bound(name, **nets)

  def outputs(taps, of):
    # The same tap is the same array, whatever pair it is in.
    made = {tap: draw((batch, *shape)) for tap, shape in taps.items()}
    return types.Outputs(2 * draw((batch, CLASSES)), {
        "-".join(pair): made[pair[of]] for pair in pairs})

  student = outputs(nets.get("student", STUDENT), 0)
  teacher = outputs(nets.get("teacher", TEACHER), 1)
  layer = lambda taps: {"kernel": draw((taps["pooled"][0], CLASSES)),
                        "bias": draw(CLASSES)}
  heads = layer(nets.get("student", STUDENT)), layer(nets.get("teacher", TEACHER))
  return student, teacher, np.arange(batch) * 3 % 5, heads


@functools.partial(jax.jit, static_argnames=("name", "progress"))
def evaluate(name, params, state, student, teacher, label, mask, heads, progress,
             hard=0.0):
  """The loss and its gradients, the terms, and the state after the step."""
  method, *_ = bound(name)
  batch = types.Batch(None, label, label, label, mask)
  numbers = types.Hparams(numbers=NUMBERS[name], progress=progress,
                          temperature=2.5, hard_weight=hard)

  def loss(params, student, teacher, heads):
    own = terms_lib.Own(params, state, heads=heads)
    found = terms_lib.and_state(
        method.terms(own, student, teacher, batch, numbers), own)
    each = jnp.where(mask, terms_lib.total(found.terms), 0.0)
    return jnp.sum(each) / jnp.sum(mask), found

  gradients, found = jax.grad(loss, (0, 1, 2, 3), has_aux=True)(
      params, student, teacher, heads)
  return loss(params, student, teacher, heads)[0], gradients, found


# NumPy's modules.


def conv(layer, x):
  """A dense layer, or a convolution that keeps the size, by loops."""
  kernel = np.asarray(layer["kernel"])
  if kernel.ndim == 4:
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i:x.shape[1] - 2 + i, j:x.shape[2] - 2 + j] @ kernel[i, j]
            for i in range(3) for j in range(3))
  else:
    y = x @ kernel
  return y + np.asarray(layer["bias"]) if "bias" in layer else y


def norm(params, x):
  over = tuple(range(x.ndim - 1))
  return ((x - x.mean(over)) / np.sqrt(x.var(over) + 1e-5)
          * np.asarray(params["scale"]) + np.asarray(params["bias"]))


def resized(x, size):
  """The nearest pixel: `size` is a multiple of the map's, or a part of it."""
  old = x.shape[1]
  places = [i * old // size for i in range(size)]
  return x[:, places][:, :, places]


def halved(x):
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def decay():
  return 0.5 + 0.5 * np.cos(np.pi * 0.3 / 0.6)


def soft(x, t=1.0):
  e = np.exp(x / t - (x / t).max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def relu(x):
  return np.maximum(x, 0)


def pefd(params, state, s, t, y, heads):
  g = np.mean([relu(conv(layer, s)) for layer in params], 0)
  norm = lambda e: e / np.linalg.norm(e, axis=-1, keepdims=True)
  return 1.7 * (1 - (norm(g) * norm(t)).sum(-1))


def srd(params, state, s, t, y, heads):
  return 1.7 * test_projected.slow("log", conv(params[0], s), t)


def itrd(params, state, s, t, y, heads):
  g = conv(params[0], s)
  return 1.7 * (0.6 * test_projected.slow("correlation", g, t, 1.2)
                + 40 * test_projected.slow("information", g, t))


def nd(params, state, s, t, y, heads):
  g = conv(params["layers"][0], norm(params["norm"], s))
  values = []
  for row, label in enumerate(y):
    count = np.asarray(state["counts"])[label, 0]
    mine = t[y == label]
    centre = (count * np.asarray(state["means"])[label] + mine.sum(0)) / max(
        1, count + len(mine))
    longest = max(np.linalg.norm(g[row]), np.linalg.norm(t[row]))
    values.append(1 - g[row] @ centre / np.linalg.norm(centre) / longest)
  return 1.7 * np.array(values)


def wkd_f(params, state, s, t, y, heads):
  guess, _ = slow_regressor(params, state, s, True, True)
  means, deviations = test_wasserstein.slow_moments(guess, t, 2)
  return 1.7 * decay() * (0.6 * means + deviations)


def simkd(params, state, s, t, y, heads):
  x = relu(s)
  for layer in params:
    x = relu(norm(layer["norm"], conv(layer, x)))
  return 1.7 * ((x - halved(relu(t)))**2).mean((1, 2, 3))


def cat(params, state, s, t, y, heads):
  a, b = relu(s) @ heads[0]["kernel"], halved(relu(t)) @ heads[1]["kernel"]
  return 1.7 * ((a - b)**2).mean((1, 2, 3))


# Those of one pair, by what its only pair holds.
ONE_PAIR = {"pefd": pefd, "srd": srd, "itrd": itrd, "nd": nd, "wkd_f": wkd_f}


def slow(name, params, state, student, teacher, y, heads):
  pairs = in_order(student.features)
  one = [tree[pairs[0]] for tree in (student.features, teacher.features)]
  if name in ONE_PAIR:
    own = (params[pairs[0]], state.get(pairs[0]) if state else None)
    return ONE_PAIR[name](*own, *one, y, heads)
  if name in ("simkd", "cat"):
    return {"simkd": simkd, "cat": cat}[name](params, state, *one, y, heads)
  if name == "wkd_l":
    z, v, rows = student.logits, teacher.logits, np.arange(len(y))
    cost = test_wasserstein.slow_cost(heads[1]["kernel"], 1.3)
    transport = test_wasserstein.slow_transport(z, v, y, cost, 2.5, 0.3)
    target = -soft(v)[rows, y] * np.log(soft(z)[rows, y])
    return 0.6 * target + 1.7 * decay() * transport
  if name == "ofd":
    total = 0.0
    for place, pair in enumerate(pairs):
      s, t = student.features[pair], teacher.features[pair]
      t = halved(t) if t.shape[1] > s.shape[1] else t
      (layer,), old = params[pair], state[pair]
      guess = norm(layer["norm"], conv(layer, s))
      below, count = np.minimum(t, 0).sum((0, 1, 2)), (t < 0).sum((0, 1, 2))
      margin = (old["margin"] * old["count"] + below) / np.maximum(
          old["count"] + count, 1)
      u = np.maximum(t, margin)
      total += 2.0**(place - 1) * np.where(
          (guess > u) | (u > 0), (guess - u)**2, 0).sum((1, 2, 3))
    return 1.7 * total
  total, before = 0.0, None
  for pair in reversed(pairs):
    s, t = student.features[pair], teacher.features[pair]
    if pair == "pooled-pooled":
      s, t = s[:, None, None], t[:, None, None]
    own = params[pair]
    x = norm(own["into_norm"], conv(own["into"], s))
    if before is not None:
      z = conv(own["gate"], np.concatenate([x, resized(before, x.shape[1])], -1))
      z = 1 / (1 + np.exp(-z))
      x = z[..., :1] * x + z[..., 1:] * resized(before, x.shape[1])
    before = resized(x, t.shape[1])
    made = norm(own["out_norm"], conv(own["out"], before))
    total += np.array([test_stages.slow("review", a, b) for a, b in zip(made, t)])
  return 1.7 * 0.7 / 0.9 * total


@every
def test_a_loss_is_its_formula(name, x64):
  _, _, params, state = bound(name)
  student, teacher, y, heads = inputs(name)
  value, gradients, found = evaluate(
      name, params, state, student, teacher, y, np.ones(BATCH, bool), heads,
      PROGRESS)
  expected = np.mean(slow(name, params, state, student, teacher, y, heads))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  with_labels = evaluate(
      name, params, state, student, teacher, y, np.ones(BATCH, bool), heads,
      PROGRESS, 0.3)[0]
  hard = -np.log(soft(student.logits)[np.arange(BATCH), y]).mean()
  np.testing.assert_allclose(with_labels - value, 0.3 * hard, rtol=1e-6)
  # None of it reaches the teacher; all of the method's own is trained.
  for leaf in jax.tree.leaves((gradients[2], gradients[3][1])):
    np.testing.assert_array_equal(leaf, 0.0)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients[0]))
  assert name in ("wkd_l",) or all(map(np.any, gradients[1].features.values()))
  assert set(found.terms) - {"hard"}


@every
def test_garbage_in_padding_changes_nothing(name, x64):
  """NaN in both nets' taps: values, gradients, and statistics of modules."""
  _, _, params, state = bound(name)
  student, teacher, y, heads = inputs(name)
  mask = np.array([True, True, False, True, True, False])
  rows = lambda tree: jax.tree.map(lambda x: x[mask], tree)
  short = evaluate(name, params, state, rows(student), rows(teacher), y[mask],
                   np.ones(4, bool), heads, PROGRESS)
  for garbage in (1e100, np.nan):
    for outputs in (student, teacher):
      for tap in outputs.features.values():
        tap[~mask] = garbage
    value, (own, taps, _, last), found = evaluate(
        name, params, state, student, teacher, y, mask, heads, PROGRESS)
    np.testing.assert_allclose(value, short[0], rtol=1e-11)
    for got, wanted in ((own, short[1][0]), (last, short[1][3]),
                        (found.state, short[2].state)):
      jax.tree.map(functools.partial(
          np.testing.assert_allclose, rtol=1e-6, atol=1e-10), got, wanted)
    for key, tap in taps.features.items():
      np.testing.assert_allclose(
          tap[mask], short[1][1].features[key], rtol=1e-9, atol=1e-12)
      np.testing.assert_array_equal(tap[~mask], 0.0)


@every
@pytest.mark.parametrize("batch", [1, 2])
def test_one_and_two_examples_are_finite(name, batch):
  _, _, params, state = bound(name)
  given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (
      params, state, *inputs(name, batch=batch)[:2]))
  *_, y, heads = inputs(name, batch=batch)
  value, gradients, found = evaluate(
      name, *given, y, np.ones(batch, bool),
      jax.tree.map(jnp.float32, heads), PROGRESS)
  for leaf in jax.tree.leaves((value, gradients, found.state)):
    assert np.isfinite(leaf).all()


# Weights that move, and numbers that choose.


def of(name, progress=PROGRESS, **numbers):
  """The loss without labels, with other numbers."""
  _, _, params, state = bound(name)
  student, teacher, y, heads = inputs(name)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(NUMBERS, name, NUMBERS[name] | numbers)
    evaluate.clear_cache()
    value = evaluate(name, params, state, student, teacher, y,
                     np.ones(BATCH, bool), heads, progress)[0]
  evaluate.clear_cache()
  return float(value)


def test_weights_rise_and_fall_with_the_run():
  np.testing.assert_allclose(
      [of("reviewkd", p, warmup=0.25) for p in (0.0, 0.125, 0.25, 1.0)],
      of("reviewkd", warmup=0.0) * np.array([0, 0.5, 1, 1]), rtol=1e-5)
  np.testing.assert_allclose(
      [of("wkd_f", p, decay=0.5) for p in (0.0, 0.5, 0.75, 1.0)],
      of("wkd_f", decay=1.0) * np.array([1, 1, 0.5, 0]), rtol=1e-5, atol=1e-6)


def test_of_the_sizes_of_a_grid_one_is_computed():
  asked = []

  def value(size, x):
    jax.debug.callback(lambda _: asked.append(size), x)
    return size * jnp.square(x)

  of_size = jax.jit(jax.value_and_grad(lambda x, number: stage_terms._of_size(
      number, (1, 2, 4), lambda size: value(size, x))))
  for number, size in ((0.5, 1), (1.0, 1), (3.0, 2), (4.0, 4), (8.0, 4)):
    found = of_size(3.0, number)
    jax.effects_barrier()
    assert found == (9.0 * size, 6.0 * size) and set(asked) == {size}
    asked.clear()
  rows = jax.vmap(lambda number: stage_terms._of_size(
      number, (1, 2, 4), jnp.float32))(jnp.array([1.0, 4.0]))
  assert rows.tolist() == [1, 4]  # Lanes, of each its own.


def test_a_grid_is_the_largest_that_fits():
  one, two = of("wkd_f", grid=1.0), of("wkd_f", grid=2.0)
  assert one != two == of("wkd_f", grid=3.0) == of("wkd_f", grid=8.0)
  assert of("cat", resolution=1.0) != of("cat") == of("cat", resolution=8.0)
  assert of("cat", normalised=1.0) != of("cat")


# What is measured of the teacher.


def test_class_means_are_those_of_all_examples_so_far(x64):
  method, pairs, *_ = bound("nd")
  (key,) = map("-".join, pairs)
  shapes = {key: (5,)}, {key: (6,)}
  params, state = method.init(jax.random.key(0), *shapes, classes=CLASSES)
  seen, labels = [], []
  for step in range(3):
    student, teacher, y, heads = inputs("nd", seed=step)
    mask = np.arange(BATCH) < 5 - step
    found = evaluate("nd", params, state, student, teacher, y, mask, heads, 0.0)[2]
    state = found.state
    seen.append(teacher.features[key][mask])
    labels.append(y[mask])
  seen, labels = np.concatenate(seen), np.concatenate(labels)
  for label in range(CLASSES):
    mine = seen[labels == label]
    assert state[key]["counts"][label, 0] == len(mine)
    np.testing.assert_allclose(
        state[key]["means"][label], mine.mean(0) if len(mine) else 0.0, rtol=1e-5)


def test_margins_are_means_of_what_is_below_zero(x64):
  method, pairs, *_ = bound("ofd")
  names = list(map("-".join, pairs))
  shapes = [{"-".join(pair): taps[pair[of]] for pair in pairs}
            for of, taps in enumerate((STUDENT, TEACHER))]
  params, state = method.init(jax.random.key(0), *shapes)
  seen = []
  for step in range(2):
    student, teacher, y, heads = inputs("ofd", seed=step)
    state = evaluate("ofd", params, state, student, teacher, y,
                     np.ones(BATCH, bool), heads, 0.0)[2].state
    seen.append(teacher.features[names[0]])
  seen = np.concatenate(seen)
  below = np.where(seen < 0, seen, 0).sum((0, 1, 2)) / (seen < 0).sum((0, 1, 2))
  np.testing.assert_allclose(state[names[0]]["margin"], below, rtol=1e-5)


# Modules.


def test_modules_begin_as_torchs_do():
  key = jax.random.key(0)
  within = lambda layer, bound: np.testing.assert_array_less(
      np.abs(layer["kernel"]).max() / bound, 1.0) or (
          np.abs(layer["kernel"]).max() > 0.9 * bound)
  assert all(within(layer, 8**-0.5)
             for layer in projector.init(key, (8,), (50,), count=3))
  shapes = {"a": (4, 4, 8), "b": (12,)}, {"a": (8, 8, 20), "b": (6,)}
  params, _ = fusion.init(key, *shapes, ["a", "b"])
  assert params["a"]["into"]["kernel"].shape == (8, 12)
  assert "gate" not in params["b"]
  assert within(params["a"]["into"], (3 / 8)**0.5)  # kaiming_uniform_(a=1)
  assert within(params["a"]["out"], (3 / 9 / 12)**0.5)
  assert within(params["a"]["gate"], 24**-0.5) and "bias" not in params["a"]["out"]
  (first, second, third), _ = transfer.projector_init(key, 30, 20)
  assert [x["kernel"].shape for x in (first, second, third)] == [
      (30, 10), (3, 3, 10, 10), (10, 20)]
  assert within(first, 30**-0.5) and within(second, 90**-0.5)
  (connector,), _ = transfer.connector_init(key, 40, 50)
  assert np.std(connector["kernel"]) == pytest.approx((2 / 50)**0.5, rel=0.05)


def test_nearest_is_torchs():
  x = np.arange(7.0).reshape(1, 1, 7, 1)
  for size, places in ((14, np.repeat(np.arange(7), 2)), (3, [0, 2, 4]),
                       (5, [0, 1, 2, 4, 5]), (7, range(7))):
    found = fusion.nearest(jnp.array(x), (1, size)).ravel()
    np.testing.assert_array_equal(found, list(places))


# The last layers, and the maps that they see.

WITH_STAGES = {
    "resnet": dict(depth=8, widths=(3, 4, 5)),
    "wrn": dict(depth=10, widths=(3, 4, 5)),
    "shufflenetv1": dict(widths=(48, 96, 192)),
    "vgg8": dict(widths=(2, 3, 4, 5, 6))}


def net(name, **options):
  """A net with statistics that are not those that it begins with."""
  model = MODELS[name](num_classes=CLASSES, **options)
  images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
  variables = model.init(jax.random.key(0), images)
  variables = types.Variables(*jax.tree.map(
      lambda x: x + 0.1 * jnp.abs(jnp.sin(jnp.arange(x.size))).reshape(x.shape),
      tuple(variables)))
  outputs = model.apply(variables, images, train=False)[0]
  return variables, outputs, {k: v.shape[1:] for k, v in outputs.features.items()}


@pytest.mark.parametrize("name", WITH_STAGES)
def test_logits_are_the_last_layer_of_the_map_that_is_pooled(name):
  variables, outputs, shapes = net(name, **WITH_STAGES[name])
  layer = head(variables.params)
  np.testing.assert_allclose(
      layers.linear(layer, outputs.features["pooled"]), outputs.logits, rtol=1e-4,
      atol=1e-5)
  _, ((tap, _),) = methods.bind(methods.find("cat"), shapes, shapes, ())
  assert tap.endswith(".preact")
  np.testing.assert_allclose(
      jnp.maximum(outputs.features[tap], 0).mean((1, 2)),
      outputs.features["pooled"], rtol=1e-4, atol=1e-5)


def test_of_several_dense_layers_the_last_is_that_of_the_logits():
  variables, outputs, _ = net("mlp", widths=(7, 5, 7))
  np.testing.assert_allclose(
      layers.linear(head(variables.params), outputs.features["pooled"]),
      outputs.logits, rtol=1e-4, atol=1e-5)
  with pytest.raises(UserError, match="a net has none"):
    head({"Conv_0": {"kernel": jnp.ones((3, 3, 2, 2))}})


@pytest.mark.parametrize("name", WITH_STAGES)
def test_a_projection_that_is_the_teachers_map_has_the_teachers_logits(name):
  """SimKD: where f = g, the net that comes out is the teacher."""
  variables, outputs, shapes = net(name, **WITH_STAGES[name])
  method, ((tap, other),) = methods.bind(methods.find("simkd"), shapes, shapes, ())
  pair, channels = f"{tap}-{other}", shapes[tap][-1]
  params, state = transfer.projector_init(jax.random.key(0), channels, channels, 1)
  identity = jnp.eye(channels)
  for layer in params:
    at_centre = jnp.zeros((3, 3, channels, channels)).at[1, 1].set(identity)
    layer["kernel"] = at_centre if layer["kernel"].ndim == 4 else identity
    layer["norm"]["scale"] *= (1 + layers.EPSILON)**0.5  # for a variance of 1
  own = terms_lib.Own(params, {"projector": state, "head": head(variables.params)})
  made = method.inference(own, outputs._replace(
      logits=0 * outputs.logits, features={pair: outputs.features[tap]}))
  np.testing.assert_allclose(made.logits, outputs.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cat", "simkd"])
def test_a_net_that_pools_another_map_is_told(name):
  shapes = STUDENT | {"pooled": (9,)}
  with pytest.raises(ValueError, match="teacher's last map has shape"):
    methods.bind(methods.find(name), STUDENT, shapes, ())
  with pytest.raises(ValueError, match="has none"):
    methods.bind(methods.find("wkd_f"), {"pooled": (9,)}, STUDENT, ())


def test_stages_are_paired_from_the_last_and_ordered_by_number():
  more = TEACHER | {"stage3": (2, 2, 6), "stage3.preact": (2, 2, 6)}
  pairs = lambda name: methods.bind(methods.find(name), STUDENT, more, ())[1]
  assert pairs("reviewkd") == (
      ("stage1", "stage2.preact"), ("stage2", "stage3.preact"),
      ("pooled", "pooled"))
  assert pairs("ofd") == (("stage1.preact", "stage2.preact"),
                          ("stage2.preact", "stage3.preact"))
  assert pairs("wkd_f") == (("stage2", "stage3"),)
