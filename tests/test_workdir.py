"""Whose a workdir is: nobody's work is lost, no foreign file is written over."""

import json
import os
import pathlib
import shutil
import signal
import threading

from conftest import ROOT
import jax
import numpy as np
import pytest

from kd_jax import main, report
from kd_jax.core.errors import UserError
from kd_jax.report import plots
from kd_jax.runs import results
from kd_jax.training import parameters

SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=2", "--config.min_steps=0", "--config.teacher.epochs=2",
    "--config.teacher.min_steps=0", "--config.student.widths=(12,)",
    "--config.teacher.widths=(24,)", "--config.batch_size=64",
    "--config.tensorboard=false", "--config.parallel=single",
    "--config.sweep.lanes=1x2")
SWEEP = ("--sweep.temperature=1,4",)


@pytest.fixture
def ran(own_data, teachers, tmp_path, monkeypatch, capsys):
  """Runs the small job; gives the exit code and what was told."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)

  def run(*words: str, workdir: str = "run"):
    capsys.readouterr()
    with jax.numpy_dtype_promotion("standard"):
      code = main.run([
          *SMALL, f"--config.data.dir={own_data}",
          f"--config.teacher.dir={teachers}",
          f"--workdir={tmp_path / workdir}", *words])
    told = capsys.readouterr()
    return code, told.out + told.err

  return run


def held(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def lines(folder: pathlib.Path) -> list[dict]:
  """The rows of a sweep as they stand in their file, but for checksums."""
  rows = [json.loads(line)
          for line in (folder / "results.jsonl").read_text().splitlines()]
  assert all(len(row.pop("row_sha256")) == 16 for row in rows)
  return rows


def test_a_finished_run_is_not_replaced_but_kept_if_asked(ran, tmp_path):
  folder = tmp_path / "run"
  assert ran()[0] == 0
  (folder / "teachers/some").mkdir(parents=True)
  (folder / "teachers/some/net").write_text("of both")
  before = held(folder)
  net = parameters.load_record(folder / "parameters/distilled")
  for other in (("--config.temperature=5",), ("--config.epochs=1",),
                ("--config.temperature=5", "--resume=force")):
    code, told = ran(*other)
    assert code == 2 and "--resume=keep" in told and "another --workdir" in told
    assert ("epochs was 2, is 1" if "epochs" in other[0] else "is 5") in told
    assert told.strip().count("\n") == 0 and held(folder) == before
  code, told = ran(*SWEEP)
  assert code == 2 and "it was a single run" in told and held(folder) == before
  code, told = ran("--config.temperature=5", "--resume=keep")
  assert code == 0
  kept, = (folder / "kept").iterdir()
  # Teachers and banks are needed by both.
  assert str(kept) in told and held(kept) == before
  assert held(folder / "teachers") == held(kept / "teachers")
  assert held(folder / "banks").items() >= held(kept / "banks").items()
  assert "T = 5" in json.loads(
      (folder / "summary.json").read_text())["distilled"]["loss"]
  # What is kept is a workdir of its own.
  code, told = ran(workdir=str(kept))
  assert code == 0 and "distilled: already trained" in told
  assert parameters.load_record(kept / "parameters/distilled") == net


@pytest.mark.parametrize("words", [SWEEP, ()])
def test_what_an_unfinished_run_has_saved_is_kept_from_one_of_another_kind(
    ran, tmp_path, words):
  folder, endless = tmp_path / "run", ("--config.min_steps=30000000",)
  first = (*(() if words else SWEEP), *endless, "--config.checkpoint.every=1 steps")
  saved = lambda: any((folder / "progress").glob("*/[0-9]*"))
  stopped = threading.Event()

  def stop():
    while not (saved() or stopped.wait(0.05)):
      pass
    os.kill(os.getpid(), signal.SIGINT)

  def interrupted():
    threading.Thread(target=stop).start()
    try:
      return ran(*first)
    finally:
      stopped.set()

  assert interrupted()[0] == 130 and saved()
  before = held(folder)
  for more in ((), ("--resume=force",)):
    code, told = ran(*words, *more)
    assert code == 2 and "--resume=keep" in told and held(folder) == before
  assert ran(*words, "--resume=keep")[0] == 0
  kept, = (folder / "kept").iterdir()
  assert held(kept).items() >= {
      name: content for name, content in before.items()
      if name.startswith("progress")}.items()


@pytest.mark.parametrize("left", ["all but one", "nets", "rows", "pages"])
def test_a_finished_run_is_recognised_by_whatever_is_left(ran, tmp_path, left):
  folder = tmp_path / "run"
  assert ran()[0] == 0
  pages = ["report.html", *(path.name for path in folder.glob("table.*"))]
  lost = {"all but one": ["config.json"],
          "nets": ["summary.json", "results.jsonl", *pages],
          "rows": ["summary.json", "parameters", *pages],
          "pages": ["summary.json", "parameters", "results.jsonl"]}[left]
  for name in lost:
    (folder / name).rename(tmp_path / name)
  before = held(folder)
  for words in (("--config.temperature=5",), SWEEP,
                ("--config.temperature=5", "--resume=force")):
    code, told = ran(*words)
    assert code == 2 and "--resume=keep" in told and held(folder) == before
    assert told.strip().count("\n") == 0
  if left == "all but one":
    (folder / "config.json").write_text("{")
    assert ran("--config.temperature=5")[0] == 2
    assert ran()[0] == 2, "it may be another"
    (folder / "config.json").unlink()
  assert ran("--config.temperature=5", "--resume=keep")[0] == 0
  kept, = (folder / "kept").iterdir()
  assert held(kept) == before
  for name in lost:
    (tmp_path / name).rename(kept / name)
  assert "distilled: already trained" in ran(workdir=str(kept))[1]


def test_a_finished_run_is_kept_when_its_data_has_changed(
    ran, own_data, tmp_path):
  with np.load(own_data / "blobs.npz") as archive:
    arrays = dict(archive)
  place, folder = tmp_path / "data/blobs.npz", tmp_path / "run"
  place.parent.mkdir()
  words = (f"--config.data.dir={place.parent}", "--config.method=hard")
  earlier = []
  for number in range(3):
    np.savez(place, **arrays)
    if number == 2:  # Its rows say it too.
      (folder / "manifest.json").unlink()
      del earlier[-1]["manifest.json"]
    code, told = ran(*words)
    kept = sorted((folder / "kept").glob("*"), key=lambda path: len(path.name))
    assert code == 0 and len(kept) == len(earlier)
    assert [held(path) for path in kept] == earlier
    assert not kept or str(kept[-1]) in told
    earlier.append({name: content for name, content in held(folder).items()
                    if not name.startswith("kept/")})
    arrays["y_train"] = np.roll(arrays["y_train"], 1)
  np.savez(place, **arrays | {"y_train": np.roll(arrays["y_train"], -1)})
  for _ in range(2):
    assert "already trained" in ran(*words)[1]
    (folder / "manifest.json").unlink()


def test_a_main_job_leaves_a_sweep_alone(ran, tmp_path):
  folder = tmp_path / "run"
  assert ran(*SWEEP)[0] == 0
  before = held(folder)
  code, told = ran()
  assert code == 2 and "it was a sweep, this is a single run" in told
  assert held(folder) == before


def test_a_net_of_other_numerics_is_kept_under_its_fingerprint(
    ran, tmp_path, monkeypatch):
  """The config is the same, but not what comes out."""
  nets = tmp_path / "run/parameters"
  assert ran()[0] == 0
  before = parameters.load_record(nets / "distilled")
  monkeypatch.setattr("kd_jax.NUMERICS", 10**6)
  code, told = ran()
  aside = nets / f"distilled-{before['fingerprint'][:16]}"
  assert code == 0 and str(aside) in told
  assert parameters.load_record(aside) == before
  assert parameters.load_record(nets / "distilled") != before


@pytest.mark.parametrize("files", [
    {"config.json": '{"model_type": "bert"}', "model.safetensors": "x"},
    {"summary.json": "{}"}, {"thesis.tex": "x"}, {"metrics.jsonl": "{}"},
    {"manifest.json": '{"name": "app"}'}, {"deep/er/file": "x"},
    {"metrics.jsonl": '{"loss": 1}', ".lock": "", "tensorboard/events": "x"},
    {"metrics.jsonl": '{"loss": 1}', ".lock": ""}, {"teachers/alice.txt": "x"},
    {".lock": "", "parameters/net/w.bin": "x"}, {".lock": "", "thesis.tex": "x"},
    {".lock": "pid 7", "progress/x": ""},
    {"teachers/alice/record.json": '{"born": 1970}'},
    {"manifest.json": "<html>", "metrics.jsonl": '{"loss": 1}'},
    {"manifest.json": '{"schema": 1, "files": []}', "config.json": "{}"},
    {"manifest.json": '{"schema": true}', "config.json": "{}"},
    {"manifest.json": "{", "metrics.jsonl": '{"net": "r", "time": 1, "acc": 1}'},
    {".lock": "", "metrics.jsonl": '{"net": "r", "time": 1, "acc": 1}'}])
def test_a_folder_of_somebody_else_is_refused(ran, tmp_path, files, capsys):
  folder = tmp_path / "run"
  for name, text in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
  paths = sorted(folder.rglob("*"))
  code, told = ran()
  assert code == 2 and str(folder) in told and "Traceback" not in told
  assert told.strip().count("\n") == 0
  assert sorted(folder.rglob("*")) == paths
  assert {name: (folder / name).read_text() for name in files} == files
  assert report.main(["merge", str(folder), "--out", str(folder)]) == 2
  assert sorted(folder.rglob("*")) == paths


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_workdir(ran, tmp_path, place):
  (tmp_path / "file").write_text("x")
  code, told = ran(workdir=place)
  assert code == 2 and f"{tmp_path / 'file'} is a file" in told
  assert (tmp_path / "file").read_text() == "x"


def test_a_single_run_is_no_part_of_a_sweep(ran, tmp_path, capsys):
  assert ran()[0] == 0
  out = tmp_path / "out"
  assert report.main(["merge", str(tmp_path / "run"), "--out", str(out)]) == 2
  assert "holds a single run" in capsys.readouterr().err and not out.exists()
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine/cv.txt").write_text("x")
  assert report.main(["merge", str(tmp_path / "run"), "--out",
                      str(tmp_path / "mine")]) == 2
  assert capsys.readouterr().err.startswith(f"error: --out={tmp_path / 'mine'}:")


def test_a_name_that_is_not_utf_8_is_refused_before_any_work(ran, tmp_path):
  code, told = ran(workdir="sur\udcfe")
  assert code == 2 and "not UTF-8" in told and not any(tmp_path.iterdir())


def test_what_a_killed_start_has_left_is_ours(ran, tmp_path):
  folder = tmp_path / "run"
  (folder / "progress").mkdir(parents=True)
  for name in (".lock", "metrics.jsonl"):
    (folder / name).write_text("")
  assert ran()[0] == 0
  # A program that dies while it moves a finished run away leaves its metrics.
  for path in [*folder.iterdir()]:
    if path.name not in (".lock", "teachers", "banks", "metrics.jsonl"):
      path.rename(tmp_path / path.name)
  assert ran()[0] == 0


def test_teachers_that_were_copied_are_ours(ran, tmp_path):
  words = "--config.teacher.dir=None",
  assert ran(*words, workdir="other")[0] == 0
  shutil.copytree(tmp_path / "other/teachers", tmp_path / "run/teachers")
  (tmp_path / "run/teachers/half.new/arrays").mkdir(parents=True)
  code, told = ran(*words)
  assert code == 0 and "teacher: already trained" in told


@pytest.mark.parametrize("text", ["[]", "3", "null", "{"])
def test_a_manifest_of_nothing_beside_our_metrics_is_written_anew(
    ran, tmp_path, text):
  assert ran()[0] == 0
  file = tmp_path / "run/manifest.json"
  file.write_text(text)
  code, told = ran()
  assert code == 0 and "is damaged; it is written anew" in told
  assert json.loads(file.read_text())["schema"] == 1


def test_a_damaged_record_of_a_teacher_is_told_once(ran, tmp_path):
  store = tmp_path / "store"
  words = f"--config.teacher.dir={store}", "--config.method=kd"
  assert ran(*words)[0] == 0
  record, = store.glob("*/record.json")
  record.write_text(record.read_text().replace("test_errors", "test_terrors"))
  code, told = ran(*words)
  assert code == 0 and told.count("not the one that was saved") == 1


def test_one_row_is_called_one_row_and_advice_names_the_folder(ran, tmp_path):
  folder = tmp_path / "run"
  assert ran("--sweep.temperature=2")[0] == 0
  code, told = ran("--sweep.temperature=8")
  told = " ".join(told.split())
  assert code == 0 and ", 1 row in " in told and "1 more row," in told
  assert f"report {folder} --all" in told
  table = (folder / "table.md").read_text()
  assert f"report {folder} --all" in table and "1 more row," in table


def test_one_store_keeps_the_rows_of_all_sweeps(ran, tmp_path, capsys):
  folder = tmp_path / "run"
  assert ran(*SWEEP)[0] == 0
  first = report.read(folder)
  code, told = ran("--sweep.temperature=8,16")
  assert code == 0 and "2 more rows" in told and "--all" in told
  assert {row["overrides"]["temperature"]: row.get("asked", True)
          for row in lines(folder)} == {1: False, 4: False, 8: True, 16: True}
  assert json.loads((folder / "summary.json").read_text())["other_rows"] == 2
  table = (folder / "table.md").read_text()
  assert "| 8" in table and "| 4 " not in table and "2 more rows" in table
  # Other static keys.
  code, told = ran(*SWEEP, "--config.epochs=1")
  assert code == 0 and "4 more rows" in told and len(lines(folder)) == 6
  assert ran(*SWEEP)[0] == 0
  assert report.read(folder) == first and len(lines(folder)) == 6
  capsys.readouterr()
  assert report.main([str(folder), "--all"]) == 0
  table = capsys.readouterr().out
  assert "more rows" not in table
  assert all(f"| {t} " in table for t in (1, 4, 8, 16)) and "epochs" in table


def test_a_row_that_was_edited_is_not_believed(ran, tmp_path, capsys):
  folder = tmp_path / "run"
  assert ran(*SWEEP)[0] == 0
  file, first = folder / "results.jsonl", report.read(folder)
  head, tail = file.read_text().splitlines()
  errors = f'"test_errors": {first[1]["test_errors"]}'
  assert errors in tail
  file.write_text(f"{head}\n{tail.replace(errors, errors + '0')}\n")
  edited = file.read_bytes()
  for words in ([], ["--all"]):
    assert report.main([str(folder), *words]) == 2
    told = capsys.readouterr().err
    assert "results.jsonl, line 2: " in told and told.count("\n") == 1
  assert report.main(["merge", str(folder), "--out", str(tmp_path / "out")]) == 2
  assert "line 2" in capsys.readouterr().err and not (tmp_path / "out").exists()
  code, told = ran(*SWEEP)
  assert code == 0 and "results.jsonl, line 2: " in told and "line 1" not in told
  own = lambda rows: [(row["fingerprint"], row["test_errors"], row["test_nll"],
                       row["test_wrong_ids"]) for row in rows]
  assert own(report.read(folder)) == own(first)
  assert (folder / "results.damaged.jsonl").read_bytes() == edited
  assert report.main([str(folder)]) == 0


def test_a_row_is_read_as_it_was_written_or_not_at_all(tmp_path):
  file = tmp_path / "results.jsonl"
  row = {"a": 1.5, "b": [1, None, float("inf")], "c": "é", "d": {1: (2, 3)}}
  there = {"a": 1.5, "b": [1, None, None], "c": "é", "d": {"1": [2, 3]}}
  results.write(file, [row])
  text = file.read_text()
  assert report.read(tmp_path) == [there]
  whole = json.loads(text)
  for same in (json.dumps(whole, separators=(",", ":"), ensure_ascii=False),
               json.dumps(there),  # An earlier version has none.
               f"  {text}  "):
    file.write_text(same)
    assert report.read(tmp_path) == [there]
  for other in (text.replace("1.5", "1.6"), text.replace('"c"', '"C"'),
                json.dumps(whole | {"asked": False}), text.replace("null", "0"),
                json.dumps(whole | {"row_sha256": 7})):
    file.write_text(f"{text}{other}\n")
    with pytest.raises(UserError, match="line 2: is not the row"):
      report.read(tmp_path)


def test_a_flipped_bit_in_a_row_costs_that_row_alone(tmp_path):
  draw, file = np.random.default_rng(0), tmp_path / "results.jsonl"
  rows = [{"schema": 2, "fingerprint": f"{n}", "overrides": {"seed": n},
           "test_errors": 7, "loss": "CE"} for n in range(3)]
  results.write(file, rows)
  whole = file.read_bytes()
  for _ in range(300):
    content = bytearray(whole)
    content[draw.integers(len(whole))] ^= 1 << draw.integers(8)
    file.write_bytes(content)
    found = results.Results(tmp_path, lambda text: None)
    found.want(["0", "1", "2"])
    # A line end that is gone joins two lines, and costs both.
    assert len(found.rows) >= 1
    assert all({key: row[key] for key in rows[0]} in rows for row in found.rows)
    for kept in tmp_path.glob("results.damaged*"):
      kept.unlink()


def test_damaged_rows_are_kept_each_time(tmp_path):
  file, row = tmp_path / "results.jsonl", {
      "schema": 2, "fingerprint": "f", "overrides": {}}
  for content in (b"one\n", b"\xff two\n"):
    results.write(file, [row])
    file.write_bytes(file.read_bytes() + content)
    damaged = file.read_bytes()
    results.Results(tmp_path, print)
    assert damaged in [
        kept.read_bytes() for kept in tmp_path.glob("results.damaged*.jsonl")]
  assert len(list(tmp_path.glob("results.damaged*.jsonl"))) == 2


def test_rows_that_an_earlier_version_kept_aside_come_into_the_store(
    ran, tmp_path):
  folder = tmp_path / "run"
  assert ran(*SWEEP)[0] == 0
  first, second = lines(folder)
  (folder / "results.jsonl").write_text(json.dumps(first) + "\n")
  (folder / "results.other.jsonl").write_text(json.dumps(second) + "\n")
  assert ran("--sweep.temperature=1")[0] == 0
  assert lines(folder) == [first, second | {"asked": False}]
  assert not (folder / "results.other.jsonl").exists()


@pytest.mark.parametrize("content", [
    b"a\r\nb\r\n<!-- results: STUDY -->\r\nold\r\n<!-- end of results -->\r\nc\r",
    b"\xef\xbb\xbfa\n<!-- results: STUDY --><!-- end of results --> no end",
    b"caf\xe9 <!-- results: STUDY -->old<!-- end of results -->\r\n\n"])
def test_a_readme_is_the_same_but_between_its_markers(
    tmp_path, monkeypatch, content):
  study = tmp_path / "study"
  study.mkdir()
  (study / "results.jsonl").write_bytes(
      (ROOT / "experiments/mnist/results.jsonl").read_bytes())
  monkeypatch.setattr(report, "table", lambda rows: "| a |\n")
  monkeypatch.setattr(report, "curves", lambda *a, **k: None)
  content = content.replace(b"STUDY", b"study")
  readme = tmp_path / "README.md"
  readme.write_bytes(content)
  monkeypatch.chdir(tmp_path)
  assert report.main([str(study)]) == 0
  assert readme.read_bytes() == content, "nobody asked for it"
  assert report.main([str(study), "--readme", "README.md"]) == 0
  end = b"\r\n" if b"\r\n" in content else b"\n"
  head, rest = content.split(b"-->", 1)
  tail = rest[rest.index(b"<!-- end"):]
  assert readme.read_bytes() == head + b"-->" + end + b"| a |" + end + tail


@pytest.mark.parametrize(("content", "says"), [
    (None, "no such file"), (b"no markers", "<!-- results: study -->"),
    (b"\xe9 <!-- results: study --><!-- end of results -->", "not UTF-8")])
def test_a_readme_that_cannot_take_the_table_is_told_in_a_line(
    tmp_path, monkeypatch, capsys, content, says):
  study, readme = tmp_path / "study", tmp_path / "R.md"
  study.mkdir()
  (study / "results.jsonl").write_bytes(
      (ROOT / "experiments/mnist/results.jsonl").read_bytes())
  monkeypatch.setattr(report, "table", lambda rows: "| \u00b1 |\n")
  monkeypatch.setattr(report, "curves", lambda *a, **k: None)
  if content is not None:
    readme.write_bytes(content)
  assert report.main([str(study), "--readme", str(readme)]) == 2
  told = capsys.readouterr()
  assert says in told.err and told.err.count("\n") == 1 and not told.out
  assert content is None or readme.read_bytes() == content


def test_a_sweep_says_that_its_data_has_changed_and_mixes_no_points(
    ran, own_data, tmp_path, capsys):
  with np.load(own_data / "blobs.npz") as archive:
    arrays = dict(archive)
  place, folder = tmp_path / "data/blobs.npz", tmp_path / "run"
  place.parent.mkdir()
  words = (f"--config.data.dir={place.parent}", "--config.method=hard",
           "--sweep.seed=0,1")
  told, shas = [], []
  for shift in (0, 0, 1):
    np.savez(place, **arrays | {"y_train": np.roll(arrays["y_train"], shift)})
    code, text = ran(*words)
    assert code == 0
    told.append([line for line in text.splitlines() if "SHA-256" in line])
    shas.append({row["data_sha256"] for row in report.read(folder)})
  (before,), (now,) = shas[0], shas[2]
  assert told[:2] == [[], []] and len(told[2]) == 1
  assert before[:16] in told[2][0] and now[:16] in told[2][0]
  capsys.readouterr()
  assert report.main([str(folder), "--all"]) == 0
  table = capsys.readouterr().out.split("\n\n")[0]
  assert before[:8] in table and now[:8] in table


def test_rows_that_do_not_say_their_data_stay_with_those_that_do(
    tmp_path, capsys):
  row = {"schema": 2, "overrides": {"temperature": 1}, "test_errors": 3,
         "test_examples": 10}
  named = [row | {"fingerprint": name, "seed": seed, **data}
           for seed, (name, data) in enumerate({
               "a": {}, "b": {"data_sha256": "1" * 64},
               "c": {"data_sha256": "2" * 64}}.items())]
  told = []
  for number in (1, 2, 3):
    results.write(tmp_path / "results.jsonl", named[:number])
    assert report.main([str(tmp_path)]) == 0
    told.append(capsys.readouterr().out)
  assert "of which data" not in told[0] and "of which data" in told[1]
  assert [text.count("\n| ") - 1 for text in told] == [1, 1, 3], told
  assert "unknown" in told[2]
