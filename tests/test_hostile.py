"""What lies where a file of ours should: never a traceback, a wait, or bad advice.

The kinds that `tests/soak/hostile.py` has found, and 200 of its inputs.
"""

import json
import os
import random
import signal

from conftest import ROOT, blobs
import numpy as np
import pytest
from soak import hostile, mutations, targets

from kd_jax import data, main, report
from kd_jax.core import compilation, files, strict
from kd_jax.core.errors import UserError
from kd_jax.runs import (
  kept_logits,
  logit_bank,
  plan,
  probe,
  records,
  rows,
  workdir,
)
from kd_jax.training.lanes import Shape

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def _no_waiting():
  """A test that waits for a pipe fails."""
  # Which no `except Exception` catches.
  before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
  signal.alarm(100)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
  base = tmp_path_factory.mktemp("hostile")
  targets.prepare_readers(base / "read")
  (base / targets.NUMBERS).write_text("{}")
  return hostile.Worker(base, seed=0)


@pytest.mark.parametrize("name", targets.READERS)
def test_readers_refuse_what_they_cannot_read(worker, name):
  # A report of rows takes a second.
  for number in range(4 if name == "read rows" else 12):
    found = worker.judge(hostile.Input("", name, number))
    assert found["verdict"] in ("refused", "said", "same"), found


def test_every_key_at_its_ends_is_a_config_or_a_line(worker):
  words = hostile.ends()
  for word in random.Random(0).sample(words, 70):
    code, said, wrong = hostile.tried(lambda word=word: targets.parsed(word))
    assert code in (0, 2) and not wrong, (word[:80], said[:300], wrong)


@pytest.mark.parametrize("place", ["pipe", "device"])
def test_what_would_be_waited_for_is_no_file(tmp_path, capsys, own_data, place):
  file, folder = tmp_path / "x.json", tmp_path / "blobs"
  folder.mkdir()
  for path in (file, tmp_path / "c.py", tmp_path / "l.npy", folder / "blobs.npz"):
    os.mkfifo(path) if place == "pipe" else path.symlink_to("/dev/zero")
  with pytest.raises(OSError, match="neither a file nor a folder"):
    strict.read(file)
  common = [*targets.COMMON, f"--config.data.dir={own_data}",
            f"--workdir={tmp_path / 'run'}"]
  for words in ([f"--sweep={file}"], [f"--config={tmp_path / 'c.py'}"],
                [f"--config.teacher.logits={tmp_path / 'l.npy'}"],
                [f"--config.data.dir={tmp_path}"]):
    assert main.run([*common, *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and len(told.splitlines()) <= 2, told


def test_json_that_cannot_be_handled_is_damaged(tmp_path):
  for text in (DEEP, '{"a": ' + DEEP + "}", '"\\ud800"', "9" * 5000, "\ufeff["):
    with pytest.raises(ValueError):
      strict.loads(text)
  assert strict.loads('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
  file = tmp_path / "manifest.json"
  file.write_text(DEEP)
  with pytest.raises(UserError, match="not of kd_jax"):
    records.refuse_newer(file, print)
  (tmp_path / "metrics.jsonl").write_bytes(
      b'3\n\xff\n{"net": "a", "fingerprint": "b", "epoch": Infinity}\n'
      b'{"net": "a", "fingerprint": "b", "epoch": 2}\n' + DEEP.encode())
  assert [row["epoch"] for row in rows.epochs(tmp_path, "a", "b")] == [2]
  with pytest.raises(UserError, match="delete it"):
    plan.load(file)


@pytest.mark.parametrize(
    "text", ["[1]", DEEP, '{"KEY": 3}', '{"KEY": [1, "2", 3]}'])
def test_a_measurement_that_is_none_is_made_again(tmp_path, monkeypatch, text):
  monkeypatch.setattr(compilation, "home", lambda: tmp_path)
  key = probe._key("a", [0])
  (tmp_path / "lanes.json").write_text(text.replace("KEY", key))
  assert probe.remembered("a", [0]) is None
  probe.remember("a", [0], Shape(1, 2, 3))
  assert probe.remembered("a", [0]) == Shape(1, 2, 3)


def test_a_file_of_points_of_any_depth_is_refused(tmp_path, capsys):
  file = tmp_path / "points.json"
  for depth in (600, 100_000):
    file.write_text('[{"seed": ' + "[" * depth + "]" * depth + "}]")
    assert main.run(["--config=configs/mnist.py", f"--sweep={file}", "--plan"]) == 2
    assert "error: " in capsys.readouterr().err


def test_half_a_character_in_a_row_is_told_with_its_line(tmp_path, capsys):
  lines = (ROOT / "experiments/mnist/results.jsonl").read_text().splitlines()
  row = json.loads(lines[1]) | {"loss": "\ud800"}
  (tmp_path / "results.jsonl").write_text(f"{lines[0]}\n{json.dumps(row)}\n")
  assert report.main([str(tmp_path)]) == 2
  assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize("word", [
    "b'x'", "1j", "{1:2}", "1" + "0" * 400, "(" * 50 + "1," + ")," * 50])
@pytest.mark.parametrize("kind", ["config", "sweep"])
def test_values_of_any_type_are_refused(capsys, kind, word):
  assert main.run(["--config=configs/mnist.py", f"--{kind}.optimizer.b2={word}",
                   "--plan"]) == 2
  assert "optimizer.b2" in capsys.readouterr().err


@pytest.mark.parametrize("value", [DEEP, "9" * 5000, '"\\ud800"'])
def test_a_reference_of_any_kind_is_refused(capsys, value):
  assert report.main(["experiments/mnist", "--reference", f"alpha={value}"]) == 2
  assert "only sweeps have a reference" in capsys.readouterr().err


def test_a_run_without_its_manifest_is_not_called_somebody_elses(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match=r"config\.json, but no manifest\.json"):
    workdir.refuse_foreign(tmp_path)


def test_a_message_fits_a_screen():
  told = str(UserError(f"config.x={'9' * 5000}: must be a number\nanother line"))
  assert len(told) < 1200 and told.endswith("must be a number\nanother line")


def test_paths_that_lead_nowhere_are_told(tmp_path, capsys, monkeypatch):
  loop = tmp_path / "loop.py"
  loop.symlink_to("loop.py")
  monkeypatch.chdir(tmp_path)
  nobody = "~nobody_of_this_name/x"
  for words in ([f"--config={loop}"], [f"--config={nobody}"],
                [*targets.COMMON, f"--workdir={nobody}"],
                *([*targets.COMMON, f"--config.{key}={nobody}"]
                  for key in ("data.dir", "teacher.dir", "teacher.logits")),
                [*targets.COMMON, f"--sweep={nobody}"],
                [f"--config={'x' * 5000}"],
                [*targets.COMMON, f"--config.student.name={loop}:Net"],
                [*targets.COMMON, f"--config.data.dir={'x' * 5000}"]):
    assert main.run([f"--workdir={tmp_path / 'run'}", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert ("no user of this name" in told) == any(nobody in word for word in words)
    assert not (tmp_path / "~nobody_of_this_name").exists()
  (tmp_path / "~nobody_of_this_name").mkdir()
  assert str(files.at_home(nobody)) == nobody


def test_an_error_that_cannot_be_printed_is_told(tmp_path, capsys):
  file = tmp_path / "c.py"
  file.write_text("class E(Exception):\n  def __str__(self):\n    return 1\n"
                  "def get_config():\n  raise E\n")
  assert main.run([f"--config={file}"]) == 2
  assert f"E: (cannot be printed) ({file}, line 5)" in capsys.readouterr().err


@pytest.mark.parametrize("content", [
    b"\xff\xfex = 1", b"def get_config(a, b):\n  return 3\n", b"\0"])
def test_only_places_in_a_users_file_are_named(tmp_path, capsys, content):
  file = tmp_path / "c.py"
  file.write_bytes(content)
  assert main.run([f"--config={file}"]) == 2
  told = capsys.readouterr().err
  assert str(file) in told and "(/" not in told and "<frozen" not in told
  file.unlink()
  file.mkdir()
  assert main.run([f"--config={file}"]) == 2
  assert "is no file" in capsys.readouterr().err


def _npz(file, **changed):
  (x, y), (x_test, y_test) = blobs(20), blobs(20, seed=1)
  np.savez(file, allow_pickle=True, **{
      "x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, **changed})


def test_nobody_is_advised_to_unpickle(tmp_path):
  objects = np.array([{"a": 1}], object)
  _npz(tmp_path / "own.npz", x_train=objects)
  (tmp_path / "logits").mkdir()
  np.savez(tmp_path / "logits/abc.npz", allow_pickle=True, test=objects)
  np.save(tmp_path / "l.npy", objects, allow_pickle=True)
  (tmp_path / "p.npy").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
  for read in (
      lambda: data.load("own", directory=tmp_path),
      lambda: kept_logits.load(tmp_path, {"fingerprint": "abc"}),
      *(lambda name=name: logit_bank.read_logits(
          name, str(tmp_path / name), (1, 2), np.zeros(1, int))
        for name in ("l.npy", "p.npy"))):
    with pytest.raises(UserError) as told:
      read()
    assert "pickle" not in str(told.value)


@pytest.mark.parametrize("name", ["l.csv", "l.h5", "l.safetensors"])
def test_logits_of_another_format_are_called_that(tmp_path, name):
  (tmp_path / name).write_text("0.5,0.5\n" * 9)
  with pytest.raises(UserError, match=r"neither \.npy nor \.npz"):
    logit_bank.read_logits(name, str(tmp_path / name), (1, 2), np.zeros(1, int))


def test_a_file_that_declares_too_much_is_what_is_told(tmp_path, capsys):
  folder = tmp_path / "read"
  targets.prepare_readers(folder)
  mutations.OF_NPZ["a billion declared"](
      folder / "blobs.npz", random.Random(2))
  assert targets.run(f"--config.data.dir={folder}", "--workdir={}/new")(folder) == 2
  told = capsys.readouterr().err
  assert "blobs.npz" in told and "batch_size" not in told
