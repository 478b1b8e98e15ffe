"""Numbers of several runs as people read them, for the verdicts of studies."""

from collections.abc import Sequence

from kd_jax import statistics


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
