"""From the numbers of a study's pages to their rows, and to the commands of those.

A label of a table is a link, `rows.md#ROW`, where ROW begins a fingerprint; of
several points it is `#ROW-ROW`. The page `rows.md` has an entry for each: its rows,
by file and line, and a command.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import pathlib
import re
from typing import Any

from kd_jax import report
from kd_jax.config import schema
from kd_jax.core.errors import UserError, nearest
from kd_jax.report import Row, names

PAGE = "rows.md"
_ROOT = pathlib.Path(__file__).parent
_SHORT = 8
_NAME = re.compile(rf"[0-9a-f]{{{_SHORT},64}}")
# A label, and the rows that it leads to.
_LINK = re.compile(rf"\[([^\]]*)\]\({re.escape(PAGE)}#([\w-]+)\)")

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


def chosen(asked: str, folder: pathlib.Path, rows: Sequence[Row]) -> list[Row]:
  """The rows of a study that a reader asks for.

  Args:
    asked: The beginning of a fingerprint, or a link that ends with it; or a label
      of a table, or words of rows' `row` and net, KEY=VALUE or VALUE; with these
      also `seed=N`. "" for all.
    folder: Of the study.
    rows: Its rows.

  Raises:
    UserError: If there is none.
  """
  labels = _labels(folder)
  called = [{*f"{row.get('row', '')} {row.get('net', '')} "
             f"seed={_seeds(row)[names.SEEDS[0]]}".split(),
             *labels.get(row["fingerprint"], ())} for row in rows]
  every, wanted = set[str]().union(*called), set(asked.split())
  label = " ".join(word for word in asked.split() if not word.startswith("seed="))
  if label in every:
    wanted = {label, *wanted.difference(label.split())}
  has = lambda own, word: word in own or any(
      one.endswith(f"={word}") for one in own)
  begins = asked.rpartition("#")[2]
  found = [row for row, own in zip(rows, called, strict=True)
           if all(has(own, word) for word in wanted)
           or row["fingerprint"].startswith(begins)]
  if found or not rows:
    return found
  # Of a study that this one stands on.
  for other in folder.parent.iterdir() if _NAME.fullmatch(begins) else ():
    if begins[:_SHORT] in _entries(other, ""):
      raise UserError(
          f"{asked} is a row of {other.name}; python -m experiments.reproduce "
          f"{other.name} --verify {begins}")
  lost = min((word for word in wanted if not has(every, word)), default="")
  known = (one for one in every if " " not in one and not has(every - {one}, one))
  raise UserError(
      f"--verify {asked}: {folder.name} has no such row; "
      + (nearest(lost, known) if lost else "none has all of these words")
      + " (or a label of a table, or the eight letters after rows.md# in its link)")


def _labels(folder: pathlib.Path) -> dict[str, set[str]]:
  """The labels that lead to a row, or to others of its point, by fingerprint."""
  points, found = _entries(folder, ""), dict[str, set[str]]()
  for file in folder.glob("*.md"):
    for label, name in _LINK.findall(file.read_text()):
      for one in name.split("-"):
        for _, row in itertools.chain(*points.get(one, {}).values()):
          found.setdefault(row["fingerprint"], set()).add(label)
  return found


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
  named: dict[str, dict[str, None]] = {}
  for label, name in itertools.chain(*map(_LINK.findall, pages)):
    named.setdefault(name, {})[label] = None
  wanted = dict.fromkeys(row for name in named for row in name.split("-"))
  found = _entries(folder, "")
  if wanted.keys() - found.keys():  # Of a study that this one stands on.
    for other in sorted(_ROOT.iterdir()):
      if other.name != study and (other / "results.jsonl").is_file():
        found = _entries(other, f"../{other.name}/") | found
  return "\n".join([
      f"# The rows behind the numbers of {study}\n",
      "A link is a line of a file, which is a row, and is named by its seeds. The "
      "command is that of the first; those of the others differ in seeds and "
      "lanes, as their rows say. For labels alone it has `method=hard` and trains "
      "no teacher; the row itself, and a report of it, may have `alpha=0` and one: "
      "the student is the same, to rounding. A teacher is "
      "trained by the commands of its students, and what else has no command by "
      f"the study's: `python -m experiments.reproduce {study}`.\n",
      *(_entry(name, found[name], named.get(name, ())) for name in wanted),
      *(_several(name, found, named[name]) for name in named
        if name not in wanted)])


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


def _entry(name: str, files: Point, called: Iterable[str]) -> str:
  """A point: what it sets, its labels, its rows by file, and a command."""
  (_, first), *_ = next(iter(files.values()))
  own = _label(first)
  lines = [_anchor(name) + f"**{own}**" + _called(
      label for label in called if label not in own and label != names.MISSING)]
  for file, rows in files.items():
    seeds = " ".join(f"[{'/'.join(_seeds(row).values())}]({file}#L{line})"
                     for line, row in rows)
    command = _command(rows[0][1])
    lines += [f"- {file}, {'/'.join(_seeds(rows[0][1]))} {seeds}"
              + (f": `{command}`" if command else "")]
  return "\n".join(lines) + "\n"


def _several(name: str, found: Mapping[str, Point], called: Iterable[str]) -> str:
  """Points that a line of a table is made of."""
  rows = {row: next(iter(found[row].values()))[0][1] for row in name.split("-")}
  return _anchor(name) + f"Several points{_called(called)}\n" + "\n".join(
      f"- [{_label(row)}](#{one})" for one, row in rows.items()) + "\n"


def _anchor(name: str) -> str:
  return f'<a id="{name}"></a>\n'


def _called(labels: Iterable[str]) -> str:
  """The labels that a reader comes from; some have stars in them."""
  found = ", ".join(f"`{label}`" for label in labels)
  return (f", in tables {found}" if found else "") + "\n"


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


def _seeds(row: Row) -> dict[str, str]:
  """Its own seed, and those of its teacher and of its part of the data, if any."""
  own, first = _with_settings(row)["overrides"], names.SEEDS[0]
  usual = schema.every()["teacher.seed"].default if "teacher" in row else None
  found = {first: row.get(first, usual), **own}
  return {key: str(found[key]) for key in names.SEEDS
          if found.get(key) is not None} or {first: names.MISSING}


def _with_settings(row: Row) -> Row:
  """A row with what it sets; a teacher's row has that under another key."""
  return {**row, "overrides": row.get("overrides") or row.get("teacher") or {}}


def _command(row: Row) -> str:
  # It imports jax, which must not start before the sweeps have set it up.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.runs import commands
  return commands.again(row)
