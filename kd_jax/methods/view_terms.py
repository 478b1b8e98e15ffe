"""Terms of the methods that see each example in two views: a function a method.

Signatures are those of `terms.py`; the batch is one of `Batch.twice`. `METHOD_init`
gives what it has of its own.
"""

import jax

from kd_jax.core import types
from kd_jax.losses import self_supervised
from kd_jax.methods import layers
from kd_jax.methods.terms import Changed, Term, beside_labels, sum_of

# Of the projector, as released.
_HIDDEN, _PROJECTION = 512, 128


def dogo_init(key, student, teacher):
  """A projector of each pair's tap: dense, BatchNorm, ReLU, dense."""
  params, states = {}, {}
  for place, (pair, shape) in enumerate(student.items()):
    if len(shape) != 1 or len(teacher[pair]) != 1:
      raise ValueError(f"it compares vectors, and a tap of {pair} is a map")
    first, last = jax.random.split(jax.random.fold_in(key, place))
    norm, states[pair] = layers.norm_init(_HIDDEN)
    params[pair] = {
        "first": layers.linear_init(first, shape[0], _HIDDEN, bias=False),
        "norm": norm, "last": layers.linear_init(last, _HIDDEN, _PROJECTION)}
  return params, states


def _projected(own, outputs, batch) -> tuple[dict, dict]:
  """The projection of each pair's tap, and the running statistics after it."""
  found, states = {}, {}
  for pair, tap in outputs.features.items():
    params = own.params[pair]
    x = layers.linear(params["first"], layers.clean(tap, batch.mask))
    x, states[pair] = layers.norm(
        params["norm"], own.state[pair], x, batch.mask, axis_name=own.axis_name)
    found[pair] = layers.linear(params["last"], jax.nn.relu(x))
  return found, states


def dogo_embed(own, outputs, batch) -> types.Outputs:
  """A net that trains beside others shows them its projections."""
  return outputs._replace(features=_projected(own, outputs, batch)[0])


def dogo(own, student, teacher, batch, hparams) -> Changed:
  """hard_weight * hard + contrast * C + weight * K, summed over pairs.

  C tells the other view of an example from all other rows; K compares with the
  other net which rows of the other view are alike (Bhat et al. 2021).
  """
  numbers = hparams.numbers
  projected, states = _projected(own, student, batch)
  contrast = [self_supervised.nt_xent(
      z, batch.id, batch.second, numbers["tau"], batch.mask)
              for z in projected.values()]
  likeness = [self_supervised.likeness_divergence(
      z, layers.clean(teacher.features[pair], batch.mask), batch.second,
      numbers["likeness_tau"], batch.mask) for pair, z in projected.items()]
  return Changed(beside_labels(
      student, batch, hparams,
      contrast=Term(numbers["contrast"], sum_of(contrast)),
      likeness=Term(numbers["weight"], sum_of(likeness))), states)
