"""Flax NNX behind two pure functions."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import contextvars
import functools
import inspect
from typing import Any

from flax import nnx, traverse_util
import jax

from kd_jax.core import types
from kd_jax.models.linen import as_outputs, keywords, only

# Calls a method of a part: `hook(part, method, call, words, keywords)` gives what
# `call` does.
Hook = Callable[[Any, str, Callable[..., Any], Any, Any], Any]
_hook: contextvars.ContextVar[Hook | None] = contextvars.ContextVar(
    "hook", default=None)


class Streams(nnx.Rngs):
  """Random streams of all names, as those without a key of their own have one.

  `nnx.Rngs` draws them from its default stream, but says that they are not there.
  """

  def __contains__(self, name: Any) -> bool:
    return True

  def fork(self, *words: Any, **keywords: Any) -> "Streams":
    return Streams(**dict(super().fork(*words, **keywords).items()))

  def split(self, *words: Any, **keywords: Any) -> "Streams":
    return Streams(**dict(super().split(*words, **keywords).items()))


def nnx_model(make: Callable[[nnx.Rngs], nnx.Module]) -> types.Model:
  """A `types.Model` from any NNX module.

  Parameters (`nnx.Param`) are trained; all other variables, such as BatchNorm's
  statistics, are the model's state. Random streams are drawn anew from the key of
  each step, so a module's own counters do not count.

  Args:
    make: Makes the module of `nnx.Rngs`.

  Returns:
    The pair of functions `init(key, inputs)` and `apply(variables, inputs, ...)`.

  Raises:
    TypeError: If the module's `__call__` asks for an argument of another name.

  Example:
    >>> import jax.numpy as jnp
    >>> model = nnx_model(lambda rngs: nnx.Linear(4, 10, rngs=rngs))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(variables, jnp.zeros((2, 4)), train=False)[0].logits.shape
    (2, 10)
  """
  module = nnx.eval_shape(lambda: make(Streams(0)))
  understood = keywords(module.__call__, type(module).__name__)
  _refuse_switches(module)
  graphs: dict[bool, Any] = {}
  for train in (True, False):
    # Beside the switches that `__call__` may name.
    (module.train if train else module.eval)()
    graphs[train], params, streams, state = _split(module)

  def init(key: jax.Array, inputs: types.Tree) -> types.Variables:
    del inputs
    with _as_users_write():
      made = make(Streams(key))
    _, params, _, state = _split(made)
    return types.Variables(_as_dict(params), _as_dict(state))

  def apply(
      variables: types.Variables, inputs: types.Tree, *, train: bool,
      rngs: Mapping[str, jax.Array] | None = None,
      mask: jax.Array | None = None,
      rates: Mapping[str, jax.Array | float] | None = None,
      axis_name: str | None = None,
  ) -> tuple[types.Outputs, types.Tree]:
    context = only(
        understood, train=train, mask=mask, rates=rates, axis_name=axis_name)
    made = nnx.merge(
        graphs[train], _as_state(params, variables.params), _drawn(streams, rngs),
        _as_state(state, variables.state))
    if hook := _hook.get():
      _intercept(made, hook)
    with _as_users_write():
      outputs = made(inputs, **context)
    _, _, _, after = _split(made)
    known = {path for path, _ in nnx.to_flat_state(state)}
    # What a module has sown on the way is no state of the model.
    kept = nnx.from_flat_state([
        (path, variable) for path, variable in nnx.to_flat_state(after)
        if path in known])
    return as_outputs(outputs), _as_dict(kept)

  return types.Model(init, apply, understood)


def _refuse_switches(module: nnx.Module) -> None:
  for _, part in nnx.iter_modules(module):
    # `.train()` and `.eval()` turn those of the other two names.
    for name in ("train", "training", "is_training", "is_train"):
      if isinstance(getattr(part, name, None), bool):
        raise TypeError(f"{type(part).__name__}.{name} is a switch that nothing "
                        "would turn; let __call__ take it")


@contextlib.contextmanager
def intercepted(hook: Hook) -> Iterator[None]:
  """Lets a hook do the calls of modules, as Linen's `intercept_methods` does."""
  before = _hook.set(hook)
  try:
    yield
  finally:
    _hook.reset(before)


def _intercept(module: nnx.Module, hook: Hook) -> None:
  """Hands the calls of methods of a module and of its parts to a hook."""
  def handed(kind, name):
    @functools.wraps(getattr(kind, name))
    def call(self, *words, **keywords):
      return hook(self, name, functools.partial(getattr(kind, name), self), words,
                  keywords)
    return call

  for _, part in nnx.iter_modules(module):
    kind = type(part)
    object.__setattr__(part, "__class__", type(kind.__name__, (kind,), {
        "__module__": kind.__module__,
        **{name: handed(kind, name) for name in _methods(kind)}}))


def _methods(kind: type) -> set[str]:
  """The methods that a class has from its user; of a layer of Flax its call."""
  own = {name for base in kind.__mro__ if not base.__module__.startswith("flax.")
         for name, value in vars(base).items()
         if inspect.isfunction(value) and not name.startswith("__")}
  return own | {"__call__"} if hasattr(kind, "__call__") else own  # noqa: B004


@contextlib.contextmanager
def _as_users_write() -> Iterator[None]:
  """A user's module may mix types and ranks of arrays, as NNX's own layers do."""
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def _split(module: nnx.Module) -> Any:
  """The structure of a module, its parameters, random streams and other state."""
  return nnx.split(module, nnx.Param, nnx.RngState, ...)


def _drawn(streams: nnx.State, rngs: Mapping[str, jax.Array] | None) -> nnx.State:
  """The random streams of a module, from the key of a step."""
  key = (rngs or {}).get("dropout", jax.random.key(0))
  found = [
      (path, variable.replace(
          jax.random.fold_in(key, number) if isinstance(variable, nnx.RngKey)
          else jax.numpy.zeros(variable.shape, variable.dtype)))
      for number, (path, variable) in enumerate(nnx.to_flat_state(streams))]
  return nnx.from_flat_state(found)


def _as_dict(state: nnx.State) -> dict[str, Any]:
  """The arrays of a state, by the names of its attributes."""
  return traverse_util.unflatten_dict({
      tuple(map(str, path)): variable.get_value()
      for path, variable in nnx.to_flat_state(state)})


def _as_state(like: nnx.State, tree: Mapping[str, Any]) -> nnx.State:
  flat = traverse_util.flatten_dict(tree)
  return nnx.from_flat_state([
      (path, variable.replace(flat[tuple(map(str, path))]))
      for path, variable in nnx.to_flat_state(like)])
