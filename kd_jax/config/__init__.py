"""A config: all keys with their defaults, locked, and what makes one wrong.

`default()` gives the keys of `schema.py` as a ConfigDict, and a file in `configs/`
changes some. From then on a config is flat: dotted keys and plain values.
"""

from collections.abc import Iterator, Mapping, Sequence
import difflib
from typing import Any

import ml_collections
from ml_collections import config_dict

from kd_jax import methods
from kd_jax.config import schema
from kd_jax.core.errors import UserError, nearest

Values = Mapping[str, Any]


def default(*nets: str) -> ml_collections.ConfigDict:
  """All keys with their defaults, locked: a misspelt key is an error.

  With nets, also the keys of each net of a recipe: `nets.NAME.teachers`,
  `.init_from` and the keys of a student without its prefix, such as
  `nets.NAME.widths` or `.temperature`. One that stays None is the run's own; but a
  net that names its `method` takes the weights and T of its paper, as a run does.

  Args:
    *nets: The nets of a recipe, in the order in which they are trained; none for
      the main job. Those of "first+second" train together: each is a student of
      the others as they are at every step.

  Example:
    >>> default().student.widths
    (800, 800)
    >>> config = default("teacher", "student")
    >>> config.nets.student.teachers = ("teacher",)
    >>> config.nets.student.widths = (30, 30)
  """
  _check_nets(nets)
  tree: dict[str, Any] = {}
  for name, key in schema.every(*nets).items():
    *parents, leaf = name.split(".")
    place = tree
    for parent in parents:
      place = place.setdefault(parent, {})
    # A placeholder is made anew each time: two configs must not share one.
    place[leaf] = (key.default if key.kind is None
                   else config_dict.placeholder(key.kind))
  return ml_collections.ConfigDict(tree | {"recipe": nets}).lock()


def check_variant(variant: str, known: Sequence[str]) -> None:
  """Refuses the name behind the colon of --config=FILE:VARIANT that a file has not.

  Raises:
    UserError: With the nearest of those that there are.
  """
  if variant not in known:
    raise UserError(f"no variant is called {variant}; {nearest(variant, known)}")


def _check_nets(nets: Sequence[str]) -> None:
  """Refuses names of nets that files or `summary.json` have for something else."""
  names = [net for entry in nets for net in schema.peers(entry)]
  for net in names:
    if not net.isidentifier() or net in (
        "schema", "dataset", "seconds", "shard") or names.count(net) > 1:
      raise UserError(
          f"kd_jax.config.default: a net called {net!r}: must be a Python name "
          "other than schema, dataset, seconds and shard, and stand once")


def flatten(config: Values) -> dict[str, Any]:
  """A ConfigDict as dotted keys and plain values; flat values are given back."""
  return dict(_items(config)) if isinstance(
      config, ml_collections.ConfigDict) else config  # type: ignore[return-value]


def _items(config, prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _items(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def nested(values: Values) -> ml_collections.ConfigDict:
  """Flat values as a ConfigDict again."""
  config = default(*values["recipe"])
  config.update_from_flattened_dict(values)
  return config


def changed(values: Values, given: Values) -> dict[str, Any]:
  """Flat values with some of them given anew, as by a command line or a sweep.

  Keys that contradict the given ones are reset.

  Raises:
    UserError: If the result is not a config, or a value is out of range.
  """
  made = {**values, **_resets(values, given), **given}
  for name in given:
    if key := schema.find(name):
      made[name] = key.converted(made[name])
  check(made)
  return made


def check(config: Values) -> None:
  """Refuses values that are out of range, and keys that go against another.

  Raises:
    UserError: Naming the key, the value and what is allowed.
  """
  values = flatten(config)
  known = schema.every(*values.get("recipe", ()))
  for name in known:
    if name not in values:
      raise UserError(
          f"config.{name}: missing; a config starts from kd_jax.config.default()")
  for name, value in values.items():
    if name not in known:
      raise UserError(f"config.{name}: {unknown(name, values['recipe'])}")
    check_key(name, known[name], value)
  _check_together(values)


def check_key(name: str, key: schema.Key, value: Any) -> None:
  """Refuses a value that is out of the range of its key."""
  if not key.rule.allows(value):
    raise UserError(
        f"config.{name}={value!r}: must be {key.rule.allowed} ({key.meaning})")


def _check_together(values: dict[str, Any]) -> None:
  """Refuses keys that go against another."""
  weights = [values["hard_weight"], values["soft_weight"]]
  given = [weight is not None for weight in weights]
  if values["alpha"] is not None and any(given):
    raise UserError(
        "config.alpha and config.hard_weight, config.soft_weight: give alpha or "
        "both weights, not both kinds")
  if values["alpha"] is None and not all(given):
    raise UserError(
        "config.alpha=None: give alpha, or both hard_weight and soft_weight")
  for prefix in ("", "teacher."):
    warmups = [name for unit in ("steps", "epochs", "percent")
               if values[name := f"{prefix}optimizer.warmup_{unit}"] is not None]
    if len(warmups) > 1:
      raise UserError(f"config.{' and config.'.join(warmups)}: give one of them")
  for what in ("temperature", "alpha"):
    shape, end = (values[f"schedules.{what}{key}"] for key in ("", "_end"))
    if (shape == "constant") != (end is None):
      raise UserError(
          f"config.schedules.{what}={shape}: give it together with "
          f"config.schedules.{what}_end, the value that it moves to")
  if values["schedules.alpha"] != "constant" and values["alpha"] is None:
    raise UserError(
        "config.schedules.alpha: moves alpha; give alpha, not the two weights")


def _resets(values: Values, given: Values) -> dict[str, Any]:
  """Keys of a config that contradict those given anew, as they become."""
  made: dict[str, Any] = {}
  weights = {"hard_weight", "soft_weight"} & set(given)
  if weights and "alpha" not in given:
    made["alpha"] = None
  if "alpha" in given and not weights:
    made |= {"hard_weight": None, "soft_weight": None}
  nets = [f"nets.{net}." for entry in values.get("recipe", ())
          for net in schema.peers(entry)]
  for prefix in ("student.", "teacher.", *nets):
    if f"{prefix}name" in given:
      made |= {f"{prefix}widths": (), f"{prefix}model.depth": None,
               f"{prefix}model.width": None, f"{prefix}model.rank": None}
  for prefix in ("", "teacher."):
    if f"{prefix}epochs" in given:
      made |= {f"{prefix}steps": None, f"{prefix}min_steps": 0}
  # A method that is chosen by name comes with its paper's weights and T; of several
  # together, the first brings them.
  method = methods.METHODS.get(methods.parts(str(given.get("method", "hard")))[0])
  for key, value in (method.setting if method else {}).items():
    if key == "temperature" or "alpha" not in given:
      made[key] = value
      if key == "soft_weight":
        made["alpha"] = None
  return made


# What people call some keys.
_SHORT = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size",
          "batch": "batch_size", "tau": "temperature", "T": "temperature",
          "num_epochs": "epochs", "clip": "clip_norm", "warmup": "warmup_epochs"}


def unknown(name: str, nets: Sequence[str] = ()) -> str:
  """A phrase for a key that does not exist, with the nearest that do."""
  leaf = name.rsplit(".", 1)[-1]
  known = schema.every(*nets)
  if leaf in _SHORT:
    name, leaf = name.removesuffix(leaf) + _SHORT[leaf], _SHORT[leaf]
    if name in known:
      return f"no such key; it is {name}"
  close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
  close += [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in close]
  if inner := [key for key in known if key.startswith(f"{name}.")]:
    return (f"no such key alone; its keys are {', '.join(inner[:4])}"
            + (", ..." if len(inner) > 4 else ""))
  if close:
    return f"no such key; did you mean {' or '.join(close[:3])}?"
  return "no such key; --help lists all keys"


def describe() -> str:
  """All keys with defaults and meanings, a line each, for `--help`."""
  return "\n".join(
      f"  --config.{name}={key.default}\n      {key.meaning} ({key.rule.allowed})"
      for name, key in schema.every().items())
