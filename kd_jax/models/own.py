"""A user's own net as a model: a Linen class, an NNX class, or a function."""

from collections.abc import Callable, Mapping
import inspect
from typing import Any

from flax import nnx
import flax.linen as nn

from kd_jax.core import types
from kd_jax.models.linen import linen_model
from kd_jax.models.nnx import nnx_model


def own_model(source: Any, given: Mapping[str, Any]) -> types.Model:
  """The model that a class or a function makes.

  Args:
    source: A Linen class, an NNX class, or a function that gives a `types.Model`, a
      Linen module or an NNX module. It is given those of the arguments that it
      names, and an NNX class, or a function that makes such a module, `rngs`.
    given: The arguments: `num_classes`, `image_shape`, `widths`, `dtype`.

  Raises:
    TypeError: If it is none of these, or asks for an argument that is not given.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = own_model(lambda num_classes: nn.Dense(num_classes),
    ...                   {"num_classes": 3})
    >>> model.init(jax.random.key(0), jnp.zeros((1, 4))).params["kernel"].shape
    (4, 3)
  """
  if isinstance(source, type) and issubclass(source, nn.Module):
    fields = source.__dataclass_fields__
    return linen_model(source(
        **{name: value for name, value in given.items() if name in fields}))
  named = _named(source)
  own = {name: value for name, value in given.items() if name in named}
  if "rngs" in named:
    return nnx_model(lambda rngs: source(**own, rngs=rngs))
  made = source(**own)
  if isinstance(made, types.Model):
    return made
  if isinstance(made, nn.Module):
    return linen_model(made)
  kind = type(made).__name__
  if isinstance(made, nnx.Module):
    raise TypeError(f"gives the NNX module {kind} without asking for `rngs`, so it "
                    "cannot be initialised anew; let it ask for `rngs`")
  raise TypeError(f"gives a {kind}; it must give a kd_jax Model, a Linen module or "
                  "an NNX module")


def understands(source: Any, name: str) -> bool:
  """Whether a user's class or function names an argument."""
  if isinstance(source, type) and issubclass(source, nn.Module):
    return name in source.__dataclass_fields__
  return name in _named(source)


def _named(source: Callable[..., Any]) -> list[str]:
  if not callable(source):
    raise TypeError(f"is a {type(source).__name__}, not a class or a function")
  # Of an NNX class, whose metaclass hides it, that of its initialisation.
  called: Any = getattr(source, "__init__") if isinstance(  # noqa: B009
      source, type) else source
  return list(inspect.signature(called).parameters)
