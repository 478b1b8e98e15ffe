"""`report.html`: one file that needs no network, for a browser.

All that comes from rows passes `html.escape`, and a policy in the page forbids
it to load anything.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import html
import json
import pathlib
import string
from typing import Any

from kd_jax.report import names, panels, svg, tables
from kd_jax.report.main_table import Row
from kd_jax.report.sweep import Sweep

_HERE = pathlib.Path(__file__).parent
# Alternative text and caption of each picture.
_PICTURES = {
    "heat": ("Heat map of mean test errors over temperature and alpha",
             "Mean test errors over T and alpha; fewer are lighter."),
    "differences": (
        "Forest plot of differences in test errors from the reference",
        "Test errors minus those of the reference, paired, with 95% intervals. "
        "Filled marks: p (Holm) below 0.05."),
    "learning": ("Learning curves of the hard and the soft term by epoch",
                 "Hard and soft term while training, means over seeds."),
    "dark": ("Entropy of the soft targets against temperature, and examples "
             "with the teacher's probabilities at several temperatures",
             "Dark knowledge: what the teacher says beside the label. Orange is "
             "the label's class."),
    "reliability": (
        "Reliability diagrams: accuracy against confidence",
        "Accuracy against confidence on the test set, bins added up over seeds; "
        "at the right the gap between them."),
    "errors": ("Test errors against temperature, with 95% intervals",
               "Test errors against T with 95% intervals."),
}


def page(
    sweep: Sweep,
    pictures: Mapping[str, pathlib.Path],
    sides: Mapping[str, Any],
) -> str:
  """The page of a sweep.

  Args:
    sweep: Its points.
    pictures: PNG files by the name of the plot.
    sides: The contents of `config`, `manifest` and `summary`; None where there
      is no such file.
  """
  parts = [_head(sweep), _main_plot(sweep), _table(sweep), _pictures(pictures),
          _setup(sweep, sides), _runs(sweep)]
  text = lambda name: (_HERE / name).read_text(encoding="utf-8")
  return string.Template(text("page.html")).substitute(
      title=html.escape(f"{sweep.study or 'study'}: report"),
      css=text("page.css"), js=text("page.js"), body="\n".join(filter(None, parts)))


def _head(sweep: Sweep) -> str:
  rows = sweep.rows
  failed = sum(point.failed for point in sweep.points)
  counts = (f"{len(sweep.points)} points, {len(rows)} runs"
            + (f", {failed} failed" if failed else ""))
  lines = [f"<h1>{html.escape(sweep.study or 'Report')}</h1>",
           f'<p class="soft">{counts}</p>', _loss(rows)]
  lines += [f'<p class="warn">{html.escape(note)}</p>' for note in sweep.notes]
  most = panels.MOST
  if max(len(sweep.points), *(len(point.runs) for point in sweep.points)) > most:
    lines.append(
        f'<p class="warn">This page shows the first {most} points and of each the '
        f"first {most} runs, and no pictures of more points; table.csv has all "
        "points, and results.jsonl all runs.</p>")
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
                    for loss in losses)
    parts.append(f"<details><summary>The {len(losses)} losses of these runs, "
                 f"as they ran</summary><ul>{items}</ul></details>")
  return "\n".join(parts)


def _main_plot(sweep: Sweep) -> str:
  drawn = len(sweep.points) <= panels.MOST and svg.errors_by_temperature(sweep)
  if not drawn:
    return ""
  levels = any(panel.levels for panel in panels.panels(sweep))
  band = " A dashed line with its band is a point to which T means nothing."
  return (
      "<h2>Test errors against temperature</h2>\n<figure>"
      '<div class="scroll chart" tabindex="0" role="region" '
      f'aria-label="Plot of test errors">{drawn}</div>'
      "<figcaption>Means over runs with 95% intervals; point at a mark, or reach "
      f"it by Tab, for its values.{band * levels}</figcaption></figure>")


def _table(sweep: Sweep) -> str:
  """The table that sorts, and its captions."""
  columns = tables.columns(sweep)
  left = tables.text_columns(sweep)
  kind = lambda column: "" if column.title in left else ' class="number"'
  head = "".join(
      f'<th scope="col"{kind(column)}><button type="button">'
      f"{html.escape(column.title)}</button></th>" for column in columns)
  lines = []
  for point in sweep.points[:panels.MOST]:
    cells = "".join(
        f'<td{kind(column)} data-value="{_sorted_by(column, point)}">'
        f"{html.escape(column.text(point))}</td>" for column in columns)
    style = ' class="reference"' if point.is_reference else ""
    lines.append(f"<tr{style}>{cells}</tr>")
  captions = "".join(
      f"<li>{html.escape(text)}</li>" for text in tables.captions(sweep))
  return (
      '<h2 id="points">Points</h2>\n'
      '<p class="soft">A click on a header sorts.</p>\n'
      '<div class="scroll" tabindex="0" role="region" aria-label="Table of '
      f'points"><table id="table"><thead><tr>{head}</tr></thead>\n<tbody>'
      + "\n".join(lines) + "</tbody></table></div>\n"
      f'<ul class="captions">{captions}</ul>')


def _sorted_by(column: tables.Column, point: Any) -> str:
  number = column.number(point)
  if number is not None:
    return html.escape(f"{number:.10g}")
  text = column.text(point)
  return html.escape("" if text == names.MISSING else text)


def _pictures(pictures: Mapping[str, pathlib.Path]) -> str:
  parts = []
  for name, (alternative, caption) in _PICTURES.items():
    if name in pictures:
      data = base64.b64encode(pictures[name].read_bytes()).decode()
      figure = (
          f'<figure><img alt="{html.escape(alternative)}" '
          f'src="data:image/png;base64,{data}">'
          f"<figcaption>{html.escape(caption)}</figcaption></figure>")
      if name == "errors":
        figure = ("<details><summary>The first picture as an image</summary>"
                  f"{figure}</details>")
      parts.append(figure)
  return "\n".join(["<h2>Pictures</h2>", *parts]) if parts else ""


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
    words.append(f"Commit {', '.join(commits)}.")
  if machines:
    words.append(f"Ran on {'; '.join(machines)}.")
  return f"<p>{html.escape(' '.join(words))}</p>" if words else ""


def _runs(sweep: Sweep) -> str:
  """Every run with its command, by point."""
  head = "".join(
      f'<th scope="col" class="plain{kind}">{title}</th>' for title, kind in (
          ("seed", " number"), ("test errors", " number"), ("fingerprint", ""),
          ("command", "")))
  parts = ['<h2 id="runs">Runs</h2>']
  for point in sweep.points[:panels.MOST]:
    lines = "".join(map(_run, point.runs[:panels.MOST]))
    failed = f", {point.failed} failed" if point.failed else ""
    parts.append(
        f"<details><summary>{html.escape(sweep.label(point))} "
        f'<span class="soft">n {point.n}{failed}</span></summary>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Runs">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        "</div></details>")
  return "\n".join(parts)


def _run(row: Row) -> str:
  failed = row.get("failed")
  errors = f"failed: {failed}" if failed is not None else row.get("test_errors")
  cells = [("number", row.get("seed")), ("number", errors)]
  shown = "".join(
      f'<td class="{kind}">{html.escape("" if value is None else str(value))}</td>'
      for kind, value in cells)
  return (
      f"<tr>{shown}<td><code>{html.escape(str(row.get('fingerprint', ''))[:12])}"
      '</code></td><td class="wrap"><code>'
      f"{html.escape(str(row.get('command', '')))}</code></td></tr>\n")
