"""Terms of the methods that compare taps: a function a method.

Signatures are those of `terms.py`. A method's value is summed over its pairs of
taps. `METHOD_init` gives what it has of its own, and raises a ValueError where two
taps cannot be compared.
"""

from collections.abc import Callable, Iterator
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.losses import features, maps
from kd_jax.methods import factors, layers, regressor, variational
from kd_jax.methods.pairs import TooFew
from kd_jax.methods.terms import Changed, Term, Terms, beside_labels, sum_of


def paired(
    student: types.Outputs, teacher: types.Outputs, mask: jax.Array
) -> Iterator[tuple[str, jax.Array, jax.Array]]:
  """Each pair and its taps, in order, with 0 in padding, which may hold NaN."""
  for pair, tap in student.features.items():
    other = jax.lax.stop_gradient(teacher.features[pair])
    yield pair, layers.clean(tap, mask), layers.clean(other, mask)


def summed(
    name: str, distance: Callable[..., jax.Array], student, teacher, batch, hparams
) -> Terms:
  """hard_weight * hard + weight * the sum of distances over the pairs."""
  found = [distance(s, t) for _, s, t in paired(student, teacher, batch.mask)]
  return beside_labels(student, batch, hparams, **{name: Term(
      hparams.numbers["weight"], sum_of(found))})


def maps_init(key, student, teacher):
  """Nothing of its own; every tap is a map, of a size that fits the other."""
  del key
  _check_maps(student, teacher)
  return {}, {}


def _check_maps(student, teacher) -> None:
  for pair, shape in student.items():
    if not _pooled_shape(shape, teacher[pair]):
      raise ValueError(f"it compares maps, and the taps of {pair} are vectors")


def _pooled_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
  """Height and width at which maps of two shapes are compared; () of vectors."""
  if all(len(shape) == 1 for shape in shapes):
    return ()
  taps = [jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in shapes]
  return jax.eval_shape(features.pooled_alike, *taps)[0].shape[1:3]


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
  return Changed(beside_labels(student, batch, hparams, hint=Term(
      hparams.numbers["weight"], sum_of(distances))), states)


def at(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * sum over pairs of |q(f) - q(g)|**2 / size.

  q is the mean square over the channels, of norm 1 (Zagoruyko & Komodakis 2017).
  """
  del own
  return summed(
      "attention", maps.attention_distance, student, teacher, batch, hparams)


def vid_init(key, student, teacher):
  """A Gaussian for each pair, of the teacher's channels (Ahn et al. 2019)."""
  for pair, shape in student.items():
    _pooled_shape(shape, teacher[pair])
  return {pair: variational.init(jax.random.fold_in(key, place), shape[-1],
                                 teacher[pair][-1])
          for place, (pair, shape) in enumerate(student.items())}, {}


def vid(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * sum over pairs of -log N(g; m(f), v) / size.

  m is a module and v a variance of each channel, and both train with the student
  (Ahn et al. 2019).
  """
  found = []
  for pair, s, t in paired(student, teacher, batch.mask):
    if s.ndim == 4:
      s, t = features.pooled_alike(s, t)
    mean, variance = variational.apply(own.params[pair], s)
    found.append(features.negative_log_likelihood(mean, t, variance))
  return beside_labels(student, batch, hparams, likelihood=Term(
      hparams.numbers["weight"], sum_of(found)))


def nst(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * sum over pairs of |M - W|**2.

  M is the mean of c c' over the channels c of the student's map, each of norm 1
  over its pixels, and W the teacher's (Huang & Wang 2017).
  """
  del own
  return summed(
      "selectivity", maps.selectivity_distance, student, teacher, batch, hparams)


def fsp_init(key, student, teacher):
  """Nothing of its own; two taps at least, of as many channels in both nets."""
  del key
  for pair, shape in student.items():
    _check_maps({pair: shape}, {pair: shape})
    if shape[-1] != teacher[pair][-1]:
      raise ValueError(
          f"the taps of {pair} need as many channels in both nets, and have "
          f"{shape[-1]} and {teacher[pair][-1]}")
  for one, two in itertools.pairwise(student):
    for taps in (student, teacher):
      _check_maps({f"{one} and {two}": taps[one]}, {f"{one} and {two}": taps[two]})
  if len(student) < 2:
    raise TooFew("it compares what happens from a tap to the next, and needs two "
                 "pairs of taps")
  return {}, {}


def fsp(own, student, teacher, batch, hparams) -> Terms:
  """hard_weight * hard + weight * sum over neighbours of |G - H|**2 / size.

  G is the mean over the pixels of x y' of two taps x, y that follow each other in
  the student, and H that of the teacher (Yim et al. 2017). The paper trains
  on it first, and on the labels after that.
  """
  del own
  taps = list(paired(student, teacher, batch.mask))
  found = [maps.flow_distance((x, y), (g, h))
           for (_, x, g), (_, y, h) in itertools.pairwise(taps)]
  return beside_labels(student, batch, hparams, flow=Term(
      hparams.numbers["weight"], sum_of(found)))


def ab_init(key, student, teacher):
  """A regressor for each pair of unlike shapes (Heo et al. 2019)."""
  params, state = {}, {}
  for place, (pair, shape) in enumerate(student.items()):
    params[pair], state[pair] = ({}, {}) if shape == teacher[pair] else (
        regressor.init(jax.random.fold_in(key, place), shape, teacher[pair]))
  return params, state


def ab(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + weight * sum_i 2**(i - n) * boundary of r(f_i) and g_i.

  The last of the n pairs counts 1, the one before it 1/2, and so on; r is a
  regressor without ReLU where the shapes differ (Heo et al. 2019). The paper
  trains on it first, and on labels and logits after that.
  """
  found, states = [], {}
  for pair, s, t in paired(student, teacher, batch.mask):
    states[pair] = own.state[pair]
    if own.params[pair]:
      s, states[pair] = regressor.apply(
          own.params[pair], own.state[pair], s, batch.mask, relu=False,
          axis_name=own.axis_name)
    found.append(features.boundary_distance(s, t))
  total = functools.reduce(lambda earlier, last: 0.5 * earlier + last, found)
  return Changed(beside_labels(student, batch, hparams, boundary=Term(
      hparams.numbers["weight"], total)), states)


def ft_init(key, student, teacher, *, norm: bool = False):
  """Paraphraser and translator of each pair (Kim et al. 2018)."""
  _check_maps(student, teacher)
  params: dict[str, Any] = {}
  state: dict[str, Any] = {}
  for place, (pair, shape) in enumerate(student.items()):
    keys = jax.random.split(jax.random.fold_in(key, place), 3)
    own, other = shape[-1], teacher[pair][-1]
    factor = max(1, other // 2)
    made = {
        "encoder": factors.init(keys[0], other, other, factor, factor),
        "decoder": factors.init(
            keys[1], factor, factor, other, other, transposed=True),
        "translator": factors.init(keys[2], own, own, factor, factor, norm=norm)}
    params[pair] = {name: each for name, (each, _) in made.items()}
    state[pair] = {name: each for name, (_, each) in made.items()}
  return params, state


def ft(own, student, teacher, batch, hparams,
       distance=maps.factor_distance) -> Changed:
  """hard_weight * hard + weight * factor + paraphrase * |P(g) - g|**2 / size.

  factor = sum over pairs of |q(F) - q(G)| / size, of the student's and the
  teacher's factor, each of norm 1. The teacher's comes from a paraphraser P, which
  learns from its own term alone (Kim et al. 2018). The paper trains P
  before the student; here both begin together.
  """
  gaps, rebuilt = [], []
  states: dict[str, Any] = {}
  for pair, s, t in paired(student, teacher, batch.mask):
    states[pair] = {}

    def through(name, x, pair=pair):
      y, states[pair][name] = factors.apply(
          own.params[pair][name], own.state[pair][name], x, batch.mask,
          own.axis_name)
      return y

    factor = through("encoder", t)
    rebuilt.append(features.mean_squared_error(through("decoder", factor), t))
    gaps.append(distance(through("translator", s), factor))
  numbers = hparams.numbers
  return Changed(beside_labels(
      student, batch, hparams, factor=Term(numbers["weight"], sum_of(gaps)),
      paraphrase=Term(numbers["paraphrase"], sum_of(rebuilt))), states)


def ft_attention_init(key, student, teacher):
  """As `ft`, with batch normalisation in the translator, as RepDistiller has it."""
  return ft_init(key, student, teacher, norm=True)


def ft_attention(own, student, teacher, batch, hparams) -> Changed:
  """As `ft`, with q the mean square of a factor over its channels, of norm 1."""
  return ft(own, student, teacher, batch, hparams, distance=functools.partial(
      maps.attention_distance, power=1))
