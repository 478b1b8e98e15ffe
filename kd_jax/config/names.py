"""What names stand for: models, and a user's own modules."""

from collections.abc import Mapping, Sequence
import hashlib
import importlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import data as data_lib
from kd_jax import methods, models
from kd_jax.core import types
from kd_jax.core.errors import UserError, nearest

Known = Mapping[str, Any]


def model(
    name: str, widths: Sequence[int], found: data_lib.Dataset, *, prefix: str,
    dtype: str = "float32"
) -> types.Model:
  """The model that a name stands for, checked on one image.

  Args:
    name: A key of `MODELS`, or `package.module:Class`.
    widths: Its widths; none for its own.
    found: The data set, for the image size and the number of classes.
    prefix: "student" or "teacher", for messages.
    dtype: Of its arithmetic.

  Returns:
    The model.

  Raises:
    UserError: If there is no such model, or it does not fit the data.
  """
  if ":" in name:
    built = _own_model(name, widths, found.num_classes, prefix, dtype)
  else:
    builder = known(f"{prefix}.name", name, models.MODELS)
    given = {"widths": tuple(widths)} if widths else {}
    built = builder(num_classes=found.num_classes, dtype=dtype, **given)
  image = jax.ShapeDtypeStruct((2,) + found.train.image.shape[1:], jnp.float32)
  try:
    logits = jax.eval_shape(
        lambda key, image: built.apply(
            built.init(key, image), image, train=False)[0].logits,
        jax.random.key(0), image)
  except Exception as error:  # Whatever a module raises on a wrong shape.
    first = (str(error).strip().splitlines() or [""])[0]
    raise UserError(
        f"config.{prefix}: {name} with widths {tuple(widths)} does not "
        f"take images {image.shape[1:]}: {type(error).__name__}: {first[:160]}"
    ) from error
  if logits.shape != (2, found.num_classes):
    raise UserError(
        f"config.{prefix}.name={name}: gives logits {logits.shape} for 2 "
        f"images, must be (2, {found.num_classes})")
  return built


def taps(model: types.Model, found: data_lib.Dataset) -> dict[str, tuple[int, ...]]:
  """Shapes of a model's taps of one example of a data set, by name."""
  image = jax.ShapeDtypeStruct((2,) + found.train.image.shape[1:], jnp.float32)
  features = jax.eval_shape(
      lambda key, image: model.apply(
          model.init(key, image), image, train=False)[0].features,
      jax.random.key(0), image)
  return {name: tap.shape[1:] for name, tap in features.items()}


def method(name: str) -> methods.Method:
  """The method of a name, or of several joined by +."""
  try:
    return methods.find(name)
  except KeyError as error:
    part = error.args[0]
    if part not in methods.METHODS:
      known("method", part, methods.METHODS)
    beside = [each for each, own in methods.METHODS.items() if own.added]
    raise UserError(
        f"config.method={name!r}: {part} cannot follow a +; those that can, once "
        f"each: {', '.join(sorted(beside))}") from None


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
  """The numbers of a run's method by the names that its terms know."""
  name = values["method"]
  if len(methods.parts(name)) == 1:
    return {number: values[f"{name}.{number}"] for number in method(name).numbers}
  return {f"{part}_{number}": values[f"{part}.{number}"]
          for part in methods.parts(name)
          for number in methods.METHODS[part].numbers}


def source_identity(name: str) -> dict[str, str]:
  """What a user's own module is at present: the hash of its file, or nothing."""
  if ":" not in name:
    return {}
  module = importlib.import_module(name.split(":", 1)[0])
  source = inspect.getsource(module)
  return {"source": hashlib.sha256(source.encode()).hexdigest()}


def _own_model(
    name: str, widths: Sequence[int], num_classes: int, prefix: str, dtype: str
) -> types.Model:
  """A user's Linen class as `package.module:Class`."""
  key = f"config.{prefix}.name={name}"
  module_name, class_name = name.split(":", 1)
  try:
    own = getattr(importlib.import_module(module_name), class_name)
  except Exception as error:  # Whatever a user's file raises.
    raise UserError(f"{key}: cannot be imported: {error}") from None
  fields = getattr(own, "__dataclass_fields__", {})
  given: dict[str, Any] = {"num_classes": num_classes}
  if dtype != "float32" and "dtype" not in fields:
    raise UserError(
        f"config.dtype={dtype}: {name} has no field dtype to be told by; "
        "give it one, or use float32")
  if dtype != "float32":
    given["dtype"] = jnp.dtype(dtype)
  if widths:
    given["widths"] = tuple(widths)
  try:
    return models.linen_model(
        own(**{field: v for field, v in given.items() if field in fields}))
  except TypeError as error:
    raise UserError(f"{key}: {error}") from None


def known(key: str, name: str, things: Known) -> Any:
  """What a key's value names; a UserError with the nearest name otherwise."""
  if name not in things:
    raise UserError(
        f"config.{key}={name!r}: no such {key.split('.')[-1]}; "
        f"{nearest(name, things)}")
  return things[name]
