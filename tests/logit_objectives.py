"""Every objective of `kd_jax.losses` beside its equation in float64 NumPy.

The oracles are written from the papers in another form than the code: softmaxes as
plain ratios of exponentials over a plain set of classes, in probabilities and not
in log space. What they would lose to underflow is tried by hand elsewhere.
"""

from collections.abc import Callable
import dataclasses

import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.losses import (
  decoupled,
  divergences,
  mixtures,
  standardised,
  targets,
  transformed,
)

Array = np.ndarray


def softmax(z: Array, t) -> Array:
  """Hinton et al. 2015, eq. 1, wide enough for the sums of `kl` to cancel."""
  z = np.asarray(z, np.longdouble)
  e = np.exp((z - z.max(axis=-1, keepdims=True)) / t)
  return e / e.sum(axis=-1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
  return np.sum(p * np.log(p) - p * np.log(q), axis=-1)


def onehot(y: Array, classes: int) -> Array:
  return np.eye(classes)[y]


def pick(p: Array, y: Array) -> Array:
  return np.sum(p * onehot(y, p.shape[-1]), axis=-1)


def two(share: Array) -> Array:
  """The distribution of one class against all others."""
  return np.stack([share, 1 - share], axis=-1)


def without(z: Array, y: Array) -> Array:
  """Logits of all classes but y, `[..., classes - 1]`."""
  y = np.broadcast_to(y, z.shape[:-1])
  keep = np.arange(z.shape[-1]) != y[..., None]
  return z[keep].reshape(*z.shape[:-1], z.shape[-1] - 1)


def reverse_kl(z, v, y, t):
  return kl(softmax(z, t), softmax(v, t))


def jensen_shannon(beta):
  def oracle(z, v, y, t):
    p, q = softmax(v, t), softmax(z, t)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)
  return oracle


def z_score(z, ddof=0, epsilon=0.0):
  """Sun et al. 2024, algorithm 1."""
  mean, deviation = z.mean(-1, keepdims=True), z.std(-1, keepdims=True, ddof=ddof)
  return (z - mean) / (deviation + epsilon)


def pseudo_label(z, v, y, t):
  return -np.log(pick(softmax(z, 1.0), np.broadcast_to(v.argmax(-1), z.shape[:-1])))


def standardised_kl(**settings):
  def oracle(z, v, y, t):
    z, v = z_score(z, **settings), z_score(v, **settings)
    return kl(softmax(v, t), softmax(z, t))
  return oracle


def normalised_kl(z, v, y, t):
  """NormKD: T s is the temperature of each net; no mean is taken off."""
  t_z = t * z.std(-1, keepdims=True, ddof=1)
  t_v = t * v.std(-1, keepdims=True, ddof=1)
  return t_v[..., 0]**2 * kl(softmax(v, t_v), softmax(z, t_z))


def tckd(z, v, y, t):
  return kl(two(pick(softmax(v, t), y)), two(pick(softmax(z, t), y)))


def nckd(z, v, y, t):
  return kl(softmax(without(v, y), t), softmax(without(z, y), t))


def nkd_label(z, v, y, t):
  return -pick(softmax(v, 1.0), y) * np.log(pick(softmax(z, 1.0), y))


def nkd_others(z, v, y, t):
  p, q = softmax(without(v, y), t), softmax(without(z, y), t)
  return -np.sum(p * np.log(q), axis=-1)


def scd(z, v, y, t):
  return kl(two(softmax(v, t).max(axis=-1)), two(pick(softmax(z, t), y)))


def mcd(z, v, y, t):
  """Example by example, on the classes that the teacher ranks below the label."""
  y = np.broadcast_to(y, z.shape[:-1])
  v = np.broadcast_to(v, z.shape)
  out = np.zeros(z.shape[:-1])
  for i in np.ndindex(out.shape):
    below = v[i] < v[i][y[i]]
    if below.any():
      out[i] = kl(softmax(v[i][below], t), softmax(z[i][below], t))
  return out


def ttm(weighted):
  def oracle(z, v, y, t):
    power = softmax(v, 1.0)**(1 / t)
    u = power.sum(axis=-1)
    divergence = kl(power / u[..., None], softmax(z, 1.0))
    return u * divergence if weighted else divergence
  return oracle


def top(z, v, k):
  """Logits of the teacher's k largest classes, of both nets."""
  order = np.broadcast_to(np.argsort(-v, axis=-1)[..., :k], (*z.shape[:-1], k))
  v = np.broadcast_to(v, z.shape)
  return np.take_along_axis(z, order, -1), np.take_along_axis(v, order, -1)


def top_k_kl(k):
  def oracle(z, v, y, t):
    z, v = top(z, v, k)
    return kl(softmax(v, t), softmax(z, t))
  return oracle


def bucket_kl(k):
  def oracle(z, v, y, t):
    q, p = softmax(z, t), softmax(v, t)
    q, p = top(q, p, k)
    rest = lambda p: np.concatenate([p, 1 - p.sum(-1, keepdims=True)], axis=-1)
    return kl(rest(p), rest(q))
  return oracle


def manual(y, classes, a):
  others = (1 - a) / (classes - 1) if classes > 1 else 0.0
  return np.where(onehot(y, classes) > 0, a, others)


def virtual_teacher(z, v, y, t):
  return kl(softmax(manual(y, z.shape[-1], 0.9), t), softmax(z, 1.0))


def from_manual_teacher(z, v, y, t):
  power = manual(y, z.shape[-1], 0.9)**(1 / t)
  return kl(power / power.sum(-1, keepdims=True), softmax(z, t))


def from_smoothed_labels(z, v, y, t):
  classes = z.shape[-1]
  power = (0.8 * onehot(y, classes) + 0.2 / classes)**(1 / t)
  return kl(power / power.sum(-1, keepdims=True), softmax(z, t))


def members(v):
  """Three teachers made of one."""
  return np.stack([v, -0.5 * v, np.sin(v)])


def _members(v):
  v = losses.at_least_float32(v)  # so that nothing is rounded on the way
  made = jnp.stack([v, -0.5 * v, jnp.sin(v)])
  return jnp.where(v == -jnp.inf, -jnp.inf, made)


WEIGHTS = (0.5, 0.2, 0.3)


def from_arithmetic_mixture(z, v, y, t):
  p = np.einsum("m,m...->...", WEIGHTS, softmax(members(v), t))
  return kl(p, softmax(z, t))


def from_geometric_mixture(z, v, y, t):
  p = np.exp(np.einsum(
      "m,m...->...", WEIGHTS, np.log(softmax(members(v), t))))
  return kl(p / p.sum(-1, keepdims=True), softmax(z, t))


def from_confident_members(z, v, y, t):
  """Zhang et al. 2022: the members' KLs by 1 - softmax of their losses."""
  several = members(v)
  wrong = np.exp(-np.log(np.stack([pick(softmax(m, 1.0), y) for m in several])))
  weights = (1 - wrong / wrong.sum(axis=0)) / 2
  p = np.sum(weights[..., None] * softmax(several, t), axis=0)
  return kl(p, softmax(z, t))


def _mixed(mean):
  def function(z, v, y, t, where):
    weights = jnp.asarray(WEIGHTS, losses.at_least_float32(v).dtype)
    v = mixtures.mixture_logits(_members(v), t, weights, mean=mean, where=where)
    return losses.distillation_kl(z, v, t, where=where)
  return function


def _confident(z, v, y, t, where):
  several = _members(v)
  weights = mixtures.confidence_weights(several, y, where=where)
  v = mixtures.mixture_logits(several, t, weights, where=where)
  return losses.distillation_kl(z, v, t, where=where)


def _from_labels(make, share):
  def function(z, v, y, t, where):
    teacher = make(y, z.shape[-1], share, where=losses.existing(z, where))
    teacher = teacher.astype(losses.at_least_float32(z).dtype)
    return losses.distillation_kl(z, teacher, t, where=where)
  return function


def _of_labels(function, **settings):
  return lambda z, v, y, t, where: function(z, v, y, t, where=where, **settings)


def _of_both(function, **settings):
  return lambda z, v, y, t, where: function(z, v, t, where=where, **settings)


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is tried, `(z, v, labels, T, where)`, and what it must be.

  `least` says where it is zero with zero gradient: at the teacher's logits
  ("teacher"), there if the teacher is right ("right"), or not there (""); at
  "flat" it has the gradient alone.
  `feels_temperature`: its whole slope in T is passed on (a mixture is a constant).
  """

  function: Callable
  oracle: Callable
  least: str = "teacher"
  has_teacher: bool = True
  feels_temperature: bool = True


OBJECTIVES = {
    "reverse_kl": Objective(_of_both(divergences.reverse_kl), reverse_kl),
    "jensen_shannon": Objective(
        _of_both(divergences.jensen_shannon), jensen_shannon(0.5)),
    "jensen_shannon_beta": Objective(
        _of_both(divergences.jensen_shannon, beta=0.1), jensen_shannon(0.1)),
    "standardised_kl": Objective(
        _of_both(standardised.standardised_kl), standardised_kl()),
    "standardised_kl_authors": Objective(
        _of_both(standardised.standardised_kl, ddof=1, epsilon=1e-7),
        standardised_kl(ddof=1, epsilon=1e-7)),
    "normalised_kl": Objective(
        _of_both(standardised.normalised_kl), normalised_kl),
    "target_class_kl": Objective(_of_labels(decoupled.target_class_kl), tckd),
    "non_target_class_kl": Objective(
        _of_labels(decoupled.non_target_class_kl), nckd),
    "confident_cross_entropy": Objective(
        lambda z, v, y, t, where: decoupled.confident_cross_entropy(
            z, v, y, where=where),
        nkd_label, least="", feels_temperature=False),
    "non_target_cross_entropy": Objective(
        _of_labels(decoupled.non_target_cross_entropy), nkd_others, least="flat"),
    "sample_confidence_kl": Objective(
        _of_labels(decoupled.sample_confidence_kl), scd, least="right"),
    "masked_correlation_kl": Objective(
        _of_labels(decoupled.masked_correlation_kl), mcd),
    "transformed_teacher_kl": Objective(
        _of_both(transformed.transformed_teacher_kl), ttm(True), least=""),
    "transformed_teacher_kl_unweighted": Objective(
        _of_both(transformed.transformed_teacher_kl, weighted=False),
        ttm(False), least=""),
    "top_k_kl": Objective(_of_both(targets.top_k_kl, k=3), top_k_kl(3)),
    "bucket_kl": Objective(_of_both(targets.bucket_kl, k=3), bucket_kl(3)),
    "pseudo_label_cross_entropy": Objective(
        lambda z, v, y, t, where: targets.pseudo_label_cross_entropy(
            z, v, where=where),
        pseudo_label, least="", feels_temperature=False),
    "virtual_teacher_kl": Objective(
        lambda z, v, y, t, where: targets.virtual_teacher_kl(
            z, y, t, correct=0.9, where=where),
        virtual_teacher, least="", has_teacher=False),
    "manual_teacher_logits": Objective(
        _from_labels(targets.manual_teacher_logits, 0.9), from_manual_teacher,
        least="", has_teacher=False),
    "smoothed_label_logits": Objective(
        _from_labels(targets.smoothed_label_logits, 0.2), from_smoothed_labels,
        least="", has_teacher=False),
    "mixture_logits_arithmetic": Objective(
        _mixed("arithmetic"), from_arithmetic_mixture, least="",
        feels_temperature=False),
    "mixture_logits_geometric": Objective(
        _mixed("geometric"), from_geometric_mixture, least=""),
    "confidence_weights": Objective(
        _confident, from_confident_members, least="", feels_temperature=False),
}
