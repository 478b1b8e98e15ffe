"""Files of plain arrays, read back as the variables of a net."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import files, types
from kd_jax.core.errors import UserError, message
from kd_jax.export import formats
from kd_jax.models import MODELS
from kd_jax.runs import trained


def load_variables(path: str | os.PathLike) -> types.Variables:
  """What `load_parameters` gives of a net, of its exported .npz or .safetensors.

  Names such as `params/Dense_0/kernel` are the places in two nested dicts.

  Args:
    path: The file.

  Returns:
    Parameters and running state (`{}` without BatchNorm), to the bit as they were.

  Raises:
    UserError: If it is no such file, or one of something else than a net.

  Example:
    >>> load_variables("net.onnx")
    Traceback (most recent call last):
    ...
    kd_jax.errors.UserError: net.onnx: is no file of arrays: .npz, .safetensors
  """
  path = pathlib.Path(path)
  chosen = {each.suffix: each for each in formats.FORMATS.values() if not each.runs}
  if path.suffix not in chosen:
    raise UserError(f"{path}: is no file of arrays: {', '.join(chosen)}")
  if missing := chosen[path.suffix].missing:
    raise UserError(f"{path}: needs {', '.join(missing)}: {formats.REMEDY}")
  try:
    files.refuse_pipes(path)
    tree = jax.tree.map(
        jnp.asarray, _tree(chosen[path.suffix].code.arrays(path)))
  except OSError:
    raise
  except Exception as error:  # Whatever damage makes the readers raise.
    line = " ".join(message(error).split())[:160]
    raise UserError(
        f"{path}: is no exported net ({line}); export it again") from None
  return types.Variables(**tree)


def into(net: trained.Trained, path: str | os.PathLike) -> trained.Trained:
  """A net of a run with the arrays of a file, which may have been changed.

  Args:
    net: As `trained.load` opens it.
    path: An .npz or .safetensors of it. An MLP may have fewer units there, as one
      that was pruned has.

  Returns:
    The same net, whose logits are those of the file's arrays.

  Raises:
    UserError: As of `load_variables`; and if an array is missing, is one more, has
      another shape than the net takes, or a number that is not finite.
  """
  def refuse(text: str) -> NoReturn:
    raise UserError(f"{path}: {text}; give arrays of {net.name}, named as its "
                    "export has them")

  variables = load_variables(path)
  found, wanted = by_name(variables), by_name(net.variables)
  for name in sorted(found.keys() ^ wanted.keys()):
    refuse(f"{name} is none of the net's" if name in found else f"lacks {name}")
  made = with_params(net, variables.params)
  if made.model is not net.model:
    wanted = by_name(jax.eval_shape(
        made.model.init, jax.random.key(0),
        net.preprocess(jnp.zeros((1, *net.shape), net.dtype))))
  for name, leaf in found.items():
    if leaf.shape != wanted[name].shape:
      refuse(f"{name} has shape {list(leaf.shape)}, and the net takes "
             f"{list(wanted[name].shape)}")
    if not jnp.can_cast(leaf.dtype, wanted[name].dtype, "same_kind"):
      refuse(f"{name} is of {leaf.dtype}, and the net takes {wanted[name].dtype}")
    if not np.isfinite(leaf).all():
      refuse(f"{name} has a number that is not finite")
  return made._replace(variables=jax.tree.map(
      lambda leaf, own: leaf.astype(own.dtype), variables, net.variables))


def by_name(variables: types.Variables) -> dict[str, Any]:
  """Arrays by their place, such as `params/Dense_0/kernel`."""
  leaves = jax.tree_util.tree_flatten_with_path(variables._asdict())[0]
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
          for path, leaf in leaves}


def with_params(net: trained.Trained, params: types.Tree) -> trained.Trained:
  """A net with other parameters; an MLP has as many units as they have."""
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  known = {f"Dense_{layer}" for layer in range(len(params))}
  model = net.model
  # A teacher of the main job may be another net, and is never pruned.
  if shapes(params) != shapes(net.variables.params) and (
      net.values["student.name"] == "mlp" and params.keys() == known):
    hidden = [params[f"Dense_{layer}"]["bias"].size
              for layer in range(len(params) - 1)]
    model = MODELS["mlp"](num_classes=len(net.classes), widths=tuple(hidden),
                          dtype=net.values["dtype"])
  return net._replace(model=model, variables=net.variables._replace(params=params))


def _tree(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Nested dicts of arrays by the parts of their names."""
  tree: dict[str, Any] = {"params": {}, "state": {}}
  for name, array in arrays.items():
    *folders, last = name.split("/")
    if not folders or folders[0] not in tree:
      raise ValueError(f"{name} begins neither with params/ nor with state/")
    within = tree
    for folder in folders:
      within = within.setdefault(folder, {})
    within[last] = array
  return tree
