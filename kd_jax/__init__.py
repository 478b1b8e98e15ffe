"""Knowledge distillation as pure functions in JAX and Flax.

`NUMERICS` is raised whenever the same config would give other numbers; it is
part of every fingerprint, so that a record is reused only where it still holds.
"""

__version__ = "0.1.0"
NUMERICS = 3
