"""The first batch of a run: what the nets say of it, and every term of the loss.

The state, the batch and the dropout are those of the run's own first step. Only
the teacher is another: a fresh one, unless it is a file of logits.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import methods, teachers
from kd_jax.config import build
from kd_jax.core import randomness, types
from kd_jax.methods import terms as terms_lib
from kd_jax.runs.doctor import Visit
from kd_jax.runs.setup import Setup
from kd_jax.training import parameters as parameters_lib
from kd_jax.training import schedules, segment, step
from kd_jax.training.settings import Training
from kd_jax.training.state import TrainState

# Of a larger batch, the first so many; numbers of the first batch are no secret
# that needs all of it.
_MOST_EXAMPLES = 2048


class Net(NamedTuple):
  """What a net is made of.

  Attributes:
    name: "student" or "teacher".
    model: Its name and widths.
    parameters: Number of trained scalars.
    taps: Shapes of its features for a batch, by name.
  """

  name: str
  model: str
  parameters: int
  taps: dict[str, tuple[int, ...]]


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


class Begun(NamedTuple):
  """A training, and its state before the first step."""

  training: Training
  state: TrainState


def student(setup: Setup, prepared: teachers.Teacher | None) -> Begun:
  """The student, about to learn by the run's method if there is a teacher."""
  run = setup.run
  training = build.student(run.values, setup.dataset)
  method = run.method if prepared or not run.method.needs_teacher else (
      methods.METHODS["hard"])
  learner = build.learner(run, training, method, prepared)
  return Begun(training, _starts(training, learner, setup.train)[0])


def teacher(setup: Setup) -> tuple[Begun, teachers.Teacher]:
  """The first member, and the teacher of members that nobody has trained."""
  run = setup.run
  training = build.teacher(run.values, setup.dataset, 0)
  learner = build.learner(run, training, methods.METHODS["hard"])
  states = _starts(training, learner, setup.train, run.teacher.members)
  return Begun(training, states[0]), teachers.live(
      [training.model] * len(states), [state.student for state in states],
      weights=run.teacher.weights, mean=run.teacher.mean, taps=training.taps)


def _starts(
    training: Training, learner: step.Learner, data: segment.DeviceData,
    count: int = 1,
) -> list[TrainState]:
  """States before the first step, as `fit.py` makes them; seeds count up."""
  image = jnp.zeros((1,) + data.image.shape[1:], jnp.float32)

  @jax.jit
  def start(seed, hparams):
    key = randomness.stream(jax.random.key(seed), "init")
    return step.init(learner, key, image, hparams)

  return [start(jnp.uint32(training.seed + number), training.hparams)
          for number in range(count)]


def alone(tree: types.Tree) -> types.Tree:
  """Arrays on one device, wherever they lie: a batch needs no more."""
  return jax.device_put(tree, jax.local_devices()[0])


def first_batch(
    training: Training, data: segment.DeviceData
) -> types.Batch:
  """The examples of the first step in their views, without any padding."""
  number = min(training.batch_size, len(data.ids), _MOST_EXAMPLES)

  @jax.jit
  def drawn(key, data):
    ids = randomness.epoch_order(key, 0, data.ids)[:number]
    view = randomness.epoch_views(
        key, 0, num_examples=len(data.label), num_views=training.views.count)
    return segment.take(
        data, training.views, ids, view[ids], jnp.ones((number,), bool))

  key = randomness.stream(jax.random.key(training.seed), "data")
  return drawn(key, alone(data))


def terms(
    learner: step.Learner, student: Begun, batch: types.Batch
) -> list[Term]:
  """Every term of the loss, and how hard it pulls at the student."""
  training, state = student
  prepared, pairs = learner.teacher, learner.pairs
  rngs = {"dropout": randomness.stream(
      jax.random.key(training.seed), "dropout", state.step)}

  @jax.jit
  def measured(params, running, batch, arrays, hparams):
    hparams = schedules.at(training.schedules, state.step, hparams)
    asked = prepared and step.compared(teachers.outputs(
        prepared._replace(arrays=None), arrays, batch, hparams.temperature),
                                       pairs, 1)
    own = terms_lib.Own(state.method, state.method_state)

    def weighted(params):
      outputs, _ = training.model.apply(
          types.Variables(params, running), batch.image, train=True, rngs=rngs,
          mask=batch.mask, rates=hparams.rates)
      found = terms_lib.and_state(learner.method.terms(
          own, step.compared(outputs, pairs, 0), asked, batch, hparams), own).terms
      value = {name: jnp.mean(term.value) for name, term in found.items()}
      weight = {name: jnp.float32(t.weight) for name, t in found.items()}
      return {name: weight[name] * value[name] for name in found}, (
          weight, value)

    values, pull, extra = jax.vjp(weighted, params, has_aux=True)
    norms = {}
    for name in values:
      one = {n: jnp.full_like(v, n == name) for n, v in values.items()}
      norms[name] = _norm(pull(one)[0])
    return *extra, norms

  arrays = prepared.arrays if prepared else ()
  weight, value, norms = jax.device_get(measured(
      state.student.params, state.student.state, batch, arrays,
      training.hparams))
  return [Term(name, float(weight[name]), float(value[name]),
               float(norms[name])) for name in value]


def look_at_terms(visit: Visit, found: list[Term], *, fatal: bool) -> None:
  """Tells of terms that would break a run, or do nothing in it."""
  # One that is NaN itself makes the gradients of all the others NaN.
  broken = [term for term in found if not math.isfinite(term.value)]
  for term in broken or [term for term in found if not finite(term)]:
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


def finite(term: Term) -> bool:
  """Whether a term can be learnt from."""
  return math.isfinite(term.value) and math.isfinite(term.gradient)


def net(
    name: str, title: str, begun: Begun, data: segment.DeviceData
) -> Net:
  """What a net is made of; `title` is its name and widths."""
  training, state = begun
  shape = (training.batch_size,) + data.image.shape[1:]
  outputs = jax.eval_shape(
      lambda held, image: training.model.apply(held, image, train=False)[0],
      state.student, jax.ShapeDtypeStruct(shape, jnp.float32))
  return Net(
      name, title, parameters_lib.num_parameters(state.student.params),
      {tap: x.shape for tap, x in outputs.features.items()})


def _norm(tree: types.Tree) -> jax.Array:
  squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32)))
             for leaf in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(squares, jnp.float32(0)))
