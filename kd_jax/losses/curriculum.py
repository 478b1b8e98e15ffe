r"""From easy to hard: how a soft target changes over a run.

CTKD: a temperature that learns to make the student's task harder.

One parameter theta gives T = start + span * sigmoid(theta). It is trained with
the student on the same loss, but up its gradient: the student descends T**2 KL, T
climbs it. How strongly, lambda, rises along a cosine, from easy to hard.

Source: Li et al. (2023), Curriculum temperature for knowledge distillation, AAAI,
arXiv 2211.16231; the global version.

Annealing-KD: the student regresses the teacher's logits, first a small part of them
and last all of them (`annealing_factor`).
"""

import jax
import jax.numpy as jnp

from kd_jax import losses


def reverse_gradient(x: jax.Array, strength: losses.Scalar) -> jax.Array:
  r"""x itself, whose gradient comes back times -strength.

  f(x) = x,   df/dx = -lambda                          (Li et al. 2023, eq. 4)

  Args:
    x: Any array.
    strength: lambda >= 0, a scalar without gradient.

  Returns:
    x, to the bit.

  Example:
    >>> jax.grad(lambda x: reverse_gradient(x, 0.5) ** 2)(3.0)  # -0.5 * 2 * 3
    Array(-3., dtype=float32, weak_type=True)
  """
  held = jax.lax.stop_gradient(x)
  return held - jax.lax.stop_gradient(strength) * (x - held)


def cosine_ramp(progress: losses.Scalar, part: losses.Scalar) -> jax.Array:
  r"""lambda of the curriculum: from 0 to 1 over the first part of a run.

  lambda = 1/2 (1 - cos(pi min(progress / part, 1)))   (Li et al. 2023, eq. 7)

  Args:
    progress: Part of the run that is done, in [0, 1].
    part: Part of the run that the ramp takes, in [0, 1]; 0 for no ramp. The
      paper's is 10 of 240 epochs.

  Returns:
    lambda, a float32 scalar.

  Example:
    >>> cosine_ramp(0.125, 0.25).round(4), cosine_ramp(0.9, 0.25)
    (Array(0.5, dtype=float32), Array(1., dtype=float32))
  """
  return 0.5 - 0.5 * jnp.cos(jnp.pi * linear_ramp(progress, part))


def linear_ramp(progress: losses.Scalar, part: losses.Scalar) -> jax.Array:
  r"""From 0 to 1 over the first part of a run: min(1, progress / part).

  Args:
    progress: Part of the run that is done, in [0, 1].
    part: Part of the run that the ramp takes, in [0, 1]; 0 for no ramp.

  Returns:
    A float32 scalar.

  Example:
    >>> linear_ramp(0.125, 0.25), linear_ramp(0.0, 0.0)
    (Array(0.5, dtype=float32), Array(1., dtype=float32))
  """
  progress = jnp.asarray(progress, jnp.float32)
  part = jnp.asarray(part, jnp.float32)
  ramps = part > 0
  done = jnp.where(ramps, progress / jnp.where(ramps, part, 1.0), 1.0)
  return jnp.minimum(done, 1.0)


def cosine_decay(progress: losses.Scalar, begin: losses.Scalar) -> jax.Array:
  r"""From 1 to 0 over the rest of a run, along half a cosine.

  f = 1/2 (1 + cos(pi max(0, progress - begin) / (1 - begin)))

  Args:
    progress: Part of the run that is done, in [0, 1].
    begin: When it begins, in [0, 1]; 1 for never.

  Returns:
    f, a float32 scalar.

  Example:
    >>> cosine_decay(0.75, 0.5).round(4), cosine_decay(0.9, 1.0)
    (Array(0.5, dtype=float32), Array(1., dtype=float32))
  """
  rest = 1.0 - jnp.asarray(begin, jnp.float32)
  falls = rest > 0
  since = jnp.asarray(progress, jnp.float32) - 1.0 + rest
  done = jnp.where(falls, since / jnp.where(falls, rest, 1.0), 0.0)
  return 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.maximum(done, 0.0))


def annealing_factor(progress: losses.Scalar, levels: losses.Scalar) -> jax.Array:
  r"""The part of the teacher's logits that a student regresses, in equal steps.

  a = 1 - (T - 1) / T_max,   T = T_max, ..., 2, 1 for equal parts of the run

  Args:
    progress: Part of the run that is done, in [0, 1].
    levels: T_max >= 1, a whole number. The paper's code has 10.

  Returns:
    a in {1 / T_max, 2 / T_max, ..., 1}, a float32 scalar.

  Example:
    >>> annealing_factor(0.0, 4.0), annealing_factor(0.6, 4.0)
    (Array(0.25, dtype=float32), Array(0.75, dtype=float32))

  Source: Jafari et al. (2021), Annealing knowledge distillation, EACL, arXiv
  2104.07163, and the authors' code, which has T / T_max for T from 1 up.
  """
  levels = jnp.asarray(levels, jnp.float32)
  # Of a quotient that is a little too small, the next level all the same.
  done = jnp.floor(jnp.asarray(progress, jnp.float32) * levels * (1 + 1e-6))
  return jnp.minimum(done + 1.0, levels) / levels


def learned_temperature(
    parameter: jax.Array,
    strength: losses.Scalar,
    *,
    start: losses.Scalar = 1.0,
    span: losses.Scalar = 20.0,
) -> jax.Array:
  r"""The temperature of a learned parameter, against its gradient.

  T = start + span * sigmoid(theta),   dT/dtheta = -lambda span s (1 - s)

  Args:
    parameter: theta, a scalar.
    strength: lambda >= 0, how much of the reversed gradient theta gets.
    start: The lowest T; the paper's is 1.
    span: The highest less the lowest; the paper's is 20.

  Returns:
    T in (start, start + span), a scalar.

  Example:
    >>> learned_temperature(jnp.float32(0.0), 1.0)
    Array(11., dtype=float32)

  Source: Li et al. (2023), arXiv 2211.16231, equation 5, and the authors' code,
  where theta begins at 1, so T at 15.6.
  """
  return start + span * jax.nn.sigmoid(reverse_gradient(parameter, strength))
