"""Kills the real program again and again: it must always end with the same bits.

  python tests/soak/kill.py --kills=50 --out=kills.jsonl

Runs of three kinds (one device, pmap on four, a sweep) are killed with SIGKILL at
random moments, and started again until they are through. They save as often as by
default, at most every 5 seconds, or as --every says. A line for each kill and each
finished run goes to --out, with what it went on from. Exit code 1 if a run ever
fails to go on, loses more than it may, or ends with other results than an
uninterrupted one.
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
    "--config.tensorboard=false", "--config.data.holdout=0.1")
# Kind -> its arguments and the number of its host devices.
KINDS = {
    "single": (("--config.parallel=single",), 1),
    "pmap": (("--config.parallel=pmap",), 4),
    "sweep": (("--sweep.temperature=2,8", "--sweep.seed=0,1",
               "--config.sweep.lanes=1x2"), 1),
}


def long(epochs: int, every: str) -> tuple[str, ...]:
  """The length of each net's training, and when it is saved."""
  return (f"--config.epochs={epochs}", f"--config.teacher.epochs={epochs}",
          f"--config.checkpoint.every={every}")


SHORT = long(30, "1 steps")


def start(
    kind: str, data: pathlib.Path, workdir: pathlib.Path,
    length: tuple[str, ...] = SHORT):
  """The program, running."""
  more, devices = KINDS[kind]
  return subprocess.Popen(
      [sys.executable, "-m", "kd_jax.main", *COMMON, *more, *length,
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


class Watch:
  """What a run had saved when it was killed, and whether it goes on from there."""

  def __init__(self, workdir: pathlib.Path):
    self._workdir = workdir
    self._saved, self._lines = {}, 0

  def went_on(self) -> int | None:
    """The step that the last program went on from, None if it did not come so far.

    Raises:
      AssertionError: If it trained a net from elsewhere than its last save.
    """
    file, saved = self._workdir / "metrics.jsonl", self._saved
    lines = file.read_text().splitlines() if file.is_file() else []
    told = [json.loads(line) for line in lines[self._lines:] if line.endswith("}")]
    self._lines = len(lines)
    self._saved = {
        place.name: [int(step.name) for step in place.iterdir()
                     if step.name.isdecimal()]
        for place in self._workdir.glob("progress/*")}
    if not told:
      return None
    own = told[0].get("chunk", told[0].get("fingerprint", ""))[:16]
    steps = saved.get(told[0]["net"]) or saved.get(f"{told[0]['net']}-{own}")
    if not steps:
      return None
    assert told[0].get("event") == "resumed", (saved, told[0])
    assert told[0]["step"] in steps, (saved, told[0])
    return told[0]["step"]


def killed(
    kind: str, data: pathlib.Path, workdir: pathlib.Path, wanted: Any,
    draw: random.Random, kills: int, *, length: tuple[str, ...] = SHORT,
    wait: tuple[float, float] = (1.5, 8.0),
) -> Iterator[dict[str, Any]]:
  """Kills a run up to so many times and lets it end; a line for each kill.

  Args:
    kind: Of `KINDS`.
    data: The folder of the data.
    workdir: Where it runs.
    wanted: Its results, of `results`.
    draw: When it is killed.
    kills: So many times at most.
    length: Of `long`.
    wait: The earliest and latest second of a kill.

  Raises:
    AssertionError: If it does not go on, or ends with other results.
  """
  watch = Watch(workdir)
  for number in range(kills):
    program = start(kind, data, workdir, length)
    began, after = time.monotonic(), draw.uniform(*wait)
    try:
      said, _ = program.communicate(timeout=after)
      assert program.returncode == 0, said
      yield {"kind": kind, "kill": number, "at": "through before it was killed",
             "went_on_from": watch.went_on()}
      break
    except subprocess.TimeoutExpired:
      program.kill()
      program.communicate()
    yield {"kind": kind, "kill": number, "at": place(workdir),
           "seconds": round(time.monotonic() - began, 2),
           "went_on_from": watch.went_on()}
  said, _ = (program := start(kind, data, workdir, length)).communicate(timeout=600)
  assert program.returncode == 0, said
  yield {"kind": kind, "at": "through", "went_on_from": watch.went_on()}
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
  parser.add_argument("--every", default="auto", help="config.checkpoint.every")
  parser.add_argument("--epochs", type=int, default=1500, help="of each net")
  parser.add_argument(
      "--latest", type=float, default=30.0, help="second of a kill")
  args = parser.parse_args()
  length = long(args.epochs, args.every)
  draw = random.Random(args.seed)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  base = pathlib.Path(tempfile.mkdtemp())
  write_data(base)
  wanted: dict[str, Any] = {}
  done, runs, went_on = 0, 0, 0
  with args.out.open("a") as out:
    while done < args.kills:
      kind = list(KINDS)[runs % len(KINDS)]
      runs += 1
      if kind not in wanted:
        start(kind, base, base / kind, length).communicate()
        wanted[kind] = results(kind, base / kind)
        assert wanted[kind] is not None
      lines = killed(kind, base, base / f"run{runs}", wanted[kind], draw,
                     min(args.each, args.kills - done), length=length,
                     wait=(1.5, args.latest))
      for line in lines:
        done += "seconds" in line
        went_on += line["went_on_from"] is not None
        out.write(json.dumps(line) + "\n")
        out.flush()
        print(f"{done}/{args.kills}", line, flush=True)
      out.write(json.dumps({"kind": kind, "run": runs, "same": True}) + "\n")
  print(f"{done} kills, {runs} runs, {went_on} times gone on from a save: none "
        "began anew beside one, all ended with the same bits")


if __name__ == "__main__":
  main()
