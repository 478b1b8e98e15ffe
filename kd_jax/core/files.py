"""What lies at a path, before it is read; files that come whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import secrets

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


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Where to write a file that takes the place of `path` if nothing fails.

  Its name is of this call alone, as two programs may write the same file at once.
  Its mode is that of any new file, whatever writes it.

  Example:
    with replacing(folder / "net.npz") as fresh:
      np.savez(fresh, **arrays)
  """
  fresh = path.with_name(f"new-{secrets.token_hex(4)}-{path.name}")
  try:
    fresh.touch()
    mode = fresh.stat().st_mode
    yield fresh
    fresh.chmod(mode)
    fresh.replace(path)
  finally:
    fresh.unlink(missing_ok=True)


def refuse_pipes(path: pathlib.Path) -> None:
  """Refuses what a program would wait for, or read for ever: pipes and devices.

  Raises:
    OSError: If there is one at the path, or somewhere in the folder at the path.
  """
  for each in (path, *path.rglob("*")):
    if each.exists() and not (each.is_file() or each.is_dir()):
      raise OSError(f"{each}: is neither a file nor a folder")
