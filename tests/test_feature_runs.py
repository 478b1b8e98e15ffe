"""KD beside CRD between residual nets, by the command that a user gives.

CRD has all that a method on features may have of its own: modules of both nets that
train, a memory of every example, and a number that belongs to the first batch.
"""

import contextlib
import json
import pathlib
import signal

from conftest import ROOT, segments
import jax
import numpy as np
import pytest
from test_data import write_cifar10

from kd_jax import main
from kd_jax.checkpoint import load_parameters
from kd_jax.runs import results
from kd_jax.training import cost

COMMAND = (
    "--config=configs/cifar10.py:smoke", "--config.method=kd+crd",
    "--config.teacher.model.depth=20")
SMALL = (
    "--config.steps=12", "--config.teacher.steps=12", "--config.batch_size=64",
    "--config.tensorboard=false", "--config.parallel=single")
KINDS: dict[str, tuple[str, ...]] = {
    "single": (),
    "swept": ("--sweep.crd.weight=0.2,0.8", "--config.sweep.lanes=1x2")}
# Of a row, what comes of the clock and of the folder.
OF_THE_PLACE = ("seconds", "study", "row_sha256")


def colours(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Images of 32 x 32 x 3 of ten colours, with noise."""
  draw = np.random.default_rng(seed)
  label = np.arange(number) % 10
  centres = np.random.default_rng(0).integers(0, 200, (10, 1, 1, 3))
  noise = draw.integers(0, 56, (number, 32, 32, 3))
  return (centres[label] + noise).astype(np.uint8), label.astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Runs the command in a folder; gives its exit code and the segments it took."""
  data = tmp_path_factory.mktemp("data")
  write_cifar10(data / "cifar10", [*colours(150, 1), *colours(60, 2)])

  def runs(place: pathlib.Path, *more: str, stop_at: int | None = None):
    with (contextlib.chdir(ROOT), jax.numpy_dtype_promotion("standard"),
          segments(stop_at) as passed, pytest.MonkeyPatch.context() as patch):
      # A segment is an epoch, however slow the machine is.
      patch.setattr(cost, "SEGMENT_SECONDS", 1e6)
      code = main.run([
          *COMMAND, *SMALL, f"--config.data.dir={data}",
          f"--workdir={place}", *more])
    return code, passed
  return runs


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
  """The folder and the segments of a run that nothing stops, single or swept."""
  done: dict[str, tuple[pathlib.Path, list]] = {}

  def of(name: str) -> tuple[pathlib.Path, list]:
    if name not in done:
      place = tmp_path_factory.mktemp(name)
      code, passed = run(place, *KINDS[name])
      assert code == 0
      done[name] = place, passed
    return done[name]
  return of


def of_students(place: pathlib.Path) -> list[dict]:
  """The rows of nets that learn by KD and CRD, but for their place and time."""
  return [{key: row[key] for key in row if key not in OF_THE_PLACE}
          for row in results.split(place)[0] if row["method"] == "kd+crd"]


@pytest.mark.slow
def test_a_resnet_learns_from_one_of_another_depth_by_kd_and_crd(whole):
  place, _ = whole("single")
  row, = of_students(place)
  assert "0.9 * T**2 * KL + 0.8 * NCE at 0.07" in row["loss"]
  layers = {net: sum(name.startswith("Conv_") for name in load_parameters(
      place / "parameters" / net).params) for net in ("teacher", "distilled")}
  # Three blocks a stage and one, with a projection into the last two stages.
  assert layers == {"teacher": 1 + 18 + 2, "distilled": 1 + 6 + 2}


@pytest.mark.slow
def test_weights_of_crd_are_lanes_of_one_program(whole):
  place, _ = whole("swept")
  light, heavy = of_students(place)
  assert [row["overrides"]["crd.weight"] for row in (light, heavy)] == [0.2, 0.8]
  assert {(row["packing"], *row["lanes"]) for row in (light, heavy)} == {
      ("1x1x2", 1, 2)}
  assert "0.2 * NCE" in light["loss"] and "0.8 * NCE" in heavy["loss"]
  assert light["test_nll"] != heavy["test_nll"]
  # The lane of the paper's weight is the single run, to rounding.
  single, = of_students(whole("single")[0])
  assert heavy["test_nll"] == pytest.approx(single["test_nll"], rel=1e-3)
  for name in ("train_contrast", "train_hard", "train_soft"):
    np.testing.assert_allclose(
        heavy["curve"][name], single["curve"][name], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_stopped_by_sigterm_kd_and_crd_go_on_to_the_same_bits(
    name, run, whole, tmp_path):
  place, passed = whole(name)
  # In the third of four epochs of the net that is trained last: CRD's normaliser is
  # known by then.
  assert passed.count(passed[-1]) == 4
  code, _ = run(tmp_path, *KINDS[name], stop_at=len(passed) - 2)
  assert code == 128 + signal.SIGTERM
  assert not of_students(tmp_path)
  # Of the last save: there may be an earlier one, where that took five seconds.
  saved = max(json.loads(file.read_text())["seconds"] for file in (
      tmp_path / "progress").glob("*/*/record/metadata"))
  code, rest = run(tmp_path, *KINDS[name])
  assert code == 0 and len(rest) < 4
  goes_on = [row for row in map(json.loads, (
      tmp_path / "metrics.jsonl").read_text().splitlines())
             if row.get("event") == "resumed"]
  assert [row["step"] for row in goes_on if row["step"]] == [6]
  assert of_students(tmp_path) == of_students(place)
  rows = [row for row in results.split(tmp_path)[0] if row["method"] == "kd+crd"]
  assert sum(row["seconds"] for row in rows) > saved, "it took both programs"
