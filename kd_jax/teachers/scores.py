r"""What rows of a teacher hold instead of logits, told mostly without labels.

*Nothing.* Rows that are constant over the classes say nothing. Where some are, as
in a file that was filled in part, refused are two rows or more that are 1% of all.
A right teacher has such rows where its numbers are clipped or rounded (after a
ReLU), so that their value is in other rows too: where it is as often as in a
thousandth of the share of constant rows, they pass. Those of a net without biases,
of blank images, do not, if they are 1%.

*Probabilities, percent.* Rows >= 0 that sum to 1 or 100.

*Outputs of a sigmoid.* Numbers that all lie in [0, 1] may be, of which two things
tell. Logits know nothing of 0 and 1: that the least is within 5e-4 of 0 and the
largest within 5e-4 of 1 has a chance of about 1e-6, as either varies by 0.5 or more
from net to net; after a ReLU the least is 0, and three must be near 1. And logits
so close to each other say little: refused are those whose largest is above 0.5 and
that are right more often than 4 times these logits promise, in the classes' shares,
by 5 standard errors (3e-7 for a teacher that is up to 4 times too unsure of
itself). Other sigmoids pass. Log-probabilities are logits.

*Probabilities times a number.* Rows >= 0 that all sum to s, of three classes or
more, whose least is within 5e-4 s of 0 but not 0, or which are integers
(round(255 p)), if the largest is nearly s and 1% have a second class of 0.1 s.

*Probabilities times a number, plus constants*: 2 p - 1, p less its mean. Centred
logits have equal sums too, and so has a net whose last layer began at zero. That
some of their numbers, above the least of their column, are near the sum as well is
no proof, so these are taken, and worth a line. Of two classes nothing tells: any
centred logits are p less 1/2.
"""

import numpy as np

_LEAST = -30.0
_ERRORS = 5.0
# Of the sum of a row, which may be rounded to percent.
_ROUNDED = 0.05
_EDGE = 5e-4
_UNSURE = 4.0
# How many are near 1 where the least is 0, as it is after a ReLU.
_ONES = 3
# Of p times a number: how near to one-hot, and what is a second class; integers
# that sum to less may be anything.
_CLOSE, _FARTHEST, _SOFT, _COUNTS = 0.006, 0.2, 0.1, 50
_CONSTANT, _ELSEWHERE = 0.01, 1e-3
NOTHING = ("its rows {}, so they say nothing of the examples; save what the "
           "teacher gives")


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Log-probabilities `[N, classes]`, no lower than -30; a class may be at -inf."""
  top = logits.max(-1, keepdims=True)
  log_p = logits - np.where(np.isfinite(top), top, 0.0)
  np.maximum(log_p, 10 * _LEAST, out=log_p)
  log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
  return np.maximum(log_p, _LEAST, out=log_p)


def in_shares(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """log p of the same rows, brought to the classes' shares in the labels."""
  shares = np.bincount(labels) / len(labels)
  for _ in range(20):
    log_p = log_softmax(log_p + np.log(shares / np.exp(log_p).mean(0)))
  return log_p


def constant_rows(logits: np.ndarray) -> np.ndarray:
  """Numbers of the rows of `[N, classes]` that are constant over the classes."""
  if logits.shape[-1] < 2:
    return np.zeros(0, int)
  return np.flatnonzero(logits.min(-1) == logits.max(-1))


def unfilled(logits: np.ndarray, wide: np.ndarray) -> str:
  """Why rows that say nothing cannot be right, or "".

  Args:
    logits: `[N, classes]`, all of them.
    wide: Some of their rows, which tell how often a value occurs.
  """
  constant = constant_rows(logits)
  if len(constant) and len(constant) == len(logits):
    return NOTHING.format("are constant over the classes")
  share = len(constant) / len(logits)
  if len(constant) < 2 or share < _CONSTANT:
    return ""
  others = wide[wide.min(-1) < wide.max(-1)]
  elsewhere = np.isin(others, logits[constant, 0])
  if elsewhere.any() and elsewhere.mean() >= _ELSEWHERE * share:
    return ""
  return (f"{in_words(constant, len(logits))}, as rows that were never filled in; "
          "save what the teacher gives for every example")


def in_words(constant: np.ndarray, number: int) -> str:
  """So many rows are constant, and which are the first."""
  first = ", ".join(map(str, constant[:3])) + (", ..." if len(constant) > 3 else "")
  are = "row is" if len(constant) == 1 else "rows are"
  return f"{len(constant):,} of its {number:,} {are} one value throughout ({first})"


def other(wide: np.ndarray) -> str:
  """What rows `[N, classes]` hold instead of logits, with the remedy; or ""."""
  if wide.min() >= 0:
    for whole, what in ((1, "probabilities"), (100, "percent")):
      # Rounded sums vary little; those of a weak teacher as much as its logits.
      slack = 1e-5 + min(_ROUNDED, wide.std(0).max() / whole / 10)
      if (abs(wide.sum(-1) / whole - 1) < slack).all():
        return (f"holds {what} (all rows are >= 0 and sum to {whole}), not logits; "
                "save log(p)")
    if total := _scaled(wide):
      return (f"holds what looks like probabilities times {total:.4g} (all rows "
              "are >= 0 and sum to that), not logits; save log(p)")
  return ""


def may_be_scaled(wide: np.ndarray) -> bool:
  """Whether rows may be p times a number, plus constants, and are not one-hot."""
  if not np.isfinite(wide).all() or len(wide) < 2 or len(np.unique(wide[:100])) < 3:
    return False
  sums, classes = wide.sum(-1), wide.shape[1]
  positive = wide.min() >= 0 and np.ptp(sums) <= _EDGE * sums.max()
  return bool(positive or (classes > 2 and (
      _total(wide - wide.min(0)) or _total(wide.max(0) - wide))))


def _total(above: np.ndarray) -> float:
  """What all rows of numbers >= 0 sum to and the largest nearly is, or 0."""
  sums = above.sum(-1)
  total = float(np.median(sums))
  even = abs(sums - total).max() <= _ROUNDED * total
  # Logits lie closer together than this in all of C classes only if they are tight.
  near = 1 - min((above.shape[1] - 2) * _CLOSE, _FARTHEST)
  return total if even and above.max() >= near * total else 0.0


def _scaled(wide: np.ndarray) -> float:
  """The number that probabilities were multiplied by, 0 if these are none."""
  if wide.shape[1] < 3 or wide.min() < 0 or not (total := _total(wide)):
    return 0.0
  least, second = wide.min(), np.partition(wide, -2, axis=-1)[:, -2]
  near = 0 < least <= _EDGE * total or (
      least == 0 and total > _COUNTS and (wide == wide.round()).all())
  soft = np.count_nonzero(second > _SOFT * total) >= max(2, len(wide) * _CONSTANT)
  return total if near and soft else 0.0


def sigmoid(wide: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> str:
  """Whether rows are outputs of a sigmoid, with the remedy; or "".

  Args:
    wide: `[N, all classes]`.
    classes: Which of them have examples.
    labels: Index of the class of each row in `classes`.
  """
  low, high = wide.min(), wide.max()
  ones = np.count_nonzero(wide >= 1 - _EDGE)
  edges = low <= _EDGE and ones >= (1 if low else _ONES)
  if low >= 0 and high <= 1 and (edges or (high > 0.5 and len(classes) > 1 and (
      _is_surer(wide[:, classes], labels)))):
    return ("holds what looks like outputs of a sigmoid (all are in [0, 1]), not "
            "logits; save log(p / (1 - p))")
  return ""


def _is_surer(wide: np.ndarray, labels: np.ndarray) -> bool:
  """Whether scores are right more often than they could promise as logits."""
  log_p = in_shares(log_softmax(_UNSURE * wide), labels)
  right, promised = log_p.argmax(-1) == labels, np.exp(log_p.max(-1))
  error = (promised * (1 - promised)).sum() ** 0.5
  return bool(right.sum() - promised.sum() > _ERRORS * error)
