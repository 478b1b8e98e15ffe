"""What the rows of `keras_example` say, beside the example."""

from collections.abc import Mapping, Sequence
import itertools
from typing import NamedTuple

from experiments import claims, sources, words
from experiments.protocol import Rows
from kd_jax.report import Row, statistics

# What the prose documents, in points.
GAIN = 98.1 - 97.6


class Published(NamedTuple):
  """A net of the example.

  Attributes:
    prose: Accuracy that the text promises, in percent; None if it says nothing.
    rendered: Accuracy of the run that is rendered with it.
    loss: Mean loss of that run's last epoch.
  """

  prose: float | None = None
  rendered: float | None = None
  loss: float | None = None


_TEACHER = Published(97.6, 97.81, 0.0582)
_SCRATCH = Published(97.6, 97.78, 0.0748)
_DISTILLED = Published(98.1, 96.92, 0.0223)
# Which versions computed these, and what they said.
_AS_RUN = {"teacher not frozen": Published(98.1, 96.92, 0.0223),
           "roles swapped": Published(98.1)}

_GAIN = {claims.HOLDS: "yes", claims.FAILS: "no, a loss", claims.OPEN: "not shown"}
_SAID = {claims.HOLDS: "shown", claims.FAILS: "no, a loss is shown",
         claims.OPEN: "not shown"}

Named = Mapping[str, Sequence[Row]]
Pair = tuple[Sequence[Row], Sequence[Row]]


def told(rows: Rows, named: Named, epochs: Sequence[int]) -> str:
  """The example's numbers beside ours, then what distilling gains."""
  if not epochs:
    return "No row of the table yet.\n"
  return "\n".join([
      _beside(rows, named, epochs[0]),
      "Accuracy on the test set in percent: mean ± half the 95% t-interval over "
      "seeds; (n/1) is of n runs with the one teacher. A published number is one "
      "run: it is \"of "
      "ours\" if it lies where one more run of ours would, with 95% (t-interval "
      "of a single run). Loss: mean of the last epoch, as the example prints "
      "it.\n",
      _gains(rows, named, epochs),
      "Differences in points of accuracy, paired by seed, with 95% t-interval; p "
      "of the t-test, Holm-adjusted in the family of this table. The teacher is "
      "one net, so what is minus it holds for it alone.\n",
      *_verdict(rows, named, epochs)]) + "\n"


def phrase(named: Named, epochs: Sequence[int]) -> str:
  """The gain as published and with settings chosen, in points."""
  found = []
  for name, ending in (("as published", ""), ("chosen", ", chosen")):
    pair = _pair(named, f"{epochs[0]} epochs{ending}")
    if all(pair):
      gain = statistics.paired(*map(accuracy, pair))
      found.append(f"{words.difference(gain, '+.2f')} {name}")
  return f"gain in points: {', '.join(found)} (documented {GAIN:+.1f})"


def accuracy(rows: Sequence[Row]) -> list[float]:
  """In percent."""
  return [100 * (1 - row["test_errors"] / row["test_examples"]) for row in rows]


def _nets(rows: Rows, named: Named, epochs: int) -> dict[
    str, tuple[Published, Sequence[Row]]]:
  """What the example has, and the rows that answer."""
  teachers = [row for row in rows["teachers"] if row.get("net") == "teacher"]
  plain = f"distilled, {epochs} epochs"
  unscaled = f"distilled without T**2, {epochs} epochs"
  done = rows.get("as_run", [])
  return {
      "teacher": (_TEACHER, teachers),
      "from scratch": (_SCRATCH, named[f"scratch, {epochs} epochs"]),
      "distilled": (_DISTILLED, named[plain]),
      "distilled without T**2": (Published(98.1), named[unscaled]),
      **{f"as run: {name}": (numbers, [
          row for row in done if row["row"] == name])
         for name, numbers in _AS_RUN.items()}}


def _beside(rows: Rows, named: Named, epochs: int) -> str:
  lines = []
  for name, (published, done) in _nets(rows, named, epochs).items():
    values = accuracy(done)
    losses = [_loss(row) for row in done]
    # The programs as they ran name no teacher: theirs is that of the table.
    given = [{**row, "teacher_fingerprint": "the table's"}
             if name.startswith("as run") else row for row in done]
    lines.append([
        sources.linked(name, done), _number(published.prose, ".1f"),
        _of_ours(published.prose, values),
        _number(published.rendered), _of_ours(published.rendered, values),
        words.spread(given, values, ".2f"), _number(published.loss, ".4f"),
        words.spread(given, losses, ".4f")])
  return words.table(
      ["net", "prose", "of ours?", "rendered run", "of ours?", "ours",
       "its loss", "our loss"], lines)


def _gains(rows: Rows, named: Named, epochs: Sequence[int]) -> str:
  found, pairs = _tests(rows, named, epochs), _pairs(rows, named, epochs)
  return words.table(
      ["distilled minus", "difference", "p", "p (Holm)", "gain?"],
      [[sources.linked(name, [*itertools.chain(*pairs[name])]), difference,
        words.p_value(test.p), p, _GAIN[found.verdict(name)] if p else ""]
       for name, test in found.tests.items()
       for difference, p in [found.line(name, "+.2f")]])


def _tests(rows: Rows, named: Named, epochs: Sequence[int]) -> claims.Family:
  """Every comparison that the rows allow: that distilling is more accurate."""
  return claims.Family(
      {name: statistics.paired(*map(accuracy, pair))
       for name, pair in _pairs(rows, named, epochs).items()}, claims.MORE)


def _pairs(rows: Rows, named: Named, epochs: Sequence[int]) -> dict[str, Pair]:
  """Rows of students that are distilled, and of what these are compared with."""
  pairs = {}
  for number in epochs:
    for told_as, ending in (("as published", ""), ("chosen", ", chosen")):
      pairs[f"scratch, {number} epochs, {told_as}"] = _pair(
          named, f"{number} epochs{ending}")
  short = f"{epochs[0]} epochs"
  pairs[f"scratch, {short}, both without T**2"] = _pair(
      named, short, "distilled without T**2")
  own = named[f"distilled, {short}"]
  teachers = [row for row in rows["teachers"] if row.get("net") == "teacher"]
  pairs[f"its teacher, {short}, as published"] = own, teachers[:1] * len(own)
  return {name: pair for name, pair in pairs.items() if all(pair)}


def _pair(named: Named, ending: str, which: str = "distilled") -> Pair:
  """Students distilled and from scratch, of the same seeds."""
  distilled, scratch = (
      {row["seed"]: row for row in named[f"{name}, {ending}"]}
      for name in (which, "scratch"))
  seeds = sorted(set(distilled) & set(scratch))
  return [distilled[seed] for seed in seeds], [scratch[seed] for seed in seeds]


def _verdict(rows: Rows, named: Named, epochs: Sequence[int]) -> list[str]:
  """The claims of the prose, one a line."""
  found = _tests(rows, named, epochs)
  first = f"scratch, {epochs[0]} epochs, as published"
  if first not in found.adjusted:
    return ["Too few runs for a verdict."]
  gain = found.tests[first]
  teacher = f"its teacher, {epochs[0]} epochs, as published"
  lines = [f"- A gain over training from scratch: {_SAID[found.verdict(first)]}."]
  if gain.low is not None and gain.high is not None:
    large = gain.low <= GAIN <= gain.high
    lines.append(f"- A gain of {GAIN:+.1f} points: the interval "
                 f"{'has' if large else 'does not have'} it.")
  if teacher in found.adjusted:
    lines.append(f"- Better than the teacher: {_SAID[found.verdict(teacher)]}.")
  lines += [_explained(name, *pair) for name, pair in _nets(
      rows, named, epochs[0]).items() if name.startswith("as run")]
  return [line for line in lines if line]


def _explained(name: str, published: Published, done: Sequence[Row]) -> str:
  """Whether a version's number is what that version computes."""
  value = (published.prose if published.rendered is None
           else published.rendered)
  place = claims.single(value, accuracy(done))
  if place is None:
    return ""
  return (f"- {value:g}% as one more run of this version ({name}): "
          f"{place.verdict} by [{place.low:.2f}, {place.high:.2f}], of {len(done)} "
          "runs from one teacher.")


def _of_ours(value: float | None, values: Sequence[float]) -> str:
  """Whether a published run could be one more of these."""
  place = claims.single(value, values)
  return place.verdict if place else ""


def _loss(row: Row) -> float:
  """The mean loss of the last epoch: its terms, weighted."""
  own, curve = row.get("overrides", {}), row.get("curve", {})

  def last(term: str) -> float:
    return curve[f"train_{term}"][-1] if curve else row[f"train_{term}"]

  soft = own.get("soft_weight", own.get("alpha", 0.0))
  if not soft:
    return last("hard")
  return own.get("hard_weight", 1 - soft) * last("hard") + soft * last("soft")


def _number(value: float | None, form: str = ".2f") -> str:
  return "" if value is None else f"{value:{form}}"
