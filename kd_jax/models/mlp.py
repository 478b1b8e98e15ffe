"""The multi-layer perceptron of Hinton et al. (2015), section 3."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.linen import Dropout


class Mlp(nn.Module):
  """Rectified hidden layers of any widths, with dropout before each layer.

  Attributes:
    num_classes: Number of logits.
    widths: Units of each hidden layer.
    dtype: Of the arithmetic; default that of the parameters.
    rank: Of the weights of hidden layers, which then are a product of two matrices;
      None for full rank.

  `rates["input"]` drops pixels, `rates["hidden"]` hidden units. The features
  are the hidden layers after their ReLU, `hidden_0`, `hidden_1`, ...; the last is
  also `pooled`.
  """

  num_classes: int
  widths: Sequence[int]
  dtype: jnp.dtype | None = None
  rank: int | None = None

  @nn.compact
  def __call__(
      self,
      image: jax.Array,
      *,
      train: bool,
      rates: Mapping[str, jax.Array | float] | None = None,
      axis_name: str | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    def drop(x, place):
      if not train or rates is None:
        return x
      return Dropout()(x, rates[place], axis_name=axis_name)

    dense = lambda width, **options: nn.Dense(
        width, dtype=self.dtype, **options)
    features = {}
    x = drop(image.reshape((image.shape[0], -1)), "input")
    for index, width in enumerate(self.widths):
      name = f"Dense_{index}"
      if self.rank is not None and self.rank < min(x.shape[-1], width):
        x = dense(self.rank, use_bias=False, name=f"{name}_in")(x)
      x = nn.relu(dense(
          width, kernel_init=nn.initializers.he_normal(), name=name)(x))
      features[f"hidden_{index}"] = x
      features["pooled"] = x  # The last one's, as of nets that pool.
      x = drop(x, "hidden")
    return dense(self.num_classes, name=f"Dense_{len(self.widths)}")(x), features
