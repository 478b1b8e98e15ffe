r"""Contrastive representation distillation: the own example among those of others.

Both nets' embeddings are vectors of length 1. A memory holds the last embedding of
every example, one for each net. The student's embedding of an example is compared
with the teacher's memory, and the teacher's with the student's: the row of the same
example is to be told from the rows of examples of other classes.

The released code draws K of those others for each example. By default all of them
are looked at instead, each with the weight K / number: that is the mean over all
draws, so it has the same expectation without the noise. It takes a matrix of batch
times examples, and no gathered rows.

Source: Tian, Krishnan & Isola (2020), Contrastive representation distillation,
ICLR, arXiv 1910.10699; the numbers are those of HobbitLong/RepDistiller, `crd/`.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses

# Added to every denominator, as in the released code.
EPSILON = 1e-7


def normalised(x: jax.Array) -> jax.Array:
  r"""Rows of length 1; a row of zeros stays so, with a finite gradient.

  y = x / max(|x|, 1e-12)

  Args:
    x: `[batch, channels]`.

  Returns:
    y, the same shape, float32 at least.

  Example:
    >>> normalised(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
  """
  x = losses.at_least_float32(x)
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def scores(
    embedding: jax.Array, memory: jax.Array, temperature: float
) -> jax.Array:
  r"""How alike the embeddings of a batch are to every row of a memory.

  s_bn = <v_b, M_n> / T

  Args:
    embedding: v, `[batch, channels]`.
    memory: M of the other net, `[examples, channels]`; receives no gradient.
    temperature: T of the code, 0.07.

  Returns:
    s, `[batch, examples]`.

  Example:
    >>> scores(jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.5], [-1.0, 0.0]]), 0.5)
    Array([[ 1., -2.]], dtype=float32)
  """
  # An error of 1e-3, as of TF32, would be one of 1.4% in exp(s).
  return jnp.matmul(embedding, jax.lax.stop_gradient(memory).T,
                    precision=jax.lax.Precision.HIGHEST) / temperature


def all_negatives(
    label: jax.Array, labels: jax.Array, number: jax.Array | float
) -> jax.Array:
  r"""Every example of another class, with the weights of `number` draws.

  w_bn = K / |{m: labels_m != label_b}| where labels_n != label_b, else 0

  Args:
    label: Classes of the batch, int `[batch]`.
    labels: Of all examples, int `[examples]`; -1 for what is no example.
    number: K.

  Returns:
    w, `[batch, examples]`; zeros where there is no other class.

  Example:
    >>> all_negatives(jnp.array([0]), jnp.array([0, 1, 2, -1]), 6.0)
    Array([[0., 3., 3., 0.]], dtype=float32)
  """
  others = _others(label, labels)
  return _weighted(others, number)


def drawn_negatives(
    key: jax.Array, id: jax.Array, label: jax.Array, labels: jax.Array,
    number: jax.Array | float,
) -> jax.Array:
  r"""`number` examples of other classes, drawn for each of the batch.

  Without replacement. Where there are fewer than K, all of them, each with the
  weight K / number (the released code then draws with replacement).

  Args:
    key: Of the draw.
    id: Of the examples, int `[batch]`: each draws its own numbers, so that padding
      and the number of devices have no influence.
    label: As of `all_negatives`.
    labels: As of `all_negatives`.
    number: K, a whole number.

  Returns:
    Weights as of `all_negatives`: 1 for those that are drawn.
  """
  others = _others(label, labels)
  # Those with the K smallest of as many draws; what is no negative comes last.
  draw = jax.vmap(lambda one: jax.random.uniform(
      jax.random.fold_in(key, one), labels.shape))(id)
  draw = jnp.where(others, draw, 2.0)
  place = jnp.clip(jnp.int32(number) - 1, 0, others.shape[1] - 1)
  last = jnp.take(jnp.sort(draw, axis=1), place, axis=1)[:, None]
  chosen = others & (draw <= last)
  return _weighted(chosen, number)


def normaliser(
    scores: jax.Array, id: jax.Array, negatives: jax.Array,
    examples: jax.Array | float, mask: jax.Array | None = None,
) -> jax.Array:
  r"""The constant that makes of exp(s) something like a probability.

  Z = N mean_b [exp(s_b,id_b) + sum_n w_bn exp(s_bn)] / (1 + sum_n w_bn)

  It is taken once, of the first batch, for each net.

  Args:
    scores: s, `[batch, examples]`.
    id: Which row of the memory is the example's own, int `[batch]`.
    negatives: w, `[batch, examples]`.
    examples: N, how many there are.
    mask: True for the valid examples, bool `[batch]`; default all.

  Returns:
    Z > 0, a scalar; without a gradient.

  Example:
    >>> normaliser(jnp.zeros((1, 4)), jnp.array([0]), jnp.ones((1, 4)), 4.0)
    Array(4., dtype=float32)
  """
  valid = jnp.ones(len(scores), bool) if mask is None else mask
  likeness, negatives = jnp.exp(scores), negatives.astype(scores.dtype)
  total = _own(likeness, id) + jnp.sum(negatives * likeness, axis=1)
  each = total / (1.0 + jnp.sum(negatives, axis=1))
  count = jnp.maximum(jnp.sum(valid, dtype=scores.dtype), 1.0)
  return jax.lax.stop_gradient(
      examples * jnp.sum(jnp.where(valid, each, 0.0)) / count)


def contrastive_loss(
    scores: jax.Array, id: jax.Array, negatives: jax.Array,
    normaliser: jax.Array, number: jax.Array | float,
    examples: jax.Array | float,
) -> jax.Array:
  r"""Noise-contrastive estimation: is the row the example's own, or a drawn one?

  L_b = -log h(s_b,id_b) - sum_n w_bn log(c / (p(s_bn) + c + e))

  h = p / (p + c + e), p = exp(s) / Z, c = K / N and e = 1e-7. Everything is summed
  in the logarithm.

  Args:
    scores: s, `[batch, examples]`.
    id: Which row of the memory is the example's own, int `[batch]`.
    negatives: w, `[batch, examples]`.
    normaliser: Z.
    number: K.
    examples: N.

  Returns:
    L in nats, `[batch]`.

  Example:
    >>> s, own = jnp.zeros((1, 4)), jnp.array([0])  # p = c = 1/4
    >>> weights = jnp.array([[0.0, 1.0, 0.0, 0.0]])
    >>> contrastive_loss(s, own, weights, 4.0, 1.0, 4.0).round(4)  # 2 log 2
    Array([1.3863], dtype=float32)

  Source: Tian et al. (2020), eq. 17 and 18.
  """
  share = number / examples
  x = scores - jnp.log(normaliser) - jnp.log(share + EPSILON)
  own = jax.nn.log_sigmoid(_own(x, id))
  # log(c / (c + e)) is what a row costs that is as unlike as can be.
  others = jax.nn.log_sigmoid(-x) + jnp.log(share / (share + EPSILON))
  return -own - jnp.sum(negatives.astype(x.dtype) * others, axis=1)


def remembered(
    memory: jax.Array, id: jax.Array, embedding: jax.Array,
    mask: jax.Array | None = None, *, momentum: float = 0.5,
) -> jax.Array:
  r"""The memory after a batch: half of each row is new, and its length is 1.

  M_id <- normalised(m M_id + (1 - m) v)

  Args:
    memory: M, `[examples, channels]`.
    id: Rows of the batch, int `[batch]`.
    embedding: v of the net whose memory it is, `[batch, channels]`.
    mask: True for the valid examples, bool `[batch]`; default all.
    momentum: m.

  Returns:
    The new memory, without a gradient; other rows are as they were.

  Example:
    >>> remembered(jnp.eye(2), jnp.array([1]), jnp.array([[0.0, -3.0]]))
    Array([[ 1.,  0.],
           [ 0., -1.]], dtype=float32)
  """
  valid = jnp.ones(len(id), bool) if mask is None else mask
  v = jax.lax.stop_gradient(embedding)
  rows = normalised(momentum * memory[id] + (1.0 - momentum) * v)
  # What lies beyond the memory is dropped.
  return memory.at[jnp.where(valid, id, len(memory))].set(
      rows.astype(memory.dtype), mode="drop")


def _others(label: jax.Array, labels: jax.Array) -> jax.Array:
  return (labels[None, :] != label[:, None]) & (labels >= 0)[None, :]


def _weighted(chosen: jax.Array, number: jax.Array | float) -> jax.Array:
  """`number` spread over the chosen of each row."""
  count = jnp.sum(chosen, axis=1, keepdims=True, dtype=jnp.float32)
  each = jnp.asarray(number, jnp.float32) / jnp.maximum(count, 1.0)
  return jnp.where(chosen, each, 0.0)


def _own(x: jax.Array, id: jax.Array) -> jax.Array:
  return jnp.take_along_axis(x, id[:, None], axis=1)[:, 0]
