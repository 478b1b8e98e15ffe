"""All paths of teacher assistants: what they share, what is chosen, the verdict."""

import collections

from conftest import ROOT
import jax
import pytest

from configs import assistant_paths as recipe
from experiments.takd_mnist import study
from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import recipe as recipe_lib
from kd_jax.report import plots
from kd_jax.runs import results


@pytest.fixture(autouse=True)
def _as_users_run_it(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(plots, "write", lambda *_: {})
  with jax.numpy_dtype_promotion("standard"):
    yield


def test_fifteen_nets_are_all_paths():
  # 2**3 sets of assistants, and of each set but the empty one the net at its end.
  assert len(recipe.WHOLE) == 8 and len(recipe.PATHS) == 8 + 7
  assert len(set(recipe.PATHS)) == 15
  assert all(list(path) == sorted(path, reverse=True) for path in recipe.PATHS)
  made = {net.name: net for net in recipe_lib.nets(
      config_lib.flatten(recipe.get_config()), swept=True)}
  assert len(made) == 15 + 2
  for path in recipe.PATHS:
    sizes, name = [], recipe.name(path)
    while name != "teacher":
      net = made[name]
      sizes.append(net.values["student.widths"])
      name, = net.teachers
    assert sizes[::-1] == [(size, size) for size in path]
  # Students that are compared begin alike, with one net each from labels.
  assert {made[recipe.name(path)].role for path in recipe.WHOLE} == {0}
  assert made["labels"].role == 0 and not made["labels"].teachers


@pytest.mark.slow
def test_what_paths_share_is_trained_once_and_found_again(own_data, tmp_path):
  config = ["--config=configs/assistant_paths.py", "--config.data.name=blobs",
            f"--config.data.dir={own_data}", "--config.tensorboard=false",
            "--config.steps=4", "--config.batch_size=64",
            f"--workdir={tmp_path}", "--config.sweep.lanes=2x1",
            "--config.nets.teacher.widths=(24,)",
            "--config.nets.labels.widths=(3,)",
            *(f"--config.nets.{recipe.name(path)}.widths=({path[-1] // 50 + 3},)"
              for path in recipe.PATHS)]
  sweep = ["--sweep.temperature=2,8", "--sweep.seed=0,1"]
  assert main.run([*config, *sweep]) == 0
  rows, _ = results.split(tmp_path)
  # One teacher; labels of each seed, whatever T is; the others of each seed and T.
  assert collections.Counter(row["net"] for row in rows) == {
      "teacher": 1, "labels": 2, **{recipe.name(path): 4 for path in recipe.PATHS}}
  known = {row["fingerprint"]: row for row in rows}
  assert len(known) == len(rows) == 1 + 2 + 4 * 15
  for path in recipe.PATHS:
    for row in study._of(path, rows):
      teacher = known[row["teacher_fingerprint"]]
      assert teacher["net"] == recipe.name(path[:-1])
      if path[1:]:
        assert teacher["overrides"] == row["overrides"]
  # Another T of one hop makes this net anew, and those below it: of no other path.
  other = "--config.nets.net_800_300.temperature=4"
  assert main.run([*config, other, "--resume=keep", *sweep]) == 0
  now, _ = results.split(tmp_path)
  new = collections.Counter(
      row["net"] for row in now if row["fingerprint"] not in known)
  assert set(new) == {"net_800_300", "net_800_300_100", "net_800_300_30",
                      "net_800_300_100_30"}


def row(path, t, seed, heldout=None, test=None, net=None):
  return {"net": net or recipe.name(path), "seed": seed, "failed": None,
          "overrides": {"seed": seed, **({"temperature": t} if heldout else {})},
          "heldout_errors": heldout, "heldout_examples": 6_000,
          "test_errors": test, "test_examples": 10_000, "seconds": 1.0}


def rows_of(errors, labels=330):
  """Rows of four seeds; `errors` gives those of a path. 2 is the best T."""
  tried = [row(path, t, seed, heldout=int(100 + t)) for path in recipe.PATHS
           for t in study.TEMPERATURES for seed in (100, 101)]
  noise = lambda path, seed: 3 * seed + (len(path) + seed) % 2
  final = [row(path, 2.0, seed, test=errors(path) + noise(path, seed))
           for path in recipe.PATHS for seed in range(4)]
  final += [row((), None, seed, test=labels + 3 * seed, net="labels")
            for seed in range(4)]
  return {"choosing": tried, "table": final}


def test_t_of_each_hop_is_chosen_by_its_own_net_without_the_test_set():
  rows = rows_of(lambda path: 300)
  assert {study.chosen(path, rows) for path in recipe.PATHS} == {2.0}
  path = (800, 300)
  for each in rows["choosing"]:
    if each["net"] == "net_800_300":
      # 20 on average at T = 8, though one of its seeds is the worst of all.
      at = each["overrides"]["temperature"]
      each["heldout_errors"] = {
          8.0: {100: 40, 101: 0}, 4.0: {100: 21, 101: 21},
          2.0: {100: 25, 101: 25}}[at][each["seed"]]
      each["test_errors"] = 0 if at == 2.0 else 999
  assert study.chosen(path, rows) == 8.0
  assert study.chosen((800, 300, 30), rows) == 2.0
  for each in rows["choosing"]:
    if each["net"] == "net_800" and each["overrides"]["temperature"] == 4.0:
      each["heldout_errors"] = 1
  # 4, 8 and 2 of 2, 4 and 8.
  assert study.hops_at_ends((800, 300, 30), rows) == ["T of hop 2", "T of hop 3"]
  config = study.table(recipe.get_config(), rows, 3)
  assert config.nets.net_800_300.temperature == 8.0
  assert config.nets.net_30.temperature == 2.0
  assert [point["seed"] for point in config.sweep.points] == [0, 1, 2]
  tried = study.choosing(recipe.get_config(), 2)
  assert (tried.data.test, tried.data.holdout) == ("heldout", 0.1)
  assert len(tried.sweep.points) == 3 * 2  # As many T for every hop.
  assert {point["seed"] for point in tried.sweep.points} == {100, 101}


def test_a_step_is_the_mean_over_the_pairs_that_differ_in_it():
  # 10 fewer errors past 300 and 4 more past 800, but 8 more for both together.
  errors = lambda path: 300 - 10 * (300 in path) + 4 * (800 in path) + 8 * (
      {800, 300} <= set(path))
  rows = rows_of(errors)
  for each in rows["table"]:
    if each["net"] != "labels":
      each["test_errors"] = errors(
          tuple(map(int, each["net"].split("_")[1:]))) + 3 * each["seed"]
  found = study.steps(rows)
  # -10 in two pairs, -2 in the two with 800; 4 and 12; nothing.
  assert {size: test.difference for size, test in found.items()} == {
      800: 8.0, 300: -6.0, 100: 0.0}


@pytest.mark.parametrize(("errors", "says"), [
    (lambda path: 300 - 40 * (path == (100, 30)),
     # ± 3.182 * 1.155 / 2, of the noise 1, 0, 1, 0 beside 0, 1, 0, 1.
     "; better: 1200-100-30 −40.0 [−41.8, −38.2]; worse: none; fewest errors "
     "1200-100-30, "),
    (lambda path: 300 + 40 * (len(path) == 4),
     "; better: none; worse: 1200-800-300-100-30 +40.0 [+38.2, +41.8]; fewest"),
    (lambda path: 300, "; better: none; worse: none"),
])
def test_the_verdict_can_go_either_way(errors, says):
  said = study.conclude(rows_of(errors))
  assert says in said
  assert "| minus 1200-30 |" in said and "| reference |" in said
  # 300 and a noise of 1, 0, 1, 0, against 330.
  assert "1200-30 minus labels: −29.5 [" in said
