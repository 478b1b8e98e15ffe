"""The contract of distillation as a list of properties."""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

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
    expected: What the contract says.
    finding: What was found.
    effect: What a failure does to training.
  """

  name: str
  expected: str
  finding: Finding
  effect: str


class Property(NamedTuple, Generic[Asks]):
  """One row: what is expected, what its failure does, and how it is judged."""

  expected: str
  effect: str
  judge: Callable[[Asks], Finding]


PROPERTIES: dict[str, Property[Probe]] = {
    "classes": Property(
        "a sum over classes",
        "the soft term fades with the number of classes (to 1% of its weight "
        "with 100): hard labels are all that trains", soft_term.classes),
    "batch": Property(
        "soft term: a mean over examples, or a value for each",
        "the gradient grows with the batch: the learning rate, and the balance "
        "of both terms, depend on the batch size", soft_term.batch),
    "temperature": Property(
        "T**2: a gradient of order one at high T",
        "a higher T also turns the soft term down (or up), so that alpha has to "
        "be tuned anew for every T", soft_term.temperature),
    "direction": Property(
        "KL(teacher || student), or the cross-entropy",
        "another objective: reversed, the student learns the teacher's first "
        "choice and drops the rest, the dark knowledge", soft_term.direction),
    "softmax": Property(
        "softmax once on each of both logits",
        "without it numbers that are no probabilities are compared; twice, a "
        "sure and wrong student gets almost no gradient", soft_term.softmax),
    "shift": Property(
        "no change with a constant added to all logits",
        "the student is pushed to copy (or run from) an offset that does not "
        "change a prediction", soft_term.shift),
    "equality": Property(
        "gradient 0 where student = teacher; value 0 (or the entropy)",
        "a student that has learnt everything is pushed away again",
        soft_term.equality),
    "limit": Property(
        "(z - v) / N of centred logits, as T grows (Hinton, eq. 4)",
        "T means something else than in the papers, and the soft term weighs "
        "more or less than alpha says", soft_term.limit),
    "teacher": Property(
        "no gradient into the teacher",
        "a teacher that is not frozen elsewhere drifts towards its student; at "
        "the least, memory and time are spent", whole_loss.teacher),
    "alpha": Property(
        "alpha weighs the soft term, 1 - alpha the hard one",
        "a setting from a paper says the opposite: 90% distillation becomes 10%",
        whole_loss.alpha),
    "hard": Property(
        "hard term: the cross-entropy at T = 1, a mean",
        "labels are learnt at another rate than 1 - alpha says, or not at all",
        whole_loss.hard),
    "continuity": Property(
        "alpha = 0 and 1 are no special cases",
        "the ends of a sweep over alpha are another method than its middle",
        whole_loss.continuity),
    "masked": Property(
        "finite loss and gradient with classes at -inf, as of probability 0",
        "a class that an example lacks makes the loss NaN, which stops a run that "
        "looks at it, or the gradient, and then every weight; or it is learnt",
        whole_loss.masked),
    "half": Property(
        "within 2% for logits in half precision",
        "in mixed precision the soft term is wrong, or overflows, just at the "
        "temperatures that distillation uses", whole_loss.half),
    "split": Property(
        "the soft term of a batch is the mean of its halves'",
        "gradient accumulation, more devices or a ragged last batch change the "
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
    rows.append(Row(name, rule.expected, finding, rule.effect))
  return rows
