"""A user's own method: its mistakes in a line that names the place in its file."""

from collections.abc import Callable, Mapping
import functools
import inspect
from typing import TYPE_CHECKING, Any

from kd_jax.core import calls
from kd_jax.core.errors import UserError, in_words, nearest
from kd_jax.methods.method import AT_T, NAMES, Method, nothing
from kd_jax.methods.pairs import TooFew

if TYPE_CHECKING:
  from kd_jax.methods.terms import Changed


class Raised(UserError):
  """What a user's own function has raised, or gives and must not.

  Attributes:
    words: The same without the config key.
  """

  def __init__(self, key: str, words: str):
    super().__init__(f"{key}: {words}")
    self.words = words


def of_loss(function: Callable[..., Any], *, key: str, name: str) -> Method:
  """The method of one term, a user's function of logits z and v that gives `[B]`.

    L = (h + s) * loss(z, v, labels, T, alpha = s / (h + s))

  So alpha is that of the config where it is given: h = 1 - alpha, s = alpha. A
  loss that does not name alpha counts once, whatever the weights are.

  Args:
    function: As of `calls.of_logits`. T and alpha are traced.
    key: The config key and its value, for messages.
    name: What the loss is called in formulas.

  Raises:
    UserError: If it cannot be called so.
  """
  try:
    loss = calls.of_logits(function)
  except UserError as error:
    raise UserError(f"{key}: {error}") from None
  uses = loss.uses

  @functools.wraps(function)
  def terms(own, student, teacher, batch, hparams):
    from kd_jax.methods.terms import Term  # pylint: disable=g-import-not-at-top
    whole, alpha = 1.0, None
    if "alpha" in uses:
      whole = hparams.hard_weight + hparams.soft_weight
      # While soft_weight rises from 0 all of it may be 0.
      alpha = hparams.soft_weight / (whole + (whole == 0))
    return {"loss": Term(whole, loss(
        student.logits, teacher and teacher.logits, batch.label,
        hparams.temperature, alpha))}

  weights = "(hard {hard_weight:.3g}, soft {soft_weight:.3g})"
  softens = "temperature" in uses
  return Method(
      name + weights * ("alpha" in uses) + AT_T * softens, nothing, terms,
      softens=softens, needs_teacher="teacher_logits" in uses,
      reads_labels="labels" in uses, own_labels="labels" in uses)


def checked(method: Method, *, key: str, file: str) -> Method:
  """The method, whose functions raise `Raised` of whatever is wrong with them.

  Args:
    method: The user's.
    key: The config key and its value, for messages.
    file: The file in which it lies, or the name of its module.

  Raises:
    UserError: If its fields name a number that it does not have, or a field that
      must be a function is none.

  Example:
    >>> method = Method("{pover:g} * D", len, len, numbers={"power": 1.0})
    >>> try:
    ...   checked(method, key="config.method=a.py:b", file="a.py")
    ... except UserError as error:
    ...   print(str(error).rpartition(": ")[2])
    its formula has 'pover', which is none of its numbers; did you mean power?
  """
  known = {*NAMES, *method.numbers}

  def refuse(field: str, name: str) -> UserError:
    return UserError(f"{key}: its {field} has {name!r}, which is none of its "
                     f"numbers; {nearest(name, known)}")

  for field in ("formula", "added"):
    text = getattr(method, field)
    try:
      text.format(**dict.fromkeys(known, 1.0))
    except KeyError as error:
      raise refuse(field, str(error.args[0])) from None
    except (AttributeError, IndexError, TypeError, ValueError):
      raise UserError(f"{key}: its {field} {text!r} cannot be filled in; write a "
                      "number as {temperature:g}, a brace as {{") from None
  for field in ("weights", "within", "whole"):
    for name in getattr(method, field):
      if name not in known:
        raise refuse(field, name)
  for field in ("init", "terms"):
    if not callable(function := getattr(method, field)):
      raise UserError(
          f"{key}: its {field} is {_kind(function)}, must be a function")
  asked = functools.partial(_asked, key, file)
  more: dict[str, Any] = {field: asked(getattr(method, field)) for field in (
      "pairs", "inference", "gradients", "embed")
                          if getattr(method, field) is not None}
  return method._replace(
      init=_init(asked(method.init), key), **more,
      terms=_terms(asked(method.terms), key, relations=method.relations))


def _asked(key: str, file: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """The function; what it raises is in a line, with its place in the file."""
  @functools.wraps(function)
  def asked(*arguments: Any, **more: Any) -> Any:
    try:
      return function(*arguments, **more)
    except (UserError, TooFew):
      raise
    except Exception as error:  # Whatever a user's function raises.
      raise Raised(key, in_words(error, file)) from error

  return asked


def _init(init: Callable[..., Any], key: str) -> Callable[..., Any]:
  """`init` that gives parameters and a state, and nothing else."""
  def made(*arguments: Any, **more: Any) -> Any:
    found = init(*arguments, **more)
    if not (isinstance(found, tuple) and len(found) == 2):
      raise Raised(key, f"its init gives a {type(found).__name__}, must give "
                   f"(params, state), {{}} for what it has not{_place(init)}")
    return found

  return made


def _terms(
    terms: Callable[..., Any], key: str, *, relations: bool
) -> "Callable[..., Changed]":
  """`terms` that gives Terms of the right shapes, and a state as before."""
  def made(own, student, teacher, batch, hparams):
    from kd_jax.methods.terms import and_state  # pylint: disable=g-import-not-at-top
    found = and_state(terms(own, student, teacher, batch, hparams), own)
    wrong = (_of_terms(found.terms, len(student.logits), relations)
             or _of_state(found.state, own.state))
    if wrong:
      raise Raised(key, wrong + _place(terms))
    return found

  return made


def _of_terms(found: Any, number: int, relations: bool) -> str:
  """What is wrong with the terms of so many examples, or ""."""
  from kd_jax.methods.terms import Term  # pylint: disable=g-import-not-at-top
  give = 'give {"soft": Term(weight, value)}'
  if not isinstance(found, Mapping) or not found:
    return f"its terms are {_kind(found)}, must be a dict of Terms; {give}"
  for name, term in found.items():
    if not isinstance(name, str) or not isinstance(term, Term):
      return f"its term {name!r} is {_kind(term)}, must be a Term; {give}"
    shape = _shape(term.value)
    if shape == () and not relations:
      return (f"the value of its term {name} is one number; give one for each "
              f"example, [{number}], without the mean over the batch, which is "
              "taken here without padding (a Method of relations between examples "
              "may give one, with relations=True)")
    if shape not in ((), (number,)):
      return (f"the value of its term {name} is {_kind(term.value)}; give one "
              f"number for each example, [{number}]")
    dtype = str(getattr(term.value, "dtype", "float32"))
    if dtype == "float16":
      return (f"the value of its term {name} is of float16, which ends at 65504; "
              "compute it in float32, as the logits are")
    if dtype not in ("float32", "float64", "bfloat16"):
      return (f"the value of its term {name} is of {dtype}, which has no gradient; "
              "give floats, made of logits without argmax, rounding or comparing")
    if _shape(term.weight) != ():
      return (f"the weight of its term {name} is {_kind(term.weight)}, must be one "
              "number; multiply the value by it")
  return ""


def _of_state(after: Any, before: Any) -> str:
  """What is wrong with a state after a step, or ""."""
  import jax  # pylint: disable=g-import-not-at-top
  kinds = lambda tree: jax.tree.map(
      lambda x: (_shape(x), str(getattr(x, "dtype", ""))), tree)
  if kinds(after) == kinds(before):
    return ""
  return (f"its state after a step is {kinds(after)}, must have the shapes and "
          f"types of its init, {kinds(before)}")


def _shape(value: Any) -> tuple[int, ...] | None:
  """Of an array or a number; None of what is neither."""
  return () if isinstance(value, int | float) else getattr(value, "shape", None)


def _kind(value: Any) -> str:
  shape = getattr(value, "shape", None)
  return f"a {type(value).__name__}" if shape is None else (
      f"an array {list(shape)}")


def _place(function: Callable[..., Any]) -> str:
  """Where a function begins, as far as it says."""
  code = getattr(inspect.unwrap(function), "__code__", None)
  return f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
