"""Specialists are those of Hinton et al. (2015), section 5.

The oracle of eq. 5 is float64 NumPy: the objective as the paper writes it,
minimised over logits by scipy's BFGS, which knows nothing of the fixed point.
"""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from experiments.hinton15_specialists import confusable, specialists

CLASSES, MEMBERS = 7, 4
combine = jax.jit(specialists.combine, static_argnames="rounds")


def f32(x) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


def log(p) -> jax.Array:
  with np.errstate(divide="ignore"):
    return f32(np.log(p))


def normal(seed, *shape) -> jax.Array:
  return f32(np.random.default_rng(seed).normal(size=shape))


def sets(*members, classes=CLASSES) -> np.ndarray:
  inside = np.zeros((len(members), classes), bool)
  for row, which in zip(inside, members):
    row[list(which)] = True
  return inside


# What generalist and specialists say together.


def test_nobody_asked_leaves_the_generalist():
  z = f32([1.0, -2.0, 0.5])
  inside = jnp.asarray(sets([0], [1, 2], classes=3))
  q = combine(z, jnp.zeros((2, 4)), inside, jnp.zeros(2, bool))
  np.testing.assert_allclose(q, jax.nn.log_softmax(z), atol=1e-6)


def test_one_specialist_has_the_closed_form():
  # Within S: (p_g + p_m) / 2 = (.3 + .5)/2, (.1 + .2)/2. Outside, P_g = .6 and
  # p_m(dust) = .3: factor (.6 + .3) / (2 * .6) = .75 of .4 and .2.
  q = combine(log([.3, .1, .4, .2]), log([[.5, .2, 0, 0, .3]]),
              jnp.asarray(sets([0, 1], classes=4)), jnp.array([True]), rounds=1)
  np.testing.assert_allclose(jnp.exp(q), [.4, .15, .3, .15], rtol=1e-6)


def test_two_specialists_by_hand():
  # By symmetry q_0 = q_1 = x, and x = (1/8 + 3/4 + 1/4 x / (1 - x)) / 3. With
  # x = 1/3: (7/8 + 1/4 * 1/2) / 3 = 1/3. Class 2 has the rest, and indeed
  # (3/4 + 2 * 1/4 * (1/3) / (2/3)) / 3 = 1/3.
  q = combine(log([1/8, 1/8, 3/4]), log([[3/4, 0, 0, 1/4], [0, 3/4, 0, 1/4]]),
              jnp.asarray(sets([0], [1], classes=3)), jnp.ones(2, bool))
  np.testing.assert_allclose(jnp.exp(q), [1/3, 1/3, 1/3], rtol=1e-5)


def test_specialists_of_one_set_are_averaged():
  # Within: (.5 + .2 + .8) / 3. Outside the dustbins .8 and .2 and P_g = .5 give
  # 1.5 / 3 to be shared as .4 : .1.
  q = combine(log([.5, .4, .1]), log([[.2, 0, 0, .8], [.8, 0, 0, .2]]),
              jnp.asarray(sets([0], [0], classes=3)), jnp.ones(2, bool))
  np.testing.assert_allclose(jnp.exp(q), [.5, .4, .1], rtol=1e-5)


def test_a_specialist_of_all_classes_is_a_member_of_an_ensemble():
  # Its dustbin, of logit 5, holds nothing: no class is outside.
  q = combine(log([.5, .3, .2]), f32([[np.log(.1), np.log(.1), np.log(.8), 5.0]]),
              jnp.ones((1, 3), bool), jnp.array([True]))
  np.testing.assert_allclose(jnp.exp(q), [.3, .2, .5], rtol=1e-5)


def test_specialists_that_agree_change_nothing():
  z = 4 * normal(0, CLASSES)
  inside = jnp.asarray(sets([0, 1, 2], [2, 3], [5], [1, 6]))
  agree = jax.vmap(specialists.collapse, (None, 0))(z, inside)
  q = combine(z, agree, inside, jnp.ones(MEMBERS, bool))
  np.testing.assert_allclose(q, jax.nn.log_softmax(z), atol=2e-5)


def objective(q, p_g, p_m, inside, active):
  """Eq. 5, as the paper writes it; p log p = 0 where p = 0."""
  total = np.sum(special.rel_entr(p_g, q))
  for p, within in zip(p_m[active], inside[active]):
    seen = np.append(np.where(within, q, 1.0), np.sum(q[~within]))
    said = np.append(np.where(within, p[:-1], 0.0), p[-1])
    total += np.sum(special.rel_entr(said, seen)[np.append(within, True)])
  return total


def bfgs(*case) -> np.ndarray:
  found = optimize.minimize(
      lambda z: objective(special.softmax(z), *case), np.log(case[0]),
      method="BFGS", options={"gtol": 1e-7})
  return special.softmax(found.x)


def case(seed: int, sharpness: float, number: int | None = None):
  """Some opinions, from even (1) to sure (0.03), of so many who are asked."""
  draw = np.random.default_rng(seed)
  inside = np.stack([draw.permutation(CLASSES) < draw.integers(1, CLASSES)
                     for _ in range(MEMBERS)])
  opinion = lambda n: (draw.dirichlet(np.full(n, sharpness)) + 1e-6) / (
      1 + n * 1e-6)
  p_m = np.zeros((MEMBERS, CLASSES + 1))
  for row, within in zip(p_m, inside):
    row[np.append(within, True)] = opinion(within.sum() + 1)
  asked = draw.permutation(MEMBERS) < (
      draw.integers(MEMBERS + 1) if number is None else number)
  return opinion(CLASSES), p_m, inside, asked


def solved(p_g, p_m, inside, active, **options) -> np.ndarray:
  return np.exp(np.asarray(combine(
      log(p_g), log(p_m), jnp.asarray(inside), jnp.asarray(active), **options),
      np.float64))


@pytest.mark.parametrize("sharpness", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_bfgs_finds_the_same(number, sharpness):
  for seed in range(3):
    given = case(seed, sharpness, number)
    own, theirs = solved(*given, rounds=400), bfgs(*given)
    np.testing.assert_allclose(own, theirs, atol=2e-4)
    # Where it is flat BFGS may stop early; nothing may be better than ours.
    assert objective(own, *given) < objective(theirs, *given) + 1e-6


def test_twenty_rounds_are_usually_enough():
  far = [np.max(np.abs(solved(*given, rounds=20) - solved(*given, rounds=400)))
         for given in (case(seed, 0.3, 4) for seed in range(50))]
  assert np.median(far) < 1e-5 and np.mean(np.array(far) < 1e-3) > 0.9


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.3, 0.03]))
def test_rounds_never_make_it_worse(seed, sharpness):
  given = case(seed, sharpness)
  values = [objective(solved(*given, rounds=rounds), *given)
            for rounds in (1, 5, 20, 400)]
  assert all(later <= earlier + 1e-5
             for earlier, later in zip(values, values[1:]))


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.03]))
def test_the_names_of_classes_and_specialists_do_not_matter(seed, sharpness):
  p_g, p_m, inside, active = case(seed, sharpness)
  draw = np.random.default_rng(seed)
  classes, order = draw.permutation(CLASSES), draw.permutation(MEMBERS)
  q = solved(p_g, p_m, inside, active)
  other = solved(p_g[classes], p_m[order][:, np.append(classes, CLASSES)],
                 inside[order][:, classes], active[order])
  np.testing.assert_allclose(other, q[classes], atol=2e-6)
  assert abs(np.sum(q) - 1) < 1e-5


def test_unasked_specialists_have_no_say():
  p_g, p_m, inside, _ = case(0, 1.0)
  some = np.array([True, False, True, True])
  # Not even what they hold for classes outside their set.
  noisy = p_m + (~np.append(inside, np.ones((MEMBERS, 1), bool), 1)) * 7.0
  noisy[1] = 3.0
  np.testing.assert_allclose(
      solved(p_g, noisy, inside, some),
      solved(p_g, p_m[some], inside[some], some[some]), atol=1e-6)


def test_jit_vmap_and_batches_are_a_loop():
  cases = [case(seed, 0.3) for seed in range(5)]
  p_g, p_m, _, active = (np.stack(part) for part in zip(*cases))
  z_g, z_m, inside = log(p_g), log(p_m), jnp.asarray(cases[0][2])
  active = jnp.asarray(active)
  whole = specialists.combine(z_g, z_m, inside, active)
  np.testing.assert_allclose(combine(z_g, z_m, inside, active), whole, atol=1e-5)
  mapped = jax.vmap(combine, (0, 0, None, 0))(z_g, z_m, inside, active)
  np.testing.assert_allclose(mapped, whole, atol=1e-5)
  for row in range(5):
    np.testing.assert_allclose(
        combine(z_g[row], z_m[row], inside, active[row]), whole[row], atol=1e-5)


@pytest.mark.parametrize(("p_g", "p_m", "members", "expected"), [
    # Nothing outside: the dustbin's .4 / 2 is spread evenly.
    ([1, 0, 0], [[.6, 0, 0, .4]], [[0]], [.8, .1, .1]),
    # Nothing outside, and the dustbin is empty as well.
    ([1, 0, 0], [[1, 0, 0, 0]], [[0]], [1, 0, 0]),
    # One class outside takes all of the dustbin: (.2 + .6) / 2.
    ([.5, .3, .2], [[.3, .1, 0, .6]], [[0, 1]], [.4, .2, .4]),
    # A class that nobody believes in.
    ([.5, .5, 0], [[.3, 0, 0, .7]], [[0, 2]], [.4, .6, 0]),
    # A specialist of nothing: all is in its dustbin.
    ([.5, .3, .2], [[0, 0, 0, 1]], [[]], [.5, .3, .2]),
    # Two that contradict each other: all dustbin, all class 0.
    ([.2, .5, .3], [[0, 0, 0, 1], [1, 0, 0, 0]], [[0], [0]],
     [.4, .375, .225]),
])
def test_extremes_have_no_nan(p_g, p_m, members, expected):
  inside = sets(*members, classes=3)
  q = solved(np.array(p_g), np.array(p_m), inside, np.ones(len(p_m), bool))
  np.testing.assert_allclose(q, expected, atol=1e-5)


def test_huge_logits_have_no_nan():
  z = f32([3e4, -3e4, 0.0])
  q = combine(z, f32([[-3e4, 3e4, 0.0, 9e4]]), jnp.asarray(sets([1], classes=3)),
              jnp.array([True]))
  # The dustbin is sure, so is the generalist of what is in it: class 0.
  assert np.isfinite(q).all()
  np.testing.assert_allclose(jnp.exp(q), [1, 0, 0], atol=1e-6)


def test_a_nan_is_passed_on():
  q = combine(f32([np.nan, 0, 0]), jnp.zeros((1, 4)), jnp.ones((1, 3), bool),
              jnp.array([True]))
  assert np.isnan(q).any()


def test_float64_stays():
  with jax.enable_x64(True):
    p_g, p_m, inside, active = case(3, 0.3, 3)
    q = specialists.combine(*map(jnp.log, (p_g, p_m + 1e-300)), inside, active,
                            rounds=3000)
    assert q.dtype == jnp.float64
    # The fixed point, to more digits than float32 has.
    again = specialists.combine(
        jnp.log(p_g), jnp.log(p_m + 1e-300), inside, active, rounds=3001)
    np.testing.assert_allclose(np.exp(q), np.exp(again), atol=1e-12)


@pytest.mark.parametrize(("shapes", "rounds", "says"), [
    (((3,), (2, 3), (2, 3), (2,)), 5, "shapes of generalist"),
    (((3,), (2, 4), (2, 3), (3,)), 5, "shapes of generalist"),
    (((5, 3), (2, 4), (2, 3), (2,)), 5, "shapes of generalist"),
    (((3,), (2, 4), (2, 3), (2,)), 0, "rounds must be 1 or more"),
])
def test_shapes_are_checked(shapes, rounds, says):
  z_g, z_m, inside, active = map(jnp.zeros, shapes)
  with pytest.raises(ValueError, match=says):
    specialists.combine(z_g, z_m, inside > 0, active > 0, rounds=rounds)


# What a specialist learns.


def biased_data():
  """Examples of 3 x by 4 classes, in shares that all differ."""
  draw = np.random.default_rng(0)
  count = draw.integers(1, 9, (3, 4))
  x, y = (part.ravel() for part in np.indices((3, 4)))
  return np.repeat(x, count.ravel()), np.repeat(y, count.ravel()), count


def test_a_bayes_optimal_specialist_gives_the_true_posterior(key):
  x, y, count = biased_data()
  inside = np.array([False, True, False, False])
  member = inside[y]
  # So many ids that each half goes through its side a whole number of times.
  size = 2 * member.sum() * (~member).sum()
  ids = specialists.balanced_ids(key, jnp.asarray(member), int(size))
  labels = specialists.dustbin_labels(jnp.asarray(y)[ids], jnp.asarray(inside))
  # Bayes-optimal for these: the shares of labels at each x.
  seen = np.zeros((3, 5))
  np.add.at(seen, (x[np.asarray(ids)], np.asarray(labels)), 1)
  with np.errstate(divide="ignore"):
    logits = f32(np.log(seen))
  corrected = specialists.correct_dustbin(logits, float(member.mean()))
  true = np.concatenate([np.where(inside, count, 0), (
      count * ~inside).sum(1, keepdims=True)], 1) / count.sum(1, keepdims=True)
  np.testing.assert_allclose(jax.nn.softmax(corrected), true, rtol=1e-5)
  # Without the correction it does not.
  assert np.max(np.abs(np.asarray(jax.nn.softmax(logits)) - true)) > 0.05


def test_the_correction_by_hand():
  # pi = 1/10: log(9), and log(4) for pi = 1/5; other logits stay.
  logits = f32([[1.0, -np.inf, 0.5], [1.0, -np.inf, 0.5]])
  told = specialists.correct_dustbin(logits, f32([[0.1], [0.2]]))
  np.testing.assert_allclose(
      told, [[1, -np.inf, .5 + np.log(9)], [1, -np.inf, .5 + np.log(4)]],
      rtol=1e-6)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_is_within_0_and_1(share):
  with pytest.raises(ValueError, match=r"share must be in \(0, 1\)"):
    specialists.correct_dustbin(jnp.zeros(3), share)


@pytest.mark.parametrize(("members", "size"), [(1, 8), (3, 7), (9, 40), (10, 21)])
def test_half_of_the_ids_are_of_the_set(key, members, size):
  inside = np.random.default_rng(members).permutation(11) < members
  ids = np.asarray(specialists.balanced_ids(key, jnp.asarray(inside), size))
  assert ids.dtype == np.int32 and len(ids) == size
  assert inside[ids].sum() == size // 2
  for side in (inside, ~inside):
    times = np.bincount(ids[side[ids]], minlength=11)[side]
    assert times.max() - times.min() <= 1


def test_ids_are_of_the_key_and_map_over_sets():
  inside = jnp.asarray(np.random.default_rng(0).random((3, 40)) < 0.3)
  draw = functools.partial(specialists.balanced_ids, size=20)
  keys = jax.random.split(jax.random.key(1), 3)
  mapped = jax.jit(jax.vmap(draw))(keys, inside)
  for row in range(3):
    np.testing.assert_array_equal(mapped[row], draw(keys[row], inside[row]))
  assert not np.array_equal(mapped[0], draw(keys[1], inside[0]))


def test_labels_outside_become_the_dustbin():
  inside = jnp.asarray(sets([1, 3], classes=4)[0])
  told = specialists.dustbin_labels(jnp.array([[0, 1], [2, 3]]), inside)
  assert told.tolist() == [[4, 1], [4, 3]] and told.dtype == jnp.int32


def test_collapsing_adds_up_what_is_outside():
  z = normal(0, 6, CLASSES)
  inside = sets([1, 4, 5])[0]
  p = np.asarray(jax.nn.softmax(z))
  told = np.asarray(jax.nn.softmax(specialists.collapse(z, jnp.asarray(inside))))
  np.testing.assert_allclose(told[:, :-1], np.where(inside, p, 0), rtol=1e-5)
  np.testing.assert_allclose(told[:, -1], p[:, ~inside].sum(1), rtol=1e-5)


def test_who_is_asked():
  inside = jnp.asarray(sets([0, 1], [1, 2], [4], classes=5))
  z = f32([[5, 4, 3, 2, 1], [0, 9, 0, 0, 8], [0, 0, 0, 1, 0.5]])
  one = specialists.active_specialists(z, inside)
  # Top classes 0, 1, 3: of the first set, of two sets, of none.
  assert one.tolist() == [[True, False, False], [True, True, False],
                          [False, False, False]]
  two = specialists.active_specialists(z, inside, top=2)
  assert two.tolist() == [[True, True, False], [True, True, True],
                          [False, False, True]]
  for top in (0, 6):
    with pytest.raises(ValueError, match="top must be from 1 to 5"):
      specialists.active_specialists(z, inside, top=top)


# Which classes a net confuses.


def test_the_covariance_is_numpys():
  z = 3 * normal(0, 50, CLASSES)
  p = np.asarray(jax.nn.softmax(z), np.float64)
  np.testing.assert_allclose(
      confusable.prediction_covariance(z), np.cov(p.T, bias=True), atol=1e-6)


def test_planted_confusions_are_found():
  # Three pairs, one six times as common as the others, among sure predictions of
  # six more classes: 0.3 / 6 - 0.15**2 > 0 is the covariance of the common pair.
  pairs = [(0, 3), (1, 4), (2, 5)]
  draw = np.random.default_rng(0)
  p = np.full((4000, 12), 1e-4)
  for row, kind in zip(p, draw.choice(9, 4000, p=[.3, .05, .05] + [.1] * 6)):
    if kind < 3:
      row[list(pairs[kind])] = draw.dirichlet([1, 1])
    else:
      row[kind + 3] = 1.0
  covariance = confusable.prediction_covariance(log(p))
  told = [confusable.confusable_sets(covariance, count=9, size=2, seed=seed)
          for seed in range(3)]
  members = [set(np.flatnonzero(row).tolist()) for row in told[0]]
  assert all(set(pair) in members for pair in pairs)
  # Another start finds them, and names them in the same order.
  np.testing.assert_array_equal(told[0], told[1])
  np.testing.assert_array_equal(told[0], told[2])


def test_no_two_sets_are_alike():
  # Two classes alike, so that centres have the same neighbours.
  covariance = np.eye(5) + 0.9 * np.eye(5)[[1, 0, 2, 3, 4]]
  inside = confusable.confusable_sets(covariance, count=4, size=2)
  assert len(np.unique(inside, axis=0)) == 4 and (inside.sum(1) == 2).all()


def test_a_class_that_is_never_predicted_is_no_nan():
  covariance = np.diag([1.0, 2.0, 0.0, 0.0])
  inside = confusable.confusable_sets(covariance, count=3, size=1)
  assert (inside.sum(1) == 1).all()


@pytest.mark.parametrize(("count", "size", "says"), [
    (0, 1, "count must be from 1 to 4"), (5, 1, "count must be from 1 to 4"),
    (2, 0, "size must be from 1 to 3"), (2, 4, "size must be from 1 to 3")])
def test_sets_that_cannot_be_are_refused(count, size, says):
  with pytest.raises(ValueError, match=says):
    confusable.confusable_sets(np.eye(4), count=count, size=size)
