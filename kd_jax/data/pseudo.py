r"""Pseudo examples of a table: MUNGE, RANDOM and NBE.

Bucila, Caruana & Niculescu-Mizil (2006), "Model compression", section 3: a student
needs far more examples than there are, and a teacher can label as many as one
makes. Inputs alone are made; their labels are unknown (-1), so they are for
students of a teacher.

An *attribute* is a number or nominal. Here a table is `[N, A]` float64, of which
`nominal` `[A]` says which attributes are codes of values; `encode` makes it of
columns, with a column for each value, and `decode` makes columns of it. All draws
are functions of a seed and of the number of a copy, so that more examples begin
with those of fewer.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kd_jax.core.errors import UserError
from kd_jax.data.tables import Nominal

# Copies of the table that are made at once, and examples of one stream of draws.
_AT_ONCE, _CHUNK = 32, 4096
# Mixtures that are tried, the part of the table that chooses, and steps of EM.
_PARTS = (1, 3, 10, 30, 100)
_CHOOSING = 0.2
_STEPS = 20
# Each part of a mixture has, beside its own, so many examples like the whole table:
# its deviations are not 0, and none of the table's values is impossible.
_PRIOR = 0.1


class Table(NamedTuple):
  """Examples by attribute: values `[N, A]`, nominal `[A]`."""

  values: np.ndarray
  nominal: np.ndarray


def made(
    kind: str, inputs: np.ndarray, nominal: Nominal = (), *, number: int,
    seed: int = 0, p: float = 0.5, s: float = 10.0,
) -> np.ndarray:
  """Pseudo examples of a table of columns.

  Args:
    kind: "munge", "random" or "nbe".
    inputs: The table, float `[N, F]`.
    nominal: Spans of the columns of nominal attributes.
    number: How many to make.
    seed: Of the draws.
    p: Of MUNGE: the probability that an attribute is changed.
    s: Of MUNGE: how many times the deviation is smaller than the distance.

  Returns:
    `[number, F]`, float32.

  Raises:
    UserError: If there are not two examples, or nominal columns are not 0 and 1.

  Example:
    >>> made("munge", np.eye(2, 3, dtype=np.float32), ((0, 3),), number=2, p=0.0)
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
  """
  if len(inputs) < 2:
    raise UserError(f"data.pseudo={kind}: needs 2 examples, got {len(inputs)}")
  table = encode(inputs, nominal)
  if kind == "munge":
    # The last copy may be cut.
    values = munge(table, -(-number // len(inputs)), p=p, s=s, seed=seed)[:number]
  else:
    values = {"random": random, "nbe": nbe}[kind](table, number, seed=seed)
  return decode(values, inputs.shape[1], nominal)


def munge(
    table: Table, copies: int, *, p: float, s: float, seed: int = 0
) -> np.ndarray:
  r"""MUNGE(T, k, p, s), Algorithm 1 of the paper.

  k times: T' = T; for each example e of T' in turn, with e' the example nearest to
  it in T, and for each attribute a, with probability p:

    nominal     swap e_a and e'_a
    a number    sd = |e_a - e'_a| / s;  e_a ~ N(e'_a, sd),  e'_a ~ N(e_a, sd)

  with the values before on the right. What comes out is the union of all T'.
  Nearest is by Euclid's distance of numbers, each divided by its range in T, a
  nominal attribute counting 1 where it differs; of equally near ones it is the
  first. A number may leave its range by some sd; nothing is cut.

  Args:
    table: T, two examples or more.
    copies: k.
    p: In [0, 1]; 0 gives T back.
    s: > 0; a large one swaps numbers too.
    seed: Of the draws; copy c has the same draws whatever k is.

  Returns:
    `[k N, A]`, copy after copy.
  """
  near = nearest(table)
  made = [_munged(table, near, range(first, min(first + _AT_ONCE, copies)),
                  p=p, s=s, seed=seed) for first in range(0, copies, _AT_ONCE)]
  return np.concatenate(made)


def draws(
    shape: tuple[int, int], seed: int, copy: int
) -> tuple[np.ndarray, np.ndarray]:
  """What MUNGE draws for a copy of a table of this shape `(N, A)`.

  Returns:
    A uniform number of each example and attribute, `[N, A]`, which is below p where
    the attribute is changed; and normal ones for e and e', `[N, 2, A]`.
  """
  rng = np.random.default_rng([seed, copy])
  return rng.random(shape), rng.standard_normal((shape[0], 2, shape[1]))


def _munged(table: Table, near, copies: range, *, p, s, seed) -> np.ndarray:
  """Several copies side by side: the examples of a copy are in turn."""
  values, nominal = table
  found = np.repeat(values[None], len(copies), axis=0)
  uniform, normal = (np.stack(each) for each in zip(*(
      draws(values.shape, seed, copy) for copy in copies)))
  changed = uniform < p
  for place, other in enumerate(near):
    e, o = found[:, place].copy(), found[:, other].copy()
    sd = np.where(nominal, 0.0, np.abs(e - o) / s)
    swap = changed[:, place]
    found[:, place] = np.where(swap, o + sd * normal[:, place, 0], e)
    found[:, other] = np.where(swap, e + sd * normal[:, place, 1], o)
  return found.reshape(-1, values.shape[1])


def nearest(table: Table, rows: int = 256) -> np.ndarray:
  """The example nearest to each but itself, `[N]`; `rows` are compared at once."""
  scaled = _scaled(table)
  found = np.empty(len(scaled), np.int64)
  for first in range(0, len(scaled), rows):
    own = scaled[first:first + rows]
    distance = _distances(own, scaled, table.nominal)
    distance[np.arange(len(own)), first + np.arange(len(own))] = np.inf
    found[first:first + rows] = distance.argmin(axis=1)
  return found


def _scaled(table: Table) -> np.ndarray:
  """The table with each number divided by its range; constants become 0."""
  values, nominal = table
  span = np.ptp(values, axis=0)
  return np.where(nominal, values, values / np.where(span > 0, span, np.inf))


def _distances(one: np.ndarray, other: np.ndarray, nominal) -> np.ndarray:
  """Squared distances `[n, m]`; column by column, so that equal ones are equal."""
  total = np.zeros((len(one), len(other)))
  for a, b, codes in zip(one.T, other.T, nominal):
    total += (a[:, None] != b) if codes else np.square(a[:, None] - b)
  return total


def random(table: Table, number: int, *, seed: int = 0) -> np.ndarray:
  """RANDOM: each attribute by itself is drawn from its values in the table.

  Returns:
    `[number, A]`; attributes are independent, and each has its own distribution.
  """
  values = table.values

  def drawn(size: int, rng: np.random.Generator) -> np.ndarray:
    rows = rng.integers(0, len(values), (size, values.shape[1]))
    return np.take_along_axis(values, rows, axis=0)

  return _in_chunks(drawn, number, seed)


def _in_chunks(
    drawn: Callable[[int, np.random.Generator], np.ndarray], number: int, seed: int
) -> np.ndarray:
  """Draws of whole chunks, each of a stream of its own, the last one cut."""
  chunks = range(-(-number // _CHUNK))
  return np.concatenate([drawn(_CHUNK, np.random.default_rng([seed, chunk]))
                         for chunk in chunks])[:number]


def nbe(table: Table, number: int, *, seed: int = 0) -> np.ndarray:
  r"""NBE: draws from a mixture of naive Bayes models (Lowd & Domingos 2005).

    p(x) = sum_c pi_c prod_a p_c(x_a)

  with a normal distribution of each number and the frequencies of each nominal
  value. The number of parts c is that of 1 to 100 with the largest likelihood of a
  fifth of the table, fitted to the rest; the mixture is then fitted to all of it.

  Returns:
    `[number, A]`.
  """
  rng = np.random.default_rng(seed)
  values = table.values
  order = rng.permutation(len(values))
  cut = max(1, round(_CHOOSING * len(values)))
  apart = [table._replace(values=values[ids]) for ids in (order[cut:], order[:cut])]
  sizes = [parts for parts in _PARTS if parts <= max(1, len(apart[0].values) // 4)]
  parts = max(sizes, key=lambda size: _likelihood(
      fit_mixture(apart[0], size, rng, codes=_codes(table)), apart[1]))
  mixture = fit_mixture(table, parts, rng, codes=_codes(table))
  return _in_chunks(mixture.drawn, number, seed)


class Mixture(NamedTuple):
  """A mixture of C naive Bayes models.

  Attributes:
    weight: pi, `[C]`.
    mean: Of the numbers, `[C, A]`; of nominal attributes without a meaning.
    sd: Their deviations, `[C, A]`.
    frequency: Of each nominal attribute, by its place, `[C, codes]`.
  """

  weight: np.ndarray
  mean: np.ndarray
  sd: np.ndarray
  frequency: dict[int, np.ndarray]

  def log_joint(self, values: np.ndarray) -> np.ndarray:
    """log pi_c + sum_a log p_c(x_a), `[N, C]`."""
    total = np.broadcast_to(
        np.log(self.weight), (len(values), len(self.weight))).copy()
    for place in range(values.shape[1]):
      column = values[:, place]
      if place in self.frequency:
        total += np.log(self.frequency[place]).T[column.astype(int)]
      else:
        sd = self.sd[:, place]
        total -= np.log(sd * np.sqrt(2 * np.pi)) + 0.5 * np.square(
            (column[:, None] - self.mean[:, place]) / sd)
    return total

  def drawn(self, number: int, rng: np.random.Generator) -> np.ndarray:
    """Examples of the mixture, `[number, A]`."""
    part = rng.choice(len(self.weight), number, p=self.weight)
    found = self.mean[part] + self.sd[part] * rng.standard_normal(
        (number, self.mean.shape[1]))
    for place, frequency in self.frequency.items():
      ends = np.cumsum(frequency, axis=1)[part]
      uniform = rng.random((number, 1)) * ends[:, -1:]
      found[:, place] = (uniform >= ends).sum(axis=1)
    return found


def fit_mixture(
    table: Table, parts: int, rng: np.random.Generator, *, codes: np.ndarray
) -> Mixture:
  """A mixture fitted by EM, which begins at the nearest of some examples.

  Args:
    table: Examples.
    parts: C.
    rng: Of the examples that it begins at.
    codes: How many codes each attribute has, `[A]`.
  """
  values, nominal = table
  scaled = _scaled(table)
  chosen = rng.choice(len(values), parts, replace=False)
  share = np.zeros((len(values), parts))
  share[np.arange(len(values)), _distances(
      scaled, scaled[chosen], nominal).argmin(axis=1)] = 1.0
  mixture = _fitted(table, share, codes)
  for _ in range(_STEPS):
    mixture = _fitted(table, _shares(mixture.log_joint(values)), codes)
  return mixture


def _fitted(table: Table, share: np.ndarray, codes: np.ndarray) -> Mixture:
  """The mixture of examples that belong to its parts by `share` `[N, C]`."""
  values, nominal = table
  weight = share.sum(axis=0) + _PRIOR
  square = np.square(values)
  mean = (share.T @ values + _PRIOR * values.mean(axis=0)) / weight[:, None]
  second = (share.T @ square + _PRIOR * square.mean(axis=0)) / weight[:, None]
  variance = np.maximum(second - mean**2, 1e-12)
  frequency = {}
  for place in np.flatnonzero(nominal):
    code = values[:, place].astype(int)
    counts = np.stack([np.bincount(code, own, codes[place]) for own in share.T])
    # A code of the whole table may be absent from those that are fitted.
    whole = (np.bincount(code, minlength=codes[place]) + 1e-3) / len(code)
    smooth = counts + _PRIOR * whole
    frequency[int(place)] = smooth / smooth.sum(axis=1, keepdims=True)
  return Mixture(weight / weight.sum(), mean, np.sqrt(variance), frequency)


def _shares(log_joint: np.ndarray) -> np.ndarray:
  found = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
  return found / found.sum(axis=1, keepdims=True)


def _likelihood(mixture: Mixture, table: Table) -> float:
  """The mean log-likelihood of examples."""
  joint = mixture.log_joint(table.values)
  most = joint.max(axis=1)
  return float(np.mean(most + np.log(np.exp(joint - most[:, None]).sum(axis=1))))


def _codes(table: Table) -> np.ndarray:
  """How many codes each attribute has; 0 of numbers."""
  return np.where(table.nominal, table.values.max(axis=0) + 1, 0).astype(int)


def encode(inputs: np.ndarray, nominal: Nominal = ()) -> Table:
  """Columns `[N, F]` as attributes; a nominal one is where its first column was.

  A code is the place of the column that is 1, or the number of columns where none
  is: an unknown value, or the other one of an attribute of one column.

  Raises:
    UserError: If nominal columns are not 0 but for at most one 1.
  """
  found: list[np.ndarray] = []
  kinds: list[bool] = []
  for first, last, codes in _attributes(inputs.shape[1], nominal):
    columns = inputs[:, first:last]
    if codes and not (np.isin(columns, (0, 1)).all()
                      and (columns.sum(axis=1) <= 1).all()):
      raise UserError(f"columns {first} to {last - 1} are of a nominal attribute, "
                      "so they must be 0 but for at most one 1")
    found.append(np.where(columns.any(axis=1), columns.argmax(axis=1), last - first)
                 if codes else columns[:, 0])
    kinds.append(codes)
  return Table(np.stack(found, axis=1).astype(np.float64), np.array(kinds))


def decode(values: np.ndarray, columns: int, nominal: Nominal = ()) -> np.ndarray:
  """Attributes `[N, A]` as columns `[N, columns]`, float32."""
  found = np.zeros((len(values), columns), np.float32)
  for column, (first, last, codes) in zip(values.T, _attributes(columns, nominal)):
    found[:, first:last] = (
        column[:, None] == np.arange(last - first) if codes else column[:, None])
  return found


def _attributes(columns: int, nominal: Nominal) -> list[tuple[int, int, bool]]:
  """First column, one past the last, and whether nominal, of each attribute."""
  ends, place, found = dict(nominal), 0, []
  while place < columns:
    end = ends.get(place, place + 1)
    found.append((place, end, place in ends))
    place = end
  return found
