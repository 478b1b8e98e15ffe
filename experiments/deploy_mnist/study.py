"""Which road from a large net makes the best small file, on MNIST?

Files of LiteRT by their bytes and microseconds: of small nets that learn from
labels or are distilled, float, with weights of 8 and of 4 bits, trained for these
or not; and of the teacher itself, pruned, by units or by weights, or of low rank.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import pathlib
from typing import Any

from experiments import claims, sources, words
from experiments.deploy_mnist import plan
from experiments.protocol import Options, Place, Rows, Stage
from kd_jax.report import Row, canvas, statistics

CLAIM = ("no paper's: a distilled small net is the usual road to a small file; "
         "pruned, quantised or low-rank teachers are its rivals (Han et al. 2015, "
         "Li et al. 2017, Jacob et al. 2018)")
DATA = "MNIST"
UNIT = "errors of 10,000, bytes"
# Rows do not name their teacher: each seed has its own.
OWN_TEACHERS = True
# Its runs are made within a task.
COMMAND = ""
# Sizes at which the roads are compared, in kB as stored and compressed; the largest
# file of each road that fits is taken, whatever its errors are.
BUDGETS = (30, 60, 120, 250)
_SMALL = ("labels", "distilled", "few_bits")
_SIZES = {"bytes": "as stored", "bytes_compressed": "compressed by zlib"}


def stages(options: Options, form: plan.Form = plan.MNIST) -> list[Stage]:
  """One stage: each seed is a task."""
  if options.quick:
    form = plan.QUICK[form.name]
  if options.seeds:
    form = form._replace(seeds=options.seeds)
  return [Stage("table", run=functools.partial(_table, form))]


def _table(form: plan.Form, rows: Rows, place: Place) -> None:
  from experiments.deploy_mnist import work  # jax, which a plan does not need
  work.run(form, place)


# ---- What the rows say.

# A road, its size on it, and the form of the file.
File = tuple[str, float, str]


def by_file(rows: Rows) -> dict[File, list[Row]]:
  """The rows of each file, those that the last run asked for."""
  found: dict[File, list[Row]] = {}
  for row in rows.get("table", ()):
    own = row["overrides"]
    found.setdefault((own["road"], own["size"], own["form"]), []).append(row)
  return found


def _mean(rows: Sequence[Row], key: str) -> float:
  return statistics.summary([row[key] for row in rows]).mean


def bits(form: str) -> str:
  """The bits of weights in a form of file, in words."""
  return {"none": "float", "dynamic4": "4 bits"}.get(form, "8 bits")


def largest(
    files: Mapping[File, Sequence[Row]], road: str, of: str, key: str, budget: float
) -> File | None:
  """The largest file of a road, of weights of such bits, within a budget in kB."""
  fitting = {file: _mean(own, key) for file, own in files.items()
             if file[0] == road and bits(file[2]) == of
             and _mean(own, key) <= 1000 * budget}
  return max(fitting, key=lambda file: fitting[file], default=None)


def compared(
    rows: Rows, key: str
) -> dict[tuple[float, str, str], tuple[File, statistics.Paired | None]]:
  """By budget, bits and road: the file, and its errors minus the distilled net's.

  Both have weights of the same bits, so that the roads are compared and not these.
  """
  files = by_file(rows)
  errors = lambda file: {row["seed"]: row["test_errors"] for row in files[file]}
  found = {}
  for budget, of in itertools.product(BUDGETS, ("float", "8 bits", "4 bits")):
    reference = largest(files, "distilled", of, key, budget)
    for road in plan.ROADS:
      if (file := largest(files, road, of, key, budget)) is None:
        continue
      test = statistics.paired_by_seed(errors(file), errors(reference)) if (
          reference and file != reference) else None
      found[budget, of, road] = file, test
  return found


def conclude(rows: Rows) -> str:
  """All files; then the largest of each road within a budget."""
  files = by_file(rows)
  if not files:
    return "No rows yet.\n"
  lines = [words.table(
      ("file", "weights", "errors", "kB", "compressed", "µs"),
      [_line(file, own) for file, own in sorted(files.items(), key=_place)]),
           "kB: the file as stored, and compressed. µs: the median time of single "
           "inputs on one core, mean over seeds.\n"]
  for key, how in _SIZES.items():
    lines.append(f"Of each road the largest file within a budget, {how}: errors, "
                 "and their difference from the distilled net's with weights of as "
                 "many bits, paired by seed, with Holm's correction over this "
                 "table, a comparison that stands in it twice counted once.\n")
    lines.append(_budgets(rows, key))
  return "\n".join([*lines, _any_bits(rows)])


def _place(item: tuple[File, list[Row]]) -> tuple[int, float, int]:
  (road, size, form), _ = item
  return [*plan.ROADS].index(road), size, plan.FORMS.index(form)


def _line(file: File, rows: Sequence[Row]) -> list[str]:
  road, size, form = file
  kept = dict.fromkeys(("pruned", "gradual"), "% kept")
  unit = {**kept, "low_rank": " ranks"}.get(road, "")
  median = statistics.summary([row["latency_us"][0] for row in rows]).mean
  return [sources.linked(f"{plan.ROADS[road]}, {size:g}{unit}", rows), bits(form),
          words.spread(rows, [row["test_errors"] for row in rows]),
          f"{_mean(rows, 'bytes') / 1e3:.0f}",
          f"{_mean(rows, 'bytes_compressed') / 1e3:.0f}", f"{median:.1f}"]


def _budgets(rows: Rows, key: str) -> str:
  files, found = by_file(rows), compared(rows, key)
  # Of several budgets the same files may be the largest: one comparison.
  family = claims.Family({test: test for _, test in found.values() if test})
  lines = []
  for (budget, of, road), (file, test) in found.items():
    own = files[file]
    lines.append([
        sources.linked(f"{budget} kB, {of}: {plan.ROADS[road]}", own),
        f"{file[1]:g}", words.spread(own, [row["test_errors"] for row in own]),
        *family.line(test)])
  return words.table(
      ("budget, bits and road", "size", "errors", "difference", "p (Holm)"), lines)


def _any_bits(rows: Rows) -> str:
  """Beside each other, whatever their bits, small nets and what teachers become."""
  files, lines = by_file(rows), []
  errors = lambda file: {row["seed"]: row["test_errors"] for row in files[file]}
  for (key, how), budget in itertools.product(_SIZES.items(), BUDGETS):
    small, made = [], []
    for (within, *_), (file, _) in compared(rows, key).items():
      if within == budget:
        (small if file[0] in _SMALL else made).append(file)
    if not small or not made:
      continue
    best = [min(each, key=lambda file: _mean(files[file], "test_errors"))
            for each in (made, small)]
    if (test := statistics.paired_by_seed(*map(errors, best))) is not None:
      one, two = (f"{plan.ROADS[road]}, {size:g}, {bits(form)}"
                  for road, size, form in best)
      lines.append([
          sources.linked(f"{budget} kB {how}: {one}", files[best[0]]),
          sources.linked(two, files[best[1]]), words.difference(test),
          words.p_value(test.p)])
  return (
      "Of weights of any bits, by the same rule, the file made of a teacher that "
      "has the fewest errors minus the small net's that has the fewest. Both are "
      "picked by these test errors, after the runs, and p is not corrected.\n\n"
      + words.table(("file of a teacher", "small net", "difference", "p"), lines))


def status(rows: Rows) -> str:
  """Which road has the fewest errors within each budget as stored."""
  files = by_file(rows)
  parts = []
  for budget in BUDGETS:
    means = {file: _mean(files[file], "test_errors")
             for (within, *_), (file, _) in compared(rows, "bytes").items()
             if within == budget}
    if means:
      best = min(means, key=lambda file: means[file])
      errors = [row["test_errors"] for row in files[best]]
      parts.append(f"{budget} kB: {plan.ROADS[best[0]]} ({bits(best[2])}) "
                   f"{words.spread(files[best], errors, '.0f')}")
  return ("fewest errors, picked by these test errors, within " + "; ".join(parts)
          if parts else "no rows yet")


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """Errors against bytes, compressed bytes and microseconds."""
  if by_file(rows):
    _draw(rows, folder / "roads.png")


@canvas.styled
def _draw(rows: Rows, file: pathlib.Path) -> bool:
  """A row a cost, a column of weights of so many bits; a line a road."""
  costs: dict[str, Callable[[Row], float]] = {
      "kB as stored": lambda row: row["bytes"] / 1e3,
      "kB compressed": lambda row: row["bytes_compressed"] / 1e3,
      "µs on one core, one input,\nmedian": lambda row: row["latency_us"][0]}
  lines: dict[tuple[str, str], list[list[Row]]] = {}
  for (road, _, form), own in sorted(by_file(rows).items(), key=_place):
    lines.setdefault((road, bits(form)), []).append(own)
  columns = [*dict.fromkeys(of for _, of in lines)]
  drawn, axes = canvas.figure(
      len(costs), len(columns), (7.0, 9.0), sharex="row", sharey=True)
  known: dict[str, Any] = {}
  for row, (title, cost) in zip(axes, costs.items()):
    for (road, of), points in lines.items():
      means = [(statistics.summary([*map(cost, own)]).mean, statistics.summary(
          [each["test_errors"] for each in own])) for own in points]
      known[plan.ROADS[road]] = row[columns.index(of)].errorbar(
          [x for x, _ in means], [mean.mean for _, mean in means],
          yerr=[(mean.high or mean.mean) - mean.mean for _, mean in means],
          capsize=2, markersize=5, linewidth=0.8, markerfacecolor="none",
          **canvas.style([*plan.ROADS].index(road)))
    for at in row:
      at.set(xlabel=f"{title} (log scale)")
      canvas.log_axis(at, "x")
    row[0].set(ylabel="test errors, log scale")
  for at in axes.flat:  # All have one axis of errors.
    canvas.log_axis(at, "y")
  for at, of in zip(axes[0], columns):
    at.set(title=of)
  drawn.legend([*known.values()], [*known], loc="outside upper left", ncols=2)
  return canvas.save(drawn, file)
