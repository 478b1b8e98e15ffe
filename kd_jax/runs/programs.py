"""The compiled programs of a sweep: one a group, counted; probes apart."""

from collections.abc import Callable

import jax

from kd_jax.config import identity as identity_lib
from kd_jax.config.run import Sweeping
from kd_jax.runs import plan, probe, records
from kd_jax.runs.jobs import Job
from kd_jax.training import lanes, train_loop


class Programs:
  """Compiles rectangles of lanes, each once.

  Attributes:
    compilations: Programs compiled to train with.
    probes: Programs compiled only to see how fast they are.
  """

  def __init__(
      self, asked: Sweeping, say: Callable[[str], None],
      stop: Callable[[], bool], *, measure: bool = True):
    """`measure` is whether to measure how many lanes to run at once."""
    self.compilations = self.probes = 0
    self._asked = asked
    self._say, self._stop, self._measure = say, stop, measure
    self._made: dict[tuple[str, lanes.Shape], lanes.Lanes] = {}

  def shape(self, job: Job, seeds: list[int]) -> lanes.Shape:
    """The rectangle for lanes of these seeds: given, by rule or measured."""
    devices = jax.local_device_count()
    if self._asked.lanes is not None:
      return plan.balanced(seeds, lanes.Shape(devices, *self._asked.lanes))
    if not self._measure:
      return self._by_rule(job, seeds)
    tried = probe.candidates(seeds)
    if len(tried) == 1:
      return tried[0]
    return remembered(job.program, seeds) or self._measured(job, seeds)

  def get(self, job: Job, shape: lanes.Shape) -> lanes.Lanes:
    """The programs of a rectangle, compiled on first use."""
    key = (job.program_fingerprint, shape)
    if key not in self._made:
      self._made[key] = _compiled(job, shape)
      self.compilations += 1
    return self._made[key]

  def _by_rule(self, job: Job, seeds: list[int]) -> lanes.Shape:
    """The same rectangle on every machine of a kind."""
    shape = plan.by_rule(job.training, job.setup.train.inputs, seeds)
    self._say(f"lanes: {probe.name(shape)} (devices x seeds x points) at once, by "
              "rule, as shards do not measure; --config.sweep.lanes=SEEDSxPOINTS "
              "sets others")
    return shape

  def _measured(self, job: Job, seeds: list[int]) -> lanes.Shape:
    """The fastest rectangle; its program is kept, the others' are not."""
    made: dict[lanes.Shape, lanes.Lanes] = {}

    def make(shape: lanes.Shape) -> lanes.Lanes:
      if self._stop():
        raise train_loop.Interrupted()
      made[shape] = _compiled(job, shape)
      return made[shape]

    self._say(f"lanes: trying {len(probe.candidates(seeds))} ways to run "
              f"{len(seeds)} at once")
    shape = probe.choose(
        make, seeds, job.training.hparams, say=self._say,
        limit=int(self._asked.memory * probe.device_bytes()))
    self._made[job.program_fingerprint, shape] = made[shape]
    self.compilations += 1
    self.probes += len(made) - 1
    probe.remember(_key(job.program, seeds), shape)
    return shape


def remembered(program: str, seeds: list[int]) -> lanes.Shape | None:
  """The rectangle measured before for this program on this machine."""
  return probe.remembered(_key(program, seeds))


def _key(program: str, seeds: list[int]) -> str:
  return identity_lib.fingerprint({
      "program": program, "tried": probe.candidates(seeds),
      **records.runtime()})


def _compiled(job: Job, shape: lanes.Shape) -> lanes.Lanes:
  return lanes.compile_lanes(
      job.learner, job.training.views, job.training.batch_size, shape,
      job.setup.train, job.training.hparams, own_teachers=job.own_teachers)
