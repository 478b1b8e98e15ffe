"""The compiled programs of a sweep: one a group, counted; probes apart."""

from collections.abc import Callable, Hashable
from typing import Any

import jax

from kd_jax.config.run import Sweeping
from kd_jax.core import compilation
from kd_jax.runs import plan, probe
from kd_jax.runs.jobs import Job
from kd_jax.training import lanes, train_loop
from kd_jax.training.settings import Training


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
    self._made: dict[Hashable, lanes.Lanes] = {}

  def shape(self, job: Job, seeds: list[int]) -> lanes.Shape:
    """The rectangle for lanes of these seeds: given, by rule or measured."""
    shape = expected(
        self._asked, job.program, job.training, job.setup.train.inputs, seeds,
        measure=self._measure)
    if shape is None:
      return self._measured(job, seeds)
    if self._asked.lanes is None and not self._measure:
      self._say(f"lanes: {plan.name(shape)} (devices x seeds x points) at once, "
                "by rule, as shards do not measure; "
                "--config.sweep.lanes=SEEDSxPOINTS sets others")
    return shape

  def get(self, job: Job, shape: lanes.Shape) -> lanes.Lanes:
    """The programs of a rectangle, compiled on first use."""
    key = _key(job, shape)
    if key not in self._made:
      self._made[key] = _compiled(job, shape)
      self.compilations += 1
    return self._made[key]

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
    self._made[_key(job, shape)] = made[shape]
    self.compilations += 1
    self.probes += len(made) - 1
    probe.remember(job.program, seeds, shape)
    return shape


def expected(
    asked: Sweeping, program: str, training: Training, inputs: Any,
    seeds: list[int], *, measure: bool,
) -> lanes.Shape | None:
  """The rectangle that is given, by rule or remembered; None if none is known.

  Args:
    asked: What the config asks of a sweep.
    program: The program as text, as of `identity.program`.
    training: Of any of the lanes.
    inputs: Of the data set, for shapes and types.
    seeds: The seed of each lane.
    measure: Whether rectangles may be measured; those of shards go by rule.
  """
  if asked.lanes is not None:
    return plan.balanced(
        seeds, lanes.Shape(jax.local_device_count(), *asked.lanes))
  if not measure:
    return plan.by_rule(training, inputs, seeds)
  tried = probe.candidates(seeds)
  return tried[0] if len(tried) == 1 else probe.remembered(program, seeds)


def _key(job: Job, shape: lanes.Shape) -> Hashable:
  """Of a program: jobs with data of other sizes have others."""
  return job.program_fingerprint, shape, compilation.shapes(job.setup.train)


def _compiled(job: Job, shape: lanes.Shape) -> lanes.Lanes:
  return lanes.compile_lanes(
      job.learner, job.training.views, job.training.batch_size, shape,
      job.setup.train, job.training.hparams, own_teachers=job.own_teachers)
