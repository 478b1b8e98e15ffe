"""Judges of the soft term alone: its normalisation, its form, its limits."""

import math

import numpy as np

from kd_jax.conformance import oracle
from kd_jax.conformance.finding import (
  CLOSE,
  EXACT,
  Finding,
  about,
  distance,
  figure,
  percent,
  relative,
  snapped,
  worst,
)
from kd_jax.conformance.oracle import fit
from kd_jax.conformance.probe import Probe

# Temperatures of ordinary use, and such that logits are small against them.
_USUAL, _HIGH, _HIGHER, _LIMIT = 4.0, 100.0, 400.0, 1000.0
_ORDINARY = (2.0, _USUAL, 20.0)
# What the limit leaves out is of the size of |z| / T < 1%.
_CLOSE_TO_LIMIT = 0.02


def class_ratio(probe: Probe) -> float:
  """How the gradient changes when as many classes of no probability join.

  1 for a sum over classes, 1/2 for a mean.
  """
  z, v, _ = probe.problem
  dead = np.full_like(z, oracle.NEVER)
  more = probe.soft(np.hstack([z, dead]), np.hstack([v, dead]), 1.0).gradient
  return relative(more[:, :oracle.CLASSES], probe.usual.gradient)


def batch_ratio(probe: Probe) -> float:
  """How an example's gradient changes when the batch is repeated: 1/2, mean."""
  z, v, y = (np.concatenate([x, x]) for x in probe.problem)
  twice = probe.soft(z, v, 1.0, labels=y).gradient
  return relative(twice[:oracle.EXAMPLES], probe.usual.gradient)


def exponent(probe: Probe) -> float:
  """k, where the gradient grows as T**k at high T: 0 with T**2, -2 without."""
  z, v, _ = probe.problem
  sizes = [np.linalg.norm(probe.soft(z, v, t).gradient)
           for t in (_HIGH, _HIGHER)]
  if not min(sizes) > 0:
    return math.nan
  return float(np.log(sizes[1] / sizes[0]) / np.log(_HIGHER / _HIGH))


def ignores_temperature(probe: Probe) -> bool:
  """Whether T changes the gradient in nothing but its size."""
  z, v, _ = probe.problem
  return fit(probe.soft(z, v, _USUAL).gradient, probe.usual.gradient)[1] <= EXACT


def squares(probe: Probe) -> dict[float, float]:
  """By what T**2 KL is multiplied at ordinary T, where it has KL's gradient.

  T**2 KL has the gradient T (q - p); its size at T = 1 is the measure.
  """
  z, v, _ = probe.problem
  form = lambda t: t * (oracle.softmax(z / t) - oracle.softmax(v / t))
  size = lambda gradient, t: fit(gradient, form(t))
  at_1, rest = size(probe.usual.gradient, 1.0)
  if rest > CLOSE or not at_1:
    return {}
  found = {t: size(probe.soft(z, v, t).gradient, t) for t in _ORDINARY}
  return {t: own / at_1 for t, (own, left) in found.items() if left <= CLOSE}


def classes(probe: Probe) -> Finding:
  """Sum over classes: no change when classes of probability 0 join."""
  ratio = class_ratio(probe)
  holds = abs(ratio - 1) <= CLOSE
  word = "a sum" if holds else "a mean" if about(ratio, 0.5) else "neither"
  return Finding(
      holds, f"x {ratio:.3g} with twice the classes, half of them of no "
      f"probability: {word}", {"ratio": ratio})


def batch(probe: Probe) -> Finding:
  """Mean over the batch: an example counts half in a batch of twice the size."""
  ratio = batch_ratio(probe)
  z, v, _ = probe.problem
  each = probe.ask(z, v, 1.0, alpha=0.5).output.ndim == 1
  holds = abs(2 * ratio - 1) <= CLOSE
  word = ("one value an example" if each else "a mean") if holds else (
      "a sum" if about(ratio, 1) else
      "divided by the batch twice" if about(ratio, 0.25) else "none of these")
  return Finding(
      holds, f"an example's gradient x {ratio:.3g} when the batch is repeated: "
      + word, {"ratio": ratio})


def temperature(probe: Probe) -> Finding:
  """T**2: the gradient's size tends to a constant in T (Hinton, section 2).

  Without it, it falls as 1 / T**2, which is eq. 4.
  """
  k = exponent(probe)
  if ignores_temperature(probe):
    return Finding(
        False, "the gradient has one direction at T = 1 and T = 4: logits are not "
        "divided by T, or no softmax follows", {"exponent": k})
  # From 100 to 400, terms of |z| / T change the size by at most 10%: k < 0.07.
  holds = abs(k) <= 0.1
  word = {-2: ": as without T**2", -1: ": as with T instead of T**2"}
  why = "" if holds or math.isnan(k) else word.get(round(k), "")
  found = f"grows as T**{round(k, 2) + 0:g} from T = 100 to 400{why}"
  if holds:
    # A loss may know another rule for the temperatures that people use.
    for t, factor in squares(probe).items():
      if abs(factor - 1) > CLOSE:
        holds = False
        found += f"; x {factor:.3g} at T = {t:g}"
  return Finding(holds, found, {"exponent": k})


def direction(probe: Probe) -> Finding:
  """KL(p || q), whose gradient by z is (q - p) / T (Hinton, eq. 2), at T = 1."""
  known, _, once = _form(probe)
  if not once:
    row = "temperature" if once is None else "softmax"
    return Finding(None, f"cannot be told: see {row}", {})
  z, v, _ = probe.problem
  rest = fit(probe.usual.gradient, oracle.FORWARD.gradient(z, v))[1]
  name = known.name if known else "none that is known here"
  return Finding(
      known is oracle.FORWARD,
      f"the gradient of {name}; {percent(rest)} is not of the form q - p",
      {"rest": rest})


def softmax(probe: Probe) -> Finding:
  """Softmax once: by the form of the gradient, or else by sum and growth."""
  known, measured, once = _form(probe)
  if once is None:
    return Finding(None, "cannot be told: see temperature", {})
  total, growth = measured
  found = (f"gradient sums to {figure(total)} of its size; loss x "
           f"{growth:.3g} for twice the logits")
  if known:
    found += f"; {known.name}"
  elif total > CLOSE:
    found += ": not applied to the student"
  elif growth > 2.4:
    found += ": not applied to the teacher"
  elif not once:
    found += ": applied more than once, or the distance is bounded"
  return Finding(once, found, {"sum": total, "growth": growth})


def _form(
    probe: Probe) -> tuple[oracle.Known | None, tuple[float, float], bool | None]:
  """The known form of the gradient, two measurements, whether softmax is once.

  None where that cannot be told: the loss is asked at T = 1, but has its own T.

  A gradient through a softmax sums to zero over classes. Where student and
  teacher each are sure of another class, KL grows linearly with the logits,
  squares grow fourfold for twice the logits, and after a second softmax nothing
  grows. What is recognised is believed; the rest goes by these.
  """
  z, v, _ = probe.problem
  gradient = probe.usual.gradient
  known = oracle.recognise(gradient, z, v, CLOSE)
  total = relative(gradient.sum(axis=-1), gradient)
  if not known and ignores_temperature(probe):
    return None, (total, math.nan), None
  sure = np.eye(oracle.CLASSES)[np.arange(oracle.EXAMPLES)]
  other = np.roll(sure, 1, axis=-1)
  # Up to e^-12, which implementations that clip at 1e-7 leave alone.
  values = [probe.soft(k * sure, k * other, 1.0).value for k in (6.0, 12.0)]
  growth = float(values[1] / values[0])
  once = known.once if known else bool(
      total <= CLOSE and 1.7 <= growth <= 2.4)  # 2.03 for KL either way.
  return known, (total, growth), once


def shift(probe: Probe) -> Finding:
  """softmax(z + c) = softmax(z): the loss must not change either, at T = 2."""
  z, v, _ = probe.problem
  # Not of mean zero: the changes of single values must not cancel.
  offset = np.linspace(-4, 8, oracle.EXAMPLES)[:, None]
  alpha = probe.mostly_soft
  at = probe.ask(z, v, 2.0, alpha=alpha)
  changes = {}
  for name, (dz, dv) in {"student": (offset, 0), "teacher": (0, offset)}.items():
    there = probe.ask(z + dz, v + dv, 2.0, alpha=alpha)
    changes[name] = worst(abs(there.value - at.value) / abs(at.value),
                          distance(there.student, at.student))
  return Finding(
      all(change <= EXACT for change in changes.values()),
      "changes by " + ", ".join(
          f"{percent(c)} ({name})" for name, c in changes.items()), changes)


def equality(probe: Probe) -> Finding:
  """z = v is a stationary point, and the value that of KL or the entropy."""
  v, w = probe.problem.teacher, oracle.another_teacher()
  pushes = [relative(probe.soft(v, v, t).gradient, probe.usual.gradient)
            for t in (1.0, _USUAL)]
  push = worst(*pushes)
  usual = probe.soft(probe.problem.student, v, _USUAL).value
  values = [probe.soft(x, x, _USUAL).value for x in (v, w)]
  # A cross-entropy is the teacher's entropy there, times what scales the loss.
  shares = [value / oracle.entropy(x, _USUAL).mean()
            for value, x in zip(values, (v, w))]
  zero = all(abs(value) <= EXACT * abs(usual) for value in values)
  entropy = shares[0] > 0 and abs(shares[1] / shares[0] - 1) <= CLOSE
  word = "0, as of KL" if zero else (
      "the teacher's entropy, as of a cross-entropy" if entropy
      else figure(values[0]))
  return Finding(
      bool(push <= EXACT and (zero or entropy)),
      f"gradient {figure(push)} of the usual; value {word}",
      {"gradient": push, "value": float(values[0])})


def limit(probe: Probe) -> Finding:
  """T**2 dC/dz -> (z - v) / N of logits centred over N classes (Hinton, eq. 4).

  Factors that other rows tell of are taken out, so that each defect has its row.
  """
  z, v, _ = probe.problem
  gradient = probe.soft(z, v, _LIMIT).gradient * oracle.EXAMPLES
  size, rest = fit(gradient, oracle.centred(z - v) / oracle.CLASSES)
  # What the rows of normalisation and T**2 tell already is not told again.
  known = {"classes": 1 / oracle.CLASSES if about(class_ratio(probe), 0.5)
           else 1.0,
           "batch": snapped(2 * batch_ratio(probe), {
               2.0: oracle.EXAMPLES, 0.5: 1 / oracle.EXAMPLES})}
  k = exponent(probe)
  known["temperature"] = _LIMIT**round(k) if abs(k) > 0.1 else 1.0
  explained = [name for name, factor in known.items() if factor != 1]
  unexplained = size / math.prod(known.values())
  found = f"{percent(rest)} off in direction, size {size:.3g}"
  if explained and rest <= _CLOSE_TO_LIMIT:
    found += f" (x {unexplained:.3g} but for {', '.join(explained)})"
  holds = worst(rest, abs(unexplained - 1)) <= _CLOSE_TO_LIMIT
  return Finding(
      holds, found, {"rest": rest, "size": size, "unexplained": unexplained})
