"""Numbers with their intervals, one below another: where no axis orders them."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any, NamedTuple

from kd_jax.report import canvas

_LABEL = 24  # letters of a label beside a dot
_OF_LINE = 0.14  # inches of a line of such a label
# How to read differences.
COMPARED = ("95% interval; filled: p (Holm) < 0.05,\n"
            "blue fewer, orange more; open: not shown")


class Dot(NamedTuple):
  """A number with its interval, on a line of its own in `draw`.

  Attributes:
    label: What it is of.
    value, low, high: It and its interval, if it has one.
    colour, filled: Its look.
    tells: What its mark says in a page.
    beside: Another's number, as a diamond in the second colour.
  """

  label: str
  value: float
  low: float | None
  high: float | None
  colour: str = canvas.COLOURS[0]
  filled: bool = True
  tells: str = ""
  beside: float | None = None


def compared(
    label: str, difference: Any, *, sure: bool, tells: str = "") -> Dot:
  """A difference (`difference, low, high`): in colour and filled if it is sure."""
  value = difference.difference
  return Dot(label, value, difference.low, difference.high,
             canvas.COLOURS[0 if value < 0 else 1] if sure else canvas.GREY, sure,
             tells)


def height(panels: Mapping[str, Sequence[Dot]]) -> float:
  """Inches that `draw` needs."""
  return 0.6 + sum(
      0.3 + canvas.IN_LEGEND * len(_above(title, panels).splitlines())
      + _places(each)[-1] for title, each in panels.items())


def _above(title: str, panels: Mapping[str, Sequence[Dot]]) -> str:
  """A title of dots, as wide as their labels leave room."""
  longest = max(len(line) for each in panels.values() for dot in each
                for line in _beside(dot).splitlines())
  room = canvas.WIDTH - 0.2 - 0.065 * longest
  return canvas.wrapped(title, int(room / 0.082), 6)


def draw(
    part: Any, panels: Mapping[str, Sequence[Dot]], xlabel: str, *,
    zero: bool = False, shared: bool = False) -> list[Any]:
  """Numbers with their intervals, one below another: where no axis orders them.

  Args:
    part: A figure, or a part of one, without axes.
    panels: The numbers by the titles of their panels.
    xlabel: What they are.
    zero: Whether they are differences: a line at 0.
    shared: Whether panels have one axis in common.
  """
  axes = part.subplots(
      len(panels), 1, squeeze=False, sharex=shared,
      height_ratios=[_places(each)[-1] for each in panels.values()])[:, 0]
  for at, (title, each) in zip(axes, panels.items()):
    *places, end = _places(each)
    if zero:
      at.axvline(0, color="black", linewidth=0.8)
    for look in dict.fromkeys((dot.colour, dot.filled) for dot in each):
      _intervals(at, {place: dot for dot, place in zip(each, places)
                      if (dot.colour, dot.filled) == look}, *look)
    marked = [(dot.beside, place) for dot, place in zip(each, places)
              if dot.beside is not None]
    if marked:  # Around a dot that it meets.
      at.plot(*zip(*marked), "D", color=canvas.COLOURS[1], markersize=7,
              markerfacecolor="none", zorder=3)
    at.set_yticks(places, [_beside(dot) for dot in each], fontsize=8)
    at.set_title(_above(title, panels), loc="left")
    at.set_ylim(end, 0)
  axes[-1].set_xlabel(xlabel)
  return [*axes]


def alone(panels: Mapping[str, Sequence[Dot]], xlabel: str, **more: bool) -> Any:
  """A figure of dots alone."""
  drawn, (part,) = canvas.below_each_other([height(panels)])
  draw(part, panels, xlabel, **more)
  return drawn


def _intervals(
    axes: Any, at: Mapping[float, Dot], colour: str, filled: bool) -> None:
  """Dots of one look, by their places."""
  half = lambda end, of: float("nan") if end is None else abs(end - of)
  line = axes.errorbar(
      [dot.value for dot in at.values()], [*at], xerr=[
          [half(dot.low, dot.value) for dot in at.values()],
          [half(dot.high, dot.value) for dot in at.values()]],
      fmt="o", color=colour, capsize=2, markersize=4,
      markerfacecolor=colour if filled else "white")[0]
  canvas.tell(line, [dot.tells for dot in at.values()])


def _beside(dot: Dot) -> str:
  """The label at the left of a dot."""
  return canvas.wrapped(dot.label, _LABEL, 6)


def _places(each: Sequence[Dot]) -> list[float]:
  """Inches from above to each dot, by the lines of their labels; and to the end.
  """
  heights = [_OF_LINE * (_beside(dot).count("\n") + 1) + 0.08 for dot in each]
  ends = [*itertools.accumulate(heights, initial=0.06)]
  return [end - height / 2 for end, height in zip(ends[1:], heights)] + ends[-1:]
