"""`python -m kd_jax.report STUDY`: the door of the reports.

`python -m kd_jax.report merge DIR... --out OUT` joins what shards have left.
"""

import gc
import pathlib
import shutil
import sys
import tempfile
from typing import Any

from kd_jax import report
from kd_jax.core import exits, files, strict
from kd_jax.core.errors import Parser, UserError, printable
from kd_jax.report import fields, statistics
from kd_jax.runs import results


def _reference(words: list[str]) -> dict[str, Any] | None:
  """`["alpha=0"]` as `{"alpha": 0}`; what is not JSON stays text."""
  found = {}
  for word in words:
    key, equals, value = word.partition("=")
    if not (key and equals and value):
      raise UserError(
          f"--reference {word}: give KEY=VALUE, such as --reference alpha=0")
    try:
      found[key] = strict.loads(value)
    except ValueError:
      found[key] = value
  return found or None


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.report", description="Makes tables, plots and (for a "
      "sweep) a page from the results.jsonl in the folder of a run or study. "
      "Beside a study.py, which makes the others, it is the page alone.",
      epilog="python -m kd_jax.report merge DIR... --out OUT joins the rows of "
      "the parts (shards) of a sweep in OUT, and makes the same files there.")
  parser.add_argument("study", type=pathlib.Path, help="folder with results.jsonl")
  parser.add_argument(
      "--readme", type=pathlib.Path, metavar="FILE",
      help="also replace the table between the markers of this file")
  parser.add_argument(
      "--all", action="store_true",
      help="show all rows, not only those of the last sweep in the folder")
  parser.add_argument(
      "--reference", action="append", default=[], metavar="KEY=VALUE",
      help="setting to compare the other points of a sweep with, such as "
      "alpha=0; may be given several times")
  parser.add_argument(
      "--compare", nargs=2, metavar="FINGERPRINT",
      help="only print McNemar's exact test of two nets; each is given by the "
      "first characters of its fingerprint in results.jsonl")
  return parser


def _generate(
    study: pathlib.Path, reference: dict[str, Any] | None, everything: bool
) -> str:
  """Writes the files of a study; returns its table."""
  file = study / "results.jsonl"
  if not file.is_file():
    raise UserError(f"{file}: there is no such file")
  rows, others = results.split(study, fields.reader(everything=everything))
  if not gc.isenabled():  # As in the command: figures alone are then searched.
    gc.freeze()
  found = [*rows, *others] if everything else rows
  if not found:
    raise UserError(f"{file}: has no rows yet")
  sweeps = sum("overrides" in row for row in found)
  mains = sum("net" in row and "overrides" not in row for row in found)
  if sweeps + mains < len(found) or (sweeps and mains):
    raise UserError(
        f"{file}: {sweeps} rows of a sweep (overrides), {mains} of main runs "
        f"(net), {len(found) - sweeps - mains} of neither; keep one kind")
  if sweeps:
    with tempfile.TemporaryDirectory() as scratch:
      # What makes the files of a committed study makes them in its own way.
      made = (study / "study.py").is_file()
      out = pathlib.Path(scratch) if made else study
      report.write_rows(
          study, rows, others, reference=reference or _configured(study),
          everything=everything, out=out)
      if made:
        shutil.move(out / "report.html", study / "report.html")
        print(f"{study} has a study.py, which makes its tables and pictures: only "
              "report.html is written", file=sys.stderr)
      return (out / "table.md").read_text(encoding="utf-8")
  if reference:
    raise UserError(
        f"--reference: {file} holds main runs; only sweeps have a reference")
  rows = [fields.complete(row, f"{file}, row {number}")
          for number, row in enumerate(rows, 1)]
  generated = report.table(rows)
  files.write(study / "table.md", generated)
  if any(row["row"] == "paper" for row in rows):
    report.curves(rows, study / "curves.png", name="paper")
  return generated


def _into(readme: pathlib.Path, study: str, generated: str) -> bytes:
  """A README with the table between its markers; no other byte is another.

  The table gets the file's ends of lines. In a file that is not UTF-8 it must be
  plain ASCII.

  Raises:
    UserError: If there is no such file or no such place in it, or the table cannot
      be written in its encoding.
  """
  if not readme.is_file():
    what = "is no file" if readme.exists() else "there is no such file"
    raise UserError(f"--readme {readme}: {what}")
  content = readme.read_bytes()
  try:
    content.decode("utf-8")
  except UnicodeDecodeError:
    if not generated.isascii():
      raise UserError(
          f"--readme {readme}: is not UTF-8, and the table has characters beyond "
          "ASCII; save the file as UTF-8") from None
  # Latin-1 has a character for each byte.
  as_bytes = lambda text: text.encode().decode("latin-1")
  try:
    return report.into(content.decode("latin-1"), as_bytes(study),
                       as_bytes(generated)).encode("latin-1")
  except UserError as error:
    raise UserError(f"--readme {readme}: {error}") from None


def _configured(study: pathlib.Path) -> dict[str, Any] | None:
  """The reference that the sweep itself named, if it did."""
  config = report.side_file(study, "config.json") or {}
  try:
    return dict(config.get("sweep.reference") or ()) or None
  except (AttributeError, TypeError, ValueError):
    raise UserError(f"{study / 'config.json'}: is not a config of kd_jax") from None


def _compare(study: pathlib.Path, names: list[str]) -> str:
  """McNemar's test of two nets, in a line."""
  nets = []
  for name in names:
    found = [row for rows in results.split(study) for row in rows
             if str(row.get("fingerprint", "")).startswith(name)]
    if len(found) != 1:
      raise UserError(
          f"--compare {name}: {len(found)} rows have a fingerprint that begins "
          "so; the page and results.jsonl list them")
    ids = found[0].get("test_wrong_ids")
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
      raise UserError(f"--compare {name}: its row has no list of the examples that "
                      "it gets wrong, test_wrong_ids")
    nets.append(found[0])
  test = statistics.mcnemar(*(net["test_wrong_ids"] for net in nets))
  text = [f"{net.get('row')}, seed {net.get('seed')}: "
          f"{len(net['test_wrong_ids'])} errors" for net in nets]
  return (f"{text[0]}\n{text[1]}\nonly the first is wrong on {test.only_first}, "
          f"only the second on {test.only_second}; exact McNemar p = {test.p:.3g} "
          "(of these two nets, not of their methods)\n")


def _merge(argv: list[str]) -> int:
  """Joins folders, makes the tables, and says what is missing."""
  parser = Parser(
      prog="python -m kd_jax.report merge",
      description="Joins the rows of the parts (shards) of a sweep in the folder "
      "OUT, with the rows that are already there, and says what is missing.")
  parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="DIR",
                      help="workdir of a part")
  parser.add_argument("--out", required=True, type=pathlib.Path,
                      help="folder for the whole sweep")
  arguments = parser.parse_args(argv)
  # What the plan says needs jax, which those who only read do without.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.config.sweep import matches
  from kd_jax.runs import merge
  try:
    text = merge.merge(arguments.folders, arguments.out)
    reference = _configured(arguments.out) or {}
    there = any(matches(row["overrides"], reference)
                for row in report.read(arguments.out))
    report.write(arguments.out, reference=reference if there else None)
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  print(printable((arguments.out / "table.md").read_text(encoding="utf-8")))
  print(text)
  return 0


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  argv = sys.argv[1:] if argv is None else argv
  if argv[:1] == ["merge"]:
    return _merge(argv[1:])
  arguments = _parser().parse_args(argv)
  try:
    if arguments.compare:
      print(_compare(arguments.study, arguments.compare), end="")
      return 0
    # By its full name: of `.` the last part would be empty.
    name = arguments.study.resolve().name
    if arguments.readme:
      _into(arguments.readme, name, "")  # What cannot be is refused first.
    generated = _generate(
        arguments.study, _reference(arguments.reference), arguments.all)
    if arguments.readme:
      arguments.readme.write_bytes(_into(arguments.readme, name, generated))
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  print(printable(generated), end="")
  return 0


if __name__ == "__main__":
  gc.disable()  # Of 100,000 rows it would look at each again and again.
  exits.command(main)
