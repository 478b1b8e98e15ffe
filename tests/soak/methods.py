"""Runs every method in every mode, and prints what was found as a document.

  python tests/soak/methods.py > docs/modes.md
  python tests/soak/methods.py METHOD ...

Exit code 1 if anything fails.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax  # noqa: E402
import modes  # noqa: E402

from kd_jax import methods as methods_lib  # noqa: E402

_HEAD = """\
# Every method in every mode

Printed by `python tests/soak/methods.py`, at commit {commit}, with jax {jax} on the
CPU. The tests run all methods, in all modes those that are unlike KD, and those on
features also with both nets in bfloat16.

Each method trains on real digits for a few steps. *loss*: its value before and
after; no gradient reaches the teacher's logits. *lanes*, *pmap*, *sharded*: the
relative distance of all trained parameters between the single run on one device,
and two points as lanes or eight devices. At most 1e-5 is allowed. *resumed*: a run
that is stopped, saved and loaded again ends with the same bits.
"""


def commit() -> str:
  """The commit, and whether anything but the document that this goes to differs."""
  git = lambda *words: subprocess.run(
      ["git", *words], cwd=ROOT, capture_output=True, text=True,
      check=False).stdout.strip()
  changed = git("status", "--porcelain", "--", ".", ":!docs/modes.md")
  return (git("describe", "--always") or "unknown") + ("-dirty" if changed else "")


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
  print(_HEAD.format(commit=commit(), jax=jax.__version__))
  print("| method | " + " | ".join(CHECKS) + " |\n|" + "---|" * (len(CHECKS) + 1))
  for method in methods or [*methods_lib.METHODS, "kd+rkd", "kd+sp+fsp", "kd+crd"]:
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
