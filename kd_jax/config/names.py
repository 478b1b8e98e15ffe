"""What names stand for: models, and a user's own modules."""

from collections.abc import Callable, Mapping
import functools
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import data as data_lib
from kd_jax import methods, models
from kd_jax.core import compilation, sources, types
from kd_jax.core.errors import UserError, in_words, nearest, place, remedy, what
from kd_jax.core.files import refuse_pipes
from kd_jax.data import preprocess
from kd_jax.models.linen import is_tap

Known = Mapping[str, Any]


def sizes(own: Callable[[str], Any]) -> dict[str, Any]:
  """What a config says of a model's size, by the names that builders know.

  Args:
    own: Reads a key of the net.
  """
  given = {"widths": tuple(own("widths")) or None, "depth": own("model.depth"),
           "width": own("model.width"), "rank": own("model.rank"),
           "remat": own("model.remat") or None}
  return {name: value for name, value in given.items() if value is not None}


def model(
    name: str, size: Mapping[str, Any], found: data_lib.Dataset, *, prefix: str,
    dtype: str = "float32"
) -> tuple[types.Model, methods.Shapes, str]:
  """The model that a name stands for, the shapes of its taps of one example, and
  what its user should know of it, or "".

  Args:
    name: A key of `MODELS`, or a user's own, `module:NAME` or `file.py:NAME`.
    size: Of `sizes`; what it lacks is the model's own.
    found: The data set, for its inputs and the number of classes.
    prefix: "student" or "teacher", for messages.
    dtype: Of its arithmetic.

  Raises:
    UserError: If there is no such model, or it does not fit the data.
  """
  made = _own_model if sources.named(name) else _listed_model
  built = made(name, size, found, prefix, dtype)
  inputs = preprocess.seen(found.train.inputs, 2)
  try:
    outputs = lambda: jax.eval_shape(
        functools.partial(_outputs, built), jax.random.key(0), inputs)
    # The points of a sweep ask this of one model again and again; but a user's own
    # is made anew each time.
    logits, features = outputs() if sources.named(name) else compilation.once(
        ("outputs", built, compilation.shapes(inputs)), outputs)
  except (Exception, SystemExit) as error:  # Whatever a module raises.
    raise UserError(
        f"config.{prefix}: {name} with {_shown(size)} fails on inputs "
        f"{inputs.shape[1:]}: " + (
            in_words(error, sources.file(name))
            if sources.named(name) and isinstance(error, Exception) else
            f"{type(error).__name__}: {_first_line(error)}")) from error
  if logits.shape != (2, found.num_classes):
    raise UserError(
        f"config.{prefix}.name={name}: gives logits {logits.shape} for 2 "
        f"examples, must be (2, {found.num_classes})")
  remark = ""
  if sources.named(name) and built.on_host is None:
    made_of = (
        name, sources.sha256(name), tuple(size.items()), dtype, found.num_classes,
        learns := prefix != "teacher")
    try:
      frozen = compilation.once(
          ("own", *made_of, compilation.shapes(inputs)),
          lambda: models.check(
              built, preprocess.seen(found.train.inputs, 8), learns=learns))
    except TypeError as error:
      raise UserError(
          f"config.{prefix}.name={name}: {_first_line(error)}"
          f"{_place(error.__cause__ or error, name)}") from None
    if frozen:
      remark = (f"config.{prefix}.name={name}: training leaves the statistics "
                f"{frozen[0]} as they began")
      if len(frozen) > 1:
        remark += f", and {len(frozen) - 1} more"
  return built, {name: tap.shape[1:] for name, tap in features.items()}, remark


def _listed_model(
    name: str, size: Mapping[str, Any], found: data_lib.Dataset, prefix: str,
    dtype: str,
) -> types.Model:
  """A model of `MODELS`."""
  builder = known(f"{prefix}.name", name, models.MODELS)
  for option in sorted(size.keys() - {"widths"} - models.options(name)):
    raise UserError(
        f"config.{prefix}.model.{option}={size[option]}: {name} has no {option}; "
        f"those that have: {', '.join(_having(option))}")
  try:
    return builder(num_classes=found.num_classes, dtype=dtype, **size)
  except ValueError as error:
    raise UserError(
        f"config.{prefix}.widths={size.get('widths')}: {name} {error}") from None


def _outputs(
    built: types.Model, key: jax.Array, inputs: types.Tree
) -> types.Outputs:
  """What a net gives for inputs; it must have parameters, and arrays as taps."""
  variables = built.init(key, inputs)
  if not jax.tree.leaves(variables.params) and built.on_host is None:
    raise TypeError("has no parameters, so there is nothing to train")
  outputs = built.apply(variables, inputs, train=False)[0]
  for name, tap in outputs.features.items():
    if not is_tap(tap, outputs.logits):
      found = getattr(tap, "aval", None) or f"a {type(tap).__name__}"
      raise TypeError(f"its tap {name} is {found}; a tap is an array of floats "
                      "whose first axis is the batch")
  return outputs


def method(name: str) -> methods.Method:
  """The method of a name, or of several joined by +; a user's own is loaded."""
  methods.add_own(name)
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
  parts = methods.parts(values["method"])
  return {number if len(parts) == 1 else f"{part}_{number}":
              values[f"{part}.{number}"]
          for part in parts for number in methods.METHODS[part].numbers}


def source_identity(*own: str) -> dict[str, str]:
  """What a user's own files are at present: their hash, or nothing."""
  hashes = [sources.sha256(name) for name in own if sources.named(name)]
  return {"source": "+".join(hashes)} if hashes else {}


def weights_identity(file: str | None) -> dict[str, str]:
  """The hash of a file of weights, or nothing.

  Raises:
    UserError: If it cannot be read.
  """
  if file is None:
    return {}
  try:
    status = pathlib.Path(file).stat()
    refuse_pipes(pathlib.Path(file))
    return {"state_dict": _sha256(file, status.st_size, status.st_mtime_ns)}
  except OSError as error:
    raise UserError(
        f"config.teacher.state_dict={file}: {UserError(error)}") from None


@functools.lru_cache  # A sweep's points ask this of one file again and again.
def _sha256(file: str, size: int, changed: int) -> str:
  del size, changed
  return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def _having(option: str) -> list[str]:
  return [name for name in models.MODELS if option in models.options(name)]


def _shown(size: Mapping[str, Any]) -> str:
  return ", ".join(f"{name} {value}" for name, value in size.items()) or (
      "its own widths")


def _own_model(
    name: str, size: Mapping[str, Any], found: data_lib.Dataset, prefix: str,
    dtype: str
) -> types.Model:
  """A user's class or function as a model."""
  key = f"config.{prefix}.name"
  own = sources.load(key, name)
  if models.function.of_inputs(own):
    if prefix != "teacher":
      raise UserError(f"{key}={name}: is a function of inputs, which is asked and "
                      "cannot be trained; give one as config.teacher.name")
    inputs = preprocess.seen(found.train.inputs, 2)
    return compilation.once(
        ("function", name, sources.sha256(name), found.num_classes,
         compilation.shapes(inputs)),
        lambda: models.function.model(
            own, inputs, found.num_classes, key=f"{key}={name}",
            file=sources.file(name)))
  given: dict[str, Any] = {
      "num_classes": found.num_classes,
      "image_shape": tuple(found.train.inputs.shape[1:])}
  given |= size
  try:
    for option in sorted(size.keys() - {"widths"}):
      if not models.understands(own, option):
        raise UserError(
            f"config.{prefix}.model.{option}={size[option]}: {name} names no "
            f"`{option}`")
    if dtype != "float32":
      if not models.understands(own, "dtype"):
        raise UserError(
            f"config.dtype={dtype}: {name} names no `dtype`; let it name one, or "
            "use float32")
      given["dtype"] = jnp.dtype(dtype)
    return models.own_model(own, given)
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # Whatever a user's class raises.
    raise UserError(f"{key}={name}: {_of_own(error, name)}") from None


def _of_own(error: BaseException, name: str) -> str:
  """What a user's class has raised, or what is wrong with it."""
  where = _place(error, name)
  return what(error) + where if where else _first_line(error)


def _place(error: BaseException, name: str) -> str:
  """Where in the file of a net it was raised, if there."""
  file = sources.file(name)
  if isinstance(error, SystemExit) or not file.endswith(".py"):
    return ""
  return place(error, file)


def _first_line(error: BaseException) -> str:
  if isinstance(error, SystemExit):
    return "ends the program"
  return remedy(error) or (
      str(error).strip().splitlines() or [type(error).__name__])[0][:250]


def known(key: str, name: str, things: Known) -> Any:
  """What a key's value names; a UserError with the nearest name otherwise."""
  if name.endswith(".py"):
    raise UserError(f"config.{key}={name}: is a file; say what of it is meant, as "
                    f"{name}:NAME")
  if name not in things:
    raise UserError(
        f"config.{key}={name!r}: no such {key.split('.')[-1]}; "
        f"{nearest(name, things)}")
  return things[name]
