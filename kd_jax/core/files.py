"""What lies at a path, before it is read."""

import os
import pathlib

from kd_jax.core.errors import UserError


def at_home(path: str | os.PathLike) -> pathlib.Path:
  """A path that a user gives, with ~ as their folder, and ~NAME as that of NAME.

  Raises:
    UserError: If there is no such user, or it is not UTF-8: nets could not be kept
      there.

  Example:
    >>> at_home("runs/~mnist").name
    '~mnist'
  """
  found = pathlib.Path(os.path.expanduser(path))
  if (first := str(found).split(os.sep)[0]).startswith("~") and (
      not os.path.exists(first)):
    raise UserError(f"{path}: there is no user of this name; for a folder that is "
                    f"called so, give ./{path}")
  try:
    str(found.absolute()).encode()
  except UnicodeEncodeError:
    raise UserError(f"{str(path)!r}: its name is not UTF-8; give another") from None
  return found


def damage(error: Exception) -> str:
  """What NumPy says of a file that it cannot read, without its advice to unpickle.

  Example:
    >>> damage(ValueError("Object arrays cannot be loaded when allow_pickle=False"))
    'it holds Python objects, not numbers'
  """
  message = " ".join(str(error).split()) or type(error).__name__
  if "pickle" not in message:
    return message
  # NumPy takes whatever it does not know for a pickle.
  return ("it holds Python objects, not numbers" if "Object arrays" in message
          else "it is neither .npy nor .npz")


def write(path: pathlib.Path, text: str) -> None:
  """Writes a text file.

  Raises:
    OSError: If it cannot be written, or something else than a file is there.
  """
  if path.exists() and not path.is_dir():
    refuse_pipes(path)
  path.write_text(text, encoding="utf-8")


def refuse_pipes(path: pathlib.Path) -> None:
  """Refuses what a program would wait for, or read for ever: pipes and devices.

  Raises:
    OSError: If there is one at the path, or somewhere in the folder at the path.
  """
  for each in (path, *path.rglob("*")):
    if each.exists() and not (each.is_file() or each.is_dir()):
      raise OSError(f"{each}: is neither a file nor a folder")
