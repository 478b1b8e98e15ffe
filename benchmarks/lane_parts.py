"""Where a step of 32 lanes of 784-30-30-10 goes, part by part, on this machine.

  python -m benchmarks.lane_parts --out benchmarks/lane_parts_cpu.json \\
      --readme benchmarks/README.md

Every part is compiled and timed by itself, on arrays of its own: the matrix
products as `vmap` over lanes makes them and, for the first layer, as one product
over all lanes, which is the most that folding could give.
"""

import argparse
from collections.abc import Callable
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import tables
from kd_jax import losses
from kd_jax.core import strict

LANES, BATCH, PIXELS, WIDTH, CLASSES, EXAMPLES = 32, 128, 784, 30, 10, 60_000
STEPS = 469  # An epoch's order is drawn once for so many steps.
_REPEATS, _CALLS = 9, 20


def parts() -> dict[str, tuple[Callable[..., Any], tuple, float]]:
  """Name -> function, arguments, and times that a step needs it."""
  key = jax.random.key(0)
  draw = lambda *shape: jax.random.normal(key, shape)
  x, h = draw(BATCH, PIXELS), draw(LANES, BATCH, WIDTH)
  first, wide = draw(LANES, PIXELS, WIDTH), draw(PIXELS, LANES * WIDTH)
  z, taught = draw(LANES, BATCH, CLASSES), draw(BATCH, CLASSES)
  second, last = draw(LANES, WIDTH, WIDTH), draw(LANES, WIDTH, CLASSES)
  images = jax.random.randint(key, (EXAMPLES, PIXELS), 0, 255).astype(jnp.uint8)
  ids = jnp.arange(BATCH) * 7
  over = lambda f, axes: jax.vmap(f, in_axes=axes)
  soft = lambda z, v, t: jnp.sum(t**2 * losses.distillation_kl(z, v, t))
  temperatures = jnp.arange(1.0, LANES + 1)
  forward = lambda x, w: x @ w
  weights = lambda x, d: x.T @ d
  inputs = lambda d, w: d @ w.T
  update = lambda w, m, g: (w - 0.1 * (0.9 * m + g), 0.9 * m + g)
  return {
      "layer 1, forward": (over(forward, (None, 0)), (x, first), 1),
      "layer 1, forward, folded": (forward, (x, wide), 0),
      "layer 1, weights": (over(weights, (None, 0)), (x, h), 1),
      "layer 1, weights, folded": (weights, (x, draw(BATCH, LANES * WIDTH)), 0),
      "layer 2, forward": (over(forward, 0), (h, second), 1),
      "layer 2, weights": (over(weights, 0), (h, h), 1),
      "layer 2, inputs": (over(inputs, 0), (h, second), 1),
      "layer 3, forward": (over(forward, 0), (h, last), 1),
      "layer 3, weights": (over(weights, 0), (h, z), 1),
      "layer 3, inputs": (over(inputs, 0), (z, last), 1),
      "SGD with momentum, layer 1": (
          update, (first, 2 * first, 3 * first), 1),
      "soft loss and its gradient": (
          over(jax.value_and_grad(soft), (0, None, 0)),
          (z, taught, temperatures), 1),
      "gather of images": (
          lambda images, ids: images[ids].astype(jnp.float32) / 255,
          (images, ids), 1),
      "order of an epoch": (
          lambda key: jax.random.permutation(key, EXAMPLES), (key,), 1 / STEPS),
  }


def measure() -> dict[str, Any]:
  """Milliseconds of every part, in turn, round after round."""
  ready = {}
  for name, (function, arguments, _) in parts().items():
    ready[name] = (jax.jit(function), arguments)
    jax.block_until_ready(ready[name][0](*arguments))
  taken: dict[str, list[float]] = {name: [] for name in ready}
  for _ in range(_REPEATS):
    for name, (function, arguments) in ready.items():
      began = time.perf_counter()
      for _ in range(_CALLS):
        said = function(*arguments)
      jax.block_until_ready(said)
      taken[name].append(1e3 * (time.perf_counter() - began) / _CALLS)
  return {name: statistics.median(values) for name, values in taken.items()}


def block(report: dict[str, Any]) -> str:
  """The table of a record."""
  times = {name: times for name, (_, _, times) in parts().items()}
  rows = ["| part | ms | in a step | ms a step and lane |",
          "| --- | --: | --: | --: |"]
  total = 0.0
  for name, value in report["ms"].items():
    total += value * times[name]
    share = f"{times[name]:.3g} times" if times[name] else "-"
    cost = f"{value * times[name] / LANES:.4f}" if times[name] else "-"
    rows.append(f"| {name} | {value:.3f} | {share} | {cost} |")
  rows.append(f"| all | | | {total / LANES:.4f} |")
  return "\n".join([
      "<!-- begin lane_parts_cpu -->", "", f"`{report['command']}`", "",
      *rows, "", "<!-- end lane_parts_cpu -->"])


def main() -> None:
  parser = argparse.ArgumentParser(
      prog="python -m benchmarks.lane_parts", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", default="lane_parts.json")
  parser.add_argument("--readme", help="a file to put the table into")
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  report = {"command": f"python -m benchmarks.lane_parts --out {args.out}",
            "ms": measure()}
  out.write_text(strict.dumps(report, indent=1) + "\n")
  text = block(report)
  print(text if not args.readme else tables.put(text, args.readme))


if __name__ == "__main__":
  main()
