"""Finds the loss that a TARGET names, and the framework it is written in."""

from collections.abc import Callable
import importlib
import importlib.util
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

from kd_jax.conformance import adapters, oracle, taps
from kd_jax.conformance.adapters import Adapted, Case, Refusal, error_line
from kd_jax.core import calls
from kd_jax.core.errors import UserError, nearest

_DEFAULT = "loss"
_SAYS = "; --kind says which"


class Kind(NamedTuple):
  """What a loss of a kind is asked.

  Attributes:
    first: The first question.
    call: Makes of the function one of a `Case`'s first five, by position.
    inputs: What it is given, and in which shape.
    not_finite: What is said of a loss that is not finite there.
    options: Of the command line, for a loss that cannot be asked.
  """

  first: Case
  call: Callable[[Callable[..., Any]], Callable[..., Any]]
  inputs: tuple[str, str]
  not_finite: str
  options: str


def of_logits() -> Kind:
  """loss(student_logits, teacher_logits, labels, temperature, alpha), or some."""
  first = Case(*oracle.problem(), temperature=2.0, alpha=0.5)
  return Kind(
      first, lambda function: calls.of_logits(function, _SAYS),
      ("logits", str(first.student.shape)),
      ", at T = 2 and alpha = 0.5; a logarithm of logits that are no "
      "probabilities?", "--framework")


def of_features(shapes: taps.Taps) -> Kind:
  """loss(student_features, teacher_features)."""
  def call(function: Callable[..., Any]) -> Callable[..., Any]:
    if not calls.binds(function, None, None):
      raise calls.unfit(function, "(student_features, teacher_features)", _SAYS)
    return lambda s, t, *_: function(shapes.of(s), shapes.of(t))

  given = [str((oracle.EXAMPLES, *shape)) for shape in shapes.shapes]
  return Kind(
      taps.case(*shapes.problem()), call, ("features", " and ".join(given)),
      "; a root or a logarithm of what may be below 0?",
      "--framework and --shape")


def load(target: str, framework: str = "auto", kind: Kind | None = None) -> Adapted:
  """The loss that is to be judged, after a first look at what it returns.

  Args:
    target: `module:function` or `file.py:function`; a function called `loss`
      need not be named.
    framework: A key of `adapters.ADAPTERS`, or "auto" for what its adapter says,
      or else the first framework that it runs in.
    kind: What it is a loss of; of logits by default.

  Raises:
    UserError: If there is none, or it cannot be judged.
  """
  kind = kind or of_logits()
  place, _, name = target.partition(":")
  if not place:
    raise UserError(f"TARGET={target!r}: names no module; give module:function, or "
                    "file.py:function")
  found = module(place)
  function = getattr(found, name or _DEFAULT, None)
  if not callable(function):
    wanted = name or _DEFAULT
    wrong = (f"has no function {wanted}" if function is None else
             f"{wanted} is a {type(function).__name__}, not a function")
    known = [n for n, value in vars(found).items()
             if callable(value) and not n.startswith("_")]
    raise UserError(f"{place}: {wrong}; " + (
        nearest(wanted, known) if known else "it has none at all"))
  try:
    bare = function.function if isinstance(function, Adapted) else function
    call = kind.call(bare)
    if framework != "auto":
      return _checked(adapters.ADAPTERS[framework](call), kind)
    if isinstance(function, Adapted):
      return _checked(function.of(call), kind)
    return _found_out(call, kind)
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


def _found_out(function: Callable[..., Any], kind: Kind) -> Adapted:
  """The first framework in which a function gives a value and a gradient."""
  names = ["jax"] if importlib.util.find_spec("jax") else []
  # PyTorch only where the target has imported it.
  names += ["numpy"] + (["torch"] if "torch" in sys.modules else [])
  refused: dict[str, list[str]] = {}
  for name in names:
    adapted = adapters.ADAPTERS[name](function)
    try:
      if name == "numpy":
        _refuse_other_arrays(function, kind)
      adapted.ask(kind.first)
      return _checked(adapted, kind)
    except Refusal as error:  # It is of another framework, or broken.
      refused.setdefault(str(error), []).append(name)
  raise UserError("; ".join(
      f"as {' and '.join(names)} it {error}" for error, names in refused.items())
                  + f"; for others see {kind.options} in --help")


def _refuse_other_arrays(function: Callable[..., Any], kind: Kind) -> None:
  """Central differences are for NumPy: other arrays may be of float32."""
  try:
    with np.errstate(all="ignore"):
      out = function(*kind.first[:5])
  except (Exception, SystemExit) as error:
    raise Refusal(error_line(error)) from error
  if not isinstance(out, (np.ndarray, np.floating, float)):
    raise Refusal(f"returns a {type(out).__name__}")


def _checked(adapted: Adapted, kind: Kind) -> Adapted:
  """Looks once at what a loss returns.

  Raises:
    UserError: If it is not a finite loss of the right shape with a gradient.
  """
  try:
    answer = adapted.ask(kind.first)
  except Refusal as error:
    raise UserError(
        f"{error} (called as {adapted.framework}; for others see "
        f"{kind.options} in --help)") from None
  shape, batch = answer.output.shape, oracle.EXAMPLES
  if shape not in ((), (batch,)):
    raise UserError(
        f"returned shape {shape} for {' '.join(kind.inputs)}: must be a scalar or "
        f"one value an example, {(batch,)}")
  if not np.isfinite(answer.output).all():
    raise UserError(
        f"returned {answer.value} for ordinary finite {kind.inputs[0]}"
        f"{kind.not_finite}")
  assert answer.student is not None
  name = kind.inputs[0]
  if not np.any(answer.student):
    if answer.teacher is not None and np.any(answer.teacher):
      raise UserError(
          "the gradient goes to the second argument alone: student and teacher in "
          f"the wrong order? It is loss(student_{name}, teacher_{name}, ...)")
    raise UserError(
        f"is not differentiable: no gradient reaches the student's {name} "
        "(detached, rounded, or an argmax?)")
  return adapted
