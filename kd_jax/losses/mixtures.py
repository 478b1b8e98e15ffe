r"""Several teachers as one: mixtures of their distributions, and who is heard.

With p_m the members' distributions at T and weights w_m that sum to 1,

  arithmetic   p = sum_m w_m p_m           nearest by sum_m w_m KL(p_m || p)
  geometric    p_i ~ prod_m p_mi**w_m      nearest by sum_m w_m KL(p || p_m)

So KD from the arithmetic mixture has the gradient of the weighted sum of the
members' KLs, and reverse KL from the geometric one that of their reverse KLs.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import parts

MEANS = ("arithmetic", "geometric")


def mixture_logits(
    member_logits: jax.Array,
    temperature: losses.Scalar,
    weights: jax.Array | None = None,
    *,
    mean: str = "arithmetic",
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Logits of the mixture of several teachers, at the temperature of the loss.

  arithmetic:  v = T log sum_m w_m softmax(v_m / T)
  geometric:   v = sum_m w_m v_m, of centred v_m

  softmax(v / T) is the mixture. The arithmetic one holds at this T alone.

  Args:
    member_logits: v_m, `[members, ..., classes]`; receive no gradient. A class
      that is -inf for some has probability 0 for these; in the geometric mixture
      for all.
    temperature: T > 0; a scalar, or `[..., 1]`.
    weights: w, `[members]`, or `[members, ...]` for one weight an example, >= 0,
      summing to 1 over members; default all alike.
    mean: "arithmetic" or "geometric".
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    v, `[..., classes]`, at least float32; -inf for a masked class. As any teacher's
    logits they count as constants, also in T.

  Raises:
    ValueError: If there is no such mean, or T is a Python number that is
      outside [1e-6, 1e5].

  Example:
    >>> sure = jnp.array([[4.0, 0.0], [0.0, 4.0]])
    >>> v = mixture_logits(sure, 2.0, jnp.array([0.5, 0.5]))
    >>> losses.tempered_softmax(v, 2.0).round(4)
    Array([0.5, 0.5], dtype=float32)

  Source: Hinton et al. (2015), arXiv 1503.02531, section 2 names both means.
  """
  if mean not in MEANS:
    raise ValueError(f"mean must be one of {', '.join(MEANS)}, got {mean!r}")
  members, rank = member_logits.shape[0], member_logits.ndim
  log_p = losses.teacher_log_softmax(
      member_logits, _of_members(temperature), _of_members(where))
  if weights is None:
    weights = jnp.full((members,), 1.0 / members, log_p.dtype)
  w = jax.lax.stop_gradient(weights)
  w = w.reshape(w.shape + (1,) * (rank - w.ndim)).astype(log_p.dtype)
  if mean == "arithmetic":
    # Of a class that no member has, log 0 = -inf.
    return temperature * jax.nn.logsumexp(log_p, axis=0, b=w)
  exists = jnp.all(
      losses.existing(member_logits, _of_members(where)), axis=0)
  mixed = jnp.sum(w * jnp.where(exists, log_p, 0.0), axis=0)
  return jnp.where(exists, temperature * mixed, -jnp.inf)


def confidence_weights(
    member_logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Weights of the members by how near each is to the label, for each example.

  w_m = (1 - exp(c_m) / sum_j exp(c_j)) / (M - 1),   c_m = - log p_my at T = 1

  Args:
    member_logits: v_m, `[members, ..., classes]`; receive no gradient.
    labels: True classes y, integers `[...]`.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    w, `[members, ...]`, summing to 1 over members; 1 for a single one.

  Example:
    >>> v = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))  # exp(c) = 2 and 4
    >>> confidence_weights(v, jnp.array(0)).round(4)  # 1 - 2/6, 1 - 4/6
    Array([0.6667, 0.3333], dtype=float32)

  Source: Zhang et al. (2022), Confidence-aware multi-teacher knowledge
  distillation, ICASSP, arXiv 2201.00007, and the authors' code.
  """
  members = member_logits.shape[0]
  log_p = losses.teacher_log_softmax(member_logits, 1.0, _of_members(where))
  labels = jnp.broadcast_to(labels, log_p.shape[:-1])
  distance = -parts.at_label(log_p, labels)
  if members == 1:
    return jnp.ones_like(distance)
  return (1.0 - jax.nn.softmax(distance, axis=0)) / (members - 1)


def _of_members(same: Any) -> Any:
  """What is the same for every member: a mask, a temperature an example."""
  return same[None] if getattr(same, "ndim", 0) else same
