"""safetensors: the parameters by name, as model hubs show and load them."""

import pathlib

import numpy as np

from kd_jax.export.formats import Served, as_strings


def write(served: Served, file: pathlib.Path) -> None:
  """Writes the arrays under the names of the .npz, and the card as metadata."""
  from safetensors import numpy as safetensors  # pylint: disable=g-import-not-at-top
  safetensors.save_file(served.arrays, str(file), as_strings(served.card))


def arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a file, by name."""
  from safetensors import numpy as safetensors  # pylint: disable=g-import-not-at-top
  return safetensors.load_file(str(file))
