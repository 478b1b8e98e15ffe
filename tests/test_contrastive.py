"""CRD against NumPy, golden values, by hand, by identities, and its memory."""

import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from kd_jax import methods
from kd_jax.core import types
from kd_jax.losses import contrastive
from kd_jax.methods import terms as terms_lib

T = 0.07


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def example(batch=4, examples=9, classes=3, channels=5, seed=0):
  """Embeddings, memory, ids, and classes of all examples by id."""
  draw = np.random.default_rng(seed)
  v, memory = (unit(draw.standard_normal((n, channels))) for n in (batch, examples))
  labels = np.arange(examples) % classes
  return v, memory, draw.permutation(examples)[:batch], labels


def oracle(v, memory, id, negatives, z, number, examples, t=T, eps=1e-7):
  """Equations 17 and 18, negative by negative; `negatives` are lists of rows."""
  c, values = number / examples, []
  for b, row in enumerate(v):
    p = lambda n, row=row: np.exp(memory[n] @ row / t) / z
    own = np.log(p(id[b]) / (p(id[b]) + c + eps))
    others = sum(np.log(c / (p(n) + c + eps)) for n in negatives[b])
    values.append(-own - others)
  return np.array(values)


def as_weights(negatives, examples):
  found = np.zeros((len(negatives), examples))
  for b, rows in enumerate(negatives):
    np.add.at(found[b], rows, 1.0)
  return found


def test_golden_values_of_the_released_modules(x64):
  """features.md, section 4: 8 examples, 3 negatives each, the first 4 the batch."""
  b, c = np.arange(4), np.arange(5)
  tap = lambda f, h, w, rest: rest(f, b[:, None], h, w, c[None, :])
  s = tap(np.sin, 0, 0, lambda f, b, h, w, c: f(
      .37 + 1.1 * b + .5 * h + .3 * w + .7 * c) + .3 * f(
          (.2 + .9 * b + .31 * h + .17 * w + .43 * c)**2))
  t = tap(np.cos, 1, 2, lambda f, b, h, w, c: f(
      .53 + 1.3 * b + .7 * h + .2 * w + .5 * c) + .3 * f(
          (.1 + .7 * b + .23 * h + .41 * w + .37 * c)**2))
  n = np.arange(8)[:, None]
  banks = {"student": unit(np.sin(.3 + 1.7 * n + .6 * c)),
           "teacher": unit(np.cos(.2 + 1.9 * n + .8 * c))}
  weights = as_weights([[4, 5, 6], [5, 6, 7], [4, 6, 7], [4, 5, 7]], 8)
  id = np.arange(4)
  found = {}
  for net, other, tap in (("student", "teacher", s), ("teacher", "student", t)):
    v = contrastive.normalised(jnp.asarray(tap))
    scores = contrastive.scores(v, jnp.asarray(banks[other]), T)
    z = contrastive.normaliser(scores, id, weights, 8.0)
    loss = contrastive.contrastive_loss(scores, id, weights, z, 3.0, 8.0)
    found[net] = float(z), float(loss.mean())
  np.testing.assert_allclose(
      found["student"], (556499.8354183, 20.7750690418), rtol=1e-10)
  np.testing.assert_allclose(
      found["teacher"], (1032800.0386642, 20.5519445726), rtol=1e-10)
  memory = contrastive.remembered(
      jnp.asarray(banks["student"]), id, contrastive.normalised(jnp.asarray(s)))
  np.testing.assert_allclose(
      memory[0], (.1950701, .5178450, .6556030, .5068578, .0840480), atol=1e-7)


def test_values_are_numpys_and_gradients_are_theirs(x64):
  v, memory, id, labels = example()
  negatives = [list(np.flatnonzero(labels != labels[i])) for i in id]
  weights = contrastive.all_negatives(
      jnp.asarray(labels[id]), jnp.asarray(labels), 6.0)

  def loss(v):
    return contrastive.contrastive_loss(
        contrastive.scores(v, jnp.asarray(memory), T), id, weights, 50.0, 6.0, 9.0)

  np.testing.assert_allclose(
      loss(jnp.asarray(v)), oracle(v, memory, id, negatives, 50.0, 6.0, 9.0),
      rtol=1e-12)
  check_grads(loss, (jnp.asarray(v),), order=1, modes=["rev"])


def test_all_are_the_mean_over_draws(x64):
  """Rao-Blackwell: the loss against all others is the draws' expectation."""
  v, memory, id, labels = example(batch=3, examples=30, seed=1)
  scores = contrastive.scores(jnp.asarray(v), jnp.asarray(memory), 1.0)
  known = jnp.asarray(labels[id]), jnp.asarray(labels)
  of = lambda weights: contrastive.contrastive_loss(
      scores, id, weights, 30.0, 4.0, 30.0)
  every = of(contrastive.all_negatives(*known, 4.0))
  keys = jax.random.split(jax.random.key(0), 4000)
  draws = jax.vmap(lambda key: of(contrastive.drawn_negatives(
      key, jnp.asarray(id), *known, 4.0)))(keys)
  error = draws.std(0) / np.sqrt(len(draws))
  assert (error > 0).all()
  assert (np.abs(draws.mean(0) - every) < 4 * error).all()


def test_draws_are_of_other_classes_and_without_replacement():
  labels = jnp.asarray([0, 1, 2, 0, 1, -1, 2, 2])
  id, label = jnp.asarray([0, 4]), jnp.asarray([0, 1])
  for seed in range(20):
    weights = np.asarray(contrastive.drawn_negatives(
        jax.random.key(seed), id, label, labels, 3.0))
    assert (weights.sum(1) == 3).all() and set(weights.ravel()) == {0.0, 1.0}
    assert not weights[0, [0, 3, 5]].any() and not weights[1, [1, 4, 5]].any()
  # Of an example, not of its place: devices draw alike.
  turned = contrastive.drawn_negatives(
      jax.random.key(19), id[::-1], label[::-1], labels, 3.0)
  np.testing.assert_array_equal(turned[::-1], weights)


@pytest.mark.parametrize("weigh", [
    contrastive.all_negatives,
    lambda *of: contrastive.drawn_negatives(
        jax.random.key(0), jnp.asarray([0]), *of)])
def test_fewer_others_than_asked_for_count_more(weigh):
  weights = weigh(jnp.asarray([0]), jnp.asarray([0, 1, 1, 0, -1]), 10.0)
  np.testing.assert_allclose(weights, [[0, 5, 5, 0, 0]])
  alone = weigh(jnp.asarray([0]), jnp.asarray([0, 0, -1]), 10.0)
  np.testing.assert_array_equal(alone, np.zeros((1, 3)))


def test_constant_scores_by_hand(x64):
  """p = 1 / N and c = K / N: a net has log(K + 1) + K log(1 + 1/K), without e."""
  k, n = 16384.0, 50000
  weights = jnp.zeros((1, n)).at[0, 1:].set(k / (n - 1))
  loss = contrastive.contrastive_loss(
      jnp.zeros((1, n)), jnp.asarray([0]), weights, float(n), k, n)
  without = np.log(k + 1) + k * np.log1p(1 / k)
  np.testing.assert_allclose(loss, [without], atol=6e-3)
  np.testing.assert_allclose(loss, [  # Each of K + 1 denominators has n e more.
      np.log(k + 1 + n * 1e-7) + k * np.log((k + 1 + n * 1e-7) / k)], rtol=1e-7)


def test_the_order_of_other_examples_does_not_matter():
  v, memory, id, labels = example(seed=2)
  order = np.random.default_rng(0).permutation(len(memory))
  where = np.argsort(order)

  def loss(memory, id, labels):
    weights = contrastive.all_negatives(
        jnp.asarray(labels[id]), jnp.asarray(labels), 5.0)
    scores = contrastive.scores(
        jnp.asarray(v, jnp.float32), jnp.asarray(memory, jnp.float32), T)
    return contrastive.contrastive_loss(scores, id, weights, 9.0, 5.0, 9.0)

  np.testing.assert_allclose(
      loss(memory[order], where[id], labels[order]), loss(memory, id, labels),
      rtol=1e-5)


def test_no_gradient_reaches_a_memory_or_the_normaliser():
  v, memory, id, labels = (jnp.asarray(x) for x in example())

  def loss(memory, v):
    scores = contrastive.scores(v, memory, T)
    weights = contrastive.all_negatives(labels[id], labels, 6.0)
    z = contrastive.normaliser(scores, id, weights, 9.0)
    new = contrastive.remembered(memory, id, v)
    return (contrastive.contrastive_loss(
        scores, id, weights, z, 6.0, 9.0).sum(), new.sum(), z)

  into_memory, into_v = jax.grad(lambda *of: loss(*of)[0], (0, 1))(memory, v)
  np.testing.assert_array_equal(into_memory, 0.0)
  assert np.abs(into_v).sum() > 0
  for place in (1, 2):
    into_v = jax.grad(lambda v, place=place: loss(memory, v)[place])(v)
    np.testing.assert_array_equal(into_v, 0.0)


def test_a_memory_changes_where_the_batch_is_and_nowhere_else():
  v, memory, id, _ = example()
  mask = np.array([True, True, False, True])
  v[2] = np.nan
  after = np.asarray(contrastive.remembered(
      jnp.asarray(memory), jnp.asarray(id), jnp.asarray(v), jnp.asarray(mask)))
  there = id[mask]
  np.testing.assert_allclose(np.linalg.norm(after[there], axis=1), 1.0, rtol=1e-6)
  np.testing.assert_allclose(
      after[there], unit(memory[there] + v[mask]), rtol=1e-5, atol=1e-6)
  others = np.setdiff1d(np.arange(9), there)
  np.testing.assert_array_equal(after[others], memory[others].astype(after.dtype))


def test_padding_has_no_part_in_the_normaliser():
  v, memory, id, labels = (jnp.asarray(x) for x in example())
  weights = contrastive.all_negatives(labels[id], labels, 6.0)
  scores = contrastive.scores(v, memory, T)
  mask = jnp.asarray([True, True, True, False])
  spoilt = scores.at[3].set(jnp.nan)
  np.testing.assert_allclose(
      contrastive.normaliser(spoilt, id, weights, 9.0, mask),
      contrastive.normaliser(scores[:3], id[:3], weights[:3], 9.0), rtol=1e-6)


def test_a_row_of_zeros_has_a_finite_gradient():
  gradient = jax.grad(lambda x: contrastive.normalised(x).sum())(jnp.zeros((1, 3)))
  assert np.isfinite(gradient).all()


# The methods as wholes, over two steps.

LABELS = np.arange(9) % 3
NUMBERS = {"weight": 0.8, "tau": 0.5, "negatives": 4.0}
# Three are left of the second batch; what the fourth holds does not matter.
STEPS = ((np.array([2, 3, 7, 5]), np.ones(4, bool)),
         (np.array([3, 8, 2, 0]), np.array([True, True, True, False])))


def begun(name):
  """Parameters and state of a method on vectors of 5 and 6 channels."""
  shapes = {"pooled-pooled": (5,)}, {"pooled-pooled": (6,)}
  return methods.find(name).init(jax.random.key(3), *shapes, len(LABELS))


def after(name, params, state, step, taps):
  """The terms of a step, and the state after it."""
  id, mask = STEPS[step]
  batch = types.Batch(None, jnp.asarray(LABELS[id]), jnp.asarray(id), None,
                      jnp.asarray(mask))
  hparams = types.Hparams(hard_weight=0.3, numbers=NUMBERS)
  own = terms_lib.Own(params, state, labels=jnp.asarray(LABELS),
                      key=jax.random.key(step))
  student, teacher = ({"pooled-pooled": tap} for tap in taps)
  return methods.find(name).terms(
      own, types.Outputs(jnp.zeros((4, 3)), student),
      types.Outputs(None, teacher), batch, hparams)


def taps_of(step):
  draw = np.random.default_rng(step)
  s, t = draw.standard_normal((4, 5)), draw.standard_normal((4, 6))
  s[~STEPS[step][1]], t[~STEPS[step][1]] = np.nan, np.inf
  return np.float32(s), np.float32(t)


def whole(name, params, state):
  """Both steps by NumPy: values of the valid examples, normalisers, memories."""
  bare = lambda tree: jax.tree.map(np.float64, tree)["pooled-pooled"]
  params, state = bare(params), bare(state)
  memories = {net: state[net]["memory"] for net in state}
  z, found = {}, []
  for step, (id, mask) in enumerate(STEPS):
    id = id[mask]
    vectors = {net: unit(tap[mask] @ params[net]["kernel"] + params[net]["bias"])
               for net, tap in zip(("student", "teacher"), taps_of(step))}
    if name == "crd":  # Six of other classes, so that each counts 4 / 6.
      weights = 4 / 6 * (LABELS[id][:, None] != LABELS)
    else:
      weights = np.asarray(contrastive.drawn_negatives(
          jax.random.key(step), jnp.asarray(id), LABELS[id], LABELS, 4.0))
    total, before = 0.0, dict(memories)
    for net, other in (("student", "teacher"), ("teacher", "student")):
      e = np.exp(vectors[net] @ before[other].T / 0.5)
      positive = e[np.arange(len(id)), id]
      if net not in z:
        z[net] = 9 * np.mean((positive + (weights * e).sum(1)) / 5)
      c = 4 / 9
      total = total - np.log(positive / z[net] / (
          positive / z[net] + c + 1e-7)) - (
              weights * np.log(c / (e / z[net] + c + 1e-7))).sum(1)
      memories[net] = before[net].copy()
      memories[net][id] = unit((before[net][id] + vectors[net]) / 2)
    found.append((total, dict(z), dict(memories)))
  return found


@pytest.mark.parametrize("name", ["crd", "crd_drawn"])
def test_two_steps_are_the_papers(name):
  """Each net against the other's memory; Z is that of the first batch."""
  params, state = begun(name)
  run = jax.jit(after, static_argnums=(0, 3))
  for step, (value, z, memories) in enumerate(whole(name, params, state)):
    terms, state = run(name, params, state, step, taps_of(step))
    assert set(terms) == {"hard", "contrast"}
    assert (terms["hard"].weight, terms["contrast"].weight) == (0.3, 0.8)
    np.testing.assert_allclose(
        terms["contrast"].value[STEPS[step][1]], value, rtol=1e-5)
    for net, held in state["pooled-pooled"].items():
      np.testing.assert_allclose(held["normaliser"], z[net], rtol=1e-5)
      np.testing.assert_allclose(held["memory"], memories[net], atol=1e-6)


@pytest.mark.parametrize("name", ["crd", "crd_drawn"])
def test_both_embeddings_are_trained_and_no_teacher(name):
  params, state = begun(name)

  def loss(params, student, teacher):
    terms, after_it = after(name, params, state, 0, (student, teacher))
    return jnp.mean(terms["contrast"].value), after_it

  (of_params, *of_taps), _ = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(
      params, *taps_of(0))
  assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(of_params))
  assert (np.abs(of_taps[0]).max(1) > 1e-6).all()
  np.testing.assert_array_equal(of_taps[1], 0.0)
