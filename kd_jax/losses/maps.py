r"""Distances of what maps amount to: where they look, and how channels go together.

All take maps `[batch, height, width, channels]` and give one bare value per
example, under the conventions of the package. Nearly all of them forget something
of a map, such as its scale or which channel is which, so student and teacher need
not agree in it. Where the maps differ in height and width, the larger one is pooled
(`features.pooled_alike`). A map, or a channel, of zeros has no direction: it counts
as zeros, without gradient.
"""

import jax
import jax.numpy as jnp

from kd_jax.losses import features


def attention_distance(
    student_map: jax.Array, teacher_map: jax.Array, *, power: int = 2
) -> jax.Array:
  r"""AT's loss of each example: where the channels are large together.

  L = 1/P sum_p |q_p - r_p|**power,   q = a / |a|_2,   a_p = 1/C sum_c s_pc**2

  q is the student's attention over its P pixels, r the teacher's. With power 2, L =
  2/P (1 - cos(q, r)): at most 2/P, so a small map weighs more. It does not change
  when a map is scaled, or its channels are mixed by an orthogonal matrix. With
  power 1 it compares factors (FT) as RepDistiller does.

  Args:
    student_map: s, `[batch, height, width, channels]`.
    teacher_map: t, likewise, of any channels; receives no gradient.
    power: 2 or 1.

  Returns:
    L, `[batch]`, without unit.

  Raises:
    ValueError: If neither map can be pooled to the size of the other.

  Example:
    >>> s, t = jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0])
    >>> flat = lambda x: x.reshape(1, 1, 2, 1)  # 9 and 16 over their norm, 1 and 0
    >>> attention_distance(flat(s), flat(t)).round(4)
    Array([0.5097], dtype=float32)

  Source: Zagoruyko & Komodakis (2017), Paying more attention to attention, ICLR,
  arXiv 1612.03928, equation 2; as the authors' code, the mean of squares and not
  the norm.
  """
  s, t = _pooled(student_map, teacher_map)
  q, r = (features.unit(jnp.mean(jnp.square(x), axis=-1), (1, 2)) for x in (s, t))
  return _mean_power(q - r, power)


def factor_distance(student_map: jax.Array, teacher_map: jax.Array) -> jax.Array:
  r"""FT's loss of each example: the gap of two maps of norm 1.

  L = 1/N sum_i |s_i / |s|_2 - t_i / |t|_2|,   over the N entries

  Args:
    student_map: s, the student's factor, `[batch, height, width, channels]`.
    teacher_map: t, the teacher's, of as many channels; receives no gradient.

  Returns:
    L, `[batch]`, without unit.

  Raises:
    ValueError: If the channels differ, or neither map can be pooled to the size of
      the other.

  Example:
    >>> s, t = jnp.array([3.0, 4.0]), jnp.array([5.0, 0.0])
    >>> flat = lambda x: x.reshape(1, 1, 1, 2)
    >>> factor_distance(flat(s), flat(t)).round(1)  # (0.4 + 0.8) / 2
    Array([0.6], dtype=float32)

  Source: Kim et al. (2018), Paraphrasing complex network: network compression via
  factor transfer, NeurIPS, arXiv 1802.04977, with p = 1; the authors'
  code takes the mean.
  """
  s, t = _pooled(student_map, teacher_map)
  if s.shape != t.shape:
    raise ValueError(
        f"factors of shapes {student_map.shape} and {teacher_map.shape} have no "
        "distance: they need as many channels")
  return _mean_power(features.unit(s, (1, 2, 3)) - features.unit(t, (1, 2, 3)), 1)


def selectivity_distance(
    student_map: jax.Array, teacher_map: jax.Array
) -> jax.Array:
  r"""NST's loss of each example: what its channels select, in any order.

  L = mean_cd <g_c, g_d>**2 + mean_cd <f_c, f_d>**2 - 2 mean_cd <f_c, g_d>**2

  f_c is a channel of the student's map over its pixels, divided by its norm, and
  g_d one of the teacher's. It is the squared maximum mean discrepancy with the
  kernel <x, y>**2, and also |M - W|_F**2 with M = 1/C sum_c f_c f_c' and W the
  teacher's. L is in [0, 2], and does not change when channels are permuted or
  scaled.

  Args:
    student_map: s, `[batch, height, width, channels]`.
    teacher_map: t, likewise, of any channels; receives no gradient.

  Returns:
    L, `[batch]`, without unit.

  Raises:
    ValueError: If neither map can be pooled to the size of the other.

  Example:
    >>> s, t = jnp.array([3.0, 4.0]), jnp.array([5.0, 0.0])
    >>> flat = lambda x: x.reshape(1, 1, 2, 1)
    >>> selectivity_distance(flat(s), flat(t)).round(4)  # 1 + 1 - 2 * 0.6**2
    Array([1.28], dtype=float32)

  Source: Huang & Wang (2017), Like what you like: knowledge distill via neuron
  selectivity transfer, arXiv 1707.01219; the polynomial kernel, d = 2, c = 0.
  """
  s, t = _pooled(student_map, teacher_map)
  rows = lambda x: features.unit(x, (1, 2)).reshape(len(x), -1, x.shape[-1])
  f, g = rows(s), rows(t)
  if f.shape[1] <= max(f.shape[2], g.shape[2]):
    selected = lambda x: _product("bpc,bqc->bpq", x, x) / x.shape[-1]
    return jnp.sum(jnp.square(selected(f) - selected(g)), axis=(1, 2))
  kernel = lambda x, y: jnp.mean(
      jnp.square(_product("bpc,bpd->bcd", x, y)), axis=(1, 2))
  return kernel(g, g) + kernel(f, f) - 2.0 * kernel(f, g)


def flow_distance(
    student_maps: tuple[jax.Array, jax.Array],
    teacher_maps: tuple[jax.Array, jax.Array],
) -> jax.Array:
  r"""FSP's loss of each example: how a net goes from one tap to a later one.

  L = 1/(C D) sum_cd (G_cd - H_cd)**2,   G_cd = 1/P sum_p x_pc y_pd

  x and y are an earlier and a later map of the student, over P pixels of the
  smaller one; H is the same of the teacher.

  Args:
    student_maps: x and y, each `[batch, height, width, channels]`.
    teacher_maps: The same two of the teacher, of the same channels; receive no
      gradient.

  Returns:
    L in activations to the fourth, `[batch]`.

  Raises:
    ValueError: If the channels differ, or neither of a net's maps can be pooled to
      the size of the other.

  Example:
    >>> one = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)
    >>> flow_distance((one, one), (one, 2 * one))  # (5/2 - 10/2)**2
    Array([6.25], dtype=float32)

  Source: Yim et al. (2017), A gift from knowledge distillation, CVPR, equations 1
  and 2; the mean, as published comparisons have it.
  """
  def flow(maps: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, y = features.pooled_alike(*maps)
    return _product("bhwc,bhwd->bcd", x, y) / (x.shape[1] * x.shape[2])

  g, h = flow(student_maps), flow(jax.lax.stop_gradient(teacher_maps))
  if g.shape != h.shape:
    raise ValueError(
        f"flows of the shapes {g.shape[1:]} and {h.shape[1:]} have no distance: "
        "each tap needs as many channels in both nets")
  return jnp.mean(jnp.square(g - h), axis=(1, 2))


def _pooled(student_map, teacher_map):
  """Both at one size; the teacher's without a gradient."""
  return features.pooled_alike(student_map, jax.lax.stop_gradient(teacher_map))


def _mean_power(x: jax.Array, power: int) -> jax.Array:
  """Mean of |x|**power of each example."""
  return jnp.mean(
      jnp.square(x) if power == 2 else jnp.abs(x), axis=tuple(range(1, x.ndim)))


def _product(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """A product of matrices in the full precision of its type."""
  return jnp.einsum(axes, x, y, precision=jax.lax.Precision.HIGHEST)
