"""What is kept on disk: whole, readable, and never unpickled."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.models import MODELS
from kd_jax.training import parameters


@pytest.fixture
def net(key):
  model = MODELS["resnet8"](num_classes=3, widths=(4, 4, 4))
  return model.init(key, jnp.zeros((1, 8, 8, 1)))


def test_a_net_comes_back_to_the_bit(tmp_path, net):
  parameters.save_net(tmp_path / "net", net, {"test_errors": 5})
  again = parameters.load_parameters(tmp_path / "net")
  jax.tree.map(np.testing.assert_array_equal, again, net)
  assert parameters.parameters_sha256(again.params) == (
      parameters.parameters_sha256(net.params))
  assert parameters.load_record(tmp_path / "net")["test_errors"] == 5


def test_a_net_without_running_state_comes_back(tmp_path):
  plain = types.Variables({"w": jnp.ones((2,))}, {})
  parameters.save_net(tmp_path / "net", plain, {})
  assert parameters.load_parameters(tmp_path / "net").state == {}


def test_saving_replaces_the_net_that_was_there(tmp_path, net):
  parameters.save_net(tmp_path / "net", net, {"test_errors": 5})
  other = net._replace(params=jax.tree.map(jnp.zeros_like, net.params))
  parameters.save_net(tmp_path / "net", other, {"test_errors": 6})
  leaves = jax.tree.leaves(parameters.load_parameters(tmp_path / "net").params)
  assert not any(jnp.any(leaf) for leaf in leaves)
  assert parameters.load_record(tmp_path / "net")["test_errors"] == 6


def test_the_hash_sees_every_bit_name_and_shape():
  sha = parameters.parameters_sha256
  params = {"a": jnp.zeros((2, 3)), "b": jnp.ones((2,))}
  assert sha(params) == sha(dict(reversed(params.items())))
  assert sha(params) != sha({"a": params["a"], "c": params["b"]})
  assert sha(params) != sha({"a": jnp.zeros((3, 2)), "b": params["b"]})
  nudged = jnp.nextafter(params["b"], 2.0)
  assert sha(params) != sha({"a": params["a"], "b": nudged})


def test_a_record_of_another_schema_is_refused(tmp_path):
  (tmp_path / "record.json").write_text(json.dumps({"schema": 99}))
  with pytest.raises(UserError, match="schema 99"):
    parameters.load_record(tmp_path)


@pytest.mark.parametrize("content", [
    b'{"schema": 1, "test', b"", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_a_torn_record_is_noticed(tmp_path, content):
  (tmp_path / "record.json").write_bytes(content)
  with pytest.raises(parameters.Damaged, match="a damaged record"):
    parameters.load_record(tmp_path)
  assert parameters.load_record(tmp_path / "nothing") is None


def test_an_edited_record_is_noticed_and_one_without_a_checksum_is_read(
    tmp_path, net):
  parameters.save_net(tmp_path / "net", net, {
      "test_errors": 5, "curve": {1: (0.1, float("nan"))}})
  file = tmp_path / "net/record.json"
  told = json.loads(file.read_text())
  file.write_text(json.dumps(told | {"test_errors": 4}))
  with pytest.raises(parameters.Damaged, match="a damaged record"):
    parameters.load_record(tmp_path / "net")
  # The arrays have a checksum of their own; they are not lost.
  parameters.load_parameters(tmp_path / "net")
  del told["record_sha256"]
  file.write_text(json.dumps(told | {"test_errors": 4}))
  assert parameters.load_record(tmp_path / "net")["test_errors"] == 4


def test_a_save_that_died_half_way_leaves_the_old_net(tmp_path, net):
  parameters.save_net(tmp_path / "net", net, {"test_errors": 5})
  (tmp_path / "net").rename(tmp_path / "net.old")  # died between two renames
  (tmp_path / "net.new").mkdir()
  assert parameters.load_record(tmp_path / "net")["test_errors"] == 5
  parameters.load_parameters(tmp_path / "net")


def largest(folder):
  return max((f for f in folder.rglob("*") if f.is_file()),
             key=lambda f: f.stat().st_size)


def test_a_damaged_net_is_refused(tmp_path):
  # Orbax alone reads a flipped bit of the numbers without complaint.
  weights = np.random.default_rng(0).normal(size=(256, 200)).astype("f4")
  parameters.save_net(
      tmp_path / "net", types.Variables({"w": jnp.asarray(weights)}, {}), {})
  file = largest(tmp_path / "net")
  content = bytearray(file.read_bytes())
  content[3 * len(content) // 4] ^= 1
  file.write_bytes(content)
  with pytest.raises(UserError, match="damaged net: its arrays are not those"):
    parameters.load_parameters(tmp_path / "net")
  file.write_bytes(content[:100])
  with pytest.raises(UserError, match="a damaged net"):
    parameters.load_parameters(tmp_path / "net")


def test_a_record_with_nan_is_as_it_was_written(tmp_path):
  file = tmp_path / "r.json"
  parameters.write_with_checksum(file, {"nll": float("nan"), "n": [1.5]})
  found = parameters.read_with_checksum(file)
  assert found["nll"] is None and found["n"] == [1.5]
