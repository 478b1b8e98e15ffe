"""The one exception that means: the user can mend this, and here is how."""

import argparse
from collections.abc import Iterable
import difflib
from typing import NoReturn


class UserError(Exception):
  """A mistake outside the code, told in at most three lines.

  The message names what is wrong, the value, and what would be right. Programs
  print it without a traceback and exit with code 2.
  """


class Parser(argparse.ArgumentParser):
  """Of command lines; its errors are a line, without the usage."""

  def error(self, message: str) -> NoReturn:
    """Tells what is wrong with the arguments, and ends the program."""
    self.exit(2, f"error: {message}; see --help\n")


def nearest(word: str, known: Iterable[str], *, most: int = 3) -> str:
  """A phrase naming the known words nearest to one that is not known.

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
