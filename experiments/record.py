"""Turns a finished run into rows of a study.

  python -m experiments.record runs/mnist --study=experiments/mnist --row=default

Reads the run's own records; a run that is in the study already is not added
again.
"""

import pathlib
import sys

from kd_jax import methods, report
from kd_jax.core import exits, strict
from kd_jax.core.errors import Parser, UserError


def rows(workdir: pathlib.Path, study: str, name: str) -> list[report.Row]:
  """A row for each net of a finished run, the teachers' first.

  Raises:
    UserError: If the run is not finished.
  """
  if not (workdir / "summary.json").is_file():
    raise UserError(f"{workdir}: not a finished run: it has no summary.json")
  found = report.read(workdir)
  shared = {key: found[-1][key] for key in (
      "data", "commit", "dirty", "versions", "device", "cores", "teacher_seed")}
  rows_of = [row | {"curve": row["curve"]["test_errors"]} for row in found]
  if (workdir / "teachers.jsonl").is_file():
    rows_of = [
        {**shared, "method": "hard", "loss": methods.METHODS["hard"].formula,
         "seed": shared["teacher_seed"], **row, "curve": _curve(workdir, row)}
        for row in report.read(workdir, "teachers.jsonl")
        if row["net"] == "teacher"] + rows_of
  # Rows without overrides are those of main runs.
  return [{key: value for key, value in row.items() if key != "overrides"} | {
      "study": study, "row": name, "source": row["data"]} for row in rows_of]


def _curve(workdir: pathlib.Path, row: report.Row) -> list[int]:
  """Test errors of a net by epoch; the workdir may have seen other runs before."""
  return [line["test_errors"] for line in report.read(workdir, "metrics.jsonl")
          if line.get("fingerprint") == row["fingerprint"][:16]
          and "epoch" in line]


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = Parser(
      prog="python -m experiments.record", description=__doc__.splitlines()[0])
  parser.add_argument("workdir", type=pathlib.Path, help="a finished run")
  parser.add_argument("--study", type=pathlib.Path, required=True)
  parser.add_argument("--row", required=True, help="name of the table's line")
  arguments = parser.parse_args(argv)
  file = arguments.study / "results.jsonl"
  known = set()
  if file.is_file():
    known = {(r["row"], r["net"], r["fingerprint"])
             for r in report.read(arguments.study)}
  try:
    found = rows(arguments.workdir, arguments.study.name, arguments.row)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  with file.open("a") as out:
    for row in found:
      if (row["row"], row["net"], row["fingerprint"]) not in known:
        out.write(strict.dumps(row) + "\n")
  return 0


if __name__ == "__main__":
  exits.command(main)
