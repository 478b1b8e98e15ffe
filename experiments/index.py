"""The studies, and what is committed of them: rows, and all that rows generate.

  python -m experiments.index

makes every table, verdict and the index anew from the committed rows.
"""

from collections.abc import Sequence
import importlib
import json
import pathlib
import shutil
import sys
from types import ModuleType

from kd_jax import report
from kd_jax.report import Row

ROOT = pathlib.Path(__file__).parent
STUDIES = ("hinton15_mnist", "hinton15_omitted", "hinton15_regulariser",
           "hinton15_specialists", "hinton15_speech", "hinton15_temperature",
           "keras_example", "methods_mnist", "open_mnist")
_TABLE = "table"


def study(name: str) -> ModuleType:
  """The module of a study."""
  return importlib.import_module(f"experiments.{name}.study")


def stage_rows(folder: pathlib.Path) -> dict[str, list[Row]]:
  """The rows of a stage's workdir and of its teachers, as far as there are any."""
  teachers = "teachers" if folder.name == _TABLE else f"{folder.name}_teachers"
  return {name: report.read(folder, file) if (folder / file).is_file() else []
          for name, file in ((folder.name, "results.jsonl"),
                             (teachers, "teachers.jsonl"))}


def committed(folder: pathlib.Path) -> dict[str, list[Row]]:
  """The rows of a study's folder, by stage; none if it is not recorded yet."""
  stages = {file.stem: report.read(folder, file.name)
            for file in sorted(folder.glob("*.jsonl"))}
  if "results" in stages:
    stages[_TABLE] = stages.pop("results")
  return {"teachers": [], **stages}


def record(name: str, stages: Sequence[str], workdir: pathlib.Path) -> None:
  """Copies the rows of a finished study into its folder; makes all else anew."""
  folder = ROOT / name
  not_committed = getattr(study(name), "NOT_COMMITTED", {})
  for stage in stages:
    rows, teachers = ("results", "teachers") if stage == _TABLE else (
        stage, f"{stage}_teachers")
    left_out = not_committed.get(stage, ())
    _copy(workdir / stage / "results.jsonl", folder / f"{rows}.jsonl", left_out)
    if (workdir / stage / "teachers.jsonl").is_file():
      _copy(workdir / stage / "teachers.jsonl", folder / f"{teachers}.jsonl",
            left_out)
  if hasattr(study(name), "REFERENCE"):
    _copy(workdir / _TABLE / "teacher.json", folder / "teacher.json",
          not_committed.get(_TABLE, ()))
  # All of them: a verdict may stand on another study's rows.
  main()


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
    target.write_text("".join(json.dumps(kept(row)) + "\n" for row in rows))
  else:
    told = report.side_file(source.parent, source.name)
    target.write_text(json.dumps(kept(told), indent=2) + "\n")


def generate(name: str, folder: pathlib.Path) -> None:
  """Makes a study's tables, plots and verdict from the rows in `folder`."""
  module, rows = study(name), committed(folder)
  if hasattr(module, "REFERENCE"):
    report.write(folder, reference=module.REFERENCE)
  if hasattr(module, "pictures"):
    module.pictures(rows, folder)
  (folder / "conclusion.md").write_text(module.conclude(rows))


def documents() -> dict[pathlib.Path, str]:
  """The pages that show all studies, as they are to be."""
  found = {}
  for page, prefix in ((ROOT.parent / "README.md", "experiments/"),
                       (ROOT / "README.md", "")):
    found[page] = report.into(page.read_text(), "index", table(prefix))
  return found


def table(prefix: str = "") -> str:
  """Every table that is reproduced: claim, what came out, command, time."""
  lines = ["| table | the paper's claim | here | hours on 2 cores, + teachers | "
           "commit |",
           "|---|---|---|--:|---|"]
  for name in STUDIES:
    module, rows = study(name), committed(ROOT / name)
    done = rows.get(_TABLE, [])
    status = module.status(rows) if done else "not run yet"
    lines.append(
        f"| [{name}]({prefix}{name}) | {module.CLAIM} | {status} | "
        f"{_hours(rows) if done else ''} | {_commits(done)} |")
  return "\n".join(lines) + "\n"


def _commits(rows: Sequence[Row]) -> str:
  known = dict.fromkeys(str(row.get("commit"))[:7] for row in rows)
  return ", ".join(known)


def _hours(rows: dict[str, list[Row]]) -> str:
  """What all rows took together, and their teachers, which studies share."""
  teachers = {row["fingerprint"]: row for name, part in rows.items()
              if name.endswith("teachers") for row in part
              if row.get("net") != "member"}
  own = [row for name, part in rows.items() if not name.endswith("teachers")
         for row in part]
  hours = lambda of: sum(row.get("seconds") or 0.0 for row in of) / 3600
  return f"{hours(own):.1f} + {hours(teachers.values()):.1f}"


def main() -> int:
  """Runs the command; returns its exit code."""
  for name in STUDIES:
    if committed(ROOT / name).get(_TABLE):
      generate(name, ROOT / name)
  for file, text in documents().items():
    file.write_text(text)
  return 0


if __name__ == "__main__":
  sys.exit(main())
