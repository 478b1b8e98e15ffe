"""Points as markdown, CSV and LaTeX: byte for byte alike from the same rows."""

from collections.abc import Callable
import csv
import functools
import io
import itertools
import operator
import pathlib
import re
from typing import Any, NamedTuple

from kd_jax.core import files
from kd_jax.report import names
from kd_jax.report.sweep import MOST, Point, Sweep

Cell = Callable[[Point], Any]


class Column(NamedTuple):
  """A column: its title, a cell's text, and the number to sort it by."""

  title: str
  text: Callable[[Point], str]
  number: Cell


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
  """A number with a true minus; empty where there is none.

  Example:
    >>> number(-1.25, 1, sign=True), number(2, 1, sign=True), number(None, 1)
    ('−1.2', '+2.0', '')
  """
  if value is None:
    return ""
  text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
  if text[0] in "+-":
    text = text.replace("-", "−") if float(text) else text[1:]
  return text


def with_half(mean: float | None, half: float | None) -> str:
  """A mean ± half its interval; the mean alone where there is no interval."""
  if mean is None:
    return ""
  return number(mean, 1) + (f" ± {number(half, 1)}" if half is not None else "")


def probability(p: float | None) -> str:
  """A p-value as people read it.

  Example:
    >>> probability(0.0004), probability(0.04)
    ('< 0.001', '0.040')
  """
  if p is None:
    return ""
  return "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(point: Point) -> str:
  """The difference from the reference, with its interval."""
  if point.is_reference:
    return "reference"
  return with_interval(
      point.difference, point.difference_low, point.difference_high)


def with_interval(
    value: float | None, low: float | None, high: float | None
) -> str:
  """A difference and its interval, as far as there are any."""
  shown = number(value, 1, sign=True)
  if low is None:
    return shown
  return f"{shown} [{number(low, 1, sign=True)}, {number(high, 1, sign=True)}]"


def columns(sweep: Sweep) -> list[Column]:
  """The columns that the rows of a sweep have something for."""
  short = names.short(sweep.keys)
  found = [Column(short[key], _setting(key), _setting_number(key))
           for key in sweep.keys]
  get = operator.attrgetter
  plain = lambda title, name, digits, factor=1.0: Column(
      title, lambda point: number(_times(getattr(point, name), factor), digits),
      get(name))
  found += [
      plain("n", "n", 0), plain("failed", "failed", 0),
      Column("test errors", lambda p: with_half(p.errors, p.half),
             get("errors"))]
  if sweep.nested:
    found.append(Column("± over", lambda p: p.over or "", lambda p: None))
  more = {
      "sd": plain("sd", "sd", 1),
      "between_sd": plain("sd between teachers", "between_sd", 1),
      "within_sd": plain("sd within", "within_sd", 1),
      "binomial": plain("binomial", "binomial", 1),
      "difference": Column("difference", difference, get("difference")),
      "p": Column("p", lambda p: probability(p.p), get("p")),
      "p_holm": Column("p (Holm)", lambda p: probability(p.p_holm), get("p_holm")),
      "heldout": plain("held-out errors", "heldout", 1),
      "heldout_best": Column("held-out, best epoch", _best, get("heldout_best")),
      "nll": plain("NLL", "nll", 4), "ece": plain("ECE", "ece", 4),
      "agreement": plain("agreement %", "agreement", 2, 100.0),
      "seconds": plain("seconds", "seconds", 1)}
  return found + [column for name, column in more.items() if name in sweep.has]


def _times(value: float | None, factor: float) -> float | None:
  return None if value is None else value * factor


def _setting(key: str) -> Callable[[Point], str]:
  return lambda point: (
      names.shown(point.values[key]) if key in point.values else names.MISSING)


def _setting_number(key: str) -> Cell:
  """What a setting sorts by: a number, or a list as text of padded numbers."""
  def cell(point: Point) -> Any:
    value = point.values.get(key)
    if isinstance(value, (list, tuple)):
      return " ".join(f"{one:06g}" if isinstance(one, (int, float)) else str(one)
                      for one in value)
    return value if isinstance(value, (int, float)) else None
  return cell


def _best(point: Point) -> str:
  if point.heldout_best is None:
    return ""
  return f"{number(point.heldout_best, 1)} (epoch {point.best_epoch})"


@functools.lru_cache(1)
def captions(sweep: Sweep) -> list[str]:
  """Sentences without which the numbers of a sweep cannot be read."""
  lines = []
  if sweep.common:
    keys = names.columns(sweep.common)
    lines.append(f"In all points: {names.label(sweep.common, keys)}.")
  if "alpha" in {*sweep.common, *sweep.keys}:
    lines.append("alpha is the share of the soft term.")
  if any(key not in p.values for p in sweep.points for key in sweep.keys):
    lines.append(f"{names.MISSING} is not set for these runs: it is what their "
                 "config file says, where their method uses it.")
  lines.append(_plus_minus(sweep))
  examples = sorted({p.examples for p in sweep.points if p.examples})
  if examples:
    lines.append(
        f"Test errors are of {_either(examples)}. The test set is held fixed: "
        "what another of its size would add, binomial = sqrt(n p (1 - p)), is "
        "not in ±.")
  return lines + _heldout(sweep) + _differences(sweep) + list(sweep.notes)


def _cut(sweep: Sweep) -> list[str]:
  """Says so where there are more points than a table for reading shows."""
  number = len(sweep.points)
  if number <= MOST:
    return []
  return [f"The first {MOST} of {number:,} points: table.csv and report.html have "
          "all of them."]


def _either(numbers: list[int]) -> str:
  return " or ".join(f"{number:,}" for number in numbers)


def _plus_minus(sweep: Sweep) -> str:
  """What n and ± are."""
  counted = "n runs a point, one a seed"
  if any(point.failed for point in sweep.points):
    counted += "; failed runs are counted and are in no mean"
  if sweep.nested:
    return f"{counted}. ± is half the 95% interval of the mean. {_over(sweep)}"
  given = ""
  if len(sweep.teachers) > 1:
    given = ", given the one teacher of each point"
  elif sweep.teachers:
    given = f", given this teacher ({sweep.teachers[0][:8]})"
  return (f"{counted}. ± is half the 95% t-interval of the mean over seeds"
          f"{given}; sd is that of one seed.")


def _over(sweep: Sweep) -> str:
  """What the intervals of a sweep with several teachers are over, and how made."""
  if sweep.model is None:
    made = ("As teachers or runs vary unlike in the points (Bartlett's test, "
            "p < 0.01) each is judged by itself, by the t-interval over its "
            "teachers' means")
  else:
    made = ("It is that of one mixed model of the table (kd_jax/report/mixed.py: "
            "teachers and teachers by cells random, REML, Satterthwaite's degrees "
            "of freedom, and at least the quantile of Cochran & Cox) with the "
            f"standard deviations: {sweep.model}")
  each = [point.teachers for point in sweep.points if point.teachers > 1]
  number = " to ".join(map(str, sorted({min(each), max(each)})))
  return ("Over teachers: it covers others of their kind, of which a point has "
          f"{number}. {made}. Over runs: Student's t of these runs, "
          "which have no teacher, or hold given their one teacher. The sd between "
          "teachers is that of their means; sd within is of runs of one teacher.")


def _heldout(sweep: Sweep) -> list[str]:
  sizes = sorted({p.heldout_examples for p in sweep.points if p.heldout_examples})
  if not sizes:
    return []
  trained = sorted({row["train_examples"] for row in sweep.rows
                    if row.get("train_examples")})
  rest = f" on {_either(trained)} others" if trained else " without them"
  lines = (f"Held-out errors are of {_either(sizes)} training examples, of runs "
          f"trained{rest}, after the last epoch.")
  if any(p.heldout_best is not None for p in sweep.points):
    lines += (" The best epoch has the fewest mean held-out errors and was chosen "
             "by them: a held-out figure, never test.")
  return [lines]


def _differences(sweep: Sweep) -> list[str]:
  if sweep.reference is None:
    return []
  wanted = ", ".join(
      f"{key} {names.shown(value)}" for key, value in sweep.reference.items())
  families: dict[str, int] = {}
  for point in sweep.points:
    if point.reference is not None:
      families[point.reference] = families.get(point.reference, 0) + 1
  lines = names.some(
      [f"{n} against {name}" for name, n in families.items()], "; ")
  return [
      f"Difference: test errors minus those of the reference ({wanted}) with the "
      f"same other settings, {_paired(sweep)}, with its 95% t-interval; p is "
      "two-sided. p (Holm) is corrected within a family, all points that share "
      f"a reference: {lines or 'none'}."]


def _paired(sweep: Sweep) -> str:
  over = {point.difference_over for point in sweep.points}
  if "teachers" not in over:
    return "paired by seed"
  if sweep.model is None:
    return "paired by teacher, seeds averaged"
  return "over teachers, by the same model" + (
      ", or, of points without or with a single teacher, paired by seed and given "
      "the teachers" if "runs" in over else "")


def markdown(sweep: Sweep, linked: names.Linked | None = None) -> str:
  """A markdown table, and its captions under it.

  Args:
    sweep: What is shown.
    linked: Makes of the first cell of a line a link to the rows of its point.
  """
  shown, texts = columns(sweep), text_columns(sweep)
  lines = [[as_markdown(column.title) for column in shown],
           ["--:" if column.title not in texts else "---"
            for column in shown]]
  for point in sweep.points[:MOST]:
    first, *others = (as_markdown(column.text(point)) for column in shown)
    lines.append([linked(first, point.runs) if linked else first, *others])
  body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
  below = "\n".join(map(as_markdown, _cut(sweep) + captions(sweep)))
  # A table lies beside its rows.
  return (f"{body}\n\n{below}\nRows, each with its command: "
          "[results.jsonl](results.jsonl).\n")


@functools.lru_cache(1)
def text_columns(sweep: Sweep) -> set[str]:
  """Titles of columns of text."""
  short = names.short(sweep.keys)
  return {short[key] for key in sweep.keys if any(
      isinstance(point.values.get(key), str) for point in sweep.points)}


def as_markdown(text: str) -> str:
  """Text that markdown shows as it is, on one line."""
  text = " ".join(text.split()).replace("&", "&amp;")
  text = re.sub(r"([\\`*|~]|(?<=\])\()", r"\\\1", text)
  return re.sub(r"<(?! )", "&lt;", text)


_FIELDS = (
    "n", "failed", "teachers", "errors", "low", "high", "over", "sd", "between_sd",
    "within_sd", "binomial", "examples", "difference", "difference_low",
    "difference_high", "difference_over", "p", "p_holm", "pairs", "is_reference",
    "reference",
    "heldout", "heldout_best", "best_epoch", "heldout_examples", "nll", "ece",
    "agreement", "seconds")
# Where a name of the record says too little without the others.
_PLAIN = {
    "errors": "test_errors", "low": "test_errors_low",
    "high": "test_errors_high", "sd": "test_errors_sd",
    "examples": "test_examples", "heldout": "heldout_errors",
    "heldout_best": "heldout_errors_best_epoch", "nll": "test_nll",
    "ece": "test_ece"}


def comma_separated(sweep: Sweep) -> str:
  """A CSV file of ten digits a number, the full names of keys as column names."""
  writer = csv.writer(out := io.StringIO(), lineterminator="\n")
  writer.writerow([*sweep.keys, *(_PLAIN.get(name, name) for name in _FIELDS)])
  # By columns, most of which are empty in a sweep of one kind.
  setting = lambda key, point: (
      names.shown(point.values[key]) if key in point.values else "")
  settings = [map(functools.partial(setting, key), sweep.points)
              for key in sweep.keys]
  numbers = [map(_exact, map(operator.attrgetter(name), sweep.points))
             if name in sweep.has else itertools.repeat("") for name in _FIELDS]
  writer.writerows(zip(*settings, *numbers) if sweep.points else ())
  return out.getvalue()


def _exact(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, bool):
    return str(value).lower()
  # More digits than runs can tell; the last bits are those of scipy's version.
  return f"{value:.10g}" if isinstance(value, float) else str(value)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%",
    "$": r"\$", "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "±": r"$\pm$", "−": "$-$", "α": r"$\alpha$"}


def escape_latex(text: str) -> str:
  r"""Text that LaTeX prints as it is.

  Example:
    >>> escape_latex("50% of a_b")
    '50\\% of a\\_b'
  """
  return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def latex(sweep: Sweep) -> str:
  """A LaTeX table of the package booktabs."""
  shown, texts = columns(sweep), text_columns(sweep)
  line = lambda cells: " & ".join(map(escape_latex, cells)) + r" \\"
  align = "".join(
      "l" if column.title in texts else "r" for column in shown)
  caption = " ".join(map(escape_latex, _cut(sweep) + captions(sweep)))
  lines = [
      r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering",
      r"\small", rf"\begin{{tabular}}{{{align}}}", r"\toprule",
      line(column.title for column in shown), r"\midrule",
      *(line(column.text(point) for column in shown)
        for point in sweep.points[:MOST]),
      r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}",
      r"\end{table}"]
  return "\n".join(lines) + "\n"


def write(
    sweep: Sweep, folder: pathlib.Path, linked: names.Linked | None = None
) -> list[pathlib.Path]:
  """Writes `table.md`, `table.csv` and `table.tex`; returns their paths."""
  texts = {"table.md": markdown(sweep, linked), "table.csv": comma_separated(sweep),
           "table.tex": latex(sweep)}
  for name, text in texts.items():
    files.write(folder / name, text)
  return [folder / name for name in texts]
