"""Figures, alike wherever they are drawn: the door to matplotlib."""

from collections.abc import Callable, Iterable, Sequence
import functools
import io
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
# Of points without T.
DASHES = ("--", ":", "-.", (0, (8, 3)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
# Text on a cell that has one colour on dark screens too.
ON_LIGHT, ON_DARK = "#080808", "#f8f8f8"
# Inches. On a phone the letters of such a picture are as large as small print.
WIDTH = 4.4
_IN_LEGEND = 0.175  # inches a line
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


def wrapped(text: str, letters: int = _LETTERS) -> str:
  """Text on several lines of so many letters, cut where it is as long as three.

  Example:
    >>> wrapped("widths 30x30, T 8, learning rate 0.001", 20)
    'widths 30x30, T 8,\\nlearning rate 0.001'
  """
  return textwrap.fill(names.brief(text, 3 * letters), letters)


def _columns(labels: Sequence[str]) -> int:
  """How many labels go beside each other."""
  longest = max((len(line) for label in labels for line in label.splitlines()),
                default=0)
  return max(1, min(len(labels), (_LETTERS + 16) // (longest + 9)))


def stacked(
    parts: Sequence[tuple[str, Iterable[str]]], columns: int, *, height: float,
    width: float = WIDTH,
) -> tuple[Any, list[tuple[Any, Any]]]:
  """A figure of panels below each other, and of each its part and axes `[columns]`.

  Args:
    parts: Title and labels of each panel: `legends` puts them above its axes.
    columns: Axes beside each other in a panel.
    height: Inches of these axes.
    width: Inches of the figure.
  """
  heights, before = [], None
  for title, labels in parts:
    labels, lines = [*labels], len(wrapped(title).splitlines())
    if labels and labels != before:
      beside = _columns(labels)
      lines += -(-len(labels) // beside) + sum(
          label.count("\n") for label in labels) // beside
    before = labels
    heights.append(height + _IN_LEGEND * lines)
  drawn, found = below_each_other(heights, width=width)
  return drawn, [(part, part.subplots(1, columns, squeeze=False)[0])
                 for part in found]


def below_each_other(
    heights: Sequence[float], *, width: float = WIDTH) -> tuple[Any, list[Any]]:
  """A figure and its parts, of these heights in inches, each laid out by itself."""
  from matplotlib.figure import Figure  # pylint: disable=g-import-not-at-top
  drawn = Figure(figsize=(width, sum(heights)), layout="constrained",
                 facecolor="white")
  return drawn, [*drawn.subfigures(
      len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]]


def legends(parts: Sequence[tuple[Any, Any]], titles: Iterable[str]) -> None:
  """Titles and labels of `stacked` panels, above their axes, where they hide none.

  Labels like those of the panel above are left out.
  """
  before: list[str] = []
  for (part, axes), title in zip(parts, titles):
    known: dict[str, Any] = {}
    for at in axes:
      handles, labels = at.get_legend_handles_labels()
      known |= dict(zip(labels, handles))
    shown = {} if [*known] == before else known
    before = [*known]
    if title or shown:
      part.legend(
          [*shown.values()], [*shown], title=wrapped(title), alignment="left",
          loc="outside upper left", ncols=_columns([*shown]), title_fontsize=9)


def style(index: int) -> dict[str, str]:
  """Colour and shape of a line: of the first 49 no two have both in common."""
  return {"color": COLOURS[index % 7],
          "marker": MARKERS[(index + index // 7) % 7]}


def difference(
    axes: Any, place: int, value: float, low: float | None, high: float | None, *,
    sure: bool) -> Any:
  """Draws a difference and its interval: in colour and filled if it is sure.

  Returns:
    The line of its mark.
  """
  half = None if low is None or high is None else [[value - low], [high - value]]
  colour = COLOURS[0 if value < 0 else 1] if sure else GREY
  return axes.errorbar(
      [value], [place], xerr=half, color=colour, capsize=2, marker="o",
      markersize=4, markerfacecolor=colour if sure else "white")[0]


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
        axes.text(x, y, f"{value:.{digits}f}", ha="center", va="center", fontsize=8,
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
  (image.quantize(colours) if colours else image).save(path, optimize=True)
  return True


def log_temperature(axes: Any, values: Sequence[float]) -> None:
  """Makes x a log axis of T that writes the values themselves."""
  shown = panels.ticks(values)
  axes.set_xscale("log")
  axes.set_xticks(shown, [names.shown(value) for value in shown])
  axes.set_xticks([], minor=True)
  axes.set_xlabel("temperature T (log scale)")


def log_loss(axes: Any) -> None:
  """Makes y a log axis with plain numbers: 1, 2, 3 and 5, or decades if many."""
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  axes.set_yscale("log")
  low, high = axes.get_ylim()
  axes.yaxis.set_major_locator(ticker.LogLocator(
      subs=(1.0, 2.0, 3.0, 5.0) if high < 300 * low else (1.0,)))
  axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
  axes.yaxis.set_minor_locator(ticker.NullLocator())


def log_cost(axes: Any) -> None:
  """Makes x a log axis with plain numbers: 1, 2 and 5, or decades if many."""
  from matplotlib import ticker  # pylint: disable=g-import-not-at-top
  axes.set_xscale("log")
  low, high = axes.get_xlim()
  axes.xaxis.set_major_locator(ticker.LogLocator(
      subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
  axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
  axes.xaxis.set_minor_locator(ticker.NullLocator())


def ramp(number: int) -> list[Any]:
  """So many colours in an order, dark to light."""
  import matplotlib  # pylint: disable=g-import-not-at-top
  # The yellow end of the ramp is not seen on white.
  return [matplotlib.colormaps["viridis"](0.92 * index / max(number - 1, 1))
          for index in range(number)]
