"""How one net is trained, as plain values."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.data import views as views_lib
from kd_jax.training import optimizers
from kd_jax.training.schedules import STILL, Schedules


class Training(NamedTuple):
  """How one net is trained: plain values, nothing of a config left.

  Attributes:
    model: The net.
    views: Augmentation of what it is trained on.
    optimizer_spec: Static part of the optimiser.
    hparams: Traced part of everything, float32 scalars.
    batch_size: Examples a step.
    total_steps: Length of the training.
    seed: Of all its randomness.
    taps: Shapes of the taps of one example, by name.
    schedules: How temperature and weights move.
    unlabelled: Whether some of its examples have no label, but -1.
    ends: Steps after which it ends before its schedules do, or None.
    remark: What its user should know of the net, or "".
    mixup: a of Beta(a, a), as of `segment.mixed`; 0 mixes nothing.
    accumulate: Parts of a batch that go through the nets one after the other.
    class_weights: Of the hard term, one a class; () for all alike.
    patience: Epochs without fewer held-out errors after which it ends, or None.
  """

  model: types.Model
  views: views_lib.Views
  optimizer_spec: optimizers.OptimizerSpec
  hparams: types.Hparams
  batch_size: int
  total_steps: int
  seed: int
  taps: Mapping[str, tuple[int, ...]]
  schedules: Schedules = STILL
  ends: int | None = None
  unlabelled: bool = False
  remark: str = ""
  mixup: float = 0.0
  accumulate: int = 1
  class_weights: tuple[float, ...] = ()
  patience: int | None = None

  @property
  def rows(self) -> int:
    """Of a batch: an example may be in two."""
    return self.batch_size * (2 if self.views.twice else 1)

  @property
  def last_step(self) -> int:
    """The step at which it ends."""
    return self.ends or self.total_steps

  def learning_rate(self, step: int) -> float:
    """That of a step, from 1."""
    fraction = float(self.optimizer_spec.schedule(jnp.int32(step - 1)))
    return fraction * float(self.hparams.learning_rate)
