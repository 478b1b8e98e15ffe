"""What the rows say: the paper's Tables 2 to 4, and what was tested.

What is tested is fixed here: of each problem, by split, the RMSE of the net on the
most examples of MUNGE minus that of the net on labels, of the ensemble, and of the
net on as many examples of NBE and RANDOM as these have at most; Holm's correction
over all of them.
"""

from collections.abc import Sequence
import pathlib

from experiments import claims, sources, words
from experiments.bucila06 import plan
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, statistics

_BETTER = {claims.HOLDS: "MUNGE", claims.FAILS: "the other",
           claims.OPEN: "not shown"}
_AGAINST = ("labels", "ensemble", "nbe", "random")


def conclude(rows: Rows) -> str:
  """Tables 2 to 4, the curves as a table, and the tests."""
  problems = _problems(rows)
  if not problems:
    return "No problem has all its rows yet.\n"
  return "\n".join([_table_2(rows, problems), _costs(rows, problems),
                    _tested(rows, problems), _curves(rows, problems),
                    _hidden(rows, problems)])


def status(rows: Rows) -> str:
  """RMSE of labels, compressed and ensemble, in a phrase."""
  told = [f"{problem} " + ", ".join(
      f"{name} {words.interval(_rmse(_main(rows, problem, arm)), '.4f')}"
      for arm, name in (("labels", "labels"), ("munge", "compressed"),
                        ("ensemble", "ensemble")))
          for problem in _problems(rows)]
  return "RMSE " + "; ".join(told) if told else "no problem yet"


def pictures(rows: Rows, folder: pathlib.Path) -> None:
  """RMSE against pseudo examples, and against units: Figures 2 and 3."""
  if problems := _problems(rows):
    _draw(rows, problems, folder / "curves.png")


def _problems(rows: Rows) -> list[str]:
  there = dict.fromkeys(
      row["overrides"]["problem"] for row in rows.get("table", ()))
  return [problem for problem in there
          if all(_main(rows, problem, arm) for arm in plan.ARMS)]


def _of(rows: Rows, problem: str, arm: str) -> list[Row]:
  """The rows of an arm that count, by split."""
  wanted = {"problem": problem, "arm": arm, "stage": "table"}
  found = (row for row in rows.get("table", ()) if row["failed"] is None and all(
      row["overrides"][key] == value for key, value in wanted.items()))
  return sorted(found, key=lambda row: row["seed"])


def _at(rows: Rows, problem: str, arm: str, size: int, hidden: int) -> list[Row]:
  return [row for row in _of(rows, problem, arm) if (
      row["overrides"]["size"], row["overrides"]["hidden"]) == (size, hidden)]


def _main(rows: Rows, problem: str, arm: str, size: int | None = None) -> list[Row]:
  """The rows of most units and, without a `size`, of most pseudo examples."""
  found = _of(rows, problem, arm)
  most = lambda key: max((row["overrides"][key] for row in found), default=0)
  return _at(rows, problem, arm, most("size") if size is None else size,
             most("hidden"))


def _rmse(rows: Sequence[Row]) -> list[float]:
  return [row["test_rmse"] for row in rows]


def kept(rows: Rows, problem: str) -> list[float]:
  """By split, the share of the ensemble's gain over labels that the net keeps.

  (RMSE of labels - RMSE of MUNGE) / (RMSE of labels - RMSE of the ensemble).
  """
  own = (_rmse(_main(rows, problem, arm))
         for arm in ("labels", "munge", "ensemble"))
  return [(labels - munge) / (labels - ensemble)
          for labels, munge, ensemble in zip(*own) if labels != ensemble]


def _table_2(rows: Rows, problems: Sequence[str]) -> str:
  arms = ("munge", "ensemble", "labels", "single")
  lines = []
  for problem in problems:
    paper = plan.PAPER.get(problem)
    cells = [words.interval(_rmse(_main(rows, problem, arm)), ".4f")
             for arm in arms]
    cells.append(words.interval(kept(rows, problem), ".2f"))
    lines.append([_label(rows, problem, arms), *(
        f"{cell} [{of:.3f}]" if paper else cell
        for cell, of in zip(cells, paper or cells))])
  return "\n".join([
      "**Table 2**: RMSE on the test set, sqrt(mean (p - y)**2) with p the "
      "probability of class 1 and y its label, 0 or 1. Mean ± half the 95% "
      "t-interval over splits (n); the paper's in brackets, of one split and other "
      "models. The ratio is the share of the ensemble's gain over labels that the "
      "net keeps, a mean of those of the splits.\n",
      words.table(["problem", "net, MUNGE", "ensemble", "net, labels",
                   "best single model", "ratio"], lines)])


def _label(rows: Rows, problem: str, arms: Sequence[str]) -> str:
  return sources.linked(
      problem, [row for arm in arms for row in _main(rows, problem, arm)])


def _costs(rows: Rows, problems: Sequence[str]) -> str:
  arms = ("munge", "ensemble", "labels", "single")
  lines = []
  for problem in problems:
    mean = lambda arm, key, problem=problem: statistics.summary(
        [row[key] for row in _main(rows, problem, arm)]).mean
    lines.append([_label(rows, problem, arms),
                  *(f"{mean(arm, 'seconds_10k'):.3g}" for arm in arms),
                  *(f"{mean(arm, 'bytes') / 1e6:.3g}" for arm in arms)])
  return "\n".join([
      "**Tables 3 and 4**: seconds of a processor for 10,000 examples (the paper's "
      "means 5.62, 5396, 2.17 and 93.4), and MB (0.33, 550, 0.09 and 1.41). Models "
      "are as large as Python stores them, a net has 4 bytes a parameter.\n",
      words.table(["problem", *(
          f"{plan.ARMS[arm]}, {unit}" for unit in ("s", "MB") for arm in arms)],
                  lines)])


def _tested(rows: Rows, problems: Sequence[str]) -> str:
  tests = {}
  for problem in problems:
    for other in _AGAINST:
      theirs = _main(rows, problem, other)
      size = theirs[0]["overrides"]["size"] if other in plan.GENERATORS else None
      own = {row["seed"]: row["test_rmse"]
             for row in _main(rows, problem, "munge", size)}
      test = statistics.paired_by_seed(
          own, {row["seed"]: row["test_rmse"] for row in theirs})
      if test:
        tests[problem, other] = test
  label = lambda name: (f"{_label(rows, name[0], ('munge', name[1]))}: MUNGE minus "
                        f"{plan.ARMS[name[1]]}")
  return "\n".join([
      "**Differences** of RMSE by split, and their 95% t-intervals; p corrected "
      f"(Holm) for these {len(tests)}. NBE and RANDOM: as many examples each.\n",
      claims.Family(tests).table(label, "+.4f", "better", _BETTER)])


def _curves(rows: Rows, problems: Sequence[str]) -> str:
  """Figure 2 as a table."""
  lines, columns = [], _sizes(rows)
  for problem in problems:
    for arm in plan.GENERATORS:
      lines.append([f"{_label(rows, problem, [arm])}, {plan.ARMS[arm]}", *(
          words.interval(_rmse(_main(rows, problem, arm, size)), ".4f")
          for size in columns)])
    lines.append([f"{_label(rows, problem, ['soft'])}, none", words.interval(
        _rmse(_main(rows, problem, "soft")), ".4f"), *[""] * (len(columns) - 1)])
  return "\n".join([
      "**Figure 2**: RMSE against the number of pseudo examples.\n",
      words.table(["", *(f"{size:,}" for size in columns)], lines)])


def _hidden(rows: Rows, problems: Sequence[str]) -> str:
  """Figure 3 as a table."""
  units = sorted({row["overrides"]["hidden"] for row in rows["table"]} - {0})
  lines = []
  for problem in problems:
    for arm in ("munge", "labels"):
      size = _main(rows, problem, arm)[0]["overrides"]["size"]
      lines.append([f"{_label(rows, problem, [arm])}, {plan.ARMS[arm]}", *(
          words.interval(_rmse(_at(rows, problem, arm, size, each)), ".4f")
          for each in units)])
  return "\n".join([
      "**Figure 3**: RMSE against hidden units.\n",
      words.table(["", *map(str, units)], lines)])


def _sizes(rows: Rows) -> list[int]:
  return sorted({row["overrides"]["size"] for row in rows["table"]
                 if row["overrides"]["stage"] == "table"} - {0})


@canvas.styled
def _draw(rows: Rows, problems: Sequence[str], file: pathlib.Path) -> bool:
  drawn, axes = canvas.figure(2, len(problems), (3.2 * len(problems), 5.2))
  of = lambda part: statistics.summary(_rmse(part))
  for column, problem in enumerate(problems):
    above, below = axes[0][column], axes[1][column]
    for number, arm in enumerate(plan.GENERATORS):
      canvas.means(above, {
          size / 1000: of(part) for size in _sizes(rows)
          if (part := _main(rows, problem, arm, size))}, number, plan.ARMS[arm])
    for number, arm in enumerate(("munge", "labels")):
      size = _main(rows, problem, arm)[0]["overrides"]["size"]
      units = sorted({row["overrides"]["hidden"] for row in _of(rows, problem, arm)
                      if row["overrides"]["size"] == size})
      canvas.means(below, {
          each: of(_at(rows, problem, arm, size, each)) for each in units},
                   3 * number, plan.ARMS[arm])
    for panel in (above, below):
      canvas.level(panel, of(_main(rows, problem, "ensemble")), label="ensemble")
      canvas.log_axis(panel, "x")
    canvas.level(above, of(_main(rows, problem, "labels")),
                 label="net, labels, 256 units", dash=1)
    above.set(title=problem, xlabel="thousands of pseudo examples")
    below.set(xlabel="hidden units")
  for row in axes:
    row[0].set(ylabel="RMSE, 95% interval")
  known = {label: handle for panel in (axes[0][0], axes[1][0]) for handle, label
           in zip(*panel.get_legend_handles_labels())}
  drawn.legend(known.values(), known, loc="outside upper center",
               ncols=min(3, len(problems)))
  return canvas.save(drawn, file)
