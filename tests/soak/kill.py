"""Kills the real program again and again: it must always end with the same bits.

  python tests/soak/kill.py --kills=50 --out=kills.jsonl

Runs of three kinds (one device, pmap on four, a sweep) are killed with SIGKILL at
random moments while they save after every segment, and started again until they
are through. A line for each kill and each finished run goes to --out. Exit code 1
if a run ever fails to go on, or ends with other results than an uninterrupted one.
"""

import argparse
from collections.abc import Iterator
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMON = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.min_steps=0", "--config.teacher.min_steps=0",
    "--config.student.widths=(12,)", "--config.teacher.widths=(24,)",
    "--config.batch_size=16", "--config.teacher.batch_size=16",
    "--config.tensorboard=false", "--config.data.holdout=0.1",
    "--config.checkpoint.every=1 steps")
# Kind -> its arguments and the number of its host devices.
KINDS = {
    "single": (("--config.epochs=30", "--config.teacher.epochs=30",
                "--config.parallel=single"), 1),
    "pmap": (("--config.epochs=30", "--config.teacher.epochs=30",
              "--config.parallel=pmap"), 4),
    "sweep": (("--config.epochs=30", "--config.teacher.epochs=30",
               "--sweep.temperature=2,8", "--sweep.seed=0,1",
               "--config.sweep.lanes=1x2"), 1),
}


def start(kind: str, data: pathlib.Path, workdir: pathlib.Path):
  """The program, running."""
  more, devices = KINDS[kind]
  return subprocess.Popen(
      [sys.executable, "-m", "kd_jax.main", *COMMON, *more,
       f"--config.data.dir={data}", f"--workdir={workdir}"],
      cwd=ROOT, env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(kind: str, workdir: pathlib.Path) -> Any:
  """What must be the same to the bit, or None if the run is not through."""
  if not (workdir / "summary.json").is_file():
    return None
  if kind != "sweep":
    summary = json.loads((workdir / "summary.json").read_text())
    return [summary[net]["parameters_sha256"]
            for net in ("teacher", "baseline", "distilled")]
  rows = map(json.loads, (workdir / "results.jsonl").read_text().splitlines())
  return [[row[key] for key in (
      "fingerprint", "curve", "heldout_curve", "test_wrong_ids", "test_nll")]
          for row in rows]


def place(workdir: pathlib.Path) -> str:
  """How far a run has come: the net and epoch of its last row, and its saves."""
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.is_file() else []
  row = json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}
  saving = any(workdir.glob("progress/*/*tmp*"))
  step = row.get("epoch", row.get("step", "-"))
  return f"{row.get('net', 'start')} {step}{', saving' if saving else ''}"


def killed(
    kind: str, data: pathlib.Path, workdir: pathlib.Path, wanted: Any,
    draw: random.Random, kills: int,
) -> Iterator[dict[str, Any]]:
  """Kills a run up to so many times and lets it end; a line for each kill.

  Raises:
    AssertionError: If it does not go on, or ends with other results.
  """
  longest = 8.0  # Of a process that is through without being killed.
  for number in range(kills):
    program = start(kind, data, workdir)
    began = time.monotonic()
    # From the moment it may be writing; before that there is little to break.
    wait = draw.uniform(1.5, longest)
    try:
      said, _ = program.communicate(timeout=wait)
      assert program.returncode == 0, said
      yield {"kind": kind, "kill": number, "at": "through before it was killed"}
      break
    except subprocess.TimeoutExpired:
      program.kill()
      program.communicate()
    yield {"kind": kind, "kill": number, "at": place(workdir),
           "seconds": round(time.monotonic() - began, 2)}
  said, _ = (program := start(kind, data, workdir)).communicate(timeout=300)
  assert program.returncode == 0, said
  assert results(kind, workdir) == wanted, f"{kind}: other results"


def write_data(folder: pathlib.Path) -> None:
  """DIR/blobs.npz, as in tests/conftest.py."""
  sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
  from conftest import blobs  # pylint: disable=g-import-not-at-top
  x_train, y_train = blobs(300, seed=1)
  x_test, y_test = blobs(110, seed=2)
  np.savez(folder / "blobs.npz", x_train=x_train, y_train=y_train,
           x_test=x_test, y_test=y_test)


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--out", type=pathlib.Path, default="kills.jsonl")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--each", type=int, default=6, help="kills of one run")
  args = parser.parse_args()
  draw = random.Random(args.seed)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  base = pathlib.Path(tempfile.mkdtemp())
  write_data(base)
  wanted = {}
  for kind in KINDS:
    start(kind, base, base / kind).communicate()
    wanted[kind] = results(kind, base / kind)
    assert wanted[kind] is not None
  done, runs = 0, 0
  with args.out.open("a") as out:
    while done < args.kills:
      kind = list(KINDS)[runs % len(KINDS)]
      runs += 1
      lines = killed(kind, base, base / f"run{runs}", wanted[kind], draw,
                     min(args.each, args.kills - done))
      for line in lines:
        done += "seconds" in line
        out.write(json.dumps(line) + "\n")
        out.flush()
        print(f"{done}/{args.kills}", line, flush=True)
      out.write(json.dumps({"kind": kind, "run": runs, "same": True}) + "\n")
  print(f"{done} kills, {runs} runs: all went on, all ended with the same bits")


if __name__ == "__main__":
  main()
