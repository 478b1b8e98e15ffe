"""Named, weighted terms of a loss: a function a method.

Each binds equations (`kd_jax.losses`) to the numbers of a run. All have one
signature, `(own, student, teacher, batch, hparams) -> Terms`.
"""

from collections.abc import Mapping
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types
from kd_jax.losses import (
  contrastive,
  curriculum,
  decoupled,
  divergences,
  features,
  relations,
  standardised,
  targets,
  transformed,
)
from kd_jax.losses import rkd as rkd_losses
from kd_jax.methods import layers, regressor


class Term(NamedTuple):
  """One term of a loss: a weight (a scalar), and a value per example, `[B]`.

  A value of a whole batch is a scalar, over the valid examples; only methods
  that declare `relations` may have one.
  """

  weight: jax.Array | float
  value: jax.Array


Terms = Mapping[str, Term]


class Own(NamedTuple):
  """What a method has of its own, as its terms see it.

  Attributes:
    params: Trained beside the student's.
    state: Carried from step to step: running statistics, memories.
    axis_name: The mapped device axis that statistics are summed over, or None.
    labels: Classes of all examples of the data set, int32 `[N]`, -1 where an
      example is not trained on; a batch's `id` are places in it. None outside a
      run.
    key: What is drawn in this step is drawn with it; None outside a run.
    heads: `kernel` `[channels, classes]` and `bias` of the layers that make logits,
      of student and teacher; None for a method without `heads`.
  """

  params: types.Tree
  state: types.Tree
  axis_name: str | None = None
  labels: jax.Array | None = None
  key: jax.Array | None = None
  heads: tuple[types.Tree, types.Tree] | None = None


class Changed(NamedTuple):
  """Terms, and the state of the method after the step."""

  terms: Terms
  state: types.Tree


def and_state(found: Terms | Changed, own: Own) -> Changed:
  """Terms with the state after the step, which most methods leave as it is."""
  return found if isinstance(found, Changed) else Changed(found, own.state)


def total(terms: Terms) -> jax.Array:
  """The loss of each example, `[B]`: the weighted sum of the terms.

  A scalar counts for every example, so the mean over the valid ones holds it
  once. Without any value per example, the sum is a scalar.
  """
  weighted = [term.weight * term.value for term in terms.values()]
  return functools.reduce(jnp.add, weighted)


def labels(student, batch, hparams) -> Term:
  """The term of the labels, at its weight."""
  return Term(hparams.hard_weight, _hard(student, batch, hparams))


def _hard(student, batch, hparams) -> jax.Array:
  return losses.hard_cross_entropy(
      student.logits, batch.label, label_smoothing=hparams.label_smoothing)


def hard(own, student, teacher, batch, hparams) -> Terms:
  """Cross-entropy with the labels alone, weight 1: how a teacher is trained."""
  del own, teacher
  return {"hard": Term(1.0, _hard(student, batch, hparams))}


def _beside_hard(student, batch, hparams, soft: jax.Array) -> Terms:
  """hard_weight * CE + soft_weight * soft."""
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "soft": Term(hparams.soft_weight, soft),
  }


def kd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL (Hinton et al. 2015, s. 2)."""
  del own
  kl = losses.distillation_kl(
      student.logits, teacher.logits, hparams.temperature)
  return _beside_hard(student, batch, hparams, hparams.temperature**2 * kl)


def logits(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - v|**2 / 2N, of centred logits.

  The limit of `kd` for T to infinity (eq. 4); with hard_weight = 0, Ba &
  Caruana's mimic training up to the centring and the factor 1 / N.
  """
  del own
  distance = losses.logit_matching(
      student.logits, teacher.logits, zero_mean=True)
  return _beside_hard(
      student, batch, hparams, distance / student.logits.shape[-1])


def mse(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * |z - v|**2 / N (Kim et al. 2021)."""
  del own
  square = 2 * losses.logit_matching(student.logits, teacher.logits)
  return _beside_hard(student, batch, hparams, square / student.logits.shape[-1])


def reverse_kl(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL(q || p) (Gu et al. 2024)."""
  del own
  t = hparams.temperature
  kl = divergences.reverse_kl(student.logits, teacher.logits, t)
  return _beside_hard(student, batch, hparams, t**2 * kl)


def jsd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * JSD_beta (Agarwal et al. 2024).

  JSD_beta = beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.
  """
  del own
  t = hparams.temperature
  divergence = divergences.jensen_shannon(
      student.logits, teacher.logits, t, hparams.numbers["beta"])
  return _beside_hard(student, batch, hparams, t**2 * divergence)


def ls(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL of Z-scores (Sun et al. 2024).

  Each net's logits z count as (z - mean z) / deviation of z, then over T.
  """
  del own
  t = hparams.temperature
  kl = standardised.standardised_kl(student.logits, teacher.logits, t)
  return _beside_hard(student, batch, hparams, t**2 * kl)


def normkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (T d)**2 * KL at T d (Chi et al. 2023).

  d is the deviation of an example's logits, each net's for its own softmax, the
  teacher's for the square.
  """
  del own
  return _beside_hard(student, batch, hparams, standardised.normalised_kl(
      student.logits, teacher.logits, hparams.temperature))


def dkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * (alpha TCKD + beta NCKD).

  KD taken apart: the label's class against all others, and the others among each
  other (Zhao et al. 2022).
  """
  del own
  t, soft, numbers = hparams.temperature, hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, batch.label, t
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "target": Term(
          soft * numbers["alpha"], t**2 * decoupled.target_class_kl(*both)),
      "others": Term(
          soft * numbers["beta"], t**2 * decoupled.non_target_class_kl(*both)),
  }


def nkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (target + gamma * T**2 * others).

  target = -p_y log q_y at T = 1, others = -sum_i p^_i log q^_i of the other classes
  at T, p^ and q^ each summing to 1 (Yang et al. 2023).
  """
  del own
  t, soft = hparams.temperature, hparams.soft_weight
  both = student.logits, teacher.logits, batch.label
  others = decoupled.non_target_cross_entropy(*both, t)
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "target": Term(soft, decoupled.confident_cross_entropy(*both)),
      "others": Term(soft * hparams.numbers["gamma"], t**2 * others),
  }


def rld(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (alpha S**2 SCD + beta T**2 MCD).

  SCD: the teacher's largest probability against the student's of the label, at S =
  confidence_temperature; MCD: KL of the classes that the teacher ranks below the
  label (Sun et al. 2024).
  """
  del own
  t, soft, numbers = hparams.temperature, hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, batch.label
  sure = numbers["confidence_temperature"]
  confidence = sure**2 * decoupled.sample_confidence_kl(*both, sure)
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "confidence": Term(soft * numbers["alpha"], confidence),
      "others": Term(soft * numbers["beta"],
                     t**2 * decoupled.masked_correlation_kl(*both, t)),
  }


def wttm(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * U * KL(p(T) || q(1)) (Zheng & Yang 2024).

  The teacher is softened, the student is not; U = sum_i p_i(1)**(1 / T) weighs
  unsure examples more.
  """
  del own
  return _beside_hard(student, batch, hparams, transformed.transformed_teacher_kl(
      student.logits, teacher.logits, hparams.temperature))


def topk(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL, of k + 1 classes.

  Those k that the teacher finds likeliest, and all others as one.
  """
  del own
  t = hparams.temperature
  kl = targets.bucket_kl(
      student.logits, teacher.logits, t, hparams.numbers["k"])
  return _beside_hard(student, batch, hparams, t**2 * kl)


def topk_renormalised(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL, of k classes.

  Those that the teacher finds likeliest, both nets renormalised over them.
  """
  del own
  t = hparams.temperature
  kl = targets.top_k_kl(student.logits, teacher.logits, t, hparams.numbers["k"])
  return _beside_hard(student, batch, hparams, t**2 * kl)


def tfkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * KL(softmax(u / T) || q(1)).

  A virtual teacher: u_y = correct, and (1 - correct) / (N - 1) elsewhere (Yuan et
  al. 2020).
  """
  del own, teacher
  return _beside_hard(student, batch, hparams, targets.virtual_teacher_kl(
      student.logits, batch.label, hparams.temperature,
      hparams.numbers["correct"]))


def dist(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * (beta * rows + gamma * columns).

  Each is 1 - Pearson's correlation of q and p: of an example over classes, and of a
  class over the batch, the mean over classes (Huang et al. 2022, eq. 11).
  """
  del own
  t, soft, numbers = hparams.temperature, hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, t
  columns = relations.column_correlation(*both, mask=batch.mask)
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "rows": Term(soft * numbers["beta"], t**2 * relations.row_correlation(*both)),
      "columns": Term(soft * numbers["gamma"], t**2 * columns),
  }


def mlkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * (instances + batch + classes).

  instances = sum_k T_k**2 KL, batch = sum_k |P P' - Q Q'|**2 / B, classes =
  sum_k |P' P - Q' Q|**2 / N, of five temperatures T_k around T (Jin et al. 2023).
  """
  del own
  soft, numbers = hparams.soft_weight, hparams.numbers
  both = student.logits, teacher.logits, hparams.temperature
  alike = lambda function: function(*both, mask=batch.mask)
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "instances": Term(soft, relations.multi_level_kl(*both)),
      "batch": Term(soft * numbers["batch"], alike(relations.batch_relations)),
      "classes": Term(soft * numbers["classes"], alike(relations.class_relations)),
  }


def ctkd_init(key, student, teacher):
  """The parameter of the temperature, where the authors begin; no state."""
  del key, student, teacher
  return {"theta": jnp.ones((), jnp.float32)}, {}


def ctkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + soft_weight * T**2 * KL, T = start + span sigmoid(theta).

  theta climbs the loss that the student descends, the more the farther the run (Li
  et al. 2023). T is told as a term of weight 0.
  """
  numbers = hparams.numbers
  ramp = curriculum.cosine_ramp(hparams.progress, numbers["ramp"])
  t = curriculum.learned_temperature(
      own.params["theta"], ramp, start=numbers["start"], span=numbers["span"])
  kl = losses.distillation_kl(student.logits, teacher.logits, t)
  temperature = {"temperature": Term(0.0, jnp.full_like(kl, t))}
  return {**_beside_hard(student, batch, hparams, t**2 * kl), **temperature}


def hint_init(key, student, teacher):
  """A regressor for each pair of taps (Romero et al. 2015)."""
  made = {pair: regressor.init(jax.random.fold_in(key, place), student[pair],
                               teacher[pair])
          for place, pair in enumerate(student)}
  return ({pair: params for pair, (params, _) in made.items()},
          {pair: state for pair, (_, state) in made.items()})


def hint(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * sum over pairs of mean |r(f) - g|**2.

  f and g are the taps of student and teacher, r a regressor that trains with the
  student (Romero et al. 2015, eq. 3, from the first step on, as CRD's code).
  """
  distances, states = [], {}
  for pair, tap in student.features.items():
    guess, states[pair] = regressor.apply(
        own.params[pair], own.state[pair], tap, batch.mask,
        axis_name=own.axis_name)
    distances.append(features.mean_squared_error(guess, teacher.features[pair]))
  return Changed({
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "hint": Term(hparams.numbers["weight"], functools.reduce(
          jnp.add, distances))}, states)


def rkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * (distance * D + angle * A), summed over pairs.

  D and A compare distances of two and angles of three examples of the batch (Park
  et al. 2019, eq. 5 and 8).
  """
  del own
  numbers = hparams.numbers
  summed = lambda loss: functools.reduce(jnp.add, (
      loss(tap, teacher.features[pair], batch.mask)
      for pair, tap in student.features.items()))
  weight = lambda part: numbers["weight"] * numbers[part]
  return {
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "distance": Term(weight("distance"), summed(rkd_losses.distance_loss)),
      "angle": Term(weight("angle"), summed(rkd_losses.angle_loss))}


_EMBEDDING = 128  # Numbers that a net's embedding has, as released.


def crd_init(key, student, teacher, examples):
  """Embeddings of both nets, both trained, and a memory of each (Tian et al. 2020).

  The rows of a memory begin in U(-b, b), b = 1 / sqrt(channels / 3), so that their
  length is about 1, as in the released code.
  """
  params: types.Tree = {}
  states: types.Tree = {}
  bound = (_EMBEDDING / 3.0)**-0.5
  embedding = lambda key, shape: layers.linear_init(
      key, math.prod(shape), _EMBEDDING)
  for place, pair in enumerate(student):
    keys = jax.random.split(jax.random.fold_in(key, place), 4)
    params[pair] = {"student": embedding(keys[0], student[pair]),
                    "teacher": embedding(keys[1], teacher[pair])}
    draw = lambda key: jax.random.uniform(
        key, (examples, _EMBEDDING), jnp.float32, -bound, bound)
    # A normaliser of 0 is one that is not known yet.
    states[pair] = {
        name: {"memory": draw(key), "normaliser": jnp.zeros((), jnp.float32)}
        for name, key in zip(("student", "teacher"), keys[2:])}
  return params, states


def _crd(negatives, own, student, teacher, batch, hparams) -> Changed:
  """The terms of `crd`; `negatives` gives the weights of other examples."""
  numbers = hparams.numbers
  examples = jnp.sum(own.labels >= 0, dtype=jnp.float32)
  weights = negatives(batch.label, own.labels, numbers["negatives"])
  values: list[jax.Array] = []
  states: types.Tree = {}
  for pair, tap in student.features.items():
    taps = {"student": tap, "teacher": jax.lax.stop_gradient(
        teacher.features[pair])}
    vectors = {name: contrastive.normalised(layers.linear(
        own.params[pair][name], layers.clean(x, batch.mask).reshape(len(x), -1)))
               for name, x in taps.items()}
    states[pair] = {}
    for net, other in (("student", "teacher"), ("teacher", "student")):
      before = own.state[pair]
      scores = contrastive.scores(
          vectors[net], before[other]["memory"], numbers["tau"])
      known = before[net]["normaliser"]
      normaliser = jnp.where(known > 0, known, contrastive.normaliser(
          scores, batch.id, weights, examples, batch.mask))
      values.append(contrastive.contrastive_loss(
          scores, batch.id, weights, normaliser, numbers["negatives"], examples))
      states[pair][net] = {"normaliser": normaliser, "memory": (
          contrastive.remembered(
              before[net]["memory"], batch.id, vectors[net], batch.mask))}
  return Changed({
      "hard": Term(hparams.hard_weight, _hard(student, batch, hparams)),
      "contrast": Term(numbers["weight"], functools.reduce(
          jnp.add, values))}, states)


def crd(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * contrast, of the student and of the teacher.

  The own row of the other net's memory is told from all rows of other classes, as
  the mean over all draws of `negatives` of them (Tian et al. 2020, eq. 17 and 18).
  """
  return _crd(
      contrastive.all_negatives, own, student, teacher, batch, hparams)


def crd_drawn(own, student, teacher, batch, hparams) -> Changed:
  """`crd` with `negatives` rows that are drawn for each example, as released."""
  drawn = functools.partial(contrastive.drawn_negatives, own.key, batch.id)
  return _crd(drawn, own, student, teacher, batch, hparams)
