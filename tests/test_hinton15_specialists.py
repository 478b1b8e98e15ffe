"""The study of a generalist and its specialists: data, nets, choices, verdicts."""

import pathlib

from conftest import blobs
import jax
import numpy as np
import pytest

from experiments import index
from experiments.hinton15_specialists import (
  chain,
  letters,
  nets,
  plan,
  study,
  verdict,
)
from experiments.protocol import Options, Place
from kd_jax import data
from kd_jax.core.errors import UserError
from kd_jax.runs import results


@pytest.fixture(autouse=True)
def _as_users_run_it():
  with jax.numpy_dtype_promotion("standard"):
    yield


# Data.


def letter_lines(number: int = 20_000) -> list[str]:
  return [f"{'ABCXYZ'[i % 6]}," + ",".join(str((i + j) % 16) for j in range(16))
          for i in range(number)]


def written(folder: pathlib.Path, lines: list[str], monkeypatch) -> pathlib.Path:
  monkeypatch.setenv("KD_JAX_DATA", str(folder))
  file = folder / "uci" / "letter-recognition.data"
  file.parent.mkdir()
  file.write_text("\n".join(lines) + "\n")
  return file


def test_letters_are_read(tmp_path, monkeypatch):
  written(tmp_path, letter_lines(), monkeypatch)
  found = letters.load(0.25)
  assert found.train.inputs.shape == (16_000, 1, 1, 16)
  assert len(found.test.label) == 4_000 and len(found.heldout_ids) == 4_000
  # Line 16,000 is the first of the test set: 16,000 = 4 mod 6, 0 mod 16.
  assert letters.names(26)[found.test.label[0]] == "Y"
  assert found.test.inputs[0].ravel().tolist() == list(range(16))
  assert len(letters.load(0.0).train_ids) == 16_000


def test_the_official_file_is_read(official_data, monkeypatch):
  if not (official_data / letters.FILE).is_file():
    pytest.skip(f"needs {letters.FILE} in KD_JAX_DATA")
  monkeypatch.setenv("KD_JAX_DATA", str(official_data))
  found = letters.load(0.0)
  assert np.bincount(found.train.label).min() > 500
  # The first line is T,2,8,3,5,1,8,13,0,6,6,10,8,0,8,0,8.
  assert letters.names(26)[found.train.label[0]] == "T"
  assert found.train.inputs[0, 0, 0, :4].tolist() == [2, 8, 3, 5]


def test_where_to_get_the_letters_is_told_in_a_line(tmp_path, monkeypatch):
  for folder in (None, tmp_path):
    monkeypatch.delenv("KD_JAX_DATA", raising=False)
    if folder:
      monkeypatch.setenv("KD_JAX_DATA", str(folder))
    with pytest.raises(UserError, match=r"archive\.ics\.uci\.edu") as told:
      letters.load(0.0)
    assert "\n" not in str(told.value) and "Slate 1991" in str(told.value)


@pytest.mark.parametrize("damage", [
    lambda lines: lines[:-1], lambda lines: [lines[0] + ",3", *lines[1:]],
    lambda lines: ["T,16" + lines[0][3:], *lines[1:]],
    lambda lines: ["t" + lines[0][1:], *lines[1:]],
    lambda lines: ["é" + lines[0][1:], *lines[1:]]])
def test_another_file_is_refused(damage, tmp_path, monkeypatch):
  written(tmp_path, damage(letter_lines()), monkeypatch)
  with pytest.raises(UserError, match="must have 20000 lines of a letter"):
    letters.load(0.0)


# Nets: 7 kinds of small images.


def planted(holdout: float) -> data.Dataset:
  train, test = data.Examples(*blobs(160, 1)), data.Examples(*blobs(60, 2))
  ids = data.split_ids(160, holdout)
  return data.Dataset("blobs", "planted", "", train, test, *ids, 7, "blobs")


LENGTH = chain.Length((6,), 40, 2, 0)
HARD = {"learning_rate": 0.01}
SETS = np.array([[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0]], bool)


@pytest.fixture(scope="module")
def family():
  with jax.numpy_dtype_promotion("standard"):
    bench = chain.Setup(planted(0.0), LENGTH, lambda: False)
    return bench, chain.generalists(bench, [3], [HARD])


def test_specialists_begin_as_the_generalist(family):
  bench, generalist = family
  alone = chain.of_all_classes(generalist)
  apart, = chain.specialised(bench, generalist, SETS, [5, 6], [HARD])
  for m, inside in enumerate(SETS):
    own = apart.judged[:, m, :-1]
    assert np.isneginf(own[:, ~inside]).all()
    # The dustbin's odds in training are undone: what is left are its own logits.
    np.testing.assert_allclose(own[:, inside], alone.judged[:, inside], rtol=1e-5)
    # By Jensen's inequality one linear unit says less than log sum exp.
    dustbin = apart.judged[:, m, -1]
    outside = np.logaddexp.reduce(alone.judged[:, ~inside], axis=-1)
    assert (dustbin <= outside + 1e-5).all()
    np.testing.assert_allclose(
        dustbin, alone.judged[:, ~inside].mean(1) + np.log(sum(~inside)), rtol=1e-4,
        atol=1e-4)


def test_specialists_with_soft_targets_begin_by_agreeing(family):
  bench, generalist = family
  alone = chain.of_all_classes(generalist)
  settings = HARD | {"alpha": 0.5, "temperature": 1.0}
  for apart in chain.regularised(
      bench, generalist, SETS, [5, 6], [settings, settings]):
    both = chain.together(alone, apart, SETS, top=7)
    np.testing.assert_allclose(
        both.judged, jax.nn.log_softmax(alone.judged), atol=1e-4)


def test_the_share_of_sets(family):
  bench, _ = family
  label = bench.dataset.train.label
  np.testing.assert_allclose(
      bench.share(SETS), [np.mean(label < 3), np.mean((label > 1) & (label < 6))],
      rtol=1e-6)


def test_a_lane_does_not_depend_on_the_others(family):
  bench, generalist = family
  seeds = [9, 8, 7, 6, 3]
  many = chain.generalists(bench, seeds, [HARD] * 5)
  assert many.said.judged.shape == (5, 60, 8)
  for leaf, alone in zip(jax.tree.leaves(many.variables),
                         jax.tree.leaves(generalist.variables)):
    np.testing.assert_array_equal(leaf[4], alone[0])
  assert not np.array_equal(many.said.judged[0], many.said.judged[1])


def test_an_output_that_does_not_exist_learns_nothing(family):
  _, generalist = family
  kernel = generalist.variables.params["Dense_1"]["kernel"][0]
  fresh = nets._init((6,), 8)(  # pylint: disable=protected-access
      np.uint32([3] * nets.WIDTH), jax.tree.map(
          lambda x: np.float32([x] * nets.WIDTH), chain._hparams(HARD)),
      np.zeros((1, 12, 10, 1), np.float32)).student.params["Dense_1"]["kernel"][0]
  np.testing.assert_array_equal(kernel[:, -1], fresh[:, -1])
  assert np.abs(kernel[:, :-1] - fresh[:, :-1]).min() > 0
  assert np.isneginf(generalist.said.judged[..., -1]).all()


def test_an_ensemble_is_the_mean_of_probabilities():
  z = np.log(np.array([[[.5, .5, 1]], [[.9, .1, 1]]], np.float32))
  told = chain.ensemble(chain.Nets(None, chain.Said(z, z)))
  np.testing.assert_allclose(np.exp(told.judged), [[.7, .3]], rtol=1e-5)


# The whole of it, in small.


SOFT = [{"learning_rate": 0.01, "alpha": 0.9, "temperature": 2.0}]
SMALL = plan.Plan(
    planted, chain.Length((6,), 40, 2, 1), {
        "generalist": [HARD], "continued": [HARD], "hard labels": [HARD],
        "specialists": [{"sets": (2, 3), "learning_rate": 0.01, "top": 1}],
        "regularised": [{"alpha": 0.5, "temperature": 1.0}],
        **dict.fromkeys(plan.DISTILLED, SOFT)}, seeds=2, choosing=(7,))


@pytest.mark.slow
def test_all_stages_leave_what_the_verdict_reads(tmp_path, monkeypatch):
  monkeypatch.setattr(plan, "FULL", SMALL)
  rows, said, asked = {}, [], []

  def stop():
    asked.append(None)
    return len(asked) == 9

  for stage in study.stages(Options(tmp_path)):
    folder = tmp_path / stage.name
    # Stopped somewhere in the first stages, and given again.
    for _ in range(2):
      stage.run(rows, Place(folder, stop, said.append))
    rows |= index.stage_rows(folder)
  assert any("stopped with" in line for line in said)
  assert any("2 of 2 tasks are done" in line for line in said)
  assert [row["method"] for row in rows["table"]] == 2 * [*plan.METHODS]
  by_mark = {row["fingerprint"]: row for row in rows["table"]}
  assert len(by_mark) == 18
  for row in rows["table"]:
    assert row["schema"] == results.SCHEMA and row["study"] == study.NAME
    assert row["test_examples"] == 60 and row["failed"] is None
    assert len(row["test_wrong_ids"]) == row["test_errors"]
    teacher = plan.TEACHERS.get(row["method"])
    assert (row["teacher_fingerprint"] is None) == (teacher is None)
    if teacher:
      taught = by_mark[row["teacher_fingerprint"]]
      assert (taught["method"], taught["seed"]) == (teacher, row["seed"])
  own = rows["table"][2]
  assert own["method"] == "specialists" and len(own["sets"]) == 2
  # Each example is counted once by how often it is covered, and once a cover.
  assert sum(cell[0] for cell in own["covered"].values()) == 60
  assert sum(int(n) * cell[0] for n, cell in own["covered"].items()) == (
      own["conditional"]["examples"])
  assert sum(cell[2] for cell in own["covered"].values()) == 60 - own["test_errors"]
  assert not any("test_errors" in row for name in plan.CHOSEN for row in rows[name])
  assert "**Table 4**" in study.conclude(rows) and "%" in study.status(rows)
  study.pictures(rows, tmp_path)
  assert 1000 < (tmp_path / "errors.png").stat().st_size < 150_000


def test_a_stage_wants_all_rows_of_the_one_before(tmp_path, monkeypatch):
  monkeypatch.setattr(plan, "FULL", SMALL)
  table = study.stages(Options(tmp_path))[-1]
  with pytest.raises(UserError, match="stage generalists: lacks rows"):
    table.run({}, Place(tmp_path, lambda: False, print))


# Choices and verdicts.


def test_settings_are_chosen_on_held_out_data_alone():
  rows = [{"method": "generalist", "overrides": {**settings, "seed": seed},
           "heldout_errors": errors, "test_errors": 100 - errors}
          for settings, both in zip(plan.FULL.grids["generalist"], (
              (9, 9), (8, 8), (7, 9), (3, 13), *[(20, 20)] * 4))
          for seed, errors in zip(plan.FULL.choosing, both)]
  choice = plan.choose(plan.FULL, {"generalists": rows}, "specialists")
  # 16 errors thrice: the first of the grid, at rate 0.003 with smoothing.
  assert choice == {"generalist": {"learning_rate": 0.003, "label_smoothing": 0.1}}
  with pytest.raises(UserError, match="lacks rows"):
    plan.choose(plan.FULL, {"generalists": rows[:-1]}, "specialists")


def test_every_method_has_the_same_budget():
  assert all(len(grid) <= 8 for grid in plan.FULL.grids.values())
  assert {*plan.FULL.grids, "ensemble"} == set(plan.METHODS) == {
      *plan.QUICK.grids, "ensemble"}
  assert plan.FULL.seeds >= 10 and len(plan.FULL.choosing) == 2
  assert not set(range(plan.FULL.seeds)) & set(plan.FULL.choosing)


WIGGLE = (0, 3, -2, 1, -1, 2, 0, -3, 1, -1)


def table(gains=(0, 10, 30), **errors: int) -> dict:
  """Ten seeds of every method, with these errors more or less."""
  known = dict.fromkeys(plan.METHODS, 300) | {
      name.replace("_", " "): value for name, value in errors.items()}
  rows = []
  for method, mean in known.items():
    for seed, noise in enumerate(WIGGLE):
      odd = WIGGLE[(seed * 3 + len(method)) % 10]
      row = {"method": method, "seed": seed, "failed": None, "test_examples": 4000,
             "test_errors": mean + 5 * noise + odd, "test_nll": 0.3,
             "test_ece": 0.01, "overrides": {"learning_rate": 0.01, "seed": seed}}
      if method in ("specialists", "regularised"):
        row |= {"sets": ["EFG", "IJ"], "asked": 1.25,
                "conditional": {"examples": 2000, "generalist": 1800,
                                "together": 1900},
                # Of 1000 each; the classes covered so often gain so much.
                "covered": {str(times): [1000, 900, 900 + gain + odd]
                            for times, gain in enumerate(gains)}}
      rows.append(row)
  return {"table": rows}


def test_a_verdict_that_all_holds():
  rows = table(specialists=250, regularised=240, ensemble=230, from_specialists=260)
  said = verdict.conclude(rows)
  assert "fewer errors than the generalist alone holds here" in said
  assert "with hard labels as long holds here" in said
  assert "That more specialists gain more holds here" in said
  line, = [line for line in said.splitlines() if line.startswith(
      "| + specialists minus as many generalists")]
  # 250 - 230 and no more noise than the interval tells.
  assert line.endswith("| more |") and "+20.0 [" in line
  # (300 - 260) / (300 - 250).
  assert "keeps 80% [7" in said
  assert "EFG, IJ" in said and "95.00 ± 0.00 (10)" in said
  # 6.25% of 4,000: 93.75% right, from 92.5%.
  assert "| 26.1 | 93.75 ±" in said
  assert verdict.status(rows) == (
      "generalist 92.5 ± 0.2 (10)%, with specialists 93.8 ± 0.2 (10)%; one net "
      "from these 93.5 ± 0.2 (10)%, from hard labels 92.5 ± 0.2 (10)%")


def test_a_verdict_that_nothing_is_shown():
  said = verdict.conclude(table(gains=(0, 10, 10)))
  assert "than the generalist alone is not shown here" in said
  assert "hard labels as long is not shown here" in said
  assert "gain more is not shown here" in said
  assert "there is no share to keep" in said


def test_a_verdict_that_it_is_the_other_way_round():
  said = verdict.conclude(table(gains=(0, 30, 10), specialists=350,
                                from_specialists=340))
  assert "than the generalist alone does not hold here" in said
  assert "hard labels as long does not hold here" in said
  assert "gain more does not hold here" in said


def test_a_seed_without_classes_covered_so_often_is_no_zero():
  rows = table(gains=(0, 10, 30))
  for row in rows["table"]:
    if row["method"] == "specialists" and row["seed"] > 1:
      del row["covered"]["2"]
  odd = [WIGGLE[(seed * 3 + len("specialists")) % 10] for seed in (0, 1)]
  gains = verdict._gains(verdict._by_method(rows), [2])
  assert gains == pytest.approx({
      seed: 100 * (30 + more) / 900 for seed, more in enumerate(odd)})
  assert "by seed (n = 2): " in verdict.conclude(rows)


def test_what_failed_and_what_is_not_there_is_left_out():
  rows = table(specialists=250)
  rows["table"][0]["failed"] = "not finite"
  assert "(9)" in verdict.conclude(rows) and "(10)" not in verdict.conclude(rows)
  few = {"table": [row for row in rows["table"] if row["method"] != "continued"]}
  assert verdict.conclude(few) == "Not all methods have two seeds yet.\n"
  assert verdict.status({}) == "not all methods yet"
