"""The doctor: would a run work here, and what would it take?

`python -m kd_jax.doctor [--config=...]` looks at the machine (`machine.py`), at
the data (`sources.py`), at the first batch of the run (`first_batch.py`) and at
memory, disk and time (`examine.py`). It trains nothing and leaves nothing but
compiled programs in the cache.
"""

from collections.abc import Iterator
import contextlib
import re
import textwrap

from kd_jax.core.errors import UserError, out_of_memory
from kd_jax.core.screen import Screen

_WIDTH, _LEFT = 80, 17


class Remark(UserError):
  """Ends a check, and is no reason for the run to fail."""


class Visit:
  """What a visit finds. Facts are shown at once; no problem stops it.

  Attributes:
    screen: Where everything is shown.
    facts: What was found, by name.
    problems: What is wrong and how to mend it, in a line each, and whether the run
      would fail; others are mere warnings.
  """

  def __init__(self, screen: Screen | None = None):
    self.screen = screen or Screen()
    self.facts: dict[str, str] = {}
    self.problems: dict[str, bool] = {}

  @property
  def fatal(self) -> bool:
    """Whether the run would fail."""
    return any(self.problems.values())

  def fact(self, name: str, text: str) -> None:
    """Shows a fact beside its name; a long one takes several lines."""
    self.facts[name] = text
    self.screen.say(textwrap.fill(
        text, _WIDTH, initial_indent=f"{name:<{_LEFT}}",
        subsequent_indent=" " * _LEFT, break_long_words=False,
        break_on_hyphens=False))

  def tell(self, text: str, *, fatal: bool = True) -> None:
    """Adds a problem, once: two checks may stumble over the same thing."""
    self.problems.setdefault(one_line(text), fatal)

  @contextlib.contextmanager
  def check(self, what: str, *, fatal: bool = True) -> Iterator[None]:
    """A failure inside it is a problem, and ends only what is inside.

    Args:
      what: What is checked, for failures that nobody foresaw.
      fatal: Whether a run would stumble over such a failure too.
    """
    try:
      yield
    except UserError as error:
      self.tell(str(error), fatal=fatal and not isinstance(error, Remark))
    except Exception as error:  # Whatever a driver, a file or a module raises.
      self.tell(f"{what}: {_unforeseen(error)}", fatal=fatal)


def one_line(text: str) -> str:
  """Any text as a single line.

  Example:
    >>> one_line("x=0: must be > 0\\n(a number)"), one_line("a\\nb")
    ('x=0: must be > 0 (a number)', 'a; b')
  """
  return " ".join(re.sub(r"(?<![;:.])\n(?!\()", "; ", text.strip()).split())


def size(number: float) -> str:
  """Bytes as people read them.

  Example:
    >>> size(5 * 2**30), size(3 * 2**20), size(12)
    ('5.0 GiB', '3.0 MiB', '12 B')
  """
  for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
    if number >= unit:
      return f"{number / unit:,.1f} {name}"
  return f"{number:.0f} B"


def _unforeseen(error: Exception) -> str:
  if full := out_of_memory(error):
    return str(full)
  return (f"{type(error).__name__}: {one_line(str(error))[:200]}; not foreseen: if "
          "it is no mistake of yours, open an issue with this line")
