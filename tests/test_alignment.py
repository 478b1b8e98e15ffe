"""CKA: by hand, what does not change it, and what it is of noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import alignment as alignment_lib
from kd_jax.losses.alignment import alignment


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def by_hand(x, y):
  """Equation 5 of Song et al. (2012) in its own form: traces, and sums of all."""
  n = len(x)

  def gram(z):
    found = np.array([[float(a @ b) for b in z] for a in z])
    np.fill_diagonal(found, 0.0)
    return found

  def hsic(a, b):
    one = np.ones(n)
    return (np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / (
        (n - 1) * (n - 2)) - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))

  a, b = gram(x), gram(y)
  return hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("n", [4, 5, 20])
def test_cka_is_that_of_the_paper(n, x64):
  x, noise = drawn(n, 6), drawn(n, 3, seed=1)
  y = x[:, :3] ** 2 + noise
  assert float(alignment(x, y)) == pytest.approx(by_hand(x, y), abs=1e-9)


def test_a_value_derived_by_hand():
  """Two groups of two, and two other groups of two.

  K~ of (0, 0, 1, 1) is 1/3 within the groups and -1/6 between them; of its 12
  entries the sum of squares is 2/3. With (0, 1, 0, 1) the sum of products is -1/3.
  K~ of both as one tap is their sum, and as long as each.
  """
  left = jnp.array([[0.0], [0.0], [1.0], [1.0]])
  across = jnp.array([[0.0], [1.0], [0.0], [1.0]])
  assert float(alignment(left, across)) == pytest.approx(-0.5)
  both = jnp.concatenate([left, across], axis=1)
  assert float(alignment(left, both)) == pytest.approx(0.5)


def test_nothing_that_keeps_distances_in_proportion_changes_it(x64):
  x, y = drawn(12, 2, 2, 3), drawn(12, 5, seed=1)
  y[:, 0] += x[:, 0, 0, 0]
  value = float(alignment(x, y))
  turn = np.linalg.qr(drawn(12, 12, seed=2))[0]
  turned = x.reshape(12, 12) @ turn
  other = {"turned": turned, "scaled": 1e-3 * x, "mirrored": -x,
           "shifted": x + drawn(2, 2, 3, seed=3)}
  for name, changed in other.items():
    assert float(alignment(changed, y)) == pytest.approx(value, abs=1e-9), name
    assert float(alignment(y, changed)) == pytest.approx(value, abs=1e-9), name
  stretched = x * np.arange(1.0, 4.0)
  assert float(alignment(stretched, y)) != pytest.approx(value, abs=1e-3)


def test_it_is_1_at_equality_and_0_of_a_constant():
  x = jnp.float32(drawn(20, 4, 4, 3))
  assert float(alignment(x, x)) == pytest.approx(1.0, abs=1e-5)
  assert float(alignment(x, 2.0 * x - 5.0)) == pytest.approx(1.0, abs=1e-5)
  assert float(alignment(x, jnp.full((20, 3), 1.3))) == 0.0
  assert float(alignment(x, jnp.zeros((20, 3)))) == 0.0


def test_noise_is_not_alike_however_wide_it_is():
  """The plain estimate is 0.9 here."""
  draw = lambda seed: drawn(50, 4000, seed=seed)
  x, y = draw(0), draw(1)
  a, b = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
  assert np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)) > 0.9
  values = [float(alignment(jnp.float32(x), jnp.float32(draw(seed))))
            for seed in range(1, 6)]
  assert np.abs(values).max() < 0.1


def test_float32_holds_it_of_a_tap_that_is_far_from_0(x64):
  x, y = drawn(30, 40), drawn(30, 40, seed=1)
  y[:, :20] += x[:, :20]
  exact = float(alignment(x, y))
  rounded = float(alignment(jnp.float32(x + 100.0), jnp.float32(1e-6 * y)))
  assert rounded == pytest.approx(exact, abs=1e-4)


def test_few_examples_and_others_are_refused():
  with pytest.raises(ValueError, match="4 at least"):
    alignment_lib.centred(jnp.ones((3, 2)))
  with pytest.raises(ValueError, match="same examples"):
    alignment(jnp.ones((5, 2)), jnp.ones((4, 2)))
