r"""Two views of an example, without labels: NT-Xent, and how alike others are.

Both take the rows of `types.Batch.twice`, z `[2 B, channels]`, each example in two
of them: `id` says of which example a row is, `second` which of its two it is. Rows
are as alike as their cosine says, s_bc = cos(z_b, z_c) / T. A masked row is in no
sum, whatever finite it holds, and gets gradient 0 from those of others.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses import contrastive, rkd

# Likeness of what does not count, in float32: exp gives 0, and no NaN.
_NEVER = -1e9


def nt_xent(
    z: jax.Array, id: jax.Array, second: jax.Array, temperature: jax.Array | float,
    mask: jax.Array | None = None,
) -> jax.Array:
  r"""The other view of an example among all other rows of the batch (SimCLR).

  L_b = -log( exp(s_b,twin(b)) / sum_{c != b} exp(s_bc) )

  Args:
    z: Projections of a net, `[2 B, channels]`.
    id: Of the examples, int `[2 B]`.
    second: Whether it is the second view, bool `[2 B]`.
    temperature: T > 0; 0.5 in DoGo's code.
    mask: True for the valid rows, bool `[2 B]`; default all.

  Returns:
    L in nats, `[2 B]`, between 0 and log(2 n - 1) + 2 / T for n valid examples; 0
    for one. Of a masked row it says nothing.

  Example:
    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    >>> id, second = jnp.array([0, 1, 0, 1]), jnp.arange(4) >= 2
    >>> nt_xent(z, id, second, 1.0).round(4)  # log(1 + 2 / e)
    Array([0.5514, 0.5514, 0.5514, 0.5514], dtype=float32)

  Source: Chen et al. (2020), A simple framework for contrastive learning of visual
  representations, ICML, arXiv 2002.05709, equation 1.
  """
  valid = jnp.ones(len(z), bool) if mask is None else mask
  likeness = _likeness(z, temperature)
  twin = (id[:, None] == id[None]) & _across(second, valid)
  others = valid[None] & ~jnp.eye(len(z), dtype=bool)
  among = jax.nn.logsumexp(jnp.where(others, likeness, _NEVER), axis=1)
  return among - jnp.sum(jnp.where(twin, likeness, 0.0), axis=1)


def likeness_divergence(
    student: jax.Array, teacher: jax.Array, second: jax.Array,
    temperature: jax.Array | float, mask: jax.Array | None = None,
) -> jax.Array:
  r"""How alike a row is to those of the other view: KL of a teacher and a student.

  L_b = sum_c p_bc log(p_bc / q_bc),   q_b = softmax over c of s_bc

  c goes over the rows of the other view, its twin among them; p is the same of the
  teacher. It is 0 if both nets find the same rows alike, in spaces of any size.

  Args:
    student: z, `[2 B, channels]`.
    teacher: Projections or taps of another net, `[2 B, other channels]`; receives
      no gradient.
    second: Whether it is the second view, bool `[2 B]`.
    temperature: T > 0, of both; 0.1 in DoGo's code.
    mask: True for the valid rows, bool `[2 B]`; default all.

  Returns:
    L in nats, `[2 B]`, finite; of a masked row it says nothing.

  Raises:
    ValueError: If the batches differ.

  Example:
    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    >>> same, second = jnp.ones((4, 1)), jnp.arange(4) >= 2
    >>> f"{likeness_divergence(z, same, second, 1.0)[0]:.4f}"  # p is even
    '0.1201'

  Source: Bhat, Arani & Zonooz (2021), Distill on the Go, CVPR workshops, arXiv
  2104.09866; NeurAI-Lab/DoGo, branch dogo, `criterion/kl.py` has the rows of one
  view alone.
  """
  s, t, valid = rkd.valid_rows(student, teacher, mask)
  across = _across(second, valid)
  log_share = lambda z: jax.nn.log_softmax(
      jnp.where(across, _likeness(z, temperature), _NEVER), axis=1)
  log_q, log_p = log_share(s), log_share(t)
  return jnp.sum(jnp.where(across, jnp.exp(log_p) * (log_p - log_q), 0.0), axis=1)


def _across(second: jax.Array, valid: jax.Array) -> jax.Array:
  """Which columns are valid rows of the other view, bool `[2 B, 2 B]`."""
  return (second[:, None] != second[None]) & valid[None]


def _likeness(z: jax.Array, temperature: jax.Array | float) -> jax.Array:
  """s, `[2 B, 2 B]`."""
  unit = contrastive.normalised(z)
  return jnp.matmul(
      unit, unit.T, precision=jax.lax.Precision.HIGHEST) / temperature
