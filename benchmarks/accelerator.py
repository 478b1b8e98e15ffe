"""What a lent accelerator can tell, the most valuable first, in a few minutes.

  bash benchmarks/on_accelerator.sh OUT_DIR --minutes=8
  python -m benchmarks.accelerator --record OUT_DIR/accelerator.json
  python -m benchmarks.accelerator --readme benchmarks/README.md

The first measures; the second copies the record beside this file, one a device, and
writes the tables of all devices into the README, as the third does by itself.

Each part runs in a process of its own (`accelerator_parts.py`), so that one that
hangs or breaks costs its own rows only. `OUT_DIR/accelerator.json` is written anew
after every row, so whatever ends the script, what was measured is there. jax is not
imported here.
"""

import argparse
from collections.abc import Iterator
import contextlib
import importlib.util
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

from benchmarks import accelerator_tables, mnist_step, tables
from kd_jax import data as data_lib
from kd_jax.core import strict
from kd_jax.core.errors import Parser, UserError

RECORD = "accelerator.json"
FOLDER = pathlib.Path(__file__).parent
# The parts in order, and their shares of the time.
SHARES = {"ceilings": 2, "step": 4, "lanes": 4, "convolution": 3,
          "nondeterministic": 2, "deterministic": 2}
# Some operations of XLA add up in any order unless they are told not to.
_FLAGS = {"deterministic": "--xla_gpu_deterministic_ops=true"}
# A part ends by itself when its time is over; one that is this much later hangs.
_GRACE_SECONDS = 30.0
# What must be there, by the name under which pip knows it.
_NEEDED = {
    "jax": "jax", "flax": "flax", "optax": "optax", "orbax": "orbax-checkpoint",
    "ml_collections": "ml-collections", "rich": "rich", "scipy": "scipy"}
_WANTED = {"torch": "torch"}
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  args = _parse(argv)
  if args.record:
    print(record(args.record))
  if args.record or args.readme:
    print(tables.put(accelerator_tables.block(records()),
                     args.readme or str(FOLDER / "README.md")))
    return
  if args.out is None:
    raise UserError(
        "give the folder that the record goes to, or --readme, --record")
  for line in missing(args.data):
    print(line, file=sys.stderr, flush=True)
  # So that the part that runs is ended, too.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  measure(args.out, 60 * args.minutes, rehearse=args.rehearse, data=args.data,
          parts=args.parts)


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = Parser(
      prog="python -m benchmarks.accelerator", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("out", nargs="?", type=pathlib.Path,
                      help="folder of the record, which is made anew")
  parser.add_argument("--minutes", type=float, default=8.0,
                      help="time for all parts (default 8)")
  parser.add_argument("--rehearse", action="store_true",
                      help="tiny sizes on whatever there is; measures nothing")
  parser.add_argument("--parts", type=_parts, default=tuple(SHARES),
                      help=f"some of {','.join(SHARES)}")
  parser.add_argument(
      "--data", default=os.environ.get(data_lib.ENVIRONMENT_VARIABLE),
      help="folder of MNIST; default KD_JAX_DATA, else random images")
  parser.add_argument("--record", type=pathlib.Path, metavar="FILE",
                      help="take a record in, and make the tables anew")
  parser.add_argument("--readme", metavar="FILE",
                      help="write the tables of all records into this file")
  return parser.parse_args(argv)


def _parts(text: str) -> tuple[str, ...]:
  names = tuple(text.split(","))
  if not set(names) <= set(SHARES):
    raise argparse.ArgumentTypeError(f"{text}: must be some of {','.join(SHARES)}")
  return names


def missing(data: str | None = None) -> list[str]:
  """A line for each thing that is not there, with what to do.

  Raises:
    UserError: If nothing can be measured without it, or something else would be.
  """
  there = lambda module: importlib.util.find_spec(module) is not None
  absent = lambda names: [pip for module, pip in names.items() if not there(module)]
  if needed := absent(_NEEDED):
    raise UserError(
        f"not installed: {', '.join(needed)}. Where nothing can be fetched, "
        f"bring their wheels: pip download --no-deps {' '.join(needed)}")
  if os.path.exists("/dev/nvidia0") and not any(map(there, _PLUGINS)):
    raise UserError(
        "there is a GPU that jax has no plugin for: pip install 'jax[cuda13]'")
  lines = [f"not installed, its rows are left out: {name}"
           for name in absent(_WANTED)]
  if not data:
    return [*lines, f"{data_lib.ENVIRONMENT_VARIABLE} is not set: images are "
            "random, and the queue has nothing to train on"]
  places = pathlib.Path(data), pathlib.Path(data) / "mnist"
  if all(len(list(place.glob("*-ubyte*"))) < 4 for place in places):
    raise UserError(f"{data}/mnist: must hold MNIST's four files")
  return lines


def measure(
    out: pathlib.Path, seconds: float, *, rehearse: bool = False,
    data: str | None = None, parts: tuple[str, ...] = tuple(SHARES),
) -> None:
  """Measures part after part; the record is on disk after every row."""
  out.mkdir(parents=True, exist_ok=True)
  end = time.monotonic() + seconds
  report: dict = {
      "command": f"python -m benchmarks.accelerator OUT_DIR --minutes="
                 f"{seconds / 60:g} --parts={','.join(parts)}",
      "commit": mnist_step._commit(), "date": time.strftime("%Y-%m-%d"),
      "data": "MNIST" if data else "random images of MNIST's size",
      "rehearsal": rehearse, "machine": {}, "rows": {}, "ended": {}}
  _write(out / RECORD, report)
  for number, part in enumerate(parts):
    left = end - time.monotonic()
    share = left * SHARES[part] / sum(SHARES[name] for name in parts[number:])
    if left <= 0:
      report["ended"][part] = "not begun: the time was over"
    else:
      _tell(f"{part}: {share:.0f} s", end)
      report["ended"][part] = _run(part, share, rehearse, data, report, out, end)
    _write(out / RECORD, report)


def _run(part, seconds, rehearse, data, report, out, end) -> str:
  """Runs a part, and takes its rows in as they come; says how it ended."""
  until = time.monotonic() + seconds  # The same clock in every process.
  spec = {"part": part, "until": until, "rehearse": rehearse,
          "data": data and os.path.abspath(data)}
  flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), _FLAGS.get(part))))
  process = subprocess.Popen(
      [sys.executable, "-m", "benchmarks.accelerator_parts", json.dumps(spec)],
      cwd=mnist_step.ROOT, env=os.environ | {"XLA_FLAGS": flags}, text=True,
      stdout=subprocess.PIPE, start_new_session=True)
  try:
    for line in _lines(process, until + _GRACE_SECONDS):
      row = json.loads(line)
      if "machine" in row:
        report["machine"] = report["machine"] or row["machine"]
      else:
        # A row of a system that broke off keeps what was measured before.
        report["rows"].setdefault(part, {}).setdefault(row.pop("name"), {}).update(
            row)
        _tell(f"  {line.strip()[:150]}", end)
      _write(out / RECORD, report)
    code = process.wait(timeout=_GRACE_SECONDS)
  except (TimeoutError, subprocess.TimeoutExpired):
    return f"ended after {seconds + _GRACE_SECONDS:.0f} s, as it did not by itself"
  finally:
    # With what it started, such as compilers, which would disturb the next part.
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(timeout=10)
  return "through" if code == 0 else f"failed with exit code {code}"


def _lines(process: subprocess.Popen, until: float) -> Iterator[str]:
  """The lines that a process prints; TimeoutError if it is late."""
  lines: queue.Queue[str | None] = queue.Queue()

  def read():
    with process.stdout as stream:
      for line in stream:
        lines.put(line)
    lines.put(None)

  threading.Thread(target=read, daemon=True).start()
  while True:
    try:
      line = lines.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
      raise TimeoutError from None
    if line is None:
      return
    yield line


def _write(file: pathlib.Path, report: dict) -> None:
  """In one piece: a reader, or a kill, finds the old text or the new one."""
  new = file.with_name(f"{file.name}.new")
  new.write_text(strict.dumps(report, indent=1) + "\n")
  os.replace(new, file)


def _tell(text: str, end: float) -> None:
  left = max(0, round(end - time.monotonic()))
  print(f"[{left // 60}:{left % 60:02d} left] {text}", file=sys.stderr, flush=True)


def record(file: pathlib.Path) -> str:
  """Copies a record beside this file, under its device's name."""
  report = accelerator_tables.read(file)
  if report["rehearsal"]:
    raise UserError(f"{file}: is of a rehearsal, which measures nothing")
  device = accelerator_tables.device(report).lower().replace(" ", "_")
  target = FOLDER / f"accelerator_{device}.json"
  target.write_text(strict.dumps(report, indent=1) + "\n")
  return f"{target.name} is written; commit it with the README"


def records() -> list[dict]:
  """The records that are committed, one a device."""
  return [accelerator_tables.read(file)
          for file in sorted(FOLDER.glob("accelerator_*.json"))]


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
