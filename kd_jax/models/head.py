"""The layer of a net that makes its logits, found in its parameters."""

import functools
import re

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.core.errors import UserError


def head(params: types.Tree) -> types.Tree:
  """The dense layer that makes a net's logits, `{"kernel", "bias"}`.

  It is the net's only layer with a matrix, or of several the last by the numbers in
  their names. The bias of one without is 0.

  Raises:
    UserError: If the net has no such layer.

  Example:
    >>> layer = lambda *shape: {"kernel": jnp.ones(shape)}
    >>> head({"Dense_2": layer(4, 3), "Dense_10": layer(3, 5),
    ...       "Conv_11": layer(1, 1, 2, 4)})["kernel"].shape
    (3, 5)
  """
  layer = functools.reduce(
      lambda tree, key: tree[key.key], _place(params), params)
  kernel = layer["kernel"]
  zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
  return {"kernel": kernel, "bias": layer.get("bias", zeros)}


@functools.lru_cache(maxsize=32)  # The same model shares its programs.
def probed(model: types.Model) -> types.Model:
  """The model with a linear probe: labels train its last layer alone.

  Its outputs are those of the model. The gradient of a loss of its logits is that
  of `head` and 0 elsewhere, where a net learns from its taps.
  """
  def apply(variables, inputs, **context):
    outputs, state = model.apply(variables, inputs, **context)
    place = _place(variables.params)
    still = jax.tree_util.tree_map_with_path(
        lambda path, x: x if path[:-1] == place else jax.lax.stop_gradient(x),
        variables.params)
    # The same numbers again, which the compiler computes once.
    logits = model.apply(
        variables._replace(params=still), inputs, **context)[0].logits
    return outputs._replace(logits=logits), state

  return model._replace(apply=apply)


def _place(params: types.Tree) -> tuple:
  """Where the layer of `head` is."""
  found = [path[:-1] for path, leaf in
           jax.tree_util.tree_flatten_with_path(params)[0]
           if leaf.ndim == 2 and _words(path[-1:]) == "kernel"]
  if not found:
    raise UserError("the method looks at the dense layer that makes a net's "
                    "logits, and a net has none; use another method or net")
  number = lambda path: [int(digits) for digits in re.findall(r"\d+", _words(path))]
  return max(found, key=number)


def _words(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
