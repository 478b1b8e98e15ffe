"""A net looked at from outside: what each term pulls, and how it sees examples.

Nothing here is in the loop of a training, and nothing in a training depends on it.
"""

from collections.abc import Callable
import functools

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from kd_jax import losses, teachers
from kd_jax.core import randomness, types
from kd_jax.data import views
from kd_jax.losses import alignment
from kd_jax.methods import terms as terms_lib
from kd_jax.training import schedules, segment, step
from kd_jax.training.settings import Training

# Of a larger batch, the first so many: they show what all of it would.
_MOST_EXAMPLES = 2048


def first_batch(training: Training, data: segment.DeviceData) -> types.Batch:
  """The examples of the first step in their views, without any padding."""
  own = jax.random.key(training.seed)
  key = randomness.stream(own, "data")
  number = min(training.batch_size, len(data.ids), _MOST_EXAMPLES)
  ids = randomness.epoch_order(key, 0, data.ids)[:number]
  view = randomness.epoch_views(
      key, 0, num_examples=len(data.label), num_views=training.views.count)
  other = segment.other_views(own, 0, len(data.label), training.views)
  return segment.take(
      data, training.views, ids, view[ids], jnp.ones((number,), bool), other)


def make_terms(
    learner: step.Learner
) -> Callable[..., dict[str, tuple[jax.Array, jax.Array, jax.Array]]]:
  """Every term of a loss on a batch, and how much it pulls; compiled.

  Returns:
    `(state, batch, labels, teacher_arrays, hparams, key) -> {name: (weight, value,
    gradient)}`: the mean over the batch, without the weight, and the norm of the
    gradient of their product with respect to the student's parameters. The batch
    has no padding; `labels` are as of `terms.Own`.
  """

  @jax.jit
  def terms(state, batch, labels, arrays, hparams, key):
    hparams = schedules.at(learner.schedules, state.step, hparams)
    asked = learner.teacher and step.compared(teachers.outputs(
        learner.teacher, arrays, batch, hparams.temperature), learner.pairs, 1)
    own = terms_lib.Own(state.method, state.method_state, labels=labels, key=key,
                        heads=step.heads(learner, arrays, state.student.params))

    def weighted(params):
      outputs, _ = learner.model.apply(
          types.Variables(params, state.student.state), batch.inputs, train=True,
          rngs={"dropout": randomness.stream(key, "dropout", 0)},
          mask=batch.mask, rates=hparams.rates)
      found = step.terms_of(learner, own, step.View(
          step.compared(outputs, learner.pairs, 0), asked, batch), hparams).terms
      values = {name: (jnp.float32(term.weight), jnp.mean(term.value))
                for name, term in found.items()}
      return {name: weight * mean
              for name, (weight, mean) in values.items()}, values

    gradients, values = jax.jacrev(weighted, has_aux=True)(state.student.params)
    return {name: (*values[name], jnp.linalg.norm(ravel_pytree(gradient)[0]))
            for name, gradient in gradients.items()}

  return terms


@functools.lru_cache(maxsize=32)
def make_relations(
    model: types.Model, taps: tuple[str, ...]
) -> Callable[[types.Variables, segment.DeviceData], jax.Array]:
  """How each tap of a net relates the examples of a data set; compiled.

  Args:
    model: The net.
    taps: Names of its taps.

  Returns:
    `(variables, data) -> x` `[taps, n * n]` of the n examples in use, as they are.
    `x @ y.T` of two nets is the CKA of all taps of one with all of the other.
  """

  @jax.jit
  def relations(variables, data):
    features = _features(model, variables, data)
    return jnp.stack([alignment.centred(features[tap]).ravel() for tap in taps])

  return relations


@functools.lru_cache(maxsize=32)
def make_attention(
    model: types.Model, taps: tuple[str, ...]
) -> Callable[[types.Variables, segment.DeviceData], dict[str, jax.Array]]:
  """Where the maps of a net are large, of each example in use; compiled.

  Args:
    model: The net.
    taps: Names of its taps that are maps, `[height, width, channels]`.

  Returns:
    `(variables, data) -> {tap: a}`, a = mean of s**2 over channels, `[n, height,
    width]`, divided by the largest of the map.
  """

  @jax.jit
  def attention(variables, data):
    features = _features(model, variables, data)
    energy = {tap: jnp.mean(jnp.square(features[tap]), axis=-1) for tap in taps}
    return {tap: a / jnp.maximum(jnp.max(a, axis=(1, 2), keepdims=True), 1e-30)
            for tap, a in energy.items()}

  return attention


def _features(model, variables, data):
  """The taps of the examples in use, in evaluation mode, in float32 at least."""
  none = jnp.zeros_like(data.ids)
  batch = segment.take(data, views.VIEWS["none"], data.ids, none, none == 0)
  outputs, _ = model.apply(variables, batch.inputs, train=False)
  return jax.tree.map(losses.at_least_float32, outputs.features)
