"""What the processes of benchmarks/sweep.py do: rounds, or one run alone.

  python -m benchmarks.sweep_parts '{"part": "rounds", "width": 30, ...}'

The last line of output is what was found, as JSON; progress goes to stderr. One
process sees one number of devices, since that is fixed when jax starts.
"""

from collections.abc import Callable
import functools
import json
import math
import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kd_jax_loops as loops
from benchmarks import mnist_step, sweep, sweep_tables
from benchmarks import problem as problem_lib
from benchmarks.problem import BATCH, CLASSES, Problem
from kd_jax import (
  augment,
  compilation,
  config,
  distillers,
  fit,
  loop,
  optim,
  steps,
  types,
)
from kd_jax import lanes as lanes_lib
from kd_jax import teacher as teachers
from kd_jax.errors import UserError
from kd_jax.lanes import Lanes, Shape
from kd_jax.sweep import probe

_VIEWS = augment.VIEWS["none"]
_TEST_EXAMPLES = 10_000
# Compiling ends when this share of a process's time is gone.
_COMPILING = 0.5
_SQUARES = 3
# A guess, to know how many batches of torch's fill the time of a timing.
_TORCH_FLOPS = 5e10


class Work(NamedTuple):
  """What every lane does, with its data on the device."""

  learner: steps.Learner
  predict: Callable[..., jax.Array]
  data: loop.DeviceData
  test: fit.Split
  hparams: types.Hparams
  steps: int


class Program(NamedTuple):
  """A compiled way to train.

  Attributes:
    start: `() -> state` before the first step.
    advance: `(state, length) -> state`, within an epoch; donates.
    evaluate: Evaluates a state's lanes on the test images, and waits.
  """

  start: Callable[[], Any]
  advance: Callable[[Any, int], Any]
  evaluate: Callable[[Any], Any]


def main(argv: list[str]) -> None:
  """Does what the parent asks for."""
  spec = json.loads(argv[0])
  part = {"rounds": rounds, "alone": alone}[spec["part"]]
  print(json.dumps(part(spec)))


def work(problem: Problem) -> Work:
  """The distillation of a student from a bank of random logits."""
  draw = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(draw.normal(0, 3, shape).astype("f4"))
  model = loops._mlp(problem.width)
  learner = steps.Learner(
      model, distillers.DISTILLERS["kd"],
      optim.Recipe("sgd", optim.schedule("constant", total_steps=1)),
      teachers.banked(normal(len(problem.label), 1, 1, CLASSES)))
  few = problem.first(_TEST_EXAMPLES)
  return Work(
      learner, loop.make_predict(model, _VIEWS), loops._data(problem),
      fit.Split(loops._data(few), normal(len(few.label), CLASSES)),
      loops._hparams(), problem.steps)


def single(todo: Work) -> Program:
  """The run of one student, as `kd_jax.main` compiles it."""
  key, image = jax.random.key(0), jnp.zeros((1, 28, 28, 1))
  arrays = todo.learner.teacher.arrays
  start = jax.jit(functools.partial(steps.init, todo.learner))
  segment = loop.compiled_segment(todo.learner, _VIEWS, BATCH).lower(
      jax.eval_shape(start, key, image, todo.hparams), todo.data, arrays,
      todo.hparams, key, jnp.int32(0)).compile()
  return Program(
      lambda: start(key, image, todo.hparams),
      lambda state, length: segment(
          state, todo.data, arrays, todo.hparams, key, jnp.int32(length))[0],
      lambda state: jax.block_until_ready(
          fit.evaluate(todo.predict, state.student, todo.test)))


def rectangle(todo: Work, shape: Shape) -> Lanes:
  """Many students at once, compiled."""
  return lanes_lib.compile_lanes(
      todo.learner, _VIEWS, BATCH, shape, todo.data, todo.hparams,
      functools.partial(fit.evaluate, todo.predict))


def program(todo: Work, made: Lanes) -> Program:
  """A rectangle's lanes at temperatures 1, 2, ..., one seed a row."""
  shape = made.shape
  hparams = lanes_lib.stack(
      [todo.hparams.replace(temperature=jnp.float32(1 + lane))
       for lane in range(shape.size)], shape)
  seeds = jnp.arange(shape.rows, dtype=jnp.uint32)
  return Program(
      lambda: made.init(seeds, hparams),
      lambda state, length: made.segment(state, hparams, seeds, length)[0],
      lambda state: jax.block_until_ready(made.evaluate(state, todo.test)))


def timing(run: Program, *, per_epoch: int, wanted: float) -> Callable[[], float]:
  """A call that trains for some `wanted` seconds.

  It gives the seconds of a step of all lanes. The order of an epoch is drawn
  once a segment; where that is shorter than an epoch, its cost is measured
  apart and spread over an epoch's steps, as it is in a run.
  """
  held = [run.start()]

  def segment(length: int) -> float:
    state = held.pop()
    if length < per_epoch:  # From the epoch's beginning, to stay within it.
      zero = jax.device_put(jnp.int32(0), state.step.sharding)
      state = state.replace(step=zero)
    jax.block_until_ready(state)
    began = time.perf_counter()
    held.append(jax.block_until_ready(run.advance(state, length)))
    return time.perf_counter() - began

  segment(1)
  order = statistics.median(segment(0) for _ in range(3))
  few = min(4, per_epoch)
  step = max(segment(few) - order, 1e-9) / few
  length = max(2, min(per_epoch, math.ceil(wanted / step)))
  repeats = max(1, math.ceil(wanted / (step * length)))

  def call() -> float:
    taken = sum(segment(length) for _ in range(repeats)) / repeats
    return (taken - order) / length + order / per_epoch

  return call


def rounds(spec: dict) -> dict:
  """All rectangles, the loop and torch in turn, in one process."""
  began = time.monotonic()
  tell = functools.partial(sweep.tell, end=spec["end"])
  libraries = mnist_step._libraries(tf32=False)
  problem = problem_lib.load(spec["data"], None)._replace(width=spec["width"])
  todo = work(problem)
  timed = functools.partial(
      timing, per_epoch=todo.steps, wanted=spec["timing"])
  start = time.perf_counter()
  once = single(todo)
  seconds = {"loop": time.perf_counter() - start}
  made, left_out = _rectangles(todo, spec, began, seconds, tell)
  auto = None if left_out else _auto(todo, made, seconds, spec["lanes"], tell)
  calls = {"loop": timed(once)} | {
      name: timed(program(todo, each)) for name, each in made.items()}
  calls |= _others(problem, libraries, spec)
  return {
      "step_seconds": _turns(calls, spec, began, tell),
      "compile_seconds": seconds, "left_out": left_out, "auto": auto,
      "bytes": {name: each.bytes for name, each in made.items()},
      "per_epoch": todo.steps, "machine": _machine(libraries)}


def _machine(libraries: list[str]) -> dict:
  """What ran, and how many devices there can be: a CPU's are its cores."""
  machine, backend = mnist_step._machine(libraries), jax.default_backend()
  most = machine["cores"] if backend == "cpu" else jax.local_device_count()
  return machine | {"backend": backend, "most_devices": most}


def _rectangles(todo: Work, spec: dict, began: float, seconds: dict, tell):
  """The rectangles to measure, compiled, and the names of those left out."""
  made: dict[str, Lanes] = {}
  left_out = []
  for name in sweep_tables.rectangles(
      spec["width"], spec["devices"], backend=jax.default_backend(),
      quick=spec["quick"]):
    if time.monotonic() - began > _COMPILING * spec["seconds"]:
      left_out.append(name)
      continue
    tell(f"  compiling {name}")
    made[name] = _compiled(todo, _shape(name), seconds)
  return made, left_out


def _shape(name: str) -> Shape:
  return Shape(*map(int, name.split("x")))


def _compiled(todo: Work, shape: Shape, seconds: dict) -> Lanes:
  """A rectangle; adds the seconds it took to compile."""
  start = time.perf_counter()
  made = rectangle(todo, shape)
  seconds[probe.name(shape)] = time.perf_counter() - start
  return made


def _auto(todo: Work, made: dict, seconds: dict, lanes: int, tell):
  """What `sweep.lanes=auto` chooses for so many points of one seed.

  The choice joins those that are measured.
  """
  tell(f"  asking sweep.lanes=auto for {lanes} points of a seed")
  tried = dict(made)
  said: list[str] = []

  def make(shape: Shape) -> Lanes:
    name = probe.name(shape)
    if name not in tried:
      tried[name] = _compiled(todo, shape, seconds)
    return tried[name]

  limit = int(config.default().sweep.memory * probe.device_bytes())
  name = probe.name(probe.choose(
      make, [0] * lanes, todo.hparams, limit=limit, say=said.append))
  made[name] = tried[name]
  return {"shape": name, "said": "; ".join(said)}


def _others(
    problem: Problem, libraries: list[str], spec: dict
) -> dict[str, Callable[[], float]]:
  """The machine's sgemm, and torch's loop with cached logits."""
  square = loops.square_product(sweep_tables.SQUARE)
  square()
  calls = {"square": lambda: problem_lib.seconds(
      lambda: [square() for _ in range(_SQUARES)]) / _SQUARES}
  if "torch" in libraries and spec["devices"] == 1:
    flops = sweep_tables.flops(problem.width)
    enough = math.ceil(spec["timing"] * _TORCH_FLOPS / flops)
    few = problem.first(BATCH * max(2, enough))
    epoch = mnist_step._system("d", few).epoch
    repeats = max(1, math.ceil(spec["timing"] / problem_lib.seconds(epoch)))
    calls["torch"] = lambda: problem_lib.seconds(
        lambda: [epoch() for _ in range(repeats)]) / repeats / few.steps
  return calls


def _turns(calls, spec: dict, began: float, tell) -> dict[str, list[float]]:
  """Every call in turn, round after round, while there is time."""
  taken: dict[str, list[float]] = {name: [] for name in calls}
  last = 0.0
  for number in range(spec["rounds"]):
    start = time.monotonic()
    if number and start - began + last > spec["seconds"]:
      break
    for name, call in calls.items():
      taken[name].append(call())
    last = time.monotonic() - start
    tell(f"  round {number + 1} of {spec['rounds']}: loop "
         f"{1e3 * taken['loop'][-1]:.2f} ms a step, {last:.0f} s")
  return taken


def alone(spec: dict) -> dict[str, float]:
  """A program in a process of its own: seconds of each stage, and memory."""
  laps = {}
  last = spec["began"]  # When the parent started this process.

  def lap(name: str) -> None:
    nonlocal last
    now = time.time()
    laps[name], last = now - last, now

  if spec["warm"]:
    # As kd_jax.main does; the import of loops has turned it off.
    jax.config.update("jax_enable_compilation_cache", True)
    compilation.use_cache()
  loops.precision(False)
  lap("start")
  problem = problem_lib.load(spec["data"], None)._replace(width=spec["width"])
  todo = jax.block_until_ready(work(problem))
  lap("data")
  run = (single(todo) if spec["name"] == "loop" else program(
      todo, rectangle(todo, _shape(spec["name"]))))
  lap("compile")
  state = jax.block_until_ready(run.start())
  lap("parameters")
  state = jax.block_until_ready(run.advance(state, spec["steps"]))
  lap("steps")
  run.evaluate(state)
  lap("evaluate")
  peak = problem_lib.peak_memory()
  run.evaluate(run.start())
  lap("again")
  return laps | {"peak_bytes": peak, "device_peak_bytes": loops._device_peak()}


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    sys.exit(f"error: {error}")
