r"""A generalist and its specialists: what they learn, and what they say together.

A specialist knows a set S of classes that the generalist confuses, and one class
for all others, the *dustbin*, which is its last. With C classes and M specialists
`inside` `[M, C]` tells the sets: True where a class is in S_m (`confusable.py`).

Source: Hinton, Vinyals & Dean (2015), arXiv 1503.02531, section 5.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses

Scalar = jax.Array | float

# Below the least probability of the generalist, in nats: to the sum of what lies
# outside S it adds nothing, and float32 still tells it from its neighbours.
_NOTHING = 100.0


def balanced_ids(key: jax.Array, inside: jax.Array, size: int) -> jax.Array:
  """Ids of examples, half of them of S and half of the rest.

  Each half is drawn without replacement, as often through as it takes, so that
  examples of one side differ by at most one in how often they come (section 5.3).

  Args:
    key: A typed key, `[]`.
    inside: Whether each example's class is in S, bool `[N]`; some are, some not.
    size: Number of ids, static; of an odd one the rest has one more.

  Returns:
    Ids, int32 `[size]`, those of S first.

  Example:
    >>> inside = jnp.array([True, False, False, False])
    >>> ids = balanced_ids(jax.random.key(0), inside, 6)
    >>> ids[:3].tolist(), sorted(ids[3:].tolist())
    ([0, 0, 0], [1, 2, 3])
  """
  # One sort: those of S come first, each side in an order of its own.
  draw = jax.random.uniform(key, inside.shape)
  order = jnp.argsort(jnp.where(inside, draw, 1 + draw)).astype(jnp.int32)
  number = jnp.sum(inside, dtype=jnp.int32)
  place = jnp.arange(size, dtype=jnp.int32)
  half = size // 2
  return order[jnp.where(
      place < half, place % number,
      number + (place - half) % (len(inside) - number))]


def dustbin_labels(labels: jax.Array, inside: jax.Array) -> jax.Array:
  """The labels that a specialist learns: a class of S as it is, others as C.

  Args:
    labels: True classes, integers `[...]`.
    inside: Its set S, bool `[classes]`.

  Returns:
    Labels in [0, C], of the type and shape of `labels`.

  Example:
    >>> inside = jnp.array([True, False, True])
    >>> dustbin_labels(jnp.array([0, 1, 2]), inside).tolist()
    [0, 3, 2]
  """
  dustbin = jnp.full_like(labels, len(inside))
  return jnp.where(jnp.take(inside, labels, axis=0), labels, dustbin)


def collapse(logits: jax.Array, inside: jax.Array) -> jax.Array:
  r"""A net of all classes as a specialist: what is outside S is one dustbin.

  z_dust = log sum_{i not in S} exp(z_i);   within S the logits stay

  The specialists of section 6.1 have all classes and are collapsed so. Of the
  generalist itself it gives the specialist that agrees with it.

  Args:
    logits: z, `[..., classes]`.
    inside: Its set S, bool `[classes]`.

  Returns:
    Logits, `[..., classes + 1]`, the dustbin last; -inf for a class outside S.

  Example:
    >>> z = jnp.log(jnp.array([1.0, 2.0, 3.0]))
    >>> jnp.exp(collapse(z, jnp.array([True, False, False]))).round(4).tolist()
    [1.0, 0.0, 0.0, 5.0]
  """
  inside = jnp.broadcast_to(inside, logits.shape)
  dustbin = jax.nn.logsumexp(
      jnp.where(inside, -jnp.inf, logits), axis=-1, keepdims=True)
  return jnp.concatenate([jnp.where(inside, logits, -jnp.inf), dustbin], axis=-1)


def correct_dustbin(logits: jax.Array, share: Scalar) -> jax.Array:
  r"""Undoes the bias of training on half S, half the rest.

  z_dust <- z_dust + log((1 - pi) / pi)                        (section 5.3)

  With pi the share of S, an example of S came 1/2 / pi times as often as it
  should, another 1/2 / (1 - pi) times. A net that gives the true posterior of
  the biased data then gives that of the true data.

  Args:
    logits: Of a specialist, `[..., classes + 1]`, the dustbin last.
    share: pi in (0, 1), a scalar, or `[..., 1]`.

  Returns:
    Corrected logits, of the same shape.

  Raises:
    ValueError: If pi is a Python number outside (0, 1).

  Example:
    >>> correct_dustbin(jnp.zeros(2), 0.2).round(4)  # log(0.8 / 0.2)
    Array([0.    , 1.3863], dtype=float32)
  """
  if isinstance(share, (int, float)) and not 0 < share < 1:
    raise ValueError(f"share must be in (0, 1), got {share}")
  odds = jnp.log1p(-jnp.asarray(share, logits.dtype)) - jnp.log(
      jnp.asarray(share, logits.dtype))
  dustbin = logits[..., -1:] + odds
  return jnp.concatenate([logits[..., :-1], dustbin], axis=-1)


def active_specialists(
    generalist_logits: jax.Array, inside: jax.Array, *, top: int = 1
) -> jax.Array:
  """Which specialists are asked: those that know a class the generalist favours.

  A = {m: S_m has one of the generalist's `top` most probable classes}
                                              (section 5.4, step 2; there top = 1)

  Args:
    generalist_logits: `[..., classes]`.
    inside: The sets, bool `[M, classes]`.
    top: Classes that count, 1 <= top <= classes.

  Returns:
    bool `[..., M]`; all False where nobody knows such a class.

  Raises:
    ValueError: If top is out of range.

  Example:
    >>> inside = jnp.array([[True, True, False], [False, True, False]])
    >>> logits = jnp.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    >>> active_specialists(logits, inside).tolist()
    [[True, False], [False, False]]
  """
  if not 1 <= top <= generalist_logits.shape[-1]:
    raise ValueError(
        f"top must be from 1 to {generalist_logits.shape[-1]}, got {top}")
  favoured = jax.lax.top_k(generalist_logits, top)[1]
  return jnp.any(jnp.take(inside.T, favoured, axis=0), axis=-2)


def combine(
    generalist_logits: jax.Array,
    specialist_logits: jax.Array,
    inside: jax.Array,
    active: jax.Array,
    *,
    rounds: int = 100,
) -> jax.Array:
  r"""What generalist and specialists say together.

  q = argmin KL(p_g || q) + sum_{m in A} KL(p_m || q)             (eq. 5)

  where of q all that is outside S_m is one class to KL(p_m || q). It is convex in
  q, and the fixed point of

  q_i <- (p_g(i) + sum_{m in A} r_m(i)) / (1 + |A|)
  r_m(i) = p_m(i) in S_m, p_m(dust) q_i / sum_{j not in S_m} q_j outside

  which never makes it worse (it is an EM algorithm) and needs no step size. From
  q = p_g it takes no further round with one specialist, about 20 with several.
  Where the generalist has nothing at all outside S, the dustbin's is spread
  evenly: the limit of a generalist that has very little there.

  Args:
    generalist_logits: `[..., classes]`.
    specialist_logits: `[..., M, classes + 1]`, the dustbin last and corrected;
      those of classes outside S_m are not looked at.
    inside: The sets, bool `[M, classes]`. To a specialist of all classes there
      is no dustbin.
    active: A, who is asked, bool `[..., M]`.
    rounds: How often, static, >= 1.

  Returns:
    log q, `[..., classes]`, at least float32; the generalist's where A is empty.

  Raises:
    ValueError: If rounds < 1 or shapes do not fit.

  Example:
    >>> generalist = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    >>> specialist = jnp.log(jnp.array([[0.8, 0.0, 0.0, 0.2]]))
    >>> jnp.exp(combine(  # (0.5 + 0.8) / 2, and the rest evenly
    ...     generalist, specialist, jnp.array([[True, False, False]]),
    ...     jnp.array([True]))).round(4)
    Array([0.65 , 0.175, 0.175], dtype=float32)
  """
  _check_shapes(generalist_logits, specialist_logits, inside, active, rounds)
  log_g = losses.tempered_log_softmax(generalist_logits, 1.0)
  exists = jnp.concatenate(
      [inside, ~jnp.all(inside, axis=-1, keepdims=True)], axis=-1)
  log_m = losses.tempered_log_softmax(
      specialist_logits, 1.0, where=_like(exists, specialist_logits))
  known, dustbin = log_m[..., :-1], log_m[..., -1:]
  within = _like(inside, known)
  asked = active[..., None]
  voices = jnp.log1p(jnp.sum(active, axis=-1, keepdims=True, dtype=log_g.dtype))

  def improve(_, log_q):
    spread = dustbin + _log_share(log_q[..., None, :], ~within)
    said = jnp.where(within, known, spread)
    said = jnp.where(asked, said, -jnp.inf)
    return jnp.logaddexp(log_g, jax.nn.logsumexp(said, axis=-2)) - voices

  least = jnp.min(jnp.where(log_g == -jnp.inf, 0.0, log_g), -1, keepdims=True)
  start = jnp.where(log_g == -jnp.inf, least - _NOTHING, log_g)
  return jax.lax.fori_loop(0, rounds, improve, start)


def _log_share(log_q: jax.Array, outside: jax.Array) -> jax.Array:
  """log q_i / sum_{j outside} q_j; -inf where there is nothing outside."""
  log_q = jnp.broadcast_to(log_q, outside.shape)
  total = jax.nn.logsumexp(
      jnp.where(outside, log_q, -jnp.inf), axis=-1, keepdims=True)
  # -inf - -inf is NaN.
  return log_q - jnp.where(total == -jnp.inf, 0.0, total)


def _like(sets: jax.Array, values: jax.Array) -> jax.Array:
  """`[M, K]` for every example of `values` `[..., M, K]`."""
  return jnp.broadcast_to(sets, values.shape)


def _check_shapes(generalist, specialists, inside, active, rounds) -> None:
  if rounds < 1:
    raise ValueError(f"rounds must be 1 or more, got {rounds}")
  number, classes = inside.shape
  leading = generalist.shape[:-1]
  wanted = ((*leading, classes), (*leading, number, classes + 1),
            (*leading, number))
  given = (generalist.shape, specialists.shape, active.shape)
  if given != wanted:
    raise ValueError(
        f"for {number} specialists of {classes} classes the shapes of generalist, "
        f"specialists and active must be {wanted}, got {given}")
