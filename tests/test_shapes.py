"""No loss stretches a teacher of another shape over its student."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.losses import targets, wasserstein

BATCH, CLASSES = 4, 5


def _public():
  """Every public function of a student and a teacher, by its name."""
  modules = [importlib.import_module(f"kd_jax.losses.{each.name}")
             for each in pkgutil.iter_modules(losses.__path__)]
  return {
      name: function for module in modules
      for name, function in inspect.getmembers(module, inspect.isfunction)
      if function.__module__ == module.__name__ and name[0] != "_"
      and any(each.startswith("teacher") for each in _names(function)[1:2])}


def _names(function):
  return list(inspect.signature(function).parameters)


LOSSES = _public()
# The relations of examples, or of places, in embeddings and maps of any channels.
OF_ANY = {
    "attention_distance", "selectivity_distance", "distance_loss", "angle_loss",
    "similarity_loss", "affinity_loss", "kernel_loss", "information_loss",
    "valid_rows", "likeness_divergence"}


def _given(name, key):
  """Arguments of a loss, by name."""
  draw = lambda *shape: jax.random.normal(key, shape)
  kinds = {
      "logits": lambda: draw(BATCH, CLASSES), "map": lambda: draw(BATCH, 4, 4, 3),
      "maps": lambda: (draw(BATCH, 4, 4, 3),) * 2, "tap": lambda: draw(BATCH, 3)}
  others = {
      "labels": jnp.arange(BATCH), "temperature": 2.0, "k": 2,
      "margin": -jnp.ones(3),
      "centre": draw(BATCH, 3), "variance": jnp.ones(3), "mean": draw(BATCH, 3),
      "cost": 1 - jnp.eye(CLASSES), "alpha": 0.5,
      "mask": jnp.ones(BATCH, bool), "second": jnp.arange(BATCH) >= 2}
  shape = "map" if name == "class_map_distance" else "tap"
  return {
      each: kinds[each.partition("_")[2] or shape]()
      if each.startswith(("student", "teacher")) else others[each]
      for each, parameter in inspect.signature(LOSSES[name]).parameters.items()
      if parameter.default is parameter.empty or each == "alpha"}


@pytest.mark.parametrize("name", LOSSES)
def test_a_teacher_of_another_shape_is_refused(name, key):
  right = _given(name, key)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(
      LOSSES[name](**right))), "not a right call"
  of = next(each for each in right if each.startswith("teacher"))
  others = [lambda x: x[:1], lambda x: x[0]]
  others += [] if name in OF_ANY else [lambda x: x[..., :1]]
  for change in others:
    with pytest.raises(ValueError):
      LOSSES[name](**right | {of: jax.tree.map(change, right[of])})


def test_every_loss_is_looked_at():
  assert len(LOSSES) >= 40 and LOSSES.keys() > OF_ANY


@pytest.mark.parametrize("function", [
    lambda y: targets.manual_teacher_logits(y, 3),
    lambda y: targets.smoothed_label_logits(y, 3),
    lambda y: wasserstein.transport_distance(
        jnp.eye(4, 3), jnp.ones((4, 3)), y, 1 - jnp.eye(3), 1.0)])
def test_a_label_that_is_no_class_is_nan(function):
  found = function(jnp.array([-1, 2, 3, 0])).reshape(4, -1)
  assert np.isnan(found).all(1).tolist() == [True, False, True, False]
  assert np.isfinite(found[jnp.array([1, 3])]).all()
