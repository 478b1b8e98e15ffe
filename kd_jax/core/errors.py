"""UserError: a mistake that the user can correct; its message says how."""

import argparse
from collections.abc import Iterable
import difflib
import math
import re
import traceback
from typing import NoReturn


class Notice(UserWarning):
  """What a user should know of a result; programs print it in a line."""


class UserError(Exception):
  """A mistake outside the code, with a message of at most three lines.

  The message says what is wrong, the value, and what would be right. Programs
  print it without a traceback and exit with code 2.
  """

  __module__ = "kd_jax.errors"  # Its public name, which tracebacks show.

  def __init__(self, message: object = ""):
    if isinstance(message, IsADirectoryError):
      message = (f"{message.filename2 or message.filename}: is a folder, where a "
                 "file belongs; move it away")
    lines = printable(str(message)).split("\n")
    super().__init__("\n".join(map(_without_middle, lines)))


def _without_middle(line: str) -> str:
  """A line without its middle, if that would fill a screen: some value or path."""
  return line if len(line) <= 1000 else f"{line[:500]} ... {line[-400:]}"


def printable(text: str) -> str:
  """Text that a terminal only shows: what would command it is spelled out.

  Example:
    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
  """
  return "".join(
      letter if letter.isprintable() or letter in "\n\t"
      else letter.encode("unicode_escape").decode() for letter in text)


def message(error: BaseException) -> str:
  """What an error says, which may be of a class of the user's own."""
  try:
    return str(error)
  except Exception:
    return "(cannot be printed)"


# What mends an error of JAX or Flax in a user's own code, by its name and what it
# says. Their own messages have the remedy at their end, behind a screen of text.
_REMEDIES = (
    ("TracerBoolConversionError",
     "use jnp.where(a > b, c, d) or jax.lax.cond, as a traced value cannot decide "
     "an `if`, `while`, `and` or `not`"),
    ("NonConcreteBooleanIndexError",
     "use jnp.where(mask, x, 0), as the shape of x[mask] would depend on values"),
    ("TracerArrayConversionError",
     "use jnp in place of np, as NumPy cannot take a traced array"),
    ("ConcretizationTypeError|TracerIntegerConversionError",
     "leave out float(), int(), range() and .item(), as a traced value is no "
     "Python number"),
    (r"ValueError: Found .*\b(?:list|tuple)'.* static attribute '(\w+)'",
     r"use self.\1 = nnx.List([...]), as modules in a plain list are not seen"),
    (r"ValueError: Found .*\bdict'.* static attribute '(\w+)'",
     r"use self.\1 = nnx.Dict({...}), as modules in a plain dict are not seen"),
)


def remedy(error: BaseException) -> str:
  """What mends an error in a user's own code, with its name; "" if not known."""
  line = f"{type(error).__name__}: {' '.join(message(error).split())}"
  for known, mends in _REMEDIES:
    if found := re.match(known, line):
      return f"{found.expand(mends)}; {line.split('. ')[0][:100]}"
  return ""


def what(error: BaseException) -> str:
  """What a user's own code has raised, in a line; the `remedy` first, if known.

  Example:
    >>> what(KeyError("a"))
    "KeyError: 'a'"
  """
  return remedy(error) or (
      f"{type(error).__name__}: {' '.join(message(error).split())[:300]}")


def place(error: BaseException, file: str) -> str:
  """Where in a user's `file` it was raised, ` (file, line N)`, or ""."""
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame for frame in frames if frame.filename == file]
  if not file.endswith(".py"):  # The name of a module.
    own = own or frames
  if not own or isinstance(error, SyntaxError):  # Which says it itself.
    return ""
  return f" ({own[-1].filename}, line {own[-1].lineno})"


def in_words(error: BaseException, file: str) -> str:
  """What a user's own code has raised, in a line, with its place in `file`."""
  return what(error) + place(error, file)


def out_of_memory(error: BaseException) -> UserError | None:
  """What to tell of an error that says that no memory is left, if it does."""
  if isinstance(error, MemoryError) or any(
      says in str(error) for says in ("RESOURCE_EXHAUSTED", "Out of memory")):
    return UserError("out of memory; give a smaller config.batch_size, smaller "
                     "widths, config.teacher.bank=never, or fewer sweep.lanes")
  return None


class Parser(argparse.ArgumentParser):
  """A parser of command lines whose errors are one line, without the usage."""

  def error(self, message: str) -> NoReturn:
    """Prints what is wrong with the arguments, and ends the program."""
    self.exit(2, f"error: {message}; see --help\n")


def whole(text: str) -> int:
  """An integer of 1 or more, for argparse."""
  number = int(text) if text.isdecimal() else 0
  if number < 1:
    raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
  return number


# A page of more examples would be too long to look through, and large.
_MOST = 500


def ids(text: str) -> list[int]:
  """Numbers of examples, 7, or 3,7, or 0-39, or some of these, for argparse."""
  found: dict[int, None] = {}
  for some in text.split(","):
    match = re.fullmatch(r"(-?\d{1,9})(?:-(\d{1,9}))?", some.strip())
    if not match:
      raise argparse.ArgumentTypeError(f"{text!r} must be ids such as 7 or 0-39")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < first + _MOST - len(found):
      raise argparse.ArgumentTypeError(
          f"{text!r} must go up, and be of {_MOST} examples at most")
    found |= dict.fromkeys(range(first, last + 1))
  return list(found)


def minutes(text: str) -> float:
  """A length of time above 0, for argparse."""
  return _between(text, 0, math.inf, "a number above 0")


def part(text: str) -> float:
  """A part of a whole, for argparse."""
  return _between(text, 0, 1, "a number between 0 and 1")


def _between(text: str, low: float, high: float, allowed: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not low < number < high:
    raise argparse.ArgumentTypeError(f"{text}: must be {allowed}")
  return number


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> str:
  """A phrase with the known words that are most similar to an unknown one.

  Example:
    >>> nearest("temprature", ["temperature", "alpha"])
    'did you mean temperature?'
    >>> nearest("zzz", ["sgd", "adam"])
    'known: adam, sgd'
  """
  known = sorted(known)
  close = difflib.get_close_matches(word, known, n=most, cutoff=0.6)
  if close:
    return f"did you mean {' or '.join(close)}?"
  shown = ", ".join(known[:12])
  return f"known: {shown}" + (", ..." if len(known) > 12 else "")
