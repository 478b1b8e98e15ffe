"""A net looked at beside its teacher: after each epoch, and in pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import types
from kd_jax.data import preprocess
from kd_jax.losses import alignment
from kd_jax.methods import pairs
from kd_jax.runs import kept_logits
from kd_jax.runs.jobs import Job, Wanted
from kd_jax.runs.nets import Kept
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, inspection, segment, step
from kd_jax.training.settings import Training
from kd_jax.training.state import TrainState

_EXAMPLES = 4


def after_epochs(
    job: Job, wanted: Wanted
) -> Callable[[TrainState], dict[str, float | None]]:
  """What is measured of a state after each epoch, if it is asked for.

  `share_TERM` is the norm of the gradient of a weighted term with respect to the
  student's parameters, on the first batch of the training, without mixup, as a part
  of the sum of these norms. `cka_STUDENT-TEACHER` is the CKA of two compared taps,
  of several teachers `NAME.tap`.
  """
  if not job.setup.run.values["inspect"] or wanted.teacher is None:
    return lambda state: {}
  gradients, nets = _gradients(job), _nets(job, wanted)
  cka = _cka(job, nets) if nets else None

  def measured(state: TrainState) -> dict[str, float | None]:
    norms = gradients(state)
    whole = sum(norms.values()) or 1.0
    found = {f"share_{name}": _plain(norm / whole)
             for name, norm in norms.items()}
    if cka:
      table = cka(step.deployed_variables(job.learner, state))
      for own, other in job.learner.pairs:
        found[f"cka_{own}-{other}"] = table[own][other]
    return found

  return measured


def pictures(
    job: Job, wanted: Wanted, variables: types.Variables
) -> dict[str, Any]:
  """What the report draws of a net beside its teacher, if it is asked for.

  `cka` has the CKA of all taps of both nets, before and after the training;
  `examples` a few test images, with where the stages of both nets are large.
  """
  if not (asked := _nets(job, wanted)):
    return {}
  start = fit.start(job.training, job.learner, job.setup.train, job.setup.devices,
                    wanted.start and wanted.start.variables)
  cka = _cka(job, asked)
  found: dict[str, Any] = {"cka": {
      "before": cka(step.deployed_variables(job.learner, start)),
      "after": cka(variables)}}
  data = job.setup.splits["test"].data
  nets = {"student": (job.training, variables), **{
      name: (net.training, net.variables) for name, net in zip(
          _titles(job.net.teachers), asked, strict=True)}}
  if preprocess.are_images(data.inputs) and all(
      _maps(training) for training, _ in nets.values()):
    found["examples"] = _examples(data, nets)
  return found


def _nets(job: Job, wanted: Wanted) -> Sequence[Kept]:
  """The nets that a net is looked at beside, if all of them have taps."""
  nets = wanted.teacher.nets if wanted.teacher else ()
  asked = min(job.setup.run.values["inspect"], len(job.setup.train.ids))
  if asked < alignment.LEAST or not job.training.taps:
    return ()
  return nets if all(net.training.taps for net in nets) else ()


def _titles(teachers: Sequence[str]) -> list[str]:
  """What the teachers are called beside the student."""
  several = len(teachers) > 1
  return [f"teacher {name}" if several else "teacher" for name in teachers]


def _gradients(job: Job) -> Callable[[TrainState], dict[str, float]]:
  """The norm of the gradient of every term of a job's loss."""
  training, learner, data = job.training, job.learner, job.setup.train
  terms = inspection.make_terms(learner)
  batch, labels = jax.jit(lambda data: (
      inspection.first_batch(training, data), segment.labels_in_use(data)))(data)
  teacher = learner.teacher
  arrays = () if teacher is None else (
      # Of a bank on the host, those of the views that the batch has.
      teacher.rows(np.asarray(segment.views_of_epoch(
          jax.random.key(training.seed), 0, len(data.label), training.views)))
      if teacher.rows else teacher.arrays)
  arrays, hparams = devices_lib.copies(
      job.setup.devices, (arrays, training.hparams))

  def gradients(state: TrainState) -> dict[str, float]:
    found = terms(state, batch, labels, arrays, hparams,
                  jax.random.key(training.seed))
    return {name: float(gradient) for name, (_, _, gradient) in found.items()}

  return gradients


def _cka(
    job: Job, teachers: Sequence[Kept]
) -> Callable[[types.Variables], dict[str, dict[str, float | None]]]:
  """CKA of a student with its teachers, by their taps, on training examples."""
  data = job.setup.train
  data = data._replace(ids=data.ids[:job.setup.run.values["inspect"]])
  others: list[str] = []
  relations = []
  for name, net in zip(job.net.teachers, teachers, strict=True):
    taps = _in_order(net.training.taps)
    others += [f"{name}.{tap}" if len(teachers) > 1 else tap for tap in taps]
    relations.append(inspection.make_relations(net.training.model, taps)(
        net.variables, data))
  right = np.concatenate(relations)
  own = _in_order(job.training.taps)
  left = inspection.make_relations(job.training.model, own)

  def cka(variables: types.Variables) -> dict[str, dict[str, float | None]]:
    table = np.asarray(left(variables, data)) @ right.T
    return {tap: {other: _plain(value) for other, value in zip(others, row)}
            for tap, row in zip(own, table)}

  return cka


def _examples(
    data: segment.DeviceData, nets: Mapping[str, tuple[Training, types.Variables]]
) -> list[dict[str, Any]]:
  """The first test image of a few classes, and both nets' attention to it."""
  label = np.asarray(data.label)
  _, first = np.unique(label, return_index=True)
  ids = np.sort(first[label[first] >= 0])[:_EXAMPLES].astype(np.int32)
  chosen = data._replace(ids=jnp.asarray(ids))
  maps = {name: inspection.make_attention(training.model, _maps(training))(
      variables, chosen) for name, (training, variables) in nets.items()}
  drawn = lambda a: np.round(255 * np.asarray(a)).astype(int).tolist()
  return [{
      "id": int(i), "label": int(label[i]),
      "image": kept_logits.image(data.inputs[i]),
      **{net: {tap: drawn(each[number]) for tap, each in of.items()}
         for net, of in maps.items()}} for number, i in enumerate(ids)]


def _maps(training: Training) -> tuple[str, ...]:
  """The stages of a net that are maps."""
  return tuple(tap for tap in pairs.stages(training.taps)
               if len(training.taps[tap]) == 3)


def _in_order(taps: Mapping[str, Any]) -> tuple[str, ...]:
  # What comes before a ReLU before what comes after it.
  return tuple(pairs.in_order(sorted(taps, reverse=True)))


def _plain(value: float) -> float | None:
  """A number as a record holds it; NaN is no JSON."""
  return round(float(value), 6) if np.isfinite(value) else None
