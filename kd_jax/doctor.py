"""`python -m kd_jax.doctor`: the door of `kd_jax.runs.doctor`."""

import sys

from kd_jax.runs.doctor.command import run

if __name__ == "__main__":
  sys.exit(run(sys.argv[1:]))
