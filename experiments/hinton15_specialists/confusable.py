r"""Which classes a net confuses: the sets of its specialists.

Source: Hinton, Vinyals & Dean (2015), arXiv 1503.02531, section 5.2.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses


def prediction_covariance(logits: jax.Array) -> jax.Array:
  r"""Covariance of what a net predicts, over examples.

  K_ij = mean_n (p_ni - mean p_i) (p_nj - mean p_j),   p_n = softmax(z_n)

  Classes that are often predicted together have like columns. No labels are
  needed (section 5.2).

  Args:
    logits: z of N examples, `[N, classes]`.

  Returns:
    K, `[classes, classes]`.

  Example:
    >>> sure = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
    >>> prediction_covariance(sure).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
  """
  p = losses.tempered_softmax(logits, 1.0)
  centred = p - jnp.mean(p, axis=0, keepdims=True)
  return centred.T @ centred / len(p)


def confusable_sets(
    covariance: np.ndarray | jax.Array, *, count: int, size: int, seed: int = 0
) -> np.ndarray:
  r"""Sets of classes that are confused with each other, by K-means.

  S_m = the `size` classes whose columns of K are nearest to centre m

  The centres are those of K-means on the columns (section 5.2), the best of 20
  starts from random columns. The paper's specialists have 300 classes each, and
  overlap; so these have one size, and a class may be in several sets or in none.

  Args:
    covariance: K of `prediction_covariance`, `[classes, classes]`.
    count: Number of sets M, at most that of unlike columns.
    size: Classes a set, 1 <= size < classes.
    seed: Of the starts.

  Returns:
    `inside`, bool `[M, classes]`, in an order that does not depend on the start.

  Raises:
    ValueError: If count or size is out of range, or they leave no M unlike sets.

  Example:
    >>> columns = np.array([[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 2, 1], [0, 0, 1, 2]])
    >>> confusable_sets(columns, count=2, size=2).astype(int).tolist()
    [[1, 1, 0, 0], [0, 0, 1, 1]]
  """
  columns = _directions(np.asarray(covariance, np.float64).T)
  unlike = np.unique(columns, axis=0)
  if not 1 <= count <= len(unlike):
    raise ValueError(
        f"count must be from 1 to {len(unlike)} unlike columns, got {count}")
  if not 1 <= size < len(columns):
    raise ValueError(f"size must be from 1 to {len(columns) - 1}, got {size}")
  centres = _centres(columns, unlike, count, np.random.default_rng(seed))
  order = np.argsort(_distances(columns, centres), axis=0, kind="stable")
  sets: set[frozenset[int]] = set()
  for nearest in order.T.tolist():
    # Two centres may have the same nearest classes; no specialist is trained
    # twice, so the second takes the next one in place of its last.
    choices = (frozenset([*nearest[:size - 1], last])
               for last in nearest[size - 1:])
    fresh = next((choice for choice in choices if choice not in sets), None)
    if fresh is None:
      raise ValueError(f"no {count} unlike sets of size {size}; take fewer")
    sets.add(fresh)
  inside = np.zeros((count, len(columns)), bool)
  for row, members in zip(inside, sorted(map(sorted, sets)), strict=True):
    row[members] = True
  return inside


def _directions(columns: np.ndarray) -> np.ndarray:
  """Rows of length 1; a class that is never predicted stays 0."""
  length = np.linalg.norm(columns, axis=-1, keepdims=True)
  return columns / np.where(length > 0, length, 1.0)


def _centres(columns, unlike, count: int, draw) -> np.ndarray:
  """Centres of K-means `[count, classes]`, the best of some starts."""
  from scipy.cluster import vq  # pylint: disable=g-import-not-at-top
  best, least = None, np.inf
  for _ in range(20):
    start = unlike[draw.choice(len(unlike), count, replace=False)]
    try:
      centres, _ = vq.kmeans2(columns, start, minit="matrix", missing="raise")
    except vq.ClusterError:
      continue  # A cluster ran empty: another start.
    spread = float(np.sum(np.min(_distances(columns, centres), axis=1)))
    if spread < least:
      best, least = centres, spread
  return unlike[:count] if best is None else best


def _distances(columns: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Squared distances, `[classes, count]`."""
  return np.sum((columns[:, None, :] - centres[None, :, :]) ** 2, axis=-1)
