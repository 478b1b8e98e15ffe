"""XLA's persistent cache: a program that is in it is not compiled again."""

import os
import pathlib

import jax


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
