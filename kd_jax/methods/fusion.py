r"""ReviewKD's modules: the student's stages, from the deepest to the first, fused.

x_i = BN(conv1x1(tap_i))
r_i = z_1 x_i + z_2 up(r_(i+1)),   z = sigmoid(conv1x1([x_i, up(r_(i+1))]))
y_i = BN(conv3x3(resize(r_i)))

r of the deepest level is x alone. `up` and `resize` take the nearest pixel: to the
student's own size, and to the teacher's. y_i is compared with the teacher's tap i.
A vector is a map of one pixel.

Source: Chen et al. (2021), Distilling knowledge via knowledge review, CVPR, arXiv
2104.09044, section 3.2; class ABF of dvlab-research/ReviewKD.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.methods import layers

Shape = tuple[int, ...]
# Most channels of what is fused, in the code.
MOST_CHANNELS = 512


def init(
    key: jax.Array, student: Mapping[str, Shape], teacher: Mapping[str, Shape],
    order: Sequence[str],
) -> tuple[types.Tree, types.Tree]:
  r"""Parameters and state of all levels.

  Kernels ~ U(-b, b), b = sqrt(3 / fan in), without bias; those of the gates, with
  one, b = 1 / sqrt(fan in).

  Args:
    key: Of the draw.
    student: Shapes of one example's taps by name.
    teacher: Likewise, under the same names.
    order: The names from the first level to the deepest.

  Returns:
    `(params, state)` by name, float32.
  """
  middle = min(MOST_CHANNELS, student[order[-1]][-1])
  params, state = {}, {}
  for place, name in enumerate(order):
    keys = jax.random.split(jax.random.fold_in(key, place), 3)
    channels = student[name][-1], teacher[name][-1]
    conv = lambda key, *shape: layers.linear_init(
        key, *shape, bias=False, gain=3**0.5)
    into, out = layers.norm_init(middle), layers.norm_init(channels[1])
    params[name] = {
        "into": conv(keys[0], channels[0], middle), "into_norm": into[0],
        "out": conv(keys[1], middle, channels[1], (3, 3)), "out_norm": out[0]}
    state[name] = {"into_norm": into[1], "out_norm": out[1]}
    if name != order[-1]:
      params[name]["gate"] = layers.linear_init(keys[2], 2 * middle, 2)
  return params, state


def apply(
    params: types.Tree, state: types.Tree, taps: Mapping[str, jax.Array],
    sizes: Mapping[str, Shape], mask: jax.Array | None, order: Sequence[str], *,
    axis_name: str | None = None,
) -> tuple[dict[str, jax.Array], types.Tree]:
  """The fused maps in the teacher's shapes, by name, and the new state.

  Args:
    params: From `init`.
    state: From `init`, or the last `apply`.
    taps: The student's.
    sizes: Height and width of the teacher's tap of each name, (1, 1) of a vector.
    mask: True for the valid examples, bool `[batch]`; None for all. Other rows may
      hold anything; what comes out for them means nothing.
    order: The names from the first level to the deepest.
    axis_name: The mapped device axis over which statistics are added.
  """
  made: dict[str, jax.Array] = {}
  states, before = {}, None
  for name in reversed(order):
    own, old = params[name], state[name]
    x = layers.linear(own["into"], layers.clean(as_map(taps[name]), mask))
    x, into = layers.norm(
        own["into_norm"], old["into_norm"], x, mask, axis_name=axis_name)
    if before is not None:
      y = nearest(before, x.shape[1:3])
      z = jax.nn.sigmoid(layers.linear(own["gate"], jnp.concatenate([x, y], -1)))
      x = z[..., :1] * x + z[..., 1:] * y
    before = nearest(x, sizes[name])
    y, out = layers.norm(
        own["out_norm"], old["out_norm"], layers.linear(own["out"], before), mask,
        axis_name=axis_name)
    made[name], states[name] = y, {"into_norm": into, "out_norm": out}
  return made, states


def as_map(tap: jax.Array) -> jax.Array:
  """A vector as a map of one pixel."""
  return tap[:, None, None, :] if tap.ndim == 2 else tap


def nearest(x: jax.Array, size: Shape) -> jax.Array:
  """A map of another size; each pixel is the nearest of the old, as torch counts.

  Example:
    >>> nearest(jnp.arange(3.0).reshape(1, 1, 3, 1), (1, 5)).ravel()
    Array([0., 0., 1., 1., 2.], dtype=float32)
  """
  for axis, length in enumerate(size, start=1):
    if x.shape[axis] != length:
      places = jnp.arange(length) * x.shape[axis] // length
      x = jnp.take(x, places, axis=axis)
  return x
