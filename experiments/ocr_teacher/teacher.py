"""PP-OCRv6's recogniser of printed and written text as a teacher of digits.

  pip install rapidocr==3.10.0 onnxruntime==1.32.0

Its wheel holds the net, which others trained: no digit of ours, and no label, had a
part in it. A digit is shown to it as a line of text of one character,

  x = 1 - 2 v      v: pixels in [0, 1], white on black; x: dark on light

enlarged to 48 pixels of height as rapidocr enlarges lines, at the left of 96
columns of which the others are 0. It gives probabilities p_t(c) of 18,708
characters, a space and a blank in 12 places t, of which CTC makes the probability
of a text:

  logit_d = log P("d")
  P("d") = sum over first <= last of
             prod_{first <= t <= last} p_t(d) * prod_{other t} p_t(blank)

So softmax of the logits is what it says of a text that is one digit.

  python -m experiments.ocr_teacher.teacher

says, for several numbers of columns, how sure it is that training digits are
digits, which asks no label and is how 96 were chosen: rapidocr gives short lines
320, which takes several times as long. It also counts its errors on them, which
chose nothing.

Sources: Graves et al. (2006), Connectionist temporal classification, ICML; the net:
github.com/RapidAI/RapidOCR, Apache-2.0.
"""

import functools
import hashlib
import importlib.util
import pathlib

import numpy as np

INSTALL = "pip install rapidocr==3.10.0 onnxruntime==1.32.0"
SHA256 = (
    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884")
HEIGHT, WIDTH = 48, 96
# Inputs asked at once: each has 225,000 probabilities.
_BATCH = 50


def logits(images: np.ndarray) -> np.ndarray:
  """What the recogniser says of digits, for `config.teacher.name`.

  Args:
    images: `[B, H, H, 1]`, white on black, float32 in [0, 1].

  Returns:
    `[B, 10]`, log P of the text "0" to "9".

  Raises:
    ImportError: If rapidocr or onnxruntime is not installed, or another version
      has another net.
  """
  return np.concatenate([
      of_texts(probabilities(shown(images[at:at + _BATCH])))
      for at in range(0, len(images), _BATCH)])


def shown(images: np.ndarray, width: int = WIDTH) -> np.ndarray:
  """Digits as lines of text, `[B, 3, 48, width]`.

  Enlarging is linear between the centres of pixels.

  Example:
    >>> lines = shown(np.ones((1, 28, 28, 1)), 64)
    >>> lines.shape, lines[0, 0, 0, 47], lines[0, 0, 0, 48]
    ((1, 3, 48, 64), np.float32(-1.0), np.float32(0.0))
  """
  size = images.shape[1]
  centre = np.clip((np.arange(HEIGHT) + 0.5) * size / HEIGHT - 0.5, 0, size - 1)
  between = np.maximum(0, 1 - abs(centre[:, None] - np.arange(size)))
  lines = np.zeros((len(images), 3, HEIGHT, width), np.float32)
  lines[..., :HEIGHT] = (1 - 2 * between @ images[..., 0] @ between.T)[:, None]
  return lines


def of_texts(p: np.ndarray) -> np.ndarray:
  """Log-probabilities of the texts of one character by CTC   (Graves et al. 2006).

  Args:
    p: `[B, places, 1 + C]`: of the blank, then of each character.

  Returns:
    `[B, C]`, float64.

  Example:
    >>> p = np.array([[[0.5, 0.5], [0.75, 0.25]]])
    >>> np.exp(of_texts(p))  # 0.5 * 0.75 + 0.5 * 0.25 + 0.5 * 0.25
    array([[0.625]])
  """
  p = p.astype(np.float64)
  before = np.ones((len(p), 1))
  inside = after = np.zeros((len(p), p.shape[2] - 1))
  for place in range(p.shape[1]):
    blank, character = p[:, place, :1], p[:, place, 1:]
    before, inside, after = (
        before * blank, (before + inside) * character, (inside + after) * blank)
  return np.log(inside + after)


def probabilities(lines: np.ndarray) -> np.ndarray:
  """Of the blank and the ten digits in each place, `[B, places, 11]`."""
  session, columns = _session()
  return session.run(None, {session.get_inputs()[0].name: lines})[0][..., columns]


@functools.cache
def _session():
  """The net, and the columns of the blank and of the digits."""
  try:
    import onnxruntime
    package = importlib.util.find_spec("rapidocr").submodule_search_locations[0]
    content = (
        pathlib.Path(package) / "models" / "PP-OCRv6_rec_small.onnx").read_bytes()
  except (ImportError, AttributeError, OSError):
    raise ImportError(f"the recogniser is not here; {INSTALL}") from None
  if hashlib.sha256(content).hexdigest() != SHA256:
    raise ImportError(f"the recogniser is that of another version; {INSTALL}")
  session = onnxruntime.InferenceSession(
      content, providers=["CPUExecutionProvider"])
  known = session.get_modelmeta().custom_metadata_map["character"].splitlines()
  return session, [0, *(1 + known.index(digit) for digit in "0123456789")]


def main(widths=(48, 56, 64, 72, 80, 88, 96), number: int = 1000) -> None:
  """Says of columns how sure the recogniser is that training digits are digits."""
  from kd_jax import data  # Late: it imports jax.
  train = data.load("mnist", embedded="only").train
  images, label = train.inputs[::4][:number] / 255, train.label[::4][:number]
  for width in widths:
    found = np.concatenate([
        of_texts(probabilities(shown(images[at:at + _BATCH], width)))
        for at in range(0, number, _BATCH)])
    print(f"{width} columns: P(one digit) {np.exp(found).sum(1).mean():.3f}, "
          f"{(found.argmax(1) != label).sum()} errors of {number}", flush=True)


if __name__ == "__main__":
  main()
