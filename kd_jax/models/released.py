"""Weights of the nets that papers have released, as PyTorch saves them.

A state dict names its layers in the order in which a net has them. Ours are
numbered by kind in that order (`layers.py`): a file's n-th convolution is our n-th.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
import numpy as np

from kd_jax.core import types
from kd_jax.core.errors import UserError
from kd_jax.core.files import refuse_pipes

_KEY = "config.teacher.state_dict"
# Axes of a kernel as torch has them, in our order; and our names.
_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean",
         "running_var": "variance"}


def read(file: str | pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a state dict by name, in its order; no pickled object is loaded.

  Args:
    file: What `torch.save` wrote: a state dict, or a dict that has one as "model"
      or "state_dict", as RepDistiller's and others' checkpoints.

  Raises:
    UserError: If torch is missing, or the file holds something else.
  """
  try:
    import torch  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise UserError(
        f"{_KEY}={file}: reading it needs torch: pip install torch") from None
  try:
    refuse_pipes(pathlib.Path(file))
    found: Any = torch.load(file, map_location="cpu", weights_only=True)
  except Exception as error:  # Whatever torch says of a file that is none.
    text = " ".join(str(error).split())[:150]
    raise UserError(f"{_KEY}={file}: {text}") from None
  for name in ("model", "state_dict"):
    if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
      found = found[name]
  if not isinstance(found, Mapping) or not all(
      isinstance(value, torch.Tensor) for value in found.values()) or not found:
    raise UserError(f"{_KEY}={file}: holds no state dict; save net.state_dict()")
  return {str(name): value.float().numpy() for name, value in found.items()}


def variables(
    arrays: Mapping[str, np.ndarray], like: types.Variables
) -> types.Variables:
  """A net of ours with the weights of a state dict.

  Args:
    arrays: Of `read`.
    like: Of the net, or the shapes of it; convolutions, dense layers and BatchNorms
      numbered by kind.

  Raises:
    ValueError: If the file's net is another one.

  Example:
    >>> from kd_jax.models import MODELS
    >>> net = MODELS["resnet8"](num_classes=10)
    >>> like = net.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    >>> variables({"conv1.weight": np.zeros((16, 3, 3, 3))}, like)
    Traceback (most recent call last):
    ValueError: it has 1 Conv layers, and the net has 9
  """
  layers = _layers(arrays)
  count = lambda names, kind: sum(name.startswith(f"{kind}_") for name in names)
  for kind in ("Conv", "Dense", "BatchNorm"):
    theirs, ours = count(layers, kind), count(like.params, kind)
    if theirs != ours:
      raise ValueError(f"it has {theirs} {kind} layers, and the net has {ours}")

  def filled(tree: types.Tree) -> types.Tree:
    return {layer: {name: _fitting(layer, name, layers.get(layer, {}), leaf)
                    for name, leaf in leaves.items()}
            for layer, leaves in tree.items()}

  return types.Variables(filled(like.params), {
      kind: filled(tree) for kind, tree in like.state.items()})


def _layers(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
  """The arrays of each layer by our names for both, in order."""
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, array in arrays.items():
    layer, _, part = name.rpartition(".")
    parts.setdefault(layer, {})[part] = array
  found: dict[str, dict[str, np.ndarray]] = {}
  numbers = {"Conv": 0, "Dense": 0, "BatchNorm": 0}
  for own in parts.values():
    if "weight" not in own:
      continue
    rank = own["weight"].ndim
    kind = {4: "Conv", 2: "Dense"}.get(rank, "BatchNorm")
    found[f"{kind}_{numbers[kind]}"] = {
        _NORM[name]: array for name, array in own.items() if name in _NORM
    } if kind == "BatchNorm" else {
        "kernel": own["weight"].transpose(_AXES[rank]),
        **({"bias": own["bias"]} if "bias" in own else {})}
    numbers[kind] += 1
  return found


def _fitting(
    layer: str, name: str, found: Mapping[str, np.ndarray], like: Any
) -> jax.Array:
  """An array of a layer, if it has the shape that the net's has."""
  shape = found[name].shape if name in found else None
  if shape != like.shape:
    raise ValueError(f"its {name} of {layer} is {shape}, and the net's is "
                     f"{tuple(like.shape)}")
  return jax.numpy.asarray(found[name], like.dtype)
