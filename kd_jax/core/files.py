"""What lies at a path, before it is read."""

import os
import pathlib


def at_home(path: str | os.PathLike) -> pathlib.Path:
  """A path that a user gives, with ~ as their folder; other names stay as they are.

  Example:
    >>> at_home("~nobody_of_this_name/x").name
    'x'
  """
  return pathlib.Path(os.path.expanduser(path))


def damage(error: Exception) -> str:
  """What NumPy says of a file that it cannot read, without its advice to unpickle.

  Example:
    >>> damage(ValueError("Object arrays cannot be loaded when allow_pickle=False"))
    'it holds Python objects, not numbers'
  """
  message = " ".join(str(error).split()) or type(error).__name__
  return "it holds Python objects, not numbers" if "pickle" in message else message


def refuse_pipes(path: pathlib.Path) -> None:
  """Refuses what a program would wait for, or read for ever: pipes and devices.

  Raises:
    OSError: If there is one at the path, or somewhere in the folder at the path.
  """
  for each in (path, *path.rglob("*")):
    if each.exists() and not (each.is_file() or each.is_dir()):
      raise OSError(f"{each}: is neither a file nor a folder")
