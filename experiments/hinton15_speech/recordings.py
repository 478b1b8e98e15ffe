"""The Free Spoken Digit Dataset, or tones in its place for a quick form.

Six people say each digit fifty times: https://github.com/Jakobovski/
free-spoken-digit-dataset, Zohar Jackson and others, CC BY-SA 4.0.
"""

from collections.abc import Sequence
import os
import pathlib
import re
from typing import NamedTuple
import zipfile
import zlib

import numpy as np

from experiments.hinton15_speech import features
from kd_jax.core.errors import UserError

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NAMES = tuple(
    f"{digit}_{speaker}_{index}" for speaker in SPEAKERS for digit in range(10)
    for index in range(50))
# Of the quick form: nobody's voice.
SYNTHETIC = ("tones_a", "tones_b", "tones_c")
_NAME = re.compile(r"([0-9])_([a-z_]+)_([0-9]+)")
_WHERE = (
    "get it from github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0) "
    "and put recordings.zip or the folder recordings/ into "
    "$KD_JAX_DATA/spoken_digits")


class Recording(NamedTuple):
  """A digit, said once.

  Attributes:
    name: `{digit}_{speaker}_{index}`, as its file is called.
    digit: 0 to 9.
    speaker: Who says it.
    samples: In [-1, 1), 8,000 a second, `[n]`.
  """

  name: str
  digit: int
  speaker: str
  samples: np.ndarray


def load(names: Sequence[str] = NAMES) -> list[Recording]:
  """The recordings of the user's folder of data, in the order of `names`.

  Raises:
    UserError: If they are not there, not all there, or damaged.
  """
  root = os.environ.get("KD_JAX_DATA")
  if not root:
    raise UserError(f"spoken_digits: KD_JAX_DATA names no folder; {_WHERE}")
  folder = pathlib.Path(root).expanduser() / "spoken_digits"
  contents = _contents(folder)
  missing = [name for name in names if name not in contents]
  if missing:
    raise UserError(
        f"{folder}: lacks {len(missing)} of {len(names)} recordings, such as "
        f"{missing[0]}.wav; {_WHERE}")
  return [_recording(folder, name, contents[name]) for name in names]


def synthetic(takes: int = 4) -> list[Recording]:
  """Tones that glide from one pitch to another, a pair a digit; no recordings.

  A speaker is a factor of pitch; takes differ in length, loudness and noise.
  """
  draw = np.random.default_rng(0)
  made = []
  for pitch, speaker in zip((0.92, 1.0, 1.08), SYNTHETIC, strict=True):
    for digit, take in np.ndindex(10, takes):
      number = int(draw.integers(1800, 2800))
      start, end = 300 + 250 * digit, 300 + 250 * ((7 * digit + 3) % 10)
      hertz = pitch * np.linspace(start, end, number)
      tone = np.sin(2 * np.pi * np.cumsum(hertz) / features.RATE)
      loudness = draw.uniform(0.1, 0.5)
      noise = draw.normal(0, 0.02, number)
      made.append(Recording(
          f"{digit}_{speaker}_{take}", digit, speaker, loudness * tone + noise))
  return made


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
  """The wav files by name, from the archive or, without one, the folder."""
  archive, loose = folder / "recordings.zip", folder / "recordings"
  try:
    if archive.is_file():
      with zipfile.ZipFile(archive) as opened:
        return {pathlib.PurePath(name).stem: opened.read(name)
                for name in opened.namelist() if name.endswith(".wav")}
    if loose.is_dir():
      return {file.stem: file.read_bytes() for file in loose.glob("*.wav")}
  # What zipfile raises depends on where the damage lies.
  except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
    raise UserError(f"{folder}: damaged ({error}); {_WHERE}") from None
  raise UserError(f"{folder}: no recordings here; {_WHERE}")


def _recording(folder: pathlib.Path, name: str, content: bytes) -> Recording:
  found = _NAME.fullmatch(name)
  assert found, name  # The caller's own names.
  try:
    heard = features.samples(content)
  except ValueError as error:
    raise UserError(f"{folder}: {name}.wav {error}; {_WHERE}") from None
  return Recording(name, int(found[1]), found[2], heard)
