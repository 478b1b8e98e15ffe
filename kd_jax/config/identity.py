"""Identity: what determines a result, made of what `schema.py` says of each key.

A fingerprint is the SHA-256 of an identity, a dict of plain values, together with
`kd_jax.NUMERICS`. Whoever has the same fingerprint has the same result, up to the
rounding of another machine or of other lanes beside it. A key that came after rows
had been recorded is part of an identity only where it is not at its default, so a
new key changes no fingerprint.
"""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any

import kd_jax
from kd_jax import methods
from kd_jax.config import schema

Values = Mapping[str, Any]
Identity = dict[str, Any]

# Keys of these kinds have no influence on what comes out.
_WITHOUT_INFLUENCE = (schema.RUN, schema.PROGRAM, schema.INPUT)
# What is left out of the command of a row: it tells how the sweep was run.
_NOT_IN_COMMANDS = (
    "sweep.", "tensorboard", "tracker", "teacher.dir", "checkpoint.")


def fingerprint(identity: Values) -> str:
  """SHA-256 of plain values together with `kd_jax.NUMERICS`.

  Example:
    >>> fingerprint({"a": 1}) == fingerprint({"a": 1.5})
    False
  """
  text = json.dumps(
      {**identity, "numerics": kd_jax.NUMERICS}, sort_keys=True, default=list)
  return hashlib.sha256(text.encode()).hexdigest()


def data(values: Values, content: str) -> Identity:
  """What determines the examples that a net is trained on.

  Args:
    values: The config, flat.
    content: The hash of the data set.
  """
  later = {"data.test": "heldout"} if values["data.test"] == "heldout" else {}
  return {"data": content, "data.holdout": values["data.holdout"],
          "data.scale": values["data.scale"], **later}


def student(
    values: Values, *, content: str, source: Values, method: str,
    weights: Sequence[Any], mixture: Values | None = None,
) -> Identity:
  """What determines a student.

  Args:
    values: The config, flat.
    content: The hash of the data set.
    source: Of a user's own model: the hash of its file, by name.
    method: The method, or "hard" for labels alone.
    weights: hard_weight and soft_weight.
    mixture: Of `mixture`, where the method needs a teacher.
  """
  objective = method != "hard"
  kinds = (schema.STUDENT, schema.NETS) + ((schema.OBJECTIVE,) if objective else ())
  # Of a user's own method the name: what its file holds is in `source`.
  identity = {"lane": "+".join(methods.parts(method)),
              **_of(values, kinds, method), **source}
  if objective:
    # alpha is one way to say the weights; they are what counts.
    for key in ("alpha", "hard_weight", "soft_weight"):
      del identity[key]
    identity["weights"] = [float(weight) for weight in weights]
  return identity | dict(mixture or {}) | data(values, content)


def by_place(values: Values, teachers: Sequence[str]) -> dict[str, Any]:
  """A student's config with the places of its teachers in its pairs of taps.

  Their names make no other student, but which of them has a tap does.

  Example:
    >>> by_place({"features.pairs": (("stage1", "wide.stage2"),)},
    ...          ["deep", "wide"])
    {'features.pairs': (('stage1', '1.stage2'),)}
  """
  pairs = values["features.pairs"]
  if len(teachers) < 2 or pairs in ((), ("all",)):
    return dict(values)
  places = {name: str(place) for place, name in enumerate(teachers)}

  def placed(tap: str) -> str:
    name, dot, rest = tap.partition(".")
    return places.get(name, name) + dot + rest

  return {**values, "features.pairs": tuple(
      (own, placed(other)) for own, other in pairs)}


def mixture(
    values: Values, members: Sequence[str], weights: Sequence[float]
) -> Identity:
  """What determines a teacher as a student sees it.

  Args:
    values: The config, flat.
    members: The hash of the parameters, or the logits, of each member.
    weights: The weight of each member.
  """
  dtype, classes = values["teacher.bank_dtype"], values["teacher.classes"]
  return {"teacher.mean": values["teacher.mean"], "teachers": list(members),
          "member_weights": list(weights),
          **({"teacher.classes": classes} if classes else {}),
          **({} if dtype == "float32" else {"teacher.bank_dtype": dtype})}


def member(
    values: Values, *, content: str, source: Values, seed: int
) -> Identity:
  """What determines a member of the teacher, whose seed is its own."""
  identity = _of(values, (schema.TEACHER, schema.NETS))
  del identity["teacher.seed"]
  return {**identity, **source, **data(values, content),
          "seed": seed, "net": "teacher"}


def program(values: Values) -> str:
  """What a program is compiled for, as text: lanes of equal texts share one.

  It is the same on every machine: where files lie is left out, as what they hold
  is in the identity of the lanes.
  """
  known = schema.every()
  return _static({key: None if known[key].affects == schema.INPUT else value
                  for key, value in values.items()})


def group(values: Values) -> str:
  """`program`, with where files lie: what makes a group of a sweep."""
  return _static(values)


def comparable(values: Values) -> dict[str, Any]:
  """The keys in which the parts of one sweep must agree."""
  known = schema.every()
  return {key: value for key, value in values.items()
          if key != "data.embedded" and (
              key not in known or known[key].affects not in _WITHOUT_INFLUENCE)}


def as_json(values: Values) -> dict[str, Any]:
  """The keys that a result depends on, as JSON; earlier versions lack some."""
  default = {name: key.default for name, key in schema.every().items()}
  return json.loads(json.dumps(comparable({**default, **values}), default=list))


def in_command(values: Values) -> dict[str, Any]:
  """The keys that the command of a row gives, where they are not the file's."""
  own = (None, *methods.parts(values["method"]))
  return {key: value for key, value in values.items()
          if not key.startswith(_NOT_IN_COMMANDS) and schema.owner(key) in own}


def unlike_default(values: Values, prefix: str) -> dict[str, Any]:
  """Keys below a prefix that are not at their defaults, without the prefix."""
  known = schema.every()
  return {key.removeprefix(prefix): value for key, value in values.items()
          if key.startswith(prefix) and key != "teacher.dir"
          and value != known[key].default}


def _of(
    values: Values, kinds: Sequence[str], method: str | None = None
) -> Identity:
  """The keys of some kinds, of a student's method its own numbers alone."""
  return {name: _without_place(values[name])
          for name, key in _counted(values, method or "").items()
          if key.affects in kinds}


def _counted(values: Values, method: str) -> dict[str, schema.Key]:
  """Keys but for later ones at their defaults, and numbers of other methods."""
  return {name: key for name, key in schema.every().items()
          if schema.owner(name) in (None, *methods.parts(method))
          and not (key.later and values[name] == key.default)}


def _without_place(value: Any) -> Any:
  """`file.py:NAME` without where the file lies: what it holds is in `source`."""
  if isinstance(value, str) and ".py:" in value:
    return "+".join(methods.parts(value))
  return value


def _static(values: Values) -> str:
  counted = _counted(values, values["method"])
  static = {name: values[name] for name, key in counted.items()
            if not key.traced and key.affects != schema.RUN}
  # Traced where they are in use; that they are is a matter of structure.
  if "student.init_scale" in counted:
    static["init_scale"] = True
  for name in ("optimizer.clip_norm", "optimizer.ema", "optimizer.momentum_end"):
    if name in counted:
      static[name] = True
  static["dropout"] = bool(
      values["student.input_dropout"] or values["student.hidden_dropout"])
  static["max_norm"] = values["student.max_norm"] is not None
  return json.dumps(static, sort_keys=True)
