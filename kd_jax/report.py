"""Rows to people: tables and pictures, generated from `results.jsonl` alone.

  python -m kd_jax.report experiments/mnist

writes `table.md` and `curves.png` beside the rows, and the same table into the
README between its markers. Nobody types a number into a table.
"""

import argparse
from collections.abc import Iterable, Sequence
import json
import pathlib
import re
import sys
from typing import Any

from kd_jax.errors import UserError

Row = dict[str, Any]

# Hinton, Vinyals & Dean (2015), section 3: errors of 10,000.
PAPER = {("paper", "teacher"): 67, ("paper", "baseline"): 146,
         ("paper", "distilled"): 74}
_MARKERS = ("<!-- results: {} -->", "<!-- end of results -->")
# Okabe & Ito's palette, told apart by the colour-blind too.
_COLOURS = {"teacher": "#000000", "baseline": "#D55E00", "distilled": "#0072B2"}


def read(study: pathlib.Path) -> list[Row]:
  """The rows of a study's folder.

  Raises:
    UserError: If there are none.
  """
  file = study / "results.jsonl"
  if not file.is_file():
    raise UserError(f"{file}: there is no such file")
  lines = file.read_text().splitlines()
  return [json.loads(line) for line in lines if line.strip()]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
  """Mean, and half the width of its 95% t-interval (None for one value).

  Example:
    >>> mean, half = interval([1.0, 2.0, 3.0])  # t(2) = 4.303, s.e. 0.577
    >>> mean, round(half, 3)
    (2.0, 2.484)
  """
  import numpy as np  # pylint: disable=g-import-not-at-top
  from scipy import stats  # pylint: disable=g-import-not-at-top
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, None
  error = float(np.std(values, ddof=1)) / len(values) ** 0.5
  return mean, float(stats.t.ppf(0.975, len(values) - 1)) * error


def table(rows: Iterable[Row]) -> str:
  """A markdown table: a line for each (row, net), seeds gathered."""
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    key = (row["row"], row["net"], row["source"], row["test_examples"])
    groups.setdefault(key, []).append(row)
  lines = ["| config | net | loss | test errors | of | n | paper | agreement | "
           "seconds | data |", "|---|---|---|--:|--:|--:|--:|--:|--:|---|"]
  for (name, net, source, number), members in groups.items():
    # The same teacher serves several seeds of a student: count it once.
    distinct = {row["seed"]: row for row in members}.values()
    errors, half = interval([row["test_errors"] for row in distinct])
    shown = f"{errors:.1f} ± {half:.1f}" if half is not None else f"{errors:.0f}"
    agreement = [row["agreement"] for row in distinct if "agreement" in row]
    cells = [
        name, net, members[0]["loss"], shown, f"{number:,}", str(len(distinct)),
        str(PAPER.get((name, net), "")) if source != "embedded" else "",
        f"{100 * interval(agreement)[0]:.2f}%" if agreement else "",
        f"{interval([row['seconds'] for row in distinct])[0]:.0f}", source]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines) + "\n"


def curves(rows: Iterable[Row], path: pathlib.Path, *, name: str) -> None:
  """Test errors by epoch, a line a net and seed, of the rows called `name`."""
  import matplotlib  # pylint: disable=g-import-not-at-top
  matplotlib.use("agg")
  from matplotlib import pyplot  # pylint: disable=g-import-not-at-top
  figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=120)
  seen: set[str] = set()
  for row in rows:
    if row["row"] != name or (row["net"] == "teacher" and "teacher" in seen):
      continue
    label = None if row["net"] in seen else row["net"]
    seen.add(row["net"])
    epochs = range(1, len(row["curve"]) + 1)
    axes.plot(epochs, row["curve"], color=_COLOURS[row["net"]], label=label,
              linewidth=1.0)
  axes.set(xscale="log", yscale="log", xlabel="epoch",
           ylabel="test errors of 10,000",
           title="MNIST, variant paper: test errors while training")
  axes.grid(True, which="both", linewidth=0.3)
  axes.legend()
  figure.tight_layout()
  figure.savefig(path, metadata={"Software": None})
  pyplot.close(figure)


def into(text: str, study: str, generated: str) -> str:
  """`text` with what lies between the study's markers replaced."""
  begin, end = _MARKERS[0].format(study), _MARKERS[1]
  pattern = re.escape(begin) + r".*?" + re.escape(end)
  return re.sub(pattern, lambda _: f"{begin}\n{generated}{end}", text, count=1,
                flags=re.S)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = argparse.ArgumentParser(
      prog="python -m kd_jax.report", description="Generates the table and the "
      "picture of a study from its results.jsonl.")
  parser.add_argument("study", type=pathlib.Path, help="folder of the study")
  parser.add_argument("--readme", type=pathlib.Path, default="README.md",
                      help="file whose marked table is replaced too")
  arguments = parser.parse_args(argv)
  try:
    rows = read(arguments.study)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  generated = table(rows)
  (arguments.study / "table.md").write_text(generated)
  if any(row["row"] == "paper" for row in rows):
    curves(rows, arguments.study / "curves.png", name="paper")
  readme = arguments.readme
  if readme.is_file():
    readme.write_text(
        into(readme.read_text(), arguments.study.name, generated))
  print(generated, end="")
  return 0


if __name__ == "__main__":
  sys.exit(main())
