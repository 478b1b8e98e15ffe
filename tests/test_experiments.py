"""The scripts that make claims: arguments, stages, verdicts."""

import importlib
import json
import os
import re
import types

from conftest import ROOT
import jax
import pytest

from experiments import fair, index, reproduce, sources, temperature_sweep
from experiments.hinton15_temperature import study
from experiments.protocol import Options, Stage
from kd_jax import report
from kd_jax.report import comparison

SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=1", "--config.min_steps=0", "--config.teacher.epochs=2",
    "--config.teacher.min_steps=0", "--config.teacher.widths=(24,)",
    "--config.batch_size=64", "--config.tensorboard=false",
    "--config.sweep.lanes=3x4")


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.mark.slow
@pytest.mark.pictures
def test_a_temperature_sweep(own_data, tmp_path, capsys):
  place = tmp_path / "sweep"
  arguments = [*SMALL, f"--config.data.dir={own_data}", "--temperatures=1,4",
               "--alphas=0.5,1.0", "--seeds=2", "--widths=8,12"]
  assert temperature_sweep.main([*arguments, "--plan"]) == 0
  # (2 T x 2 alpha + hard labels) x 2 seeds x 2 widths.
  assert "20 runs in 2 compilations" in capsys.readouterr().out
  assert temperature_sweep.main([*arguments, f"--workdir={place}"]) == 0
  rows = report.read(place)
  assert len(rows) == 20
  hard = [row for row in rows if row["overrides"]["alpha"] == 0]
  assert len(hard) == 4 and all(row["loss"].startswith("1 * CE + 0")
                                for row in hard)
  assert json.loads((place / "summary.json").read_text())["compilations"] == 2
  table = (place / "table.md").read_text()
  assert "8x8" in table or "8×8" in table
  assert {"errors.png", "heat.png", "dark.png"} <= {
      file.name for file in place.iterdir()}


@pytest.mark.parametrize(("words", "says"), [
    (["--config=nowhere.py"], "there is no such file"),
    (["--config=configs/mnist.py", "--temperatures=hot"], "number > 0"),
    (["--config=configs/mnist.py", "--alphas=2"], "number in [0, 1]"),
])
def test_mistakes_are_told_in_a_line(words, says, capsys):
  assert temperature_sweep.main([*words, "--plan"]) == 2
  told = capsys.readouterr().err
  assert says in told and "Traceback" not in told


@pytest.mark.parametrize(("words", "says"), [
    (["--quick", "--record"], "proves nothing"), (["--seeds=0"], "1 or more"),
    (["--minutes=-3"], "above 0"), (["--minutes=nan"], "above 0"),
    (["--lanes=many"], "many: must be auto, or seeds x points such as 4x8")])
def test_mistakes_of_a_study_are_told(words, says, capsys):
  try:
    code = reproduce.main(["hinton15_temperature", *words])
  except SystemExit as stopped:  # argparse's own way
    code = stopped.code
  told = capsys.readouterr().err
  assert code == 2 and says in told and len(told.splitlines()) == 1


def test_lanes_of_a_study_without_sweeps_are_refused(capsys):
  assert reproduce.main(["hinton15_specialists", "--quick", "--lanes=2x3"]) == 2
  assert "hinton15_specialists has no sweeps" in capsys.readouterr().err


def test_what_has_no_shards_says_so(monkeypatch, tmp_path, capsys):
  stages = [Stage("table", config=lambda rows: None),
            Stage("after", run=lambda rows, place: None, shards=False)]
  study = importlib.import_module("experiments.keras_example.study")
  monkeypatch.setattr(study, "stages", lambda options: stages)
  monkeypatch.setattr(reproduce.door, "train", lambda *args, **more: 0)
  command = ["keras_example", f"--workdir={tmp_path}", "--shard=1/2"]
  assert reproduce.main(command) == 0
  assert "then give the command without --shard" in capsys.readouterr().out
  (tmp_path / "table").mkdir()
  (tmp_path / "table/results.jsonl").write_text("{}")
  assert reproduce.main(command) == 2
  assert "after: one machine does all of it" in capsys.readouterr().err


def test_a_machine_may_train_other_numbers_at_once(monkeypatch, tmp_path):
  given = []
  monkeypatch.setattr(
      reproduce.door, "train", lambda config, *args, **more: given.append(config))
  monkeypatch.setattr(index.study("open_mnist"), "conclude", lambda rows: "")
  for words in ([], ["--lanes=2x3"]):
    reproduce.main(["open_mnist", "--quick", f"--workdir={tmp_path}", *words])
  assert {config.sweep.lanes for config in given} == {"1x1", "2x3"}


def test_a_flag_of_another_program_is_refused(capsys):
  assert temperature_sweep.main(
      ["--config=configs/mnist.py", "--sweep.seed=1,2", "--plan"]) == 2
  assert "not known here" in capsys.readouterr().err


def test_no_such_study(capsys):
  assert reproduce.main(["hinton15_temprature"]) == 2
  assert "did you mean hinton15_temperature" in capsys.readouterr().err


def test_the_study_is_what_its_readme_says():
  config = study.table({w: {"alpha": 0.9, "optimizer.learning_rate": 1e-3}
                        for w in study.EPOCHS})
  points = config.sweep.points
  # (12 temperatures and hard labels) x 10 seeds x 3 widths.
  assert len(points) == 13 * 10 * 3
  assert config.data.holdout == 0 and study.choosing().data.holdout == 0.1
  assert {p["temperature"] for p in points if p["alpha"]} == set(
      study.TEMPERATURES)
  readme = (ROOT / "experiments/hinton15_temperature/README.md").read_text()
  assert "margin of 10 errors" in readme and study.MARGIN == 10


def test_a_smoke_run_has_no_table_of_what_it_did_not_choose():
  config = study.smaller(study.table(
      {30: {"alpha": 0.9, "optimizer.learning_rate": 1e-3}}, 2))
  assert {p["student.widths"] for p in config.sweep.points} == {(30, 30)}


def row(width, t, seed, errors, alpha=0.9, **more):
  return {"overrides": {"student.widths": [width, width], "temperature": t,
                        "alpha": alpha, "optimizer.learning_rate": 1e-3},
          "seed": seed, "test_errors": errors, "failed": None, **more}


# In hinton15_speech a speaker who is in no test set of the table helps to choose.
@pytest.mark.parametrize("name", [
    name for name in index.STUDIES if name != "hinton15_speech"])
def test_stages_that_choose_do_not_look_at_the_test_set(name, tmp_path):
  stages = index.study(name).stages(Options(tmp_path))
  rows = {stage.name: [] for stage in stages} | index.committed(index.ROOT / name)
  looked = {}
  for stage in stages:
    if stage.config is not None:
      data = stage.config(rows).data
      assert (data.test == "heldout") == bool(data.holdout), stage.name
      looked[stage.name] = data.test == "own"
  # The table is what the test set is for.
  assert looked.get("table", True)


def test_the_index_says_which_stages_had_looked():
  told = index.looked()
  assert sum(map(int, re.findall(r"\((\d+)\)", told))) == 602
  assert "[hinton15_mnist](hinton15_mnist), choosing (32)" in told
  assert "[methods_mnist](methods_mnist), choosing (432)" in told
  for name in ("features_cifar", "takd_mnist", "hinton15_specialists"):
    assert name not in told


def test_settings_are_chosen_on_held_out_data_alone():
  rows = [row(30, 8.0, 0, 9, alpha=0.5, heldout_errors=20),
          row(30, 8.0, 1, 9, alpha=0.5, heldout_errors=30),
          # Better on the test set, worse on what is held out: 25 < 26.
          row(30, 8.0, 0, 1, alpha=0.9, heldout_errors=26),
          row(30, 8.0, 1, 1, alpha=0.9, heldout_errors=26)]
  assert study.choose(rows) == {
      30: {"alpha": 0.5, "optimizer.learning_rate": 1e-3}}


def rows_of(width, errors_at):
  """Ten seeds a temperature, whose noise is the seed's own and small."""
  noise = [0, 3, -2, 1, -1, 2, 0, -3, 1, -1]
  wiggle = lambda t, seed: ((7 * seed + int(10 * t)) % 3) - 1
  return [row(width, t, seed, errors_at(t) + noise[seed] + wiggle(t, seed))
          for t in study.TEMPERATURES for seed in range(10)]


def test_the_verdict_can_go_either_way():
  middle = lambda t: 300 if 2.5 <= t <= 4 else 320
  flat = lambda t: 100
  conclude = lambda rows: study.conclude({"table": rows})
  said = conclude(rows_of(30, middle) + rows_of(300, flat)
                  + rows_of(800, lambda t: 100 + int(t)))
  assert "the claim for 2x30 holds" in said
  assert "Shown: 6 of 6, each at 5%" in said and "for 2x300 holds" in said
  # 10 against 20, 14 and 40, ... differ by up to 30 errors.
  assert "the claim for 2x800 does not hold" in said
  said = conclude(rows_of(30, flat))
  assert "the claim for 2x30 is not shown" in said
  assert "2x300**: not all temperatures" in said


RECORDED = [name for name in index.STUDIES if index.whole(name, "table")]


@pytest.mark.pictures
@pytest.mark.parametrize("name", RECORDED)
def test_what_is_committed_is_what_the_rows_make(name, tmp_path):
  folder = index.ROOT / name
  for file in (*folder.glob("*.jsonl"), *folder.glob("teacher.json")):
    (tmp_path / file.name).write_bytes(file.read_bytes())
  index.generate(name, tmp_path)
  texts = [file for file in folder.iterdir()
           if file.suffix in (".md", ".csv", ".tex") and file.name != "README.md"]
  assert folder / "conclusion.md" in texts
  for file in texts:
    assert (tmp_path / file.name).read_text() == file.read_text(), file.name
  pictures = {file.name for file in folder.glob("*.png")}
  assert pictures == {file.name for file in tmp_path.glob("*.png")}


@pytest.mark.parametrize("name", index.STUDIES)
def test_rows_are_whole(name):
  folder = index.ROOT / name
  if (at := index.unfinished(folder)) is not None:
    assert at["stage"] in {
        stage.name for stage in index.study(name).stages(Options(folder))}
  for stage, rows in index.committed(folder).items():
    for each in rows:
      assert each["schema"] in (1, 2), stage
      # The few digits that come with the code, only where a study is of them.
      assert each.get("data", "raw") != "embedded" or (
          name, stage) == ("ocr_teacher", "table")
      if not stage.endswith("teachers"):
        assert each["study"] == name and each["dirty"] is False, stage
        assert each["commit"] and each["versions"]["jax"], stage
      if "test_wrong_ids" in each:
        assert len(each["test_wrong_ids"]) == each["test_errors"]
    # A row is a few kilobytes, more where most of the test set is missed: a study
    # must stay light.
    assert len(json.dumps(rows)) < 1.5e6, stage


@pytest.mark.parametrize("name", RECORDED)
def test_links_lead_somewhere(name):
  folder = index.ROOT / name
  for link in re.findall(r"\]\(([^)#]+)\)", (folder / "README.md").read_text()):
    assert link.startswith("http") or (folder / link.strip()).exists(), link


@pytest.mark.parametrize("name", RECORDED)
def test_intervals_in_prose_are_those_of_the_rows(name):
  folder = index.ROOT / name
  _, found, prose = (folder / "README.md").read_text().partition("**Results.**")
  assert found
  plain = lambda text: " ".join(text.split()).replace("−", "-")
  told = re.findall(
      r"-?\d[\d.,]* ± [\d.]*\d(?: \([\d/]+\))?|in \d+ of \d+ rows|"
      r"\[[+-]?[\d.,]+%?, [+-]?[\d.,]+%?\]", plain(prose))
  rows = plain((folder / "conclusion.md").read_text())
  assert [each for each in told if each not in rows] == []


def test_the_pages_show_what_is_committed():
  for file, text in index.documents().items():
    assert file.read_text() == text, f"{file}: give python -m experiments.index"


def test_two_arms_are_compared_beside_a_table():
  """d = (1, 2, 3): 2 in [-0.48, 4.48], p = .074."""
  result = lambda name, *errors: comparison.Result(
      name, {}, [], [], dict(enumerate(errors)), 100, 0, 1.0)
  found = [result("kd", 10, 12, 11), result("sum", 11, 14, 14), result("none")]
  assert fair.between(found, "sum", "kd") == (
      "\nsum minus kd: +2.0 [−0.5, +4.5], p 0.074.\n")
  assert fair.between(found, "kd", "sum").startswith("\nkd minus sum: −2.0 [")
  for name in ("none", "not there"):
    assert fair.between(found, name, "kd") == ""


def test_what_was_chosen_at_an_end_of_its_range_is_named():
  tried = [{"name": name, "rate": rate, "T": t} for name, rate, t in (
      ("adam", 1e-3, 2.0), ("adam", 1e-3, 4.0), ("adam", 1e-3, 8.0),
      ("sgd", 0.1, 2.0), ("sgd", 0.02, 8.0))]
  # Of adam one rate was tried, so that it is at no end, though 0.1 is higher.
  assert fair.ends(tried[1], tried) == {}
  assert fair.ends(tried[2], tried) == {"T": "the highest of 3"}
  assert fair.ends(tried[4], tried) == {
      "rate": "the lowest of 2", "T": "the highest of 2"}
  assert fair.described(tried[1], tried) == "T 4, name adam, rate 0.001"
  assert fair.at_ends({"a": (tried[2], tried[:3]), "b": (tried[1], tried[:3])}) == (
      "Chosen on held-out data: a: T 8 (the highest of 3); b: T 4. 1 of 2 have a "
      "number at an end of what was tried, so that a better one may lie beyond.\n")
  assert fair.at_ends({"b": (tried[1], tried[:3])}).endswith(
      "T 4. None has a number at an end of what was tried.\n")


def test_a_headline_has_numbers_and_says_who_is_better_than_labels():
  """d = -20 and 20 with a noise of 1, 0, -1: ± t(2) / sqrt(3) = 2.484."""
  row = {"teacher_fingerprint": "t", "method": "kd", "overrides": {},
         "failed": None}
  result = lambda name, *errors, rows=(row,): comparison.Result(
      name, {}, [], [], dict(enumerate(errors)), 100, 0, 1.0, rows)
  found = [result("kd", 50, 51, 52), result("less", 31, 31, 31),
           result("more", 71, 71, 71, rows=(
               row, row | {"teacher_fingerprint": "u"})), result("none")]
  assert fair.outcome(found, "kd") == (
      "kd 51.0 ± 2.5 (3/1); better: less −20.0 [−22.5, −17.5]; "
      "worse: more +20.0 [+17.5, +22.5]")
  assert fair.fewest(found, []) == "fewest errors less, 31.0 ± 0.0 (3/1)"
  assert fair.fewest(found, [33, 33]) == (
      "fewest errors less, 31.0 ± 0.0 (3/1) (labels alone 33.0 ± 0.0 (2))")
  assert fair.fewest(found, [30, 30]) == (
      "fewest errors labels alone, 30.0 ± 0.0 (2); of the others less, 31.0 ± 0.0 "
      "(3/1)")
  # Of two teachers, of labels, and of one run it is not said.
  assert [each.runs for each in (found[2], result("a", 1, 2, rows=(
      row | {"overrides": {"alpha": 0.0}},)), result("b", 1))] == ["3", "2", "1"]


def test_the_index_tells_the_time_on_each_machine():
  cpu = {"device": "cpu", "cores": 2, "commit": "a" * 40}
  gpu = {"device": "NVIDIA H100 80GB HBM3", "cores": 16, "commit": "b" * 40}
  net = {"net": "teacher", "fingerprint": "t"}
  rows = {
      "best": [gpu | {"seconds": 30.0}], "choosing": [cpu | {"seconds": 600.0}],
      "table": [cpu | {"seconds": 3600.0}] * 2, "search": [],
      # The stages shared the one. Of two ensembles that share a member it is
      # counted once: 120 + 60 + 90 s.
      "teachers": [net | {"seconds": 120.0}],
      "choosing_teachers": [net | {"seconds": 120.0}, *(
          {"net": "teacher", "teacher": {"count": n}, "fingerprint": f"e{n}",
           "seconds": 150.0} for n in (2, 3)), *(
               {"net": "member", "fingerprint": f"m{s:g}", "seconds": s,
                "teacher": {"count": 2}} for s in (60.0, 90.0))]}
  # 2 * 3600 + 600 s = 2.17 h.
  assert index._time(rows) == "2.2 h + 4 min on 2 cores; 30 s on NVIDIA H100"
  assert index._commits(rows) == "aaaaaaa, bbbbbbb"


def test_what_a_stage_keeps_to_itself_is_not_committed(monkeypatch, tmp_path):
  rows = [{"seed": 0, "test_errors": 2, "test_wrong_ids": [3, 4]}]
  for stage in ("choosing", "table"):
    (tmp_path / "work" / stage).mkdir(parents=True)
    for file in ("results.jsonl", "teachers.jsonl"):
      (tmp_path / "work" / stage / file).write_text(
          "".join(json.dumps(row) + "\n" for row in rows))
  (tmp_path / "toy").mkdir()
  toy = types.SimpleNamespace(NOT_COMMITTED={"choosing": ("test_wrong_ids",)})
  monkeypatch.setattr(index, "ROOT", tmp_path)
  monkeypatch.setattr(index, "study", lambda name: toy)
  monkeypatch.setattr(index, "main", lambda: 0)
  index.record("toy", ("choosing", "table"), tmp_path / "work")
  left = [{"seed": 0, "test_errors": 2}]
  assert index.committed(tmp_path / "toy") == {
      "choosing": left, "choosing_teachers": left, "table": rows,
      "teachers": rows}


def test_every_study_tells_what_a_study_tells():
  for name in index.STUDIES:
    module, folder = index.study(name), index.ROOT / name
    sweeps = any(stage.config for stage in module.stages(Options(folder)))
    assert module.DATA and module.UNIT and module.CLAIM and (
        module.COMMAND.startswith("--config=") if sweeps
        else not module.COMMAND)
    readme = (folder / "README.md").read_text()
    command = f"python -m experiments.reproduce {name}"
    for part in ("**Claim", "**Protocol", "**Deviations", "**Result", command):
      assert part in readme, (name, part)


def test_the_index_counts_seeds_and_the_teachers_that_rows_learned_from():
  row = lambda seed, teacher, alpha: {
      "seed": seed, "teacher_fingerprint": teacher, "method": "kd",
      "overrides": {"alpha": alpha}}
  rows = [row(0, "a", 0.9), row(1, "b", 0.9), row(1, "c", 0.0)]
  plain = types.SimpleNamespace()
  assert index._counts(plain, rows) == "2 | 2"
  assert index._counts(plain, []) == " | "
  # Two cells of one teacher each, and one of both.
  assert index._counts(plain, [row(0, "a", 0.5), row(1, "b", 0.6)]) == "2 | 1 (2)"
  # A chain has the teacher that it begins with: b learned from a, c from b.
  chain = [row(0, above, alpha) | {"fingerprint": name} for name, above, alpha in (
      ("b", "a", 0.5), ("c", "b", 0.6))]
  assert index._counts(plain, chain) == "1 | 1"
  own = types.SimpleNamespace(OWN_TEACHERS=True)
  assert index._counts(own, [{"seed": seed, "overrides": {}} for seed in (
      0, 1, 2)]) == "3 | 3"
  speakers = types.SimpleNamespace(OVER=("speakers", "data.name"))
  assert index._counts(speakers, [
      {"seed": 0, "method": "kd", "teacher_fingerprint": name,
       "overrides": {"data.name": name, "epochs": epochs, "alpha": 1.0}}
      for name, epochs in (("x", 2), ("y", 4))]) == "2 speakers | 2"
  table = index.table()
  line = next(x for x in table.splitlines() if x.startswith("| [hinton15_mnist]"))
  cells = [cell.strip() for cell in line.split("|")[1:-1]]
  # Three teachers of a cell, with those that are small nets and the ensembles nine
  # of all; not the many whose name stands beside labels alone.
  assert cells[1:3] == [
      "MNIST, as the paper's", "errors of 10,000; the paper's too"]
  assert cells[5:7] == ["12", "3 (9)"]
  assert table.index("(12/3) 3 teachers") < table.index("| table |")


@pytest.mark.parametrize("name", RECORDED)
def test_every_number_has_a_link_to_its_rows(name):
  folder = index.ROOT / name
  shown = (folder / "rows.md").read_text()
  for page in ("conclusion.md", "table.md"):
    if not (folder / page).is_file():
      continue
    said, tables = (folder / page).read_text(), 0
    for _, body in re.findall(r"^(\|.*\n\|[ :|-]+\n)((?:\|.*\n?)*)", said, re.M):
      for line in body.splitlines():
        led = re.findall(r"\]\(rows\.md#([\w-]+)\)", line.split(" | ")[0])
        assert led and all(f'<a id="{row}"></a>' in shown for row in led), line
      tables += 1
    assert tables or page == "conclusion.md"
  for file in folder.glob("*.jsonl"):
    assert f"]({file.name})" in (folder / "conclusion.md").read_text(), file


@pytest.mark.parametrize("name", RECORDED)
def test_links_to_rows_lead_to_rows_of_that_name(name):
  folder, lines = index.ROOT / name, {}
  entries = re.split(r'<a id="([\w-]+)"></a>', (folder / "rows.md").read_text())[1:]
  for row, entry in zip(entries[::2], entries[1::2], strict=True):
    found = re.findall(r"\]\(([\w./]+jsonl)#L(\d+)\)", entry)
    assert bool(found) == ("-" not in row)
    for file, _ in found:
      if file not in lines:
        lines[file] = (folder / file).read_text().splitlines()
    fingerprints = [json.loads(lines[file][int(number) - 1])["fingerprint"]
                    for file, number in found]
    assert not found or any(each.startswith(row) for each in fingerprints)


def test_an_entry_has_all_seeds_of_a_point_and_a_command_that_makes_them(tmp_path):
  def row(mark, seed, alpha, **more):
    return {"fingerprint": mark * 64, "method": "kd", "seed": seed, "overrides": {
        "alpha": alpha, "seed": seed}, "command":
            "python -m kd_jax.main --config=c.py --config.teacher.seed=1", **more}
  write = lambda name, rows: (tmp_path / name).write_text(
      "".join(json.dumps(each) + "\n" for each in rows))
  hard, soft = [row("a", 0, 0.0), row("b", 1, 0.0)], [row("c", 0, 0.9)]
  write("results.jsonl", [hard[0], *soft, hard[1]])
  write("choosing.jsonl", [row("d", 100, 0.0, heldout_errors=3)])
  write("counted.jsonl", [row("a", 0, 0.0, command=None, method=None)])
  labels = [sources.linked(text, rows) for text, rows in (
      ("hard", hard), ("both", hard + soft), ("none", []), ("toy", [{}]))]
  assert labels == ["[hard](rows.md#aaaaaaaa)",
                    "[both](rows.md#aaaaaaaa-cccccccc)", "none", "toy"]
  # A value that the entry says itself is no name of it.
  page = sources.page("toy", tmp_path, [
      *labels, "[0.9](rows.md#cccccccc) [-](rows.md#cccccccc)"])
  assert page.split('<a id="')[1:] == [
      'aaaaaaaa"></a>\n**kd, alpha 0**, in tables `hard`\n\n- results.jsonl, seed '
      "[0](results.jsonl#L1) [1](results.jsonl#L3): "
      "`python -m kd_jax.main --config=c.py --config.method=hard`\n\n",
      'cccccccc"></a>\n**kd, alpha 0.9**\n\n- results.jsonl, seed '
      "[0](results.jsonl#L2): `python -m kd_jax.main --config=c.py "
      "--config.teacher.seed=1`\n\n",
      'aaaaaaaa-cccccccc"></a>\nSeveral points, in tables `both`\n\n'
      "- [kd, alpha 0](#aaaaaaaa)\n- [kd, alpha 0.9](#cccccccc)\n"]


@pytest.mark.parametrize(("row", "shown"), [
    ({"seed": 3, "overrides": {"seed": 3, "alpha": 0.9}}, {"seed": "3"}),
    ({"seed": 3, "overrides": {"transfer.seed": 1, "teacher.seed": 0}},
     {"seed": "3", "teacher.seed": "0", "transfer.seed": "1"}),
    # A teacher says its seed only if it is not the usual one.
    ({"net": "teacher", "teacher": {"epochs": 2}}, {"seed": "0"}),
    ({"net": "teacher", "teacher": {"seed": 2}}, {"seed": "2"}),
    ({"overrides": {"b": 1}}, {"seed": "-"})])
def test_the_seeds_of_a_row_are_named(row, shown):
  assert sources._seeds(row) == shown
  assert list(sources._seeds(row)) == list(shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", index.STUDIES)
def test_the_quick_form_of_a_study(name, tmp_path, monkeypatch, capsys):
  """From nothing but what is installed, through all stages, to the verdict."""
  if name == "hinton15_speech" and "level=0" in os.environ["XLA_FLAGS"]:
    pytest.skip("unoptimised programs round a net's logits otherwise than its row "
                "says: XLA_FLAGS= pytest")
  monkeypatch.delenv("KD_JAX_DATA", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(jax, "local_device_count", lambda: 1)
  place = tmp_path / "quick"
  assert reproduce.main([name, "--quick", f"--workdir={place}"]) == 0
  said = (place / "conclusion.md").read_text()
  assert "| " in said and said in capsys.readouterr().out
  rows = index.stage_rows(place / "table")["table"]
  assert rows and all(row["study"] == name for row in rows)
