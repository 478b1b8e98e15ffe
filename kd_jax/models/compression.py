"""The rival roads to a small net: pruning, few bits, low-rank factors.

Kernels are the leaves of that name; their last axis is that of outputs.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import types

# ---- Pruning.


def pruned(params: types.Tree, share: float, by: str) -> types.Tree:
  """Parameters with a share of each layer set to 0, what is smallest (Han 2015).

  Args:
    params: Of a net.
    share: Of what is set to 0, in [0, 1), rounded down.
    by: "weights": those of the smallest |w|; "channels": outputs of the smallest
      sum |w| (Li et al. 2017, arXiv 1608.08710), with their biases; the layer that
      makes the logits keeps all of its own.

  Raises:
    ValueError: If channels are asked of a net that is no chain of layers of one
      kind, dense or convolutional.

  Example:
    >>> pruned({"d": {"kernel": jnp.array([[1.0, -4.0], [2.0, 3.0]])}}, 0.5,
    ...        "weights")["d"]["kernel"].tolist()
    [[0.0, -4.0], [0.0, 3.0]]
  """
  if by == "weights":
    return _on_kernels(lambda kernel: _without_smallest(kernel, share), params)
  layers = _chain(params)
  made = dict(params)
  for name in layers[:-1]:
    norms = jnp.sum(jnp.abs(params[name]["kernel"]), axis=tuple(
        range(params[name]["kernel"].ndim - 1)))
    kept = _without_smallest(norms, share) != 0
    made[name] = {
        key: jnp.where(jnp.broadcast_to(kept, leaf.shape), leaf, 0)
        for key, leaf in params[name].items()}
  return made


def _without_smallest(array: jax.Array, share: float) -> jax.Array:
  number = int(share * array.size)
  smallest = jnp.argsort(jnp.abs(array).reshape(-1), stable=True)[:number]
  return array.reshape(-1).at[smallest].set(0).reshape(array.shape)


def _chain(params: types.Tree) -> list[str]:
  """Names of the layers of a net that is a chain of them, in order."""
  number = lambda name: int(name.rpartition("_")[2])
  try:
    names = sorted(params, key=number)
    plain = all(params[name].keys() <= {"kernel", "bias"} for name in names)
  except (AttributeError, TypeError, ValueError):
    plain = False
  if not plain or len({name.rpartition("_")[0] for name in names}) > 1:
    raise ValueError("channels are pruned of nets that are a chain of layers of "
                     "one kind, such as mlp; use prune_by=weights")
  return names


def without_dead(params: types.Tree) -> types.Tree:
  """A chain of dense layers without the units that are always 0.

  A unit is if all its weights and its bias are 0; the ReLU of 0 is 0.

  Example:
    >>> one, two = jnp.array([[1.0, 0.0]]), jnp.array([[2.0], [3.0]])
    >>> small = without_dead({"Dense_0": {"kernel": one, "bias": jnp.zeros(2)},
    ...                       "Dense_1": {"kernel": two, "bias": jnp.zeros(1)}})
    >>> small["Dense_0"]["kernel"].shape, small["Dense_1"]["kernel"].tolist()
    ((1, 1), [[2.0]])
  """
  names = _chain(params)
  made = {name: dict(params[name]) for name in names}
  for name, after in zip(names, names[1:]):
    alive = _alive(made[name]["kernel"]) | (made[name]["bias"] != 0)
    made[name] = {key: leaf[..., alive] for key, leaf in made[name].items()}
    made[after]["kernel"] = made[after]["kernel"][alive]
  return made


@functools.lru_cache(maxsize=32)  # The same model shares its programs.
def sparse(model: types.Model) -> types.Model:
  """A net whose weights that are 0 stay 0: no gradient reaches them.

  A unit without weights has no bias either.
  """
  def masked(tree: Any) -> Any:
    if not isinstance(tree, dict):
      return tree
    made = {key: masked(leaf) for key, leaf in tree.items()}
    kernel = tree.get("kernel")
    if kernel is None or isinstance(kernel, dict):
      return made
    made["kernel"] = kernel * (kernel != 0)
    bias = tree.get("bias")
    if bias is not None and bias.shape == kernel.shape[-1:]:
      made["bias"] = bias * _alive(kernel)
    return made

  return _trained_with(model, masked)


def _alive(kernel: jax.Array) -> jax.Array:
  """Which outputs have a weight that is not 0, bool `[outputs]`."""
  return jnp.any(kernel != 0, axis=tuple(range(kernel.ndim - 1)))


# ---- Few bits.


@functools.lru_cache(maxsize=32)
def few_bits(model: types.Model, bits: int) -> types.Model:
  """A net that is trained as if its weights had few bits (Jacob et al. 2018).

  Each step sees the rounded weights; the gradient passes through the rounding as if
  it were not there. What comes of the training are rounded weights.
  """
  rounding = functools.partial(_on_kernels, lambda kernel: rounded(kernel, bits))
  through = functools.partial(_on_kernels, lambda kernel: kernel + (
      jax.lax.stop_gradient(rounded(kernel, bits) - kernel)))
  return _trained_with(model, through)._replace(settle=lambda variables: (
      variables._replace(params=rounding(variables.params))))


def rounded(kernel: jax.Array, bits: int) -> jax.Array:
  """Weights on the grid that a runtime with few bits keeps.

  q = s * round(w / s), s = max |w| / (2**(bits - 1) - 1) of each output.

  Example:
    >>> rounded(jnp.array([[1.0], [0.4], [-0.6]]), 2).tolist()
    [[1.0], [0.0], [-1.0]]
  """
  largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)),
                    keepdims=True)
  scale = jnp.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
  return scale * jnp.round(kernel / scale)


# ---- Low rank.


def factored(params: types.Tree, like: types.Tree) -> types.Tree:
  """A dense net's parameters as factors, by the singular values that are largest.

  W = U S V ~ (U sqrt(S)) (sqrt(S) V), of the rank that `like` has: layer `NAME` of
  `like` has the second factor, `NAME_in` the first. Others stay.

  Raises:
    ValueError: If `like` is no such form of the net.
  """
  made = {}
  for name, layer in like.items():
    if name.endswith("_in"):
      continue
    given = params.get(name)
    if given is None:
      raise ValueError(f"there is no layer {name} to start from")
    if f"{name}_in" not in like:
      made[name] = given
      continue
    rank = layer["kernel"].shape[0]
    u, s, v = jnp.linalg.svd(given["kernel"], full_matrices=False)
    root = jnp.sqrt(s[:rank])
    made[f"{name}_in"] = {"kernel": u[:, :rank] * root[None]}
    made[name] = {**given, "kernel": root[:, None] * v[:rank]}
  return made


def _trained_with(
    model: types.Model, change: Callable[[types.Tree], types.Tree]
) -> types.Model:
  """The model, whose parameters are changed wherever it is trained."""
  def apply(variables, inputs, *, train, **context):
    if train:
      variables = variables._replace(params=change(variables.params))
    return model.apply(variables, inputs, train=train, **context)
  return model._replace(apply=apply)


def _on_kernels(
    change: Callable[[jax.Array], jax.Array], params: types.Tree
) -> types.Tree:
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: change(leaf) if is_kernel(path, leaf) else leaf, params)


def is_kernel(path: tuple[Any, ...], leaf: Any) -> bool:
  """Whether a leaf of a net's parameters is the weights of a layer."""
  return getattr(path[-1], "key", None) == "kernel" and leaf.ndim > 1
