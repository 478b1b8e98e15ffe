"""A user's own net as a model: a Linen class, an NNX class, or a function."""

from collections.abc import Callable, Iterable, Mapping
import inspect
from typing import Any

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.models.linen import SWITCHES, linen_model
from kd_jax.models.nnx import nnx_model


def own_model(source: Any, given: Mapping[str, Any]) -> types.Model:
  """The model that a class or a function makes.

  Args:
    source: A Linen class, an NNX class, or a function that gives a `types.Model`, a
      Linen module or an NNX module. It is given those of the arguments that it
      names, and an NNX class, or a function that makes such a module, `rngs`.
    given: The arguments: `num_classes`, `image_shape`, `widths`, `dtype`.

  Raises:
    TypeError: If it is none of these, asks for an argument that is not given, or
      has a switch for training that is no argument of `__call__`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = own_model(lambda num_classes: nn.Dense(num_classes),
    ...                   {"num_classes": 3})
    >>> model.init(jax.random.key(0), jnp.zeros((1, 4))).params["kernel"].shape
    (4, 3)
  """
  named = _named(source)
  asked = {name for name, parameter in named.items()
           if parameter.default is parameter.empty and parameter.kind in (
               parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)}
  for name in sorted(asked - {*given, "self", "rngs"}):
    raise TypeError(f"asks for {name!r}; it may ask for {', '.join(given)}, rngs")
  if isinstance(source, type):
    _refuse_switches({*named} - {*inspect.signature(source.__call__).parameters})
  else:
    _refuse_switches(named)
  own = {name: value for name, value in given.items() if name in named}
  if "rngs" in named:
    return nnx_model(lambda rngs: source(**own, rngs=rngs))
  made: Any = source(**own)
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
  return name in _named(source)


def check(model: types.Model, inputs: types.Tree) -> None:
  """Refuses a net that would be trained or judged otherwise than it means.

  Args:
    model: Of `own_model`.
    inputs: Shapes and types of some examples, eight or so.

  Raises:
    TypeError: If its training call fails, if it does not hear whether it trains, if
      its state changes in evaluation, or if it gives probabilities.
  """
  key = jax.random.key(0)
  held = jax.eval_shape(model.init, key, inputs)
  changed = {train: _changed(model, held, inputs, train) for train in (True, False)}
  if changed[False]:
    raise TypeError(f"changes its state {changed[False][0]} in evaluation; let its "
                    "__call__ take `train` and change it in training only")
  frozen = [name for name in _names(held.state) if name not in changed[True]
            and name.endswith(("['mean']", "['var']"))]
  if frozen:
    raise TypeError(f"leaves its statistics {frozen[0]} as they began in training; "
                    "let its __call__ take `train`")
  shown = jax.tree.map(
      lambda x: jax.random.uniform(key, x.shape, x.dtype)
      if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros(x.shape, x.dtype),
      inputs)
  judged = jax.jit(lambda stream: model.apply(
      model.init(key, shown), shown, train=False, rngs={"dropout": stream},
      mask=None, rates=None, axis_name=None)[0].logits)
  logits = judged(jax.random.key(1))
  if not jnp.array_equal(logits, judged(jax.random.key(2)), equal_nan=True):
    raise TypeError("draws random numbers in evaluation; let its __call__ take "
                    "`train` and draw in training only")
  if jnp.all(logits >= 0) and jnp.allclose(logits.sum(-1), 1, atol=0.01):
    raise TypeError("gives probabilities; let it give logits, without the softmax")


def _changed(
    model: types.Model, held: types.Variables, inputs: types.Tree, train: bool
) -> list[str]:
  """The state that a call changes."""
  shapes = []
  valid = jax.ShapeDtypeStruct((len(jax.tree.leaves(inputs)[0]),), bool)

  def state(state, params, inputs, mask, key):
    outputs, after = model.apply(
        types.Variables(params, state), inputs, train=train, rngs={"dropout": key},
        mask=mask, rates=None, axis_name=None)
    del outputs
    shapes.append(jax.tree.map(lambda x: (x.shape, x.dtype), after))
    return after

  with nn.intercept_methods(_dropping if train else _as_it_is):
    try:
      made = jax.make_jaxpr(state)(
          held.state, held.params, inputs, valid, jax.random.key(0)).jaxpr
    except Exception as error:
      word = "training" if train else "evaluation"
      raise TypeError(f"its {word} call fails: {type(error).__name__}: "
                      f"{' '.join(str(error).split())}") from error
  if shapes[0] != jax.tree.map(lambda x: (x.shape, x.dtype), held.state):
    raise TypeError("its state has other names or shapes after a call than at its "
                    f"start ({', '.join(_names(held.state))}); keep them alike")
  return [name for name, before, after in zip(
      _names(held.state), made.invars, made.outvars) if before is not after]


def _names(state: types.Tree) -> list[str]:
  return [jax.tree_util.keystr(path)
          for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _as_it_is(call, words, keywords, context):
  del context
  return call(*words, **keywords)


def _dropping(call, words, keywords, context):
  """Calls a layer of a net in training; refuses Dropout that is off."""
  layer = context.module
  if isinstance(layer, nn.Dropout) and context.method_name == "__call__":
    given = [*words[1:2], keywords.get("deterministic"), layer.deterministic]
    off = next((value for value in given if value is not None), None)
    if off and layer.rate > 0:
      raise TypeError("its nn.Dropout is off in training; let __call__ take "
                      "`train` or `deterministic`, and hand it on")
  return call(*words, **keywords)


def _refuse_switches(names: Iterable[str]) -> None:
  for name in sorted(SWITCHES.keys() & set(names)):
    raise TypeError(f"has the switch {name!r}, which nothing would turn; let its "
                    "__call__ take it")


def _named(source: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
  if not callable(source):
    raise TypeError(f"is a {type(source).__name__}, not a class or a function")
  # Of an NNX class, whose metaclass hides it, that of its initialisation.
  called: Any = getattr(source, "__init__") if isinstance(  # noqa: B009
      source, type) else source
  return inspect.signature(called).parameters
