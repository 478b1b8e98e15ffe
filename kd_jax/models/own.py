"""A user's own net as a model: a Linen class, an NNX class, or a function."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import enum
import functools
import inspect
import math
from typing import Any, NamedTuple

from flax import nnx
import flax.linen as nn
import jax
import jax.extend.core
from jax.interpreters import partial_eval
import jax.numpy as jnp
import numpy as np

from kd_jax.core import types
from kd_jax.core.errors import what
from kd_jax.models.linen import SWITCHES, is_tap, linen_model
from kd_jax.models.nnx import Hook, Streams, intercepted, nnx_model


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


def check(
    model: types.Model, inputs: types.Tree, *, learns: bool = False
) -> list[str]:
  """Refuses a net that would be trained or judged otherwise than it means.

  An argument that a call of a method, of the net or of a part of it, leaves at its
  default is tried with other values: one that would bring in draws or changes of
  state is a switch for training that nothing turns. So is a field that would bring
  them into training and evaluation; into training alone, it is an option.

  Args:
    model: Of `own_model`.
    inputs: Shapes and types of some examples, eight or so.
    learns: Whether it is to be trained; a teacher may be fixed.

  Returns:
    Running statistics that training leaves as they began, as of frozen BatchNorm.

  Raises:
    TypeError: If its training call fails, if it does not hear whether it trains, if
      it asks for a random stream that it is not given, if its state changes in
      evaluation, if what it says of an example there depends on the others, if its
      masks are the same at each step, or if it gives probabilities, or logits
      without a gradient where it `learns`.
  """
  first = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype),
                       inputs)
  held = jax.eval_shape(model.init, jax.random.key(0), first)  # As training does.
  left: dict[_Place, Any] = {}
  off: list[str] = []
  trained = _traced(model, held, inputs, True, _noting(left, off))
  judged = _traced(model, held, inputs, False)
  if trained.logits != judged.logits:
    raise TypeError(f"gives logits {trained.logits} in training, "
                    f"{judged.logits} in evaluation")
  for place, default in left.items():
    for value in _others(default):
      hook = _passing(place, value)
      try:
        tried = _traced(model, held, inputs, True, hook)
      except TypeError:
        continue  # Another net: it lacks the parameters.
      if _adds(tried, trained) and (
          place.method or _adds_in_evaluation(model, held, inputs, hook, judged)):
        raise TypeError(place.refused(default, value))
  if off:
    raise TypeError(f"its {off[0]} is off in training; let __call__ take `train` "
                    "or `deterministic`, and hand it on")
  again = _traced(model, held, inputs, True).held if trained.held else []
  if (trained.draws > judged.draws and not trained.keyed) or any(
      x is not y and not np.array_equal(x, y) for x, y in zip(trained.held, again)):
    raise TypeError("draws random numbers in training that are the same at each "
                    "step, of a constant key or of NumPy; draw them with a key of "
                    "make_rng or nnx.Rngs")
  _refuse_values(model, inputs, draws=judged.draws > 0, learns=learns)
  return [name for name in sorted(_names(held.state).keys() - trained.changed)
          if name.endswith(("['mean']", "['var']", "['variance']"))]


def checking(
    make: Callable[[Any], types.Model]
) -> Callable[[Any], types.Model]:
  """Lets `make` give models that `check` looks at, once, when first initialised."""
  @functools.wraps(make)
  def made(source: Any) -> types.Model:
    model = make(source)

    looked: list[bool] = []

    def init(key: jax.Array, inputs: types.Tree) -> types.Variables:
      if not looked and jax.tree.leaves(inputs):
        with jax.ensure_compile_time_eval():  # Also within a program.
          check(model, jax.tree.map(
              lambda x: jax.ShapeDtypeStruct((8, *x.shape[1:]), x.dtype), inputs))
        looked.append(True)
      return model.init(key, inputs)

    return model._replace(init=init)
  return made


def _refuse_values(
    model: types.Model, inputs: types.Tree, *, draws: bool, learns: bool
) -> None:
  """Refuses what values show: state, draws or others in evaluation; no logits."""
  bits = jax.random.key(0)
  shown = jax.tree.map(
      lambda x: jax.random.uniform(bits, (8, *x.shape[1:]), x.dtype)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else jax.random.bernoulli(bits, 0.5, (8, *x.shape[1:])).astype(x.dtype),
      inputs)

  @jax.jit
  def values(key, stream, batch):
    held = model.init(key, jax.tree.map(lambda x: x[:1], shown))
    # Away from the start, where a layer may give one value for all.
    params = _moved(held.params, key)
    call = lambda params, train, rngs=None, mask=None: model.apply(
        types.Variables(params, held.state), batch, train=train, rngs=rngs,
        mask=mask, rates=None, axis_name=None)

    def weighed(params):
      logits = call(params, True, streams)[0].logits
      return jnp.vdot(jax.random.normal(key, logits.shape), logits), logits

    (outputs, state), streams = call(params, False), {"dropout": stream}
    gradient, trained = jax.grad(weighed, has_aux=True)(params)
    moves = [jnp.any(x != 0) for x in jax.tree.leaves(gradient)]
    # A teacher is called with the mask of its batch.
    masked, _ = call(params, False, streams, jnp.ones(8, bool))
    taps = [tap for output in (outputs, masked) for tap in output.features.values()
            if is_tap(tap, output.logits)]
    return (held.state, state, jnp.array(moves), taps, outputs.logits, trained,
            masked.logits)

  # What one draw of weights does by chance, as dead units, eight do not.
  keys = jax.random.split(bits, 8)
  shows = [values(key, bits, shown) for key in keys]
  before, after, *_ = shows[0]
  same = lambda x, y: bool(jnp.array_equal(x, y, equal_nan=True))
  changed = [name for name, x in _names(before).items()
             if not same(x, _names(after)[name])]
  if changed:
    raise TypeError(f"changes its state {changed[0]} in evaluation; let its "
                    "__call__ take `train` and change it in training only")
  again = values(keys[0], jax.random.key(1), shown)
  if draws and not same(shows[0][-1], again[-1]):
    raise TypeError("draws random numbers in evaluation; let its __call__ take "
                    "`train` and draw in training only")
  for found in map(jnp.stack, list(zip(*shows))[4:]):
    if _bounded(found):
      raise TypeError("gives probabilities; let it give logits, without the "
                      "softmax or sigmoid at its end")
  mixed = [values(key, bits, _among_others(shown, by))
           for key, by in zip(keys, (0, 3))]
  evaluated = lambda found: [
      np.asarray(x, np.float32) for x in (*found[3], found[4], found[6])]
  noise = list(map(_apart, evaluated(shows[0]), evaluated(again)))
  for alone, among in zip(shows, mixed):
    if any(map(_depends, evaluated(alone), evaluated(among), noise)):
      raise TypeError("gives outputs of an example in evaluation that depend "
                      "on the others of its batch, or on its place there; normalise"
                      " by running statistics, or not over the first axis")
  moves = jnp.stack([show[2] for show in shows])
  if learns and moves.size and not moves.any():
    raise TypeError("gives logits that no parameter has a gradient of, so nothing "
                    "would be learned; take out the stop_gradient or rounding")


def _among_others(shown: types.Tree, by: int) -> types.Tree:
  """Eight examples: 2 and 5 stay, 3 comes to place 6, the others are multiplied."""
  def changed(x):
    y = np.array(x)
    y[6] = y[3]
    y[[0, 1, 3, 4, 7]] = (y[[0, 1, 3, 4, 7]] * by).astype(y.dtype)
    return y
  return jax.tree.map(changed, shown)


def _depends(alone: np.ndarray, among: np.ndarray, noise: float) -> bool:
  """Whether outputs of an example depend on the others, or on its place.

  One program computes an example at its place with the same bits, whatever the
  others are, but for noise, where a device adds in another order each time. At
  another place the bits may be others, and in bfloat16 many layers make more of
  that.
  """
  size = np.abs(alone[np.isfinite(alone)]).max(initial=0)
  return (_apart(alone[[2, 5]], among[[2, 5]]) > 1e-5 * size + 10 * noise
          or _apart(alone[3], among[6]) > 0.1 * size + 10 * noise)


def _apart(x: np.ndarray, y: np.ndarray) -> float:
  """How far they are apart at most; infinitely where one is no number."""
  with np.errstate(invalid="ignore"):
    far = np.where((x == y) | np.isnan(x) & np.isnan(y), 0, np.abs(x - y))
  return float(np.nan_to_num(far, nan=np.inf).max(initial=0))


def _moved(params: types.Tree, key: jax.Array) -> types.Tree:
  """Parameters with noise of about their usual size."""
  def moved(x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return x
    size = 0.5 / max(math.prod(x.shape[:-1]), 1) ** 0.5
    return x + (size * jax.random.normal(key, x.shape)).astype(x.dtype)
  return jax.tree.map(moved, params)


def _bounded(found: jax.Array) -> bool:
  """Whether outputs `[draws, examples, classes]` are bounded as no logits are.

  They lie in (0, 1], or are >= 0 with the same sum over the classes or the batch.
  Logits of random weights have both signs, or after a ReLU zeros and other sums.
  """
  if ((found > 0) & (found <= 1)).all():
    return True
  sums = [found.sum(axis) for axis in (1, 2)]
  return bool((found >= 0).all()) and any(
      bool((x.max() > 0) & jnp.allclose(x, x.max(), rtol=1e-3)) for x in sums)


class _Traced(NamedTuple):
  """A call as a program.

  Its logits' shape, its draws, the state it changes, whether it uses its key, and
  the arrays that it holds.
  """

  logits: tuple[int, ...]
  draws: int
  changed: frozenset[str]
  keyed: bool
  held: list[Any]


def _adds(tried: _Traced, than: _Traced) -> bool:
  return tried.draws > than.draws or bool(tried.changed - than.changed)


def _adds_in_evaluation(
    model: types.Model, held: types.Variables, inputs: types.Tree, hook: Hook,
    judged: _Traced,
) -> bool:
  try:
    return _adds(_traced(model, held, inputs, False, hook), judged)
  except TypeError:  # There are no keys to draw with.
    return True


def _traced(
    model: types.Model, held: types.Variables, inputs: types.Tree, train: bool,
    hook: Hook = lambda part, name, call, words, keywords: call(*words, **keywords),
) -> _Traced:
  """Traces a call, in training with its gradient; `hook` does the calls of parts.

  Raises:
    TypeError: If the call fails, asks for a random stream that it is not given, or
      gives a state of other shapes.
  """
  valid = jax.ShapeDtypeStruct((len(jax.tree.leaves(inputs)[0]),), bool)

  asked: set[str] = set()

  def call(state, params, inputs, mask, key):
    def loss(params):
      outputs, after = model.apply(
          types.Variables(params, state), inputs, train=train,
          rngs=_Keys(key, asked.add) if train else None, mask=mask, rates=None,
          axis_name=None)
      return outputs.logits.sum(), (after, outputs.logits)
    _, found = (jax.value_and_grad(loss, has_aux=True)(params)[0] if train
                else loss(params))
    return found

  with _around(hook):
    try:
      made, (after, logits) = jax.make_jaxpr(call, return_shape=True)(
          held.state, held.params, inputs, valid, jax.random.key(0))
    except (Exception, SystemExit) as error:
      word = "training" if train else "evaluation"
      raise TypeError(f"its {word} call fails: {what(error)}") from error
  for name in sorted(asked - {"dropout"}):
    raise TypeError(f"asks for the random stream {name!r}, which it is not given; "
                    "let it fold a number into rngs['dropout']")
  names = _names(held.state)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  if shapes(after) != shapes(held.state):
    raise TypeError("its state has other names or shapes after a call than at its "
                    f"start ({', '.join(names)}); keep them alike")
  variables = zip(names, made.jaxpr.invars, made.jaxpr.outvars)
  live, used = partial_eval.dce_jaxpr(
      made.jaxpr, [True] * len(made.jaxpr.outvars))
  return _Traced(logits.shape, _draws(live), frozenset(
      name for name, before, after in variables if before is not after),
      used[-1], made.consts)


@jax.tree_util.register_pytree_node_class
class _Keys(dict[str, jax.Array]):
  """A key under any name; what it is asked for is noted."""

  def __init__(self, key: jax.Array, note: Callable[[Any], None]):
    super().__init__(dropout=key)
    self.note = note

  def __getitem__(self, name: str) -> jax.Array:
    self.note(name)
    return super().__getitem__("dropout")

  def __contains__(self, name: Any) -> bool:
    self.note(name)
    return True

  def get(self, name: str, default: Any = None) -> jax.Array:
    del default
    return self[name]

  def tree_flatten(self):
    return (super().__getitem__("dropout"),), self.note

  @classmethod
  def tree_unflatten(cls, note, children):
    return cls(children[0], note)


def _draws(jaxpr: Any) -> int:
  """How many operations make numbers of a random key."""
  keys = lambda variables: any(
      jnp.issubdtype(x.aval.dtype, jax.dtypes.prng_key) for x in variables)
  number = 0
  for operation in jaxpr.eqns:
    inner = list(jax.extend.core.jaxprs_in_params(operation.params))
    number += sum(map(_draws, inner)) if inner else (
        keys(operation.invars) and not keys(operation.outvars))
  return number


def _names(state: types.Tree) -> dict[str, Any]:
  """The arrays of a state by their names."""
  return {jax.tree_util.keystr(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


@contextlib.contextmanager
def _around(hook: Hook) -> Iterator[None]:
  """Lets a hook do the calls of methods of modules and of their parts."""
  def linen(call, words, keywords, context):
    return hook(context.module, context.method_name, call, words, keywords)

  with nn.intercept_methods(linen), intercepted(hook):
    yield


class _Place(NamedTuple):
  """An argument of a method of a class, by full name, or without one a field."""

  kind: str
  method: str
  name: str

  def refused(self, default: Any, value: Any) -> str:
    where = (f"in training, where {_in_words(value)} brings in dropout or changes "
             "of state; ")
    kind = self.kind.rpartition(".")[2]
    if not self.method:
      return (f"{kind}.{self.name} is {default!r} {where}let __call__ take "
              "`train` in its place, or leave it out")
    return (f"{kind}.{self.method} is left at {self.name}={default!r} {where}"
            "let it be `train`, hand that on, or make it a field of the module")


def _noting(left: dict[_Place, Any], off: list[str]) -> Hook:
  """Notes what is left at its default, and Dropout that is off."""
  def hook(part, method, call, words, keywords):
    kind = type(part)
    if isinstance(part, (nn.Dropout, nnx.Dropout)):
      says = [*words[1:2], keywords.get("deterministic"), part.deterministic]
      if part.rate > 0 and next((x for x in says if x is not None), None):
        off.append(kind.__name__)
    if not kind.__module__.startswith("flax."):
      given = _given(call, words, keywords)
      for name, parameter in inspect.signature(call).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
          left.update({_Place(_kind(part), method, switch): None
                       for switch in SWITCHES})
        elif name not in given and parameter.default is not parameter.empty:
          left[_Place(_kind(part), method, name)] = parameter.default
      left.update({_Place(_kind(part), "", name): value
                   for name, value in _fields(part).items()})
    return call(*words, **keywords)
  return hook


def _fields(part: Any) -> dict[str, Any]:
  """The fields of a module that are at their defaults; of NNX all attributes."""
  if isinstance(part, nn.Module):
    return {field.name: field.default for field in dataclasses.fields(part)
            if field.name not in ("parent", "name")
            and getattr(part, field.name) is field.default}
  return {name: value for name, value in vars(part).items()
          if name[0] != "_" or isinstance(value, bool)}


def _passing(place: _Place, value: Any) -> Hook:
  """Gives calls of one method one more argument, or those of a class a field."""
  def hook(part, method, call, words, keywords):
    if _kind(part) != place.kind:
      return call(*words, **keywords)
    if place.method:
      if method == place.method and place.name not in _given(call, words, keywords):
        # Streams count their draws, so that each program has its own.
        keywords = {**keywords, place.name: (
            Streams(0) if value is Streams else value)}
      return call(*words, **keywords)
    own = vars(part)  # Linen's modules are frozen.
    before = own[place.name]
    own[place.name] = value
    try:
      return call(*words, **keywords)
    finally:
      own[place.name] = before
  return hook


def _kind(part: Any) -> str:
  """The full name of the class of a part; each call may make the class anew."""
  return f"{type(part).__module__}.{type(part).__qualname__}"


def _given(call: Callable[..., Any], words: Any, keywords: Any) -> set[str]:
  """The arguments that a call is given, by name."""
  bound = inspect.signature(call).bind_partial(*words, **keywords).arguments
  return {*bound, *keywords}


def _others(default: Any) -> list[Any]:
  """Values that an argument with this default may have in training."""
  if default is None:
    key = jax.random.key(0)
    return [True, False, key, _Keys(key, set[str]().add), Streams]
  if isinstance(default, (bool, np.bool_)):
    return [not default]
  if isinstance(default, enum.Enum):
    return [value for value in type(default) if value is not default]
  if isinstance(default, str):
    return [value for value in ("train", "training", "fit") if value != default]
  number = isinstance(default, (int, float)) and default in (0, 1)
  return [0.5, 1 - int(default)] if number else []


def _in_words(value: Any) -> str:
  kinds = {dict: "a dict of keys", jax.Array: "a key", type: "nnx.Rngs"}
  return next((words for kind, words in kinds.items() if isinstance(value, kind)),
              repr(value))


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
