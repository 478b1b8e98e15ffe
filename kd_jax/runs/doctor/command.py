"""`python -m kd_jax.doctor`: one screen about this machine and a run on it."""

import contextlib
import pathlib
import textwrap
from typing import Any

from kd_jax.config.command_line import hosts, joined, parse
from kd_jax.runs.doctor import Visit, size

_USAGE = """\
usage: python -m kd_jax.doctor [--config=FILE[:VARIANT] [--config.KEY=VALUE ...]
                               [--sweep.KEY=VALUE,VALUE ...] [--sweep=FILE]]
                               [--workdir=DIR]

Looks at this machine: versions, devices, data, disk, caches. With a config also
at its run: one batch through teacher and student, every term of the loss and its
gradient, the shapes of the features, time, memory and disk. Nothing is trained.
Every problem is a line with its fix.

Exit code 1 if the run would fail, else 0. Keys: python -m kd_jax.main --help
"""
_WIDTH = 80


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
  from kd_jax.core.screen import Screen
  from kd_jax.runs.doctor import machine, sources
  from kd_jax.runs.doctor.examine import examine
  # pylint: enable=g-import-not-at-top
  machine.start(all_cores=config is not None and bool(config.sweep.points))
  screen = Screen()
  facts = machine.look(visit, workdir)
  facts |= sources.look(
      visit, config and config.data.dir, read=config is None)
  screen.say(columns(facts))
  if config is not None:
    show(screen, examine(visit, config, workdir))
  screen.say(verdict(visit))
  return 1 if visit.fatal else 0


def read(visit: Visit, argv: list[str]) -> tuple[Any, pathlib.Path]:
  """The config, or None, and the workdir; what is wrong with them is told."""
  # A whole command of kd_jax.main may be pasted: these change nothing here.
  argv = visit.attempt("--processes", lambda: hosts(joined(argv))[1]) or []
  argv = [arg for arg in argv if arg.split("=")[0] not in ("--shard", "--plan")]
  if any(arg.startswith(("--config", "--sweep")) for arg in argv):
    found = visit.attempt("--config", lambda: parse(argv))
    if found is not None:
      return found
    argv = [arg for arg in argv if arg.startswith("--workdir=")]
  workdir = "."
  for arg in argv:
    if arg.startswith("--workdir="):
      workdir = arg.removeprefix("--workdir=") or "."
    else:
      visit.tell(f"{arg}: unexpected; see python -m kd_jax.doctor --help")
  return None, pathlib.Path(workdir)


def show(screen, found) -> None:
  """Shows the `Findings` of a run."""
  if found.facts:
    screen.say("\n" + columns(found.facts))
  if found.terms:
    screen.table(
        f"first batch: {found.loss}",
        ["term", "weight", "value", "gradient norm"],
        [[term.name, *(f"{number:.4g}" for number in term[1:])]
         for term in found.terms])
  if found.costs:
    screen.table(*costs(found))
  if found.sweep:
    names, rows, summary = found.sweep
    screen.table(f"sweep of {sum(int(row[1]) for row in rows)} lanes in "
                 f"{len(rows)} group(s)", names, rows)
    screen.say(summary)


def costs(found) -> tuple[str, list[str], list[list[str]]]:
  """The table of what trainings take: title, columns, rows."""
  rows = [[each.name, f"{each.steps:,}" if each.steps else "",
           f"~{1000 * each.step:.3g}" if each.steps else "",
           size(each.memory), f"~{each.seconds / 60:.1f}"]
          for each in found.costs]
  title = "expected, unless found trained"
  if not found.sweep:
    seconds = sum(each.seconds for each in found.costs)
    title += f": about {seconds / 60:.1f} minutes"
  return title, ["training", "steps", "ms a step", "memory", "minutes"], rows


def columns(facts: dict[str, str]) -> str:
  """Names and facts in two columns, long facts in several lines."""
  left = max(map(len, facts)) + 2
  lines = []
  for name, fact in facts.items():
    lines += textwrap.wrap(
        fact, _WIDTH, initial_indent=f"{name:<{left}}",
        subsequent_indent=" " * left, break_long_words=False,
        break_on_hyphens=False)
  return "\n".join(lines)


def verdict(visit: Visit) -> str:
  """Every problem as a line, and what they come to."""
  ordered = sorted(visit.problems, key=lambda problem: not problem.fatal)
  lines = [f"{'problem' if problem.fatal else 'warning'}: {problem.text}"
           for problem in ordered]
  fatal = sum(problem.fatal for problem in ordered)
  if fatal:
    lines.append(f"{fatal} problem(s): a run would fail")
  else:
    lines.append("nothing is in the way of a run")
  return "\n" + "\n".join(lines)
