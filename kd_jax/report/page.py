"""`report.html`: one file that needs no network, for a browser.

All that comes from rows passes `html.escape`, and a policy in the page forbids
it to load anything.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
import gzip
import html
import io
import itertools
import json
import pathlib
import string
from typing import Any

from kd_jax.core.words import counted
from kd_jax.report import names, plots, tables
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import MOST, Point, Sweep
from kd_jax.runs import exports

# The text of a cell, or this and what sorts it.
Cell = str | tuple[str, str]
_HERE = pathlib.Path(__file__).parent
# What stands above the table; all other pictures stand below it.
_FIRST = ("errors", "heat", "differences")


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
      no such file; and the rows of `exports`.
  """
  first = {name: pictures[name] for name in _FIRST if name in pictures}
  rest = {name: pictures[name] for name in pictures if name not in first}
  parts = [_head(sweep), _pictures("Test errors", first), _table(sweep),
           _pictures("More pictures", rest), _exports(sides.get("exports")),
           _setup(sweep, sides), _runs(sweep)]
  text = lambda name: (_HERE / name).read_text(encoding="utf-8")
  return string.Template(text("page.html")).substitute(
      title=html.escape(f"{sweep.study or 'study'}: report"),
      css=text("page.css"), js=text("page.js"), body="\n".join(filter(None, parts)))


def _head(sweep: Sweep) -> str:
  rows = sweep.rows
  failed = sum(point.failed for point in sweep.points)
  counts = (f"{counted(len(sweep.points), 'point')}, {counted(len(rows), 'run')}"
            + (f", {failed:,} failed" if failed else ""))
  lines = [f"<h1>{html.escape(sweep.study or 'Report')}</h1>",
           f'<p class="soft">{counts}</p>', _loss(rows)]
  lines += [f'<p class="warn">{html.escape(note)}</p>' for note in sweep.notes]
  if not sweep.drawn:
    lines.append(
        f'<p class="warn">No picture shows more than {MOST} points, so those of '
        "errors, the heat map, differences, learning and reliability are left out; "
        "table.csv has all points to draw them from.</p>")
  return "\n".join(lines)


def _loss(rows: Sequence[Row]) -> str:
  """The losses of the runs, with what alpha is."""
  losses = sorted({str(row.get("loss", "")) for row in rows} - {""})
  weighted = any("T**2 * KL" in loss for loss in losses)
  parts = []
  if weighted:
    parts.append(
        "<p>Loss: <code>(1 - alpha) * CE + alpha * T**2 * KL</code>. "
        "<strong>alpha is the share of the soft term</strong>; CE is that of hard "
        "labels at T = 1, KL that from the teacher's soft targets at T.</p>")
  if losses:
    items = "".join(f"<li><code>{html.escape(loss)}</code></li>"
                    for loss in losses[:MOST])
    if len(losses) > MOST:
      items += f"<li>and {len(losses) - MOST:,} more</li>"
    parts.append("<details><summary>The losses of these runs, as they ran: "
                 f"{len(losses):,}</summary><ul>{items}</ul></details>")
  return "\n".join(parts)


def _pictures(title: str, pictures: Mapping[str, plots.Picture]) -> str:
  """Pictures beside each other where there is room."""
  figures = "\n".join(
      '<figure><div class="scroll chart" tabindex="0" role="region" '
      f'aria-label="Picture: {name}">{picture.svg}</div>'
      f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
      for name, picture in pictures.items())
  return (f'<h2>{title}</h2>\n<div class="figures">{figures}</div>'
          if figures else "")


def _table(sweep: Sweep) -> str:
  """The table of points, and its captions."""
  columns = tables.columns(sweep)
  left = tables.text_columns(sweep)
  heads = [(column.title, "" if column.title in left else "number")
           for column in columns]
  parts = (list(zip(
      ["reference" if point.is_reference else "" for point in points],
      *(_cells(column, points) for column in columns)))
           for points in _parts(sweep.points))
  captions = "".join(
      f"<li>{html.escape(text)}</li>" for text in tables.captions(sweep))
  return (
      '<h2 id="points">Points</h2>\n'
      '<p class="soft">A click on a header sorts; on a narrow screen the table '
      "moves sideways.</p>\n"
      + _sortable("table", "points", heads, parts, len(sweep.points))
      + f'<ul class="captions">{captions}</ul>')


def _parts(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
  """So many at once as a page of a table shows: texts of all would fill memory."""
  return (points[at:at + MOST] for at in range(0, len(points), MOST))


def _cells(column: tables.Column, points: Sequence[Point]) -> list[Cell]:
  """Cells of a column: their text, and where it is no number, what sorts them."""
  found: list[Cell] = []
  for point in points:
    text, number = column.text(point), column.number(point)
    key = text
    if number is not None and not text.replace(".", "", 1).isdecimal():
      key = f"{number:.10g}"
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
    parts: Class and cells of each row, in parts of several.
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
        + (f' data-value="{html.escape(key)}"' if key is not None else "")
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
      text = json.dumps(part, separators=(",", ":"))
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
      f"{row['device']}" + (f", {row['cores']} cores" if row.get("cores") else "")
      for row in rows if row.get("device")})
  words = []
  if commits:
    words.append(f"Commit {names.some(commits)}.")
  if machines:
    words.append(f"Ran on {names.some(machines, '; ')}.")
  return f"<p>{html.escape(' '.join(words))}</p>" if words else ""


def _runs(sweep: Sweep) -> str:
  """Every run with its command."""
  heads = [("point", ""), ("seed", "number"), ("test errors", "number"),
           ("fingerprint", "code"), ("command", "code wrap")]
  number = len(sweep.rows)
  parts = ([("", label, *_run(row)) for point in points
            for label in [sweep.label(point)] for row in point.runs]
           for points in _parts(sweep.points))
  return ('<h2 id="runs">Runs</h2>\n<details><summary>The '
          f"{number:,} runs, with their commands</summary>"
          f"{_sortable('runs-table', 'runs', heads, parts, number)}</details>")


def _run(row: Row) -> tuple[str, ...]:
  failed = row.get("failed")
  errors = f"failed: {failed}" if failed is not None else row.get("test_errors")
  return (*("" if value is None else str(value)
            for value in (row.get("seed"), errors)),
          row.get("fingerprint", "")[:12], row.get("command", ""))
