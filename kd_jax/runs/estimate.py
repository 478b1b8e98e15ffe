"""What a sweep will take, and how far it is."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from kd_jax.config import build, identity, recipe, schema, sweep
from kd_jax.config import run as run_lib
from kd_jax.config.run import Run
from kd_jax.core.screen import Screen
from kd_jax.runs import plan, probe, programs
from kd_jax.runs.jobs import Job
from kd_jax.runs.plan import Chunk
from kd_jax.runs.results import Results
from kd_jax.runs.shard import Shard
from kd_jax.training import cost
from kd_jax.training import lanes as lanes_lib


class Meter:
  """One bar for the whole sweep: lanes done, best so far, time left.

  Steps count by what they cost, so that small nets first promise nothing.
  """

  def __init__(
      self, screen: Screen, planned: Sequence[tuple[Job, Chunk]], results: Results):
    self._screen, self._results = screen, results
    self._costs: dict[str, float] = {}
    for job, _ in planned:
      if job.program_fingerprint not in self._costs:
        self._costs[job.program_fingerprint] = cost.step_seconds(
            job.training, job.setup.train.inputs, job.learner.teacher)
    self._lanes = len({row["fingerprint"] for row in results.rows}.union(
        *(chunk.lanes for _, chunk in planned)))
    self._total = sum(self._cost(*each) for each in planned)
    done = [each for each in planned if results.has(each[1].lanes)]
    self._done = sum(self._cost(*each) for each in done)
    if done:
      screen.say(f"sweep: {len(results.rows)} of {self._lanes} lanes are done")

  def tick(self, job: Job, chunk: Chunk, step: int) -> None:
    """Shows that a chunk has come to a step; its end is told by `finished`."""
    part = step / job.training.last_step
    if part < 1:
      self._show(job, self._done + part * self._cost(job, chunk))

  def finished(self, job: Job, chunk: Chunk) -> None:
    """Shows that the rows of a chunk are on disk."""
    self._done += self._cost(job, chunk)
    self._show(job, self._done)

  def _show(self, job: Job, now: float) -> None:
    split = "heldout" if "heldout" in job.setup.splits else "test"
    errors = [row[f"{split}_errors"] for row in self._results.rows
              if row["failed"] is None]
    best = f"  best {min(errors)} errors ({split})" if errors else ""
    # In hundredths of a second, as the bar wants whole parts.
    self._screen.advance(
        "sweep", round(100 * now), max(1, round(100 * self._total)),
        f"{len(self._results.rows)} of {self._lanes} lanes{best}")

  def _cost(self, job: Job, chunk: Chunk) -> float:
    return (self._costs[job.program_fingerprint] * job.training.last_step
            * chunk.shape.size)


def table(
    run: Run, say: Callable[[str], None],
    shard: Shard | None = None,
) -> tuple[list[str], list[list[str]], str]:
  """What a sweep, or a shard of it, would do, before any work.

  Time is a rough upper bound from arithmetic; memory is that of one chunk.

  Returns:
    Columns, rows and a summary.
  """
  columns = ["group", "runs", "lanes at once", "chunks", "steps a run",
             "memory", "time"]
  rows, seconds, prepared, runs, planned = [], 0.0, [], [0, 0], 0
  datasets: dict[str, Any] = {}
  groups = _groups(run)
  for group in groups:
    net = group.net
    own_run = run_lib.read(net.values)
    key = own_run.part("data.")
    if key not in datasets:
      datasets[key] = build.dataset(net.values, say=say)
    found = datasets[key]
    if net.member is None:
      found = build.transfer_set(net.values, found)
    training = build.training(net, found)
    step = cost.step_seconds(training, found.train.inputs)
    if net.member is not None:
      prepared.append(len(group.seeds) * training.total_steps * step)
      continue
    shape, chunks = _chunks(run, group, training, found, shard)
    dealt = shard.part(chunks, before=planned) if shard else chunks
    own, whole = _lanes(dealt), len(group.seeds)
    taken = own * training.last_step * step
    held = cost.lane_bytes(
        training, found.train.inputs) * shape.size + found.train.inputs.nbytes
    rows.append([
        _group_name(groups, group), _of(own, whole), probe.name(shape),
        _of(len(dealt), len(chunks)), f"{training.last_step:,}",
        f"{held / 2**20:,.0f} MiB", _clock(taken)])
    seconds, planned = seconds + taken, planned + len(chunks)
    runs = [runs[0] + own, runs[1] + whole]
  summary = (
      f"{_of(*runs)} runs in {len(rows)} compilation(s), {len(prepared)} "
      f"teacher(s) ({_clock(sum(prepared))} unless found); at most about "
      f"{_clock(seconds + sum(prepared))} on {cost.machine()}")
  return columns, rows, f"shard {shard}: {summary}" if shard else summary


class _Group(NamedTuple):
  """Nets of a recipe that are one compiled program, and the seed of each."""

  net: recipe.Net
  seeds: list[int]


def _groups(run: Run) -> list[_Group]:
  """Every net that a sweep trains, once, by what they are compiled as."""
  groups: dict[str, _Group] = {}
  known = set()
  for lane in sweep.lanes(run.values, run.sweep.points):
    whole: dict[str, str] = {}
    for net in recipe.nets(lane.values, swept=True):
      build.check_net(net)
      own = run_lib.read(net.values)
      # What it is, and all that it learns from; two members of a teacher are one.
      alike = str([net.name, net.epoch, *(
          whole[other] for other in (*net.teachers, net.start) if other)])
      whole[net.name] = alike + own.part(
          *(("data.", "teacher.") if net.member is not None else ("",)))
      if whole[net.name] in known:
        continue
      known.add(whole[net.name])
      # The members of a teacher are a group: as many nets as there are.
      key = own.part("data.", "teacher.") if net.member is not None else (
          net.name + identity.group(net.values))
      groups.setdefault(key, _Group(net, [])).seeds.append(own.values["seed"])
  return sorted(groups.values(), key=lambda group: group.net.member is None)


def _of(part: int, whole: int) -> str:
  return f"{whole}" if part == whole else f"{part} of {whole}"


def _lanes(chunks: Sequence[Chunk]) -> int:
  return sum(len(set(chunk.lanes)) for chunk in chunks)


def _chunks(run, group: _Group, training, found, shard: Shard | None):
  """The rectangle of a group, and its chunks."""
  shape = _shape(run, group, training, found, shard)
  return shape, plan.chunks(
      "", [(seed, str(n)) for n, seed in enumerate(group.seeds)], shape)


def _shape(run, group: _Group, training, found, shard: Shard | None):
  """The rectangle that is given or remembered, or the largest to be tried."""
  if run.sweep.lanes is not None:
    return plan.balanced(
        group.seeds, lanes_lib.Shape(jax.local_device_count(), *run.sweep.lanes))
  if shard:
    return plan.by_rule(training, found.train.inputs, group.seeds)
  return (programs.remembered(identity.program(group.net.values), group.seeds)
          or probe.candidates(group.seeds)[-1])


def _group_name(groups: Sequence[_Group], group: _Group) -> str:
  """The net of a recipe, and the static keys in which its groups differ."""
  net = group.net
  all_values = [each.net.values for each in groups if each.net.name == net.name]
  known = schema.every()
  differing = [
      key for key in net.values
      if not known[key].traced and not key.startswith("sweep.")
      and len({str(values[key]) for values in all_values}) > 1]
  title = sweep.title({key: net.values[key] for key in differing})
  return " ".join(filter(None, (net.in_config * net.name, title))) or "all"


def _clock(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
