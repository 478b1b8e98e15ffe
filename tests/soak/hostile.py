"""Gives the real program files that are damaged, and keys at their ends.

  nice python tests/soak/hostile.py --number=1000
  python tests/soak/hostile.py --only=bank:12 --seed=0

Every file that kd_jax reads is mutated by seed (mutations.py), and every key of the
config, also as an axis of a sweep, is given what it may not expect. None may end in
a traceback or hang for over 60 s; a run that ends well must have the numbers of the
unharmed one. A line for each failure, a table of all at the end; exit code 1 if
there are failures.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
import contextlib
import io
import itertools
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
# Before jax starts.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
os.environ.setdefault("XLA_FLAGS", " ".join((
    "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")))
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(HERE)]

import mutations  # noqa: E402
from targets import NUMBERS, TARGETS, copy, prepare, run  # noqa: E402

from kd_jax.errors import UserError  # noqa: E402

# Seconds after which a run is asked to stop, as by Ctrl-C; after which it hangs.
_STOP, _HANGS = 40, 60
# Bytes of address space that an input may take beside what the program has.
_MEMORY = 6 * 2**30
# What a line says that tells what was found, or is made again.
_SAID = ("damaged", "anew", "again", "unreadable", "passed over", "is trained now",
         "no checksum", "cannot", "is kept in")
# What stands in the place of a value of a key.
ENDS = (
    "", "None", "-1", "0", "1", "-0.0", "1e39", "-1e39", "1e-39", "1e308", "nan",
    "inf", "-inf", "1" + "0" * 20, "1" + "0" * 400, "9" * 5000, "text", "(1,2)",
    "()", "(None,)", "(1e39,)", "('a',('b',))", "True", "1.5", "100000000",
    "~/nowhere/x", "/dev/null", "/dev/zero", "a\0b", "\x1b[2J", "\udce9",
    "[" * 3000, "{1:2}", "b'x'", "1j", "x:y", "nowhere.py:y", ":", "a:", "..", "*",
    "1,2", "{'a':1}", "((((1,),),),)", "x" * 5000)


class Input(NamedTuple):
  """One thing to try: its name, and how."""

  name: str
  target: str
  number: int


def ends() -> list[str]:
  """Every key with every end, as a word of a command line."""
  from kd_jax.config import schema
  keys = [*schema.every(), "no.such.key"]
  return [f"--{kind}.{key}={end}" for key in keys for kind in ("config", "sweep")
          for end in ENDS]


def inputs(number: int, seed: int, only: str | None) -> list[Input]:
  """What is tried, in an order of its own: half of it files, half of it keys."""
  wanted, _, place = (only or "").partition(":")
  words = ends()
  random.Random(seed).shuffle(words)
  made = [Input(f"{target}:{n}", target, n) for target in TARGETS
          for n in range(-(-number // (2 * len(TARGETS))))]
  made += [Input(f"keys:{n}", "keys", n)
           for n in range(min(len(words), number - number // 2))]
  if only:
    made = [Input(f"{wanted}:{n}", wanted, n) for n in (
        [int(place)] if place else
        range(len(words) if wanted == "keys" else number))]
  random.Random(seed).shuffle(made)
  return made


def mutate(folder: pathlib.Path, target, number: int, seed: str) -> str:
  """Harms a file of a folder; says which and how."""
  draw = random.Random(seed)
  path = draw.choice(sorted(folder.glob(target.files)))
  fitting = mutations.of(path)
  names = sorted(fitting)
  random.Random(f"{path.suffix}").shuffle(names)
  name = names[number % len(names)]
  fitting[name](path, draw)
  return f"{path.relative_to(folder)}: {name}"


class _Hangs(BaseException):
  """An input that takes too long; what fails says nothing of it."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
  """Asks the program to stop after some time; raises `_Hangs` if it does not."""

  def late(number, frame):
    del number, frame
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_HANGS - _STOP)
    # Only of a program that listens; elsewhere it would be an error of its own.
    if type(getattr(
        signal.getsignal(signal.SIGINT), "__self__", None)).__name__ == "Signals":
      signal.raise_signal(signal.SIGINT)

  def hangs(number, frame):
    raise _Hangs(f"for {_HANGS} s")

  signal.signal(signal.SIGALRM, late)
  signal.alarm(_STOP)
  try:
    yield
  finally:
    signal.alarm(0)


def tried(command: Callable[[], int]) -> tuple[int | None, str, str]:
  """The exit code of a command, what it said, and what is wrong about that."""
  out = io.StringIO()
  code, wrong = None, ""
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    try:
      with limited():
        code = command()
    except SystemExit as error:
      code = error.code if isinstance(error.code, int) else 1
    except UserError as error:  # Of a function that a user calls.
      code = 2
      print(f"error: {error}")
    except BaseException:  # Whatever would be a traceback.
      wrong = traceback.format_exc()
  said = out.getvalue()
  errors = [line for line in said.splitlines() if line.startswith("error:")]
  if not wrong:
    if "Traceback" in said:
      wrong = said[-3000:]
    elif code not in (0, 2, 3, 130):
      wrong = f"exit code {code}: {said[-500:]}"
    elif code == 2 and max(map(len, said.splitlines()), default=9999) > 1500:
      wrong = f"too long: {said[-1600:]}"
    elif "pickle" in said:
      wrong = f"advises to unpickle: {said[-500:]}"
    elif code == 2 and not errors and "conformance:" not in said and (
        "problem:" not in said):
      wrong = f"no line with the error: {said[-500:]}"
  return code, said, wrong


class Worker:
  """Tries inputs in this process."""

  def __init__(self, base: pathlib.Path, seed: int):
    self._base, self._seed = base, seed
    self._words = ends()
    random.Random(seed).shuffle(self._words)
    self._wanted = json.loads((base / NUMBERS).read_text())

  def judge(self, one: Input) -> dict[str, Any]:
    """What became of an input."""
    if one.target == "keys":
      return self._key(one)
    target = TARGETS[one.target]
    with copy(self._base, target.base) as folder:
      how = mutate(
          folder, target, one.number, f"{self._seed} {one.target} {one.number}")
      code, said, wrong = tried(lambda: target.command(folder))
      if not wrong and code == 0 and target.numbers:
        found, wanted = target.numbers(folder), self._wanted[one.target]
        if found != wanted:
          wrong = f"other numbers: {found} for {wanted}, said:\n{said[-800:]}"
    return {"how": how, **_verdict(code, said.replace(str(folder), ""), wrong)}

  def _key(self, one: Input) -> dict[str, Any]:
    word = self._words[one.number]
    with copy(self._base, "data") as folder:
      # A run of one net of the two kinds; the sweeps are planned.
      more = ["--plan"] if word.startswith("--sweep") else ["--workdir={}/new"]
      code, said, wrong = tried(lambda: run(*more, word)(folder))
    return {"how": word if len(word) < 99 else f"{word[:99]}...",
            **_verdict(code, said, wrong)}


def _verdict(code: int | None, said: str, wrong: str) -> dict[str, Any]:
  if wrong:
    return {"verdict": "FAILED", "wrong": wrong}
  if code == 0:
    told = any(word in said for word in _SAID)
    return {"verdict": "said" if told else "same"}
  error = [line for line in said.splitlines()
           if line.startswith(("error:", "conformance:", "problem:"))]
  return {"verdict": "refused" if code == 2 else f"code {code}",
          "error": "".join(error[:1])[:300]}


def work(base: pathlib.Path, seed: int) -> None:
  """Tries the inputs whose lines come on the standard input."""
  out = os.fdopen(os.dup(1), "w")
  os.dup2(os.open(base / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
  os.dup2(1, 2)
  worker = Worker(base, seed)
  os.chdir(base)  # Some keys are taken for names of folders.
  with copy(base, "single") as folder:  # Imports what all need.
    TARGETS["summary.json"].command(folder)
  size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
  resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, resource.RLIM_INFINITY))
  for line in sys.stdin:
    one = Input(*json.loads(line))
    try:
      found = worker.judge(one)
    except Exception:  # Of this file.
      found = {"verdict": "FAILED", "how": "?", "wrong": traceback.format_exc()}
    out.write(json.dumps(found) + "\n")
    out.flush()


def each(
    base: pathlib.Path, seed: int, left: Iterator[Input],
    tell: Callable[[Input, dict[str, Any]], None]) -> None:
  """Hands inputs to a worker, which is replaced when it dies or hangs."""
  start = lambda: subprocess.Popen(
      [sys.executable, __file__, f"--base={base}", f"--seed={seed}"], cwd=ROOT,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  worker, age = start(), 0
  for one in left:
    if age >= 150:  # Programs pile up in a process.
      worker.kill()
      worker, age = start(), 0
    age += 1
    # The first waits for the start.
    timer = threading.Timer(3 * _HANGS if age == 1 else 1.5 * _HANGS, worker.kill)
    timer.start()
    try:
      worker.stdin.write(json.dumps(one) + "\n")
      worker.stdin.flush()
      answer = worker.stdout.readline()
    except BrokenPipeError:
      answer = ""
    timer.cancel()
    if answer:
      tell(one, json.loads(answer))
    else:
      code = worker.wait()
      tell(one, {"verdict": "FAILED", "how": "?", "wrong":
                 f"the process died or hung: {code}"})
      worker, age = start(), 0
  worker.kill()


def table(found: dict[str, Counter]) -> str:
  """What became of the inputs of each target."""
  columns = ("refused", "said", "same", "code 3", "code 130", "FAILED")
  lines = [f"{'target':22}{'inputs':>8}" + "".join(f"{c:>10}" for c in columns)]
  for name, counts in [*sorted(found.items()), (
      "all", sum(found.values(), Counter()))]:
    lines.append(f"{name:22}{counts.total():8}" + "".join(
        f"{counts[c]:10}" for c in columns))
  return "\n".join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--number", type=int, default=1000, help="of inputs")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--only", metavar="TARGET[:I]",
                      help=f"keys, {', '.join(TARGETS)}")
  parser.add_argument("--out", type=pathlib.Path, help="a line for each input")
  parser.add_argument("--keep", type=pathlib.Path,
                      help="folder of unharmed runs, made if it is not there")
  parser.add_argument("--base", type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.base:
    work(args.base, args.seed)
    return 0
  os.chdir(ROOT)
  base = (args.keep or pathlib.Path(tempfile.mkdtemp())).absolute()
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(base / "xla"))
  os.environ.setdefault("XDG_CACHE_HOME", str(base / "cache"))
  if not (base / "files").is_dir():
    prepare(base)
  found: dict[str, Counter] = {}
  left = iter(wanted := inputs(args.number, args.seed, args.only))
  lock, done = threading.Lock(), itertools.count(1)
  out = args.out.open("a") if args.out else None

  def shared() -> Iterator[Input]:
    while True:
      with lock:
        one = next(left, None)
      if one is None:
        return
      yield one

  def tell(one: Input, what: dict[str, Any]) -> None:
    with lock:
      found.setdefault(one.target, Counter())[what["verdict"]] += 1
      if out:
        out.write(json.dumps({"input": one.name, **what}) + "\n")
        out.flush()
      print(f"{next(done)}/{len(wanted)} {one.name} {what['how']!r}: "
            f"{what['verdict']} {what.get('error', '')!r}", flush=True)
      if what["verdict"] == "FAILED":
        print(f"{what['wrong']}\n  python tests/soak/hostile.py --seed={args.seed} "
              f'"--only={one.name}"\n', flush=True)

  threads = [threading.Thread(target=each, args=(base, args.seed, shared(), tell))
             for _ in range(args.workers)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  print(table(found))
  return int(any(counts["FAILED"] for counts in found.values()))


if __name__ == "__main__":
  sys.exit(main())
