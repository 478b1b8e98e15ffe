"""The table and the curves of main runs: the rows that name a net."""

from collections.abc import Iterable
import pathlib
from typing import Any

from kd_jax.report import statistics

Row = dict[str, Any]

# Hinton, Vinyals & Dean (2015), section 3: errors of 10,000.
PAPER = {("paper", "teacher"): 67, ("paper", "baseline"): 146,
         ("paper", "distilled"): 74}
# Okabe & Ito's palette, told apart by the colour-blind too.
_COLOURS = {"teacher": "#000000", "baseline": "#D55E00", "distilled": "#0072B2"}


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
    errors = statistics.summary([row["test_errors"] for row in distinct])
    shown = f"{errors.mean:.0f}"
    if errors.high is not None:
      shown = f"{errors.mean:.1f} ± {errors.high - errors.mean:.1f}"
    seconds = statistics.summary([row["seconds"] for row in distinct]).mean
    agreement = [row["agreement"] for row in distinct if "agreement" in row]
    cells = [
        name, net, members[0]["loss"], shown, f"{number:,}", str(len(distinct)),
        str(PAPER.get((name, net), "")) if source != "embedded" else "",
        f"{100 * statistics.summary(agreement).mean:.2f}%" if agreement else "",
        f"{seconds:.0f}", source]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines) + "\n"


def curves(rows: Iterable[Row], path: pathlib.Path, *, name: str) -> None:
  """Test errors by epoch, a line a net and seed, of the rows called `name`."""
  import matplotlib  # pylint: disable=g-import-not-at-top
  matplotlib.use("agg")
  from matplotlib import pyplot  # pylint: disable=g-import-not-at-top
  figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=120)
  known: set[str] = set()
  for row in rows:
    if row["row"] != name or row["net"] not in _COLOURS or (
        row["net"] == "teacher" and "teacher" in known):
      continue
    label = None if row["net"] in known else row["net"]
    known.add(row["net"])
    curve = row.get("curve", [])
    axes.plot(range(1, len(curve) + 1), curve, color=_COLOURS[row["net"]],
              label=label, linewidth=1.0)
  axes.set(xscale="log", yscale="log", xlabel="epoch",
           ylabel="test errors of 10,000",
           title="MNIST, variant paper: test errors while training")
  axes.grid(True, which="both", linewidth=0.3)
  axes.legend()
  figure.tight_layout()
  figure.savefig(path, metadata={"Software": None})
  pyplot.close(figure)
