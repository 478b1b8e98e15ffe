"""What a lane costs by arithmetic alone, and the rectangle that follows.

Shards do not measure how many lanes to run at once, as a plan does that is one
machine's own: another machine would measure, and plan, something else, and the
chunks dealt out would not be those of one sweep.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.runs import plan
from kd_jax.training.lanes import Shape
from kd_jax.training.settings import Training

# Points side by side on a CPU, by the forward FLOPs an example below which they
# gain: what benchmarks/README.md found for 2x30, 2x300 and 2x800 on MNIST, which
# have 0.06, 0.9 and 3.3 million.
_CPU_POINTS = ((2e5, 32), (1.5e6, 8), (float("inf"), 1))
# Elsewhere: enough to be busy with small nets, and few enough that there are
# chunks to deal out; in a memory that every device has by now.
_LANES, _BYTES = 64, 8 * 2**30


@functools.cache
def forward_flops(model: types.Model, shape: tuple[int, ...]) -> float:
  """Of a batch of images of this shape, `[B, H, W, C]`."""
  def forward(key, images):
    held = model.init(key, images[:1])
    return model.apply(held, images, train=False)[0].logits

  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  cost = jax.jit(forward).lower(jax.random.key(0), images).cost_analysis() or {}
  return float(cost.get("flops", 0.0))


def lane_bytes(training: Training, image: Any) -> int:
  """Weights, gradients and two moments; activations forth and back."""
  one = jnp.zeros((1,) + image.shape[1:], jnp.float32)
  held = jax.eval_shape(training.model.init, jax.random.key(0), one)
  weights = sum(leaf.size for leaf in jax.tree.leaves(held))
  widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(held) if leaf.shape)
  layers = len(jax.tree.leaves(held.params))
  return 4 * (4 * weights + 2 * training.batch_size * widest * layers)


def rectangle(
    training: Training, image: Any, seeds: Sequence[int]
) -> Shape:
  """A rectangle for lanes of these seeds, the same on every machine of a kind.

  Args:
    training: Of any of the lanes.
    image: Images of the data set, for their shape.
    seeds: The seed of each lane.

  Returns:
    On a CPU, many points of a narrow net, or single lanes of a wide one, on each
    device; elsewhere as many lanes as fit.
  """
  points = max(seeds.count(seed) for seed in set(seeds))
  if jax.default_backend() == "cpu":
    shape = (training.batch_size, *image.shape[1:])
    flops = forward_flops(training.model, shape) / training.batch_size
    rows, across = 1, next(n for most, n in _CPU_POINTS if flops < most)
  else:
    lanes = max(1, min(_LANES, _BYTES // lane_bytes(training, image)))
    across = min(points, lanes)
    rows = lanes // across
  return plan.balanced(seeds, Shape(jax.local_device_count(), rows, across))
