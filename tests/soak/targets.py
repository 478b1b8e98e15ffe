"""The programs and functions that read files, and the files that they read.

`TARGETS` are real programs in folders of real runs, which `prepare` makes.
`READERS`, of these, are functions that read the same files; nothing is trained for
their folder.
"""

from collections.abc import Callable, Iterator
import contextlib
import itertools
import json
import pathlib
import random
import shutil
import tempfile
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUMBERS = "numbers.json"  # Of the unharmed runs.
COMMON = (
    f"--config={ROOT}/configs/mnist.py", "--config.data.name=blobs",
    "--config.min_steps=0", "--config.teacher.min_steps=0",
    "--config.student.widths=(4,)", "--config.teacher.widths=(5,)",
    "--config.batch_size=16", "--config.teacher.batch_size=16",
    "--config.epochs=5", "--config.teacher.epochs=2", "--config.tensorboard=false")
BANK = ("--config.teacher.bank=always", "--config.data.holdout=0.2")
SWEEP = ("--sweep.temperature=2,8", "--sweep.seed=0,1", "--config.sweep.lanes=1x2",
         "--config.sweep.logits=true")


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


def compare(folder: pathlib.Path) -> int:
  """McNemar's test of two rows of those that were there."""
  names = (folder / "names").read_text().split()
  return report("{}/run", "--compare", *names[:2])(folder)


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


def read_data(folder: pathlib.Path, name: str, **how) -> int:
  from kd_jax import data
  data.load(name, directory=folder, **how)
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
  results.Results(folder, print, writes=False)
  from kd_jax import config
  workdir.refuse_other(config.flatten(config.default()), folder, print)
  return 0


def read_kept(folder: pathlib.Path) -> int:
  from kd_jax.runs import kept_logits
  kept_logits.load(folder, {"fingerprint": "abc"})
  return 0


def read_inputs(folder: pathlib.Path) -> int:
  """Images and arrays that a net is asked about."""
  from kd_jax import predict
  from kd_jax.data import image_files
  from kd_jax.errors import UserError
  for path in sorted(folder.iterdir()):
    try:
      if path.suffix == ".npy":
        predict._array(path)
      else:
        image_files.read(path, (12, 10, 1), say=lambda line: None)
    except OSError as error:  # The command prints it as a line too.
      raise UserError(error) from None
  return 0


def prepare_readers(folder: pathlib.Path) -> None:
  """The folder of `READERS`, for which nothing is trained."""
  from PIL import Image

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
      {"net": "teacher", "time": 0, "fingerprint": "abc", "epoch": epoch,
       "test_errors": 4}
  ) + "\n" for epoch in (1, 2)))
  (own / "logits").mkdir()
  np.savez(own / "logits/abc.npz", test=np.zeros((3, 7), np.float16))
  (folder / "inputs").mkdir()
  noise = np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8)
  np.save(folder / "inputs/a.npy", noise[None])
  for kind in ("png", "jpg", "gif", "tiff", "webp"):
    Image.fromarray(noise).save(folder / f"inputs/a.{kind}")


def conformance(folder: pathlib.Path) -> int:
  from kd_jax.conformance import __main__ as door
  code = door.main([str(folder / "own_loss.py"), "--only=shift"])
  return 0 if code == 1 else code  # A row that fails is a verdict too.


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
    "compare": Target("sweep", "run/results.jsonl", compare),
    "merge": Target("shards", "one/*", _MERGE, of_merge),
    "merge teachers": Target("shards", "*/teachers/**/*", _MERGE, of_merge),
    "doctor": Target("single", "run/*", doctor(*BANK, "--workdir={}/run")),
    "load_parameters": Target("single", "run/parameters/distilled/**/*",
                              lambda folder: read_net(
                                  folder / "run/parameters/distilled")),
    "conformance": Target("files", "own_loss.py", conformance),
}
_TREES = {"label": "kind", "test_fraction": 0.2}
# The same by what reads them, without the rest of a run: tests try some of these.
READERS: dict[str, Target] = {
    f"read {name}": Target("read", files, read) for name, files, read in (
        ("npz", "blobs.npz", lambda folder: read_data(folder, "blobs")),
        ("idx", "letters/*", lambda folder: read_data(folder, "letters")),
        ("cifar", "colours/*", lambda folder: read_data(folder, "colours")),
        ("images", "pets/**/*", lambda folder: read_data(folder, "pets")),
        ("csv", "trees.csv", lambda folder: read_data(folder, "trees", **_TREES)),
        ("parquet", "rocks.parquet", lambda folder: read_data(
            folder, "rocks", **_TREES)),
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
        ("inputs", "inputs/*", lambda folder: read_inputs(folder / "inputs")),
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
  """Data sets of six formats."""
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
  for number in range(12):
    file = folder / ("pets/{}/{}/{}.png".format(
        ("train", "test")[number % 3 == 0], ("cat", "dog")[number % 2], number))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x[number, ..., 0]).save(file)
  trees = {"width": np.arange(0, 80, 2), "colour": ["red", "blue"] * 20,
           "kind": ["oak", "oak", "elm", "elm"] * 10}
  pd.DataFrame(trees).to_csv(folder / "trees.csv", index=False)
  pd.DataFrame(trees).to_parquet(folder / "rocks.parquet")


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
  (base / "sweep/names").write_text(" ".join(of_sweep(base / "sweep")))
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
