"""The studies, and what is committed of them: rows, and all that rows generate.

  python -m experiments.index

makes every table, verdict and the index anew from the committed rows.
"""

from collections.abc import Sequence
import importlib
import pathlib
import shutil
import sys
from types import ModuleType

from kd_jax import report
from kd_jax.report import Row

ROOT = pathlib.Path(__file__).parent
STUDIES = ("hinton15_mnist", "hinton15_omitted", "hinton15_regulariser",
           "hinton15_temperature", "open_mnist")
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
  for stage in stages:
    rows, teachers = ("results", "teachers") if stage == _TABLE else (
        stage, f"{stage}_teachers")
    shutil.copy(workdir / stage / "results.jsonl", folder / f"{rows}.jsonl")
    if (workdir / stage / "teachers.jsonl").is_file():
      shutil.copy(workdir / stage / "teachers.jsonl",
                  folder / f"{teachers}.jsonl")
  if (workdir / _TABLE / "teacher.json").is_file():
    shutil.copy(workdir / _TABLE / "teacher.json", folder / "teacher.json")
  generate(name, folder)
  for file, text in documents().items():
    file.write_text(text)


def generate(name: str, folder: pathlib.Path) -> None:
  """Makes a study's tables, plots and verdict from the rows in `folder`."""
  module, rows = study(name), committed(folder)
  if _sweep(rows[_TABLE]):
    report.write(folder, reference=getattr(module, "REFERENCE", None))
  if hasattr(module, "pictures"):
    module.pictures(rows, folder)
  (folder / "conclusion.md").write_text(module.conclude(rows))


def documents() -> dict[pathlib.Path, str]:
  """The pages that show several studies, as they are to be."""
  front, page = ROOT.parent / "README.md", ROOT / "README.md"
  texts = {front: front.read_text(), page: page.read_text()}
  texts[page] = report.into(texts[page], "index", table())
  for name in STUDIES:
    rows, module = committed(ROOT / name), study(name)
    if rows.get(_TABLE) and hasattr(module, "overview"):
      texts[front] = report.into(texts[front], name, module.overview(rows))
  return texts


def table() -> str:
  """Every table that is reproduced: claim, command, status, time."""
  lines = ["| table | claim | ours | commit | hours on 2 cores | command |",
           "|---|---|---|---|--:|---|"]
  for name in STUDIES:
    module, rows = study(name), committed(ROOT / name)
    done = rows.get(_TABLE, [])
    status = module.status(rows) if done else "not run yet"
    lines.append(
        f"| [{name}]({name}) | {module.CLAIM} | {status} | {_commits(done)} | "
        f"{_hours(rows)} | `python -m experiments.reproduce {name}` |")
  return "\n".join(lines) + "\n"


def _commits(rows: Sequence[Row]) -> str:
  known = dict.fromkeys(str(row.get("commit"))[:7] for row in rows)
  return ", ".join(known)


def _hours(rows: dict[str, list[Row]]) -> str:
  """What all rows took together, teachers included once."""
  seconds = sum(row.get("seconds") or 0.0 for part in rows.values()
                for row in part if row.get("net") != "member")
  return f"{seconds / 3600:.1f}" if seconds else ""


def _sweep(rows: Sequence[Row]) -> bool:
  """Whether rows are lanes of a sweep, which `kd_jax.report` can show."""
  return all("lanes" in row for row in rows)


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
