"""What two published versions of the example compute, which is something else.

"roles swapped", the first version (2020): `Distiller.__init__` calls its student
the teacher and its teacher the student (keras-io issue 257). What is trained is the
large net, from where the teacher's training ended, with the small one, untrained,
as its teacher; without T**2. The prose with its 98.1% came with this version.

"teacher not frozen", the version for Keras 3: `Model.fit` trains all that
`trainable_variables` holds, and the teacher is a layer of the distiller. So both
nets follow the gradient of alpha * CE + (1 - alpha) * T**2 * KL, which has its
minimum where the teacher says what the student says.

Both start from the trained teacher of the stage `table`.
"""

from collections.abc import Iterable
import contextlib
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments.protocol import Place, Rows
from kd_jax import losses, methods, report, teachers
from kd_jax.config import build, flatten, identity, names, recipe, sweep
from kd_jax.config import run as run_lib
from kd_jax.core import compilation, randomness, types
from kd_jax.core.screen import Screen
from kd_jax.methods import terms as terms_lib
from kd_jax.report import Row
from kd_jax.runs import alone, jobs, records, results, teacher_store
from kd_jax.runs import rows as rows_lib
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.setup import Setup
from kd_jax.training import parameters, step, train_loop
from kd_jax.training.settings import Training

_SWAPPED, _MOVING = "roles swapped", "teacher not frozen"
_POINTS: dict[str, sweep.Point] = {
    _MOVING: {"alpha": 0.9, "temperature": 10.0},
    _SWAPPED: {"hard_weight": 0.1, "soft_weight": 0.009, "temperature": 10.0}}


def run(
    config: ml_collections.ConfigDict, epochs: int, seeds: Iterable[int],
    rows: Rows, place: Place,
) -> None:
  """Trains both versions for every seed, and leaves a row of each."""
  compilation.use_cache()
  parameters.quiet()
  config.epochs, config.parallel, config.tensorboard = epochs, "single", False
  with contextlib.ExitStack() as stack:
    stack.enter_context(records.locked(place.folder))
    screen = stack.enter_context(Screen())
    setup = setup_lib.prepare(
        run_lib.read(config), place.folder, screen, place.stop)
    stack.callback(setup.recorder.close)
    try:
      net = _trained_teacher(config, setup, rows)
    except train_loop.Interrupted:
      return
    file = place.folder / "results.jsonl"
    known = {row["fingerprint"]: row for row in report.read(place.folder)} if (
        file.is_file()) else {}
    found: list[Row] = []
    for seed, name in itertools.product(seeds, _POINTS):
      if place.stop():
        return
      try:
        row = _row(config, setup, name, seed, net)
      except train_loop.Interrupted:
        return
      # Of another teacher or program no row stays, to be counted as a seed.
      found.append(known.get(row["fingerprint"], row))
      results.write(file, found)


def swapped(
    config: ml_collections.ConfigDict, setup: Setup, seed: int,
    trained: types.Variables,
) -> tuple[Training, step.Learner]:
  """The trained teacher learns on, from a small net that nobody trained."""
  small = build.student(config, setup.dataset)
  config = sweep.applied(config, {"student.widths": config.teacher.widths})
  training = build.student(config, setup.dataset)
  model = training.model._replace(init=lambda key, image: trained)
  key = randomness.stream(jax.random.key(seed), "untrained")
  image = jnp.zeros((1,) + setup.train.inputs.shape[1:], jnp.float32)
  untrained = teachers.live(
      [small.model], [jax.jit(small.model.init)(key, image)])
  training = training._replace(model=model, seed=seed)
  return training, build.learner(
      setup.run, training, setup.run.method, untrained)


def moving(
    config: ml_collections.ConfigDict, setup: Setup, seed: int,
    trained: types.Variables,
) -> tuple[Training, step.Learner]:
  """The student learns, and its teacher, which starts trained, with it."""
  teacher = build.teacher(config, setup.dataset, 0).model
  method = methods.Method(
      methods.METHODS["kd"].formula + ", teacher trained too",
      lambda key, student, teacher: (trained.params, {}),
      _moving_terms(teacher), needs_teacher=False)
  training = build.student(config, setup.dataset)._replace(seed=seed)
  return training, build.learner(setup.run, training, method)


def _moving_terms(teacher: types.Model):
  def terms(own, student, taught, batch, hparams):
    del taught
    said, _ = teacher.apply(
        types.Variables(own.params, {}), batch.inputs, train=False)
    # Not losses.distillation_kl, which lets no gradient through to the teacher.
    log_q, log_p = (
        losses.tempered_log_softmax(logits, hparams.temperature)
        for logits in (student.logits, said.logits))
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    hard = losses.hard_cross_entropy(student.logits, batch.label)
    return {"hard": terms_lib.Term(hparams.hard_weight, hard),
            "soft": terms_lib.Term(
                hparams.soft_weight, hparams.temperature**2 * kl)}
  return terms


_MADE = {_SWAPPED: swapped, _MOVING: moving}


def _trained_teacher(
    config: ml_collections.ConfigDict, setup: Setup, rows: Rows
) -> types.Variables:
  """The teacher as the table left it; of a table from elsewhere, trained anew."""
  own = pathlib.Path("parameters") / "teacher"
  path = setup.workdir.parent / "table" / own
  record = parameters.load_record(path)
  fingerprints = {row["fingerprint"] for row in rows.get("teachers", ())}
  if record is None or record["fingerprint"] not in fingerprints:
    member, *_ = recipe.nets(flatten(config), swept=True)
    asked = jobs.Wanted(
        sweep.Lane({}, member.values), jobs.identity(member, setup))
    fingerprint = identity.fingerprint(asked.identity)
    alone.train(jobs.make(
        member, setup, build.training(member, setup.dataset),
        {fingerprint: asked}, {}), fingerprint)
    path = setup.workdir / own
  return parameters.load_parameters(path)


def _row(
    config: ml_collections.ConfigDict, setup: Setup, name: str, seed: int,
    trained: types.Variables,
) -> dict[str, Any]:
  """One run, trained or found, as a row."""
  own = sweep.applied(config, _POINTS[name] | {"seed": seed})
  training, learner = _MADE[name](own, setup, seed, trained)
  hard = recipe.Net("baseline", setup.run.values | {"method": "hard"})
  asked = jobs.identity(
      hard, setup._replace(run=run_lib.read(hard.values))) | {
          "version": name, "seed": seed, "overrides": _POINTS[name],
          "program": names.source_identity(f"{__name__}:run"),
          "teacher": parameters.parameters_sha256(trained.params)}
  net = recipe.Net(f"{name.replace(' ', '_')}_{seed}", flatten(own))
  wanted = jobs.Wanted(sweep.Lane(_POINTS[name], net.values), asked)
  record = alone.obtain(
      jobs.Job(net, setup, training, learner, {}, ""), wanted,
      setup.workdir / "parameters" / net.name, asked | records.runtime())
  loss = teacher_store.loss_record(learner.method, training.hparams)
  return rows_lib.stamp([{
      **record, "study": "keras_example", "row": name, "seed": seed,
      "loss": loss["loss"], "overrides": _POINTS[name] | {"seed": seed},
      "data": setup.dataset.source, "failed": None}])[0]
