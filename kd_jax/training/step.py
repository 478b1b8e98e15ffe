"""One step of training, `make_step`: two nets' outputs, a loss, an update."""

from collections.abc import Callable, Hashable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd_jax import methods, models, teachers
from kd_jax.core import randomness, types
from kd_jax.methods import terms as terms_lib
from kd_jax.training import metrics, optimizers, schedules
from kd_jax.training.schedules import STILL, Schedules
from kd_jax.training.state import TrainState, averaged, with_average

# (state, batch, teacher arrays, hparams, key) -> (state, metrics)
Step = Callable[..., tuple[TrainState, dict[str, metrics.Mean]]]


class Learner(NamedTuple):
  """The static parts of a step: functions, no arrays.

  Attributes:
    model: The net in training, student or future teacher.
    method: The method.
    optimizer_spec: The optimiser.
    teacher: Who is asked, or None where the method needs nobody.
    pairs: The taps that the method compares, of the student and of the teacher.
    skip_nonfinite: Whether a step whose gradients are not finite changes nothing.
    schedules: How temperature and weights move over the run.
    unlabelled: Whether a label may be -1: the example then has no hard term, and
      its error is not counted.
    mixup: a of Beta(a, a), as of `segment.mixed`; 0 mixes nothing.
    accumulate: Parts of a batch that go through the nets one after the other.
    class_weights: Of the hard term, one a class; () for all alike.
  """

  model: types.Model
  method: methods.Method
  optimizer_spec: optimizers.OptimizerSpec
  teacher: teachers.Teacher | None = None
  pairs: methods.Pairs = ()
  skip_nonfinite: bool = False
  schedules: Schedules = STILL
  unlabelled: bool = False
  mixup: float = 0.0
  accumulate: int = 1
  class_weights: tuple[float, ...] = ()


def without_arrays(learner: Learner) -> Learner:
  """The learner as a program keeps it: a teacher's arrays are given to it."""
  teacher = learner.teacher
  return learner._replace(teacher=teacher and teacher._replace(
      arrays=(), rows=None))


def key_of(learner: Learner) -> Hashable:
  """What a learner's programs depend on: learners alike in it share them."""
  asked = learner.teacher
  teacher = asked and (asked.members, asked.mean, tuple(asked.weights.tolist()),
                       tuple(sorted(asked.taps.items())), asked.classes)
  # A method is not hashed: the program that is kept keeps it alive.
  return learner._replace(method=id(learner.method), teacher=teacher)  # type: ignore[arg-type]


def compared(
    outputs: types.Outputs, pairs: methods.Pairs, of: int
) -> types.Outputs:
  """Outputs with the taps that are compared, and no others."""
  return outputs._replace(features=methods.of_pairs(outputs.features, pairs, of))


def make_step(learner: Learner, *, axis_name: str | None = None) -> Step:
  """The step of a learner.

  Args:
    learner: Model, method, optimiser and teacher.
    axis_name: The mapped device axis to sum over, or None on one device.

  Returns:
    `(state, batch, teacher_arrays, hparams, key, labels=None) -> (state,
    metrics)`. The loss is the mean over the valid examples of all devices; metrics
    are totals and counts, of the parameters before the update. `labels` are as of
    `terms.Own`; few methods look at them.
  """
  psum = lambda x: x if axis_name is None else jax.lax.psum(x, axis_name)
  part = _part(learner, axis_name)

  def step(state, batch, teacher_arrays, hparams, key, labels=None):
    hparams = schedules.at(learner.schedules, state.step, hparams)
    # Outside the differentiated function: a psum within it would be summed
    # once more with the gradients.
    count = psum(jnp.sum(batch.mask, dtype=jnp.float32))
    whole: Callable[..., Any] = functools.partial(
        part, teacher_arrays, hparams, key, labels, count)
    if learner.accumulate > 1:
      whole = _in_parts(whole, learner.accumulate, psum)
    gradients, after, totals = whole(state, batch)
    gradients, totals = psum(gradients), psum(totals)
    if learner.method.gradients is not None:
      own = _own(learner, axis_name, state, teacher_arrays, key, labels)
      gradients = learner.method.gradients(own, gradients, hparams)
    after = _updated(learner, after, gradients, hparams)
    if learner.skip_nonfinite:
      fine = metrics.finite((gradients, metrics.measured(totals)))
      return _unless(fine, state, after, totals)
    return after, totals

  return step


def _part(learner: Learner, axis_name: str | None) -> Callable[..., Any]:
  """The gradients, running state and totals of a batch, or of a part of it.

  `(teacher_arrays, hparams, key, labels, count, state, batch, *number) ->
  (gradients, state, totals)`. `count` are the valid examples of the whole batch on
  all devices, and `number` is that of the part. What comes out is of one device.
  """
  gathered, share, once = _whole_batch(
      axis_name if learner.method.relations else None)

  def part(teacher_arrays, hparams, key, labels, count, state, batch, *number):
    teacher_outputs = None
    if learner.teacher is not None:
      teacher_outputs = compared(teachers.outputs(
          learner.teacher, teacher_arrays, batch, hparams.temperature),
                                 learner.pairs, 1)
    rngs = {"dropout": randomness.stream(key, "dropout", state.step, *number)}
    own = _own(learner, axis_name, state, teacher_arrays, key, labels, *number)

    def weighted(trainable):
      params, method = trainable
      outputs, running = learner.model.apply(
          types.Variables(params, state.student.state), batch.inputs, train=True,
          rngs=rngs, mask=batch.mask, rates=hparams.rates, axis_name=axis_name)
      view = gathered(View(
          compared(outputs, learner.pairs, 0), teacher_outputs, batch))
      layers = heads(learner, teacher_arrays, params)
      found = terms_of(
          learner, own._replace(params=method, heads=layers), view, hparams)
      mean = lambda terms: share(jnp.sum(jnp.where(
          view.batch.mask, terms_lib.total(terms), 0.0)) / count)
      # One backward pass; but one for each term where the method wants them apart.
      losses = mean(found.terms) if learner.method.gradients is None else {
          name: mean({name: term}) for name, term in found.terms.items()}
      return losses, (view, running, found)

    differentiated = jax.grad if learner.method.gradients is None else jax.jacrev
    gradients, (view, running, found) = differentiated(
        weighted, has_aux=True)(state.trainable)
    after = state.replace(
        student=state.student._replace(state=running), method_state=found.state)
    return gradients, after, once(_totals(learner, own, view, found.terms, hparams))

  return part


def _own(learner, axis_name, state, teacher_arrays, key, labels, *number):
  """What the method has of its own at the start of a step, or of a part of it."""
  # A method that sees the whole batch has nothing to sum over devices.
  mapped = None if learner.method.relations else axis_name
  return terms_lib.Own(
      state.method, state.method_state, mapped, labels,
      randomness.stream(key, "method", state.step, *number),
      heads(learner, teacher_arrays, state.student.params))


def _in_parts(part: Callable[..., Any], parts: int, psum) -> Callable[..., Any]:
  """`part` for the parts of a batch in turn, its gradients and totals added up.

  Part i has the rows i, i + parts, ...: so a ragged batch leaves no part without
  valid rows that has not fewer of them than parts. One without changes nothing.
  """
  def whole(state, batch):
    def split(x):
      padded = jnp.pad(x, ((0, -len(x) % parts), *((0, 0),) * (x.ndim - 1)))
      return padded.reshape((-1, parts, *x.shape[1:])).swapaxes(0, 1)

    def body(carried, numbered):
      (state, *sums), (number, batch) = carried, numbered
      gradients, after, totals = part(state, batch, number)
      some = psum(jnp.sum(batch.mask, dtype=jnp.int32)) > 0
      after = jax.tree.map(functools.partial(jnp.where, some), after, state)
      return (after, *metrics.merge(tuple(sums), (gradients, totals))), None

    batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], batches)
    gradients, _, totals = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(part, state, first, jnp.int32(0)))
    (after, gradients, totals), _ = jax.lax.scan(
        body, (state, gradients, totals), (jnp.arange(parts), batches))
    return gradients, after, totals

  return whole


def heads(learner: Learner, teacher_arrays: types.Tree, params: types.Tree):
  """The layers that make logits, of student and teacher, for methods that look."""
  if not learner.method.heads:
    return None
  teacher, = teacher_arrays  # Live, and one net.
  return models.head(params), jax.lax.stop_gradient(models.head(teacher.params))


def _updated(learner, state, gradients, hparams):
  """The state after the step of the optimiser; what runs has moved already."""
  hparams = optimizers.at(learner.optimizer_spec, hparams, state.step)
  # optax and its schedules count in int32 and promote.
  with jax.numpy_dtype_promotion("standard"):
    rate = hparams.learning_rate + _nothing_of_all(gradients)
    updates, moments = optimizers.optimizer(
        learner.optimizer_spec, hparams.replace(learning_rate=rate)).update(
            gradients, state.optimizer, state.trainable)
    params, method = optax.apply_updates(state.trainable, updates)
  params = optimizers.project(params, hparams.max_norm)
  after = state.replace(
      step=state.step + 1, student=state.student._replace(params=params),
      method=method, optimizer=moments)
  return after if hparams.ema is None else with_average(after, hparams.ema)


def terms_of(
    learner: Learner, own: terms_lib.Own, view: "View", hparams: types.Hparams
) -> terms_lib.Changed:
  """The terms of a method, that of the labels where they are known, by weight.

  Where a label is unknown it is 0, and stays in the mean over all examples, so that
  an example counts the same whatever is known of the others. The weights of classes
  and of examples multiply; soft terms have neither.
  """
  student, teacher, batch = view
  known = batch.label >= 0
  if learner.unlabelled:  # Equations need some class.
    batch = batch._replace(label=jnp.where(known, batch.label, 0))
  found = terms_lib.and_state(
      learner.method.terms(own, student, teacher, batch, hparams), own)

  def counted(term: terms_lib.Term) -> terms_lib.Term:
    value = term.value
    if learner.class_weights:
      value *= jnp.asarray(learner.class_weights, jnp.float32)[batch.label]
    if batch.weight is not None:
      value *= batch.weight
    return term._replace(
        value=jnp.where(known, value, 0.0) if learner.unlabelled else value)

  if not (learner.unlabelled or learner.class_weights or batch.weight is not None):
    return found
  return found._replace(terms={
      name: counted(term) if terms_lib.of_labels(name) else term
      for name, term in found.terms.items()})


class View(NamedTuple):
  """What a method looks at: both nets' outputs, and the examples."""

  student: types.Outputs
  teacher: types.Outputs | None
  batch: types.Batch


def _whole_batch(axis_name: str | None):
  """Three functions for methods that relate examples of several devices.

  Every device then sees all rows, with gradients back to where they came from,
  and has the loss of the whole batch. That is one loss, so each counts its share,
  and one device tells of it.
  """
  if axis_name is None:
    return (lambda same: same,) * 3
  gather = functools.partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
  first = lambda x: jnp.where(
      jax.lax.axis_index(axis_name) == 0, x, jnp.zeros_like(x))
  return (functools.partial(jax.tree.map, gather),
          lambda loss: loss / jax.lax.axis_size(axis_name),
          functools.partial(jax.tree.map, first))


def _unless(fine, before, after, totals):
  """The step if it is fine, else nothing but its number; tells which."""
  keep = functools.partial(jax.tree.map, functools.partial(jnp.where, fine))
  nothing = jax.tree.map(jnp.zeros_like, totals)
  skipped = metrics.Mean(1.0 - fine.astype(jnp.float32), jnp.int32(1))
  return (keep(after, before).replace(step=after.step),
          keep(totals, nothing) | {"skipped": skipped})


def _nothing_of_all(gradients: types.Tree) -> jax.Array:
  """Zero, known only when the last gradient is (or NaN, if one is).

  An update that needs it comes after the whole backward pass, so XLA can write
  the new weights over the old ones; otherwise it copies every weight matrix
  first, in case the backward pass still has to read it (4% of a step on a CPU).
  """
  return 0.0 * sum(leaf.ravel()[0] for leaf in jax.tree.leaves(gradients))


def _totals(learner, own, view, terms, hparams):
  """Totals and counts that describe a step: errors and every term apart.

  `gradient_NAME` is the squared norm of the term's weighted gradient with
  respect to the student's logits, per example: their ratio says which term
  leads, whatever the weights seem to say. `gradient_NAME_taps` is the same with
  respect to the taps that the method reads. The scalar of a batch is a mean over
  its n examples, so n times it is what they add up to.
  """
  known = view.batch.mask
  if learner.unlabelled:
    known &= view.batch.label >= 0
  student, _, batch = view
  inference = learner.method.inference
  deployed = student if inference is None else inference(own, student)
  # Of an example that is in a batch twice, its first row.
  once = known if batch.second is None else known & ~batch.second
  totals = {"errors": metrics.Mean.of(
      metrics.errors(deployed.logits, batch.label), once)}
  for name, term in terms.items():
    totals[name] = metrics.Mean.of(
        term.value, known if terms_lib.of_labels(name) else batch.mask)
  if len(terms) < 2:
    return totals
  number = jnp.sum(batch.mask, dtype=jnp.float32)

  def weighted(outputs, name):
    again = terms_of(
        learner, own, view._replace(student=outputs), hparams).terms[name]
    # Through statistics of the batch, padding's values depend on valid examples.
    each = (jnp.where(batch.mask, again.value, 0.0) if jnp.ndim(again.value)
            else number * again.value)
    return jnp.sum(again.weight * each)

  for name in terms:
    # Of one term alone, so that the compiler leaves out all others.
    gradient = jax.grad(weighted)(student, name)
    totals[f"gradient_{name}"] = metrics.SquaredNorm.of(
        _squared_norms(gradient.logits), batch.mask)
    if student.features:
      totals[f"gradient_{name}_taps"] = metrics.SquaredNorm.of(
          functools.reduce(jnp.add, map(
              _squared_norms, gradient.features.values())), batch.mask)
  return totals


def _squared_norms(gradient: jax.Array) -> jax.Array:
  """Of each example, `[B]`."""
  return jnp.sum(jnp.square(gradient), axis=tuple(range(1, gradient.ndim)))


def deployed(learner: Learner) -> types.Model:
  """The net that comes out: the student, with what of its method stays."""
  learner = without_arrays(learner)  # The net outlives its teacher's bank.
  model, inference = learner.model, learner.method.inference
  if inference is None:
    return model

  def apply(variables, inputs, **context):
    outputs, state = model.apply(types.Variables(
        variables.params["student"], variables.state["student"]), inputs, **context)
    own = terms_lib.Own(variables.params["method"], variables.state["method"])
    made = inference(own, compared(outputs, learner.pairs, 0))
    return (made._replace(features=outputs.features),
            variables.state | {"student": state})

  return model._replace(
      init=lambda key, inputs: deployed_variables(
          learner, _begun(learner, key, inputs)), apply=apply)


def deployed_variables(learner: Learner, state: TrainState) -> types.Variables:
  """The variables of that net."""
  method, settle = learner.method, learner.model.settle
  student, params = state.net
  if settle is not None:
    student = settle(student)
  if method.inference is None:
    return student
  own, own_state = (methods.staying(method, tree)
                    for tree in (params, state.method_state))
  return types.Variables({"student": student.params, "method": own},
                         {"student": student.state, "method": own_state})


def init(
    learner: Learner, key: jax.Array, inputs: types.Tree, hparams: types.Hparams,
    examples: int = 0,
) -> TrainState:
  """The state before the first step.

  Args:
    learner: Model, method and optimiser.
    key: Of what is drawn.
    inputs: Any that a model takes, for shapes and types.
    hparams: The numbers of the run.
    examples: How many the data set has; a method with a memory has a row of each.
  """
  begun = _begun(learner, key, inputs, examples)
  student = begun.student._replace(
      params=optimizers.scaled(begun.student.params, hparams.init_scale))
  with jax.numpy_dtype_promotion("standard"):
    moments = optimizers.optimizer(learner.optimizer_spec, hparams).init(
        (student.params, begun.method))
  made = begun.replace(  # type: ignore[attr-defined]
      student=student, optimizer=moments)
  return made if hparams.ema is None else averaged(made)


def _begun(
    learner: Learner, key: jax.Array, inputs: types.Tree, examples: int = 0
) -> TrainState:
  """A new student and what its method has of its own; no optimiser yet."""
  student = learner.model.init(randomness.stream(key, "student"), inputs)
  *shapes, classes = _tap_shapes(learner, student, inputs)
  own, own_state = learner.method.init(
      randomness.stream(key, "method"), *shapes,
      **methods.sizes(learner.method, examples, classes))
  return TrainState(jnp.zeros((), jnp.int32), student, own, own_state, ())


def _tap_shapes(
    learner, student, inputs
) -> tuple[methods.Shapes, methods.Shapes, int]:
  """Shapes of one example of both nets' compared taps, and how many classes."""
  if not learner.pairs:
    return {}, {}, 0
  found = jax.eval_shape(
      lambda held: learner.model.apply(held, inputs, train=False)[0], student)
  own = {name: tap.shape[1:] for name, tap in found.features.items()}
  taps = learner.teacher.taps if learner.teacher else own  # Peers' are their own.
  return (methods.of_pairs(own, learner.pairs, 0),
          methods.of_pairs(taps, learner.pairs, 1), found.logits.shape[-1])
