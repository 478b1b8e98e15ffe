"""A report over many rows: seconds, memory, size of the page.

  python -m benchmarks.report --readme benchmarks/README.md

makes rows of made-up numbers, as a sweep leaves them, and measures `python -m
kd_jax.report` over each folder in a process of its own.
"""

import argparse
from collections.abc import Iterator
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import mnist_step, tables


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
  parser.add_argument("--rows", type=int, default=100_000)
  parser.add_argument("--readme", help="put the table into this file")
  parser.add_argument("--part", help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.part:
    print(json.dumps(_measured(pathlib.Path(args.part))))
    return
  load, lines = os.getloadavg()[0], []
  # 500 points are the most that have pictures.
  for points in (args.rows, max(1, args.rows // 100), min(500, args.rows), 1):
    with tempfile.TemporaryDirectory() as folder:
      size = _write(pathlib.Path(folder), points, args.rows // points)
      found = json.loads(subprocess.run(
          [sys.executable, "-m", "benchmarks.report", "--part", folder],
          cwd=mnist_step.ROOT, check=True, capture_output=True, text=True).stdout)
    lines.append(
        f"| {points:,} x {args.rows // points:,} | {size / 2**20:.0f} | "
        f"{found['seconds']:.1f} | {found['cpu']:.1f} | {found['memory']:.0f} | "
        f"{found['page'] / 2**20:.1f} |")
  text = "\n".join([
      "<!-- begin report -->", "",
      f"`{mnist_step._command('report')}` at {mnist_step._commit()}, "
      f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores, load of the machine "
      f"before the run {load:.1f}", "",
      "| points x seeds | rows, MiB | seconds | of them on a core | peak memory, "
      "MiB | page, MiB |", "| --- | --: | --: | --: | --: | --: |", *lines, "",
      "<!-- end report -->"])
  print(text if not args.readme else tables.put(text, args.readme))


def _measured(folder: pathlib.Path) -> dict[str, float]:
  """What one report takes, as the only child of this process."""
  began = time.perf_counter()
  subprocess.run([sys.executable, "-m", "kd_jax.report", str(folder)], check=True,
                 cwd=mnist_step.ROOT, stdout=subprocess.DEVNULL)
  seconds = time.perf_counter() - began
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime,
          "memory": used.ru_maxrss / 1024,
          "page": (folder / "report.html").stat().st_size}


def _write(folder: pathlib.Path, points: int, seeds: int) -> int:
  """Writes rows; returns their bytes."""
  from kd_jax.runs import results  # pylint: disable=g-import-not-at-top
  file = folder / "results.jsonl"
  results.write(file, list(rows(points, seeds)))
  return file.stat().st_size


def rows(points: int, seeds: int) -> Iterator[dict[str, Any]]:
  """Rows of a sweep over T and alpha."""
  draw = random.Random(0)
  several = lambda number: [round(draw.random(), 6) for _ in range(number)]
  side = round(points**0.5 + 0.5)
  for point in range(points):
    t, alpha = 1 + point % side / 2, point // side / side
    for seed in range(seeds):
      yield {
          "schema": 2, "row": f"T {t} alpha {alpha:.6f}", "method": "kd",
          "loss": f"{1 - alpha:.6g} * CE + {alpha:.6g} * T**2 * KL, T = {t}",
          "overrides": {"temperature": t, "alpha": alpha, "seed": seed},
          "seed": seed, "fingerprint": f"{draw.getrandbits(256):064x}",
          "teacher_fingerprint": "1" * 64, "teacher_sha256": ["2" * 64],
          "train_examples": 60000, "packing": "1x1x32", "failed": None,
          "test_errors": draw.randrange(90, 200), "test_examples": 10000,
          "agreement": draw.random(), "test_nll": draw.random(),
          "test_ece": draw.random(), "curve": {
              "train_hard": several(3), "train_soft": several(3)},
          "test_bins": {name: several(15)
                        for name in ("count", "confidence", "correct")},
          "test_wrong_ids": sorted(draw.sample(range(10000), 120)),
          "seconds": round(9 * draw.random(), 2), "study": "many",
          "command": "python -m kd_jax.main --config=configs/mnist.py --config."
                     f"alpha={alpha} --config.temperature={t} --config.seed={seed}",
          "commit": "3" * 40, "dirty": False, "numerics": 3, "device": "cpu",
          "cores": 2, "versions": {"jax": "0.10.2", "numpy": "2.4.6"}}


if __name__ == "__main__":
  main(sys.argv[1:])
