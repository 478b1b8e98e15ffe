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
as they are by 5 standard errors, and so with the halves exchanged. Classes with
fewer than 8 examples in a half stay where they are. Under a right teacher the
columns as they are have the larger expectation, so each half errs in about 3e-7
of the cases, were the means of a half normal.

*The sign.* Of what is refused so, it is named where the label has the least logit
in more rows than it has the largest in the best order of columns, or than half. Of
two classes, sign and order are the same.

*No logits.* Rows that are constant over the classes say nothing, nor do rows that
are all the same, if labels differ.
Rows >= 0 that sum to 1 or 100 are probabilities or percent. Numbers that all lie in
[0, 1] may be outputs of a sigmoid, of which two things tell. Logits
know nothing of 0 and 1: that the least is within 5e-4 of 0 and the largest within
5e-4 of 1 has a chance of about 1e-6, as either varies by 0.5 or more from net to
net. And logits so close to each other say little: refused are those whose largest
is above 0.5 and that are right more often than 4 times these logits promise, in the
classes' shares, by 5 standard errors (3e-7 for a teacher that is up to 4 times too
unsure of itself). Other sigmoids pass. Log-probabilities are logits.
"""

import numpy as np

_LEAST = -30.0
_KEPT = 0.25
_TAIL = 3e-7
_ERRORS = 5.0
_FEWEST = 8
# Of the sum of a row, which may be rounded to percent.
_ROUNDED = 0.05
_EDGE = 5e-4
# Of how many equal parts of the rows each is looked at.
_PARTS = (2, 5, 10)
# Of fewer rows the gains of a teacher that is too sure of itself are not normal.
_PART = 250
_NOTHING = ("its rows {}, so they say nothing of the examples; save what the "
            "teacher gives")
_TURNED = ("its logits explain the labels far better with the other sign; save "
           "-logits (of -log p too)")
_UNSURE = 4.0
# More numbers than these tell nothing more, and take memory.
_NUMBERS = 2_000_000


def problem(logits: np.ndarray, labels: np.ndarray) -> str:
  """Why logits cannot be of these examples and classes, or "".

  Args:
    logits: `[N, classes]`, floats; may be memory-mapped.
    labels: Integers `[N]`; -1 where unknown.

  Returns:
    The fault with its remedy, in words.
  """
  known = np.flatnonzero(labels >= 0)
  ids = known if len(known) else np.arange(len(labels))
  most = max(_NUMBERS // logits.shape[1], 1000)
  if len(ids) > most:
    ids = np.sort(np.random.default_rng(0).choice(ids, most, replace=False))
  wide = logits[ids].astype(np.float64)
  classes, labels = np.unique(labels[ids], return_inverse=True)
  if other := _other_scores(wide, classes, labels):
    return other
  if len(classes) < 2:
    return ""
  log_p = _log_softmax(wide[:, classes])
  if (wide == wide[0]).all():
    return _NOTHING.format("are all the same")
  least = (log_p.argmin(-1) == labels).mean() if len(classes) > 2 else 0.0
  if order := _better_columns(log_p, labels):
    right = (log_p.argmax(-1) == np.array(order)[labels]).mean()
    return _TURNED if least > right else _in_words(classes, order, logits.shape[1])
  other = _other_rows(log_p, labels, ids)
  return _TURNED if other and least > 0.5 else other


def _other_scores(
    scores: np.ndarray, classes: np.ndarray, labels: np.ndarray
) -> str:
  """What rows hold instead of logits, with the remedy; or ""."""
  if scores.shape[1] > 1 and (scores == scores[:, :1]).all():
    return _NOTHING.format("are constant over the classes")
  low, high = scores.min(), scores.max()
  if low < 0:
    return ""
  for whole, what in ((1, "probabilities"), (100, "percent")):
    # Rounded sums vary little; those of a weak teacher as much as its logits.
    slack = 1e-5 + min(_ROUNDED, scores.std(0).max() / whole / 10)
    if (abs(scores.sum(-1) / whole - 1) < slack).all():
      return (f"holds {what} (all rows are >= 0 and sum to {whole}), not logits; "
              "save log(p)")
  edges = low <= _EDGE and high >= 1 - _EDGE
  if high <= 1 and (edges or (high > 0.5 and len(classes) > 1 and _is_surer(
      scores[:, classes], labels))):
    return ("holds what looks like outputs of a sigmoid (all are in [0, 1]), not "
            "logits; save log(p / (1 - p))")
  return ""


def _is_surer(scores: np.ndarray, labels: np.ndarray) -> bool:
  """Whether scores are right more often than they could promise as logits."""
  log_p = _in_shares(_log_softmax(_UNSURE * scores), labels)
  right, promised = log_p.argmax(-1) == labels, np.exp(log_p.max(-1))
  error = (promised * (1 - promised)).sum() ** 0.5
  return bool(right.sum() - promised.sum() > _ERRORS * error)


def _in_shares(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """log p of the same rows, brought to the classes' shares in the labels."""
  shares = np.bincount(labels) / len(labels)
  for _ in range(20):
    log_p = _log_softmax(log_p + np.log(shares / np.exp(log_p).mean(0)))
  return log_p


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  # A class that is masked with -inf has the least probability.
  top = logits.max(-1, keepdims=True)
  log_p = logits - np.where(np.isfinite(top), top, 0.0)
  np.maximum(log_p, 10 * _LEAST, out=log_p)
  log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
  return np.maximum(log_p, _LEAST, out=log_p)


def _other_rows(log_p: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> str:
  log_p = _in_shares(log_p, labels)
  gains = log_p - log_p.mean(0)
  found = gains[np.arange(len(labels)), labels]
  promised = (np.exp(log_p) * gains).sum(-1)
  shuffled = float((np.bincount(labels) / len(labels)) @ gains.var(0)) ** 0.5
  if _are_others(found, promised.mean(), shuffled, _TAIL):
    return _order_in_words("its rows", found, promised)
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
                               found[rows], promised[rows])
  return ""


def _are_others(
    found: np.ndarray, promised: float, shuffled: float, tail: float
) -> bool:
  """Whether gains are as of shuffled rows, and less than what is promised."""
  from scipy import stats  # pylint: disable=g-import-not-at-top
  error = max(found.std(), shuffled) / len(found) ** 0.5
  slack = stats.t.isf(tail, max(len(found) - 1, 1)) * error
  return found.mean() <= slack and found.mean() < _KEPT * promised - slack


def _order_in_words(rows: str, found: np.ndarray, promised: np.ndarray) -> str:
  return (
      f"{rows} tell no more of the labels than shuffled rows do (log-likelihood "
      f"{found.mean():+.2f} nats an example above those, where its probabilities "
      f"promise {promised.mean():+.2f}); its rows must be in the order of the data "
      "set")


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
  rows = np.arange(len(labels))
  gains = log_p[rows, order[labels]] - log_p[rows, labels]
  number = np.bincount(labels, minlength=len(order))
  there = number > 0
  total = lambda values: np.bincount(
      labels, values, minlength=len(order))[there]
  mean = total(gains) / number[there]
  moved = (order != np.arange(len(order)))[there]
  if not moved.any():
    return False
  variance = np.maximum(total(gains**2) / number[there] - mean**2, 0)
  # A class of few examples may have no deviation by chance.
  variance = np.maximum(variance, variance[moved].mean())[moved]
  return bool(mean.sum() > _ERRORS * (variance / number[there][moved]).sum() ** 0.5)


def _in_words(classes: np.ndarray, order: list[int], size: int) -> str:
  held = {int(classes[a]): int(classes[b]) for a, b in enumerate(order)}
  text = sorted(range(size), key=str)
  if all(text[column] == label for label, column in held.items()):
    how = f"class names sorted as text: {', '.join(map(str, text[:5]))}, ..."
    fix = "logits[:, numpy.argsort(sorted(range(C), key=str))]"
  else:
    moved = [f"class {a} is in column {b}" for a, b in held.items() if a != b]
    how = ", ".join(moved[:10]) + (", ..." if len(moved) > 10 else "")
    fix = "put column k of class k"
  return (
      f"its columns explain the labels far better in another order ({how}); {fix}")
