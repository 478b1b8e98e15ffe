"""Every recipe of `configs/`: its length, a run, a stop in its middle, a sweep."""

import collections
import contextlib
import importlib
import json
import signal

from conftest import ROOT, segments
import jax
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import main
from kd_jax.config import recipe, schema
from kd_jax.report import plots
from kd_jax.runs import results

# What a recipe needs beside small nets to be of 300 examples.
RECIPES = {
    "annealed": (), "assistant": (), "assistant_paths": (), "born_again": (),
    "deploy": (),
    "mutual": (), "on_the_go": (), "tasks": (),
    "patient": ("--config.nets.teacher.views=none",),
    "compress": ("--config.data.name=table", "--config.data.split_size=200",
                 "--config.data.pseudo_size=100", "--config.student.widths=(6,)",
                 "--config.teacher.widths=(6,)", "--config.teacher.steps=12"),
    # Of 40 epochs, of which some are teachers.
    "early_stopped": ("--config.batch_size=150",),
    "noisy_student": ("--config.transfer.labelled=100",),
    "fitnets": (), "takd": (),
}
# The others take more than 15 s.
QUICK = ("patient",)
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in RECIPES]


def asked(name):
  """The config of a recipe's smoke variant."""
  return importlib.import_module(f"configs.{name}").get_config("smoke")


def members(config):
  """The nets of a recipe that have keys of their own."""
  return [net for entry in config.recipe for net in schema.peers(entry)]


def entries(config):
  """Names of all nets that are trained and have a row, in order."""
  return [net.name for net in recipe.nets(config_lib.flatten(config), swept=False)
          if net.member is None]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
  """Small sets of ten classes: ten.npz, of images, and table.npz, of floats."""
  folder, draw = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
  for name, shape in (("ten", (12, 10, 1)), ("table", (6,))):
    centres = draw.uniform(0, 200, (10, *shape))
    label = {"train": np.arange(300) % 10, "test": np.arange(110) % 10}
    inputs = {split: centres[y] + draw.uniform(0, 55, (len(y), *shape))
              for split, y in label.items()}
    np.savez(folder / f"{name}.npz", **{
        f"x_{split}": x.astype(np.uint8 if name == "ten" else np.float32)
        for split, x in inputs.items()}, **{
            f"y_{split}": y.astype(np.int32) for split, y in label.items()})
  return folder


@pytest.fixture(scope="module")
def run(sets):
  """Runs a recipe in a folder, by the ordinary command; gives the exit code."""
  def runs(name, place, *more):
    config = asked(name)
    # Three segments each, so that a stop is in the middle of one.
    small = [] if name == "early_stopped" else ["--config.steps=12"]
    for net in members(config):
      # As unlike each other as they were: of two that are alike one is trained.
      own = config.nets[net].widths or config.student.widths
      widths = tuple(max(2, each // 20) for each in own)
      small.append(f"--config.nets.{net}.widths={widths}")
      if config.nets[net].steps is not None:
        small.append(f"--config.nets.{net}.steps=12")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(ROOT), (
        jax.numpy_dtype_promotion("standard")):
      patch.setattr(plots, "write", lambda *_: {})
      return main.run([
          f"--config=configs/{name}.py:smoke", "--config.data.name=ten",
          f"--config.data.dir={sets}", "--config.batch_size=64", *small,
          *RECIPES[name], "--config.tensorboard=false",
          "--config.parallel=single", f"--workdir={place}", *more])
  return runs


def by_net(place):
  found: dict[str, list] = {}
  for row in results.split(place)[0]:
    found.setdefault(row.get("net"), []).append(row)
  return found


def bits(place):
  """The nets that a run has kept, by name, and their SHA-256."""
  return {path.parent.name: json.loads(path.read_text())["parameters_sha256"]
          for path in (place / "parameters").glob("*/record.json")}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
  """A single run of each recipe that no signal stops, and a segment amid it."""
  done = {}

  def of(name):
    if name not in done:
      place = tmp_path_factory.mktemp(name) / "w"
      with segments() as passed:
        assert run(name, place) == 0
      # Not the last of a net: between nets there is nothing to go on with.
      done[name] = place, next(
          number for number in range(len(passed) // 2, len(passed))
          if passed[number - 1] is passed[number])
    return done[name]
  return of


def test_these_are_all_recipes():
  """All configs but those of the main job on images."""
  files = {path.stem for path in (ROOT / "configs").glob("*.py")}
  assert files - set(RECIPES) == {
      "mnist", "fashion_mnist", "cifar10", "cifar100"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_sixty_lines(name):
  lines = (ROOT / f"configs/{name}.py").read_text().splitlines()
  assert len(lines) <= 60


@pytest.mark.parametrize("name", EACH)
def test_stopped_by_sigterm_it_goes_on_to_the_same_bits(
    name, run, whole, tmp_path, capsys):
  place, middle = whole(name)
  nets = entries(asked(name))
  summary = json.loads((place / "summary.json").read_text())
  assert [net for net in summary if net in nets] == nets
  assert all(len(rows) == 1 for rows in by_net(place).values())
  cut = tmp_path / "cut"
  with segments(stop_at=middle):
    assert run(name, cut) == 128 + signal.SIGTERM
  assert not (cut / "summary.json").exists() and any((cut / "progress").iterdir())
  capsys.readouterr()
  assert run(name, cut) == 0
  assert "goes on from step" in capsys.readouterr().out
  assert bits(cut) == bits(place) and len(bits(cut)) >= len(nets)


@pytest.mark.parametrize("name", EACH)
def test_a_sweep_trains_what_its_points_have_in_common_once(
    name, run, tmp_path):
  config, place = asked(name), tmp_path / "swept"
  # Of nets that train together, and of the main job, the key is the run's.
  of_run = name in ("mutual", "on_the_go", "compress")
  last = "" if of_run else f"nets.{config.recipe[-1]}."
  assert run(name, place, f"--sweep.{last}optimizer.learning_rate=0.001,0.003",
             "--config.sweep.lanes=1x1") == 0
  rows = by_net(place)
  expected = dict.fromkeys(entries(config), 2 if of_run else 1)
  if name == "compress":
    expected = {None: 2}  # Of its teachers there are no rows.
    assert len(list((place / "teachers").glob("*/record.json"))) == (
        config.teacher.count)
  else:
    expected[[*expected][-1]] = 2
  assert collections.Counter(
      {net: len(some) for net, some in rows.items()}) == expected
  summary = json.loads((place / "summary.json").read_text())
  assert summary["lanes"] == sum(expected.values()) and summary["failed"] == 0
  # Both points learn from the same nets.
  assert len({str(row["teacher_sha256"]) for row in rows[[*expected][-1]]}) == 1
