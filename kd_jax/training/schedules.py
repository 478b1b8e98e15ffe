"""Courses of temperature and weights over a run, as functions of the step.

value(step) = start + (end - start) * fraction(step)

`start` is the key itself, `end` is a traced number too: a sweep over either is
lanes of one program. Only the shape of a course is static.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.core import types

# Of the part x of the course that is done, in [0, 1]: how far the value has come.
SHAPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "constant": jnp.zeros_like,
    "linear": lambda x: x,
    "cosine": lambda x: 0.5 - 0.5 * jnp.cos(jnp.pi * x),
    # All at once at its end, as where KD stops early (Cho & Hariharan 2019).
    "jump": lambda x: (x >= 1.0).astype(x.dtype),
}


class Course(NamedTuple):
  """How one value moves: a key of `SHAPES`, and for how many steps."""

  shape: str = "constant"
  steps: float = 1.0


class Schedules(NamedTuple):
  """What moves in a run, and how: the static part.

  Attributes:
    total_steps: Length of the run, for `Hparams.progress`.
    temperature: Course from `Hparams.temperature` to `ends["temperature"]`.
    alpha: Course from the weights to those of `ends["alpha"]`.
    warmup: Steps over which soft_weight rises from 0, the hard one untouched
      (as of DKD's and ReviewKD's terms); 0 for none.
  """

  total_steps: int = 1
  temperature: Course = Course()
  alpha: Course = Course()
  warmup: float = 0.0


# Nothing moves.
STILL = Schedules()


def fraction(course: Course, step: jax.Array) -> jax.Array:
  """How far a value has come: 0 at step 0, 1 from `course.steps` on.

  linear x, cosine (1 - cos(pi x)) / 2, jump 1 from x = 1 on, constant 0,
  of x = step / steps

  Args:
    course: Its shape and length.
    step: Steps done, int32 `[]`.

  Returns:
    The fraction, float32 `[]`.

  Example:
    >>> float(fraction(Course("cosine", 4), jnp.int32(2)))
    0.5
  """
  done = jnp.minimum(step.astype(jnp.float32) / jnp.float32(course.steps), 1.0)
  return SHAPES[course.shape](done)


def at(
    schedules: Schedules, step: jax.Array, hparams: types.Hparams
) -> types.Hparams:
  """The numbers of a step.

  Args:
    schedules: What moves.
    step: Steps done, int32 `[]`.
    hparams: The numbers of step 0, and where they go.

  Returns:
    Those of this step, with `progress`. What does not move is what it was, to
    the bit.
  """
  ends = hparams.ends or {}
  alpha = ends.get("alpha", 0.0)

  def moved(course, start, end):
    if course.shape == "constant":
      return start
    return start + (end - start) * fraction(course, step)

  temperature = moved(
      schedules.temperature, hparams.temperature, ends.get("temperature"))
  hard = moved(schedules.alpha, hparams.hard_weight, 1 - alpha)
  soft = moved(schedules.alpha, hparams.soft_weight, alpha)
  if schedules.warmup:
    soft = soft * fraction(Course("linear", schedules.warmup), step)
  return dataclasses.replace(
      hparams, temperature=temperature, hard_weight=hard, soft_weight=soft,
      progress=fraction(Course("linear", schedules.total_steps), step))


def in_words(
    schedules: Schedules, hparams: types.Hparams, *, softens: bool = True
) -> str:
  """The courses in words, to stand behind a loss; "" where nothing moves.

  Args:
    schedules: What moves.
    hparams: The numbers of step 0, and where they go.
    softens: Whether the method has a temperature that could move.

  Example:
    >>> in_words(Schedules(100, Course("cosine", 50)),
    ...          types.Hparams(temperature=8.0, ends={"temperature": 2.0}))
    '; T from 8 to 2 (cosine, 50 steps)'
  """
  words = ""
  ends = hparams.ends or {}
  for name, course, start in (
      ("T", schedules.temperature, hparams.temperature),
      ("alpha", schedules.alpha, hparams.soft_weight)):
    if course.shape != "constant" and (softens or name != "T"):
      end = ends["temperature" if name == "T" else name]
      words += (f"; {name} from {float(start):.3g} to {float(end):.3g} "
                f"({course.shape}, {course.steps:g} steps)")
  if schedules.warmup:
    words += f"; soft weight from 0 over {schedules.warmup:g} steps"
  return words
