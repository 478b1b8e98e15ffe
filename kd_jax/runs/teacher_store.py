"""Teachers of students: nets that were trained before, or logits from elsewhere."""

from collections.abc import Sequence
import functools
import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import data as data_lib
from kd_jax import methods, teachers
from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.config.run import Run
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.runs import logit_bank, nets
from kd_jax.runs.nets import Kept
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, segment, train_loop
from kd_jax.training import schedules as schedules_lib
from kd_jax.training.schedules import STILL, Schedules
from kd_jax.training.settings import Training

# Bytes up to which teacher.bank=auto stores logits, on disk and on the device.
_LARGEST_BANK = 2 * 1024**3


class PreparedTeacher(NamedTuple):
  """A teacher ready for use.

  Attributes:
    teacher: What a student's step asks.
    splits: The evaluation splits with the teacher's logits.
    record: Its own numbers, for the summary.
    identity: What determines it.
    member_logits: Logits of its members on those splits, `[members, N, classes]`.
  """

  teacher: teachers.Teacher
  splits: dict[str, fit.Split]
  record: dict[str, Any]
  identity: list[str]
  member_logits: dict[str, jax.Array]


def of_nets(
    setup: Setup, student: Training, members: Sequence[Kept]
) -> PreparedTeacher:
  """The teacher that trained nets are together, for a student's training."""
  run, mean = setup.run, setup.run.values["teacher.mean"]
  models = [net.training.model for net in members]
  variables = [net.variables for net in members]
  identity = [net.sha256 for net in members]
  combine = functools.partial(
      teachers.combine, weights=jnp.float32(run.weights), temperature=1.0,
      mean=mean)
  each = [nets.logits(setup, net) for net in members]
  member_logits = {
      name: jnp.stack([logits[name] for logits in each]) for name in setup.splits}
  splits = {name: split._replace(teacher_logits=combine(member_logits[name]))
            for name, split in setup.splits.items()}
  taps = members[0].training.taps
  if wants_bank(run, setup.dataset, student, taps):
    teacher = teachers.banked(
        _bank(setup, student, identity, models, variables),
        weights=run.weights, mean=mean,
        features=_tap_bank(setup, student, members[0]))
  else:
    if run.method.pairs is not None:
      setup.screen.say(
          f"teacher: live, as method {run.values['method']} compares features "
          "that are too large to store, or not stored by teacher.bank")
    teacher = teachers.live(
        models, variables, weights=run.weights, mean=mean, taps=taps)
  record = members[0].record if len(members) == 1 else _ensemble_record(
      members, splits)
  return PreparedTeacher(teacher, splits, record, identity, member_logits)


def _bank(setup, student, identity, models, variables) -> jax.Array:
  """The logits of every view of every image, from disk or computed."""
  views, name = student.views, setup.run.values["student.views"]
  file = setup.workdir / "banks" / identity_lib.fingerprint({"m": identity})[:16]
  # Trainings of a sweep have a device each; a bank is of them all.
  everywhere = setup.devices if not setup.run.sweep.points else (
      devices_lib.choose(most=jax.local_device_count()))
  bank = logit_bank.obtain(
      file.with_name(f"{file.name}-{name}.npy"),
      {"data": setup.dataset.fingerprint, "teachers": identity, "views": name},
      models, devices_lib.copies(everywhere, variables),
      devices_lib.copies(everywhere, setup.train), views,
      num_classes=setup.dataset.num_classes, devices=everywhere,
      tick=lambda done: _tick(setup, done, views.count))
  return devices_lib.copies(setup.devices, bank)


def _tap_bank(
    setup: Setup, student: Training, net: Kept
) -> dict[str, jax.Array]:
  """The compared taps of every view of every input, `[N, V, ...]`; not on disk."""
  names = compared(setup.run, student, net.training.taps)
  if not names:
    return {}
  predict = devices_lib.make_predict(
      setup.devices, net.training.model, student.views,
      lambda outputs: {name: outputs.features[name] for name in names})
  views = [predict(net.variables, setup.train, jnp.int32(view))
           for view in range(student.views.count)]
  return devices_lib.copies(setup.devices, jax.tree.map(
      lambda *taps: np.stack(taps, axis=1), *views))


def compared(
    run: Run, student: Training, taps: methods.Shapes
) -> dict[str, tuple[int, ...]]:
  """The taps, of those that a teacher has, that a student is compared with."""
  if run.method.pairs is None:
    return {}
  _, pairs = build.bound(run, student, run.method, taps)
  return {other: taps[other] for _, other in pairs}


def student_identity(
    setup: Setup, hparams: types.Hparams, prepared: PreparedTeacher | None,
    method: str = "hard", *, start: Kept | None = None, epoch: int | None = None,
) -> dict[str, Any]:
  """What determines a student.

  Args:
    setup: Its setup.
    hparams: The traced numbers of its training.
    prepared: Its teacher, or None where it needs none.
    method: Its method.
    start: The net that it starts from, if not from new weights.
    epoch: The epoch that its training ends at, if that is not the last one.
  """
  values = setup.run.values
  mixture = prepared and identity_lib.mixture(
      values, prepared.identity, prepared.teacher.weights.tolist())
  identity = identity_lib.student(
      values, content=setup.dataset.fingerprint, method=method,
      source=setup.run.sources["student"],
      weights=(hparams.hard_weight, hparams.soft_weight), mixture=mixture)
  return identity | ({"init_from": start.sha256} if start else {}) | (
      {"ends_at_epoch": epoch} if epoch else {})


def loss_record(
    method: methods.Method, hparams: types.Hparams,
    schedules: Schedules = STILL,
) -> dict[str, Any]:
  """The loss in words and its numbers, as they stand in every record.

  T is None for a loss that has none, or one that it learns.
  """
  numbers: dict[str, float | None] = {
      name: float(getattr(hparams, name))
      for name in ("temperature", "hard_weight", "soft_weight")}
  own = {name: float(value) for name, value in (hparams.numbers or {}).items()}
  loss = method.formula.format(**numbers, **own)
  if method.formula != methods.METHODS["hard"].formula:
    loss += schedules_lib.in_words(schedules, hparams, softens=method.softens)
  if not method.softens:
    numbers["temperature"] = None
  return {"loss": loss, **numbers, **({"numbers": own} if own else {})}


def _ensemble_record(members: Sequence[Kept], splits) -> dict[str, Any]:
  """The ensemble's own numbers, and its members'."""
  record: dict[str, Any] = {}
  for name, split in splits.items():
    totals, wrong = fit.judge(split.teacher_logits, split.data.label)
    record |= fit.computed(name, totals)
    if name == "test":
      record["test_wrong_ids"] = np.flatnonzero(wrong).tolist()
  records = [net.record for net in members]
  return record | {
      "fingerprint": identity_lib.fingerprint(
          {"members": [each["fingerprint"] for each in records]}),
      "seconds": sum(each["seconds"] for each in records),
      "parameters": sum(each["parameters"] for each in records),
      "members": records}


def from_file(setup: Setup, student: Training) -> PreparedTeacher:
  """A teacher of any make, by its logits."""
  values, dataset = setup.run.values, setup.dataset
  file, of_test = values["teacher.logits"], values["teacher.test_logits"]
  classes = dataset.num_classes
  bank, accuracy = logit_bank.from_file(
      file, dataset.train.label,
      num_views=student.views.count, num_classes=classes)
  record: dict[str, Any] = {
      "logits": file, "train_accuracy": accuracy}
  identity = [hashlib.sha256(bank.tobytes()).hexdigest()]
  record |= {"fingerprint": identity[0], "seconds": 0.0}
  splits = dict(setup.splits)
  put = lambda logits: devices_lib.copies(setup.devices, logits)
  if "heldout" in splits:
    splits["heldout"] = splits["heldout"]._replace(
        teacher_logits=put(bank[dataset.heldout_ids, 0, 0]))
  if of_test is not None:
    logits = _test_logits(of_test, (len(dataset.test.label), classes))
    identity.append(hashlib.sha256(logits.tobytes()).hexdigest())
    splits["test"] = splits["test"]._replace(
        teacher_logits=put(logits.astype(np.float32)))
    wrong = np.flatnonzero(logits.argmax(-1) != dataset.test.label).tolist()
    record |= {
        "test_errors": len(wrong), "test_examples": len(logits),
        "test_accuracy": 1 - len(wrong) / len(logits), "test_wrong_ids": wrong}
  setup.screen.say(
      f"teacher: {file}, accuracy {accuracy:.2%} on the "
      "training set")
  member_logits = {
      name: split.teacher_logits[None] for name, split in splits.items()
      if split.teacher_logits is not None}
  return PreparedTeacher(
      teachers.banked(put(bank)), splits, record, identity, member_logits)


def _test_logits(file: str, shape: tuple[int, ...]) -> np.ndarray:
  key = f"config.teacher.test_logits={file}"
  logits = logit_bank.read_logits(key, file)
  if logits.shape != shape:
    raise UserError(
        f"{key}: has shape {list(logits.shape)}, must be {list(shape)}")
  return logits


def _tick(setup: Setup, done: int, total: int) -> None:
  setup.screen.advance("bank", done, total, f"{done} of {total} views")
  if hosts.any_of(setup.stop()):
    raise train_loop.Interrupted()  # A bank that is not whole is gone on with.


def wants_bank(
    run: Run, dataset: data_lib.Dataset, student: Training, taps: methods.Shapes
) -> bool:
  """Whether storing a teacher's outputs costs less than asking it each time.

  Args:
    run: Which says what is asked for.
    dataset: The data set, all of it.
    student: The training of the student.
    taps: Shapes of the teacher's taps; those that are compared are stored too if
      they are vectors, and maps are too large.
  """
  if run.values["teacher.bank"] == "never" or any(
      len(shape) > 1 for shape in compared(run, student, taps).values()):
    return False
  if run.values["teacher.bank"] == "always":
    return True
  epochs = student.total_steps / segment.steps_per_epoch(
      len(dataset.train_ids), student.batch_size)
  return student.views.count < max(epochs, 1.5) and (
      bank_bytes(run, dataset, student, taps) <= _LARGEST_BANK)


def bank_bytes(
    run: Run, dataset: data_lib.Dataset, student: Training, taps: methods.Shapes
) -> int:
  """Bytes of a bank; `run`, `dataset`, `student` and `taps` as of `wants_bank`."""
  floats = run.values["teacher.count"] * dataset.num_classes + sum(
      math.prod(shape) for shape in compared(run, student, taps).values())
  return 4 * len(dataset.train.label) * student.views.count * floats
