"""A sweep as a Slurm array, through submitit: pip install submitit.

  python examples/clusters/submitit_sweep.py 8 runs/sweep --config=mnist:sweep

The first word is the number of parts, the second a folder that all machines share.
The same line again does what is missing. --local as the first word tries it here.
"""

import pathlib
import sys

import submitit

from kd_jax import main, report


def part(words: list[str]) -> int:
  """Runs a part of the sweep, on the machine that Slurm gives."""
  return main.run(words)


def run(
    parts: int, folder: pathlib.Path, words: list[str], cluster: str | None
) -> int:
  executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster)
  executor.update_parameters(timeout_min=240, cpus_per_task=8)
  places = [folder / f"part-{number}" for number in range(1, parts + 1)]
  jobs = executor.map_array(part, [
      [*words, f"--shard={number}/{parts}", f"--workdir={place}"]
      for number, place in enumerate(places, start=1)])
  if any(job.result() for job in jobs):
    return 1
  return report.main(["merge", *map(str, places), "--out", str(folder / "all")])


if __name__ == "__main__":
  local = sys.argv[1] == "--local"
  number, place, *given = sys.argv[1 + local:]
  sys.exit(run(int(number), pathlib.Path(place), given, "local" if local else None))
