"""Image files of any kind as pixels that a net takes."""

from collections.abc import Callable
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


def suffixes() -> frozenset[str]:
  """How the names of image files end, in lower case."""
  known = _formats()
  named = _pillow().registered_extensions().items()
  return frozenset(suffix for suffix, name in named if name in known)


def _formats() -> list[str]:
  """Those that are read; of others, such as PDF, Pillow only writes files."""
  pillow = _pillow()
  pillow.init()
  return [name for name in pillow.ID if name not in _OF_OTHERS]


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
  image = _opened(file, _MODES[channels])
  if image.size != (width, height):
    say(f"{file}: scaled from {image.width} x {image.height} to {width} x {height} "
        "pixels" + ("" if image.width * height == image.height * width else
                    ", which changes its proportions; crop it for others"))
    image = image.resize((width, height), _pillow().Resampling.BILINEAR)
  pixels = np.asarray(image).reshape(shape)
  return 255 - pixels if invert else pixels


def _pillow() -> Any:
  try:
    from PIL import Image  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise UserError("image files need Pillow: pip install pillow") from None
  return Image


def _opened(file: pathlib.Path, mode: str) -> Any:
  """A file's image, upright and whole, in one of `_MODES`."""
  pillow = _pillow()
  from PIL import ImageOps  # pylint: disable=g-import-not-at-top
  files.refuse_pipes(file)
  if file.is_dir():
    raise UserError(f"{file}: is a folder, and no image")
  try:
    with warnings.catch_warnings(), file.open("rb") as content:
      # Pillow's for broken tags; a bomb is an image too large to be meant.
      warnings.simplefilter("ignore")
      warnings.simplefilter("error", pillow.DecompressionBombWarning)
      image = pillow.open(content, formats=_formats())
      _refuse_frames_and_bits(file, image)
      image.load()
      return _on_white(ImageOps.exif_transpose(image)).convert(mode)
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
