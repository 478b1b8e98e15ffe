r"""FT's modules: the teacher's paraphraser, and the student's translator.

factor = e3(e2(e1(x))),   paraphrase = d3(d2(d1(factor)))

Each e and d is a convolution 3x3 with bias and a LeakyReLU of slope 0.1. A factor
has half as many channels as the teacher's map, and its height and width. Both nets
have a factor of their own map; the paraphrase is of the teacher's alone.
RepDistiller's translator has a batch normalisation before each LeakyReLU, the
authors' has none.

Source: Kim et al. (2018), Paraphrasing complex network: network compression via
factor transfer, NeurIPS, arXiv 1802.04977, figure 2.
"""

import jax

from kd_jax.core import types
from kd_jax.methods import layers

SLOPE = 0.1


def init(
    key: jax.Array, *channels: int, transposed: bool = False, norm: bool = False
) -> tuple[types.Tree, types.Tree]:
  """Parameters and state of convolutions, from each number of channels to the next.

  Args:
    key: Of the kernels and biases.
    *channels: C, C, F, F of an encoder; F, F, C, C of a decoder.
    transposed: Whether to draw as torch does a transposed convolution, which with
      stride 1 is a convolution all the same.
    norm: Whether each has a batch normalisation.

  Example:
    >>> params, _ = init(jax.random.key(0), 8, 8, 4, 4)
    >>> params["layer_1"]["kernel"].shape
    (3, 3, 8, 4)
  """
  params, state = {}, {}
  for place, (inputs, outputs) in enumerate(zip(channels, channels[1:])):
    name = f"layer_{place}"
    params[name] = layers.linear_init(
        jax.random.fold_in(key, place), inputs, outputs, (3, 3),
        fan_in=9 * outputs if transposed else None)
    if norm:
      params[f"norm_{place}"], state[f"norm_{place}"] = layers.norm_init(outputs)
  return params, state


def apply(
    params: types.Tree,
    state: types.Tree,
    x: jax.Array,
    mask: jax.Array | None,
    axis_name: str | None = None,
) -> tuple[jax.Array, types.Tree]:
  """A map through the convolutions, and the new running statistics.

  Args:
    params: From `init`.
    state: From `init`, or the last `apply`.
    x: `[batch, height, width, channels]`, finite in every row.
    mask: True for the valid examples, bool `[batch]`; None for all.
    axis_name: The mapped device axis over which statistics are added.

  Example:
    >>> params, state = init(jax.random.key(0), 8, 8, 4, 4)
    >>> apply(params, state, jax.numpy.ones((2, 5, 5, 8)), None)[0].shape
    (2, 5, 5, 4)
  """
  running = {}
  for place in range(len(params) - len(state)):
    x = layers.linear(params[f"layer_{place}"], x)
    norm = f"norm_{place}"
    if norm in params:
      x, running[norm] = layers.norm(
          params[norm], state[norm], x, mask, axis_name=axis_name)
    x = jax.nn.leaky_relu(x, SLOPE)
  return x, running
