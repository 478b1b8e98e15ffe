"""The command: nets of a run into files, rows and a table."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

from kd_jax import report
from kd_jax.config import sweep
from kd_jax.core.screen import Screen
from kd_jax.core.words import counted
from kd_jax.export import files
from kd_jax.runs import exports, trained
from kd_jax.training import parameters


def run(
    workdir: pathlib.Path, nets: Sequence[str] | None, names: Sequence[str],
    kinds: Sequence[str], folder: pathlib.Path, *, disagreement: float,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
  """Exports nets of a run; returns the rows, which stand in the folder as well.

  Args:
    workdir: Of a finished run.
    nets: Names; None for the one that the run is about.
    names: Of formats.
    kinds: Of int8.
    folder: Where the files go.
    disagreement: As of `files.write`.
    say: Tells the user.

  Raises:
    UserError: If something cannot be exported; what was written before is kept.
  """
  parameters.quiet()
  rows: list[dict[str, Any]] = []
  wanted: Sequence[str | None] = nets or [None]
  for name in wanted:
    net = files.net(workdir, name, say)
    folder.mkdir(parents=True, exist_ok=True)
    for row in files.write(
        net, names, kinds, folder, disagreement=disagreement, say=say):
      exports.record(workdir, [row])
      rows.append(row)
  Screen().table(
      f"exports of {rows[0]['data']}; microseconds and memory on one core",
      list(exports.COLUMNS), list(map(exports.cells, rows)))
  say(f"{counted(len(rows), 'file')} in {folder}, rows in {workdir / exports.NAME}")
  _into_report(workdir)
  return rows


def _into_report(workdir: pathlib.Path) -> None:
  """Writes the run's page again, if it has one, now with the files."""
  if not (workdir / "report.html").is_file():
    return
  reference = dict(trained.config(workdir)["sweep.reference"])
  there = any(sweep.matches(row["overrides"], reference)
              for row in report.read(workdir))
  report.write(workdir, reference=reference if there else None)
