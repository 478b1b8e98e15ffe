"""A bench: what the trainings of a run share, and training one net on it."""

from collections.abc import Callable
import functools
import pathlib
import time
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from kd_jax import build, checkpoint, loop, records, steps, types
from kd_jax import config as config_lib
from kd_jax import data as data_lib
from kd_jax import fit as fitting
from kd_jax.augment import VIEWS
from kd_jax.screen import Screen


class Bench(NamedTuple):
  """What every training of a run shares.

  Attributes:
    values: The config as dotted keys and plain values.
    dataset: The data set in memory.
    train: Its training examples on the device, the ids to train on in use.
    splits: What to evaluate on: "test", and "heldout" where there is one.
    workdir: Where everything is kept.
    recorder: Writes the records.
    screen: Tells the user.
    stop: Whether to stop at the next segment.
  """

  values: dict[str, Any]
  dataset: data_lib.Dataset
  train: loop.DeviceData
  splits: dict[str, fitting.Split]
  workdir: pathlib.Path
  recorder: records.Recorder
  screen: Screen
  stop: Callable[[], bool]


def prepare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    screen: Screen,
    stop: Callable[[], bool],
) -> Bench:
  """Loads the data, puts it on the device and writes down what is run."""
  dataset = build.dataset(config, say=screen.say)
  sizes = f"{len(dataset.train_ids)} training, {len(dataset.test.label)} test"
  screen.say(f"data: {dataset.name} from {dataset.source}, {sizes} examples, "
             f"{dataset.num_classes} classes")
  if dataset.notice:
    screen.say(f"\n*** {dataset.notice} ***\n", style="bold yellow")
  scaling = build.scaling(config.data.scale, dataset.train)
  everything = lambda part: np.arange(len(part.label))
  test = build.device_data(dataset.test, everything(dataset.test), scaling)
  splits = {"test": fitting.Split(test)}
  if len(dataset.heldout_ids):
    held = data_lib.Examples(*(a[dataset.heldout_ids] for a in dataset.train))
    splits["heldout"] = fitting.Split(
        build.device_data(held, everything(held), scaling))
  values = config_lib.flatten(config)
  recorder = records.Recorder(workdir, tensorboard=config.tensorboard)
  # An older run's results must not lie beside this one's settings.
  (workdir / "summary.json").unlink(missing_ok=True)
  recorder.write("config.json", values)
  recorder.write("manifest.json", records.manifest(
      data={"name": dataset.name, "source": dataset.source,
            "notice": dataset.notice, "fingerprint": dataset.fingerprint}))
  return Bench(
      values, dataset, build.device_data(
          dataset.train, dataset.train_ids, scaling),
      splits, workdir, recorder, screen, stop)


def net(
    bench: Bench,
    name: str,
    path: pathlib.Path,
    mark: str,
    training: build.Training,
    learner: steps.Learner,
    splits: dict[str, fitting.Split],
) -> dict[str, Any]:
  """The record of the net at `path`, trained first if it is not there."""
  record = checkpoint.load_record(path)
  if record is not None and record["fingerprint"] == mark:
    bench.screen.say(f"{name}: already trained, in {path}")
    return record
  began = time.perf_counter()

  def report(row):
    bench.recorder.row(name, {"fingerprint": mark[:16], **row})
    bench.screen.row(name, row)

  fitted = fitting.fit(
      training, learner, bench.train, splits,
      progress=bench.workdir / "progress" / name, mark=mark, stop=bench.stop,
      report=report)
  params = fitted.variables.params
  final = ("test_", "heldout_", "train_", "epoch", "step")
  kept = {key: value for key, value in fitted.row.items()
          if key.startswith(final)}
  # The student's names for how well it follows the teacher on the test set.
  kept |= {key: kept.pop(f"test_{key}") for key in ("agreement", "kl")
           if f"test_{key}" in kept}
  record = {
      "fingerprint": mark, **kept,
      "parameters": checkpoint.num_parameters(params),
      "parameters_sha256": checkpoint.parameters_sha256(params),
      "seconds": round(time.perf_counter() - began, 2),
      "test_wrong_ids": fitted.test_wrong_ids}
  checkpoint.save_net(path, fitted.variables, record)
  return record


@functools.cache
def predictor(model: types.Model) -> Callable[..., Any]:
  """The compiled prediction of a model, made once."""
  return loop.make_predict(model, VIEWS["none"])


def select(
    values: dict[str, Any], names: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
) -> dict[str, Any]:
  """The entries of the named keys, and of those that start with a prefix."""
  return {key: value for key, value in values.items()
          if key in names or key.startswith(prefixes)}


def data_marks(bench: Bench) -> dict[str, Any]:
  """What determines the data that a net is trained on."""
  return {"data": bench.dataset.fingerprint,
          **select(bench.values, ("data.holdout", "data.scale"))}
