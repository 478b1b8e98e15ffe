"""What the rows say of section 5, beside the paper; here is what is tested."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from experiments import claims, fair, sources, words
from experiments.hinton15_specialists import plan
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, dots, statistics

# Table 3: conditional and test accuracy, %.
PAPER = {"generalist": ("43.1", "25.0"), "specialists": ("45.9", "26.1")}
# Table 4: examples, more that are right, relative change in %.
PAPER_COVERED = {
    0: "350,037, 0, 0.0%", 1: "141,993, +1,421, +3.4%",
    2: "67,161, +1,572, +7.4%", 3: "38,801, +1,124, +8.8%",
    4: "26,298, +835, +10.5%", 5: "16,474, +561, +11.1%",
    6: "10,682, +362, +11.3%", 7: "7,376, +232, +12.8%",
    8: "4,703, +182, +13.6%", 9: "4,706, +208, +16.6%"}
# Two families of paired differences in test errors, Holm-adjusted in each. The
# first one of each is the claim and the question; the others say what made it.
SPECIALISTS = (("specialists", "generalist"), ("specialists", "continued"),
               ("specialists", "ensemble"), ("regularised", "specialists"))
SINGLE = (("from specialists", "hard labels"),
          ("from specialists", "from generalist"),
          ("from specialists", "from ensemble"))

_ERRORS = {claims.HOLDS: "fewer", claims.FAILS: "more",
           claims.OPEN: "not shown to differ"}

ByMethod = Mapping[str, Mapping[int, Row]]


def conclude(rows: Rows) -> str:
  """Tables 2, 3 and 4, one net, and what may be said of them."""
  found = _by_method(rows)
  if len(found) < len(plan.METHODS) or len(_seeds(found)) < 2:
    return "Not all methods have two seeds yet.\n"
  return "\n".join([
      _example_sets(found), _accuracies(found), _tested(
          found, SPECIALISTS, "What specialists bring",
          "fewer errors than the generalist alone"),
      _covered(found), _tested(
          found, SINGLE, "One net again",
          "fewer errors of one net than with hard labels as long"),
      _kept(found), _settings(found)])


def status(rows: Rows) -> str:
  """The accuracies as they came out, in a phrase."""
  found = _by_method(rows)
  if len(found) < len(plan.METHODS):
    return "not all methods yet"
  said = lambda name: f"{words.interval(_accuracy(found, name))}%"
  return (f"generalist {said('generalist')}, with specialists "
          f"{said('specialists')}; one net from these {said('from specialists')}, "
          f"from hard labels {said('hard labels')}")


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Errors of every method, and what specialists bring by coverage."""
  found = _by_method(rows)
  if len(found) == len(plan.METHODS):
    _draw(found, folder / "errors.png")


def _by_method(rows: Rows) -> dict[str, dict[int, Row]]:
  found: dict[str, dict[int, Row]] = {}
  for row in rows.get("table", ()):
    if row["failed"] is None:
      found.setdefault(row["method"], {})[row["seed"]] = row
  return found


def _seeds(found: ByMethod) -> list[int]:
  """The seeds that all methods have."""
  return sorted(set.intersection(*(set(each) for each in found.values())))


def _values(found: ByMethod, method: str, key: str = "test_errors") -> list:
  return [found[method][seed][key] for seed in _seeds(found)]


def _accuracy(found: ByMethod, method: str) -> list[float]:
  """In %, by seed."""
  return [100 * (1 - row["test_errors"] / row["test_examples"])
          for row in (found[method][seed] for seed in _seeds(found))]


def _conditional(found: ByMethod, method: str) -> list[float]:
  """In %, by seed; none of nets that are no specialists' ."""
  if method == "generalist":
    source, name = "specialists", "generalist"
  elif method in ("specialists", "regularised"):
    source, name = method, "together"
  else:
    return []
  return [100 * own[name] / own["examples"]
          for own in _values(found, source, "conditional")]


def _example_sets(found: ByMethod) -> str:
  first = min(_seeds(found))
  row = found["specialists"][first]
  return (f"**Table 2**: the sets of the {len(row['sets'])} specialists of seed "
          f"{first}: {', '.join(row['sets'])}. Of a test example "
          f"{words.interval(_values(found, 'specialists', 'asked'), '.2f')} are "
          "asked.\n")


def _accuracies(found: ByMethod) -> str:
  examples = found["generalist"][_seeds(found)[0]]["test_examples"]
  lines = []
  for method in plan.METHODS:
    conditional, test = PAPER.get(method, ("", ""))
    means = [statistics.summary(_values(found, method, key)).mean
             for key in ("test_nll", "test_ece")]
    lines.append([
        _label(found, method), conditional,
        words.interval(_conditional(found, method), ".2f"), test,
        words.interval(_accuracy(found, method), ".2f"),
        words.interval(_values(found, method)), *map("{:.4f}".format, means)])
  relative = [100 * (after / before - 1) for before, after in zip(
      _accuracy(found, "generalist"), _accuracy(found, "specialists"))]
  return "\n".join([
      "**Table 3**, and the nets beside it. Conditional accuracy is of the "
      "examples of a specialist's classes among these alone.\n",
      words.table(["", "paper: conditional %", "conditional %", "paper: test %",
                   "test %", f"errors of {examples:,}", "NLL", "ECE"], lines),
      "Mean ± half the 95% t-interval over seeds (n). Relative improvement of the "
      f"accuracy by specialists: paper 4.4%, here {words.interval(relative, '.2f')}"
      "%.\n"])


def _tested(found: ByMethod, pairs, title: str, claim: str) -> str:
  family = claims.Family({(one, other): statistics.paired(
      _values(found, one), _values(found, other)) for one, other in pairs})
  return "\n".join([
      f"**{title}**: test errors, paired by seed, 95% t-interval; p corrected "
      f"(Holm) within these {len(pairs)}.\n",
      family.table(lambda pair: " minus ".join(
          _label(found, method) for method in pair), "+.1f", "errors", _ERRORS),
      f"That there are {claim} {family.verdict(pairs[0])} here.\n"])


def _label(found: ByMethod, method: str) -> str:
  return sources.linked(plan.METHODS[method], [*found[method].values()])


def _gains(found: ByMethod, times: Sequence[int]) -> dict[int, float]:
  """Relative change in % of what is right, of classes covered so often, by seed.

  A seed without any such class has none.
  """
  gains = {}
  for seed in _seeds(found):
    own = found["specialists"][seed]["covered"]
    cells = [own[str(number)] for number in times if str(number) in own]
    _, before, after = map(sum, zip(*cells)) if cells else (0, 0, 0)
    if before:
      gains[seed] = 100 * (after / before - 1)
  return gains


def _times(found: ByMethod) -> list[int]:
  return sorted({int(number) for own in _values(found, "specialists", "covered")
                 for number in own})


def _covered(found: ByMethod) -> str:
  counts = _values(found, "specialists", "covered")
  times = _times(found)
  lines = []
  for number in times:
    cells = [own[str(number)] for own in counts if str(number) in own]
    mean = sum(cell[0] for cell in cells) / len(cells)
    more = [cell[2] - cell[1] for cell in cells]
    lines.append([sources.linked(str(number), [*found["specialists"].values()]),
                  PAPER_COVERED.get(number, ""), f"{mean:.0f}",
                  words.interval(more, "+.1f").replace("± +", "± "),
                  words.interval(list(_gains(found, [number]).values()), ".2f")])
  return "\n".join([
      "**Table 4**: test examples by how many specialists cover their class; over "
      "the seeds (n) in which some class is covered so often.\n",
      words.table(["covered by", "paper: examples, change, relative", "examples",
                   "change in top-1 right", "relative change, %"], lines),
      _more_gain_more(found, times)])


def _more_gain_more(found: ByMethod, times: Sequence[int]) -> str:
  """Table 4's claim: a test of the seeds that have classes of both kinds."""
  often = _gains(found, [number for number in times if number > 1])
  once = _gains(found, [1])
  both = sorted(often.keys() & once.keys())
  if len(both) < 2:
    return "Too few seeds have classes covered once and more often.\n"
  test = statistics.paired([often[seed] for seed in both],
                           [once[seed] for seed in both])
  holds = claims.Family({"": test}, claims.MORE).verdict("")
  return ("Classes covered by two or more minus those covered by one, relative "
          f"change in %, by seed (n = {test.n}): {words.difference(test, '+.2f')}, "
          f"p = {words.p_value(test.p)}. That more specialists gain more {holds} "
          "here.\n")


def _kept(found: ByMethod) -> str:
  """How much of what specialists bring a single net keeps."""
  hard, best, taught = (
      np.array(_values(found, name), np.float64)
      for name in ("hard labels", "specialists", "from specialists"))
  share = statistics.ratio(hard - taught, hard - best)
  if share.low is None or share.high is None or np.mean(hard - best) <= 0:
    return ("It is not shown that generalist and specialists make fewer errors "
            "than one net with hard labels, so there is no share to keep.\n")
  return (f"Of the {np.mean(hard - best):.1f} errors between one net with hard "
          "labels and generalist with specialists, one net taught by these keeps "
          f"{share.ratio:.0%} [{share.low:.0%}, {share.high:.0%}]: ratio of "
          "means, Fieller's 95% interval over seeds.\n")


def _settings(found: ByMethod) -> str:
  first, choices = _seeds(found)[0], {}
  for method, name in plan.METHODS.items():
    own, tried = plan.plain(found[method][first]["overrides"]), plan.FULL.grids.get(
        "generalist" if method == "ensemble" else method, ())
    choices[name] = own, [*map(plan.plain, tried)]
  return fair.at_ends(choices)


@canvas.styled
def _draw(found: ByMethod, file: pathlib.Path) -> bool:
  """Errors of every method; below them what specialists bring, by coverage."""
  errors = [_dot(name, _values(found, method))
            for method, name in plan.METHODS.items()]
  gains = []
  for number in _times(found):
    values = [*_gains(found, [number]).values()]
    paper = PAPER_COVERED.get(number)
    gains.append(_dot(f"{number}, n = {len(values)}", values)._replace(
        beside=float(paper.split()[-1].strip("%")) if paper else None))
  heights = [dots.height({"": each}) for each in (errors, gains)]
  drawn, (above, below) = canvas.below_each_other(heights)
  dots.draw(above, {"": errors}, "test errors, mean and 95% interval")
  (at,) = dots.draw(
      below, {"": gains}, "relative change in top-1 right, %, 95% interval\n"
      "(of two seeds it leaves the picture);\norange: the paper")
  at.set_ylabel("times a class is covered")
  # The interval of two seeds would hide all others: it runs off the picture.
  known = [value for each in gains for value in (each.value, each.beside, *(
      (each.low, each.high) if "n = 2" not in each.label else ()))
           if value is not None]
  at.set_xlim(min(known) - 1, max(known) + 1)
  return canvas.save(drawn, file)


def _dot(label: str, values: Sequence[float]) -> dots.Dot:
  told = statistics.summary(values)
  return dots.Dot(label, told.mean, told.low, told.high)
