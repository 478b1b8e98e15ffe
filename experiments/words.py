"""Numbers of several runs as people read them, for the verdicts of studies."""

from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

from kd_jax.report import Row, clustered, names, statistics

T = TypeVar("T")
# What `spread` tells, for the caption of a table.
SPREAD = (
    "Mean ± half the 95% interval. (12) is over 12 students; (12/3) over 3 "
    "teachers or parts of the data, as students that share one are alike, with 12 "
    "students in all; (12/1) over 12 students of the one teacher, and says nothing "
    "of others.")
# How, where each cell is judged by itself.
APART = ("Each is Student's t of its students, or of the means of its teachers or "
         "parts.")


def interval(values: Sequence[float], form: str = ".1f") -> str:
  """Mean ± half its 95% t-interval, and n.

  Example:
    >>> interval([1.0, 2.0, 3.0])
    '2.0 ± 2.5 (3)'
  """
  if not len(values):
    return ""
  told = statistics.summary(values)
  half = "" if told.high is None else f" ± {told.high - told.mean:{form}}"
  return f"{told.mean:{form}}{half} ({told.n})"


def single(values: Sequence[float]) -> tuple[float, float] | None:
  """Where one more run lies with 95%: mean ± t s sqrt(1 + 1/n).

  Example:
    >>> [round(x, 2) for x in single([1, 2, 3])]  # 4.303 sqrt(4 / 3)
    [-2.97, 6.97]
  """
  told = statistics.summary(values)
  if told.high is None:
    return None
  half = (told.high - told.mean) * (told.n + 1) ** 0.5
  return told.mean - half, told.mean + half


def shared(row: Row) -> tuple[Any, Any] | None:
  """What makes students alike: their teacher, and the part of the data they see."""
  teacher = names.teacher(row)
  part = row.get("overrides", {}).get("transfer.seed")
  return None if teacher is None and part is None else (teacher, part)


def origins(rows: Sequence[Row]) -> dict[str, str]:
  """Of each net of a table that learned, the first teacher of its chain.

  Args:
    rows: All nets of the table, as those between are teachers themselves.

  Returns:
    Fingerprints, of the first by those of the nets.

  Example:
    >>> kd = {"method": "kd", "overrides": {}}
    >>> origins([kd | {"fingerprint": "b", "teacher_fingerprint": "a"},
    ...          kd | {"fingerprint": "c", "teacher_fingerprint": "b"}])
    {'b': 'a', 'c': 'a'}
  """
  above = {row["fingerprint"]: names.teacher(row) for row in rows
           if row.get("fingerprint")}

  def first(net: str) -> str:
    teacher = above.get(net)
    return net if teacher is None else first(teacher)

  return {net: first(net) for net, teacher in above.items() if teacher}


def grouped(rows: Sequence[Row], values: Sequence[T]) -> dict[Any, list[T]]:
  """Values of rows by what the rows share; those that share nothing, apart."""
  groups: dict[Any, list[T]] = {}
  for number, (row, value) in enumerate(zip(rows, values, strict=True)):
    key = shared(row)
    groups.setdefault(number if key is None else key, []).append(value)
  return groups


def summary(rows: Sequence[Row], values: Sequence[float]) -> clustered.Nested:
  """Mean and interval at the level that the rows are a sample of (`SPREAD`)."""
  groups = grouped(rows, values)
  if len(groups) > 1:
    return clustered.nested(groups)
  told = statistics.summary(values)
  return clustered.Nested(told.mean, told.low, told.high, None, told.sd, 1, told.n)


def of_cell(cells: clustered.Cells, cell: Hashable, form: str = ".1f") -> str:
  """Mean ± half its interval of a cell of a table, and of how many (`SPREAD`)."""
  return _spread(cells.mean(cell), form)


def modelled(cells: clustered.Cells, of: str = "the table") -> str:
  """How intervals over teachers were made, for the caption of a table."""
  if cells.model is None:
    return APART if cells.several else ""
  return (f"Intervals over teachers are those of one mixed model of {of} "
          "(kd_jax/report/mixed.py: teachers and teachers by cells random, REML, "
          "Satterthwaite's degrees of freedom by the observed information, and at "
          "least the quantile of Cochran & Cox) with the standard deviations: "
          f"{cells.model.described()}.")


def spread(
    rows: Sequence[Row], values: Sequence[float], form: str = ".1f"
) -> str:
  """Mean ± half its interval, of values one a row, and of how many (`SPREAD`).

  Example:
    >>> rows = [{"overrides": {}, "teacher_fingerprint": t} for t in "aabb"]
    >>> spread(rows, [1.0, 3.0, 4.0, 6.0])
    '3.5 ± 19.1 (4/2)'
  """
  if not len(rows):
    return ""
  return _spread(summary(rows, values), form)


def _spread(told: clustered.Nested, form: str) -> str:
  half = "" if told.high is None else f" ± {told.high - told.mean:{form}}"
  of = f"/{told.groups}" if told.groups < told.n else ""
  return f"{told.mean:{form}}{half} ({told.n}{of})"


def difference(test: statistics.Paired, form: str = "+.1f") -> str:
  """A paired difference and its 95% interval."""
  if test.low is None or test.high is None:
    return f"{test.difference:{form}}"
  return f"{test.difference:{form}} [{test.low:{form}}, {test.high:{form}}]"


def p_value(p: float | None) -> str:
  """A p-value with two digits, or that it is tiny."""
  if p is None:
    return ""
  return "< 0.001" if p < 0.001 else f"{p:.2g}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A markdown table; the first column is text, the others are numbers."""
  lines = ["| " + " | ".join(columns) + " |",
           "|---|" + "--:|" * (len(columns) - 1)]
  lines += ["| " + " | ".join(row) + " |" for row in rows]
  return "\n".join(lines) + "\n"
