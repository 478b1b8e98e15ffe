"""What a user's files, machine and names do to the program: never a traceback."""

import ast
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

from conftest import ROOT
import pytest

from kd_jax import main, report
from kd_jax.config import command_line
from kd_jax.core import exits, strict
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen

CONFIG = """
from kd_jax import config as config_lib
def get_config(variant="plain"):
  config = config_lib.default()
  config.alpha = 0.5
  config.temperature = {"plain": 2.0, "hot": 20.0}[variant]
  return config
"""


_BEGUN, _GIVEN = CONFIG.removesuffix("  return config\n"), "  return config\n"


@pytest.mark.parametrize("name", ["2026-01-02_10:30/c.py", "a:b.py", "c.py"])
def test_a_path_may_have_colons(tmp_path, name):
  file = tmp_path / name
  file.parent.mkdir(exist_ok=True)
  file.write_text(CONFIG)
  config, workdir = main.parse([f"--config={file}"])
  assert config.temperature == 2 and workdir.name.startswith(file.stem)
  assert main.parse([f"--config={file}:hot"])[0].temperature == 20


@pytest.mark.parametrize(("text", "words"), [
    ("def get_config():\n  return {'steps': 3}", "a dict that is not made of"),
    ("def get_config():\n  x = 1\n  raise ValueError('my own word')",
     "my own word ({file}, line 3)"),
    ("def get_config():\n  import sys\n  sys.exit('bye')", "bye ({file}, line 3)"),
    ("x = 1\n1 / 0", "division by zero ({file}, line 2)"),
    ("import os\nos._exit(0)", "os._exit ({file}, line 2)"),
    ("def get_config():\n  import os\n  os._exit(0)", "os._exit ({file}, line 3)"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    (_BEGUN + "  config.optimizer.learning_rat = 1\n" + _GIVEN,
     "did you mean optimizer.learning_rate? ({file}, line 7)"),
    (_BEGUN + "  config.sweep.points = (3,)\n" + _GIVEN,
     "config.sweep.points=(3,): must be"),
    (_BEGUN + "  config.sweep.points = ({3: 4},)\n" + _GIVEN,
     "config.sweep.points=({3: 4},): must be"),
    (_BEGUN + "  config.sweep.points = None\n" + _GIVEN,
     "config.sweep.points=None: must be"),
    (_BEGUN + "  config.recipe = None\n" + _GIVEN, "config.recipe=None: must be"),
    (_BEGUN + "  config.unlock()\n  config.own = config\n" + _GIVEN,
     "contains itself"),
    ("def get_config():\n  raise GeneratorExit('x')", "GeneratorExit: x"),
    ("def get_config(:", "line 1")])
def test_what_a_config_file_raises_is_told_with_its_place(
    tmp_path, capsys, monkeypatch, text, words):
  monkeypatch.setattr(os, "_exit", sys.exit)  # It would end the tests at once.
  file = tmp_path / "c.py"
  file.write_text(text)
  assert main.run([f"--config={file}"]) == 2
  told = capsys.readouterr().err
  assert words.replace("{file}", str(file)) in told
  assert len(told.splitlines()) == 1


@pytest.fixture
def interruptible():
  """Ctrl-C as on a terminal: what a shell runs in the background ignores it."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_config_file_that_is_interrupted_ends_in_a_line(tmp_path):
  """Also while the program itself is still being imported."""
  file, begun = tmp_path / "c.py", tmp_path / "begun"
  file.write_text(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
                  "time.sleep(600)\n")
  # Stands for the interpreter that is loading what kd_jax imports.
  (tmp_path / "ml_collections.py").write_text(file.read_text())
  for path in ("", str(tmp_path)):
    with subprocess.Popen(
        [sys.executable, "-m", "kd_jax.main", f"--config={file}"], cwd=ROOT,
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path}) as running:
      while not begun.exists():
        time.sleep(0.05)
      running.send_signal(signal.SIGINT)
      told = running.communicate(timeout=60)[1]
    begun.unlink()
    assert running.returncode == 130 and told.split() == ["stopped"]


def test_a_path_that_is_refused_is_not_advised(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for words, near in (
      ([], "mnist"), (["--config=configs/mnist.py"], "mnist"),
      (["--config=born_agian"], "born_again"),
      (["--config=/no/cifar.py"], "cifar")):
    assert main.run(words) == 2
    told = capsys.readouterr().err
    advised = re.search(r"try (--config=(\w+):smoke)", told)
    assert advised[2].startswith(near) and "get_config" in told
    # What is advised is there, from any folder.
    assert command_line.parse([advised[1]])[0].student.widths


def test_signals_are_left_alone_in_a_thread():
  found = []

  def work():
    with main.Signals() as stop:
      found.append(stop())
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [False]


@pytest.mark.parametrize("name", ["matplotlib", "scipy"])
def test_a_missing_package_is_told_before_a_sweep(
    tmp_path, capsys, monkeypatch, name):
  monkeypatch.chdir(ROOT)
  monkeypatch.setitem(sys.modules, name, None)
  assert main.run(["--config=configs/mnist.py:smoke", "--sweep.seed=0,1",
                   f"--workdir={tmp_path / 'run'}"]) == 2
  assert f"pip install {name}" in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


def test_names_do_not_command_the_terminal(capsys):
  screen = Screen()
  screen.say("a\x1b[2Jb")
  screen.table("t", ["net", "n"], [["c\x1b]0;x\x07[/no] [red]d", "1"]])
  out = capsys.readouterr().out
  assert "\x1b" not in out and "\x07" not in out and "[red]d" in out
  assert main.run(["--config=a\x1b[2Jb.py"]) == 2
  assert "\x1b" not in capsys.readouterr().err
  assert "\x1b" not in str(UserError("\x1b[2J"))


def test_json_that_is_written_is_strict():
  text = strict.dumps({"a": [math.nan, math.inf, 1.5], "b": (1,)})
  assert json.loads(text, parse_constant=pytest.fail) == {
      "a": [None, None, 1.5], "b": [1]}


def test_no_file_is_written_with_json_that_may_be_loose():
  for folder in ("kd_jax", "benchmarks", "experiments", "docs", "examples"):
    for file in (ROOT / folder).rglob("*.py"):
      text = file.read_text()
      for call in ast.walk(ast.parse(text)) if "json.dump" in text else ():
        if isinstance(call, ast.Call):
          name = ast.unparse(call.func)
          assert name != "json.dump", file
          assert name.split(".")[-1] not in ("write", "write_text") or (
              "json.dumps(" not in ast.unparse(call)), file


@pytest.mark.parametrize("end", [
    "os._exit(0)", "os._exit(7)", "raise SystemExit",
    "os.execv('/bin/true', ['true'])", "import ctypes; ctypes.CDLL(None)._exit(0)"])
@pytest.mark.parametrize("text", ["{}", "def loss(*words):\n  {}"])
def test_a_target_that_ends_the_program_has_not_passed(tmp_path, text, end):
  file = tmp_path / "loss.py"
  file.write_text(f"import os\n{text.format(end)}\n")
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.conformance", f"{file}:loss"], cwd=ROOT,
      capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert "conformance:" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{}", "def loss(*words):\n  {}"])
def test_a_target_that_is_interrupted_ends_in_a_line(tmp_path, text):
  file = tmp_path / "loss.py"
  file.write_text(text.format("raise KeyboardInterrupt"))
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.conformance", f"{file}:loss"], cwd=ROOT,
      capture_output=True, text=True, check=False)
  assert done.returncode == 130 and done.stderr.count("\n") == 1


def test_what_a_target_does_at_the_end_changes_no_verdict(tmp_path):
  file = tmp_path / "loss.py"
  file.write_text("import atexit, os\natexit.register(lambda: os._exit(0))\n"
                  "def loss(student, teacher, *words):\n  return 0.0\n")
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.conformance", f"{file}:loss",
       "--only=temperature"], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode in (1, 2), done.stdout + done.stderr


@pytest.mark.parametrize(("output", "code"), [
    ("/dev/null", 0), ("| true", exits.UNREAD), ("/dev/full", 2)])
def test_output_may_go_anywhere(tmp_path, output, code):
  """Into letters that lack some of it, to nobody, and into a full device."""
  file = tmp_path / "program.py"
  file.write_text(
      "from kd_jax.core import exits\n"
      "exits.command(lambda _: print('\\u00b1 \\u2212\\udcff ' * 50_000) or 0)")
  where = output if output.startswith("|") else f"> {output}"
  done = subprocess.run(
      ["bash", "-c", f"{sys.executable} {file} {where}; exit ${{PIPESTATUS[0]}}"],
      cwd=ROOT, capture_output=True, text=True, check=False,
      env={**os.environ, "PYTHONIOENCODING": "cp1252:strict",
           "PYTHONPATH": str(ROOT)})
  assert done.returncode == code, done.stderr
  assert done.stderr.count("\n") == (code == 2) and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_stops_and_says_how_to_go_on(
    own_data, tmp_path):
  place = tmp_path / "run"
  words = ["-m", "kd_jax.main", "--config=configs/mnist.py",
           "--config.data.name=blobs", f"--config.data.dir={own_data}",
           "--config.min_steps=30000000", "--config.teacher.min_steps=0",
           "--config.teacher.epochs=1", "--config.tensorboard=false",
           f"--workdir={place}"]
  done = subprocess.run(
      ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "-", sys.executable,
       *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
  assert done.returncode == exits.UNREAD, done.stderr
  assert done.stdout.startswith("data:")
  assert f"what is done is kept in {place}. To go on:" in done.stderr


def test_a_system_without_fcntl_has_locks(tmp_path):
  code = (
      "import sys; sys.modules['fcntl'] = None\n"
      "import pathlib; from kd_jax.runs import records\n"
      "place = pathlib.Path(sys.argv[1])\n"
      "with records.locked(place):\n"
      "  try:\n"
      "    with records.locked(place): print('both')\n"
      "  except records.UserError: print('refused')\n"
      "with records.locked(place): print('again')\n")
  done = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True,
      text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"})
  assert done.stdout.split() == ["refused", "again"], done.stderr


def test_no_package_that_is_not_on_the_registry_is_advised():
  for file in pathlib.Path(ROOT / "kd_jax").rglob("*.py"):
    assert "install 'kd_jax[" not in file.read_text(encoding="utf-8"), file


SWEEP_ROW = {
    "schema": 2, "test_errors": 50, "test_examples": 1000, "test_nll": 0.1,
    "loss": "CE", "cores": 2, "device": "cpu", "versions": {"jax": "1"},
    "test_wrong_ids": [1], "curve": {"hard_loss": [1.0]}, "heldout_curve": [4, 3],
    "heldout_examples": 30, "test_bins": {"counts": [1, 2]}, "study": "s"}
MAIN_ROW = {
    "row": "paper", "net": "baseline", "source": "raw", "test_examples": 1000,
    "seed": 0, "test_errors": 5, "loss": "CE", "seconds": 1.0, "curve": [3, 2]}
HOSTILE = ["text", 9999, math.nan, math.inf, 10**400, None, {"a": {"b": [1]}},
           [[1, "x"]], {"jax": {"a": 1}}, -5, True, "\x1b[2J<script>"]


def test_a_report_over_hostile_rows_ends_without_a_traceback(
    tmp_path, capsys, monkeypatch):
  from kd_jax.report import plots
  monkeypatch.setattr(plots, "write", lambda *words: {})
  lines = [(key, value, [
      SWEEP_ROW | {"fingerprint": str(n), "seed": n % 2, "overrides": {
          "temperature": n // 2 + 1, "alpha": 0.5}} | (
              {key: value} if n == 1 else {})
      for n in range(4)]) for value in HOSTILE
      for key in [*SWEEP_ROW, "fingerprint", "seed", "overrides"]]
  lines += [(key, value, [
      SWEEP_ROW | {"fingerprint": str(n), "seed": n, "overrides": {
          "temperature": n + 1, key: value if n == 1 else 1}} for n in range(3)])
      for value in HOSTILE for key in ("temperature", "alpha", "student.widths")]
  lines += [(key, value, [MAIN_ROW | {key: value}, MAIN_ROW | {"seed": 1}])
            for value in HOSTILE for key in MAIN_ROW]
  codes = []
  for key, value, rows in lines:
    (tmp_path / "results.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows))
    codes.append(report.main([str(tmp_path)]))
    out, err = capsys.readouterr()
    assert codes[-1] == 0 or len(err.splitlines()) == 1, (key, value, err)
    assert "\x1b" not in out + err
  assert set(codes) == {0, 2}


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "3", '{"net": 3}', "{}", "\x00"])
def test_what_is_no_row_is_told_in_a_line(tmp_path, capsys, text):
  (tmp_path / "results.jsonl").write_text(text)
  assert report.main([str(tmp_path)]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("ids", [None, "abc", [[1]], {"a": 1}])
def test_nets_without_their_wrong_examples_are_not_compared(tmp_path, capsys, ids):
  (tmp_path / "results.jsonl").write_text("".join(
      json.dumps(SWEEP_ROW | {"fingerprint": name, "overrides": {},
                              "test_wrong_ids": ids}) + "\n" for name in "ab"))
  assert report.main([str(tmp_path), "--compare", "a", "b"]) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("teacher", [
    {"examples": [{"pixels": "x"}]}, {"entropy": [3]}, {"examples": 5}])
@pytest.mark.pictures
def test_soft_targets_of_something_else_are_told(tmp_path, capsys, teacher):
  (tmp_path / "results.jsonl").write_text(json.dumps(
      SWEEP_ROW | {"fingerprint": "a", "overrides": {"temperature": 1}}) + "\n")
  (tmp_path / "teacher.json").write_text(json.dumps(teacher))
  assert report.main([str(tmp_path)]) == 2
  told = capsys.readouterr().err
  assert "teacher.json" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("key", [
    "optimizer.learning_rate", "alpha", "optimizer.weight_decay",
    "student.input_dropout", "transfer.part", "optimizer.warmup_percent"])
@pytest.mark.parametrize("value", ["1e39", "1e-40"])
def test_a_number_that_float32_does_not_hold_is_called_that(capsys, key, value):
  assert main.run([f"--config={ROOT / 'configs/mnist.py'}",
                   f"--config.{key}={value}"]) == 2
  assert "float32" in capsys.readouterr().err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_called_that(tmp_path, capsys, make):
  for name in ("c.py", "mine.npz", "sweep.json"):
    make(tmp_path / name)
  config = f"--config={ROOT / 'configs/mnist.py'}"
  for words in ([f"--config={tmp_path / 'c.py'}"],
                [config, f"--config.data.dir={tmp_path}",
                 "--config.data.name=mine", "--plan"],
                [config, f"--sweep={tmp_path / 'sweep.json'}"]):
    assert main.run(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "no such" not in told, told
    assert any(words in told for words in (
        "is no file", "neither a file nor", "Is a directory", "a folder")), told


@pytest.mark.parametrize("name", ["table.md", "table.csv", "table.tex",
                                  "report.html", "learning.png"])
def test_a_pipe_in_the_place_of_a_table_is_not_waited_for(tmp_path, name):
  (tmp_path / "results.jsonl").write_text(json.dumps(
      SWEEP_ROW | {"fingerprint": "a", "overrides": {"temperature": 1}}) + "\n")
  os.mkfifo(tmp_path / name)
  done = subprocess.run(
      [sys.executable, "-m", "kd_jax.report", str(tmp_path)], cwd=ROOT, timeout=30,
      capture_output=True, text=True, check=False)
  assert "Traceback" not in done.stderr
  assert name.endswith(".png") or (
      done.returncode == 2 and f"{tmp_path / name}: is neither" in done.stderr)


def test_a_folder_or_a_pipe_is_no_readme(tmp_path, capsys):
  (tmp_path / "folder").mkdir()
  os.mkfifo(tmp_path / "pipe")
  for name in ("folder", "pipe"):
    assert report.main([str(tmp_path), "--readme", str(tmp_path / name)]) == 2
    assert f"{name}: is no file" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_of_data_is_called_that(
    tmp_path, capsys):
  (tmp_path / "mine.npz").write_text("")
  assert main.run([f"--config={ROOT / 'configs/mnist.py'}", "--plan",
                   "--config.data.name=mine",
                   f"--config.data.dir={tmp_path / 'mine.npz'}"]) == 2
  assert "mine.npz: is no folder" in capsys.readouterr().err


def test_nets_that_fill_the_memory_are_told_in_a_line(
    tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert main.run([
      "--config=configs/mnist.py:smoke", "--config.data.embedded=only",
      "--config.method=hard", "--config.student.widths=(1000000,1000000)",
      f"--workdir={tmp_path / 'run'}"]) == 2
  told = capsys.readouterr().err
  assert told.startswith("error: out of memory") and told.count("\n") == 1


def test_a_folder_in_the_place_of_a_table_is_named_with_the_remedy(
    tmp_path, capsys):
  (tmp_path / "results.jsonl").write_text(json.dumps(
      SWEEP_ROW | {"fingerprint": "a", "overrides": {"temperature": 1}}) + "\n")
  (tmp_path / "table.csv").mkdir()
  assert report.main([str(tmp_path)]) == 2
  told = capsys.readouterr().err
  assert f"{tmp_path / 'table.csv'}: is a folder" in told and "move it" in told
  assert told.count("\n") == 1
