"""The contract of distillation as a list of properties."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from kd_jax.conformance import soft_term, whole_loss
from kd_jax.conformance.adapters import Adapted, Refusal
from kd_jax.conformance.finding import Finding
from kd_jax.conformance.probe import Inseparable, Probe

Asks = TypeVar("Asks")  # A probe.


class Row(NamedTuple):
  """One row of the report.

  Attributes:
    name: The property, a key of `PROPERTIES`.
    rule: What is expected of it.
    finding: What was found.
  """

  name: str
  rule: "Property[Any]"
  finding: Finding


class Property(NamedTuple, Generic[Asks]):
  """What is expected of a loss.

  Attributes:
    expected: What the contract says.
    effect: What a failure does to training.
    judge: Tells whether a loss has it.
    remedy: What mends a failure, where that is not what is expected.
    of_kl: Whether only the KL divergence of tempered softmaxes has it.
  """

  expected: str
  effect: str
  judge: Callable[[Asks], Finding]
  remedy: str = ""
  of_kl: bool = False


# Also of losses of features.
STOPPED = ("give it jax.lax.stop_gradient(teacher_...), in PyTorch .detach(); a "
           "run of kd_jax does so before the loss")
WIDE = "compute in float32: x.astype(jnp.float32), or .float() in PyTorch"


PROPERTIES: dict[str, Property[Probe]] = {
    "classes": Property(
        "a sum over classes",
        "the soft term gets weaker with more classes (1% of its weight with 100), "
        "so the student learns from hard labels alone", soft_term.classes,
        of_kl=True),
    "batch": Property(
        "soft term: a mean over examples, or a value for each",
        "the gradient grows with the batch size, and so the best learning rate "
        "and the balance of both terms depend on it", soft_term.batch),
    "temperature": Property(
        "T**2: a gradient of order one at high T",
        "a higher T also makes the soft term weaker (or stronger), so alpha must "
        "be tuned again for every T", soft_term.temperature, of_kl=True),
    "direction": Property(
        "KL(teacher || student), or the cross-entropy",
        "the objective is another one: with the reversed KL the student learns "
        "the teacher's first choice and loses its other probabilities, the dark "
        "knowledge", soft_term.direction, of_kl=True),
    "softmax": Property(
        "softmax once on each of both logits",
        "without softmax, the compared numbers are no probabilities; with two, a "
        "student that is confident and wrong gets almost no gradient",
        soft_term.softmax, of_kl=True),
    "shift": Property(
        "no change with a constant added to all logits",
        "the student learns to copy (or avoid) an offset that does not change a "
        "prediction", soft_term.shift, of_kl=True),
    "equality": Property(
        "gradient 0 where student = teacher; value 0 (or the entropy)",
        "the gradient moves a student that equals its teacher away",
        soft_term.equality, of_kl=True),
    "limit": Property(
        "(z - v) / N of centred logits, as T grows (Hinton, eq. 4)",
        "T has another meaning than in the papers, and the weight of the soft "
        "term is not alpha", soft_term.limit, of_kl=True),
    "teacher": Property(
        "no gradient into the teacher",
        "a teacher that is not frozen elsewhere moves towards its student; in any "
        "case memory and time are wasted", whole_loss.teacher, STOPPED),
    "alpha": Property(
        "alpha weighs the soft term, 1 - alpha the hard one",
        "a setting from a paper has the opposite effect: 90% distillation becomes "
        "10%",
        whole_loss.alpha),
    "hard": Property(
        "hard term: the cross-entropy at T = 1, a mean",
        "the weight of the loss on labels is not 1 - alpha, or it is 0",
        whole_loss.hard),
    "continuity": Property(
        "alpha = 0 and 1 are no special cases",
        "in a sweep over alpha, the values 0 or 1 are another method than those "
        "between",
        whole_loss.continuity),
    "masked": Property(
        "finite loss and gradient with classes at -inf, as of probability 0",
        "a masked class makes the loss NaN, which stops a run that checks it; or "
        "it makes the gradient NaN, and then every weight; or the student learns "
        "the masked class", whole_loss.masked,
        "leave out what has probability 0, before the logarithm too: jnp.where(p > "
        "0, p * (jnp.log(jnp.where(p > 0, p, 1)) - log_q), 0)"),
    "half": Property(
        "within 2% for logits in half precision",
        "in mixed precision the soft term is wrong or overflows, at the very "
        "temperatures that distillation uses", whole_loss.half, WIDE),
    "split": Property(
        "the soft term of a batch is the mean of its halves'",
        "gradient accumulation, more devices or a smaller last batch change the "
        "objective", whole_loss.split),
}

# What --alpha changes about what is expected.
_OF_ALPHA = {
    "hard": "alpha weighs the hard term (--alpha=hard)",
    "none": "neither alpha nor labels matter (--alpha=none)",
}


def judge(loss: Adapted, alpha: str, names: Iterable[str]) -> list[Row]:
  """Judges a loss by some of the properties.

  Args:
    loss: What is judged.
    alpha: What alpha should weigh: "soft" or "hard"; or "none".
    names: Keys of `PROPERTIES`.

  Returns:
    A row for each name, in order.
  """
  rules = {name: PROPERTIES[name] for name in names}
  if "alpha" in rules:
    rules["alpha"] = rules["alpha"]._replace(
        expected=_OF_ALPHA.get(alpha, rules["alpha"].expected))
  return judged(Probe(loss, alpha), rules)


def judged(probe: Asks, rules: Mapping[str, Property[Asks]]) -> list[Row]:
  """A row for each property, in order."""
  rows = []
  for name, rule in rules.items():
    try:
      with np.errstate(all="ignore"):  # What is not finite is found and told.
        finding = rule.judge(probe)
      if finding.holds is not None:  # NumPy's False is not False.
        finding = finding._replace(holds=bool(finding.holds))
    except Refusal as error:  # Of inputs that not everybody thinks of.
      finding = Finding(False, str(error), {})
    except Inseparable as error:
      finding = Finding(None, str(error), {})
    rows.append(Row(name, rule, finding))
  return rows
