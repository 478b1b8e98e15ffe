"""Runs every method in every mode, and prints what was found as a table.

  python tests/soak/methods.py [METHOD ...]

Each trains on real digits: the loss before and after five steps; two points as
lanes, eight devices by pmap and by sharded, against the single run, as a relative
distance of all trained parameters; and a run that is cut, saved and read again,
which must end with the same bits. Exit code 1 if anything fails.
"""

import functools
import os
import pathlib
import sys
import tempfile
import traceback

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import modes  # noqa: E402

from kd_jax import distillers  # noqa: E402


def resumed(method: str) -> str:
  with tempfile.TemporaryDirectory() as folder:
    modes.check_resume(method, pathlib.Path(folder))
  return "same bits"


CHECKS = {
    "loss": lambda method: "{:.4g} to {:.4g}".format(*modes.check_training(method)),
    "lanes": lambda method: f"{modes.check_lanes(method):.1e}",
    **{kind: functools.partial(
        lambda method, kind: f"{modes.check_devices(method, kind):.1e}", kind=kind)
       for kind in ("pmap", "sharded")},
    "resumed": resumed,
}


def main(methods: list[str]) -> int:
  failed = 0
  print("| method | " + " | ".join(CHECKS) + " |\n|" + "---|" * (len(CHECKS) + 1))
  for method in methods or distillers.DISTILLERS:
    told = []
    for check in CHECKS.values():
      try:
        told.append(check(method))
      except Exception:  # Whatever is wrong, the others are still tried.
        failed += 1
        told.append("FAILED")
        traceback.print_exc()
    print(f"| {method} | " + " | ".join(told) + " |", flush=True)
  return min(failed, 1)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
