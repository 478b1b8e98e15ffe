"""The store of teachers: nets trained or found, and logits from elsewhere."""

import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import methods, teachers
from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.runs import logit_bank, records
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, parameters, segment, train_loop
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


def obtain(setup: Setup, student: Training) -> PreparedTeacher:
  """The teacher of the run: a user's logits, or nets trained or found."""
  run, asked = setup.run, setup.run.teacher
  if asked.logits is not None:
    return _from_file(setup, student)
  trainings = [build.teacher(run.values, setup.dataset, member)
               for member in range(asked.members)]
  identity, nets = zip(*(
      _member(setup, member, training)
      for member, training in enumerate(trainings)))
  models = [training.model for training in trainings]
  combine = functools.partial(
      teachers.combine, weights=jnp.float32(asked.weights), temperature=1.0,
      mean=asked.mean)
  member_logits = {name: jnp.stack([
      setup_lib.predictor(setup.devices, model)(
          net.variables, split.data, jnp.int32(0))
      for model, net in zip(models, nets)])
          for name, split in setup.splits.items()}
  splits = {name: split._replace(teacher_logits=combine(member_logits[name]))
            for name, split in setup.splits.items()}
  variables = [net.variables for net in nets]
  views = student.views
  if run.method.pairs is not None:
    setup.screen.say(
        f"teacher: live, as method {run.method_name} compares features")
  if wants_bank(setup, student):
    file = setup.workdir / "banks" / identity_lib.fingerprint(
        {"m": identity})[:16]
    # Trainings of a sweep have a device each; a bank is of them all.
    everywhere = setup.devices if not run.sweep.points else devices_lib.choose(
        most=jax.local_device_count())
    bank = logit_bank.obtain(
        file.with_name(f"{file.name}-{run.views}.npy"),
        {"data": setup.dataset.fingerprint, "teachers": list(identity),
         "views": run.views},
        models, devices_lib.copies(everywhere, variables),
        devices_lib.copies(everywhere, setup.train), views,
        num_classes=setup.dataset.num_classes, devices=everywhere,
        tick=lambda done: _tick(setup, done, views.count))
    bank = devices_lib.copies(setup.devices, bank)
    teacher = teachers.banked(bank, weights=asked.weights, mean=asked.mean)
  else:
    teacher = teachers.live(
        models, variables, weights=asked.weights, mean=asked.mean,
        taps=trainings[0].taps)
  record = nets[0].record if len(nets) == 1 else _ensemble_record(nets, splits)
  return PreparedTeacher(teacher, splits, record, list(identity), member_logits)


def student_identity(
    setup: Setup, hparams: types.Hparams, prepared: PreparedTeacher | None,
    method: str = "hard",
) -> dict[str, Any]:
  """What determines a student; `prepared` is None where it needs no teacher."""
  values = setup.run.values
  mixture = prepared and identity_lib.mixture(
      values, prepared.identity, prepared.teacher.weights.tolist())
  return identity_lib.student(
      values, content=setup.dataset.fingerprint, method=method,
      source=setup.run.sources["student"],
      weights=(hparams.hard_weight, hparams.soft_weight), mixture=mixture)


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


class _Member(NamedTuple):
  variables: types.Variables
  record: dict[str, Any]


def _member(setup: Setup, member: int, training: Training) -> tuple[str, _Member]:
  """One net of the teacher, from where teachers are kept or trained anew."""
  identity = identity_lib.member(
      setup.run.values, content=setup.dataset.fingerprint, seed=training.seed,
      source=setup.run.sources["teacher"])
  store = pathlib.Path(
      setup.run.teacher.directory or setup.workdir / "teachers")
  path = store / identity_lib.fingerprint(identity)[:16]
  name = "teacher" if setup.run.teacher.members == 1 else f"teacher_{member}"
  learner = build.learner(
      setup.run, training, methods.METHODS["hard"])
  # Programs that share a store train a net once; the others wait for it.
  with records.alone(path, say=setup.screen.say, stop=setup.stop):
    record = setup_lib.net(
        setup, name, path, identity, training, learner, setup.splits)
  variables = _loaded(path, training.model, setup)
  _check_record(path, record, training.model, variables, setup)
  parameters.save_net(setup.workdir / "parameters" / name, variables, record)
  # Its bits, not its config: another machine's teacher is another teacher.
  return record["parameters_sha256"], _Member(variables, record)


def _loaded(path, model: types.Model, setup: Setup) -> types.Variables:
  """The net at `path`, on every device of every process."""
  like = jax.eval_shape(
      model.init, jax.random.key(0), segment.pixels(
          setup.train, setup.train.image[:1]))
  return devices_lib.copies(setup.devices, hosts.agreed_arrays(
      lambda: parameters.load_parameters(path), like))


def _check_record(path, record, model, variables, setup) -> None:
  """A teacher must be as good as its record says, whoever put it there."""
  totals, _ = fit.evaluate(
      setup_lib.predictor(setup.devices, model), variables, setup.splits["test"])
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
    totals, wrong = fit.judge(split.teacher_logits, split.data.label)
    record |= fit.computed(name, totals)
    if name == "test":
      record["test_wrong_ids"] = np.flatnonzero(wrong).tolist()
  return record | {
      "fingerprint": identity_lib.fingerprint(
          {"members": [net.record["fingerprint"] for net in nets]}),
      "seconds": sum(net.record["seconds"] for net in nets),
      "parameters": sum(net.record["parameters"] for net in nets),
      "members": [net.record for net in nets]}


def _from_file(setup: Setup, student: Training) -> PreparedTeacher:
  """A teacher of any make, by its logits."""
  asked, dataset = setup.run.teacher, setup.dataset
  assert asked.logits is not None
  classes = dataset.num_classes
  bank, accuracy = logit_bank.from_file(
      asked.logits, dataset.train.label,
      num_views=student.views.count, num_classes=classes)
  record: dict[str, Any] = {
      "logits": asked.logits, "train_accuracy": accuracy}
  identity = [hashlib.sha256(bank.tobytes()).hexdigest()]
  record |= {"fingerprint": identity[0], "seconds": 0.0}
  splits = dict(setup.splits)
  if "heldout" in splits:
    splits["heldout"] = splits["heldout"]._replace(
        teacher_logits=devices_lib.copies(
            setup.devices, bank[dataset.heldout_ids, 0, 0]))
  if asked.test_logits is not None:
    key = f"config.teacher.test_logits={asked.test_logits}"
    logits = logit_bank.read_logits(key, asked.test_logits)
    if logits.shape != (len(dataset.test.label), classes):
      raise UserError(
          f"{key}: has shape {list(logits.shape)}, must be "
          f"{[len(dataset.test.label), classes]}")
    identity.append(hashlib.sha256(logits.tobytes()).hexdigest())
    splits["test"] = splits["test"]._replace(
        teacher_logits=devices_lib.copies(setup.devices, logits.astype(np.float32)))
    wrong = np.flatnonzero(logits.argmax(-1) != dataset.test.label).tolist()
    record |= {
        "test_errors": len(wrong), "test_examples": len(logits),
        "test_accuracy": 1 - len(wrong) / len(logits), "test_wrong_ids": wrong}
  setup.screen.say(
      f"teacher: {asked.logits}, accuracy {accuracy:.2%} on the "
      "training set")
  bank = devices_lib.copies(setup.devices, bank)
  member_logits = {
      name: split.teacher_logits[None] for name, split in splits.items()
      if split.teacher_logits is not None}
  return PreparedTeacher(
      teachers.banked(bank), splits, record, identity, member_logits)


def _tick(setup: Setup, done: int, total: int) -> None:
  setup.screen.advance("bank", done, total, f"{done} of {total} views")
  if hosts.any_of(setup.stop()):
    raise train_loop.Interrupted()  # A bank that is not whole is gone on with.


def wants_bank(setup: Setup, student: Training) -> bool:
  """Whether storing the logits costs less than asking the teacher each time."""
  asked = setup.run.teacher
  if setup.run.method.pairs is not None:
    return False  # A bank has no taps.
  if asked.bank != "auto":
    return asked.bank == "always"
  views = student.views.count
  size = (4 * len(setup.train.label) * views * asked.members
          * setup.dataset.num_classes)
  epochs = student.total_steps / segment.steps_per_epoch(
      len(setup.train.ids), student.batch_size)
  return views < max(epochs, 1.5) and size <= _LARGEST_BANK
