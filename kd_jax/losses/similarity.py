r"""Which examples of a batch are alike: SP, PKT and CC.

All take a whole batch, `[batch, ...]`, with `mask` (bool `[batch]`, False for
padding), and return one scalar over the n valid examples. A masked row is in no
pair and in no sum, whatever it holds, and gets gradient 0. The tap of an example is
flattened, and but for `congruence_loss` the student's may have another size than
the teacher's. Products of examples are in the full precision of their type.
"""

import math

import jax
import jax.numpy as jnp

from kd_jax.losses import features, rkd

# Beside the norms and the probabilities of PKT, of the authors' code.
EPSILON = 1e-7


def similarity_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""SP: the products of an example with all of its batch, as a direction.

  L = 1/n**2 sum_ij (G_ij - H_ij)**2,   G_i = (S S')_i / |(S S')_i|_2

  S holds the students' taps as rows; H is the same of the teacher. L = 2/n**2 sum_i
  (1 - cos(G_i, H_i)), at most 2/n: in a small batch it counts more. It does not
  change when the taps of a net are scaled, or turned by an orthogonal matrix.

  Args:
    student: s, `[batch, ...]`.
    teacher: t, `[batch, ...]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.

  Returns:
    L, a scalar without unit; 0 for one example. The row of an example whose tap is
    0 counts as zeros, without gradient.

  Raises:
    ValueError: If the batches differ.

  Example:
    >>> s, t = jnp.array([[1.0], [1.0]]), jnp.eye(2)
    >>> similarity_loss(s, t).round(4)  # 2 * 2 (1 - 1 / sqrt(2)) / 4
    Array(0.2929, dtype=float32)

  Source: Tung & Mori (2019), Similarity-preserving knowledge distillation, ICCV,
  arXiv 1907.09682.
  """
  s, t, valid = _rows(student, teacher, mask)
  gap = features.unit(_gram(s), 1) - features.unit(_gram(t), 1)
  return jnp.sum(jnp.square(gap)) / _count(valid, s)**2


def affinity_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""PKT: who is likely to be whose neighbour, by the cosine of two taps.

  L = 1/n**2 sum_ij P_ij log((P_ij + e) / (Q_ij + e)),   Q_ij = K_ij / sum_k K_ik

  K_ij = (1 + cos(s_i, s_j)) / 2 of the student, P the same of the teacher, e =
  1e-7. An example counts as a neighbour of its own. L is a mean of KL over n: in a
  small batch it counts more. It does not change when a row is scaled by a positive
  number, or all are turned by an orthogonal matrix.

  Args:
    student: s, `[batch, ...]`.
    teacher: t, `[batch, ...]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.

  Returns:
    L in nats, a scalar; 0 for one example. The cosine with a tap of 0 is 0,
    without gradient.

  Raises:
    ValueError: If the batches differ.

  Example:
    >>> s, t = jnp.ones((2, 1)), jnp.eye(2)  # Q is 1/2, P is 2/3 and 1/3
    >>> f"{affinity_loss(s, t):.4f}"  # log(32 / 27) / 6
    '0.0283'

  Source: Passalis & Tefas (2018), Learning deep representations with probabilistic
  knowledge transfer, ECCV, arXiv 1803.10837; the authors'
  code has e and takes the mean.
  """
  s, t, valid = _rows(student, teacher, mask)
  pairs = valid[:, None] & valid[None, :]

  def neighbours(x: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    none = square == 0  # The root of 0 has no finite slope: it never sees one.
    norm = jnp.sqrt(jnp.where(none, 1.0, square))
    u = jnp.where(none, 0.0, x / (norm + EPSILON))
    kernel = jnp.where(pairs, 0.5 * (_gram(u) + 1.0), 0.0)
    total = jnp.sum(kernel, axis=-1, keepdims=True)
    return kernel / jnp.where(valid[:, None], total, 1.0)

  q, p = neighbours(s), neighbours(t)
  log_ratio = jnp.log((p + EPSILON) / (q + EPSILON))
  return jnp.sum(p * log_ratio) / _count(valid, s)**2


def congruence_loss(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  r"""CC, as its authors gave it to RepDistiller: the gaps of neighbouring rows.

  L = 1/(n - 1) sum_b sum_d |s_bd - t_bd| |s_(b+1)d - t_(b+1)d|

  It depends on the order of the batch, and gives no gradient to an example whose
  neighbours are matched. Both embeddings are trained, and L = 0 where both are one
  constant. It is hardly the paper's loss: that is `kernel_loss`.

  Args:
    student: s, an embedding, `[batch, channels]`.
    teacher: t, an embedding of the teacher's tap, of the same shape. It receives a
      gradient, for its module: stop it before that.
    mask: True for the valid examples, bool `[batch]`; default all. The neighbour of
      an example is the next valid one.

  Returns:
    L in squared activations, a scalar; 0 with fewer than two examples.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> s, t = jnp.array([[1.0], [2.0], [5.0]]), jnp.zeros((3, 1))
    >>> congruence_loss(s, t)  # (1 * 2 + 2 * 5) / 2
    Array(6., dtype=float32)

  Source: HobbitLong/RepDistiller, `distiller_zoo/CC.py`, of Peng et al. (2019),
  Correlation congruence for knowledge distillation, ICCV, arXiv 1904.01802.
  """
  if student.shape != teacher.shape:
    raise ValueError(
        f"embeddings of the shapes {student.shape} and {teacher.shape} have no "
        "distance: the shapes must be equal")
  # Both through the place of the student's: neither gradient is stopped.
  both = jnp.concatenate([student, teacher], axis=-1)
  both, _, valid = rkd.valid_rows(both, both, mask)
  # The valid rows first, in their order.
  order = jnp.argsort(~valid, stable=True)
  s, t = jnp.split(both[order], 2, axis=-1)
  gap = jnp.abs(s - t)
  pairs = jnp.sum(gap[:-1] * gap[1:])  # A gap of padding is 0.
  return pairs / jnp.maximum(_count(valid, s) - 1.0, 1.0)


def kernel_loss(
    student: jax.Array,
    teacher: jax.Array,
    mask: jax.Array | None = None,
    *,
    gamma: float | jax.Array = 0.4,
) -> jax.Array:
  r"""CC, as in its paper: the correlations of all pairs of a batch.

  L = 1/n**2 sum_ij (K_ij - H_ij)**2
  K_ij = exp(-2 g) (1 + 2 g c_ij + (2 g c_ij)**2 / 2),   c_ij = cos(s_i, s_j)

  K is the Gaussian kernel exp(-g |u_i - u_j|**2) of the student's taps of norm 1,
  by its Taylor series of order 2, and H the same of the teacher. It does not change
  when a row is scaled by a positive number, all are turned by an orthogonal matrix,
  or the batch is permuted.

  Args:
    student: s, `[batch, ...]`.
    teacher: t, `[batch, ...]`; receives no gradient.
    mask: True for the valid examples, bool `[batch]`; default all.
    gamma: g >= 0.

  Returns:
    L, a scalar without unit; 0 for one example. The cosine with a tap of 0 is 0,
    without gradient.

  Raises:
    ValueError: If the batches differ.

  Example:
    >>> s, t = jnp.ones((2, 1)), jnp.eye(2)  # 2 (exp(-1) 3/2)**2 / 4
    >>> f"{kernel_loss(s, t, gamma=0.5):.4f}"
    '0.1523'

  Source: Peng et al. (2019), arXiv 1904.01802; the gamma =
    0.4
  and the order are the paper's.
  """
  s, t, valid = _rows(student, teacher, mask)
  pairs = valid[:, None] & valid[None, :]

  def kernel(x: jax.Array) -> jax.Array:
    c = 2.0 * gamma * _gram(features.unit(x, 1))
    return jnp.exp(-2.0 * gamma) * (1.0 + c + 0.5 * jnp.square(c))

  gap = jnp.where(pairs, kernel(s) - kernel(t), 0.0)
  return jnp.sum(jnp.square(gap)) / _count(valid, s)**2


def _rows(student, teacher, mask):
  """As `rkd.valid_rows`, of taps of any shape."""
  flat = lambda x: x.reshape(len(x), math.prod(x.shape[1:]))
  return rkd.valid_rows(flat(student), flat(teacher), mask)


def _gram(x: jax.Array) -> jax.Array:
  """Products of all pairs of rows, `[batch, batch]`."""
  return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)


def _count(valid: jax.Array, x: jax.Array) -> jax.Array:
  """How many examples there are, 1 at least."""
  return jnp.maximum(jnp.sum(valid, dtype=x.dtype), 1.0)
