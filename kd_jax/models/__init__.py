"""Models: nets behind a pair of pure functions.

`MODELS[name](num_classes=..., **config)` gives a `types.Model`. A user's own Linen
module goes through `linen_model`, an NNX module through `nnx_model`; neither needs
to know anything of this package.
"""

from collections.abc import Callable, Sequence
import functools
import inspect

import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.core.words import counted
from kd_jax.models import compression, function, linen, nnx
from kd_jax.models.convnet import Convnet
from kd_jax.models.convolutional import Cnn
from kd_jax.models.head import head, probed
from kd_jax.models.inception import Googlenet
from kd_jax.models.mlp import Mlp
from kd_jax.models.mobile import (
  Efficientnet,
  MobilenetV2,
  ShufflenetV1,
  ShufflenetV2,
)
from kd_jax.models.own import check, checking, own_model, understands
from kd_jax.models.plain import Fitnet, Plane, Vgg
from kd_jax.models.resnet import BottleneckResnet, Resnet, WideResnet

__all__ = [
    "MODELS", "check", "compression", "function", "head", "linen_model",
    "nnx_model", "options", "own_model", "probed", "understands"]

# Of modules that are not ours.
linen_model = checking(linen.linen_model)
nnx_model = checking(nnx.nnx_model)


# Nets that have a layer, or a stage, for each of as many widths as are given.
_OF_ANY_LENGTH = (Mlp, Resnet, WideResnet)


def _model(module_class: type, **preset) -> Callable[..., types.Model]:
  """A builder of models from a module class and its named preset."""
  @functools.lru_cache(maxsize=32)  # The same model shares its programs.
  def made(**config) -> types.Model:
    return linen.linen_model(module_class(**config))

  def build(
      *, num_classes: int, dtype: str = "float32", width: float = 1.0, **config
  ) -> types.Model:
    # None lets parameters decide: they are float32, or float64 in some tests.
    kind = None if dtype == "float32" else jnp.dtype(dtype)
    given = {name: tuple(value) if isinstance(value, list) else value
             for name, value in {**preset, **config}.items()}
    _check_widths(module_class, given["widths"], preset["widths"])
    given["widths"] = tuple(max(1, int(each * width)) for each in given["widths"])
    return made(num_classes=num_classes, dtype=kind, **given)
  return functools.update_wrapper(build, module_class)


def _check_widths(
    module_class: type, given: Sequence[int], own: Sequence[int]
) -> None:
  """Refuses widths of no net, and another number of them than a net has places."""
  if bad := [each for each in given if each < 1]:
    raise ValueError(f"a width of {bad[0]}; each must be 1 or more")
  if module_class not in _OF_ANY_LENGTH and len(given) != len(own):
    listed = str(tuple(own)).replace(" ", "")  # As a command line takes them.
    raise ValueError(f"takes {counted(len(own), 'width')}, such as {listed}; there "
                     f"{'is' if len(given) == 1 else 'are'} {len(given)}")


def options(name: str) -> frozenset[str]:
  """What may be chosen of a model of `MODELS` beside its widths.

  Example:
    >>> sorted(options("vgg8"))
    ['depth', 'remat', 'width']
    >>> sorted(options("mlp"))
    ['rank', 'width']
  """
  made_of = inspect.unwrap(MODELS[name])
  fields = getattr(made_of, "__dataclass_fields__", {})
  return frozenset({"width"} | (fields.keys() & {"depth", "rank", "remat"}))


_RESNET, _VGG = (16, 32, 64), (64, 128, 256, 512, 512)
_MOBILENET = (16, 24, 32, 64, 96, 160, 320)

MODELS: dict[str, Callable[..., types.Model]] = {
    # Hinton et al. (2015), section 3: 2 x 1200 teacher, 2 x 800 student.
    "mlp": _model(Mlp, widths=(800, 800)),
    # The Keras knowledge-distillation example: teacher and student.
    "cnn": _model(Cnn, widths=(256, 512)),
    "cnn_small": _model(Cnn, widths=(16, 32)),
    # A teacher for digits that two cores can train.
    "convnet": _model(Convnet, widths=(32, 64, 96, 128)),
    # Families of nets for images of 32 pixels; depth and width may be chosen.
    "resnet": _model(Resnet, widths=_RESNET),
    "wrn": _model(WideResnet, widths=_RESNET),
    "vgg": _model(Vgg, widths=_VGG),
    "mobilenetv2": _model(MobilenetV2, widths=_MOBILENET),
    "shufflenetv1": _model(ShufflenetV1, widths=(240, 480, 960)),
    "shufflenetv2": _model(ShufflenetV2, widths=(116, 232, 464)),
    # Those of the tables of Tian et al. (2020).
    **{f"resnet{depth}": _model(Resnet, widths=_RESNET, depth=depth)
       for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": _model(
        Resnet, widths=(64, 128, 256), stem=32, depth=depth) for depth in (8, 32)},
    "resnet50": _model(BottleneckResnet, widths=(64, 128, 256, 512)),
    **{f"wrn_{depth}_{factor}": _model(
        WideResnet, widths=tuple(factor * each for each in _RESNET), depth=depth)
       for depth in (16, 40) for factor in (1, 2)},
    **{f"vgg{depth}": _model(Vgg, widths=_VGG, depth=depth)
       for depth in (8, 11, 13, 16, 19)},
    "mobilenetv2_half": _model(
        MobilenetV2, widths=tuple(each // 2 for each in _MOBILENET)),
    # Mirzadeh et al. (2020): for CIFAR-10, and for CIFAR-100.
    "plane2": _model(Plane, widths=(16, 16), blocks=(1, 1)),
    "plane4": _model(Plane, widths=(16, 32), blocks=(2, 2)),
    "plane6": _model(Plane, widths=(16, 32, 64), blocks=(2, 2, 2)),
    "plane8": _model(
        Plane, widths=(16, 32, 64, 128), blocks=(2, 2, 2, 2), hidden=64),
    "plane10": _model(
        Plane, widths=(32, 64, 128, 256), blocks=(2, 2, 2, 4), hidden=128),
    "plane2_100": _model(Plane, widths=(32, 32), blocks=(1, 1)),
    "plane4_100": _model(Plane, widths=(32, 64), blocks=(2, 2)),
    "plane6_100": _model(
        Plane, widths=(32, 64, 128), blocks=(2, 2, 2), last_pool=False),
    "plane8_100": _model(
        Plane, widths=(32, 64, 128, 256), blocks=(2, 2, 2, 2), hidden=64),
    "plane10_100": _model(
        Plane, widths=(32, 64, 128, 256), blocks=(2, 2, 2, 4), hidden=512),
    # Romero et al. (2015), FitNets 1 to 4, with BatchNorm for maxout.
    "fitnet1": _model(
        Fitnet, widths=(16, 16, 16, 32, 32, 32, 48, 48, 64), blocks=(3, 3, 3)),
    "fitnet2": _model(
        Fitnet, widths=(16, 32, 32, 48, 64, 80, 96, 96, 128), blocks=(3, 3, 3)),
    "fitnet3": _model(
        Fitnet, widths=(32, 48, 64, 64, *(80,) * 4, *(128,) * 3), blocks=(4, 4, 3)),
    "fitnet4": _model(
        Fitnet, widths=(32, 32, 32, 48, 48, *(80,) * 6, *(128,) * 6),
        blocks=(5, 6, 6)),
    # In the style of theirs, for images of 32 pixels; of no paper.
    "efficientnet_small": _model(Efficientnet, widths=(16, 24, 40, 80)),
    "googlenet_small": _model(Googlenet, widths=(64, 128, 256)),
}
