r"""Wasserstein distances: what it costs to move a teacher's mass to the student's.

Of maps, whose channels count as Gaussians, and of probabilities, where moving mass
between classes that are alike costs little. A KL compares each class with itself
only.

Source: Lv et al. (2024), Wasserstein distance rivals Kullback-Leibler divergence
for knowledge distillation, NeurIPS, arXiv 2412.08139; JiamingLv/WKD,
`mdistiller/distillers/WKD.py`.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import features, parts

# Added to what Sinkhorn's algorithm divides by, and to the cost, in the code.
LEAST = 1e-8


def gaussian_distance(
    student_map: jax.Array, teacher_map: jax.Array, *, grid: int = 1,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, jax.Array]:
  r"""WKD-F's loss of each example in two parts, of means and of deviations.

  M = 1/g**2 sum_rc (m_rc - n_rc)**2,   D = 1/g**2 sum_rc (d_rc - e_rc)**2

  The map is cut into g x g cells r. m is the mean of channel c in a cell and d =
  sqrt(variance + epsilon) its deviation, with the variance of n - 1 pixels; n and e
  are the teacher's. M + D is the squared Wasserstein distance of Gaussians with
  independent channels. Neither depends on where in a cell a value lies.

  Args:
    student_map: s, `[batch, height, width, channels]`.
    teacher_map: t, of as many channels; receives no gradient.
    grid: g; height and width of both are multiples of it.
    epsilon: Below the root.

  Returns:
    `(M, D)` in squared activations, `[batch]` each.

  Raises:
    ValueError: If the batches or channels differ, or g x g cells of two pixels at
      least do not fit a map.

  Example:
    >>> s = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)  # mean 2, variance 2
    >>> t = jnp.zeros((1, 1, 2, 1))
    >>> means, deviations = gaussian_distance(s, t, epsilon=0.0)
    >>> means, deviations.round(4)
    (Array([4.], dtype=float32), Array([2.], dtype=float32))

  Source: Lv et al. (2024), section 2.3.
  """
  shapes = student_map.shape, teacher_map.shape
  same = lambda shape: (shape[0], shape[-1])
  if same(shapes[0]) != same(shapes[1]) or any(
      len(shape) != 4 or shape[1] % grid or shape[2] % grid
      or shape[1] * shape[2] < 2 * grid**2 for shape in shapes):
    raise ValueError(
        f"maps of shape {shapes[0]} and {shapes[1]} have no means and deviations "
        f"in {grid} x {grid} cells to compare: both must be [batch, height, width, "
        "channels] of one batch and as many channels, and a cell have two pixels "
        "at least")

  def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    batch, height, width, channels = x.shape
    cells = losses.at_least_float32(x).reshape(
        batch, grid, height // grid, grid, width // grid, channels)
    return (jnp.mean(cells, axis=(2, 4)), jnp.sqrt(
        jnp.var(cells, axis=(2, 4), ddof=1) + epsilon))

  gaps = [jnp.sum(jnp.square(s - t), axis=(1, 2, 3)) / grid**2 for s, t in zip(
      moments(student_map), moments(jax.lax.stop_gradient(teacher_map)))]
  return gaps[0], gaps[1]


def cost_of_classes(
    kernel: jax.Array, sharpness: losses.Scalar = 1.0
) -> jax.Array:
  r"""What it costs to move mass between two classes, by a net's last layer.

  C_ij = 1 - exp(-k (1 - cos(w_i, w_j)))

  w_i are the weights of class i. The paper takes CKA of the features of both
  classes for the cosine; this is an option of its code (`COST_MATRIX: fc`), which
  needs no pass over the data.

  Args:
    kernel: w, `[channels, classes]`, of the teacher; receives no gradient.
    sharpness: k; the paper's is 1.

  Returns:
    C in [0, 1), `[classes, classes]`, with 0 on the diagonal.

  Example:
    >>> cost_of_classes(jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])).round(3)
    Array([[0.   , 0.632, 0.   ],
           [0.632, 0.   , 0.632],
           [0.   , 0.632, 0.   ]], dtype=float32)
  """
  w = features.unit(jax.lax.stop_gradient(losses.at_least_float32(kernel)), 0)
  alike = jnp.einsum("ci,cj->ij", w, w, precision=jax.lax.Precision.HIGHEST)
  far = jnp.maximum(1.0 - alike, 0.0) * (1.0 - jnp.eye(len(alike), dtype=w.dtype))
  return -jnp.expm1(-sharpness * far)


@parts.checked
def transport_distance(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    cost: jax.Array,
    temperature: losses.Scalar,
    *,
    regularisation: losses.Scalar = 0.05,
    iterations: int = 10,
) -> jax.Array:
  r"""WKD-L's loss of each example, without the label's class: discrete transport.

  L = sum_ij F_ij C_ij,   F = diag(u) K diag(v),   K = exp(-C / r)

  F moves the teacher's p to the student's q, the softmax at T of all classes but
  the label's, at the least cost C, up to an entropy that r weighs. Sinkhorn's
  algorithm finds it: v <- p / K'u, u <- q / K v, from u = 1 / (N - 1). The gradient
  goes through its steps. As in the code, 1e-8 is added to what is divided by: where
  K is no larger, mass is lost.

  Args:
    student_logits: z, `[batch, N]`.
    teacher_logits: `[batch, N]`; receive no gradient.
    labels: Classes that are left out, int32 `[batch]`.
    cost: C, `[N, N]`, such as of `cost_of_classes`.
    temperature: T > 0.
    regularisation: r > 0.
    iterations: Steps of the algorithm.

  Returns:
    L in units of the cost, `[batch]`; NaN for a label that is no class.

  Raises:
    ValueError: If the shapes of the logits differ, or labels are not `[batch]`.

  Example:
    >>> z, v = jnp.array([[9.0, 0.0, -jnp.inf]]), jnp.array([[9.0, -jnp.inf, 0.0]])
    >>> cost = 1 - jnp.eye(3)  # All mass moves from class 2 to class 1.
    >>> transport_distance(
    ...     z, v, jnp.array([0]), cost, 1.0, regularisation=0.2).round(4)
    Array([1.], dtype=float32)

  Source: Lv et al. (2024), section 2.2; Cuturi (2013), arXiv 1306.0895.
  """
  others = ~jax.nn.one_hot(labels, cost.shape[0], dtype=bool)
  soft = lambda logits: losses.tempered_softmax(logits, temperature, where=others)
  q, p = soft(student_logits), jax.lax.stop_gradient(soft(teacher_logits))
  c = jnp.maximum(cost, 0.0).astype(q.dtype) + LEAST
  kernel = jnp.exp(-c / regularisation)
  times = lambda x, matrix: jnp.matmul(
      x, matrix, precision=jax.lax.Precision.HIGHEST)

  # The label's class has no mass, so its u and v are 0 from the first step on.
  def step(scales, _):
    v = p / (times(scales[0], kernel) + LEAST)
    return (q / (times(v, kernel.T) + LEAST), v), None

  begin = jnp.where(others, 1.0 / (cost.shape[0] - 1), 0.0).astype(q.dtype)
  (u, v), _ = jax.lax.scan(step, (begin, begin), length=iterations)
  return jnp.sum(u * times(v, (kernel * c).T), axis=-1)
