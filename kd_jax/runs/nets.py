"""Nets on disk: one is trained alone, or found where it was trained before."""

from collections.abc import Callable
import contextlib
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import methods
from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess
from kd_jax.data.views import VIEWS
from kd_jax.runs import records
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, parameters, segment
from kd_jax.training import step as step_lib
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.devices import Devices
from kd_jax.training.settings import Training


class Kept(NamedTuple):
  """A net that is trained, with all that a student or a later net needs of it.

  Attributes:
    training: How it was trained; its model and taps.
    variables: The net, on every device.
    record: Its numbers. Its bits, `parameters_sha256`, stand for it in the identity
      of those who learn from it: another machine's teacher is another teacher.
  """

  training: Training
  variables: types.Variables
  record: dict[str, Any]

  @property
  def sha256(self) -> str:
    return self.record["parameters_sha256"]


def obtain(
    setup: Setup,
    name: str,
    path: pathlib.Path,
    identity: dict[str, Any],
    training: Training,
    learner: step_lib.Learner,
    splits: dict[str, fit.Split],
    *,
    start: types.Variables | None = None,
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
    start: What it starts from, unless from new weights.
  """
  fingerprint = identity_lib.fingerprint(identity)
  record = hosts.agreed(lambda: _finished(setup, name, path, fingerprint))
  if record is not None:
    setup.screen.say(f"{name}: already trained, in {path}")
    _checkpoints(setup, name, identity).drop_if_own()
    return record
  return _trained(
      setup, name, path, identity, training, learner, splits, start)


def member(setup: Setup, name: str, number: int) -> Kept:
  """A member of the main job's teacher, trained or found in the store."""
  training = build.teacher(setup.run.values, setup.dataset, number)
  identity = identity_lib.member(
      setup.run.values, content=setup.dataset.fingerprint, seed=training.seed,
      source=setup.run.sources["teacher"])
  learner = build.learner(setup.run, training, methods.METHODS["hard"])
  return in_store(setup, name, training, identity, lambda path: obtain(
      setup, name, path, identity, training, learner, setup.splits))


def in_store(
    setup: Setup, name: str, training: Training, identity: dict[str, Any],
    make: Callable[[pathlib.Path], dict[str, Any]],
) -> Kept:
  """A net that others learn from: `make` gives its record, from its folder."""
  path = _kept_at(setup, identity_lib.fingerprint(identity))
  # Programs that share a store train a net once; the others wait for it.
  with records.alone(path, say=setup.screen.say, stop=setup.stop):
    record = make(path)
  kept = load(setup, training, path, record)
  parameters.save_net(
      setup.workdir / "parameters" / name, kept.variables, record)
  return kept


def load(
    setup: Setup, training: Training, path: pathlib.Path, record: dict[str, Any]
) -> Kept:
  """The net at a path, on every device; it must be as good as its record says.

  Raises:
    UserError: If it is not, whoever put it there.
  """
  like = jax.eval_shape(
      training.model.init, jax.random.key(0), preprocess.blank(setup.train.inputs))
  variables = devices_lib.copies(setup.devices, hosts.agreed_arrays(
      lambda: parameters.load_parameters(path), like))
  totals, _ = fit.evaluate(
      predictor(setup.devices, training.model), variables, setup.splits["test"])
  errors, number = int(totals["errors"].total), record["test_examples"]
  # Another machine may round a tie the other way; 0.1 points is no rounding.
  if abs(errors - record["test_errors"]) > 0.001 * number:
    raise UserError(
        f"{path}: this teacher makes {errors} test errors of {number}, its "
        f"record says {record['test_errors']}; delete the folder")
  return Kept(training, variables, record)


def save(
    setup: Setup, fingerprint: str, variables: types.Variables,
    row: dict[str, Any],
) -> None:
  """Keeps a lane's net in the store, for those that learn from it."""
  path = _kept_at(setup, fingerprint)
  with records.alone(path, say=setup.screen.say, stop=setup.stop):
    parameters.save_net(path, variables, row | {
        "parameters_sha256": parameters.parameters_sha256(variables.params)})


def find(setup: Setup, training: Training, fingerprint: str) -> Kept | None:
  """The net of a fingerprint in the store, or None."""
  path = _kept_at(setup, fingerprint)
  record = _finished(setup, fingerprint[:8], path, fingerprint)
  return None if record is None else load(setup, training, path, record)


def _kept_at(setup: Setup, fingerprint: str) -> pathlib.Path:
  """The folder of a net that others learn from."""
  store = pathlib.Path(
      setup.run.values["teacher.dir"] or setup.workdir / "teachers")
  return store / fingerprint[:16]


@functools.cache
def predictor(devices: Devices, model: types.Model) -> Callable[..., Any]:
  """The compiled prediction of a model, made once."""
  return devices_lib.make_predict(devices, model, VIEWS["none"])


def logits(setup: Setup, net: Kept) -> dict[str, jax.Array]:
  """Logits of a net on every split, `[N, classes]`."""
  predict = predictor(setup.devices, net.training.model)
  return {name: predict(net.variables, split.data, jnp.int32(0))
          for name, split in setup.splits.items()}


def _trained(setup, name, path, identity, training, learner, splits, start):
  """Trains a net, saves it, and gives its record."""
  fingerprint, began = identity_lib.fingerprint(identity), time.perf_counter()

  def report(row):
    setup.announce()
    setup.recorder.row(name, {"fingerprint": fingerprint[:16], **row})
    setup.screen.row(name, row)

  per_epoch = segment.steps_per_epoch(len(setup.train.ids), training.batch_size)

  def tick(step):
    setup.screen.advance(
        name, step, training.last_step, f"in epoch {step // per_epoch + 1}")

  checkpoints = _checkpoints(setup, name, identity)
  with contextlib.closing(checkpoints):
    fitted = fit.fit(
        training, learner, setup.train, splits, devices=setup.devices,
        checkpoints=checkpoints, stop=setup.stop, report=report, tick=tick,
        initial=start)
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
  return setup.checkpoints(name, identity | records.runtime() | setup.placing)


def _finished(setup, name, path, fingerprint) -> dict[str, Any] | None:
  """The record of a net that is there, whole, and the one that is wanted."""
  record = parameters.load_record(path)
  if record is None or record["fingerprint"] != fingerprint:
    return None
  forced = setup.run.values["checkpoint.resume"] == "force"
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
