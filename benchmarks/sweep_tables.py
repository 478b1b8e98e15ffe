"""Names, formulas and tables of benchmarks/sweep.py; nothing of jax.

A system is "loop", "torch" or a rectangle "devices x seeds x points", such as
1x4x8. Every ratio is the median over rounds of what was computed within a round.
"""

import json
import math
import pathlib

import numpy as np

from benchmarks import problem as problem_lib
from benchmarks import tables
from kd_jax.errors import UserError

SQUARE = 2048
# Runs of the sweep whose wall time is told, and the rectangle for them.
RUNS, TESTED = 32, "1x1x32"
_EPOCHS = (1, 20)
_MOST_LANES = 64
# (seeds, points) on one device, and on each of several.
_ON_ONE = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (1, 32), (1, 64), (4, 8),
           (8, 8))
_ON_EACH = ((1, 1), (1, 4), (1, 16), (1, 32), (4, 8))
_QUICK_ON_ONE, _QUICK_ON_EACH = ((1, 1), (1, 8), (1, 32), (4, 8)), ((1, 4),)
# From this width on a CPU gets few lanes: more take long and much memory.
_WIDE, _FEW_LANES = 800, 8
_MISSING = "not measured"


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


def lanes(name: str) -> int:
  """Runs that a system trains at once."""
  return math.prod(map(int, name.split("x"))) if name[0].isdigit() else 1


def devices(name: str) -> int:
  """Devices that a system trains on."""
  return int(name.split("x")[0]) if name[0].isdigit() else 1


def flops(width: int) -> int:
  """Of the matrix products of a student's step."""
  return sum(product.flops for product in problem_lib.products(width)
             if product.net == "student")


def moved(width: int) -> int:
  """Bytes of a step's SGD: weight, momentum, gradient read; the first two
  written."""
  shapes = {(one.fan_in, one.fan_out) for one in problem_lib.products(width)
            if one.net == "student"}
  return 5 * 4 * sum((fan_in + 1) * fan_out for fan_in, fan_out in shapes)


def step_seconds(found: dict) -> dict[str, float]:
  """Median seconds of a step of all lanes, by system."""
  told: dict[str, float] = {}
  for _, part in _parts(found):
    for name, taken in part["step_seconds"].items():
      told.setdefault(name, float(np.median(taken)))
  return told


def run_seconds(
    found: dict, system: str, cache: str, epochs: int
) -> float | None:
  """Wall time of 32 runs, start and compilation included.

  Args:
    found: What was measured at a width.
    system: "process" for one of each run, "loop", "torch" or a rectangle.
    cache: "cold" or "warm", XLA's cache.
    epochs: Of each run.

  Returns:
    Seconds, or None if it was not measured. Every run is evaluated once.
    PyTorch's are its steps alone.
  """
  per_epoch = found["rounds"]["1"]["per_epoch"]
  steps = step_seconds(found)
  if system == "torch":
    taken = steps.get(system)
    return taken and RUNS * epochs * per_epoch * taken
  name = "loop" if system == "process" else system
  told = found["alone"].get(name, {}).get(cache)
  if not told or name not in steps:
    return None
  middle = lambda key: float(np.median([one[key] for one in told]))
  again = middle("again")
  fixed = middle("wall") - again - middle("steps")
  if system == "process":
    epoch = middle("steps") * per_epoch / told[0]["count"]
    return RUNS * (fixed + epochs * epoch)
  turns = math.ceil(RUNS / lanes(system))
  return (fixed + (turns - 1) * again
          + turns * epochs * per_epoch * steps[system])


def block(file: str) -> str:
  """The tables of a JSON file between two marks that name it.

  Raises:
    UserError: If there is no such file, or it is another.
  """
  path = pathlib.Path(file)
  try:
    report = json.loads(path.read_text())
    parts = [_heading(report), _targets(report), _wall(report)] + [
        text for width, found in report["widths"].items() if found["rounds"]
        for text in _width(int(width), found)]
  except (OSError, ValueError) as error:
    raise UserError(f"{file}: cannot be read ({error})") from None
  except KeyError as error:
    raise UserError(
        f"{file}: has no {error}; it must be of benchmarks.sweep") from None
  begin, end = tables._marks(path.stem)
  return "\n\n".join([begin, *parts, end])


def _parts(found: dict) -> list[tuple[int, dict]]:
  """What each number of devices gave, the fewest first."""
  return sorted((int(number), part) for number, part in found["rounds"].items())


def _times(found: dict, name: str) -> np.ndarray | None:
  """How many times as fast as the loop a lane is, in each round."""
  for _, part in _parts(found):
    taken = part["step_seconds"]
    if name in taken:
      return np.array(taken["loop"]) * lanes(name) / np.array(taken[name])
  return None


def _heading(report: dict) -> str:
  machine, settings = report["machine"], report["settings"]
  rates = [2 * SQUARE**3 / 1e9 / np.array(part["step_seconds"]["square"])
           for found in report["widths"].values() for _, part in _parts(found)]
  versions = ", ".join(
      f"{name} {version}" for name, version in machine["versions"].items())
  device = ", ".join(
      f"{name} on {kind}" for name, kind in machine["device"].items())
  return "\n".join([
      f"`{settings['command']}` at {settings['commit']}, {settings['date']}", "",
      f"- {machine['cpu']}, {machine['cores']} cores; {device}; {versions}; "
      f"load of the machine before the run {settings['load']:.2f}",
      f"- images of {settings['data']}, batches of {problem_lib.BATCH}; median "
      "(least to most) over rounds",
      f"- sgemm of {SQUARE}x{SQUARE} in jax, in the same rounds: "
      f"{tables._spread(np.concatenate(rates), '.0f')} GFLOP/s"])


def _targets(report: dict) -> str:
  widths = report["widths"]
  narrow, wide = widths.get("30"), widths.get("800")
  rows = []
  aims = [(narrow, "2x30", TESTED, 3.5), (narrow, "2x30", "1x4x8", 2.8)]
  if report["machine"]["backend"] != "cpu":
    aims += [(narrow, "2x30", "1x1x64", 40), (wide, "2x800", "1x1x64", 6)]
  for found, net, name, aim in aims:
    times = found and _times(found, name)
    rows.append([f"{net}: {name} over the loop", *_verdict(times, aim)])
  for cache in ("cold", "warm"):
    for epochs in _EPOCHS:
      both = narrow and [run_seconds(narrow, system, cache, epochs)
                         for system in ("process", TESTED)]
      times = both[0] / both[1] if both and None not in both else None
      rows.append([
          f"2x30: {RUNS} runs of {epochs} epoch{'s' * (epochs > 1)} as {TESTED} "
          f"over one process a run, {cache} cache", *_verdict(times, 20)])
  for number, part in _parts(wide or {"rounds": {}}):
    name = part["auto"] and part["auto"]["shape"]
    times = name and np.array(part["step_seconds"]["loop"]) * lanes(
        name) / np.array(part["step_seconds"][name])
    rows.append([f"2x800: lanes=auto ({name}) over the loop, {number} "
                 f"device{'s' * (number > 1)}", *_verdict(times, 0.95)])
  rows.append(["2x30: most that a lane costs more than in fewer lanes of a "
               "seed", *_rise(narrow)])
  return tables._table(["target", "measured", "aim", ""], rows)


def _verdict(times, aim: float) -> list[str]:
  if times is None:
    return [_MISSING, f">= {aim}", ""]
  times = np.atleast_1d(times)
  text = (tables._spread(times, ".2f") if len(times) > 1 else f"{times[0]:.1f}")
  return [text, f">= {aim}",
          "met" if np.median(times) >= aim else "missed"]


def _rise(found: dict | None) -> list[str]:
  """The worst ratio of a rectangle 1x1xN's cost a lane to a smaller one's."""
  names = found and sorted(
      (name for name in step_seconds(found) if name.startswith("1x1x")),
      key=lanes)
  if not names:
    return [_MISSING, "<= 1.1", ""]
  speed = [np.median(_times(found, name)) for name in names]
  rise = [max(speed[:n]) / speed[n] for n in range(1, len(speed))]
  worst = max(rise, default=1.0)
  where = f" at {names[1 + rise.index(worst)]}" if rise else ""
  return [f"{worst:.2f}{where}, up to {names[-1]}", "<= 1.1",
          "met" if worst <= 1.1 else "missed"]
