"""Optimisers and learning-rate schedules from optax, by name.

Learning rate, momentum and weight decay are traced values; the schedule is a
static shape of peak 1. One compiled program then serves every value of them.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd_jax.core import types
from kd_jax.training import schedules

Schedule = Callable[[jax.Array], jax.Array]


class OptimizerSpec(NamedTuple):
  """The static part of an optimiser.

  Attributes:
    name: One of `OPTIMIZERS`.
    schedule: Learning rate at a step as a fraction of its peak.
    nesterov: Nesterov's form of momentum (sgd only).
    b2: Decay of the second moment (the Adam family and rmsprop).
    epsilon: Added to the root of the second moment.
    momentum_steps: Steps over which momentum goes to `Hparams.momentum_end`, where
      that is given.
  """

  name: str
  schedule: Schedule
  nesterov: bool = False
  b2: float = 0.999
  epsilon: float = 1e-8
  momentum_steps: float = 1.0


OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "cosine", "linear", "step", "exponential")


def optimizer(
    optimizer_spec: OptimizerSpec, hparams: types.Hparams
) -> optax.GradientTransformation:
  """The optimiser for traced hyper-parameters: build it inside the step.

  Args:
    optimizer_spec: The static part.
    hparams: Learning rate, momentum, weight decay and clip_norm, scalars.

  Returns:
    update = -learning_rate * schedule(step) * direction(gradient), the gradient
    scaled to a norm of at most clip_norm first, over all parameters together
    (Pascanu et al. 2013, algorithm 1).
  """
  spec = optimizer_spec
  decay = optax.add_decayed_weights(hparams.weight_decay)
  adam = optax.scale_by_adam(b1=hparams.momentum, b2=spec.b2, eps=spec.epsilon)
  direction = {
      # Weight decay joins the gradient before the momentum, as in PyTorch's SGD.
      "sgd": (decay, optax.trace(hparams.momentum, nesterov=spec.nesterov)),
      # L2 in the gradient; AdamW's decay is apart from it.
      "adam": (decay, adam),
      "adamw": (adam, decay),
      # Epsilon is added to the root, as in PyTorch; optax puts it within.
      "rmsprop": (
          decay,
          optax.scale_by_rms(decay=spec.b2, eps=spec.epsilon, eps_in_sqrt=False),
          optax.trace(hparams.momentum)),
  }[spec.name]
  clip = () if hparams.clip_norm is None else (
      optax.clip_by_global_norm(hparams.clip_norm),)
  return optax.chain(
      *clip, *direction, optax.scale_by_schedule(spec.schedule),
      optax.scale(-hparams.learning_rate))


def at(
    optimizer_spec: OptimizerSpec, hparams: types.Hparams, step: jax.Array
) -> types.Hparams:
  """The numbers of a step, as momentum may move.

  p(t) = p(0) + (p_end - p(0)) * min(t / momentum_steps, 1)

  Args:
    optimizer_spec: The static part.
    hparams: Those of step 0, and momentum_end, or None where momentum stays.
    step: Steps done, int32 `[]`.

  Returns:
    Those of this step.

  Example:
    >>> spec = OptimizerSpec("sgd", schedule("constant", total_steps=8),
    ...                      momentum_steps=4)
    >>> numbers = types.Hparams(momentum=0.5, momentum_end=0.9)
    >>> [round(float(at(spec, numbers, jnp.int32(t)).momentum), 3)
    ...  for t in (0, 1, 4, 8)]
    [0.5, 0.6, 0.9, 0.9]

  Source: Hinton et al. (2012), arXiv 1207.0580, appendix A.1.
  """
  if hparams.momentum_end is None:
    return hparams
  done = schedules.fraction(
      schedules.Course("linear", optimizer_spec.momentum_steps), step)
  return hparams.replace(  # type: ignore[attr-defined]
      momentum=hparams.momentum + (hparams.momentum_end - hparams.momentum) * done)


def schedule(
    name: str,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    boundaries: Sequence[int] = (),
    factor: float = 0.1,
    per_epoch: int = 1,
) -> Schedule:
  """A learning-rate schedule of peak 1.

  The warm-up rises linearly from 1 / (warmup_steps + 1), so that no step is
  lost; then `cosine` and `linear` fall towards 0 at `total_steps`, `step`
  multiplies by `factor` at each boundary, and `exponential` after each epoch, of
  those that follow the warm-up:

    factor ** floor((step - warmup_steps) / per_epoch)   (Hinton et al. 2012,
                                                          appendix A.1, f = 0.998)

  Args:
    name: One of `SCHEDULES`.
    total_steps: Length of the run in steps.
    warmup_steps: Length of the warm-up in steps, less than the total.
    boundaries: Steps at which `step` multiplies.
    factor: What `step` and `exponential` multiply by.
    per_epoch: Steps of an epoch.

  Returns:
    `step -> fraction of the peak`, float32 `[]`.

  Example:
    >>> fall = schedule("linear", total_steps=10)
    >>> [round(float(fall(jnp.int32(step))), 2) for step in (0, 5, 9)]
    [1.0, 0.5, 0.1]
  """
  return _schedule(
      name, total_steps, warmup_steps, tuple(boundaries), factor, per_epoch)


@functools.lru_cache(maxsize=32)  # The same schedule shares compiled programs.
def _schedule(
    name, total_steps, warmup_steps, boundaries, factor, per_epoch
) -> Schedule:
  rest = max(total_steps - warmup_steps, 1)
  after = {
      "constant": lambda: optax.constant_schedule(1.0),
      "cosine": lambda: optax.cosine_decay_schedule(1.0, rest),
      "linear": lambda: optax.linear_schedule(1.0, 0.0, rest),
      # In a short run two boundaries may round to one step: both count.
      "step": lambda: optax.piecewise_constant_schedule(1.0, {
          b - warmup_steps: factor ** boundaries.count(b)
          for b in boundaries}),
      "exponential": lambda: optax.exponential_decay(
          1.0, per_epoch, factor, staircase=True),
  }[name]()

  def shape(step: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):
      rising = (step + 1) / (warmup_steps + 1)
      falling = after(jnp.maximum(step - warmup_steps, 0))
      return jnp.where(step < warmup_steps, rising, falling).astype(jnp.float32)

  return shape


def project(params: types.Tree, max_norm: jax.Array | float | None) -> types.Tree:
  """Scales each unit's incoming weights back onto a ball.

  w <- w * min(1, max_norm / |w|) for every unit, of every leaf named "kernel"

  It is a projection after the update, not a penalty (Srivastava et al. 2014,
  section 5.1). Biases are left alone.

  Args:
    params: Parameters; a kernel is `[..., units]`.
    max_norm: Radius of the ball, or None for no constraint.

  Returns:
    The projected parameters.
  """
  if max_norm is None:
    return params

  def constrain(leaf):
    axes = tuple(range(leaf.ndim - 1))
    square = jnp.sum(jnp.square(leaf), axis=axes, keepdims=True)
    outside = square > max_norm**2
    norm = jnp.sqrt(jnp.where(outside, square, 1.0))
    # Exactly 1 within the ball: m / sqrt(m**2) may round to another number.
    return leaf * jnp.where(outside, max_norm / norm, 1.0)

  return _of_kernels(constrain, params)


def scaled(params: types.Tree, factor: jax.Array | float | None) -> types.Tree:
  """Initial parameters with every kernel times `factor`; None leaves them.

  Nets that start small have less of their first, random features left when they
  are trained.
  """
  if factor is None:
    return params
  return _of_kernels(lambda leaf: leaf * factor, params)


def _of_kernels(change: Callable[[jax.Array], jax.Array], params: types.Tree):
  """Applies `change` to the leaves named "kernel", not to biases and scales."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: change(leaf)
      if getattr(path[-1], "key", None) == "kernel" else leaf, params)
