"""The tables of benchmarks/accelerator.py: markdown from its records, without jax.

A ratio is the median over rounds of those within a round, with the least and the
most.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks import tables
from kd_jax.core.errors import UserError

BEGIN, END = "<!-- begin accelerators -->", "<!-- end accelerators -->"
_KEYS = {"command", "commit", "date", "data", "rehearsal", "machine", "rows",
         "ended"}
# What is aimed at on an H100: the faster, the slower, and how many times as fast.
_STEP_AIM = ("kd_jax live float32", "torch live float32, DataLoader", 4.0)
_LANES_AIMS = {30: 40.0, 800: 6.0}

Row = dict[str, Any]


def read(file: pathlib.Path) -> dict:
  """A record.

  Raises:
    UserError: If there is none, or it is another file.
  """
  try:
    report = json.loads(file.read_text())
    if not isinstance(report, dict) or set(report) != _KEYS:
      raise ValueError("its keys are others")
  except (OSError, ValueError) as error:
    raise UserError(f"{file}: not a record of benchmarks.accelerator ({error})"
                    ) from None
  return report


def device(report: dict) -> str:
  """The device's name in two words, such as NVIDIA H100; CPU for a processor."""
  name = report["machine"].get("device", {}).get("jax", "unknown")
  return "CPU" if name == "cpu" else " ".join(name.split()[:2])


def block(reports: Sequence[dict]) -> str:
  """A section a device, between the marks that name it."""
  sections = [_section(report) for report in reports]
  return "\n\n".join([BEGIN, *(sections or ["No record yet."]), END])


def _section(report: dict) -> str:
  rows = report["rows"]
  parts = [_heading(report), _ceilings(rows.get("ceilings", {})),
           _aims(rows), _step(rows.get("step", {}), rows),
           _lanes(rows.get("lanes", {}), rows),
           _step(rows.get("convolution", {}), rows, "A step of resnet8, batch 128"),
           _deterministic(rows), _not_run(rows)]
  return "\n\n".join(part for part in parts if part)


def _heading(report: dict) -> str:
  machine = report["machine"]
  versions = ", ".join(f"{name} {version}"
                       for name, version in machine.get("versions", {}).items())
  ended = [f"{part} {how}" for part, how in report["ended"].items()
           if how != "through"]
  lines = [f"## {device(report)}", "",
           f"`{report['command']}` at {report['commit']}, {report['date']}", "",
           f"- {machine.get('device', {}).get('jax')}; {machine.get('cpu')}, "
           f"{machine.get('cores')} cores; {versions}; {report['data']}"]
  return "\n".join(lines + [f"- not whole: {'; '.join(ended)}"] * bool(ended))


def _ceilings(rows: dict[str, Row]) -> str:
  lines = []
  for name, row in _timed(rows).items():
    rates = (row.get("flops") or row["bytes"]) / np.array(row["seconds"])
    unit = "TFLOP/s" if "flops" in row else "TB/s"
    lines.append([name, tables.spread(rates / 1e12, ".3g"), unit])
  return _table(["ceiling", "measured", ""], lines)


def ceiling(rows: dict[str, dict[str, Row]], name: str) -> float:
  """FLOP/s or bytes/s of a ceiling; NaN where it was not measured."""
  row = _timed(rows.get("ceilings", {})).get(name)
  if row is None:
    return float("nan")
  amount = row.get("flops") or row["bytes"]
  return float(amount / np.median(row["seconds"]))


def _aims(rows: dict[str, dict[str, Row]]) -> str:
  faster, slower, aim = _STEP_AIM
  steps = _timed(rows.get("step", {}))
  lines = []
  if faster in steps and slower in steps:
    lines.append([f"{faster} over {slower}",
                  *_judged(ratio(steps[slower], steps[faster]), aim)])
  for width, aim in _LANES_AIMS.items():
    found = {name: np.array(row["loop_seconds"]) / np.array(row["seconds"])
             for name, row in _timed(rows.get("lanes", {})).items()
             if row["width"] == width}
    if found:
      name = max(found, key=lambda one: float(np.median(found[one])))
      lines.append([f"lanes {name} over the loop", *_judged(found[name], aim)])
  return _table(["aim on an H100", "measured", "aim", ""], lines)


def _judged(ratios: np.ndarray, aim: float) -> list[str]:
  met = "met" if np.median(ratios) >= aim else "missed"
  return [tables.spread(ratios, ".3g"), f">= {aim:g}", met]


def ratio(slow: Row, fast: Row) -> np.ndarray:
  """How many times as fast one system is, in the rounds that both have."""
  rounds = min(len(slow["seconds"]), len(fast["seconds"]))
  return np.array(slow["seconds"][:rounds]) / np.array(fast["seconds"][:rounds])


def _step(rows, everything, title: str = "A step on MNIST, batch 128") -> str:
  """Every system of a part: time, rate, times that of the first one of kd_jax."""
  timed = _timed(rows)
  if not timed:
    return ""
  first = next(iter(timed))
  lines = []
  for name, row in timed.items():
    milliseconds = 1e3 * np.array(row["seconds"])
    rate = ""
    if "flops" in row:
      kind = name.split(",")[0].split()[-1]
      reached = row["flops"] / np.median(row["seconds"])
      rate = (f"{reached / 1e12:.3g} TFLOP/s, "
              f"{reached / ceiling(everything, f'jax matmul {kind}'):.0%}")
    lines.append([name, tables.spread(milliseconds, ".3g"), rate,
                  tables.spread(ratio(row, timed[first]), ".3g")])
  return _table([title, "ms a step", "products, of the ceiling",
                 f"times {first}"], lines)


def _lanes(rows: dict[str, Row], everything) -> str:
  """Every rectangle beside the loop, and beside what the device allows at least."""
  lines = []
  for name, row in sorted(_timed(rows).items(),
                          key=lambda item: (item[1]["width"], item[1]["lanes"])):
    seconds = np.array(row["seconds"])
    floor = max(row["flops"] / ceiling(everything, "jax matmul float32"),
                row["bytes"] / ceiling(everything, "jax copy"))
    lines.append([
        name, tables.spread(1e6 * seconds, ".3g"),
        tables.spread(np.array(row["loop_seconds"]) / seconds, ".3g"),
        f"{1e6 * floor:.3g}", f"{np.median(seconds) / floor:.1f}",
        f"{row['compile_seconds']:.1f}"])
  return _table(["lanes", "us a step and lane", "times the loop", "floor, us",
                 "times the floor", "compilation, s"], lines)


def _deterministic(rows: dict[str, dict[str, Row]]) -> str:
  with_, without = (_timed(rows.get(part, {}))
                    for part in ("deterministic", "nondeterministic"))
  lines = [[name, tables.spread(1e3 * np.array(row["seconds"]), ".3g"),
            f"{np.median(with_[name]['seconds']) / np.median(row['seconds']):.2f}"]
           for name, row in without.items() if name in with_]
  return _table(["XLA's deterministic operations", "without, ms a step",
                 "times as long with"], lines)


def _not_run(rows: dict[str, dict[str, Row]]) -> str:
  return "\n".join(f"- not run: {part}, {name}: {row['failed']}"
                   for part, named in rows.items() for name, row in named.items()
                   if "failed" in row)


def _timed(rows: dict[str, Row]) -> dict[str, Row]:
  return {name: row for name, row in rows.items() if row.get("seconds")}


def _table(columns: list[str], lines: list[list[str]]) -> str:
  """A table, or nothing where there is no line."""
  return tables.table(columns, lines) if lines else ""
