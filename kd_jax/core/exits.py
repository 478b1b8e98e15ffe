"""How programs end: by their exit code or Ctrl-C, and not by a file of a user's."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import io
import os
import signal
import sys
import threading
from typing import Any, NoReturn
import warnings

from kd_jax.core.errors import Notice

# What is given the words of a command line, and gives its exit code.
Program = Callable[[list[str]], int]

_exit = os._exit  # `refused` takes its place.
# Of a program whose output nobody reads any more, as a shell has it.
UNREAD = 128 + 13


def command(main: Program) -> NoReturn:
  """Runs a program, and ends with its exit code, wherever its output goes.

  What the output has no letter for is spelled out. Output that nobody reads ends
  the program quietly, as `| head` expects; one that cannot be written, in a line.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  shown = warnings.formatwarning
  warnings.formatwarning = lambda message, category, *place: (
      f"warning: {message}\n" if issubclass(category, Notice)
      else shown(message, category, *place))
  try:
    code = _code(main, sys.argv[1:])
    sys.stdout.flush()
  except BrokenPipeError:
    code = UNREAD
  except OSError as error:
    code = 2
    print(f"error: the output cannot be written: {error}", file=sys.stderr)
  if code in (UNREAD, 2):
    unread()
  sys.exit(code)


def _code(main: Program, argv: list[str]) -> int:
  try:
    return main(argv)
  except SystemExit as error:  # Of --help, or of a wrong command line.
    return error.code if isinstance(error.code, int) else int(bool(error.code))
  except (RuntimeError, AssertionError):
    if not (line := no_device()):
      raise
    print(f"error: {line}", file=sys.stderr)
    return 2


def no_device() -> str:
  """What to do where JAX_PLATFORMS names a device that JAX does not find; or ""."""
  asked = os.environ.get("JAX_PLATFORMS")
  if not asked or "jax" not in sys.modules:
    return ""
  try:
    sys.modules["jax"].devices()
  except Exception:  # Of several kinds, as the device is.
    return (f"JAX_PLATFORMS={asked}: JAX finds no such device here; install its "
            'plugin, such as pip install "jax[cuda13]", or unset JAX_PLATFORMS')
  return ""


def unread() -> None:
  """Lets what is still to be written go nowhere, so that it is no error again."""
  with contextlib.suppress(OSError, ValueError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def apart(main: Program, ended: str) -> Program:
  """A program in a process of its own; its code counts only if it comes to its end.

  Args:
    main: The program. It is forked, which its threads would not survive, so it runs
      in this process if jax has started any.
    ended: What is said if something else ended it; the exit code is 2 then.
  """
  if not hasattr(os, "fork") or "jax" in sys.modules:
    return main

  def run(argv: list[str]) -> int:
    reads, writes = os.pipe()
    if not os.fork():
      code = _code(main, argv)
      sys.stdout.flush()
      sys.stderr.flush()
      os.write(writes, bytes([code]))
      _exit(code)  # Of what is registered for the end nothing may change it.
    os.close(writes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # It is the other's as well.
    with open(reads, "rb") as pipe:
      end = pipe.read(1)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    if end or status == 128 + signal.SIGINT:
      return end[0] if end else status
    print(ended, file=sys.stderr)
    return 2
  return run


def on_interrupt() -> None:
  """Ends `python -m kd_jax.X` at Ctrl-C in a line, until a run has its own way.

  Other programs, and those that ignore the signal, stay as they are.
  """
  ours = sys.argv[:1] == ["-m"] and (
      sys.orig_argv[-len(sys.argv)].split(".")[0].endswith("kd_jax"))
  if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)


class Stopped(BaseException):
  """Ctrl-C or SIGTERM; `code` is the exit code that a shell expects then."""

  def __init__(self, code: int):
    super().__init__(code)
    self.code = code


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
  """Makes an exception of Ctrl-C and SIGTERM, so that what is half done is removed.

  The second of them ends the program at once. One that is ignored stays ignored.

  Raises:
    Stopped: Wherever the program is.
  """
  before: dict[int, Any] = {}

  def receive(number: int, frame: Any) -> NoReturn:
    for each in before:
      signal.signal(each, _leave)
    raise Stopped(128 + number)

  # Python hands signals to the main thread alone.
  if threading.current_thread() is threading.main_thread():
    for each in (signal.SIGINT, signal.SIGTERM):
      if signal.getsignal(each) is not signal.SIG_IGN:
        before[each] = signal.signal(each, receive)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _leave(number: int, frame: Any) -> NoReturn:
  os.write(2, b"\nstopped\n")
  _exit(128 + number)


@contextlib.contextmanager
def refused() -> Iterator[None]:
  """Makes of what ends the program at once a SystemExit, which can be told."""
  own = os.getpid()
  ends = {name: getattr(os, name) for name in ("_exit", "abort", "execv", "execve")}

  def instead(name: str, *words: Any) -> NoReturn:
    if os.getpid() != own:
      ends[name](*words)  # Of a process that a framework has started.
    raise SystemExit(f"os.{name}")

  for name in ends:
    setattr(os, name, functools.partial(instead, name))
  try:
    yield
  finally:
    for name, end in ends.items():
      setattr(os, name, end)
