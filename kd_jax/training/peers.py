r"""Peers: nets that train together, each a student of the others at every step.

Net k of K has the loss of an ordinary student whose teachers are the other nets as
they are at this step, constants for its gradient:

  L_k = hard_weight * CE(y, p_k) + soft_weight * T**2 * KL(mean_{l != k} p_l || p_k)

or that of another method. At T = 1 its gradient is that of deep mutual learning
(Zhang et al. 2018, arXiv 1706.00384), CE + the mean over l of KL(p_l || p_k): as
p_k enters the KL through a cross-entropy, which is linear in the teacher, the mean
may stand inside or outside. All nets are updated at once, from the same batch; in
the paper's algorithm one after the other.

A method that compares taps is for two nets: those of the other are a teacher's. If
it projects taps, the other is shown projections, which it does not train.

The nets are one model here, with the parameters of each by its place, so all that
trains a net trains them: devices, lanes, resuming. Its logits are
`[B, K, classes]`; what comes of the training is the mean of their probabilities.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import methods, teachers
from kd_jax.core import randomness, types
from kd_jax.losses import mixtures
from kd_jax.methods import terms as terms_lib

# What a method may have that needs one student and one teacher.
_NOT_AMONG_PEERS = ("inference", "gradients", "memory", "classes", "heads")


def model(nets: Sequence[types.Model]) -> types.Model:
  """The nets as one model, of logits `[B, K, classes]` and the taps of all."""
  def init(key, inputs):
    made = {_at(place): net.init(randomness.stream(key, "peer", place), inputs)
            for place, net in enumerate(nets)}
    return types.Variables({at: each.params for at, each in made.items()},
                           {at: each.state for at, each in made.items()})

  def apply(variables, inputs, *, rngs=None, **context):
    logits, state, every = [], {}, []
    for place, net in enumerate(nets):
      at = _at(place)
      outputs, state[at] = net.apply(
          types.Variables(variables.params[at], variables.state[at]), inputs,
          rngs=rngs and {stream: jax.random.fold_in(key, place)
                         for stream, key in rngs.items()}, **context)
      logits.append(outputs.logits)
      every.append(outputs.features)
    return types.Outputs(jnp.stack(logits, axis=1), taps(every)), state

  settled = [net.settle for net in nets if net.settle]

  def settle(variables):
    made = {_at(place): each(types.Variables(
        variables.params[_at(place)], variables.state[_at(place)]))
            for place, each in enumerate(settled)}
    return types.Variables({at: each.params for at, each in made.items()},
                           {at: each.state for at, each in made.items()})

  return types.Model(
      init, apply, frozenset.intersection(*(net.understands for net in nets)),
      settle if settled else None)


def _at(place: int) -> str:
  """Where the numbers of a peer are: names make no other net."""
  return f"peer_{place}"


def taps(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Taps of the nets, or their shapes, as those of one.

  Example:
    >>> taps([{"pooled": (4,)}, {"pooled": (8,)}])
    {'peer_0.pooled': (4,), 'peer_1.pooled': (8,)}
  """
  return {f"{_at(place)}.{tap}": x
          for place, own in enumerate(each) for tap, x in own.items()}


def _of_each(every: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
  """The taps of each net, out of those of pairs of all."""
  found: list[dict[str, Any]] = [{} for _ in range(number)]
  for pair, x in every.items():
    name, tap = methods.parted(pair[:len(pair) // 2])  # With itself.
    found[int(name.removeprefix("peer_"))][tap] = x
  return found


def method(
    own: methods.Method, names: tuple[str, ...], mean: str
) -> methods.Method:
  """A method for peers: each learns by it from the mixture of all others.

  Args:
    own: A method; one that compares taps is for two nets.
    names: Those of the peers, for their terms.
    mean: What is averaged over the others, one of `teachers.MEANS`.

  Raises:
    ValueError: If it is not a method that peers can learn by.
  """
  lacking = [field for field in _NOT_AMONG_PEERS if getattr(own, field)]
  if lacking:
    raise ValueError("it needs more than the logits and taps of both nets")
  if own.pairs is not None and len(names) > 2:
    raise ValueError(f"it compares the taps of two nets, not of {len(names)}")
  # Of what a method has of its own nothing stays in nets that are one: no members.
  return own._replace(
      init=functools.partial(_init, own, len(names)),
      terms=functools.partial(_terms, own, names, mean),
      pairs=own.pairs and _every_tap,
      needs_teacher=False, members={}, inference=_together)


def _every_tap(every: methods.Shapes, same: methods.Shapes) -> methods.Pairs:
  """Every tap with itself, as what is compared depends on all: see `_bound`."""
  del same
  return tuple((tap, tap) for tap in every)


def _bound(own, each, place: int) -> tuple[methods.Method, methods.Pairs]:
  """The method for a net and its peer; `each` has the shapes of their taps."""
  return methods.bind(own, each[place], each[1 - place], ())


def net(variables: types.Variables, place: int) -> types.Variables:
  """One of the nets, out of what came of their training."""
  return types.Variables(variables.params["student"][_at(place)],
                         variables.state["student"][_at(place)])


def _init(own, number, key, student, teacher):
  del teacher
  each, made = _of_each(student, number), {}
  for place in range(number):
    bound, pairs = (own, ()) if own.pairs is None else _bound(own, each, place)
    made[_at(place)] = bound.init(
        jax.random.fold_in(key, place), methods.of_pairs(each[place], pairs, 0),
        methods.of_pairs(each[1 - place], pairs, 1))
  return ({at: params for at, (params, _) in made.items()},
          {at: state for at, (_, state) in made.items()})


def _terms(own_method, names, mean, own, student, teacher, batch, hparams):
  """The terms of all, `NAME_TERM`, each from the logits and taps of the others."""
  del teacher
  each = _of_each(student.features, len(names))
  found: dict[str, Any] = {}
  states = {}
  logits = jnp.moveaxis(student.logits, 1, 0)
  # Who is asked is a teacher whose members' logits are at hand.
  asked = teachers.Teacher(
      lambda logits, batch: types.Outputs(logits, {}), (),
      jnp.full((len(names) - 1,), 1.0 / (len(names) - 1)), mean)
  for place, name in enumerate(names):
    others = teachers.outputs(
        asked, jnp.delete(logits, place, axis=0), batch, hparams.temperature)
    at = _at(place)
    part = own._replace(params=own.params[at], state=own.state[at])
    bound, mine = own_method, types.Outputs(logits[place], {})
    if own_method.pairs is not None:
      bound, mine, theirs = _compared(own_method, own, each, logits, place, batch)
      others = others._replace(features=theirs)
    result = terms_lib.and_state(
        bound.terms(part, mine, others, batch, hparams), part)
    states[at] = result.state
    found |= {f"{name}_{term}": value for term, value in result.terms.items()}
  return terms_lib.Changed(found, states)


def _compared(own_method, own, each, logits, place, batch):
  """The method for a net and its peer, its outputs, and what the peer shows it."""
  shapes = [{tap: x.shape[1:] for tap, x in of.items()} for of in each]
  bound, pairs = _bound(own_method, shapes, place)
  mine = types.Outputs(logits[place], methods.of_pairs(each[place], pairs, 0))
  theirs = each[1 - place]
  if own_method.embed is not None:
    at, (_, its) = _at(1 - place), _bound(own_method, shapes, 1 - place)
    shown = own_method.embed(
        own._replace(params=own.params[at], state=own.state[at]),
        types.Outputs(logits[1 - place], methods.of_pairs(theirs, its, 0)), batch)
    theirs = {pair[0]: shown.features["-".join(pair)] for pair in its}
  return bound, mine, jax.lax.stop_gradient(methods.of_pairs(theirs, pairs, 1))


def _together(own, outputs: types.Outputs) -> types.Outputs:
  """The mean of the peers' probabilities, as logits `[B, classes]`."""
  del own
  return types.Outputs(
      mixtures.mixture_logits(jnp.moveaxis(outputs.logits, 1, 0), 1.0), {})
