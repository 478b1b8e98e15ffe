"""Born-again generations: what they share, what is chosen, the verdict."""

import collections
import re
import shutil

from conftest import ROOT
import jax
import numpy as np
import pytest

from configs import born_again as recipe
from experiments import fair
from experiments.ban_mnist import ensembles, study
from experiments.protocol import Place
from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import recipe as recipe_lib
from kd_jax.config import sweep
from kd_jax.report import plots
from kd_jax.runs import arms, kept_logits, results


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


def nets(config, **point):
  values = config_lib.changed(config_lib.flatten(config), point)
  return {net.name: net for net in recipe_lib.nets(values, swept=True)}


def test_each_generation_learns_from_the_one_before():
  made = nets(recipe.get_config())
  assert {name: net.teachers for name, net in made.items()} == {
      "generation_0": (), **{
          f"generation_{k}": (f"generation_{k - 1}",) for k in (1, 2, 3, 4)},
      "student": ("generation_1", "generation_2", "generation_3")}
  assert {net.values["student.widths"] for net in made.values()} == {(800, 800)}
  for name, net in made.items():
    learns = name != "generation_0"
    assert net.values["method"] == ("kd" if learns else "hard")
    assert (net.values["temperature"], net.values["alpha"]) == (1.0, 0.5)
  # No two of a chain begin alike; students of a seed that are compared do.
  assert [made[name].role for name in recipe.GENERATIONS] == [1, 2, 3, 4, 0]
  assert made["student"].role == 0


def test_a_control_changes_the_student_and_none_of_the_generations():
  usual = nets(recipe.get_config())
  for each in study.STUDENTS:
    for setting in each.settings:
      made = nets(recipe.get_config(), **setting)
      for name in recipe.GENERATIONS:
        assert made[name].role == usual[name].role, (each.name, name)
        if "alpha" not in setting:
          assert made[name].teachers == usual[name].teachers
          assert made[name].values["alpha"] == 0.5
  of = lambda name: nets(recipe.get_config(), **next(
      each for each in study.STUDENTS if each.name == name).settings[0])["student"]
  dkpp = of("DKPP")
  assert (dkpp.values["method"], dkpp.teachers) == ("dkpp", ("generation_0",))
  assert (dkpp.values["temperature"], dkpp.values["alpha"]) == (1.0, 0.5)
  assert of("CWTM").values["method"] == "cwtm"
  virtual = of("Tf-KD")
  assert virtual.values["temperature"] == 20.0 and not virtual.teachers
  assert of("label smoothing").values["label_smoothing"] == 0.05
  assert of("labels").values["label_smoothing"] == 0.0


def test_every_arm_has_three_settings_that_are_judged_without_the_test_set():
  every = *study.STUDENTS, *study.GENERATIONS
  assert {len(each.settings) for each in every} == {3}
  stage = fair.choosing("choosing", lambda _: {"": study.STUDENTS},
                        recipe.get_config, seeds=2)
  config = stage.config({})
  assert (config.data.test, config.data.holdout) == ("heldout", 0.1)
  assert len(config.sweep.points) == 6 * 3 * 2
  assert {point["seed"] for point in config.sweep.points} == {100, 101}


@pytest.mark.slow
def test_generations_are_trained_once_and_the_mean_is_of_their_probabilities(
    own_data, tmp_path):
  config = ["--config=configs/born_again.py", "--config.data.name=blobs",
            f"--config.data.dir={own_data}", "--config.tensorboard=false",
            "--config.steps=6", "--config.batch_size=64", f"--workdir={tmp_path}",
            "--config.sweep.lanes=2x1", "--config.sweep.logits=true",
            *(f"--config.nets.{name}.widths=(6,)"
              for name in (*recipe.GENERATIONS, "student"))]
  assert main.run([*config, "--sweep.seed=0,1", "--sweep.nets.student.teachers="
                   "('generation_0',),('generation_1','generation_2')",
                   "--sweep.nets.student.method=kd,dkpp,cwtm"]) == 0
  rows, _ = results.split(tmp_path)
  # Of each seed one of each generation, and the students of two teachers by three.
  assert collections.Counter(row["net"] for row in rows) == {
      **dict.fromkeys(recipe.GENERATIONS, 2), "student": 2 * 2 * 3}
  known = {row["fingerprint"]: row["net"] for row in rows}
  for row in rows:
    if row["net"] in recipe.GENERATIONS[1:]:
      before = f"generation_{int(row['net'][-1]) - 1}"
      assert known[row["teacher_fingerprint"]] == before
  chain = [row for row in rows if row["seed"] == 1 and row["net"] in
           recipe.GENERATIONS[1:3]]
  p = [np.exp(kept_logits.load(tmp_path, row)["test"]) for row in chain]
  mean = sum(each / each.sum(-1, keepdims=True) for each in p)
  label = np.arange(len(mean)) % 3
  found = ensembles.judged("mean of 1-2", chain, tmp_path, label)
  assert found["test_errors"] == int((mean.argmax(-1) != label).sum())
  assert (found["seed"], found["test_examples"]) == (1, len(label))
  # As a single net it is the row's: the same logits give the same errors.
  own = ensembles.judged("one", chain[:1], tmp_path, p[0].argmax(-1))
  assert own["test_errors"] == 0


def test_means_that_are_there_need_no_logits(tmp_path, monkeypatch):
  monkeypatch.setattr(ensembles, "_labels", lambda *_: np.array([0, 1]))
  place = Place(tmp_path / "ensembles", lambda: False, print, None)
  nets = {(net, seed): {"fingerprint": f"{net}{seed}", "seed": seed}
          for net in "ab" for seed in (0, 1)}

  def written(logits_of, *seeds):
    shutil.rmtree(tmp_path / "table", ignore_errors=True)
    (tmp_path / "table/logits").mkdir(parents=True)
    for net in "ab":
      np.savez(tmp_path / f"table/logits/{net}{logits_of}.npz",
               test=np.array([[1.0, 0.0], [logits_of, 0.0]]))
    ensembles.write({key: row for key, row in nets.items() if key[1] in seeds},
                    {"both": ("a", "b")}, None, place)
    return results.read(place.folder)

  first, = written(0, 0)
  again, second = written(1, 0, 1)
  assert again == first and first["members"] == ["a0", "b0"]
  assert (second["seed"], second["test_errors"]) == (1, 1)


def row(net, seed, overrides=None, heldout=None, test=None):
  return {"net": net, "seed": seed, "failed": None,
          "overrides": {"seed": seed, **(overrides or {})},
          "heldout_errors": heldout, "heldout_examples": 6_000,
          "test_errors": test, "test_examples": 10_000, "seconds": 1.0}


def rows_of(errors):
  """Rows of four seeds; `errors` gives those of an arm or a generation.

  The second setting of each arm is the best. As in a sweep, rows of generations
  with the alpha of the config have none among their overrides.
  """
  tried = [row("student", seed, setting, heldout=100 + abs(place - 1))
           for each in study.STUDENTS for place, setting in enumerate(each.settings)
           for seed in (100, 101)]
  tried += [row(net, seed, {} if alpha == 0.5 else {"alpha": alpha},
                heldout=int(100 + 10 * abs(alpha - 0.9)))
            for net in recipe.GENERATIONS[1:] for alpha in study.ALPHAS
            for seed in (100, 101)]
  # Pairs of equal arms differ by 1, 0, -1 and 0.
  noise = lambda name, seed: 3 * seed + (len(name) % 2) * (1, 0, -1, 0)[seed]
  final = [row("student", seed, each.settings[1],
               test=errors(each.name) + noise(each.name, seed))
           for each in study.STUDENTS for seed in range(4)]
  final += [row(net, seed, test=errors(net) + noise(net, seed))
            for net in recipe.GENERATIONS for seed in range(4)]
  means = [row(None, seed, test=errors(name) + noise(name, seed))
           | {"overrides": {"ensemble": name}}
           for name in study.ENSEMBLES for seed in range(4)]
  return {"choosing": tried, "table": final, "ensembles": means}


def test_the_share_of_each_generation_is_chosen_by_its_own_net():
  rows = rows_of(lambda name: 150)
  # 0.5 and 0.9 are both 104 and 100 apart; 0.9 is the best of all.
  config = study.table(recipe.get_config(), rows, 3)
  assert [config.nets[name].alpha for name in recipe.GENERATIONS[1:]] == [0.9] * 4
  assert config.sweep.logits and len(config.sweep.points) == 6 * 3
  for each in rows["choosing"]:
    if each["net"] == "generation_3":
      # Best where the config's alpha is left as it is; not by the test set.
      plainly = "alpha" not in each["overrides"]
      each["heldout_errors"] = 20 if plainly else 30
      each["test_errors"] = 999 if plainly else 0
  config = study.table(recipe.get_config(), rows, 3)
  assert [config.nets[name].alpha for name in recipe.GENERATIONS[1:]] == [
      0.9, 0.9, 0.5, 0.9]
  chosen = [arms.of({"overrides": point}) for point in config.sweep.points[::3]]
  assert chosen == [each.settings[1] for each in study.STUDENTS]
  assert not any(sweep.matches(point, {"seed": 100})
                 for point in config.sweep.points)


@pytest.mark.parametrize(("errors", "better", "worse"), [
    (lambda name: 150 - 40 * (name == "mean of 1-3"), "mean of 1-3", "none"),
    (lambda name: 150 + 40 * (name == "CWTM"), "none", "CWTM"),
    (lambda name: 150 - 40 * (name == "generation_2"), "generation 2", "none"),
    (lambda name: 150, "none", "none"),
])
def test_the_verdict_can_go_either_way(errors, better, worse):
  said = study.conclude(rows_of(errors))
  assert re.search(
      rf"^\*\*labels \S+ ± .*; better: {better}( .*)?; worse: {worse}( .*)?; "
      "fewest errors", said), said[:200]
  assert "| minus labels |" in said and "over the 13 comparisons" in said


def test_a_generation_is_compared_with_the_one_before_it():
  rows = rows_of(lambda name: {
      "generation_0": 160, "generation_1": 150, "generation_2": 153}.get(name, 153))
  found = study.steps(rows)
  assert {name: test.difference for name, test in found.items()} == {
      "generation 1": -10.0, "generation 2": 3.0, "generation 3": 0.0,
      "generation 4": 0.0}


def test_two_nets_from_labels_are_the_control_of_an_ensemble():
  labels, smoothed = (next(
      each for each in study.STUDENTS if each.name == name).settings[0]
      for name in ("labels", "label smoothing"))
  assert study._is_member(row("student", 0, labels))
  assert study._is_member(row("generation_2", 0))
  assert not study._is_member(row("student", 0, smoothed))
  assert not study._is_member(row("student", 0, {"alpha": 0.5}))


def test_the_figure_has_every_generation(tmp_path):
  study.pictures(rows_of(lambda name: 150), tmp_path)
  assert (tmp_path / "generations.png").stat().st_size > 5_000
