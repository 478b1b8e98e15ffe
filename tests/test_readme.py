"""What the documents say is so: commands, files, tables."""

import re

from conftest import ROOT
import pytest

from experiments import index, record
from kd_jax import report

README = (ROOT / "README.md").read_text()


def command(name: str) -> str:
  return re.search(
      rf"<!-- {name} -->\s*```sh\n(.*?)```", README, re.S).group(1).strip()


def test_two_commands_set_up_and_run():
  assert README.count("-m venv") == 2
  assert "requirements.txt" in command("main")
  assert "kd_jax.main --config=configs/mnist.py" in command("main")
  assert "requirements-dev.txt" in command("test")
  assert command("test").endswith("-m pytest -q")


def test_what_is_linked_exists():
  for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md",
               ROOT / "experiments/mnist/README.md", *(ROOT / "docs").glob("*.md")):
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text):
      assert (file.parent / target).exists(), f"{file}: {target}"
  for path in re.findall(r"\| `([^`,]+)`", README):
    assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", [
    "requirements.txt", "requirements-dev.txt", "requirements-docs.txt",
    "requirements-export.txt"])
def test_the_lock_pins_and_names_no_host(name):
  lines = (ROOT / name).read_text().splitlines()
  assert not re.search("://|index|find-links", "\n".join(lines))
  assert all("==" in line for line in lines)
  if "export" in name or "docs" in name:  # They have none of their own.
    return
  jax = [line for line in lines if line.startswith("jax==")]
  assert len(jax) == 2, "one jax for Python 3.11, one above"


def test_the_test_lock_agrees_with_the_run_lock():
  read = lambda name: set((ROOT / name).read_text().splitlines())
  assert read("requirements.txt") <= read("requirements-dev.txt")


def test_tables_are_those_of_the_rows():
  """P24: a table that someone typed, or forgot to make again."""
  study = ROOT / "experiments/mnist"
  generated = report.table(report.read(study))
  assert (study / "table.md").read_text() == generated
  # Its config has one number, which is that of a study with several teachers.
  assert report.into(README, "headline", index.headline()) == README
  assert "90.3" not in README


def test_rows_tell_which_examples_are_wrong():
  for row in report.read(ROOT / "experiments/mnist"):
    assert row["schema"] == 1 and row["study"] == "mnist"
    assert len(row["test_wrong_ids"]) == row["test_errors"]
    assert len(row["curve"]) > 1 and row["curve"][-1] == row["test_errors"]


def rows(errors, **more):
  return [{"row": "paper", "net": "distilled", "source": "raw", "loss": "l",
           "seed": i, "test_errors": e, "test_examples": 10000,
           "seconds": 1.0, **more} for i, e in enumerate(errors)]


def test_a_table_is_mean_and_interval_of_distinct_runs():
  # 90, 96, 102: mean 96, s.d. 6, s.e. 3.464; t(2, 0.975) = 4.303 -> 14.9.
  line = report.table(rows([90, 96, 102]) + rows([90])).splitlines()[-1]
  assert "96.0 ± 14.9" in line and "| 3 | 74 |" in line


def test_the_picture_is_drawn(tmp_path):
  report.curves(rows([9, 8], curve=[20, 10, 9]), tmp_path / "c.png",
                name="paper")
  assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_the_report_command(tmp_path, capsys):
  assert report.main([str(tmp_path)]) == 2
  assert "results.jsonl" in capsys.readouterr().err
  text = report.into("a <!-- results: x -->old<!-- end of results --> b", "x",
                     "new\n")
  assert text == "a <!-- results: x -->\nnew\n<!-- end of results --> b"


def test_recording_an_unfinished_run_is_told(tmp_path, capsys):
  assert record.main(
      [str(tmp_path), "--study", str(tmp_path), "--row", "x"]) == 2
  assert "not a finished run" in capsys.readouterr().err
