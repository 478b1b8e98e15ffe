"""Finds the loss that a TARGET names, and the framework it is written in."""

from collections.abc import Callable
import importlib
import importlib.util
import pathlib
import sys
from typing import Any

import numpy as np

from kd_jax.conformance import adapters, oracle
from kd_jax.conformance.adapters import Adapted, Case, Refusal, error_line
from kd_jax.core.errors import UserError, nearest

_DEFAULT = "loss"


def load(target: str, framework: str = "auto") -> Adapted:
  """The loss that is to be judged, after a first look at what it returns.

  Args:
    target: `module:function` or `file.py:function`; a function called `loss`
      need not be named.
    framework: A key of `adapters.ADAPTERS`, or "auto" for what its adapter says,
      or else the first framework that it runs in.

  Raises:
    UserError: If there is none, or it cannot be judged.
  """
  place, _, name = target.partition(":")
  if not place:
    raise UserError(f"TARGET={target!r}: names no module; give module:function, or "
                    "file.py:function")
  found = module(place)
  function = getattr(found, name or _DEFAULT, None)
  if not callable(function):
    known = [n for n, value in vars(found).items()
             if callable(value) and not n.startswith("_")]
    raise UserError(
        f"{place}: has no function {name or _DEFAULT}; "
        + (nearest(name or _DEFAULT, known) if known else "it has none at all"))
  try:
    if framework != "auto":
      bare = function.function if isinstance(function, Adapted) else function
      return _checked(adapters.ADAPTERS[framework](bare))
    if isinstance(function, Adapted):
      return _checked(function)
    return _found_out(function)
  except UserError as error:
    raise UserError(f"{target}: {error}") from None
  except ModuleNotFoundError as error:  # An adapter's own import.
    raise UserError(f"--framework={framework}: needs {error.name}, which is not "
                    "installed") from None


def module(place: str) -> Any:
  """Imports a module by its name, or a file.

  Raises:
    UserError: If there is none, or it fails.
  """
  path = pathlib.Path(place)
  if path.suffix != ".py":
    what = f"module {place}"
    bring: Callable[[], Any] = lambda: importlib.import_module(place)
  else:
    if not path.is_file():
      raise UserError(f"{place}: there is no such file")
    what = place
    bring = lambda: _run_file(path)
  try:
    return bring()
  except UserError:
    raise
  except ModuleNotFoundError as error:
    missing = error.name or ""
    if path.suffix != ".py" and (
        place == missing or place.startswith(f"{missing}.")):
      raise UserError(
          f"{place}: there is no such module; give module:function, or "
          "file.py:function") from None
    raise UserError(f"{what}: needs {missing}, which is not installed") from None
  except (Exception, SystemExit) as error:  # Whatever an import raises.
    raise UserError(f"{what}: {error_line(error)}") from None


def _run_file(path: pathlib.Path) -> Any:
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  made = importlib.util.module_from_spec(spec)
  sys.path.insert(0, str(path.resolve().parent))
  try:
    spec.loader.exec_module(made)
  finally:
    sys.path.pop(0)
  return made


def _found_out(function: Callable[..., Any]) -> Adapted:
  """The first framework in which a function gives a value and a gradient."""
  names = ["jax"] if importlib.util.find_spec("jax") else []
  # PyTorch only where the target has imported it.
  names += ["numpy"] + (["torch"] if "torch" in sys.modules else [])
  refused: dict[str, list[str]] = {}
  for name in names:
    adapted = adapters.ADAPTERS[name](function)
    try:
      if name == "numpy":
        _refuse_other_arrays(function)
      adapted.ask(base())
      return _checked(adapted)
    except Refusal as error:  # It is of another framework, or broken.
      refused.setdefault(str(error), []).append(name)
  raise UserError("; ".join(
      f"as {' and '.join(names)} it {error}" for error, names in refused.items())
                  + "; for others see --framework in --help")


def _refuse_other_arrays(function: Callable[..., Any]) -> None:
  """Central differences are for NumPy: other arrays may be of float32."""
  case, call = base(), adapters.by_position(function)
  try:
    with np.errstate(all="ignore"):
      out = call(*case[:5])
  except (Exception, SystemExit) as error:
    raise Refusal(error_line(error)) from error
  if not isinstance(out, (np.ndarray, np.floating, float)):
    raise Refusal(f"returns a {type(out).__name__}")


def base() -> Case:
  """The first question to a loss."""
  return Case(*oracle.problem(), temperature=2.0, alpha=0.5)


def _checked(adapted: Adapted) -> Adapted:
  """Looks once at what a loss returns.

  Raises:
    UserError: If it is not a finite loss of the right shape with a gradient.
  """
  try:
    answer = adapted.ask(base())
  except Refusal as error:
    raise UserError(
        f"{error} (called as {adapted.framework}; another framework? see "
        "--framework in --help)") from None
  shape, batch = answer.output.shape, oracle.EXAMPLES
  if shape not in ((), (batch,)):
    raise UserError(
        f"returned shape {shape} for logits {(batch, oracle.CLASSES)}: must be a "
        f"scalar or one value an example, {(batch,)}")
  if not np.isfinite(answer.output).all():
    raise UserError(
        f"returned {answer.value} for ordinary finite logits, at T = 2 and "
        "alpha = 0.5; a logarithm of logits that are no probabilities?")
  assert answer.student is not None
  if not np.any(answer.student):
    if answer.teacher is not None and np.any(answer.teacher):
      raise UserError(
          "the gradient goes to the second argument alone: student and teacher in "
          "the wrong order? It is loss(student_logits, teacher_logits, ...)")
    raise UserError(
        "is not differentiable: no gradient reaches the student's logits "
        "(detached, rounded, or an argmax?)")
  return adapted
