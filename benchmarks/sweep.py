"""Sweeps of students 784-W-W-10 by lanes, by loops and by processes.

  python -m benchmarks.sweep --data DIR --out FILE.json
  python -m benchmarks.sweep --table FILE.json --readme benchmarks/README.md

Every run distils from a bank of logits; batch 128, SGD with momentum 0.9, alpha
0.9, a temperature of its own. Rectangles of lanes, a loop over the compiled single
run and PyTorch's loop are measured in turn in one process for each width and
number of devices; ratios are taken within a round. It runs without PyTorch, and
on a GPU. jax is not imported here: see sweep_parts.py.
"""

import argparse
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import mnist_step, tables
from benchmarks import problem as problem_lib
from kd_jax import data as data_lib
from kd_jax.errors import UserError

SQUARE = 2048
RUNS = 32
_TESTED = f"1x1x{RUNS}"
_MOST_LANES = 64
# (seeds, points) on one device, and on each of several.
_ON_ONE = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (1, 32), (1, 64), (4, 8),
           (8, 8))
_ON_EACH = ((1, 1), (1, 4), (1, 16), (1, 32), (4, 8))
# From this width on, a CPU gets few lanes: they are slow, and no faster.
_WIDE = 800
# Parts of the time left.
_SHARES = {"one": 5, "all": 4, "alone": 4}
Json = dict


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  args = _parse(argv)
  if args.table:
    text = block(args.table)
    print(text if not args.readme else tables.put(text, args.readme))
    return
  try:
    measure(args)
  except KeyboardInterrupt:
    raise UserError(
        f"interrupted; {args.out} has what was measured") from None
  print(block(args.out))


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog="python -m benchmarks.sweep", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "--data", default=os.environ.get(data_lib.ENVIRONMENT_VARIABLE),
      help="folder of MNIST; default KD_JAX_DATA, else random images")
  parser.add_argument("--out", default="sweep.json", help="where numbers go")
  parser.add_argument(
      "--widths", help="default 30,300,800", type=lambda text: [
          int(width) for width in text.split(",")])
  parser.add_argument("--rounds", type=int, help="at most; default 7")
  parser.add_argument(
      "--minutes", type=float, help="time for everything; default 12")
  parser.add_argument(
      "--quick", action="store_true",
      help="a minute and a half: few rectangles, 2 rounds, short timings")
  parser.add_argument("--table", help="print the tables of an earlier FILE.json")
  parser.add_argument("--readme", help="with --table: put them into this file")
  args = parser.parse_args(argv)
  quick = args.quick
  args.widths = args.widths or ([30, 800] if quick else [30, 300, 800])
  args.rounds = args.rounds or (2 if quick else 7)
  args.minutes = args.minutes or (1.5 if quick else 12)
  args.data = args.data and os.path.abspath(args.data)
  if not args.table and not pathlib.Path(args.out).absolute().parent.is_dir():
    raise UserError(f"--out={args.out}: there is no such folder")
  return args


def rectangles(
    width: int, devices: int, *, quick: bool, backend: str = "cpu"
) -> list[str]:
  """Names of the rectangles to measure, as devices x seeds x points."""
  tried = _ON_ONE if devices == 1 else _ON_EACH
  if quick:
    tried = ((1, 1), (1, 8), (1, 32), (4, 8)) if devices == 1 else ((1, 4),)
  few = width >= _WIDE and backend == "cpu"
  return [
      f"{devices}x{seeds}x{points}" for seeds, points in tried
      if (devices * seeds * points <= _MOST_LANES or seeds * points == 1)
      and (not few or seeds * points <= 8 or (devices, points) == (1, RUNS))]


def lanes(name: str) -> int:
  """How many runs a system of the tables trains at once."""
  return math.prod(map(int, name.split("x"))) if name[0].isdigit() else 1


def flops(width: int) -> int:
  """Of a student's matrix products in a step."""
  return sum(product.flops for product in problem_lib.products(width)
             if product.net == "student")


def moved(width: int) -> int:
  """Bytes of SGD in a step: weight, momentum, gradient read; two written."""
  return 5 * 4 * sum(
      (rows + 1) * columns for rows, columns in problem_lib._layers(width))


def tell(text: str, end: float) -> None:
  """A line of progress, with the time that is left at most."""
  left = max(0, round(end - time.time()))
  print(f"[{left // 60}:{left % 60:02d} left] {text}", file=sys.stderr,
        flush=True)


def measure(args: argparse.Namespace) -> None:
  """Measures everything; `args.out` is written after each stage."""
  end = time.time() + 60 * args.minutes
  command = shlex.join(["python", "-m", "benchmarks.sweep", *sys.argv[1:]])
  load = round(os.getloadavg()[0], 2)
  report: Json = {"machine": {}, "widths": {}, "settings": {
      "command": command, "commit": mnist_step._commit(),
      "date": time.strftime("%Y-%m-%d"), "load": load,
      "data": "MNIST" if args.data else "random images of MNIST's size"}}
  stages = [(width, part) for width in args.widths for part in _SHARES]
  for number, (width, part) in enumerate(stages):
    shares = [_SHARES[each] for _, each in stages[number:]]
    seconds = max(0, end - time.time()) * shares[0] / sum(shares)
    found = report["widths"].setdefault(str(width), {"rounds": {}, "alone": {}})
    if part == "alone":
      _measure_alone(args, width, found, time.time() + seconds, end)
    else:
      devices = 1 if part == "one" else report["machine"]["most_devices"]
      if str(devices) in found["rounds"]:
        continue
      tell(f"width {width}, {devices} device(s): rounds", end)
      told = _child(args, devices, end, {
          "part": "rounds", "width": width, "rounds": args.rounds,
          "seconds": seconds, "quick": args.quick, "devices": devices,
          "timing": 0.1 if args.quick else 0.5,
          "lanes": 8 if args.quick else RUNS})
      report["machine"] = told.pop("machine") | report["machine"]
      found["rounds"][str(devices)] = told
    pathlib.Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


def _measure_alone(args, width: int, found: Json, stop: float, end: float):
  """One process a run, and what a sweep costs beside its steps."""
  steps = found["rounds"]["1"]["step_seconds"]
  autos = [part["auto"]["shape"] for part in found["rounds"].values()
           if part["auto"]]
  known = {**steps, **found["rounds"][max(found["rounds"], key=int)][
      "step_seconds"], **steps}
  largest = max(steps, key=lanes)
  names = list(dict.fromkeys(["loop", _TESTED, largest, *autos]))
  plan = [(name, False) for name in names if name in known]
  # The first with a cache fills it.
  plan += [(name, True) for name in ("loop", _TESTED) for _ in range(2)]
  plan += 2 * plan[:2]
  with tempfile.TemporaryDirectory() as cache:
    filled = set()
    for number, (name, warm) in enumerate(plan):
      if number > 1 and time.time() > stop:
        break
      kind = "warm" if warm else "cold"
      tell(f"width {width}: {name} in a process of its own, {kind}", end)
      per_epoch = 469
      count = per_epoch if name == "loop" else max(
          2, min(per_epoch, round(1 / np.median(known[name]))))
      began = time.time()
      told = _child(args, int(name[0]) if name != "loop" else 1, end, {
          "part": "alone", "width": width, "name": name, "steps": count,
          "warm": warm, "began": began}, cache)
      told |= {"wall": time.time() - began, "count": count}
      if not warm or name in filled:
        found["alone"].setdefault(name, {}).setdefault(kind, []).append(told)
      filled |= {name} if warm else set()
