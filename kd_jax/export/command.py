"""The command: nets of a run into files, rows and a table."""

from collections.abc import Callable, Sequence
import itertools
import pathlib
from typing import Any

from kd_jax import report
from kd_jax.config import build, sweep
from kd_jax.core import files as files_lib
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.core.words import counted
from kd_jax.export import files, model_card
from kd_jax.export import page as page_lib
from kd_jax.runs import exports, trained
from kd_jax.training import parameters


def run(
    workdir: pathlib.Path, nets: Sequence[str] | None, names: Sequence[str],
    kinds: Sequence[str], folder: pathlib.Path, *, disagreement: float,
    licence: str = model_card.UNCHOSEN, say: Callable[[str], None],
) -> list[dict[str, Any]]:
  """Exports nets of a run; returns the rows, which stand in the folder as well.

  Args:
    workdir: Of a finished run.
    nets: Names; None for the one that the run is about.
    names: Of formats.
    kinds: Of int8.
    folder: Where the files go.
    disagreement: As of `files.write`.
    licence: Of the nets, for their model cards.
    say: Tells the user.

  Raises:
    UserError: If something cannot be exported; what was written before is kept.
  """
  parameters.quiet()
  rows: list[dict[str, Any]] = []
  failed: list[str] = []
  wanted: Sequence[str | None] = list(dict.fromkeys(nets or [])) or [None]
  # All are opened before a file is written: a wrong name is told at once.
  ready = [files.net(workdir, name, say) for name in wanted]
  folder.mkdir(parents=True, exist_ok=True)
  for net, name in itertools.product(ready, names):
    try:
      for row in files.write(
          net, [name], kinds, folder, disagreement=disagreement, say=say):
        exports.record(workdir, [row])
        model_card.write(
            workdir, net.served.card, net.sha256, folder, licence)
        rows.append(row)
    except UserError as error:  # The others are written.
      failed.append(str(error))
  if rows:
    _show(workdir, folder, rows, say)
  if failed:
    raise UserError("\n".join(failed))
  return rows


def _show(workdir, folder, rows, say) -> None:
  """The table on the screen, and the one of the report."""
  Screen().table(
      f"{rows[0]['data']}: errors of {rows[0]['test_examples']:,}, agreement with "
      "the net, and microseconds of 1 and of 64 inputs on one core",
      ["net", "format", "size", "errors", "agree", "1", "64"],
      list(map(_cells, rows)))
  say(f"{counted(len(rows), 'file')} in {folder}, rows in {workdir / exports.NAME}")
  _into_report(workdir)


def _cells(row: dict[str, Any]) -> list[str]:
  """A row for 80 columns; the report has all of it."""
  net, name, kind, size, _, agreement, one, many, _ = exports.cells(row)
  return [net, name if kind == "none" else f"{name} {kind}", size,
          f"{row['test_errors']:,}", agreement, one, many]


def _into_report(workdir: pathlib.Path) -> None:
  """Writes the run's page again, if it has one, now with the files."""
  if not (workdir / "report.html").is_file():
    return
  reference = dict(trained.config(workdir)["sweep.reference"])
  there = any(sweep.matches(row["overrides"], reference)
              for row in report.read(workdir))
  report.write(workdir, reference=reference if there else None)


def page(
    workdir: pathlib.Path, nets: Sequence[str] | None, web: pathlib.Path | None,
    folder: pathlib.Path, *, say: Callable[[str], None],
) -> pathlib.Path:
  """Writes `page.html`, on which nets of a run are tried by hand.

  Args:
    workdir: Of a finished run of images.
    nets: Names; None for the one that the run is about and its teacher.
    web: Where npm has put onnxruntime-web; None to load it from the network.
    folder: Where the files go.
    say: Tells the user.

  Raises:
    UserError: If there is no such net, it takes no images of uint8, or cannot be
      exported.
  """
  runtime = page_lib.runtime(web) if web else None
  names = nets or _both(workdir)
  opened = [trained.load(workdir, name) for name in names]
  shape = opened[0].shape
  if len(shape) != 3 or shape[-1] not in (1, 3) or opened[0].dtype != "uint8":
    raise UserError(
        f"--page: {names[0]} takes {opened[0].dtype} of {shape}; a page draws "
        "images of uint8 with 1 or 3 channels")
  rows = run(workdir, names, ["onnx"], [], folder, disagreement=0.0, say=say)
  shown = []
  for row, net in zip(rows, opened, strict=True):
    held = files.without_dead(net).variables.params
    number = parameters.num_parameters(held)
    shown.append(page_lib.Shown(
        row["net"], (folder / row["file"]).read_bytes(), net.classes, net.shape, {
            "test errors": f"{row['test_errors']:,} of {row['test_examples']:,}",
            "size": exports.size(row["bytes"]), "parameters": f"{number:,}"}))
  test = build.dataset(net.values, say=lambda line: None).test
  file = folder / "page.html"
  files_lib.write(file, page_lib.page(
      shown, runtime, test.inputs[:page_lib.MOST],
      test.label[:page_lib.MOST],
      title=f"{rows[0]['data']}: " + " and ".join(each.name for each in shown)))
  needs = "works without a network" if runtime else (
      "loads onnxruntime-web from the network; --web=DIR puts it in")
  say(f"{file}: {needs}")
  return file


def _both(workdir: pathlib.Path) -> list[str]:
  """The net that a run is about, after a teacher that is kept."""
  student = trained.load(workdir).name
  teachers = [name for name in ("teacher", "teacher_0")
              if (workdir / "parameters" / name).is_dir() and name != student]
  return [*teachers[:1], student]
