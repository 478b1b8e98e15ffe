"""From a command line to a checked config: every mistake is told in a line."""

from collections.abc import Iterable
import contextlib
import pathlib
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import schema, sweep
from kd_jax.core.errors import UserError

# Flags that name the processes of one run.
HOSTS = ("--coordinator", "--processes", "--process_id")


def parse(argv: list[str]):
  """Reads the command line.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The checked config and the workdir.

  Raises:
    UserError: For anything that is not right about them.
  """
  argv, points = _points(_resume(joined(argv)))
  argv = _last_of_each(argv)
  nones = [arg for arg in argv if arg.startswith("--config.")
           and arg.endswith("=None")]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
      "config", None, "Path to a config file.", lock_config=True,
      flag_values=values)
  workdir = flags.DEFINE_string(
      "workdir", None, "Where results go.", flag_values=values)
  _add_methods(argv, points or ())
  _add_methods_of_file(argv)
  config, rest = _load(values, holder, [a for a in argv if a not in nones])
  config_lib.complete(config)
  if rest:
    raise UserError(f"{rest[0]}: unexpected; all arguments start with --")
  given = set(config_flags.get_override_values(values["config"]))
  if "recipe" in given:
    raise UserError(
        "--config.recipe: the config file says which nets there are; change "
        "nets.NAME.teachers, or write another file")
  for arg in nones:
    name = arg.removeprefix("--config.").removesuffix("=None")
    if schema.find(name) is None:
      raise UserError(f"--config.{name}: {config_lib.unknown(name)}")
    _set_none(config, name)
    given.add(name)
  config_lib.make_way(config, given)
  _check_method(config, given, points or ())
  if points is not None:
    config.sweep.points = tuple(points)
    reference = dict(config.sweep.reference)
    if "sweep.reference" not in given and not any(
        sweep.matches(point, reference) for point in points):
      config.sweep.reference = ()  # It was one of the file's own points.
  config_lib.check(config)
  return config, pathlib.Path(workdir.value or _default_workdir(values))


def _add_methods(argv: list[str], points: Iterable[sweep.Point]) -> None:
  """Loads a user's own methods, before the keys of their numbers are read."""
  methods.add_own(*(str(value) for point in points for key, value in point.items()
                    if key.split(".")[-1] == "method"))
  for arg in argv:
    key, _, value = arg.partition("=")
    if key.startswith("--config.") and key.endswith(("method", ".method")):
      methods.add_own(value)


def _add_methods_of_file(argv: list[str]) -> None:
  """Loads methods that the config file names, if their numbers are given here."""
  if all(schema.find(arg.removeprefix("--config.").split("=")[0])
         for arg in argv if arg.startswith("--config.")):
    return
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
  with contextlib.suppress(UserError):  # It is told when the file is read.
    config, _ = _load(values, holder, [
        arg for arg in argv if arg.startswith("--config=")])
    config_lib.complete(config)


def _check_method(
    config: Any, given: set[str], points: Iterable[sweep.Point]
) -> None:
  """Refuses words that a method would not hear."""
  swept = {str(point["method"]) for point in points if "method" in point}
  own = {"temperature", "alpha", "hard_weight", "soft_weight"} & given
  if swept and own:
    name = min(own)
    raise UserError(
        f"--config.{name} in a sweep over method: each method brings its own; to "
        f"give it to all, --sweep.{name}=VALUE")
  for key in sorted(given):
    owner = schema.owner(key)
    if owner is not None and owner not in {
        part for name in swept | {config.method} for part in methods.parts(name)}:
      raise UserError(
          f"--config.{key}: is a number of method {owner}, and the method is "
          f"{config.method}; add --config.method={owner}")


def joined(argv: list[str]) -> list[str]:
  """`--name value` as `--name=value`, for the flags that take one."""
  words: list[str] = []
  for arg in argv:
    if words and words[-1] in (
        "--config", "--workdir", "--sweep", "--shard", "--resume", *HOSTS):
      words[-1] += f"={arg}"
    else:
      words.append(arg)
  return words


def hosts(argv: list[str]) -> tuple[dict[str, Any] | None, list[str]]:
  """Takes the processes of a run out of the arguments: what was said, the rest.

  Raises:
    UserError: If something about them is wrong.
  """
  words = [arg for arg in argv if arg.split("=")[0] in HOSTS]
  if not words:
    return None, argv
  given = {word.split("=")[0][2:]: word.partition("=")[2] for word in words}
  for name in ("processes", "process_id"):
    if name in given and not given[name].isdecimal():
      raise UserError(f"--{name}={given[name]}: must be a whole number")
  coordinator = given.get("coordinator")
  number = lambda name: int(given[name]) if name in given else None
  count, own = number("processes"), number("process_id")
  if coordinator == "auto":
    coordinator = None
  elif coordinator is None or count is None or own is None:
    raise UserError(
        f"{words[0]}: give --coordinator=HOST:PORT, --processes=N and "
        "--process_id=I together, or --coordinator=auto on a cluster")
  elif own >= count:
    raise UserError(f"--process_id={own}: must be from 0 to {count - 1}")
  found = {"coordinator": coordinator, "processes": count, "process_id": own}
  return found, [arg for arg in argv if arg not in words]


def _resume(argv: list[str]) -> list[str]:
  """`--resume=force` is short for a key."""
  return [arg.replace("--resume=", "--config.checkpoint.resume=", 1)
          if arg.startswith("--resume=") else arg for arg in argv]


def _points(argv: list[str]) -> tuple[list[str], sweep.Sweep | None]:
  """Takes the sweep out of the arguments: the rest, and its points."""
  words = [arg for arg in argv if arg.startswith(("--sweep.", "--sweep="))]
  if not words:
    return argv, None
  files = [word for word in words if word.startswith("--sweep=")]
  axes = [word.removeprefix("--sweep.") for word in words if word not in files]
  for word in axes:
    if f"sweep.{word.split('=')[0]}" in schema.every():
      raise UserError(f"--sweep.{word}: did you mean --config.sweep.{word}?")
  parts = [sweep.read(file.removeprefix("--sweep=")) for file in files]
  if axes:
    parts.append(sweep.parse(axes))
  points = sweep.product(*parts)
  if not points:
    raise UserError(f"{words[0]}: is a sweep of nothing")
  return [arg for arg in argv if arg not in words], points


def _last_of_each(argv: list[str]) -> list[str]:
  """Of a key given twice, the last counts; absl would join two tuples."""
  last = {arg.split("=")[0]: index for index, arg in enumerate(argv)}
  return [arg for index, arg in enumerate(argv)
          if not arg.startswith("--config.") or "=" not in arg
          or last[arg.split("=")[0]] == index]


def _load(values, holder, argv):
  """The config with its overrides; every failure as a UserError."""
  try:
    with _as_arguments(argv):
      rest = values(sys.argv)[1:]
    if holder.value is None:
      raise UserError("--config=FILE is missing; try --config=configs/mnist.py")
    config = holder.value
    config.keys()  # A file that failed to load says so on first use.
    return config, rest
  except UserError:
    raise
  except flags.Error as error:
    raise UserError(_explain(str(error), argv)) from None
  except AttributeError as error:
    for arg in argv:
      name = arg.removeprefix("--config.").split("=")[0]
      if arg.startswith("--config.") and schema.find(name) is None:
        raise UserError(
            f"--config.{name}: {config_lib.unknown(name)}") from None
    raise UserError(f"--config: {_line(error)}") from None
  except OSError as error:
    file = next((a for a in argv if a.startswith("--config=")), "--config")
    if "No such file" in str(error):
      raise UserError(
          f"{file}: there is no such file; try --config=configs/mnist.py"
      ) from None
    raise UserError(f"{file}: {_line(error)}") from None
  except Exception as error:  # Whatever a config file raises.
    raise UserError(f"--config: {type(error).__name__}: {_line(error)}"
                    ) from None


@contextlib.contextmanager
def _as_arguments(argv):
  """config_flags looks for the overrides of a config in sys.argv itself."""
  before, sys.argv = sys.argv, ["kd_jax.main", *argv]
  try:
    yield
  finally:
    sys.argv = before


def _explain(message: str, argv: list[str]) -> str:
  """absl's message, and what the key would take."""
  for arg in argv:
    name = arg.removeprefix("--config.").split("=")[0]
    key = schema.find(name)
    if f"--config.{name}=" in message and key is not None:
      return f"{arg}: must be {key.rule.allowed}\n({key.meaning})"
  return message.splitlines()[0]


def _line(error: Exception) -> str:
  return " ".join(str(error).split())[:300]


def _set_none(config, name: str) -> None:
  *parents, leaf = name.split(".")
  for parent in parents:
    config = config[parent]
  try:
    config[leaf] = None
  except TypeError:
    key = schema.find(name)
    assert key is not None
    raise UserError(
        f"--config.{name}=None: must be {key.rule.allowed}\n({key.meaning})"
    ) from None


def _default_workdir(values) -> str:
  name = pathlib.Path(
      config_flags.get_config_filename(values["config"]).split(":")[0]).stem
  return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
