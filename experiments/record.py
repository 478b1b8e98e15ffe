"""Turns a finished run into rows of a study.

  python -m experiments.record runs/mnist --study=experiments/mnist --row=default

Reads the run's own records; a run that is in the study already is not added
again.
"""

import json
import pathlib
import sys

from kd_jax import methods, report
from kd_jax.core.errors import Parser, UserError
from kd_jax.runs import records


def rows(workdir: pathlib.Path, study: str, name: str) -> list[report.Row]:
  """A row for each net of a finished run.

  Raises:
    UserError: If the run is not finished.
  """
  try:
    summary, manifest, config = (
        json.loads((workdir / file).read_text())
        for file in ("summary.json", "manifest.json", "config.json"))
  except OSError as error:
    raise UserError(f"{workdir}: not a finished run: {error}") from None
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  epochs = [json.loads(line) for line in lines]
  result = []
  for net in ("teacher", "baseline", "distilled"):
    if net not in summary:
      continue
    record = summary[net]
    method = config["method"] if net == "distilled" else "hard"
    own = record["fingerprint"][:16]
    # A workdir may have seen other runs before: only this one's epochs count.
    curve = {r["epoch"]: r["test_errors"] for r in epochs
             if r["net"] == net and r.get("fingerprint", own) == own
             and "epoch" in r}
    kept = ("fingerprint", "test_errors", "test_examples", "test_nll",
            "test_ece", "heldout_errors", "agreement", "kl", "parameters",
            "parameters_sha256", "seconds", "test_wrong_ids")
    result.append({
        "schema": records.SCHEMA, "study": study, "row": name, "net": net,
        "method": method,
        "loss": record.get("loss", methods.METHODS["hard"].formula),
        "source": summary["dataset"]["source"],
        "seed": config["teacher.seed" if net == "teacher" else "seed"],
        "teacher_seed": config["teacher.seed"],
        "teacher_fingerprint": summary.get("teacher", {}).get("fingerprint"),
        **{key: record[key] for key in kept if key in record},
        "curve": [curve[epoch] for epoch in sorted(curve)],
        "commit": manifest["commit"], "dirty": manifest["dirty"],
        "versions": manifest["versions"], "device": manifest["device"],
        "cores": manifest["cores"]})
  return result


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
    known = {(r["row"], r["net"], r["fingerprint"], r["seed"])
             for r in report.read(arguments.study)}
  try:
    found = rows(arguments.workdir, arguments.study.name, arguments.row)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  with file.open("a") as out:
    for row in found:
      if (row["row"], row["net"], row["fingerprint"], row["seed"]) not in known:
        out.write(json.dumps(row) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
