"""Sweeps of students 784-W-W-10 by lanes, by loops and by processes.

  python -m benchmarks.sweep --data DIR --out FILE.json
  python -m benchmarks.sweep --table FILE.json --readme benchmarks/README.md

Every run distils from a bank of logits; batch 128, SGD with momentum 0.9, alpha
0.9, a temperature of its own. Rectangles of lanes, a loop over the compiled
single run and PyTorch's loop are measured in turn in one process for each width
and number of devices; ratios are taken within a round. It runs without PyTorch,
and on a GPU. jax is not imported here: see sweep_parts.py.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import mnist_step, sweep_tables, tables
from benchmarks.sweep_tables import RUNS, TESTED
from kd_jax import data as data_lib
from kd_jax.core import strict
from kd_jax.core.errors import UserError

_MOST_LANES = 64
# (seeds, points) on one device, and on each of several.
_ON_ONE = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (1, 32), (1, 64), (4, 8),
           (8, 8))
_ON_EACH = ((1, 1), (1, 4), (1, 16), (1, 32), (4, 8))
_QUICK_ON_ONE, _QUICK_ON_EACH = ((1, 1), (1, 32), (4, 8)), ((1, 4),)
# From this width on a CPU gets few lanes: more take long and much memory.
_WIDE, _FEW_LANES = 800, 8
# Parts of the time left.
_SHARES = {"one": 5, "all": 4, "alone": 4}
# A process told to do without the cache, and with it.
_CACHES = ("cold", "warm")


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  args = _parse(argv)
  if args.table:
    text = sweep_tables.block(args.table)
    print(text if not args.readme else tables.put(text, args.readme))
    return
  try:
    measure(args)
  except KeyboardInterrupt:
    raise UserError(
        f"interrupted; {args.out} has the parts that were done") from None
  print(sweep_tables.block(args.out))


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog="python -m benchmarks.sweep", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "--data", default=os.environ.get(data_lib.ENVIRONMENT_VARIABLE),
      help="folder of MNIST; default KD_JAX_DATA, else random images")
  parser.add_argument("--out", default="sweep.json", help="where numbers go")
  parser.add_argument(
      "--widths", type=_widths, help="default 30,300,800")
  parser.add_argument("--rounds", type=int, help="at most; default 7")
  parser.add_argument(
      "--minutes", type=float, help="time for everything; default 12")
  parser.add_argument(
      "--quick", action="store_true",
      help="a minute and a half: few rectangles, 2 rounds, short timings")
  parser.add_argument("--table", help="print the tables of a FILE.json")
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


def tell(text: str, end: float) -> None:
  """A line of progress, with the time that is left at most."""
  left = max(0, round(end - time.time()))
  print(f"[{left // 60}:{left % 60:02d} left] {text}", file=sys.stderr,
        flush=True)


def _widths(text: str) -> list[int]:
  widths = [int(width) for width in text.split(",")]
  if min(widths) < 1:
    raise argparse.ArgumentTypeError("widths are numbers above 0: 30,800")
  return widths


def rectangles(
    width: int, devices: int, *, backend: str, quick: bool
) -> list[str]:
  """Names of the rectangles to measure, the small ones first."""
  tried = _ON_ONE if devices == 1 else _ON_EACH
  if quick:
    tried = _QUICK_ON_ONE if devices == 1 else _QUICK_ON_EACH
  few = width >= _WIDE and backend == "cpu"
  return [
      f"{devices}x{seeds}x{points}" for seeds, points in tried
      if devices * seeds * points <= max(devices, _MOST_LANES)
      and (not few or seeds * points <= _FEW_LANES
           or f"{devices}x{seeds}x{points}" == TESTED)]


def measure(args: argparse.Namespace) -> None:
  """Measures everything; `args.out` is written after each stage."""
  end = time.time() + 60 * args.minutes
  report: dict = {"machine": {}, "widths": {}, "settings": _settings(args)}
  stages = [(width, part) for width in args.widths for part in _SHARES]
  for number, (width, part) in enumerate(stages):
    shares = [_SHARES[each] for _, each in stages[number:]]
    seconds = max(0, end - time.time()) * shares[0] / sum(shares)
    found = report["widths"].setdefault(str(width), {"rounds": {}, "alone": {}})
    if part == "alone":
      _measure_alone(args, width, found, time.time() + seconds, end)
    else:
      devices = 1 if part == "one" else _most_devices(report["machine"])
      if str(devices) not in found["rounds"]:
        told = _measure_rounds(args, width, devices, seconds, end)
        report["machine"] = told.pop("machine") | report["machine"]
        found["rounds"][str(devices)] = told
    pathlib.Path(args.out).write_text(strict.dumps(report, indent=1) + "\n")


def _settings(args: argparse.Namespace) -> dict:
  return {
      "command": mnist_step._command("sweep"),
      "commit": mnist_step._commit(), "date": time.strftime("%Y-%m-%d"),
      "load": round(os.getloadavg()[0], 2),
      "data": "MNIST" if args.data else "random images of MNIST's size"}


def _most_devices(machine: dict) -> int:
  """A CPU may be as many devices as it has cores."""
  return machine["cores" if machine["backend"] == "cpu" else "devices"]


def _measure_rounds(
    args: argparse.Namespace, width: int, devices: int, seconds: float,
    end: float,
) -> dict:
  """Rounds of everything that one process with so many devices can run."""
  tell(f"width {width}, devices {devices}: rounds", end)
  return _child(devices, {
      "part": "rounds", "data": args.data, "width": width, "devices": devices,
      "rounds": args.rounds, "seconds": seconds, "end": end,
      "quick": args.quick, "timing": 0.1 if args.quick else 0.5,
      "lanes": 8 if args.quick else RUNS})


def _measure_alone(
    args: argparse.Namespace, width: int, found: dict, stop: float, end: float
) -> None:
  """A process for each of some programs, as often as there is time."""
  steps = sweep_tables.step_seconds(found)
  per_epoch = found["rounds"]["1"]["per_epoch"]
  with tempfile.TemporaryDirectory() as cache:
    filled = set()
    for number, (name, kind) in enumerate(_alone_plan(found)):
      if number > 1 and time.time() > stop:
        break
      tell(f"width {width}: {name} in a process of its own, {kind} cache", end)
      # A whole epoch of one run; of lanes, a second's worth.
      count = per_epoch if name == "loop" else max(
          2, min(per_epoch, round(1 / steps[name])))
      began = time.time()
      told = _child(sweep_tables.devices(name), {
          "part": "alone", "data": args.data, "width": width, "name": name,
          "steps": count, "warm": kind == "warm", "began": began}, cache)
      told |= {"wall": time.time() - began, "count": count}
      if kind == "cold" or name in filled:
        found["alone"].setdefault(name, {}).setdefault(kind, []).append(told)
      else:
        filled.add(name)  # The first with a cache fills it.


def _alone_plan(found: dict) -> list[tuple[str, str]]:
  """What to run alone, the most important first."""
  known = sweep_tables.step_seconds(found)
  autos = [part["auto"]["shape"] for part in found["rounds"].values()
           if part["auto"]]
  tested = [name for name in ("loop", TESTED) if name in known]
  largest = max(found["rounds"]["1"]["step_seconds"], key=sweep_tables.lanes)
  names = dict.fromkeys([*tested, largest, *autos])
  cold, warm = ([(name, kind) for name in tested] for kind in _CACHES)
  first = [(name, "cold") for name in names]
  return first + warm + warm + 2 * (cold + warm)


def _child(devices: int, spec: dict, cache: str | None = None) -> dict:
  """What a process of `sweep_parts` finds."""
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  if cache is not None:
    environment["XDG_CACHE_HOME"] = cache
  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.sweep_parts", json.dumps(spec)],
      cwd=mnist_step.ROOT, env=environment, check=False,
      stdout=subprocess.PIPE, text=True)
  if done.returncode:
    raise UserError(
        f"measuring width {spec['width']}, {spec['part']}, failed; its own "
        "message is above")
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    sys.exit(f"error: {error}")
