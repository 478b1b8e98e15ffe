"""Models: nets behind a pair of pure functions.

`MODELS[name](num_classes=..., **config)` gives a `types.Model`. A user's own Linen
module goes through `linen_model`, an NNX module through `nnx_model`; neither needs
to know anything of this package.
"""

from collections.abc import Callable
import functools

import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.models.convnet import Convnet
from kd_jax.models.convolutional import Cnn
from kd_jax.models.linen import linen_model
from kd_jax.models.mlp import Mlp
from kd_jax.models.nnx import nnx_model
from kd_jax.models.own import check, own_model, understands
from kd_jax.models.resnet import Resnet

__all__ = [
    "MODELS", "check", "linen_model", "nnx_model", "own_model", "understands"]


def _model(module_class: type, **defaults) -> Callable[..., types.Model]:
  """A builder of models from a module class and its named preset."""
  @functools.lru_cache(maxsize=32)  # The same model shares its programs.
  def made(**config) -> types.Model:
    return linen_model(module_class(**config))

  def build(
      *, num_classes: int, dtype: str = "float32", **config) -> types.Model:
    # None lets parameters decide: they are float32, or float64 in some tests.
    kind = None if dtype == "float32" else jnp.dtype(dtype)
    given = {name: tuple(value) if isinstance(value, list) else value
             for name, value in {**defaults, **config}.items()}
    return made(num_classes=num_classes, dtype=kind, **given)
  return functools.update_wrapper(build, module_class)


MODELS: dict[str, Callable[..., types.Model]] = {
    # Hinton et al. (2015), section 3: 2 x 1200 teacher, 2 x 800 student.
    "mlp": _model(Mlp, widths=(800, 800)),
    # The Keras knowledge-distillation example: teacher and student.
    "cnn": _model(Cnn, widths=(256, 512)),
    "cnn_small": _model(Cnn, widths=(16, 32)),
    # A teacher for digits that two cores can train.
    "convnet": _model(Convnet, widths=(32, 64, 96, 128)),
    # He et al. (2015), section 4.2, with n = 1.
    "resnet8": _model(Resnet, widths=(16, 32, 64), blocks=1),
}
