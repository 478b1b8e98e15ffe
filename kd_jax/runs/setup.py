"""The setup of a run: what all its trainings share."""

from collections.abc import Callable
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

import kd_jax
from kd_jax import data as data_lib
from kd_jax.config import build
from kd_jax.config.run import Run
from kd_jax.core import hosts
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home
from kd_jax.core.screen import Screen
from kd_jax.core.words import counted, some
from kd_jax.data import check, corruptions, preprocess
from kd_jax.runs import records, tracker
from kd_jax.runs import workdir as workdirs
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, segment
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.devices import Devices


class Setup(NamedTuple):
  """What every training of a run shares.

  Attributes:
    run: What the config asks for.
    dataset: The data set in memory.
    train: Its training examples on the device, the ids to train on in use.
    splits: What to evaluate on: "test", and "heldout" where there is one.
    workdir: Where everything is kept.
    devices: The devices of a training; all arrays lie on every one.
    recorder: Writes the records.
    screen: Tells the user.
    stop: Whether to stop at the next segment.
    announce: Writes down what is run, once; nothing can be refused any more.
    corrupted: The test examples in every corruption, if these are asked for.
  """

  run: Run
  dataset: data_lib.Dataset
  train: segment.DeviceData
  splits: dict[str, fit.Split]
  workdir: pathlib.Path
  devices: Devices
  recorder: records.Recorder
  screen: Screen
  stop: Callable[[], bool]
  announce: Callable[[], None]
  corrupted: segment.DeviceData | None = None

  def checkpoints(self, name: str, identity: dict[str, Any]) -> Checkpoints:
    """Where an unfinished training is kept, which goes on where it was begun."""
    values = self.run.values
    return Checkpoints(
        self.workdir / "progress" / name,
        {**identity, **self.machine(), "numerics": kd_jax.NUMERICS},
        every=values["checkpoint.every"], keep=values["checkpoint.keep"],
        force=values["checkpoint.resume"] == "force", say=self.screen.say)

  def machine(self) -> dict[str, Any]:
    """What the bits of a net depend on beside its config."""
    if self.devices.kind == "single":
      return records.runtime()
    return records.runtime() | {
        "parallel": self.devices.kind, "processes": jax.process_count()}


def say_seen(setup: Setup, run: Run) -> None:
  """Says how many of the training examples the main job's students see.

  Nets of a recipe, and points of a sweep, may each see others.
  """
  dataset = setup.dataset
  seen = len(build.transfer_set(run.values, dataset).train_ids)
  if seen < len(dataset.train_ids) and not (
      run.sweep.points or run.values["recipe"]):
    setup.screen.say(f"data: students see {seen} of these training examples")


def prepare(
    run: Run,
    workdir: pathlib.Path,
    screen: Screen,
    stop: Callable[[], bool],
    fetching: Callable[[str], None] | None = None,
    log: tracker.Log = tracker.nothing,
) -> Setup:
  """Loads the data, puts it on the device and opens the records.

  Args:
    run: What the config asks for.
    workdir: Where everything is kept.
    screen: Tells the user.
    stop: Whether to stop at the next segment.
    fetching: As of `data.load`.
    log: Told of every epoch.
  """
  devices = _devices(run)
  _refuse_unlike(run.values)
  dataset = build.dataset(run.values, say=screen.say, fetching=fetching)
  screen.say(in_words(dataset))
  for notice in notices(run, dataset):
    screen.say(f"\n*** {notice} ***\n", style="bold yellow")
  scaling = preprocess.of(run.values["data.scale"], dataset.train.inputs)
  put = lambda part, ids, *weight: devices_lib.copies(
      devices, build.device_data(part, ids, scaling, *weight))
  whole = lambda part: fit.Split(put(part, np.arange(len(part.label))))
  train = put(dataset.train, dataset.train_ids, build.example_weights(dataset))
  splits = {"test": whole(dataset.test)}
  if len(dataset.heldout_ids):
    splits["heldout"] = whole(data_lib.Examples(
        *(a[dataset.heldout_ids] for a in dataset.train)))
  corrupted = _corrupted(run.values, dataset, put)
  hosts.refuse_unlike("the data", dataset.fingerprint)
  hosts.agreed(lambda: workdirs.keep_on_other_data(
      run.values, dataset.fingerprint, workdir, screen.say))
  recorder = records.Recorder(
      workdir, tensorboard=run.values["tensorboard"], say=screen.say, log=log)

  @functools.cache
  def announce():
    # An older run's results must not lie beside this one's settings.
    recorder.remove("summary.json")
    # First what says that the folder is ours.
    recorder.write("manifest.json", records.manifest(
        data={"name": dataset.name, "source": dataset.source,
              "notice": dataset.notice, "fingerprint": dataset.fingerprint}))
    recorder.write("config.json", run.values)

  return Setup(
      run, dataset, train, splits, workdir, devices, recorder, screen, stop,
      announce, corrupted)


def _corrupted(
    values: dict[str, Any], dataset: data_lib.Dataset,
    put: Callable[[data_lib.Examples, np.ndarray], segment.DeviceData],
) -> segment.DeviceData | None:
  """The test examples in every corruption, on the device; None if not asked for."""
  if not values["evaluate.corruptions"]:
    return None
  try:
    inputs = corruptions.every(dataset.test.inputs)
  except TypeError as error:
    raise UserError(
        f"config.evaluate.corruptions=True: {error}; {dataset.name} has others, so "
        "leave it out") from None
  label = np.tile(dataset.test.label, len(inputs) // len(dataset.test.label))
  return put(data_lib.Examples(inputs, label), np.arange(len(label)))


def in_words(dataset: data_lib.Dataset) -> str:
  """A line on what was read: examples, classes, and what inputs are."""
  inputs = check.in_words(dataset.train.inputs, dataset.test.inputs)
  return (
      f"data: {dataset.name} from {dataset.source}, {len(dataset.train_ids)} "
      f"training, {len(dataset.test.label)} test examples, {dataset.num_classes} "
      f"classes{_counts(dataset)}; {inputs}")


def notices(run: Run, dataset: data_lib.Dataset) -> list[str]:
  """What may be wrong with the data of a run, and may be meant."""
  of_inputs = check.remarks(dataset.train.inputs, run.values["data.scale"])
  return [*filter(None, [dataset.notice]), *of_inputs]


def labelled(setup: Setup) -> Setup:
  """The setup of a net that learns from labels alone: examples that have one."""
  dataset = data_lib.with_labels(setup.dataset)
  if dataset is setup.dataset:
    return setup
  if not len(dataset.train_ids):
    raise UserError(
        "no training example has a label, so nothing can be trained on labels "
        "alone; give a teacher's logits with --config.teacher.logits=FILE")
  ids = devices_lib.copies(setup.devices, dataset.train_ids)
  return setup._replace(dataset=dataset, train=setup.train._replace(ids=ids))


def _counts(dataset: data_lib.Dataset) -> str:
  """How many training examples the classes have, and which have none."""
  labels = dataset.train.label
  known = labels[labels >= 0]
  counts = np.bincount(known, minlength=dataset.num_classes)
  text = f" of {counts.min()} to {counts.max()} training examples"
  if len(empty := data_lib.empty_classes(dataset)):
    text += f" (no example of class {some(empty)})"
    if empty[0] == 0 and len(known):
      text += f"; labels run from {known.min()}, and classes from 0"
      if dataset.source == "raw" and len(empty) == known.min():
        text += (f": if they are numbered so, subtract {known.min()}, or give "
                 f"--config.data.first_class={known.min()}")
  if len(known) < len(labels):
    text += f"; {counted(len(labels) - len(known), 'unknown label')}"
  if (weights := dataset.weights) is not None:
    text += f"; of weights {weights.min():.4g} to {weights.max():.4g}"
  return text


def transfer(setup: Setup, run: Run) -> Setup:
  """The setup in which students are trained: that of their transfer set."""
  dataset = build.transfer_set(run.values, setup.dataset)
  if dataset is setup.dataset:
    return setup
  put = lambda array: devices_lib.copies(setup.devices, array)
  return setup._replace(dataset=dataset, train=setup.train._replace(
      ids=put(dataset.train_ids), weight=put(build.example_weights(dataset)),
      label=setup.train.label
      if dataset.train is setup.dataset.train else put(dataset.train.label)))


def _refuse_unlike(values: dict[str, Any]) -> None:
  """Processes that were started otherwise would train something else, or hang."""
  same = {key: value for key, value in values.items() if key != "data.dir"}
  hosts.refuse_unlike("the config", json.dumps(same, default=list))
  place = values["data.dir"] or os.environ.get(data_lib.ENVIRONMENT_VARIABLE)
  there = at_home(place or "no folder").is_dir()
  hosts.refuse_unlike("whether there is a folder of data", str(there))


def _devices(run: Run) -> Devices:
  """Where trainings run; a sweep spreads its lanes over devices by itself."""
  kind = run.values["parallel"]
  if not run.sweep.points:
    # A user's own layers may look at the whole batch: with `sharded` they do.
    own = any(run.sources.values())
    if kind == "auto" and own and jax.device_count() > 1:
      kind = "sharded"
    return devices_lib.choose(kind)
  if kind not in ("auto", "single"):
    raise UserError(
        f"config.parallel={kind}: is for single runs; a sweep spreads "
        "its lanes over all devices by itself")
  if jax.process_count() > 1:
    raise UserError(
        "--processes: is for single runs; share a sweep out with --shard=I/N")
  return devices_lib.choose("single")
