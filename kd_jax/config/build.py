"""From a config to plain values: the only reader of ConfigDicts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kd_jax import data as data_lib
from kd_jax import losses, methods, models, teachers
from kd_jax.config import names
from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.data import views
from kd_jax.training import optimizers, schedules, segment, step
from kd_jax.training.settings import Training


def dataset(
    config: ml_collections.ConfigDict, say: Callable[[str], None] = print
) -> data_lib.Dataset:
  """The data set of a config."""
  resize = config.data.resize
  return data_lib.load(
      config.data.name, directory=config.data.dir, holdout=config.data.holdout,
      embedded=config.data.embedded, resize=resize and tuple(resize), say=say)


def transfer_set(
    config: ml_collections.ConfigDict, found: data_lib.Dataset
) -> data_lib.Dataset:
  """The data set as students see it; teachers see all of it.

  Raises:
    UserError: If nothing is left, or a class does not exist.
  """
  wanted = config.transfer
  if not wanted.classes and wanted.part == 1:
    return found
  if max(wanted.classes, default=0) >= found.num_classes:
    raise UserError(
        f"config.transfer.classes={tuple(wanted.classes)}: {found.name} has "
        f"classes 0 to {found.num_classes - 1}")
  ids = data_lib.transfer_ids(
      found.train_ids, found.train.label, classes=tuple(wanted.classes),
      part=wanted.part, seed=wanted.seed)
  if not len(ids):
    raise UserError(
        f"config.transfer: leaves none of {len(found.train_ids)} examples")
  return found._replace(train_ids=ids)


def device_data(
    examples: data_lib.Examples, ids: np.ndarray, scaling: segment.Scaling
) -> segment.DeviceData:
  """Puts examples on the device, those of `ids` in use."""
  put = jax.device_put
  return segment.DeviceData(
      put(examples.image), put(examples.label), put(ids.astype(np.int32)),
      put(scaling.scale), put(scaling.offset))


def scaling(kind: str, train: data_lib.Examples) -> segment.Scaling:
  """How pixels enter a model: a scale and an offset a channel, float32 `[C]`."""
  channels = train.image.shape[-1]
  if kind == "unit":
    return segment.Scaling(
        np.full((channels,), 1 / 255, np.float32),
        np.zeros((channels,), np.float32))
  # Over the whole training set, held-out part included: one scaling for both
  # stages of a study, and the test set has no say in it.
  pixels = train.image.reshape(-1, channels)
  mean = pixels.mean(axis=0, dtype=np.float64)
  deviation = np.maximum(pixels.std(axis=0, dtype=np.float64), 1e-3)
  return segment.Scaling(
      (1 / deviation).astype(np.float32), (-mean / deviation).astype(np.float32))


def student(
    config: ml_collections.ConfigDict, found: data_lib.Dataset
) -> Training:
  """The training of the student."""
  training = _training(config.student, config, found, prefix="student",
                       hparams=student_hparams(config), dtype=config.dtype)
  return training._replace(schedules=_schedules(config, training.total_steps))


def student_hparams(config: ml_collections.ConfigDict) -> types.Hparams:
  """The traced numbers of the student's training, float32 scalars."""
  hard, soft = losses.distillation_weights(
      config.alpha, config.hard_weight, config.soft_weight)
  own = {name: config[config.method][name]
         for name in method(config).numbers}
  ends = {what: config.schedules[f"{what}_end"] for what in ("temperature", "alpha")
          if config.schedules[what] != "constant"}
  return _hparams(config.student, config, temperature=config.temperature,
                  hard_weight=hard, soft_weight=soft, numbers=own or None,
                  ends=ends or None)


def teacher(
    config: ml_collections.ConfigDict, found: data_lib.Dataset, member: int
) -> Training:
  """The training of one member of the teacher; members differ in seed."""
  training = _training(
      config.teacher, config.teacher, found, prefix="teacher",
      hparams=_hparams(config.teacher, config.teacher), dtype=config.dtype)
  return training._replace(seed=training.seed + member)


def learner(
    config: ml_collections.ConfigDict, training: Training,
    method: methods.Method, teacher: teachers.Teacher | None = None,
) -> step.Learner:
  """The step of a training."""
  return step.Learner(
      training.model, method, training.optimizer_spec, teacher,
      skip_nonfinite=config.nonfinite == "skip", schedules=training.schedules)


def method(config: ml_collections.ConfigDict) -> methods.Method:
  """The method of a config."""
  return names.known("method", config.method, methods.METHODS)


def check_names(config: ml_collections.ConfigDict) -> None:
  """Refuses names that stand for nothing, before anything is loaded.

  Raises:
    UserError: Naming the key, and the nearest names that there are.
  """
  chosen = method(config)
  member_weights(config)
  if (config.teacher.count > 1 and config.teacher.mean != "logits"
      and chosen.needs_teacher and chosen.any_temperature):
    raise UserError(
        f"config.teacher.mean={config.teacher.mean}: its mixture belongs to one "
        f"temperature, and {config.method} asks at others; use teacher.mean=logits")
  for prefix in ("student", "teacher"):
    net = config[prefix]
    names.known(f"{prefix}.views", net.views, views.VIEWS)
    if ":" not in net.name:
      names.known(f"{prefix}.name", net.name, models.MODELS)


def member_weights(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """Weight of each member of the teacher, summing to 1."""
  count = config.teacher.count
  weights = tuple(config.teacher.weights) or (1.0,) * count
  if len(weights) != count or sum(weights) <= 0:
    raise UserError(
        f"config.teacher.weights={config.teacher.weights}: must be {count} "
        "numbers >= 0, not all 0, one for each of teacher.count members")
  if config.teacher.weights and config.teacher.mean == "confidence":
    raise UserError(
        "config.teacher.weights: teacher.mean=confidence has weights of its own; "
        "give one of them")
  return tuple(weight / sum(weights) for weight in weights)


def _training(
    net, run, found, *, prefix: str, hparams, dtype: str
) -> Training:
  """Reads the keys that `student` and `teacher` have in common."""
  num_train = len(found.train_ids)
  per_epoch = segment.steps_per_epoch(num_train, run.batch_size)
  total = run.steps or max(run.epochs * per_epoch, run.min_steps)
  built = names.model(
      net.name, net.widths, found, prefix=prefix, dtype=dtype)
  if hparams.rates is not None and "rates" not in built.understands:
    raise UserError(
        f"config.{prefix}.input_dropout, hidden_dropout: {net.name} has no "
        "dropout; set both to 0")
  return Training(
      model=built,
      views=names.known(f"{prefix}.views", net.views, views.VIEWS),
      optimizer_spec=_recipe(run.optimizer, per_epoch, total),
      hparams=hparams,
      batch_size=run.batch_size, total_steps=total, seed=run.seed)


def _schedules(config, total_steps: int) -> schedules.Schedules:
  own = config.schedules
  part = lambda percent: percent / 100 * total_steps
  return schedules.Schedules(
      total_steps,
      schedules.Course(own.temperature, part(own.temperature_percent)),
      schedules.Course(own.alpha, part(own.alpha_percent)),
      part(own.warmup_percent))


def _hparams(net, run, **objective: Any) -> types.Hparams:
  """Reads the traced keys that `student` and `teacher` have in common."""
  rates = None
  if net.input_dropout or net.hidden_dropout:
    rates = {"input": net.input_dropout, "hidden": net.hidden_dropout}
  numbers = types.Hparams(
      label_smoothing=run.label_smoothing, rates=rates, max_norm=net.max_norm,
      init_scale=None if net.init_scale == 1 else net.init_scale,
      learning_rate=run.optimizer.learning_rate,
      momentum=run.optimizer.momentum,
      weight_decay=run.optimizer.weight_decay, **objective)
  return jax.tree.map(jnp.float32, numbers)


def _recipe(optimizer, per_epoch: int, total: int) -> optimizers.OptimizerSpec:
  warmup = round(
      optimizer.warmup_steps
      or (optimizer.warmup_epochs or 0) * per_epoch
      or (optimizer.warmup_percent or 0) / 100 * total)
  boundaries = [
      round(total * percent / 100) for percent in optimizer.boundaries_percent]
  if optimizer.nesterov and optimizer.name != "sgd":
    raise UserError(
        f"config.optimizer.nesterov=True: needs name=sgd, not {optimizer.name}")
  if warmup >= total:
    raise UserError(
        f"config.optimizer.warmup: {warmup} steps, but the run has {total}")
  shape = optimizers.schedule(
      optimizer.schedule, total_steps=total, warmup_steps=warmup,
      boundaries=boundaries, factor=optimizer.factor)
  return optimizers.OptimizerSpec(
      optimizer.name, shape, optimizer.nesterov, optimizer.b2,
      optimizer.epsilon)
