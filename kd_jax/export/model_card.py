"""What a file is, for whoever finds it: the model card that hubs show."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import pathlib
from typing import Any

from kd_jax.core import files as files_lib
from kd_jax.core import strict
from kd_jax.core.errors import UserError
from kd_jax.report import statistics
from kd_jax.runs import exports, results, trained

# The licence of a net whose owner has not chosen one, as hubs call it.
UNCHOSEN = "other"
# By the first letter of the inputs' dtype: what the net does, as hubs call it.
_TASKS = {"f": "tabular-classification", "i": "text-classification",
          "u": "image-classification"}

# Of each format what reads it, and five lines, of NAME and an array of INPUTS.
_USES = {
    "litert": ("pip install ai-edge-litert", """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter
inputs = INPUTS  # one at a time
found = Interpreter("NAME").get_signature_runner()(inputs=inputs)
logits, probabilities = found["logits"], found["probabilities"]"""),
    "onnx": ("pip install onnxruntime", """\
import numpy as np
import onnxruntime
inputs = INPUTS  # any number
session = onnxruntime.InferenceSession("NAME")
logits, probabilities = session.run(None, {"inputs": inputs})"""),
    "stablehlo": ("pip install jax, of a version near to that above", """\
import pathlib
import numpy as np
from jax import export
program = export.deserialize(bytearray(pathlib.Path("NAME").read_bytes()))
logits, probabilities = program.call(INPUTS)  # any number"""),
    "npz": ("pip install numpy", """\
import numpy as np
arrays = dict(np.load("NAME"))
from kd_jax.export.arrays import load_variables  # or, for Flax:
variables = load_variables("NAME")"""),
    "safetensors": ("pip install safetensors", """\
from safetensors.numpy import load_file
arrays = load_file("NAME")
from kd_jax.export.arrays import load_variables  # or, for Flax:
variables = load_variables("NAME")""")}


def write(
    workdir: pathlib.Path, card: Mapping[str, Any], sha256: str,
    folder: pathlib.Path, known: Sequence[dict[str, Any]],
) -> pathlib.Path:
  """Writes `folder/NET.md` of a net and of its files in a folder.

  Args:
    workdir: Of the run, whose records say what the net is.
    card: What the files say of it.
    sha256: Of its parameters as they are exported: without what was pruned.
    folder: Where they are.
    known: Rows of exported files; those of the net say its licence.

  Returns:
    The card's file.
  """
  net = card["net"]
  record = trained.record(workdir, net)
  own = [row for row in known if row["net"] == net]
  licence = next((row["licence"] for row in own if "licence" in row), UNCHOSEN)
  rows = [row for row in own
          if row.get("parameters_sha256") == sha256
          and row.get("file") and (folder / row["file"]).is_file()]
  more = [f"- Arithmetic: {card['arithmetic']}."] if "arithmetic" in card else []
  if record.get("parameters_sha256", sha256) != sha256:
    more.append("- The files are without units that are always 0.")
  # Of the best epoch its run knows held-out errors alone.
  record = {key: row[key] for row in rows[:1] for key in (
      "test_errors", "test_examples") if row["int8"] == "none"} | record
  file = folder / f"{net}.md"
  with files_lib.replacing(file) as fresh:
    files_lib.write(fresh, "\n".join([
        *_front(card, record, rows, licence), "", *_about(workdir, card, record),
        *more, "", *_licence(licence), "", *_files(rows), "",
        *_use(card, rows)]) + "\n")
  return file


def _front(
    card: Mapping[str, Any], record: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]], licence: str,
) -> Iterator[str]:
  """The lines that hubs read. JSON is YAML too, so no name can break them."""
  task, data = _task(card), json.dumps(card["data"])
  yield from ("---", f"license: {licence}")
  if licence == UNCHOSEN:
    yield "license_name: not-chosen"
  yield from (f"pipeline_tag: {task}", "tags:", "- knowledge-distillation", "- jax")
  yield from (f"- {name}" for name in dict.fromkeys(row["format"] for row in rows))
  yield from ("datasets:", f"- {data}", "metrics:", "- accuracy")
  if record.get("test_examples"):
    accuracy = 1 - record["test_errors"] / record["test_examples"]
    yield from (
        "model-index:", f"- name: {json.dumps(card['net'])}", "  results:",
        f"  - task: {{type: {task}}}",
        f"    dataset: {{name: {data}, type: {data}}}",
        f"    metrics: [{{type: accuracy, value: {accuracy:.6g}}}]")
  yield "---"


def _task(card: Mapping[str, Any]) -> str:
  shape, dtype = card["input"]["shape"], card["input"]["dtype"]
  return _TASKS["u" if len(shape) == 4 else dtype[0]]


def _about(
    workdir: pathlib.Path, card: Mapping[str, Any], record: Mapping[str, Any]
) -> Iterator[str]:
  """What the net is, by the records of its run."""
  last = card["net"].removesuffix(trained.BEST) if _is_best(record) else None
  row = _row(workdir, trained.record(workdir, last) if last else record)
  made = _json(workdir / "manifest.json")
  versions = row.get("versions") or made.get("versions", {})
  identity = record.get("identity", {})
  kind = identity.get("student.name") or identity.get("teacher.name")
  shape = " x ".join(map(str, card["input"]["shape"][1:]))
  data = made.get("data", {})
  commit = row.get("commit") or made.get("commit")
  dirty = row.get("dirty", made.get("dirty"))
  yield from (
      f"# {card['net']}", "",
      f"A net{f' ({kind})' if kind else ''} that tells {len(card['classes'])} "
      f"classes apart: {', '.join(card['classes'])}. It was trained in the run "
      f"`{card['run']}`.", "")
  yield (f"- Input: {shape}, {card['input']['dtype']}, as the data set stores it; "
         "what is done to it before the net is inside the files that run.")
  used = _json(workdir / "summary.json").get("dataset", {})
  yield (f"- Data: {card['data']}, from {data.get('source', 'an unknown source')}"
         + (f"; {used['train_examples']:,} training examples"
            if "train_examples" in used else "")
         + f". {data.get('notice') or ''}".rstrip())
  yield f"- Teacher: {_teacher(workdir, row)}."
  # A member of the main job's teacher has no other.
  yield (f"- Loss: {row.get('loss', 'cross-entropy with the labels')}." if row else
         "- Loss: not known; the run has no row of this net.")
  if last:
    yield (f"- Epoch: {record['epoch']}, after which {last} had the fewest "
           f"held-out errors, {record['heldout_errors']:,}.")
  yield f"- Test errors: {errors(record)}."
  if "parameters" in record:
    yield (f"- Parameters: {record['parameters']:,} (SHA-256 "
           f"{record.get('parameters_sha256', 'unknown')}).")
  yield (f"- Made by kd_jax {versions.get('kd_jax', card['kd_jax'])}, commit "
         f"{commit or 'unknown'}{' with changes' if dirty else ''}, jax "
         f"{versions.get('jax', 'unknown')}.")


def _is_best(record: Mapping[str, Any]) -> bool:
  """Whether a record is of a net of its best epoch."""
  return "heldout_errors" in record and "parameters_sha256" not in record


def errors(record: Mapping[str, Any]) -> str:
  """Test errors in words.

  Example:
    >>> errors({"test_errors": 74, "test_examples": 10_000})
    '74 of 10,000 (0.74%; 95% binomial interval 0.58% to 0.93%)'
  """
  if not record.get("test_examples"):
    return "not known"
  wrong, of = record["test_errors"], record["test_examples"]
  low, high = statistics.binomial_interval(wrong, of)
  return (f"{wrong:,} of {of:,} ({wrong / of:.2%}; 95% binomial interval "
          f"{low:.2%} to {high:.2%})")


def _row(workdir: pathlib.Path, record: Mapping[str, Any]) -> dict[str, Any]:
  """The row of a net in its run's results: the one with the same parameters."""
  own = record.get("parameters_sha256")
  for name in ("results.jsonl", "teachers.jsonl"):
    with contextlib.suppress(UserError):
      for row in results.read(workdir, name):
        if own and row.get("parameters_sha256") == own:
          return row
  return {}


def _teacher(workdir: pathlib.Path, row: Mapping[str, Any]) -> str:
  """Of whom a net learnt, with their errors."""
  known = row.get("teacher_sha256")
  if not row:
    return "not known; the run has no row of this net"
  if not known:
    return "none; it learnt from labels alone"
  wanted = known if isinstance(known, list) else [known]
  found = []
  for folder in sorted((workdir / "parameters").iterdir()):
    record = _json(folder / "record.json")
    if record.get("parameters_sha256") in wanted:
      found.append(f"{folder.name}, {errors(record)}")
  if found:
    return "; ".join(found)
  summed = _json(workdir / "summary.json").get("teacher", {})
  return f"not kept in the run; test errors: {errors(summed)}"


def _json(file: pathlib.Path) -> dict[str, Any]:
  """What a file of JSON says; nothing if it is none."""
  with contextlib.suppress(OSError, ValueError):
    found = strict.read(file)
    return found if isinstance(found, dict) else {}
  return {}


def _licence(licence: str) -> list[str]:
  if licence != UNCHOSEN:
    return [f"Licence: {licence}. The data have terms of their own."]
  return ["Licence: none is chosen yet. The owner of the run must choose one, by "
          "`--licence=ID`, such as apache-2.0; the data have terms of their own."]


def _files(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """The files as a table."""
  yield from (
      "| file | format | int8 | bytes | test errors | 95% interval | as the net |",
      "|---|---|---|--:|--:|---|--:|")
  for row in rows:
    interval = ""
    if row["test_examples"]:
      low, high = statistics.binomial_interval(
          row["test_errors"], row["test_examples"])
      interval = f"{low:.2%} to {high:.2%}"
    yield (f"| {row['file']} | {row['format']} | {row['int8']} | "
           f"{row['bytes']:,} | {exports.errors(row)} | {interval} | "
           f"{row['agreement']:.2%} |")


def _use(
    card: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
  """How the files of each format are used, in five lines of Python."""
  shape = ", ".join(map(str, card["input"]["shape"][1:]))
  inputs = f"np.zeros((1, {shape}), np.{card['input']['dtype']})"
  for name in dict.fromkeys(row["format"] for row in rows):
    files = [row["file"] for row in rows if row["format"] == name]
    install, lines = _USES[name]
    yield from (
        f"{', '.join(f'`{file}`' for file in files)} ({install}):", "", "```python",
        lines.replace("NAME", files[0]).replace("INPUTS", inputs), "```", "")
