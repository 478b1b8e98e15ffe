"""Steps of convolutional nets within a loop, with jax's gradients and with ours.

  python -m benchmarks.convolution --readme benchmarks/README.md

trains each net on 64 made-up images of 32x32x3 in a `fori_loop`, as a segment does,
and the same with `jax.lax.conv_general_dilated` in place of `core/convolution.py`.
Both take turns, so that what else the machine does hits them alike.
"""

import argparse
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import mnist_step, tables
from kd_jax.core import types
from kd_jax.core.convolution import convolution
from kd_jax.models import MODELS, layers

NETS = ("resnet8", "resnet20", "wrn_16_1", "vgg8")
BATCH = 64


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution")
  parser.add_argument("--nets", nargs="+", default=NETS)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--readme", help="put the table into this file")
  args = parser.parse_args(argv)
  load, lines = os.getloadavg()[0], []
  for name in args.nets:
    steps = {"jax": _step(name, jax.lax.conv_general_dilated),
             "ours": _step(name, convolution)}
    taken: dict[str, list[float]] = {which: [] for which in steps}
    for _ in range(args.rounds):
      for which, step in steps.items():
        taken[which].append(step())
    of_jax, ours = (statistics.median(taken[which]) for which in ("jax", "ours"))
    lines.append(f"| {name} | {1e3 * of_jax:,.0f} | {1e3 * ours:,.0f} | "
                 f"{of_jax / ours:.1f} | {BATCH / ours:,.0f} |")
  text = "\n".join([
      "<!-- begin convolution -->", "",
      f"`{mnist_step._command('convolution')}` at {mnist_step._commit()}, "
      f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores, load of the machine "
      f"before the run {load:.1f}", "",
      "| net | jax's gradients, ms | ours, ms | ratio | images/s of a core, ours |",
      "| --- | --: | --: | --: | --: |", *lines, "", "<!-- end convolution -->"])
  print(text if not args.readme else tables.put(text, args.readme))


def _step(name: str, conv: Any):
  """Measures the processor's seconds of a step, of two within a loop."""
  before, layers.convolution = layers.convolution, conv
  try:
    model = MODELS[name](num_classes=10)
    image = jax.random.normal(jax.random.key(0), (BATCH, 32, 32, 3))
    start = jax.jit(model.init)(jax.random.key(1), image)

    def step(number, variables):
      def loss(params):
        outputs, state = model.apply(
            types.Variables(params, variables.state), image, train=True,
            mask=jnp.ones(BATCH, bool))
        return jnp.mean(jnp.square(outputs.logits)), state
      slopes, state = jax.grad(loss, has_aux=True)(variables.params)
      return types.Variables(jax.tree.map(
          lambda x, slope: x - 1e-3 * slope, variables.params, slopes), state)

    program = jax.jit(lambda start, length: jax.lax.fori_loop(
        0, length, step, start)).lower(start, jnp.int32(2)).compile()
  finally:
    layers.convolution = before

  def measured() -> float:
    began = time.process_time()
    jax.block_until_ready(program(start, jnp.int32(2)))
    return (time.process_time() - began) / 2

  measured()  # The first time fills caches.
  return measured


if __name__ == "__main__":
  import sys
  main(sys.argv[1:])
