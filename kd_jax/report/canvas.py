"""Figures on white, alike wherever they are drawn: the door to matplotlib."""

from collections.abc import Callable, Sequence
import functools
import io
import pathlib
from typing import Any, ParamSpec

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
_IN_LEGEND = 0.165  # inches a line
_STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False,
          "axes.spines.right": False, "axes.grid": True,
          "axes.axisbelow": True, "grid.linewidth": 0.3,
          "legend.frameon": False, "legend.fontsize": 8, "figure.dpi": 150,
          "savefig.dpi": 150}


P = ParamSpec("P")


def styled(draw: Callable[P, bool]) -> Callable[P, bool]:
  """A function that draws, in the style of these pictures."""
  @functools.wraps(draw)
  def inner(*args: P.args, **kwargs: P.kwargs) -> bool:
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


def height(least: float, lines: int) -> float:
  """Inches of a panel, so that a legend of so many lines stands beside it."""
  return max(least, 0.5 + _IN_LEGEND * lines)


def style(index: int) -> dict[str, str]:
  """Colour and shape of a line: of the first 49 no two have both in common."""
  return {"color": COLOURS[index % 7],
          "marker": MARKERS[(index + index // 7) % 7]}


def difference(
    axes: Any, place: int, value: float, low: float | None, high: float | None, *,
    sure: bool) -> None:
  """Draws a difference and its interval: in colour and filled if it is sure."""
  half = None if low is None or high is None else [[value - low], [high - value]]
  colour = COLOURS[0 if value < 0 else 1] if sure else GREY
  axes.errorbar([value], [place], xerr=half, color=colour, capsize=2, marker="o",
                markersize=4, markerfacecolor=colour if sure else "white")


def picture(axes: Any, image: Sequence[Any]) -> None:
  """Draws pixels from 0 to 255, grey ones as `[H, W]` or `[H, W, 1]`."""
  if not isinstance(image[0][0], list):
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
  elif len(image[0][0]) == 1:  # imshow does not take it.
    picture(axes, [[pixel[0] for pixel in line] for line in image])
  else:
    axes.imshow([[[v / 255 for v in pixel] for pixel in line] for line in image])


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
  # pylint: disable-next=g-import-not-at-top
  from PIL import Image  # comes with matplotlib
  written = io.BytesIO()
  drawn.savefig(written, format="png", metadata={"Software": None})
  image = Image.open(written).convert("RGB")
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


def ramp(number: int) -> list[Any]:
  """So many colours in an order, dark to light."""
  import matplotlib  # pylint: disable=g-import-not-at-top
  # The yellow end of the ramp is not seen on white.
  return [matplotlib.colormaps["viridis"](0.92 * index / max(number - 1, 1))
          for index in range(number)]
