"""The command that explains what a net says of one image."""

import json

from conftest import ROOT
import jax
import numpy as np
import pytest

from kd_jax import main
from kd_jax.config import build
from kd_jax.explain import __main__ as command
from kd_jax.explain import picture
from kd_jax.report import plots
from kd_jax.runs import trained
from kd_jax.training import parameters

SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs", "--config.steps=60",
    "--config.min_steps=0", "--config.teacher.steps=60",
    "--config.student.widths=(12,)", "--config.teacher.widths=(24,)",
    "--config.tensorboard=false", "--config.parallel=single")


@pytest.fixture(scope="module")
def run(own_data, tmp_path_factory):
  """The folder of a finished run."""
  folder = tmp_path_factory.mktemp("run") / "run"
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    patch.setattr(plots, "write", lambda *_: {})
    with jax.numpy_dtype_promotion("standard"):
      assert main.run([
          *SMALL, f"--config.data.dir={own_data}", f"--workdir={folder}"]) == 0
  return folder


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.mark.pictures
def test_a_net_of_a_run_is_explained(run, capsys):
  assert command.main([f"--workdir={run}", "--id=3", "--epochs=2"]) == 0
  text = capsys.readouterr().out
  file = run / "explained_distilled_3.png"
  assert str(file) in text and file.read_bytes().startswith(b"\x89PNG")
  assert "test image 3, a " in text and ": distilled says " in text
  assert command.main(
      [f"--workdir={run}", "--id=3", "--epochs=1", "--net=teacher"]) == 0
  assert (run / "explained_teacher_3.png").is_file()


@pytest.mark.pictures
def test_of_several_images_there_is_a_page(run, capsys):
  assert command.main(
      [f"--workdir={run}", "--id=3,0-1,3", "--epochs=1"]) == 0
  assert capsys.readouterr().out.count(": distilled says ") == 3
  text = (run / "explained_distilled.html").read_text()
  record = parameters.load_record(run / "parameters/distilled")
  for number in (0, 1, 3):
    assert (run / f"explained_distilled_{number}.png").is_file()
    assert f'href="#image-{number}"' in text and f'id="image-{number}"' in text
    wrong = f'href="#image-{number}" class="wrong"' in text
    assert wrong == (number in record["test_wrong_ids"])
  # In the order that was asked for; nothing is loaded.
  assert text.index("#image-3") < text.index("#image-0") < text.index("#image-1")
  assert "http" not in text.replace("http-equiv", "") and "<script" not in text


def test_the_net_is_asked_as_in_its_run(run):
  # Its errors on the test set, of pixels in [0, 1], are those of its record.
  net = trained.load(run)
  dataset = build.dataset(net.values)
  ask = picture._asking(net)
  images = dataset.test.inputs.reshape(len(dataset.test.label), -1)
  wrong = np.argmax(ask(images / np.float32(255)), axis=-1) != dataset.test.label
  record = parameters.load_record(run / "parameters" / net.name)
  assert np.flatnonzero(wrong).tolist() == record["test_wrong_ids"]


@pytest.mark.parametrize(("words", "says"), [
    (["--id=110"], "must be from 0 to 109"), (["--id=-1"], "must be from 0 to 109"),
    (["--id=0", "--net=destilled"], "did you mean distilled"),
    (["--id=0", "--workdir=nowhere"], "holds no run")])
def test_mistakes_are_one_line(run, words, says, capsys):
  assert command.main([f"--workdir={run}", *words]) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_what_cannot_be_explained_is_refused(run, tmp_path, capsys):
  values = json.loads((run / "config.json").read_text())
  for changes, says in (
      ({}, "no net is kept in it"), ({"recipe": None}, "another version")):
    folder = tmp_path / says.split()[0]
    folder.mkdir()
    changed = {key: value for key, value in (values | changes).items()
               if value is not None or key not in changes}
    (folder / "config.json").write_text(json.dumps(changed))
    assert command.main([f"--workdir={folder}", "--id=0"]) == 2
    assert says in capsys.readouterr().err
