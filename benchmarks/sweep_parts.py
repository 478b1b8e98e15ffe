"""What the processes of benchmarks/sweep.py do: rounds, or one run alone.

  python -m benchmarks.sweep_parts '{"part": "rounds", "width": 30, ...}'
"""

from collections.abc import Callable
import functools
import json
import math
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
from kd_jax import config, methods, teachers
from kd_jax.core import compilation, machine, randomness
from kd_jax.core.errors import UserError
from kd_jax.data import views
from kd_jax.runs import plan, probe
from kd_jax.training import fit, optimizers
from kd_jax.training import lanes as lanes_lib
from kd_jax.training import segment as segment_lib
from kd_jax.training import step as step_lib
from kd_jax.training.lanes import Lanes, Shape

_VIEWS = views.VIEWS["none"]
_COMPILING = 0.5  # The share of a process's time after which it ends.
_TORCH_BATCHES = 20


class Work(NamedTuple):
  """What every lane does."""

  learner: step_lib.Learner
  predict: Callable[..., jax.Array]
  data: segment_lib.DeviceData
  test: fit.Split
  hparams: Any
  steps: int


class Program(NamedTuple):
  """A compiled way to train: `advance` is `(state, length) -> state`."""

  start: Callable[[], Any]
  advance: Callable[[Any, int], Any]
  evaluate: Callable[[Any], Any]


def main(argv: list[str]) -> None:
  """Does what the parent asks for."""
  spec = json.loads(argv[0])
  print(json.dumps({"rounds": rounds, "alone": alone}[spec["part"]](spec)))


def work(problem: Problem) -> Work:
  """The distillation of a student from a bank of random logits."""
  draw = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(draw.normal(0, 3, shape).astype("f4"))
  model = loops._mlp(problem.width)
  learner = step_lib.Learner(
      model, methods.METHODS["kd"],
      optimizers.OptimizerSpec(
          "sgd", optimizers.schedule("constant", total_steps=1)),
      teachers.banked(normal(len(problem.label), 1, 1, CLASSES)))
  few = problem.first(10_000)  # As many as test images.
  return Work(
      learner, segment_lib.make_predict(model, _VIEWS), loops._data(problem),
      fit.Split(loops._data(few), normal(len(few.label), CLASSES)),
      loops._hparams(), problem.steps)


def single(todo: Work, seconds: dict[str, float]) -> Program:
  """The run of one student, as `kd_jax.main` compiles it; adds `seconds`."""
  began = time.perf_counter()
  key, image = jax.random.key(0), jnp.zeros((1, 28, 28, 1))
  arrays = todo.learner.teacher.arrays
  start = jax.jit(functools.partial(step_lib.init, todo.learner))
  segment = segment_lib.compiled_segment(todo.learner, _VIEWS, BATCH).lower(
      jax.eval_shape(start, key, image, todo.hparams), todo.data, arrays,
      todo.hparams, key, jnp.int32(0)).compile()
  seconds["loop"] = time.perf_counter() - began
  return Program(
      lambda: start(randomness.stream(key, "init"), image, todo.hparams),
      lambda state, length: segment(
          state, todo.data, arrays, todo.hparams, key, jnp.int32(length))[0],
      lambda state: jax.block_until_ready(
          fit.evaluate(todo.predict, state.student, todo.test)))


def rectangle(todo: Work, name: str, seconds: dict[str, float]) -> Lanes:
  """Many students at once, compiled; adds the `seconds` that took."""
  start = time.perf_counter()
  made = lanes_lib.compile_lanes(
      todo.learner, _VIEWS, BATCH, Shape(*map(int, name.split("x"))),
      todo.data, todo.hparams)
  seconds[name] = time.perf_counter() - start
  return made


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


def timing(run: Program, per_epoch: int, wanted: float) -> Callable[[], float]:
  """A call that trains for `wanted` seconds and gives those a step.

  An epoch's order is drawn once a segment; where that is shorter than an epoch,
  the order's cost is measured apart and spread over an epoch's steps.
  """
  held = [run.start()]

  def segment(length: int) -> float:
    state = held.pop()  # From the epoch's beginning, to stay within it.
    zero = jax.device_put(jnp.int32(0), state.step.sharding)
    state = jax.block_until_ready(state.replace(step=zero))
    began = time.perf_counter()
    held.append(jax.block_until_ready(run.advance(state, length)))
    return time.perf_counter() - began

  segment(1)
  order = min(segment(0) for _ in range(3))
  wanted = max(wanted, 4 * order)
  length = min(4, per_epoch)
  while (taken := segment(length)) - order < wanted / 4 and length < per_epoch:
    length = min(4 * length, per_epoch)
  step = (taken - order) / length
  epoch = order + step * per_epoch
  if epoch < 2 * wanted:
    length, repeats = per_epoch, math.ceil(wanted / epoch)
  else:
    length, repeats = max(2, math.ceil(wanted / step)), 1

  def call() -> float:
    nonlocal order
    taken = sum(segment(length) for _ in range(repeats)) / repeats
    order = min(order, segment(0))  # Whatever disturbs only adds.
    return (taken - order) / length + order / per_epoch

  return call


def rounds(spec: dict) -> dict:
  """All rectangles, the loop and torch in turn, in one process."""
  began = time.monotonic()
  tell = functools.partial(sweep.tell, end=spec["end"])
  libraries = mnist_step._libraries(tf32=False)
  problem = problem_lib.load(spec["data"], None)._replace(width=spec["width"])
  todo = work(problem)
  timed = lambda run: timing(run, todo.steps, spec["timing"])
  seconds: dict[str, float] = {}
  made, left_out = _rectangles(todo, spec, began, seconds, tell)
  auto = None if left_out else _auto(todo, made, seconds, spec["lanes"], tell)
  calls = {"loop": timed(single(todo, seconds))} | {
      name: timed(program(todo, each)) for name, each in made.items()}
  calls |= _others(problem, libraries, spec)
  return {
      "step_seconds": _turns(calls, spec, began, tell),
      "compile_seconds": seconds, "left_out": left_out, "auto": auto,
      "bytes": {name: each.bytes for name, each in made.items()},
      "per_epoch": todo.steps,
      "machine": mnist_step._machine(libraries) | {
          "backend": jax.default_backend(), "devices": jax.device_count()}}


def _rectangles(todo: Work, spec: dict, began: float, seconds: dict, tell):
  """The rectangles to measure, compiled, and the names of those left out."""
  made: dict[str, Lanes] = {}
  left_out = []
  for name in sweep.rectangles(
      spec["width"], spec["devices"], backend=jax.default_backend(),
      quick=spec["quick"]):
    if time.monotonic() - began > _COMPILING * spec["seconds"]:
      left_out.append(name)
      continue
    tell(f"  compiling {name}")
    made[name] = rectangle(todo, name, seconds)
  return made, left_out


def _auto(todo: Work, made: dict, seconds: dict, lanes: int, tell):
  """What `sweep.lanes=auto` chooses for points of one seed; joins `made`."""
  tell(f"  asking sweep.lanes=auto for {lanes} points of a seed")
  seeds = [0] * lanes
  tried = dict(made)
  for name in map(plan.name, probe.candidates(seeds)):
    if name not in tried:
      tried[name] = rectangle(todo, name, seconds)
  said: list[str] = []
  name = plan.name(probe.choose(
      lambda shape: tried[plan.name(shape)], seeds, todo.hparams,
      limit=int(config.default().sweep.memory * probe.device_bytes()),
      say=said.append))
  made[name] = tried[name]
  return {"shape": name, "said": "; ".join(said)}


def _others(problem: Problem, libraries: list[str], spec: dict):
  """The machine's sgemm, and torch's loop with cached logits."""
  square = loops.square_product(sweep_tables.SQUARE)
  square()
  calls = {"square": lambda: problem_lib.seconds(square)}
  if "torch" in libraries and spec["devices"] == 1:
    few = problem.first(BATCH * _TORCH_BATCHES)
    epoch = mnist_step._system("d", few).epoch
    # A small net may want one thread.
    for threads in {1, machine.cores()}:
      calls[f"torch, threads: {threads}"] = functools.partial(
          _torch_step, epoch, threads, few.steps, spec["timing"])
  return calls


def _torch_step(epoch, threads: int, per_epoch: int, wanted: float) -> float:
  """Seconds a step of torch's."""
  mnist_step._module("torch").configure(threads, tf32=False)
  epoch()
  count, began = 0, time.perf_counter()
  while (taken := time.perf_counter() - began) < wanted:
    epoch()
    count += 1
  return taken / count / per_epoch


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

  if spec["warm"]:  # The import of loops has turned the cache off.
    jax.config.update("jax_enable_compilation_cache", True)
    compilation.use_cache()
  loops.precision(False)
  lap("start")
  problem = problem_lib.load(spec["data"], None)._replace(width=spec["width"])
  todo = jax.block_until_ready(work(problem))
  lap("data")
  run = single(todo, {}) if spec["name"] == "loop" else program(
      todo, rectangle(todo, spec["name"], {}))
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
  except KeyboardInterrupt:
    sys.exit(130)  # The parent tells.
