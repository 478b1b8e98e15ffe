"""Whether a method can compare two taps, seen by their shapes alone."""

import itertools

import jax
import jax.numpy as jnp

from kd_jax.core import types
from kd_jax.methods.method import Method, sizes
from kd_jax.methods.own import Raised
from kd_jax.methods.pairs import OfSeveral, Pairs, Shapes, TooFew, parted
from kd_jax.methods.several import bind
from kd_jax.methods.terms import Own

# Examples of the batch, and classes, that it is tried with; nothing is computed.
_BATCH, _CLASSES = 4, 3


def check(
    method: Method, student: Shapes, teacher: Shapes, given: Pairs,
    hparams: types.Hparams,
) -> None:
  """Refuses pairs of taps that a method cannot compare.

  Args:
    method: As of `find`, not bound yet.
    student: Shapes of the student's taps, of one example, by name.
    teacher: The same of the teacher.
    given: The pairs that are asked for, as of `bind`.
    hparams: The numbers of the run.

  Raises:
    ValueError: With both shapes, what is wrong with them, and the pairs nearest to
      it that fit.
  """
  bound, pairs = bind(method, student, teacher, given)
  problem = _problem(bound, student, teacher, pairs, hparams)
  if problem is None:
    return

  def fits(pair: tuple[str, str]) -> bool:
    alone, _ = bind(method, student, teacher, (pair,))
    try:
      return _problem(alone, student, teacher, (pair,), hparams) is None
    except TooFew:
      return True

  wrong = next((pair for pair in pairs if not fits(pair)), None)
  if wrong is None:  # Each is right, but not all of them together.
    raise ValueError(problem)
  own, other = wrong
  shown = lambda shape: "x".join(map(str, shape))
  # A few of each, those of the same teacher and at the same depth first.
  of = parted if isinstance(teacher, OfSeveral) else lambda tap: ("", tap)
  name, depth = of(other)
  near = [pair for pairs in (
      [(own, tap) for tap in sorted(teacher, key=lambda tap: (
          of(tap)[0] != name, of(tap)[1] != own))],
      [(tap, other) for tap in sorted(student, key=lambda tap: tap != depth)])
          for pair in itertools.islice(filter(fits, pairs), 3)]
  raise ValueError(
      f"it cannot compare the student's {own} ({shown(student[own])}) with the "
      f"teacher's {other} ({shown(teacher[other])}): {problem}; what fits: "
      f"{', '.join(map(str, near)) or 'nothing'}")


def _problem(bound, student, teacher, pairs, hparams) -> str | None:
  """Why a bound method cannot compare taps, or None."""
  names = ["-".join(pair) for pair in pairs]
  taps = [{name: of[pair[place]] for name, pair in zip(names, pairs)}
          for place, of in enumerate((student, teacher))]
  key = jax.random.key(0)
  ids = jnp.arange(_BATCH)
  batch = types.Batch(jnp.zeros(_BATCH), ids % _CLASSES, ids, ids, ids >= 0)
  batch = batch.twice() if bound.two_views else batch

  def tried(hparams):
    more = sizes(bound, _BATCH, _CLASSES)
    # The layer behind `pooled`, which no method with `heads` can do without.
    head = lambda of: {
        "kernel": jnp.zeros((of.get("pooled", (0,))[-1], _CLASSES)),
        "bias": jnp.zeros(_CLASSES)}
    params, state = bound.init(key, *taps, **more)
    own = Own(params, state, labels=batch.label, key=key,
              heads=(head(student), head(teacher)))
    rows = len(batch.id)
    outputs = [types.Outputs(jnp.zeros((rows, _CLASSES)), {
        name: jnp.zeros((rows, *shape)) for name, shape in each.items()})
               for each in taps]
    return bound.terms(own, *outputs, batch, hparams.replace(progress=0.0))

  try:
    jax.eval_shape(tried, hparams)
  except TooFew:
    raise
  except Raised as error:  # Of a user's own.
    if not isinstance(error.__cause__, TypeError | ValueError):
      raise
    return error.words
  except (TypeError, ValueError) as error:
    return " ".join(str(error).split("--------------------")[0].split())
  return None
