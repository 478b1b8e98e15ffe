"""What is here, whatever is run: versions, devices, disk, cache."""

import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

import jax

from kd_jax.core.files import at_home
from kd_jax.core.machine import cores
from kd_jax.core.words import counted
from kd_jax.runs import probe, records
from kd_jax.runs.doctor import Visit, size

_OLDEST, _NEWEST = (3, 11), (3, 13)
# None is needed by a single run on raw files.
_OPTIONAL = ("tensorflow_datasets", "tensorflow", "tensorboardX", "matplotlib",
             "scipy", "mlxtend")
_NVIDIA = pathlib.Path("/proc/driver/nvidia/version")


def look(visit: Visit, workdir: pathlib.Path) -> None:
  """Tells of everything that a run meets on this machine."""
  for name, check in (
      ("versions", lambda: versions(visit)), ("optional", optional),
      ("devices", lambda: devices(visit)), ("cores", lambda: str(cores())),
      ("disk", lambda: disk(visit, workdir)), ("cache", lambda: cache(visit)),
      ("commit", commit)):
    with visit.check(name):
      visit.fact(name, check())


def versions(visit: Visit, python: tuple[int, int] = sys.version_info[:2]) -> str:
  """Versions of what every run needs; Python may be too old, or too new."""
  if not _OLDEST <= python <= _NEWEST:
    known = " to ".join("{}.{}".format(*each) for each in (_OLDEST, _NEWEST))
    visit.tell(
        f"python {python[0]}.{python[1]}: kd_jax is tested on {known}; make the "
        "virtual environment with one of these", fatal=python < _OLDEST)
  found = records.manifest()["versions"]
  return ", ".join(f"{name} {version}" for name, version in found.items())


def optional() -> str:
  """Which of the optional libraries are there; none is imported for it."""
  return ", ".join(name if importlib.util.find_spec(name) else f"no {name}"
                   for name in _OPTIONAL)


def devices(visit: Visit) -> str:
  """The backend, its devices and their memory."""
  here, backend = jax.devices(), jax.default_backend()
  if (backend == "cpu" and _NVIDIA.exists()
      and "cpu" not in os.environ.get("JAX_PLATFORMS", "")):
    visit.tell(
        "devices: there is an NVIDIA driver, but jax sees no GPU; pip install "
        '"jax[cuda13]"', fatal=False)
  return (f"{backend}: {len(here)} x {here[0].device_kind}, "
          f"{size(probe.device_bytes())} each")


def disk(visit: Visit, workdir: pathlib.Path) -> str:
  """Free space where results go, and whether they may."""
  folder, reason = _tried(workdir)
  if reason:
    visit.tell(
        f"--workdir={workdir}: cannot be written ({reason}); give another "
        "--workdir=DIR")
  if (workdir / ".lock").is_file():  # Only then, so that none is left behind.
    with records.locked(workdir):
      pass
  word = "not writable" if reason else "writable"
  return f"{size(free(workdir))} free, {word}, at {folder}"


def free(workdir: pathlib.Path) -> int:
  """Bytes free where a folder is or will be."""
  return shutil.disk_usage(_tried(workdir)[0]).free


def cache(visit: Visit) -> str:
  """Where compiled programs are kept, and how much of them."""
  place = jax.config.values["jax_compilation_cache_dir"]
  if not place:
    return "off (JAX_COMPILATION_CACHE_DIR is empty)"
  folder = pathlib.Path(place)
  _, reason = _tried(folder)
  if reason:
    visit.tell(
        f"{folder}: the compilation cache cannot be written ({reason}), so every "
        "run compiles anew; set JAX_COMPILATION_CACHE_DIR=DIR", fatal=False)
  held = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
  return f"{size(sum(held))} in {counted(len(held), 'file')}, at {folder}"


def commit() -> str:
  """The commit of the source tree."""
  manifest = records.manifest()
  if manifest["commit"] is None:
    return "not a git checkout"
  return manifest["commit"][:12] + (", with changes" if manifest["dirty"] else "")


def _tried(folder: pathlib.Path) -> tuple[pathlib.Path, str | None]:
  """The folder, or the nearest above it; and why no file can be made there."""
  folder = at_home(folder).absolute()
  there = next(each for each in (folder, *folder.parents) if each.exists())
  try:
    with tempfile.TemporaryFile(dir=there):
      return there, None
  except OSError as error:
    return there, error.strerror or str(error)
