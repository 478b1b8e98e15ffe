"""What the machine has, found out without starting jax."""

import contextlib
import importlib.util
import os
import pathlib
import platform
import sys

from kd_jax.core.errors import UserError


def cores() -> int:
  """Processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def memory() -> int:
  """Bytes of memory that the machine has."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processor() -> str:
  """The processor's name; where the system tells them, its family and model too.

  A name such as "Xeon Processor @ 2.80GHz" is of several kinds.
  """
  facts: dict[str, str] = {}
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      key, _, value = line.partition(":")
      facts.setdefault(key.strip(), value.strip())
  if "model name" not in facts:
    return platform.processor() or platform.machine()
  kind = [f"{key.removeprefix('cpu ')} {facts[key]}"
          for key in ("cpu family", "model") if key in facts]
  return facts["model name"] + (f" ({', '.join(kind)})" if kind else "")


def check_installed() -> None:
  """Refuses, before a run, what its report would fail for.

  Raises:
    UserError: Naming the packages that are missing.
  """
  missing = [name for name in ("matplotlib", "scipy")
             if importlib.util.find_spec(name) is None]
  if missing:
    raise UserError(f"the report of a run needs {' and '.join(missing)}: pip "
                    f"install {' '.join(missing)}")


def use_all_cores() -> None:
  """Gives jax a host device for each core, so that lanes can use all of them.

  It is too late once jax has started; then devices stay as they are.
  """
  if "JAX_NUM_CPU_DEVICES" in os.environ:
    return
  os.environ["JAX_NUM_CPU_DEVICES"] = str(cores())
  if "jax" in sys.modules:  # Which read the variable when it was imported.
    with contextlib.suppress(RuntimeError):
      sys.modules["jax"].config.update("jax_num_cpu_devices", cores())
