"""From a command line to a checked config: every mistake is told in a line."""

from collections.abc import Iterable, Mapping, Sequence
import difflib
import os
import pathlib
import re
import shlex
import time
from typing import Any

import ml_collections

import kd_jax
from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import schema, sweep
from kd_jax.core import exits, sources
from kd_jax.core.errors import UserError, in_words, message, nearest
from kd_jax.core.files import at_home

# Flags that name the processes of one run.
HOSTS = ("--coordinator", "--processes", "--process_id")
# Flags with a value; --config.KEY and --sweep.KEY have one too.
_FLAGS = ("--config", "--workdir", "--sweep", "--shard", "--resume", *HOSTS)


def parse(
    argv: list[str], swept: sweep.Sweep | None = None
) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
  """Reads the command line.

  Args:
    argv: The arguments, without the program's name.
    swept: Points of a program that makes a sweep of its own.

  Returns:
    The checked config and the workdir.

  Raises:
    UserError: For anything that is not right about them.
  """
  argv, points = (argv, swept) if swept else _points(joined(argv))
  flags: dict[str, str] = {}  # Of a flag given twice, the last counts.
  for arg in argv:
    name, equals, text = arg.partition("=")
    if name == "--resume":  # Short for a key.
      name = "--config.checkpoint.resume"
    if name not in ("--config", "--workdir") and not name.startswith("--config."):
      key = name.removeprefix("--")
      raise UserError(f"{arg}: unexpected; " + (
          f"did you mean --config.{key}?" if schema.find(key) else
          nearest(name, _FLAGS)))
    if not equals and name in ("--config", "--workdir"):
      raise UserError(f"{name}: needs a value, {name}=VALUE")
    flags[name] = text if equals else "true"
  file, workdir = flags.pop("--config", None), flags.pop("--workdir", None)
  if not file:
    raise UserError(f"--config=FILE is missing; {_some_config('mnist')}")
  words = {name.removeprefix("--config."): text for name, text in flags.items()}
  name = pathlib.Path(_apart(file)[0]).stem
  default = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
  return changed(_load(file), words, points), at_home(workdir or default)


def changed(
    values: dict[str, Any], words: Mapping[str, str],
    points: sweep.Sweep | None = None,
) -> ml_collections.ConfigDict:
  """A flat config with what was given, in words, and another sweep.

  Args:
    values: The config.
    words: Of keys, such as `{"student.widths": "(30,30)"}`.
    points: The sweep; None for that of the config.

  Raises:
    UserError: For anything that is not right about them.
  """
  values = _with_methods(values, words, points or ())
  given = {name: value(name, text, values["recipe"])
           for name, text in words.items()}
  _check_method({**values, **given}, given, points or ())
  if points is not None:
    given["sweep.points"] = tuple(points)
    reference = dict(values["sweep.reference"])
    if not any(sweep.matches(point, reference) for point in points):
      given.setdefault("sweep.reference", ())  # It was one of the file's points.
  return config_lib.nested(config_lib.changed(values, given))


def _load(file: str) -> dict[str, Any]:
  """The flat config of `FILE` or `FILE:VARIANT`; every failure as a UserError."""
  path, *variant = _apart(file)
  if not at_home(path).is_file():
    path = _shipped().get(path, path)
  if not (place := at_home(path)).is_file():
    what = "is no file" if place.exists() else "there is no such file"
    raise UserError(f"--config={file}: {what}; {_some_config(path)}")
  make = sources.load("--config", f"{path}:get_config")
  try:
    with exits.refused():
      config = make(*variant)
  except UserError as error:
    raise UserError(f"--config={file}: {error}") from None
  except BaseException as error:  # Whatever a config file raises.
    where = os.path.abspath(at_home(path))
    if lost := re.search(r'Key "(\w+)" does not exist', message(error)):
      error = AttributeError(f"{lost[1]}: {config_lib.unknown(lost[1])}"
                             ).with_traceback(error.__traceback__)
    raise UserError(f"--config={file}: {in_words(error, where)}") from None
  if not isinstance(config, ml_collections.ConfigDict) or "recipe" not in config:
    raise UserError(
        f"--config={file}: get_config gives a {type(config).__name__} that is not "
        "made of kd_jax.config.default(); start from that, and change its keys")
  try:
    values = config_lib.flatten(config)
  except RecursionError:
    raise UserError(f"--config={file}: its config contains itself") from None
  for name in ("recipe", "sweep.points"):  # They say which other keys there are.
    config_lib.check_key(name, schema.every()[name], values.get(name))
  return values


def _shipped() -> dict[str, str]:
  """The configs that come with kd_jax, by their names alone, such as `mnist`."""
  inside = pathlib.Path(kd_jax.__file__).parent / "configs"  # Of an installed one.
  folder = inside if inside.is_dir() else inside.parents[1] / "configs"
  return {file.stem: str(file) for file in sorted(folder.glob("[!_]*.py"))}


def _some_config(path: str) -> str:
  """Advice to those without a config, of the nearest that there is."""
  close = difflib.get_close_matches(
      pathlib.PurePath(path).stem, _shipped(), n=1, cutoff=0) or ["mnist"]
  return (f"try --config={close[0]}:smoke; one of your own has a get_config() that "
          "returns kd_jax.config.default()")


def _apart(file: str) -> list[str]:
  """`FILE` or `FILE:VARIANT` in its parts; a path may have colons of its own."""
  path, colon, variant = file.rpartition(":")
  whole = not colon or at_home(file).is_file()
  return [file] if whole else [path, variant]


def _with_methods(
    values: dict[str, Any], words: Mapping[str, str], points: Iterable[sweep.Point]
) -> dict[str, Any]:
  """The values with the keys of the user's own methods, which are loaded."""
  every = [{**values, **words}, *values.get("sweep.points", ()), *points]
  methods.add_own(*(str(value) for some in every for key, value in some.items()
                    if key.split(".")[-1] == "method"))
  return values | {
      name: key.default for name, key in schema.every(*values["recipe"]).items()
      if schema.owner(re.sub(r"^nets\.\w+\.", "", name)) and name not in values}


def value(name: str, text: str, nets: Sequence[str] = ()) -> Any:
  """What `--config.NAME=TEXT` says; what cannot be read is left for `check`."""
  if name == "recipe":
    raise UserError(
        "--config.recipe: the config file says which nets there are; change "
        "nets.NAME.teachers, or write another file")
  key = schema.every(*nets).get(name)
  if key is None:
    raise UserError(f"--config.{name}: {config_lib.unknown(name, nets)}")
  return text if key.type is str and text != "None" else schema.literal(text)


def _check_method(
    values: Mapping[str, Any], given: Iterable[str], points: Iterable[sweep.Point]
) -> None:
  """Refuses words that a method would not hear."""
  swept = {str(point["method"]) for point in points if "method" in point}
  own = {"temperature", "alpha", "hard_weight", "soft_weight"} & set(given)
  if swept and own:
    name = min(own)
    raise UserError(
        f"--config.{name} in a sweep over method: each method brings its own; to "
        f"give it to all, --sweep.{name}=VALUE")
  asked = {part for name in swept | {str(values["method"])}
           for part in methods.parts(name)}
  for key in sorted(given):
    owner = schema.owner(key)
    if owner is not None and owner not in asked:
      raise UserError(
          f"--config.{key}: is a number of method {owner}, and the method is "
          f"{values['method']}; add --config.method={owner}")


def joined(argv: list[str]) -> list[str]:
  """`--name value` as `--name=value`, for the flags that take one."""
  words: list[str] = []
  for arg in argv:
    before = words[-1] if words else "="
    if "=" not in before and not arg.startswith("--") and (
        before in _FLAGS or before.startswith(("--config.", "--sweep."))):
      words[-1] += f"={arg}"
    else:
      words.append(arg)
  return words


def of_config(argv: list[str]) -> list[str]:
  """The words about the config, of a command that has taken its own flags away.

  Raises:
    UserError: If there is a word of another kind.
  """
  words = joined(argv)
  for word in words:
    if not word.startswith("--config"):
      raise UserError(f"{word}: not known here; --help tells what is")
  return words


def again(program: str, argv: list[str], workdir: pathlib.Path) -> str:
  """The command that goes on in a workdir, which it may not have named itself."""
  rest = [word for word in joined(argv) if not word.startswith("--workdir")]
  return shlex.join(["python", "-m", program, *rest, f"--workdir={workdir}"])


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
