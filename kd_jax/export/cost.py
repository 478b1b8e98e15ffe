"""What a file costs on one core: microseconds of a batch, and memory.

  python -m kd_jax.export.cost FORMAT FILE INPUTS.npy

is run in a process of its own, so that nothing but the runtime is counted; it
prints a line of JSON.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from kd_jax.core.errors import UserError
from kd_jax.export.formats import FORMATS, Run

BATCHES = (1, 64)
# Calls that are timed for at most so many seconds, after some that are not.
_CALLS, _FEWEST, _SECONDS, _WARM = 1000, 20, 0.5, 5


def of(name: str, file: pathlib.Path, inputs: np.ndarray) -> dict[str, Any]:
  """Latency and memory of a file.

  Args:
    name: Of its format.
    file: The file.
    inputs: Stored inputs `[N, *shape]`, N >= 1, that it is asked.

  Returns:
    `latency_us` and `latency_us_64`, each the median, 5th and 95th percentile of a
    call in microseconds; `memory_bytes`, by how much the process grew at most.
  """
  with tempfile.TemporaryDirectory() as folder:
    asked = pathlib.Path(folder) / "inputs.npy"
    np.save(asked, np.resize(inputs, (max(BATCHES), *inputs.shape[1:])))
    done = subprocess.run(
        [sys.executable, "-m", "kd_jax.export.cost", name, str(file), str(asked)],
        capture_output=True, text=True, check=False)
  if done.returncode:
    line = (done.stderr.strip().splitlines() or ["no word"])[-1]
    raise UserError(f"{file}: cannot be run in a process of its own: {line}")
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> int:
  """Measures a file and prints what it found."""
  name, file, asked = argv
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  inputs = np.load(asked, allow_pickle=False)
  code = FORMATS[name].code
  before = _memory("VmRSS")
  run = code.load(pathlib.Path(file))
  found = {f"latency_us{'' if size == 1 else f'_{size}'}": _latency(
      run, inputs[:size]) for size in BATCHES}
  most = _memory("VmHWM")
  print(json.dumps(found | {
      "memory_bytes": most - before if before and most else None}))
  return 0


def _latency(run: Run, inputs: np.ndarray) -> list[float]:
  for _ in range(_WARM):
    run(inputs)
  taken: list[float] = []
  began = time.perf_counter()
  while len(taken) < _FEWEST or (
      len(taken) < _CALLS and time.perf_counter() - began < _SECONDS):
    start = time.perf_counter()
    run(inputs)
    taken.append(1e6 * (time.perf_counter() - start))
  return [round(float(each), 1) for each in np.percentile(taken, (50, 5, 95))]


def _memory(field: str) -> int | None:
  """A figure of this process's memory in bytes; None where it is not known."""
  try:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  except OSError:
    return None
  return next((1024 * int(line.split()[1]) for line in lines
               if line.startswith(f"{field}:")), None)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
