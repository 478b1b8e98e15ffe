"""What a net is exported to: formats with the runtimes that read them.

A module of a format is imported when it is needed, as its packages are no part of
the project.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib
from importlib import util
import io
import json
import logging
import os
import sys
from typing import Any, NamedTuple
import warnings

import numpy as np

from kd_jax.core.errors import UserError

# Without a resolver, as two of the packages ask for older versions of ours
# than they need (docs/export.md).
INSTALL = "pip install --no-deps -r requirements-export.txt"
REMEDY = f"{INSTALL} (a file of the clone)"
# Weights of 8 bits, and sums by ranges measured at every call or known before; or
# weights of 4 bits.
KINDS = ("none", "dynamic", "static", "dynamic4")
# The names of a file's input and outputs.
INPUT, OUTPUTS = "inputs", ("logits", "probabilities")


class Served(NamedTuple):
  """A net as it is exported.

  Attributes:
    function: Stored inputs `[B, *shape]`, such as pixels, to logits and
      probabilities `[B, classes]`; B may be symbolic.
    shape: Of one input.
    dtype: Of inputs: uint8 pixels, float32 or int32.
    card: What a file says of the net: classes, preprocessing, its run.
    arrays: Its parameters and state, by path.
  """

  function: Callable[[Any], tuple[Any, Any]]
  shape: tuple[int, ...]
  dtype: np.dtype
  card: dict[str, Any]
  arrays: dict[str, np.ndarray]


# Inputs `[B, *shape]` -> logits and probabilities, each `[B, classes]`.
Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Format(NamedTuple):
  """A format of files.

  Attributes:
    module: In this package, with `write(served, file)` and `load(file) -> Run`; and
      `quantise(file, to, kind, calibration)`, if a net can have few bits in it.
    suffix: Of its files.
    packages: That it needs beside those of the project.
    int8: Those of `KINDS` that it has beside "none".
    runs: Whether a file is a program; else it has the arrays alone.
  """

  module: str
  suffix: str
  packages: tuple[str, ...] = ()
  int8: tuple[str, ...] = ()
  runs: bool = True

  @property
  def missing(self) -> list[str]:
    """Those of its packages that are not installed."""
    return [name for name in self.packages if not util.find_spec(name)]

  @property
  def code(self) -> Any:
    """Its module, imported."""
    return importlib.import_module(f"kd_jax.export.{self.module}")


FORMATS: Mapping[str, Format] = {
    "litert": Format(
        "litert", ".tflite",
        ("litert_converter", "ai_edge_litert", "ai_edge_quantizer"),
        KINDS[1:]),
    "onnx": Format(
        "onnx_file", ".onnx", ("jax2onnx", "onnx", "onnxruntime"), KINDS[1:3]),
    "stablehlo": Format("stablehlo", ".jaxexport"),
    "npz": Format("npz", ".npz", runs=False),
    "safetensors": Format(
        "safetensors_file", ".safetensors", ("safetensors",), runs=False),
}


def installed(names: list[str] | None, say: Callable[[str], None]) -> list[str]:
  """The formats to write: those asked for, or all whose packages are there.

  Raises:
    UserError: If one that is asked for lacks a package.
  """
  found = []
  for name in names or FORMATS:
    if not (missing := FORMATS[name].missing):
      found.append(name)
      continue
    line = f"{name} needs {', '.join(missing)}: {REMEDY}"
    if names:
      raise UserError(f"--format={name}: {line}")
    say(f"left out: {line}")
  return found


def as_strings(card: Mapping[str, Any]) -> dict[str, str]:
  """A card for files whose metadata are strings: each value as JSON.

  Example:
    >>> as_strings({"net": "a", "classes": ["x", "y"]})
    {'net': '"a"', 'classes': '["x", "y"]'}
  """
  return {key: json.dumps(value) for key, value in card.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Without what the packages say to their own developers, from C as well."""
  disabled = logging.root.manager.disable
  logging.disable(logging.CRITICAL)
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  kept = {number: os.dup(number) for number in (1, 2)}
  nowhere = os.open(os.devnull, os.O_WRONLY)
  try:
    for number in kept:
      os.dup2(nowhere, number)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), (
        contextlib.redirect_stderr(io.StringIO())):
      warnings.simplefilter("ignore")
      yield
  finally:
    for number, old in kept.items():
      os.dup2(old, number)
      os.close(old)
    os.close(nowhere)
    logging.disable(disabled)
