"""A function on the host as the teacher of a run."""

import json
import os
import re
import subprocess
import sys

from conftest import blobs, segments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_main import SMALL, _at_the_root, ran  # noqa: F401

from kd_jax import data as data_lib
from kd_jax import doctor, main
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.data.views import VIEWS
from kd_jax.export import __main__ as command
from kd_jax.models import function
from kd_jax.runs import logit_bank
from kd_jax.training import devices, parameters, segment

# Logits, exact whatever the batch: some pixels times what a file says; features.
_OWN = """
import pathlib
import numpy as np
def pixels(images):
  assert images.dtype == np.float32 and images.shape[1:] == (12, 10, 1)
  flat = images.reshape(len(images), -1)
  factor = float(pathlib.Path(__file__).with_name("factor").read_text())
  return factor * flat[:, 20:27], {"first": flat[:, :16], "map": images[:, :4, :4]}
def probabilities(images):
  e = np.exp(pixels(images)[0])
  return e / e.sum(-1, keepdims=True)
"""


@pytest.fixture(name="run")
def _run(own_data, tmp_path):
  """Runs the small job with a function as its teacher; its code and summary."""
  (tmp_path / "own.py").write_text(_OWN)
  (tmp_path / "factor").write_text("8")

  def run(*words, workdir="run", of="pixels"):
    name = [f"--config.teacher.name={tmp_path / 'own.py'}:{of}"] if of else []
    return ran(tmp_path / workdir, f"--config.data.dir={own_data}",
               "--config.teacher.check=off", *name, *words)
  return run


def _sha(summary) -> str:
  return summary["distilled"]["parameters_sha256"]


def _model(own, shape=(2, 4), classes=3, **given):
  given = {"key": "config.teacher.name=t.py:t", "file": "t.py"} | given
  seen = jax.ShapeDtypeStruct(shape, np.float32)
  return function.model(own, seen, classes, **given)


def _double(inputs):
  return 2 * inputs[:, :3], {"last": inputs[:, 3:]}


def test_the_net_of_a_function_gives_what_it_gives_also_compiled_and_in_lanes():
  model, x = _model(_double), jnp.arange(24.0).reshape(2, 3, 4)
  variables = model.init(jax.random.key(0), x[0])
  assert not jax.tree.leaves(variables)
  ask = lambda x: model.apply(variables, x, train=False)[0]
  for found in (ask(x[0]), jax.jit(ask)(x[0])):
    np.testing.assert_array_equal(found.logits, 2 * x[0, :, :3])
    np.testing.assert_array_equal(found.features["last"], x[0, :, 3:])
  lanes = jax.jit(jax.vmap(ask))(x)
  np.testing.assert_array_equal(lanes.logits, 2 * x[..., :3])
  np.testing.assert_array_equal(lanes.features["last"], x[..., 3:])


_ON_ALL_THREADS = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
import jax, jax.numpy as jnp
from kd_jax.models import function
model = function.model(
    lambda x: 2 * x[:, :3], jax.ShapeDtypeStruct((2, 4), "float32"), 3,
    key="teacher", file="file")
ask = lambda x: model.apply(model.init(None, None), x + 1, train=False)[0].logits
print(jax.pmap(ask)(jnp.ones((2, 100_000, 4))).sum())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux")
def test_as_many_devices_as_threads_ask_a_function_at_once():
  done = subprocess.run(
      [sys.executable, "-c", _ON_ALL_THREADS], timeout=120, check=True,
      capture_output=True, text=True)
  assert float(done.stdout) == 2 * 100_000 * 3 * 4


_KNOWS = """
import numpy as np
patterns = np.random.default_rng(0).integers(0, 200, (7, 120)) / 255
def knows(images):
  away = images.reshape(-1, 1, 120) - patterns
  return -(away**2).sum(-1)
def turned(images):
  return -knows(images)
def rolled(images):
  return np.roll(100 * knows(images), 1, axis=-1)
def not_loaded(images):
  mixed = np.random.default_rng(3).normal(size=(120, 7))
  return 5 * np.sin(300 * images.reshape(len(images), -1) @ mixed)
"""


def test_the_doctor_asks_a_function_and_refuses_what_a_run_would(tmp_path, capsys):
  (tmp_path / "own.py").write_text(_KNOWS)
  np.savez(tmp_path / "blobs.npz", **{
      f"{name}_{part}": array for part, number in (("train", 70), ("test", 1500))
      for name, array in zip("xy", blobs(number, seed=number))})
  def told(of):
    code = doctor.run([*SMALL, f"--config.data.dir={tmp_path}",
                       f"--config.teacher.name={tmp_path / 'own.py'}:{of}"])
    return code, " ".join(capsys.readouterr().out.split())
  code, text = told("knows")
  assert code == 0 and "asked of 1,000 test examples: 0 wrong, " in text
  for of, remedy in (("turned", "return -logits"), ("not_loaded", "weights")):
    code, text = told(of)
    assert code == 1 and "1 problem(s)" in text, text
    problem = text.partition("problem: ")[2]
    assert remedy in problem
    # The largest pixel is 199 + 55 of 255.
    assert "it is given float32 [B, 12, 10, 1], 0 to 0.99" in problem
  # Of few examples it is not sure, and warns.
  file = dict(np.load(tmp_path / "blobs.npz"))
  np.savez(tmp_path / "blobs.npz", **file | {
      name: file[name][:30] for name in ("x_test", "y_test")})
  code, text = told("rolled")
  assert code == 0 and "asked of 30 test examples: 30 wrong" in text
  assert "warning: config.teacher.name: its own probabilities promise 100" in text


@pytest.mark.parametrize("own, words", [
    (lambda x: x, "logits have the shape (2, 4) for 2 inputs, not (2, 3)"),
    (lambda x: x[:1, :3], "logits have the shape (1, 3)"),
    (lambda x: None, "no array of numbers"),
    (lambda x: "logits", "no array of numbers"),
    (lambda x: x[:, :3] > 0, "no array of numbers"),
    (lambda x: (x[:, :3], x), "give a dict of features"),
    (lambda x: (x[:, :3], {"tap": x[0]}), "features tap have the shape (4,)"),
    (lambda x: 1 / 0, "ZeroDivisionError")])
def test_what_is_no_answer_is_refused_when_it_is_tried(own, words):
  with pytest.raises(UserError) as error:
    _model(own)
  text = str(error.value)
  assert text.startswith("config.teacher.name=t.py:t") and words in text
  assert "\n" not in text


class _Tensor:
  """As PyTorch's: no array before it is detached and on the CPU."""

  def __init__(self, array):
    self.array = array

  def detach(self):
    return self

  def cpu(self):
    return self

  def numpy(self):
    return self.array

  def __array__(self, *_, **__):
    raise TypeError("requires grad")


def test_tensors_of_pytorch_and_half_precision_are_taken():
  model = _model(lambda x: _Tensor(x[:, :3].astype(np.float16)))
  outputs = model.on_host(np.ones((5, 4), np.float32))
  assert outputs.logits.dtype == np.float32 and outputs.logits.shape == (5, 3)


@pytest.mark.parametrize("own, is_one", [
    (lambda images: images, True), (lambda x, batch=3: x, True),
    (lambda num_classes: None, False), (lambda: None, False),
    (lambda a, b: None, False), (dict, False), (3, False)])
def test_a_function_of_inputs_is_told_from_one_that_makes_a_net(own, is_one):
  assert function.of_inputs(own) == is_one


@pytest.mark.parametrize("number", [1, 4])
def test_asked_on_the_host_it_sees_the_views_that_nets_see(number):
  images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), np.uint8)
  data = jax.device_put(segment.DeviceData(
      images, np.zeros(7, np.int32), np.arange(7, dtype=np.int32)))
  seen = []

  def asked(inputs):
    seen.append(inputs)
    return types.Outputs(inputs.reshape(len(inputs), -1)[:, :3], {})

  views = VIEWS["shift2"]
  model = types.Model(None, None, on_host=asked)
  predict = devices.make_predict(
      devices.choose("auto" if number > 1 else "single"), model, views)
  for view in (0, views.count - 1):
    found = predict((), data, jnp.int32(view))
    batch = segment.take(
        data, views, data.ids, jnp.full(7, view), jnp.ones(7, bool))
    np.testing.assert_array_equal(seen.pop(), batch.inputs)
    np.testing.assert_array_equal(found, batch.inputs.reshape(7, -1)[:, :3])


def test_its_stored_rows_are_compared_outside_of_programs():
  """In one of several devices its answer came on one, and the others waited."""
  images = np.random.default_rng(0).integers(0, 256, (90, 4, 4, 1), np.uint8)
  data = jax.device_put(segment.DeviceData(
      images, np.zeros(90, np.int32), np.arange(90, dtype=np.int32)))
  model = types.Model(None, None, on_host=lambda inputs: types.Outputs(
      inputs.reshape(len(inputs), -1)[:, :3], {}))
  source = logit_bank.Source(
      [model], [types.Variables({}, {})], data, VIEWS["none"],
      devices.choose("single"))
  bank = np.empty((90, 1, 1, 3), np.float32)
  assert [*logit_bank.build(source, bank)] == [1]
  logit_bank.verify(bank, source)
  with pytest.raises(parameters.Damaged):
    logit_bank.verify(np.roll(bank, 1, axis=0), source)


@pytest.mark.parametrize("what", ["logits", "features map"])
def test_what_it_gives_that_is_not_finite_is_refused_with_the_inputs(what):
  images = np.zeros((1200, 4, 4, 1), np.uint8)
  images[[3, 700, 1100], 2, 2] = 1
  data = jax.device_put(segment.DeviceData(
      images, np.zeros(1200, np.int32), np.arange(1200, dtype=np.int32)))
  good = data._replace(inputs=data.inputs.at[700].set(0))

  def asked(inputs):
    bad = inputs.any((1, 2, 3)) & (inputs[:, 2, 2, 0] != 0)
    bad &= np.arange(len(inputs)) == 200  # Of the second 500.
    logits = inputs.reshape(len(inputs), -1)[:, :3].astype(np.float32)
    logits[:, 0] = -np.inf  # A class that is masked.
    logits[bad & (what == "logits")] = np.nan
    maps = np.where(bad[:, None, None, None], np.inf, inputs)
    return types.Outputs(logits, {"map": maps} if what != "logits" else {})

  model = types.Model(None, None, on_host=asked)
  predict = devices.make_predict(devices.choose("single"), model, VIEWS["none"])
  with pytest.raises(UserError, match=(
      rf"gives NaN or infinite {what} of 1 input, 700, of 500 to 999 in ")):
    predict((), data, jnp.int32(0))
  assert predict((), good, jnp.int32(0)).shape == (1200, 3)


def test_features_that_are_not_finite_end_a_run_before_its_student(
    run, tmp_path, capsys):
  (tmp_path / "own.py").write_text(_OWN + """
def spoilt(images):
  logits, taps = pixels(images)
  return logits, taps | {"first": np.where(images[:, 0, 0] > 0.5, np.nan, 1)}
""")
  code, _ = run("--config.method=kd+hint",
                "--config.features.pairs=(('hidden_0', 'first'),)", of="spoilt")
  told, = capsys.readouterr().err.strip().splitlines()
  assert code == 2 and "gives NaN or infinite features first of " in told
  assert "learning rate" not in told


def test_it_teaches_what_its_logits_in_a_file_teach(run, own_data, tmp_path):
  """To the bit; and its own errors are those of its logits."""
  code, summary = run()
  assert code == 0
  found = data_lib.load("blobs", directory=own_data)
  pixels = found.train.inputs.reshape(-1, 120)[:, 20:27].astype(np.float32)
  np.save(tmp_path / "z.npy", 8 * (pixels * np.float32(1 / 255)))
  code, other = run(f"--config.teacher.logits={tmp_path / 'z.npy'}", of=None,
                    workdir="file")
  assert code == 0 and _sha(summary) == _sha(other)
  pixels = found.test.inputs.reshape(-1, 120)[:, 20:27]
  wrong = pixels.argmax(-1) != found.test.label
  teacher = summary["teacher"]
  assert teacher["test_wrong_ids"] == np.flatnonzero(wrong).tolist()
  assert teacher["test_errors"] == wrong.sum() and "parameters" not in teacher


def test_live_it_teaches_as_from_a_bank(run):
  _, banked = run("--config.teacher.bank=always")
  _, live = run("--config.teacher.bank=never", workdir="live")
  for name in ("test_nll", "agreement"):
    assert live["distilled"][name] == pytest.approx(
        banked["distilled"][name], rel=1e-4)


def test_students_of_other_answers_are_other_students(run, tmp_path):
  """Though the source is the same: a function may read its weights from a file."""
  _, before = run()
  _, again = run()
  assert again["distilled"]["fingerprint"] == before["distilled"]["fingerprint"]
  (tmp_path / "factor").write_text("2")
  _, after = run()
  _, fresh = run(workdir="fresh")
  assert _sha(after) == _sha(fresh) != _sha(before)


def test_its_features_teach_also_in_lanes(run, tmp_path):
  own = ("--config.method=kd+hint", "--config.hint.weight=0.5",
         "--config.features.pairs=(('hidden_0', 'first'),)")
  code, alone = run(*own, "--config.temperature=4")
  assert code == 0
  code, _ = run(*own, "--config.teacher.bank=never", "--sweep.temperature=4,2",
                "--config.sweep.lanes=1x2", workdir="lanes")
  rows = {row["overrides"]["temperature"]: row for row in map(
      json.loads, (tmp_path / "lanes/results.jsonl").read_text().splitlines())}
  assert code == 0 and rows[4.0]["test_nll"] == pytest.approx(
      alone["distilled"]["test_nll"], rel=1e-4)
  assert rows[2.0]["test_nll"] != rows[4.0]["test_nll"]


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(run):
  _, whole = run()
  with segments(stop_at=4):
    code, _ = run(workdir="cut")
  assert code == 143
  code, summary = run(workdir="cut")
  assert code == 0 and _sha(summary) == _sha(whole)


@pytest.mark.parametrize("words, says", [
    (("--config.teacher.count=2",), "config.teacher.count=2: is of nets"),
    (("--config.teacher.dir=teachers",), "config.teacher.dir=teachers: is of nets"),
    (("--config.teacher.state_dict=w.npz",), "w.npz"),
    (("--config.method=simkd",), "config.method=simkd: "),
    (("--config.teacher.check=on",), "--config.teacher.check=off"),
    (("--config.student.name={}",), "cannot be trained")])
def test_what_a_function_cannot_be_is_refused_in_a_line(
    run, tmp_path, capsys, words, says):
  code, _ = run(*(word.format(tmp_path / "own.py:pixels") for word in words),
                of="probabilities" if "check=on" in words[0] else "pixels")
  error = capsys.readouterr().err
  assert code == 2 and says in error and "Traceback" not in error


@pytest.mark.slow
def test_on_eight_devices_it_teaches_the_same(run):
  _, one = run("--config.teacher.bank=never")
  code, eight = run("--config.teacher.bank=never", "--config.parallel=shard_map",
                    workdir="eight")
  assert code == 0 and eight["distilled"]["test_nll"] == pytest.approx(
      one["distilled"]["test_nll"], rel=1e-4)


@pytest.mark.slow
def test_an_exported_net_teaches_by_its_file(
    run, finished_run, tmp_path, monkeypatch):
  """The example for ONNX; the file of a run's own teacher makes its errors."""
  pytest.importorskip("onnxruntime")
  pytest.importorskip("jax2onnx")
  assert command.main([str(finished_run), "--net=teacher", "--format=onnx",
                       f"--out={tmp_path}"]) == 0
  monkeypatch.setenv("TEACHER", str(tmp_path / "teacher.onnx"))
  code, summary = run("--config.teacher.name=examples/teachers.py:onnx", of=None)
  known = json.loads((finished_run / "summary.json").read_text())
  assert code == 0 and (summary["teacher"]["test_wrong_ids"]
                        == known["teacher"]["test_wrong_ids"])


@pytest.mark.slow
def test_a_forest_of_scikit_learn_teaches_digits(tmp_path):
  code = main.run([
      "--config=mnist:smoke", f"--workdir={tmp_path}", "--config.steps=20",
      "--config.data.embedded=only",
      "--config.teacher.name=examples/teachers.py:scikit_learn"])
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert code == 0 and summary["teacher"]["test_errors"] < 100


def test_the_doctor_and_the_plan_know_it(tmp_path, own_data, capsys):
  (tmp_path / "own.py").write_text(_OWN)
  (tmp_path / "factor").write_text("8")
  words = [*SMALL, f"--config.data.dir={own_data}", "--config.method=kd+hint",
           f"--config.teacher.name={tmp_path / 'own.py'}:pixels",
           "--config.features.pairs=(('hidden_0', 'first'),)"]
  assert doctor.run([*words, f"--workdir={tmp_path / 'run'}"]) == 0
  said = " ".join(capsys.readouterr().out.split())
  assert re.search(r":pixels, a function, which is asked and not trained; taps "
                   r"first \[\d+, 16\], map \[\d+, 4, 4, 1\]", said)
  # Runs, lanes, chunks and steps of the plan.
  assert "│ teacher │ 1 │ 1x1x1 │ 1 │ 0 │" in said
  assert re.search("│ distilled │ 1 │ 1x1x1 │ 1 │ [1-9]", said)
  assert main.run([*words, "--plan"]) == 0
