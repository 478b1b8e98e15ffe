r"""Convolutions with BatchNorm in a row: SimKD's projector, OFD's connector.

x <- a(BN(conv(x))), one after the other

The convolutions have no bias. They are trained beside the student; SimKD's stays in
the net that comes out.

Sources: class SimKD of DefangChen/SimKD, `models/util.py` (Chen et al. 2022, arXiv
2203.14001); `build_feature_connector` of clovaai/overhaul-distillation (Heo et al.
2019, arXiv 1904.01866).
"""

import math

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.methods import layers


def projector_init(
    key: jax.Array, inputs: int, outputs: int, factor: int = 2
) -> tuple[types.Tree, types.Tree]:
  """Parameters and state of SimKD's projector, by torch's default.

  1x1 to `outputs / factor` channels, 3x3, and 1x1 to `outputs`, each with BatchNorm
  and ReLU.

  Example:
    >>> params, _ = projector_init(jax.random.key(0), 256, 256)
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))  # as in the paper
    214016
  """
  narrow = max(1, outputs // factor)
  shapes = ((inputs, narrow, ()), (narrow, narrow, (3, 3)), (narrow, outputs, ()))
  return _paired([
      layers.linear_init(key, *shape, bias=False)
      for key, shape in zip(jax.random.split(key, 3), shapes)])


def connector_init(
    key: jax.Array, inputs: int, outputs: int
) -> tuple[types.Tree, types.Tree]:
  """Parameters and state of OFD's connector: 1x1 ~ N(0, 2 / outputs), BatchNorm."""
  kernel = math.sqrt(2.0 / outputs) * jax.random.normal(
      key, (inputs, outputs), jnp.float32)
  return _paired([{"kernel": kernel}])


def apply(
    params: types.Tree, state: types.Tree, tap: jax.Array, mask: jax.Array | None,
    *, relu: bool = True, train: bool = True, axis_name: str | None = None,
) -> tuple[jax.Array, types.Tree]:
  """The map after all layers, and the new state; `mask` and more as of `norm`.

  Masked rows may hold anything; what comes out for them means nothing.
  """
  x, states = layers.clean(tap, mask), []
  for layer, old in zip(params, state, strict=True):
    x, new = layers.norm(layer["norm"], old, layers.linear(layer, x), mask,
                         train=train, axis_name=axis_name)
    x = jnp.maximum(x, 0.0) if relu else x
    states.append(new)
  return x, states


def _paired(convolutions: list[types.Tree]) -> tuple[types.Tree, types.Tree]:
  """Each with a BatchNorm; their running statistics apart."""
  norms = [layers.norm_init(each["kernel"].shape[-1]) for each in convolutions]
  return ([each | {"norm": params} for each, (params, _) in zip(
      convolutions, norms)], [state for _, state in norms])
