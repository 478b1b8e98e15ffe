"""The doctor: would a run work here, and what would it take?

`python -m kd_jax.doctor [--config=...]` looks at the machine (`machine.py`), at
the data (`sources.py`), at the first batch of the run (`first_batch.py`) and at
time, memory and disk (`examine.py`). It trains nothing and leaves nothing but
compiled programs in the cache.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from kd_jax.core.errors import UserError

_Found = TypeVar("_Found")


class Problem(NamedTuple):
  """What is wrong and how to mend it, in one line.

  Attributes:
    text: The line.
    fatal: Whether the run would fail; a mere warning otherwise.
  """

  text: str
  fatal: bool = True


class Remark(Exception):
  """Ends a check, and is no reason for the run to fail."""


class Visit:
  """Collects problems; none of them stops the visit."""

  def __init__(self) -> None:
    self.problems: list[Problem] = []

  @property
  def fatal(self) -> bool:
    """Whether the run would fail."""
    return any(problem.fatal for problem in self.problems)

  def tell(self, text: str, *, fatal: bool = True) -> None:
    """Adds a problem, once: two checks may stumble over the same thing."""
    problem = Problem(one_line(text), fatal)
    if problem.text not in [known.text for known in self.problems]:
      self.problems.append(problem)

  def attempt(
      self, what: str, check: Callable[..., _Found], *arguments: Any,
      fatal: bool = True,
  ) -> _Found | None:
    """What a check gives; its failure is a problem, and gives None.

    Args:
      what: What is checked, for failures that nobody foresaw.
      check: The check.
      *arguments: Its arguments.
      fatal: Whether a run would stumble over such a failure too.
    """
    try:
      return check(*arguments)
    except Remark as error:
      self.tell(str(error), fatal=False)
    except UserError as error:
      self.tell(str(error), fatal=fatal)
    except Exception as error:  # Whatever a driver, a file or a module raises.
      self.tell(f"{what}: {_unforeseen(error)}", fatal=fatal)
    return None


def one_line(text: str) -> str:
  """Any text as a single line.

  Example:
    >>> one_line("x=0: must be > 0\\n(a number)"), one_line("a\\nb")
    ('x=0: must be > 0 (a number)', 'a; b')
  """
  line = ""
  for part in filter(None, (" ".join(p.split()) for p in text.splitlines())):
    ended = part.startswith("(") or line.endswith((";", ":", "."))
    line += ((" " if ended else "; ") if line else "") + part
  return line


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
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return ("out of memory; give a smaller config.batch_size, smaller widths or "
            "config.teacher.bank=never")
  message = one_line(str(error))[:200]
  return (f"{type(error).__name__}: {message}; not foreseen: if it is no mistake "
          "of yours, open an issue with this line")
