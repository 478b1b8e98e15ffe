r"""Centred kernel alignment: how alike two taps see the examples of a batch.

It is measured and not trained. The taps may have any shapes, of one net or of two:
only which examples lie near which counts.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import features

# The estimate needs so many examples.
LEAST = 4


def alignment(left: jax.Array, right: jax.Array) -> jax.Array:
  r"""Linear CKA of two taps, by the unbiased estimate of HSIC.

  CKA = H(K, L) / sqrt(H(K, K) H(L, L)),   K = X X',   L = Y Y'
  H(K, L) = 1/(n (n - 3)) sum_(i != j) K~_ij L~_ij

  The rows of X and Y are the n flattened taps, and K~ is `centred`. CKA is 1 for
  equal taps and 0 in the mean for independent ones, so it may be a little below 0.
  The plain estimate is near 1 for any taps that have many more entries than there
  are examples, as maps have. It does not change when a tap is scaled, shifted by
  one vector for all examples, or turned by an orthogonal matrix.

  Args:
    left: X, `[n, ...]`.
    right: Y, `[n, ...]`, of the same examples.

  Returns:
    CKA, a scalar from -1 to 1 without unit; 0 where a tap is the same for all.

  Raises:
    ValueError: If there are fewer than 4 examples, or not as many in both.

  Example:
    >>> x = jnp.array([[0.0], [1.0], [2.0], [4.0]])
    >>> f"{alignment(x, 3.0 - 2.0 * x):.4f}, {alignment(x, x**2):.4f}"
    '1.0000, 0.9897'

  Source: Kornblith et al. (2019), Similarity of neural network representations
  revisited, ICML, arXiv 1905.00414, equation 4, with the estimate of Song et al.
  (2012), JMLR 13, equation 5, as in Nguyen et al. (2021), arXiv 2010.15327.
  """
  if len(left) != len(right):
    raise ValueError(f"taps of {len(left)} and of {len(right)} examples have no "
                     "alignment: give both of the same examples")
  return jnp.sum(centred(left) * centred(right))


def centred(tap: jax.Array) -> jax.Array:
  r"""The Gram matrix of a tap, centred without bias, as a direction.

  K~_ij = K_ij - (K_i. + K_.j)/(n - 2) + K../((n - 1) (n - 2))   for i != j, else 0

  A dot is a sum over all others, j != i. The result is K~ / |K~|_F, so CKA is the
  sum of the products of two of them: of many taps each is made once.

  Args:
    tap: X, `[n, ...]`.

  Returns:
    `[n, n]`; zeros where the tap is the same for all examples.

  Raises:
    ValueError: If there are fewer than 4 examples.
  """
  n = len(tap)
  if n < LEAST:
    raise ValueError(f"{n} examples have no alignment: give {LEAST} at least")
  x = losses.at_least_float32(tap).reshape(n, -1)
  # No shift changes K~, and small numbers lose less. By the first example it is
  # exact: what is the same for all is 0.
  x = x - x[:1]
  x = features.unit(x - jnp.mean(x, axis=0, keepdims=True), (0, 1))
  gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
  others = 1.0 - jnp.eye(n, dtype=gram.dtype)
  gram = gram * others
  sums = jnp.sum(gram, axis=1, keepdims=True)
  whole = jnp.sum(sums) / ((n - 1) * (n - 2))
  return features.unit(
      (gram - (sums + sums.T) / (n - 2) + whole) * others, (0, 1))
