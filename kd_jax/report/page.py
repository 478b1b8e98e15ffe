"""`report.html`: one file that needs no network, for a browser.

All that comes from rows passes `html.escape`, and a policy in the page forbids
it to load anything.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
import functools
import gzip
import html
import io
import itertools
import json
import operator
import pathlib
import string
from typing import Any

from kd_jax.core.words import counted
from kd_jax.report import names, plots, tables
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import MOST, Point, Sweep
from kd_jax.runs import exports

# The text of a cell, or this and what sorts it.
Cell = str | tuple[str, str | int]
_HERE = pathlib.Path(__file__).parent
# What stands above the table; all other pictures stand below it.
_FIRST = ("errors", "heat", "differences")
# What stands beside the name of a point.
_OUTCOMES = ("test errors", "± over", "difference", "p", "p (Holm)")
# What is left out where it is alike in all points.
_IDLE = ("n", "failed", "± over", "seconds")
# What titles of columns mean.
_TERMS = {
    "NLL": "mean negative log-likelihood of the right class, in nats.",
    "ECE": "expected calibration error, the mean gap between confidence and "
           "accuracy over bins of confidence.",
    "agreement": "the share of test examples that the student and its teacher give "
                 "the same class; of an exported file, it and its net.",
    "seconds": "the time of a run, as its row has it; of runs that were trained "
               "together, that of all of them divided by their number."}


def page(
    sweep: Sweep,
    pictures: Mapping[str, plots.Picture],
    sides: Mapping[str, Any],
) -> str:
  """The page of a sweep.

  Args:
    sweep: Its points.
    pictures: Its pictures by their names.
    sides: The contents of `config`, `manifest` and `summary`, None where there is
      no such file; the rows of `exports`; whether there is a `conclusion`.
  """
  first = {name: pictures[name] for name in _FIRST if name in pictures}
  rest = {name: pictures[name] for name in pictures if name not in first}
  parts = [_head(sweep, sides), _pictures("Test errors", first), _table(sweep),
           _pictures("More pictures", rest), _exports(sides.get("exports")),
           _setup(sweep, sides), _runs(sweep)]
  text = lambda name: (_HERE / name).read_text(encoding="utf-8")
  return string.Template(text("page.html")).substitute(
      title=html.escape(f"{sweep.study or 'study'}: report"),
      css=text("page.css"), js=text("page.js"), body="\n".join(filter(None, parts)))


def _head(sweep: Sweep, sides: Mapping[str, Any]) -> str:
  rows = sweep.rows
  failed = sum(point.failed for point in sweep.points)
  each = {point.n for point in sweep.points}
  counts = (f"{counted(len(sweep.points), 'point')}, {counted(len(rows), 'run')}"
            + (f"; n = {each.pop()} in all points" if len(each) == 1 else "")
            + (f"; {failed:,} failed" if failed else ""))
  lines = [f"<h1>{html.escape(sweep.study or 'Report')}</h1>",
           f'<p class="soft">{counts}</p>']
  if sides.get("conclusion"):
    lines.append('<p>What this study measures and concludes: '
                 '<a href="conclusion.md">conclusion.md</a>.</p>')
  lines += [_loss(rows), *(
      f'<p class="warn">{html.escape(note)}</p>' for note in sweep.notes)]
  if not sweep.drawn:
    lines.append(
        f'<p class="warn">No picture shows more than {MOST} points, so those of '
        "errors, the heat map, differences, learning and reliability are left out; "
        "table.csv has all points to draw them from.</p>")
  return "\n".join(lines)


def _loss(rows: Sequence[Row]) -> str:
  """The losses of the runs, with what alpha is."""
  losses = sorted({str(row.get("loss", "")) for row in rows} - {""})
  parts = []
  if any("T**2 * KL" in loss for loss in losses):
    parts.append(
        "<p>KD's loss: <code>(1 - alpha) * CE + alpha * T**2 * KL</code>. "
        "<strong>alpha is the share of the soft term</strong>; CE is that of hard "
        "labels at T = 1, KL that from the teacher's soft targets at T.</p>")
  if losses:
    items = "".join(f"<li><code>{html.escape(loss)}</code></li>"
                    for loss in losses[:MOST])
    if len(losses) > MOST:
      items += f"<li>and {len(losses) - MOST:,} more</li>"
    title = (f"The {len(losses):,} losses" if len(losses) > 1 else "The loss")
    parts.append(f"<details><summary>{title} of these runs</summary>"
                 f"<ul>{items}</ul></details>")
  return "\n".join(parts)


def _pictures(title: str, pictures: Mapping[str, plots.Picture]) -> str:
  """Pictures beside each other where there is room."""
  figures = "\n".join(
      '<figure><div class="scroll chart" tabindex="0" role="region" '
      f'aria-label="Picture: {name}">{picture.svg}</div>'
      f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
      for name, picture in pictures.items())
  return (f'<section><h2>{title}</h2>\n<div class="figures">{figures}</div>'
          "</section>" if figures else "")


def _table(sweep: Sweep) -> str:
  """The table of points, and its captions."""
  columns, left = _columns(sweep), {"± over", *tables.text_columns(sweep)}
  style = lambda title: ("" if title in left else "number") + (
      " runs" if title == "test errors" else "")
  place = itertools.count()
  parts = (list(zip(
      ["reference" if point.is_reference else "" for point in points],
      [(sweep.name(point), next(place)) for point in points],
      *(_cells(column, points) for column in columns)))
           for points in _parts(sweep.points))
  short = names.short(sweep.keys)
  usual = ", ".join(f"{short[key]} {value}" for key, value in sweep.usual.items()
                    if value != names.MISSING)
  captions = [
      *([f"Where a point says no other: {usual}."] if usual else []),
      *(text for text in tables.captions(sweep) if text not in sweep.notes),
      *(f"{title}: {text}" for title, text in _TERMS.items()
        if any(column.title.startswith(title) for column in columns))]
  return (
      '<section id="table-part"><h2 id="points">Points</h2>\n'
      '<p class="soft screen">A click on a header sorts'
      + ("; one on test errors shows their runs" if "errors" in sweep.has else "")
      + ".</p>\n"
      + _sortable("table", "points", [("point", "name"), *(
          (column.title, style(column.title)) for column in columns)], parts,
          len(sweep.points))
      + '<ul class="captions">'
      + "".join(f"<li>{html.escape(text)}</li>" for text in captions)
      + "</ul></section>")


def _columns(sweep: Sweep) -> list[tables.Column]:
  """The columns that say something, first what came out."""
  found = tables.columns(sweep)
  settings = [
      column._replace(text=functools.partial(sweep.value, key))
      for key, column in zip(sweep.keys, found) if key not in sweep.usual]
  alike = lambda column: len(sweep.points) > 1 and all(
      column.text(point) == column.text(sweep.points[0]) for point in sweep.points)
  others = [column for column in found[len(sweep.keys):] if not (
      (column.title in _IDLE and alike(column))
      or (column.title == "test errors" and "errors" not in sweep.has))]
  first = [column for column in others if column.title in _OUTCOMES]
  return [*first, *settings, *(each for each in others if each not in first)]


def _parts(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
  """So many at once as a page of a table shows: texts of all would fill memory."""
  return (points[at:at + MOST] for at in range(0, len(points), MOST))


def _cells(column: tables.Column, points: Sequence[Point]) -> list[Cell]:
  """Cells of a column: their text, and where it is no number, what sorts them."""
  found: list[Cell] = []
  for point in points:
    text, number = column.text(point), column.number(point)
    key = text
    if text.endswith("]"):
      text = text.replace(", ", ",\u00a0")  # An interval stays in a line.
    if number is not None and not text.replace(".", "", 1).isdecimal():
      key = number if isinstance(number, str) else f"{number:.10g}"
    elif text == names.MISSING:
      key = ""
    found.append(text if key == text else (text, key))
  return found


def _sortable(
    name: str, what: str, heads: Sequence[tuple[str, str]],
    parts: Iterator[Sequence[tuple[Cell, ...]]], number: int
) -> str:
  """A table that sorts, in pages where it is long.

  Args:
    name: Its id.
    what: What its rows are.
    heads: Title and class of each column.
    parts: Class and cells of each row, in parts of several; the first cell is a
      point's name and its place.
    number: How many rows there are.
  """
  first = next(parts)
  kind = lambda style: f' class="{style}"' if style else ""
  head = "".join(
      f'<th scope="col"{kind(style)}><button type="button">{html.escape(title)}'
      "</button></th>" for title, style in heads)
  lines = []
  for style, *cells in first[:MOST]:
    pairs = [(cell, None) if isinstance(cell, str) else cell for cell in cells]
    shown = "".join(
        f"<td{kind(column)}"
        + (f' data-value="{html.escape(str(key))}"' if key is not None else "")
        + f">{html.escape(text)}</td>"
        for (text, key), (_, column) in zip(pairs, heads))
    lines.append(f"<tr{kind(str(style))}>{shown}</tr>")
  return (
      '<div class="scroll" tabindex="0" role="region" aria-label="Table of '
      f'{what}"><table id="{name}"><thead><tr>{head}</tr></thead>\n<tbody>'
      + "\n".join(lines) + "</tbody></table></div>\n"
      + _pager(name, what, itertools.chain([first], parts), number))


def _pager(
    name: str, what: str, parts: Iterator[Sequence[tuple[Cell, ...]]], number: int
) -> str:
  """All rows of a long table, packed, and the buttons that page through them."""
  if number <= MOST:
    return ""
  with gzip.GzipFile(fileobj=(out := io.BytesIO()), mode="wb", compresslevel=6,
                     mtime=0) as file:
    between = "["
    for part in parts:
      text = json.dumps(_packed(part, name == "runs-table"), separators=(",", ":"))
      file.write((between + text[1:-1]).encode())
      between = ","
    file.write(b"]")
  packed = base64.b64encode(out.getvalue()).decode()
  last = -(-number // MOST)
  return (
      f'<nav class="pages" data-of="{name}" aria-label="Pages of {what}">'
      '<button type="button" hidden>Previous</button> '
      f'<span>The first {MOST} of {number:,} {what}</span> '
      f'<label hidden>page <input type="number" min="1" max="{last}" value="1"> of '
      f'{last:,}</label> <button type="button" hidden>Next</button>'
      f'<script type="text/plain">{packed}</script></nav>\n')


def _packed(part: Sequence[tuple[Any, ...]], by_point: bool) -> list[Any]:
  """Rows of points with their names; those of runs in a list for each point."""
  if not by_point:
    return [(style, name, *cells) for style, (name, _), *cells in part]
  return [[(style, *cells) for style, _, *cells in group]
          for _, group in itertools.groupby(part, operator.itemgetter(1))]


def _exports(rows: Sequence[dict[str, Any]] | None) -> str:
  """The table of files that nets were exported to."""
  if not rows:
    return ""
  heads = [(title, "" if place < 3 else "number")
           for place, title in enumerate(exports.COLUMNS)]
  parts = iter([[("", *exports.cells(row)) for row in rows]])
  return ("<h2>Exports</h2>\n<p>Each file was run in its own runtime on the test "
          "set; agreement is with the net in jax, time and memory are of one core."
          f"</p>\n{_sortable('exports', 'exports', heads, parts, len(rows))}")


def _pairs(pairs: Iterable[tuple[str, str]], label: str) -> str:
  lines = "".join(
      f"<tr><td><code>{html.escape(key)}</code></td>"
      f"<td><code>{html.escape(value)}</code></td></tr>" for key, value in pairs)
  return (f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
          f'<table class="pairs"><tbody>{lines}</tbody></table></div>')


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
  """Nested dicts as dotted keys, sorted, with their values as JSON."""
  if isinstance(value, dict) and value:
    return [pair for key in sorted(value)
            for pair in _flat(value[key], f"{prefix}.{key}" if prefix else key)]
  shown = value if isinstance(value, str) else json.dumps(
      value, ensure_ascii=False, sort_keys=True)
  return [(prefix, shown)]


def _setup(sweep: Sweep, sides: Mapping[str, Any]) -> str:
  """What all points share, and the files beside the rows."""
  parts = ["<h2>Setup</h2>", _provenance(sweep.rows)]
  if sweep.common:
    common = [(key, names.shown(sweep.common[key]))
              for key in names.columns(sweep.common)]
    parts.append("<details open><summary>Alike in all points</summary>"
                 f"{_pairs(common, 'Alike in all points')}</details>")
  for name in ("summary", "config", "manifest"):
    if sides.get(name) is not None:
      parts.append(
          f"<details><summary>{name.capitalize()}</summary>"
          f"{_pairs(_flat(sides[name]), name)}</details>")
  return "\n".join(parts)


def _provenance(rows: Sequence[Row]) -> str:
  """Commits and machines of the rows; says where a tree had changes."""
  commits = sorted({
      str(row["commit"])[:12] + (" with changes" if row.get("dirty") else "")
      for row in rows if row.get("commit")})
  machines = sorted({
      ", ".join((
          row["device"], *([row["processor"]] if row.get("processor") else []),
          *([counted(row["cores"], "core")] if row.get("cores") else [])))
      for row in rows if row.get("device")})
  words = []
  if commits:
    words.append(f"Commit {names.some(commits)}.")
  if machines:
    words.append(f"Ran on {names.some(machines, '; ')}.")
  return f"<p>{html.escape(' '.join(words))}</p>" if words else ""


def _runs(sweep: Sweep) -> str:
  """Every run with its command."""
  rows, several = sweep.rows, len(sweep.teachers) > 1
  columns = {
      "seed": ("number", lambda row: row.get("seed")),
      **({"teacher": ("code", lambda row: (names.teacher(row) or "")[:8])}
         if several else {}),
      "test errors": ("number", lambda row: (
          row.get("test_errors") if row.get("failed") is None
          else f"failed: {row['failed']}")),
      "fingerprint": ("code", lambda row: row.get("fingerprint", "")[:10]),
      "command": ("code wrap", lambda row: row.get("command"))}
  columns = {title: (style, cell) for title, (style, cell) in columns.items()
             if any(cell(row) not in (None, "") for row in rows)}
  texts = lambda row: ("" if (value := cell(row)) is None else str(value)
                       for _, cell in columns.values())
  order = lambda row: (names.teacher(row) or "", row.get("seed") or 0)
  place = itertools.count()
  parts: Iterator[Any] = (
      [("", name, *texts(row)) for point in points
       for name in [(sweep.name(point), next(place))]
       for row in sorted(point.runs, key=order)] for points in _parts(sweep.points))
  heads = [("point", "name"), *(
      (title, style) for title, (style, _) in columns.items())]
  return ('<h2 id="runs">Runs</h2>\n<details><summary>'
          f"{'The run' if len(rows) == 1 else f'The {len(rows):,} runs'}"
          f"{', with the command of each' * ('command' in columns)}</summary>"
          '<p class="soft" id="chosen" hidden>Those of <strong></strong> alone. '
          '<button type="button">Show all runs</button></p>'
          f"{_sortable('runs-table', 'runs', heads, parts, len(rows))}</details>")
