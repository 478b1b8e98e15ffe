"""A sweep on a Ray cluster: pip install ray.

  python examples/clusters/ray_sweep.py 8 runs/sweep --config=mnist:sweep

The first word is the number of parts, the second a folder that all nodes share.
Where a node is lost, its part goes on from its last checkpoint on another. The same
line again does what is missing.
"""

import pathlib
import sys

import ray

from kd_jax import report


# A process of its own for each part, since jax keeps a device to itself.
@ray.remote(num_cpus=1, max_calls=1, max_retries=-1)
def part(words: list[str]) -> int:
  """Runs a part of the sweep, on the node that Ray gives."""
  from kd_jax import main
  return main.run(words)


def run(parts: int, folder: pathlib.Path, words: list[str]) -> int:
  places = [(folder / f"part-{number}").resolve() for number in range(1, parts + 1)]
  codes = ray.get([
      part.remote([*words, f"--shard={number}/{parts}", f"--workdir={place}"])
      for number, place in enumerate(places, start=1)])
  if any(codes):
    return 1
  return report.main(["merge", *map(str, places), "--out", str(folder / "all")])


if __name__ == "__main__":
  number, place, *given = sys.argv[1:]
  ray.init()  # The cluster that RAY_ADDRESS names, or one on this machine.
  sys.exit(run(int(number), pathlib.Path(place), given))
