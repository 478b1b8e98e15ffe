r"""Peers: nets that train together, each a student of the others at every step.

Net k of K has the loss of an ordinary student whose teachers are the other nets as
they are at this step, constants for its gradient:

  L_k = hard_weight * CE(y, p_k) + soft_weight * T**2 * KL(mean_{l != k} p_l || p_k)

or that of another method on logits. At T = 1 its gradient is that of deep mutual
learning (Zhang et al. 2018, arXiv 1706.00384), CE + the mean over l of KL(p_l ||
p_k): as p_k enters the KL through a cross-entropy, which is linear in the teacher,
the mean may stand inside or outside. All nets are updated at once, from the same
batch; in the paper's algorithm one after the other.

The nets are one model here, with the parameters of each by its place, so all that
trains a net trains them: devices, lanes, resuming. Its logits are
`[B, K, classes]`; what comes of the training is the mean of their probabilities.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import methods, teachers
from kd_jax.core import randomness, types
from kd_jax.losses import mixtures
from kd_jax.methods import terms as terms_lib

# What a method on logits may have that needs one student and one teacher.
_NOT_AMONG_PEERS = ("pairs", "inference", "gradients", "memory", "classes", "heads")


def model(nets: Sequence[types.Model]) -> types.Model:
  """The nets as one model, of logits `[B, K, classes]` and no taps."""
  def init(key, inputs):
    made = {_at(place): net.init(randomness.stream(key, "peer", place), inputs)
            for place, net in enumerate(nets)}
    return types.Variables({at: each.params for at, each in made.items()},
                           {at: each.state for at, each in made.items()})

  def apply(variables, inputs, *, rngs=None, **context):
    logits, state = [], {}
    for place, net in enumerate(nets):
      at = _at(place)
      outputs, state[at] = net.apply(
          types.Variables(variables.params[at], variables.state[at]), inputs,
          rngs=rngs and {stream: jax.random.fold_in(key, place)
                         for stream, key in rngs.items()}, **context)
      logits.append(outputs.logits)
    return types.Outputs(jnp.stack(logits, axis=1), {}), state

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


def method(
    own: methods.Method, names: tuple[str, ...], mean: str
) -> methods.Method:
  """A method for peers: each learns by it from the mixture of all others.

  Args:
    own: A method on logits.
    names: Those of the peers, for their terms.
    mean: What is averaged over the others, one of `teachers.MEANS`.

  Raises:
    ValueError: If it is not a method that peers can learn by.
  """
  lacking = [field for field in _NOT_AMONG_PEERS if getattr(own, field)]
  if lacking:
    raise ValueError("peers learn from each other's logits alone")
  return own._replace(
      init=functools.partial(_init, own, len(names)),
      terms=functools.partial(_terms, own, names, mean),
      needs_teacher=False, members=None, inference=_together)


def net(variables: types.Variables, place: int) -> types.Variables:
  """One of the nets, out of what came of their training."""
  return types.Variables(variables.params["student"][_at(place)],
                         variables.state["student"][_at(place)])


def _init(own, number, key, student, teacher):
  made = {_at(place): own.init(jax.random.fold_in(key, place), student, teacher)
          for place in range(number)}
  return ({at: params for at, (params, _) in made.items()},
          {at: state for at, (_, state) in made.items()})


def _terms(own_method, names, mean, own, student, teacher, batch, hparams):
  """The terms of all, `NAME_TERM`, each from the logits of the others."""
  del teacher
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
    result = terms_lib.and_state(own_method.terms(
        part, types.Outputs(logits[place], {}), others, batch, hparams), part)
    states[at] = result.state
    found |= {f"{name}_{term}": value for term, value in result.terms.items()}
  return terms_lib.Changed(found, states)


def _together(own, outputs: types.Outputs) -> types.Outputs:
  """The mean of the peers' probabilities, as logits `[B, classes]`."""
  del own
  return types.Outputs(
      mixtures.mixture_logits(jnp.moveaxis(outputs.logits, 1, 0), 1.0), {})
