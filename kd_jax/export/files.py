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
from kd_jax.core import files as files_lib
from kd_jax.core import machine, strict
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
    inputs: Of the test set, as they are stored; none without data.
    label: Of these.
    logits: The net's own, float32 `[N, classes]`.
    calibration: Some training inputs.
    sha256: Of its parameters.
    lacking: Why there are no data, so that arrays alone can be written; or "".
  """

  served: Served
  inputs: np.ndarray
  label: np.ndarray
  logits: np.ndarray
  calibration: np.ndarray
  sha256: str
  lacking: str = ""


class Refused(UserError):
  """A file that is not kept.

  Attributes:
    older: The row of the file that was there before, if that is as good as the net.
    gone: Whether there was one that is not, and is removed.
  """

  def __init__(
      self, text: str, older: dict[str, Any] | None = None, gone: bool = False):
    super().__init__(text)
    self.older, self.gone = older, gone


class _Differs(UserError):
  """A file was run, and is another net than the one it should be."""


def net(
    workdir: pathlib.Path, name: str | None, say: Callable[[str], None], *,
    data: pathlib.Path | None = None,
) -> Net:
  """A net of a run, with the logits that its files must have.

  Its programs compute in float32, whatever it was trained in: few runtimes have
  bfloat16.

  Args:
    workdir: Of the run.
    name: Of the net; None for the one that the run is about.
    say: Tells the user.
    data: The folder of its data set, where that has moved.

  Raises:
    UserError: If there is no such net.
  """
  own = trained.load(workdir, name, data=data)
  found = without_dead(own)
  if halves := any(trained.in_bfloat16(own.values, key) for key in own.values):
    found = without_dead(trained.load(workdir, name, data=data, float32=True))
  empty = np.zeros((0, *found.shape), found.dtype)
  lacking, test, calibration = "", data_lib.Examples(empty, np.zeros(0, int)), empty
  try:
    dataset = build.dataset(found.values, say=say)
    _refuse_other_data(workdir, found, dataset)
    chosen = np.linspace(0, len(dataset.train_ids) - 1, _CALIBRATION).astype(int)
    test = dataset.test
    calibration = dataset.train.inputs[dataset.train_ids[np.unique(chosen)]]
  except (UserError, OSError) as error:
    lacking = _with_remedy(str(UserError(error)))

  def function(inputs):
    logits = found.logits(inputs)
    return logits, jax.nn.softmax(logits)

  logits = np.zeros((0, len(found.classes)), np.float32)
  if not lacking:
    logits, _ = _asked(jax.jit(function), test.inputs)
  card = _card(workdir, found)
  if halves and not lacking:
    card |= _remark(own, test.inputs, logits, say)
  return Net(Served(function, found.shape, found.dtype, card, _arrays(found)),
             test.inputs, test.label, logits, calibration,
             parameters.parameters_sha256(found.variables.params), lacking)


def _with_remedy(text: str) -> str:
  """What is wrong with the data, with the flag of this command."""
  for key in ("--config.data.dir=", "data.dir="):
    text = text.replace(key, "--data=")
  return text if "--data=DIR" in text else (
      f"{text}; give the folder of the run's data with --data=DIR")


def _remark(
    own: trained.Trained, inputs: np.ndarray, logits: np.ndarray,
    say: Callable[[str], None],
) -> dict[str, str]:
  """Says how far a net in bfloat16 is from its files, which are in float32."""
  half, _ = _asked(jax.jit(lambda some: (own.logits(some),) * 2), inputs)
  if np.array_equal(half, logits):  # Of a run whose teacher alone is in bfloat16.
    return {}
  share = np.mean(np.argmax(half, axis=-1) != np.argmax(logits, axis=-1))
  line = ("it computes in bfloat16 in its run, its files in float32 with the same "
          f"weights: another class for {share:.2%} of the test set")
  say(f"{own.name}: {line}")
  return {"arithmetic": line}


def _refuse_other_data(
    workdir: pathlib.Path, found: trained.Trained, dataset: data_lib.Dataset
) -> None:
  """Refuses data that are not those of the run: their errors would be others."""
  before = (trained.record(workdir, found.name).get("identity") or {}).get("data")
  if before not in (None, dataset.fingerprint):
    raise UserError(
        f"{workdir}: the data set that {dataset.name} is now, from "
        f"{dataset.source}, is not that of the run")


def without_dead(found: trained.Trained) -> trained.Trained:
  """An MLP without the units that are always 0, such as pruned ones."""
  if found.values["student.name"] != "mlp":
    return found
  try:
    params = compression.without_dead(found.variables.params)
  except ValueError:  # Factors, say.
    return found
  return arrays.with_params(found, params)


def _card(workdir: pathlib.Path, found: trained.Trained) -> dict[str, Any]:
  """What a file says of its net, so that it can be used without its run."""
  preprocess = {name: np.asarray(numbers).tolist()
                for name, numbers in found.preprocess._asdict().items()}
  return {
      "net": found.name, "run": workdir.resolve().name,
      "data": found.values["data.name"],
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
  return {name: np.asarray(leaf)
          for name, leaf in arrays.by_name(found.variables).items()}


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
    Refused: As of `one`; the files before it are left there.
  """
  for name in names:
    for kind in ("none", *(kind for kind in kinds if kind in FORMATS[name].int8)):
      yield one(net, name, kind, folder, disagreement=disagreement, say=say)


def one(
    net: Net, name: str, kind: str, folder: pathlib.Path, *,
    disagreement: float = DISAGREEMENT, say: Callable[[str], None],
) -> dict[str, Any]:
  """Writes a file of a net, int8 of the float file there; arguments as of `write`.

  Raises:
    Refused: If a format cannot express the net, or a file differs too much. A file
      that was there before stays if it is as good as the net.
  """
  own, chosen, asked = net.served.card["net"], FORMATS[name], name
  file = plain = folder / f"{own}{chosen.suffix}"
  if kind != "none":
    bits = "int4" if kind.endswith("4") else "int8"
    file = folder / f"{own}.{bits}-{kind}{chosen.suffix}"
    asked = f"{name} --int8={kind}"
  if net.lacking and chosen.runs:
    raise Refused(net.lacking)
  say(f"{own}: {name}" + (f", {bits} {kind}" if kind != "none" else ""))
  try:
    with files_lib.replacing(file) as fresh, _expressed(asked, own):
      if kind == "none":
        chosen.code.write(net.served, fresh)
      else:
        chosen.code.quantise(plain, fresh, kind, net.calibration)
      row = _compared(net, name, kind, fresh, disagreement)
    with files_lib.replacing(folder / f"{own}.json") as fresh:
      fresh.write_text(strict.dumps(net.served.card, indent=2) + "\n")
  except UserError as error:
    raise _refused(str(error), net, name, kind, file, disagreement) from None
  return row | {"file": file.name}


def _refused(
    text: str, net: Net, name: str, kind: str, file: pathlib.Path,
    disagreement: float,
) -> Refused:
  """What to tell, and what becomes of the file that was there before."""
  if not file.is_file():
    return Refused(text)
  try:
    with _expressed(name, net.served.card["net"]):
      row = _compared(net, name, kind, file, disagreement)
  except _Differs:
    file.unlink()
    return Refused(f"{text}; that of before differs too, and is removed", gone=True)
  except UserError:
    return Refused(f"{text}; that of before cannot be compared, and stays")
  return Refused(f"{text}; that of before is as good as the net, and is kept",
                 older=row | {"file": file.name})


@contextlib.contextmanager
def _expressed(asked: str, own: str) -> Iterator[None]:
  """Tells in a line what a format, or its package, cannot do with a net."""
  try:
    yield
  except (UserError, OSError):
    raise
  except Exception as error:  # Whatever the packages raise.
    line = " ".join(message(error).split())[:300]
    if "_DimExpr" in line or "ymbolic dimension" in line:
      line = ("it takes the size of its batch for a Python number, as len(x), "
              "int(x.shape[0]) or a loop over x do; write x.shape[0], and "
              "x.reshape(x.shape[0], -1)")
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
    raise _Differs(f"--format={name}: the arrays that were written are not those "
                   "of the net")
  return {
      "net": net.served.card["net"], "format": name, "int8": kind,
      "bytes": file.stat().st_size,
      "test_errors": None if net.lacking else int(np.sum(found != net.label)),
      "test_examples": None if net.lacking else len(net.label),
      "agreement": float(np.mean(found == own)) if chosen.runs else 1.0,
      "largest_difference": (
          float(np.max(np.abs(logits - net.logits))) if chosen.runs else 0.0),
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
      raise _Differs(
          f"--format={name}: its logits differ from the net's by {gap:.3g}, and "
          f"{allowed:.3g} is allowed; it is not kept")
  else:
    share = float(np.mean(
        np.argmax(logits, axis=-1) != np.argmax(net.logits, axis=-1)))
    if not share <= disagreement:
      raise _Differs(
          f"--format={name} --int8={kind}: it names another class than the net for "
          f"{share:.1%} of the test set, and {disagreement:.2g} is allowed; "
          "it is not kept")
  wanted = np.asarray(jax.nn.softmax(logits))
  if not np.max(np.abs(probabilities - wanted)) <= 0.01:
    raise _Differs(f"--format={name} --int8={kind}: its probabilities are not "
                   "those of its logits; it is not kept")
