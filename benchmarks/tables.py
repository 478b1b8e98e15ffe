"""The benchmark's tables: markdown from its JSON file, nothing typed by hand.

Every figure is the median over rounds of what was computed within a round: a
ratio of two systems, or a share of a step, compares times that lie seconds
apart on the machine.
"""

from collections.abc import Iterable
import json
import pathlib
from typing import NamedTuple

import numpy as np

from benchmarks import problem as problem_lib
from benchmarks.problem import BATCH, Product
from kd_jax.core.errors import UserError

SYSTEMS = ("a", "b", "c", "d")
_TITLES = {
    "a": "(a) kd_jax, live teacher",
    "b": "(b) kd_jax, banked teacher",
    "c": "(c) PyTorch, plain loop, live teacher",
    "d": "(d) PyTorch, indexed tensors, cached logits",
}
_LIBRARY = {"a": "jax", "b": "jax", "c": "torch", "d": "torch"}
# (slower, faster): the least ratio of their times that is aimed at.
_RATIO_TARGETS = {("c", "a"): 2.3, ("c", "b"): 3.8, ("d", "b"): 1.9}
# Time of the step's matrix products alone, in parts of the step's.
_SHARE_TARGETS = {"a": 0.95, "b": 0.90}


class Report(NamedTuple):
  """The content of a JSON file."""

  machine: dict
  settings: dict
  check: dict
  alone: dict
  seconds: dict

  @property
  def systems(self) -> list[str]:
    return [name for name in SYSTEMS if name in self.seconds]

  @property
  def steps(self) -> int:
    return -(-self.settings["examples"] // BATCH)

  def step(self, name: str) -> np.ndarray:
    """Seconds of a step of a system in each round, `[rounds]`."""
    return np.array(self.seconds[name]) / self.steps

  def product(self, library: str, product: Product) -> np.ndarray:
    """Seconds of a matrix product in each round, `[rounds]`."""
    taken = self.seconds[product_name(library, product)]
    return np.array(taken) / self.settings["repeats"]

  def floor(self, library: str, products: Iterable[Product]) -> np.ndarray:
    """Seconds of some products, one after the other, in each round."""
    return np.sum([self.product(library, one) for one in products], axis=0)


def product_name(library: str, product: Product) -> str:
  """Key of a product's times in the JSON file."""
  return (f"{library} {product.net} {product.kind} "
          f"{product.fan_in}x{product.fan_out}")


def block(file: str) -> str:
  """The tables of a JSON file between two marks that name it."""
  path = pathlib.Path(file)
  report = Report(**json.loads(path.read_text()))
  parts = [_heading(report), _systems(report), _ratios(report),
           _products(report), _growth(report)]
  begin, end = _marks(path.stem)
  return "\n\n".join([begin, *parts, end])


def put(text: str, readme: str) -> str:
  """Replaces a block in a file by its newer version; says what it did.

  Raises:
    UserError: If the file has no place for it.
  """
  begin = text.splitlines()[0]
  end = text.splitlines()[-1]
  path = pathlib.Path(readme)
  old = path.read_text()
  if begin not in old or end not in old:
    raise UserError(f"{readme}: has no lines {begin} and {end} to put it between")
  before, after = old.split(begin)[0], old.split(end)[1]
  path.write_text(before + text + after)
  return f"{readme}: {begin} is up to date"


def _marks(name: str) -> tuple[str, str]:
  return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _needed(name: str) -> list[Product]:
  """The products of a step of a system: a cached teacher has none."""
  return [product for product in problem_lib.products()
          if product.net == "student" or name in "ac"]


def _flops(products: Iterable[Product]) -> int:
  return sum(product.flops for product in products)


def _heading(report: Report) -> str:
  machine, settings = report.machine, report.settings
  square = 2 * settings["square"] ** 3 / 1e9
  rates = ", ".join(
      f"{name.split()[0]} {square / np.median(taken):.0f}"
      for name, taken in report.seconds.items() if name.endswith(" square"))
  versions = ", ".join(
      f"{name} {version}" for name, version in machine["versions"].items())
  device = ", ".join(
      f"{name} on {kind}" for name, kind in machine["device"].items())
  away = max(max(one.values()) for one in report.check.values())
  lines = [
      f"`{settings['command']}` at {settings['commit']}, {settings['date']}", "",
      f"- {machine['cpu']}, {machine['cores']} cores; {device}; {versions}; "
      f"load of the machine before the run {machine['load']:.2f}",
      f"- {settings['examples']:,} examples of {settings['data']}, "
      f"{report.steps} steps of {BATCH}; {settings['rounds']} rounds, median "
      "(least to most)",
      f"- sgemm of {settings['square']}x{settings['square']}, GFLOP/s: {rates}"
      + ("; products in TF32" if settings["tf32"] else ""),
      f"- the systems' losses and students agree to {away:.0e} after an epoch "
      "from the same parameters in the same order"]
  return "\n".join(lines)


def _systems(report: Report) -> str:
  rows = []
  for name in SYSTEMS:
    if name not in report.systems:
      rows.append([_TITLES[name], "torch not installed"] + [""] * 7)
      continue
    products = _needed(name)
    floor = report.floor(_LIBRARY[name], products)
    alone, step = report.alone[name], report.step(name)
    memory = alone["device_peak_bytes"] or alone["peak_bytes"]
    rows.append([
        _TITLES[name],
        spread(report.settings["examples"] / (step * report.steps), ",.0f"),
        spread(1e3 * step, ".2f"),
        f"{np.median(_flops(products) / step) / 1e9:.0f}",
        f"{1e3 * np.median(floor):.2f}",
        spread(100 * floor / step, ".0f") + " %"
        + _goal(np.median(floor / step), _SHARE_TARGETS.get(name), percent=True),
        f"{alone['compile_seconds']:.1f}", f"{alone['ready_seconds']:.1f}",
        f"{memory / 2**20:,.0f}"])
  return "\n".join([table([
      "system", "examples/s", "ms a step", "GFLOP/s", "products alone, ms",
      "products' share of the step", "compilation, s", "set-up, s",
      "peak memory, MiB"], rows), "", *_formulas()])


def _formulas() -> list[str]:
  flops = [_flops(_needed(name)) / 1e9 for name in "ab"]
  return [
      "Matrix products of a step, FLOPs by formula: the student's is "
      f"2 B (3 (784 W + W W + 10 W) - 784 W), the teacher's "
      f"2 B (784 V + V V + 10 V), with B = {BATCH}, "
      f"W = {problem_lib.STUDENT_WIDTH}, V = {problem_lib.TEACHER_WIDTH}: "
      f"{flops[0]:.3f} GFLOP with a live teacher, {flops[1]:.3f} without. "
      "\"Products alone\" is the sum over them of the time of each by itself, in "
      "the system's own library; divided by the time of a step it is also the "
      "system's GFLOP/s over the machine's sgemm rate at the same shapes. "
      "Compilation is the first epoch minus the second, without a cache; "
      "set-up is data, parameters and the bank; both, and the memory, in a "
      "process of its own."]


def _ratios(report: Report) -> str:
  rows = []
  for (slow, fast), target in _RATIO_TARGETS.items():
    if slow not in report.systems:
      rows.append([f"({fast}) over ({slow})", "torch not installed", "", "", ""])
      continue
    ratio = report.step(slow) / report.step(fast)
    # Both libraries on the products of the faster; then those it is spared.
    library = report.floor("torch", _needed(fast)) / report.floor(
        "jax", _needed(fast))
    spared = report.floor("torch", _needed(slow)) / report.floor(
        "torch", _needed(fast))
    rows.append([
        f"({fast}) over ({slow})",
        spread(ratio, ".2f") + _goal(np.median(ratio), target),
        spread(library, ".2f"), f"{np.median(spared):.2f}",
        spread(ratio / library / spared, ".2f")])
  return "\n".join([table([
      "speed", "ratio", "of it: matrix library", "products spared",
      "everything else"], rows), "",
      "A ratio is the product of its three parts: how much faster XLA's dot is "
      "than torch's mm on the same matrices, how much less there is to "
      "multiply, and what lies outside the products (data, loss, optimiser, "
      "interpreter)."])


def _products(report: Report) -> str:
  libraries = sorted({_LIBRARY[name] for name in report.systems})
  rows = []
  for product in problem_lib.products():
    row = [f"{product.net}, {product.kind}", _shape(product)]
    for library in libraries:
      taken = np.median(report.product(library, product))
      row += [f"{1e3 * taken:.3f}", f"{product.flops / taken / 1e9:.0f}"]
    rows.append(row)
  titles = [f"{library}, {what}" for library in libraries
            for what in ("ms", "GFLOP/s")]
  return table(["matrix product", "shape", *titles], rows)


def _shape(product: Product) -> str:
  """Rows x summed x columns."""
  rows, inner, columns = {
      "forward": (BATCH, product.fan_in, product.fan_out),
      "weights": (product.fan_in, BATCH, product.fan_out),
      "inputs": (BATCH, product.fan_out, product.fan_in)}[product.kind]
  return f"{rows} x {inner} x {columns}"


def _growth(report: Report) -> str:
  seconds = {int(name.split()[1]): np.array(taken)
             for name, taken in report.seconds.items()
             if name.startswith("examples ")}
  seconds[report.settings["examples"]] = np.array(report.seconds["b"])
  examples = [
      [f"{count:,}", spread(taken, ".3f"), f"{1e6 * np.median(taken) / count:.1f}"]
      for count, taken in sorted(seconds.items())]
  widths = {int(name.split()[1]): np.array(taken) / report.steps
            for name, taken in report.seconds.items()
            if name.startswith("width ")}
  widths[problem_lib.STUDENT_WIDTH] = report.step("b")
  rows = []
  for width, step in sorted(widths.items()):
    flops = _flops(
        one for one in problem_lib.products(width) if one.net == "student")
    rows.append([str(width), f"{flops / 1e9:.3f}", spread(1e3 * step, ".3f"),
                 f"{np.median(flops / step) / 1e9:.0f}"])
  return "\n\n".join([
      "How (b) grows, with the examples and with the student's width:",
      table(["examples", "s an epoch", "us an example"], examples),
      table(["width", "GFLOP a step", "ms a step", "GFLOP/s"], rows)])


def spread(values: np.ndarray, form: str) -> str:
  """The median of some values, with the least and the most."""
  low, middle, high = np.min(values), np.median(values), np.max(values)
  return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def _goal(value: float, target: float | None, *, percent: bool = False) -> str:
  if target is None:
    return ""
  aim = f"{target:.0%}".replace("%", " %") if percent else f"{target}"
  return f"; aim {aim}: {'met' if value >= target else 'missed'}"


def table(titles: list[str], rows: list[list[str]]) -> str:
  """A markdown table; the first column is text, the others are numbers."""
  lines = [titles, ["---"] + ["--:"] * (len(titles) - 1), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)
