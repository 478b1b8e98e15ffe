"""One net, trained by itself on all devices, or found where it was trained before.

It then has numbers of every epoch, and its best net of held-out data.
"""

import contextlib
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np

from kd_jax.config import identity as identity_lib
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess
from kd_jax.models import released
from kd_jax.runs import inspected, nets, rows, teacher_store, trained
from kd_jax.runs.jobs import Job, Wanted
from kd_jax.runs.nets import Kept
from kd_jax.runs.rows import Row
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, parameters, peers

# Seconds that are worth a line on how not to spend them again.
_LONG = 10.0


def train(job: Job, fingerprint: str) -> Kept:
  """Trains a net of a job, or finds it; it lies in `workdir/parameters/NAME`."""
  setup, name, wanted = job.setup, job.net.name, job.wanted[fingerprint]
  if job.training.model.on_host is not None:
    return _asked(job, fingerprint)
  own = setup.workdir / "parameters" / name
  if not job.net.in_config and job.net.member is None:
    # Of the main job's students nobody learns, so they are in no store.
    identity = wanted.identity | setup.machine() | {"net": name}
    del identity["lane"]
    record = obtain(job, wanted, own, identity)
    return Kept(
        job.training, nets.load(setup, job.training.model, own), record)
  with nets.stored(setup, fingerprint) as path:
    record = obtain(job, wanted, path, wanted.identity)
  kept = nets.checked(setup, job.training, path, record)
  parameters.save_net(own, kept.variables, nets.described(
      setup, record, wanted.identity))
  return kept


def row(job: Job, fingerprint: str, record: Row) -> Row:
  """The row of a net that this run has trained so, with its curves."""
  devices = job.setup.devices
  packing = "1x1x1" if devices.kind == "single" else (
      f"{devices.kind} {devices.size}")
  epochs = rows.epochs(
      job.setup.workdir, job.net.name, record["fingerprint"][:16])
  # A net that a sweep left has its own packing and curves.
  return {"packing": packing, **rows.found(job, fingerprint, record),
          **(rows.curves(epochs) if epochs else {})}


def _asked(job: Job, fingerprint: str) -> Kept:
  """The teacher that is a function, which only its answers tell from another.

  They may hang on a file of weights that is not known here, so they are asked anew
  each time, and the students of other answers are other students.
  """
  began, setup = time.perf_counter(), job.setup
  number = sum(len(split.data.label) for split in setup.splits.values())
  model = nets.counting(job.training.model, lambda done: setup.screen.advance(
      job.net.name, done, number, f"asked {done} of {number} inputs"))
  answers = nets.logits(setup, model, nothing := types.Variables({}, {}))
  teacher_store.look(setup, model, np.asarray(answers["test"]))
  record = {
      "fingerprint": fingerprint, **teacher_store.judged(setup.splits, answers),
      "parameters_sha256": parameters.parameters_sha256(answers),
      "seconds": round(time.perf_counter() - began, 2)}
  return Kept(job.training, nothing, record, answers)


def _released(job: Job) -> fit.Fitted:
  """The teacher whose weights the config gives."""
  setup, model = job.setup, job.training.model
  file = setup.run.values["teacher.state_dict"]
  like = jax.eval_shape(
      model.init, jax.random.key(0), preprocess.blank(setup.train.inputs))
  arrays = released.read(file)
  try:
    variables = released.variables(arrays, like)
  except ValueError as error:
    raise UserError(
        f"config.teacher.state_dict={file}: {error}; give its net by teacher.name, "
        "teacher.model.depth and teacher.widths") from None
  return fit.untrained(
      model, devices_lib.copies(setup.devices, variables), setup.splits,
      setup.devices)


def take(job: Job, fingerprint: str) -> tuple[Row, types.Variables]:
  """One of several nets that trained together: its record, and the net."""
  began = time.perf_counter()
  fitted = _taken(job, job.wanted[fingerprint])
  # NaN is no JSON.
  lost = lambda value: isinstance(value, float) and not math.isfinite(value)
  record = _record(fingerprint, fitted, time.perf_counter() - began)
  return {key: None if lost(value) else value
          for key, value in record.items()}, fitted.variables


def _taken(job: Job, wanted: Wanted) -> fit.Fitted:
  assert wanted.start is not None and job.net.peer is not None
  return fit.untrained(
      job.training.model, peers.net(wanted.start.variables, job.net.peer),
      job.setup.splits, job.setup.devices)


def _record(fingerprint: str, fitted: fit.Fitted, seconds: float) -> Row:
  """What is written of a net that took so many seconds."""
  final = ("test_", "heldout_", "train_", "epoch", "step")
  return {
      "fingerprint": fingerprint, **rows.as_students({
          key: value for key, value in fitted.row.items()
          if key.startswith(final)}),
      "parameters": parameters.num_parameters(fitted.variables.params),
      "parameters_sha256": parameters.parameters_sha256(fitted.variables.params),
      "seconds": round(seconds, 2),
      "test_wrong_ids": fitted.test_wrong_ids}


def obtain(
    job: Job, wanted: Wanted, path: pathlib.Path, identity: dict[str, Any]
) -> Row:
  """The record of the net at `path`, which is trained first if it is not there.

  Args:
    job: How it is trained.
    wanted: Whom it learns from, and what it starts from.
    path: Its folder.
    identity: What determines it there, by name.
  """
  setup, name, training = job.setup, job.net.name, job.training
  fingerprint = identity_lib.fingerprint(identity)
  # A sweep may train several teachers; each has checkpoints of its own.
  checkpoints = setup.checkpoints(
      f"{name}-{fingerprint[:16]}" if setup.run.sweep.points else name, identity)
  record = hosts.agreed(lambda: nets.finished(setup, name, path, fingerprint))
  if record is not None:
    setup.screen.say(f"{name}: already trained, in {path}")
    checkpoints.drop_if_own()
    return record

  def report(row):
    setup.announce()
    setup.recorder.row(name, {"fingerprint": fingerprint[:16], **row})
    setup.screen.row(name, row)

  def tick(step):
    setup.screen.advance(
        name, step, training.last_step, f"in epoch {step // job.per_epoch + 1}")

  with contextlib.closing(checkpoints):
    fitted = _released(job) if job.released else _taken(
        job, wanted) if job.net.peer is not None else fit.fit(
        training, job.learner, setup.train,
        wanted.teacher.splits if wanted.teacher else setup.splits,
        devices=setup.devices, checkpoints=checkpoints, stop=setup.stop,
        report=report, tick=tick, inspect=inspected.after_epochs(job, wanted),
        initial=wanted.start and wanted.start.variables,
        begun=bool(rows.epochs(setup.workdir, name, fingerprint[:16])))
  if training.patience is not None:
    setup.screen.advance(
        name, training.last_step, training.last_step,
        f"the net of epoch {fitted.row['epoch']} has the fewest held-out errors")
  record = _record(
      fingerprint, fitted, checkpoints.seconds()) | checkpoints.forced()
  if fitted.best is not None:
    # The net of the best held-out epoch, beside the last one.
    nets.replace(
        setup, setup.workdir / "parameters" / f"{name}{trained.BEST}",
        fitted.best.variables,
        {"fingerprint": identity_lib.fingerprint({"best": fingerprint}),
         "epoch": int(fitted.best.epoch),
         "heldout_errors": int(fitted.best.errors)})
  nets.replace(setup, path, fitted.variables,
               nets.described(setup, record, identity))
  hosts.together(f"{name} is saved")
  checkpoints.drop()
  if (job.net.member == 0 and setup.run.values["teacher.dir"] is None
      and record["seconds"] > _LONG):
    setup.screen.say(f"{name}: kept for other runs with the same teacher, which "
                     f"find it by --config.teacher.dir={path.parent}")
  return record
