"""What a sweep will take, and how far it is."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from kd_jax import bench as benches
from kd_jax import build, records, sweep, types
from kd_jax import config as config_lib
from kd_jax import lanes as lanes_lib
from kd_jax.screen import Screen
from kd_jax.sweep import plan, probe, programs
from kd_jax.sweep.book import Book
from kd_jax.sweep.jobs import Job
from kd_jax.sweep.plan import Chunk

# A core's plain speed, and what a step costs beside its arithmetic, in lanes
# and alone: enough to weigh small nets against large, and to say hours or
# minutes.
_FLOPS_PER_CORE = 1e11
_STEP_SECONDS = 8e-4
# How long Ctrl-C should have to wait, at most a few times.
_SEGMENT_SECONDS = 10.0


def step_seconds(model: types.Model, image: Any, batch_size: int) -> float:
  """Roughly, of one lane on this machine's cores; `image` is `[1, H, W, C]`."""
  flops = 3 * _forward_flops(model, (batch_size, *image.shape[1:]))
  return flops / (_FLOPS_PER_CORE * records.cores()) + _STEP_SECONDS


@functools.cache
def _forward_flops(model: types.Model, shape: tuple[int, ...]) -> float:
  def forward(key, images):
    held = model.init(key, images[:1])
    return model.apply(held, images, train=False)[0].logits

  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  cost = jax.jit(forward).lower(jax.random.key(0), images).cost_analysis() or {}
  return float(cost.get("flops", 0.0))


def segment_steps(job: Job, chunk: Chunk) -> int:
  """Steps of a segment: an epoch, or equal parts of one that takes long."""
  if jax.default_backend() != "cpu":
    return job.per_epoch
  seconds = (job.per_epoch * chunk.shape.size / chunk.shape.devices
             * step_seconds(job.training.model, job.bench.train.image,
                            job.training.batch_size))
  pieces = max(1, min(job.per_epoch, round(seconds / _SEGMENT_SECONDS)))
  return -(-job.per_epoch // pieces)


class Meter:
  """One bar for the whole sweep: lanes done, best so far, time left.

  Steps count by what they cost, so that small nets first promise nothing.
  """

  def __init__(
      self, screen: Screen, planned: Sequence[tuple[Job, Chunk]], book: Book):
    self._screen, self._book = screen, book
    costs: dict[str, float] = {}
    for job, _ in planned:
      if job.mark not in costs:
        costs[job.mark] = step_seconds(
            job.training.model, job.bench.train.image,
            job.training.batch_size)
    self._costs = costs
    self._lanes = sum(len(set(chunk.lanes)) for _, chunk in planned)
    self._total = sum(self._cost(*each) for each in planned)
    done = [each for each in planned if book.has(each[1])]
    self._done = sum(self._cost(*each) for each in done)
    if done:
      screen.say(f"sweep: {len(book.rows)} of {self._lanes} lanes are done")

  def tick(self, job: Job, chunk: Chunk, step: int) -> None:
    """Shows that a chunk has come to a step; its end is told by `finished`."""
    part = step / job.training.total_steps
    if part < 1:
      self._show(job, self._done + part * self._cost(job, chunk))

  def finished(self, job: Job, chunk: Chunk) -> None:
    """Shows that the rows of a chunk are on disk."""
    self._done += self._cost(job, chunk)
    self._show(job, self._done)

  def _show(self, job: Job, now: float) -> None:
    split = "heldout" if "heldout" in job.bench.splits else "test"
    errors = [row[f"{split}_errors"] for row in self._book.rows
              if row["failed"] is None]
    best = f"  best {min(errors)} errors ({split})" if errors else ""
    # In hundredths of a second, as the bar wants whole parts.
    self._screen.advance(
        "sweep", round(100 * now), round(100 * self._total),
        f"{len(self._book.rows)} of {self._lanes} lanes{best}")

  def _cost(self, job: Job, chunk: Chunk) -> float:
    return (self._costs[job.mark] * job.training.total_steps
            * chunk.shape.size)


def table(
    config: ml_collections.ConfigDict, say: Callable[[str], None]
) -> tuple[list[str], list[list[str]], str]:
  """What a sweep would do, before any work: columns, rows and a summary.

  Time is a rough upper bound from arithmetic; memory is that of one chunk.
  """
  columns = ["group", "runs", "lanes at once", "chunks", "steps a run",
             "memory", "time"]
  rows, seconds, lanes = [], 0.0, 0
  datasets: dict[str, Any] = {}
  teachers: dict[str, float] = {}
  groups = sweep.expand(config, config.sweep.points)
  for group in groups:
    build.check_names(group.config)
    values = config_lib.flatten(group.config)
    key = str(benches.select(values, (), ("data.",)))
    if key not in datasets:
      datasets[key] = build.dataset(group.config, say=say)
    found = datasets[key]
    training = build.student(group.config, found)
    if build.distiller(group.config).needs_teacher:
      key += str(benches.select(values, (), ("teacher.",)))
      teachers.setdefault(key, _teacher_seconds(group.config, found))
    seeds = [lane.seed for lane in group.lanes]
    shape = _shape(config, group, seeds)
    cost = len(seeds) * training.total_steps * step_seconds(
        training.model, found.train.image, training.batch_size)
    chunks = plan.chunks("", [(s, str(n)) for n, s in enumerate(seeds)], shape)
    held = _lane_bytes(training, found) * shape.size + found.train.image.nbytes
    rows.append([
        _group_name(groups, group), f"{len(seeds)}",
        probe.name(shape), f"{len(chunks)}",
        f"{training.total_steps:,}", f"{held / 2**20:,.0f} MiB", _clock(cost)])
    seconds, lanes = seconds + cost, lanes + len(seeds)
  seconds += sum(teachers.values())
  summary = (
      f"{lanes} runs in {len(rows)} compilation(s), {len(teachers)} teacher(s) "
      f"({_clock(sum(teachers.values()))} unless found); at most about "
      f"{_clock(seconds)} on {records.cores()} cores")
  return columns, rows, summary


def _shape(config, group, seeds: list[int]):
  """The rectangle that is given or remembered, or the largest to be tried."""
  if config.sweep.lanes != "auto":
    rows, points = map(int, config.sweep.lanes.split("x"))
    return plan.balanced(
        seeds, lanes_lib.Shape(jax.local_device_count(), rows, points))
  return (programs.remembered(sweep.program_key(group.config), seeds)
          or probe.candidates(seeds)[-1])


def _teacher_seconds(config, found) -> float:
  if config.teacher.logits is not None:
    return 0.0
  training = build.teacher(config, found, 0)
  return (config.teacher.count * training.total_steps * step_seconds(
      training.model, found.train.image, training.batch_size))


def _lane_bytes(training: build.Training, found) -> int:
  """Weights, gradients and two moments; activations forth and back."""
  image = jnp.zeros((1,) + found.train.image.shape[1:], jnp.float32)
  held = jax.eval_shape(training.model.init, jax.random.key(0), image)
  weights = sum(leaf.size for leaf in jax.tree.leaves(held))
  widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(held) if leaf.shape)
  layers = len(jax.tree.leaves(held.params))
  return 4 * (4 * weights + 2 * training.batch_size * widest * layers)


def _group_name(groups, group) -> str:
  """The static keys in which the groups differ."""
  all_values = [config_lib.flatten(each.config) for each in groups]
  own = config_lib.flatten(group.config)
  differing = [
      key for key in own if key not in sweep.TRACED and not key.startswith("sweep.")
      and len({str(values[key]) for values in all_values}) > 1]
  return sweep.title({key: own[key] for key in differing}) or "all"


def _clock(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
