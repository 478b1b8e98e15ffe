"""Memory of a step whose blocks are computed again, or that is in parts.

  python -m benchmarks.memory --readme benchmarks/README.md

compiles the segment of each net, with 128 made-up images of 32x32x3 a step. Memory
is what the compiler says that it needs beside its arguments and results.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from benchmarks import mnist_step, tables
from kd_jax import methods
from kd_jax.core import types
from kd_jax.data.preprocess import AsStored
from kd_jax.data.views import VIEWS
from kd_jax.models import MODELS
from kd_jax.training import optimizers, segment, step

NETS = ("resnet20", "wrn_16_1", "vgg8")
BATCH = 128
WAYS = {"stored": (False, 1), "remat": (True, 1), "accumulate=4": (False, 4),
        "both": (True, 4)}


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
  parser.add_argument("--nets", nargs="+", default=NETS)
  parser.add_argument("--readme", help="put the table into this file")
  args = parser.parse_args(argv)
  lines = []
  for name in args.nets:
    found = [f"{_needed(name, *way) / 2**20:,.0f}" for way in WAYS.values()]
    lines.append(f"| {name} | {' | '.join(found)} |")
  text = "\n".join([
      "<!-- begin memory -->", "",
      f"`{mnist_step._command('memory')}` at {mnist_step._commit()}, "
      f"{time.strftime('%Y-%m-%d')}; jax {jax.__version__}, "
      f"{jax.default_backend()}", "",
      f"| net | {' | '.join(WAYS)} |", f"| ---{' | --:' * len(WAYS)} |", *lines, "",
      "<!-- end memory -->"])
  print(text if not args.readme else tables.put(text, args.readme))


def _needed(name: str, remat: bool, parts: int) -> int:
  """Bytes of a segment for itself."""
  learner = step.Learner(
      MODELS[name](num_classes=10, remat=remat), methods.METHODS["hard"],
      optimizers.OptimizerSpec("sgd", optimizers.schedule(
          "constant", total_steps=100)),
      accumulate=parts)
  images = jnp.zeros((2 * BATCH, 32, 32, 3))
  ids = jnp.arange(2 * BATCH, dtype=jnp.int32)
  data = segment.DeviceData(images, ids % 10, ids, AsStored())
  hparams = jax.tree.map(jnp.float32, types.Hparams())
  key = jax.random.key(0)
  state = jax.eval_shape(segment.make_init(learner, images), key, hparams)
  compiled = segment.compiled_segment(learner, VIEWS["none"], BATCH).lower(
      state, data, (), hparams, key, jnp.int32(2)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
  import sys
  main(sys.argv[1:])
