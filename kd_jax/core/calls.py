"""How a user's loss of logits is called, whichever arguments it names."""

from collections.abc import Callable
import dataclasses
import inspect
from typing import Any

from kd_jax.core.errors import UserError

ARGUMENTS = ("student_logits", "teacher_logits", "labels", "temperature", "alpha")


@dataclasses.dataclass(frozen=True)
class OfLogits:
  """A loss of logits.

  Attributes:
    call: It, as a function of all of `ARGUMENTS` in their order.
    uses: Those that it is given.
  """

  call: Callable[..., Any]
  uses: frozenset[str]

  def __call__(self, *given: Any) -> Any:
    return self.call(*given)


def of_logits(function: Callable[..., Any], more: str = "") -> OfLogits:
  """A loss of those of `ARGUMENTS` that it names, or of all five by position.

  Args:
    function: The user's.
    more: As of `by_position`.

  Raises:
    UserError: If it can be called in neither way.

  Example:
    >>> found = of_logits(lambda labels, student_logits: (labels, student_logits))
    >>> found("z", "v", "y", 4.0, 0.9), sorted(found.uses)
    (('y', 'z'), ['labels', 'student_logits'])
  """
  try:
    named = inspect.signature(function).parameters
  except (TypeError, ValueError):
    named = {}  # type: ignore[assignment]
  needed = {name for name, each in named.items() if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
  uses = frozenset(ARGUMENTS) & named.keys()
  if "student_logits" not in named or not needed <= uses or any(
      named[name].kind is inspect.Parameter.POSITIONAL_ONLY for name in uses):
    return OfLogits(by_position(function, more), frozenset(ARGUMENTS))
  return OfLogits(lambda *given: function(**{
      name: value for name, value in zip(ARGUMENTS, given, strict=True)
      if name in uses}), uses)


def by_position(
    function: Callable[..., Any], more: str = ""
) -> Callable[..., Any]:
  """The function as one of five positional arguments.

  T and alpha may be keyword-only; further arguments need defaults.

  Args:
    function: The user's.
    more: What is added to the message of one that cannot be called so.

  Raises:
    UserError: If it cannot be called so.
  """
  blank = [None] * 3
  if binds(function, *blank, None, None):
    return function
  if not binds(function, *blank, temperature=None, alpha=None):
    raise unfit(function, f"({', '.join(ARGUMENTS)})", more)
  return lambda z, v, y, temperature, alpha: function(
      z, v, y, temperature=temperature, alpha=alpha)


def binds(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
  """Whether a function can be called so, as far as its signature says."""
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):
    return True  # Of C, say: it will be seen when it is called.
  try:
    signature.bind(*args, **kwargs)
  except TypeError:
    return False
  return True


def unfit(
    function: Callable[..., Any], arguments: str, more: str = ""
) -> UserError:
  """That a function does not take these arguments."""
  name = getattr(function, "__name__", function)
  return UserError(
      f"{name}{inspect.signature(function)}: must take {arguments}{more}")
