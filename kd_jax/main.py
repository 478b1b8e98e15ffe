"""Trains a teacher, a student on hard labels, and the same student distilled.

usage: python -m kd_jax.main --config=FILE[:VARIANT] [--workdir=DIR]
                             [--config.KEY=VALUE ...]
                             [--sweep.KEY=VALUE,VALUE ...] [--sweep=FILE]
                             [--plan] [--shard=I/N] [--resume=force|keep]
                             [--coordinator=HOST:PORT --processes=N
                              --process_id=I]

FILE is a config file, such as configs/mnist.py, or the name of one that comes with
kd_jax, such as mnist. Results go to DIR (default: runs/NAME-TIME). The same command
with the same DIR resumes a run that was stopped. A DIR with a run of another config
is refused: --resume=force continues an unfinished training from its checkpoint, and
--resume=keep moves the old run to DIR/kept first. A DIR with other files is
refused.

  python -m kd_jax.main --config=configs/mnist.py --workdir=runs/mnist
  python -m kd_jax.main --config=configs/mnist.py:smoke --config.temperature=8

--sweep.KEY=VALUE,VALUE trains every combination of the values, many at once in one
compiled program, with one teacher. It writes tables, plots and a page at the end.
--sweep=FILE reads the combinations from JSON, a list of {"KEY": VALUE}. --plan
shows the nets, compilations, memory and time of a run or sweep, and trains nothing.

  python -m kd_jax.main --config=configs/mnist.py --workdir=runs/sweep \\
    --sweep.temperature=1,2,4,8,20 --sweep.alpha=0.5,0.9 --sweep.seed=0,1,2
  python -m kd_jax.main --config=configs/mnist.py:sweep --plan

--shard=I/N runs part I of N of a sweep (I from 1). Each part may run on another
machine, and needs its own DIR. `python -m kd_jax.report merge DIR... --out DIR`
joins the parts.

To train one net on several hosts, run the same command on each, with --coordinator
(the address of process 0), --processes and --process_id; under Slurm, Open MPI or
on a TPU pod, --coordinator=auto is enough. `python -m kd_jax.doctor` checks this
machine and a config before a run.

Exit codes: 0 success; 2 wrong arguments, or a disk that cannot be written; 3 the
loss is not finite; 4 a process was lost; 130 stopped by Ctrl-C; 143 stopped by
SIGTERM; 141 the reader of the output has closed it.

Keys with their defaults in kd_jax; a config file may set others:
"""

from collections.abc import Callable
import contextlib
import os
import pathlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from kd_jax import config as config_lib
from kd_jax.config import command_line
from kd_jax.config.command_line import hosts, joined, parse
from kd_jax.core import exits
from kd_jax.core.errors import UserError, out_of_memory
from kd_jax.core.machine import check_installed, use_all_cores
from kd_jax.runs import shard as shards

if TYPE_CHECKING:
  from kd_jax.core.screen import Screen


class Signals:
  """Asks a run to stop at the first Ctrl-C or SIGTERM; ends it at the second.

  Calling the object says whether to stop. With `minutes`, it says so too when they
  are over.
  """

  def __init__(self, minutes: float | None = None):
    self.code = 0
    self._end = None if minutes is None else time.monotonic() + 60 * minutes
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "Signals":
    # Python hands signals to the main thread alone.
    ours = threading.current_thread() is threading.main_thread()
    for number in (signal.SIGINT, signal.SIGTERM) if ours else ():
      self._before[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, *error) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def __call__(self) -> bool:
    late = self._end is not None and time.monotonic() > self._end
    return self.code != 0 or late

  def _receive(self, number, frame):
    del frame
    if self.code:
      # Not sys.exit: that would wait for the program on the device.
      os._exit(self.code)
    self.code = 128 + number
    print("\nstopping at the next segment; once more to leave at once",
          file=sys.stderr, flush=True)


def run(argv: list[str]) -> int:
  """Runs the program; returns its exit code."""
  if any(arg in ("--help", "-h", "-help", "--helpfull") for arg in argv):
    with contextlib.suppress(BrokenPipeError):
      print(f"{__doc__}\n{config_lib.describe()}", flush=True)
    return 0
  plan_only = "--plan" in argv
  argv = [arg for arg in joined(argv) if arg != "--plan"]
  try:
    shard, known = shards.taken(argv)
    processes, known = hosts(known)
    config, workdir = parse(known)
    if plan_only:
      return show_plan(config, shard)
    if not any(arg.startswith("--workdir") for arg in known):
      workdir = shards.apart(workdir, shard)
    command = next(arg for arg in argv if arg.startswith("--config="))
    with Signals() as stop:
      return train(
          config, workdir, stop, command, shard=shard, processes=processes,
          again=command_line.again("kd_jax.main", argv, workdir))
  except Exception as error:
    mistake = out_of_memory(error) or error
    if not isinstance(mistake, (UserError, OSError)):
      raise
    print(f"error: {UserError(mistake)}", file=sys.stderr)
    return 2


def show_plan(config, shard: shards.Shard | None = None) -> int:
  """Prints what a run, a sweep, or a shard of it would do."""
  shards.check(shard, config.sweep.points, config.recipe)
  if config.sweep.points:
    use_all_cores()
  # pylint: disable=g-import-not-at-top
  from kd_jax.config.run import read
  from kd_jax.core.screen import Screen
  from kd_jax.runs import estimate
  # pylint: enable=g-import-not-at-top
  estimate.show(Screen(), read(config), shard)
  return 0


def train(
    config, workdir: pathlib.Path, stop, command: str, *, again: str,
    study: str | None = None, shard: shards.Shard | None = None,
    processes: dict[str, Any] | None = None,
) -> int:
  """Runs a checked config, or its sweep; returns the exit code.

  Args:
    config: Of `parse`.
    workdir: Where results go.
    stop: The `Signals`.
    command: `--config=FILE`, for the commands of a sweep's rows.
    again: The command that goes on after an interruption.
    study: Name of a sweep in its rows.
    shard: The part of the sweep to run.
    processes: Of `command_line.hosts`.
  """
  shards.check(shard, config.sweep.points, config.recipe)
  if config.sweep.points:
    use_all_cores()
  # jax takes seconds to import, so mistakes above are reported first.
  # pylint: disable=g-import-not-at-top
  from kd_jax.core import hosts as hosts_lib
  from kd_jax.core.screen import Screen
  from kd_jax.training import monitor, parameters, train_loop
  # pylint: enable=g-import-not-at-top
  if processes:
    hosts_lib.join(**processes)
  screen = Screen(quiet=not hosts_lib.first())
  try:
    execute(config, workdir, screen, stop, command, study=study, shard=shard)
    return 0
  except train_loop.Interrupted:
    print(f"stopped; what is done is kept in {workdir}. To go on: {again}",
          file=sys.stderr, flush=True)
    if screen.closed:
      return exits.UNREAD
    # A signal to any process stops all of them.
    return stop.code or (128 + signal.SIGTERM if processes else 0)
  except monitor.Diverged as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 3
  except Exception as error:
    if isinstance(error, OSError):
      error = UserError(parameters.unwritten(workdir, error))
    error = out_of_memory(error) or error
    if processes:
      hosts_lib.leave(error)
    raise error from None


def execute(
    config, workdir: pathlib.Path, screen: "Screen", stop: Callable[[], bool],
    command: str = "", *, study: str | None = None,
    shard: shards.Shard | None = None,
) -> dict[str, Any]:
  """Runs a checked config in a workdir that is its own; gives the summary.

  Args:
    config, workdir, command, study, shard: As of `train`.
    screen: Shows how far it is.
    stop: Whether to save and stop.
  """
  # pylint: disable=g-import-not-at-top
  from kd_jax import report
  from kd_jax.config.run import read
  from kd_jax.core import compilation
  from kd_jax.core import hosts as hosts_lib
  from kd_jax.report import statistics
  from kd_jax.runs import driver, records
  from kd_jax.runs import workdir as workdirs
  from kd_jax.training import parameters
  # pylint: enable=g-import-not-at-top
  compilation.use_cache()
  parameters.quiet()
  check_installed()
  with contextlib.ExitStack() as stack:
    hosts_lib.agreed(lambda: workdirs.refuse_foreign(workdir))
    hosts_lib.agreed(lambda: stack.enter_context(records.locked(workdir)))
    stack.enter_context(screen)
    return driver.train(read(config), workdir, screen=screen, asked=driver.Asked(
        stop=lambda: stop() or screen.closed, study=study, command=command,
        shard=shard, interval=statistics.binomial_interval,
        report=lambda folder, reference: (
            report.write(folder, reference=reference))))


if __name__ == "__main__":
  exits.command(run)
