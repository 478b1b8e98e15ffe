"""StableHLO in jax's own envelope, for CPU, GPU and TPU.

No archive format: a later version of jax need not read it.
"""

import pathlib

import jax
import numpy as np

from kd_jax.export.formats import Run, Served

_PLATFORMS = ("cpu", "cuda", "tpu")


def write(served: Served, file: pathlib.Path) -> None:
  """Writes the net as a program with a symbolic batch."""
  batch, = jax.export.symbolic_shape("b")
  program = jax.export.export(jax.jit(served.function), platforms=_PLATFORMS)(
      jax.ShapeDtypeStruct((batch, *served.shape), served.dtype))
  file.write_bytes(program.serialize())


def load(file: pathlib.Path) -> Run:
  """The program in jax, compiled once for each size of a batch."""
  program = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)

  def run(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, probabilities = jax.device_get(program(inputs))
    return logits, probabilities

  return run
