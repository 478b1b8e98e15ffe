"""Figures, alike wherever they are drawn: the door to matplotlib."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import io
import json
import math
import pathlib
import textwrap
from typing import Any, ParamSpec, TypeVar

import numpy as np

from kd_jax.report import names, panels

# Okabe & Ito's palette, told apart by the colour-blind too; without the yellow,
# which is not seen on white. Shapes say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
           "#000000")
GREY = "#595959"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LOOKS = len(COLOURS) * len(MARKERS)
# Of references.
DASHES = ("--", ":", "-.", (0, (8, 3)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
# Text on a cell that has one colour on dark screens too.
ON_LIGHT, ON_DARK = "#080808", "#f8f8f8"
# Inches. On a phone the letters of such a picture are as large as small print.
WIDTH = 4.4
TELLS = "tells "  # The id of a line whose marks say something in a page.
IN_LEGEND = 0.175  # inches a line
_LETTERS = 54  # of small print in a line of this width
_STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False,
          "axes.spines.right": False, "axes.grid": True,
          "axes.axisbelow": True, "grid.linewidth": 0.3,
          "legend.frameon": False, "legend.fontsize": 8, "figure.dpi": 150,
          "savefig.dpi": 150, "text.parse_math": False, "svg.fonttype": "none",
          "svg.hashsalt": "kd_jax"}


P = ParamSpec("P")
Drawn = TypeVar("Drawn")


def styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
  """A function that draws, in the style of these pictures."""
  @functools.wraps(draw)
  def inner(*args: P.args, **kwargs: P.kwargs) -> Drawn:
    import matplotlib  # pylint: disable=g-import-not-at-top
    # Of the user's own settings none may change a byte.
    style: dict[Any, Any] = {**matplotlib.rcParamsDefault, **_STYLE}
    with matplotlib.rc_context(style):
      return draw(*args, **kwargs)
  return inner


def figure(rows: int, columns: int, size: tuple[float, float], **more: Any):
  """A figure and its axes `[rows, columns]`, on white, for no screen."""
  # pylint: disable-next=g-import-not-at-top
  from matplotlib.figure import Figure
  drawn = Figure(figsize=size, layout="constrained", facecolor="white")
  return drawn, drawn.subplots(rows, columns, squeeze=False, **more)


def wrapped(text: str, letters: int = _LETTERS, lines: int = 3) -> str:
  """Text on several lines of so many letters, cut where it is longer than all.

  Example:
    >>> wrapped("widths 30x30, T 8, learning rate 0.001", 20)
    'widths 30x30, T 8,\\nlearning rate 0.001'
  """
  return textwrap.fill(names.brief(text, lines * letters), letters)


def _columns(labels: Sequence[str]) -> int:
  """How many labels go beside each other."""
  longest = max((len(line) for label in labels for line in label.splitlines()),
                default=0)
  return max(1, min(len(labels), (_LETTERS + 16) // (longest + 9)))


def stacked(
    parts: Sequence[tuple[str, Iterable[str], int]], *, height: float,
    width: float = WIDTH,
) -> tuple[Any, list[tuple[Any, Any]]]:
  """A figure of panels below each other, and of each its part and its axes.

  Args:
    parts: Title and labels of each panel, which `legends` puts above its axes, and
      how many axes it has: at most two beside each other, as of more a phone would
      show letters that are too small.
    height: Inches of an axes.
    width: Inches of the figure.
  """
  drawn, found = below_each_other(stacked_heights(parts, height), width=width)
  return drawn, [(part, _two_beside(part, number))
                 for part, (_, _, number) in zip(found, parts)]


def stacked_heights(
    parts: Sequence[tuple[str, Iterable[str], int]], height: float) -> list[float]:
  """Inches of each panel of `stacked`, with its title and labels."""
  heights = []
  for title, labels, number in parts:
    labels, lines = [*labels], len(wrapped(title).splitlines())
    if labels:
      beside = _columns(labels)
      lines += -(-len(labels) // beside) + sum(
          label.count("\n") for label in labels) // beside
    heights.append(height * -(-number // 2) + IN_LEGEND * lines)
  return heights


def _two_beside(part: Any, number: int) -> list[Any]:
  """So many axes, at most two beside each other."""
  axes = part.subplots(-(-number // 2), min(number, 2), squeeze=False).ravel()
  for empty in axes[number:]:
    empty.remove()
  return [*axes[:number]]


def below_each_other(
    heights: Sequence[float], *, width: float = WIDTH) -> tuple[Any, list[Any]]:
  """A figure and its parts, of these heights in inches, each laid out by itself."""
  from matplotlib.figure import Figure  # pylint: disable=g-import-not-at-top
  drawn = Figure(figsize=(width, sum(heights)), layout="constrained",
                 facecolor="white")
  return drawn, [*drawn.subfigures(
      len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]]


def legends(parts: Sequence[tuple[Any, Any]], titles: Iterable[str]) -> None:
  """Titles and labels of `stacked` panels, above their axes to hide no line."""
  for (part, axes), title in zip(parts, titles):
    known: dict[str, Any] = {}
    for at in axes:
      handles, labels = at.get_legend_handles_labels()
      known |= dict(zip(labels, handles))
    if title or known:
      part.legend(
          [*known.values()], [*known], title=wrapped(title), alignment="left",
          loc="outside upper left", ncols=_columns([*known]), title_fontsize=9)


def style(index: int) -> dict[str, str]:
  """Colour and shape of a line: of the first `LOOKS` no two have both in common."""
  return {"color": COLOURS[index % 7],
          "marker": MARKERS[(index + index // 7) % 7]}


def means(axes: Any, points: Mapping[float, Any], index: int, label: str) -> Any:
  """A line of means (`mean, low, high`) with their intervals, by x.

  One that has the colour of another is dashed.
  """
  half = [0.0 if each.high is None else each.high - each.mean
          for each in points.values()]
  return axes.errorbar(
      [*points], [each.mean for each in points.values()], yerr=half, capsize=2,
      markersize=4.5, linewidth=1.2, label=label,
      linestyle=("-", *DASHES)[index // len(COLOURS)], **style(index))


def level(
    axes: Any, summary: Any, *, label: str, colour: str = GREY, dash: int = 0
) -> Any:
  """A mean (`mean, low, high`) as a line and a band: x says nothing to it."""
  if summary.low is not None and summary.high is not None:
    axes.axhspan(summary.low, summary.high, color=colour, alpha=0.15, linewidth=0)
  return axes.axhline(summary.mean, color=colour, linewidth=1.2, label=label,
                      linestyle=DASHES[dash % len(DASHES)])


def tell(line: Any, texts: Sequence[str]) -> None:
  """What the marks of a line say in a page, each its own; or what the line says."""
  line.set_gid(TELLS + json.dumps(texts))


def picture(axes: Any, image: Sequence[Any]) -> None:
  """Draws pixels from 0 to 255, grey ones as `[H, W]` or `[H, W, 1]`."""
  if not isinstance(image[0][0], list):
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
  elif len(image[0][0]) == 1:  # imshow does not take it.
    picture(axes, [[pixel[0] for pixel in line] for line in image])
  else:
    axes.imshow([[[v / 255 for v in pixel] for pixel in line] for line in image])


def cells(
    axes: Any, values: Sequence[Sequence[float]], *, digits: int,
    limits: tuple[float | None, float | None] = (None, None)) -> None:
  """Draws numbers `[rows, columns]` as cells; larger is darker, NaN is empty."""
  image = axes.imshow(values, cmap="cividis_r", vmin=limits[0], vmax=limits[1],
                      aspect="auto", interpolation="none")
  for y, row in enumerate(values):
    for x, value in enumerate(row):
      if value == value:
        # z: a little below 0 is 0.00, not -0.00.
        axes.text(x, y, f"{value:z.{digits}f}", ha="center", va="center",
                  fontsize=8,
                  color=ON_DARK if image.norm(value) > 0.5 else ON_LIGHT)
  axes.grid(False)


def png(image: np.ndarray) -> bytes:
  """A file of an image, uint8 `[H, W, 1 or 3]`, pixel by pixel."""
  from matplotlib import image as images  # pylint: disable=g-import-not-at-top
  grey = image.shape[-1] == 1
  buffer = io.BytesIO()
  images.imsave(buffer, image[..., 0] if grey else image, format="png",
                cmap="gray" if grey else None, vmin=0, vmax=255)
  return buffer.getvalue()


def save(
    drawn: Any, path: pathlib.Path, *, colours: int | None = 256
) -> bool:
  """Saves a figure, without a word on what wrote it; says that it did."""
  # pylint: disable=g-import-not-at-top
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from PIL import Image  # comes with matplotlib
  # pylint: enable=g-import-not-at-top
  # As by `savefig`, which draws a figure once more to lay it out.
  pixels = FigureCanvasAgg(drawn)
  pixels.draw()
  image = Image.fromarray(np.asarray(pixels.buffer_rgba())).convert("RGB")
  # A palette is a third of the size, and lines on white need no more.
  # To pack a large picture as small as can be takes longer than to quantise it.
  (image.quantize(colours) if colours else image).save(
      path, optimize=colours is None or colours > 64)
  return True


def log_temperature(axes: Any, values: Sequence[float]) -> None:
  """Makes x a log axis of T that writes the values themselves."""
  log_values(axes, panels.ticks(values))
  axes.set_xlabel("temperature T (log scale)")


def log_values(
    axes: Any, values: Sequence[float],
    shown: Callable[[float], str] = names.shown) -> None:
  """Makes x a log axis that writes these values."""
  axes.set_xscale("log")
  axes.set_xticks(values, [shown(value) for value in values])
  axes.set_xticks([], minor=True)


def log_axis(axes: Any, way: str) -> None:
  """Makes "x" or "y" a log axis with plain numbers, once all is drawn.

  matplotlib's own labels are formulas, which are text in these pictures.
  """
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  getattr(axes, f"set_{way}scale")("log")
  axis = getattr(axes, f"{way}axis")
  axis.set_major_locator(ticker.FixedLocator(
      log_ticks(*sorted(getattr(axes, f"get_{way}lim")()))))
  axis.set_major_formatter(lambda value, _: f"{value:g}")
  axis.set_minor_locator(ticker.NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
  """The roundest three numbers or more of a range of a log axis.

  Example:
    >>> log_ticks(9, 1100), log_ticks(130, 850)
    ([10.0, 100.0, 1000.0], [150.0, 200.0, 300.0, 500.0, 700.0])
  """
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for parts in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7),
                (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
    found = [value for decade in decades for part in parts
             if low <= (value := float(f"{part}e{decade}")) <= high]
    if len(found) >= 3:
      return found
  return [*map(float, ticker.MaxNLocator(4).tick_values(low, high))]


def ramp(number: int) -> list[Any]:
  """So many colours in an order, dark to light."""
  import matplotlib  # pylint: disable=g-import-not-at-top
  # The yellow end of the ramp is not seen on white: contrast 3 at least.
  return [matplotlib.colormaps["plasma"](0.63 * index / max(number - 1, 1))
          for index in range(number)]
