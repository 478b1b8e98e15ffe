"""Terms of the methods on embeddings: PEFD, SRD, ITRD, KD++, and WKD-L.

As in `terms.py`, of one signature. Each sums over its pairs of taps.
"""


import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.losses import curriculum, decoupled, projected, wasserstein
from kd_jax.methods import layers, projector
from kd_jax.methods.terms import (
  Changed,
  Own,
  Term,
  Terms,
  beside_labels,
  sum_of,
)

PROJECTORS = 3  # Of PEFD.


def _projector_init(count, key, student, teacher):
  return {pair: projector.init(
      jax.random.fold_in(key, place), student[pair], teacher[pair], count=count)
          for place, pair in enumerate(sorted(student))}, {}


def pefd_init(key, student, teacher):
  """Three projectors a pair (Chen et al. 2022)."""
  return _projector_init(PROJECTORS, key, student, teacher)


def projector_init(key, student, teacher):
  """One projector a pair, of SRD and ITRD."""
  return _projector_init(1, key, student, teacher)


def _summed(own: Own, student, teacher, batch, value, *, relu=False) -> jax.Array:
  """Over the pairs, of `value(projected tap, student's tap, teacher's tap)`."""
  return sum_of(
      value(projector.apply(own.params[pair], tap, batch.mask, relu=relu), tap,
            layers.clean(teacher.features[pair], batch.mask))
      for pair, tap in student.features.items())


def pefd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * (1 - cosine of the mean projection and g).

  Each of three projectors is a dense layer and a ReLU (Chen et al. 2022, eq. 4).
  """
  angle = _summed(
      own, student, teacher, batch,
      lambda guess, _, goal: projected.angle_distance(guess, goal), relu=True)
  return beside_labels(student, batch, hparams, angle=Term(
      hparams.numbers["weight"], angle))


def srd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * log of fourth powers of standardised gaps.

  The authors add a KL at T = 1 (Miles & Mikolajczyk 2024): that is `kd+srd`.
  """
  distance = _summed(
      own, student, teacher, batch,
      lambda guess, _, goal: projected.log_distance(guess, goal, batch.mask))
  return beside_labels(student, batch, hparams, distance=Term(
      hparams.numbers["weight"], distance))


def itrd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * (correlation * C + information * I).

  I looks at the student's own embedding where it has as many channels as the
  teacher's, as in the code (Miles et al. 2022, eq. 5 and 9).
  """
  numbers = hparams.numbers
  correlation = lambda guess, _, goal: projected.correlation_loss(
      guess, goal, batch.mask, alpha=numbers["alpha"])
  information = lambda guess, tap, goal: projected.information_loss(
      tap if tap.shape == goal.shape else guess, goal, batch.mask)
  term = lambda name, value: Term(
      numbers["weight"] * numbers[name],
      _summed(own, student, teacher, batch, value))
  return beside_labels(
      student, batch, hparams, correlation=term("correlation", correlation),
      information=term("information", information))


def nd_init(key, student, teacher, classes):
  """A BatchNorm and a projector where channels differ; means of each class."""
  params: dict[str, types.Tree] = {}
  state: dict[str, types.Tree] = {}
  for place, pair in enumerate(sorted(student)):
    channels = teacher[pair][-1]
    params[pair], state[pair] = {}, {
        "means": jnp.zeros((classes, channels), jnp.float32),
        "counts": jnp.zeros((classes, 1), jnp.float32)}
    layer = projector.init(
        jax.random.fold_in(key, place), student[pair], teacher[pair])
    if student[pair] != teacher[pair]:
      norm, running = layers.norm_init(student[pair][-1])
      params[pair] = {"norm": norm, "layers": layer}
      state[pair]["norm"] = running
  return params, state


def nd(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * (1 - <f, c> / (|c| max(|f|, |g|))).

  c is the mean of the teacher's g in the example's class (Wang et al. 2023, eq. 8):
  here of all examples up to this step, so it is the authors' mean over the training
  set after the first epoch. Their dropout before the projector is left out.
  """
  values, states = [], {}
  for pair, tap in student.features.items():
    params, state = own.params[pair], dict(own.state[pair])
    goal = layers.clean(jax.lax.stop_gradient(teacher.features[pair]), batch.mask)
    guess = layers.clean(tap, batch.mask)
    if params:
      guess, state["norm"] = layers.norm(
          params["norm"], state["norm"], guess, batch.mask, axis_name=own.axis_name)
      guess = projector.apply(params["layers"], guess, batch.mask)
    number = len(state["counts"])
    member = jnp.where(batch.mask[:, None], jax.nn.one_hot(
        batch.label, number, dtype=goal.dtype), 0.0)
    state["means"], state["counts"] = mean_so_far(
        state["means"], state["counts"],
        jnp.matmul(member.T, goal, precision=jax.lax.Precision.HIGHEST),
        jnp.sum(member, axis=0)[:, None], own.axis_name)
    values.append(projected.direction_distance(
        guess, goal, state["means"][batch.label]))
    states[pair] = state
  return Changed(beside_labels(student, batch, hparams, direction=Term(
      hparams.numbers["weight"], sum_of(values))), states)


def mean_so_far(mean, count, total, number, axis_name):
  """A mean and its count after `number` more values that add up to `total`."""
  if axis_name is not None:
    total, number = jax.lax.psum((total, number), axis_name)
  count = count + number.astype(count.dtype)
  gap = total.astype(mean.dtype) - number.astype(mean.dtype) * mean
  return mean + gap / jnp.maximum(count, 1.0), count


def wkd_l(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + target * (-p_y log q_y) + weight * W at T.

  W is what it costs to move the teacher's probabilities of the other classes to the
  student's. The cost of two classes is 1 - exp(-sharpness (1 - cosine)) of their
  weights in the teacher's last layer, an option of the code; the paper has CKA of
  their features (Lv et al. 2024). The weight falls to 0 from `decay` of the run on.
  """
  numbers = hparams.numbers
  cost = wasserstein.cost_of_classes(own.heads[1]["kernel"], numbers["sharpness"])
  transport = wasserstein.transport_distance(
      student.logits, teacher.logits, batch.label, cost, hparams.temperature,
      regularisation=numbers["regularisation"])
  weight = numbers["weight"] * curriculum.cosine_decay(
      hparams.progress, numbers["decay"])
  target = decoupled.confident_cross_entropy(
      student.logits, teacher.logits, batch.label)
  return beside_labels(
      student, batch, hparams, target=Term(numbers["target"], target),
      transport=Term(weight, transport))
