"""A function on the host as a net: a model of PyTorch, ONNX, Keras or scikit-learn.

It has no parameters that are known here, so it is asked and never trained.
"""

from collections.abc import Callable, Mapping
import inspect
from typing import Any

import jax
import numpy as np

from kd_jax.core import types
from kd_jax.core.errors import UserError, in_words

# What a function that makes a net may ask for.
_OF_BUILDERS = {"num_classes", "image_shape", "widths", "dtype", "rngs"}


def of_inputs(source: Any) -> bool:
  """Whether a user's object is a function of inputs, not one that makes a net.

  Example:
    >>> of_inputs(lambda images: images), of_inputs(lambda num_classes: None)
    (True, False)
  """
  if isinstance(source, type) or not callable(source):
    return False
  try:
    named = inspect.signature(source).parameters
  except ValueError:  # Of a built-in function, which may hide it.
    return False
  needed = [each for each in named.values() if each.default is each.empty
            and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
  return len(needed) == 1 and not _OF_BUILDERS & named.keys()


def model(
    function: Callable[[np.ndarray], Any], seen: jax.ShapeDtypeStruct,
    num_classes: int, *, key: str, file: str,
) -> types.Model:
  """The net that asks a function.

  Args:
    function: Of inputs `[B, ...]` as nets see them, a NumPy array, such as float32
      pixels `[B, H, W, C]` in [0, 1]. It gives logits `[B, num_classes]`, or those
      and a dict of features `[B, ...]` by name; arrays of any library on the CPU.
    seen: Shape and type of two inputs; it is tried on zeros.
    num_classes: Number of classes.
    key: The config key and its value, for messages.
    file: Where the function lies, for them too; or the name of its module.

  Raises:
    UserError: If it fails, or gives something else. So does what it is asked later.
  """
  def asked(inputs: np.ndarray) -> types.Outputs:
    try:
      found = function(inputs)
    except Exception as error:  # Whatever a user's function raises.
      raise UserError(f"{key}: fails on inputs {inputs.shape}: "
                      f"{in_words(error, file)}") from error
    both = isinstance(found, tuple) and len(found) == 2
    logits, features = found if both else (found, {})
    if not isinstance(features, Mapping):
      raise UserError(f"{key}: gives a {type(features).__name__} beside its "
                      "logits; give a dict of features by name")
    number = len(inputs)
    return types.Outputs(
        _floats(key, "logits", logits, number, num_classes),  # type: ignore[arg-type]
        {name: _floats(key, f"features {name}", tap, number)  # type: ignore[misc]
         for name, tap in features.items()})

  tried = asked(np.zeros(seen.shape, seen.dtype))

  def apply(variables, inputs, **_):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        (len(inputs), *x.shape[1:]), x.dtype), tried)
    ask = _in_place if jax.default_backend() == "cpu" else jax.pure_callback
    return ask(rows, shapes, inputs, vmap_method="broadcast_all"), variables.state

  def rows(inputs):
    # Lanes of a sweep are axes before that of the batch.
    inputs = np.asarray(inputs)
    lanes = inputs.shape[:1 - len(seen.shape)]
    outputs = asked(inputs.reshape(-1, *inputs.shape[len(lanes):]))
    return jax.tree.map(lambda x: x.reshape(*lanes, *x.shape[1:]), outputs)

  return types.Model(
      lambda key, inputs: types.Variables({}, {}), apply, on_host=asked)


def _in_place(
    function: Callable[[np.ndarray], Any], shapes: Any, inputs: jax.Array,
    **more: Any,
) -> Any:
  """As `jax.pure_callback`, on a CPU: the function reads the memory of XLA.

  `pure_callback` copies inputs by a thread of the pool. Where each of these asks a
  function, as there are no more of them than devices, all wait for ever.
  """
  from jax.experimental import buffer_callback  # pylint: disable=g-import-not-at-top

  def fill(context, outputs, seen):
    del context
    jax.tree.map(lambda buffer, found: np.copyto(np.asarray(buffer), found),
                 outputs, function(np.array(np.asarray(seen))))
  return buffer_callback.buffer_callback(fill, shapes, **more)(inputs)


def _floats(key: str, what: str, found: Any, *shape: int) -> np.ndarray:
  """An array of any library as float32, whose first axes have these sizes."""
  if hasattr(found, "detach"):  # PyTorch's, which may ask for gradients.
    found = found.detach().cpu()
  try:
    array = np.asarray(found.numpy() if hasattr(found, "numpy") else found)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
      raise TypeError(f"holds {array.dtype}")
    array = array.astype(np.float32)
  except (TypeError, ValueError) as error:
    raise UserError(
        f"{key}: its {what} are no array of numbers ({error})") from None
  if array.shape[:len(shape)] != shape:
    # Of logits every size is known, of features the first.
    sizes = ", ".join(map(str, shape if len(shape) > 1 else [*shape, "..."]))
    raise UserError(f"{key}: its {what} have the shape {array.shape} for "
                    f"{shape[0]} inputs, not ({sizes})")
  return array
