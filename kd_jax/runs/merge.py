"""Joins what shards have left into one folder, as if one run had made it."""

from collections.abc import Sequence
import pathlib
import shutil
from typing import Any, NamedTuple

from kd_jax.core.errors import UserError
from kd_jax.runs import conflicts, plan, records, results, schema_1
from kd_jax.runs.conflicts import Part
from kd_jax.runs.plan import Chunk
from kd_jax.runs.results import Row
from kd_jax.training import parameters


class Progress(NamedTuple):
  """Lanes of a plan, and how many of them have no row yet."""

  lanes: int
  missing: int


def merge(folders: Sequence[pathlib.Path], out: pathlib.Path) -> str:
  """Joins rows by fingerprint, and plans, teachers and settings.

  The ordinary command with `--workdir=OUT` then does what is missing, and
  nothing else.

  Args:
    folders: Workdirs of shards.
    out: Where the whole goes. What it holds already counts as one more part.

  Returns:
    What was joined and what is missing, in a line.

  Raises:
    UserError: If a folder is none of a sweep, or two are not of one. Then
      nothing is written.
  """
  parts = _parts(folders, out)
  conflicts.check(parts)
  everything = [row for part in parts for row in part.rows]
  rows = results.first_of_each(everything)
  if not rows:
    raise UserError(f"{folders[0]}: has no rows yet, nor has any other folder")
  teachers = _teachers(parts, out)
  planned = [chunk for part in parts for chunk in part.chunks]
  progress = _progress(planned, rows)
  kept = _kept(planned, rows)
  others = _others(everything, rows, out)
  try:
    with records.locked(out):
      for source, target in teachers.items():
        _copy(source, target)
      _write_sides(parts, out)
      plan.save(out / "plan.json", kept)
      parameters.write_json(
          out / "summary.json", _summary(parts, rows, progress))
      results.write(out / "results.jsonl", _ordered(rows, kept))
      if others:
        results.write(out / "results.other.jsonl", others)
  except OSError as error:
    raise UserError(f"--out={out}: cannot be written: {error}") from None
  return _summary_line(parts, rows, others, progress, out)


def _parts(folders: Sequence[pathlib.Path], out: pathlib.Path) -> list[Part]:
  """What each folder holds; `out` itself comes first, if it holds something."""
  if (out / "results.jsonl").is_file():
    folders = [out, *folders]
  different = {folder.resolve(): folder for folder in folders}
  parts = [_part(folder) for folder in different.values()]
  # What was called after its own folder is called after `out` from now on.
  name = out.resolve().name
  return [part._replace(rows=[
      row | {"study": name} if row.get("study") == part.folder.resolve().name
      else row for row in part.rows]) for part in parts]


def _part(folder: pathlib.Path) -> Part:
  chunks = plan.load(folder / "plan.json")
  known = schema_1.lanes_of(chunks)
  rows = [schema_1.converted(row, known) for row in results.read(folder)]
  results.check(folder / "results.jsonl", rows, "leave the folder out")
  aside = folder / "results.other.jsonl"
  other = {schema_1.converted(row, known).get("fingerprint") for row in (
      results.read(folder, aside.name) if aside.is_file() else [])}
  other -= {row["fingerprint"] for row in rows}
  # Of a sweep that the folder was used for before.
  chunks = [chunk for chunk in chunks if not other.issuperset(chunk.lanes)]
  config = results.side_file(folder, "config.json") or {}
  if not isinstance(config, dict):
    raise UserError(f"{folder / 'config.json'}: is no config; leave the folder out")
  return Part(folder, rows, chunks, config)


def _others(
    everything: Sequence[Row], rows: dict[str, Row], out: pathlib.Path
) -> list[Row]:
  """Rows of lanes that were also run in another packing, and what lay aside."""
  aside = out / "results.other.jsonl"
  before = results.read(out, aside.name) if aside.is_file() else []
  second = [row for row in everything
            if row.get("packing") != rows[row["fingerprint"]].get("packing")]
  return [*before, *(row for row in second if row not in before)]


def _done(chunk: Chunk, rows: dict[str, Row]) -> bool:
  return rows.keys() >= set(chunk.lanes)


def _kept(planned: Sequence[Chunk], rows: dict[str, Row]) -> list[Chunk]:
  """One plan of them all: no lane is asked for twice."""
  distinct = list(dict.fromkeys(planned))
  taken = {lane for chunk in distinct if _done(chunk, rows)
           for lane in chunk.lanes}
  kept = []
  for chunk in distinct:
    if _done(chunk, rows):
      kept.append(chunk)
    elif taken.isdisjoint(chunk.lanes):
      kept.append(chunk)
      taken |= {*chunk.lanes}
  return kept


def _progress(planned: Sequence[Chunk], rows: dict[str, Row]) -> Progress:
  everything = {lane for chunk in planned for lane in chunk.lanes}
  done = {lane for chunk in planned for lane in chunk.lanes
          if lane in rows}
  return Progress(len(everything), len(everything - done))


def _ordered(rows: dict[str, Row], kept: Sequence[Chunk]) -> list[Row]:
  """In the order in which one run would have written them."""
  order = dict.fromkeys(
      lane for chunk in kept for lane in chunk.lanes)
  return [rows[name] for name in {**order, **rows} if name in rows]


def _teachers(
    parts: Sequence[Part], out: pathlib.Path
) -> dict[pathlib.Path, pathlib.Path]:
  """Folders of teachers to copy: an unsharded run asks for the same bits."""
  wanted: dict[pathlib.Path, pathlib.Path] = {}
  known: dict[str, tuple[str, pathlib.Path]] = {}
  for part in parts:
    for source in sorted((part.folder / "teachers").glob("*")):
      record = results.side_file(source, "record.json")
      if source.suffix or not isinstance(record, dict):
        continue  # Half a teacher, from a program that died.
      bits = str(record.get("parameters_sha256"))
      first, where = known.setdefault(source.name, (bits, source))
      if first != bits:
        raise UserError(
            f"{where} and {source}: are two teachers of the same settings; train "
            "one, give all shards its --config.teacher.dir=DIR, and run one of "
            "these parts again")
      target = out / "teachers" / source.name
      if not target.exists():
        wanted.setdefault(where, target)
  return wanted


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """A folder, whole or not at all."""
  fresh = target.with_name(target.name + ".new")
  shutil.rmtree(fresh, ignore_errors=True)
  shutil.copytree(source, fresh, symlinks=True)
  fresh.rename(target)


def _write_sides(parts: Sequence[Part], out: pathlib.Path) -> None:
  """Settings, manifest and teachers, of the first that has them; all logits."""
  for name in ("config.json", "manifest.json", "teacher.json"):
    found = (results.side_file(part.folder, name) for part in parts)
    first = next((value for value in found if value is not None), None)
    if first is not None:
      parameters.write_json(out / name, first)
  for part in reversed(parts):
    # Every shard makes all teachers ready, and tells of all.
    for file in (part.folder / "teachers.jsonl",
                 *sorted((part.folder / "logits").glob("*.npz"))):
      target = out / file.relative_to(part.folder)
      if file.is_file() and file.resolve() != target.resolve():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def _summary(
    parts: Sequence[Part], rows: dict[str, Row], progress: Progress
) -> dict[str, Any]:
  """As of one run, with what is missing."""
  found = [summary for part in parts if isinstance(
      summary := results.side_file(part.folder, "summary.json"), dict)]
  first = found[0] if found else {}
  names = dict.fromkeys(
      name for part in parts for name in _sources(part))
  return {
      "schema": records.SCHEMA,
      **{key: first[key] for key in ("dataset", "teacher") if key in first},
      "lanes": len(rows),
      "failed": sum(row.get("failed") is not None for row in rows.values()),
      "missing": progress.missing if progress.lanes else None,
      "merged": list(names)}


def _sources(part: Part) -> list[str]:
  """The shards behind a part: its own name, or what was merged into it."""
  summary = results.side_file(part.folder, "summary.json")
  merged = summary.get("merged") if isinstance(summary, dict) else None
  return merged if isinstance(merged, list) else [part.folder.resolve().name]


def _summary_line(
    parts, rows, others, progress: Progress, out: pathlib.Path
) -> str:
  twice = sum(len(part.rows) for part in parts) - len(rows)
  summary = f"{out}: {len(rows)} rows of {len(parts)} folders"
  if twice:
    summary += f", {twice} of them twice"
  if others:
    summary += (f"; {len(others)} rows of other packings or sweeps are in "
                "results.other.jsonl")
  if not progress.lanes:
    return f"{summary}; no plan.json says whether some are missing"
  if not progress.missing:
    return f"{summary}; none of the plan's {progress.lanes} lanes is missing"
  return (f"{summary}; {progress.missing} of the plan's {progress.lanes} lanes are "
          f"missing: the command without --shard, with --workdir={out}, does them")
