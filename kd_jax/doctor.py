"""`python -m kd_jax.doctor`: the door of `kd_jax.runs.doctor`."""

from kd_jax.core import exits
from kd_jax.runs.doctor.command import run

if __name__ == "__main__":
  exits.command(run)
