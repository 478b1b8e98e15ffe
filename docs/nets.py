"""Writes `docs/nets.md` from the code: nets for images of 32 pixels, in numbers.

  python -m docs.nets
"""

from collections.abc import Iterator
import math
import pathlib
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

from kd_jax import models

FILE = pathlib.Path(__file__).with_suffix(".md")
NETS = [name for name in models.MODELS
        if name[-1].isdigit() or name.endswith(("x4", "_half", "net_small"))]
_HEAD = """# Nets

Generated from the code by `python -m docs.nets`; a test makes it again.

`--config.student.name=NAME` and `--config.teacher.name=NAME` take any of these.
`resnet`, `wrn` and `vgg` are families: `--config.student.model.depth=56` chooses
the layers, and `--config.student.model.width=2` multiplies the channels, as it does
of every net. Parameters are for 100 and for 10 classes. *MMAC* are millions of
multiplications with an addition, in convolutions and dense layers, for one image of
32 x 32 x 3 and 100 classes. *BatchNorm* counts the channels of all its layers.
*Taps* are what a method on features may compare: height x width x channels. Where a
net has them, `stage1.preact` and so on are the stages before their last ReLU, of
the same shapes.

Stages of `wrn`, `mobilenetv2` and `efficientnet_small`, the stem of `wrn`, and all
`.preact` have both signs; stem and `pooled` of `efficientnet_small`, after a swish,
may be a little below 0. All other taps come after a ReLU and are never below 0. A
regressor that ends with a ReLU, as that of `hint`, cannot reach values below 0.

Counts and taps of `resnet`, `resnet50`, `wrn`, `vgg`, `mobilenetv2_half` and both
`shufflenet` are compared with those of the released PyTorch nets of Tian et al.
(2020) (`tests/test_nets.py`). With the same weights, so are outputs, taps and the
running statistics after a step, of one net or two for each family and some of them
in small sizes: resnet14, resnet8x4, resnet50, wrn_16_1, wrn_16_2, vgg11,
mobilenetv2_half, shufflenetv1, shufflenetv2. Of the planes of Mirzadeh et al.
(2020) parameters, multiplications and the last map are compared with the released
ones, and no outputs. Those of FitNets have BatchNorm and ReLU for maxout, and so
are no net of that paper. `efficientnet_small` and `googlenet_small` are in the
style of Tan & Le (2019) and Szegedy et al. (2015), and there is nothing to compare
them with.

`--config.teacher.state_dict=FILE` makes a released net the teacher: weights that
PyTorch saved from RepDistiller's classes, read without any pickled object. It is
not trained; its errors are shown as those of a trained one. Its authors scaled
pixels as `--config.data.scale=standard` does. Tried by hand with resnet20,
resnet8x4, wrn_16_2, vgg8, resnet50, MobileNetV2, ShuffleNetV1 and V2: logits within
1e-6 of theirs.

`--config.student.model.remat=true` stores only what enters a block of these nets,
and computes the rest again for the gradients: a step of resnet20 needs a third of
the memory ([benchmarks](../benchmarks/README.md)). `--config.accumulate=4` takes a
batch in four parts.

| net | parameters, 100 | 10 classes | MMAC | BatchNorm | taps |
|---|--:|--:|--:|--:|---|"""


def lines() -> Iterator[str]:
  """The lines of the file."""
  yield _HEAD
  yield from map(line, NETS)


def line(name: str) -> str:
  """The row of a net."""
  (hundred, norms, multiplied, taps), (ten, *_) = (
      sizes(name, classes) for classes in (100, 10))
  shown = ", ".join(
      f"{tap} {'x'.join(map(str, shape))}" for tap, shape in taps.items()
      if not tap.endswith(".preact"))
  return (f"| `{name}` | {hundred:,} | {ten:,} | {multiplied / 1e6:.2f} | {norms} "
          f"| {shown} |")


def sizes(name: str, classes: int) -> tuple[int, int, int, dict[str, Any]]:
  """Parameters, channels of BatchNorm, multiplications of an image, and taps."""
  model = models.MODELS[name](num_classes=classes)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  names: list[str] = []

  def apply(variables, image):
    outputs, _ = model.apply(variables, image, train=False)
    names[:] = outputs.features  # In the net's order, which jax does not keep.
    return outputs

  traced = jax.make_jaxpr(apply, return_shape=True)(variables, image)
  jaxpr, outputs = traced
  count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  return (count(variables.params), count(variables.state) // 2,
          sum(map(_multiplications, jaxpr.jaxpr.eqns)),
          {tap: outputs.features[tap].shape[1:] for tap in names})


def _multiplications(equation: Any) -> int:
  """Of an operation, or of those within it: convolutions, products of matrices."""
  inner = list(jax.extend.core.jaxprs_in_params(equation.params))
  if inner:
    return sum(_multiplications(each) for jaxpr in inner for each in jaxpr.eqns)
  out = equation.outvars[0].aval
  if equation.primitive.name == "conv_general_dilated":
    return math.prod(out.shape) * math.prod(equation.invars[1].aval.shape[:-1])
  if equation.primitive.name == "dot_general":
    return math.prod(out.shape) * equation.invars[1].aval.shape[0]
  return 0


if __name__ == "__main__":
  FILE.write_text("\n".join(lines()) + "\n")
