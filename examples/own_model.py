"""A user's own Linen module as the student of the main job.

  python -m kd_jax.main --config=configs/mnist.py:smoke \
      --config.student.name=examples.own_model:Net

Nothing of kd_jax is needed: a module takes the image, and gives logits.
"""

import flax.linen as nn
import jax


class Net(nn.Module):
  """One hidden layer; `num_classes` is filled in from the data set."""

  num_classes: int

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image.reshape((image.shape[0], -1))
    return nn.Dense(self.num_classes)(nn.tanh(nn.Dense(64)(x)))
