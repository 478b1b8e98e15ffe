"""Several methods as one, `kd+hint`, and the taps that each of them compares.

With several teachers, a method that compares taps is as many: one for each teacher
(`from_each`).
"""

import collections
from collections.abc import Mapping, Sequence
import functools
from typing import Any

from kd_jax.core.errors import nearest
from kd_jax.methods.method import AT_T, Method, sizes
from kd_jax.methods.pairs import (
  ALL,
  OfSeveral,
  Pairs,
  Shapes,
  every_stage,
  parted,
)


def bind(
    method: Method, student: Shapes, teacher: Shapes, given: Pairs
) -> tuple[Method, Pairs]:
  """The method for two nets, and the taps that it compares.

  Args:
    method: Of `find`.
    student: Shapes of the student's taps, of one example, by name.
    teacher: The same of the teacher; of several as of `joined`.
    given: The pairs that the config names, `ALL` for every stage that both have,
      none for the method's own choice, of several teachers with each of them.

  Raises:
    ValueError: If a net has no such tap.
  """
  own: dict[str, Pairs] = {}
  members = dict(method.members or {"": method})
  for name, part in members.items():
    own[name] = _chosen(part, student, teacher, given)
    if own[name] and isinstance(teacher, OfSeveral):
      members[name] = from_each(part, own[name], teacher.names)
  pairs = tuple(dict.fromkeys(pair for some in own.values() for pair in some))
  for pair in pairs:
    for taps, tap, net in ((student, pair[0], "student"),
                           (teacher, pair[1], "teacher")):
      if tap not in taps and isinstance(taps, OfSeveral):
        raise ValueError(
            f"the teachers have no tap {tap!r} ({nearest(tap, taps)}); of several "
            "a tap is called NAME.tap")
      if tap not in taps:
        raise ValueError(
            f"the {net} has no tap {tap!r}; it has {', '.join(taps) or 'none'}")
  return together(members, own) if method.members else members[""], pairs


def _chosen(
    method: Method, student: Shapes, teacher: Shapes, given: Pairs
) -> Pairs:
  """The taps that one method compares; none of a method on logits."""
  if method.pairs is None or given not in ((), ALL):
    return () if method.pairs is None else given
  if isinstance(teacher, OfSeveral):
    return tuple(
        (own, f"{name}.{other}") for name in teacher.names
        for own, other in _chosen(method, student, teacher.of(name), given))
  found = (every_stage if given == ALL else method.pairs)(student, teacher)
  if not found:
    raise ValueError("the nets have no stage of the same name")
  return found


def from_each(method: Method, pairs: Pairs, teachers: Sequence[str]) -> Method:
  """A method with several teachers: the sum of its terms with each of them alone.

    L = hard + sum over teachers k of sum over terms i of w_i * L_i(f, g_k)

  So each teacher has modules and a state of its own, what a method makes of
  neighbouring pairs it makes within a teacher, and no teacher is weighed by
  `teacher.weights`, which are of their logits. A term is called `NAME_TERM`, by
  the teacher, but for that of the labels, which there is once.

  Args:
    method: A method that compares taps; without `heads`, `inference` and
      `gradients`, which are of one teacher.
    pairs: What it compares, the teacher's tap as `NAME.tap`.
    teachers: The names, in order.

  Returns:
    The method. Its parameters are by the place of a teacher, as another name makes
    no other net.
  """
  parts = {
      place: (name, {"-".join(pair): f"{pair[0]}-{parted(pair[1])[1]}"
                     for pair in pairs if parted(pair[1])[0] == name})
      for place, name in enumerate(teachers)}
  parts = {place: part for place, part in parts.items() if part[1]}
  number = f" (each of {len(parts)} teachers)"
  at_t = AT_T if method.formula.endswith(AT_T) else ""
  return method._replace(
      formula=method.formula.removesuffix(AT_T) + number + at_t,
      added=method.added and method.added + number,
      init=functools.partial(_init_each, method, parts),
      terms=functools.partial(_terms_each, method, parts))


# Of each teacher, by its place: its name, and of its pairs the names that they have
# among those of all teachers, and without it.
_Parts = Mapping[int, tuple[str, Mapping[str, str]]]


def _alone(taps: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
  """The taps of the pairs of one teacher, as if it were the only one."""
  return collections.OrderedDict(
      (alone, taps[name]) for name, alone in names.items())


def _init_each(method: Method, parts: _Parts, key, student, teacher, **more):
  import jax  # pylint: disable=g-import-not-at-top
  made = {f"teacher_{place}": method.init(
      jax.random.fold_in(key, place), _alone(student, names),
      _alone(teacher, names), **more) for place, (_, names) in parts.items()}
  return ({at: params for at, (params, _) in made.items()},
          {at: state for at, (_, state) in made.items()})


def _terms_each(method, parts: _Parts, own, student, teacher, batch, hparams):
  """The terms with each teacher, and one term of the labels."""
  from kd_jax.methods import terms  # pylint: disable=g-import-not-at-top
  found: dict[str, Any] = {}
  states = {}
  for place, (name, names) in parts.items():
    at = f"teacher_{place}"
    part = own._replace(params=own.params[at], state=own.state[at])
    result = terms.and_state(method.terms(
        part, *(outputs._replace(features=_alone(outputs.features, names))
                for outputs in (student, teacher)), batch, hparams), part)
    states[at] = result.state
    found |= {term if term == "hard" else f"{name}_{term}": value
              for term, value in result.terms.items()
              if not (found and term == "hard")}
  return terms.Changed(found, states)


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
      own_labels=any(m.own_labels for m in members.values()),
      numbers=many("numbers"), within=many("within"),
      whole=tuple(f"{name}_{number}" for name, m in members.items()
                  for number in m.whole),
      relations=any(m.relations for m in members.values()),
      memory=any(m.memory for m in members.values()),
      classes=any(m.classes for m in members.values()),
      heads=any(m.heads for m in members.values()),
      two_views=any(m.two_views for m in members.values()),
      probe=any(m.probe for m in members.values()),
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
