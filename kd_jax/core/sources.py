"""What a user names as `package.module:NAME` or `path/to/file.py:NAME`."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
from types import ModuleType
from typing import Any

from kd_jax.core import exits, imports
from kd_jax.core.errors import UserError, in_words, nearest
from kd_jax.core.files import at_home, refuse_pipes


def named(name: str) -> bool:
  """Whether a name is a user's own: `module:NAME` or `file.py:NAME`."""
  return ":" in name


def load(key: str, name: str) -> Any:
  """The object that a name stands for.

  Args:
    key: The config key, for messages.
    name: `package.module:NAME`, or `path/to/file.py:NAME`.

  Raises:
    UserError: If it cannot be imported, with what the user's file raises.
  """
  place, _, attribute = name.rpartition(":")
  module = _module(place)
  if not hasattr(module, attribute):
    own = _own(module)
    raise UserError(f"{key}={name}: cannot be imported: {place} has no {attribute}"
                    + (f"; {nearest(attribute, own)}" if own else ""))
  return getattr(module, attribute)


def _own(module: ModuleType) -> list[str]:
  """What a module makes itself; what it imports is left out."""
  return [name for name, value in vars(module).items()
          if not name.startswith("_") and not inspect.ismodule(value)
          and (not hasattr(value, "__name__")
               or getattr(value, "__module__", None) == module.__name__)]


def sha256(name: str) -> str:
  """The hash of the module of a name, and of the file that its object lies in.

  With them that of all files beside the module which these import.
  """
  place, _, attribute = name.rpartition(":")
  module = _module(place)
  try:
    source = inspect.getsource(module)
    lies = inspect.getmodule(getattr(module, attribute, module)) or module
    if lies is not module:
      source += inspect.getsource(lies)
    beside = b"".join(_beside(module).values())
  except (OSError, TypeError):
    raise UserError(f"{name}: has no source to be known by; name a class or a "
                    "function of a file of yours") from None
  return hashlib.sha256(source.encode() + beside).hexdigest()


def file(name: str) -> str:
  """The file that a name lies in, or its module, as `errors.in_words` wants it."""
  place = name.rpartition(":")[0]
  return os.path.abspath(at_home(place)) if place.endswith(".py") else place


def _module(place: str) -> ModuleType:
  file = os.path.abspath(at_home(place))
  try:
    with exits.refused():
      if not place.endswith(".py"):
        return importlib.import_module(place)
      path = pathlib.Path(file)
      refuse_pipes(path)
      return _of_file(path, path.read_text(),
                      tuple(imports.beside(path, path.parent).items()))
  except UserError:
    raise
  except BaseException as error:  # Whatever a user's file raises.
    why = _absent(place, file, error) or in_words(error, file)
    raise UserError(f"{place}: cannot be imported: {why}") from None


def _absent(place: str, file: str, error: BaseException) -> str:
  """What to do if a name is not where it was, such as that of a run of before."""
  start = "start from the folder to which the name is relative"
  if re.match(r"examples\b", place):
    start += ", here the clone of kd_jax: examples are not installed"
  if place.endswith(".py"):
    # Not one that the file itself has looked for.
    if isinstance(error, FileNotFoundError) and str(error.filename) == file and (
        not os.path.isabs(at_home(place))):
      return f"there is none in {os.getcwd()}; {start}"
  elif isinstance(error, ModuleNotFoundError) and error.name and (
      f"{place}.".startswith(f"{error.name}.")):
    return f"there is none in {os.getcwd()}, and none is installed; {start}"
  return ""


def _beside(module: ModuleType) -> dict[str, bytes]:
  """The texts of a user's own modules that one imports, by name."""
  folder = imports.home(module)
  return {} if folder is None else imports.beside(
      pathlib.Path(module.__file__ or ""), folder, module.__name__)


@functools.cache
def _of_file(
    path: pathlib.Path, text: str, beside: tuple[tuple[str, bytes], ...]
) -> ModuleType:
  """The module of a file; one that was edited, or what it imports, is another."""
  digest = hashlib.sha256(f"{path}\n{text}{beside or ''}".encode()).hexdigest()
  spec = importlib.util.spec_from_file_location(f"own_{digest[:12]}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # Where dataclasses look for it.
  with imports.folder_first(path.parent, dict(beside)):
    spec.loader.exec_module(module)
  return module
