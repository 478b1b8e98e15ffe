"""A program that was compiled before is not compiled again.

XLA's persistent cache keeps programs on disk. A process keeps those that it made:
to trace a program again takes seconds, and nets of a recipe are often alike.
"""

from collections.abc import Callable, Hashable
import os
import pathlib
from typing import Any

import jax

# Programs that a process keeps; the oldest make way.
_KEPT = 32
_programs: dict[Hashable, Any] = {}


def once(key: Hashable, make: Callable[[], Any]) -> Any:
  """What `make` gives, made once for a key, which says all that it depends on."""
  made = _programs.pop(key) if key in _programs else make()
  _programs[key] = made
  if len(_programs) > _KEPT:
    del _programs[next(iter(_programs))]
  return made


def forget() -> None:
  """Lets go of all programs that are kept."""
  _programs.clear()


def shapes(tree: Any) -> Hashable:
  """What a program depends on of arrays: their structure, shapes and types."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def use_cache() -> None:
  """Turns the cache on, unless the user has given it a place or turned it off."""
  if os.environ.get("JAX_COMPILATION_CACHE_DIR") is not None:
    return
  jax.config.update("jax_compilation_cache_dir", str(home() / "xla"))
  # A small run compiles some eighty programs of less than 0.2 s: half its time.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)


def home() -> pathlib.Path:
  """The folder of what later runs use: compiled programs and measurements."""
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(cache) / "kd_jax"
