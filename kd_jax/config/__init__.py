"""A config: all keys with their defaults, locked, and what makes one wrong.

`default()` gives the keys of `schema.py` as a ConfigDict; the files in `configs/`
change some.
"""

from collections.abc import Iterator, Mapping, Sequence
import difflib
from typing import Any

import ml_collections
from ml_collections import config_dict

from kd_jax import methods
from kd_jax.config import schema
from kd_jax.core.errors import UserError


def default(*nets: str) -> ml_collections.ConfigDict:
  """All keys with their defaults, locked: a misspelt key is an error.

  With nets, also the keys of each net of a recipe: `nets.NAME.teachers`,
  `.init_from` and the keys of a student without its prefix, such as
  `nets.NAME.widths` or `.temperature`. One that stays None is the run's own; but a
  net that names its `method` takes the weights and T of its paper, as a run does.

  Args:
    *nets: The nets of a recipe, in the order in which they are trained; none for
      the main job.

  Example:
    >>> default().student.widths
    (800, 800)
    >>> config = default("teacher", "student")
    >>> config.nets.student.teachers = ("teacher",)
    >>> config.nets.student.widths = (30, 30)
  """
  config = _filled(schema.every())
  _check_nets(nets)
  if nets:
    config.recipe = nets
    config.nets = ml_collections.ConfigDict(
        {name: _filled(schema.net_keys()) for name in nets})
  return config.lock()


def _check_nets(nets: Sequence[str]) -> None:
  """Refuses names of nets that files or `summary.json` have for something else."""
  for net in nets:
    if not net.isidentifier() or net in (
        "schema", "dataset", "seconds", "shard") or nets.count(net) > 1:
      raise UserError(
          f"kd_jax.config.default: a net called {net!r}: must be a Python name "
          "other than schema, dataset, seconds and shard, and stand once")


def _filled(keys: Mapping[str, schema.Key]) -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  for name, key in keys.items():
    *parents, leaf = name.split(".")
    place = config
    for parent in parents:
      if parent not in place:
        place[parent] = ml_collections.ConfigDict()
      place = place[parent]
    # A placeholder is made anew each time: two configs must not share one.
    place[leaf] = (key.default if key.kind is None
                   else config_dict.placeholder(key.kind))
  return config


def complete(config: ml_collections.ConfigDict) -> None:
  """Loads a user's own methods that a config names, and adds their keys to it."""
  values = flatten(config)
  every = [values, *values.get("sweep.points", ())]
  methods.add_own(*(str(value) for some in every for key, value in some.items()
                    if key.split(".")[-1] == "method"))
  lacking = {key: found for key, found in schema.every().items()
             if key not in values and schema.owner(key)}
  with config.unlocked():
    for name, key in lacking.items():
      method, number = name.split(".")
      if method not in config:
        config[method] = ml_collections.ConfigDict()
      config[method][number] = key.default


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """A ConfigDict as dotted keys and plain values; flat values are given back."""
  if not isinstance(config, ml_collections.ConfigDict):
    return config  # type: ignore[return-value]
  return dict(_items(config))


def nested(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Flat values as a ConfigDict again."""
  config = default(*values["recipe"])
  for name, value in values.items():
    *parents, leaf = name.split(".")
    place = config
    for parent in parents:
      place = place[parent]
    place[leaf] = value
  return config


def _items(config, prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _items(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses values that are out of range, and keys that go against another.

  Raises:
    UserError: Naming the key, the value and what is allowed.
  """
  values = flatten(config)
  lacking = [name for name in schema.every() if name not in values]
  if lacking:
    raise UserError(
        f"config.{lacking[0]}: missing; a config starts from "
        "kd_jax.config.default()")
  for name, value in values.items():
    key = schema.find(name)
    if key is None:
      raise UserError(f"config.{name}: {unknown(name)}")
    try:
      fine = key.rule.check(value)
    except TypeError:
      fine = False
    if not fine:
      raise UserError(
          f"config.{name}={value!r}: must be {key.rule.allowed}\n({key.meaning})")
  _check_together(values)


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


def make_way(config: ml_collections.ConfigDict, given: set[str]) -> None:
  """Resets keys of a config file that contradict the keys of the command line."""
  if {"hard_weight", "soft_weight"} & given and "alpha" not in given:
    config.alpha = None
  if "alpha" in given and not {"hard_weight", "soft_weight"} & given:
    config.hard_weight = config.soft_weight = None
  for net in ("student", "teacher"):
    if f"{net}.name" in given and f"{net}.widths" not in given:
      config[net].widths = ()
  for net in config.recipe:
    if f"nets.{net}.name" in given and f"nets.{net}.widths" not in given:
      config.nets[net].widths = ()
  for prefix, run in (("", config), ("teacher.", config.teacher)):
    if f"{prefix}epochs" in given:
      run.steps = run.steps if f"{prefix}steps" in given else None
      run.min_steps = run.min_steps if f"{prefix}min_steps" in given else 0
  if "method" in given:
    _take_setting(config, given)


def _take_setting(config: ml_collections.ConfigDict, given: set[str]) -> None:
  """A method that is chosen by name comes with its paper's weights and T."""
  # Of several together, the first brings labels and temperature.
  method = methods.METHODS.get(methods.parts(config.method)[0])
  setting = dict(method.setting) if method else {}
  if "alpha" in given:
    setting = {key: value for key, value in setting.items()
               if key == "temperature"}
  elif "soft_weight" in setting:
    config.alpha = None
  for key, value in setting.items():
    if key not in given:
      config[key] = value


def unknown(name: str) -> str:
  """A phrase for a key that does not exist, with the nearest that do."""
  leaf = name.rsplit(".", 1)[-1]
  known = [*schema.every()]
  if name.startswith("nets.") and name.count(".") > 1:
    prefix = ".".join(name.split(".")[:2])
    known = [f"{prefix}.{key}" for key in schema.net_keys()]
  close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
  close += [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in close]
  if close:
    return f"no such key; did you mean {' or '.join(close[:3])}?"
  return "no such key; --help lists all keys"


def describe() -> str:
  """All keys with defaults and meanings, a line each, for `--help`."""
  lines = []
  for name, key in schema.every().items():
    lines += [f"  --config.{name}={key.default}",
              f"      {key.meaning} ({key.rule.allowed})"]
  return "\n".join(lines)
