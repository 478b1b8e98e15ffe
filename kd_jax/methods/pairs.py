"""Which taps of two nets a method compares, by their names and shapes."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
# Names of taps, of the student and of the teacher.
Pairs = tuple[tuple[str, str], ...]
# Stands for every stage that both nets have.
ALL: Pairs = (("all", "all"),)


class OfSeveral(dict[str, tuple[int, ...]]):
  """Shapes of the taps of several teachers, each called `NAME.tap`.

  Attributes:
    names: Those of the teachers, in order; a name has no dot.
  """

  def __init__(self, taps: Shapes, names: Sequence[str]):
    super().__init__(taps)
    self.names = tuple(names)

  def of(self, name: str) -> Shapes:
    """Those of one teacher, as it calls them itself."""
    return {tap: shape for whole, shape in self.items()
            for teacher, tap in [parted(whole)] if teacher == name}


def parted(tap: str) -> tuple[str, str]:
  """The teacher and the tap of `NAME.tap`.

  Example:
    >>> parted("wide.stage1.preact")
    ('wide', 'stage1.preact')
  """
  name, _, tap = tap.partition(".")
  return name, tap


def joined(names: Sequence[str], taps: Sequence[Shapes]) -> Shapes:
  """The taps of nets that are one teacher: a single net's own, or `NAME.tap`.

  Args:
    names: Of the nets.
    taps: Shapes of their taps, of one example.

  Example:
    >>> joined(["wide", "deep"], [{"pooled": (4,)}, {"pooled": (8,)}])
    {'wide.pooled': (4,), 'deep.pooled': (8,)}
  """
  if len(names) == 1:
    return taps[0]
  return OfSeveral({f"{name}.{tap}": shape for name, of in zip(
      names, taps, strict=True) for tap, shape in of.items()}, names)


def of_pairs(
    taps: Mapping[str, Any], pairs: Pairs, of: int
) -> collections.OrderedDict[str, Any]:
  """The taps of pairs under the pairs' names, alike for both nets.

  Example:
    >>> dict(of_pairs({"stage1": 1, "pooled": 2}, (("pooled", "stage3"),), 0))
    {'pooled-stage3': 2}
  """
  # jax sorts the keys of a dict, and some methods go from each tap to the next.
  return collections.OrderedDict(
      ("-".join(pair), taps[pair[of]]) for pair in pairs)


class TooFew(ValueError):
  """Pairs that fit, but are not as many as a method needs."""


def stages(taps: Shapes) -> list[str]:
  """The taps of a net's stages, from its input to its output.

  Other forms of a stage, such as `stage1.preact`, are not among them.

  Example:
    >>> stages({"pooled": (4,), "stage10": (4,), "stage2": (8,), "stem": (8,)})
    ['stage2', 'stage10']
  """
  # By number: dicts of arrays come out of jax in the order of the alphabet.
  return sorted((tap for tap in taps
                 if tap not in ("stem", "pooled") and "." not in tap), key=_number)


def _number(tap: str) -> int:
  return int("".join(filter(str.isdigit, tap)) or 0)


def in_order(pairs: Iterable[str]) -> list[str]:
  """Names of pairs by the student's stage, `pooled` last.

  Example:
    >>> in_order(["pooled-pooled", "stage10-stage3", "stage2.preact-stage1"])
    ['stage2.preact-stage1', 'stage10-stage3', 'pooled-pooled']
  """
  own = lambda pair: pair.split("-")[0]
  return sorted(pairs, key=lambda pair: (own(pair) == "pooled", _number(own(pair))))


def middle(student: Shapes, teacher: Shapes) -> Pairs:
  """The middle stage of both nets, as in FitNets."""
  own, other = _stages("student", student), _stages("teacher", teacher)
  return ((own[len(own) // 2], other[len(other) // 2]),)


def every_stage(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage that both nets have."""
  return tuple((tap, tap) for tap in stages(student) if tap in stages(teacher))


def last_stage(student: Shapes, teacher: Shapes) -> Pairs:
  """The last stage of both nets."""
  return ((_stages("student", student)[-1], _stages("teacher", teacher)[-1]),)


def every_map(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage that both nets have and whose tap has a height and a width."""
  maps = tuple((left, right) for left, right in every_stage(student, teacher)
               if len(student[left]) == len(teacher[right]) == 3)
  if not maps:
    raise ValueError("it compares maps of stages, and the nets have none of the "
                     "same name")
  return maps


def every_flow(student: Shapes, teacher: Shapes) -> Pairs:
  """The stem and every map, from the input to the output."""
  stem = (("stem", "stem"),) if "stem" in student and "stem" in teacher else ()
  return stem + every_map(student, teacher)


def last_map(student: Shapes, teacher: Shapes) -> Pairs:
  """The last stage whose tap has a height and a width, of both nets."""
  return ((_maps("student", student)[-1], _maps("teacher", teacher)[-1]),)


def every_preact(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage that both nets have, before its ReLU where a net has that tap."""
  before = lambda tap, taps: f"{tap}.preact" if f"{tap}.preact" in taps else tap
  return tuple((before(left, student), before(right, teacher))
               for left, right in every_stage(student, teacher))


def pooled(student: Shapes, teacher: Shapes) -> Pairs:
  """The last vector before the logits of both nets."""
  del student, teacher
  return (("pooled", "pooled"),)


def levels(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage from the last one, of the teacher before its ReLU; and `pooled`.
  """
  return tuple((own, _before_relu(teacher, other)) for own, other in _from_last(
      student, teacher)) + pooled(student, teacher)


def before_relu(student: Shapes, teacher: Shapes) -> Pairs:
  """Every stage before its ReLU, from the last one."""
  return tuple((_before_relu(student, own), _before_relu(teacher, other))
               for own, other in _from_last(student, teacher))


def pooled_maps(student: Shapes, teacher: Shapes) -> Pairs:
  """The maps whose means are `pooled`, where they can be had before their ReLU.
  """
  found = []
  for net, taps in (("student", student), ("teacher", teacher)):
    last, vector = _maps(net, taps)[-1], taps.get("pooled", ())
    if taps[last][-1:] != vector:
      raise ValueError(
          f"the {net}'s last map has shape {taps[last]}, its `pooled` {vector}: "
          "the vector is not the mean of the map")
    found.append(_before_relu(taps, last))
  return ((found[0], found[1]),)


def _from_last(student: Shapes, teacher: Shapes) -> Pairs:
  """Stages of both nets that are equally far from the last."""
  own, other = _maps("student", student), _maps("teacher", teacher)
  number = min(len(own), len(other))
  return tuple(zip(own[-number:], other[-number:]))


def _stages(net: str, taps: Shapes, *, maps: bool = False) -> list[str]:
  """The stages of a net, or those that are maps; one at least."""
  found = [tap for tap in stages(taps) if len(taps[tap]) == 3 or not maps]
  if not found:
    raise ValueError(
        f"it compares {'maps' if maps else 'stages'} of both nets, and the {net} "
        f"has none; its taps are {', '.join(taps) or 'none'}")
  return found


def _maps(net: str, taps: Shapes) -> list[str]:
  return _stages(net, taps, maps=True)


def _before_relu(taps: Shapes, tap: str) -> str:
  return f"{tap}.preact" if f"{tap}.preact" in taps else tap
