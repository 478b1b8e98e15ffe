"""The command: nets of a run into files, rows and a table."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import os
import pathlib
from typing import Any, NamedTuple

from kd_jax import report
from kd_jax.config import build, sweep
from kd_jax.core import files as files_lib
from kd_jax.core.errors import UserError
from kd_jax.core.screen import Screen
from kd_jax.core.words import counted
from kd_jax.export import files, model_card
from kd_jax.export import page as page_lib
from kd_jax.export.formats import FORMATS
from kd_jax.runs import exports, trained
from kd_jax.training import parameters

Row = dict[str, Any]


class Asked(NamedTuple):
  """What is asked for, beside nets and formats.

  Attributes:
    workdir: Of a finished run.
    folder: Where the files go.
    data: The folder of the run's data set, where that has moved.
    licence: Of the nets; None for the one that was chosen before.
    disagreement: As of `files.write`.
    say: Tells the user.
  """

  workdir: pathlib.Path
  folder: pathlib.Path
  say: Callable[[str], None]
  data: pathlib.Path | None = None
  licence: str | None = None
  disagreement: float = files.DISAGREEMENT

  @property
  def place(self) -> pathlib.Path:
    """Where the rows go: beside the files, if the run may not be written."""
    return self.workdir if os.access(self.workdir, os.W_OK) else self.folder


def run(
    asked: Asked, nets: Sequence[str] | None, names: Sequence[str],
    kinds: Sequence[str],
) -> list[Row]:
  """Exports nets of a run; returns the rows, which stand in a file as well.

  Args:
    asked: Of what, and where to.
    nets: Names; None for the one that the run is about.
    names: Of formats.
    kinds: Of int8.

  Raises:
    UserError: If something cannot be exported; what was written before is kept.
  """
  parameters.quiet()
  # All are opened before a file is written: a wrong name is told at once.
  wanted: Sequence[str | None] = nets or [None]
  ready = [files.net(asked.workdir, name, asked.say, data=asked.data)
           for name in wanted]
  plain = any(not FORMATS[name].runs for name in names)
  rows: list[Row] = []
  failed: list[str] = []
  for net in ready:
    if net.lacking and not plain:
      raise UserError(net.lacking)
    if net.lacking:
      asked.say(f"{net.served.card['net']}: its arrays alone are written, and "
                f"errors are not counted: {net.lacking}")
  with _writable(asked.folder):
    asked.folder.mkdir(parents=True, exist_ok=True)
    for net, name in itertools.product(ready, names):
      rows += _of_format(asked, net, name, kinds, failed)
    if rows:
      _show(asked, rows)
  if failed:
    raise UserError("\n".join(dict.fromkeys(failed)))
  return rows


def _of_format(
    asked: Asked, net: files.Net, name: str, kinds: Sequence[str],
    failed: list[str],
) -> Iterator[Row]:
  """Writes a net in a format; gives rows, and tells `failed` what is not kept."""
  own = net.served.card["net"]
  for kind in ("none", *(kind for kind in kinds if kind in FORMATS[name].int8)):
    gone = False
    try:
      row: Row | None = files.one(
          net, name, kind, asked.folder, disagreement=asked.disagreement,
          say=asked.say)
    except files.Refused as error:  # The others are written.
      failed.append(str(error))
      row, gone = error.older, error.gone
    licence = {} if asked.licence is None else {"licence": asked.licence}
    with exports.in_turn(asked.place):
      if row or gone:
        exports.record(asked.place, [row | licence] if row else [],
                       gone=[(own, name, kind)] if gone else [])
        model_card.write(asked.workdir, net.served.card, net.sha256, asked.folder,
                         exports.read(asked.place))
    if row:
      yield row
    elif kind == "none":
      return  # The others are made of it.


@contextlib.contextmanager
def _writable(folder: pathlib.Path) -> Iterator[None]:
  """Tells in a line which file cannot be written, and what helps."""
  try:
    yield
  except (BrokenPipeError, IsADirectoryError):
    raise
  except OSError as error:
    raise UserError(
        f"{error.filename2 or error.filename or folder}: cannot be written "
        f"({error.strerror or error}); give another folder with --out=DIR"
    ) from None


def _show(asked: Asked, rows: Sequence[Row]) -> None:
  """The table on the screen, and the one of the report."""
  number = next((row["test_examples"] for row in rows if row["test_examples"]), 0)
  Screen().table(
      f"{rows[0]['data']}: errors{f' of {number:,}' if number else ''}, agreement "
      "with the net, and microseconds of 1 and of 64 inputs on one core",
      ["net", "format", "size", "errors", "agree", "1", "64"],
      list(map(_cells, rows)))
  asked.say(f"{counted(len(rows), 'file')} in {asked.folder}, rows in "
            f"{asked.place / exports.NAME}")
  if asked.place == asked.workdir:
    with exports.in_turn(asked.place):
      _into_report(asked.workdir)


def _cells(row: Row) -> list[str]:
  """A row for 80 columns; the report has all of it."""
  net, name, kind, size, errors, agreement, one, many, _ = exports.cells(row)
  return [net, name if kind == "none" else f"{name} {kind}", size,
          errors.partition(" of ")[0], agreement, one, many]


def _into_report(workdir: pathlib.Path) -> None:
  """Writes the run's page again, if it has one, now with the files."""
  if not (workdir / "report.html").is_file():
    return
  reference = dict(trained.config(workdir)["sweep.reference"])
  there = any(sweep.matches(row["overrides"], reference)
              for row in report.read(workdir))
  report.write(workdir, reference=reference if there else None)


def page(
    asked: Asked, nets: Sequence[str] | None, web: pathlib.Path | None
) -> pathlib.Path:
  """Writes `page.html`, on which nets of a run are tried by hand.

  Args:
    asked: Of what run of images, and where to.
    nets: Names; None for the one that the run is about and its teacher.
    web: Where npm has put onnxruntime-web; None to load it from the network.

  Raises:
    UserError: If there is no such net, it takes no images of uint8, or cannot be
      exported.
  """
  runtime = page_lib.runtime(web) if web else None
  names = nets or _both(asked)
  opened = [trained.load(asked.workdir, name, data=asked.data) for name in names]
  shape = opened[0].shape
  if len(shape) != 3 or shape[-1] not in (1, 3) or opened[0].dtype != "uint8":
    raise UserError(
        f"--page: {names[0]} takes {opened[0].dtype} of {shape}; a page draws "
        "images of uint8 with 1 or 3 channels")
  rows = run(asked, names, ["onnx"], [])
  shown = []
  for row, net in zip(rows, opened, strict=True):
    held = files.without_dead(net).variables.params
    number = parameters.num_parameters(held)
    shown.append(page_lib.Shown(
        row["net"], (asked.folder / row["file"]).read_bytes(), net.classes,
        net.shape, {
            "test errors": exports.errors(row),
            "size": exports.size(row["bytes"]), "parameters": f"{number:,}"}))
  test = build.dataset(net.values, say=lambda line: None).test
  file = asked.folder / "page.html"
  with _writable(asked.folder), files_lib.replacing(file) as fresh:
    files_lib.write(fresh, page_lib.page(
        shown, runtime, test.inputs[:page_lib.MOST],
        test.label[:page_lib.MOST],
        title=f"{rows[0]['data']}: " + " and ".join(each.name for each in shown)))
  needs = "works without a network" if runtime else (
      "loads onnxruntime-web from the network; --web=DIR puts it in")
  asked.say(f"{file}: {needs}")
  return file


def _both(asked: Asked) -> list[str]:
  """The net that a run is about, after a teacher that is kept."""
  student = trained.load(asked.workdir, data=asked.data).name
  teachers = [name for name in ("teacher", "teacher_0")
              if (asked.workdir / "parameters" / name).is_dir() and name != student]
  return [*teachers[:1], student]
