r"""Distances of maps that a module has made alike, by what a map is good for.

All take maps `[batch, height, width, channels]` and give one bare value per
example, under the conventions of the package.
"""

import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.losses import features

# Sizes at which maps are compared beside their own, by ReviewKD.
LEVELS = (4, 2, 1)


def hierarchical_distance(
    student_map: jax.Array, teacher_map: jax.Array
) -> jax.Array:
  r"""ReviewKD's loss of one stage of each example (HCL), at several sizes.

  L = (E_h + E_4 / 2 + E_2 / 4 + E_1 / 8) / (1 + 1/2 + 1/4 + 1/8)

  E_l is the mean squared gap of both maps, pooled to l x l; E_h that of the maps
  themselves. Sizes that are not below the map's height are left out, and the
  weights of the others go on from 1/2.

  Args:
    student_map: `[batch, height, width, channels]`.
    teacher_map: Of the same shape; receives no gradient.

  Returns:
    L in squared activations, `[batch]`: d**2 for a constant gap d.

  Raises:
    ValueError: If the shapes differ.

  Example:
    >>> s = jnp.array([1.0, -1.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
    >>> hierarchical_distance(s, jnp.zeros_like(s)).round(4)  # (1/2 + 0) / 1.5
    Array([0.3333], dtype=float32)

  Source: Chen et al. (2021), Distilling knowledge via knowledge review, CVPR, arXiv
  2104.09044, section 3.3; dvlab-research/ReviewKD, `hcl`.
  """
  height = student_map.shape[1]
  total = features.mean_squared_error(student_map, teacher_map)
  weights = 1.0
  for place, size in enumerate(each for each in LEVELS if each < height):
    weight = 0.5**(place + 1)
    total += weight * features.mean_squared_error(
        *(adaptive_mean(x, size) for x in (student_map, teacher_map)))
    weights += weight
  return total / weights


def adaptive_mean(x: jax.Array, size: int) -> jax.Array:
  """A map pooled to `size` x `size`, by torch's windows, which may overlap.

  Example:
    >>> adaptive_mean(jnp.arange(3.0).reshape(1, 1, 3, 1), 2).ravel()
    Array([0.5, 1.5, 0.5, 1.5], dtype=float32)
  """
  x = losses.at_least_float32(x)
  for axis in (1, 2):
    length = x.shape[axis]
    windows = [slice(cell * length // size, -(-(cell + 1) * length // size))
               for cell in range(size)]
    x = jnp.concatenate([
        jnp.mean(x[(slice(None),) * axis + (window,)], axis=axis, keepdims=True)
        for window in windows], axis=axis)
  return x


def margin_distance(
    student_map: jax.Array, teacher_map: jax.Array, margin: jax.Array
) -> jax.Array:
  r"""OFD's loss of each example: values below 0 matter down to a margin only.

  L = sum_i (s_i - u_i)**2 [s_i > u_i or u_i > 0],   u = max(t, m)

  Where the teacher is below 0, the ReLU after it hides how far, so the student has
  nothing to learn but to be below u. It is a sum, so it grows with the map.

  Args:
    student_map: s, before a ReLU, `[batch, height, width, channels]`.
    teacher_map: t, before a ReLU, of the same shape; receives no gradient.
    margin: m <= 0 of each channel, `[channels]`; receives none.

  Returns:
    L in squared activations, `[batch]`.

  Raises:
    ValueError: If the shapes of the maps differ.

  Example:
    >>> s = jnp.array([1.0, 1.0, -9.0, -1.0]).reshape(1, 1, 4, 1)
    >>> t = jnp.array([3.0, -9.0, -9.0, -9.0]).reshape(1, 1, 4, 1)
    >>> margin_distance(s, t, jnp.array([-2.0]))  # 4 + 9 + 0 + 1
    Array([14.], dtype=float32)

  Source: Heo et al. (2019), A comprehensive overhaul of feature distillation, ICCV,
  arXiv 1904.01866, equation 2; clovaai/overhaul-distillation, `distillation_loss`.
  """
  s, t = features.alike(student_map, teacher_map)
  m = margin.astype(s.dtype).reshape((1,) * (s.ndim - 1) + (-1,))
  u = jnp.maximum(t, jax.lax.stop_gradient(m))
  counts = (s > u) | (u > 0)
  return jnp.sum(jnp.where(counts, jnp.square(s - u), 0.0),
                 axis=tuple(range(1, s.ndim)))


def class_maps(last_map: jax.Array, kernel: jax.Array) -> jax.Array:
  r"""Where in its last map a net sees each class.

  A_hwk = sum_c f_hwc W_ck

  Its mean over the map is what the net's logits are without their bias, where it
  pools the map and multiplies by W.

  Args:
    last_map: f, the map that is pooled, `[batch, height, width, channels]`.
    kernel: W of the last layer, `[channels, classes]`.

  Returns:
    A, `[batch, height, width, classes]`, float32 at least.

  Raises:
    ValueError: If the map has other channels than the layer takes.
  """
  if last_map.shape[-1] != kernel.shape[0]:
    raise ValueError(
        f"a net's last map has {last_map.shape[-1]} channels, and the layer of its "
        f"logits takes {kernel.shape[0]}: there are no maps of classes")
  x = losses.at_least_float32(last_map)
  return x @ kernel.astype(x.dtype)


def class_map_distance(
    student: jax.Array, teacher: jax.Array, *, resolution: int = 2,
    normalised: bool = False,
) -> jax.Array:
  r"""CAT's loss of each example: where both nets see each class.

  L = 1/(r r K) sum_hwk (a_hwk - b_hwk)**2

  a and b are the maps of K classes, pooled to r x r, each divided by its norm over
  the r x r if `normalised`. For r = 1 that is the gap of the logits without bias;
  normalised it would be their signs alone.

  Args:
    student: Of `class_maps`, `[batch, height, width, classes]`.
    teacher: Of as many classes; receives no gradient.
    resolution: r.
    normalised: Whether only the place counts.

  Returns:
    L, `[batch]`, in squared logits.

  Raises:
    ValueError: If the batches or the classes differ.

  Example:
    >>> a = jnp.array([3.0, 4.0, 0.0, 0.0]).reshape(1, 2, 2, 1)
    >>> b = jnp.zeros_like(a)
    >>> class_map_distance(a, b), class_map_distance(a, b, normalised=True).round(4)
    (Array([6.25], dtype=float32), Array([0.25], dtype=float32))

  Source: Guo et al. (2023), Class attention transfer based knowledge distillation,
  CVPR, arXiv 2304.12777, equation 5; GzyAftermath/CAT-KD, `CAT_loss`.
  """
  a, b = (adaptive_mean(x, resolution) for x in (student, teacher))
  if normalised:
    a, b = (features.unit(x, (1, 2)) for x in (a, b))
  return features.mean_squared_error(a, b)
