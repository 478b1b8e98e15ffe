"""A figure of matplotlib as SVG within a page: in its colours, with its values.

Text stays text, in the page's font. Known colours become those of the page, which
has others for dark screens; all others, as of a ramp, come nearer to that of text.
"""

import base64
from collections.abc import Mapping, Sequence
import io
import json
import math
import pathlib
import re
from typing import Any
from xml.etree import ElementTree

from kd_jax.report import canvas

# A picture of more is one of pixels in the page: as SVG it would be some 600 kB.
_MOST = 25_000
_AREA = 8.0  # A mark is smaller than a finger.
_A_LINE = 50  # is as much as so many of its points
_COLOURS = {
    "#000000": "text", "#ffffff": "ground", canvas.GREY: "soft", "#b0b0b0": "edge",
    **{colour.lower(): f"c{index}"
       for index, colour in enumerate(canvas.COLOURS[:-1])}}
# On a cell, which has one colour everywhere.
_FIXED = (canvas.ON_LIGHT, canvas.ON_DARK)


def crowded(drawn: Any) -> bool:
  """Whether a figure is pixels in a page too, as SVG would be too long."""
  return sum(_A_LINE + len(line.get_xdata())
             for axes in drawn.axes for line in axes.lines) > _MOST


@canvas.styled
def inline(drawn: Any, file: pathlib.Path, alternative: str) -> str:
  """A figure as an element of a page.

  Args:
    drawn: The figure.
    file: The same figure as PNG: in the page where SVG would be too long. No two
      figures of a page have the same name.
    alternative: What it shows, in words.

  Example:
    >>> drawn, axes = canvas.figure(1, 1, (3, 2))
    >>> inline(drawn, pathlib.Path("empty.png"), "Nothing")[:42]
    '<svg pointer-events="none" viewBox="0 0 21'
  """
  width, height = (f"{72 * size:g}" for size in drawn.get_size_inches())
  if crowded(drawn):
    data = base64.b64encode(file.read_bytes()).decode()
    root = ElementTree.Element("svg")
    ElementTree.SubElement(root, "image", {
        "class": "pixels", "width": width, "height": height,
        "href": f"data:image/png;base64,{data}"})
  else:
    root = _plain(ElementTree.fromstring(_written(drawn)))
    groups = [group for group in root.iter("g")
              if group.get("id", "").startswith(canvas.TELLS)]
    areas = _areas([use for group in groups for use in group.iter("use")])
    for group in groups:
      _told(group, json.loads(group.attrib["id"].removeprefix(canvas.TELLS)), areas)
    _named(root, file.stem)
    for each in root.iter():
      if "style" in each.attrib:
        each.set("style", _styled(each.attrib["style"]))
  # Intervals and lines above a mark do not hide it from the mouse.
  root.attrib = {
      "pointer-events": "none", "viewBox": f"0 0 {width} {height}",
      "role": "img" if root.find(".//title") is None else "group",
      "aria-label": alternative, "style": f"--points: {width}"}
  return ElementTree.tostring(root, encoding="unicode")


def _written(drawn: Any) -> str:
  """What matplotlib writes, alike each time."""
  # pylint: disable-next=g-import-not-at-top
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  # As by `savefig`, which draws a figure once more to lay it out.
  FigureCanvasSVG(drawn).print_svg(out := io.StringIO(), metadata={
      name: None for name in ("Creator", "Date", "Format", "Type")})
  return out.getvalue()


def _plain(root: ElementTree.Element) -> ElementTree.Element:
  """Elements and attributes without namespaces, as HTML knows them."""
  local = lambda name: name.rpartition("}")[2]
  for each in root.iter():
    each.tag = local(each.tag)
    each.attrib = {local(key): value for key, value in each.attrib.items()}
    each.text, each.tail = (each.text or "").strip() or None, None
    for child in [*each]:
      # A style within would be one of the whole page.
      if local(child.tag) in ("metadata", "style"):
        each.remove(child)
  return root


def _areas(
    shapes: Sequence[ElementTree.Element]) -> dict[ElementTree.Element, float]:
  """How far from its middle a mark is met: less than half way to the next one.

  Else the area of a mark would hide the middle of another.
  """
  at = [(float(mark.attrib["x"]), float(mark.attrib["y"])) for mark in shapes]
  next_ = lambda place: min(
      (math.dist(at[place], other) for each, other in enumerate(at)
       if each != place), default=_AREA * 2)
  return {mark: min(_AREA, next_(place) / 2) for place, mark in enumerate(shapes)}


def _told(
    group: ElementTree.Element, texts: Sequence[str],
    areas: Mapping[ElementTree.Element, float]) -> None:
  """Puts every mark of a line, or the line, into a group with a title."""
  used = group.find(".//use/..")
  parent = group if used is None else used
  titles = dict(zip(
      (each for each in parent if each.tag in ("use", "path")), texts))
  for place, mark in enumerate([*parent]):
    if mark not in titles:
      continue
    point = ElementTree.Element("g", {"class": "point", "pointer-events": "auto"})
    ElementTree.SubElement(point, "title").text = titles[mark]
    shape, at = ("path", {"d": mark.attrib["d"]}) if used is None else (
        "circle", {"cx": mark.attrib["x"], "cy": mark.attrib["y"],
                   "r": f"{areas[mark]:.3g}", "style": "stroke-width: 1.5"})
    ElementTree.SubElement(point, shape, at | {"class": "area"})
    mark.set("class", "mark")
    point.append(mark)
    parent[place] = point


def _named(root: ElementTree.Element, name: str) -> None:
  """Makes ids those of this figure, and drops those that nothing refers to."""
  refers = re.compile(r"^(url\()?#(.+?)(\)?)$")
  used = set()
  for each in root.iter():
    for key in ("href", "clip-path"):
      if found := refers.match(each.get(key, "")):
        used.add(found[2])
        each.set(key, f"{found[1] or ''}#{name}-{found[2]}{found[3]}")
  for each in root.iter():
    known = each.attrib.pop("id", None)
    if known in used:
      each.set("id", f"{name}-{known}")


def _styled(style: str) -> str:
  """A style in the colours and the font of the page."""
  def colour(found: re.Match[str]) -> str:
    known = found[0]
    if known in _FIXED:
      return known
    if known in _COLOURS:
      return f"var(--{_COLOURS[known]})"
    return f"color-mix(in srgb, {known} var(--pure), var(--text))"

  style = re.sub(r"font: [^;]*?([\d.]+px)[^;]*", r"font-size: \1", style)
  return re.sub("#[0-9a-f]{6}", colour, style)
