"""Which lanes run together: rectangles of lanes, fixed before anything runs.

A lane's bits depend on the rectangle that it runs in, to rounding, so the plan is
written down and never repacked: what is added to a sweep later makes chunks of its
own, and a chunk that was interrupted goes on as it began.
"""

from collections.abc import Callable, Collection, Sequence
import pathlib
from typing import Any, NamedTuple

import jax

from kd_jax.config import identity
from kd_jax.core import strict
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess
from kd_jax.runs import records
from kd_jax.training import cost, parameters
from kd_jax.training.lanes import Shape
from kd_jax.training.settings import Training

# Points side by side on a CPU, by the forward FLOPs an example below which they
# gain: what benchmarks/README.md found for 2x30, 2x300 and 2x800 on MNIST, which
# have 0.06, 0.9 and 3.3 million.
_CPU_POINTS = ((2e5, 32), (1.5e6, 8), (float("inf"), 1))
# Elsewhere: enough to be busy with small nets, and few enough that there are
# chunks to deal out; in a memory that every device has by now.
_LANES, _BYTES = 64, 8 * 2**30


class Chunk(NamedTuple):
  """Lanes that run at once.

  Attributes:
    group: Fingerprint of the compiled program.
    shape: The rectangle.
    lanes: Fingerprints of the lanes, row by row, `shape.size` of them; the
      padding of a ragged chunk repeats lanes.
  """

  group: str
  shape: Shape
  lanes: tuple[str, ...]

  @property
  def fingerprint(self) -> str:
    """Of the chunk: its checkpoints belong to it."""
    return identity.fingerprint(
        {"group": self.group, "shape": list(self.shape), "lanes": self.lanes})

  @property
  def packing(self) -> str:
    """The rectangle in words: a column of each row."""
    return name(self.shape)


def balanced(seeds: Sequence[int], shape: Shape) -> Shape:
  """The shape of as many chunks with the least padding.

  Twelve points in rectangles of eight are two of six, not eight and four.

  Args:
    seeds: The seed of each lane.
    shape: The largest rectangle allowed.

  Returns:
    A rectangle no larger in any direction.

  Example:
    >>> balanced([0] * 12 + [1] * 12, Shape(1, 4, 8))
    Shape(devices=1, seeds=4, points=6)
  """
  counts = [seeds.count(seed) for seed in set(seeds)]
  most = max(counts)

  def tried(points: int) -> tuple[int, int, Shape]:
    rows = sum(-(-count // points) for count in counts)
    devices = min(shape.devices, rows)
    made = Shape(devices, _even(-(-rows // devices), shape.seeds), points)
    return -(-rows // made.rows), made.size, made

  # Even parts of the longest seed may be too short for another.
  return min(map(tried, (_even(most, shape.points),
                         min(most, shape.points))))[2]


def name(shape: Shape) -> str:
  """A rectangle as people read it, devices x seeds x points."""
  return "x".join(map(str, shape))


def by_rule(training: Training, inputs: Any, seeds: Sequence[int]) -> Shape:
  """The rectangle that shards use, the same on all machines of a kind.

  Shards do not measure how many lanes to run at once: another machine would
  measure, and plan, something else, and the chunks dealt out would not be those
  of one sweep.

  Args:
    training: Of any of the lanes.
    inputs: Of the data set, for shapes and types.
    seeds: The seed of each lane.

  Returns:
    On a CPU, many points of a narrow net, or single lanes of a wide one, on each
    device; elsewhere as many lanes as fit. With the least padding.
  """
  if jax.default_backend() == "cpu":
    flops = _flops_with_init(training, inputs) / training.batch_size
    rows, points = 1, next(n for most, n in _CPU_POINTS if flops < most)
  else:
    lanes = max(1, min(_LANES, _BYTES // cost.lane_bytes(training, inputs)))
    points = min(lanes, max(seeds.count(seed) for seed in set(seeds)))
    rows = lanes // points
  return balanced(seeds, Shape(jax.local_device_count(), rows, points))


def _flops_with_init(training: Training, inputs: Any) -> float:
  """Of a forward pass and of making the net: by these the limits were found."""
  model = training.model

  def outputs(key, batch):
    first = jax.tree.map(lambda x: x[:1], batch)
    return model.apply(model.init(key, first), batch, train=False)[0].logits

  return cost.flops(outputs, jax.random.key(0),
                    preprocess.seen(inputs, training.batch_size))


def chunks(
    group: str, lanes: Sequence[tuple[int, str]], shape: Shape
) -> list[Chunk]:
  """Packs lanes into rectangles.

  Args:
    group: Fingerprint of the program.
    lanes: Seed and fingerprint of each lane.
    shape: The rectangle, the same for all.

  Returns:
    The chunks. Each row of a rectangle has one seed; what is ragged is padded
    by repeating, so that the last chunk needs no program of its own.
  """
  by_seed: dict[int, list[str]] = {}
  for seed, lane in lanes:
    by_seed.setdefault(seed, []).append(lane)
  rows = [
      _padded(own[start:start + shape.points], shape.points)
      for own in by_seed.values()
      for start in range(0, len(own), shape.points)]
  return [
      Chunk(group, shape, tuple(lane for row in _padded(
          rows[start:start + shape.rows], shape.rows) for lane in row))
      for start in range(0, len(rows), shape.rows)]


def efficiency(lanes: int, seeds: Sequence[int], shape: Shape) -> float:
  """Part of the work that is no padding."""
  made = chunks("", [(seed, str(n)) for n, seed in enumerate(seeds)], shape)
  return lanes / (len(made) * shape.size)


def extend(
    kept: Sequence[Chunk],
    group: str,
    lanes: Sequence[tuple[int, str]],
    done: Collection[str],
    shape: Callable[[list[int]], Shape],
    *,
    devices: int,
) -> list[Chunk]:
  """The chunks of a group: those planned before, and new ones for new lanes.

  Args:
    kept: All chunks planned before, of any group.
    group: Fingerprint of the program.
    lanes: Seed and fingerprint of each lane that is asked for.
    done: Fingerprints of the lanes that have rows, in whatever packing.
    shape: Chooses the rectangle for new lanes, given their seeds.
    devices: How many there are.

  Returns:
    Chunks that hold every lane that has no row. An unfinished one with a lane that
    nobody asks for any more, or for more devices than there are, is given up.
  """
  done, asked = set(done), {lane for _, lane in lanes}
  mine = [chunk for chunk in kept if chunk.group == group
          and asked & set(chunk.lanes)
          and (done >= set(chunk.lanes) or (
              asked >= set(chunk.lanes) and chunk.shape.devices <= devices))]
  planned = done.union(*(chunk.lanes for chunk in mine))
  new = [lane for lane in lanes if lane[1] not in planned]
  if not new:
    return mine
  return mine + chunks(group, new, shape([seed for seed, _ in new]))


def load(file: pathlib.Path) -> list[Chunk]:
  """The chunks planned in a workdir before, or none."""
  if not file.is_file():
    return []
  try:
    planned = strict.read(file)
    return [Chunk(c["group"], Shape(*c["shape"]), tuple(c["lanes"]))
            for c in planned["chunks"]]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{file}: unreadable ({error}); delete it") from None


def save(file: pathlib.Path, planned: Sequence[Chunk]) -> None:
  """Writes a plan down."""
  parameters.write_json(file, {
      "schema": records.SCHEMA, "chunks": [chunk._asdict() for chunk in planned]})


def _even(number: int, most: int) -> int:
  """The least size of equal parts of `number`, none above `most`."""
  return -(-number // -(-number // most))


def _padded(items: Sequence[Any], length: int) -> list[Any]:
  return [*items, *[items[-1]] * (length - len(items))]
