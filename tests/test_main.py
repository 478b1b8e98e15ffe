"""The program as its users meet it: its files, its numbers, its refusals."""

import contextlib
import io
import json
import linecache
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from conftest import ROOT
import jax
import numpy as np
import pytest

from experiments import record
from kd_jax import config as config_lib
from kd_jax import data, main, methods, report
from kd_jax.config import build
from kd_jax.core.screen import Screen
from kd_jax.data.views import VIEWS
from kd_jax.models import MODELS
from kd_jax.report import plots, statistics
from kd_jax.runs import results, summary, teacher_store
from kd_jax.training import parameters, segment

SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=3", "--config.min_steps=0", "--config.teacher.epochs=6",
    "--config.teacher.min_steps=0", "--config.student.widths=(12,)",
    "--config.teacher.widths=(24,)", "--config.batch_size=64",
    "--config.tensorboard=false", "--config.parallel=single",
    "--config.data.holdout=0.1")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)
  # The program computes as users run it: optax and all may promote.
  with jax.numpy_dtype_promotion("standard"):
    yield


def ran(place: pathlib.Path, *words: str):
  """Runs the small job in a folder; exit code and summary."""
  code = main.run([*SMALL, f"--workdir={place}", *words])
  file = place / "summary.json"
  return code, json.loads(file.read_text()) if file.is_file() else None


@pytest.fixture(scope="module")
def plain(own_data, teachers, tmp_path_factory):
  """The workdir of the small job, to be read or copied, its summary and words."""
  place = tmp_path_factory.mktemp("plain") / "run"
  with (contextlib.chdir(ROOT), jax.numpy_dtype_promotion("standard"),
        contextlib.redirect_stdout(io.StringIO()) as said,
        pytest.MonkeyPatch.context() as patch):
    patch.setattr(plots, "write", lambda *_: {})
    code, summary = ran(place, f"--config.data.dir={own_data}",
                        f"--config.teacher.dir={teachers}",
                        "--config.tensorboard=true")
  assert code == 0
  return place, summary, said.getvalue()


@pytest.fixture
def small(own_data, teachers, tmp_path):
  """Runs the small job with the teachers that are there; its code and summary."""
  def run(*more, workdir="run"):
    return ran(tmp_path / workdir, f"--config.data.dir={own_data}",
               f"--config.teacher.dir={teachers}", *more)
  return run


@pytest.fixture
def begun(plain, small, tmp_path):
  """`small` in a copy of the finished workdir."""
  shutil.copytree(plain[0], tmp_path / "run")
  return small


def test_a_teacher_is_not_its_student_of_the_same_seed(small):
  """Of one architecture, course and seed they would be one net, to the bit."""
  alike = ("--config.teacher.widths=(12,)", "--config.teacher.views=none",
           "--config.teacher.epochs=3", "--config.teacher.batch_size=64")
  code, summary = small(*alike)
  bits = {name: summary[name]["parameters_sha256"]
          for name in ("teacher", "baseline")}
  assert code == 0 and bits["teacher"] != bits["baseline"]
  # Students of one seed do begin as one net: without a soft term they stay one.
  code, summary = small(*alike, "--config.alpha=0.0", workdir="hard")
  assert code == 0 and (summary["distilled"]["test_wrong_ids"]
                        == summary["baseline"]["test_wrong_ids"])


MINE = '''
from kd_jax.methods import METHODS, Method, nothing
terms = METHODS["kd"].terms
mine = Method("any words", nothing, terms, weights=("hard_weight", "soft_weight"))
own = Method("{hard_weight:g} * CE + |z|**2", nothing, terms)
'''


@pytest.mark.parametrize("words", [
    "temperature=1e-30", "temperature=1e39", "temperature=1e6",
    "schedules.temperature_end=1e20", "optimizer.learning_rate=1e39",
    "optimizer.learning_rate=1e-60", "optimizer.learning_rate=1e-30",
    "teacher.optimizer.learning_rate=9e-13", "teacher.test_logits=test.npy",
    "student.widths=(10000000000,)",
    "batch_size=100000000", "teacher.batch_size=100000000"])
def test_numbers_that_cannot_be_are_refused(small, words, capsys):
  code, summary = small(f"--config.{words}")
  assert (code, summary) == (2, None)
  assert capsys.readouterr().err.startswith(
      f"error: config.{words.partition('=')[0]}")


WEIGHTLESS = ("--config.hard_weight=0", "--config.soft_weight=0")


@pytest.mark.parametrize("words", [
    ("--config.method=kd",), ("--config.method=mine",),
    ("--config.method=dkd",), ("--config.method=wkd_f", "--config.wkd_f.weight=0"),
    ("--config.method=simkd", "--config.simkd.weight=0"),
    ("--config.method=kd+rkd", "--config.rkd.weight=0"),
    ("--config.method=rkd", "--sweep.rkd.weight=1,0")])
def test_a_loss_whose_weights_are_all_zero_is_refused(
    small, tmp_path, words, capsys):
  (tmp_path / "mine.py").write_text(MINE)
  words = [word.replace("=mine", f"={tmp_path / 'mine.py'}:mine") for word in words]
  code, _ = small(*WEIGHTLESS, *words)
  told = capsys.readouterr().err
  assert code == 2 and "the weights of all its terms are 0" in told


@pytest.mark.parametrize("method", ["hint", "simkd", "kd+rkd", "wkd_l", "own"])
def test_a_loss_with_one_weight_above_zero_is_not(own_data, tmp_path, method):
  (tmp_path / "mine.py").write_text(MINE)
  name = f"{tmp_path / 'mine.py'}:own" if method == "own" else method
  methods.add_own(name)
  build.check_names(config_lib.changed(config_lib.flatten(config_lib.default()), {
      "hard_weight": 0.0, "soft_weight": 0.0, "method": name,
      "data.dir": str(own_data)}))


def test_the_main_job_leaves_what_it_promises(plain):
  run, summary, said = plain
  assert summary["schema"] == 1
  assert summary["dataset"] == {
      "name": "blobs", "source": "raw", "train_examples": 270,
      "test_examples": 110}
  assert list(summary) == ["schema", "dataset", "teacher", "baseline",
                           "distilled", "seconds"]
  for name in ("teacher", "baseline", "distilled"):
    record = summary[name]
    assert record["test_examples"] == 110
    assert record["test_errors"] == len(record["test_wrong_ids"])
    assert record["test_accuracy"] == 1 - record["test_errors"] / 110
    assert record["heldout_examples"] == 30
    assert re.fullmatch("[0-9a-f]{64}", record["parameters_sha256"])
  final = summary["distilled"]
  assert final["temperature"] == 8.0 and final["alpha"] == 0.9
  assert final["hard_weight"] == pytest.approx(0.1)
  assert 0 <= final["agreement"] <= 1 and final["kl"] >= 0
  # 120 x 24 + 24 + 24 x 7 + 7 of the teacher, 12 units in the students.
  assert summary["teacher"]["parameters"] == 3079
  assert summary["baseline"]["parameters"] == final["parameters"] == 1543
  assert json.loads((run / "config.json").read_text())["temperature"] == 8.0
  manifest = json.loads((run / "manifest.json").read_text())
  assert manifest["data"]["source"] == "raw" and manifest["versions"]["jax"]
  lines = (run / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [r["epoch"] for r in rows if r["net"] == "distilled"] == [1, 2, 3]
  assert list((run / "tensorboard" / "teacher").glob("events*"))
  assert "distilled" in said and "T = 8" in said and "0.1 * CE" in said


def test_saved_parameters_make_the_errors_of_the_summary(plain, own_data):
  place, summary, _ = plain
  found = data.load("blobs", directory=own_data)
  images = found.test.inputs.astype(np.float32) / 255
  for name, widths in (("teacher", (24,)), ("distilled", (12,))):
    held = parameters.load_parameters(place / "parameters" / name)
    model = MODELS["mlp"](num_classes=7, widths=widths)
    logits = model.apply(held, images, train=False)[0].logits
    wrong = np.flatnonzero(np.argmax(logits, -1) != found.test.label)
    assert wrong.tolist() == summary[name]["test_wrong_ids"]
    assert (parameters.parameters_sha256(held.params)
            == summary[name]["parameters_sha256"])


def hashes(summary):
  return [summary[name]["parameters_sha256"]
          for name in ("teacher", "baseline", "distilled")]


def test_the_same_command_twice_gives_the_same_bits(plain, small, tmp_path):
  own = f"--config.teacher.dir={tmp_path / 'own'}"
  _, again = small(own, workdir="again")
  _, other = small("--config.seed=1", workdir="other")
  assert hashes(again) == hashes(plain[1])
  assert hashes(other)[0] == hashes(again)[0], "the teacher has its own seed"
  assert hashes(other)[1:] != hashes(again)[1:]


def test_a_rerun_uses_what_is_there(plain, begun, tmp_path, capsys):
  first = hashes(plain[1])
  _, again = begun()
  assert hashes(again) == first
  assert capsys.readouterr().out.count("already trained") == 3
  # Another temperature is another distilled student, and nothing else.
  _, hotter = begun("--config.temperature=2", "--resume=keep")
  assert "teacher: already trained" in capsys.readouterr().out
  assert hashes(hotter)[:2] == first[:2] and hashes(hotter)[2] != first[2]
  # What is refused changes nothing.
  config = (tmp_path / "run/config.json").read_text()
  code, summary = begun(
      "--config.temperature=2", "--config.teacher.logits=/no/such.npy")
  assert code == 2 and summary == hotter
  assert (tmp_path / "run/config.json").read_text() == config


def test_a_teacher_is_shared_by_its_folder(
    plain, teachers, small, tmp_path, capsys):
  own = tmp_path / "own"
  shutil.copytree(teachers, own)
  # One that does not do what its record says is refused.
  path = plain[0] / "parameters/teacher/record.json"
  told = json.loads(path.read_text())
  record = own / told["fingerprint"][:16] / "record.json"
  assert json.loads(record.read_text()) == told
  assert small(f"--config.teacher.dir={own}", "--config.method=kd",
               "--config.steps=2")[0] == 0
  assert "teacher: already trained" in capsys.readouterr().out
  parameters.write_with_checksum(record, told | {"test_errors": 77})
  code, _ = small(f"--config.teacher.dir={own}", workdir="other")
  assert code == 2 and "record says 77" in capsys.readouterr().err


@pytest.mark.slow
def test_bank_and_live_teacher_train_the_same_student(small, tmp_path):
  # All images in a batch, as a bank has them: products of other shapes round
  # differently on some machines.
  views = ("--config.student.views=shift2", "--config.batch_size=300")
  _, banked = small(*views, "--config.teacher.bank=always", workdir="banked")
  # It does not pay to store 25 views for 3 epochs.
  _, live = small(*views, workdir="live")
  assert hashes(banked) == hashes(live)
  assert list((tmp_path / "banked/banks").glob("*.npy"))
  assert not (tmp_path / "live/banks").exists()


@pytest.mark.slow
def test_a_teacher_of_clean_images_has_a_bank_of_one_view(small, tmp_path):
  """Logits and taps of it are those of the live teacher."""
  words = ("--config.student.views=shift2", "--config.method=kd+pkt",
           "--config.batch_size=300")
  clean = (*words, "--config.teacher.sees=clean")
  small(*clean, workdir="banked")
  file, = (tmp_path / "banked/banks").glob("*.npy")
  assert np.load(file).shape == (300, 1, 1, 7)
  _, live = small(*clean, "--config.teacher.bank=never", workdir="live")
  student = lambda name: jax.tree.leaves(
      parameters.load_parameters(tmp_path / name / "parameters/distilled").params)
  for one, other in zip(student("banked"), student("live"), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
  _, both = small(*words, workdir="both")
  for name in ("parameters_sha256", "fingerprint"):
    assert both["distilled"][name] != live["distilled"][name]
  assert max(np.abs(one - other).max() for one, other in zip(
      student("both"), student("live"), strict=True)) > 1e-3
  # Of labels alone nothing changes, and no fingerprint of what was there before.
  assert both["baseline"] == live["baseline"] | {
      name: both["baseline"][name] for name in ("seconds",)}


@pytest.mark.slow
def test_a_teacher_averaged_over_views_is_the_mean_of_its_bank(small, tmp_path):
  """As if somebody had averaged the logits of all views, and given a file."""
  words = ("--config.method=kd", "--config.teacher.mean=logits")
  _, averaged = small(*words, "--config.teacher.sees=shift2", workdir="averaged")
  file, = (tmp_path / "averaged/banks").glob("*.npy")
  assert np.load(file).shape == (300, 25, 1, 7)
  np.save(tmp_path / "mean.npy", np.load(file).mean(axis=(1, 2)))
  small(*words, f"--config.teacher.logits={tmp_path / 'mean.npy'}",
        "--config.teacher.check=off", workdir="given")
  student = lambda name: jax.tree.leaves(
      parameters.load_parameters(tmp_path / name / "parameters/distilled").params)
  for one, other in zip(student("averaged"), student("given"), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
  _, plain = small(*words, workdir="plain")
  assert max(np.abs(one - other).max() for one, other in zip(
      student("averaged"), student("plain"), strict=True)) > 1e-3
  for name in ("parameters_sha256", "fingerprint"):
    assert averaged["distilled"][name] != plain["distilled"][name]


@pytest.mark.parametrize(("more", "says"), [
    (["--config.teacher.bank=never"], "teacher.bank=never asks the net itself"),
    (["--config.mixup=0.2"], "mixup=0.2 asks the net itself"),
    (["--config.method=kd+pkt"], "method=kd.pkt asks the net itself"),
    (["--config.method=logits"], "teacher.mean=probabilities: its mixture"),
    (["--config.teacher.sees=shift3"], "no such sees; .*shift2")])
def test_what_a_mean_over_views_cannot_do_is_refused(small, capsys, more, says):
  assert small("--config.teacher.sees=shift2", *more)[0] == 2
  assert re.search(says, capsys.readouterr().err)


def test_a_mean_over_shifts_of_a_table_is_refused(small, tmp_path, capsys):
  draw = np.random.default_rng(0)
  label = np.arange(60) % 3
  table = draw.normal(label[:, None], 0.5, (60, 4)).astype(np.float32)
  np.savez(tmp_path / "table.npz", x_train=table, y_train=label, x_test=table[:30],
           y_test=label[:30])
  code, _ = small(f"--config.data.dir={tmp_path}", "--config.data.name=table",
                  "--config.teacher.views=none", "--config.teacher.sees=shift2")
  assert code == 2
  assert "teacher.sees=shift2: is for images" in capsys.readouterr().err


@pytest.mark.parametrize("given", [False, True])
def test_a_student_of_a_bank_of_float16_is_another_one(
    small, tmp_path, capsys, given):
  words = ["--config.steps=5", "--config.temperature=3", "--config.method=kd"]
  if given:
    file = tmp_path / "logits.npy"
    np.save(file, np.random.default_rng(0).normal(size=(300, 7)))
    words += [f"--config.teacher.logits={file}", "--config.teacher.check=off"]
  else:
    words += ["--config.teacher.bank=always"]
  _, exact = small(*words, workdir="exact")
  capsys.readouterr()
  _, half = small(*words, "--config.teacher.bank_dtype=float16", workdir="half")
  assert "bank: float16, KL(teacher || bank) at T = 3: mean" in (
      capsys.readouterr().out)
  told = half["teacher"]["bank"]
  assert (told["dtype"], told["temperature"]) == ("float16", 3.0)
  assert 0 < told["mean_kl"] < told["max_kl"] < 1e-5
  assert "bank" not in exact["teacher"]
  rows = [results.read(tmp_path / name)[-1] for name in ("exact", "half")]
  assert rows[1]["teacher_bank"] == told and "teacher_bank" not in rows[0]
  assert rows[0]["fingerprint"] != rows[1]["fingerprint"]
  assert (exact["distilled"]["parameters_sha256"]
          != half["distilled"]["parameters_sha256"])


@pytest.mark.slow
def test_few_digits_show_what_soft_targets_are_good_for(tmp_path):
  assert main.run(["--config=mnist:few", "--config.data.embedded=only",
                   "--config.tensorboard=false", f"--workdir={tmp_path}"]) == 0
  nets = json.loads((tmp_path / "summary.json").read_text())
  ends = {name: statistics.binomial_interval(nets[name]["test_errors"], 1000)
          for name in ("baseline", "distilled")}
  assert ends["distilled"][1] < ends["baseline"][0]


def test_a_run_says_what_one_run_does_not_tell(capsys):
  nets = {"dataset": {"name": "d", "test_examples": 1000},
          "teacher": {"loss": "-"}}  # Of a file of logits no errors are known.
  net = lambda errors: {"test_errors": errors, "test_examples": 1000, "loss": "CE"}
  show = lambda **more: summary.show(
      Screen(), {**nets, **more}, "dkd", statistics.binomial_interval)
  for distilled, overlaps in (
      (190, False), (229, False), (250, True), (340, True), (350, False)):
    show(baseline=net(286), distilled=net(distilled))
    said = " ".join(capsys.readouterr().out.split())
    assert "baseline 258 to 315; distilled" in said and "teacher 2" not in said
    assert ("baseline and distilled overlap" in said) == overlaps
    assert "--sweep.method=hard,dkd " in said and "'method','hard'" in said
  show(baseline=net(0))
  said = capsys.readouterr().out
  assert "baseline 0 to 4." in said and "sweep.method" not in said


def test_a_sweep_ends_with_what_people_ask_of_its_table(tmp_path, capsys):
  table = tmp_path / "table.md"
  head = "| | method | n | failed | test errors | difference | p |\n|---|---|\n"
  table.write_text(head + r"| &lt;none> | a\|b | 3 | 0 | 68.6 ± 3.2 | +1.0 |  |"
                   "\n\nn runs a point\n")
  summary.show_table(Screen(), table)
  *_, row, _ = capsys.readouterr().out.splitlines()
  assert [cell.strip() for cell in row.split("│")[1:-1]] == [
      "<none>", "a|b", "3", "68.6 ± 3.2", "+1.0"]
  table.write_text(head + "| | a | 3 | 0 | 68.6 | | |\n" * 1234)
  summary.show_table(Screen(), table)
  said = capsys.readouterr().out
  assert "1,234 points" in said and "68.6" not in said


@pytest.mark.parametrize("parallel", ["single", "pmap"])
def test_a_bank_that_stays_on_the_host_trains_the_same_student(
    small, monkeypatch, capsys, parallel):
  """As the command has it; `test_fit.py` says more."""
  words = ("--config.student.views=shift2", "--config.teacher.bank=always",
           "--config.method=kd", f"--config.parallel={parallel}")
  whole = small(*words, workdir="whole")[1]
  monkeypatch.setattr(teacher_store, "_LARGEST_BANK", 1000)
  capsys.readouterr()
  streamed = small(*words, workdir="streamed")[1]
  assert "rows of an epoch at a time" in capsys.readouterr().out
  assert hashes(streamed) == hashes(whole)


def test_auto_banks_where_it_pays(plain):
  assert list((plain[0] / "banks").glob("*.npy"))


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_several_teachers_are_one(small, mean):
  _, summary = small(
      "--config.teacher.count=2", f"--config.teacher.mean={mean}",
      "--config.teacher.weights=(1.0,3.0)", "--config.steps=5")
  teacher = summary["teacher"]
  assert len(teacher["members"]) == 2
  first, second = (m["parameters_sha256"] for m in teacher["members"])
  assert first != second
  assert teacher["test_errors"] == len(teacher["test_wrong_ids"])


@pytest.mark.parametrize("more", [
    # The others: test_modes.py, and `python tests/soak/methods.py`.
    *((f"--config.method={method}",) for method in (
        "hard", "logits", "tfkd")),
    pytest.param(("--config.student.name=resnet8",
                  "--config.student.widths=(4,4,4)"), marks=pytest.mark.slow),
    pytest.param(
        ("--config.optimizer.name=sgd", "--config.optimizer.nesterov=true",
         "--config.optimizer.schedule=step", "--config.data.scale=standard",
         "--config.optimizer.boundaries_percent=(50.0,)"), marks=pytest.mark.slow),
    ("--config.hard_weight=1.0", "--config.soft_weight=2.0"),
    pytest.param(
        ("--config.student.name=examples.own_model:Net",), marks=pytest.mark.slow),
], ids=lambda more: more[0].removeprefix("--config."))
def test_variations_run(small, more):
  code, summary = small("--config.epochs=1", *more)
  assert code == 0
  method = next((m for m in more if "method=hard" in m), None)
  assert ("distilled" in summary) == (method is None)


def test_what_a_method_learns_is_told_and_not_exported(small, tmp_path):
  _, summary = small("--config.method=ctkd")
  plain, final = summary["baseline"], summary["distilled"]
  assert final["temperature"] is None, "it has none: T is learned"
  lines = [json.loads(line) for line in
           (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
  learned = [line["train_temperature"] for line in lines
             if "train_temperature" in line]
  # 1 + 20 sigmoid(1), the authors' first, is where it starts.
  assert learned and learned[0] == pytest.approx(15.6, abs=0.3)
  # Neither counted nor saved: what remains is a student like any other.
  assert final["parameters"] == plain["parameters"]
  nets = [parameters.load_parameters(tmp_path / "run/parameters" / name).params
          for name in ("baseline", "distilled")]
  assert jax.tree.structure(nets[0]) == jax.tree.structure(nets[1])


def test_a_users_logits_are_a_teacher(small, own_data, tmp_path):
  found = data.load("blobs", directory=own_data)
  np.save(tmp_path / "t.npy", np.eye(7)[found.train.label] * 4.0)
  np.save(tmp_path / "s.npy", np.eye(7)[found.test.label] * 4.0)
  code, summary = small(
      f"--config.teacher.logits={tmp_path / 't.npy'}",
      f"--config.teacher.test_logits={tmp_path / 's.npy'}", "--config.epochs=1")
  assert code == 0
  assert summary["teacher"]["train_accuracy"] == 1.0
  assert summary["teacher"]["test_errors"] == 0
  assert "agreement" in summary["distilled"]


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "--config=FILE is missing"),
    (("--workdir", "--config=configs/mnist.py"), "--workdir: needs a value"),
    (("--config=configs/nope.py",), "no such file"),
    (("--config=configs/mnist.py:huge",), "known: default, few, paper"),
    (("--config.tempature=3",), "did you mean temperature"),
    (("--config.student.width=3",), "did you mean student.widths"),
    (("--config.temperature=0",), "must be a number > 0"),
    (("--config.temperature=-1",), "must be a number > 0"),
    (("--config.alpha=1.5",), "must be a number in [0, 1]"),
    (("--config.batch_size=abc",), "must be an integer >= 1"),
    (("--config.batch_size=0",), "must be an integer >= 1"),
    (("--config.batch_size=None",), "must be an integer >= 1"),
    (("--config.tempature=None",), "did you mean temperature"),
    (("--config.student.name=mpl",), "did you mean mlp"),
    (("--config.optimizer.name=sdg",), "one of sgd"),
    (("--config.method=kdd",), "did you mean kd"),
    (("--config.alpha=0.5", "--config.hard_weight=1"), "not both"),
    (("--config.data.dir=/no/such/folder",), "no such folder"),
    (("--config.data.name=mnsit",), "did you mean mnist"),
    (("--config.teacher.logits=/no/such.npy",), "cannot be read"),
    (("--config.student.name=cnn", "--config.student.widths=()",
      "--config.student.hidden_dropout=0.5"), "cnn has no dropout"),
    (("--config.optimizer.nesterov=true",), "needs optimizer.name=sgd"),
    (("--config.optimizer.momentum_end=0.99",), "end=0.99: needs optimizer.name="),
    (("--config.teacher.optimizer.warmup_epochs=50",),
     "config.teacher.optimizer.warmup_epochs=50: a warm-up of "),
    (("--config.optimizer.name=adamW",), "adamw, rmsprop (optimiser)\n"),
    (("--config.method=mine.py",), "as mine.py:NAME"),
    (("--config.optimizer.momentum_epochs=3",), "momentum stays as it is"),
    (("--nonsense=1",), "nonsense"), (("stray",), "unexpected"),
    (("--optimizer.name=adam",), "did you mean --config.optimizer.name?"),
    (("--config.optimizer=adam",), "no such key alone; its keys are optimizer."),
    (("--workdir=lr[1]",), "no net can be read from such a folder"),
])
def test_a_mistake_is_told_in_a_line_and_costs_nothing(
    arguments, words, own_data, tmp_path, capsys):
  config = [] if not arguments or arguments[0].startswith("--config=") else [
      *SMALL, f"--config.data.dir={own_data}"]
  code = main.run([*config, f"--workdir={tmp_path / 'run'}", *arguments])
  told = capsys.readouterr().err
  assert code == 2
  assert words in told and "Traceback" not in told
  assert len(told.strip().splitlines()) == 1
  assert not (tmp_path / "run" / "parameters").exists()


def test_a_config_file_that_raises_is_told(tmp_path, capsys):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config():\n  return 1 / 0\n")
  assert main.run([f"--config={broken}"]) == 2
  assert "ZeroDivisionError" in capsys.readouterr().err


def test_weights_on_the_command_line_replace_the_files_alpha():
  config, _ = main.parse(["--config=configs/mnist.py",
                          "--config.hard_weight=1", "--config.soft_weight=2"])
  assert config.alpha is None and config.soft_weight == 2.0


def test_what_the_user_says_goes_before_what_the_file_says():
  parse = lambda *more: main.parse(["--config=configs/mnist.py:smoke", *more])[0]
  assert parse().steps == 500
  config = parse("--config.epochs=3", "--config.student.name=resnet8")
  assert config.steps is None and config.min_steps == 0 and config.epochs == 3
  assert config.teacher.steps == 500
  assert config.student.widths == ()  # the model's own, not those of an MLP
  assert parse("--config.epochs=3", "--config.steps=7").steps == 7
  config = parse("--config.student.widths=(3,)", "--config.student.widths=(4,5)")
  assert config.student.widths == (4, 5)


def test_a_changed_module_of_the_users_is_trained_again(
    small, tmp_path, monkeypatch, capsys):
  monkeypatch.syspath_prepend(str(tmp_path))
  file = tmp_path / "users_net.py"
  source = (ROOT / "examples/own_model.py").read_text()
  words = ("--config.student.name=users_net:Net", "--config.method=hard",
           "--config.epochs=1")
  file.write_text(source)
  small(*words)
  file.write_text(source.replace("Dense(64)", "Dense(8)"))
  monkeypatch.delitem(sys.modules, "users_net")
  linecache.checkcache()
  capsys.readouterr()
  _, summary = small(*words)
  assert "baseline: already trained" not in capsys.readouterr().out
  assert summary["baseline"]["parameters"] == 120 * 8 + 8 + 8 * 7 + 7


def test_a_finished_run_becomes_rows(begun, tmp_path):
  begun("--config.epochs=2", "--resume=keep")
  study = tmp_path / "study"
  study.mkdir()
  arguments = [str(tmp_path / "run"), "--study", str(study), "--row", "x"]
  assert record.main(arguments) == record.main(arguments) == 0
  rows = report.read(study)
  assert [row["net"] for row in rows] == ["teacher", "baseline", "distilled"]
  assert rows[2]["loss"] == "0.1 * CE + 0.9 * T**2 * KL, T = 8"
  for row in rows:
    assert row["curve"][-1] == row["test_errors"]
    assert len(row["curve"]) == (6 if row["net"] == "teacher" else 2)
  assert report.main([str(study)]) == 0
  assert "0.1 * CE" in (study / "table.md").read_text()


def program(*arguments, **options):
  return subprocess.Popen(
      [sys.executable, "-m", "kd_jax.main", *arguments], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_help_is_quick_and_lists_the_keys():
  began = time.monotonic()
  with program("--help") as running:
    said, _ = running.communicate(timeout=60)
  assert running.returncode == 0
  assert "--config.temperature=4.0" in said
  # Two seconds is the promise on a quiet machine; jax alone takes longer.
  assert time.monotonic() - began < 10


def wait_for(path: pathlib.Path, words: str) -> None:
  for _ in range(1200):
    if path.is_file() and words in path.read_text():
      return
    time.sleep(0.05)
  raise AssertionError(f"{words} never came in {path}")


@pytest.mark.slow
def test_interrupted_and_run_again_is_uninterrupted(
    small, own_data, teachers, tmp_path, capsys):
  longer = ("--config.epochs=600", "--config.batch_size=16")
  _, whole = small(*longer, workdir="whole")
  for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
    place = tmp_path / f"cut{code}"
    arguments = [*SMALL, f"--config.data.dir={own_data}", *longer,
                 f"--config.teacher.dir={teachers}", f"--workdir={place}"]
    with program(*arguments) as running:
      wait_for(place / "metrics.jsonl", "baseline")
      running.send_signal(number)
      _, told = running.communicate(timeout=60)
    assert running.returncode == code, told
    assert "stopped; what is done is kept in" in told
    assert f"--workdir={place}" in told and "Traceback" not in told
    assert (place / "progress/baseline").is_dir()
    capsys.readouterr()
    _, again = small(*longer, workdir=place.name)
    assert "baseline: goes on from step" in capsys.readouterr().out
    assert hashes(again) == hashes(whole)


def test_a_second_interrupt_leaves_at_once(own_data, tmp_path):
  place = tmp_path / "cut"
  environment = os.environ | {"PYTHONPATH": f"{ROOT}/tests"}
  arguments = [*SMALL, f"--config.data.dir={own_data}", f"--workdir={place}",
               "--config.epochs=4000", "--config.batch_size=16"]
  with program(*arguments, env=environment) as running:
    wait_for(place / "metrics.jsonl", "baseline")
    # Both before the program can reach the end of a segment and save.
    running.send_signal(signal.SIGSTOP)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGCONT)
    _, told = running.communicate(timeout=60)
  assert running.returncode in (130, 143), told
  assert "Traceback" not in told


@pytest.mark.slow
def test_smoke_on_the_embedded_digits(tmp_path, monkeypatch):
  monkeypatch.delenv("KD_JAX_DATA", raising=False)
  code = main.run(["--config=configs/mnist.py:smoke",
                   "--config.data.embedded=only", f"--workdir={tmp_path}"])
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert code == 0
  assert "EMBEDDED" in summary["dataset"]["notice"]
  assert summary["dataset"]["source"] == "embedded"
  assert summary["baseline"]["test_errors"] < 150


@pytest.mark.slow
def test_smoke_on_the_official_digits(tmp_path, official_data):
  code = main.run(["--config=configs/mnist.py:smoke",
                   f"--config.data.dir={official_data}",
                   f"--workdir={tmp_path}"])
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert code == 0
  assert summary["dataset"]["train_examples"] == 60000
  assert summary["baseline"]["test_errors"] < 800


def test_the_full_bank_of_views_is_that_of_prediction(own_data):
  """Views of a bank are counted from the same image as the loop's."""
  found = data.load("blobs", directory=own_data)
  image = found.train.inputs[:1]
  view = VIEWS["shift2"].view(image[0], np.int32(0))
  np.testing.assert_array_equal(view, image[0])
  assert segment.steps_per_epoch(300, 64) == 5
