"""MUNGE, RANDOM and NBE: what they keep, by hand and by an independent loop."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kd_jax.core.errors import UserError
from kd_jax.data import pseudo

NOMINAL = ((1, 4), (5, 6))  # Three values, and an attribute of two.


def columns(number, seed):
  """A table of 7 columns: 4 numbers and two nominal attributes."""
  draw = np.random.default_rng(seed)
  found = draw.random((number, 7)).astype(np.float32)
  found[:, 1:4] = np.eye(4, 3)[draw.integers(0, 4, number)]  # Code 3 is unknown.
  found[:, 5] = draw.integers(0, 2, number)
  return found


def loop(table, copies, p, s, seed):
  """Algorithm 1 as it is written, one attribute after the other."""
  whole = []
  n, a = table.values.shape
  span = table.values.max(0) - table.values.min(0)
  for copy in range(copies):
    uniform, normal = pseudo.draws((n, a), seed, copy)
    t = table.values.copy()
    for i in range(n):
      best, nearest = np.inf, None
      for j in range(n):
        if i == j:
          continue
        d = 0.0
        for k in range(a):
          if table.nominal[k]:
            d += float(table.values[i, k] != table.values[j, k])
          elif span[k] > 0:
            d += (table.values[i, k] / span[k] - table.values[j, k] / span[k])**2
        if d < best:
          best, nearest = d, j
      for k in range(a):
        if uniform[i, k] >= p:
          continue
        e, o = t[i, k], t[nearest, k]
        if table.nominal[k]:
          t[i, k], t[nearest, k] = o, e
        else:
          sd = abs(e - o) / s
          t[i, k] = o + sd * normal[i, 0, k]
          t[nearest, k] = e + sd * normal[i, 1, k]
    whole.append(t)
  return np.concatenate(whole)


@settings(deadline=None, max_examples=25)
@given(number=st.integers(2, 12), copies=st.integers(1, 3), seed=st.integers(0, 99),
       p=st.sampled_from([0.0, 0.3, 1.0]), s=st.sampled_from([0.5, 3.0, 100.0]))
def test_munge_is_the_loop_of_the_paper(number, copies, seed, p, s):
  table = pseudo.encode(columns(number, seed), NOMINAL)
  found = pseudo.munge(table, copies, p=p, s=s, seed=seed)
  np.testing.assert_allclose(
      found, loop(table, copies, p, s, seed), rtol=0, atol=1e-12)
  assert len(found) == copies * number
  # What is nominal keeps its values in each copy, each as often as before.
  for copy in np.split(found, copies):
    np.testing.assert_array_equal(
        np.sort(copy[:, table.nominal], axis=0),
        np.sort(table.values[:, table.nominal], axis=0))


def test_copies_at_once_do_not_matter(monkeypatch):
  table = pseudo.encode(columns(9, 0), NOMINAL)
  whole = pseudo.munge(table, 7, p=0.5, s=2.0)
  monkeypatch.setattr(pseudo, "_AT_ONCE", 3)
  np.testing.assert_array_equal(pseudo.munge(table, 7, p=0.5, s=2.0), whole)
  # More copies begin with those of fewer, and copies differ.
  np.testing.assert_array_equal(pseudo.munge(table, 2, p=0.5, s=2.0), whole[:18])
  assert not np.array_equal(whole[:9], whole[9:18])


def test_p_of_0_gives_the_table_back():
  x = columns(6, 1)
  found = pseudo.made("munge", x, NOMINAL, number=15, p=0.0)
  np.testing.assert_array_equal(found, np.concatenate([x, x, x])[:15])


def test_two_examples_that_swap_all_swap_twice():
  # Each is the other's nearest; p = 1 and a large s swap them, and back again.
  x = np.array([[0.0, 1.0], [1.0, 0.25]], np.float32)
  table = pseudo.encode(x)
  found = pseudo.munge(table, 1, p=1.0, s=1e12)
  np.testing.assert_allclose(found, x, atol=1e-9)
  # Of three, 0 swaps with 1, then 1 (now 0's values) with 0, then 2 with 1.
  table = pseudo.encode(np.array([[0.0], [0.1], [1.0]], np.float32))
  assert pseudo.nearest(table).tolist() == [1, 0, 1]
  np.testing.assert_allclose(
      pseudo.munge(table, 1, p=1.0, s=1e12)[:, 0], [0.0, 1.0, 0.1], atol=1e-7)


def test_the_deviation_is_the_distance_by_s():
  # The last example is the third's alone: it is written once in each copy.
  values = np.array([[0.0], [0.05], [0.6], [1.0]])
  table = pseudo.Table(values, np.array([False]))
  assert pseudo.nearest(table).tolist() == [1, 0, 3, 2]
  number = 20_000
  one = pseudo.Table(values[2:], np.array([False]))
  # With p = 1 example 0 becomes N(e', sd), and then is the other's neighbour.
  near = pseudo.nearest(one)
  assert near.tolist() == [1, 0]
  uniform, normal = zip(*(pseudo.draws((2, 1), 0, c) for c in range(number)))
  only_first = np.array([u[0, 0] < 0.5 <= u[1, 0] for u in uniform])
  found = pseudo.munge(one, number, p=0.5, s=4.0).reshape(number, 2)[only_first]
  for place, (mean, sd) in enumerate(((1.0, 0.1), (0.6, 0.1))):
    assert abs(found[:, place].mean() - mean) < 4 * sd / len(found)**0.5
    assert abs(found[:, place].std() - sd) < 4 * sd / (2 * len(found))**0.5
  # e and e' have draws of their own.
  assert abs(np.corrcoef(found.T)[0, 1]) < 4 / len(found)**0.5
  assert len(normal) == number


def test_the_nearest_is_by_range_and_counts_nominal_attributes_once():
  # 0 and 1 differ by all of the first column's range, which is 1000 wide.
  x = np.array([[0, 0, 1, 0], [1000, 0, 1, 0], [0, 1, 0, 0.5], [0, 0, 1, 0.9]])
  table = pseudo.encode(x.astype(np.float32), ((1, 3),))
  # From 0: to 1 by 1, to 2 by 1 + 0.5**2 / 0.9**2, to 3 by 1; the first of equals.
  assert pseudo.nearest(table)[0] == 1
  assert pseudo.nearest(table, rows=1).tolist() == pseudo.nearest(table).tolist()
  alike = pseudo.Table(np.zeros((3, 2)), np.array([False, True]))
  assert pseudo.nearest(alike).tolist() == [1, 0, 0]


def test_encode_and_decode_are_each_others_inverse():
  x = columns(50, 2)
  table = pseudo.encode(x, NOMINAL)
  assert table.values.shape == (50, 5)
  assert table.nominal.tolist() == [False, True, False, True, False]
  assert set(table.values[:, 1]) == {0, 1, 2, 3}
  np.testing.assert_array_equal(pseudo.decode(table.values, 7, NOMINAL), x)
  x[3, 1:4] = 1
  with pytest.raises(UserError, match="columns 1 to 3 are of a nominal attribute"):
    pseudo.encode(x, NOMINAL)
  x[3, 1:4] = (0.5, 0, 0)
  with pytest.raises(UserError, match="columns 1 to 3"):
    pseudo.encode(x, NOMINAL)


@pytest.mark.parametrize("kind", ["munge", "random", "nbe"])
def test_every_generator_keeps_columns_and_begins_alike(kind):
  x = columns(60, 4)
  made = lambda number, seed=0: pseudo.made(
      kind, x, NOMINAL, number=number, seed=seed)
  found = made(6000)
  assert found.shape == (6000, 7) and found.dtype == np.float32
  assert set(np.unique(found[:, [1, 2, 3, 5]])) == {0.0, 1.0}
  assert (found[:, 1:4].sum(axis=1) <= 1).all()
  np.testing.assert_array_equal(made(150), found[:150])
  assert not np.array_equal(made(150, seed=1), found[:150])
  # Each column has the mean of the table.
  np.testing.assert_allclose(found.mean(0), x.mean(0), atol=0.06)
  with pytest.raises(UserError, match="needs 2 examples, got 1"):
    pseudo.made(kind, x[:1], NOMINAL, number=3)


def test_random_keeps_each_distribution_and_loses_what_ties_them():
  draw = np.random.default_rng(0)
  first = draw.random(300)
  table = pseudo.Table(np.stack([first, first], axis=1), np.zeros(2, bool))
  found = pseudo.random(table, 20_000)
  assert set(found[:, 0]) == set(first)
  assert abs(np.corrcoef(found.T)[0, 1]) < 4 / 20_000**0.5
  # The same draws for both columns would be a bootstrap of rows.
  assert np.corrcoef(table.values.T)[0, 1] > 0.999


def test_nbe_finds_two_clusters_that_random_does_not():
  draw = np.random.default_rng(1)
  part = draw.integers(0, 2, 600)
  numbers = part[:, None] + draw.normal(0, 0.05, (600, 2))
  table = pseudo.Table(np.column_stack([numbers, part]),
                       np.array([False, False, True]))
  found = pseudo.nbe(table, 8000)
  # Both numbers and the code are of one cluster; RANDOM mixes them.
  same = lambda x: np.mean((np.round(x[:, 0]) == np.round(x[:, 1]))
                           & (np.round(x[:, 0]) == x[:, 2]))
  assert same(found) > 0.99 and same(pseudo.random(table, 8000)) < 0.35
  for cluster in (0, 1):
    own = found[found[:, 2] == cluster][:, :2]
    np.testing.assert_allclose(own.mean(0), cluster, atol=0.02)
    np.testing.assert_allclose(own.std(0), 0.05, atol=0.01)


def test_em_never_lowers_the_likelihood_by_much_and_sums_to_one():
  table = pseudo.encode(columns(80, 3), NOMINAL)
  rng = np.random.default_rng(0)
  codes = pseudo._codes(table)
  assert codes.tolist() == [0, 4, 0, 2, 0]
  one, many = (pseudo.fit_mixture(table, parts, rng, codes=codes)
               for parts in (1, 8))
  assert pseudo._likelihood(many, table) > pseudo._likelihood(one, table)
  for mixture in (one, many):
    np.testing.assert_allclose(mixture.weight.sum(), 1)
    assert set(mixture.frequency) == {1, 3}
    for frequency in mixture.frequency.values():
      np.testing.assert_allclose(frequency.sum(axis=1), 1)
  # One part is the table's own means and deviations.
  np.testing.assert_allclose(one.mean[0], table.values.mean(0))
  numbers = ~table.nominal
  np.testing.assert_allclose(
      one.sd[0, numbers], table.values.std(0)[numbers], rtol=1e-6)
  # By hand: log pi + sum of log densities.
  joint = one.log_joint(table.values[:1])[0, 0]
  expected = sum(
      np.log(one.frequency[k][0, int(v)]) if table.nominal[k] else
      -0.5 * ((v - one.mean[0, k]) / one.sd[0, k])**2
      - np.log(one.sd[0, k] * np.sqrt(2 * np.pi))
      for k, v in enumerate(table.values[0]))
  np.testing.assert_allclose(joint, expected)
