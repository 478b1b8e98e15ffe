"""What breaks, breaks cleanly: the real program, killed, starved and misled."""

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
import zipfile

import numpy as np
import pytest
from soak import kill
from test_main import SMALL, _at_the_root, hashes, program, wait_for

from kd_jax import main
from kd_jax.runs import records

__all__ = ["_at_the_root"]  # A fixture that works by being here.

LONG = ("--config.epochs=4000", "--config.batch_size=16")


@pytest.fixture
def arguments(own_data, tmp_path):
  """The small job's arguments, for a workdir."""
  def of(*more, workdir=tmp_path / "run"):
    return [*SMALL, f"--config.data.dir={own_data}", f"--workdir={workdir}",
            *more]
  return of


def ended(*arguments):
  """Exit code and what was said on stderr, of the program within this one."""
  with contextlib.redirect_stderr(io.StringIO()) as said:
    code = main.run(list(arguments))
  told = said.getvalue()
  assert "Traceback" not in told, told
  return code, told


def summary(workdir):
  return json.loads((workdir / "summary.json").read_text())


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_bits(own_data, tmp_path):
  # Of other kinds, and 50 times: tests/soak/kill.py. A sweep: test_driver.py.
  kind = "single"
  kill.start(kind, own_data, tmp_path / "whole").communicate()
  wanted = kill.results(kind, tmp_path / "whole")
  assert wanted
  kills = list(kill.killed(
      kind, own_data, tmp_path / "run", wanted, random.Random(1), 2))
  assert any("seconds" in line for line in kills)
  rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  assert all(json.loads(row) for row in rows if row.endswith("}"))


def test_a_signal_saves_and_no_other_config_goes_on(arguments, tmp_path):
  with program(*arguments(*LONG)) as running:
    wait_for(tmp_path / "run/metrics.jsonl", "baseline")
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=60)
  assert running.returncode == 143, told
  assert time.monotonic() - began < 10
  record = next((tmp_path / "run/progress/baseline").glob("*/record/metadata"))
  assert json.loads(record.read_text())["marks"]["batch_size"] == 16
  other = (*LONG, "--config.optimizer.learning_rate=0.002")
  code, told = ended(*arguments(*other))
  assert code == 2
  assert "optimizer.learning_rate was 0.001, is 0.002" in told
  assert "--resume=force" in told and len(told.splitlines()) <= 2
  with program(*arguments(*other, "--resume=force")) as running:
    wait_for(tmp_path / "run/metrics.jsonl", "resumed")
    running.kill()


def test_a_second_program_in_the_workdir_is_refused(arguments, tmp_path):
  with program(*arguments(*LONG)) as running:
    wait_for(tmp_path / "run/metrics.jsonl", "teacher")
    code, told = ended(*arguments())
    assert code == 2 and "another program is at work there" in told
    assert running.poll() is None, "the first one goes on"
    running.kill()
  # A dead program holds no lock.
  with records.locked(tmp_path / "run"):
    pass


@pytest.mark.slow
def test_programs_that_share_a_shelf_train_a_teacher_once(arguments, tmp_path):
  shelf = (f"--config.teacher.dir={tmp_path / 'shelf'}",
           "--config.teacher.epochs=400", "--config.teacher.batch_size=16")
  first, second = (program(*arguments(*shelf, workdir=tmp_path / name))
                   for name in ("a", "b"))
  said = [running.communicate(timeout=240)[0] for running in (first, second)]
  assert first.returncode == second.returncode == 0, said
  assert sum("teacher: already trained" in text for text in said) == 1
  assert sum("waiting for it" in text for text in said) == 1
  assert hashes(summary(tmp_path / "a")) == hashes(summary(tmp_path / "b"))


@pytest.fixture
def small_disk(tmp_path):
  """A file system of some megabytes; gives its place and a way to mount it anew."""
  place = tmp_path / "disk"
  place.mkdir()
  mount = lambda options: subprocess.run(
      ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
      capture_output=True, check=False).returncode
  if shutil.which("mount") is None or mount("size=3m"):
    pytest.skip("needs the right to mount a small tmpfs: run as root")
  yield place, lambda options: subprocess.run(
      ["mount", "-o", f"remount,{options}", str(place)], check=True)
  subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_was_saved_is_kept(
    small_disk, arguments, tmp_path):
  place, remount = small_disk
  more = ("--config.student.widths=(300,300)", "--config.epochs=8",
          "--config.checkpoint.every=1 epochs", "--config.batch_size=16")
  code, told = ended(*arguments(*more, workdir=place / "run"))
  assert code == 2
  assert "the disk is full" in told and len(told.splitlines()) == 1, told
  remount("size=60m")
  with program(*arguments(*more, workdir=place / "run")) as running:
    said, told = running.communicate(timeout=240)
  assert running.returncode == 0, told
  assert "teacher: already trained" in said
  assert ended(*arguments(*more))[0] == 0
  assert hashes(summary(place / "run")) == hashes(summary(tmp_path / "run"))


def test_a_read_only_workdir_is_told(small_disk, arguments):
  place, remount = small_disk
  remount("ro")
  code, told = ended(*arguments(workdir=place / "run"))
  assert code == 2
  assert "cannot be written" in told and len(told.splitlines()) == 1


@pytest.mark.slow
def test_a_vanished_workdir_is_told(arguments, tmp_path):
  with program(*arguments("--config.teacher.epochs=2000")) as running:
    wait_for(tmp_path / "run/metrics.jsonl", "teacher")
    shutil.rmtree(tmp_path / "run")
    _, told = running.communicate(timeout=120)
  assert running.returncode in (0, 2)
  assert "Traceback" not in told and len(told.splitlines()) <= 1, told


DIVERGING = ("--config.optimizer.name=sgd",
             "--config.optimizer.learning_rate=1e25", "--config.epochs=6")


def test_a_loss_that_is_not_finite_stops_the_run(arguments, tmp_path):
  code, told = ended(*arguments(*DIVERGING))
  assert code == 3
  assert "the loss is not finite at step 2 (learning rate " in told, told
  assert "the state of step 0 is kept" in told and "T = " in told
  assert len(told.splitlines()) == 1
  # The last good state is there, and goes on with a better learning rate.
  mended = ("--config.optimizer.name=sgd", "--config.epochs=6",
            "--config.optimizer.learning_rate=0.1")
  code, told = ended(*arguments(*mended))
  assert code == 2 and "optimizer.learning_rate was 1e+25, is 0.1" in told
  code, told = ended(*arguments(*mended, "--resume=force"))
  assert code == 0, told
  forced = summary(tmp_path / "run")["baseline"]["resumed_although"]
  assert forced == ["optimizer.learning_rate was 1e+25, is 0.1"]
  # Nobody takes it for a net of its config alone.
  assert ended(*arguments(*mended))[0] == 0
  assert "resumed_although" not in summary(tmp_path / "run")["baseline"]


@pytest.mark.slow
def test_steps_that_are_not_finite_can_be_passed_over(arguments, tmp_path):
  code, _ = ended(*arguments(*DIVERGING, "--config.nonfinite=skip"))
  assert code == 0
  rows = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
  skipped = [row["train_skipped"] for row in rows if row["net"] == "baseline"]
  assert max(skipped) > 0.5


class Malice:
  """Unpickled, it leaves a folder behind."""

  def __init__(self, mark):
    self.mark = mark

  def __reduce__(self):
    return (os.mkdir, (str(self.mark),))


def test_a_malicious_pickle_is_refused_wherever_it_lies(
    arguments, tmp_path, capsys):
  mark = tmp_path / "was-run"
  evil = np.empty((1,), object)
  evil[0] = Malice(mark)
  file = io.BytesIO()
  np.save(file, evil, allow_pickle=True)
  # The payload works, where it is let in.
  file.seek(0)
  with contextlib.suppress(Exception):
    np.load(file, allow_pickle=True)
  assert mark.exists()
  mark.rmdir()

  # As data, as a teacher's logits, as a bank, within checkpoints and nets.
  data = tmp_path / "data"
  data.mkdir()
  with zipfile.ZipFile(data / "blobs.npz", "w") as archive:
    for key in ("x_train", "y_train", "x_test", "y_test"):
      archive.writestr(f"{key}.npy", file.getvalue())
  code, _ = ended(*arguments(f"--config.data.dir={data}"))
  assert code == 2
  (tmp_path / "evil.npy").write_bytes(file.getvalue())
  code, _ = ended(*arguments(f"--config.teacher.logits={tmp_path}/evil.npy"))
  assert code == 2
  assert ended(*arguments("--config.checkpoint.every=1 steps"))[0] == 0
  run = tmp_path / "run"
  next((run / "banks").glob("*.npy")).write_bytes(file.getvalue())
  shutil.rmtree(run / "parameters/distilled")
  code, told = ended(*arguments())
  assert code == 2 and "unreadable bank" in told
  shutil.rmtree(run / "banks")
  for folder in (run / "parameters/baseline",
                 next(path.parent for path in run.glob("teachers/*/record.json"))):
    for part in list(folder.rglob("*")):
      if part.is_file() and part.name != "record.json":
        part.write_bytes(file.getvalue())
    (folder / "arrays.pkl").write_bytes(file.getvalue())
  (run / "progress/distilled/5").mkdir(parents=True)
  for name in ("arrays", "record/metadata", "state.pkl"):
    place = run / "progress/distilled/5" / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(file.getvalue())
  code, _ = ended(*arguments("--config.temperature=3"))
  # What is damaged is made anew.
  assert code == 0 and "damaged" in capsys.readouterr().out
  assert not mark.exists()


def halved(own_data, folder, process, count):
  """A copy of the data of which a process's part of the bytes is right."""
  folder.mkdir()
  content = (own_data / "blobs.npz").read_bytes()
  size = len(content)
  own = slice(process * size // count, (process + 1) * size // count)
  blank = bytearray(len(content))
  blank[own] = content[own]
  (folder / "blobs.npz").write_bytes(blank)


@pytest.mark.slow
def test_processes_give_the_result_of_one(arguments, own_data, tmp_path):
  count, devices = 2, 2
  more = ("--config.parallel=auto", "--config.batch_size=50")
  whole = arguments(*more)
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
  with program(*whole, "--config.parallel=pmap", env=environment) as alone:
    alone.communicate(timeout=240)
  port = random.Random(count).randrange(20_000, 60_000)
  running = []
  for number in range(count):
    # Each finds only its own part of the file: it reads no other.
    halved(own_data, tmp_path / f"data{number}", number, count)
    running.append(program(
        *arguments(*more, f"--config.data.dir={tmp_path}/data{number}",
                   workdir=tmp_path / "spread"),
        f"--coordinator=127.0.0.1:{port}", f"--processes={count}",
        f"--process_id={number}",
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}))
  told = [each.communicate(timeout=240) for each in running]
  assert [each.returncode for each in running] == [0] * count, told
  assert not any("epoch" in said for said, _ in told[1:]), "the first one tells"
  one, spread = summary(tmp_path / "run"), summary(tmp_path / "spread")
  for net in ("teacher", "baseline", "distilled"):
    for key in ("test_errors", "test_wrong_ids", "train_errors"):
      assert spread[net][key] == one[net][key], (net, key)
    assert spread[net]["test_nll"] == pytest.approx(one[net]["test_nll"], rel=1e-4)
  rows = (tmp_path / "spread/metrics.jsonl").read_text().splitlines()
  assert len(rows) == 6 + 3 + 3, "process 0 alone writes"


@pytest.mark.slow
def test_processes_go_on_after_a_kill_and_a_signal_to_the_same_bits(
    arguments, tmp_path):
  more = ("--config.parallel=auto", "--config.epochs=10",
          "--config.batch_size=16", "--config.checkpoint.every=1 epochs")
  ports = itertools.count(20_000 + os.getpid() % 30_000)

  def start(workdir):
    port = next(ports)
    return [program(*arguments(*more, workdir=tmp_path / workdir),
                    f"--coordinator=127.0.0.1:{port}", "--processes=2",
                    f"--process_id={number}",
                    env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"})
            for number in range(2)]

  for each in start("whole"):
    each.communicate(timeout=240)
  first, second = start("run")
  wait_for(tmp_path / "run/metrics.jsonl", "baseline")
  second.kill()
  began = time.monotonic()
  _, told = first.communicate(timeout=60)
  assert time.monotonic() - began < 40
  assert first.returncode == 4, told
  assert "another process of this run is lost" in told
  second.communicate()
  first, second = start("run")
  wait_for(tmp_path / "run/metrics.jsonl", "resumed")
  # A signal to either stops both, and saves.
  second.send_signal(signal.SIGTERM)
  assert "stopped" in first.communicate(timeout=60)[1]
  assert second.communicate() and (first.returncode, second.returncode) == (
      143, 143)
  for each in start("run"):
    each.communicate(timeout=240)
  assert hashes(summary(tmp_path / "run")) == hashes(summary(tmp_path / "whole"))


@pytest.mark.parametrize(("more", "words"), [
    (("--coordinator=127.0.0.1:1",), "together"),
    (("--processes=2", "--process_id=0"), "together"),
    (("--coordinator=h:1", "--processes=2", "--process_id=2"), "from 0 to 1"),
    (("--coordinator=h:1", "--processes=two", "--process_id=0"), "whole number"),
    (("--resume=now",), "one of same, force"),
    (("--config.checkpoint.every=often",), "so many steps, epochs or minutes"),
    (("--config.checkpoint.every=0 steps",), "so many steps"),
    (("--config.parallel=all",), "one of auto, single, pmap, sharded"),
    (("--sweep.temperature=1,2", "--config.parallel=pmap"), "for single runs"),
])
def test_mistakes_are_told(more, words, arguments):
  code, told = ended(*arguments(*more))
  assert code == 2
  assert words in told and len(told.splitlines()) <= 3, told


@pytest.mark.slow
def test_processes_that_were_started_otherwise_are_refused(arguments):
  port = 21_000 + os.getpid() % 30_000
  running = [
      program(*arguments("--config.parallel=auto", f"--config.temperature={t}"),
              f"--coordinator=127.0.0.1:{port}", "--processes=2",
              f"--process_id={number}",
              env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"})
      for number, t in enumerate((2, 8))]
  told = [each.communicate(timeout=120)[1] for each in running]
  assert running[0].returncode != 0 and running[1].returncode != 0
  assert any("the config of process 1 is not that of process 0" in text
             for text in told), told
