"""A net before its training: its first batch, and every term of the loss on it."""

import math
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from kd_jax import methods, teachers
from kd_jax.config import build
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.run import Run
from kd_jax.core import randomness, types
from kd_jax.data import preprocess
from kd_jax.methods import terms as terms_lib
from kd_jax.runs import setup as setup_lib
from kd_jax.runs import teacher_store
from kd_jax.runs.doctor import Visit
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import parameters, schedules, segment, step
from kd_jax.training.settings import Training
from kd_jax.training.state import TrainState
from kd_jax.training.step import Learner

# Of a larger batch, the first so many: they show what all of it would.
_MOST_EXAMPLES = 2048


class Term(NamedTuple):
  """A term of the loss on the first batch.

  Attributes:
    name: As the method calls it.
    weight: Its weight in the loss.
    value: Its mean over the batch, without the weight.
    gradient: Norm of the gradient of weight times value with respect to the
      student's parameters.
  """

  name: str
  weight: float
  value: float
  gradient: float

  @property
  def finite(self) -> bool:
    """Whether it can be learnt from."""
    return math.isfinite(self.value) and math.isfinite(self.gradient)


class Begun(NamedTuple):
  """A net of a recipe, its step, and its state before the first step."""

  net: Net
  setup: Setup
  training: Training
  learner: Learner
  state: TrainState


def begin(
    visit: Visit, setup: Setup, net: Net, before: dict[str, Begun]
) -> Begun:
  """A net that is about to be trained; of features nothing is without a teacher."""
  run = run_lib.read(net.values)
  own, method = setup._replace(run=run), run.method
  if net.member is None:
    own = setup_lib.transfer(own, run)
  else:
    method = methods.METHODS["hard"]
  training = build.training(net, own.dataset)
  teacher = None
  if method.needs_teacher:
    teacher = visit.attempt("teacher", _teacher, setup, run, training, [
        before.get(name) for name in net.teachers])
  if teacher is None and not method.on_logits:
    method = methods.METHODS["hard"]
  learner = build.learner(run, training, method, teacher)
  start = devices_lib.make(own.devices, segment.make_init(learner, own.train))
  return Begun(net, own, training, learner, start(
      jax.random.key(training.seed), training.hparams))


def _teacher(
    setup: Setup, run: Run, training: Training, members: list[Begun | None]
) -> teachers.Teacher | None:
  """Who is asked: the members before any training, or a user's file of logits."""
  asked = run.teacher
  if asked.logits is not None:
    return teacher_store.from_file(setup._replace(run=run), training).teacher
  made = [each for each in members if each is not None]
  if len(made) < len(members):
    return None  # What is wrong with it has been told.
  return teachers.live(
      [each.training.model for each in made],
      [each.state.student for each in made],
      weights=asked.weights, mean=asked.mean, taps=made[0].training.taps)


def first_batch(training: Training, data: segment.DeviceData) -> types.Batch:
  """The examples of the first step in their views, without any padding."""
  data = _on_one_device(data)
  key = randomness.stream(jax.random.key(training.seed), "data")
  number = min(training.batch_size, len(data.ids), _MOST_EXAMPLES)
  ids = randomness.epoch_order(key, 0, data.ids)[:number]
  view = randomness.epoch_views(
      key, 0, num_examples=len(data.label), num_views=training.views.count)
  return segment.take(
      data, training.views, ids, view[ids], jnp.ones((number,), bool))


def terms(student: Begun) -> list[Term]:
  """Every term of the loss on the first batch, and the norm of its gradient."""
  training, learner, state = student.training, student.learner, student.state
  batch = first_batch(training, student.setup.train)
  rngs = {"dropout": randomness.stream(
      jax.random.key(training.seed), "dropout", 0)}

  @jax.jit
  def measured(state, batch, arrays, hparams):
    hparams = schedules.at(learner.schedules, state.step, hparams)
    asked = learner.teacher and step.compared(teachers.outputs(
        learner.teacher, arrays, batch, hparams.temperature), learner.pairs, 1)
    own = terms_lib.Own(state.method, state.method_state)

    def weighted(params):
      outputs, _ = learner.model.apply(
          types.Variables(params, state.student.state), batch.inputs, train=True,
          rngs=rngs, mask=batch.mask, rates=hparams.rates)
      found = terms_lib.and_state(learner.method.terms(
          own, step.compared(outputs, learner.pairs, 0), asked, batch,
          hparams), own).terms
      mean = {name: jnp.mean(term.value) for name, term in found.items()}
      weight = {name: jnp.float32(term.weight) for name, term in found.items()}
      return jax.tree.map(jnp.multiply, weight, mean), (weight, mean)

    gradient, (weight, mean) = jax.jacrev(weighted, has_aux=True)(
        state.student.params)
    return {name: (weight[name], mean[name],
                   jnp.linalg.norm(ravel_pytree(gradient[name])[0]))
            for name in mean}

  arrays = learner.teacher.arrays if learner.teacher else ()
  found = jax.device_get(measured(
      *_on_one_device((state, batch, arrays)), training.hparams))
  return [Term(name, *map(float, found[name])) for name in found]


def look_at_terms(visit: Visit, found: list[Term], *, fatal: bool) -> None:
  """Tells of terms that would break a run, or do nothing in it."""
  # One that is NaN itself makes the gradients of all the others NaN.
  broken = [term for term in found if not math.isfinite(term.value)]
  for term in broken or [term for term in found if not term.finite]:
    visit.tell(
        f"{term.name}: its mean over the first batch is {term.value:g} and the "
        f"norm of its gradient {term.gradient:g}, so all weights would be NaN "
        "after one step; look at config.temperature, config.data.scale and the "
        "net's initialisation", fatal=fatal)
  for term in found:
    if term.weight and not term.gradient:
      visit.tell(
          f"{term.name}: has weight {term.weight:g}, but its gradient on the "
          "first batch is exactly 0, so nothing is learnt from it; look at the "
          "student's net", fatal=False)


def net(begun: Begun) -> str:
  """What a net is made of, in a line."""
  held = begun.state.student
  kind = "student" if begun.net.member is None else "teacher"
  title = begun.setup.run.titles[kind]
  outputs = jax.eval_shape(
      lambda held, inputs: begun.learner.model.apply(held, inputs, train=False)[0],
      held, preprocess.seen(begun.setup.train.inputs, begun.training.batch_size))
  taps = ", ".join(
      f"{tap} {list(x.shape)}" for tap, x in outputs.features.items())
  return (f"{title}, {parameters.num_parameters(held.params):,} parameters; taps "
          f"{taps or 'none'}")


def _on_one_device(tree: types.Tree) -> types.Tree:
  """Arrays on one device, wherever they lie: a batch needs no more."""
  return jax.device_put(tree, jax.local_devices()[0])
