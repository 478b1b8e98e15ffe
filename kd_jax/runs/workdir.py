"""Whose a workdir is: no foreign file and no finished run is written over."""

from collections.abc import Callable, Mapping
import os
import pathlib
import shutil
from typing import Any

from kd_jax.config import identity
from kd_jax.core.errors import UserError
from kd_jax.runs import records, results
from kd_jax.training import checkpoints

# Of all runs in a workdir, by fingerprint; and what was moved away before.
_SHARED = (".lock", "teachers", "banks", "kept")
# What a program may leave that is killed before it writes its manifest.
_BEGUN = {*_SHARED, "metrics.jsonl", "progress", "parameters",
          "manifest.json.new"}
# What a finished run leaves beside its rows and nets.
_AT_END = ("summary.json", "report.html", "table.*")


def refuse_file(workdir: pathlib.Path, flag: str = "--workdir") -> None:
  """Refuses a place that is a file, or is inside of one.

  Raises:
    UserError: If no folder can be there, or no net in it.
  """
  # Orbax writes a net into such a folder, and cannot read it.
  if bad := {*"[]"} & {*str(workdir.absolute())}:
    raise UserError(f"{flag}={workdir}: has a {min(bad)} in its name, and no net "
                    "can be read from such a folder; give another name")
  there = next(path for path in (workdir, *workdir.parents, pathlib.Path("/"))
               if path.exists())
  if not there.is_dir():
    raise UserError(f"{flag}={workdir}: {there} is a file; give a folder")


def refuse_foreign(workdir: pathlib.Path, flag: str = "--workdir") -> None:
  """Refuses a folder that holds files, but none of ours; nothing is written.

  Args:
    workdir: It may be empty, or not there yet.
    flag: What it was given by.

  Raises:
    UserError: If it is somebody else's, or of a later version.
  """
  refuse_file(workdir, flag)
  names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
  if "manifest.json" in names:
    records.refuse_newer(workdir / "manifest.json", lambda _: None)
  # Rows without a manifest are of a merged sweep.
  elif not (_begun(workdir, names) or records.begins_with(
      workdir / "results.jsonl", "schema", "fingerprint")):
    raise UserError(
        f"{flag}={workdir}: holds {max(names - _BEGUN or names)}, but no "
        "manifest.json of kd_jax; give a folder that is empty or new")


def _begun(workdir: pathlib.Path, names: set[str]) -> bool:
  """Whether a folder without a manifest holds what a killed program has left."""
  metrics, lock = workdir / "metrics.jsonl", workdir / ".lock"
  nets = [net for folder in ("teachers", "parameters")
          for net in (workdir / folder).glob("[!.]*")
          if net.suffix not in (".new", ".old")]
  return (
      names <= _BEGUN
      # Teachers alone may have been copied here.
      and (names <= {"teachers"} or (
          lock.is_file() and not lock.stat().st_size))
      and all("fingerprint" in (_read(net, "record.json") or {}) for net in nets)
      and (not metrics.exists() or not metrics.stat().st_size
           or records.begins_with(metrics, *records.EPOCH)))


def refuse_other(
    values: Mapping[str, Any], workdir: pathlib.Path, say: Callable[[str], None]
) -> None:
  """Refuses to train over a finished run of another config, or one of another kind.

  What an unfinished run of the same kind has saved is refused, or used, by its
  checkpoints.

  With `checkpoint.resume=keep` it moves what is there to `kept/FINGERPRINT`. Sweeps
  share a workdir: their rows are kept together.

  Args:
    values: The config, flat.
    workdir: Where it is to be run.
    say: Told what is moved.

  Raises:
    UserError: With the changed keys, and both ways on.
  """
  before = _read(workdir, "config.json")
  # Only a sweep has a plan.
  swept = bool(before.get("sweep.points")) if before else (
      workdir / "plan.json").is_file()
  sweeps = bool(values["sweep.points"])
  finished = _finished(workdir, swept)
  if (swept and sweeps) or not (before or finished):
    return
  kinds = "a single run", "a sweep"
  if not before:
    changed = ["its config.json is gone or damaged, so it cannot be compared"]
  elif swept != sweeps:
    changed = [f"it was {kinds[swept]}, this is {kinds[sweeps]}"]
  else:
    changed = checkpoints.changes(
        identity.as_json(before), identity.as_json(values))
  if changed and values["checkpoint.resume"] == "keep":
    _move(workdir, before, say)
  elif changed and (finished or (swept != sweeps and _saved(workdir))):
    raise UserError(
        f"--workdir={workdir}: holds work of another config: "
        f"{'; '.join(changed)}. Use another --workdir (to go on from its nets, "
        f"with --config.init_from={workdir}), or keep the old one in "
        f"{workdir / 'kept'} with --resume=keep")


def _finished(workdir: pathlib.Path, swept: bool) -> bool:
  """Whether a run has ended here, or a sweep has rows, by whatever is left."""
  if any(any(workdir.glob(name)) for name in _AT_END):
    return True
  rows = workdir / "results.jsonl"
  left = (rows.is_file() and rows.stat().st_size > 0) or any(
      not net.suffix for net in (workdir / "parameters").glob("*"))
  # Of an unfinished run the checkpoints say the config.
  return left and (swept or not _saved(workdir))


def _saved(workdir: pathlib.Path) -> bool:
  """Whether there is a checkpoint of a training that has not ended."""
  return any((workdir / "progress").glob("*/*"))


def keep_on_other_data(
    values: Mapping[str, Any], data: str, workdir: pathlib.Path,
    say: Callable[[str], None],
) -> None:
  """Moves a finished single run to `kept/` if data in the same place was another.

  The same command was given again, so the run is made anew, and nothing is lost.

  Args:
    values: The config, flat.
    data: The fingerprint of the data.
    workdir: Where it is to be run.
    say: Told what is moved.
  """
  before, manifest = (
      _read(workdir, f"{name}.json") for name in ("config", "manifest"))
  of = manifest.get("data") if manifest else None
  was = of.get("fingerprint") if isinstance(of, dict) else None
  if was is None:
    rows, _ = results.split(workdir, damaged=[])
    was = next((row["data_sha256"] for row in rows if "data_sha256" in row), data)
  if (before and was != data and not values["sweep.points"]
      and _finished(workdir, swept=False)):
    say(other_data(values["data.name"], str(was), data))
    _move(workdir, before, say)


def other_data(name: str, was: str, now: str) -> str:
  """A line that says that data in the same place is another now."""
  return (f"data: {name} had the SHA-256 {was[:16]} at the last run here, has "
          f"{now[:16]} now")


def _read(workdir: pathlib.Path, name: str) -> dict[str, Any] | None:
  """A file of the last run in a workdir, if it can be read."""
  try:
    found = results.side_file(workdir, name)
  except UserError:
    return None
  return found if isinstance(found, dict) else None


def _move(
    workdir: pathlib.Path, before: Mapping[str, Any] | None,
    say: Callable[[str], None]
) -> None:
  """Moves a run to a workdir of its own; what runs share by fingerprint stays."""
  name = "unknown" if not before else (
      identity.fingerprint(identity.as_json(before))[:16])
  there = len(list((workdir / "kept").glob(f"{name}*")))
  place = workdir / "kept" / (f"{name}-{there + 1}" if there else name)
  place.mkdir(parents=True)
  for path in sorted(workdir.iterdir()):
    if path.name == "metrics.jsonl":  # Has epochs of teachers that stay.
      shutil.copy(path, place)
    elif path.name not in _SHARED:
      path.rename(place / path.name)
    elif path.name in ("teachers", "banks"):  # Both runs may need them.
      shutil.copytree(path, place / path.name, copy_function=_link)
  say(f"{workdir}: the run that was here before is now in {place}")


def _link(source: str, target: str) -> None:
  """The same file under another name, or a copy where there are no links."""
  try:
    os.link(source, target)
  except OSError:
    shutil.copy2(source, target)
