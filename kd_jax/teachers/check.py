r"""Do logits from elsewhere belong to these examples and these classes?

Of a row i with label y_i, log p_i is its log-softmax over the classes that have
examples, no lower than -30. Two hypotheses are tested, and each is rejected
only by evidence against a *right* teacher; too little evidence passes.

*Other rows* (shuffled, shifted, of another set). log p is first brought to the
classes' shares in the labels (Saerens et al. 2002), so that a teacher of other
shares is no worse for it. The gain of a row is

  g_i = log p_i(y_i) - mean_j log p_j(y_i),

the log-likelihood of its label above that under shuffled rows. What its own
probabilities promise is the same with y drawn from p_i, A = mean_i E[g_i].
Shuffled rows have a mean gain of 0; a calibrated teacher, weak or strong, has
A. With e = t s / sqrt(N), where s is the larger of the deviations of g and of
shuffled gains, and t has Student's tail of 3e-7, refused is a mean gain that is
no more than e, as shuffled rows may have it, and less than A / 4 - e. So a
teacher passes if its labels are likelier than under shuffled rows, however much
too sure of itself it is, and one that is nearly at chance passes if it says so.
One that is right on every example has the largest gain there is. What may be
refused is a teacher far too sure of itself whose rows cannot be told from
shuffled ones: of 1,500 drawn ones none if it is 10 times too sure, 22 at 30 times,
all of which were right as often as the largest class is.

The same is asked of halves, fifths and tenths of the file, with a 17th of the tail
each. A part that is refused has 250 rows at least, and less than a quarter of the
gain that its classes have in the other rows, of 8 examples at least. A class that
a teacher does not know is no reason, even if the rows are sorted by class.

*Other columns.* On one half of the rows, the permutation of classes with the
largest sum over classes of the mean log p is found; each class counts alike, so
a bias of a column changes nothing. On the other half it must beat the columns
as they are by 5 standard errors, in this and in the mean of the classes' accuracy,
and so with the halves exchanged. What some classes lose of their accuracy must be
less than a quarter of what the others gain: a teacher that surely takes class 7 for
3 would, with these two exchanged, be right of 7, but of 3 no more. Classes with
fewer than 8 examples in a half stay where they are. Under a right teacher the
columns as they are have the larger expectation, so each half errs in about 3e-7
of the cases, were the means of a half normal.

*The sign.* Of what is refused so, it is named where the label has the least logit
in more rows than it has the largest in the best order of columns, or than half. Of
two classes, sign and order are the same.

What else rows may hold instead of logits is in `scores.py`.
"""

import math
import re

import numpy as np

from kd_jax.core.words import counted
from kd_jax.teachers import scores
from kd_jax.teachers.scores import in_shares, log_softmax

_KEPT = 0.25
_TAIL = 3e-7
_ERRORS = 5.0
_FEWEST = 8
# An accuracy that is this part below what is promised is worth a line.
_FAR = 0.25
# Of how many equal parts of the rows each is looked at.
_PARTS = (2, 5, 10)
# Of fewer rows the gains of a teacher that is too sure of itself are not normal.
_PART = 250
_TURNED = ("its logits explain the labels far better with the other sign; save "
           "-logits (of -log p too)")
# More numbers than these tell nothing more, and take memory.
_NUMBERS = 2_000_000


def problem(
    logits: np.ndarray, labels: np.ndarray, *, asked: bool = False
) -> str:
  """Why logits cannot be of these examples and classes, or "".

  Args:
    logits: `[N, classes]` or `[N, V, classes]`, floats; may be memory-mapped. Of
      V views the first is looked at, and whether rows of others are constant.
    labels: Integers `[N]`; -1 where unknown.
    asked: Whether a net was asked for them, so that their rows are in order and
      the remedy is another.

  Returns:
    The fault with its remedy, in words.
  """
  return _of_a_net(_problem(logits, labels, asked), asked)


def _of_a_net(text: str, asked: bool) -> str:
  """A remedy for files, as one for what a net gives where one is `asked`."""
  return re.sub(r"(; |, )save ", r"\1return ", text) if asked else text


def _problem(logits: np.ndarray, labels: np.ndarray, asked: bool) -> str:
  """As `problem`, of files."""
  if logits.ndim == 3:
    for view in range(1, logits.shape[1]):
      if other := _unfilled(logits[:, view]):
        return f"in view {view}, {other}"
    logits = logits[:, 0]
  every = _drawn(np.arange(len(labels)), logits)
  wide = logits[every].astype(np.float64)
  if other := _unfilled(logits) or scores.other(wide):
    return other
  known = np.flatnonzero(labels >= 0)
  if len(known):
    every = _drawn(known, logits)
    wide = logits[every].astype(np.float64)
  classes, labels = np.unique(labels[every], return_inverse=True)
  if other := scores.sigmoid(wide, classes, labels):
    return other
  if len(classes) < 2:
    return ""
  log_p = log_softmax(wide[:, classes])
  if (wide == wide[0]).all():
    return scores.NOTHING.format("are all the same")
  least = (log_p.argmin(-1) == labels).mean() if len(classes) > 2 else 0.0
  if order := _better_columns(log_p, labels):
    right = (log_p.argmax(-1) == np.array(order)[labels]).mean()
    return _TURNED if least > right else _in_words(
        classes, order, logits.shape[1], asked)
  other = _other_rows(log_p, labels, every, asked)
  return _TURNED if other and least > 0.5 else other


def account(
    logits: np.ndarray, labels: np.ndarray, where: str, *, asked: bool = False
) -> list[str]:
  """What is known of logits that are taken, the accuracy first.

  Args:
    logits: `[N, classes]`, floats; may be memory-mapped.
    labels: Integers `[N]`; -1 where unknown.
    where: What the examples are: "training".
    asked: As of `problem`.

  Returns:
    Parts of a sentence. There is one alone where nothing is unusual: most examples
    have a label, the accuracy is near what the probabilities promise, and the
    labels are likelier than under shuffled rows.

  Example:
    >>> z = np.tile(4 * np.eye(3), (200, 1))
    >>> account(z, np.arange(600) % 3, "training")
    ['accuracy 100.00% on the training set']
  """
  known, number = np.flatnonzero(labels >= 0), len(labels)
  notes = [_of_a_net(note, asked) for note in _of_scores(logits)]
  if not len(known):
    return [f"not checked, as no {where} example has a label", *notes]
  accuracy = (logits.argmax(-1) == labels)[known].mean()
  text = f"accuracy {accuracy:.2%} on the {where} set"
  if rest := number - len(known):
    text = (f"accuracy {accuracy:.2%} on the {len(known):,} of {number:,} {where} "
            "examples with a label")
    notes.append("the order of rows and columns is checked by these alone, and not "
                 f"checked for the other {rest:,}")
  ids = _drawn(known, logits)
  classes, found = np.unique(labels[ids], return_inverse=True)
  wide = logits[ids].astype(np.float64)
  promised = np.exp(log_softmax(wide).max(-1))
  error = (promised * (1 - promised)).sum() ** 0.5 / len(ids)
  promised = promised.mean()
  if accuracy < (1 - _FAR) * promised - _ERRORS * error:
    notes.insert(0, f"its own probabilities promise {promised:.2%}: it is far too "
                 "sure of itself, or rows or columns are in another order")
  if len(classes) > 1 and (needed := _undecided(
      log_softmax(wide[:, classes]), found)) is not None:
    notes.append(
        f"{counted(len(known), 'row')} with a label cannot tell " + (
            "them from those of a net that knows nothing" if asked else
            "whether they are in the order of the data set") + (
            f"; about {needed:,} would" if len(ids) < needed <= _NUMBERS else ""))
  return [text, *notes]


def _of_scores(logits: np.ndarray) -> list[str]:
  """What is unusual in rows, whatever their labels."""
  notes, constant = [], scores.constant_rows(logits)
  if len(constant):
    notes.append(scores.in_words(constant, len(logits)))
  if scores.may_be_scaled(logits[_drawn(np.arange(len(logits)), logits)].astype(
      np.float64)):
    notes.append("all rows have the same sum, as of probabilities times a number, "
                 "plus another: if they are, save log(p)")
  return notes


def _drawn(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
  """So many of the ids, in order, as are looked at."""
  most = max(_NUMBERS // logits.shape[1], 1000)
  if len(ids) <= most:
    return ids
  return np.sort(np.random.default_rng(0).choice(ids, most, replace=False))


def _unfilled(logits: np.ndarray) -> str:
  return scores.unfilled(logits, logits[_drawn(np.arange(len(logits)), logits)])


def _gains(log_p: np.ndarray, labels: np.ndarray) -> tuple[
    np.ndarray, np.ndarray, float]:
  """Gains of rows, what is promised of each, and the deviation if shuffled."""
  log_p = in_shares(log_p, labels)
  gains = log_p - log_p.mean(0)
  shuffled = float((np.bincount(labels) / len(labels)) @ gains.var(0)) ** 0.5
  return (gains[np.arange(len(labels)), labels], (np.exp(log_p) * gains).sum(-1),
          shuffled)


def _undecided(log_p: np.ndarray, labels: np.ndarray) -> int | None:
  """How many rows would tell others, where these do not tell that they are right.

  The mean gain of shuffled rows is about 0 with error s / sqrt(N), and is refused
  below A / 4 - e: so nearly all are if N = ((5 + 3) s / (A / 4))**2.
  """
  found, promised, shuffled = _gains(log_p, labels)
  if found.mean() > _slack(found, shuffled, _TAIL):
    return None
  least = max(_KEPT * float(promised.mean()), 1e-6)
  return math.ceil(min((_ERRORS + 3) * shuffled / least, 1e6) ** 2)


def _other_rows(
    log_p: np.ndarray, labels: np.ndarray, ids: np.ndarray, asked: bool
) -> str:
  found, promised, shuffled = _gains(log_p, labels)
  if _are_others(found, promised.mean(), shuffled, _TAIL):
    return _order_in_words("its rows", found, promised, asked)
  count, total = np.bincount(labels), np.bincount(labels, found)
  for number in _PARTS:
    for rows in np.array_split(np.arange(len(labels)), number):
      left = count - np.bincount(labels[rows], minlength=len(count))
      rows = rows[left[labels[rows]] >= _FEWEST]
      if len(rows) < _PART:
        continue
      inside = np.bincount(labels[rows], found[rows], len(count))
      elsewhere = ((total - inside) / np.maximum(left, 1))[labels[rows]].mean()
      least = min(promised[rows].mean(), elsewhere)
      if _are_others(found[rows], least, shuffled, _TAIL / sum(_PARTS)):
        return _order_in_words(f"its rows {ids[rows[0]]} to {ids[rows[-1]]}",
                               found[rows], promised[rows], asked)
  return ""


def _are_others(
    found: np.ndarray, promised: float, shuffled: float, tail: float
) -> bool:
  """Whether gains are as of shuffled rows, and less than what is promised."""
  slack = _slack(found, shuffled, tail)
  return found.mean() <= slack and found.mean() < _KEPT * promised - slack


def _slack(found: np.ndarray, shuffled: float, tail: float) -> float:
  """How far the mean gain may be from what is expected."""
  from scipy import stats  # pylint: disable=g-import-not-at-top
  error = max(found.std(), shuffled) / len(found) ** 0.5
  return float(stats.t.isf(tail, max(len(found) - 1, 1)) * error)


def _order_in_words(
    rows: str, found: np.ndarray, promised: np.ndarray, asked: bool
) -> str:
  remedy = ("load its weights, and scale and turn its inputs as it learnt them"
            if asked else "its rows must be in the order of the data set")
  return (
      f"{rows} tell no more of the labels than shuffled rows do (log-likelihood "
      f"{found.mean():+.2f} nats an example above those, where its probabilities "
      f"promise {promised.mean():+.2f}); {remedy}")


def _better_columns(log_p: np.ndarray, labels: np.ndarray) -> list[int]:
  """The column that holds each class, where not its own; [] if all may be right."""
  from scipy import optimize  # pylint: disable=g-import-not-at-top
  half = np.random.default_rng(0).permutation(len(labels)) % 2
  size = log_p.shape[1]
  each = [np.bincount(labels[half == part], minlength=size) for part in (0, 1)]
  chosen = np.flatnonzero(np.minimum(*each) >= _FEWEST)
  if len(chosen) < 2:
    return []
  sums = [np.zeros((size, size)), np.zeros((size, size))]
  for part in (0, 1):
    np.add.at(sums[part], labels[half == part], log_p[half == part])
  means = [(sums[part] / np.maximum(each[part], 1)[:, None])[np.ix_(chosen, chosen)]
           for part in (0, 1)]
  for part in (0, 1):
    order = np.arange(size)
    order[chosen] = chosen[optimize.linear_sum_assignment(-means[part])[1]]
    other = (half != part) & np.isin(labels, chosen)
    if not _wins(log_p[other], labels[other], order):
      return []
  order[chosen] = chosen[optimize.linear_sum_assignment(-(means[0] + means[1]))[1]]
  return order.tolist()


def _wins(log_p: np.ndarray, labels: np.ndarray, order: np.ndarray) -> bool:
  """Whether columns in another order are better by more than chance allows."""
  rows, best = np.arange(len(labels)), log_p.argmax(-1)
  more_likely = log_p[rows, order[labels]] - log_p[rows, labels]
  more_right = (best == order[labels]) * 1.0 - (best == labels)
  number = np.bincount(labels, minlength=len(order))
  moved = (number > 0) & (order != np.arange(len(order)))
  if not moved.any():
    return False
  for gains in (more_likely, more_right):
    mean = np.bincount(labels, gains, len(order))[moved] / number[moved]
    squares = np.bincount(labels, gains**2, len(order))[moved] / number[moved]
    # A class of few examples may have no deviation by chance.
    variance = np.maximum(squares - mean**2, 0)
    variance = np.maximum(variance, variance.mean())
    if mean.sum() <= _ERRORS * (variance / number[moved]).sum() ** 0.5:
      return False
  return bool(-mean[mean < 0].sum() < _KEPT * mean[mean > 0].sum())


def _in_words(
    classes: np.ndarray, order: list[int], size: int, asked: bool
) -> str:
  held = {int(classes[a]): int(classes[b]) for a, b in enumerate(order)}
  text = sorted(range(size), key=str)
  if all(text[column] == label for label, column in held.items()):
    how = f"class names sorted as text: {', '.join(map(str, text[:5]))}, ..."
    fix = "logits[:, numpy.argsort(sorted(range(C), key=str))]"
  else:
    moved = [f"class {a} is in column {b}" for a, b in held.items() if a != b]
    how = ", ".join(moved[:10]) + (", ..." if len(moved) > 10 else "")
    fix = "put column k of class k" + (
        ", if its weights are loaded" if asked else "")
  return (
      f"its columns explain the labels far better in another order ({how}); {fix}")
