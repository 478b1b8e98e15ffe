"""What the machine has, found out without starting jax."""

import contextlib
import os
import sys


def cores() -> int:
  """Processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


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
