"""Plain arrays: the parameters by name in an .npz, for any other program."""

import pathlib

import numpy as np

from kd_jax.export.formats import Served


def write(served: Served, file: pathlib.Path) -> None:
  """Writes the arrays; what they are of stands in the JSON beside the file."""
  with file.open("wb") as out:
    np.savez(out, **served.arrays)  # type: ignore[arg-type]


def arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a file, by name."""
  with np.load(file, allow_pickle=False) as saved:
    return dict(saved)
