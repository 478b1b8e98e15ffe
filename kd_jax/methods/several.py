"""Several methods as one, `kd+hint`, and the taps that each of them compares."""

from collections.abc import Mapping
import functools
from typing import Any

from kd_jax.methods.method import AT_T, Method, sizes
from kd_jax.methods.pairs import ALL, Pairs, Shapes, every_stage


def bind(
    method: Method, student: Shapes, teacher: Shapes, given: Pairs
) -> tuple[Method, Pairs]:
  """The method for two nets, and the taps that it compares.

  Args:
    method: Of `find`.
    student: Shapes of the student's taps, of one example, by name.
    teacher: The same of the teacher.
    given: The pairs that the config names, `ALL` for every stage that both have,
      none for the method's own choice.

  Raises:
    ValueError: If a net has no such tap.
  """
  own: dict[str, Pairs] = {}
  for name, part in (method.members or {"": method}).items():
    chosen = every_stage if given == ALL else part.pairs
    own[name] = () if part.pairs is None or chosen is None else (
        chosen(student, teacher) if given in ((), ALL) else given)
    if part.pairs is not None and not own[name]:
      raise ValueError("the nets have no stage of the same name")
  pairs = tuple(dict.fromkeys(pair for some in own.values() for pair in some))
  for pair in pairs:
    for taps, tap, net in ((student, pair[0], "student"),
                           (teacher, pair[1], "teacher")):
      if tap not in taps:
        raise ValueError(
            f"the {net} has no tap {tap!r}; it has {', '.join(taps) or 'none'}")
  if method.members:
    method = together(method.members, own)
  return method, pairs


def together(
    members: Mapping[str, Method], pairs: Mapping[str, Pairs] | None = None
) -> Method:
  """One method of several; `pairs` says which taps each of them compares."""
  first = next(iter(members.values()))
  at_t = AT_T if first.formula.endswith(AT_T) else ""
  named = {name: _prefixed(method.added, name, method.numbers)
           for name, method in list(members.items())[1:]}
  head = _prefixed(first.formula, next(iter(members)), first.numbers)
  many = lambda field: {
      f"{name}_{number}": value for name, method in members.items()
      for number, value in getattr(method, field).items()}
  return Method(
      formula=" + ".join([head.removesuffix(AT_T), *named.values()]) + at_t,
      init=functools.partial(_init, members, pairs or {}),
      terms=functools.partial(_terms, members, pairs or {}),
      pairs=next((m.pairs for m in members.values() if m.pairs), None),
      softens=first.softens,
      needs_teacher=any(m.needs_teacher for m in members.values()),
      reads_labels=any(m.reads_labels for m in members.values()),
      numbers=many("numbers"), within=many("within"),
      whole=tuple(f"{name}_{number}" for name, m in members.items()
                  for number in m.whole),
      relations=any(m.relations for m in members.values()),
      memory=any(m.memory for m in members.values()),
      classes=any(m.classes for m in members.values()),
      heads=any(m.heads for m in members.values()),
      setting=first.setting, weights=_weights(members),
      any_temperature=any(m.any_temperature for m in members.values()),
      inference=next((functools.partial(_inference, m.inference, name, pairs or {})
                      for name, m in members.items() if m.inference), None),
      paper="; ".join(m.paper for m in members.values() if m.paper),
      members=members)


def staying(method: Method, tree: Any) -> Any:
  """Of parameters or state of a method's own what is in the finished net."""
  return tree if method.members is None else {
      name: tree[name] for name, m in method.members.items() if m.inference}


def _weights(members: Mapping[str, Method]) -> tuple[str, ...]:
  """The weights of all terms; () where one's are not known."""
  if not all(method.weights for method in members.values()):
    return ()
  return tuple(dict.fromkeys(
      f"{name}_{weight}" if weight in method.numbers else weight
      for name, method in members.items() for weight in method.weights))


def _prefixed(formula: str, name: str, numbers: Mapping[str, float]) -> str:
  """A formula whose own numbers are called after their method too."""
  for number in numbers:
    formula = formula.replace("{" + number, "{" + f"{name}_{number}")
  return formula


def _inference(inference, name: str, pairs, own, outputs):
  """As of the member that is called so."""
  taps = list(map("-".join, pairs[name]))
  return inference(
      own._replace(params=own.params[name], state=own.state[name]),
      outputs._replace(features={tap: outputs.features[tap] for tap in taps}))


def _init(
    members, pairs, key, student: Shapes, teacher: Shapes, examples: int = 0,
    classes: int = 0):
  import jax  # pylint: disable=g-import-not-at-top
  only = lambda taps, name: {
      tap: taps[tap] for tap in map("-".join, pairs.get(name, ()))}
  made = {name: method.init(jax.random.fold_in(key, place), only(student, name),
                            only(teacher, name),
                            **sizes(method, examples, classes))
          for place, (name, method) in enumerate(members.items())}
  return ({name: params for name, (params, _) in made.items()},
          {name: state for name, (_, state) in made.items()})


def _terms(members, pairs, own, student, teacher, batch, hparams):
  """The terms of all, but with one term of the labels."""
  from kd_jax.methods import terms  # pylint: disable=g-import-not-at-top
  found: dict[str, Any] = {}
  states = {}
  for name, method in members.items():
    names = list(map("-".join, pairs.get(name, ())))
    only = lambda outputs, names=names: outputs and outputs._replace(
        features={tap: outputs.features[tap] for tap in names})
    part = own._replace(params=own.params[name], state=own.state[name])
    numbers = {number: hparams.numbers[f"{name}_{number}"]
               for number in method.numbers}
    result = terms.and_state(method.terms(
        part, only(student), only(teacher), batch,
        hparams.replace(numbers=numbers)), part)
    states[name] = result.state
    found |= {term: value for term, value in result.terms.items()
              if not (found and term == "hard")}
  return terms.Changed(found, states)
