"""Every config file, in every variant, is what its keys say."""

import functools
import importlib.util
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import data as data_lib
from kd_jax import losses, main
from kd_jax.config import build, recipe, schema
from kd_jax.config import run as run_lib
from kd_jax.core.errors import UserError
from kd_jax.losses import mixtures

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
# (image or columns, classes, training examples) of the real sets.
SHAPES = {
    "mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "letter.p1": ((16,), 2, 5000),
}
# Of the files that are not called like their data, and are not of MNIST.
DATA = {"takd": "cifar10", "compress": "letter.p1"}


@functools.cache
def _module(name: str):
  spec = importlib.util.spec_from_file_location(
      f"config_{name}", ROOT / "configs" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


VARIANTS = [(name, variant) for name in FILES
            for variant in _module(name).VARIANTS]


def _parse(*arguments: str):
  """Through the door, as the program does."""
  return main.parse([*arguments, "--workdir=anywhere"])[0]


def _dataset(config) -> data_lib.Dataset:
  """As many examples as the set has, without pixels of their own."""
  shape, classes, number = SHAPES[config.data.name]
  zero = np.uint8(0) if len(shape) == 3 else np.float32(0)
  examples = data_lib.Examples(
      np.broadcast_to(zero, (number, *shape)), np.zeros(number, np.int32))
  return data_lib.Dataset(
      name=config.data.name, source="fake", notice="", train=examples,
      test=examples, train_ids=np.arange(number, dtype=np.int32),
      heldout_ids=np.zeros((0,), np.int32), num_classes=classes, fingerprint="")


@functools.cache
def _nets(name: str, variant: str):
  """The nets of a variant, and the training of each."""
  config = _module(name).get_config(variant)
  found = _dataset(config)
  return [(net, build.training(net, found))
          for net in recipe.nets(config_lib.flatten(config), swept=False)]


def test_there_is_a_config_for_every_shape_above():
  assert {_module(name).get_config().data.name for name in FILES} == set(SHAPES)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_variant_is_accepted_and_has_the_known_keys_only(
    name, variant, monkeypatch):
  monkeypatch.chdir(ROOT)
  own = _module(name).get_config(variant)
  config_lib.check(own)
  assert set(config_lib.flatten(own)) == set(schema.every(*own.recipe))
  assert own.is_locked
  parsed = _parse(f"--config=configs/{name}.py:{variant}")
  assert config_lib.flatten(parsed) == config_lib.flatten(own)
  assert parsed.data.name == (name if name in SHAPES else DATA.get(name, "mnist"))


@pytest.mark.parametrize("name", FILES)
def test_the_first_variant_is_the_default_and_variants_differ(name):
  module = _module(name)
  assert module.VARIANTS[0] == "default"
  configs = [config_lib.flatten(module.get_config(v)) for v in module.VARIANTS]
  assert config_lib.flatten(module.get_config()) == configs[0]
  assert all(other != configs[0] for other in configs[1:])


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_variant_builds(name, variant):
  for _, training in _nets(name, variant):
    assert training.total_steps >= 1
    first, last = (float(training.optimizer_spec.schedule(jnp.int32(step)))
                   for step in (0, training.total_steps - 1))
    assert 0 <= last <= first <= 1
  # The last that learns from a net: a recipe may end with labels alone.
  learners = [each for each in _nets(name, variant) if run_lib.read(
      each[0].values).method.needs_teacher]
  assert learners or variant == "labels"
  if not learners:
    return
  net, training = learners[-1]
  hparams = training.hparams
  if net.values["alpha"] is None:
    assert hparams.soft_weight == np.float32(net.values["soft_weight"])
    return
  assert np.isclose(hparams.hard_weight + hparams.soft_weight, 1)
  assert hparams.soft_weight == np.float32(net.values["alpha"])


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_variant_is_refused_with_the_file_and_the_nearest(
    name, monkeypatch):
  monkeypatch.chdir(ROOT)
  with pytest.raises(UserError, match=rf"configs/{name}.py:smok: .*smoke\?"):
    _parse(f"--config=configs/{name}.py:smok")


@pytest.mark.parametrize("name", FILES)
def test_the_docstring_has_a_command_that_parses_and_names_all_variants(
    name, monkeypatch):
  monkeypatch.chdir(ROOT)
  module = _module(name)
  commands = re.findall(
      r"^  python -m kd_jax\.main (.*)$", module.__doc__, re.M)
  assert commands
  for command in commands:
    config, workdir = main.parse(shlex.split(command))
    assert config.data.name == (name if name in SHAPES else DATA.get(name, "mnist"))
    assert workdir.parts[0] == "runs"
  named = re.findall(
      rf"^  configs/{name}\.py(?::(\w+))?  ", module.__doc__, re.M)
  assert tuple(variant or "default" for variant in named) == module.VARIANTS


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_divides_its_rate_by_10_at_a_half_and_at_three_quarters(name):
  # 164 epochs of 391 steps (50,000 / 128 = 390.6): 64,124.
  for _, training in _nets(name, "default"):
    assert training.total_steps == 64_124
    shape = training.optimizer_spec.schedule
    rates = [float(shape(jnp.int32(step)) * training.hparams.learning_rate)
             for step in (0, 32_061, 32_062, 48_092, 48_093, 64_123)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert training.optimizer_spec.nesterov


def test_densely_guided_nets_learn_from_all_nets_above():
  made = {net.name: net for net, _ in _nets("assistant", "densely")}
  assert {name: net.teachers for name, net in made.items()} == {
      "teacher": (), "first": ("teacher",), "second": ("teacher", "first"),
      "student": ("teacher", "first", "second")}
  plainly = {net.name: net.teachers for net, _ in _nets("assistant", "default")}
  assert plainly == {"teacher": (), "first": ("teacher",), "second": ("first",),
                     "student": ("second",)}
  # Alike in all else.
  same = lambda net: {key: value for key, value in net.values.items()
                      if key not in ("teacher.count", "nets")}
  for net, _ in _nets("assistant", "default"):
    assert same(net) == same(made[net.name]), net.name


def test_densely_guided_learning_is_the_mean_of_the_losses_from_each_net_above():
  """Its gradient is that of (1/n) sum_i ((1 - alpha) CE + alpha T**2 KL_i)."""
  net, training = _nets("assistant", "densely")[-1]
  t, hparams = net.values["temperature"], training.hparams
  assert net.values["teacher.mean"] == "probabilities" and net.values[
      "teacher.weights"] == ()
  draw = np.random.default_rng(0)
  z, *above = jnp.asarray(draw.normal(size=(4, 6, 10)) * 3, jnp.float32)
  y = jnp.arange(6) % 10
  of = lambda z, v: losses.distillation_loss(
      z, v, y, temperature=t, hard_weight=hparams.hard_weight,
      soft_weight=hparams.soft_weight).mean()
  ours = jax.grad(of)(z, mixtures.mixture_logits(jnp.stack(above), t))
  theirs = jax.grad(lambda z: sum(of(z, v) for v in above) / len(above))(z)
  np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_released_assistants_divide_kl_by_the_classes():
  """As `KLDivLoss()` of PyTorch does, which is the mean over batch and classes."""
  net, training = _nets("takd", "released")[-1]
  t = net.values["temperature"]
  draw = np.random.default_rng(0)
  z, v = draw.normal(size=(2, 6, 10)) * 3
  y = np.arange(6)
  soft = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  p, q = soft(v / t), soft(z / t)
  kl_div = np.mean(p * (np.log(p) - np.log(q)))
  ce = -np.mean(np.log(soft(z))[np.arange(6), y])
  ours = losses.distillation_loss(
      jnp.float32(z), jnp.float32(v), jnp.asarray(y), temperature=t,
      hard_weight=training.hparams.hard_weight,
      soft_weight=training.hparams.soft_weight).mean()
  assert float(ours) == pytest.approx(0.5 * ce + 0.5 * t**2 * kl_div, rel=1e-5)
  rate = training.optimizer_spec.schedule
  assert [float(rate(jnp.int32(step)) * training.hparams.learning_rate)
          for step in (0, 31_280, 62_559)] == pytest.approx([0.01] * 3)
  assert training.total_steps == 160 * 391 and not training.optimizer_spec.nesterov
