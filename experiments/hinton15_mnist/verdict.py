"""What the rows of `hinton15_mnist` say, beside the paper."""

from collections.abc import Mapping, Sequence
import pathlib

from experiments import words
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, clustered, statistics

# Errors of 10,000 in the paper.
PAPER = {"teacher": 67, "small": 146, "distilled, T = 20": 74}
_TARGETS = {"teacher": (0, 67), "small": (130, 160), "distilled, T = 20": (0, 74)}
_MAIN, _SMALL = "distilled, T = 20", "small"

Named = Mapping[str, Sequence[Row]]


def told(rows: Rows, named: Named) -> str:
  """The verdict, and every row of each length with what is sure of it."""
  parts = [_verdict(rows, named)]
  for length, group in _by_length(named).items():
    if any(group.values()):
      parts.append(f"**Students trained for {length}.**\n\n" + _table(rows, group))
  parts.append("**Teachers.**\n\n" + words.table(
      ["teacher", "paper", "errors of 10,000", "NLL", "ECE"],
      _of_teachers(rows, named)))
  return "\n".join(parts) + (
      f"\n{words.SPREAD} Share of the teacher's gain: (small - row) / (small - "
      "teacher) for each teacher, of means over students. Differences are paired "
      "by seed and hold given these teachers; p is corrected within a table.\n")


def _by_length(named: Named) -> dict[str, dict[str, Sequence[Row]]]:
  """The rows by how long they were trained, without the length in their names."""
  groups: dict[str, dict[str, Sequence[Row]]] = {}
  for name, done in named.items():
    short, _, length = name.rpartition(", ")
    groups.setdefault(length, {})[short] = done
  return groups


def _table(rows: Rows, group: Named, anew: Named | None = None) -> str:
  """Every row: errors, what of the teacher's gain it has, and how sure we are.

  `anew` has the teachers of rows that were not taught by those of the table.
  """
  taught = lambda name: _teachers((anew or {}).get(name) or rows["teachers"])
  lines = [_line(name, done, group[_SMALL], taught(name))
           for name, done in group.items() if done]
  tests = _tests(group)
  adjusted = statistics.holm({name: test.p for name, test in tests.items()
                              if test.p is not None})
  for line in lines:
    test = tests.get(line[0])
    line += ([words.difference(test), words.p_value(adjusted.get(line[0]))]
             if test else ["", ""])
  return words.table(
      ["row", "paper", "errors of 10,000", "share of the teacher's gain",
       "agreement %", "NLL", "ECE", f"minus {_MAIN}", "p (Holm)"], lines)


def phrase(rows: Rows, named: Named, best: Sequence[Row] = ()) -> str:
  """The paper's numbers as they came out here."""
  found = [f"{name.split(',')[0]} {_errors(done)}"
           for name, done in _headline(rows, named).items() if done]
  return ", ".join(found + [f"best found {_errors(best)}"] * bool(best))


def searched(
    rows: Rows, named: Named, tried: Mapping[str, Sequence[int]], best: Named
) -> str:
  """What was tried on held-out data to come to the paper's number, what it gave."""
  listed = words.table(
      ["change of the distilled row", "held-out errors of 6,000", "each"],
      [[name, f"{statistics.summary(errors).mean:.1f}",
        ", ".join(map(str, errors))] for name, errors in tried.items()])
  if not any(best.values()):
    return "**Tried on held-out data.**\n\n" + listed
  longest, *_ = _by_length(named).values()
  group = {_SMALL: longest[_SMALL], _MAIN: longest[_MAIN], **best}
  aim = _TARGETS[_MAIN][1]
  mean = _summary(next(iter(best.values()))).mean
  verdict = "is reached" if mean <= aim else f"is missed by {mean - aim:.1f}"
  # Where the table was made elsewhere its teachers are trained anew: of the same
  # fingerprint, as they are configured alike, but other nets.
  own = [row for stage, done in rows.items()
         if stage.startswith("best_") and stage.endswith("_teachers")
         for row in done]
  anew = {name: own for name in best}
  return (f"**Tried on held-out data, two seeds each.**\n\n{listed}\n"
          f"**The best of them, on all data: the aim of at most {aim} errors "
          f"{verdict}.**\n\n{_table(rows, group, anew)}"
          f"\nThe teachers of the last two make {_errors_of(own)} errors.\n")


@canvas.styled
def draw(rows: Rows, named: Named, file: pathlib.Path) -> bool:
  """Every row's errors with their interval, and the paper's beside."""
  groups = {name: done for name, done in {
      "teacher": _papers(rows, named), **named}.items() if done}
  drawn, axes = canvas.figure(1, 1, (6.4, 0.9 + 0.22 * len(groups)))
  for place, (name, done) in enumerate(groups.items()):
    told, at = _summary(done), axes[0, 0]
    half = None if told.high is None else told.high - told.mean
    at.errorbar([told.mean], [place], xerr=half, color=canvas.COLOURS[0],
                marker="o", markersize=4, capsize=2,
                label="ours, mean and 95% interval" if not place else None)
    if (short := name.rpartition(", ")[0] or name) in PAPER:
      at.plot([PAPER[short]], [place], color=canvas.COLOURS[1], marker="D",
              linestyle="none", label="paper" if not place else None)
  at.set_yticks(range(len(groups)), list(groups))
  at.set(xlabel="test errors of 10,000", ylim=(len(groups) - 0.4, -0.6))
  at.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  return canvas.save(drawn, file)


def _headline(rows: Rows, named: Named) -> dict[str, Sequence[Row]]:
  """The paper's three rows, students as long as they were trained."""
  longest, *_ = _by_length(named).values()
  return {"teacher": _papers(rows, named),
          **{name: longest[name] for name in (_SMALL, _MAIN)}}


def _verdict(rows: Rows, named: Named) -> str:
  lines = ["| | paper | aim | ours | verdict |", "|---|--:|--:|--:|---|"]
  for name, done in _headline(rows, named).items():
    low, high = _TARGETS[name]
    aim = f"{low} to {high}" if low else f"at most {high}"
    mean = _summary(done).mean if done else float("nan")
    met = "met" if low <= mean <= high else "missed"
    lines.append(f"| {name} | {PAPER[name]} | {aim} | {_errors(done)} | "
                 f"{met if done else ''} |")
  return "\n".join(lines) + "\n"


def _line(
    name: str, done: Sequence[Row], small: Sequence[Row], taught
) -> list[str]:
  mean = lambda key: statistics.summary([row[key] for row in done]).mean
  shares = [] if done is small else _shares(done, small, taught)
  return [name, str(PAPER.get(name, "")), _errors(done),
          words.interval(shares, ".2f"), f"{100 * mean('agreement'):.2f}",
          f"{mean('test_nll'):.4f}", f"{mean('test_ece'):.4f}"]


def _summary(done: Sequence[Row]) -> clustered.Nested:
  return words.summary(done, [row["test_errors"] for row in done])


def _errors(done: Sequence[Row]) -> str:
  return words.spread(done, [row["test_errors"] for row in done])


def _shares(done, small, taught) -> list[float]:
  """(small - row) / (small - teacher) for each teacher, of means over students.

  Left out where the teacher's errors may be those of one more small net: a share
  of nothing is any number.
  """
  by_teacher: dict[str, list[int]] = {}
  for row in done:
    if row["overrides"].get("alpha") != 0:
      by_teacher.setdefault(row["teacher_fingerprint"], []).append(
          row["test_errors"])
  alone = [row["test_errors"] for row in small]
  if not (alone and (place := words.single(alone))):
    return []
  mean = lambda errors: statistics.summary(errors).mean
  share = lambda errors, name: (
      (mean(alone) - mean(errors)) / (mean(alone) - taught[name]))
  return [share(errors, name) for name, errors in by_teacher.items()
          if name in taught and taught[name] < place[0]]


def _tests(named: Named) -> dict[str, statistics.Paired]:
  """Each row minus the paper's, of the seeds that both have, given the teachers."""
  main = {row["seed"]: row for row in named[_MAIN]}
  tests = {}
  for name, done in named.items():
    both = [row for row in done if row["seed"] in main]
    if name != _MAIN and len(both) > 1:
      tests[name] = clustered.given(words.grouped(
          [main[row["seed"]] for row in both],
          [row["test_errors"] - main[row["seed"]]["test_errors"] for row in both]))
  return tests


def _teachers(done: Sequence[Row]) -> dict[str, int]:
  return {row["fingerprint"]: row["test_errors"] for row in done
          if row["net"] == "teacher"}


def _errors_of(nets: Sequence[Row]) -> str:
  return words.interval([row["test_errors"] for row in nets])


def _papers(rows: Rows, named: Named) -> list[Row]:
  """The teachers of the paper's row."""
  used = {row["teacher_fingerprint"] for name, done in named.items()
          if name.startswith(_MAIN) for row in done}
  return [row for row in rows["teachers"]
          if row["net"] == "teacher" and row["fingerprint"] in used]


def _of_teachers(rows: Rows, named: Named) -> list[list[str]]:
  """The teachers themselves: the paper's, and ensembles of others."""
  own = _papers(rows, named)
  groups = {"teacher": own} if own else {}
  for row in rows["teachers"]:
    if row["net"] == "teacher" and "members" in row:
      groups[f"ensemble of {len(row['members'])}"] = [row]
  members = [row for row in rows["teachers"] if row["net"] == "member"]
  if members:
    groups["a member of these"] = members
  mean = lambda done, key: statistics.summary([row[key] for row in done]).mean
  return [[name, str(PAPER.get(name, "")),
           _errors_of(done),
           f"{mean(done, 'test_nll'):.4f}", f"{mean(done, 'test_ece'):.4f}"]
          for name, done in groups.items()]
