"""Trained nets: the store of those that others learn from, and what they say."""

from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.data import preprocess
from kd_jax.data.views import VIEWS
from kd_jax.runs import records
from kd_jax.runs.setup import Setup
from kd_jax.training import devices as devices_lib
from kd_jax.training import fit, parameters
from kd_jax.training.settings import Training


class Kept(NamedTuple):
  """A net that is trained, with all that a student or a later net needs of it.

  Attributes:
    training: How it was trained; its model and taps.
    variables: The net, on every device.
    record: Its numbers. Its bits, `parameters_sha256`, stand for it in the identity
      of those who learn from it: another machine's teacher is another teacher.
  """

  training: Training
  variables: types.Variables
  record: dict[str, Any]

  @property
  def sha256(self) -> str:
    return self.record["parameters_sha256"]


@contextlib.contextmanager
def stored(setup: Setup, fingerprint: str) -> Iterator[pathlib.Path]:
  """The folder of a net that others learn from, for this program alone.

  Programs that share a store train a net once; the others wait for it.
  """
  path = _folder(setup, fingerprint)
  with records.alone(path, say=setup.screen.say, stop=setup.stop):
    yield path


def save(
    setup: Setup, training: Training, fingerprint: str,
    variables: types.Variables, row: dict[str, Any],
) -> Kept:
  """Keeps a lane's net in the store, for those that learn from it."""
  record = row | {
      "parameters_sha256": parameters.parameters_sha256(variables.params)}
  with stored(setup, fingerprint) as path:
    parameters.save_net(path, variables, record)
  return checked(setup, training, path, record)


def replace(
    setup: Setup, path: pathlib.Path, variables: types.Variables,
    record: dict[str, Any],
) -> None:
  """Saves a net at `path`; one of another fingerprint is kept under that."""
  before = parameters.load_record(path) if hosts.first() else None
  other = before and before.get("fingerprint", record["fingerprint"])
  if other and other != record["fingerprint"]:
    aside = path.with_name(f"{path.name}-{other[:16]}")
    if not aside.exists():
      path.rename(aside)
      setup.screen.say(f"{path}: the net of another run is kept in {aside}")
  parameters.save_net(path, variables, record)


def find(setup: Setup, training: Training, fingerprint: str) -> Kept | None:
  """The net of a fingerprint in the store, or None."""
  path = _folder(setup, fingerprint)
  record = finished(setup, fingerprint[:8], path, fingerprint)
  return None if record is None else checked(setup, training, path, record)


def finished(
    setup: Setup, name: str, path: pathlib.Path, fingerprint: str
) -> dict[str, Any] | None:
  """The record of a net that is there, whole, and the one that is wanted."""
  record = parameters.load_record(path)
  if record is None or record["fingerprint"] != fingerprint:
    return None
  forced = setup.run.values["checkpoint.resume"] == "force"
  if record.get("resumed_although") and not forced:
    setup.screen.say(
        f"{name}: was begun with another config ({path}); training it anew, as "
        "--resume=force is not given")
    return None
  try:
    parameters.load_parameters(path)
  except UserError as error:
    setup.screen.say(f"{name}: {error}; training it anew")
    return None
  return record


def checked(
    setup: Setup, training: Training, path: pathlib.Path, record: dict[str, Any]
) -> Kept:
  """The net at a path of the store; it must be as good as its record says.

  Raises:
    UserError: If it is not, whoever put it there.
  """
  variables = load(setup, training.model, path)
  totals, _ = fit.evaluate(
      devices_lib.make_predict(setup.devices, training.model, VIEWS["none"]),
      variables, setup.splits["test"])
  errors, number = int(totals["errors"].total), record["test_examples"]
  # Another machine may round a tie the other way; 0.1 points is no rounding.
  if abs(errors - record["test_errors"]) > 0.001 * number:
    raise UserError(
        f"{path}: this teacher makes {errors} test errors of {number}, its "
        f"record says {record['test_errors']}; delete the folder")
  return Kept(training, variables, record)


def load(
    setup: Setup, model: types.Model, path: pathlib.Path
) -> types.Variables:
  """The net at a path, on every device."""
  like = jax.eval_shape(
      model.init, jax.random.key(0), preprocess.blank(setup.train.inputs))
  return devices_lib.copies(setup.devices, hosts.agreed_arrays(
      lambda: parameters.load_parameters(path), like))


def logits(
    setup: Setup, model: types.Model, variables: types.Variables
) -> dict[str, jax.Array]:
  """Logits of a net on every split, `[N, classes]`."""
  predict = devices_lib.make_predict(setup.devices, model, VIEWS["none"])
  return {name: predict(variables, split.data, jnp.int32(0))
          for name, split in setup.splits.items()}


def _folder(setup: Setup, fingerprint: str) -> pathlib.Path:
  store = pathlib.Path(
      setup.run.values["teacher.dir"] or setup.workdir / "teachers")
  return store / fingerprint[:16]
