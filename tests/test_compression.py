"""Pruning, few bits and low-rank factors: the rival roads to a small net."""

import functools
import json

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import main
from kd_jax.core.types import Variables
from kd_jax.models import MODELS, compression
from kd_jax.report import plots
from kd_jax.runs import trained
from kd_jax.training import parameters


@pytest.fixture
def mlp():
  model = MODELS["mlp"](num_classes=3, widths=(6, 5))
  return model, model.init(jax.random.key(0), jnp.zeros((1, 4)))


def kernels(params) -> dict[str, np.ndarray]:
  return {name: np.asarray(layer["kernel"]) for name, layer in params.items()}


def test_the_smallest_weights_of_each_layer_are_pruned(mlp):
  params = mlp[1].params
  found = compression.pruned(params, 0.7, "weights")
  for name, kernel in kernels(params).items():
    cut = np.sort(np.abs(kernel).ravel())[int(0.7 * kernel.size)]
    wanted = np.where(np.abs(kernel) < cut, 0, kernel)
    np.testing.assert_array_equal(found[name]["kernel"], wanted)
    np.testing.assert_array_equal(found[name]["bias"], params[name]["bias"])


def test_the_weakest_units_of_hidden_layers_are_pruned(mlp):
  params = jax.tree.map(lambda leaf: leaf + 0.5, mlp[1].params)
  found = compression.pruned(params, 0.5, "channels")
  for name, number in (("Dense_0", 3), ("Dense_1", 2)):
    kernel = np.asarray(params[name]["kernel"])
    weakest = set(np.argsort(np.abs(kernel).sum(axis=0))[:number])
    gone = ~np.any(found[name]["kernel"], axis=0)
    assert set(np.flatnonzero(gone)) == weakest
    assert set(np.flatnonzero(np.asarray(found[name]["bias"]) == 0)) == weakest
  np.testing.assert_array_equal(found["Dense_2"]["kernel"],
                                params["Dense_2"]["kernel"])


def test_without_dead_units_a_net_says_the_same(mlp):
  model, variables = mlp
  params = compression.pruned(
      jax.tree.map(lambda leaf: leaf + 0.1, variables.params), 0.5, "channels")
  small = compression.without_dead(params)
  assert small["Dense_0"]["kernel"].shape == (4, 3)
  assert small["Dense_1"]["kernel"].shape == (3, 3)
  x = jax.random.normal(jax.random.key(1), (7, 4))
  thin = MODELS["mlp"](num_classes=3, widths=(3, 3))
  said = [net.apply(Variables(held, {}), x, train=False)[0].logits
          for net, held in ((model, params), (thin, small))]
  np.testing.assert_allclose(*said, rtol=1e-5, atol=1e-6)


def test_nets_that_are_no_chain_have_no_channels_to_prune():
  model = MODELS["resnet8"](num_classes=3)
  params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))).params
  with pytest.raises(ValueError, match="use prune_by=weights"):
    compression.pruned(params, 0.5, "channels")
  found = compression.pruned(params, 0.5, "weights")
  zeros = sum(int(np.sum(np.asarray(leaf) == 0)) for path, leaf in
              jax.tree_util.tree_flatten_with_path(found)[0]
              if path[-1].key == "kernel")
  all_of = sum(leaf.size for path, leaf in
               jax.tree_util.tree_flatten_with_path(params)[0]
               if path[-1].key == "kernel")
  assert abs(zeros - all_of / 2) < 12


def gradients(model, variables, x):
  def loss(params):
    outputs, _ = model.apply(Variables(params, variables.state), x, train=True)
    return jnp.sum(outputs.logits ** 2)
  return jax.grad(loss)(variables.params)


def test_no_gradient_reaches_a_weight_that_is_0(mlp):
  model, variables = mlp
  x = jax.random.normal(jax.random.key(1), (7, 4))
  for by in ("weights", "channels"):
    held = variables._replace(params=compression.pruned(
        variables.params, 0.5, by))
    dense, sparse = (gradients(each, held, x) for each in (
        model, compression.sparse(model)))
    for name, kernel in kernels(held.params).items():
      np.testing.assert_allclose(
          sparse[name]["kernel"], np.where(kernel != 0, dense[name]["kernel"], 0),
          rtol=1e-5, atol=1e-6)
      dead = ~np.any(kernel, axis=0)
      assert not np.any(np.asarray(sparse[name]["bias"])[dead])


def test_rounded_weights_are_on_the_grid_of_their_output():
  kernel = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
  for bits in (2, 4, 8):
    found = np.asarray(compression.rounded(jnp.asarray(kernel), bits))
    scale = np.abs(kernel).max(axis=0) / (2 ** (bits - 1) - 1)
    steps = found / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert np.abs(steps).max() <= 2 ** (bits - 1) - 1 + 1e-3
    assert np.all(np.abs(found - kernel) <= scale / 2 * 1.001)
    # Rounding again changes nothing.
    np.testing.assert_allclose(
        compression.rounded(jnp.asarray(found), bits), found, rtol=1e-6)
  assert not np.any(np.isnan(compression.rounded(jnp.zeros((3, 2)), 4)))


def test_the_gradient_passes_through_the_rounding(mlp):
  model, variables = mlp
  x = jax.random.normal(jax.random.key(1), (7, 4))
  bits = compression.few_bits(model, 3)
  settled = bits.settle(variables)
  seen, _ = bits.apply(variables, x, train=True)
  used, _ = bits.apply(settled, x, train=False)
  np.testing.assert_allclose(seen.logits, used.logits, rtol=1e-5)
  found, wanted = gradients(bits, variables, x), gradients(model, settled, x)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
               found, wanted)


def test_factors_of_the_whole_rank_are_the_net_itself(mlp):
  model, variables = mlp
  x = jax.random.normal(jax.random.key(1), (7, 4))
  wide = MODELS["mlp"](num_classes=3, widths=(6, 5), rank=3)
  like = wide.init(jax.random.key(0), x).params
  made = compression.factored(variables.params, like)
  assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, like)
  # The best of its rank (Eckart and Young), here of the first layer.
  u, s, v = np.linalg.svd(np.asarray(variables.params["Dense_0"]["kernel"]),
                          full_matrices=False)
  np.testing.assert_allclose(
      made["Dense_0_in"]["kernel"] @ made["Dense_0"]["kernel"],
      u[:, :3] * s[:3] @ v[:3], rtol=1e-4, atol=1e-5)
  # Of rank 3 already, nothing is lost.
  low = dict(variables.params)
  for name in ("Dense_0", "Dense_1"):
    product = made[f"{name}_in"]["kernel"] @ made[name]["kernel"]
    low[name] = {**low[name], "kernel": product}
  again = compression.factored(low, like)
  said = [net.apply(Variables(params, {}), x, train=False)[0].logits
          for net, params in ((model, low), (wide, again))]
  np.testing.assert_allclose(*said, rtol=1e-4, atol=1e-5)


def test_a_rank_without_effect_is_no_rank():
  model = MODELS["mlp"](num_classes=3, widths=(6, 5), rank=5)
  params = model.init(jax.random.key(0), jnp.zeros((1, 4))).params
  assert sorted(params) == ["Dense_0", "Dense_1", "Dense_2"]


# ---- Runs.


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


SMALL = (
    "--config=configs/deploy.py", "--config.data.name=blobs", "--config.steps=30",
    "--config.min_steps=0", "--config.tensorboard=false", *(
        f"--config.nets.{name}.widths=(24,20)" for name in (
            "teacher", "pruned", "channels", "low_rank")), *(
        f"--config.nets.{name}.widths=(8,8)" for name in (
            "labels", "distilled", "few_bits")),
    "--config.nets.low_rank.model.rank=4", "--config.nets.pruned.prune=0.8",
    "--config.nets.channels.prune=0.5")


@pytest.fixture(scope="module")
def run(own_data, tmp_path_factory):
  def made(*words, folder=None):
    folder = folder or tmp_path_factory.mktemp("deploy") / "run"
    code = main.run([*SMALL, *words, f"--config.data.dir={own_data}",
                     f"--workdir={folder}"])
    return code, folder
  return made


def test_each_road_ends_in_the_net_it_promises(run):
  code, folder = run("--config.parallel=single")
  assert code == 0
  held = {name: parameters.load_parameters(folder / "parameters" / name).params
          for name in ("teacher", "pruned", "channels", "low_rank", "few_bits")}
  for name, kernel in kernels(held["pruned"]).items():
    zero = kernel == 0
    assert np.sum(zero) == int(0.8 * kernel.size)
    # The others were trained on.
    assert not np.allclose(kernel[~zero], kernels(held["teacher"])[name][~zero])
  small = compression.without_dead(held["channels"])
  assert small["Dense_0"]["kernel"].shape == (120, 12)
  assert held["low_rank"]["Dense_0_in"]["kernel"].shape == (120, 4)
  for kernel in kernels(held["few_bits"]).values():
    np.testing.assert_allclose(
        kernel, compression.rounded(jnp.asarray(kernel), 4), rtol=1e-5)
    assert all(len(np.unique(column)) <= 15 for column in kernel.T)
  # What is evaluated is what is kept.
  net = trained.load(folder, "few_bits")
  dataset = trained.build.dataset(net.values)
  wrong = np.argmax(net.logits(dataset.test.inputs), -1) != dataset.test.label
  record = parameters.load_record(folder / "parameters/few_bits")
  assert np.flatnonzero(wrong).tolist() == record["test_wrong_ids"]


def test_shares_are_swept_in_one_program_and_as_single_runs(run):
  sweep = "--sweep.nets.pruned.prune=0.5,0.8"
  code, folder = run(sweep, "--config.sweep.lanes=1x2")
  assert code == 0
  rows = [json.loads(line) for line in
          (folder / "results.jsonl").read_text().splitlines()]
  pruned = {row["overrides"]["nets.pruned.prune"]: row for row in rows
            if row["net"] == "pruned"}
  assert sorted(pruned) == [0.5, 0.8]
  summary = json.loads((folder / "summary.json").read_text())
  # A program of each of the seven nets.
  assert summary["compilations"] == 7
  code, single = run("--config.nets.pruned.prune=0.5", "--config.parallel=single")
  assert code == 0
  alone = parameters.load_record(single / "parameters/pruned")
  assert abs(alone["test_errors"] - pruned[0.5]["test_errors"]) <= 2
  assert alone["test_nll"] == pytest.approx(pruned[0.5]["test_nll"], rel=1e-2)


def test_a_lane_of_rounded_weights_has_scales_of_its_own(run):
  # Another learns from them: a teacher must be what its record says.
  code, folder = run("--sweep.seed=0,1,2", "--config.sweep.lanes=3x1",
                     "--config.nets.few_bits.teachers=()",
                     "--config.nets.low_rank.teachers=('few_bits',)")
  assert code == 0
  for path in (folder / "teachers").iterdir():
    params = path.is_dir() and parameters.load_parameters(path).params
    if params and params["Dense_0"]["kernel"].shape == (120, 8):
      kernel = params["Dense_0"]["kernel"]
      np.testing.assert_allclose(
          kernel, compression.rounded(kernel, 4), rtol=1e-5)


@pytest.mark.parametrize(("words", "says"), [
    (["--config.nets.labels.prune=0.5"], "nets.labels.init_from"),
    (["--config.nets.pruned.prune=1.0"], "[0, 1)"),
    (["--config.nets.few_bits.weight_bits=9"], "from 2 to 8"),
    (["--config.nets.low_rank.widths=(10,10)"], "not the same parameters"),
    (["--config.nets.low_rank.name=convnet", "--config.nets.low_rank.model.rank=4"],
     "has no rank")])
def test_mistakes_are_one_line(run, words, says, capsys):
  code, _ = run(*words)
  error = capsys.readouterr().err
  assert code == 2 and says in error and "Traceback" not in error, error


OWN = """
import flax.linen as nn
from flax import nnx
import jax.numpy as jnp


class Plain(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, image, train):
    w = self.param("w", nn.initializers.normal(), (120, self.num_classes))
    return image.reshape((image.shape[0], -1)) @ w


class Nnx(nnx.Module):
  def __init__(self, num_classes, rngs):
    self.layer = nnx.Linear(120, num_classes, rngs=rngs)

  def __call__(self, image):
    return self.layer(image.reshape((image.shape[0], -1)))
"""


@pytest.mark.parametrize("key", ["few_bits", "pruned"])
def test_a_net_whose_weights_have_another_name_is_refused(
    run, tmp_path, capsys, key):
  file = tmp_path / "own.py"
  file.write_text(OWN)
  names = ("teacher", "pruned", "channels", "low_rank") if key == "pruned" else (
      "few_bits",)
  code, _ = run(*(f"--config.nets.{name}.name={file}:Plain" for name in names),
                *(f"--config.nets.{name}.widths=()" for name in names),
                "--config.nets.low_rank.model.rank=None",
                "--config.nets.teacher.hidden_dropout=0.0")
  error = capsys.readouterr().err
  assert code == 2 and error.startswith("error: ") and (
      "called kernel" in error or "chain of layers" in error), error


def test_an_nnx_net_is_rounded_too(run, tmp_path):
  file = tmp_path / "own.py"
  file.write_text(OWN)
  code, folder = run(f"--config.nets.few_bits.name={file}:Nnx",
                     "--config.nets.few_bits.widths=()",
                     "--config.parallel=single")
  assert code == 0
  params = parameters.load_parameters(folder / "parameters/few_bits").params
  kernel, = (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
  np.testing.assert_allclose(kernel, compression.rounded(kernel, 4), rtol=1e-5)
  assert all(len(np.unique(column)) <= 15 for column in np.asarray(kernel).T)
