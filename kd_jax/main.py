"""The door: `python -m kd_jax.main --config=configs/mnist.py --workdir=DIR`.

Reads the flags, then hands over to `train.py`. A mistake of the user ends here
in a line or three and exit code 2, before any work.
"""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import shlex
import signal
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from kd_jax import config as config_lib
from kd_jax import sweep
from kd_jax.errors import UserError

_USAGE = """\
usage: python -m kd_jax.main --config=FILE[:VARIANT] [--workdir=DIR]
                             [--config.KEY=VALUE ...]
                             [--sweep.KEY=VALUE,VALUE ...] [--sweep=FILE]
                             [--plan]

Trains a teacher, a student on hard labels and the same student distilled from
the teacher; results go to DIR (default: runs/NAME-TIME). Rerunning the command
with the same DIR continues it.

  python -m kd_jax.main --config=configs/mnist.py --workdir=runs/mnist
  python -m kd_jax.main --config=configs/mnist.py:smoke --config.temperature=8

With --sweep.KEY=..., every combination of the values is trained instead, as lanes
of few compiled programs, with one teacher; tables, pictures and a page come at the
end. --sweep=FILE reads the points from JSON, a list of {"KEY": VALUE}. --plan tells
runs, compilations, memory and time, and does nothing.

  python -m kd_jax.main --config=configs/mnist.py --workdir=runs/sweep \\
    --sweep.temperature=1,2,4,8,20 --sweep.alpha=0.5,0.9 --sweep.seed=0,1,2
  python -m kd_jax.main --config=configs/mnist.py:sweep --plan

Keys and their defaults, which a config file may change:

"""


def parse(argv: list[str]):
  """Reads the command line.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The checked config and the workdir.

  Raises:
    UserError: For anything that is not right about them.
  """
  argv, points = _points(argv)
  argv = _last_of_each(argv)
  nones = [arg for arg in argv if arg.startswith("--config.")
           and arg.endswith("=None")]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
      "config", None, "Path to a config file.", lock_config=True,
      flag_values=values)
  workdir = flags.DEFINE_string(
      "workdir", None, "Where results go.", flag_values=values)
  config, rest = _load(values, holder, [a for a in argv if a not in nones])
  if rest:
    raise UserError(f"{rest[0]}: unexpected; all arguments start with --")
  given = set(config_flags.get_override_values(values["config"]))
  for arg in nones:
    name = arg.removeprefix("--config.").removesuffix("=None")
    if name not in config_lib.KEYS:
      raise UserError(f"--config.{name}: {config_lib.unknown(name)}")
    _set_none(config, name)
    given.add(name)
  _make_way(config, given)
  if points is not None:
    config.sweep.points = tuple(points)
  config_lib.check(config)
  return config, pathlib.Path(workdir.value or _default_workdir(values))


def _points(argv: list[str]) -> tuple[list[str], list | None]:
  """Takes the sweep out of the arguments: the rest, and its points."""
  words = [arg for arg in argv if arg.startswith(("--sweep.", "--sweep="))]
  if not words:
    return argv, None
  files = [word for word in words if word.startswith("--sweep=")]
  axes = [word.removeprefix("--sweep.") for word in words if word not in files]
  parts = [sweep.read(file.removeprefix("--sweep=")) for file in files]
  if axes:
    parts.append(sweep.parse(axes))
  return [arg for arg in argv if arg not in words], sweep.product(*parts)


def _last_of_each(argv: list[str]) -> list[str]:
  """Of a key given twice, the last counts; absl would join two tuples."""
  last = {arg.split("=")[0]: index for index, arg in enumerate(argv)}
  return [arg for index, arg in enumerate(argv)
          if not arg.startswith("--config.") or "=" not in arg
          or last[arg.split("=")[0]] == index]


def _make_way(config, given: set[str]) -> None:
  """Takes back what a file says where the user's own words exclude it."""
  if {"hard_weight", "soft_weight"} & given and "alpha" not in given:
    config.alpha = None
  for net in ("student", "teacher"):
    if f"{net}.name" in given and f"{net}.widths" not in given:
      config[net].widths = ()
  for prefix, run in (("", config), ("teacher.", config.teacher)):
    if f"{prefix}epochs" in given:
      run.steps = run.steps if f"{prefix}steps" in given else None
      run.min_steps = run.min_steps if f"{prefix}min_steps" in given else 0


def _load(values, holder, argv):
  """The config with its overrides; every failure as a UserError."""
  try:
    with _as_arguments(argv):
      rest = values(sys.argv)[1:]
    if holder.value is None:
      raise UserError("--config=FILE is missing; try --config=configs/mnist.py")
    config = holder.value
    config.keys()  # A file that failed to load says so on first use.
    return config, rest
  except UserError:
    raise
  except flags.Error as error:
    raise UserError(_explain(str(error), argv)) from None
  except AttributeError as error:
    for arg in argv:
      name = arg.removeprefix("--config.").split("=")[0]
      if arg.startswith("--config.") and name not in config_lib.KEYS:
        raise UserError(
            f"--config.{name}: {config_lib.unknown(name)}") from None
    raise UserError(f"--config: {_line(error)}") from None
  except OSError as error:
    file = next((a for a in argv if a.startswith("--config=")), "--config")
    if "No such file" in str(error):
      raise UserError(
          f"{file}: there is no such file; try --config=configs/mnist.py"
      ) from None
    raise UserError(f"{file}: {_line(error)}") from None
  except Exception as error:  # Whatever a config file raises.
    raise UserError(f"--config: {type(error).__name__}: {_line(error)}"
                    ) from None


@contextlib.contextmanager
def _as_arguments(argv):
  """config_flags looks for the overrides of a config in sys.argv itself."""
  before, sys.argv = sys.argv, ["kd_jax.main", *argv]
  try:
    yield
  finally:
    sys.argv = before


def _explain(message: str, argv: list[str]) -> str:
  """absl's message, and what the key would take."""
  for arg in argv:
    name = arg.removeprefix("--config.").split("=")[0]
    if f"--config.{name}=" in message and name in config_lib.KEYS:
      key = config_lib.KEYS[name]
      return f"{arg}: must be {key.rule.allowed}\n({key.meaning})"
  return message.splitlines()[0]


def _line(error: Exception) -> str:
  return " ".join(str(error).split())[:300]


def _set_none(config, name: str) -> None:
  *parents, leaf = name.split(".")
  for parent in parents:
    config = config[parent]
  try:
    config[leaf] = None
  except TypeError:
    key = config_lib.KEYS[name]
    raise UserError(
        f"--config.{name}=None: must be {key.rule.allowed}\n({key.meaning})"
    ) from None


def _cores() -> int:
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _default_workdir(values) -> str:
  name = pathlib.Path(
      config_flags.get_config_filename(values["config"]).split(":")[0]).stem
  return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"


class Signals:
  """Turns the first Ctrl-C or SIGTERM into a wish to stop, the second into now.

  With `minutes`, the wish also comes when they are over.
  """

  def __init__(self, minutes: float | None = None):
    self.code = 0
    self._end = None if minutes is None else time.monotonic() + 60 * minutes
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "Signals":
    for number in (signal.SIGINT, signal.SIGTERM):
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
      print(_USAGE + config_lib.describe(), flush=True)
    return 0
  plan_only = "--plan" in argv
  argv = [arg for arg in argv if arg != "--plan"]
  try:
    config, workdir = parse(argv)
    if plan_only:
      return show_plan(config)
    rest = [arg for arg in argv if not arg.startswith("--workdir")]
    again = shlex.join(
        ["python", "-m", "kd_jax.main", *rest, f"--workdir={workdir}"])
    command = [arg for arg in rest if arg.startswith("--config")]
    with Signals() as stop:
      return train(config, workdir, stop, command, again=again)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def show_plan(config) -> int:
  """Prints what a sweep would do."""
  if not config.sweep.points:
    raise UserError(
        "--plan: there is no sweep; give --sweep.KEY=VALUE,VALUE or a config "
        "that has one, such as configs/mnist.py:sweep")
  os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(_cores()))
  # pylint: disable=g-import-not-at-top
  from kd_jax.screen import Screen
  from kd_jax.sweep import estimate
  # pylint: enable=g-import-not-at-top
  screen = Screen()
  columns, rows, summary = estimate.table(config, screen.say)
  screen.table("plan", columns, rows)
  screen.say(summary)
  return 0


def train(
    config, workdir: pathlib.Path, stop, command: Sequence[str], *, again: str,
    study: str | None = None,
) -> int:
  """Runs a checked config, or its sweep; returns the exit code.

  Args:
    config: Of `parse`.
    workdir: Where results go.
    stop: The `Signals`.
    command: `--config=FILE` and overrides, for the commands of a sweep's rows.
    again: The command that goes on after an interruption.
    study: Name of a sweep in its rows.
  """
  if config.sweep.points:
    # A host device for each core, for lanes to share; fixed before jax starts.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(_cores()))
  # jax takes seconds to import, so mistakes above are told first.
  # pylint: disable=g-import-not-at-top
  from kd_jax import compilation, fit
  from kd_jax import train as training
  from kd_jax.screen import Screen
  from kd_jax.sweep.run import run_sweep
  # pylint: enable=g-import-not-at-top
  compilation.use_cache()
  try:
    with Screen() as screen:
      if config.sweep.points:
        run_sweep(
            config, workdir, screen=screen, stop=stop, study=study,
            command=command)
      else:
        training.train_and_evaluate(config, workdir, screen=screen, stop=stop)
    return 0
  except fit.Interrupted:
    print(f"stopped; what is done is kept in {workdir}. To go on: {again}",
          file=sys.stderr, flush=True)
    return stop.code


if __name__ == "__main__":
  sys.exit(run(sys.argv[1:]))
