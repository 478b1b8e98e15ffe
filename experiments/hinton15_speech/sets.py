"""Data sets with a speaker left out, as any set of kd_jax: WORKDIR/data/NAME.npz.

  fold_SPEAKER    trained on all others, tested on SPEAKER
  choose_SPEAKER  for choosing the settings of that fold: SPEAKER is not in it at
                  all; trained on all others but one, tested on that one

Images are windows of frames as bytes, labels their states. Beside the four arrays
of such a set lie `utterance_test`, the recording of each test frame, and
`names_test`, what those recordings are called.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import pathlib
from typing import NamedTuple
import zipfile
import zlib

import numpy as np

from experiments.hinton15_speech import features, recordings
from experiments.hinton15_speech.recordings import Recording
from kd_jax.core.errors import UserError

# Raised whenever the same recordings would give other sets.
_VERSION = 1
# What reading a damaged archive may raise.
DAMAGE = (
    OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile)


class Utterance(NamedTuple):
  """A recording as a net sees it: its name, its digit, bytes `[F, 40]`."""

  name: str
  digit: int
  frames: np.ndarray


class Split(NamedTuple):
  """A set in outline: its name, whom it is trained on, whom it is tested on."""

  name: str
  train: tuple[str, ...]
  test: str


def speakers(quick: bool) -> tuple[str, ...]:
  """All whose recordings are used."""
  return recordings.SYNTHETIC if quick else recordings.SPEAKERS


def folds(quick: bool) -> tuple[str, ...]:
  """Those who are left out, each once; of the quick form, two of three."""
  return speakers(quick)[:2] if quick else speakers(quick)


def splits(quick: bool) -> list[Split]:
  """Both sets of every fold."""
  everyone, found = speakers(quick), []
  for place, left_out in enumerate(everyone):
    if left_out not in folds(quick):
      continue
    # The next in the row, so that each helps to choose for one other.
    chooser = everyone[(place + 1) % len(everyone)]
    rest = tuple(name for name in everyone if name != left_out)
    found += [
        Split(f"fold_{left_out}", rest, left_out),
        Split(f"choose_{left_out}",
              tuple(name for name in rest if name != chooser), chooser)]
  return found


def prepare(
    folder: pathlib.Path, quick: bool, say: Callable[[str], None]
) -> None:
  """Writes the sets that are not there yet.

  Args:
    folder: Where they go.
    quick: Whether to make them of tones.
    say: Tells the user a line.

  Raises:
    UserError: If the recordings are not there.
  """
  heard = recordings.synthetic() if quick else recordings.load()
  source = _source(heard)
  folder.mkdir(parents=True, exist_ok=True)
  spoken: dict[str, list[Utterance]] = {}
  for split in splits(quick):
    file = folder / f"{split.name}.npz"
    mark = _mark(source, split)
    if _marked(file) != mark:
      spoken = spoken or by_speaker(heard)
      say(f"data: writing {file}")
      _write(file, arrays(spoken, split) | {"mark": np.asarray(mark)})


def by_speaker(heard: Sequence[Recording]) -> dict[str, list[Utterance]]:
  """The frames of every speaker: normalised over all their own, as bytes."""
  found: dict[str, list[Utterance]] = {}
  for speaker in dict.fromkeys(each.speaker for each in heard):
    own = [each for each in heard if each.speaker == speaker]
    parts = [features.log_mel(each.samples) for each in own]
    frames = features.quantised(features.normalised(np.concatenate(parts)))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    found[speaker] = [
        Utterance(each.name, each.digit, part)
        for each, part in zip(own, np.split(frames, ends), strict=True)]
  return found


def arrays(
    spoken: Mapping[str, Sequence[Utterance]], split: Split
) -> dict[str, np.ndarray]:
  """What the file of a set holds."""
  train = [each for name in split.train for each in spoken[name]]
  test = spoken[split.test]
  told = {}
  for part, own in (("train", train), ("test", test)):
    told[f"x_{part}"] = np.concatenate(
        [features.windows(each.frames) for each in own])
    told[f"y_{part}"] = np.concatenate(
        [features.states(each.digit, len(each.frames)) for each in own])
  told["utterance_test"] = np.repeat(
      np.arange(len(test), dtype=np.int32), [len(each.frames) for each in test])
  told["names_test"] = np.asarray([each.name for each in test])
  return told


def tested(file: pathlib.Path) -> dict[str, np.ndarray]:
  """Labels, utterances and names of a set's test frames."""
  try:
    with np.load(file, allow_pickle=False) as held:
      return {key: held[key]
              for key in ("y_test", "utterance_test", "names_test")}
  except DAMAGE as error:
    raise UserError(
        f"{file}: no set of this study ({error}); delete it, and give the same "
        "command again") from None


def _source(heard: Sequence[Recording]) -> str:
  """SHA-256 of all that is heard, and of who says what."""
  digest = hashlib.sha256()
  for each in heard:
    digest.update(f"{each.name} {len(each.samples)} ".encode())
    digest.update(np.ascontiguousarray(each.samples).data)
  return digest.hexdigest()


def _mark(source: str, split: Split) -> str:
  return hashlib.sha256(
      f"{_VERSION} {source} {split}".encode()).hexdigest()


def _marked(file: pathlib.Path) -> str | None:
  """The mark of a set that is there, whole."""
  try:
    with np.load(file, allow_pickle=False) as held:
      return str(held["mark"])
  except DAMAGE:
    return None


def _write(file: pathlib.Path, told: Mapping[str, np.ndarray]) -> None:
  """Writes a set whole or not at all."""
  fresh = file.with_name(f"{file.stem}.new.npz")
  # Windows overlap, so that they compress to a tenth.
  np.savez_compressed(fresh, **told)  # type: ignore[arg-type]
  fresh.replace(file)
