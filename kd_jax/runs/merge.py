"""Joins what shards have left into one folder, as if one run had made it."""

from collections.abc import Sequence
import pathlib
import shutil
from typing import Any

from kd_jax.core.errors import UserError
from kd_jax.core.files import refuse_pipes
from kd_jax.core.words import counted
from kd_jax.runs import conflicts, plan, records, results, schema_1, workdir
from kd_jax.runs.conflicts import Part
from kd_jax.runs.plan import Chunk
from kd_jax.training import parameters

# What lies beside the rows. Every shard makes all teachers ready, and tells of all.
_BESIDE = ("config.json", "manifest.json", "teacher.json", "teachers.jsonl",
           "logits/*.npz")


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
    OSError: If something in a folder is a pipe or a device, likewise.
  """
  workdir.refuse_foreign(out, "--out")
  parts = _parts(folders, out)
  conflicts.check(parts)
  everything = [row for part in parts for row in part.rows]
  if not everything:
    raise UserError(f"{folders[0]}: has no rows yet, nor has any other folder")
  done = {row["fingerprint"] for row in everything}
  asked = {lane for part in parts for chunk in part.chunks for lane in chunk.lanes}
  planned = _one_plan(parts, done)
  rows, others = results.arranged(
      [*everything, *results.split(out)[1]],
      [*(lane for chunk in planned for lane in chunk.lanes),
       *(row["fingerprint"] for row in everything)])
  beside = _beside(parts)
  for source in beside.values():
    refuse_pipes(source)  # A device would be copied for ever.
  try:
    with records.locked(out):
      for place, source in beside.items():
        _copy(source, out / place)
      plan.save(out / "plan.json", planned)
      parameters.write_json(out / "summary.json", _summary(parts, {
          "lanes": len(rows),
          "failed": sum(row.get("failed") is not None for row in rows),
          "missing": len(asked - done) if asked else None}))
      results.save(out, rows, others)
  except OSError as error:
    raise UserError(f"--out={out}: cannot be written: {error}") from None
  summary = (f"{out}: {counted(len(rows), 'row')} of "
             f"{counted(len(parts), 'folder')}")
  if len(everything) > len(rows):
    summary += f", {len(everything) - len(rows)} of them twice"
  if others:
    summary += (f"; keeps {counted(len(others), 'row')} of other packings or "
                "sweeps too")
  return f"{summary}; {_missing(len(asked), len(asked - done), out)}"


def _parts(folders: Sequence[pathlib.Path], out: pathlib.Path) -> list[Part]:
  """What each folder holds; `out` itself comes first, if it holds something."""
  if (out / "results.jsonl").is_file():
    folders = [out, *folders]
  different = {folder.resolve(): folder for folder in folders}
  return [_part(folder, out.resolve().name) for folder in different.values()]


def _part(folder: pathlib.Path, name: str) -> Part:
  """What a folder holds; what was called after it is called `name` from now on."""
  chunks = plan.load(folder / "plan.json")
  known = schema_1.lanes_of(chunks)
  if not (folder / "results.jsonl").is_file():
    raise UserError(f"{folder / 'results.jsonl'}: there is no such file")
  rows, others = ([schema_1.converted(row, known) for row in found]
                  for found in results.split(
                      folder, results.of_sweep("leave the folder out")))
  rows = [row | {"study": name} if row.get("study") == folder.resolve().name
          else row for row in rows]
  other = {row["fingerprint"] for row in others} - {
      row["fingerprint"] for row in rows}
  # Of a sweep that the folder was used for before.
  chunks = [chunk for chunk in chunks if not other.issuperset(chunk.lanes)]
  config = results.side_file(folder, "config.json") or {}
  if not isinstance(config, dict):
    raise UserError(f"{folder / 'config.json'}: is no config; leave the folder out")
  if config and not config.get("sweep.points"):
    raise UserError(f"{folder}: holds a single run, no part of a sweep; leave the "
                    "folder out")
  return Part(folder, rows, chunks, config, _teachers(folder))


def _teachers(folder: pathlib.Path) -> dict[pathlib.Path, str]:
  found = {source: results.side_file(source, "record.json")
           for source in sorted((folder / "teachers").glob("*"))}
  # Without a record it is half a teacher, from a program that died.
  return {source: str(record.get("parameters_sha256"))
          for source, record in found.items()
          if isinstance(record, dict) and not source.suffix}


def _one_plan(parts: Sequence[Part], done: set[str]) -> list[Chunk]:
  """One plan of them all: no lane is asked for twice."""
  distinct = dict.fromkeys(chunk for part in parts for chunk in part.chunks)
  finished = {chunk for chunk in distinct if done >= set(chunk.lanes)}
  taken = {lane for chunk in finished for lane in chunk.lanes}
  planned = []
  for chunk in distinct:
    if chunk in finished or taken.isdisjoint(chunk.lanes):
      planned.append(chunk)
      taken.update(chunk.lanes)
  return planned


def _beside(parts: Sequence[Part]) -> dict[pathlib.Path, pathlib.Path]:
  """What goes with the rows, by where it lies in a folder: the first there is."""
  found: dict[pathlib.Path, pathlib.Path] = {}
  for part in parts:
    for source in (*part.teachers, *(
        file for name in _BESIDE for file in sorted(part.folder.glob(name)))):
      found.setdefault(source.relative_to(part.folder), source)
  return found


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """A file, or a folder that is not there yet, whole or not at all."""
  if target.exists() and (target.is_dir() or target.samefile(source)):
    return
  fresh = target.with_name(target.name + ".new")
  fresh.parent.mkdir(parents=True, exist_ok=True)
  if source.is_dir():
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, symlinks=True)
  else:
    shutil.copy(source, fresh)
  fresh.replace(target)


def _summary(
    parts: Sequence[Part], numbers: dict[str, int | None]
) -> dict[str, Any]:
  """As of one run: its numbers, and what the summaries of the parts tell."""
  found = [summary if isinstance(summary, dict) else {} for summary in (
      results.side_file(part.folder, "summary.json") for part in parts)]
  first = next(filter(None, found), {})
  # A part that was merged tells of the shards behind it.
  names = dict.fromkeys(
      name for part, summary in zip(parts, found, strict=True)
      for name in summary.get("merged") or [part.folder.resolve().name])
  return {"schema": records.SCHEMA,
          **{key: first[key] for key in ("dataset", "teacher") if key in first},
          **numbers, "merged": list(names)}


def _missing(asked: int, missing: int, out: pathlib.Path) -> str:
  if not asked:
    return "no plan.json says whether some are missing"
  if not missing:
    return f"none of the plan's {asked} lanes is missing"
  return (f"{missing} of the plan's {asked} lanes are missing: the command without "
          f"--shard, with --workdir={out}, does them")
