"""Flax Linen behind two pure functions, and the layers Linen lacks for us."""

from collections.abc import Callable, Mapping
import inspect
from typing import Any
import zlib

from flax import errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import losses
from kd_jax.core import types

# Names of the switch for training, and whether they say that it trains.
SWITCHES = {"train": True, "training": True, "is_training": True, "is_train": True,
            "deterministic": False, "use_running_average": False}
_KNOWN = frozenset({"mask", "rates", "axis_name", *SWITCHES})


def linen_model(module: nn.Module) -> types.Model:
  """A `types.Model` from any Linen module.

  The module is called as `module(inputs, ...)` with those of the keywords `train`
  (or another name of `SWITCHES`), `mask`, `rates` and `axis_name` that its
  `__call__` names; others stay at their defaults, and `check` tells whether one of
  these is a switch. It returns logits, or `(logits, features)` with a dict of named
  feature taps, or a dict with `logits`. Collections beside `params` (BatchNorm's
  statistics) are the model's state. All random streams are drawn of each step, and
  in training the module has those that it asks for with `has_rng`.

  Args:
    module: The module; inputs are those of a batch.

  Returns:
    The pair `init(key, inputs)` and `apply(variables, inputs, ...)`.

  Raises:
    TypeError: If the module's `__call__` asks for an argument of another name.

  Example:
    >>> model = linen_model(nn.Dense(10))
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    >>> model.apply(variables, jnp.zeros((2, 4)), train=False)[0].logits.shape
    (2, 10)
  """
  understood = keywords(module.__call__, type(module).__name__)
  asked: set[str] = set()

  def init(key: jax.Array, inputs: types.Tree) -> types.Variables:
    context = only(understood, train=False, mask=None, rates=None, axis_name=None)
    with jax.numpy_dtype_promotion("standard"):
      state = dict(module.init(key, inputs, **context))
    return types.Variables(state.pop("params", {}), state)

  def apply(
      variables: types.Variables, inputs: types.Tree, *, train: bool,
      rngs: Mapping[str, jax.Array] | None = None,
      mask: jax.Array | None = None,
      rates: Mapping[str, jax.Array | float] | None = None,
      axis_name: str | None = None,
  ) -> tuple[types.Outputs, types.Tree]:
    context = only(
        understood, train=train, mask=mask, rates=rates, axis_name=axis_name)
    collections = {"params": variables.params, **variables.state}

    def called(names):
      with (jax.numpy_dtype_promotion("standard"),
            nn.intercept_methods(_noting_streams(asked))):
        return module.apply(
            collections, inputs, rngs=_streams(rngs, names),
            mutable=list(variables.state), **context)

    try:
      outputs, state = called(names := {*asked} if train else set())
      while train and rngs and asked - names:  # It takes another way with them.
        outputs, state = called(names := {*asked})
    except errors.InvalidRngError as error:
      if train or rngs:
        raise
      raise TypeError("draws random numbers in evaluation; let its __call__ take "
                      "`train` and draw in training only") from error
    return as_outputs(outputs), state

  return types.Model(init, apply, understood)


def _streams(
    rngs: Mapping[str, jax.Array] | None, names: set[str]
) -> dict[str, jax.Array]:
  """The keys of the random streams of a call, with those of more names."""
  if not rngs:
    return {}
  # Linen draws streams that are not given from that of `params`.
  first = next(iter(rngs.values()))
  more = {name: jax.random.fold_in(first, zlib.crc32(name.encode()))
          for name in names}
  return {**more, "params": first, **rngs}


def _noting_streams(asked: set[str]) -> Callable[..., Any]:
  """Notes the names that modules ask `has_rng` for, as an interceptor of Linen."""
  def noting(call, words, keywords, context):
    own = vars(context.module)  # It lives as long as the call, as its scope does.
    if "has_rng" in own:
      return call(*words, **keywords)
    has_rng = context.module.has_rng

    def ask(name):
      asked.add(name)
      return has_rng(name)

    own["has_rng"] = ask
    try:
      return call(*words, **keywords)
    finally:
      del own["has_rng"]
  return noting


def as_outputs(given: Any) -> types.Outputs:
  """What a module gives, logits or logits and taps, as losses take it.

  Raises:
    TypeError: If it gives something else.
  """
  if isinstance(given, Mapping) and "logits" in given:
    given = given["logits"], {
        name: tap for name, tap in given.items()
        if name != "logits" and is_tap(tap, given["logits"])}
  logits, features = given if isinstance(given, tuple) and len(given) == 2 else (
      given, {})
  if not isinstance(logits, jax.Array) or not isinstance(features, Mapping):
    raise TypeError(
        f"gives a {type(given).__name__}; it must give logits, (logits, features) "
        "with a dict of named features, or a dict with `logits`")
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(f"gives logits of {logits.dtype}; they must be real floats")
  return types.Outputs(losses.at_least_float32(logits), features)


def is_tap(value: Any, logits: Any) -> bool:
  """Whether it is a float array whose first axis is the batch, as of logits."""
  return (isinstance(value, jax.Array)
          and jnp.issubdtype(value.dtype, jnp.floating)
          and value.shape[:1] == getattr(logits, "shape", ())[:1] != ())


def keywords(call: Callable[..., Any], name: str) -> frozenset[str]:
  """Those of the known keywords that a module's `__call__` names.

  Raises:
    TypeError: If it asks for an argument of another name.
  """
  parameters = list(inspect.signature(call).parameters.values())[1:]
  for parameter in parameters:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
      continue  # nn.Sequential takes *args and **kwargs, and asks for neither.
    if parameter.name not in _KNOWN and parameter.default is parameter.empty:
      raise TypeError(
          f"{name}.__call__ asks for {parameter.name!r}; beside the inputs it may "
          f"ask for {', '.join(sorted(_KNOWN))}")
  return frozenset(p.name for p in parameters) & _KNOWN


def only(names: frozenset[str], *, train: bool, **values: Any) -> dict[str, Any]:
  """Those of the values that are named, the switch under its own names."""
  values |= {name: train is says for name, says in SWITCHES.items()}
  return {name: value for name, value in values.items() if name in names}


class Dropout(nn.Module):
  """Dropout whose rate is traced and whose mask does not know about devices.

  The key is folded with each row's position in the global batch, so that one
  device and eight draw the same mask; `rate` is an argument, because Linen's own
  layer wants a Python float and would compile once for each.
  """

  @nn.compact
  def __call__(
      self,
      x: jax.Array,
      rate: jax.Array | float,
      *,
      axis_name: str | None = None,
  ) -> jax.Array:
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(x)
    key = self.make_rng("dropout")
    size = x.size // len(x)
    bits = jax.vmap(lambda row: _bits16(jax.random.fold_in(key, row), size))(
        first + jnp.arange(len(x)))
    threshold = jnp.round(jnp.float32(rate) * 65536).astype(jnp.uint32)
    kept = 1.0 - threshold.astype(jnp.float32) / 65536
    keep = bits.astype(jnp.uint32) >= threshold
    # The scale is of the rate as it was rounded, so that the mean stays. A rate
    # that rounds to 1 keeps nothing; an infinite scale would give NaN gradients.
    scale = (1.0 / jnp.maximum(kept, 2.0**-16)).astype(x.dtype)
    return jnp.where(keep.reshape(x.shape), x * scale, 0)


def _bits16(key: jax.Array, size: int) -> jax.Array:
  """Random uint16 `[size]`, two from each word: half the work of a uniform."""
  words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
  return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]


class BatchNorm(nn.Module):
  """Batch normalisation over the valid examples of all devices.

  y = (x - mean) / sqrt(variance + epsilon) * scale + bias

  Sums, counts and centred squares are added over the device axis and divided
  once. Linen's layer averages the means of devices instead, which gives padding
  a say and NaN on a device that holds nothing but padding. Running statistics
  follow r <- momentum * r + (1 - momentum) * batch, the variance with the factor
  N / (N - 1) over the N numbers of a channel, as in the released nets of the field.

  Source: Ioffe & Szegedy (2015), algorithm 1.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(
      self,
      x: jax.Array,
      *,
      train: bool,
      mask: jax.Array | None = None,
      axis_name: str | None = None,
  ) -> jax.Array:
    shape = (x.shape[-1],)
    wide = x.astype(jnp.float32)
    scale = self.param("scale", nn.initializers.ones, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    mean_ = self.variable("batch_stats", "mean", jnp.zeros, shape)
    variance_ = self.variable("batch_stats", "variance", jnp.ones, shape)
    mean, variance = mean_.value, variance_.value
    if train and not self.is_initializing():
      mean, variance, count = _moments(wide, mask, axis_name)
      moved = lambda old, new: self.momentum * old + (1 - self.momentum) * new
      mean_.value = moved(mean_.value, mean)
      unbiased = variance * (count / jnp.maximum(count - 1.0, 1.0))
      variance_.value = moved(variance_.value, unbiased)
    gain = scale * jax.lax.rsqrt(variance + self.epsilon)
    channel = (1,) * (x.ndim - 1) + shape
    y = (wide - mean.reshape(channel)) * gain.reshape(channel)
    return (y + bias.reshape(channel)).astype(x.dtype)


def _moments(
    x: jax.Array, mask: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean and biased variance of each channel, `[channels]`, and of how many."""
  axes = tuple(range(x.ndim - 1))
  rows = jnp.ones(len(x), bool) if mask is None else mask
  valid = rows.reshape((-1,) + (1,) * (x.ndim - 1))
  total = lambda v: jnp.sum(jnp.where(valid, v, 0.0), axis=axes)
  summed = lambda v: v if axis_name is None else jax.lax.psum(v, axis_name)
  positions = x.size // (len(x) * x.shape[-1])
  count = summed(jnp.sum(rows, dtype=jnp.float32)) * positions
  count = jnp.maximum(count, 1.0)
  mean = summed(total(x)) / count
  centred = x - mean.reshape((1,) * (x.ndim - 1) + (-1,))
  return mean, summed(total(jnp.square(centred))) / count, count
