"""A finished net of a run, opened again without its data set."""

import json
import pathlib
import shutil
import subprocess
import sys
import warnings

from conftest import ROOT
import jax
import numpy as np
import pytest

from kd_jax import data as data_lib
from kd_jax import main
from kd_jax.config import build
from kd_jax.core.errors import Notice, UserError
from kd_jax.report import plots
from kd_jax.runs import trained
from kd_jax.training import parameters

SMALL = (
    "--config.data.name=blobs", "--config.steps=40", "--config.min_steps=0",
    "--config.tensorboard=false", "--config.parallel=single")
MLPS = ("--config=configs/mnist.py", "--config.teacher.steps=40",
        "--config.student.widths=(12,)", "--config.teacher.widths=(24,)")
# What is left in the net: the teacher's last layer, and the mean of two nets.
RUNS = {
    "distilled": MLPS,
    "simkd": (
        "--config=configs/mnist.py", "--config.teacher.steps=40",
        "--config.method=simkd", *(
            f"--config.{net}.name=resnet8" for net in ("student", "teacher")),
        *(f"--config.{net}.widths=(4,4,4,4)" for net in ("student", "teacher"))),
    "mutual": ("--config=configs/mutual.py", "--config.student.widths=(12,)"),
}


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="module")
def runs(own_data, tmp_path_factory):
  """The folder of a finished run of each kind."""
  made: dict[str, pathlib.Path] = {}

  def run(kind: str) -> pathlib.Path:
    if kind not in made:
      folder = tmp_path_factory.mktemp(kind) / "run"
      with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(plots, "write", lambda *_: {})
        assert main.run([*RUNS[kind], *SMALL, f"--config.data.dir={own_data}",
                         f"--workdir={folder}"]) == 0
      made[kind] = folder
    return made[kind]

  return run


@pytest.mark.parametrize("kind", RUNS)
def test_every_net_of_a_run_errs_as_its_record_says(runs, own_data, kind):
  folder = runs(kind)
  names = [path.name for path in (folder / "parameters").iterdir()]
  assert len(names) >= 2
  test = data_lib.load("blobs", directory=own_data).test
  for name in names:
    net = trained.load(folder, name)
    assert net.name == name and net.shape == (12, 10, 1)
    assert net.dtype == np.uint8 and net.classes == tuple("0123456")
    wrong = np.argmax(net.logits(test.inputs), axis=-1) != test.label
    record = parameters.load_record(folder / "parameters" / name)
    assert np.flatnonzero(wrong).tolist() == record["test_wrong_ids"]


def test_a_net_needs_no_data_to_be_opened(runs, monkeypatch):
  folder = runs("distilled")
  monkeypatch.setattr(build, "dataset", None)
  assert trained.load(folder).name == "distilled"
  assert trained.load(folder, "teacher").name == "teacher"


def test_a_net_of_an_earlier_version_is_opened_by_its_data(runs, tmp_path):
  folder = runs("distilled")
  path = folder / "parameters/distilled"
  record = parameters.load_record(path)
  before = trained.load(folder)
  plain = {key: value for key, value in record.items()
           if key not in (trained.USE, parameters.RECORD_CHECKSUM)}
  kept = (path / "record.json").read_bytes()
  try:
    (path / "record.json").write_text(json.dumps(plain))
    after = trained.load(folder)
  finally:
    (path / "record.json").write_bytes(kept)
  inputs = np.arange(2 * 120, dtype=np.uint8).reshape(2, 12, 10, 1)
  np.testing.assert_array_equal(before.logits(inputs), after.logits(inputs))
  assert after.classes == before.classes


def test_a_run_of_a_version_with_fewer_keys_is_opened(runs, tmp_path):
  for kind in ("distilled", "mutual"):
    folder = tmp_path / kind
    folder.mkdir()
    (folder / "parameters").symlink_to(runs(kind) / "parameters")
    values = json.loads((runs(kind) / "config.json").read_text())
    came_later = ("model.rank", "weight_bits", ".prune", "prune_by")
    left = {key: value for key, value in values.items()
            if not key.endswith(came_later)}
    assert len(left) < len(values)
    (folder / "config.json").write_text(json.dumps(left))
    assert trained.load(folder).name == trained.load(runs(kind)).name


def test_what_is_no_run_or_no_net_is_refused(runs, tmp_path):
  with pytest.raises(UserError, match="holds no run"):
    trained.load(tmp_path)
  with pytest.raises(UserError, match="did you mean teacher"):
    trained.load(runs("distilled"), "teachers")
  with pytest.raises(UserError, match="run: has no net 'teacher_best'; did"):
    trained.load(runs("distilled"), "teacher_best")


def test_data_that_moved_open_a_net_of_an_earlier_version(runs, own_data, tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  values = json.loads((runs("distilled") / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(
      values | {"data.dir": str(tmp_path / "nowhere")}))
  path = folder / "parameters/distilled"
  path.parent.mkdir()
  shutil.copytree(runs("distilled") / "parameters/distilled", path)
  record = parameters.load_record(path)
  del record[trained.USE], record[parameters.RECORD_CHECKSUM]
  (path / "record.json").write_text(json.dumps(record))
  with pytest.raises(UserError, match="there is no such folder"):
    trained.load(folder)
  assert trained.load(folder, data=own_data).classes == tuple("0123456")


@pytest.mark.parametrize(("key", "value", "is_half"), [
    ("dtype", "bfloat16", True), ("nets.a.teacher.dtype", "bfloat16", True),
    ("teacher.bank_dtype", "bfloat16", False), ("dtype", "float32", False)])
def test_keys_of_nets_in_bfloat16(key, value, is_half):
  assert trained.in_bfloat16({key: value}, key) is is_half


def test_classes_have_the_names_that_lie_beside_the_data(own_data, tmp_path):
  (tmp_path / "own.npz").write_bytes((own_data / "blobs.npz").read_bytes())
  (tmp_path / "own").mkdir()
  file = tmp_path / "own/classes.txt"
  names = ["left", "right", "up", "down", "in", "out", "none"]
  file.write_text("\n".join(names) + "\n\n")
  said: list[str] = []
  load = lambda: data_lib.load("own", directory=tmp_path, say=said.append)
  assert load().class_names == tuple(names) and not said
  file.write_text("left\nright\n")
  assert load().class_names == tuple("0123456")
  assert "names of 2 classes" in said[0]


def test_cifar_names_its_own_classes(tmp_path):
  from kd_jax.data import raw  # pylint: disable=g-import-not-at-top
  folder = tmp_path / "cifar-10-batches-bin"
  folder.mkdir()
  (folder / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
  assert raw.class_names("cifar10", tmp_path) == ("airplane", "automobile")
  assert raw.class_names("mnist", tmp_path) == ()


_OWN = """
import flax.linen as nn

class Net(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(nn.relu(x.reshape((len(x), -1))))
"""


def test_a_net_whose_file_was_edited_is_opened_with_a_warning(
    own_data, tmp_path, monkeypatch):
  """The parameters fit another net as well: here one with another nonlinearity."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  file, folder = tmp_path / "own.py", tmp_path / "run"
  file.write_text(_OWN)
  assert main.run(["--config=configs/mnist.py", *SMALL, "--config.method=hard",
                   "--config.steps=3", f"--config.data.dir={own_data}",
                   f"--config.student.name={file}:Net", f"--workdir={folder}"]) == 0
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    trained.load(folder)
  file.write_text(_OWN.replace("relu", "tanh"))
  with pytest.warns(Notice, match="own.py:Net was edited after baseline "):
    trained.load(folder)
  np.save(tmp_path / "x.npy", np.zeros((1, 12, 10, 1), np.uint8))
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.predict", folder, tmp_path / "x.npy"],
      cwd=ROOT, capture_output=True, text=True, check=True)
  line, = done.stderr.splitlines()
  assert line.startswith(f"warning: {folder}: {file}:Net was edited")


def test_of_a_sweep_and_a_stopped_run_it_is_said_what_is_kept(own_data, tmp_path):
  """Nothing is opened that nobody has named: of a sweep a teacher would be."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    assert main.run([*MLPS, *SMALL, "--config.steps=2", "--config.teacher.steps=2",
                     "--sweep.seed=0,1", f"--config.data.dir={own_data}",
                     f"--workdir={tmp_path}"]) == 0
  with pytest.raises(UserError, match=r"keeps no students.*--net=teacher"):
    trained.load(tmp_path)
  assert trained.load(tmp_path, "teacher").name == "teacher"
  config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "stopped").mkdir()
  (tmp_path / "stopped/config.json").write_text(
      json.dumps(config | {"sweep.points": []}))
  with pytest.raises(UserError, match="is the run finished"):
    trained.load(tmp_path / "stopped")
