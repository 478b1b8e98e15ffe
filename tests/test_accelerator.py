"""What is prepared for a lent accelerator: the record, its tables, the
rehearsal."""

import json
import math
import os
import signal
import subprocess
import sys
import time

from conftest import ROOT
import numpy as np
import pytest

from benchmarks import accelerator, accelerator_tables
from experiments import queue
from kd_jax.core.errors import UserError


def a_record(**rows):
  return {"command": "c", "commit": "abc", "date": "today", "data": "MNIST",
          "rehearsal": False,
          "machine": {"device": {"jax": "NVIDIA H100 80GB HBM3"}, "cpu": "a cpu",
                      "cores": 16, "versions": {"jax": "0"}},
          "rows": rows, "ended": {"ceilings": "through"}}


CEILINGS = {"jax matmul float32": {"seconds": [1.0, 2.0, 4.0], "flops": 8e12},
            "jax copy": {"seconds": [1.0], "bytes": 2e12}}
STEP = {"kd_jax live float32": {"seconds": [0.1, 0.2], "flops": 1e11},
        "torch live float32, DataLoader": {"seconds": [0.5, 0.6]}}
# By FLOPs 1/4 s, by bytes 1/2 s.
LANES = {"2x30 1x1x4": {
    "seconds": [1.0, 1.0], "loop_seconds": [50.0, 70.0], "width": 30, "lanes": 4,
    "flops": 1e12, "bytes": 1e12, "compile_seconds": 3.0}}


def row_of(text, start):
  line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
  return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratios_are_taken_within_a_round():
  text = accelerator_tables.block([a_record(ceilings=CEILINGS, step=STEP)])
  # 0.5 / 0.1 = 5 and 0.6 / 0.2 = 3: the median is 4.
  assert row_of(text, "kd_jax live float32 over")[1:] == [
      "4 (3 to 5)", ">= 4", "met"]
  # 1e11 / 0.15 s of 4e12 FLOP/s.
  assert row_of(text, "kd_jax live float32 |")[2] == "0.667 TFLOP/s, 17%"


def test_lanes_stand_beside_the_loop_and_the_floor():
  text = accelerator_tables.block([a_record(ceilings=CEILINGS, lanes=LANES)])
  assert row_of(text, "2x30 1x1x4")[2:] == ["60 (50 to 70)", "5e+05", "2.0", "3.0"]
  assert row_of(text, "lanes 2x30 1x1x4 over")[1:] == [
      "60 (50 to 70)", ">= 40", "met"]


def test_a_ceiling_that_was_not_measured_is_not_made_up():
  assert math.isnan(accelerator_tables.ceiling({}, "jax copy"))
  assert accelerator_tables.ceiling({"ceilings": CEILINGS}, "jax copy") == 2e12


def test_what_did_not_run_is_said():
  report = a_record(step=STEP | {"torch compiled": {"failed": "ImportError: x"}})
  report["ended"]["lanes"] = "failed with exit code 1"
  text = accelerator_tables.block([report])
  assert "torch compiled: ImportError: x" in text
  assert "lanes failed with exit code 1" in text


def test_a_record_becomes_a_section_of_its_device(tmp_path, monkeypatch):
  monkeypatch.setattr(accelerator, "FOLDER", tmp_path)
  (tmp_path / "README.md").write_text(
      f"a\n{accelerator_tables.BEGIN}\n{accelerator_tables.END}\nb\n")
  made = tmp_path / "out.json"
  made.write_text(json.dumps(a_record(step=STEP)))
  accelerator.main([f"--record={made}"])
  text = (tmp_path / "README.md").read_text()
  assert text.startswith("a\n") and text.endswith("\nb\n")
  assert "## NVIDIA H100" in text
  assert (tmp_path / "accelerator_nvidia_h100.json").is_file()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(
    a_record() | {"rehearsal": True})])
def test_no_other_file_is_recorded(text, tmp_path):
  file = tmp_path / "out.json"
  file.write_text(text)
  with pytest.raises(UserError):
    accelerator.record(file)


def test_what_is_missing_is_named_before_anything_runs(monkeypatch, tmp_path):
  monkeypatch.setattr(accelerator, "_NEEDED", {"no_such_module": "no-such-package"})
  with pytest.raises(UserError, match="no-such-package"):
    accelerator.main([str(tmp_path / "out")])
  assert not (tmp_path / "out").exists()


def test_the_committed_tables_are_made_from_the_records():
  text = (ROOT / "benchmarks/README.md").read_text()
  assert accelerator_tables.block(accelerator.records()) in text


def _killed(out, when):
  """The script, killed with all that it started once `when` holds of its record."""
  script = subprocess.Popen(
      ["bash", str(ROOT / "benchmarks/on_accelerator.sh"), str(out), "--rehearse"],
      env=os.environ | {"PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1"},
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
  file = out / accelerator.RECORD
  end = time.monotonic() + 120
  try:
    while time.monotonic() < end and script.poll() is None:
      if file.is_file() and when(json.loads(file.read_text())):
        return True
      time.sleep(0.02)
    return False
  finally:
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4])
def test_what_was_measured_is_on_disk_when_the_script_is_killed(rows, tmp_path):
  number = lambda report: sum(map(len, report["rows"].values()))
  assert _killed(tmp_path, lambda report: number(report) >= rows)
  report = accelerator_tables.read(tmp_path / accelerator.RECORD)
  assert number(report) >= rows
  assert "ceilings" in accelerator_tables.block([report]) or report["rows"]


@pytest.mark.slow
def test_the_rehearsal_runs_every_part(tmp_path):
  subprocess.run(
      ["bash", str(ROOT / "benchmarks/on_accelerator.sh"), str(tmp_path),
       "--rehearse"], check=True, env=os.environ | {
           "PYTHON": sys.executable, "KD_JAX_WORK": str(tmp_path / "work")})
  report = accelerator_tables.read(tmp_path / accelerator.RECORD)
  assert set(report["ended"].values()) == {"through"}
  assert set(report["rows"]) == set(accelerator.SHARES)
  seconds = [each for part in report["rows"].values() for row in part.values()
             for each in row.get("seconds", ())]
  assert seconds and np.all(np.array(seconds) > 0)
  lines = (tmp_path / queue.REHEARSED).read_text().splitlines()
  assert [json.loads(line)["file"] for line in lines].count("results.jsonl") == 2


def test_a_folder_without_mnist_is_refused_before_anything_runs(tmp_path):
  (tmp_path / "mnist").mkdir()
  with pytest.raises(UserError):
    accelerator.missing(str(tmp_path))
  for name in "abcd":
    (tmp_path / "mnist" / f"{name}-ubyte.gz").touch()
  # Without a folder there is a line more.
  assert len(accelerator.missing(str(tmp_path))) == len(accelerator.missing()) - 1


def test_a_system_that_breaks_off_keeps_what_it_had(tmp_path, monkeypatch):
  rows = [{"name": "a", "seconds": [1.0], "unit": "step"},
          {"name": "a", "failed": "RuntimeError: x"}]
  program = "import json; [print(json.dumps(row)) for row in " + repr(rows) + "]"
  start = subprocess.Popen
  monkeypatch.setattr(accelerator.subprocess, "Popen", lambda words, **more: start(
      [sys.executable, "-c", program], **more))
  accelerator.measure(tmp_path, 60, parts=("step",))
  report = accelerator_tables.read(tmp_path / accelerator.RECORD)
  assert report["rows"]["step"]["a"] == {
      "seconds": [1.0], "unit": "step", "failed": "RuntimeError: x"}
