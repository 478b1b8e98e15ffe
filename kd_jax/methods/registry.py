"""The methods by name: which named terms a student's loss is the weighted sum of.

A new method is an equation, a function in a file of terms (or of one's own) that
binds it to the numbers of a run, and an entry in `ON_LOGITS`, `ON_FEATURES` or
`SELF_SUPERVISED`. Its own numbers are keys of the config at once,
`config.METHOD.NAME`. Nothing in the step, the loop or the trainer knows a method by
name.
"""

from collections.abc import Mapping
from typing import Any

from kd_jax.core import calls, sources
from kd_jax.core.errors import UserError
from kd_jax.methods.method import Method
from kd_jax.methods.on_features import ON_FEATURES, SELF_SUPERVISED
from kd_jax.methods.on_logits import ON_LOGITS
from kd_jax.methods.own import checked, of_loss
from kd_jax.methods.several import together

METHODS: dict[str, Method] = {**ON_LOGITS, **ON_FEATURES, **SELF_SUPERVISED}


def parts(name: str) -> list[str]:
  """The methods that a name is made of, a user's own without its file.

  Example:
    >>> parts("kd+rkd"), parts("my/file.py:MINE")
    (['kd', 'rkd'], ['MINE'])
  """
  return [part.rpartition(":")[2] for part in name.split("+")]


def labels_alone(settings: Mapping[str, Any]) -> bool:
  """Whether a loss is that of the labels, whatever teacher stands beside it.

  hard_weight * hard + soft_weight * soft   with weights 1 and 0, or 1 - alpha and
  alpha; a schedule may raise alpha later.

  Args:
    settings: Of a config, or what a row sets of it: "method" and its weights.

  Example:
    >>> labels_alone({"method": "kd", "alpha": 0.0})
    True
    >>> labels_alone({"method": "kd+rkd", "alpha": 0.0})
    False
  """
  name, alpha = str(settings.get("method")), settings.get("alpha")
  if name == "hard":
    return True
  own = METHODS.get(parts(name)[0])
  if "+" in name or own is None or own.weights != ("hard_weight", "soft_weight"):
    return False
  weights = (1 - alpha, alpha) if alpha is not None else (
      settings.get("hard_weight"), settings.get("soft_weight"))
  return weights == (1, 0) and (
      settings.get("schedules.alpha", "constant") == "constant")


def add_own(*names: str) -> None:
  """Adds the user's own methods that are parts of names."""
  for part in "+".join(names).split("+"):
    if sources.named(part):
      add(part)


def add(name: str) -> None:
  """Adds a user's own method to `METHODS`, so that its numbers are keys.

  Args:
    name: `module:NAME` or `file.py:NAME` of a `Method`, or of a loss as of
      `calls.of_logits`; it is called NAME.

  Raises:
    UserError: If there is no such method, another is called NAME, or its fields
      do not agree. So do its functions, of what is wrong with them.
  """
  own, (called,) = sources.load("config.method", name), parts(name)
  place, key = name.rpartition(":")[0], f"config.method={name}"
  if not isinstance(own, Method) and (
      not callable(own) or isinstance(own, type)):
    raise UserError(
        f"{key}: is a {type(own).__name__}, and must be a kd_jax.methods.Method, "
        f"or a function ({', '.join(calls.ARGUMENTS)}) that gives one loss for "
        "each example, [B]")
  before = _ADDED.get(called, ("", None))
  if called in METHODS and before[0] != place:
    raise UserError(f"{key}: there is another method {called}; give yours another "
                    "name")
  # Its file may have been edited. One that was not stays the same object, as
  # programs are kept by it.
  if before[1] is not own or called not in METHODS:
    METHODS[called] = checked(
        own if isinstance(own, Method) else of_loss(own, key=key, name=called),
        key=key, file=sources.file(name))
  _ADDED[called] = place, own


# Where the user's own methods lie, and what lies there, by name.
_ADDED: dict[str, tuple[str, Any]] = {}


def find(name: str) -> Method:
  """The method of a name, or of several joined by +.

  Of several, the first brings the labels, `soft_weight` and the temperature. Each
  further one adds its terms, at its own weight.

  Raises:
    KeyError: With the part that is no method, or that cannot stand beside another.

  Example:
    >>> find("kd+rkd").named()
    'h * CE + s * T**2 * KL + rkd.weight * (rkd.distance * D + rkd.angle * A)'
  """
  first, *others = parts(name)
  for part in (first, *others):
    if part not in METHODS:
      raise KeyError(part)
  for part in others:
    if not METHODS[part].added or parts(name).count(part) > 1:
      raise KeyError(part)
  if not others:
    return METHODS[first]
  staying = [part for part in (first, *others) if METHODS[part].inference]
  for part in (first, *others):
    own = METHODS[part]
    if own.gradients or own.embed or part in staying[1:]:
      raise KeyError(part)  # It says what becomes of the whole loss or net.
  return together({part: METHODS[part] for part in (first, *others)})
