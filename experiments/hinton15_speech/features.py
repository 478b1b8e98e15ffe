r"""From a recording to what a net sees: log-mel frames, windows, states.

Everything is a pure function of NumPy arrays:

  samples -> frames -> normalised -> bytes -> windows, and a state for each frame

A frame is what 40 mel filters hear in 25 ms, every 10 ms, as in Hinton et al.
(2015), section 4. A *state* is a digit and a third of its recording: the stand-in
for the states of the paper's HMM.
"""

import io
import wave

import numpy as np

RATE = 8000  # samples a second
FILTERS = 40
WIDTH = 200  # samples of a frame, 25 ms
ADVANCE = 80  # samples from a frame to the next, 10 ms
# Longer than a frame, so that the narrow low filters have several bins each.
_TRANSFORM = 512
# What a 16 bit sample can still tell, so that digital silence has a logarithm.
_FLOOR = 2.0**-30
# The paper's window: 26 frames, of which the net names the state of the 21st.
CONTEXT = 26
TARGET = 20  # counted from 0
SEGMENTS = 3
# Bytes hold from -SIGMAS to +SIGMAS standard deviations.
SIGMAS = 4.0


def samples(content: bytes) -> np.ndarray:
  """The samples of a wav file in [-1, 1), float64 `[n]`.

  Args:
    content: Of the file: mono, 16 bit, 8,000 samples a second.

  Raises:
    ValueError: If it is no such file.
  """
  try:
    with wave.open(io.BytesIO(content)) as file:
      kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
      raw = file.readframes(file.getnframes())
  except (wave.Error, EOFError) as error:
    raise ValueError(f"no wav file ({error})") from None
  if kind != (1, 2, RATE):
    raise ValueError(
        "has {} channel(s) of {} bytes at {} Hz, must be mono, 16 bit, ".format(
            *kind) + f"{RATE} Hz")
  if len(raw) < 2:
    raise ValueError("has no samples")
  return np.frombuffer(raw, "<i2").astype(np.float64) / 2**15


def mel(hertz: np.ndarray | float) -> np.ndarray:
  """Pitch as it is heard: mel(f) = 2595 log10(1 + f / 700)."""
  return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


def hertz(mels: np.ndarray | float) -> np.ndarray:
  """The inverse of `mel`: f = 700 (10**(m / 2595) - 1)."""
  return 700 * (10 ** (np.asarray(mels, np.float64) / 2595) - 1)


def centres() -> np.ndarray:
  """Where the filters peak, in Hz, `[40]`: evenly spaced in mel, up to 4 kHz."""
  return hertz(np.linspace(0, mel(RATE / 2), FILTERS + 2))[1:-1]


def filterbank() -> np.ndarray:
  r"""Triangles over the bins of the spectrum, `[257, 40]`.

  H_k(f) = max(0, min((f - c_{k-1}) / (c_k - c_{k-1}),
                      (c_{k+1} - f) / (c_{k+1} - c_k)))

  with centres c_1 ... c_40 of `centres`, c_0 = 0 and c_41 = 4 kHz: each filter is
  1 at its centre and 0 at its neighbours'.
  """
  edges = np.concatenate([[0.0], centres(), [RATE / 2]])
  bins = np.fft.rfftfreq(_TRANSFORM, 1 / RATE)[:, None]
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  return np.maximum(0, np.minimum(rising, falling))


def log_mel(signal: np.ndarray) -> np.ndarray:
  r"""Logarithms of the energies of the filters, `[frames, 40]`.

  E_tk = log(max(floor, sum_f H_k(f) |sum_n w_n x_{80 t + n} e^{-2 pi i f n}|**2))

  with the Hann window w_n = sin**2(pi n / 200), n = 0 ... 199.

  Args:
    signal: Samples `[n]`; fewer than a frame are padded with silence.

  Returns:
    1 + (n - 200) // 80 frames.
  """
  padded = np.pad(signal, (0, max(0, WIDTH - len(signal))))
  frames = np.lib.stride_tricks.sliding_window_view(padded, WIDTH)[::ADVANCE]
  hann = np.sin(np.pi * np.arange(WIDTH) / WIDTH) ** 2
  power = np.abs(np.fft.rfft(frames * hann, _TRANSFORM)) ** 2
  return np.log(np.maximum(power @ filterbank(), _FLOOR))


def normalised(frames: np.ndarray) -> np.ndarray:
  """Frames `[F, 40]` of one speaker, each filter with mean 0 and deviation 1.

  z_tk = (E_tk - mean_t E_tk) / sd_t E_tk

  By speaker, as recognisers do, so that microphone, loudness and the timbre that
  all words share do not tell speakers apart. It looks at no label, and at nobody
  else: a speaker's frames are the same whether they are trained or tested on.
  """
  deviation = np.maximum(frames.std(axis=0), 1e-3)
  return (frames - frames.mean(axis=0)) / deviation


def quantised(frames: np.ndarray) -> np.ndarray:
  """Frames as bytes: -4 to +4 deviations onto 0 ... 255, what is beyond clipped.

  q = round(255 (z + 4) / 8), so (8 / 255) q - 4 is within 4 / 255 = 0.016 of z.
  """
  steps = np.round(255 * (frames + SIGMAS) / (2 * SIGMAS))
  return np.clip(steps, 0, 255).astype(np.uint8)


def windows(frames: np.ndarray) -> np.ndarray:
  """What the net sees of each frame: it and those around it, `[F, 26, 40]`.

  The frame itself is the 21st: 200 ms of past, 50 ms of future. Beyond the ends
  of a recording its first or last frame is repeated.

  Args:
    frames: Of one recording, `[F, 40]`.
  """
  around = np.arange(CONTEXT) - TARGET
  place = np.arange(len(frames))[:, None] + around
  return frames[np.clip(place, 0, len(frames) - 1)]


def segments(number: int) -> np.ndarray:
  """The third in which each of `number` frames lies: floor(3 t / F), int32 `[F]`.

  A uniform segmentation: the frames are dealt out evenly, in their order.

  Example:
    >>> segments(7).tolist()
    [0, 0, 0, 1, 1, 2, 2]
  """
  return (SEGMENTS * np.arange(number) // number).astype(np.int32)


def states(digit: int, number: int) -> np.ndarray:
  """The state of each frame of a recording: 3 digit + segment, int32 `[F]`."""
  return np.int32(SEGMENTS * digit) + segments(number)
