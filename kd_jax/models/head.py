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
  found = [(path[:-1], leaf) for path, leaf in
           jax.tree_util.tree_flatten_with_path(params)[0]
           if leaf.ndim == 2 and _words(path[-1:]) == "kernel"]
  if not found:
    raise UserError("the method looks at the dense layer that makes a net's "
                    "logits, and a net has none; use another method or net")
  number = lambda path: [int(digits) for digits in re.findall(r"\d+", _words(path))]
  path, kernel = max(found, key=lambda each: number(each[0]))
  layer = functools.reduce(lambda tree, key: tree[key.key], path, params)
  zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
  return {"kernel": kernel, "bias": layer.get("bias", zeros)}


def probed(model: types.Model) -> types.Model:
  """The model with a linear probe: its last layer learns and sends nothing back.

  Its logits are those of the model; the gradient of a loss of them is that of the
  last layer alone. All else learns from the taps.
  """
  def apply(variables, inputs, **context):
    outputs, state = model.apply(variables, inputs, **context)
    layer = head(variables.params)
    below = jax.lax.stop_gradient(outputs.features["pooled"])
    kernel, bias = (layer[name].astype(below.dtype) for name in ("kernel", "bias"))
    logits = (below @ kernel + bias[None]).astype(outputs.logits.dtype)
    return outputs._replace(logits=logits), state

  return model._replace(apply=apply)


def _words(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
