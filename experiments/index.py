"""The studies, and what is committed of them: rows, and all that rows generate.

  python -m experiments.index

makes every table, verdict and the index anew from the committed rows. Of a study
that is under way, `unfinished.json` names the stage it is at and holds its plan, so
that `reproduce --from-record` goes on from what is committed.
"""

import collections
from collections.abc import Mapping, Sequence
import importlib
import pathlib
import shutil
from types import ModuleType
from typing import Any, NamedTuple

from experiments import sources, words
from kd_jax import report
from kd_jax.core import exits, strict
from kd_jax.core.errors import UserError
from kd_jax.core.machine import use_all_cores
from kd_jax.core.words import counted
from kd_jax.report import Row, names

ROOT = pathlib.Path(__file__).parent
STUDIES = ("ban_mnist", "bucila06", "deepvid19", "deploy_cifar", "deploy_mnist",
           "early_stopped_mnist", "features_cifar", "fitnets_mnist",
           "hinton15_closing", "hinton15_mnist", "hinton15_omitted",
           "hinton15_regulariser", "hinton15_specialists", "hinton15_speech",
           "hinton15_temperature", "keras_example", "methods_mnist", "mutual_mnist",
           "noisy_student_mnist", "ocr_teacher", "open_mnist", "patient_mnist",
           "takd_mnist")
_TABLE = "table"
_READING = (
    "Mean ± half its 95% interval, with what it is over: (12) 12 runs; (12/3) 3 "
    "teachers, or parts of the data, with 12 runs in all; (12/1) 12 runs of one "
    "teacher. [a, b] is the 95% interval of the difference or the share before it.")
_COUNTING = (
    " n counts seeds, or what means are over instead. Teachers are those that the "
    "rows of one cell learned from, and in brackets those of all cells where these "
    "are more; of a chain it is the first. Trained again: what came out of a row; "
    "where, when, by which commit. Verified is the same wrong ids and NLL. "
    "Consistent is as many errors, within a tolerance that may be wider than the "
    "differences that the table is about.")
_UNFINISHED = "unfinished.json"
VERIFIED = "verified.json"


def study(name: str) -> ModuleType:
  """The module of a study."""
  return importlib.import_module(f"experiments.{name}.study")


def stage_rows(folder: pathlib.Path) -> dict[str, list[Row]]:
  """The rows of a stage's workdir and of its teachers, as far as there are any."""
  return {name: report.read(folder, file) if (folder / file).is_file() else []
          for name, file in ((folder.name, "results.jsonl"),
                             (teachers_of(folder.name), "teachers.jsonl"))}


def teachers_of(stage: str) -> str:
  """The name of the rows of a stage's teachers."""
  return "teachers" if stage == _TABLE else f"{stage}_teachers"


def committed(folder: pathlib.Path) -> dict[str, list[Row]]:
  """The rows of a study's folder, by stage; none if it is not recorded yet."""
  stages = {file.stem: report.read(folder, file.name)
            for file in sorted(folder.glob("*.jsonl"))}
  if "results" in stages:
    stages[_TABLE] = stages.pop("results")
  return {"teachers": [], **stages}


def record(
    name: str, stages: Sequence[str], workdir: pathlib.Path, *,
    unfinished: str | None = None, extends: bool = False,
) -> None:
  """Copies the rows of a study into its folder; makes all else anew.

  Args:
    name: The study's.
    stages: Names of all of them.
    workdir: Where they were run.
    unfinished: The stage that was stopped, if one was.
    extends: Whether the study began with what is committed.

  Raises:
    UserError: If a study that was stopped, or extended, has not all rows that are
      committed.
  """
  folder = ROOT / name
  if unfinished is not None or extends:
    _refuse_fewer(folder, stages, workdir)
  not_committed = getattr(study(name), "NOT_COMMITTED", {})
  for stage in stages:
    for source, target in _files(name, stage).items():
      if (workdir / stage / source).is_file():
        _copy(workdir / stage / source, folder / target,
              not_committed.get(stage, ()))
  (folder / _UNFINISHED).unlink(missing_ok=True)
  if unfinished is not None:
    write(folder / _UNFINISHED, {
        "stage": unfinished,
        "plan": report.side_file(workdir / unfinished, "plan.json")})
  # All of them: a verdict may stand on another study's rows.
  main()


def refuse_changes(asked: str) -> None:
  """Refuses to train what is to be committed from a tree with changes.

  Of a row that is committed, its commit is all there is to train it again from.

  Args:
    asked: What the user asked for, for the message.

  Raises:
    UserError: If there are any.
  """
  use_all_cores()
  from kd_jax.runs import records  # Late: it imports jax.
  if records.commit()[1]:
    raise UserError(f"{asked}: rows name a commit, and there are changes that are "
                    "in none (git status); commit them, then give it again")


def take(
    name: str, stage: str, folder: pathlib.Path, *, sweep: bool = False) -> None:
  """Puts what is committed of a stage into its workdir, unless that has rows.

  Args:
    name: The study's.
    stage: The stage's.
    folder: The workdir.
    sweep: Whether a sweep goes on there, which has a plan.
  """
  source, files = ROOT / name, _files(name, stage)
  if (folder / "results.jsonl").is_file() or not (
      source / files["results.jsonl"]).is_file():
    return
  folder.mkdir(parents=True, exist_ok=True)
  at = unfinished(source)
  if sweep:
    planned = at["plan"] if at is not None and at["stage"] == stage else None
    write(folder / "plan.json", planned or {"chunks": []})
  for target, committed_as in files.items():
    if (source / committed_as).is_file():
      shutil.copy(source / committed_as, folder / target)


def whole(name: str, stage: str) -> bool:
  """Whether all rows of a stage are committed."""
  at = unfinished(ROOT / name)
  return bool(committed(ROOT / name).get(stage)) and (
      at is None or at["stage"] != stage)


def unfinished(folder: pathlib.Path) -> dict[str, Any] | None:
  """The stage that a study was stopped at, and its plan; None if it is through."""
  told = report.side_file(folder, _UNFINISHED)
  return told if isinstance(told, dict) else None


def verified(name: str) -> list[dict[str, Any]]:
  """The rows of a study that `verify` has trained again, the last of them last."""
  return (report.side_file(ROOT / name, VERIFIED) or {"rows": []})["rows"]


class UnderWay(NamedTuple):
  """A study that was stopped: the stage, its rows, and how many are planned."""

  stage: str
  done: int
  asked: int


def under_way(name: str, rows: Mapping[str, Sequence[Row]]) -> UnderWay | None:
  """How far a study is that was stopped, or None; of no sweep 0 are planned."""
  at = unfinished(ROOT / name)
  if at is None:
    return None
  lanes = {lane for chunk in (at["plan"] or {}).get("chunks", ())
           for lane in chunk["lanes"]}
  return UnderWay(at["stage"], len(rows.get(at["stage"], ())), len(lanes))


def _files(name: str, stage: str) -> dict[str, str]:
  """What is committed of a stage: files of its workdir, and their names here."""
  files = {"results.jsonl": f"{'results' if stage == _TABLE else stage}.jsonl",
           "teachers.jsonl": f"{teachers_of(stage)}.jsonl"}
  if stage == _TABLE and hasattr(study(name), "REFERENCE"):
    files["teacher.json"] = "teacher.json"
  return files


def _refuse_fewer(
    folder: pathlib.Path, stages: Sequence[str], workdir: pathlib.Path
) -> None:
  known = committed(folder)
  for stage in stages:
    # Rows that were recorded before schema 2 may have new names there; and whoever
    # learns from a net that another machine has trained again is another net.
    ids = lambda row: {own for key in ("fingerprint", "fingerprint_of_schema_1")
                       if (own := row.get(key))}
    rows, before = stage_rows(workdir / stage)[stage], known.get(stage, [])
    here, there = (set().union(*map(ids, some)) for some in (rows, before))
    instead = collections.Counter(
        _lane(row) for row in rows if not ids(row) & there)
    gone = collections.Counter(
        _lane(row) for row in before if row["fingerprint"] not in here)
    lost = (gone - instead).total()
    if lost:
      raise UserError(
          f"--record: {folder.name} has {lost} rows of {stage} that {workdir} "
          "does not have; nothing was recorded. Go on to the end, or begin with "
          "--from-record in a new workdir")


def _lane(row: Row) -> tuple[Any, ...]:
  """What a row is of: a net of the recipe, with its overrides and seed."""
  return row.get("net"), row.get("seed"), strict.dumps(row["overrides"])


def _copy(
    source: pathlib.Path, target: pathlib.Path, left_out: Sequence[str]
) -> None:
  """Copies rows, or one JSON object, without some of their keys."""
  if not left_out:
    shutil.copy(source, target)
    return
  kept = lambda told: {key: value for key, value in told.items()
                       if key not in left_out}
  if source.suffix == ".jsonl":
    rows = report.read(source.parent, source.name)
    target.write_text("".join(strict.dumps(kept(row)) + "\n" for row in rows))
  else:
    write(target, kept(report.side_file(source.parent, source.name)))


def write(file: pathlib.Path, told: dict[str, Any]) -> None:
  """Writes one JSON object."""
  # Not checkpoint.write_json: that imports jax, which must not start before the
  # sweeps have set it up.
  file.write_text(strict.dumps(told, indent=2) + "\n")


def generate(name: str, folder: pathlib.Path) -> None:
  """Makes a study's tables, plots and verdict from the rows in `folder`."""
  module, rows = study(name), committed(folder)
  pages = [module.conclude(rows) + sources.files(folder)]
  (folder / "conclusion.md").write_text(pages[0])
  if hasattr(module, "REFERENCE"):
    report.write(folder, reference=module.REFERENCE, linked=sources.linked)
    pages.append((folder / "table.md").read_text())
  if hasattr(module, "pictures"):
    module.pictures(rows, folder)
  (folder / sources.PAGE).write_text(sources.page(name, folder, pages))


def documents() -> dict[pathlib.Path, str]:
  """The pages that show all studies, as they are to be."""
  page, readme = ROOT / "README.md", ROOT.parent / "README.md"
  own = report.into(page.read_text(), "index", table())
  front = report.into(readme.read_text(), "index", short())
  return {page: report.into(own, "looked", looked()),
          readme: report.into(front, "headline", headline())}


def headline() -> str:
  """The table that answers the claim the README begins with."""
  name = "hinton15_mnist"
  told = study(name).headline(committed(ROOT / name))
  return told.replace(f"]({sources.PAGE}", f"](experiments/{name}/{sources.PAGE}")


def short() -> str:
  """The tables that are through: claim and what came out, for the front page."""
  lines = [f"{_READING}\n", "| table | the paper's claim | here |", "|---|---|---|"]
  for name in STUDIES:
    rows = committed(ROOT / name)
    if whole(name, _TABLE):
      lines.append(f"| [{name}](experiments/{name}) | {study(name).CLAIM} | "
                   f"{_status(name, rows)} |")
  return "\n".join(lines) + "\n"


def table() -> str:
  """Every table that is reproduced: data, claim, what came out, of how many."""
  lines = [f"{_READING}{_COUNTING}\n",
           "| table | data | unit | the paper's claim | here | n | teachers | "
           "time, + teachers | commit | trained again |",
           "|---|---|---|---|---|--:|--:|--:|---|---|"]
  for name in STUDIES:
    module, rows = study(name), committed(ROOT / name)
    done = rows.get(_TABLE, [])
    lines.append(
        f"| [{name}]({name}) | {module.DATA} | {module.UNIT} | "
        f"{module.CLAIM} | {_status(name, rows)} | {_counts(module, done)} | "
        f"{_time(rows) if done else ''} | {_commits(rows) if done else ''} | "
        f"{_verified(name, rows)} |")
  return "\n".join(lines) + "\n"


def looked() -> str:
  """Which stages chose by held-out data and had the test set evaluated as well."""
  found = []
  for name in STUDIES:
    for stage, part in committed(ROOT / name).items():
      number = sum(row.get("heldout_errors") is not None
                   and row.get("test_errors") is not None
                   and row.get("test_set") != "heldout"
                   and not stage.endswith("teachers") for row in part)
      found += [f"[{name}]({name}), {stage} ({number})"] * bool(number)
  return (
      "Stages that choose do not look at the test set. Of these, which were run "
      "before they were kept from it, it was evaluated too, though nothing was "
      f"chosen by it; so many of their rows have its errors: {'; '.join(found)}.\n")


def _counts(module: ModuleType, done: Sequence[Row]) -> str:
  """Over how many of what a table's means are, and how many teachers cells have.

  A study may say by `OVER` what else than seeds its means are over, and by
  `OWN_TEACHERS` that each seed has a teacher, which its rows do not name.
  """
  noun, key = getattr(module, "OVER", ("", ""))
  units = {row["overrides"][key] if key else row.get("seed")
           for row in done} - {None}
  first = words.origins(done)
  cells: dict[Any, set[Any]] = {}
  for row in done:
    teacher = first.get(row.get("fingerprint", ""), names.teacher(row))
    if getattr(module, "OWN_TEACHERS", False):
      teacher = row.get("seed")
    # Of means over something else its settings may differ.
    cell = "" if key else (row.get("method"), names.identity(row))
    cells.setdefault(cell, set()).update({teacher} - {None})
  all_of_them = len(set().union(*cells.values()))
  most = max(map(len, cells.values()), default=0)
  more = f" ({all_of_them})" if all_of_them > most else ""
  return f"{len(units) or ''}{f' {noun}' * bool(noun)} | {most or ''}{more}"


def _verified(name: str, rows: dict[str, list[Row]]) -> str:
  """What came out of the last row of each kind, on each machine.

  It says nothing of rows that are there no more.
  """
  here = {row.get("fingerprint") for part in rows.values() for row in part}
  last: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for one in verified(name):
    if one["row"] in here:
      last.setdefault((one["outcome"].split()[0], one["machine"]), []).append(one)
  lines = []
  for (_, place), some in last.items():
    one, (errors, again) = some[-1], some[-1]["errors"]
    differ = f", again {again}" if again != errors else ""
    lines.append(f"{counted(len(some), 'row')} {one['outcome']}: {errors} errors"
                 f"{differ}; {place}, {one['date']}, {one['commit'][:7]}")
  shown = "; ".join(lines)
  return f"[{shown}]({name}/{VERIFIED})" if shown else ""


def _status(name: str, rows: dict[str, list[Row]]) -> str:
  """What came out, and what is still to come."""
  told = [study(name).status(rows)] if whole(name, _TABLE) else []
  if (at := under_way(name, rows)) is not None:
    told.append(f"under way: {at.stage}, {at.done}"
                + (f" of {at.asked} runs" if at.asked else " rows"))
  return "; ".join(told) or "not run yet"


def _commits(rows: dict[str, list[Row]]) -> str:
  known = dict.fromkeys(str(row.get("commit"))[:7]
                        for part in _stages(rows).values() for row in part)
  return ", ".join(known)


def _time(rows: dict[str, list[Row]]) -> str:
  """What all rows took together, and their teachers, which studies share.

  On each machine apart: a stage's teachers were trained where its rows were.
  """
  own: dict[str, float] = {}
  taught: dict[str, dict[str, float]] = {}
  for stage, part in _stages(rows).items():
    place = machine(part[0])
    own[place] = own.get(place, 0.0) + sum(map(_seconds, part))
    each = rows.get(teachers_of(stage), ())
    # Ensembles share members, so these are counted, each once.
    members = any(row.get("net") == "member" for row in each)
    taught.setdefault(place, {}).update({
        row["fingerprint"]: _seconds(row) for row in each
        if not members or row.get("net") == "member"
        or (row.get("teacher") or {}).get("count", 1) == 1})
  told = lambda place: " + ".join(
      _long(each) for each in (own[place], sum(taught[place].values())) if each)
  return "; ".join(f"{told(place)} on {place}" for place in sorted(
      own, key=own.__getitem__, reverse=True))


def _stages(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
  """The rows but for those of teachers, the table's first."""
  found = {name: part for name, part in rows.items()
           if part and not name.endswith("teachers")}
  return {_TABLE: found.pop(_TABLE)} | found


def machine(row: Row) -> str:
  """The GPU, if it had one, without the particulars of its name."""
  return (counted(row["cores"], "core") if row["device"] == "cpu"
          else " ".join(row["device"].split()[:2]))


def _seconds(row: Row) -> float:
  return row.get("seconds") or 0.0


def _long(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  return (f"{seconds / 60:.0f} min" if seconds < 3600
          else f"{seconds / 3600:.1f} h")


def main() -> int:
  """Runs the command; returns its exit code."""
  for name in STUDIES:
    if whole(name, _TABLE):
      generate(name, ROOT / name)
  for file, text in documents().items():
    file.write_text(text)
  return 0


if __name__ == "__main__":
  exits.command(lambda _: main())
