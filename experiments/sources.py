"""From the numbers of a study's pages to their rows, and to the commands of those.

A label of a table is a link, `rows.md#ROW`, where ROW begins a fingerprint; of
several points it is `#ROW-ROW`. The page `rows.md` has an entry for each: its rows,
by file and line, and a command.
"""

from collections.abc import Mapping, Sequence
import pathlib
import re
from typing import Any

from kd_jax import report
from kd_jax.report import Row, names

PAGE = "rows.md"
_ROOT = pathlib.Path(__file__).parent
_SHORT = 8
_LINK = re.compile(rf"\]\({re.escape(PAGE)}#([\w-]+)\)")

# Rows of a point with their lines, by file.
Point = dict[str, list[tuple[int, Row]]]


def linked(text: str, rows: Sequence[Row]) -> str:
  """A label that leads to the rows that its numbers are made of.

  Example:
    >>> row = {"overrides": {"alpha": 0.9, "seed": 1}, "fingerprint": "0123abcdef"}
    >>> linked("distilled", [row, row])
    '[distilled](rows.md#0123abcd)'
    >>> linked("not run yet", [])
    'not run yet'
  """
  found: dict[Any, str] = {}
  for row in rows:
    if name := row.get("fingerprint"):
      found.setdefault(_point(row), name[:_SHORT])
  return f"[{text}]({PAGE}#{'-'.join(found.values())})" if found else text


def files(folder: pathlib.Path) -> str:
  """Where the numbers of a page come from: its rows, each with its command."""
  found = ", ".join(f"[{file.name}]({file.name})"
                    for file in sorted(folder.glob("*.jsonl")))
  return (
      f"\nEvery number is made from these rows: {found}. Labels in tables lead to "
      f"those of their line, and to commands, in [{PAGE}]({PAGE}). Rows that were "
      "trained beside others (`lanes`) and those of the command alone agree to "
      "rounding.\n")


def page(study: str, folder: pathlib.Path, pages: Sequence[str]) -> str:
  """`rows.md`: the points that some pages of a study lead to.

  Args:
    study: Its name.
    folder: Holds its rows.
    pages: With links that `linked` has made.
  """
  named = dict.fromkeys(name for text in pages for name in _LINK.findall(text))
  wanted = dict.fromkeys(row for name in named for row in name.split("-"))
  found = _entries(folder, "")
  if wanted.keys() - found.keys():  # Of a study that this one stands on.
    for other in sorted(_ROOT.iterdir()):
      if other.name != study and (other / "results.jsonl").is_file():
        found = _entries(other, f"../{other.name}/") | found
  return "\n".join([
      f"# The rows behind the numbers of {study}\n",
      "A link is a line of a file, which is a row. The command is that of the "
      "first; those of the others differ in seeds and lanes, as their rows say. "
      "For labels alone it trains no teacher, whatever the row says. A teacher is "
      "trained by the commands of its students, and what else has no command by "
      f"the study's: `python -m experiments.reproduce {study}`.\n",
      *(_entry(name, found[name]) for name in wanted),
      *(_several(name, found) for name in named if name not in wanted)])


def _entries(folder: pathlib.Path, path: str) -> dict[str, Point]:
  """The points of a folder by the beginnings of their rows' fingerprints."""
  points: dict[Any, Point] = {}
  of: dict[str, Point] = {}
  # First the rows of the table: those that are counted from them have their names.
  for file in sorted(folder.glob("*.jsonl"), key=lambda file: (
      file.stem not in ("results", "teachers"), file.stem)):
    for line, row in enumerate(report.read(folder, file.name), 1):
      own = points.setdefault(_point(row), {})
      if of.setdefault(row["fingerprint"][:_SHORT], own) is own:
        own.setdefault(path + file.name, []).append((line, row))
  return of


def _entry(name: str, files: Point) -> str:
  """A point: what it sets, its rows by file, and a command."""
  (_, first), *_ = next(iter(files.values()))
  lines = [_anchor(name) + f"**{_label(first)}**\n"]
  for file, rows in files.items():
    seeds = " ".join(f"[{_seed(row)}]({file}#L{line})" for line, row in rows)
    command = _command(rows[0][1])
    lines += [f"- {file}, seed {seeds}" + (f": `{command}`" if command else "")]
  return "\n".join(lines) + "\n"


def _several(name: str, found: Mapping[str, Point]) -> str:
  """Points that a line of a table is made of."""
  rows = {row: next(iter(found[row].values()))[0][1] for row in name.split("-")}
  return _anchor(name) + "\n".join(
      f"- [{_label(row)}](#{one})" for one, row in rows.items()) + "\n"


def _anchor(name: str) -> str:
  return f'<a id="{name}"></a>\n'


def _point(row: Row) -> tuple:
  """What is alike for all seeds of a row, and whether it is one that chooses."""
  return (_kind(row), names.identity(_with_settings(row)),
          row.get("heldout_errors") is not None)


def _label(row: Row) -> str:
  settings = names.setting(_with_settings(row))
  kind = [] if "method" in settings else [_kind(row)]
  return ", ".join(filter(None, [
      *kind, names.label(settings, names.columns(settings))]))


def _kind(row: Row) -> str | None:
  """What a row is beside its settings: of no sweep, its name in the study."""
  return row.get("method" if row.get("command") else "row", row.get("net"))


def _seed(row: Row) -> Any:
  own = _with_settings(row)["overrides"]
  parts = [row.get("seed", own.get("seed")),
           *(own.get(key) for key in names.SEEDS[1:])]
  return "/".join(str(part) for part in parts if part is not None) or "-"


def _with_settings(row: Row) -> Row:
  """A row with what it sets; a teacher's row has that under another key."""
  return {**row, "overrides": row.get("overrides") or row.get("teacher") or {}}


def _command(row: Row) -> str:
  # It imports jax, which must not start before the sweeps have set it up.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.runs import commands
  return commands.again(row)
