"""The multi-layer perceptron of Hinton et al. (2015), section 3."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax

from kd_jax.models.linen import Dropout


class Mlp(nn.Module):
  """Rectified hidden layers of any widths, with dropout before each layer.

  Attributes:
    num_classes: Number of logits.
    widths: Units of each hidden layer.

  `rates["input"]` drops pixels, `rates["hidden"]` hidden units. The features
  are the hidden layers after their ReLU, `hidden_0`, `hidden_1`, ...
  """

  num_classes: int
  widths: Sequence[int]

  @nn.compact
  def __call__(
      self,
      image: jax.Array,
      *,
      train: bool,
      rates: Mapping[str, jax.Array | float] | None = None,
      axis_name: str | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    drop = train and rates is not None
    features = {}
    x = image.reshape((len(image), -1))
    for index, width in enumerate(self.widths):
      if drop:
        rate = rates["input" if index == 0 else "hidden"]
        x = Dropout()(x, rate, axis_name=axis_name)
      x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
      features[f"hidden_{index}"] = x
    if drop:
      rate = rates["hidden" if self.widths else "input"]
      x = Dropout()(x, rate, axis_name=axis_name)
    return nn.Dense(self.num_classes)(x), features
