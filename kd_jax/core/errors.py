"""UserError: a mistake that the user can correct; its message says how."""

import argparse
from collections.abc import Iterable
import difflib
from typing import NoReturn


class UserError(Exception):
  """A mistake outside the code, with a message of at most three lines.

  The message says what is wrong, the value, and what would be right. Programs
  print it without a traceback and exit with code 2.
  """

  __module__ = "kd_jax.errors"  # Its public name, which tracebacks show.


def out_of_memory(error: BaseException) -> UserError | None:
  """What to tell of an error that says that no memory is left, if it does."""
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return UserError("out of memory; give a smaller config.batch_size, smaller "
                     "widths, config.teacher.bank=never, or fewer sweep.lanes")
  return None


class Parser(argparse.ArgumentParser):
  """A parser of command lines whose errors are one line, without the usage."""

  def error(self, message: str) -> NoReturn:
    """Prints what is wrong with the arguments, and ends the program."""
    self.exit(2, f"error: {message}; see --help\n")


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
