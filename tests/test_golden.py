"""The bits of some runs against an earlier commit's; of all: tests/golden.py."""

import os
import subprocess
import sys

from conftest import ROOT
import golden
import pytest

NETS = {"teacher": {"parameters_sha256": "a", "test_errors": 3},
        "distilled": {"parameters_sha256": "b"}}


def test_whatever_is_unlike_is_named_and_more_is_fine():
  assert golden.apart(NETS, NETS) == []
  more = NETS | {"teacher": NETS["teacher"] | {"kl": 1.0}, "baseline": {}}
  assert golden.apart(NETS, more) == []
  other = {"teacher": {"parameters_sha256": "c", "test_errors": 3}}
  assert golden.apart(NETS, other) == [
      "teacher (parameters_sha256)", "distilled (is missing)"]
  assert golden.apart(NETS, {"teacher": {}, "distilled": {}}) == [
      "teacher (parameters_sha256, ...)", "distilled (parameters_sha256)"]


def test_words_choose_cases_and_a_name_chooses_itself():
  assert golden.chosen(["lanes"]) == ["lanes"]
  assert golden.chosen(["stopped_"]) == ["stopped_sweep"]
  assert set(golden.chosen(["batch"])) == {"batchnorm", "batchnorm_pmap"}
  assert golden.chosen([]) == list(golden.CASES)


def test_a_commit_that_is_not_there_is_told(capsys):
  assert golden.main(["single", "--base=" + 40 * "f"]) == 2
  told = capsys.readouterr().err
  assert "no such commit in this clone" in told and told.count("\n") == 1


@pytest.mark.slow
def test_runs_end_with_the_bits_of_the_base():
  if golden.commit_of(golden.BASE) is None:
    pytest.skip(f"needs commit {golden.BASE} in the clone: git fetch --unshallow")
  # By the program: it gives each of its threads a core of its own. Optimised, as
  # users run it: without, other code has other bits.
  done = subprocess.run(
      [sys.executable, "tests/golden.py", "single", "logits"], cwd=ROOT,
      capture_output=True, text=True, check=False, timeout=600,
      env={**os.environ, "XLA_FLAGS": ""})
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.endswith("2 passed, 0 failed\n")
