"""A bench: what the trainings of a run share, and training one net on it."""

from collections.abc import Callable
import contextlib
import functools
import json
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

import kd_jax
from kd_jax import config as config_lib
from kd_jax import data as data_lib
from kd_jax.config import build
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.data.views import VIEWS
from kd_jax.runs import records
from kd_jax.training import devices, fit, parameters, segment
from kd_jax.training import step as step_lib
from kd_jax.training.checkpoints import Progress
from kd_jax.training.devices import Parallel
from kd_jax.training.settings import Training


class Bench(NamedTuple):
  """What every training of a run shares.

  Attributes:
    values: The config as dotted keys and plain values.
    dataset: The data set in memory.
    train: Its training examples on the device, the ids to train on in use.
    splits: What to evaluate on: "test", and "heldout" where there is one.
    workdir: Where everything is kept.
    where: The devices of a training; all arrays lie on every one.
    recorder: Writes the records.
    screen: Tells the user.
    stop: Whether to stop at the next segment.
    announce: Writes down what is run, once; nothing can be refused any more.
  """

  values: dict[str, Any]
  dataset: data_lib.Dataset
  train: segment.DeviceData
  splits: dict[str, fit.Split]
  workdir: pathlib.Path
  where: Parallel
  recorder: records.Recorder
  screen: Screen
  stop: Callable[[], bool]
  announce: Callable[[], None]


def prepare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    screen: Screen,
    stop: Callable[[], bool],
) -> Bench:
  """Loads the data, puts it on the device and writes down what is run."""
  where = _devices(config)
  values = config_lib.flatten(config)
  _refuse_unlike(values)
  dataset = build.dataset(config, say=screen.say)
  sizes = f"{len(dataset.train_ids)} training, {len(dataset.test.label)} test"
  screen.say(f"data: {dataset.name} from {dataset.source}, {sizes} examples, "
             f"{dataset.num_classes} classes")
  if dataset.notice:
    screen.say(f"\n*** {dataset.notice} ***\n", style="bold yellow")
  scaling = build.scaling(config.data.scale, dataset.train)
  everything = lambda part: np.arange(len(part.label))
  put = lambda part, ids: devices.copies(
      where, build.device_data(part, ids, scaling))
  test = put(dataset.test, everything(dataset.test))
  splits = {"test": fit.Split(test)}
  if len(dataset.heldout_ids):
    held = data_lib.Examples(*(a[dataset.heldout_ids] for a in dataset.train))
    splits["heldout"] = fit.Split(put(held, everything(held)))
  hosts.refuse_unlike("the data", dataset.fingerprint)
  recorder = records.Recorder(workdir, tensorboard=config.tensorboard)

  @functools.cache
  def announce():
    # An older run's results must not lie beside this one's settings.
    recorder.remove("summary.json")
    recorder.write("config.json", values)
    recorder.write("manifest.json", records.manifest(
        data={"name": dataset.name, "source": dataset.source,
              "notice": dataset.notice, "fingerprint": dataset.fingerprint}))

  return Bench(
      values, dataset, put(dataset.train, dataset.train_ids), splits, workdir,
      where, recorder, screen, stop, announce)


def transfer(bench: Bench, config: ml_collections.ConfigDict) -> Bench:
  """The bench on which students are trained: that of their transfer set."""
  dataset = build.transfer_set(config, bench.dataset)
  if dataset is bench.dataset:
    return bench
  ids = devices.copies(bench.where, dataset.train_ids)
  return bench._replace(dataset=dataset, train=bench.train._replace(ids=ids))


def _refuse_unlike(values: dict[str, Any]) -> None:
  """Processes that were started otherwise would train something else, or hang."""
  same = {key: value for key, value in values.items() if key != "data.dir"}
  hosts.refuse_unlike("the config", json.dumps(same, default=list))
  place = values["data.dir"] or os.environ.get(data_lib.ENVIRONMENT_VARIABLE)
  there = pathlib.Path(place or "no folder").expanduser().is_dir()
  hosts.refuse_unlike("whether there is a folder of data", str(there))


def _devices(config: ml_collections.ConfigDict) -> Parallel:
  """Where trainings run; a sweep spreads its lanes over devices by itself."""
  if not config.sweep.points:
    kind = config.parallel
    # A user's own layers may look at the whole batch: with `sharded` they do.
    own = any(":" in name for name in (config.student.name, config.teacher.name))
    if kind == "auto" and own and jax.device_count() > 1:
      kind = "sharded"
    return devices.choose(kind)
  if config.parallel not in ("auto", "single"):
    raise UserError(
        f"config.parallel={config.parallel}: is for single runs; a sweep spreads "
        "its lanes over all devices by itself")
  if jax.process_count() > 1:
    raise UserError(
        "--processes: is for single runs; share a sweep out with --shard=I/N")
  return devices.choose("single")


def net(
    bench: Bench,
    name: str,
    path: pathlib.Path,
    marks: dict[str, Any],
    training: Training,
    learner: step_lib.Learner,
    splits: dict[str, fit.Split],
) -> dict[str, Any]:
  """The record of the net at `path`, trained first if it is not there.

  Args:
    bench: What trainings share.
    name: Of the net.
    path: Its folder.
    marks: What determines it, by name.
    training: How it is trained.
    learner: Its step.
    splits: What it is evaluated on.
  """
  mark = records.fingerprint(marks)
  record = hosts.agreed(lambda: _finished(bench, name, path, mark))
  if record is not None:
    bench.screen.say(f"{name}: already trained, in {path}")
    _progress(bench, name, marks).drop_if_own()
    return record
  return _trained(bench, name, path, marks, training, learner, splits)


def _trained(bench, name, path, marks, training, learner, splits):
  """Trains a net, saves it, and gives its record."""
  mark, began = records.fingerprint(marks), time.perf_counter()

  def report(row):
    bench.announce()
    bench.recorder.row(name, {"fingerprint": mark[:16], **row})
    bench.screen.row(name, row)

  per_epoch = segment.steps_per_epoch(len(bench.train.ids), training.batch_size)

  def tick(step):
    bench.screen.advance(
        name, step, training.total_steps, f"in epoch {step // per_epoch + 1}")

  progress = _progress(bench, name, marks)
  with contextlib.closing(progress):
    fitted = fit.fit(
        training, learner, bench.train, splits, where=bench.where,
        progress=progress, stop=bench.stop, report=report, tick=tick)
  params = fitted.variables.params
  final = ("test_", "heldout_", "train_", "epoch", "step")
  kept = {key: value for key, value in fitted.row.items()
          if key.startswith(final)}
  # The student's names for how well it follows the teacher on the test set.
  kept |= {key: kept.pop(f"test_{key}") for key in ("agreement", "kl")
           if f"test_{key}" in kept}
  record = {
      "fingerprint": mark, **kept, **progress.forced(),
      "parameters": parameters.num_parameters(params),
      "parameters_sha256": parameters.parameters_sha256(params),
      "seconds": round(time.perf_counter() - began, 2),
      "test_wrong_ids": fitted.test_wrong_ids}
  _save_best(bench, name, fitted.best, mark)
  parameters.save_net(path, fitted.variables, record)
  hosts.together(f"{name} is saved")
  progress.drop()
  return record


def _progress(bench: Bench, name: str, marks: dict[str, Any]) -> Progress:
  """Where the unfinished training of a net is kept."""
  # A sweep may train several teachers; each has checkpoints of its own.
  if bench.values["sweep.points"]:
    name = f"{name}-{records.fingerprint(marks)[:16]}"
  # Its bits depend on the machine, so it goes on where it was begun.
  return open_progress(
      bench, name, marks | records.runtime() | where_marks(bench))


def open_progress(bench: Bench, name: str, marks: dict[str, Any]) -> Progress:
  """Where an unfinished training of this bench is kept."""
  values = bench.values
  return Progress(
      bench.workdir / "progress" / name,
      {**marks, "numerics": kd_jax.NUMERICS},
      every=values["checkpoint.every"], keep=values["checkpoint.keep"],
      force=values["checkpoint.resume"] == "force", say=bench.screen.say)


def where_marks(bench: Bench) -> dict[str, Any]:
  """What a net's bits depend on beside `records.runtime`."""
  if bench.where.kind == "single":
    return {}
  return {"parallel": bench.where.kind, "processes": jax.process_count()}


def _finished(bench, name, path, mark) -> dict[str, Any] | None:
  """The record of a net that is there, whole, and the one that is wanted."""
  record = parameters.load_record(path)
  if record is None or record["fingerprint"] != mark:
    return None
  forced = bench.values["checkpoint.resume"] == "force"
  if record.get("resumed_although") and not forced:
    bench.screen.say(
        f"{name}: was begun with another config ({path}); training it anew, as "
        "--resume=force is not given")
    return None
  try:
    parameters.load_parameters(path)
  except UserError as error:
    bench.screen.say(f"{name}: {error}; training it anew")
    return None
  return record


def _save_best(bench, name: str, best, mark: str) -> None:
  """The net of the best held-out epoch, beside the last one."""
  if best is None:
    return
  parameters.save_net(
      bench.workdir / "parameters" / f"{name}_best", best.variables,
      {"fingerprint": records.fingerprint({"best": mark}),
       "epoch": int(best.epoch), "heldout_errors": int(best.errors)})


@functools.cache
def predictor(where: Parallel, model: types.Model) -> Callable[..., Any]:
  """The compiled prediction of a model, made once."""
  return devices.make_predict(where, model, VIEWS["none"])


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
