"""Strict settings for every test, eight devices, and data to run on."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
import tempfile

# Before jax starts: host devices are fixed from then on. The programs that the
# tests start share one compilation cache, which ends with the tests.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="kd_jax_xla_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
# Most of the time goes into compiling nets of ten units, and less than half of it
# if they are not optimised. `XLA_FLAGS= pytest` compiles as a run does; CI does so
# for one file each commit, of those that compare programs (.ci/run).
os.environ.setdefault("XLA_FLAGS", " ".join((
    "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")))

import figures
import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import methods
from kd_jax.config import identity, sweep
from kd_jax.core import compilation
from kd_jax.data.preprocess import Scaling
from kd_jax.report import canvas, plots
from kd_jax.training import segment, train_loop

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
  parser.addoption(
      "--slow", default=os.environ.get("KD_JAX_SLOW", "all"), metavar="I/N",
      help="of the slow tests the I-th of N parts; all (default) or none of them")


def pytest_collection_modifyitems(config, items):
  """Leaves out slow tests that were not asked for."""
  asked = config.getoption("--slow")
  slow = [item for item in items if item.get_closest_marker("slow")]
  if asked == "none":
    left = slow
  elif asked == "all":
    left = []
  else:
    try:
      part, parts = map(int, asked.split("/"))
    except ValueError:
      raise pytest.UsageError(f"--slow={asked}: all, none or I/N") from None
    left = [item for number, item in enumerate(slow)
            if number % parts != part % parts]
  gone = set(left)
  config.hook.pytest_deselected(items=left)
  items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="module", autouse=True)
def _no_programs_left():
  """A file's programs end with it.

  Thousands of them fill the memory, and the 65,530 parts that Linux lets the memory
  of a process have.
  """
  yield
  compilation.forget()
  jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_methods_left():
  """A method of a user's file goes with its test: others have its name."""
  before = dict(methods.METHODS)
  yield
  methods.METHODS.clear()
  methods.METHODS.update(before)


@pytest.fixture(autouse=True)
def _strict_promotion():
  """Our own functions never mix dtypes by accident; optax's may."""
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture(autouse=True)
def _without_pictures(request):
  """Runs draw none, half the time of a small one, but where a test says so.

  Of every figure that is saved the text is whole, plain, and apart.
  """
  save = canvas.save

  def checked(drawn, path, **more):
    done = save(drawn, path, **more)
    assert figures.faults(drawn) == [], path
    return done

  # A patch of its own: a test that undoes its `monkeypatch` early would undo this
  # one too, and what then was patched later would bring it back for good.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(canvas, "save", checked)
    if not request.node.get_closest_marker("pictures"):
      patch.setattr(plots, "write", lambda *_: {})
    yield


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture(scope="session")
def official_data() -> pathlib.Path:
  """The folder with real MNIST and CIFAR files, or a skip that says how."""
  for folder in (os.environ.get("KD_JAX_DATA"), ROOT.parent / "shared/data"):
    if folder and (pathlib.Path(folder) / "mnist").is_dir():
      return pathlib.Path(folder)
  pytest.skip(
      "needs the four official idx files of MNIST in DIR/mnist: set "
      "KD_JAX_DATA=DIR")


def blobs(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """A set that a small net can learn: 7 kinds of noisy 12x10 grey patterns."""
  patterns = np.random.default_rng(0).integers(0, 200, (7, 12, 10, 1))
  draw = np.random.default_rng(seed)
  label = draw.integers(0, 7, number).astype(np.int32)
  noise = draw.integers(0, 56, (number, 12, 10, 1))
  return (patterns[label] + noise).astype(np.uint8), label


@pytest.fixture(scope="session")
def own_data(tmp_path_factory) -> pathlib.Path:
  """A user's own data set: DIR/blobs.npz, 7 classes of 12x10 grey images."""
  folder = tmp_path_factory.mktemp("data")
  x_train, y_train = blobs(300, seed=1)
  x_test, y_test = blobs(110, seed=2)
  np.savez(folder / "blobs.npz", x_train=x_train, y_train=y_train,
           x_test=x_test, y_test=y_test)
  return folder


@pytest.fixture(scope="session")
def finished_run(own_data, tmp_path_factory) -> pathlib.Path:
  """A run of blobs, with classes a to g: teacher, baseline and distilled.

  It is trained once for all files and processes. Copy it before you change it.
  """
  from kd_jax import main
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent  # The processes have a folder in it each.
  folder = root / "finished_run"
  with filelock.FileLock(root / "finished_run.lock"):
    if (folder / "run/summary.json").is_file():
      return folder / "run"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "blobs.npz").write_bytes((own_data / "blobs.npz").read_bytes())
    (folder / "blobs/classes.txt").write_text("\n".join("abcdefg"))
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion(
        "standard"):
      patch.chdir(ROOT)
      patch.setattr(plots, "write", lambda *_: {})
      assert main.run([
          "--config=configs/mnist.py", "--config.data.name=blobs",
          f"--config.data.dir={folder}", f"--workdir={folder / 'run'}",
          "--config.steps=150", "--config.teacher.steps=150",
          "--config.min_steps=0", "--config.student.widths=(32,)",
          "--config.teacher.widths=(24,)", "--config.tensorboard=false",
          "--config.parallel=single"]) == 0
  return folder / "run"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> pathlib.Path:
  """A folder of teachers, so that the tests of a file train each of them once."""
  return tmp_path_factory.mktemp("teachers")


def groups(config, points) -> list[list[sweep.Lane]]:
  """The lanes of a sweep, those of one compiled program together."""
  found: dict[str, list[sweep.Lane]] = {}
  for lane in sweep.lanes(config, points):
    found.setdefault(identity.group(lane.values), []).append(lane)
  return list(found.values())


@contextlib.contextmanager
def segments(stop_at: int | None = None) -> Iterator[list]:
  """The segments of trainings, by who paces each; SIGTERM during one of them."""
  passed: list = []
  dispatched = train_loop._Pace.dispatched

  def counted(pace, *arguments):
    passed.append(pace)
    if len(passed) == stop_at:
      signal.raise_signal(signal.SIGTERM)
    return dispatched(pace, *arguments)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_loop._Pace, "dispatched", counted)
    yield passed


@pytest.fixture
def device_data() -> segment.DeviceData:
  """150 of those examples on the device: no multiple of any batch size here."""
  image, label = blobs(150)
  return segment.DeviceData(
      jnp.asarray(image), jnp.asarray(label), jnp.arange(150, dtype=jnp.int32),
      Scaling(jnp.full((1,), 1 / 255, jnp.float32), jnp.zeros((1,), jnp.float32)))
