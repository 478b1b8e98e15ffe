"""Every method's whole loss, weights and all, against NumPy in float64."""

import types

import jax
import jax.numpy as jnp
from logit_objectives import (
  bucket_kl,
  jensen_shannon,
  kl,
  manual,
  mcd,
  nckd,
  nkd_label,
  nkd_others,
  normalised_kl,
  pick,
  reverse_kl,
  scd,
  softmax,
  standardised_kl,
  tckd,
  top_k_kl,
  ttm,
)
import numpy as np
import pytest
from test_born_again import permuted_logits, teacher_max_weights
from test_relations import oracle as relation

from kd_jax.methods import METHODS, terms

LOGITS = {name: own for name, own in METHODS.items() if own.on_logits}

# No two numbers alike, so that none can take another's place.
HARD, SOFT, T, PROGRESS = 0.3, 1.7, 2.5, 0.02
NUMBERS = {
    "annealed": {"levels": 120.0}, "jsd": {"beta": 0.2},
    "dkd": {"alpha": 0.7, "beta": 6.0},
    "nkd": {"gamma": 1.3}, "tfkd": {"correct": 0.8},
    "rld": {"alpha": 0.9, "beta": 5.0, "confidence_temperature": 1.5},
    "topk": {"k": 3.0}, "topk_renormalised": {"k": 3.0},
    "dist": {"beta": 1.2, "gamma": 0.6}, "mlkd": {"batch": 0.4, "classes": 2.2},
    "ctkd": {"start": 2.0, "span": 8.0, "ramp": 0.05}}
# theta begins at 1.
CTKD_T = 2 + 8 / (1 + np.exp(-1.0))

KEY = jax.random.key(0)


def smoothed(z, y):
  """Cross-entropy with labels of which a tenth is spread over all classes."""
  q = softmax(z, 1.0)
  return -0.9 * np.log(pick(q, y)) - 0.1 * np.log(q).mean(-1)


def dkpp(z, v, y):
  """KL to the teacher whose other classes are permuted by the ids' draws."""
  draws = np.stack([jax.random.uniform(jax.random.fold_in(KEY, i), v.shape[1:])
                    for i in range(len(v))])
  permuted = permuted_logits(v, draws, np.ones(v.shape, bool))
  return T**2 * kl(softmax(permuted, T), softmax(z, T))


# The soft part of each loss, written from its paper: (z, v, y) -> `[B]`.
SOFT_PART = {
    "kd": lambda z, v, y: T**2 * kl(softmax(v, T), softmax(z, T)),
    "logits": lambda z, v, y: ((
        z - z.mean(-1, keepdims=True) - v + v.mean(-1, keepdims=True))**2).mean(
            -1) / 2,
    "mse": lambda z, v, y: ((z - v)**2).mean(-1),
    # 0.02 of a run with 120 levels: two are through.
    "annealed": lambda z, v, y: ((z - 3 / 120 * v)**2).mean(-1),
    "reverse_kl": lambda z, v, y: T**2 * reverse_kl(z, v, y, T),
    "jsd": lambda z, v, y: T**2 * jensen_shannon(0.2)(z, v, y, T),
    "ls": lambda z, v, y: T**2 * standardised_kl()(z, v, y, T),
    "normkd": lambda z, v, y: normalised_kl(z, v, y, T),
    "dkd": lambda z, v, y: T**2 * (
        0.7 * tckd(z, v, y, T) + 6 * nckd(z, v, y, T)),
    "nkd": lambda z, v, y: (
        nkd_label(z, v, y, T) + 1.3 * T**2 * nkd_others(z, v, y, T)),
    "rld": lambda z, v, y: (
        0.9 * 1.5**2 * scd(z, v, y, 1.5) + 5 * T**2 * mcd(z, v, y, T)),
    "wttm": lambda z, v, y: ttm(True)(z, v, y, T),
    "topk": lambda z, v, y: T**2 * bucket_kl(3)(z, v, y, T),
    "topk_renormalised": lambda z, v, y: T**2 * top_k_kl(3)(z, v, y, T),
    "tfkd": lambda z, v, y: kl(
        softmax(manual(y, 5, 0.8), T), softmax(z, 1.0)),
    "dist": lambda z, v, y: T**2 * (
        1.2 * relation("row_correlation", z, v, T)
        + 0.6 * relation("column_correlation", z, v, T)),
    "mlkd": lambda z, v, y: (
        relation("multi_level_kl", z, v, T)
        + 0.4 * relation("batch_relations", z, v, T)
        + 2.2 * relation("class_relations", z, v, T)),
    "cwtm": lambda z, v, y: teacher_max_weights(
        v, T, np.ones(len(v), bool)) * smoothed(z, y),
    "dkpp": dkpp,
    "pseudo_label": lambda z, v, y: -np.log(pick(softmax(z, 1.0), v.argmax(-1))),
    "ctkd": lambda z, v, y: CTKD_T**2 * kl(softmax(v, CTKD_T), softmax(z, CTKD_T)),
}


@pytest.fixture(scope="module")
def example():
  draw = np.random.default_rng(0)
  return (2 * draw.standard_normal((8, 5)), 3 * draw.standard_normal((8, 5)),
          draw.integers(0, 5, 8))


@pytest.fixture(scope="module")
def found(example):
  """The losses of all methods, `[B]` each, by one program."""
  z, v, y = example

  def losses(z, v, y):
    batch = types.SimpleNamespace(
        label=y, mask=jnp.ones(8, bool), mixed=None, id=jnp.arange(8))
    said = lambda logits: types.SimpleNamespace(logits=logits)
    return {name: terms.total(method.terms(
        terms.Own(*method.init(KEY, {}, {}), key=KEY), said(z), said(v), batch,
        types.SimpleNamespace(
            hard_weight=HARD, soft_weight=SOFT, temperature=T, label_smoothing=0.1,
            progress=PROGRESS, numbers=NUMBERS.get(name))))
            for name, method in LOGITS.items()}

  return jax.tree.map(np.asarray, jax.jit(losses)(
      jnp.float32(z), jnp.float32(v), jnp.int32(y)))


@pytest.mark.parametrize("name", LOGITS)
def test_a_loss_is_its_formula(name, example, found):
  z, v, y = example
  hard = smoothed(z, y)
  wanted = hard if name == "hard" else (
      HARD * hard + SOFT * SOFT_PART[name](z, v, y))
  np.testing.assert_allclose(found[name], wanted, rtol=2e-5)


def test_every_method_is_tried_with_numbers_of_its_own():
  assert set(SOFT_PART) == set(LOGITS) - {"hard"}
  assert {name: set(own) for name, own in NUMBERS.items()} == {
      name: set(method.numbers) for name, method in LOGITS.items()
      if method.numbers}
