"""Fair comparisons: as many settings of each arm, chosen without the test set."""

import json
import shutil

from conftest import ROOT
import jax
import numpy as np
import pytest

from kd_jax import compare, report
from kd_jax import config as config_lib
from kd_jax.config import build
from kd_jax.core.errors import UserError
from kd_jax.report import comparison, points
from kd_jax.runs import arms

SMALL = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.epochs=1", "--config.min_steps=0", "--config.teacher.epochs=2",
    "--config.teacher.min_steps=0", "--config.teacher.widths=(24,)",
    "--config.student.widths=(8,)", "--config.batch_size=64",
    "--config.tensorboard=false", "--config.sweep.lanes=1x2")

ARMS = """
[labels]
method = "hard"
optimizer.learning_rate = [1e-3, 1e-2]

[kd]
method = "kd"
temperature = [2, 4, 8]
"""


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  with jax.numpy_dtype_promotion("standard"):
    yield


def written(folder, text):
  file = folder / "arms.toml"
  file.write_text(text)
  return str(file)


def row(setting, seed, errors=0, *, failed=None, heldout=0, seconds=1.0):
  return {"overrides": {**setting, "seed": seed}, "seed": seed, "failed": failed,
          "test_errors": errors, "test_examples": 100, "heldout_errors": heldout,
          "heldout_examples": 50, "seconds": seconds}


def test_every_arm_has_as_many_settings(tmp_path):
  labels, kd = arms.read(written(tmp_path, ARMS), None)
  assert labels.settings == [
      {"method": "hard", "optimizer.learning_rate": rate} for rate in (1e-3, 1e-2)]
  assert len(kd.settings) == 2
  assert kd == arms.read(written(tmp_path, ARMS), 2)[1]  # The same draw.
  assert all(each in arms.arm("kd", kd.axes).settings for each in kd.settings)


def test_values_are_what_a_command_line_would_make_of_them(tmp_path):
  text = ('[a]\nstudent.widths = "(8, 8)"\n[b]\nstudent.widths = [[8, 8], [9, 9]]\n'
          'method = "hint"\nfeatures.pairs = "((\'pooled\', \'pooled\'),)"')
  first, second = arms.read(written(tmp_path, text), 1)
  assert first.settings == [{"student.widths": (8, 8)}]
  assert second.axes["student.widths"] == ((8, 8), (9, 9))
  assert second.axes["features.pairs"] == ((("pooled", "pooled"),),)


def test_a_method_of_the_users_own_is_an_arm(tmp_path):
  (tmp_path / "arms_own.py").write_text(
      "from kd_jax.methods import METHODS\n"
      "arms_own = METHODS['dkd']\n")
  text = f'[a]\nmethod = "{tmp_path}/arms_own.py:arms_own"\n[b]\nmethod = "kd"\n'
  assert len(arms.read(written(tmp_path, text), None)) == 2


@pytest.mark.parametrize(("text", "names"), [
    ("[a", ()), ("a = 1", ("two or more",)),
    ("[a]\ntemperature = 1\n", ("two or more",)),
    ("[a]\ntemprature = 1\n[b]\nalpha = 1", ("[a] temprature", "temperature")),
    ("[a]\nseed = [1, 2]\n[b]\nalpha = 1", ("[a] seed", "--seeds")),
    ("[a]\ndata.holdout = 0.2\n[b]\nalpha = 1", ("--holdout",)),
    ("[a]\ntemperature = []\n[b]\nalpha = 1", ("[a] temperature",)),
    ("[a]\ntensorboard = true\n[b]\nalpha = 1", ("tensorboard",)),
])
def test_mistakes_in_arms_are_one_line(tmp_path, text, names):
  with pytest.raises(UserError) as error:
    arms.read(written(tmp_path, text), None)
  assert "\n" not in str(error.value)
  assert all(name in str(error.value) for name in names)


def test_fewer_settings_than_the_budget_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"labels has 2 settings.*--budget=2"):
    arms.read(written(tmp_path, ARMS), 3)


def test_the_fewest_heldout_errors_on_average_are_chosen():
  kd = arms.arm("kd", {"temperature": (1.0, 2.0, 4.0, 8.0)})
  errors = {1.0: (9, 2), 2.0: (5, 4), 4.0: (0, None), 8.0: (4, 5)}
  rows = [row({"temperature": t}, seed, heldout=number,
              failed="diverged" if number is None else None)
          for t, numbers in errors.items() for seed, number in enumerate(numbers)]
  # Of two that are equal the first; what has diverged once, never.
  assert arms.choose(kd, rows, 2) == {"temperature": 2.0}
  assert arms.choose(kd, rows[4:6], 2) is None
  assert arms.choose(kd, [{**each, "test_errors": None} for each in rows], 2)


def test_edges_are_of_numbers_that_were_tried():
  arm = arms.arm("a", {"temperature": (2, 4, 8), "alpha": (0.5,),
                       "student.name": ("mlp", "plain2")})
  setting = lambda t: {"temperature": t, "alpha": 0.5, "student.name": "mlp"}
  assert arm.edges(setting(8)) == ["temperature"] == arm.edges(setting(2))
  assert arm.edges(setting(4)) == []
  # Of those that were drawn, not of those that are listed.
  drawn = arm._replace(settings=[setting(2), setting(4)])
  assert drawn.edges(setting(4)) == ["temperature"]
  assert arm._replace(settings=[setting(4)]).edges(setting(4)) == []


def test_arms_of_one_grid_are_given_one_draw(tmp_path):
  text = "".join(f"[{name}]\ntemperature = [1, 2, 4, 8, 16, 32]\n" for name in "ab")
  first, second = arms.read(written(tmp_path, text), 2)
  assert first.settings == second.settings


def test_a_recipe_is_judged_by_its_last_net():
  rows = [row({"temperature": 2}, 0) | {"net": name} for name in ("first", "last")]
  assert arms.judged(rows, "last") == rows[1:]
  assert arms.judged([row({}, 0)], "last") == [row({}, 0)]


def test_a_comparison_by_hand(tmp_path):
  """d = (1, 2, 3): 2 in [-0.48, 4.48], p = .074; e = (1, 1, 4): p = .18."""
  tried = [arms.arm(name, {"method": (name,), "temperature": (1, 2)})
           for name in ("kd", "dkd", "nkd")]
  chosen = {each.name: {"method": each.name, "temperature": 2} for each in tried}
  errors = {"kd": (10, 12, 11), "dkd": (11, 14, 14), "nkd": (11, 13, 15)}
  table = [row(chosen[name], seed, number)
           for name, numbers in errors.items()
           for seed, number in enumerate(numbers)]
  table += [row(chosen["nkd"], 3, failed="diverged"), row({"method": "ls"}, 0)]
  choice = [row(setting, 100, seconds=2.0)
            for each in tried for setting in each.settings]
  text = comparison.write(
      tmp_path, tried, chosen, choice, table, reference="kd")
  known = json.loads((tmp_path / "comparison.json").read_text())["arms"]
  by_name = {each["name"]: each for each in known}
  assert by_name["kd"]["difference"] is None
  dkd = by_name["dkd"]["difference"]
  np.testing.assert_allclose(
      [dkd[name] for name in ("difference", "low", "high", "p")],
      [2.0, -0.484, 4.484, 0.0742], atol=1e-3)
  assert by_name["nkd"]["difference"]["n"] == 3
  assert by_name["dkd"]["p_holm"] == pytest.approx(2 * dkd["p"])
  assert (by_name["nkd"]["failed"], by_name["nkd"]["seconds"]) == (1, 8.0)
  assert by_name["kd"]["seconds"] == 7.0
  assert "+2.0 [−0.5, +4.5]" in text and "89.00" in text
  assert (tmp_path / "comparison.md").read_text() == text
  assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_parameters_have_a_column_where_nets_differ_in_them():
  """As with simkd, of whose method a module stays in the net."""
  tried = [arms.arm(name, {"method": (name,)}) for name in ("kd", "simkd")]

  def lines(**parameters):
    table = [row({"method": each.name}, seed, 10) | (
        {"parameters": parameters[each.name]} if parameters else {})
             for each in tried for seed in range(2)]
    choice = [row({"method": each.name}, 100) for each in tried]
    results = [comparison.result(each, {"method": each.name}, choice, table)
               for each in tried]
    text = comparison.markdown(results, "kd", tried, choice)
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines() if line.startswith("|")]

  head, _, kd, simkd = lines(kd=78_042, simkd=91_362)
  assert [line[-1] for line in (head, kd, simkd)] == [
      "parameters", "78,042", "91,362"]
  for alike in (lines(kd=78_042, simkd=78_042), lines()):
    assert alike[0] == head[:-1] and len(alike[3]) == len(head) - 1


def test_the_test_set_stays_unseen(own_data):
  """What is called of the test set is of what is held out."""
  values = config_lib.changed(config_lib.flatten(config_lib.default()), {
      "alpha": 0.5, "data.name": "blobs", "data.dir": str(own_data),
      "data.holdout": 0.25})
  own, judged = (build.dataset({**values, "data.test": test}, say=lambda _: None)
                 for test in ("own", "heldout"))
  assert len(own.test.label) == 110 and len(judged.test.label) == 75
  np.testing.assert_array_equal(
      judged.test.inputs, own.train.inputs[own.heldout_ids])
  np.testing.assert_array_equal(judged.test.label, own.train.label[own.heldout_ids])
  np.testing.assert_array_equal(judged.train_ids, own.train_ids)
  with pytest.raises(UserError, match=r"data\.holdout"):
    build.check_names({**values, "data.test": "heldout", "data.holdout": 0.0})


@pytest.mark.slow
@pytest.mark.pictures
def test_the_command(own_data, tmp_path, capsys, monkeypatch):
  place, file = tmp_path / "run", written(tmp_path, ARMS)
  command = [*SMALL, f"--config.data.dir={own_data}", f"--arms={file}",
             "--seeds=3", "--reference=labels", "--holdout=0.2",
             # Of the table, neither is.
             "--config.data.holdout=0.5", "--config.data.test=heldout"]
  assert compare.main([*command, "--plan"]) == 0 and not place.exists()
  assert compare.main([*command, f"--workdir={place}"]) == 0
  chosen, table = (report.read(place / stage) for stage in ("choosing", "table"))
  assert (len(chosen), len(table)) == (2 * 2 * 2, 2 * 3)
  # Of the choice, no number is of a test example.
  assert all(each["test_errors"] == each["heldout_errors"]
             and each["test_set"] == "heldout" for each in chosen)
  assert not {each["seed"] for each in chosen} & {each["seed"] for each in table}
  notes = [line for line in (place / "choosing/table.md").read_text().splitlines()
           if "data.test=heldout" in line]
  assert len(notes) == 1 and not points.gather(table).notes
  assert not {"test_set", "heldout_examples"} & table[0].keys()
  assert (chosen[0]["train_examples"], table[0]["train_examples"]) == (240, 300)
  assert (chosen[0]["test_examples"], table[0]["test_examples"]) == (60, 110)
  written_before = (place / "table" / "results.jsonl").read_bytes()
  text = (place / "comparison.md").read_text()
  assert text in capsys.readouterr().out
  # Stopped just after the choice, it says how to go on.
  shutil.move(place / "table", tmp_path / "table")
  monkeypatch.setattr(
      compare.door.Signals, "__call__",
      lambda self: (place / "choosing/table.md").exists())
  capsys.readouterr()
  assert compare.main([*command, f"--workdir={place}"]) == 0
  assert "To go on: python -m kd_jax.compare" in capsys.readouterr().err
  assert (place / "comparison.md").read_text() == text
  monkeypatch.undo()
  shutil.rmtree(place / "table")
  shutil.move(tmp_path / "table", place / "table")
  # Given again, it trains nothing and says the same.
  assert compare.main([*command, f"--workdir={place}"]) == 0
  assert (place / "table" / "results.jsonl").read_bytes() == written_before
  assert (place / "comparison.md").read_text() == text


@pytest.mark.parametrize("words", [
    ["--arms=nowhere.toml"], ["--arms=ARMS", "--reference=nobody"],
    ["--arms=ARMS", "--sweep.alpha=1,2"], ["--arms=ARMS", "--config.alpha=0.5"],
    ["--arms=ARMS", "--workdir=FOREIGN"], ["--arms=ARMS", "--config=nowhere.py"]])
def test_mistakes_are_one_line(tmp_path, words, capsys):
  file = written(tmp_path, ARMS)
  words = [word.replace("ARMS", file).replace("FOREIGN", str(tmp_path))
           for word in words]
  assert compare.main(["--config=configs/mnist.py", *words]) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1


def test_a_table_of_somebody_else_is_not_written_over(tmp_path, capsys):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine/comparison.md").write_text("mine")
  assert compare.main([
      "--config=configs/mnist.py", f"--arms={written(tmp_path, ARMS)}",
      f"--workdir={tmp_path / 'mine'}"]) == 2
  assert "holds comparison.md" in capsys.readouterr().err
  assert (tmp_path / "mine/comparison.md").read_text() == "mine"


def test_a_mistake_is_said_of_its_arm(tmp_path, capsys):
  file = written(tmp_path, '[a]\nmethod = "hard"\n[b]\ntemperature = [-3]\n')
  assert compare.main(["--config=configs/mnist.py", f"--arms={file}"]) == 2
  assert f"--arms={file}: [b] config.temperature=-3" in capsys.readouterr().err
