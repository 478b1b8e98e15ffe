"""The study of explanations by a linear student: VAE, neighbours, fits, verdict."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, spatial, stats

from experiments.deepvid19 import local, neighbours, plan, study, verdict, work
from experiments.protocol import Options
from kd_jax.explain import linear
from kd_jax.models import vae as net
from kd_jax.training import vae

X = np.random.default_rng(0).uniform(size=(40, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="module")
def params():
  return net.Vae(16).init(
      jax.random.key(1), jnp.zeros((1, 16)), jnp.zeros((1, net.LATENT)))


# The VAE.


def test_the_elbo_is_what_a_hand_computes():
  # x log s(l) + (1 - x) log(1 - s(l)), with s(log 3) = 3/4.
  x, logits = jnp.array([1.0, 0.0, 0.5]), jnp.full(3, math.log(3))
  by_hand = math.log(3 / 4) + math.log(1 / 4) + (
      math.log(3 / 4) + math.log(1 / 4)) / 2
  np.testing.assert_allclose(net.log_likelihood(x, logits), by_hand, rtol=1e-6)
  # (4 + 1/4 - log 1/4 - 1) / 2 + 0.
  kl = net.kl_to_normal(jnp.array([2.0, 0.0]), jnp.array([math.log(0.25), 0.0]))
  np.testing.assert_allclose(kl, (3.25 + math.log(4)) / 2, rtol=1e-6)


def test_the_kl_is_that_of_samples():
  mean, deviation = np.array([0.5, -1.0]), np.array([0.6, 1.5])
  z = mean + deviation * np.random.default_rng(1).normal(size=(400_000, 2))
  sampled = (stats.norm.logpdf(z, mean, deviation) - stats.norm.logpdf(z)).sum(1)
  kl = net.kl_to_normal(jnp.asarray(mean), 2 * jnp.log(jnp.asarray(deviation)))
  np.testing.assert_allclose(kl, sampled.mean(), atol=0.01)


def test_the_elbo_of_a_net_is_below_the_likelihood_that_samples_give(params):
  # E_q log p(x, z) / q(z) by 20,000 draws, from NumPy densities; a Bernoulli pixel.
  x = (X[:1] > 0.5).astype(np.float32)
  model = net.Vae(16)
  mean, log_variance = map(np.asarray, model.apply(params, x, method="encode"))
  noise = np.random.default_rng(2).normal(size=(20_000, net.LATENT)).astype("f")
  z = mean + np.exp(log_variance / 2) * noise
  p = np.asarray(net.decode(params, z))
  log_joint = stats.bernoulli.logpmf(x, p).sum(1) + stats.norm.logpdf(z).sum(1)
  log_q = stats.norm.logpdf(z, mean, np.exp(log_variance / 2)).sum(1)
  elbo = np.mean(model.apply(params, np.repeat(x, len(noise), 0), noise))
  np.testing.assert_allclose(elbo, np.mean(log_joint - log_q), atol=0.05)
  evidence = np.log(np.mean(np.exp(log_joint - log_q)))
  assert elbo < evidence


def test_training_raises_the_elbo_and_is_the_same_again():
  images = np.zeros((256, 16), np.uint8)
  images[::2, :8], images[1::2, 8:] = 255, 255
  run = lambda epochs: vae.train(jnp.asarray(images), seed=3, epochs=epochs)
  trained, x = run(60), images[:64] / np.float32(255)
  assert vae.mean_elbo(trained, x) > vae.mean_elbo(run(0), x) + 5
  again = run(60)
  assert all(map(np.array_equal, jax.tree.leaves(trained), jax.tree.leaves(again)))


# Neighbours.


def test_a_vae_draws_within_its_reach(params):
  key, x = jax.random.key(4), X[0]
  drawn = lambda b: linear.neighbours(key, params, x, b=b, number=500)
  mean = net.encode(params, x[None])
  np.testing.assert_allclose(
      drawn(0.0), np.repeat(net.decode(params, mean), 500, 0), rtol=1e-5)
  # The pixels of z = mean + b u, with the u of this key, between -1 and 1.
  u = jax.random.uniform(key, (500, net.LATENT), minval=-1.0, maxval=1.0)
  assert abs(float(u.min()) + 1) < 0.01 and abs(float(u.max()) - 1) < 0.01
  np.testing.assert_allclose(
      drawn(2.0), net.decode(params, np.asarray(mean) + 2 * np.asarray(u)),
      rtol=1e-5)


def test_masks_hide_whole_cells():
  x = jnp.arange(1, 65) / 64.0  # 8 x 8, nothing is 0
  drawn = np.asarray(neighbours.by_masks(jax.random.key(5), x, number=400))
  kept = (drawn > 0).reshape(-1, 2, 4, 2, 4)
  assert np.array_equal(kept.all(axis=(2, 4)), kept.any(axis=(2, 4)))
  np.testing.assert_allclose(kept.mean(axis=(0, 2, 4)), 0.5, atol=0.1)
  visible = drawn > 0
  assert np.array_equal(drawn[visible], np.broadcast_to(x, drawn.shape)[visible])


def test_noise_has_its_deviation_and_stays_within_pixels():
  drawn = np.asarray(neighbours.by_noise(
      jax.random.key(6), jnp.array([0.0, 0.5, 1.0]), number=20_000))
  assert drawn.min() == 0 and drawn.max() == 1
  # Half of what is drawn around 0 is cut; at 0.5 it is cut beyond 1.67 sd.
  np.testing.assert_allclose((drawn == 0).mean(0)[:2], [0.5, 0.048], atol=0.01)
  np.testing.assert_allclose(drawn[:, 1].mean(), 0.5, atol=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_nearest_is_nearest(dtype):
  examples = (255 * X[5:]).astype(dtype) / (1 if dtype == np.uint8 else 255)
  examples = examples.astype(dtype)
  pixels = examples / np.float32(255) if dtype == np.uint8 else examples
  found = neighbours.nearest(jnp.asarray(X[:5]), jnp.asarray(examples), number=4)
  oracle = spatial.KDTree(pixels).query(X[:5], k=4)[1]
  assert np.array_equal(found, oracle)


# The linear student.


def soft(seed: int, temperature: float) -> np.ndarray:
  z = np.random.default_rng(seed).normal(size=(len(X), 3)) * 4
  return np.asarray(jax.nn.softmax(z / temperature, axis=-1), np.float32)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("hard", [False, True])
def test_a_fit_is_the_minimum_that_scipy_finds(temperature, hard):
  target = soft(7, temperature)
  if hard:
    target = np.eye(3, dtype=np.float32)[target.argmax(1)]

  def loss(flat):
    weights, bias = flat[:48].reshape(16, 3), flat[48:]
    z = (X.astype(np.float64) @ weights + bias) / temperature
    z -= z.max(1, keepdims=True)
    log_q = z - np.log(np.exp(z).sum(1, keepdims=True))
    entropy = np.where(target > 0, target * np.log(np.maximum(target, 1e-30)), 0)
    kl = (entropy - target * log_q).sum(1).mean()
    return temperature**2 * kl + 0.05 / 2 * (weights**2).sum()

  oracle = optimize.minimize(loss, np.zeros(51), method="BFGS", tol=1e-9)
  student = linear.fit(X, target, temperature=temperature, l2=0.05, steps=600)
  own = float(linear.objective(
      student, X, target, temperature=temperature, l2=0.05))
  np.testing.assert_allclose(own, oracle.fun, rtol=1e-4)
  np.testing.assert_allclose(
      student.weights, oracle.x[:48].reshape(16, 3), atol=0.02)
  # Only differences of biases matter.
  np.testing.assert_allclose(
      student.bias - student.bias[0], oracle.x[48:] - oracle.x[48], atol=0.03)


def test_students_fitted_at_once_are_those_fitted_apart():
  targets, t = jnp.stack([soft(8, 4.0), soft(9, 1.0)]), jnp.array([4.0, 1.0])
  fit = lambda target, t: linear.fit(X, target, temperature=t, l2=0.1, steps=50)
  both = jax.vmap(fit)(targets, t)
  for n in range(2):
    apart = fit(targets[n], t[n])
    for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(apart)):
      np.testing.assert_allclose(one[n], other, atol=1e-4)


def test_a_linear_teacher_is_explained():
  # Softmax regression is the student's own family: it is found, and R2 is 1.
  weights = np.random.default_rng(10).normal(size=(16, 3)).astype(np.float32)
  teacher = X @ weights
  student = linear.fit(X, jax.nn.softmax(teacher / 4, axis=-1), temperature=4.0,
                      l2=1e-5, steps=4000)
  found = local.fidelity(teacher, student(X), temperature=4.0)
  assert found.agreement.mean() == 1 and found.kl.mean() < 1e-5
  assert 1 - found.residual.sum() / found.total.sum() > 0.999


def test_fidelity_is_what_a_hand_computes():
  # At T = 2 logits 2 log 3 are p = (3/4, 1/4); the student says (1/2, 1/2).
  teacher = jnp.array([[2 * math.log(3), 0.0], [0.0, 2 * math.log(3)]])
  found = local.fidelity(teacher, jnp.array([[1.0, 1.0]] * 2), temperature=2.0)
  assert found.agreement.tolist() == [1.0, 0.0]
  kl = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
  np.testing.assert_allclose(found.kl, [kl, kl], rtol=1e-5)
  # (1/4)**2 twice; the mean is (1/2, 1/2) too, so R2 = 0.
  np.testing.assert_allclose(found.residual, [0.125] * 2, rtol=1e-5)
  np.testing.assert_allclose(found.total, [0.125] * 2, rtol=1e-5)


def test_pixels_go_by_their_score():
  left = local.without(jnp.array([0.5, 0.6, 0.7]), jnp.array([1.0, 3.0, 2.0]),
                       (0, 1, 2))
  np.testing.assert_allclose(left, [[.5, .6, .7], [.5, 0, .7], [.5, 0, 0]])


def test_stability_is_the_rank_correlation():
  maps = np.random.default_rng(11).normal(size=(3, 2, 30))
  maps[:, :, :5] = 0  # equal weights share a rank
  found = local.stability(maps)
  for s, i in itertools.product(range(3), range(2)):
    others = [stats.spearmanr(maps[s, i], maps[t, i]).statistic
              for t in range(3) if t != s]
    np.testing.assert_allclose(found[s, i], np.mean(others), rtol=1e-9)


# A cell, and the plan.


def test_an_instance_is_measured_as_its_parts_say(params):
  form = plan.QUICK._replace(number=20, fresh=7, steps=20)
  weights = np.random.default_rng(12).normal(size=(16, 3)).astype(np.float32)
  ask = lambda x: (jnp.tanh(x @ weights) * 5, x)
  x = X[0]**3  # so that weights alone name other pixels than weights x pixels
  near = (255 * X[:24]).astype(np.uint8).reshape(3, 8, 16)
  logits = np.asarray(ask(near / np.float32(255))[0])
  found = work._measure(ask, "noise", form, jax.random.key(0), params, 0.0, x,
                        jnp.asarray(near), logits)
  shapes = {name: value.shape for name, value in found.items()}
  assert shapes == {
      "fidelity_own": (2, 4, 7), "fidelity_latent": (2, 4, 8),
      "fidelity_pixels": (2, 4, 8), "fidelity_last": (2, 4, 8),
      "deletion": (2, 10), "random": (10,), "maps": (2, 16)}
  # Nothing has gone yet; then all 16 pixels have.
  p = np.asarray(jax.nn.softmax(ask(x[None])[0], axis=-1))[0]
  np.testing.assert_allclose(found["deletion"][:, 0], [p.max()] * 2, rtol=1e-5)
  np.testing.assert_allclose(found["random"][2:], 1 / 3, rtol=1e-5)
  # Of 16 pixels the 6 of the least weight x pixel are left.
  left = x.copy()
  left[np.argsort(-found["maps"][0] * x)[:10]] = 0
  after = np.asarray(jax.nn.softmax(ask(left[None])[0], axis=-1))[0, p.argmax()]
  np.testing.assert_allclose(found["deletion"][0, 1], after, rtol=1e-5)
  draws = neighbours.by_noise(work.randomness.stream(jax.random.key(0), "noise"),
                              x, number=27)
  student = linear.fit(
      draws[:20], jax.nn.softmax(ask(draws[:20])[0] / 4, axis=-1), temperature=4.0,
      l2=form.l2, steps=20)
  np.testing.assert_allclose(
      found["maps"][0], student.weights[:, p.argmax()], atol=1e-4)
  argmax = jax.nn.one_hot(jnp.argmax(ask(draws[:20])[0], axis=-1), 3)
  hard = linear.fit(draws[:20], argmax, temperature=1.0, l2=form.l2, steps=20)
  np.testing.assert_allclose(
      found["maps"][1], hard.weights[:, p.argmax()], atol=1e-4)
  own = local.fidelity(ask(draws[20:])[0], student(draws[20:]), temperature=4.0)
  np.testing.assert_allclose(found["fidelity_own"][0], own, atol=1e-3)


def test_a_row_has_the_means():
  ones = np.ones((2, 4, 200))
  ones[0, 0, :10] = 0  # no agreement with the 10 nearest of the first instance
  own = {f"fidelity_{kind}": ones.copy() for kind in plan.NEAR}
  own["fidelity_own"] = np.stack([np.zeros((4, 3)), np.ones((4, 3))])
  own["deletion"] = np.array([[1.0] * 10, [0.5] * 10])
  row = work.numbers(own, np.full((2, 10), 0.25), np.array([0.2, 0.4]))
  assert row["own"] == {"agreement": 0.5, "kl": 0.5, "r2": 0.0}
  assert row["latent"]["agreement"] == 0.9  # 90 of 2 x 50
  assert row["latent"]["by_rank"] == [0.5, 1.0, 1.0, 1.0, 1.0]
  assert row["each"]["latent"] == [0.8, 1.0]
  assert row["deletion"] == [0.75] * 10 and row["each"]["deletion"] == [1.0, 0.5]
  assert row["stability"] == 0.3 and row["instances"] == 2


def test_the_plan_has_every_cell_once(tmp_path):
  cells = plan.cells(plan.FULL)
  assert len(cells) == len(set(cells)) == 9
  assert [c.b for c in cells if c.sampler == "vae" and c.teacher == "mlp"] == [
      1.0, 0.25, 0.5, 2.0]
  assert [stage.name for stage in study.stages(Options(tmp_path))] == [
      "table", "constant", "examples"]


def test_a_constant_agrees_where_neighbours_have_the_class():
  logits = np.eye(3)[[[0, 0, 1, 2], [1, 1, 1, 0]]]
  assert work.same_class(logits, np.array([0, 1])) == 5 / 8


# The verdict.


def row(sampler, seed, *, real=0.9, deletion=0.3, b=None, targets="soft"):
  near = {"agreement": real, "kl": 0.1, "r2": 0.5, "by_rank": [real] * 5}
  # Instances differ by the same in all rows, and a little by seed.
  each = lambda value: [value + 0.01 * i * (1 + seed) for i in range(4)]
  return {
      "overrides": {"teacher": "mlp", "sampler": sampler, "b": b, "seed": seed,
                    "targets": targets},
      "seed": seed, "teacher_errors": 99, "instances": 4, "own": near,
      **dict.fromkeys(plan.NEAR, near), "deletion": [deletion] * 10,
      "deletion_random": [0.8] * 10, "stability": 0.5,
      "each": {"own": each(real), **{kind: each(real) for kind in plan.NEAR},
               "deletion": each(deletion)}}


def test_both_sides_are_in_the_verdict():
  rows = {"table": [
      *(row("vae", s, b=1.0) for s in range(3)),
      *(row("masks", s, real=0.8, deletion=0.2) for s in range(3)),
      *(row("noise", s, real=0.9, deletion=0.4) for s in range(3))]}
  text = verdict.conclude(rows)
  assert "| VAE minus masks: real, pixels | +0.100 [" in text
  local_claim = "near the instance than "
  assert local_claim + "cells masked (LIME-like): holds." in text
  assert local_claim + "Gaussian noise, sd 0.3: is not shown." in text
  better = "pixels that matter better than "
  assert better + "cells masked (LIME-like): does not hold, it is worse." in text
  assert better + "Gaussian noise, sd 0.3: holds." in text
  assert ("0.900 ± 0.000 (3) vae, 0.800 ± 0.000 (3) masks, 0.900 ± 0.000 (3) "
          "noise; mean p of the class while 0 to 90 pixels go, less is better, "
          "0.300 ± ") in verdict.status(rows)
  assert "without any student" not in text
  rows["constant"] = [{"overrides": {"teacher": "mlp"}, "latent": 0.95,
                       "pixels": 0.9, "last": 0.99}]
  assert "agrees on 0.950 (VAE's latent), 0.900 (pixels), 0.990 (" in (
      verdict.conclude(rows))
  # (0.95 + 0.90 + 0.99) / 3.
  assert ", 0.947 to name the instance's class without any student;" in (
      verdict.status(rows))


@pytest.mark.parametrize("table", [[], [row("vae", 0, b=1.0)]])
def test_too_few_rows_say_so(table):
  assert verdict.conclude({"table": table}) == "Not all samplers have rows yet.\n"
  assert verdict.status({"table": table}) == "not all samplers yet"


@pytest.mark.pictures
def test_pictures_are_drawn(tmp_path):
  rows = {"table": [row("vae", 0, b=1.0), row("masks", 0), row("noise", 0)],
          "examples": [{
              "label": 4, "image": [0] * 16, "neighbours": [[9] * 16] * 8,
              "maps": [[0] * 16, [1] * 16], "classes": [4, 9], "p": [0.6, 0.3]}]}
  verdict.pictures(rows, tmp_path)
  assert {file.name for file in tmp_path.iterdir()} == {
      "curves.png", "neighbours.png"}
