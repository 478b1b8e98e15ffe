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
from kd_jax.config import schema
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
  code, _ = ended(*arguments())
  assert code == 0 and "unreadable bank" in capsys.readouterr().out
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
  # So it is not finished, and may be another.
  for left in (run / "summary.json", run / "report.html", *run.glob("table.*")):
    left.unlink(missing_ok=True)
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
    (("--config.parallel=all",), "one of auto, single, pmap, shard_map, sharded"),
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


def told_twice(workdir):
  """Epochs that stand in metrics.jsonl twice, with no event between the two."""
  seen, twice = set(), []
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    if not line.endswith("}"):
      continue  # What a killed program has left.
    row = json.loads(line)
    if "event" in row:
      seen = {each for each in seen if each[0] != row["net"]}
      continue
    each = row["net"], row.get("fingerprint"), row["epoch"]
    twice += [each] if each in seen else []
    seen.add(each)
  return twice


def rows_of(workdir, net):
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [row for row in rows if row["net"] == net]


def killed_at(file, word, *arguments):
  """Kills the program as soon as a file holds a word."""
  with program(*arguments) as running:
    wait_for(file, word)
    running.kill()
    running.communicate()


def test_a_kill_before_the_first_save_leaves_no_epoch_twice(arguments, tmp_path):
  file = tmp_path / "run/metrics.jsonl"
  killed_at(file, "teacher", *arguments(
      *LONG, "--config.checkpoint.every=9 minutes",
      "--config.teacher.epochs=400"))
  assert rows_of(tmp_path / "run", "teacher")
  code, told = ended(*arguments(
      "--config.epochs=1", "--config.batch_size=16",
      "--config.teacher.epochs=400"))
  assert code == 0, told
  assert not told_twice(tmp_path / "run")
  events = [row for row in rows_of(tmp_path / "run", "teacher") if "event" in row]
  assert [row["step"] for row in events] == [0]


def test_a_sweep_that_begins_again_says_so(arguments, tmp_path):
  sweep = ("--sweep.temperature=2,8", "--config.batch_size=16")
  killed_at(tmp_path / "run/metrics.jsonl", "sweep", *arguments(
      *sweep, "--config.epochs=300", "--config.checkpoint.every=9 minutes"))
  assert ended(*arguments(*sweep, "--config.epochs=300"))[0] == 0
  assert not told_twice(tmp_path / "run")
  events = [row for row in rows_of(tmp_path / "run", "sweep") if "event" in row]
  assert [row["step"] for row in events] == [0]


def flip(file):
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def edit(file):
  """Says of a net that it makes fewer test errors; nothing else of it."""
  told = json.loads(file.read_text())
  file.write_text(json.dumps(told | {"test_errors": told["test_errors"] + 1}))


@pytest.mark.parametrize(("which", "damage", "words"), [
    ("teachers/*/record.json", edit, "teacher: "),
    ("parameters/baseline/record.json", edit, "baseline: "),
    ("parameters/distilled/record.json", flip, "distilled: "),
    ("banks/*.npy", flip, "making it again from its teacher")])
def test_what_is_spoilt_is_made_again_and_said(
    arguments, tmp_path, capsys, which, damage, words):
  assert ended(*arguments())[0] == 0
  run, before = tmp_path / "run", summary(tmp_path / "run")
  for net in ("teacher", "baseline", "distilled"):
    assert "record_sha256" not in before[net]
  file, = run.glob(which)
  damage(file)
  if "banks" in which:
    shutil.rmtree(run / "parameters/distilled")  # Which is to be trained anew.
  capsys.readouterr()
  code, told = ended(*arguments())
  said = " ".join(capsys.readouterr().out.split())
  assert code == 0, told
  assert "damaged" in said and words in said
  again = summary(run)
  assert hashes(again) == hashes(before)
  for net in ("teacher", "baseline", "distilled"):
    assert again[net]["test_errors"] == before[net]["test_errors"]
  assert ended(*arguments())[0] == 0
  assert "damaged" not in capsys.readouterr().out


def test_records_of_an_earlier_version_are_read_and_said(
    arguments, tmp_path, capsys):
  assert ended(*arguments())[0] == 0
  run, before = tmp_path / "run", summary(tmp_path / "run")
  for file in (*run.glob("teachers/*/record.json"),
               *run.glob("parameters/*/record.json"), *run.glob("banks/*.json")):
    told = json.loads(file.read_text())
    file.write_text(json.dumps({
        key: value for key, value in told.items()
        if key not in ("record_sha256", "blocks")}))
  shutil.rmtree(run / "parameters/distilled")
  capsys.readouterr()
  assert ended(*arguments())[0] == 0
  said = " ".join(capsys.readouterr().out.split())
  assert said.count("has a record without a checksum") == 2
  assert said.count("already trained") == 2
  assert "has no checksums" in said
  assert hashes(summary(run)) == hashes(before)


def test_half_a_manifest_is_written_anew(arguments, tmp_path, capsys):
  assert ended(*arguments())[0] == 0
  file = tmp_path / "run/manifest.json"
  file.write_text(file.read_text()[:100])
  code, told = ended(*arguments())
  assert code == 0, told
  assert "is damaged; it is written anew" in " ".join(
      capsys.readouterr().out.split())
  assert json.loads(file.read_text())["schema"] == 1


def test_a_shelf_without_the_teacher_is_said_before_it_is_trained(
    arguments, tmp_path, capsys):
  hard = ("--config.epochs=1", "--config.teacher.epochs=1")
  assert ended(*arguments(*hard))[0] == 0

  def said(shelf, *more):
    capsys.readouterr()
    code, told = ended(*arguments(
        *hard, f"--config.teacher.dir={shelf}", "--resume=keep", *more,
        workdir=tmp_path / "again"))
    assert code == 0, told
    lines = capsys.readouterr().out
    before, _, _ = lines.partition("teacher: epoch")
    return " ".join(before.split()), lines

  # The right one: nothing is said, and it is used.
  before, lines = said(tmp_path / "run/teachers")
  assert "holds no teacher" not in lines and "teacher: already trained" in lines
  # Another config: what lies there, and what differs.
  before, _ = said(tmp_path / "run/teachers", "--config.teacher.widths=(20,)")
  assert "config.teacher.dir=" in before
  assert "holds no teacher of this config; it is trained now" in before
  assert "teacher.widths was [24], is [20]" in before
  # None at all.
  before, _ = said(tmp_path / "no/such", "--config.teacher.seed=3")
  assert "holds no teacher" in before and "no such folder" in before
  # It is kept there, and found.
  _, lines = said(tmp_path / "no/such", "--config.teacher.seed=3")
  assert "teacher: already trained" in lines and "holds no teacher" not in lines
  # Of an earlier version.
  record, = (tmp_path / "no/such").glob("*/record.json")
  told = json.loads(record.read_text())
  record.write_text(json.dumps({
      key: value for key, value in told.items()
      if key not in ("identity", "record_sha256")}))
  before, _ = said(tmp_path / "no/such", "--config.teacher.seed=4")
  assert "does not say with what it was trained" in before


def test_a_folder_that_is_no_shelf_is_refused_before_any_work(arguments, tmp_path):
  hard = ("--config.epochs=1", "--config.teacher.epochs=1")
  assert ended(*arguments(*hard))[0] == 0
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine/cv.txt").write_text("x")
  for place, expected in (("run/parameters/teacher", "is that teacher, but not"),
                          ("run/parameters", "give one that holds it"),
                          ("run", f"did you mean {tmp_path / 'run/teachers'}?"),
                          ("mine", "give one that holds it, or a new one")):
    files = sorted((tmp_path / place).rglob("*"))
    code, told = ended(*arguments(*hard, f"--config.teacher.dir={tmp_path / place}",
                                  workdir=tmp_path / "again"))
    assert code == 2 and expected in told and "is no folder of teachers" in told
    assert sorted((tmp_path / place).rglob("*")) == files


def test_a_shelf_that_cannot_be_written_is_refused_before_any_work(
    arguments, tmp_path):
  (tmp_path / "file").write_text("")
  for more in ((), ("--sweep.temperature=2,8",)):
    code, told = ended(*arguments(
        f"--config.teacher.dir={tmp_path / 'file' / 'shelf'}", *more))
    assert code == 2 and "none can be written there" in told, told
    assert "config.teacher.dir" in told
    assert not (tmp_path / "run/metrics.jsonl").read_text()
  # Where nobody needs a teacher, nobody looks.
  assert ended(*arguments("--config.method=hard", "--config.epochs=1",
                          f"--config.teacher.dir={tmp_path}/file"))[0] == 0


def test_every_path_may_begin_at_home(own_data, arguments, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  shutil.copytree(own_data, tmp_path / "home/data")
  with np.load(own_data / "blobs.npz") as blobs:
    for part in ("train", "test"):
      np.save(tmp_path / f"home/{part}.npy",
              np.eye(7, dtype=np.float32)[blobs[f"y_{part}"]] * 5)
  quick = ("--config.epochs=1", "--config.teacher.epochs=1",
           "--config.data.dir=~/data")
  assert ended(*arguments(*quick, "--config.teacher.dir=~/shelf"))[0] == 0
  assert [*(tmp_path / "home/shelf").glob("*/record.json")]
  logits = ("--config.teacher.logits=~/train.npy",
            "--config.teacher.test_logits=~/test.npy")
  assert ended(*arguments(*quick, *logits, workdir="~/logits"))[0] == 0
  assert (tmp_path / "home/logits/summary.json").is_file()
  code, told = ended(*arguments(*quick, "--config.teacher.state_dict=~/none.pth"))
  assert code == 2 and f"{tmp_path}/home/none.pth" in told
  code, told = ended(*arguments(*quick, "--config.init_from=~/none"))
  assert code == 2 and f"{tmp_path}/home/none" in told
  assert {*schema.PATHS} == {
      "data.dir", "init_from", "teacher.dir", "teacher.logits",
      "teacher.state_dict", "teacher.test_logits"}


@pytest.mark.slow
def test_a_kill_within_the_first_minute_loses_seconds(arguments, tmp_path):
  # At the default; every five minutes, all of it was lost, however often.
  more = arguments("--config.teacher.epochs=40000")
  saved = tmp_path / "run/progress/teacher"
  with program(*more) as running:
    for _ in range(1200):
      if [place for place in saved.glob("*") if place.name.isdecimal()]:
        break
      time.sleep(0.05)
    running.kill()
    running.communicate()
  killed_at(tmp_path / "run/metrics.jsonl", "resumed", *more)
  event, = (row for row in rows_of(tmp_path / "run", "teacher")
            if "event" in row)
  assert event["step"] > 0
