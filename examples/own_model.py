"""A user's own net as the student of the main job: of Linen, or of NNX.

  python -m kd_jax.main --config=mnist:smoke \
      --config.student.name=examples/own_model.py:Net      # or :NnxNet

Nothing of kd_jax is needed: a net takes inputs `[B, H, W, C]` and gives logits
`[B, classes]`; or logits and a dict of what lies below, by name, which methods on
features compare. `num_classes` and `image_shape` come from the data set.
"""

from flax import nnx
import flax.linen as nn
import jax


class Net(nn.Module):
  """One hidden layer, of Linen; it gives logits alone."""

  num_classes: int

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image.reshape((image.shape[0], -1))
    return nn.Dense(self.num_classes)(nn.tanh(nn.Dense(64)(x)))


class NnxNet(nnx.Module):
  """The same of NNX; its hidden layer is what other nets call `pooled`."""

  def __init__(
      self, num_classes: int, image_shape: tuple[int, ...], *, rngs: nnx.Rngs):
    height, width, channels = image_shape
    self.hidden = nnx.Linear(height * width * channels, 64, rngs=rngs)
    self.logits = nnx.Linear(64, num_classes, rngs=rngs)

  def __call__(self, image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    x = nnx.tanh(self.hidden(image.reshape((image.shape[0], -1))))
    return self.logits(x), {"pooled": x}
