"""The doctor: its figures are those of the run, its refusals are lines."""

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import types

from conftest import ROOT
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_main import SMALL as MAIN

from kd_jax import data, methods, teachers
from kd_jax.config import build as building
from kd_jax.config import command_line, recipe
from kd_jax.config import run as run_lib
from kd_jax.core import randomness
from kd_jax.core.screen import Screen
from kd_jax.data import raw, tfds_source, views
from kd_jax.data.preprocess import Scaling
from kd_jax.models import MODELS
from kd_jax.runs import estimate, probe, records, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.doctor import (
  Visit,
  command,
  examine,
  first_batch,
  machine,
  sources,
)
from kd_jax.training import cost, inspection, step
from kd_jax.training import segment as segment_lib

SMALL = (*MAIN, "--config.data.holdout=0")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)
  # As users run it: optax and all may promote.
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def small(own_data, tmp_path):
  """The arguments of the small job."""
  return [*SMALL, f"--config.data.dir={own_data}",
          f"--workdir={tmp_path / 'run'}"]


@pytest.fixture
def doctor(small, capsys):
  """Runs the doctor on the small job; gives exit code and what it said."""
  def run(*more):
    code = command.run([*small, *more])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out
  return run


@pytest.fixture(scope="module")
def looked_at(own_data, tmp_path_factory):
  """The nets of a variant of the small job before their training, made once."""
  place = tmp_path_factory.mktemp("doctor")
  with contextlib.ExitStack() as stack:

    @functools.cache
    def look(*more):
      config, _ = command_line.parse([
          *SMALL, f"--config.data.dir={own_data}",
          *more])
      run = run_lib.read(config)
      visit = Visit(Screen(quiet=True))
      setup = setup_lib.prepare(
          run, place, Screen(quiet=True), lambda: False)
      stack.callback(setup.recorder.close)
      nets = examine.begin(visit, setup, recipe.nets(run.values, swept=False))
      return types.SimpleNamespace(
          run=run, visit=visit, setup=setup, nets=nets,
          terms=functools.cache(lambda: examine.terms(visit, [*nets.values()][-1])))
    yield look


@pytest.fixture
def quick(monkeypatch):
  """Compiles no training."""
  monkeypatch.setattr(examine, "memory", lambda *arguments: 0)


def lines(said, kind):
  return [line for line in said.splitlines() if line.startswith(kind)]


def test_a_run_that_would_work_is_told_on_a_screen(doctor, tmp_path):
  code, said = doctor()
  assert code == 0
  assert not lines(said, "problem:") and not lines(said, "warning:")
  assert "nothing is in the way" in said
  # 120 x 12 + 12 + 12 x 7 + 7 and 120 x 24 + 24 + 24 x 7 + 7.
  assert "mlp 12, 1,543 parameters; taps hidden_0 [64, 12]" in said
  assert "mlp 24, 3,079 parameters; taps hidden_0 [128, 24]" in said
  assert "blobs from raw: 300 training and 110 test inputs of 12x10x1" in said
  assert jax.__version__ in said and f"python {sys.version_info[0]}." in said
  # 300 examples in batches of 64 (128 for the teacher): 5 and 3 an epoch.
  for name, steps in (("teacher", "18"), ("baseline", "15"), ("distilled", "15")):
    row, = (line for line in lines(said, "│") if f"│ {name} " in line)
    assert f" {steps} │" in row
  for word in ("hard", "soft", "0.1 * CE + 0.9 * T**2 * KL, T = 8",
               "2 runs in 2 compilations, 1 teacher", "disk", "cache",
               "commit"):
    assert word in said, word
  assert len(said.splitlines()) < 60
  # Folders are as long as they are.
  assert all(len(line) <= 100 for line in said.splitlines()
             if "/" not in line)
  assert not list(tmp_path.iterdir()), "nothing is left behind"


def first_step(small):
  """The small job's pieces, put together without the doctor."""
  config, _ = command_line.parse(small)
  found = data.load("blobs", directory=config.data.dir)
  student = building.student(config, found)
  scaling = Scaling(
      np.full((1,), 1 / 255, np.float32), np.zeros((1,), np.float32))
  train = building.device_data(found.train, found.train_ids, scaling)
  teacher = MODELS["mlp"](num_classes=7, widths=(24,))
  image = jnp.zeros((1, 12, 10, 1))
  key = randomness.stream(
      jax.random.key(randomness.of_role(config.teacher.seed, 1)), "init")
  held = teacher.init(randomness.stream(key, "student"), image)
  taught = teachers.live([teacher], [held])
  learner = step.Learner(
      student.model, methods.METHODS["kd"], student.optimizer_spec, taught)
  key = jax.random.key(student.seed)
  state = step.init(learner, randomness.stream(key, "init"), image, student.hparams)
  return config, found, train, student, learner, state, teacher, held


def test_terms_are_those_of_the_runs_first_step(looked_at, small):
  _, train, student, learner, state = first_step(small)[1:6]
  found = looked_at()
  segment = segment_lib.make_segment(learner, student.views, student.batch_size)
  _, told = segment(
      state, train, learner.teacher.arrays, student.hparams,
      jax.random.key(student.seed), 1)
  assert [term.name for term in found.terms()] == ["hard", "soft"]
  for term in found.terms():
    assert term.value == pytest.approx(told[term.name].compute(), rel=1e-5)
  assert [term.weight for term in found.terms()] == pytest.approx([0.1, 0.9])
  assert not found.visit.problems


def test_gradient_norms_are_those_of_an_independent_gradient(looked_at, small):
  config, found, _, student, _, state, teacher, held = first_step(small)
  key = randomness.stream(jax.random.key(config.seed), "data")
  ids = np.asarray(randomness.epoch_order(key, 0, jnp.arange(300)))[:64]
  images = jnp.asarray(found.train.inputs[ids] / 255, jnp.float32)
  label = found.train.label[ids]
  v = teacher.apply(held, images, train=False)[0].logits

  def hard(params):
    z = student.model.apply(
        state.student._replace(params=params), images, train=True)[0].logits
    log_q = jax.nn.log_softmax(z)
    return 0.1 * -jnp.mean(log_q[jnp.arange(64), label])

  def soft(params):
    z = student.model.apply(
        state.student._replace(params=params), images, train=True)[0].logits
    p = jax.nn.softmax(v / 8)
    gap = jnp.log(p) - jax.nn.log_softmax(z / 8)
    return 0.9 * 8**2 * jnp.mean(jnp.sum(p * gap, axis=-1))

  told = looked_at().terms()
  for term, function in zip(told, (hard, soft), strict=True):
    gradient = jax.grad(function)(state.student.params)
    norm = sum(float(np.square(np.float64(leaf)).sum())
               for leaf in jax.tree.leaves(gradient)) ** 0.5
    assert term.gradient == pytest.approx(norm, rel=1e-4)
  assert told[0].gradient != pytest.approx(told[1].gradient)


def test_terms_of_a_method_that_asks_how_far_the_run_is(looked_at):
  """Its own parameters, numbers and ramp are those of the first step."""
  found = looked_at("--config.method=ctkd")
  hard, soft, learned = found.terms()
  assert not found.visit.problems
  assert [each.name for each in found.terms()] == ["hard", "soft", "temperature"]
  assert hard.gradient > 0 and soft.gradient > 0
  assert learned.weight == learned.gradient == 0  # it is only told


def disk(found, tmp_path):
  return examine.tell_of_disk(found.visit, found.setup, found.nets, tmp_path)


def test_nets_are_counted(looked_at, tmp_path):
  found = looked_at(
      "--config.student.name=cnn", "--config.student.widths=(3,5)",
      "--config.teacher.count=2")
  # 3x3x1x3 + 3, 3x3x3x5 + 5, and from 3 x 3 of 5 channels to 7 classes.
  student = 30 + 140 + 45 * 7 + 7
  for name in ("baseline", "distilled"):
    assert found.visit.facts[name].startswith(
        f"cnn 3x5, {student} parameters; taps conv_0 [64, 6, 5, 3], "
        "conv_1 [64, 3, 3, 5]")
  for name in ("teacher_0", "teacher_1"):
    assert "3,079 parameters" in found.visit.facts[name]
  # Both members twice, the students twice, of a member's state three copies.
  assert disk(found, tmp_path) == pytest.approx(4 * (
      4 * 3079 + 2 * student + 9 * 3079 + 2 * 300 * 7), abs=64)


def test_disk_and_memory_are_reckoned(looked_at, tmp_path, monkeypatch):
  found = looked_at()
  # Both nets twice; of the larger, weights and Adam's two moments three times,
  # with two counts and a step; the bank.
  needed = disk(found, tmp_path)
  assert needed == pytest.approx(
      4 * (2 * 3079 + 2 * 1543 + 3 * 3 * 3079 + 300 * 7), abs=64)
  visit, distilled = Visit(Screen(quiet=True)), found.nets["distilled"]
  memory = examine.memory(visit, found.setup, distilled)
  # At least the images of both splits, 410 of 120 bytes, and the bank.
  assert 410 * 120 + 4 * 300 * 7 < memory < 2**26 and not visit.problems
  monkeypatch.setattr(machine, "free", lambda folder: 1000)
  examine.tell_of_disk(visit, found.setup, found.nets, tmp_path)
  monkeypatch.setattr(probe, "device_bytes", lambda: memory - 1)
  examine.memory(visit, found.setup, distilled)
  room, step = visit.problems
  assert "1000 B are free" in room and "distilled: a step needs" in step
  assert visit.fatal


def test_of_a_bank_on_the_host_two_epochs_are_on_the_device(
    looked_at, monkeypatch):
  found = looked_at("--config.student.views=shift2", "--config.teacher.bank=always")
  bank = lambda **more: examine._bank(
      found.setup, found.nets["distilled"], **more)
  assert bank() == bank(on_device=True) == 4 * 300 * 25 * 7
  monkeypatch.setattr(teacher_store, "_LARGEST_BANK", 1000)
  assert (bank(), bank(on_device=True)) == (4 * 300 * 25 * 7, 2 * 4 * 300 * 7)
  # Where it has to be on the device, auto makes none.
  wanted = lambda *more: teacher_store.wants_bank(
      looked_at(*more).run, found.setup.dataset,
      found.nets["distilled"].training._replace(total_steps=10**6), {})
  assert wanted("--config.student.views=shift2")
  assert not wanted("--config.student.views=shift2", "--sweep.seed=0,1")
  monkeypatch.setattr(teacher_store, "_LARGEST_FILE", 1000)
  assert not wanted("--config.student.views=shift2")


def test_a_divergence_within_a_few_steps_is_told(looked_at, monkeypatch):
  found = looked_at("--config.optimizer.learning_rate=1e38", "--config.method=hard")
  for longest, told in ((0.0, []), (2.0, ["baseline: NaN or infinite"])):
    monkeypatch.setattr(examine, "_LONGEST_STEP", longest)
    visit = Visit(Screen(quiet=True))
    examine.memory(visit, found.setup, found.nets["baseline"])
    assert [text.split(" after")[0] for text in visit.problems] == told


def plan(found, monkeypatch):
  """Net: steps and hours, on a machine of a hundred FLOPs a second."""
  monkeypatch.setattr(cost, "_FLOPS_PER_CORE", 1e2)
  screen, told = Screen(quiet=True), []
  monkeypatch.setattr(
      screen, "table", lambda title, columns, rows: told.extend(rows))
  estimate.show(screen, found.run)
  return {row[0]: (row[4], float(row[-1].removesuffix(" h"))) for row in told}


def test_a_live_teacher_costs_the_distilled_student(looked_at, monkeypatch):
  # 25 views in 3 epochs: no bank.
  live = plan(looked_at("--config.student.views=shift2"), monkeypatch)
  banked = plan(looked_at(), monkeypatch)
  assert list(live) == list(banked) == ["teacher", "baseline", "distilled"]
  assert banked["baseline"] == banked["distilled"] == live["baseline"]
  assert live["distilled"][1] > 1.5 * live["baseline"][1]


@pytest.mark.slow
def test_hard_labels_need_no_teacher(looked_at):
  """And a net with BatchNorm has a state beside its parameters."""
  found = looked_at(
      "--config.method=hard", "--config.student.name=resnet8",
      "--config.student.widths=(2,2,2)")
  term, = found.terms()
  assert (term.name, term.weight) == ("hard", 1.0) and term.gradient > 0
  assert list(found.nets) == ["baseline"] and not found.visit.problems
  assert "pooled [64, 2]" in found.visit.facts["baseline"]


STAGES = (
    "--config.method=hint", "--config.student.name=resnet",
    "--config.student.widths=(2,2,3)", "--config.student.model.depth=8",
    "--config.teacher.name=resnet", "--config.teacher.widths=(2,3,4)",
    "--config.teacher.model.depth=8", "--config.teacher.steps=1")


@pytest.mark.parametrize(("pairs", "shown"), [
    # A kernel, its bias, and the two numbers of a channel's norm; the state is a
    # mean and a variance of each of the teacher's channels.
    ("(('stage2','stage2'),)",
     ["stage2 6x5x2 with stage2 6x5x3, 15 parameters", "24 B of state"]),
    ("(('stage1','stage2'),('pooled','pooled'))",
     ["stage1 12x10x2 with stage2 6x5x3, 63 parameters",
      "pooled 3 with pooled 4, 24 parameters", "56 B of state"])])
def test_pairs_of_taps_by_their_names_are_shown(looked_at, pairs, shown):
  found = looked_at(*STAGES, f"--config.features.pairs={pairs}")
  assert found.visit.facts["compared"].split("; ") == shown
  assert not found.visit.problems


def test_a_pair_that_does_not_fit_comes_with_those_that_do(doctor, quick):
  code, text = doctor(*STAGES, "--config.features.pairs=(('stage3','stage1'),)")
  assert code == 1
  problem, = lines(text, "problem:")
  for words in ("stage3 (3x3x3)", "stage1 (12x10x2)", "config.features.pairs",
                "what fits"):
    assert words in problem


def test_dropout_is_looked_at(looked_at):
  found = looked_at("--config.student.hidden_dropout=0.5")
  hard = [each.terms()[0].value for each in (found, looked_at())]
  assert hard[0] != pytest.approx(hard[1]), "dropout is on"
  assert not found.visit.problems


@pytest.mark.slow
def test_several_devices_and_a_users_logits(looked_at, own_data, tmp_path):
  label = data.load("blobs", directory=own_data).train.label
  np.save(tmp_path / "t.npy", np.eye(7)[label] * 4.0)
  logits = f"--config.teacher.logits={tmp_path / 't.npy'}"
  one, several = (looked_at(f"--config.parallel={kind}", logits)
                  for kind in ("single", "pmap"))
  assert not several.visit.problems
  assert list(several.nets) == ["baseline", "distilled"]
  for term, same in zip(several.terms(), one.terms(), strict=True):
    assert term.name == same.name
    assert term[1:] == pytest.approx(same[1:], rel=1e-5)
  # Steps are run on all of them: this one diverges.
  examine.memory(several.visit, several.setup, several.nets["baseline"]._replace(
      training=several.nets["baseline"].training._replace(
          hparams=several.nets["baseline"].training.hparams.replace(
              learning_rate=jnp.float32(1e38)))))
  assert [text.split(" after")[0] for text in several.visit.problems] == [
      "baseline: NaN or infinite"]


def test_students_are_those_of_the_transfer_set(looked_at, monkeypatch):
  found = looked_at("--config.transfer.part=0.5")
  assert [len(each.setup.train.ids) for each in found.nets.values()] == [
      300, 150, 150]
  # Of 300 examples the students see 150: 3 steps an epoch of 64; the teacher all.
  assert [steps for steps, _ in plan(found, monkeypatch).values()] == [
      "18", "9", "9"]


def test_a_sweep_is_counted(doctor, quick):
  code, said = doctor("--sweep.alpha=0.0,0.9,1.0", "--sweep.seed=0,1",
                      "--sweep.student.widths=(8,),(12,)")
  assert code == 0
  assert "12 runs in 2 compilations" in said and "│ student " in said
  # The first lane that distils is tried, not the first.
  assert "0.1 * CE + 0.9" in said


@pytest.fixture
def bad_logits(tmp_path):
  np.save(tmp_path / "t.npy", np.zeros((299, 7)))
  return tmp_path / "t.npy"


@pytest.mark.parametrize(("arguments", "words"), [
    (("--config.tempature=3",), "did you mean temperature"),
    (("--config.batch_size=abc",), "must be an integer >= 1"),
    (("--config=configs/nope.py",), "no such file"),
    (("--config.data.dir=/no/such/folder",), "there is no such folder"),
    (("--config.method=kdd",), "did you mean kd"),
    (("--config.student.name=mpl",), "did you mean mlp"),
    (("--config.student.name=cnn", "--config.student.widths=(3,)"),
     "cnn takes 2 widths, such as (256,512); there is 1"),
    (("--config.teacher.weights=(1.0,2.0)",), "must be 1 number >="),
    (("--config.teacher.logits=/no/such.npy",), "cannot be read"),
    (("--config.student.init_scale=1e30", "--config.method=hard"),
     "would be NaN after one step"),
    (("--stray=1",), "stray"),
    (("--sweep.seed=0,1", "--config.sweep.reference=(('alpha',0.0),)",
      "--config.method=hard"),
     "no point of the sweep sets that"),
])
def test_a_mistake_is_a_line_and_exit_code_1(arguments, words, doctor, quick):
  code, said = doctor(*arguments)
  told = lines(said, "problem:")
  assert code == 1
  assert any(words in line for line in told), said
  assert len(told) == 1
  assert "python " in said, "the machine is looked at all the same"


def test_logits_of_another_shape_are_refused(doctor, bad_logits):
  code, said = doctor(f"--config.teacher.logits={bad_logits}")
  told, = lines(said, "problem:")
  assert code == 1 and "[299, 1, 7], must be [300, 1, 7]" in told
  assert "1,543 parameters" in said, "the student is looked at all the same"


def test_a_workdir_that_cannot_be_written_is_refused(bad_logits):
  visit = Visit(Screen(quiet=True))
  assert "not writable" in machine.disk(visit, bad_logits / "run")
  told, = visit.problems
  assert visit.fatal and "cannot be written (Not a directory)" in told


def test_a_workdir_in_use_is_refused(tmp_path):
  visit = Visit(Screen(quiet=True))
  assert "writable" in machine.disk(visit, tmp_path)
  assert not list(tmp_path.iterdir()) and not visit.problems
  with records.locked(tmp_path), visit.check("disk"):
    machine.disk(visit, tmp_path)
  assert "another program is at work there" in next(iter(visit.problems))


def test_both_nets_are_told(doctor):
  code, said = doctor("--config.student.widths=(0,)")
  assert code == 1 and len(lines(said, "problem:")) == 1
  code, said = doctor(
      "--config.student.name=cnn", "--config.student.widths=(3,)",
      "--config.teacher.name=cnn", "--config.teacher.widths=(3,)")
  assert code == 1
  assert {line.split(":")[1] for line in lines(said, "problem:")} == {
      " config.student.widths=(3,)", " config.teacher.widths=(3,)"}


def test_a_warning_does_not_fail(looked_at):
  visit = looked_at("--config.batch_size=400").visit
  told, = lines(command.verdict(visit), "warning:")
  assert not visit.fatal and "config.batch_size=400: more than the 300" in told


def test_what_nobody_foresaw_stops_nothing(doctor, quick, monkeypatch):
  def broken(*arguments):
    raise ZeroDivisionError("of\nsome kind")
  monkeypatch.setattr(machine, "optional", broken)
  monkeypatch.setattr(first_batch, "terms", broken)
  code, said = doctor()
  told = lines(said, "problem:")
  assert code == 1 and len(told) == 2
  assert told[0].startswith("problem: optional: ZeroDivisionError: of; some kind")
  assert "distilled" in said and "cores" in said


def test_without_a_config_the_machine_is_looked_at(
    own_data, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("KD_JAX_DATA", str(own_data))
  assert command.run([f"--workdir={tmp_path}"]) == 0
  said = capsys.readouterr().out
  assert "blobs (.npz)" in said and "cores" in said
  monkeypatch.setenv("KD_JAX_DATA", "/no/such")
  assert command.run([f"--workdir={tmp_path}"]) == 0
  assert "there is no such folder" in capsys.readouterr().out
  assert command.run(["stray"]) == 1
  assert "stray: unexpected" in capsys.readouterr().out


def test_a_damaged_set_is_told(tmp_path):
  (tmp_path / "mnist").mkdir()
  (tmp_path / "mnist/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3")
  visit = Visit()
  assert sources.raw_sets(visit, tmp_path) == []
  told, = visit.problems
  assert "lacks train-labels" in told and not visit.fatal


def test_official_files_are_known_by_their_checksums(official_data):
  held = sources.raw_sets(Visit(), official_data)
  assert "mnist (official)" in held
  found = data.load("mnist", directory=official_data)
  arrays = [*found.train, *found.test]
  assert raw.is_mnist(arrays)
  assert "official, sha256" in sources.describe(found)
  arrays[1] = np.roll(arrays[1], 1)
  assert not raw.is_mnist(arrays)


def test_prepared_sets_are_found_without_tfds(tmp_path):
  for place in ("mnist/3.0.1", "glue/cola/2.0.0"):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "dataset_info.json").touch()
  assert sources.prepared(tmp_path) == ["glue", "mnist"]


def test_nothing_is_downloaded_for_a_look(doctor, tmp_path, monkeypatch):
  if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("needs TensorFlow, which downloads for TFDS")
  def prepare(builder):
    raise AssertionError("downloads")
  monkeypatch.setattr(tfds_source, "prepare", prepare)
  monkeypatch.setattr(tfds_source, "_require_network", lambda: None)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  code, said = doctor("--config.data.name=cifar10", "--config.data.dir=None",
                      "--sweep.seed=0,1")
  told, = lines(said, "warning:")
  assert code == 0 and "begins with a download by TFDS" in told
  code, said = doctor("--config.data.name=cifra10", "--config.data.dir=None")
  assert code == 1 and "did you mean cifar10" in said


def test_what_a_run_remarks_on_its_data_is_shown(doctor, quick, tmp_path):
  draw = np.random.default_rng(0)
  x = draw.integers(0, 255, (120, 12, 10, 1)).astype(np.float32)
  np.savez(tmp_path / "wide.npz", x_train=x, y_train=np.arange(120) % 7,
           x_test=x[:60], y_test=np.arange(60) % 7)
  code, said = doctor("--config.data.name=wide", f"--config.data.dir={tmp_path}")
  told = " ".join(lines(said, "warning:"))
  assert code == 0 and "up to 254" in told and "data.scale=standard" in told
  # The time that is shown is not all that a run takes, which is said.
  assert "cores, plus compilation" in " ".join(said.split())


@pytest.mark.parametrize(("version", "told"), [
    ((3, 10), [True]), ((3, 11), []), ((3, 13), []), ((3, 14), [False])])
def test_python_is_judged(version, told):
  visit = Visit()
  assert f"jax {jax.__version__}" in machine.versions(visit, version)
  assert list(visit.problems.values()) == told


def test_no_batch_has_padding(device_data, looked_at):
  student = looked_at().nets["distilled"].training
  batch = inspection.first_batch(
      student._replace(batch_size=999, views=views.VIEWS["shift2"]),
      device_data)
  assert sorted(np.asarray(batch.id)) == list(range(150))
  assert np.asarray(batch.mask).all() and len(set(np.asarray(batch.view))) > 9


def test_help_needs_no_jax():
  said = subprocess.run(
      [sys.executable, "-c",
       "import sys; from kd_jax.runs.doctor import command as d; "
       "d.run(['--help']); assert 'jax' not in sys.modules"],
      cwd=ROOT, text=True, capture_output=True, check=True).stdout
  assert "usage: python -m kd_jax.doctor" in said


def test_a_device_that_is_not_there_is_a_line(tmp_path):
  """JAX raises errors of several kinds, from wherever it is asked first."""
  place = f"--workdir={tmp_path / 'run'}"
  for program in (["kd_jax.doctor"], ["kd_jax.main", place]):
    done = subprocess.run(
        [sys.executable, "-m", *program, "--config=configs/mnist.py:smoke"],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cuda"}, capture_output=True,
        text=True, check=False)
    assert done.returncode == (1 if "doctor" in program[0] else 2)
    assert "JAX_PLATFORMS=cuda: JAX finds no such device here" in (
        done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
