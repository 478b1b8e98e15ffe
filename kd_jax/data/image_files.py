"""Image files of any kind as pixels that a net takes."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import pathlib
from typing import Any
import warnings

import numpy as np

from kd_jax.core import files
from kd_jax.core.errors import UserError, message

# Pillow's mode of as many channels.
_MODES = {1: "L", 3: "RGB"}
# Formats that Pillow does not read itself: of EPS it would start Ghostscript.
_OF_OTHERS = frozenset(("EPS", "WMF", "HDF5", "BUFR", "GRIB", "MPEG"))
# Where there is no Pillow, which is said when one of these is to be read.
_COMMON = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@functools.cache
def suffixes() -> frozenset[str]:
  """How the names of image files end, in lower case."""
  try:
    known, named = _formats(), _pillow().registered_extensions().items()
    return frozenset(suffix for suffix, name in named if name in known)
  except UserError:
    return frozenset(_COMMON)


def _formats() -> list[str]:
  """Those that are read; of others, such as PDF, Pillow only writes files."""
  pillow = _pillow()
  pillow.init()
  return [name for name in pillow.ID if name not in _OF_OTHERS]


def version() -> str:
  """Pillow's: another may decode to other pixels."""
  import PIL  # pylint: disable=g-import-not-at-top
  return PIL.__version__


def read(
    file: pathlib.Path, shape: tuple[int, ...], *, invert: bool = False,
    say: Callable[[str], None] = print,
) -> np.ndarray:
  """The pixels of an image file.

  A camera's rotation (EXIF) is undone, what is transparent is white, grey is
  0.299 R + 0.587 G + 0.114 B, and another size is scaled (bilinear).

  Args:
    file: Of any format that Pillow reads without another program.
    shape: `(height, width, channels)` that are wanted, of 1 or 3 channels.
    invert: Whether to give 255 - p for a pixel p.
    say: Is told if the image is scaled.

  Returns:
    uint8 `[height, width, channels]`.

  Raises:
    UserError: If it is no image, or one that is damaged, has several frames or
      more than 8 bits a channel.
  """
  height, width, channels = shape
  with strictly():
    image = _opened(file, channels)
  if image.size != (width, height):
    say(f"{file}: scaled from {image.width} x {image.height} to {width} x {height} "
        "pixels" + ("" if image.width * height == image.height * width else
                    ", which changes its proportions; crop it for others"))
  pixels = _pixels(image, (height, width))
  return 255 - pixels if invert else pixels


def decoded(
    file: pathlib.Path, size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> np.ndarray:
  """The pixels of one of many image files, by the rules of `read`.

  Threads may call it, all within one `strictly`.

  Args:
    file: Of any format that Pillow reads.
    size: `(height, width)` that are wanted; None for the file's own.
    channels: 1 or 3; None for the file's own: 1 where it is grey, else 3.

  Returns:
    uint8 `[height, width, channels]`.

  Raises:
    UserError: As `read`.
  """
  return _pixels(_opened(file, channels), size)


@contextlib.contextmanager
def strictly() -> Iterator[None]:
  """Within it a bomb, an image too large to be meant, is refused.

  It says for the whole process what Pillow's warnings are, so it stands around
  threads and not within them.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Pillow's for broken tags.
    warnings.simplefilter("error", _pillow().DecompressionBombWarning)
    yield


def _pixels(image: Any, size: tuple[int, int] | None) -> np.ndarray:
  """Of an image of `_opened`, scaled to `(height, width)`."""
  if size is not None and image.size != size[::-1]:
    image = image.resize(size[::-1], _pillow().Resampling.BILINEAR)
  return np.asarray(image).reshape(image.height, image.width, -1)


def _pillow() -> Any:
  try:
    from PIL import Image  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise UserError("image files need Pillow: pip install pillow") from None
  return Image


def _opened(file: pathlib.Path, channels: int | None) -> Any:
  """A file's image, upright and whole, of 1 or 3 channels, or its own of these."""
  pillow = _pillow()
  from PIL import ImageOps  # pylint: disable=g-import-not-at-top
  files.refuse_pipes(file)
  if file.is_dir():
    raise UserError(f"{file}: is a folder, and no image")
  if not file.stat().st_size:
    raise UserError(f"{file}: is no image, as it has 0 bytes; save it again, or "
                    "take it away")
  try:
    with file.open("rb") as content:
      image = pillow.open(content, formats=_formats())
      _refuse_frames_and_bits(file, image)
      image.load()
      own = 1 if image.mode in ("1", "L", "LA", "La") else 3
      return _on_white(ImageOps.exif_transpose(image)).convert(
          _MODES[channels or own])
  except (UserError, FileNotFoundError, PermissionError):
    raise
  except pillow.UnidentifiedImageError:
    raise UserError(f"{file}: is no image that Pillow can read; give a PNG or a "
                    "JPEG, or an array as .npy") from None
  except (pillow.DecompressionBombError, pillow.DecompressionBombWarning):
    raise UserError(f"{file}: has more than {pillow.MAX_IMAGE_PIXELS:,} pixels; "
                    "scale it down first") from None
  except Exception as error:  # Whatever damage makes Pillow's readers raise.
    line = " ".join(message(error).split())[:160] or type(error).__name__
    raise UserError(f"{file}: a damaged image ({line}); save it again") from None


def _refuse_frames_and_bits(file: pathlib.Path, image: Any) -> None:
  """Refuses what has several images, or pixels that 8 bits do not hold."""
  # The first of an MPO, as telephones make them, is the photograph.
  if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
    raise UserError(f"{file}: has {frames} frames; save one of them as a PNG")
  # Pillow would read 16 bits of three channels as 8, and clip those of one.
  raw = str([tile[3] for tile in image.tile])
  if image.mode[0] in "IF" or ";16" in raw:
    raise UserError(f"{file}: has more than 8 bits a channel; save it with 8")


def _on_white(image: Any) -> Any:
  """An image in RGB or grey whose transparent part is white."""
  if not image.has_transparency_data:
    return image if image.mode in ("1", "L") else image.convert("RGB")
  image = image.convert("RGBA")
  white = _pillow().new("RGBA", image.size, "white")
  white.alpha_composite(image)
  return white.convert("RGB")
