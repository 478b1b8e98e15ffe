"""Born-again generations: CWTM and DKPP beside their papers, and the recipe."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.core import types as core
from kd_jax.losses import born_again
from kd_jax.methods import METHODS, terms

N, T = 5, 2.5


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def softmax(z, t):
  e = np.exp((z - z.max(-1, keepdims=True)) / t)
  return e / e.sum(-1, keepdims=True)


def teacher_max_weights(v, t, valid):
  """Equation 9 by a loop: the share of each valid example, times their number."""
  largest = [max(p) if ok else 0.0 for p, ok in zip(softmax(v, t), valid)]
  return np.array(largest) / sum(largest) * sum(valid)


def permuted_logits(v, draws, exists):
  """Row by row: the k-th free place gets the logit with the k-th smallest draw."""
  made = v.copy()
  for row, numbers, there in zip(made, draws, exists):
    top = max(np.flatnonzero(there), key=lambda i: (row[i], -i))
    free = [i for i in np.flatnonzero(there) if i != top]
    row[free] = row[sorted(free, key=lambda i: numbers[i])]
  return made


# By name, for `docs/methods.py`.
ORACLES = {"teacher_max_weights": teacher_max_weights,
           "permuted_logits": permuted_logits}


def example(size=8, seed=0):
  draw = np.random.default_rng(seed)
  return (2 * draw.standard_normal((size, N)), 3 * draw.standard_normal((size, N)),
          draw.integers(0, N, size))


def loss(name, z, v, y, *, mask=None, t=T, key=0, ids=None, hard=0.0, soft=1.0):
  """The loss of each example, by the method's own terms."""
  ids = np.arange(len(y)) if ids is None else ids
  batch = types.SimpleNamespace(
      label=jnp.asarray(y), mask=jnp.asarray(np.ones(len(y), bool)
                                             if mask is None else mask),
      mixed=None, id=jnp.asarray(ids))
  own = terms.Own({}, {}, key=jax.random.key(key))
  said = lambda x: core.Outputs(jnp.asarray(x), {})
  return terms.total(METHODS[name].terms(
      own, said(z), said(v), batch, types.SimpleNamespace(
          hard_weight=hard, soft_weight=soft, temperature=t, label_smoothing=0.0)))


# ---- CWTM


def test_cwtm_weights_by_hand():
  # Largest probabilities .9, .6 and .5 of three examples, which sum to 2.
  p = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
  found = born_again.teacher_max_weights(jnp.log(jnp.float32(p)), 1.0)
  np.testing.assert_allclose(found, [1.35, 0.9, 0.75], rtol=1e-6)
  # The second is padding: 2 * .9 / 1.4 and 2 * .5 / 1.4.
  found = born_again.teacher_max_weights(
      jnp.log(jnp.float32(p)), 1.0, mask=jnp.array([True, False, True]))
  np.testing.assert_allclose(found, [9 / 7, 0, 5 / 7], rtol=1e-6)
  # At T = 2 the square roots count: 3 : 1, so 3/4, and 1/2 of an even one.
  found = born_again.teacher_max_weights(
      jnp.log(jnp.array([[9.0, 1.0], [1.0, 1.0]])), 2.0)
  np.testing.assert_allclose(found, [1.2, 0.8], rtol=1e-6)


def test_cwtm_of_a_teacher_that_is_equally_sure_is_cross_entropy(x64):
  z, v, y = example()
  shuffled = np.random.default_rng(1).permuted(np.tile(v[:1], (8, 1)), axis=1)
  np.testing.assert_allclose(
      loss("cwtm", z, shuffled, y), losses.hard_cross_entropy(z, y), rtol=1e-12)
  # Whichever class it is sure of: labels alone say what is right.
  assert len({*shuffled.argmax(-1)}) > 1


def test_cwtm_has_the_papers_gradient(x64):
  z, v, y = example()
  mask = np.arange(8) < 6
  total = lambda z, v: jnp.sum(jnp.where(
      mask, loss("cwtm", z, v, y, mask=mask), 0.0)) / 6
  by_student, by_teacher = jax.grad(total, argnums=(0, 1))(
      jnp.asarray(z), jnp.asarray(v))
  share = softmax(v, T).max(-1) * mask
  wanted = (share / share.sum())[:, None] * (softmax(z, 1.0) - np.eye(N)[y])
  np.testing.assert_allclose(by_student, wanted, atol=1e-12)
  np.testing.assert_array_equal(by_teacher, 0.0)


@pytest.mark.parametrize("junk", [0.0, 1e30, np.nan, -np.inf])
def test_cwtm_does_not_see_padding(junk, x64):
  _, v, _ = example()
  mask = np.arange(8) < 5
  padded = np.where(mask[:, None], v, junk)
  found = born_again.teacher_max_weights(
      jnp.asarray(padded), T, mask=jnp.asarray(mask))
  np.testing.assert_allclose(found, teacher_max_weights(v, T, mask), rtol=1e-12)
  assert found[:5].sum() == pytest.approx(5) and not found[5:].any()
  nobody = born_again.teacher_max_weights(
      jnp.asarray(padded), T, mask=jnp.zeros(8, bool))
  np.testing.assert_array_equal(nobody, 0.0)


def test_cwtm_of_a_batch_of_one_is_cross_entropy():
  z, v, y = example(1)
  hard = losses.hard_cross_entropy(jnp.float32(z), y)
  np.testing.assert_allclose(loss("cwtm", z, v, y), hard, rtol=1e-6)


def test_cwtm_leaves_out_classes_that_do_not_exist(x64):
  _, v, _ = example()
  exists = np.array([True, False, True, True, False])
  wanted = teacher_max_weights(v[:, exists], T, np.ones(8, bool))
  for fill in (1e30, np.nan, -np.inf):
    found = born_again.teacher_max_weights(
        jnp.asarray(np.where(exists, v, fill)), T,
        where=jnp.asarray(np.broadcast_to(exists, v.shape)))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


# ---- DKPP


def test_permuted_logits_by_hand():
  # The largest, 9, stays. In the free places 0, 2, 3, 4 come the logits with the
  # numbers .1, .3, .5, .8: those of the classes 3, 4, 0, 2.
  v = jnp.array([1.0, 9.0, 2.0, 3.0, 4.0])
  found = born_again.permuted_logits(v, jnp.array([0.5, 0.0, 0.8, 0.1, 0.3]))
  np.testing.assert_array_equal(found, [3, 9, 4, 1, 2])
  # Numbers in the order of the classes change nothing.
  np.testing.assert_array_equal(
      born_again.permuted_logits(v, jnp.arange(5.0)), v)
  # Of two that are equally large the first stays, and the other moves.
  tied = jnp.array([1.0, 9.0, 2.0, 9.0])
  np.testing.assert_array_equal(born_again.permuted_logits(
      tied, jnp.array([0.5, 0.9, 0.6, 0.1])), [9, 9, 1, 2])
  # Class 2 does not exist, whatever stands there: 0 and 3 change places.
  for junk in (-np.inf, 2.0**90, np.nan):
    found = born_again.permuted_logits(
        v.at[2].set(junk)[:4], jnp.array([0.5, 0.0, 0.0, 0.1]),
        where=jnp.array([True, True, False, True]))
    np.testing.assert_array_equal(found, [3, 9, junk, 1])


def test_permuted_logits_are_the_loops(x64):
  _, v, _ = example(200)
  draws = np.random.default_rng(2).random(v.shape)
  exists = np.ones(v.shape, bool)
  found = born_again.permuted_logits(jnp.asarray(v), jnp.asarray(draws))
  np.testing.assert_array_equal(found, permuted_logits(v, draws, exists))
  exists[:, [1, 4]] = False
  found = born_again.permuted_logits(
      jnp.asarray(v), jnp.asarray(draws), where=jnp.asarray(exists))
  np.testing.assert_array_equal(found, permuted_logits(v, draws, exists))


def test_a_permuted_teacher_keeps_its_largest_probability_and_all_moments(x64):
  _, v, _ = example(50)
  draws = np.random.default_rng(3).random(v.shape)
  made = np.asarray(born_again.permuted_logits(jnp.asarray(v), jnp.asarray(draws)))
  p, q = softmax(v, T), softmax(made, T)
  np.testing.assert_array_equal(q.argmax(-1), p.argmax(-1))
  np.testing.assert_allclose(q.max(-1), p.max(-1), rtol=1e-12)
  np.testing.assert_array_equal(np.sort(made, -1), np.sort(v, -1))
  assert (made != v).any(-1).mean() > 0.9  # All but 1 in 24 of them.


def test_a_permuted_teacher_gets_no_gradient():
  v = jnp.array([1.0, 9.0, 2.0, 3.0])
  gradient = jax.grad(lambda v: born_again.permuted_logits(v, v).sum())(v)
  np.testing.assert_array_equal(gradient, 0.0)


def test_every_permutation_of_the_others_is_equally_likely():
  v = jnp.array([4.0, 1.0, 2.0, 3.0])
  ids = jnp.arange(6_000)
  draws = jax.vmap(lambda i: jax.random.uniform(
      jax.random.fold_in(jax.random.key(0), i), (4,)))(ids)
  made = np.asarray(born_again.permuted_logits(
      jnp.broadcast_to(v, draws.shape), draws))
  assert (made[:, 0] == 4).all()
  counts = [int((made[:, 1:] == order).all(-1).sum())
            for order in itertools.permutations([1.0, 2.0, 3.0])]
  assert sum(counts) == 6_000
  # 1,000 of each of 6; the deviation of a count is 29.
  assert max(abs(count - 1_000) for count in counts) < 120


def test_dkpp_is_kl_to_the_permuted_teacher(x64):
  z, v, y = example()
  key = jax.random.key(0)
  draws = np.stack([jax.random.uniform(
      jax.random.fold_in(key, i), (N,)) for i in range(8)])
  p = softmax(permuted_logits(v, draws, np.ones(v.shape, bool)), T)
  wanted = T**2 * (p * np.log(p / softmax(z, T))).sum(-1)
  np.testing.assert_allclose(loss("dkpp", z, v, y), wanted, rtol=1e-12)
  by_student, by_teacher = jax.grad(
      lambda z, v: loss("dkpp", z, v, y).sum(), argnums=(0, 1))(
          jnp.asarray(z), jnp.asarray(v))
  np.testing.assert_allclose(by_student, T * (softmax(z, T) - p), atol=1e-12)
  np.testing.assert_array_equal(by_teacher, 0.0)


def test_dkpp_is_kd_where_the_teacher_does_not_tell_the_others_apart(x64):
  z, _, y = example()
  v = np.where(np.eye(N)[y] > 0, 2.0, -1.0)
  np.testing.assert_allclose(
      loss("dkpp", z, v, y), loss("kd", z, v, y), rtol=1e-12)
  # Of two classes there is nothing to permute.
  two = z[:, :2], v[:, :2], y % 2
  np.testing.assert_allclose(loss("dkpp", *two), loss("kd", *two), rtol=1e-12)


def test_a_permutation_is_of_an_example_and_a_step_and_not_of_its_batch():
  z, v, y = example()
  whole = np.asarray(loss("dkpp", z, v, y))
  # Alone, in another order, beside others, or with padding: by its id.
  alone = loss("dkpp", z[3:4], v[3:4], y[3:4], ids=[3])
  np.testing.assert_allclose(alone, whole[3:4], rtol=1e-6)
  np.testing.assert_allclose(
      loss("dkpp", z[::-1], v[::-1], y[::-1], ids=np.arange(8)[::-1]), whole[::-1],
      rtol=1e-6)
  # Another step, and another example, draw anew.
  assert (np.abs(np.asarray(loss("dkpp", z, v, y, key=1)) - whole) > 1e-3).any()
  same = loss("dkpp", z[:1].repeat(8, 0), v[:1].repeat(8, 0), y[:1].repeat(8))
  assert len({*np.asarray(same).round(4)}) > 1


def test_weights_of_both_terms_are_the_configs(x64):
  z, v, y = example()
  ce = losses.hard_cross_entropy(z, y)
  for name in ("cwtm", "dkpp"):
    soft = np.asarray(loss(name, z, v, y))
    np.testing.assert_allclose(
        loss(name, z, v, y, hard=0.3, soft=1.7), 0.3 * ce + 1.7 * soft, rtol=1e-12)
