"""Speed and memory of a distillation epoch, side by side with PyTorch.

  python -m benchmarks.mnist_step --data DIR --out FILE.json
  python -m benchmarks.mnist_step --table FILE.json --readme benchmarks/README.md

Four systems train the same student (784-800-800-10) from the same teacher
(784-1200-1200-10) on the same images; batch 128, SGD with momentum 0.9, T = 4,
alpha = 0.9. They are measured in turn, a b c d a b c d ..., each waited for
before the next starts, so that whatever slows the machine down slows all of
them; ratios are taken within a round. It runs without PyTorch, then without (c)
and (d).
"""

import argparse
from collections.abc import Callable, Iterator
import importlib
import importlib.util
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

import numpy as np

from benchmarks import problem as problem_lib
from benchmarks import tables
from benchmarks.problem import Problem, System
from kd_jax import data as data_lib
from kd_jax.core import machine, strict
from kd_jax.core.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDTHS = (100, 200, 400, 800, 1600)
# Largest relative difference after an epoch; TF32 has 10 bits.
_TOLERANCE, _TOLERANCE_TF32 = 1e-4, 1e-2
# Seven full batches and one of 104.
_CHECKED_EXAMPLES = 1_000
_REPEATS = 100
_SQUARE = 2048


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  load = os.getloadavg()[0]
  args = _parse(argv)
  if args.table:
    text = tables.block(args.table)
    print(text if not args.readme else tables.put(text, args.readme))
    return
  problem = problem_lib.load(args.data, args.examples)
  if args.only:
    print(json.dumps(_alone(args.only, problem, args.tf32)))
    return
  checked = _check(problem, args.tf32)
  if args.check:
    print(strict.dumps(checked, indent=2))
    return
  report = _measure(problem, args) | {"check": checked}
  report["machine"]["load"] = round(load, 2)
  pathlib.Path(args.out).write_text(strict.dumps(report, indent=1) + "\n")
  print(tables.block(args.out))


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog="python -m benchmarks.mnist_step", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
      "--data", default=os.environ.get(data_lib.ENVIRONMENT_VARIABLE),
      help="folder of MNIST; default KD_JAX_DATA, else random images")
  parser.add_argument("--rounds", type=int, help="default 9")
  parser.add_argument("--examples", type=int, help="default all, 60,000")
  parser.add_argument(
      "--quick", action="store_true", help="2 rounds of 2,560 examples")
  parser.add_argument(
      "--tf32", action="store_true",
      help="on a GPU, products in TF32 in both; default float32 in both")
  parser.add_argument(
      "--out", default="mnist_step.json", help="where the numbers go")
  parser.add_argument(
      "--check", action="store_true",
      help="only compare the systems' losses and parameters")
  parser.add_argument(
      "--only", choices=tables.SYSTEMS,
      help="two epochs of one system, its compile time and memory")
  parser.add_argument("--table", help="print the tables of an earlier FILE.json")
  parser.add_argument("--readme", help="with --table: put them into this file")
  args = parser.parse_args(argv)
  args.rounds = args.rounds or (2 if args.quick else 9)
  args.examples = args.examples or (2_560 if args.quick else None)
  return args


def _module(name: str):
  """The loops of a system or library; imported late, for the memory's sake."""
  return importlib.import_module(
      "benchmarks.kd_jax_loops" if name in ("a", "b", "jax")
      else "benchmarks.torch_loops")


def _system(
    name: str, problem: Problem, order: np.ndarray | None = None
) -> System:
  if name in "ab":
    return _module(name).system(problem, banked=name == "b")
  return _module(name).system(problem, plain=name == "c", order=order)


def _libraries(tf32: bool) -> list[str]:
  """The libraries that are installed, set up alike."""
  _module("jax").precision(tf32)
  if importlib.util.find_spec("torch") is None:
    return ["jax"]
  _module("torch").configure(machine.cores(), tf32=tf32)
  return ["jax", "torch"]


def _check(problem: Problem, tf32: bool) -> dict[str, dict[str, float]]:
  """Proves that the systems compute the same thing.

  From the same parameters and in the same order of examples, each runs an epoch
  of the first 1,000 with a ragged last batch.

  Returns:
    For each but (a), how far its loss and its student are from those of (a), in
    relation to them.

  Raises:
    UserError: If one is too far.
  """
  problem = problem.first(_CHECKED_EXAMPLES)
  names = tables.SYSTEMS if "torch" in _libraries(tf32) else ("a", "b")
  order = _module("jax").first_order(problem)
  found = {}
  for name in names:
    system = _system(name, problem, order)
    found[name] = np.array([system.epoch()]), np.concatenate(
        [leaf.ravel() for layer in system.student() for leaf in layer])
  start = np.concatenate(
      [x.ravel() for layer in problem_lib.student_net(problem) for x in layer])
  loss, student = found["a"]
  away = {
      name: {"loss": _away(found[name][0], loss),
             "student": _away(found[name][1], student),
             # The distance in units of what the epoch itself changed.
             "change": _away(found[name][1] - start, student - start)}
      for name in names[1:]}
  worst = max(value for one in away.values() for value in one.values())
  if not worst <= (_TOLERANCE_TF32 if tf32 else _TOLERANCE):
    raise UserError(f"the systems do not compute the same: {away}")
  return away


def _away(value: np.ndarray, reference: np.ndarray) -> float:
  return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def _alone(name: str, problem: Problem, tf32: bool) -> dict[str, float]:
  """A system in a process of its own: first and second epoch, and memory."""
  module = _module(name)
  if name in "ab":
    module.precision(tf32)
  else:
    module.configure(machine.cores(), tf32=tf32)
  start = time.perf_counter()
  system = _system(name, problem)
  ready = time.perf_counter() - start
  first = problem_lib.seconds(system.epoch)
  second = problem_lib.seconds(system.epoch)
  return {"ready_seconds": ready, "compile_seconds": first - second,
          "peak_bytes": problem_lib.peak_memory(),
          "device_peak_bytes": system.device_peak()}


def _measure(problem: Problem, args: argparse.Namespace) -> dict:
  """Everything that goes into the tables."""
  libraries = _libraries(args.tf32)
  names = tables.SYSTEMS if "torch" in libraries else ("a", "b")
  alone = {name: _child(name, problem, args) for name in names}
  calls = dict(_calls(problem, names, libraries))
  for call in calls.values():
    call()
  taken = {name: [] for name in calls}
  for index in range(args.rounds):
    for name, call in calls.items():
      taken[name].append(problem_lib.seconds(call))
    print(f"round {index + 1} of {args.rounds}: " + ", ".join(
        f"({name}) {taken[name][-1]:.2f} s" for name in names), file=sys.stderr)
  return {
      "machine": _machine(libraries),
      "settings": {
          "command": _command("mnist_step"),
          "commit": _commit(), "date": time.strftime("%Y-%m-%d"),
          "examples": len(problem.label), "data": problem.source,
          "rounds": args.rounds, "tf32": args.tf32, "repeats": _REPEATS,
          "square": _SQUARE},
      "alone": alone, "seconds": taken}


def _child(name: str, problem: Problem, args) -> dict[str, float]:
  command = [sys.executable, "-m", "benchmarks.mnist_step", "--only", name,
             "--examples", str(len(problem.label))]
  command += ["--data", args.data] if args.data else []
  command += ["--tf32"] if args.tf32 else []
  done = subprocess.run(
      command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def _calls(
    problem: Problem, names: tuple[str, ...], libraries: list[str]
) -> Iterator[tuple[str, Callable[[], object]]]:
  """Every piece of a round: its name and what runs it to the end."""
  for name in names:
    yield name, _system(name, problem).epoch
  for library in libraries:
    module = _module(library)
    for product in problem_lib.products():
      yield (tables.product_name(library, product),
             module.product(product, _REPEATS))
    yield f"{library} square", module.square_product(_SQUARE)
  square = np.ones((_SQUARE, _SQUARE), np.float32)
  yield "numpy square", lambda: square @ square
  for part in (4, 2):
    few = problem.first(len(problem.label) // part)
    yield f"examples {len(few.label)}", _system("b", few).epoch
  for width in WIDTHS:
    if width != problem.width:
      yield f"width {width}", _system("b", problem._replace(width=width)).epoch


def _machine(libraries: list[str]) -> dict:
  versions = {"python": platform.python_version(), "numpy": np.__version__}
  for library in libraries:
    versions |= _module(library).VERSIONS
  return {"cpu": machine.processor(), "cores": machine.cores(),
          "versions": versions,
          "device": {name: _module(name).device() for name in libraries}}


def _command(module: str) -> str:
  """What was called, without where this machine keeps its data."""
  words = list(sys.argv[1:])
  for place, word in enumerate(words):
    if place and words[place - 1] == "--data":
      words[place] = "DIR"
    elif word.startswith("--data="):
      words[place] = "--data=DIR"
  return shlex.join(["python", "-m", f"benchmarks.{module}", *words])


def _commit() -> str:
  """The commit that was measured, marked where the files differ from it."""
  done = subprocess.run(
      ["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False,
      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
  return done.stdout.strip() or "unknown"


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    sys.exit(f"error: {error}")
