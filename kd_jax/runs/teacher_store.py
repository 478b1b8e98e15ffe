"""The shelf of teachers: nets trained or found, and logits from elsewhere."""

import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kd_jax import config as config_lib
from kd_jax import methods, teachers
from kd_jax.config import build, names, schema
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.runs import context, logit_bank, records
from kd_jax.runs.context import Bench
from kd_jax.training import (
  devices,
  fit,
  parameters,
  schedules,
  segment,
  train_loop,
)
from kd_jax.training.settings import Training

# Bytes up to which teacher.bank=auto stores logits, on disk and on the device.
_LARGEST_BANK = 2 * 1024**3


class Taught(NamedTuple):
  """A teacher ready for use.

  Attributes:
    teacher: What a student's step asks.
    splits: The evaluation splits with the teacher's logits.
    record: Its own numbers, for the summary.
    marks: What determines it.
    said: Logits of its members on those splits, `[members, N, classes]`.
  """

  teacher: teachers.Teacher
  splits: dict[str, fit.Split]
  record: dict[str, Any]
  marks: list[str]
  said: dict[str, jax.Array]


def obtain(
    config: ml_collections.ConfigDict, bench: Bench, student: Training
) -> Taught:
  """The teacher of the run: a user's logits, or nets trained or found."""
  if config.teacher.logits is not None:
    return _from_file(config, bench, student)
  weights = build.member_weights(config)
  trainings = [build.teacher(config, bench.dataset, member)
               for member in range(config.teacher.count)]
  marks, nets = zip(*(
      _member(config, bench, member, training)
      for member, training in enumerate(trainings)))
  models = [training.model for training in trainings]
  combine = functools.partial(
      teachers.combine, weights=jnp.float32(weights), temperature=1.0,
      mean=config.teacher.mean)
  said = {name: jnp.stack([
      context.predictor(bench.where, model)(
          net.variables, split.data, jnp.int32(0))
      for model, net in zip(models, nets)])
          for name, split in bench.splits.items()}
  splits = {name: split._replace(taught=combine(said[name]))
            for name, split in bench.splits.items()}
  variables = [net.variables for net in nets]
  views = student.views
  options = {"weights": weights, "mean": config.teacher.mean}
  if wants_bank(config, bench, student):
    file = bench.workdir / "banks" / f"{records.fingerprint({'m': marks})[:16]}"
    # Trainings of a sweep have a device each; a bank is of them all.
    everywhere = bench.where if not config.sweep.points else devices.choose(
        most=jax.local_device_count())
    bank = logit_bank.obtain(
        file.with_name(f"{file.name}-{config.student.views}.npy"),
        {"data": bench.dataset.fingerprint, "teachers": list(marks),
         "views": config.student.views},
        models, devices.copies(everywhere, variables),
        devices.copies(everywhere, bench.train), views,
        num_classes=bench.dataset.num_classes, where=everywhere,
        tick=lambda done: _tick(bench, done, views.count))
    teacher = teachers.banked(devices.copies(bench.where, bank), **options)
  else:
    teacher = teachers.live(models, variables, **options)
  record = nets[0].record if len(nets) == 1 else _ensemble_record(nets, splits)
  return Taught(teacher, splits, record, list(marks), said)


def student_marks(
    bench: Bench, hparams: types.Hparams, taught: Taught | None,
    method: str = "hard",
) -> dict[str, Any]:
  """What determines a student, but for the machine; `taught` is None without."""
  own = ("seed", "batch_size", "epochs", "steps", "min_steps", "label_smoothing")
  marks = context.select(
      config_lib.settled(bench.values), own, ("optimizer.", "student."))
  marks |= names.source_mark(bench.values["student.name"])
  later = config_lib.unusual(bench.values, "student")
  if method == "hard":
    # It has neither numbers nor anything that a schedule moves.
    later = {key: value for key, value in later.items()
             if not key.startswith("schedules.") and not schema.owner(key)}
  else:
    marks |= context.select(bench.values, ("method", "temperature"))
    marks |= {"weights": [float(hparams.hard_weight), float(hparams.soft_weight)]}
  marks |= later
  if taught:
    marks |= {"teacher.mean": bench.values["teacher.mean"],
              "teachers": taught.marks,
              "member_weights": taught.teacher.weights.tolist()}
  return marks | context.data_marks(bench)


def loss_record(
    method: methods.Distiller, hparams: types.Hparams,
    moving: schedules.Schedules = schedules.STILL,
) -> dict[str, Any]:
  """The loss in words and its numbers, as they stand in every record.

  T is None for a loss that has none, or one that it learns.
  """
  numbers: dict[str, float | None] = {
      name: float(getattr(hparams, name))
      for name in ("temperature", "hard_weight", "soft_weight")}
  own = {name: float(value) for name, value in (hparams.numbers or {}).items()}
  loss = method.formula.format(**numbers, **own)
  if method.formula != methods.DISTILLERS["hard"].formula:
    loss += schedules.told(moving, hparams, softens=method.softens)
  if not method.softens:
    numbers["temperature"] = None
  return {"loss": loss, **numbers, **({"numbers": own} if own else {})}


class _Member(NamedTuple):
  variables: types.Variables
  record: dict[str, Any]


def _member(config, bench, member, training) -> tuple[str, _Member]:
  """One net of the teacher, from where teachers are kept or trained anew."""
  own = ("name", "widths", "input_dropout", "hidden_dropout", "max_norm",
         "views", "batch_size", "epochs", "steps", "min_steps", "label_smoothing")
  marks = context.select(
      bench.values, tuple(f"teacher.{name}" for name in own),
      ("teacher.optimizer.",))
  marks |= names.source_mark(config.teacher.name)
  marks |= context.data_marks(bench)
  marks |= config_lib.unusual(bench.values, "teacher")
  marks |= {"seed": training.seed, "net": "teacher"}
  shelf = pathlib.Path(config.teacher.dir or bench.workdir / "teachers")
  path = shelf / records.fingerprint(marks)[:16]
  name = "teacher" if config.teacher.count == 1 else f"teacher_{member}"
  learner = build.learner(config, training, methods.DISTILLERS["hard"])
  # Programs that share a shelf train a net once; the others wait for it.
  with records.alone(path, say=bench.screen.say, stop=bench.stop):
    record = context.net(
        bench, name, path, marks, training, learner, bench.splits)
  variables = _loaded(path, training.model, bench)
  _check_record(path, record, training.model, variables, bench)
  parameters.save_net(bench.workdir / "parameters" / name, variables, record)
  # Its bits, not its config: another machine's teacher is another teacher.
  return record["parameters_sha256"], _Member(variables, record)


def _loaded(path, model: types.Model, bench: Bench) -> types.Variables:
  """The net at `path`, on every device of every process."""
  like = jax.eval_shape(
      model.init, jax.random.key(0), segment.pixels(
          bench.train, bench.train.image[:1]))
  return devices.copies(bench.where, hosts.agreed_arrays(
      lambda: parameters.load_parameters(path), like))


def _check_record(path, record, model, variables, bench) -> None:
  """A teacher must be as good as its record says, whoever put it there."""
  totals, _ = fit.evaluate(
      context.predictor(bench.where, model), variables, bench.splits["test"])
  errors, number = int(totals["errors"].total), record["test_examples"]
  # Another machine may round a tie the other way; 0.1 points is no rounding.
  if abs(errors - record["test_errors"]) > 0.001 * number:
    raise UserError(
        f"{path}: this teacher makes {errors} test errors of {number}, its "
        f"record says {record['test_errors']}; delete the folder")


def _ensemble_record(nets, splits) -> dict[str, Any]:
  """The ensemble's own numbers, and its members'."""
  record: dict[str, Any] = {}
  for name, split in splits.items():
    totals, wrong = fit.judge(split.taught, split.data.label)
    record |= fit.computed(name, totals)
    if name == "test":
      record["test_wrong_ids"] = np.flatnonzero(wrong).tolist()
  return record | {
      "fingerprint": records.fingerprint(
          {"members": [net.record["fingerprint"] for net in nets]}),
      "seconds": sum(net.record["seconds"] for net in nets),
      "parameters": sum(net.record["parameters"] for net in nets),
      "members": [net.record for net in nets]}


def _from_file(config, bench, student) -> Taught:
  """A teacher of any make, by its logits."""
  dataset, classes = bench.dataset, bench.dataset.num_classes
  bank, accuracy = logit_bank.from_file(
      config.teacher.logits, dataset.train.label,
      num_views=student.views.count, num_classes=classes)
  record: dict[str, Any] = {
      "logits": config.teacher.logits, "train_accuracy": accuracy}
  marks = [hashlib.sha256(bank.tobytes()).hexdigest()]
  record |= {"fingerprint": marks[0], "seconds": 0.0}
  splits = dict(bench.splits)
  if "heldout" in splits:
    taught = devices.copies(bench.where, bank[dataset.heldout_ids, 0, 0])
    splits["heldout"] = splits["heldout"]._replace(taught=taught)
  if config.teacher.test_logits is not None:
    key = f"config.teacher.test_logits={config.teacher.test_logits}"
    said = logit_bank.read_logits(key, config.teacher.test_logits)
    if said.shape != (len(dataset.test.label), classes):
      raise UserError(
          f"{key}: has shape {list(said.shape)}, must be "
          f"{[len(dataset.test.label), classes]}")
    marks.append(hashlib.sha256(said.tobytes()).hexdigest())
    splits["test"] = splits["test"]._replace(
        taught=devices.copies(bench.where, said.astype(np.float32)))
    wrong = np.flatnonzero(said.argmax(-1) != dataset.test.label).tolist()
    record |= {
        "test_errors": len(wrong), "test_examples": len(said),
        "test_accuracy": 1 - len(wrong) / len(said), "test_wrong_ids": wrong}
  bench.screen.say(
      f"teacher: {config.teacher.logits}, accuracy {accuracy:.2%} on the "
      "training set")
  bank = devices.copies(bench.where, bank)
  heard = {name: split.taught[None] for name, split in splits.items()
           if split.taught is not None}
  return Taught(teachers.banked(bank), splits, record, marks, heard)


def _tick(bench: Bench, done: int, total: int) -> None:
  bench.screen.advance("bank", done, total, f"{done} of {total} views")
  if hosts.any_of(bench.stop()):
    raise train_loop.Interrupted()  # A bank without marks is built again.


def wants_bank(
    config: ml_collections.ConfigDict, bench: Bench, student: Training
) -> bool:
  """Whether storing the logits costs less than asking the teacher each time."""
  if config.teacher.bank != "auto":
    return config.teacher.bank == "always"
  views = student.views.count
  size = (4 * len(bench.train.label) * views * config.teacher.count
          * bench.dataset.num_classes)
  epochs = student.total_steps / segment.steps_per_epoch(
      len(bench.train.ids), student.batch_size)
  return views < max(epochs, 1.5) and size <= _LARGEST_BANK
