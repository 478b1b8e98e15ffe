"""Teachers of students: nets that were trained before, or logits from elsewhere."""

from collections.abc import Sequence
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
from kd_jax.data.views import VIEWS
from kd_jax.runs import logit_bank, nets
from kd_jax.runs.nets import Kept
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, segment, train_loop
from kd_jax.training import schedules as schedules_lib
from kd_jax.training.schedules import STILL, Schedules
from kd_jax.training.settings import Training

# Bytes up to which a bank is on the device, if a part of it would do, and up to
# which teacher.bank=auto stores logits on disk.
_LARGEST_BANK, _LARGEST_FILE = 2 * 1024**3, 16 * 1024**3
# Examples whose range of numbers is told.
_FEW = 100


class PreparedTeacher(NamedTuple):
  """A teacher ready for use.

  Attributes:
    teacher: What a student's step asks.
    splits: The evaluation splits with the teacher's logits.
    record: Its own numbers, for the summary.
    identity: What determines it.
    member_logits: Logits of its members on those splits, `[members, N, classes]`.
    nets: Its members; none of a file of logits.
  """

  teacher: teachers.Teacher
  splits: dict[str, fit.Split]
  record: dict[str, Any]
  identity: list[str]
  member_logits: dict[str, jax.Array]
  nets: Sequence[Kept] = ()


class Teachers:
  """Teachers made ready, each once: its bank is shared by who learns from it."""

  def __init__(self) -> None:
    self._made: dict[str, PreparedTeacher] = {}

  def of(
      self, setup: Setup, student: Training, members: Sequence[Kept],
      names: Sequence[str] = (),
  ) -> PreparedTeacher | None:
    """Whom a student asks; None where its method asks nobody.

    Args:
      setup: The student's.
      student: Its training.
      members: Whom it asks; none where it asks a file.
      names: What the recipe calls them.
    """
    run = setup.run
    if not run.method.needs_teacher:
      return None
    file = run.values["teacher.logits"]
    taps = {} if file is not None else methods.joined(
        names, [net.training.taps for net in members])
    banked = file is not None or wants_bank(run, setup.dataset, student, taps)
    # Which taps are stored is a matter of the method.
    own = () if run.method.pairs is None else ("method", "features.", "student.")
    key = run.part("student.views", "teacher.", "data.", *own) + str(
        [banked, *(net.sha256 for net in members), *(own and names)])
    if key not in self._made:
      self._made[key] = (
          from_file(setup, student) if file is not None
          else _of_nets(setup, student, members, taps, banked))
    return self._made[key]


def _of_nets(
    setup: Setup, student: Training, members: Sequence[Kept], taps: methods.Shapes,
    banked: bool,
) -> PreparedTeacher:
  """The teacher that trained nets are together, for a student's training."""
  run, mean = setup.run, setup.run.values["teacher.mean"]
  classes = run.values["teacher.classes"]
  stored: dict[str, Any] = {}
  each = [net.logits or nets.logits(setup, net.training.model, net.variables)
          for net in members]
  member_logits = {
      name: jnp.stack([logits[name] for logits in each]) for name in setup.splits}
  for net, logits in zip(members, member_logits["test"], strict=True):
    if net.training.model.on_host is None:  # Which was looked at when it was asked.
      look(setup, net.training.model, np.asarray(logits))
  splits = {name: split._replace(teacher_logits=teachers.combine(
      member_logits[name], jnp.float32(run.weights), 1.0, mean=mean,
      classes=classes))
            for name, split in setup.splits.items()}
  weights: Sequence[float] | None = run.weights
  if banked:
    bank, stored = _bank(setup, student, members)
    if student.views.averaged:
      bank, weights, classes = teachers.averaged(bank, weights, classes)
    if streams(run, setup.dataset, student, taps):
      setup.screen.say(f"bank: of {bank.nbytes / 2**30:.1f} GiB, of which the "
                       "device has the rows of an epoch at a time")
      teacher = teachers.streamed(bank, weights=weights, mean=mean)
    else:
      teacher = teachers.banked(
          devices_lib.copies(setup.devices, bank), weights=weights, mean=mean,
          **_tap_bank(setup, student, members, taps))
  else:
    method = f"method {run.values['method']}"
    why = ("mixup mixes what it sees" if student.mixup else
           f"{method} looks at its weights" if run.method.heads else
           f"{method} compares features that are too large to store, or not stored "
           "by teacher.bank" if run.method.pairs is not None else "")
    if why:
      setup.screen.say(f"teacher: live, as {why}")
    teacher = teachers.live(
        [net.training.model for net in members],
        [net.variables for net in members], weights=weights,
        mean=mean, taps=taps)
  record = members[0].record if len(members) == 1 else _ensemble_record(
      members, splits)
  return PreparedTeacher(
      teacher._replace(classes=classes), splits, record | stored,
      [net.sha256 for net in members], member_logits, members)


def live(
    run: Run, names: Sequence[str], of: Sequence[Training],
    variables: Sequence[types.Variables],
) -> teachers.Teacher:
  """The teacher that nets are, asked in every step.

  Args:
    run: Of the student.
    names: Those of the nets.
    of: Their trainings.
    variables: Theirs, or mere shapes.
  """
  return teachers.live(
      [each.model for each in of], variables, weights=run.weights,
      mean=run.values["teacher.mean"],
      taps=methods.joined(names, [each.taps for each in of]))._replace(
          classes=run.values["teacher.classes"])


def look(
    setup: Setup, model: types.Model, logits: np.ndarray,
    labels: np.ndarray | None = None,
) -> list[str]:
  """Refuses a net whose logits of the test set cannot be meant so.

  Args:
    setup: Of the run.
    model: The net.
    logits: `[N, classes]`.
    labels: Of them; default those of the test set.

  Returns:
    What is unusual about them otherwise, which is said too.
  """
  run, labels = setup.run, setup.dataset.test.label if labels is None else labels
  key = f"config.teacher.name={run.values['teacher.name']}"
  if bad := np.count_nonzero(~np.isfinite(logits.max(-1))):
    raise UserError(f"{key}: gives NaN or infinite logits of {bad} test examples")
  # Of a net of ours, rows and columns are those that it was trained on.
  if run.sources["teacher"] and run.values["teacher.check"] == "on":
    if problem := teachers.problem(logits, labels, asked=True):
      given = "" if model.on_host is None else f" (it is given {_given(setup)})"
      raise UserError(f"{key}: {problem}{given}, or --config.teacher.check=off")
    notes = teachers.account(logits, labels, "test", asked=True)
    if len(notes) > 1:
      setup.screen.say(f"teacher: {run.values['teacher.name']}, {'; '.join(notes)}")
    return notes[1:]
  return []


def _given(setup: Setup) -> str:
  """What nets see of the test set, such as `float32 [B, 28, 28, 1], 0 to 1`."""
  data = setup.splits["test"].data
  first = segment.take(
      data, VIEWS["none"], data.ids[:_FEW], jnp.zeros_like(data.ids[:_FEW]),
      data.ids[:_FEW] >= 0).inputs
  return " and ".join(
      f"{leaf.dtype} [{', '.join(map(str, ['B', *leaf.shape[1:]]))}], "
      f"{leaf.min():g} to {leaf.max():g}" for leaf in jax.tree.leaves(first))


def _say(setup: Setup, file: str, notes: Sequence[str]) -> None:
  """Says what is known of the logits of a file."""
  if setup.run.values["teacher.check"] == "off":
    notes = [notes[0], "not checked, as teacher.check=off"]
  setup.screen.say(f"teacher: {file}, {'; '.join(notes)}")


def _bank(
    setup: Setup, student: Training, members: Sequence[Kept]
) -> tuple[np.ndarray, dict[str, Any]]:
  """The logits of every view of every image, from disk or made; a record."""
  views = student.views.of_teacher
  sees = setup.run.values["teacher.sees"]
  name = sees if student.views.averaged else (
      "none" if student.views.clean else setup.run.values["student.views"])
  identity = [net.sha256 for net in members]
  file = identity_lib.fingerprint({"m": identity})[:16]
  # Trainings of a sweep have a device each; a bank is of them all.
  everywhere = setup.devices if not setup.run.sweep.points else (
      devices_lib.choose(most=jax.local_device_count()))
  copies = lambda tree: devices_lib.copies(everywhere, tree)
  examples, whole = len(setup.dataset.train.label), 0
  # Of a bank that is gone on with the first views were asked by another process.
  asked = lambda inputs: show(whole + (inputs - 1) % examples / examples)
  source = logit_bank.Source(
      [nets.counting(net.training.model, asked) for net in members],
      copies([net.variables for net in members]), copies(setup.train), views,
      everywhere)

  def tick(done):
    nonlocal whole
    whole = done
    show(done)

  def show(done):
    setup.screen.advance(
        "bank", done, views.count, f"{int(done)} of {views.count} views")
    if hosts.any_of(setup.stop()):
      raise train_loop.Interrupted()  # A bank that is not whole is gone on with.

  rounding = _rounding(setup.run)
  ending = "" if rounding is None else "-float16"
  bank = logit_bank.obtain(
      setup.workdir / "banks" / f"{file}-{name}{ending}.npy",
      {"data": setup.dataset.fingerprint, "teachers": identity, "views": name},
      source, num_classes=setup.dataset.num_classes, tick=tick,
      say=setup.screen.say, rounding=rounding)
  return bank, _told(setup, rounding)


def _rounding(run: Run) -> logit_bank.Rounding | None:
  """What is to be known of a bank of float16; None of one of float32."""
  if run.values["teacher.bank_dtype"] == "float32":
    return None
  return logit_bank.Rounding(run.values["temperature"])


def _told(setup: Setup, rounding: logit_bank.Rounding | None) -> dict[str, Any]:
  """Says what float16 costs; the part of the teacher's record that says so too."""
  if rounding is None:
    return {}
  record = rounding.record()
  setup.screen.say(
      "bank: float16, KL(teacher || bank) at T = {temperature:g}: mean "
      "{mean_kl:.1e}, at most {max_kl:.1e} nats".format(**record))
  return {"bank": record}


def _tap_bank(
    setup: Setup, student: Training, members: Sequence[Kept], taps: methods.Shapes
) -> dict[str, Any]:
  """The compared taps of every view of every input, `[N, V, ...]`, for a teacher of
  a bank; not on disk."""
  wanted = compared(setup.run, student, taps)
  names = taps.names if isinstance(taps, methods.OfSeveral) else ("",)
  found: dict[str, Any] = {}
  for name, net in zip(names, members, strict=True) if wanted else ():
    before = name and f"{name}."
    own = [tap for tap in net.training.taps if before + tap in wanted]
    if not own:
      continue
    predict = devices_lib.make_predict(
        setup.devices, net.training.model, student.views.of_teacher,
        lambda outputs, own=own: {tap: outputs.features[tap] for tap in own})
    views = [predict(net.variables, setup.train, jnp.int32(view))
             for view in range(student.views.of_teacher.count)]
    found |= {before + tap: np.stack([view[tap] for view in views], axis=1)
              for tap in own}
  return {"features": devices_lib.copies(setup.devices, found), "names": names}


def compared(
    run: Run, student: Training, taps: methods.Shapes
) -> dict[str, tuple[int, ...]]:
  """The taps, of those that a teacher has, that a student is compared with."""
  if run.method.pairs is None:
    return {}
  _, pairs = build.bound(run, student, run.method, taps)
  return {other: taps[other] for _, other in pairs}


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


def judged(
    splits: dict[str, fit.Split], logits: dict[str, jax.Array]
) -> dict[str, Any]:
  """The numbers of logits on every split, as a record has them."""
  record: dict[str, Any] = {}
  for name, split in splits.items():
    totals, wrong = fit.judge(logits[name], split.data.label)
    record |= fit.computed(name, totals)
    if name == "test":
      record["test_wrong_ids"] = np.flatnonzero(wrong).tolist()
  return record


def together(members: Sequence[str]) -> str:
  """The fingerprint of the teacher that some nets are, by theirs."""
  return members[0] if len(members) == 1 else identity_lib.fingerprint(
      {"members": [*members]})


def _ensemble_record(members: Sequence[Kept], splits) -> dict[str, Any]:
  """The ensemble's own numbers, and its members'."""
  records = [net.record for net in members]
  return judged(splits, {
      name: split.teacher_logits for name, split in splits.items()}) | {
      "fingerprint": together([each["fingerprint"] for each in records]),
      "seconds": sum(each["seconds"] for each in records),
      "parameters": sum(each["parameters"] for each in records),
      "members": records}


def from_file(setup: Setup, student: Training) -> PreparedTeacher:
  """A teacher of any make, by its logits."""
  values, dataset = setup.run.values, setup.dataset
  file, of_test = values["teacher.logits"], values["teacher.test_logits"]
  put = lambda logits: devices_lib.copies(setup.devices, logits)
  bank, accuracy = logit_bank.from_file(
      file, dataset.train.label,
      num_views=student.views.of_teacher.count, num_classes=dataset.num_classes,
      check=values["teacher.check"])
  _say(setup, file, teachers.account(
      bank[:, 0, 0], dataset.train.label, "training"))
  if (rounding := _rounding(setup.run)) is not None:
    with np.errstate(over="ignore"):  # It is told of.
      exact, bank = bank, bank.astype(np.float16)
    classes = bank.shape[-1]
    rounding.add(exact.reshape(-1, classes), bank.reshape(-1, classes))
  identity = [hashlib.sha256(bank.data).hexdigest()]
  record: dict[str, Any] = {
      "logits": file, "train_accuracy": accuracy,
      "fingerprint": identity[0], "seconds": 0.0, **_told(setup, rounding)}
  known: dict[str, jax.Array] = {}
  if "heldout" in setup.splits:
    known["heldout"] = put(bank[dataset.heldout_ids, 0, 0])
  if of_test is not None:
    labels, asked = dataset.test.label, dataset.test_labels
    logits = logit_bank.read_logits(
        f"config.teacher.test_logits={of_test}", of_test,
        (len(labels if asked is None else asked), dataset.num_classes),
        labels if asked is None else asked, values["teacher.check"])
    _say(setup, of_test, teachers.account(
        logits, labels if asked is None else asked, "test"))
    if asked is not None:
      logits = logits[asked >= 0]
    identity.append(logit_bank.digest(of_test))
    known["test"] = put(logits)
    wrong = np.flatnonzero(logits.argmax(-1) != labels).tolist()
    record |= {
        "test_errors": len(wrong), "test_examples": len(logits),
        "test_accuracy": 1 - len(wrong) / len(logits), "test_wrong_ids": wrong}
  weights = None
  if student.views.averaged:
    bank, weights, _ = teachers.averaged(bank, None, ())
  return PreparedTeacher(
      teachers.banked(put(bank), weights=weights, mean=values["teacher.mean"]),
      {name: split._replace(teacher_logits=known.get(name))
       for name, split in setup.splits.items()},
      record, identity, {name: logits[None] for name, logits in known.items()})


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
  if run.values["teacher.bank"] == "never" or run.method.heads or (
      student.mixup) or any(
      len(shape) > 1 for shape in compared(run, student, taps).values()):
    return False
  if run.values["teacher.bank"] == "always" or student.views.averaged:
    return True
  epochs = student.total_steps / segment.steps_per_epoch(
      len(dataset.train_ids), student.batch_size)
  return student.views.of_teacher.count < max(epochs, 1.5) and (
      bank_bytes(run, dataset, student, taps) <= (
          _LARGEST_FILE if _may_stream(run, student, taps) else _LARGEST_BANK))


def streams(
    run: Run, dataset: data_lib.Dataset, student: Training, taps: methods.Shapes
) -> bool:
  """Whether a bank stays on the host; arguments as of `wants_bank`."""
  return _may_stream(run, student, taps) and (
      bank_bytes(run, dataset, student, taps) > _LARGEST_BANK)


def _may_stream(run: Run, student: Training, taps: methods.Shapes) -> bool:
  """One training at a time, of one draw of views; of logits alone, on a disk."""
  return (not run.sweep.points and student.views.of_teacher.count > 1
          and not student.views.averaged and not student.views.twice
          and jax.process_count() == 1 and not compared(run, student, taps))


def bank_bytes(
    run: Run, dataset: data_lib.Dataset, student: Training, taps: methods.Shapes
) -> int:
  """Bytes of a bank; `run`, `dataset`, `student` and `taps` as of `wants_bank`."""
  each = np.dtype(run.values["teacher.bank_dtype"]).itemsize
  row = each * run.values["teacher.count"] * dataset.num_classes + 4 * sum(
      math.prod(shape) for shape in compared(run, student, taps).values())
  return len(dataset.train.label) * student.views.of_teacher.count * row
