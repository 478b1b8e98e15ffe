r"""Peers: nets that train together, each a student of the others at every step.

Net k of K has the loss of an ordinary student whose teachers are the other nets as
they are at this step, constants for its gradient:

  L_k = hard_weight * CE(y, p_k) + soft_weight * T**2 * KL(mean_{l != k} p_l || p_k)

or that of another method on logits. At T = 1 its gradient is that of deep mutual
learning (Zhang et al. 2018, arXiv 1706.00384), CE + the mean over l of KL(p_l ||
p_k): as p_k enters the KL through a cross-entropy, which is linear in the teacher,
the mean may stand inside or outside. All nets are updated at once, from the same
batch; in the paper's algorithm one after the other.

The nets are one model here, with the parameters of each under its name, so all
that trains a net trains them: devices, lanes, resuming. Its logits are
`[B, K, classes]`; what comes of the training is the mean of their probabilities.
"""

from collections.abc import Mapping
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


def model(nets: Mapping[str, types.Model]) -> types.Model:
  """The nets as one model, of logits `[B, K, classes]` and no taps."""
  def init(key, inputs):
    made = {name: net.init(randomness.stream(key, "peer", place), inputs)
            for place, (name, net) in enumerate(nets.items())}
    return types.Variables({name: each.params for name, each in made.items()},
                           {name: each.state for name, each in made.items()})

  def apply(variables, inputs, *, rngs=None, **context):
    logits, state = [], {}
    for place, (name, net) in enumerate(nets.items()):
      outputs, state[name] = net.apply(
          types.Variables(variables.params[name], variables.state[name]), inputs,
          rngs=rngs and {stream: jax.random.fold_in(key, place)
                         for stream, key in rngs.items()}, **context)
      logits.append(outputs.logits)
    return types.Outputs(jnp.stack(logits, axis=1), {}), state

  return types.Model(init, apply, frozenset.intersection(
      *(net.understands for net in nets.values())))


def method(
    own: methods.Method, names: tuple[str, ...], mean: str
) -> methods.Method:
  """A method for peers: each learns by it from the mixture of all others.

  Args:
    own: A method on logits.
    names: Those of the peers, as of `model`.
    mean: What is averaged over the others, one of `teachers.MEANS`.

  Raises:
    ValueError: If it is not a method that peers can learn by.
  """
  lacking = [field for field in _NOT_AMONG_PEERS if getattr(own, field)]
  if lacking:
    raise ValueError("peers learn from each other's logits alone")
  return own._replace(
      init=functools.partial(_init, own, names),
      terms=functools.partial(_terms, own, names, mean),
      needs_teacher=False, members=None, inference=_together)


def net(variables: types.Variables, name: str) -> types.Variables:
  """One of the nets, out of what came of their training."""
  return types.Variables(variables.params["student"][name],
                         variables.state["student"][name])


def _init(own, names, key, student, teacher):
  made = {name: own.init(jax.random.fold_in(key, place), student, teacher)
          for place, name in enumerate(names)}
  return ({name: params for name, (params, _) in made.items()},
          {name: state for name, (_, state) in made.items()})


def _terms(own_method, names, mean, own, student, teacher, batch, hparams):
  """The terms of all, `NAME_TERM`, each from the logits of the others."""
  del teacher
  found: dict[str, Any] = {}
  states = {}
  logits = jnp.moveaxis(student.logits, 1, 0)
  others = jax.lax.stop_gradient(logits)
  for place, name in enumerate(names):
    among = jnp.delete(others, place, axis=0)
    weights = jnp.full((len(names) - 1,), 1.0 / (len(names) - 1))
    if mean == "confidence":
      weights = mixtures.confidence_weights(among, batch.label)
    part = own._replace(params=own.params[name], state=own.state[name])
    result = terms_lib.and_state(own_method.terms(
        part, types.Outputs(logits[place], {}),
        types.Outputs(teachers.combine(
            among, weights, hparams.temperature, mean=mean), {}),
        batch, hparams), part)
    states[name] = result.state
    found |= {f"{name}_{term}": value for term, value in result.terms.items()}
  return terms_lib.Changed(found, states)


def _together(own, outputs: types.Outputs) -> types.Outputs:
  """The mean of the peers' probabilities, as logits `[B, classes]`."""
  del own
  return types.Outputs(
      mixtures.mixture_logits(jnp.moveaxis(outputs.logits, 1, 0), 1.0), {})
