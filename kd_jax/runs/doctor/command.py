"""`python -m kd_jax.doctor`: one screen about this machine and a run on it."""

import contextlib
import pathlib
from typing import Any

from kd_jax.config.command_line import hosts, joined, parse
from kd_jax.core import exits
from kd_jax.core.machine import use_all_cores
from kd_jax.runs.doctor import Visit

_USAGE = """\
usage: python -m kd_jax.doctor [--config=FILE[:VARIANT] [--config.KEY=VALUE ...]
                               [--sweep.KEY=VALUE,VALUE ...] [--sweep=FILE]]
                               [--workdir=DIR]

Checks this machine: versions, devices, data, disk, caches. With a config it also
checks the run: it computes one batch with teacher and student, and shows each term
of the loss with its gradient, the shapes of the features, time, memory and disk.
It trains nothing. Each problem is one line that says how to fix it.

  python -m kd_jax.doctor --config=mnist

Exit code: 1 if the run would fail, otherwise 0. Keys: python -m kd_jax.main --help
"""

def run(argv: list[str]) -> int:
  """Runs the program; returns its exit code."""
  if any(arg in ("--help", "-h", "-help") for arg in argv):
    with contextlib.suppress(BrokenPipeError):
      print(_USAGE, end="", flush=True)
    return 0
  visit = Visit()
  config, workdir = read(visit, argv)
  # jax takes seconds to import, and --help has no need of it.
  # pylint: disable=g-import-not-at-top
  from kd_jax.core import compilation
  from kd_jax.runs.doctor import machine, sources
  from kd_jax.runs.doctor.examine import examine
  # pylint: enable=g-import-not-at-top
  if line := exits.no_device():
    visit.tell(line)
    visit.screen.say(verdict(visit))
    return 1
  compilation.use_cache()
  if config is not None and config.sweep.points:
    use_all_cores()
  machine.look(visit, workdir)
  sources.look(visit, config and config.data.dir, read=config is None)
  if config is not None:
    visit.screen.say("")
    examine(visit, config, workdir)
  visit.screen.say(verdict(visit))
  return 1 if visit.fatal else 0


def read(visit: Visit, argv: list[str]) -> tuple[Any, pathlib.Path]:
  """The config, or None, and the workdir; what is wrong with them is told."""
  # A whole command of kd_jax.main may be pasted: these change nothing here.
  argv = [arg for arg in joined(argv)
          if arg.split("=")[0] not in ("--shard", "--plan")]
  with visit.check("--processes"):
    _, argv = hosts(argv)
  if any(arg.startswith(("--config", "--sweep")) for arg in argv):
    with visit.check("--config"):
      return parse(argv)
    argv = [arg for arg in argv if arg.startswith("--workdir=")]
  workdir = "."
  for arg in argv:
    if arg.startswith("--workdir="):
      workdir = arg.removeprefix("--workdir=") or "."
    else:
      visit.tell(f"{arg}: unexpected; see python -m kd_jax.doctor --help")
  return None, pathlib.Path(workdir)


def verdict(visit: Visit) -> str:
  """Every problem as a line, and what they come to."""
  ordered = sorted(visit.problems.items(), key=lambda problem: not problem[1])
  lines = [f"{'problem' if fatal else 'warning'}: {text}"
           for text, fatal in ordered]
  number = sum(visit.problems.values())
  lines.append(f"{number} problem(s): a run would fail" if number
               else "nothing is in the way of a run")
  return "\n" + "\n".join(lines)
