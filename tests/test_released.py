"""A teacher with weights that PyTorch saved: read, filled in, and asked."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_main import plain, small  # noqa: F401
from test_nets import _filled, nets

from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.models import MODELS, released

NAMES = {"scale": "weight", "mean": "running_mean", "variance": "running_var"}
WEIGHTS = "--config.teacher.state_dict"
BACK = {4: (3, 2, 0, 1), 2: (1, 0)}


def made(name="resnet8x4"):
  """A net with drawn weights, and shapes of it."""
  model = MODELS[name](num_classes=nets.CLASSES, **nets.NETS[name][0])
  like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  return _filled(like), like


def state_dict(net: types.Variables) -> dict[str, np.ndarray]:
  """The same as PyTorch has it: other axes, other names, a counter of batches."""
  found = {}
  statistics = net.state.get("batch_stats", {})
  # The kinds of layers come in any order; within one theirs is ours.
  number = lambda layer: int(layer.rpartition("_")[2])
  for place, layer in enumerate(sorted(net.params, key=number)):
    for name, leaf in (net.params[layer] | statistics.get(layer, {})).items():
      array = np.asarray(leaf)
      if name == "kernel":
        found[f"m.{place}.weight"] = array.transpose(BACK[array.ndim])
      else:
        found[f"m.{place}.{NAMES.get(name, name)}"] = array
    if layer.startswith("BatchNorm"):
      found[f"m.{place}.num_batches_tracked"] = np.array(7)
  return found


@pytest.mark.parametrize("name", ["resnet8x4", "vgg11"])
def test_weights_come_to_where_the_net_has_them(name):
  net, like = made(name)
  found = released.variables(state_dict(net), like)
  jax.tree.map(np.testing.assert_array_equal, found, net)


def without(arrays, word):
  return {name: x for name, x in arrays.items() if word not in name}


@pytest.mark.parametrize(("change", "says"), [
    (lambda arrays: without(arrays, "m.0."), "layers, and the net has"),
    (lambda arrays: arrays | {"more.weight": np.zeros((4, 4, 1, 1))},
     "Conv layers, and the net has"),
    (lambda arrays: {name: x[..., :1] if x.ndim else x
                     for name, x in arrays.items()}, "and the net's is"),
    (lambda arrays: without(arrays, "running_mean"), "is None, and the net's is"),
])
def test_another_net_is_refused_with_what_differs(change, says):
  net, like = made()
  with pytest.raises(ValueError, match=says):
    released.variables(change(state_dict(net)), like)


def test_a_file_of_torch_is_read_and_a_pickle_is_not(tmp_path):
  torch = pytest.importorskip("torch")
  net, like = made()
  arrays = {name: torch.tensor(x) for name, x in state_dict(net).items()}
  whole = {"model": arrays, "epoch": 240}
  for name, value in {"bare": arrays, "whole": whole}.items():
    torch.save(value, tmp_path / name)
    found = released.variables(released.read(tmp_path / name), like)
    jax.tree.map(np.testing.assert_array_equal, found, net)
  torch.save({"model": pathlib.Path("x")}, tmp_path / "pickle")
  (tmp_path / "text").write_text("no weights")
  torch.save([1, 2], tmp_path / "list")
  for name in ("pickle", "text", "list", "missing"):
    with pytest.raises(UserError):
      released.read(tmp_path / name)


def test_a_teacher_is_taken_as_it_is_and_its_weights_are_its_identity(
    small, tmp_path, monkeypatch, capsys):  # noqa: F811
  model = MODELS["mlp"](num_classes=7, widths=(6,))
  image = jnp.zeros((1, 12, 10, 1))
  drawn = [model.init(jax.random.key(seed), image) for seed in (0, 1)]
  (tmp_path / "a.pth").write_bytes(b"a")
  (tmp_path / "b.pth").write_bytes(b"b")
  monkeypatch.setattr(released, "read", lambda file: state_dict(
      drawn[pathlib.Path(file).stem == "b"]))
  words = ("--config.teacher.widths=(6,)", "--config.student.widths=(4,)",
           "--config.teacher.check=off")  # They know nothing.
  shas = set()
  for name in ("a", "b", "a"):
    code, summary = small(
        *words, f"{WEIGHTS}={tmp_path / name}.pth", workdir=name)
    assert code == 0
    shas.add(summary["teacher"]["parameters_sha256"])
  assert len(shas) == 2
  capsys.readouterr()
  code, _ = small("--config.teacher.widths=(9,)", f"{WEIGHTS}={tmp_path}/a.pth",
                  workdir="other")
  said = capsys.readouterr().err
  assert code == 2 and "teacher.state_dict" in said and "and the net's is" in said
  code, _ = small(f"{WEIGHTS}={tmp_path}/c.pth", workdir="none")
  assert code == 2 and "c.pth" in capsys.readouterr().err
