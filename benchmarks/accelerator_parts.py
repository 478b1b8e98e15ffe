"""The parts of benchmarks/accelerator.py: each prints a JSON line a row.

  python -m benchmarks.accelerator_parts '{"part": "step", "until": 1234.5, ...}'

A row is a system and what a call of it takes: `seconds` holds a number a round,
of a `unit` such as a step. Systems of a part are timed in turn, round after
round, so that whatever slows the machine down slows all of them; a row is
printed anew, under its name, after each of its rounds.
"""

from collections.abc import Callable, Iterator
import functools
import itertools
import json
import os
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kd_jax_loops as loops
from benchmarks import mnist_step, sweep_parts, sweep_tables
from benchmarks import problem as problem_lib
from benchmarks.problem import BATCH
from kd_jax.core import machine
from kd_jax.core.errors import UserError

# The least that a timing should last.
_TIMED_SECONDS, _REHEARSED_SECONDS = 0.3, 0.02
_MOST_ROUNDS = 7
_BESIDE_TORCH = ("ceilings", "step", "convolution")
# resnet8 on an image of 32x32: multiplications, forward.
_RESNET8_PRODUCTS = 12.51e6
_TOLERANCE = 1e-5

Row = dict[str, Any]


class Spec(NamedTuple):
  """What the parent asks for.

  Attributes:
    part: One of `PARTS`.
    until: When its time is over, by `time.monotonic`, one clock for all processes.
    rehearse: Whether to run with tiny sizes, once, however long it takes.
    data: Folder of MNIST; None for random images.
  """

  part: str
  until: float
  rehearse: bool
  data: str | None


class Timed(NamedTuple):
  """A system: `call` runs it for at least one unit and gives seconds a unit."""

  call: Callable[[], float]
  facts: Row


def main(argv: list[str]) -> None:
  """Does what the parent asks for."""
  spec = Spec(**json.loads(argv[0]))
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # Rows alone go to the parent: libraries may print as they like.
  rows = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  tell = lambda row: print(json.dumps(row), file=rows, flush=True)
  # `loops` turns it off, as other benchmarks time compilation.
  jax.config.update("jax_enable_compilation_cache", True)
  loops.precision(False)
  libraries = ["jax"]
  if spec.part in _BESIDE_TORCH:
    try:
      libraries = mnist_step._libraries(tf32=False)
    except Exception as error:  # It may be there and not fit this machine.
      tell(_failed("torch", error))
  if "torch" in libraries and jax.default_backend() != "cpu" and (
      mnist_step._module("torch").device() == "cpu"):
    libraries = ["jax"]
    tell(_failed("torch", RuntimeError("it does not see the GPU")))
  tell({"machine": mnist_step._machine(libraries) | {
      "backend": jax.default_backend()}})
  for row in PARTS[spec.part](spec, "torch" in libraries):
    tell(row)


def _end_with_parent() -> None:
  """Ends this process when nobody reads its rows any more."""
  parent = os.getppid()
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def in_turn(
    systems: dict[str, Callable[[], Timed]], spec: Spec, first: tuple[str, ...] = ()
) -> Iterator[Row]:
  """Rounds of all systems while there is time; rows after every timing.

  The first round makes the systems, compiles them and times each at once, so that
  the first figures come early.

  Args:
    systems: What makes each of them.
    spec: How long.
    first: The most telling ones: there may be no time for the others. A
      rehearsal is one round of these, or of all where none are named.
  """
  over = _clock(spec)
  rest = [] if spec.rehearse and first else systems
  systems = {name: systems[name]
             for name in dict.fromkeys([*first, *rest]) if name in systems}
  made: dict[str, Timed] = {}
  taken: dict[str, list[float]] = {name: [] for name in systems}
  for _ in range(1 if spec.rehearse else _MOST_ROUNDS):
    for name, make in systems.items():
      if over():
        return
      try:
        if name not in made:
          made[name] = make()
        taken[name].append(made[name].call())
      except Exception as error:  # A library may lack what a system needs.
        systems = {other: systems[other] for other in systems if other != name}
        yield _failed(name, error)
        continue
      yield {"name": name, "seconds": taken[name], **made[name].facts}


def _failed(name: str, error: Exception) -> Row:
  return {"name": name, "failed": f"{type(error).__name__}: {error}"[:300]}


def _clock(spec: Spec) -> Callable[[], bool]:
  """Whether the time of a part is over."""
  return lambda: not spec.rehearse and time.monotonic() > spec.until


def repeated(
    call: Callable[[], object], units: int, spec: Spec
) -> Callable[[], float]:
  """A timing of so many calls of `units` each that it lasts long enough."""
  call()
  once = problem_lib.seconds(call)
  wanted = _REHEARSED_SECONDS if spec.rehearse else _TIMED_SECONDS
  times = max(1, round(wanted / max(once, 1e-6)))

  def timed() -> float:
    return problem_lib.seconds(lambda: [call() for _ in range(times)]) / (
        times * units)

  return timed


# The measured ceilings.

def ceilings(spec: Spec, torch: bool) -> Iterator[Row]:
  """Large matrix products, and a copy through the device's memory."""
  size, length = (256, 2**20) if spec.rehearse else (8192, 2**28)
  if jax.default_backend() == "cpu" and not spec.rehearse:
    size, length = 2048, 2**25
  systems = {f"jax matmul {kind}": functools.partial(_matmul, kind, size, spec)
             for kind in ("float32", "tf32", "bfloat16")}
  if torch:
    module = mnist_step._module("torch")
    systems |= {
        f"torch matmul {kind}": functools.partial(
            _of_torch, functools.partial(module.matmul, kind, size), size, spec)
        for kind in ("float32", "tf32", "bfloat16")}
  systems["jax copy"] = functools.partial(_copy, length, spec)
  return in_turn(systems, spec)


def _matmul(kind: str, size: int, spec: Spec) -> Timed:
  """Ten products, each of the last one's result."""
  dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
  precision = {"float32": "highest", "tf32": "tensorfloat32"}.get(kind)
  # Scaled so that products neither grow nor vanish.
  x, w = (jax.random.normal(jax.random.key(number), (size, size), dtype)
          * dtype(size**-0.5) for number in range(2))

  @jax.jit
  def products(x, w):
    with jax.default_matmul_precision(precision or "default"):
      return jax.lax.fori_loop(0, 10, lambda _, x: x @ w, x)

  call = lambda: jax.block_until_ready(products(x, w))
  return Timed(repeated(call, 10, spec), {"flops": 2 * size**3, "size": size})


def _of_torch(
    make: Callable[[], Callable[[], object]], size: int, spec: Spec
) -> Timed:
  return Timed(repeated(make(), 1, spec), {"flops": 2 * size**3, "size": size})


def _copy(length: int, spec: Spec) -> Timed:
  """x + 1 of float32: what is read and what is written both count."""
  x = jnp.zeros(length)
  more = jax.jit(
      lambda x: jax.lax.fori_loop(0, 10, lambda _, x: x + 1, x), donate_argnums=0)
  held = [x]

  def call():
    held.append(jax.block_until_ready(more(held.pop())))

  return Timed(repeated(call, 10, spec), {"bytes": 2 * 4 * length})


# The distillation step on MNIST.

def step(spec: Spec, torch: bool) -> Iterator[Row]:
  """784-800-800-10 from 784-1200-1200-10: kd_jax against PyTorch."""
  problem = problem_lib.load(spec.data, 2 * BATCH if spec.rehearse else None)
  live = {"banked": False}
  systems = {
      f"kd_jax {where} {kind}": functools.partial(
          _mlp, problem, kind, banked=where == "banked", spec=spec)
      for kind in ("float32", "tf32", "bfloat16") for where in ("live", "banked")}
  if torch:
    of_torch = functools.partial(_mlp_of_torch, problem, spec)
    systems |= {
        "torch live float32, DataLoader": lambda: of_torch(plain=True),
        "torch live float32, indexed": lambda: of_torch(**live),
        "torch banked float32, indexed": of_torch,
        "torch live float32, compiled": lambda: of_torch(
            compiled="default", **live),
        "torch banked float32, compiled": lambda: of_torch(
            compiled="default"),
        "torch live bfloat16, indexed": lambda: of_torch(bfloat16=True, **live),
        "torch banked bfloat16, indexed": lambda: of_torch(bfloat16=True),
        "torch live bfloat16, compiled": lambda: of_torch(
            compiled="default", bfloat16=True, **live)}
    if jax.default_backend() != "cpu":
      systems["torch live float32, CUDA graphs"] = lambda: of_torch(
          compiled="reduce-overhead", **live)
  return in_turn(systems, spec, first=(
      "kd_jax live float32", "torch live float32, DataLoader",
      "kd_jax banked float32", "torch live float32, compiled"))


def _mlp(problem, kind: str, *, banked: bool, spec: Spec) -> Timed:
  system = _precisely(kind, lambda dtype: loops.system(
      problem, banked=banked, dtype=dtype))
  nets = [one for one in problem_lib.products()
          if one.net == "student" or not banked]
  return Timed(repeated(system, problem.steps, spec), {
      "unit": "step", "flops": sum(one.flops for one in nets)})


def _precisely(kind: str, make: Callable[[str], problem_lib.System]):
  """A system's epoch, traced and run with products of this kind."""
  tf32 = kind == "tf32"
  loops.precision(tf32)
  system = make("bfloat16" if kind == "bfloat16" else "float32")

  def epoch() -> float:
    loops.precision(tf32)
    return system.epoch()

  return epoch


def _mlp_of_torch(problem, spec: Spec, *, plain: bool = False, **how) -> Timed:
  system = mnist_step._module("torch").system(problem, plain=plain, **how)
  return Timed(repeated(system.epoch, problem.steps, spec), {"unit": "step"})


# Lanes of a sweep.

def lanes(spec: Spec, torch: bool) -> Iterator[Row]:
  """Rectangles of lanes, each beside a loop over single runs."""
  del torch
  counts, widths = (64, 16, 128, 32, 8, 4, 2), (30, 800)
  if spec.rehearse:
    counts, widths = (2,), (30,)
  over = _clock(spec)
  work: dict[int, Any] = {}
  for count, width in itertools.product(counts, widths):
    if over():
      return
    try:
      if width not in work:
        work[width] = _lanes_work(spec, width)
      yield from _rectangle(work[width], width, count, spec)
    except Exception as error:  # So many may not fit into the memory.
      yield _failed(f"2x{width} 1x1x{count}", error)


def _lanes_work(spec: Spec, width: int):
  problem = problem_lib.load(
      spec.data, 4 * BATCH if spec.rehearse else None)._replace(width=width)
  todo = sweep_parts.work(problem)
  wanted = _REHEARSED_SECONDS if spec.rehearse else _TIMED_SECONDS
  timing = lambda run: sweep_parts.timing(run, todo.steps, wanted)
  return todo, timing, timing(sweep_parts.single(todo, {}))


def _rectangle(work, width: int, count: int, spec: Spec) -> Iterator[Row]:
  todo, timing, loop = work
  compiling: dict[str, float] = {}
  name = f"1x1x{count}"
  made = sweep_parts.rectangle(todo, name, compiling)
  run = timing(sweep_parts.program(todo, made))
  row: Row = {
      "name": f"2x{width} {name}", "unit": "step of a lane", "width": width,
      "lanes": count, "flops": sweep_tables.flops(width),
      "bytes": sweep_tables.moved(width), "compile_seconds": compiling[name],
      "device_bytes": made.bytes, "seconds": [], "loop_seconds": []}
  for _ in range(1 if spec.rehearse else 3):
    row["seconds"].append(run() / count)
    row["loop_seconds"].append(loop())
    yield row


# A convolutional step.

def convolution(spec: Spec, torch: bool) -> Iterator[Row]:
  """resnet8 at batch 128 from a bank of logits: kd_jax against PyTorch."""
  problem = _coloured(spec)
  systems = {f"kd_jax {kind}": functools.partial(_resnet8, problem, kind, spec)
             for kind in ("float32", "tf32", "bfloat16")}
  if torch:
    try:
      yield _agreement(problem.first(2 * BATCH))
    except Exception as error:
      yield _failed("losses apart", error)
    module = mnist_step._module("torch")
    of_torch = lambda tf32=False, **how: _resnet8_of_torch(
        module, problem, spec, tf32=tf32, **how)
    systems |= {
        "torch float32, eager": of_torch,
        "torch tf32, eager": lambda: of_torch(tf32=True),
        "torch float32, compiled": lambda: of_torch(compiled="default"),
        "torch bfloat16, compiled": lambda: of_torch(
            compiled="default", bfloat16=True)}
  yield from in_turn(
      systems, spec, first=("kd_jax float32", "torch float32, eager"))


def _coloured(spec: Spec):
  return problem_lib.coloured(2 * BATCH, size=8) if spec.rehearse else (
      problem_lib.coloured(100 * BATCH))


def _resnet8(problem, kind: str, spec: Spec) -> Timed:
  system = _precisely(
      kind, lambda dtype: loops.convolution(problem, dtype=dtype))
  return Timed(repeated(system, problem.steps, spec), {
      "unit": "step", "flops": 6 * _RESNET8_PRODUCTS * BATCH})


def _resnet8_of_torch(module, problem, spec: Spec, *, tf32: bool, **how) -> Timed:
  system = module.convolution(problem, torch_start(), **how)

  def epoch() -> float:
    module.configure(machine.cores(), tf32=tf32)
    return system.epoch()

  return Timed(repeated(epoch, problem.steps, spec), {"unit": "step"})


def _agreement(problem) -> Row:
  """How far both libraries' losses lie apart after a few steps from one start."""
  module = mnist_step._module("torch")
  module.configure(machine.cores(), tf32=False)
  loops.precision(False)
  a = loops.convolution(problem).epoch()
  b = module.convolution(
      problem, torch_start(), order=loops.first_order(problem)).epoch()
  apart = abs(a - b) / abs(a)
  if not apart < _TOLERANCE:
    raise UserError(f"the libraries' resnet8 do not compute the same: {a} and {b}")
  return {"name": "losses apart", "relative": apart}


@functools.cache
def torch_start() -> list[np.ndarray]:
  """The resnet8's first parameters in the order and layout of PyTorch's."""
  found = loops.convolution(problem_lib.coloured(BATCH)).student()
  conv = lambda number: [found[f"Conv_{number}"]["kernel"].transpose(3, 2, 0, 1)]
  norm = lambda number: [found[f"BatchNorm_{number}"][k] for k in ("scale", "bias")]
  layers = [each for number in range(9) for each in (*conv(number), *norm(number))]
  return [*layers, found["Dense_0"]["kernel"].T, found["Dense_0"]["bias"]]


# What it costs that the same program gives the same bits each time.

def repeatable(spec: Spec, torch: bool) -> Iterator[Row]:
  """kd_jax's steps; the parent runs it with XLA's flag and without."""
  del torch
  problem = problem_lib.load(spec.data, 2 * BATCH if spec.rehearse else None)
  images = _coloured(spec)
  return in_turn({
      "MNIST, live": lambda: _mlp(problem, "float32", banked=False, spec=spec),
      "MNIST, banked": lambda: _mlp(problem, "float32", banked=True, spec=spec),
      "resnet8": lambda: _resnet8(images, "float32", spec)}, spec,
                 first=("MNIST, live",))


PARTS = {"ceilings": ceilings, "step": step, "lanes": lanes,
         "convolution": convolution, "nondeterministic": repeatable,
         "deterministic": repeatable}


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    sys.exit(f"error: {error}")
