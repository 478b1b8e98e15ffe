"""Names, formulas and tables of benchmarks/sweep.py; nothing of jax.

A system is "loop", "torch" or a rectangle "devices x seeds x points", such as
1x4x8. Every ratio is the median over rounds of those within a round.
"""

import json
import math
import pathlib

import numpy as np

from benchmarks import problem as problem_lib
from benchmarks import tables
from kd_jax.core.errors import UserError

SQUARE = 2048
# Runs of the sweep whose wall time is told, and the rectangle for them.
RUNS, TESTED = 32, "1x1x32"
_EPOCHS = (1, 20)
_MISSING = "not measured"


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
  """Bytes of a step's SGD: reads weight, momentum, gradient; writes two."""
  layers = [one for one in problem_lib.products(width)
            if (one.net, one.kind) == ("student", "forward")]
  return 5 * 4 * sum((one.fan_in + 1) * one.fan_out for one in layers)


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
    PyTorch's, which must be there, are its steps alone.
  """
  per_epoch = found["rounds"]["1"]["per_epoch"]
  steps = step_seconds(found)
  if system == "torch":
    return RUNS * epochs * per_epoch * min(
        taken for name, taken in steps.items() if name.startswith(system))
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
  taken = epochs * per_epoch * steps[system]
  return fixed + turns * taken + (turns - 1) * again


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
  except (OSError, ValueError, KeyError) as error:
    raise UserError(
        f"{file}: not a file that benchmarks.sweep wrote ({error!r})") from None
  begin, end = tables._marks(path.stem)
  return "\n\n".join([begin, *parts, end])


def _parts(found: dict) -> list[tuple[int, dict]]:
  """What each number of devices gave, the fewest first."""
  return sorted((int(number), part) for number, part in found["rounds"].items())


def _times(found: dict, name: str) -> np.ndarray | None:
  """`_over_loop` of the process with the fewest devices that has the system."""
  return next((_over_loop(part, name) for _, part in _parts(found)
               if name in part["step_seconds"]), None)


def _over_loop(part: dict, name: str) -> np.ndarray:
  """How many times as fast as the loop a lane is, in each round."""
  taken = part["step_seconds"]
  return np.array(taken["loop"]) * lanes(name) / np.array(taken[name])


def _heading(report: dict) -> str:
  machine, settings = report["machine"], report["settings"]
  parts = [part["step_seconds"] for found in report["widths"].values()
           for _, part in _parts(found)]
  rates = [2 * SQUARE**3 / 1e9 / np.array(part["square"]) for part in parts]
  rounds = sorted({len(part["square"]) for part in parts})
  versions = ", ".join(
      f"{name} {version}" for name, version in machine["versions"].items())
  device = ", ".join(
      f"{name} on {kind}" for name, kind in machine["device"].items())
  return "\n".join([
      f"`{settings['command']}` at {settings['commit']}, {settings['date']}\n",
      f"- {machine['cpu']}, {machine['cores']} cores; {device}; {versions}; "
      f"load of the machine before the run {settings['load']:.2f}",
      f"- {settings['data']}, batches of {problem_lib.BATCH}; median (least to "
      f"most), rounds: {' or '.join(map(str, rounds))}",
      f"- sgemm of {SQUARE}x{SQUARE} in jax, in the same rounds: "
      f"{tables.spread(np.concatenate(rates), '.0f')} GFLOP/s"])


def _some(number: int, what: str) -> str:
  return f"{number} {what}" + "s" * (number > 1)


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
      both = [narrow and run_seconds(narrow, system, cache, epochs)
              for system in ("process", TESTED)]
      times = None if None in both else both[0] / both[1]
      rows.append([
          f"2x30: {RUNS} runs of {_some(epochs, 'epoch')}, {TESTED} over one "
          f"process a run, {cache} cache", *_verdict(times, 20)])
  for number, part in _parts(wide or {"rounds": {}}):
    name = part["auto"] and part["auto"]["shape"]
    rows.append([
        f"2x800: lanes=auto ({name or '?'}) over the loop, "
        f"{_some(number, 'device')}",
        *_verdict(_over_loop(part, name) if name else None, 0.95)])
  rows.append(["2x30: most that a lane costs more than in fewer lanes of a "
               "seed", *_rise(narrow)])
  return tables.table(["target", "measured", "aim", ""], rows)


def _verdict(times, aim: float) -> list[str]:
  if times is None:
    return [_MISSING, f">= {aim}", ""]
  text = f"{times:.1f}" if np.ndim(times) == 0 else tables.spread(times, ".2f")
  return [text, f">= {aim}", "met" if np.median(times) >= aim else "missed"]


def _rise(found: dict | None) -> list[str]:
  """The worst ratio of a rectangle 1x1xN's cost a lane to a smaller one's."""
  names = found and sorted(
      (name for name in step_seconds(found) if name[:4] == "1x1x"), key=lanes)
  if not names:
    return [_MISSING, "<= 1.1", ""]
  speed = [np.median(_times(found, name)) for name in names]
  rise = [max(speed[:n]) / speed[n] for n in range(1, len(speed))]
  worst = max(rise, default=1.0)
  where = f" at {names[1 + rise.index(worst)]}" if rise else ""
  return [f"{worst:.2f}{where}, up to {names[-1]}", "<= 1.1",
          "met" if worst <= 1.1 else "missed"]


def _wall(report: dict) -> str:
  """Wall time of all runs, and the memory of their processes."""
  rows = []
  for width, found in report["widths"].items():
    if "1" not in found["rounds"]:
      continue
    fastest = {epochs: run_seconds(found, TESTED, "cold", epochs)
               for epochs in _EPOCHS}
    for title, system, cache in _systems(found):
      taken = [_clock(run_seconds(found, system, cache, epochs), least)
               for epochs, least in fastest.items()]
      rows.append([f"2x{width}: {title}", *taken, _peak(found, system, cache)])
  titles = [f"{RUNS} runs of {_some(epochs, 'epoch')}, s" for epochs in _EPOCHS]
  titles = ["system", *titles, "peak memory of a process, MiB"]
  return "\n".join([
      tables.table(titles, rows), "",
      f"In parentheses: times that of {TESTED} with a cold cache. Start of "
      "Python, imports, data, parameters, compilation and one evaluation of "
      "10,000 images are in, but for PyTorch's, whose steps alone are told. A "
      "fresh process with one run of one epoch is measured whole; the rest is "
      "put together from a process's fixed costs and the steps' median times. "
      "A cold cache is none; a warm one is kd_jax's own, filled before."])


def _systems(found: dict) -> list[tuple[str, str, str]]:
  """Title, system and cache of the rows at a width."""
  largest = max(found["rounds"]["1"]["step_seconds"], key=lanes)
  auto = (_parts(found)[-1][1]["auto"] or {}).get("shape")
  systems = [("one process a run", "process", "cold"),
             ("one process a run, warm cache", "process", "warm"),
             ("loop over one compiled run", "loop", "cold"),
             (f"lanes {TESTED}", TESTED, "cold"),
             (f"lanes {TESTED}, warm cache", TESTED, "warm")]
  if auto and auto != TESTED:
    systems.append((f"lanes=auto, {auto}", auto, "cold"))
  if largest not in ("loop", TESTED, auto):
    systems.append((f"lanes {largest}", largest, "cold"))
  if _has_torch(found):
    systems.append(("PyTorch's loop, steps alone", "torch", "cold"))
  return systems


def _has_torch(found: dict) -> bool:
  return any(name.startswith("torch") for name in step_seconds(found))


def _clock(taken: float | None, fastest: float | None) -> str:
  if taken is None:
    return _MISSING
  return f"{taken:,.1f}" + (f" ({taken / fastest:.1f}x)" if fastest else "")


def _peak(found: dict, system: str, cache: str) -> str:
  name = "loop" if system == "process" else system
  peaks = [one["device_peak_bytes"] or one["peak_bytes"]
           for one in found["alone"].get(name, {}).get(cache, [])]
  return f"{max(peaks) / 2**20:,.0f}" if peaks else ""


def _width(width: int, found: dict) -> list[str]:
  """Every system at a width: a heading and a table."""
  rows, notes = [], []
  for number, part in _parts(found):
    auto = part["auto"]
    names = sorted(part["step_seconds"], key=lambda name: (
        name[0].isdigit(), lanes(name)))
    rows += [_row(width, number, part, name) for name in names
             if name != "square"]
    if auto:
      notes.append(
          f"lanes=auto with {_some(number, 'device')} takes {auto['shape']}.")
    if part["left_out"]:
      notes.append(f"No time was left for {', '.join(part['left_out'])}.")
  if not _has_torch(found):
    notes.append("PyTorch is not installed.")
  heading = (
      f"784-{width}-{width}-10: {flops(width) / 1e9:.4f} GFLOP and "
      f"{moved(width) / 1e6:.2f} MB of weights, momentum and gradients a step "
      f"and lane. {' '.join(notes)}")
  return [heading.strip(), tables.table(
      ["devices x seeds x points", "ms a step and lane", "times the loop",
       "GFLOP/s", "of sgemm's", "GB/s of SGD", "compilation, s",
       "XLA's memory, MiB"], rows)]


def _row(width: int, number: int, part: dict, name: str) -> list[str]:
  """A system's costs, beside the least that its arithmetic and SGD ask for."""
  lane = np.array(part["step_seconds"][name]) / lanes(name)
  square = np.array(part["step_seconds"]["square"])
  share = flops(width) / lane * square / (2 * SQUARE**3)
  title = f"{name}, {number} devices" if name == "loop" and number > 1 else name
  known = name in part["compile_seconds"]  # PyTorch compiles nothing.
  return [
      title, tables.spread(1e3 * lane, ".3f"),
      tables.spread(_over_loop(part, name), ".2f"),
      f"{np.median(flops(width) / lane) / 1e9:.0f}",
      f"{100 * np.median(share):.0f} %",
      f"{np.median(moved(width) / lane) / 1e9:.1f}",
      f"{part['compile_seconds'][name]:.1f}" if known else "",
      f"{part['bytes'][name] / 2**20:,.0f}" if name in part["bytes"] else ""]
