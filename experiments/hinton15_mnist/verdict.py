"""What the rows of `hinton15_mnist` say, beside the paper."""

from collections.abc import Mapping, Sequence
import itertools
import math
import pathlib

from experiments import claims, sources, words
from experiments.protocol import Rows
from kd_jax.report import Row, canvas, clustered, dots, names, statistics

# Errors of 10,000 in the paper, of a single run each.
PAPER = {"teacher": 67, "small": 146, "distilled, T = 20": 74}
_MAIN, _SMALL = "distilled, T = 20", "small"
# Differences that were looked at after the runs, of cells by name and length.
_LATER = (("self-distillation, 10 epochs", "small, 10 epochs"),
          ("label smoothing, entropy of T = 1, 10 epochs",
           "distilled, T = 1, 10 epochs"),
          ("small, 40 epochs", "small, 10 epochs"))
# Cells of which none is told from another, and for how long they were trained.
_ALIKE = (*(f"distilled, T = {t}, 10 epochs" for t in (4, 8, 20, 50)),
          "logit matching, 10 epochs")

Named = Mapping[str, Sequence[Row]]


def told(rows: Rows, named: Named) -> str:
  """The verdict, and every row of each length with what is sure of it."""
  cells = _cells(named)
  parts = [_verdict(rows, named, cells)]
  for length, group in _by_length(named).items():
    if any(group.values()):
      parts.append(f"**Students trained for {length}.**\n\n"
                   + _table(rows, group, cells, f", {length}", _longest(named)))
  parts += later(cells, named)
  parts.append("**Teachers.**\n\n" + words.table(
      ["teacher", "paper", "errors of 10,000", "NLL", "ECE"],
      _of_teachers(rows, named)))
  return "\n".join(parts) + (
      f"\n{words.SPREAD} {words.modelled(cells)} "
      "Its cells are all rows of `results.jsonl`, those without a teacher and "
      "of a single one too, and those of the best rows, whose teachers are "
      "other nets. The teachers' own and shares are t-intervals over teachers. "
      "Share of the teacher's gain: (small - row) / (small - teacher) for each "
      "teacher, of means over its students; small is the mean of all its runs, "
      "of 40 epochs beside the best rows. Differences are from distilled, T = "
      "20 of the same table, beside the best rows from that of 40 epochs, and "
      "over teachers too; those of the ensembles' rows, of one ensemble each, "
      "are paired by seed and hold given these teachers, with the variance of "
      "the differences within each of the distilled row's (9 degrees of "
      "freedom). p is corrected within a table. The paper's number is of one "
      "run, of a length that it does not give, and stands beside the longest of "
      "ours: it is looked for where one more run of ours lies with 95%, mean ± t "
      "s sqrt(1 + 1 / n), of all n runs whoever taught them.\n")


def later(cells: clustered.Cells, named: Named) -> list[str]:
  """Differences of no table, which were looked at after the runs."""
  lines = [f"- {one} minus {other}{_difference(cells, one, other)}"
           for one, other in _LATER
           if named.get(one) and named.get(other)]
  alike = [name for name in _ALIKE if named.get(name)]
  tests = [test for one, other in itertools.combinations(alike, 2)
           if (test := cells.difference(one, other)) and test.low is not None]
  if tests:
    least, most = (f"{pick(ends):+.1f}" for pick, ends in (
        (min, [test.low for test in tests]), (max, [test.high for test in tests])))
    lines.append(f"- T = 4, 8, 20 and 50 and logit matching, 10 epochs, each minus "
                 f"each other: all {len(tests)} intervals are within "
                 f"[{least}, {most}].")
  return ["**Looked at after the runs**: differences in errors by the same model, "
          "p not corrected.\n\n" + "\n".join(lines) + "\n"] if lines else []


def _difference(cells: clustered.Cells, one: str, other: str) -> str:
  test = cells.difference(one, other)
  return "" if test is None else (
      f": {words.difference(test)}, p {words.p_value(test.p)}.")


def _by_length(named: Named) -> dict[str, dict[str, Sequence[Row]]]:
  """The rows by how long they were trained, without the length in their names."""
  groups: dict[str, dict[str, Sequence[Row]]] = {}
  for name, done in named.items():
    short, _, length = name.rpartition(", ")
    groups.setdefault(length, {})[short] = done
  return groups


def _cells(named: Named) -> clustered.Cells:
  """The rows of a table by cell, and what taught them: nets, not configs."""
  own = lambda row: names.teacher(row) and (
      names.teacher(row), str(row.get("teacher_sha256")))
  return clustered.Cells({
      name: [clustered.Run(own(row), row.get("seed"), row["test_errors"])
             for row in done] for name, done in named.items()})


def _table(
    rows: Rows, group: Named, cells: clustered.Cells, ending: str,
    longest: str, hidden: Sequence[str] = (), teachers: Sequence[Row] = (),
) -> str:
  """Every row: errors, what of the teacher's gain it has, and how sure we are.

  Args:
    rows: Of the study.
    group: Those of the table, by name.
    cells: The same and others, by name and `ending`.
    ending: What is added to a name.
    longest: The same of the rows that the paper's numbers stand beside.
    hidden: Names of rows that are shown elsewhere.
    teachers: Of the rows shown, if not those of the table.
  """
  taught = _teachers(teachers or rows["teachers"])
  shown = {name: done for name, done in group.items()
           if done and name not in hidden}
  lines = [_line(name, done, group[_SMALL], taught, _errors(cells, name + ending))
           for name, done in shown.items()]
  if ending != longest:  # The paper gives no length.
    lines = [[label, "", *more] for label, _, *more in lines]
  tests = {name: test for name in shown if name != _MAIN and group[_MAIN] and (
      test := cells.difference(name + ending, _MAIN + ending))}
  family = claims.Family(tests)
  for name, line in zip(shown, lines, strict=True):
    line += family.line(name)
  return words.table(
      ["row", "paper", "errors of 10,000", "share of the teacher's gain",
       "agreement %", "NLL", "ECE", f"minus {_MAIN}", "p (Holm)"], lines)


def phrase(rows: Rows, named: Named, best: Named) -> str:
  """The paper's numbers as they came out here, and the best that was found."""
  cells = _cells(named)
  found = [f"{name.split(',')[0]} " + (
      _errors_of(done) if name == "teacher" else
      _errors(cells, f"{name}{_longest(named)}"))
           for name, done in _headline(rows, named).items() if done]
  both = {name: done for name, done in best.items() if done}
  more = _with(named, both)
  return ", ".join([*found, *(f"{name} {_errors(more, name)}" for name in both)])


def searched(
    rows: Rows, named: Named, tried: Named, best: Named
) -> str:
  """What was tried on held-out data to come to the paper's number, what it gave."""
  listed = words.table(
      ["change of the distilled row", "held-out errors of 6,000", "each"],
      [[sources.linked(name, done), f"{statistics.summary(errors).mean:.1f}",
        ", ".join(map(str, errors))] for name, done in tried.items()
       for errors in [[row["heldout_errors"] for row in done]]])
  if not any(best.values()):
    return "**Tried on held-out data.**\n\n" + listed
  ending = _longest(named)
  group = {name: named[name + ending] for name in (_SMALL, _MAIN)} | dict(best)
  cells = _with(named, {name + ending: done for name, done in best.items()})
  first = next(iter(best.values()))
  place = claims.single(PAPER[_MAIN], [row["test_errors"] for row in first])
  verdict = "" if place is None else (
      f", where one more run of ours lies in {place.interval}: {place.verdict}")
  # Where the table was made elsewhere its teachers are trained anew: of the same
  # fingerprint, as they are configured alike, but other nets.
  own = [row for stage, done in rows.items()
         if stage.startswith("best_") and stage.endswith("_teachers")
         for row in done]
  return (f"**Tried on held-out data, two seeds each.**\n\n{listed}\n"
          f"**The best of them, on all data: the paper's single run makes "
          f"{PAPER[_MAIN]} errors{verdict}.**\n\n"
          + _table(rows, group, cells, ending, ending, (_SMALL, _MAIN), own)
          + _closing(named, cells, [name for name, done in best.items() if done])
          + f"\nTheir teachers make {_errors_of(own)} errors. "
          f"{words.modelled(cells, 'these rows and those of the table')}\n")


def _closing(named: Named, cells: clustered.Cells, best: Sequence[str]) -> str:
  """What soft targets and other images are worth beside each other."""
  ending, shifted = _longest(named), f"distilled, images shifted{_longest(named)}"
  others = {name: name + ending for name in best[1:]} | (
      {shifted: shifted} if named.get(shifted) else {})
  lines = [f"- {best[0]} minus {name}{_difference(cells, best[0] + ending, cell)}"
           for name, cell in others.items()]
  return ("\nLooked at after the runs, p not corrected:\n\n" + "\n".join(lines)
          + "\n") if lines else ""


def _with(named: Named, more: Named) -> clustered.Cells:
  """The cells of the table and others, which have teachers of their own."""
  return _cells({**named, **more})


@canvas.styled
def draw(rows: Rows, named: Named, best: Named, file: pathlib.Path) -> bool:
  """Every row's errors with their interval, and the paper's beside."""
  groups = {name: done for name, done in {
      "teacher": _papers(rows, named), **named, **best}.items() if done}
  cells = _cells(groups)
  dot = lambda label, name: dots.Dot(
      label, *cells.mean(name)[:3], beside=PAPER.get(label))
  found = {"": [dot(name, name) for name in groups if name == "teacher"]} | {
      f"students of {length}": [
          dot(name, f"{name}, {length}") for name, done in group.items() if done]
      for length, group in _by_length(named).items()} | {
          "the best that was found": [dot(name, name) for name in best]}
  return canvas.save(dots.alone(
      {title: each for title, each in found.items() if each},
      "test errors of 10,000, 95% interval\norange: the paper's single run",
      shared=True), file)


def _headline(rows: Rows, named: Named) -> dict[str, Sequence[Row]]:
  """The paper's three rows, students as long as they were trained."""
  return {"teacher": _papers(rows, named),
          **{name: named[name + _longest(named)] for name in (_SMALL, _MAIN)}}


def _longest(named: Named) -> str:
  """What names of the rows that were trained for longest end on."""
  return ", " + next(iter(_by_length(named)))


def headline(rows: Rows, named: Named, best: Named, said: str) -> str:
  """The verdict, with a line for the best that was found and one for its control.

  Args:
    rows: Of the study.
    named: Those of the table, by name.
    best: The rows of the best that was found, then those of its control.
    said: What the best is, for who reads this table alone.
  """
  (first, distilled), *controls = best.items()
  cells = _with(named, best)
  place = claims.single(PAPER[_MAIN], [row["test_errors"] for row in distilled])
  return _verdict(rows, named, _cells(named), [
      [sources.linked(f"{first}: {said}", distilled), str(PAPER[_MAIN]),
       _errors(cells, first),
       *((place.interval, place.verdict) if place else ("", ""))],
      *([sources.linked(name, done), "", _errors(cells, name), "", ""]
        for name, done in controls)])


def _verdict(
    rows: Rows, named: Named, cells: clustered.Cells,
    more: Sequence[Sequence[str]] = (),
) -> str:
  lines: list[Sequence[str]] = []
  for name, done in _headline(rows, named).items():
    place = claims.single(PAPER[name], [row["test_errors"] for row in done])
    ours = "" if not done else (
        _errors_of(done) if name == "teacher" else
        _errors(cells, name + _longest(named)))
    lines.append([sources.linked(name, done), str(PAPER[name]), ours, *(
        (place.interval, place.verdict) if place else ("", ""))])
  return words.table(["", "paper, one run", "ours", "one more run of ours, 95%",
                      "paper's number"], [*lines, *more])


def _line(
    name: str, done: Sequence[Row], small: Sequence[Row], taught, errors: str
) -> list[str]:
  # As in table.md, to the last bit: some means lie halfway between two digits.
  mean = lambda key: math.fsum(row[key] for row in done) / len(done)
  shares = [] if done is small else _shares(done, small, taught)
  return [sources.linked(name, done), str(PAPER.get(name, "")), errors,
          words.interval(shares, ".2f"), f"{100 * mean('agreement'):.2f}",
          f"{mean('test_nll'):.4f}", f"{mean('test_ece'):.4f}"]


def _errors(cells: clustered.Cells, name: str) -> str:
  return words.of_cell(cells, name)


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
  return [[sources.linked(name, done), str(PAPER.get(name, "")),
           _errors_of(done),
           f"{mean(done, 'test_nll'):.4f}", f"{mean(done, 'test_ece'):.4f}"]
          for name, done in groups.items()]
