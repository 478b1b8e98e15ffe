"""What every figure must be: its text whole, plain, and not one upon another."""

from typing import Any


def _shown(axis: Any) -> list[Any]:
  """The labels of the ticks that an axis shows."""
  low, high = sorted(axis.get_view_interval())
  return [tick.label1 for tick in axis.get_major_ticks()
          if low <= tick.get_loc() <= high and tick.label1.get_visible()
          and tick.label1.get_text().strip()]


def faults(drawn: Any) -> list[str]:
  """What is wrong with a figure that was drawn, in words.

  Labels of matplotlib's log axes are formulas, which these pictures do not read:
  they would stand there as text.
  """
  from matplotlib.text import Text  # pylint: disable=g-import-not-at-top
  found = [f"a formula: {text.get_text()}" for text in drawn.findobj(Text)
           if "$\\math" in text.get_text()]
  shown = [axes for axes in drawn.axes if axes.axison]
  texts = [text for axes in shown for axis in (axes.xaxis, axes.yaxis)
           for text in _shown(axis)] + [
      text for axes in shown for text in (
          axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label,
          *axes.texts)]
  for part in (drawn, *drawn.subfigs):
    texts += [text for legend in part.legends for text in (
        *legend.get_texts(), legend.get_title())]
  width, height = drawn.bbox.x1, drawn.bbox.y1
  for text in texts:
    box = text.get_window_extent()
    if text.get_text().strip() and text.get_visible() and not (
        box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1):
      found.append(f"cut: {text.get_text()}")
  for axes in shown:
    for axis, way in ((axes.xaxis, 0), (axes.yaxis, 1)):
      spans = sorted((box.min[way], box.max[way], label.get_text())
                     for label in _shown(axis)
                     for box in [label.get_window_extent()])
      found += [f"upon another: {a[2]} and {b[2]}"
                for a, b in zip(spans, spans[1:]) if b[0] < a[1] - 1]
  return found
