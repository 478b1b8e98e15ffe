"""How many lanes to train at once: measured on this device, once.

Small nets gain several times from lanes; nets whose matrix products fill the
machine by themselves gain nothing, or lose. Which is which is a matter of the
device, so it is measured, and the choice is kept.
"""

from collections.abc import Callable, Sequence
import contextlib
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.config import identity
from kd_jax.core import compilation, machine, strict, types
from kd_jax.runs import plan, records
from kd_jax.training import lanes as lanes_lib
from kd_jax.training import parameters
from kd_jax.training.lanes import Lanes, Shape

# Lanes of a device: beyond these it has been full for long.
_MOST_LANES = {"cpu": 64}
_MOST_LANES_ELSEWHERE = 256
_ROUNDS, _SECONDS = 3, 0.25
# A larger rectangle must be faster by this to be worth its memory and waiting.
_WORTH = 1.03


def candidates(seeds: Sequence[int]) -> list[Shape]:
  """The rectangles to try for lanes of these seeds, smallest first."""
  most = _MOST_LANES.get(jax.default_backend(), _MOST_LANES_ELSEWHERE)
  points = max(seeds.count(seed) for seed in set(seeds))
  shapes = set()
  for devices in {1, jax.local_device_count()}:
    # Devices come first: enough rows for all of them.
    across = min(points, -(-len(seeds) // devices))
    tried = [(1, 1), (1, 8), (1, 32), (1, most), (4, 8),
             (max(1, most // min(across, most)), most)]
    shapes |= {plan.balanced(seeds, Shape(devices, s, min(p, across)))
               for s, p in tried if s * min(p, across) <= most}
  return sorted(shapes, key=lambda shape: (shape.size, shape.rows))


def choose(
    make: Callable[[Shape], Lanes],
    seeds: Sequence[int],
    hparams: types.Hparams,
    *,
    limit: int,
    say: Callable[[str], None],
) -> Shape:
  """The rectangle that trains the most lanes a second.

  Args:
    make: Compiles a rectangle; called once for each that is tried.
    seeds: The seed of each lane.
    hparams: Of any lane.
    limit: Bytes that a program may take.
    say: Told what was measured.

  Returns:
    The smallest of those within 3% of the fastest.
  """
  fitting: list[Lanes] = []
  for shape in candidates(seeds):
    made = make(shape)
    if not fitting or made.bytes <= limit:
      fitting.append(made)
  if len(fitting) == 1:
    return fitting[0].shape
  seconds = _measure(fitting, hparams)
  rate = [plan.efficiency(len(seeds), seeds, each.shape) * each.shape.size
          / second for each, second in zip(fitting, seconds, strict=True)]
  enough = max(rate) / _WORTH
  chosen = next(n for n, lanes in enumerate(rate) if lanes >= enough)
  rates = ", ".join(f"{plan.name(each.shape)}: {lanes:,.0f}"
                   for each, lanes in zip(fitting, rate, strict=True))
  shape = fitting[chosen].shape
  say(f"lanes: {plan.name(shape)} (devices x seeds x points) at once; steps a "
      f"second over all lanes: {rates}")
  return shape


def remembered(program: str, seeds: Sequence[int]) -> Shape | None:
  """What was chosen for this before on this machine."""
  found = _known().get(_key(program, seeds))
  if isinstance(found, list) and len(found) == 3 and all(
      isinstance(size, int) and size > 0 for size in found):
    return Shape(*found)
  return None


def remember(program: str, seeds: Sequence[int], shape: Shape) -> None:
  """Keeps a choice for later runs."""
  file = _file()
  # Where nothing can be kept, it is measured again.
  with contextlib.suppress(OSError):
    file.parent.mkdir(parents=True, exist_ok=True)
    parameters.write_json(
        file, {**_known(), _key(program, seeds): list(shape)})


def device_bytes() -> int:
  """Memory of a device; of a CPU's, an equal share of the machine's."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  return machine.memory() // jax.local_device_count()


def _measure(fitting: Sequence[Lanes], hparams: types.Hparams) -> list[float]:
  """Seconds a step of each, medians over rounds that take turns."""
  times: list[list[float]] = [[] for _ in fitting]
  count = [4] * len(fitting)
  for turn in range(-1, _ROUNDS):
    for number, each in enumerate(fitting):
      second = _seconds(each, hparams, count[number]) / count[number]
      if turn < 0:  # The first round only says how many steps are enough.
        count[number] = max(2, min(200, round(_SECONDS / second)))
      else:
        times[number].append(second)
  return [statistics.median(each) for each in times]


def _seconds(lanes: Lanes, hparams: types.Hparams, length: int) -> float:
  """Of `length` steps of all lanes, from a fresh start."""
  shape = lanes.shape
  filled = lanes_lib.stack([hparams] * shape.size, shape)
  seeds = jnp.arange(shape.rows, dtype=jnp.uint32)
  state, _ = lanes.segment(lanes.init(seeds, filled), filled, seeds, 1)
  jax.block_until_ready(state)
  began = time.perf_counter()
  jax.block_until_ready(lanes.segment(state, filled, seeds, length))
  return time.perf_counter() - began


def _key(program: str, seeds: Sequence[int]) -> str:
  return identity.fingerprint({
      "program": program, "tried": candidates(seeds), **records.runtime()})


def _file() -> pathlib.Path:
  return compilation.home() / "lanes.json"


def _known() -> dict[str, Any]:
  try:
    found = strict.read(_file())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}
