"""The main job, as a protocol: teacher, hard-label student, distilled student."""

from collections.abc import Callable
import functools
import hashlib
import pathlib
import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from kd_jax import banks
from kd_jax import build
from kd_jax import checkpoint
from kd_jax import config as config_lib
from kd_jax import data as data_lib
from kd_jax import distillers
from kd_jax import fit as fitting
from kd_jax import loop
from kd_jax import records
from kd_jax import steps
from kd_jax import teacher as teachers
from kd_jax import types
from kd_jax.augment import VIEWS
from kd_jax.errors import UserError
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


class Taught(NamedTuple):
  """A teacher ready for use.

  Attributes:
    teacher: What a student's step asks.
    splits: The evaluation splits with the teacher's logits.
    record: Its own numbers, for the summary.
    marks: What determines it.
  """

  teacher: teachers.Teacher
  splits: dict[str, fitting.Split]
  record: dict[str, Any]
  marks: list[str]


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    screen: Screen,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
  """Trains teacher, baseline and distilled student, and evaluates all three.

  Whatever is in `workdir` already and was made with the same settings is used
  again; an interrupted training is continued to the same bits.

  Args:
    config: Checked by `config.check`.
    workdir: Where results go and where a rerun finds them.
    screen: Tells the user.
    stop: Asked between segments; if true, the run saves and ends.

  Returns:
    The summary, as written to `workdir/summary.json`.

  Raises:
    UserError: If something asked for cannot be.
    fit.Interrupted: If `stop` said so.
  """
  began = time.perf_counter()
  bench = _prepare(config, workdir, screen, stop)
  # Everything that can be refused is built before anything is trained.
  student = build.student(config, bench.dataset)
  method = build.distiller(config)
  summary = {}
  if method.needs_teacher:
    taught = _teacher(config, bench, student)
    summary["teacher"] = taught.record
  summary["baseline"] = _student(
      bench, "baseline", student, distillers.DISTILLERS["hard"])
  if method.needs_teacher:
    summary["distilled"] = _student(
        bench, "distilled", student, method, taught)
  return _conclude(bench, summary, time.perf_counter() - began)


def _prepare(config, workdir, screen, stop) -> Bench:
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
  recorder.write("config.json", values)
  recorder.write("manifest.json", records.manifest(
      data={"name": dataset.name, "source": dataset.source,
            "notice": dataset.notice, "fingerprint": dataset.fingerprint}))
  return Bench(
      values, dataset, build.device_data(
          dataset.train, dataset.train_ids, scaling),
      splits, workdir, recorder, screen, stop)


def _student(
    bench: Bench,
    name: str,
    training: build.Training,
    method: distillers.Distiller,
    taught: Taught | None = None,
) -> dict[str, Any]:
  """Trains the student one way, or finds it trained; gives its record."""
  own = ("seed", "batch_size", "epochs", "steps", "label_smoothing")
  marks = _select(bench.values, own, ("optimizer.", "student."))
  if taught:
    marks |= _select(
        bench.values, ("method", "temperature"), ("teacher.mean",))
    marks |= {"weights": [float(training.hparams.hard_weight),
                          float(training.hparams.soft_weight)],
              "teachers": taught.marks,
              "member_weights": taught.teacher.weights.tolist()}
  mark = records.fingerprint(
      marks | _data_marks(bench) | records.runtime() | {"net": name})
  learner = steps.Learner(
      training.model, method, training.recipe, taught and taught.teacher)
  record = _net(
      bench, name, bench.workdir / "parameters" / name, mark, training, learner,
      taught.splits if taught else bench.splits)
  if taught:
    temperature = float(training.hparams.temperature)
    record |= {"method": bench.values["method"], "temperature": temperature,
               "alpha": bench.values["alpha"],
               "hard_weight": float(training.hparams.hard_weight),
               "soft_weight": float(training.hparams.soft_weight)}
  return record


def _net(bench, name, path, mark, training, learner, splits) -> dict[str, Any]:
  """The record of the net at `path`, trained first if it is not there."""
  record = checkpoint.load_record(path)
  if record is not None and record["fingerprint"] == mark:
    bench.screen.say(f"{name}: already trained, in {path}")
    return record
  began = time.perf_counter()

  def report(row):
    bench.recorder.row(name, row)
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


def _teacher(
    config: ml_collections.ConfigDict, bench: Bench, student: build.Training
) -> Taught:
  """The teacher of the run: a user's logits, or nets trained or found."""
  if config.teacher.logits is not None:
    return _teacher_from_file(config, bench, student)
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
  splits = {}
  for name, split in bench.splits.items():
    said = [_predict(model)(net.variables, split.data, jnp.int32(0))
            for model, net in zip(models, nets)]
    splits[name] = split._replace(taught=combine(jnp.stack(said)))
  variables = [net.variables for net in nets]
  views = student.views
  options = {"weights": weights, "mean": config.teacher.mean}
  if _banks(config, views.count, student, len(bench.train.ids)):
    file = bench.workdir / "banks" / f"{records.fingerprint({'m': marks})[:16]}"
    bank = banks.obtain(
        file.with_name(f"{file.name}-{config.student.views}.npy"),
        {"data": bench.dataset.fingerprint, "teachers": list(marks),
         "views": config.student.views},
        models, variables, bench.train, views,
        num_classes=bench.dataset.num_classes,
        tick=lambda done: bench.screen.advance(
            "bank", done, views.count, f"{done} of {views.count} views"))
    teacher = teachers.banked(jnp.asarray(bank), **options)
  else:
    teacher = teachers.live(models, variables, **options)
  record = nets[0].record if len(nets) == 1 else _ensemble_record(nets, splits)
  return Taught(teacher, splits, record, list(marks))


class _Member(NamedTuple):
  variables: types.Variables
  record: dict[str, Any]


def _member(config, bench, member, training) -> tuple[str, _Member]:
  """One net of the teacher, from where teachers are kept or trained anew."""
  own = ("name", "widths", "input_dropout", "hidden_dropout", "max_norm",
         "views", "batch_size", "epochs", "steps", "label_smoothing")
  marks = _select(
      bench.values, tuple(f"teacher.{name}" for name in own),
      ("teacher.optimizer.",))
  mark = records.fingerprint(
      marks | _data_marks(bench) | {"seed": training.seed, "net": "teacher"})
  shelf = pathlib.Path(config.teacher.dir or bench.workdir / "teachers")
  path = shelf / mark[:16]
  name = "teacher" if config.teacher.count == 1 else f"teacher_{member}"
  learner = steps.Learner(
      training.model, distillers.DISTILLERS["hard"], training.recipe)
  record = _net(bench, name, path, mark, training, learner, bench.splits)
  variables = checkpoint.load_parameters(path)
  _check_record(path, record, training.model, variables, bench)
  checkpoint.save_net(bench.workdir / "parameters" / name, variables, record)
  return mark, _Member(variables, record)


def _check_record(path, record, model, variables, bench) -> None:
  """A teacher must be as good as its record says, whoever put it there."""
  totals, _ = fitting.evaluate(
      _predict(model), variables, bench.splits["test"])
  errors, number = int(totals["errors"].total), record["test_examples"]
  # Another machine may round a tie the other way; 0.1 points is no rounding.
  if abs(errors - record["test_errors"]) > 0.001 * number:
    raise UserError(
        f"{path}: this teacher makes {errors} test errors of {number}, its "
        f"record says {record['test_errors']}; delete the folder")


def _ensemble_record(nets, splits) -> dict[str, Any]:
  """The ensemble's own test numbers, and its members'."""
  split = splits["test"]
  errors = np.asarray(jnp.argmax(split.taught, -1) != split.data.label)
  wrong = np.flatnonzero(errors).tolist()
  return {
      "test_errors": len(wrong), "test_examples": len(errors),
      "test_accuracy": 1 - len(wrong) / len(errors), "test_wrong_ids": wrong,
      "parameters": sum(net.record["parameters"] for net in nets),
      "members": [net.record for net in nets]}


def _teacher_from_file(config, bench, student) -> Taught:
  """A teacher of any make, by its logits."""
  dataset, classes = bench.dataset, bench.dataset.num_classes
  bank, accuracy = banks.from_file(
      config.teacher.logits, dataset.train.label,
      num_views=student.views.count, num_classes=classes)
  record: dict[str, Any] = {
      "logits": config.teacher.logits, "train_accuracy": accuracy}
  splits = dict(bench.splits)
  if "heldout" in splits:
    taught = jnp.asarray(bank[dataset.heldout_ids, 0, 0])
    splits["heldout"] = splits["heldout"]._replace(taught=taught)
  if config.teacher.test_logits is not None:
    key = f"config.teacher.test_logits={config.teacher.test_logits}"
    said = banks.read_logits(key, config.teacher.test_logits)
    if said.shape != (len(dataset.test.label), classes):
      raise UserError(
          f"{key}: has shape {list(said.shape)}, must be "
          f"{[len(dataset.test.label), classes]}")
    splits["test"] = splits["test"]._replace(
        taught=jnp.asarray(said, jnp.float32))
    wrong = np.flatnonzero(said.argmax(-1) != dataset.test.label).tolist()
    record |= {
        "test_errors": len(wrong), "test_examples": len(said),
        "test_accuracy": 1 - len(wrong) / len(said), "test_wrong_ids": wrong}
  bench.screen.say(
      f"teacher: {config.teacher.logits}, accuracy {accuracy:.2%} on the "
      "training set")
  mark = hashlib.sha256(np.ascontiguousarray(bank)).hexdigest()
  return Taught(teachers.banked(jnp.asarray(bank)), splits, record, [mark])


def _banks(config, num_views: int, student: build.Training, number: int) -> bool:
  """Whether storing the logits costs less than asking the teacher each time."""
  if config.teacher.bank != "auto":
    return config.teacher.bank == "always"
  epochs = student.total_steps / loop.steps_per_epoch(
      number, student.batch_size)
  return num_views < max(epochs, 1.5)


@functools.cache
def _predict(model: types.Model):
  return loop.make_predict(model, VIEWS["none"])


def _select(values, names, prefixes=()) -> dict[str, Any]:
  return {key: value for key, value in values.items()
          if key in names or key.startswith(prefixes)}


def _data_marks(bench: Bench) -> dict[str, Any]:
  return {"data": bench.dataset.fingerprint,
          **_select(bench.values, ("data.holdout", "data.scale"))}


def _conclude(bench: Bench, summary: dict, seconds: float) -> dict[str, Any]:
  """Writes the summary and shows the table."""
  dataset = bench.dataset
  summary = {
      "schema": records.SCHEMA,
      "dataset": {
          "name": dataset.name, "source": dataset.source,
          "train_examples": len(dataset.train_ids),
          "test_examples": len(dataset.test.label),
          **({"notice": dataset.notice} if dataset.notice else {})},
      **summary, "seconds": round(seconds, 2)}
  bench.recorder.write("summary.json", summary)
  bench.recorder.close()
  columns = ["net", "test errors", "accuracy", "NLL", "ECE", "agreement",
             "parameters"]
  rows = [[name, *_figures(summary[name])]
          for name in ("teacher", "baseline", "distilled") if name in summary]
  title = f"{dataset.name}: errors of {len(dataset.test.label)} test examples"
  if "distilled" in summary:
    final = summary["distilled"]
    title += (f"\nloss of distilled: {final['hard_weight']:.3g} * CE + "
              f"{final['soft_weight']:.3g} * T**2 * KL, "
              f"T = {final['temperature']:g}")
  if dataset.notice:
    title += f"\n{dataset.notice}"
  bench.screen.table(title, columns, rows)
  bench.screen.say(f"{seconds:.0f} s; everything is in {bench.workdir}")
  return summary


def _figures(record: dict[str, Any]) -> list[str]:
  shown = (("test_errors", "d"), ("test_accuracy", ".2%"), ("test_nll", ".4f"),
           ("test_ece", ".4f"), ("agreement", ".2%"), ("parameters", ",d"))
  return [format(record[key], form) if key in record else "-"
          for key, form in shown]
