"""Trained nets: the store of those that others learn from, and what they say."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import functools
import json
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import kd_jax
from kd_jax.config import identity as identity_lib
from kd_jax.config import recipe, schema
from kd_jax.config.recipe import Net
from kd_jax.core import hosts, types
from kd_jax.core.errors import UserError
from kd_jax.core.words import counted
from kd_jax.data import preprocess
from kd_jax.data.views import VIEWS
from kd_jax.runs import records, trained
from kd_jax.runs.setup import Setup
from kd_jax.training import checkpoints, fit, parameters
from kd_jax.training import devices as devices_lib
from kd_jax.training.settings import Training

# What determines a net, in its record on disk.
_IDENTITY = "identity"
# Of the other nets in a folder so many are shown, and so much of what differs.
_SHOWN = 3


class Kept(NamedTuple):
  """A net that is trained, with all that a student or a later net needs of it.

  Attributes:
    training: How it was trained; its model and taps.
    variables: The net, on every device.
    record: Its numbers. Its bits, `parameters_sha256`, stand for it in the identity
      of those who learn from it: another machine's teacher is another teacher.
    logits: On every split, of a net that is slow to ask; else None.
  """

  training: Training
  variables: types.Variables
  record: dict[str, Any]
  logits: dict[str, jax.Array] | None = None

  @property
  def sha256(self) -> str:
    return self.record["parameters_sha256"]


@contextlib.contextmanager
def stored(setup: Setup, fingerprint: str) -> Iterator[pathlib.Path]:
  """The folder of a net that others learn from, for this program alone.

  Programs that share a store train a net once; the others wait for it.
  """
  path = _folder(setup, fingerprint)
  with records.in_turn(path, say=setup.screen.say, stop=setup.stop):
    yield path


def save(
    setup: Setup, training: Training, identity: dict[str, Any],
    variables: types.Variables, row: dict[str, Any],
) -> Kept:
  """Keeps a lane's net in the store, for those that learn from it."""
  record = row | {
      "parameters_sha256": parameters.parameters_sha256(variables.params)}
  with stored(setup, row["fingerprint"]) as path:
    parameters.save_net(path, variables, described(setup, record, identity))
  return checked(setup, training, path, record)


def described(
    setup: Setup, record: dict[str, Any], identity: dict[str, Any]
) -> dict[str, Any]:
  """A record as it is written: with what determines its net, and how it is used."""
  return record | {
      _IDENTITY: _determining(identity),
      trained.USE: trained.use(setup.dataset, setup.train.preprocess)}


def _determining(identity: dict[str, Any]) -> dict[str, Any]:
  """What determines a net, key by key."""
  return identity | {"numerics": kd_jax.NUMERICS}


def look(wanted: Iterable[tuple[Setup, dict[str, Any]]]) -> None:
  """Says before any work that a user's folder of teachers lacks one that is wanted.

  Args:
    wanted: Setup and identity of each net that is known by now.

  Raises:
    UserError: If one is not there and cannot be put there.
  """
  checked_folders = set()
  for setup, identity in wanted:
    folder = setup.run.values["teacher.dir"]
    if folder is not None and folder not in checked_folders and (
        line := hosts.agreed(functools.partial(
            _lacking, pathlib.Path(folder), identity))):
      setup.screen.say(line)
      checked_folders.add(folder)


def _lacking(folder: pathlib.Path, identity: dict[str, Any]) -> str | None:
  """What to tell of a folder without this net: what lies there, what differs."""
  fingerprint = identity_lib.fingerprint(identity)
  differing: list[tuple[int, str]] = []
  for path in (folder, *folder.glob("*")) if folder.is_dir() else ():
    try:
      record = parameters.load_record(path)
    except parameters.Damaged:  # `finished` says more, if it is the one.
      differing.append((99, f"{path}: its record is damaged"))
      continue
    except (UserError, OSError) as error:
      differing.append((99, str(error)))
      continue
    if record and record.get("fingerprint") == fingerprint:
      if path.name == fingerprint[:16]:
        return None
      differing.append((0, (
          f"{path}: is that teacher, but not where it is looked for; give the "
          "folder `teachers` of the run that trained it")))
    elif record:
      differing.append(_differing(path, record, identity))
  lies = [text for _, text in sorted(differing)]
  more = [f"and {len(lies) - _SHOWN} more"] if len(lies) > _SHOWN else []
  there = "\n  ".join(["", *(lies[:_SHOWN] + more or [
      "no net lies there" if folder.exists() else "there was no such folder"])])
  lack = f"config.teacher.dir={folder}: holds no teacher of this config"
  if not _is_store(folder):
    better = folder / "teachers"
    hint = f"did you mean {better}?" if better.is_dir() else (
        "give one that holds it, or a new one")
    raise UserError(f"{lack}, and is no folder of teachers; {hint}{there}")
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    raise UserError(
        f"{lack}, and none can be written there ({error}); give a folder that "
        f"holds it, or one that can be written{there}") from None
  made = "taken from its file" if "state_dict" in identity else "trained"
  return f"{lack}; it is {made} now, and kept there{there}"


def _is_store(folder: pathlib.Path) -> bool:
  """Whether nets may be added: to an empty folder, or one of nets by fingerprint.

  What is added to a net, a run's folder or somebody else's would be lost with them.
  """
  names = [path.name for path in folder.glob("[!.]*")]
  is_net = re.compile(r"[0-9a-f]{16}(\..+)?").fullmatch
  return not names or any(map(is_net, names))


def _differing(
    path: pathlib.Path, record: dict[str, Any], identity: dict[str, Any]
) -> tuple[int, str]:
  """In how many keys a net is another than the one wanted, and in which."""
  now = json.loads(json.dumps(_determining(identity), default=list))
  before = record.get(_IDENTITY)
  if not isinstance(before, dict):
    return 98, f"{path}: its record does not say with what it was trained"
  found = checkpoints.changes(before, now)
  left = counted(len(found) - _SHOWN, "more key")
  more = f"; and {left}" if len(found) > _SHOWN else ""
  return len(found), f"{path}: {'; '.join(found[:_SHOWN])}{more}"


def replace(
    setup: Setup, path: pathlib.Path, variables: types.Variables,
    record: dict[str, Any],
) -> None:
  """Saves a net at `path`; one of another fingerprint is kept under that."""
  try:
    before = parameters.load_record(path) if hosts.first() else None
  except parameters.Damaged:
    before = None
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


def there(setup: Setup, fingerprint: str) -> bool:
  """Whether the store has a net; whether it is whole, `find` says."""
  try:
    record = parameters.load_record(_folder(setup, fingerprint))
  except parameters.Damaged:
    return False
  return record is not None and record.get("fingerprint") == fingerprint


def finished(
    setup: Setup, name: str, path: pathlib.Path, fingerprint: str
) -> dict[str, Any] | None:
  """The record of a net that is there, whole, and the one that is wanted."""
  try:
    record = parameters.load_record(path)
  except parameters.Damaged as error:
    setup.screen.say(f"{name}: {error}")
    return None
  if record is None or record.get("fingerprint") != fingerprint:
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
    setup.screen.say(f"{name}: {error}")
    return None
  for own in (_IDENTITY, trained.USE):
    record.pop(own, None)
  if record.pop(parameters.RECORD_CHECKSUM, None) is None:
    setup.screen.say(f"{name}: {path} has a record without a checksum, of an "
                     "earlier version; it is taken as it is")
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


def given(net: Net, setup: Setup, training: Training) -> Kept | None:
  """The net of another run that a student starts from, if its config names one.

  Raises:
    UserError: If it is not there, or has other parameters.
  """
  folder = setup.run.values["init_from"]
  if folder is None or net.member is not None or net.start is not None:
    return None
  key, path = f"config.init_from={folder}", pathlib.Path(folder)
  if net.peers:
    raise UserError(
        f"{key}: {net.name} train together from new weights; leave it out")
  if not (path / parameters.ARRAYS).is_dir():
    there = sorted(each.parent.name for each in path.glob(
        f"parameters/[!.]*/{parameters.ARRAYS}"))
    path = path / "parameters" / net.name
    if net.name not in there:
      hint = (f"it holds {', '.join(there)}; give one of them, "
              f"{path.with_name(there[-1])}" if there else
              "give the folder of a finished run, or of one of its nets")
      raise UserError(f"{key}: there is no net {net.name}; {hint}")
  variables = load(setup, training.model, path)
  changed = _changed(path, net, setup.run.values)
  if shapes(variables) != shapes(_blank(setup, training.model)):
    why = "; ".join(each for each in changed if each.startswith("student."))
    raise UserError(
        f"{key}: the net in {path} has not the parameters of {net.name}: "
        f"{why or 'it is of another size'}; give what its run was given")
  if changed:
    setup.screen.say(
        f"{net.name}: starts from {path}, whose run had other settings: "
        f"{'; '.join(changed)}. To go on as it was, give them again")
  return Kept(training, variables, {
      "parameters_sha256": parameters.parameters_sha256(variables.params)})


# Keys that a run that goes on from another may well change.
_OF_LENGTH = (
    "optimizer.learning_rate", "optimizer.schedule", "optimizer.warmup",
    "optimizer.boundaries", "epochs", "steps", "min_steps", "patience", "seed",
    "init_from", "inspect", "teacher.", "data.dir", "parallel", "sweep.")


def _changed(
    path: pathlib.Path, net: Net, values: Mapping[str, Any]) -> list[str]:
  """What is other of a net's loss, size and data than of the net in a folder."""
  try:
    run = trained.config(path.parent.parent)
    # Of a recipe, the config whose student it is.
    before = next((each.values for each in recipe.nets(run, swept=False)
                   if each.name == path.name), run)
  except UserError:  # A net may lie elsewhere, without its run.
    return []
  known = schema.every()
  idle = {schema.OBJECTIVE} if net.values["method"] == "hard" else set()
  kept = lambda found: {
      name: value for name, value in identity_lib.as_json(found).items()
      if not name.startswith((*_OF_LENGTH, "nets."))
      and not (name in known and known[name].affects in idle)}
  return checkpoints.changes(kept(before), kept(values))


def load(
    setup: Setup, model: types.Model, path: pathlib.Path
) -> types.Variables:
  """The net at a path, on every device."""
  return devices_lib.copies(setup.devices, hosts.agreed_arrays(
      lambda: parameters.load_parameters(path), _blank(setup, model)))


def shapes(tree: Any) -> Any:
  """Shape and type of each array of a tree, or of its shapes."""
  return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def _blank(setup: Setup, model: types.Model) -> types.Variables:
  """The shapes of a model's variables on the data of a run."""
  return jax.eval_shape(
      model.init, jax.random.key(0), preprocess.blank(setup.train.inputs))


def logits(
    setup: Setup, model: types.Model, variables: types.Variables
) -> dict[str, jax.Array]:
  """Logits of a net on every split, `[N, classes]`."""
  predict = devices_lib.make_predict(setup.devices, model, VIEWS["none"])
  return {name: predict(variables, split.data, jnp.int32(0))
          for name, split in setup.splits.items()}


def counting(model: types.Model, tick: Callable[[int], None]) -> types.Model:
  """A net on the host that tells of how many inputs it was asked; others as is."""
  if model.on_host is None:
    return model
  on_host, done = model.on_host, 0

  def asked(inputs):
    nonlocal done
    outputs = on_host(inputs)
    done += len(inputs)
    tick(done)
    return outputs

  return model._replace(on_host=asked)


def _folder(setup: Setup, fingerprint: str) -> pathlib.Path:
  store = pathlib.Path(
      setup.run.values["teacher.dir"] or setup.workdir / "teachers")
  return store / fingerprint[:16]
