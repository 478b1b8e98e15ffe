"""What the rows of `hinton15_closing` say: a table for each stage, a verdict."""

from collections.abc import Mapping, Sequence
import pathlib
import statistics as normal
from typing import NamedTuple

import numpy as np

from experiments import claims, words
from kd_jax.core.words import counted
from kd_jax.report import Row, canvas, clustered, names, statistics

# Errors of 10,000 in the paper, of one run.
PAPER = 74
OWN, AVERAGED = "its own answer", "the mean over 25 shifts"
BASE = "base"
SOFT, HARD = "soft targets", "labels alone"
ADAM = "Adam"
BOUND = ", max-norm"
# Of a teacher's row, what may say how well it teaches.
_LOOKS = {"held-out errors": lambda row: row["heldout_errors"],
          "held-out NLL": lambda row: row["heldout_nll"],
          "entropy of targets": lambda row: row["train_entropy"]["20"]}

# Of two seeds that happen to differ alike nothing is said.
_FEWEST = 3

Named = Mapping[str, Sequence[Row]]


class Rank(NamedTuple):
  """Spearman's rho of n pairs, and its 95% interval, if there is one."""

  rho: float
  low: float | None
  high: float | None
  n: int


def spearman(x: Sequence[float], y: Sequence[float]) -> Rank | None:
  """Rank correlation; its interval is Fisher's z with Bonett & Wright's error.

  tanh(atanh(rho) ± 1.96 sqrt((1 + rho**2 / 2) / (n - 3)))

  Equal values have the mean of their ranks. None where all of x or y are equal.
  There is no interval for fewer than 4 pairs, nor where rho is 1 or -1.

  Example:
    >>> spearman([1, 2, 3, 4], [1, 3, 2, 4])
    Rank(rho=0.8, low=-0.818..., high=0.997..., n=4)

  Source: Bonett & Wright (2000), Psychometrika 65.
  """
  one, other = _ranks(x), _ranks(y)
  if len(one) < 2 or not (np.ptp(one) and np.ptp(other)):
    return None
  rho = round(float(np.corrcoef(one, other)[0, 1]), 12)
  if len(one) < 4 or abs(rho) == 1:
    return Rank(rho, None, None, len(one))
  wide = normal.NormalDist().inv_cdf(0.975) * (
      (1 + rho**2 / 2) / (len(one) - 3)) ** 0.5
  low, high = np.tanh(np.arctanh(rho) + np.array([-wide, wide]))
  return Rank(rho, float(low), float(high), len(one))


def _ranks(values: Sequence[float]) -> np.ndarray:
  """Ranks from 1, `[n]`; of equal values their mean."""
  each = np.asarray(values, np.float64)
  below = (each[:, None] > each).sum(1)
  return below + ((each[:, None] == each).sum(1) + 1) / 2


def targets(found: Named, epochs: Sequence[int]) -> str:
  """Held-out errors by targets and length, and what averaging changes at each."""
  lines = [[name, *_heldout(done)] for name, done in found.items() if done]
  text = "**Targets: the answer to the image itself, or the mean over shifts.**\n\n"
  text += words.table(["student", "held-out errors of 6,000", "each"], lines)
  tests = {}
  for length in epochs:
    by_seed = [{row["seed"]: row["heldout_errors"]
                for row in found[f"{name}, {length} epochs"]}
               for name in (AVERAGED, OWN)]
    if (test := statistics.paired_by_seed(*by_seed)) and test.n >= _FEWEST:
      tests[length] = test
  family = claims.Family(tests)
  for length, test in tests.items():
    text += (f"\nAfter {length} epochs, averaged minus own: "
             f"{words.difference(test)} ({test.n} seeds, one teacher), p "
             f"{words.p_value(family.adjusted.get(length))} (Holm); that averaging "
             f"brings fewer errors {family.verdict(length)}.\n")
  return text


class Kind(NamedTuple):
  """A kind of teacher: its row, and the held-out errors of its students."""

  teacher: Row
  errors: list[int]

  @property
  def mean(self) -> float:
    return statistics.summary(self.errors).mean


def of_kinds(found: Named, teachers: Sequence[Row]) -> dict[str, Kind]:
  """The kinds that have both, the one with the best students first."""
  known = {row["fingerprint"]: row for row in teachers if row["net"] == "teacher"}
  kinds_ = {name: Kind(known[done[0]["teacher_fingerprint"]],
                       [row["heldout_errors"] for row in done])
            for name, done in found.items()
            if done and done[0]["teacher_fingerprint"] in known}
  return dict(sorted(kinds_.items(), key=lambda item: item[1].mean))


def correlations(kinds_: Mapping[str, Kind]) -> dict[str, Rank | None]:
  """Students' errors against each look of their teachers."""
  errors = [each.mean for each in kinds_.values()]
  return {look: spearman([read(each.teacher) for each in kinds_.values()], errors)
          for look, read in _LOOKS.items()}


def kinds(found: Named, teachers: Sequence[Row]) -> str:
  """Every kind of teacher, its students, and what of a teacher goes with them."""
  known = of_kinds(found, teachers)
  lines = [[name, str(each.teacher["heldout_errors"]),
            f"{each.teacher['heldout_nll']:.4f}",
            f"{each.teacher['train_entropy']['20']:.4f}", f"{each.mean:.1f}",
            ", ".join(map(str, each.errors))] for name, each in known.items()]
  ranks = [[f"teacher's {look}", *(
      ["", ""] if rank is None else [f"{rank.rho:+.2f}", _interval(rank)])]
           for look, rank in correlations(known).items()]
  return (
      "**What in a teacher teaches? The best students first.**\n\n" + words.table(
          ["teacher", "its held-out errors", "its held-out NLL",
           "entropy of its targets, T = 20", "students' held-out errors", "each"],
          lines)
      + "\n**Students' held-out errors go with.**\n\n" + words.table(
          ["", "Spearman's rho", "95% interval"], ranks)
      + f"\nOver {len(known)} kinds of one teacher each. The interval is Fisher's "
      "z with Bonett & Wright's standard error; it takes the kinds as a sample, "
      "and they were listed by hand. Errors of 6,000. The entropy is the mean over "
      "the training set, in nats, of ln 10 = 2.303 at most.\n")


def _interval(rank: Rank) -> str:
  return "" if rank.low is None else f"[{rank.low:+.2f}, {rank.high:+.2f}]"


def cells(named: Named) -> clustered.Cells:
  """Test errors by name, with the teacher, if any, and the seed of each."""
  return clustered.Cells({
      name: [clustered.Run(names.teacher(row), row["seed"], row["test_errors"])
             for row in done] for name, done in named.items() if done})


def table(found: Named) -> str:
  """The best kind of teacher, other than the base, against it on all images."""
  name, done = next(iter(found.items()))
  of = cells(found)
  return (f"**The best kind of teacher other than the base, on all images: {name}."
          f"**\n\n{_errors(found, of)}\n"
          + (_judged(name, BASE, of) if done and found[BASE] else ""))


def sgd(found: Mapping[str, Named], epochs: int) -> str:
  """Held-out errors of every optimiser, by loss."""
  names_ = [name for name in next(iter(found.values()))
            if any(of[name] for of in found.values())]
  cell = lambda done: ", ".join(
      "diverged" if row["failed"] else str(row["heldout_errors"]) for row in done)
  lines = [[name, *(cell(of[name]) for of in found.values())] for name in names_]
  return (f"**Optimisers, {epochs} epochs: held-out errors of 6,000, one seed.**"
          "\n\n" + words.table(["optimiser", *found], lines)
          + _without_effect(found))


def _without_effect(found: Mapping[str, Named]) -> str:
  """Of which settings the bound on norms has changed nothing."""
  said = lambda done: [(row["heldout_errors"], row.get("heldout_nll"))
                       for row in done]
  same = [f"{name} ({loss})" for loss, of in found.items()
          for name, done in of.items()
          if (bound := of.get(f"{name}{BOUND}")) and said(done) == said(bound)]
  return (f"\nThe bound on norms changed nothing, with: {', '.join(same)}.\n"
          if same else "")


def long(
    found: Mapping[int, Named], chosen: Mapping[str, str], both: Named, failed: int,
) -> str:
  """The best optimiser of each loss for long, and whether 74 may be a run of it.

  Args:
    found: The nets that are judged, by epochs and loss.
    chosen: The optimiser of each loss.
    both: The last weights and the average of the longest trainings.
    failed: How many nets are not finite, which are left out.
  """
  epochs = max(found)
  which = "; ".join(f"{loss}: {name}" for loss, name in chosen.items())
  head = f"**The best of SGD and AdamW for each loss, on all images: {which}.**"
  text = (f"{head}\n\n{_by_length(found)}\n{words.SPREAD} A difference is over "
          "teachers, by a mixed model of its line; each loss has its own "
          "optimiser, so it is of both. Each length is a training of its own, and "
          "a short one has the whole schedule in a few epochs: momentum rises for "
          "half of it, and the rate, which falls by epochs, hardly falls.\n")
  if failed:
    text += f"\nLeft out, as not finite: {counted(failed, 'net')}.\n"
  if any(both.values()):
    errors = {name: [row["test_errors"] for row in done]
              for name, done in both.items() if done}
    listed = "; ".join(f"{name} {statistics.summary(each).mean:.1f}"
                       for name, each in errors.items())
    text += (f"\nAfter {epochs:,} epochs the last weights, and their moving "
             f"average, between which held-out data chose: {listed}.\n")
  place = claims.single(PAPER, [row["test_errors"] for row in found[epochs][SOFT]])
  return text if place is None else text + (
      f"\nOne more run of {epochs:,} epochs with {SOFT} lies in {place.interval} "
      "with 95%, if runs of one teacher are taken as independent: the paper's "
      f"{PAPER} is {place.verdict}.\n")


def _by_length(found: Mapping[int, Named]) -> str:
  """Errors by epochs, each a training of its own, and what soft targets change."""
  lines = []
  for epochs, of in found.items():
    own = cells(of)
    test = own.difference(SOFT, HARD) if of[SOFT] and of[HARD] else None
    lines.append([
        f"{epochs:,}", *(words.of_cell(own, loss) if done else ""
                         for loss, done in of.items()),
        "" if test is None else words.difference(test),
        "" if test is None else claims.LESS.judged(test.low, test.high)])
  return words.table(["epochs", SOFT, HARD, f"{SOFT} minus {HARD}", "fewer errors"],
                     lines)


def phrase(compared: Named, lasting: Named, epochs: int) -> str:
  """Errors of the best kind of teacher and of the longest training."""
  parts = [f"{'base' if name == BASE else f'best other teacher ({name})'} {errors}"
           for name, errors in _lines(compared, cells(compared))]
  parts += [f"{name}, {epochs:,} epochs {errors}"
            for name, errors in _lines(lasting, cells(lasting))]
  return ", ".join(parts)


def _heldout(done: Sequence[Row]) -> list[str]:
  errors = [row["heldout_errors"] for row in done]
  return [f"{statistics.summary(errors).mean:.1f}", ", ".join(map(str, errors))]


def _errors(found: Named, of: clustered.Cells) -> str:
  return words.table(["", "errors of 10,000"], _lines(found, of)) + (
      f"\n{words.SPREAD} {words.modelled(of)}\n")


def _lines(found: Named, of: clustered.Cells) -> list[list[str]]:
  return [[name, words.of_cell(of, name)] for name, done in found.items() if done]


def _judged(name: str, other: str, of: clustered.Cells) -> str:
  test = of.difference(name, other)
  return "" if test is None else (
      f"{name} minus {other}: {words.difference(test)} (over "
      f"{of.over(name, other)}); fewer errors: "
      f"{claims.LESS.judged(test.low, test.high)}.\n")


@canvas.styled
def draw_lengths(found: Mapping[int, Named], file: pathlib.Path) -> bool:
  """Test errors against epochs for both losses, and the paper's number."""
  drawn, axes = canvas.figure(1, 1, (5.0, 3.2))
  at = axes[0][0]
  for index, loss in enumerate((SOFT, HARD)):
    means = {epochs: cells(of).mean(loss)
             for epochs, of in found.items() if of[loss]}
    canvas.means(at, means, index, loss)
  at.axhline(PAPER, linewidth=0.8, color=canvas.GREY, linestyle=canvas.DASHES[1],
             label=f"the paper's {PAPER}")
  canvas.log_values(at, [*found], "{:,}".format)
  at.set(xlabel="epochs", ylabel="test errors, 95% interval")
  at.legend()
  return canvas.save(drawn, file)


@canvas.styled
def draw(found: Named, teachers: Sequence[Row], file: pathlib.Path) -> bool:
  """Students' held-out errors against each look of their teachers."""
  known = of_kinds(found, teachers)
  drawn, axes = canvas.figure(1, 3, (9.6, 3.4), sharey=True)
  for place, ((look, read), rank) in enumerate(zip(
      _LOOKS.items(), correlations(known).values(), strict=True)):
    at = axes[0][place]
    for name, each in known.items():
      point = read(each.teacher), each.mean
      at.plot(*point, "D" if name == BASE else "o", markersize=4,
              color=canvas.COLOURS[name == BASE])
      at.annotate(name, point, fontsize=5,
                  xytext=(3, 2), textcoords="offset points", color=canvas.GREY)
    at.locator_params(axis="x", nbins=5)
    at.set(xlabel=f"teacher's {look}", title="" if rank is None else
           f"rho {rank.rho:+.2f} {_interval(rank)}")
  axes[0][0].set_ylabel("students' held-out errors of 6,000")
  return canvas.save(drawn, file)
