"""Knowledge distillation as pure functions in JAX and Flax.

`NUMERICS` is raised whenever the same config would give other numbers; it is
part of every fingerprint, so that a record is reused only where it still holds.
"""

from typing import TYPE_CHECKING, Any

from kd_jax.core import exits

if TYPE_CHECKING:
  from kd_jax.api import Net, Run, load, run

__all__ = ["NUMERICS", "Net", "Run", "__version__", "load", "run"]
__version__ = "0.1.0"
NUMERICS = 3

# Here, as this is the first of our code that `python -m kd_jax.X` runs.
exits.on_interrupt()


def __getattr__(name: str) -> Any:
  """`kd_jax.run` and `kd_jax.load`, looked up when they are used: jax is slow."""
  if name not in ("Net", "Run", "load", "run"):
    raise AttributeError(f"module 'kd_jax' has no attribute {name!r}")
  from kd_jax import api  # pylint: disable=g-import-not-at-top
  return getattr(api, name)
