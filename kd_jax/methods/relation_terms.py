"""Terms of the methods that relate examples: a function a method.

Signatures are those of `terms.py`. A method's value is summed over its pairs of
taps. `METHOD_init` gives what it has of its own.
"""

import functools
import math

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.losses import contrastive, similarity
from kd_jax.losses import rkd as rkd_losses
from kd_jax.methods import layers
from kd_jax.methods.feature_terms import paired, summed
from kd_jax.methods.terms import Changed, Term, Terms, beside_labels, sum_of


def rkd(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * (distance * D + angle * A), summed over pairs.

  D and A compare distances of two and angles of three examples of the batch (Park
  et al. 2019, eq. 5 and 8).
  """
  del own
  numbers = hparams.numbers
  term = lambda part, loss: Term(numbers["weight"] * numbers[part], sum_of(
      loss(tap, teacher.features[pair], batch.mask)
      for pair, tap in student.features.items()))
  return beside_labels(
      student, batch, hparams,
      distance=term("distance", rkd_losses.distance_loss),
      angle=term("angle", rkd_losses.angle_loss))


def sp(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * |G - H|**2 / B**2, summed over pairs.

  G and H are the taps' products of all examples, each row of norm 1 (Tung & Mori
  2019).
  """
  del own
  return summed(
      "similarity", functools.partial(similarity.similarity_loss, mask=batch.mask),
      student, teacher, batch, hparams)


def pkt(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * KL(P || Q) / B**2, summed over pairs and rows.

  P and Q are who is likely to be whose neighbour by the cosine, of teacher and
  student (Passalis & Tefas 2018).
  """
  del own
  return summed(
      "affinity", functools.partial(similarity.affinity_loss, mask=batch.mask),
      student, teacher, batch, hparams)


def cc_init(key, student, teacher):
  """Two embeddings of 128 channels for each pair, of both nets' taps."""
  made = lambda place, shape: layers.linear_init(
      jax.random.fold_in(key, place), math.prod(shape), 128)
  return {pair: {"student": made(2 * place, shape),
                 "teacher": made(2 * place + 1, teacher[pair])}
          for place, (pair, shape) in enumerate(student.items())}, {}


def cc(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * sum_b <|d_b|, |d_(b+1)|> / (B - 1) over pairs.

  d_b is the gap of two embeddings of 128 channels, which train with the student.
  This is what RepDistiller has from the authors; `cc_kernel` is the paper's.
  """
  embedded = lambda pair, net, x: layers.linear(
      own.params[pair][net], x.reshape(len(x), -1))
  found = [similarity.congruence_loss(
      embedded(pair, "student", s), embedded(pair, "teacher", t), batch.mask)
           for pair, s, t in paired(student, teacher, batch.mask)]
  return beside_labels(student, batch, hparams, congruence=Term(
      hparams.numbers["weight"], sum_of(found)))


def cc_kernel(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * |K - H|**2 / B**2, summed over pairs.

  K and H are Gaussian kernels of all pairs of examples, by their Taylor series
  (Peng et al. 2019).
  """
  del own
  return summed(
      "congruence", functools.partial(
          similarity.kernel_loss, mask=batch.mask, gamma=hparams.numbers["gamma"]),
      student, teacher, batch, hparams)


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
  return Changed(beside_labels(student, batch, hparams, contrast=Term(
      numbers["weight"], sum_of(values))), states)


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
