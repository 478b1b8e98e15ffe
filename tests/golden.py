"""Whether every kind of run still ends with the bits of an earlier commit.

  python tests/golden.py                   # all kinds, against the default base
  python tests/golden.py lanes stopped     # of these names, or with these in them
  python tests/golden.py --base=HEAD --keep=DIR

Each case is a few commands on tiny data. They are given to the program of the base,
checked out beside, and to the working tree as it lies on disk, on this machine and
with the same environment. Then their nets are compared: hashes of parameters, test
errors, and what else their records hold of numbers.

Both programs are driven only through what is public, the command line and the files
that a run leaves, so modules may move in between. Where the rows of a sweep have no
hash of the parameters, their numbers, to seven digits, and the logits of the nets
on the test set stand for it. What only the working tree leaves is not compared.

--keep=DIR keeps the results of the base, by its commit, the commands, versions and
the processor, and compiled programs. Exit code 1 if anything differs or fails, 2 if
there is no such commit.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent import futures
import contextlib
import hashlib
from importlib import metadata
import json
import os
import pathlib
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
BASE = "40db48b"
# All that matters is given, so that another default is no difference.
COMMON = (
    "--config=configs/mnist.py", "--config.data.name=blobs",
    "--config.data.dir={data}", "--config.min_steps=0",
    "--config.teacher.min_steps=0", "--config.student.widths=(16,16)",
    "--config.teacher.widths=(24,)", "--config.batch_size=64",
    "--config.teacher.batch_size=64", "--config.epochs=3",
    "--config.teacher.epochs=4", "--config.optimizer.learning_rate=0.005",
    "--config.teacher.optimizer.learning_rate=0.005",
    "--config.tensorboard=false")
SWEEP = ("--config.sweep.logits=true",)
# No multiple of 4: some devices have padding.
ON_FOUR = ("--config.batch_size=50", "--config.teacher.batch_size=50")
# Long enough to be interrupted, and saved often enough to go on from the middle.
LONG = 300
INTERRUPTED = ("--config.checkpoint.every=15 steps",)
METHODS = (
    "hard", "kd", "logits", "mse", "reverse_kl", "jsd", "ls", "normkd", "dkd",
    "nkd", "rld", "wttm", "topk", "topk_renormalised", "tfkd", "dist", "mlkd",
    "ctkd")
# What is compared of the record of a net, or of the row of a lane.
FIELDS = (
    "parameters_sha256", "arrays_sha256", "teacher_sha256", "logits_sha256",
    "test_errors", "test_wrong_ids", "test_nll", "test_ece", "test_bins",
    "agreement", "kl", "heldout_errors", "heldout_curve", "train_errors",
    "train_accuracy", "curve", "entropy", "failed")
_SECONDS = 900  # After which a program hangs.
_FORMAT = 1  # Of what is kept: raise it if `left` reads something else.
_LAG = 3  # Cases that the working tree is behind the base.

Nets = dict[str, dict[str, Any]]


class Run(NamedTuple):
  """One command of a case.

  Attributes:
    words: Its arguments beside `COMMON`.
    devices: Number of host devices.
    folder: Its workdir, within that of the case; another run may go on there.
    signal: What it is interrupted by, before the same command is given again.
    during: The net of `metrics.jsonl` whose training is interrupted.
  """

  words: tuple[str, ...] = ()
  devices: int = 1
  folder: str = "run"
  signal: int | None = None
  during: str = ""


class Side(NamedTuple):
  """A program: its source tree, where its runs go, its commit if it is at one."""

  root: pathlib.Path
  folder: pathlib.Path
  commit: str | None = None


class Outcome(NamedTuple):
  """What became of a case on one side: its nets, or why there are none."""

  nets: Nets
  seconds: float
  error: str = ""


def _keys(**values: Any) -> tuple[str, ...]:
  """`teacher__count=3` as `--config.teacher.count=3`."""
  return tuple(f"--config.{name.replace('__', '.')}={value}"
               for name, value in values.items())


# The long ones first, so that no core is left with one at the end.
CASES: dict[str, tuple[Run, ...]] = {
    **{f"methods_{part + 1}": (Run((
        *SWEEP, f"--sweep.method={','.join(METHODS[part::3])}",
        "--config.sweep.lanes=1x1")),) for part in range(3)},
    "sharded": (Run(_keys(parallel="sharded") + ON_FOUR, devices=4),),
    "pmap": (
        Run(_keys(parallel="pmap") + ON_FOUR, devices=4),
        Run(_keys(parallel="pmap", method="mlkd") + ON_FOUR, devices=4)),
    "batchnorm": (Run(_keys(
        student__name="convnet", student__widths="(4,4,4,8)", teacher__name="cnn",
        teacher__widths="(4,8)", epochs=2, teacher__epochs=2)),),
    "batchnorm_pmap": (Run(_keys(
        student__name="convnet", student__widths="(4,4,4,8)", parallel="pmap",
        epochs=2) + ON_FOUR, devices=4),),
    "single": (Run(),),
    "lanes": (Run((
        *SWEEP, "--sweep.temperature=1,4,8", "--sweep.seed=0,1",
        "--config.sweep.lanes=2x3")),),
    # Two teachers of two members each.
    "lanes_of_one": (Run((
        *SWEEP, *_keys(teacher__count=2, data__holdout=0.1),
        "--sweep.teacher.seed=0,5", "--sweep.optimizer.learning_rate=0.001,0.01",
        "--config.sweep.lanes=1x1")),),
    "shards": tuple(
        Run((*SWEEP, "--sweep={data}/points.json", "--config.sweep.lanes=1x2",
             f"--shard={number}/2"), devices=2, folder=f"shard{number}")
        for number in (1, 2)),
    "killed": (Run(
        INTERRUPTED + _keys(epochs=LONG, method="ctkd", data__holdout=0.1),
        signal=signal.SIGKILL, during="distilled"),),
    "stopped": (Run(
        INTERRUPTED + _keys(teacher__epochs=LONG, teacher__hidden_dropout=0.2),
        signal=signal.SIGTERM, during="teacher"),),
    "stopped_sweep": (Run((
        *SWEEP, *INTERRUPTED, *_keys(epochs=LONG), "--sweep.temperature=2,8",
        "--config.sweep.lanes=1x2"), signal=signal.SIGTERM, during="sweep"),),
    "views": (
        Run(_keys(student__views="shift2", teacher__bank="always"), folder="bank"),
        Run(_keys(student__views="crop4_flip", teacher__bank="never"),
            folder="live"),
        Run(_keys(student__views="distort", method="hard"), folder="distorted")),
    # In one folder: the three members are trained once.
    "ensemble": (
        Run(_keys(teacher__count=3, teacher__mean="probabilities")),
        Run(_keys(teacher__count=3, teacher__mean="logits",
                  teacher__weights="(0.5,0.2,0.3)")),
        Run(_keys(teacher__count=3, teacher__mean="confidence",
                  teacher__bank="never"))),
    # Teachers from a folder of theirs. One method with numbers of its own, one that
    # looks at the whole batch; `killed` has one that trains a parameter.
    "teacher_folder": (
        Run(_keys(teacher__dir="{case}/teachers", method="dkd", dkd__beta=2.0)),
        Run(_keys(teacher__dir="{case}/teachers", method="dist"), folder="other")),
    "optimizers": (
        Run(_keys(
            optimizer__name="sgd", optimizer__nesterov=True,
            optimizer__schedule="step", optimizer__boundaries_percent="(40.,70.)",
            optimizer__weight_decay=1e-3, optimizer__momentum=0.8,
            teacher__optimizer__name="rmsprop",
            teacher__optimizer__schedule="constant"), folder="sgd_rmsprop"),
        Run(_keys(
            optimizer__name="adamw", optimizer__weight_decay=0.01,
            optimizer__schedule="linear", optimizer__warmup_steps=4,
            teacher__optimizer__schedule="cosine",
            teacher__optimizer__warmup_percent=20.0), folder="adamw_adam")),
    "dropout": (Run(_keys(
        student__input_dropout=0.1, student__hidden_dropout=0.3,
        student__max_norm=0.8, teacher__input_dropout=0.2,
        teacher__hidden_dropout=0.5, teacher__max_norm=1.5)),),
    "holdout": (Run(_keys(data__holdout=0.1, epochs=6)),),
    "bfloat16": (Run(_keys(dtype="bfloat16", nonfinite="skip")),),
    "schedules": (Run(_keys(
        schedules__temperature="cosine", schedules__temperature_end=2.0,
        schedules__temperature_percent=80.0, schedules__alpha="linear",
        schedules__alpha_end=0.2, schedules__warmup_percent=20.0)),),
    "transfer": (Run(_keys(
        transfer__part=0.5, transfer__classes="(0,1,2,4,5)", transfer__seed=3,
        data__scale="standard", label_smoothing=0.1, teacher__label_smoothing=0.05,
        student__init_scale=0.5, hard_weight=0.3, soft_weight=2.0, seed=7)),),
    "logits": (Run(_keys(
        teacher__logits="{data}/train_logits.npy",
        teacher__test_logits="{data}/test_logits.npy")),),
}


def blobs(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Seven kinds of noisy 12x10 grey patterns, as in tests/conftest.py."""
  patterns = np.random.default_rng(0).integers(0, 200, (7, 12, 10, 1))
  draw = np.random.default_rng(seed)
  label = draw.integers(0, 7, number).astype(np.int32)
  noise = draw.integers(0, 56, (number, 12, 10, 1))
  return (patterns[label] + noise).astype(np.uint8), label


def write_data(folder: pathlib.Path) -> None:
  """The data set, a teacher's logits of it, and the points of a sweep."""
  (x_train, y_train), (x_test, y_test) = blobs(300, seed=1), blobs(110, seed=2)
  np.savez(folder / "blobs.npz", x_train=x_train, y_train=y_train, x_test=x_test,
           y_test=y_test)
  draw = np.random.default_rng(3)
  for name, label in (("train", y_train), ("test", y_test)):
    logits = 4 * np.eye(7)[label] + draw.normal(size=(len(label), 7))
    np.save(folder / f"{name}_logits.npy", logits.astype(np.float32))
  points = [{"temperature": t, "seed": s} for s in range(4) for t in (2.0, 8.0)]
  (folder / "points.json").write_text(json.dumps(points))


class Failed(Exception):
  """A command did not do what it was to do."""


class Shared(NamedTuple):
  """What both sides share: data, and programs that are compiled already.

  One cache serves both: what the two compile is found there only if it is the same
  program to the last operation.
  """

  data: pathlib.Path
  xla: pathlib.Path

  def start(self, run: Run, side: Side, case: pathlib.Path) -> subprocess.Popen:
    """The program, running, its output in a file."""
    words = [word.format(data=self.data, case=case)
             for word in (*COMMON, *run.words)]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(run.devices), "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(self.xla),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.02",
        "MPLBACKEND": "agg", "PYTHONPATH": str(side.root),
        "XDG_CACHE_HOME": str(side.folder / "cache")}
    with (case / "output").open("w") as output:
      return subprocess.Popen(
          [sys.executable, "-m", "kd_jax.main", *words,
           f"--workdir={case / run.folder}"],
          cwd=side.root, env=environment, stdout=output, stderr=subprocess.STDOUT)

  def finish(self, run: Run, side: Side, case: pathlib.Path) -> None:
    """Runs it to its end, interrupted on the way if it is to be."""
    if run.signal is not None:
      with self.start(run, side, case) as program:
        _interrupt(program, run, case)
    with self.start(run, side, case) as program:
      _end(program, run, case, 0)
    if run.signal is not None and not any(
        row.get("event") == "resumed" for row in _rows(case / run.folder)):
      raise Failed(f"{run.folder}: began anew after the signal")

  def outcome(self, name: str, side: Side) -> Outcome:
    """Runs a case on one side."""
    began = time.monotonic()
    case = side.folder / name
    case.mkdir(parents=True)
    nets: Nets = {}
    try:
      for number, run in enumerate(CASES[name], 1):
        self.finish(run, side, case)
        _check_commit(case / run.folder, side)
        nets |= {f"{number} {net}" if len(CASES[name]) > 1 else net: numbers
                 for net, numbers in left(case / run.folder).items()}
    except Failed as error:
      return Outcome({}, time.monotonic() - began, str(error))
    except (OSError, ValueError, KeyError) as error:
      # A file is not there, or holds something else.
      return Outcome({}, time.monotonic() - began, repr(error))
    return Outcome(nets, time.monotonic() - began)


def _interrupt(program: subprocess.Popen, run: Run, case: pathlib.Path) -> None:
  """Sends the signal in the middle of a training."""
  began = time.monotonic()
  # By then the first checkpoints are saved, and most epochs are to come.
  while _epochs(case / run.folder, run.during) < LONG // 10:
    if program.poll() is not None or time.monotonic() - began > _SECONDS:
      program.kill()
      raise Failed(f"{run.folder}: ended or hung before it could be interrupted: "
                   f"{_last_words(case)}")
    time.sleep(0.02)
  program.send_signal(run.signal)
  _end(program, run, case,
       -run.signal if run.signal == signal.SIGKILL else 128 + run.signal)


def _end(
    program: subprocess.Popen, run: Run, case: pathlib.Path, code: int) -> None:
  """Waits for its end, which is to be with this exit code."""
  try:
    program.wait(_SECONDS)
  except subprocess.TimeoutExpired:
    program.kill()
    raise Failed(f"{run.folder}: not through after {_SECONDS} s") from None
  if program.returncode != code:
    raise Failed(f"{run.folder}: exit code {program.returncode}, not {code}: "
                 f"{_last_words(case)}")


def _epochs(workdir: pathlib.Path, net: str) -> int:
  return sum(row.get("net") == net and "epoch" in row for row in _rows(workdir))


def _rows(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The whole lines of `metrics.jsonl`."""
  file = workdir / "metrics.jsonl"
  for line in file.read_text().splitlines() if file.is_file() else ():
    with contextlib.suppress(ValueError):  # What a killed program left of a line.
      yield json.loads(line)


def _last_words(case: pathlib.Path) -> str:
  lines = (case / "output").read_text().split("\n")
  return next((line for line in reversed(lines) if line.strip()), "")[:300]


def _check_commit(workdir: pathlib.Path, side: Side) -> None:
  """Another installed kd_jax would make everything the same."""
  if side.commit is None:
    return
  ran = json.loads((workdir / "manifest.json").read_text())["commit"]
  if ran != side.commit:
    raise Failed(f"ran the program of {ran}, not of {side.commit}")


def left(workdir: pathlib.Path) -> Nets:
  """What a run left of every net, by name."""
  nets: Nets = {}
  file = workdir / "summary.json"
  summary = json.loads(file.read_text()) if file.is_file() else {}
  alone = {"baseline", "distilled"} & set(summary)  # They leave rows too, since.
  if (workdir / "results.jsonl").is_file() and not alone:
    for row in _lines(workdir / "results.jsonl"):
      logits = workdir / "logits" / f"{row['fingerprint']}.npz"
      nets[_title(row["overrides"])] = _compared(row) | _logits(logits)
    for number, row in enumerate(_lines(workdir / "teachers.jsonl"), 1):
      nets[f"{row['net']} {number}"] = _compared(row)
  else:
    for name in {"teacher", "baseline", "distilled"} & set(summary):
      nets[name] = _compared(summary[name])
      for number, member in enumerate(summary[name].get("members", ())):
        nets[f"{name}_{number}"] = _compared(member)
  # BatchNorm's statistics are in no other hash; nor is the best net anywhere else.
  for file in sorted((workdir / "parameters").glob("*/record.json")):
    nets.setdefault(file.parent.name, {}).update(
        _compared(json.loads(file.read_text())))
  if not nets:
    raise Failed(f"{workdir.name}: left no net")
  return nets


def _lines(file: pathlib.Path) -> list[dict[str, Any]]:
  text = file.read_text() if file.is_file() else ""
  return [json.loads(line) for line in text.splitlines()]


def _title(overrides: dict[str, Any]) -> str:
  return " ".join(f"{key}={value}" for key, value in sorted(overrides.items()))


def _compared(record: dict[str, Any]) -> dict[str, Any]:
  return {field: record[field] for field in FIELDS if field in record}


def _logits(file: pathlib.Path) -> dict[str, Any]:
  """A hash of what a net gave, as of the arrays: a zip has times in it."""
  if not file.is_file():
    return {}
  with np.load(file, allow_pickle=False) as logits:
    return {"logits_sha256": {
        name: hashlib.sha256(logits[name].tobytes()).hexdigest()
        for name in sorted(logits.files)}}


def _left(here: Any, base: Any) -> Any:
  """What is there, without curves and the like that the base does not have."""
  if isinstance(here, dict) and isinstance(base, dict):
    return {name: here[name] for name in base if name in here}
  return here


def apart(base: Nets, here: Nets) -> list[str]:
  """What is not the same, as `NET (FIELD, ...)`; here may have more of both."""
  told = []
  for net, numbers in base.items():
    own = here.get(net)
    if own is None:
      told.append(f"{net} (is missing)")
      continue
    unlike = [field for field, value in numbers.items()
              if _left(own.get(field), value) != value]
    if unlike:
      # The first ones are the hashes.
      told.append(f"{net} ({unlike[0]}{', ...' if unlike[1:] else ''})")
  return told


class Kept:
  """Outcomes of the base on disk, for the same commands on the same machine."""

  def __init__(self, folder: pathlib.Path | None, commit: str, data: pathlib.Path):
    self._folder = folder
    self._about = {
        "format": _FORMAT, "commit": commit, "common": COMMON, "fields": FIELDS,
        "processor": _processor(),
        "data": [hashlib.sha256(file.read_bytes()).hexdigest()
                 for file in sorted(data.iterdir())],
        "versions": {name: metadata.version(name) for name in (
            "jax", "jaxlib", "flax", "optax", "numpy")}}

  def get(self, name: str) -> Outcome | None:
    file = self._file(name)
    if file is None or not file.is_file():
      return None
    return Outcome(json.loads(file.read_text()), 0.0)

  def put(self, name: str, outcome: Outcome) -> None:
    file = self._file(name)
    if file is not None and not outcome.error:
      file.parent.mkdir(parents=True, exist_ok=True)
      fresh = file.with_suffix(".new")
      fresh.write_text(json.dumps(outcome.nets))
      fresh.replace(file)

  def _file(self, name: str) -> pathlib.Path | None:
    text = json.dumps([self._about, CASES[name]], sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    return self._folder and self._folder / f"{name}-{mark}.json"


def _processor() -> str:
  """What XLA compiles for."""
  file = pathlib.Path("/proc/cpuinfo")
  text = file.read_text() if file.is_file() else platform.processor()
  first = text.split("\n\n")[0].splitlines()
  changing = ("cpu MHz", "bogomips", "BogoMIPS", "apicid", "initial apicid")
  return "\n".join(line for line in first if not line.startswith(changing))


def _git(*words: str) -> str:
  return subprocess.run(
      ["git", *words], cwd=ROOT, capture_output=True, text=True,
      check=True).stdout.strip()


def commit_of(base: str) -> str | None:
  """The full name of a commit, or None if it is not in this clone."""
  try:
    return _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
  except (OSError, subprocess.CalledProcessError):
    return None


@contextlib.contextmanager
def checked_out(commit: str, folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files of a commit, for a while."""
  _git("worktree", "add", "--detach", str(folder), commit)
  try:
    yield folder
  finally:
    _git("worktree", "remove", "--force", str(folder))


def _workers() -> futures.ThreadPoolExecutor:
  """Threads that each have one core to themselves, and so have their programs.

  A program's bits depend on how many cores it may use, which is one for all.
  """
  if not hasattr(os, "sched_setaffinity"):
    return futures.ThreadPoolExecutor(max_workers=2)
  cores: queue.SimpleQueue[int] = queue.SimpleQueue()
  allowed = sorted(os.sched_getaffinity(0))
  for core in allowed:
    cores.put(core)
  return futures.ThreadPoolExecutor(
      max_workers=min(len(allowed), 8),
      initializer=lambda: os.sched_setaffinity(0, {cores.get()}))


@contextlib.contextmanager
def _cancelled(workers: futures.Executor) -> Iterator[None]:
  """Nothing more is begun after Ctrl-C or a mistake of ours."""
  try:
    yield
  except BaseException:
    workers.shutdown(wait=False, cancel_futures=True)
    raise


def compare(names: Sequence[str], shared: Shared, base: Side, here: Side, kept: Kept
            ) -> int:
  """Runs cases on both sides, tells of each, and gives the number that failed.

  The working tree is some cases behind: it then finds most programs compiled.
  """
  known = {name: found for name in names if (found := kept.get(name))}
  failed = 0
  with _workers() as workers, _cancelled(workers):
    jobs: dict[futures.Future, tuple[str, Side]] = {}
    lag = [None] * _LAG
    for ahead, behind in zip([*names, *lag], [*lag, *names]):
      for name, side in ((ahead, base), (behind, here)):
        if name and not (side is base and name in known):
          jobs[workers.submit(shared.outcome, name, side)] = name, side
    both: dict[str, dict[Side, Outcome]] = {
        name: {base: known[name]} if name in known else {} for name in names}
    for job in futures.as_completed(jobs):
      name, side = jobs[job]
      both[name][side] = outcome = job.result()
      if side is base:
        kept.put(name, outcome)
      if len(both[name]) == 2:
        failed += _tell(name, both[name][base], both[name][here])
  return failed


def _tell(name: str, base: Outcome, here: Outcome) -> bool:
  """Prints the line of a case; gives whether it failed."""
  errors = [f"{side}: {outcome.error}" for side, outcome in (
      ("base", base), ("here", here)) if outcome.error]
  unlike = apart(base.nets, here.nets)
  word, about = "same", f"{len(base.nets)} nets"
  if errors:
    word, about = "FAILED", "; ".join(errors)
  elif unlike:
    word, about = "DIFFERS", "; ".join(unlike)
  print(f"{word:8}{name:16}{base.seconds:4.0f} s{here.seconds:4.0f} s  {about}",
        flush=True)
  return word != "same"


def chosen(words: Sequence[str]) -> list[str]:
  """The cases of these names, or with these words in them; all without words."""
  meant = lambda word, name: word == name if word in CASES else word in name
  return [name for name in CASES
          if not words or any(meant(word, name) for word in words)]


def main(argv: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("words", nargs="*", metavar="WORD",
                      help=f"part of a case's name: {', '.join(CASES)}")
  parser.add_argument("--base", default=BASE, metavar="COMMIT")
  parser.add_argument("--keep", type=lambda text: pathlib.Path(text).resolve())
  args = parser.parse_args(argv)
  for word in args.words:
    if not chosen([word]):
      parser.error(f"{word}: no case has it in its name: {', '.join(CASES)}")
  commit = commit_of(args.base)
  if commit is None:
    print(f"error: --base={args.base}: no such commit in this clone; fetch it "
          "first (git fetch --unshallow)", file=sys.stderr)
    return 2
  names = chosen(args.words)
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(
        tempfile.TemporaryDirectory(prefix="kd_jax_golden_")))
    shared = Shared(folder / "data", (args.keep or folder) / "xla")
    shared.data.mkdir()
    write_data(shared.data)
    tree = stack.enter_context(checked_out(commit, folder / "tree"))
    failed = compare(
        names, shared, Side(tree, folder / "base", commit),
        Side(ROOT, folder / "here"), Kept(args.keep, commit, shared.data))
  print(f"{len(names) - failed} passed, {failed} failed")
  return min(failed, 1)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
