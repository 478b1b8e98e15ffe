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
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from typing import Any, NamedTuple
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
# Before jax starts.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
os.environ.setdefault("XLA_FLAGS", " ".join((
    "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")))
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(HERE)]

import mutations  # noqa: E402
import numpy as np  # noqa: E402

from kd_jax.errors import UserError  # noqa: E402

# Seconds after which a run is asked to stop, as by Ctrl-C; after which it hangs.
_STOP, _HANGS = 20, 60
# Bytes of address space that an input may take beside what the program has.
_MEMORY = 6 * 2**30
NUMBERS = "numbers.json"  # Of the unharmed runs.
COMMON = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.min_steps=0", "--config.teacher.min_steps=0",
    "--config.student.widths=(4,)", "--config.teacher.widths=(5,)",
    "--config.batch_size=16", "--config.teacher.batch_size=16",
    "--config.epochs=5", "--config.teacher.epochs=2", "--config.tensorboard=false")
BANK = ("--config.teacher.bank=always", "--config.data.holdout=0.2")
SWEEP = ("--sweep.temperature=2,8", "--sweep.seed=0,1", "--config.sweep.lanes=1x2",
         "--config.sweep.logits=true")
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
    "1,2",
    "{'a':1}", "((((1,),),),)", "x" * 5000)


class Target(NamedTuple):
  """What reads files, and which of them are harmed.

  Attributes:
    base: The folder that holds them, of `prepare`; each input has a copy.
    files: A pattern; a file or folder of these is mutated.
    command: The program that reads them and ends with an exit code.
    numbers: What must be as in the unharmed run where that is 0; None if files of
      the user's own say what comes out.
  """

  base: str
  files: str
  command: Callable[[pathlib.Path], int]
  numbers: Callable[[pathlib.Path], Any] | None = None


def run(*words: str) -> Callable[[pathlib.Path], int]:
  """`python -m kd_jax.main` with these words, `{}` for the folder."""

  def command(folder: pathlib.Path) -> int:
    from kd_jax import main
    given = [word.replace("{}", str(folder)) for word in words]
    with without_pictures():
      return main.run([*COMMON, f"--config.data.dir={folder}/data", *given])
  return command


def report(*words: str, drawn: bool = False) -> Callable[[pathlib.Path], int]:
  """`python -m kd_jax.report` with these words; pictures take most of its time."""

  def command(folder: pathlib.Path) -> int:
    from kd_jax.report import __main__ as door
    with contextlib.nullcontext() if drawn else without_pictures():
      return door.main([word.replace("{}", str(folder)) for word in words])
  return command


def without_pictures():
  from kd_jax.report import plots
  return mock.patch.object(plots, "write", lambda *_: {})


def doctor(*words: str) -> Callable[[pathlib.Path], int]:
  """`python -m kd_jax.doctor`, which ends with 1 if it finds a problem."""

  def command(folder: pathlib.Path) -> int:
    from kd_jax.runs.doctor import command as door
    given = [word.replace("{}", str(folder)) for word in words]
    return 2 * door.run([*COMMON, f"--config.data.dir={folder}/data", *given])
  return command


def read_net(folder: pathlib.Path) -> int:
  """What a user calls to have a net that a run left."""
  from kd_jax.checkpoint import load_parameters
  load_parameters(folder)
  return 0


def read_data(folder: pathlib.Path, name: str) -> int:
  from kd_jax import data
  data.load(name, directory=folder)
  return 0


def read_logits(folder: pathlib.Path) -> int:
  from kd_jax.runs import logit_bank
  logit_bank.from_file(str(folder / "logits.npy"), np.arange(60) % 7,
                       num_views=1, num_classes=7)
  return 0


def parsed(*words: str) -> int:
  """A command line as far as it becomes a config."""
  from kd_jax import main
  from kd_jax.config import run as run_lib
  from kd_jax.config import sweep
  config, _ = main.parse([*COMMON, *words])
  found = run_lib.read(config)
  sweep.lanes(found.values, found.sweep.points)
  return 0


def _checkpoints(folder: pathlib.Path):
  from kd_jax.training import checkpoints
  return checkpoints.Checkpoints(folder / "steps", {"seed": 0})


def read_checkpoint(folder: pathlib.Path) -> int:
  with contextlib.closing(_checkpoints(folder)) as found:
    loaded = found.load({"w": np.zeros(3, np.float32)})
  assert loaded is None or loaded["w"].tolist() == [0, 1, 2], "other numbers"
  return 0


def read_beside(folder: pathlib.Path) -> int:
  """What a run reads of its workdir before it trains."""
  from kd_jax.config import build  # noqa: F401  (what `rows` needs)
  from kd_jax.runs import plan, results, rows, schema_1, workdir
  workdir.refuse_foreign(folder)
  schema_1.lanes_of(plan.load(folder / "plan.json"))
  rows.curves(rows.epochs(folder, "teacher", "abc"))
  results.Results(folder, writes=False)
  from kd_jax import config
  workdir.refuse_other(config.flatten(config.default()), folder, print)
  return 0


def read_kept(folder: pathlib.Path) -> int:
  from kd_jax.runs import kept_logits
  kept_logits.load(folder, {"fingerprint": "abc"})
  return 0


def prepare_readers(folder: pathlib.Path) -> None:
  """The folder of `READERS`, for which nothing is trained."""
  from kd_jax import config
  from kd_jax.core import strict, types
  from kd_jax.training import parameters
  write_data(folder)
  for name in ("config.py", "points.json"):
    (folder / name).write_text(_FILES[name])
  np.save(folder / "logits.npy", 5 * np.eye(7, dtype="f4")[np.arange(60) % 7])
  parameters.save_net(
      folder / "net", types.Variables({"w": np.arange(3.0)}, {}), {"a": 1})
  with contextlib.closing(_checkpoints(folder)) as steps:
    for step in (1, 2):
      steps.save(step, {"w": np.arange(3, dtype=np.float32)}, wait=True)
  own = folder / "run"
  shutil.copytree(ROOT / "experiments/mnist", own)
  (folder / "README.md").write_text(_README)
  beside: dict[str, Any] = {
      "config": config.flatten(config.default()),
      "manifest": {"schema": 1, "versions": {}, "commit": None},
      "summary": {"schema": 1, "teacher": {"test_errors": 3}},
      "plan": {"schema": 1, "chunks": [
          {"group": "a", "shape": [1, 1, 2], "lanes": ["b", "c"]}]}}
  for name, value in beside.items():
    (own / f"{name}.json").write_text(strict.dumps(value))
  (own / "metrics.jsonl").write_text("".join(strict.dumps(
      {"net": "teacher", "fingerprint": "abc", "epoch": epoch, "test_errors": 4}
  ) + "\n" for epoch in (1, 2)))
  (own / "logits").mkdir()
  np.savez(own / "logits/abc.npz", test=np.zeros((3, 7), np.float16))


def conformance(folder: pathlib.Path) -> int:
  from kd_jax.conformance import __main__ as door
  return door.main([str(folder / "own_loss.py"), "--only=finite"])


def of_run(folder: pathlib.Path) -> Any:
  """The numbers of the nets of a single run."""
  summary = json.loads((folder / "run/summary.json").read_text())
  return {net: {key: summary[net][key] for key in (
      "parameters_sha256", "test_errors", "test_wrong_ids")}
          for net in ("teacher", "baseline", "distilled")}


def of_sweep(folder: pathlib.Path) -> Any:
  """The numbers of the rows of a sweep, by lane."""
  rows = map(json.loads, (folder / "run/results.jsonl").read_text().splitlines())
  return {row["fingerprint"]: {key: row[key] for key in (
      "curve", "test_errors", "test_wrong_ids", "test_nll")} for row in rows}


def of_merge(folder: pathlib.Path) -> Any:
  rows = map(json.loads, (folder / "all/results.jsonl").read_text().splitlines())
  return {row["fingerprint"]: row["test_errors"] for row in rows}


_RUN, _SWEEP = run(*BANK, "--workdir={}/run"), run(*SWEEP, "--workdir={}/run")
_NEW = (*BANK, "--workdir={}/new")
_WORDS = ("{}/run", "--readme", "{}/README.md")
_REPORT = report(*_WORDS)
_MERGE = report("merge", "{}/one", "{}/two", "--out", "{}/all")
_LOGITS = ("--config.teacher.logits={}/logits.npy",
           "--config.teacher.test_logits={}/test_logits.npy")
# By name.
TARGETS: dict[str, Target] = {
    "config.json": Target("single", "run/config.json", _RUN, of_run),
    "summary.json": Target("single", "run/summary.json", _RUN, of_run),
    "manifest.json": Target("single", "run/manifest.json", _RUN, of_run),
    "metrics.jsonl": Target("single", "run/metrics.jsonl", _RUN, of_run),
    "rows": Target("single", "run/results.jsonl", _RUN, of_run),
    "folders": Target("single", "run/*", _RUN, of_run),
    "record": Target("single", "run/parameters/*/record.json", _RUN, of_run),
    "teacher": Target("single", "run/teachers/*/record.json", _RUN, of_run),
    "parameters": Target("single", "run/*/*/arrays/**/*", _RUN, of_run),
    "bank": Target("single", "run/banks/*", _RUN, of_run),
    "bank begun": Target("begun", "run/banks/*.begun.json", _RUN, of_run),
    "checkpoint": Target("half", "run/progress/**/*", _RUN, of_run),
    "unfinished": Target("half", "run/**/*", _RUN, of_run),
    "sweep rows": Target("sweep", "run/results.jsonl", _SWEEP, of_sweep),
    "plan": Target("sweep", "run/plan.json", _SWEEP, of_sweep),
    "sweep": Target("sweep", "run/**/*", _SWEEP, of_sweep),
    "lanes": Target("lanes", "run/progress/**/*", _SWEEP, of_sweep),
    "keep": Target("single", "run/config.json", run(
        *BANK, "--workdir={}/run", "--config.seed=5", "--resume=keep")),
    "force": Target("half", "run/progress/**/*", run(
        *BANK, "--workdir={}/run", "--config.seed=5", "--resume=force")),
    "other teachers": Target("single", "run/teachers/**/*", run(
        *_NEW, "--config.teacher.dir={}/run/teachers")),
    "data npz": Target("data", "data/blobs.npz", run(*_NEW)),
    "data idx": Target("data", "data/letters/*", run(
        *_NEW, "--config.data.name=letters")),
    "data cifar": Target("data", "data/colours/*", run(
        *_NEW, "--config.data.name=colours")),
    "logits": Target("logits", "*.npy", run(*_NEW, *_LOGITS)),
    "logits npz": Target("logits", "logits.npz", run(
        *_NEW, "--config.teacher.logits={}/logits.npz")),
    "config file": Target("files", "config.py", run(
        "--config={}/config.py", *_NEW)),
    "own net": Target("files", "net.py", run(
        *_NEW, "--config.student.name={}/net.py:Net",
        "--config.student.widths=()")),
    "own method": Target("files", "method.py", run(
        *_NEW, "--config.method={}/method.py:METHOD")),
    "points": Target("files", "points.json", run(
        "--sweep={}/points.json", "--workdir={}/new")),
    "report": Target("sweep", "run/results.jsonl", report(*_WORDS, drawn=True)),
    "report of main runs": Target("main rows", "run/results.jsonl", _REPORT),
    "report's side files": Target("sweep", "run/*.json", _REPORT),
    "README": Target("sweep", "README.md", _REPORT),
    "compare": Target("sweep", "run/results.jsonl", report(
        "{}/run", "--compare", "0", "1")),
    "merge": Target("shards", "one/*", _MERGE, of_merge),
    "merge teachers": Target("shards", "*/teachers/**/*", _MERGE, of_merge),
    "doctor": Target("single", "run/*", doctor(*BANK, "--workdir={}/run")),
    "load_parameters": Target("single", "run/parameters/distilled/**/*",
                              lambda folder: read_net(
                                  folder / "run/parameters/distilled")),
    "conformance": Target("files", "own_loss.py", conformance),
}
# The same by what reads them, without the rest of a run: tests try some of these.
READERS: dict[str, Target] = {
    f"read {name}": Target("read", files, read) for name, files, read in (
        ("npz", "blobs.npz", lambda folder: read_data(folder, "blobs")),
        ("idx", "letters/*", lambda folder: read_data(folder, "letters")),
        ("cifar", "colours/*", lambda folder: read_data(folder, "colours")),
        ("logits", "logits.npy", read_logits),
        ("config file", "config.py", lambda folder: parsed(
            f"--config={folder}/config.py")),
        ("points", "points.json", lambda folder: parsed(
            f"--sweep={folder}/points.json")),
        ("net", "net/**/*", lambda folder: read_net(folder / "net")),
        ("checkpoint", "steps/**/*", read_checkpoint),
        ("rows", "run/results.jsonl", report("{}/run")),
        ("README", "README.md", report(*_WORDS)),
        ("beside", "run/*.json*", lambda folder: read_beside(folder / "run")),
        ("kept logits", "run/logits/*", lambda folder: read_kept(folder / "run")),
    )}
TARGETS |= READERS
_FILES = {
    "config.py": "from configs import mnist\n"
                 "def get_config():\n  return mnist.get_config()\n",
    "net.py": "import flax.linen as nn\nclass Net(nn.Module):\n  num_classes: int\n"
              "  @nn.compact\n  def __call__(self, x):\n"
              "    return nn.Dense(self.num_classes)(x.reshape(len(x), -1))\n",
    "method.py": (ROOT / "examples/own_method.py").read_text(),
    "points.json": '[{"temperature": 2.0, "seed": 0}, {"temperature": 3.0}]\n',
    "own_loss.py": "import jax.numpy as jnp, jax\n"
                   "def loss(s, t, labels, temperature, alpha):\n"
                   "  return jnp.mean((s - t) ** 2)\n",
}
_README = "# Run\n\n<!-- results: run -->\n<!-- end of results -->\n"


def write_data(folder: pathlib.Path) -> None:
  """Data sets of three formats."""
  from conftest import blobs
  folder.mkdir(parents=True)
  (x, y), (x_test, y_test) = blobs(60, seed=1), blobs(30, seed=2)
  np.savez(folder / "blobs.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
  idx = lambda array: bytes((0, 0, 8, array.ndim)) + np.array(
      array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
  names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3",
           "t10k-labels-idx1")
  (folder / "letters").mkdir()
  for name, array in zip(names, (x[..., 0], y, x_test[..., 0], y_test)):
    (folder / f"letters/{name}-ubyte").write_bytes(idx(array))
  (folder / "colours").mkdir()
  draw = random.Random(0)
  for number in range(6):
    name = f"data_batch_{number}" if number else "test_batch"
    (folder / f"colours/{name}.bin").write_bytes(b"".join(
        bytes((label,)) + draw.randbytes(3072) for label in range(10)))


def prepare(base: pathlib.Path) -> None:
  """Makes the unharmed folders that inputs are copies of."""
  data, single = base / "data", base / "single"
  prepare_readers(base / "read")
  write_data(data / "data")
  for name in ("single", "sweep", "half", "lanes", "shards", "logits", "files",
               "main rows"):
    shutil.copytree(data / "data", base / name / "data")
  _must(_RUN(single))
  _must(_SWEEP(base / "sweep"))
  (base / "sweep/README.md").write_text(_README)
  _half(_RUN, base / "half", "run/progress/distilled/*")
  _half(_SWEEP, base / "lanes", "run/progress/*-*/*")
  for number, name in ((1, "one"), (2, "two")):
    _must(run(*SWEEP, f"--workdir={{}}/{name}", f"--shard={number}/2")(
        base / "shards"))
  shutil.copytree(single, base / "begun")
  bank, = (base / "begun/run/banks").glob("*.npy")
  sidecar = bank.with_name(bank.name + ".json")
  identity = {key: value for key, value in json.loads(sidecar.read_text()).items()
              if key not in ("blocks", "record_sha256")}
  bank.with_name(bank.name + ".begun.json").write_text(
      json.dumps(identity | {"done": 1}))
  sidecar.unlink()
  shutil.rmtree(base / "begun/run/parameters")
  with np.load(data / "data/blobs.npz") as arrays:
    for name, of in (("logits", "y_train"), ("test_logits", "y_test")):
      np.save(base / f"logits/{name}.npy", 5 * np.eye(7)[arrays[of]].astype("f4"))
  np.savez(base / "logits/logits.npz", np.load(base / "logits/logits.npy"))
  for name, text in _FILES.items():
    (base / "files" / name).write_text(text)
  shutil.copytree(ROOT / "experiments/mnist", base / "main rows/run")
  (base / "main rows/README.md").write_text(_README)
  (base / NUMBERS).write_text(json.dumps(_unharmed(base)))


def _unharmed(base: pathlib.Path) -> dict[str, Any]:
  """The numbers of the targets whose files are as they were."""
  known: dict[Any, Any] = {}
  for target in TARGETS.values():
    key = target.base, target.numbers
    if target.numbers and key not in known:
      with copy(base, target.base) as folder:
        _must(target.command(folder))
        known[key] = target.numbers(folder)
  return {name: known.get((target.base, target.numbers))
          for name, target in TARGETS.items()}


@contextlib.contextmanager
def copy(base: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
  """A copy of an unharmed folder, for a while."""
  with tempfile.TemporaryDirectory(dir=base) as folder:
    place = pathlib.Path(folder) / "x"
    shutil.copytree(base / name, place)
    yield place


def _must(code: int) -> None:
  assert code == 0, "an unharmed run failed"


def _half(
    command: Callable[[pathlib.Path], int], folder: pathlib.Path, saved: str
) -> None:
  """A run that is stopped again and again until it has saved something there."""
  from kd_jax import main
  for _ in range(30):
    calls = itertools.count()
    with mock.patch.object(
        main.Signals, "__call__", lambda self, calls=calls: next(calls) > 1):
      command(folder)
    if any(folder.glob(saved)):
      return
  raise AssertionError("nothing was saved on the way")


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


def mutate(folder: pathlib.Path, target: Target, number: int, seed: str) -> str:
  """Harms a file of a folder; says which and how."""
  draw = random.Random(seed)
  files = sorted(folder.glob(target.files))
  # Every pattern of a name first; then of these, any.
  path = draw.choice(files)
  fitting = mutations.of(path)
  names = sorted(fitting)
  random.Random(f"{path.suffix}").shuffle(names)
  name = names[number % len(names)]
  fitting[name](path, draw)
  return f"{path.relative_to(folder)}: {name}"


class _Hangs(Exception):
  """An input that takes too long."""


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
