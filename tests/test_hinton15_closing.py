"""What is tried to bring the distilled net to 74: the plan, and the verdict."""

import contextlib
import json
import math

from conftest import ROOT
import jax
import numpy as np
import pytest

from experiments.hinton15_closing import study, teachers, verdict
from experiments.protocol import Options
from kd_jax import config as config_lib
from kd_jax.config import recipe
from kd_jax.runs import records


def planned(tmp_path, **options):
  """The configs of all stages by name, before anything is known."""
  return {stage.name: stage.config({})
          for stage in study.stages(Options(tmp_path, **options))}


def test_what_is_chosen_is_chosen_without_the_test_set(tmp_path):
  configs = planned(tmp_path)
  assert list(configs) == ["targets", "sgd", "kinds", "table", "long"]
  chooses = {name: (config.data.test, config.data.holdout)
             for name, config in configs.items()}
  assert {name for name, how in chooses.items() if how == ("heldout", 0.1)} == {
      "targets", "kinds", "sgd"}
  assert {chooses[name] for name in ("table", "long")} == {("own", 0.0)}
  # Two targets of two lengths; 22 kinds; one seed of 10 optimisers, of each loss.
  assert {name: len(config.sweep.points) for name, config in configs.items()} == {
      "targets": 2 * (4 + 3), "kinds": 22 * 2, "table": 2 * 12, "sgd": 2 * 10,
      "long": 4 * 2 * 6}
  for config in configs.values():
    assert config.student.views == "none" and config.student.widths == (800, 800)
    for point in config.sweep.points:
      config_lib.check(config_lib.flatten(config) | point)


def test_students_are_shared_out_among_teachers(tmp_path):
  configs = planned(tmp_path)
  assert [(point["seed"], point["teacher.seed"])
          for point in configs["table"].sweep.points] == [
              (seed, seed % 3) for seed in range(12)] * 2
  taught = [(point["seed"], point.get("teacher.logits"))
            for point in configs["long"].sweep.points]
  # Labels alone have no teacher, so that none is to be there for them.
  logits = "experiments/hinton15_closing/logits/60000_{}.npy"
  assert taught == len(study.LENGTHS) * [
      *((seed, logits.format(seed % 3)) for seed in range(6)),
      *((seed, None) for seed in range(6))]


def test_who_learns_from_labels_alone_asks_no_teacher(tmp_path):
  for name in ("sgd", "long"):
    config = planned(tmp_path)[name]
    for point in config.sweep.points:
      values = config_lib.changed(config_lib.flatten(config), point)
      assert ("teacher.logits" in point) == (values["method"] == "kd")
      if values["method"] == "hard":
        assert [net.name for net in recipe.nets(values, swept=True)] == ["student"]


def test_each_kind_of_teacher_changes_what_it_is_named_for(tmp_path):
  points = [{key: value for key, value in point.items() if key != "seed"}
            for point in planned(tmp_path)["kinds"].sweep.points]
  assert len({str(sorted(point.items())) for point in points}) == 22
  # 20 epochs unless a kind says otherwise, and five are five: no least of steps.
  assert sorted({point["teacher.epochs"] for point in points}) == [
      5, 10, 20, 60, 200]
  assert planned(tmp_path)["kinds"].teacher.min_steps == 0
  base = study.KINDS["base"]
  changed = {name: {key for key in point if point[key] != base.get(key)}
             for name, point in study.KINDS.items()}
  assert changed["base"] == set()
  assert changed["no dropout"] == {
      "teacher.input_dropout", "teacher.hidden_dropout"}
  assert changed["width 300"] == {"teacher.widths"}
  assert changed["smoothing 0.1, 60 epochs"] == {
      "teacher.label_smoothing", "teacher.epochs"}


def test_sgd_is_that_of_the_paper_on_dropout():
  one = study.trained(study.SETTINGS["SGD 0.2, max-norm"], verdict.SOFT, 150)
  assert one == {
      "optimizer.name": "sgd", "optimizer.schedule": "exponential",
      "optimizer.factor": 0.998, "optimizer.momentum": 0.5,
      "optimizer.momentum_end": 0.99, "optimizer.momentum_epochs": 75.0,
      "optimizer.learning_rate": 0.2, "batch_size": 100, "student.init_scale": 0.2,
      "student.max_norm": math.sqrt(15), "alpha": 0.9, "temperature": 20.0,
      "optimizer.ema": 0.999, "epochs": 150}
  adamw = study.trained(study.SETTINGS["AdamW, decay 1"], verdict.HARD, 1000)
  assert "optimizer.momentum_epochs" not in adamw and adamw["method"] == "hard"


def row(point, seed, *, heldout=None, test=None, teacher="t0", failed=None, ema=0):
  """A student; its average makes `ema` errors more than its last weights."""
  more = lambda errors: errors and errors + ema
  return {"overrides": point | {"seed": seed}, "seed": seed, "failed": failed,
          "heldout_errors": more(heldout), "heldout_last_errors": heldout,
          "test_errors": more(test), "test_last_errors": test,
          "teacher_fingerprint": teacher}


def rows_of_kinds(errors):
  """Two students of a teacher of each kind, and the teachers."""
  tried = [row(study.KINDS[name], 100 + n, heldout=each + n, teacher=name)
           for name, each in errors.items() for n in (0, 1)]
  teachers = [{"net": "teacher", "fingerprint": name, "heldout_errors": 50 - place,
               "heldout_nll": 0.01 * each, "train_entropy": {"20": 2.0}}
              for place, (name, each) in enumerate(errors.items())]
  return {"kinds": tried, "kinds_teachers": teachers}


def test_the_best_kind_is_another_than_the_base():
  rows = rows_of_kinds({"base": 40, "no dropout": 60, "affine": 50, "5 epochs": 70})
  assert study.best_kind({}) == "200 epochs"
  assert study.best_kind(rows) == "affine"
  assert list(study.compared(rows)) == ["affine", "base"]
  points = study.table(rows, 3).sweep.points
  assert {point.get("teacher.views") for point in points} == {"affine", None}
  # A kind of which one student failed is judged by the other.
  rows["kinds"][4] |= {"failed": "not finite", "heldout_errors": None}
  assert study.best_kind(rows) == "affine"


def test_rank_correlation_by_hand():
  # d = 0, 1, 1, 0: rho = 1 - 6 * 2 / (4 * 15) = 0.8, z = ln(1.8 / 0.2) / 2.
  z, wide = math.log(9) / 2, 1.959964 * math.sqrt(1.32 / 1)
  found = verdict.spearman([10, 20, 30, 40], [1, 3, 2, 4])
  assert found.rho == pytest.approx(0.8)
  assert (found.low, found.high) == pytest.approx(
      (math.tanh(z - wide), math.tanh(z + wide)), abs=1e-5)
  # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
  tied = verdict.spearman([5, 5, 9, 10], [1, 2, 3, 4])
  assert tied.rho == pytest.approx(4.5 / math.sqrt(22.5))
  # Of three, no interval.
  assert verdict.spearman([1, 2, 3], [1, 3, 2]) == (0.5, None, None, 3)
  assert verdict.spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == (-1, None, None, 5)
  assert verdict.spearman([1, 1], [1, 2]) is verdict.spearman([], []) is None


def test_kinds_are_told_with_what_goes_with_their_students(tmp_path):
  rows = rows_of_kinds({"base": 40, "no dropout": 60, "affine": 50, "5 epochs": 70})
  told = study.conclude(rows)
  lines = [line for line in told.splitlines() if line.startswith("| ")]
  # The best first, students 40 and 41; errors 50 to 47 have ranks 4, 3, 2, 1.
  assert lines[1] == "| base | 50 | 0.4000 | 2.0000 | 40.5 | 40, 41 |"
  assert [line.split(" | ")[0] for line in lines[1:5]] == [
      "| base", "| affine", "| no dropout", "| 5 epochs"]
  # Students 1, 3, 2, 4: rho -0.8; NLL goes with them; all entropies are alike.
  assert "| teacher's held-out errors | -0.80 | [-1.00, +0.82] |" in told
  assert "| teacher's held-out NLL | +1.00 |  |" in told
  assert "| teacher's entropy of targets |  |  |" in told
  study.pictures(rows, tmp_path)
  assert (tmp_path / "kinds.png").stat().st_size > 2000


@pytest.mark.parametrize(("averaged", "says"), [
    # -6, -4, -5 and -5: -5 ± 3.182 * 0.8165 / 2.
    ((54, 57, 57, 58), "-5.0 [-6.3, -3.7] (4 seeds, one teacher), p 0.0012 (Holm); "
                       "that averaging brings fewer errors holds"),
    ((60, 63, 60, 63), "+0.0 [-2.6, +2.6] (4 seeds, one teacher), p 1 (Holm); that "
                       "averaging brings fewer errors is not shown"),
    ((70, 71, 72, 74), "fewer errors does not hold")])
def test_targets_are_compared_by_seed_at_each_length(averaged, says):
  errors = dict(zip(study.TARGETS, [
      (60, 61, 62, 63), averaged, (80, 80), (80, 82)]))
  rows = {"targets": [
      row(study.TARGETS[name], 100 + n, heldout=each)
      for name, found in errors.items() for n, each in enumerate(found)]}
  told = study.conclude(rows)
  assert says in told
  assert "| its own answer, 40 epochs | 61.5 | 60, 61, 62, 63 |" in told
  # Two seeds are told of, and not judged.
  assert "| its own answer, 320 epochs | 80.0 | 80, 80 |" in told
  assert "After 320 epochs" not in told


def rows_of_sgd(errors, ema=5):
  """One row of each optimiser and loss; None has failed."""
  return [row(study.trained(setting, loss, study.TRIED), 100, ema=ema,
              heldout=errors.get((loss, name), 90),
              failed=None if errors.get((loss, name), 90) else "not finite")
          for loss in study.LOSSES for name, setting in study.SETTINGS.items()]


def test_each_loss_has_its_best_optimiser_for_long():
  soft, hard = study.LOSSES
  rows = {"sgd": rows_of_sgd({
      (soft, "Adam"): 10, (soft, "SGD 0.2"): 70, (hard, "SGD 0.05, max-norm"): 80,
      (soft, "SGD 0.5"): None})}
  # Adam is there to compare with, and what failed has no errors.
  assert study.chosen(rows, soft) == "SGD 0.2"
  assert study.chosen(rows, hard) == "SGD 0.05, max-norm"
  assert study.chosen({}, soft) == "AdamW, decay 1, averaged"
  points = study.longest(rows, 6).sweep.points
  assert {(p.get("alpha"), p.get("student.max_norm") is None) for p in points} == {
      (0.9, True), (None, False)}
  assert {(p["epochs"], p["optimizer.momentum_epochs"]) for p in points} == {
      (10, 5.0), (40, 20.0), (150, 75.0), (1000, 500.0)}
  told = study.conclude(rows)
  assert "| SGD 0.5 | diverged | 90 |" in told and "| Adam | 10 | 90 |" in told
  assert "| SGD 0.2, averaged | 75 | 95 |" in told
  assert "learning rate 0.05 (the lowest of 3)" in told
  # Alike to the last bit, where the bound is never reached.
  assert "The bound on norms changed nothing, with: SGD 0.05 (soft targets)" in told
  assert "SGD 0.05 (labels alone)" not in told


def test_the_average_is_chosen_on_held_out_data_and_judged_on_the_test_set():
  soft = verdict.SOFT
  rows = {"sgd": rows_of_sgd({(soft, "SGD 0.2"): 70}, ema=-5)}
  assert study.chosen(rows, soft) == "SGD 0.2, averaged"
  assert study.lasting(rows)[soft]["optimizer.learning_rate"] == 0.2
  rows["long"] = [row(point, seed, test=80 + seed, ema=-6)
                  for point in study.lasting(rows).values() for seed in (0, 3)]
  # 74 and 77 of the averages, where the last weights make 80 and 83.
  assert "soft targets, 1,000 epochs 75.5 ±" in study.status(rows)
  text = study.conclude(rows)
  assert "chose: soft targets 81.5; soft targets, averaged 75.5; labels" in text
  rows["sgd"] = rows_of_sgd({(soft, "SGD 0.2"): 70})
  assert "soft targets, 1,000 epochs 81.5 ±" in study.status(rows)


def final(points, errors, alone=()):
  """Rows on all images: seeds 0 to 5, two of each of three teachers."""
  return [row(point, seed, test=errors[name](seed),
              teacher=None if name in alone else f"{name}{seed % 3}")
          for name, point in points.items() for seed in range(6)]


def test_the_best_kind_is_judged_over_teachers():
  rows = rows_of_kinds({"base": 60, "affine": 50})
  noise = (1, -1, 0, 2, 0, -2)
  rows["table"] = final(study.compared(rows), {
      "base": lambda seed: 90 + noise[seed],
      "affine": lambda seed: 70 - noise[seed]})
  told = study.conclude(rows)
  assert "of teacher other than the base, on all images: affine" in told
  assert "affine minus base: -20.0 [" in told
  assert "(over teachers); fewer errors: holds." in told
  assert study.status(rows).startswith("best other teacher (affine) 70.0 ±")
  assert "(6/3), base 90.0 ±" in study.status(rows)
  rows["table"] = final(study.compared(rows), {
      "base": lambda seed: 90 + noise[seed],
      "affine": lambda seed: 110 - noise[seed]})
  assert "fewer errors: does not hold" in study.conclude(rows)
  # Over as many nets, of which those of a teacher are alike.
  far = (14, -14, 0, 15, -13, 1)
  rows["table"] = final(study.compared(rows), {
      "base": lambda seed: 90 + noise[seed], "affine": lambda seed: 70 + far[seed]})
  assert "fewer errors: is not shown" in study.conclude(rows)


@pytest.mark.parametrize(("errors", "says"), [
    (74, "the paper's 74 is not excluded"), (90, "is excluded, below")])
def test_the_longest_training_is_set_beside_74(errors, says, tmp_path):
  rows, noise = {"sgd": rows_of_sgd({})}, (1, -1, 0, 1, -1, 0)
  rows["long"] = final(study.lasting(rows), {
      verdict.SOFT: lambda seed: errors + noise[seed],
      verdict.HARD: lambda seed: 120 - noise[seed]}, alone=[verdict.HARD])
  told = study.conclude(rows)
  assert says in told and f"soft targets, 1,000 epochs {errors}.0 ±" in (
      study.status(rows))
  line, = (line for line in told.splitlines() if line.startswith("| 1,000 |"))
  assert f"| {errors}.0 ± " in line and "(6/3) | 120.0 ± " in line
  # Labels alone have no teacher: six runs are six.
  assert "(6) |" in line and line.endswith("| holds |")
  assert f"{errors - 120:+.1f} [" in line and "| 10 |  |  |  |  |" in told
  study.pictures(rows, tmp_path)
  assert (tmp_path / "epochs.png").is_file()


def test_what_there_is_of_a_long_training_is_told(tmp_path):
  rows = {"sgd": rows_of_sgd({})}
  rows["long"] = final(study.lasting(rows, 40), {
      verdict.SOFT: lambda seed: 90, verdict.HARD: lambda seed: 120})
  told = study.conclude(rows)
  assert "| 40 | 90.0 ± 0.0" in told and "One more run" not in told
  study.pictures(rows, tmp_path)
  assert (tmp_path / "epochs.png").is_file()
  for each in rows["long"]:
    each["failed"] = "not finite in epoch 3"
  assert "Left out, as not finite: 12 nets." in study.conclude(rows)


# ---- The teachers.


def test_a_teacher_is_the_papers_and_learns_from_labels():
  for name in (teachers.FIRST, *teachers.SEEDS):
    config = teachers.config(name)
    net, = recipe.nets(config_lib.flatten(config), swept=False)
    values = net.values
    assert (values["method"], values["epochs"], values["batch_size"]) == (
        "hard", 200, 128)
    assert {key: values[f"student.{key}"] for key in teachers._OF_NET} == {
        "name": "mlp", "widths": (1200, 1200), "views": "shift2",
        "input_dropout": 0.1, "hidden_dropout": 0.5, "max_norm": 3.5}
    assert values["data.holdout"] == (0.1 if name == teachers.FIRST else 0)


def test_the_mean_over_views_is_that_of_softmaxes_by_hand():
  answers = {1: np.array([[0.0, 20.0]]), 2: np.array([[40.0, 0.0]])}
  made = teachers.averaged(
      lambda images: answers[int(images[0])], np.array([1]),
      [lambda images: images, lambda images: images + 1])
  e = math.e
  p = np.array([1 / (1 + e) + e**2 / (1 + e**2), e / (1 + e) + 1 / (1 + e**2)]) / 2
  np.testing.assert_allclose(made, 20 * np.log(p)[None])
  kept = teachers.centred(made)
  assert kept.dtype == np.float16
  again = np.exp(kept[0].astype(float) / 20)
  np.testing.assert_allclose(again / again.sum(), p, atol=1e-4)


def test_the_logits_of_a_teacher_are_kept_and_teach(own_data, tmp_path, monkeypatch,
                                                    capsys):
  def config(name, given=teachers.config):
    made = given(name)
    made.data.name, made.data.dir = "blobs", str(own_data)
    made.data.embedded, made.nets.teacher.widths, made.steps = "auto", (8,), 40
    made.tensorboard = False
    return made

  monkeypatch.setattr(teachers, "config", config)
  monkeypatch.setattr(teachers, "_FOLDER", tmp_path / "logits")
  monkeypatch.setattr(records, "commit", lambda: ("c" * 40, False))
  command = [teachers.FIRST, "60000_1", f"--workdir={tmp_path}/w"]
  with contextlib.chdir(ROOT), jax.numpy_dtype_promotion("standard"):
    assert teachers.main(command) == 0
    assert teachers.main(command) == 0
    assert teachers.main(["60000_9"]) == 2
  told = capsys.readouterr()
  assert told.out.count(" is there") == 2 and "60000_9: is no teacher" in told.err
  first, other = map(json.loads, (
      tmp_path / "logits/made.jsonl").read_text().splitlines())
  assert (first["test_set"], first["train_examples"]) == ("heldout", 270)
  assert (other["test_set"], other["train_examples"], other["seed"]) == (
      "test", 300, 1)
  assert first["dirty"] is False and other["test_errors"] >= 0
  logits = np.load(tmp_path / "logits/54000.npy", allow_pickle=False)
  averaged = np.load(tmp_path / "logits/54000_averaged.npy", allow_pickle=False)
  assert logits.shape == averaged.shape == (300, 7)
  assert 0 < np.abs(logits - averaged).max() < 20
  monkeypatch.setattr(records, "commit", lambda: ("c" * 40, True))
  assert teachers.main(["60000_2"]) == 2
  assert "commit them" in capsys.readouterr().err


def test_the_entropy_is_that_of_the_targets_by_hand():
  # softmax(0, ln 3) is 1/4 and 3/4, and twice as soft at T = 2.
  z = np.array([[0.0, math.log(3)]])
  assert teachers.entropy(z, 1.0) == pytest.approx(
      math.log(4) - 0.75 * math.log(3))
  assert teachers.entropy(z, 2.0) > teachers.entropy(z, 1.0)


def test_teachers_and_their_students_are_of_this_project():
  """What is committed of them says which commit made it."""
  made = ROOT / "experiments/hinton15_closing/logits/made.jsonl"
  names = [json.loads(line)["name"] for line in made.read_text().splitlines()] if (
      made.exists()) else []
  assert sorted(names) == sorted({*names} & {teachers.FIRST, *teachers.SEEDS})
  for name in names:
    logits = np.load(ROOT / teachers.file(name), allow_pickle=False)
    assert logits.shape == (60_000, 10) and logits.dtype == np.float16
