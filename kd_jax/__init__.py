"""Knowledge distillation as pure functions in JAX and Flax.

`NUMERICS` is raised whenever the same config would give other numbers; it is
part of every fingerprint, so that a record is reused only where it still holds.
"""

from kd_jax.core import exits

__version__ = "0.1.0"
NUMERICS = 3

# Here, as this is the first of our code that `python -m kd_jax.X` runs.
exits.on_interrupt()
