"""Judges of the loss as it is called: weights, masks, precision, batches."""

import math

import numpy as np

from kd_jax.conformance import oracle
from kd_jax.conformance.adapters import Answer
from kd_jax.conformance.finding import (
  CLOSE,
  EXACT,
  Finding,
  about,
  distance,
  figure,
  half_types,
  percent,
  relative,
  snapped,
  worst,
)
from kd_jax.conformance.oracle import fit
from kd_jax.conformance.probe import Probe
from kd_jax.conformance.soft_term import batch_ratio

_USUAL = 4.0


def teacher(probe: Probe) -> Finding:
  """dL/dv = 0."""
  z, v, _ = probe.problem
  answer = probe.ask(z, v, 2.0, alpha=probe.mostly_soft)
  if answer.teacher is None:
    return Finding(None, "NumPy has no gradients to stop", {}, absent=True)
  share = relative(answer.teacher, answer.student)
  return Finding(share <= EXACT, f"{figure(share)} of the student's",
                 {"share": share})


_ALPHA = {
    "soft": "the weight of the soft term, 1 - alpha of the hard one",
    "hard": "the weight of the hard term, as in Keras and torchdistill",
    "free soft": "a weight of the soft term beside a fixed hard term",
    "free hard": "a weight of the hard term beside a fixed soft term",
    "scale": "a weight of the soft term, beside no hard one",
    "none": "nothing, and labels neither: a soft term alone (--alpha=none)",
    "fixed": "nothing, though labels matter: a fixed mixture",
    "unclear": "no weight of one term: no end is without the other",
}


def alpha(probe: Probe) -> Finding:
  """L is linear in alpha, and at its ends one of the terms is alone."""
  kind, bend = probe.mixture
  found = _ALPHA[kind]
  if bend > CLOSE:
    found += f"; {percent(bend)} off linear"
  return Finding(
      kind == probe.alpha and bool(bend <= CLOSE), found, {"bend": bend})


def hard(probe: Probe) -> Finding:
  """dH/dz = softmax(z) - e_y at T = 1, averaged, whatever T the soft term has."""
  if probe.alpha == "none":
    return Finding(None, "there is none (--alpha=none)", {}, absent=True)
  if probe.mixture.kind in ("scale", "none", "fixed", "unclear"):
    return Finding(None, "there is none to be told apart: see alpha", {})
  z, v, y = probe.problem
  # At T = 4: a hard term that is softened too is another one.
  gradient = probe.hard(z, v, _USUAL).gradient * oracle.EXAMPLES
  size, rest = fit(gradient, oracle.hard_gradient(z, y))
  # A sum over the batch, or a second division, is told in that row.
  sizes = {1.0, snapped(batch_ratio(probe), {
      1.0: oracle.EXAMPLES, 0.25: 1 / oracle.EXAMPLES})}
  return Finding(
      rest <= CLOSE and any(about(size, s) for s in sizes),
      f"size {size:.3g} of it, {percent(rest)} is something else",
      {"size": size, "rest": rest})


def continuity(probe: Probe) -> Finding:
  """L and dL/dz at alpha = 0 and 1 are those of 1e-4 inside, to 1%."""
  z, v, _ = probe.problem
  ask = lambda a: probe.ask(z, v, _USUAL, alpha=a)
  middle = ask(0.5)  # An end may be zero: jumps are relative to this, at least.
  gaps, words = {}, []
  for end, inside in ((0.0, 1e-4), (1.0, 1 - 1e-4)):
    at, near = ask(end), ask(inside)
    sizes = [abs(answer.value) for answer in (at, near, middle)]
    gap = worst(distance(at.student, near.student, middle.student),
                abs(at.value - near.value) / np.max(sizes))
    gaps[f"at {end:g}"] = gap
    word = f"jumps by {percent(gap)} at {end:g}"
    ratio = relative(at.student, near.student)
    words.append(word + (f" (gradient x {ratio:.3g})" if gap > 0.01 else ""))
  # 1e-4 from the end, a linear mixture is off by some 1e-4.
  return Finding(all(gap <= 0.01 for gap in gaps.values()), ", ".join(words),
                 gaps)


def masked(probe: Probe) -> Finding:
  """Logits of -inf in both: finite, gradient 0, else as of a probability of 0.

  That is, as of low logits, or as of fewer classes if a loss has means over them.
  """
  z, v, y = probe.problem
  rows = np.arange(oracle.EXAMPLES)
  gone = np.zeros(z.shape, bool)
  for step in (1, 3):
    gone[rows, (y + step) % oracle.CLASSES] = True
  ask = lambda z, v, y: probe.ask(
      z, v, 2.0, alpha=probe.mostly_soft, labels=y)
  filled = lambda x, logit: np.where(gone, logit, x)
  answer = ask(filled(z, -np.inf), filled(v, -np.inf), y)
  assert answer.student is not None
  bad = int((~np.isfinite(answer.student)).sum())
  left = np.abs(np.where(gone, answer.student, 0.0)).max()
  finite = math.isfinite(answer.value) and not bad
  found = (f"loss {figure(answer.value)}, {bad} of {z.size} gradients not finite, "
           f"at most {figure(left)} where masked")
  gap = math.nan
  if finite:
    kept = lambda x: x[~gone].reshape(oracle.EXAMPLES, -1)
    low = ask(filled(z, oracle.NEVER), filled(v, oracle.NEVER), y)
    gap = _apart(answer, low, kept)
    if not gap <= EXACT:
      fewer = ask(kept(z), kept(v), y - (np.cumsum(gone, axis=-1)[rows, y]))
      gap = float(np.fmin(gap, _apart(answer, fewer, kept)))
    found += f"; {percent(gap)} off that of classes of probability 0"
  return Finding(bool(finite and left == 0 and gap <= EXACT), found, {
      "value": answer.value, "not finite": bad, "gap": gap})


def _apart(answer: Answer, other: Answer, kept) -> float:
  """Of two losses and their gradients by the classes that are kept."""
  assert answer.student is not None and other.student is not None
  gradient = other.student
  if gradient.shape == answer.student.shape:
    gradient = kept(gradient)
  return worst(abs(answer.value - other.value) / abs(other.value),
               distance(kept(answer.student), gradient))


def half(probe: Probe) -> Finding:
  """Logits of half precision: as in float64, on logits that it holds exactly."""
  # Logits of a trained net, up to 16; multiples of 1/4 that both types hold.
  z, v = (3 * x for x in probe.problem[:2])
  alpha, none = probe.mostly_soft, False
  errors: dict[str, float] = {}
  for t in (1.0, 20.0):
    exact = probe.ask(z, v, t, alpha=alpha)
    for dtype in half_types(probe.loss.framework):
      answer = probe.ask(z, v, t, alpha=alpha, dtype=dtype)
      error = float(abs(answer.value - exact.value) / abs(exact.value))
      if answer.student is not None:
        error = worst(error, distance(answer.student, exact.student))
      else:
        none = True
      errors[f"{dtype}, T = {t:g}"] = error
  found = ", ".join(f"{percent(e)} off ({name})" for name, e in errors.items())
  # bfloat16 rounds by 2**-9 = 0.2%, so this is a result that is rounded a few
  # times, not a loss that is computed in it.
  return Finding(all(e <= 0.02 for e in errors.values()),
                 found + ("; value only" if none else ""), errors)


def split(probe: Probe) -> Finding:
  """The soft term of a batch is the mean of those of its halves."""
  z, v, y = probe.problem
  whole = probe.soft(z, v, 2.0)
  half = oracle.EXAMPLES // 2
  parts = [probe.soft(z[s], v[s], 2.0, labels=y[s])
           for s in (slice(half), slice(half, None))]
  # 1/2 for means; for a sum, halves add up, and the row of the batch tells.
  share = snapped(batch_ratio(probe), {1.0: 1.0, 0.5: 0.5, 0.25: 0.25}, 0.5)
  gap = worst(
      abs(share * sum(p.value for p in parts) - whole.value) / abs(whole.value),
      distance(share * np.concatenate([p.gradient for p in parts]),
                whole.gradient))
  return Finding(gap <= EXACT, f"{percent(gap)} off the "
                 + ("sum" if share == 1 else "mean") + " of its halves",
                 {"gap": gap})
