"""Early-stopped teachers: what the nets share, what is chosen, the verdict."""

import collections

from conftest import ROOT
import jax
import pytest

from configs import early_stopped as recipe
from experiments.early_stopped_mnist import study
from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import build
from kd_jax.config import recipe as recipe_lib
from kd_jax.report import plots
from kd_jax.runs import results


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


def test_students_differ_in_the_epoch_of_their_teacher_alone():
  made = {net.name: net for net in recipe_lib.nets(
      config_lib.flatten(recipe.get_config()), swept=True)}
  assert {made[f"of_{epoch}"].teachers for epoch in (1, 2, 5, 10, 20)} == {
      (f"teacher_at_{epoch}",) for epoch in (1, 2, 5, 10, 20)}
  assert made["of_40"].teachers == made["stopped"].teachers == ("teacher",)
  assert [made[f"teacher_at_{epoch}"].epoch for epoch in (1, 20)] == [1, 20]
  # Students that are compared begin alike; all early teachers are one training.
  assert {made[name].role for name in ("labels", *study.ARMS)} == {0}
  teachers = [net for name, net in made.items() if name.startswith("teacher")]
  assert len(teachers) == 6 and {net.role for net in teachers} == {1}
  assert all(net.values == made["teacher"].values for net in teachers)
  usual = made["of_1"].values
  for name in recipe.STUDENTS:
    assert made[name].values == usual, name
  differ = {key for key, value in made["stopped"].values.items()
            if value != usual[key]}
  assert differ == {"schedules.alpha", "schedules.alpha_end",
                    "schedules.alpha_percent"}


@pytest.mark.slow
def test_kd_stops_and_what_students_share_is_trained_once(own_data, tmp_path):
  config = ["--config=configs/early_stopped.py", "--config.data.name=blobs",
            f"--config.data.dir={own_data}", "--config.tensorboard=false",
            "--config.epochs=2", "--config.batch_size=64",
            f"--workdir={tmp_path}", "--config.sweep.lanes=2x1",
            *(f"--config.nets.{name}.widths=(6,)"
              for name in ("teacher", "labels", *study.ARMS))]
  assert main.run([*config, "--sweep.temperature=2,8", "--sweep.seed=0,1"]) == 0
  rows, _ = results.split(tmp_path)
  # Of each seed one teacher and one of each earlier epoch, whatever T is.
  assert collections.Counter(row["net"] for row in rows) == {
      "teacher": 2, "labels": 2,
      **{f"teacher_at_{epoch}": 2 for epoch in (1, 2, 5, 10, 20)},
      **dict.fromkeys(study.ARMS, 4)}
  known = {row["fingerprint"]: row for row in rows}
  for row in rows:
    if row["net"] in recipe.STUDENTS:
      teacher = known[row["teacher_fingerprint"]]
      assert teacher["net"] == study._at(int(row["net"].removeprefix("of_")))
      assert teacher["seed"] == row["seed"]
  stopped, = (row for row in rows if row["net"] == "stopped"
              and row["seed"] == 0 and row["overrides"]["temperature"] == 2)
  assert "alpha from 0.9 to 0 (jump, " in stopped["loss"]


def row(net, t, seed, heldout=None, test=None):
  return {"net": net, "seed": seed, "failed": None,
          "overrides": {"seed": seed, **({"temperature": t} if heldout else {})},
          "heldout_errors": heldout, "heldout_examples": 6_000,
          "test_errors": test, "test_examples": 10_000, "seconds": 1.0}


def rows_of(errors, labels=330):
  """Rows of four seeds; `errors` gives those of a student. 4 is the best T."""
  tried = [row(name, t, seed, heldout=int(100 + abs(t - 4)))
           for name in study.ARMS for t in study.TEMPERATURES
           for seed in (100, 101)]
  noise = lambda name, seed: 3 * seed + (len(name) % 2) * (1, 0, -1, 0)[seed]
  final = [row(name, None, seed, test=errors(name) + noise(name, seed))
           for name in study.ARMS for seed in range(4)]
  final += [row("labels", None, seed, test=labels + 3 * seed) for seed in range(4)]
  final += [row(study._at(epoch), None, seed, test=200 - epoch)
            for epoch in recipe.EPOCHS for seed in range(4)]
  return {"choosing": tried, "table": final}


def test_t_of_each_student_is_chosen_by_its_own_held_out_errors():
  rows = rows_of(lambda name: 300)
  assert {study.chosen(name, rows) for name in study.ARMS} == {4.0}
  for each in rows["choosing"]:
    if each["net"] == "of_5":
      hot = each["overrides"]["temperature"] == 8.0
      # Not by the test set.
      each["heldout_errors"], each["test_errors"] = (20, 999) if hot else (30, 0)
  assert [study.chosen(name, rows) for name in ("of_5", "of_2", "stopped")] == [
      8.0, 4.0, 4.0]
  config = study.table(recipe.get_config(), rows, 3)
  assert config.nets.of_5.temperature == 8.0
  assert config.nets.of_2.temperature == 4.0
  assert [point["seed"] for point in config.sweep.points] == [0, 1, 2]
  tried = study.choosing(recipe.get_config(), 2)
  assert (tried.data.test, tried.data.holdout) == ("heldout", 0.1)
  assert len(tried.sweep.points) == 3 * 2
  assert {point["seed"] for point in tried.sweep.points} == {100, 101}


@pytest.mark.parametrize(("errors", "says"), [
    (lambda name: 300 - 40 * (name == "of_5"),
     # ± 3.182 * 0.816 / 2, of the noise 1, 0, -1, 0.
     "; better: epoch 5 −40.0 [−41.3, −38.7]; worse: none; better than labels "
     "alone: all 7; worse: none; fewest errors epoch 5"),
    (lambda name: 300 + 40 * (name == "stopped"),
     "; better: none; worse: KD for half of it +40.0 [+40.0, +40.0]; better "
     "than labels alone: epoch 1, epoch 2, epoch 5, epoch 10, epoch 20, epoch 40; "
     "worse: KD for half of it; fewest"),
    (lambda name: 300,
     "; better: none; worse: none; better than labels alone: all 7; worse: none"),
])
def test_the_verdict_can_go_either_way(errors, says):
  said = study.conclude(rows_of(errors))
  assert says in said and said.startswith("**epoch 40 304.5 ± ")
  assert "| minus epoch 40 |" in said and "over the 6 comparisons" in said
  # 330 of labels, 300 of the whole teacher's student with noise 1, 0, -1, 0.
  assert "| epoch 40 | −30.0 [" in said
  # The teacher, as it was made above; its student: 300 + 4.5.
  assert "| 40 | 160.0 ± 0.0 | 304.5 ±" in said


def test_kd_that_stops_early_ends_with_labels_alone():
  net = next(net for net in recipe_lib.nets(
      config_lib.flatten(recipe.get_config()), swept=True) if net.name == "stopped")
  assert net.values["schedules.alpha_end"] == 0.0
  hparams = build.student_hparams(net.values)
  assert hparams.ends == {"alpha": 0.0}


def test_the_figure_has_every_epoch(tmp_path):
  study.pictures(rows_of(lambda name: 150), tmp_path)
  assert (tmp_path / "epochs.png").stat().st_size > 5_000
