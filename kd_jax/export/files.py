"""Files of a net: written, run in their own runtimes, compared with it, kept."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import datetime
from importlib import metadata
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

import kd_jax
from kd_jax import data as data_lib
from kd_jax.config import build
from kd_jax.core import machine
from kd_jax.core.errors import UserError, message
from kd_jax.export import arrays, cost
from kd_jax.export.formats import FORMATS, Served
from kd_jax.models import compression
from kd_jax.runs import trained
from kd_jax.training import parameters

# A float file may differ by this part of the largest logit; an int8 file may name
# another class for this part of the test set, if no other is asked for.
TOLERANCE, DISAGREEMENT = 1e-3, 0.05
# Training inputs by which static int8 knows the ranges of its layers.
_CALIBRATION = 256
_BATCH = 256


class Net(NamedTuple):
  """A net to export, and what its files are compared with.

  Attributes:
    served: The net.
    inputs: Of the test set, as they are stored.
    label: Of these.
    logits: The net's own, float32 `[N, classes]`.
    calibration: Some training inputs.
    sha256: Of its parameters.
  """

  served: Served
  inputs: np.ndarray
  label: np.ndarray
  logits: np.ndarray
  calibration: np.ndarray
  sha256: str


def net(workdir: pathlib.Path, name: str | None, say: Callable[[str], None]) -> Net:
  """A net of a run, with the logits that its files must have.

  Raises:
    UserError: If there is no such net, or no data to compare with.
  """
  found = without_dead(trained.load(workdir, name))
  dataset = build.dataset(found.values, say=say)
  _refuse_other_data(workdir, found, dataset)
  chosen = np.linspace(0, len(dataset.train_ids) - 1, _CALIBRATION).astype(int)

  def function(inputs):
    logits = found.logits(inputs)
    return logits, jax.nn.softmax(logits)

  served = Served(function, found.shape, found.dtype,
                  _card(workdir, found, dataset), _arrays(found))
  inputs = dataset.test.inputs
  logits, _ = _asked(jax.jit(function), inputs)
  return Net(served, inputs, dataset.test.label, logits,
             dataset.train.inputs[dataset.train_ids[np.unique(chosen)]],
             parameters.parameters_sha256(found.variables.params))


def _refuse_other_data(
    workdir: pathlib.Path, found: trained.Trained, dataset: data_lib.Dataset
) -> None:
  """Refuses data that are not those of the run: their errors would be others."""
  record = parameters.load_record(workdir / "parameters" / found.name) or {}
  before = (record.get("identity") or {}).get("data")
  if before not in (None, dataset.fingerprint):
    raise UserError(
        f"{workdir}: the data set that {dataset.name} is now, from "
        f"{dataset.source}, is not that of the run; give the folder that it had "
        "with KD_JAX_DATA=DIR")


def without_dead(found: trained.Trained) -> trained.Trained:
  """An MLP without the units that are always 0, such as pruned ones."""
  if found.values["student.name"] != "mlp":
    return found
  try:
    params = compression.without_dead(found.variables.params)
  except ValueError:  # Factors, say.
    return found
  return arrays.with_params(found, params)


def _card(
    workdir: pathlib.Path, found: trained.Trained, dataset: data_lib.Dataset
) -> dict[str, Any]:
  """What a file says of its net, so that it can be used without its run."""
  preprocess = {name: np.asarray(numbers).tolist()
                for name, numbers in found.preprocess._asdict().items()}
  return {
      "net": found.name, "run": workdir.resolve().name, "data": dataset.name,
      "classes": list(found.classes), "input": {
          "name": "inputs", "shape": ["batch", *found.shape],
          "dtype": found.dtype.name},
      "outputs": ["logits", "probabilities"],
      "preprocessing": {
          "inside": True, "as": "scale * input + offset" if preprocess else "input",
          **preprocess},
      "kd_jax": kd_jax.__version__}


def _arrays(found: trained.Trained) -> dict[str, np.ndarray]:
  """Parameters and state by path, such as `params/Dense_0/kernel`."""
  leaves = jax.tree_util.tree_flatten_with_path(found.variables._asdict())[0]
  return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
          for path, leaf in leaves}


def _asked(
    run: Callable[[Any], Any], inputs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Logits and probabilities of all inputs, in batches."""
  found = [jax.device_get(run(inputs[first:first + _BATCH]))
           for first in range(0, len(inputs), _BATCH)]
  return tuple(map(np.concatenate, zip(*found)))  # type: ignore[return-value]


def write(
    net: Net, names: Sequence[str], kinds: Sequence[str], folder: pathlib.Path, *,
    disagreement: float = DISAGREEMENT, say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
  """Writes a net in some formats, each float and then int8 as `kinds` say.

  Args:
    net: The net.
    names: Of formats.
    kinds: Of int8, without "none"; a format passes over those that it has not.
    folder: Where the files go; it is there.
    disagreement: For what part of the test set an int8 file may name another class.
    say: Tells the user what comes next.

  Yields:
    The row of each file that is as good as the net.

  Raises:
    UserError: If a format cannot express the net, or a file differs too much; that
      file is not left there, those before it are.
  """
  own = net.served.card["net"]
  parameters.write_json(folder / f"{own}.json", net.served.card)
  for name in names:
    chosen = FORMATS[name]
    plain = folder / f"{own}{chosen.suffix}"
    say(f"{own}: {name}")
    with _kept(plain) as fresh, _expressed(name, own):
      chosen.code.write(net.served, fresh)
      row = _compared(net, name, "none", fresh, disagreement)
    yield row | {"file": plain.name}
    for kind in (kind for kind in kinds if kind in chosen.int8):
      bits = "int4" if kind.endswith("4") else "int8"
      file = folder / f"{own}.{bits}-{kind}{chosen.suffix}"
      say(f"{own}: {name}, {bits} {kind}")
      with _kept(file) as fresh, _expressed(f"{name} --int8={kind}", own):
        chosen.code.quantise(plain, fresh, kind, net.calibration)
        row = _compared(net, name, kind, fresh, disagreement)
      yield row | {"file": file.name}


@contextlib.contextmanager
def _kept(file: pathlib.Path) -> Iterator[pathlib.Path]:
  """Where to write a file that takes its name when it is found good."""
  fresh = file.with_name(f"new-{file.name}")
  try:
    yield fresh
    fresh.replace(file)
  finally:
    fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _expressed(asked: str, own: str) -> Iterator[None]:
  """Tells in a line what a format, or its package, cannot do with a net."""
  try:
    yield
  except (UserError, OSError):
    raise
  except Exception as error:  # Whatever the packages raise.
    line = " ".join(message(error).split())[:300]
    raise UserError(
        f"--format={asked}: cannot express {own}: {line}; leave it out") from None


def _compared(
    net: Net, name: str, kind: str, file: pathlib.Path, disagreement: float
) -> dict[str, Any]:
  """The row of a file that was run on the whole test set.

  Raises:
    UserError: If it differs from the net by more than is allowed.
  """
  chosen, own = FORMATS[name], np.argmax(net.logits, axis=-1)
  found, logits = own, net.logits
  if chosen.runs:
    logits, probabilities = _asked(chosen.code.load(file), net.inputs)
    found = np.argmax(logits, axis=-1)
    _refuse_wrong(net, name, kind, logits, probabilities, disagreement)
  elif not _same(chosen.code.arrays(file), net.served.arrays):
    raise UserError(f"--format={name}: the arrays that were written are not those "
                    "of the net")
  return {
      "net": net.served.card["net"], "format": name, "int8": kind,
      "bytes": file.stat().st_size, "test_errors": int(np.sum(found != net.label)),
      "test_examples": len(net.label), "agreement": float(np.mean(found == own)),
      "largest_difference": float(np.max(np.abs(logits - net.logits))),
      **(cost.of(name, file, net.inputs) if chosen.runs else {}),
      "parameters_sha256": net.sha256, "data": net.served.card["data"],
      "versions": {each: metadata.version(each) for each in (
          "jax", *chosen.packages)},
      "processor": machine.processor(),
      "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def _same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
  return found.keys() == wanted.keys() and all(
      np.array_equal(found[key], wanted[key], equal_nan=True) for key in wanted)


def _refuse_wrong(net, name, kind, logits, probabilities, disagreement) -> None:
  """Refuses a file that is another net than the one it was made of."""
  if kind == "none":
    allowed = TOLERANCE * max(1.0, float(np.max(np.abs(net.logits))))
    gap = float(np.max(np.abs(logits - net.logits)))
    if not gap <= allowed:  # NaN is refused too.
      raise UserError(
          f"--format={name}: its logits differ from the net's by {gap:.3g}, and "
          f"{allowed:.3g} is allowed; it is not kept")
  else:
    share = float(np.mean(
        np.argmax(logits, axis=-1) != np.argmax(net.logits, axis=-1)))
    if not share <= disagreement:
      raise UserError(
          f"--format={name} --int8={kind}: it names another class than the net for "
          f"{share:.1%} of the test set, and {disagreement:.2g} is allowed; "
          "it is not kept")
  wanted = np.asarray(jax.nn.softmax(logits))
  if not np.max(np.abs(probabilities - wanted)) <= 0.01:
    raise UserError(f"--format={name} --int8={kind}: its probabilities are not "
                    "those of its logits; it is not kept")
