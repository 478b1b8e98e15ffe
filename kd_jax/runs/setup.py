"""The setup of a run: what its trainings share, and training one net in it."""

from collections.abc import Callable
import contextlib
import functools
import json
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import kd_jax
from kd_jax import data as data_lib
from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.config.run import Run
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.data.views import VIEWS
from kd_jax.runs import records
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, parameters, segment
from kd_jax.training import step as step_lib
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.devices import Devices
from kd_jax.training.settings import Training


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


def prepare(
    run: Run,
    workdir: pathlib.Path,
    screen: Screen,
    stop: Callable[[], bool],
) -> Setup:
  """Loads the data, puts it on the device and writes down what is run."""
  devices = _devices(run)
  _refuse_unlike(run.values)
  dataset = build.dataset(run.values, say=screen.say)
  sizes = f"{len(dataset.train_ids)} training, {len(dataset.test.label)} test"
  screen.say(f"data: {dataset.name} from {dataset.source}, {sizes} examples, "
             f"{dataset.num_classes} classes")
  if dataset.notice:
    screen.say(f"\n*** {dataset.notice} ***\n", style="bold yellow")
  on_device = build.on_device(run.values, dataset)
  everything = lambda part: np.arange(len(part.label))
  put = lambda part, ids: devices_lib.copies(devices, on_device(part, ids))
  test = put(dataset.test, everything(dataset.test))
  splits = {"test": fit.Split(test)}
  if len(dataset.heldout_ids):
    held = data_lib.Examples(*(a[dataset.heldout_ids] for a in dataset.train))
    splits["heldout"] = fit.Split(put(held, everything(held)))
  hosts.refuse_unlike("the data", dataset.fingerprint)
  recorder = records.Recorder(workdir, tensorboard=run.tensorboard)

  @functools.cache
  def announce():
    # An older run's results must not lie beside this one's settings.
    recorder.remove("summary.json")
    recorder.write("config.json", run.values)
    recorder.write("manifest.json", records.manifest(
        data={"name": dataset.name, "source": dataset.source,
              "notice": dataset.notice, "fingerprint": dataset.fingerprint}))

  return Setup(
      run, dataset, put(dataset.train, dataset.train_ids), splits, workdir,
      devices, recorder, screen, stop, announce)


def transfer(setup: Setup, run: Run) -> Setup:
  """The setup in which students are trained: that of their transfer set."""
  dataset = build.transfer_set(run.values, setup.dataset)
  if dataset is setup.dataset:
    return setup
  ids = devices_lib.copies(setup.devices, dataset.train_ids)
  return setup._replace(dataset=dataset, train=setup.train._replace(ids=ids))


def _refuse_unlike(values: dict[str, Any]) -> None:
  """Processes that were started otherwise would train something else, or hang."""
  same = {key: value for key, value in values.items() if key != "data.dir"}
  hosts.refuse_unlike("the config", json.dumps(same, default=list))
  place = values["data.dir"] or os.environ.get(data_lib.ENVIRONMENT_VARIABLE)
  there = pathlib.Path(place or "no folder").expanduser().is_dir()
  hosts.refuse_unlike("whether there is a folder of data", str(there))


def _devices(run: Run) -> Devices:
  """Where trainings run; a sweep spreads its lanes over devices by itself."""
  if not run.sweep.points:
    kind = run.parallel
    # A user's own layers may look at the whole batch: with `sharded` they do.
    own = any(run.sources.values())
    if kind == "auto" and own and jax.device_count() > 1:
      kind = "sharded"
    return devices_lib.choose(kind)
  if run.parallel not in ("auto", "single"):
    raise UserError(
        f"config.parallel={run.parallel}: is for single runs; a sweep spreads "
        "its lanes over all devices by itself")
  if jax.process_count() > 1:
    raise UserError(
        "--processes: is for single runs; share a sweep out with --shard=I/N")
  return devices_lib.choose("single")


def net(
    setup: Setup,
    name: str,
    path: pathlib.Path,
    identity: dict[str, Any],
    training: Training,
    learner: step_lib.Learner,
    splits: dict[str, fit.Split],
) -> dict[str, Any]:
  """The record of the net at `path`, trained first if it is not there.

  Args:
    setup: What trainings share.
    name: Of the net.
    path: Its folder.
    identity: What determines it, by name.
    training: How it is trained.
    learner: Its step.
    splits: What it is evaluated on.
  """
  fingerprint = identity_lib.fingerprint(identity)
  record = hosts.agreed(lambda: _finished(setup, name, path, fingerprint))
  if record is not None:
    setup.screen.say(f"{name}: already trained, in {path}")
    _checkpoints(setup, name, identity).drop_if_own()
    return record
  return _trained(setup, name, path, identity, training, learner, splits)


def _trained(setup, name, path, identity, training, learner, splits):
  """Trains a net, saves it, and gives its record."""
  fingerprint, began = identity_lib.fingerprint(identity), time.perf_counter()

  def report(row):
    setup.announce()
    setup.recorder.row(name, {"fingerprint": fingerprint[:16], **row})
    setup.screen.row(name, row)

  per_epoch = segment.steps_per_epoch(len(setup.train.ids), training.batch_size)

  def tick(step):
    setup.screen.advance(
        name, step, training.total_steps, f"in epoch {step // per_epoch + 1}")

  checkpoints = _checkpoints(setup, name, identity)
  with contextlib.closing(checkpoints):
    fitted = fit.fit(
        training, learner, setup.train, splits, devices=setup.devices,
        checkpoints=checkpoints, stop=setup.stop, report=report, tick=tick)
  params = fitted.variables.params
  final = ("test_", "heldout_", "train_", "epoch", "step")
  kept = {key: value for key, value in fitted.row.items()
          if key.startswith(final)}
  # The student's names for how well it follows the teacher on the test set.
  kept |= {key: kept.pop(f"test_{key}") for key in ("agreement", "kl")
           if f"test_{key}" in kept}
  record = {
      "fingerprint": fingerprint, **kept, **checkpoints.forced(),
      "parameters": parameters.num_parameters(params),
      "parameters_sha256": parameters.parameters_sha256(params),
      "seconds": round(time.perf_counter() - began, 2),
      "test_wrong_ids": fitted.test_wrong_ids}
  _save_best(setup, name, fitted.best, fingerprint)
  parameters.save_net(path, fitted.variables, record)
  hosts.together(f"{name} is saved")
  checkpoints.drop()
  return record


def _checkpoints(setup: Setup, name: str, identity: dict[str, Any]) -> Checkpoints:
  """Where the unfinished training of a net is kept."""
  # A sweep may train several teachers; each has checkpoints of its own.
  if setup.run.sweep.points:
    name = f"{name}-{identity_lib.fingerprint(identity)[:16]}"
  # Its bits depend on the machine, so it goes on where it was begun.
  return open_checkpoints(
      setup, name, identity | records.runtime() | device_identity(setup))


def open_checkpoints(
    setup: Setup, name: str, identity: dict[str, Any]
) -> Checkpoints:
  """Where an unfinished training of this setup is kept."""
  own = setup.run.checkpoints
  return Checkpoints(
      setup.workdir / "progress" / name,
      {**identity, "numerics": kd_jax.NUMERICS},
      every=own.every, keep=own.keep, force=own.force, say=setup.screen.say)


def device_identity(setup: Setup) -> dict[str, Any]:
  """What a net's bits depend on beside `records.runtime`."""
  if setup.devices.kind == "single":
    return {}
  return {"parallel": setup.devices.kind, "processes": jax.process_count()}


def _finished(setup, name, path, fingerprint) -> dict[str, Any] | None:
  """The record of a net that is there, whole, and the one that is wanted."""
  record = parameters.load_record(path)
  if record is None or record["fingerprint"] != fingerprint:
    return None
  forced = setup.run.checkpoints.force
  if record.get("resumed_although") and not forced:
    setup.screen.say(
        f"{name}: was begun with another config ({path}); training it anew, as "
        "--resume=force is not given")
    return None
  try:
    parameters.load_parameters(path)
  except UserError as error:
    setup.screen.say(f"{name}: {error}; training it anew")
    return None
  return record


def _save_best(setup, name: str, best, fingerprint: str) -> None:
  """The net of the best held-out epoch, beside the last one."""
  if best is None:
    return
  parameters.save_net(
      setup.workdir / "parameters" / f"{name}_best", best.variables,
      {"fingerprint": identity_lib.fingerprint({"best": fingerprint}),
       "epoch": int(best.epoch), "heldout_errors": int(best.errors)})


@functools.cache
def predictor(devices: Devices, model: types.Model) -> Callable[..., Any]:
  """The compiled prediction of a model, made once."""
  return devices_lib.make_predict(devices, model, VIEWS["none"])
