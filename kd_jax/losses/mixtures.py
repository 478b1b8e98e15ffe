r"""Several teachers as one: mixtures of their distributions, and who counts.

With p_m the members' distributions at T and weights w_m that sum to 1,

  arithmetic   p = sum_m w_m p_m           nearest by sum_m w_m KL(p_m || p)
  geometric    p_i ~ prod_m p_mi**w_m      nearest by sum_m w_m KL(p || p_m)

So KD from the arithmetic mixture has the gradient of the weighted sum of the
members' KLs, and reverse KL from the geometric one that of their reverse KLs.

Weights may be of an example: by how near a member is to the label
(`confidence_weights`), how sure it is (`certainty_weights`), or how much the others
agree with it (`agreement_weights`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    partial: bool = False,
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
    partial: Whether a class that is -inf for a member is one that it knows nothing
      of, and not one that it excludes. Of n_i of M members that know class i, the
      mean is then taken alone: p_i ~ M / n_i sum_m w_m p_mi, or the product with
      weights that sum to 1 over them (`shares`). Of members that share no class,
      the arithmetic mixture has w_m as the probability that it is one of m's.

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
  log_p = losses.teacher_log_softmax(
      member_logits, _of_members(temperature), _of_members(where))
  w = _weights(weights, log_p)
  exists = losses.existing(member_logits, _of_members(where))
  if mean == "arithmetic":
    if partial:
      known = jnp.mean(exists, axis=0, keepdims=True, dtype=log_p.dtype)
      w = w / jnp.where(known > 0, known, 1.0)
    # Of a class that no member has, log 0 = -inf.
    return temperature * jax.nn.logsumexp(log_p, axis=0, b=w)
  if partial:
    w = shares(w, exists)
  log_p = jnp.where(exists, log_p, 0.0)
  exists = (jnp.any if partial else jnp.all)(exists, axis=0)
  mixed = jnp.sum(w * jnp.where(exists, log_p, 0.0), axis=0)
  return jnp.where(exists, temperature * mixed, -jnp.inf)


def _weights(weights: jax.Array | None, log_p: jax.Array) -> jax.Array:
  """Weights of members as constants, with the axes of `log_p`; none: all alike."""
  if weights is None:
    weights = jnp.full((len(log_p),), 1.0 / len(log_p), log_p.dtype)
  w = jax.lax.stop_gradient(weights)
  return w.reshape(w.shape + (1,) * (log_p.ndim - w.ndim)).astype(log_p.dtype)


def shares(weights: jax.Array, known: jax.Array) -> jax.Array:
  r"""Weights of the members for each class, of those that know it.

  w_mi = w_m / sum of w_j over the members j that know class i; 0 if m does not

  Args:
    weights: w, `[members, ..., 1]`, >= 0.
    known: True where a member knows a class, bool `[members, ..., classes]`.

  Returns:
    `[members, ..., classes]`; all 0 for a class that nobody of any weight knows.

  Example:
    >>> known = jnp.array([[True, True, False], [False, True, True]])
    >>> shares(jnp.array([[0.25], [0.75]]), known)
    Array([[1.  , 0.25, 0.  ],
           [0.  , 0.75, 1.  ]], dtype=float32)
  """
  own = jnp.where(known, weights, 0.0)
  total = jnp.sum(own, axis=0, keepdims=True)
  return own / jnp.where(total > 0, total, 1.0)


def knowing(
    member_logits: jax.Array, classes: Sequence[Sequence[int]]
) -> jax.Array:
  """Logits that are -inf for the classes that a member does not know.

  Args:
    member_logits: `[members, ..., classes]`.
    classes: Those that each member knows; () for all.

  Example:
    >>> knowing(jnp.zeros((2, 3)), [(0, 2), ()])
    Array([[  0., -inf,   0.],
           [  0.,   0.,   0.]], dtype=float32)
  """
  known = np.array([np.isin(np.arange(member_logits.shape[-1]), each)
                    if len(each) else np.ones(member_logits.shape[-1], bool)
                    for each in classes])
  known = known.reshape(
      len(known), *(1,) * (member_logits.ndim - 2), member_logits.shape[-1])
  return jnp.where(known, member_logits, -jnp.inf)


def certainty_weights(
    member_logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  r"""Weights of the members by how sure each is of an example, without its label.

  w_m = (1 / H_m) / sum_j 1 / H_j,   H_m = - sum_i p_mi log p_mi at T = 1

  A member that is certain counts alone; several that are, alike.

  Args:
    member_logits: v_m, `[members, ..., classes]`; receive no gradient.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    w, `[members, ...]`, summing to 1 over members.

  Example:
    >>> v = jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])  # H = log 2 and 0
    >>> certainty_weights(v).round(4)
    Array([0., 1.], dtype=float32)

  Source: Kwon et al. (2020), Adaptive knowledge distillation based on entropy,
  ICASSP, weigh teachers by their entropy. Their formula was not at hand; this one
  is ours.
  """
  log_p = losses.teacher_log_softmax(member_logits, 1.0, _of_members(where))
  p = jnp.exp(log_p)
  entropy = -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1)
  least = jnp.finfo(entropy.dtype).tiny
  return jax.nn.softmax(-jnp.log(jnp.maximum(entropy, least)), axis=0)


def agreement_weights(
    member_logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  r"""Weights of the members by how much the others agree with each, by example.

  w_m = a_m / sum_j a_j,   a_m = sum over j other than m of p_m . p_j, at T = 1

  p_m . p_j is the probability that draws from the two are the same class, so that a
  member on its own counts little. Two members always count alike.

  Args:
    member_logits: v_m, `[members, ..., classes]`; receive no gradient.
    where: True for the classes that exist, bool `[..., classes]`; default all.

  Returns:
    w, `[members, ...]`, summing to 1 over members; even where nobody agrees.

  Example:
    >>> v = jnp.log(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> agreement_weights(v)
    Array([0.5, 0.5, 0. ], dtype=float32)

  Source: none; a soft form of a vote.
  """
  p = jnp.exp(losses.teacher_log_softmax(member_logits, 1.0, _of_members(where)))
  agreed = jnp.sum(p * (jnp.sum(p, axis=0, keepdims=True) - p), axis=-1)
  total = jnp.sum(agreed, axis=0, keepdims=True)
  # Below it, what is left of the difference is rounding.
  some = total > 8 * jnp.finfo(p.dtype).eps
  return jnp.where(
      some, agreed / jnp.where(some, total, 1.0), 1.0 / member_logits.shape[0])


# Weights of an example that need no label, by the name of their mean.
BY_EXAMPLE = {"certainty": certainty_weights, "agreement": agreement_weights}


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
