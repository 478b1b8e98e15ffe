"""Who may end the program: its user, by Ctrl-C, but no file of theirs."""

from collections.abc import Iterator
import contextlib
import functools
import os
import signal
import sys
from typing import Any, NoReturn

_exit = os._exit  # `refused` takes its place.


def on_interrupt() -> None:
  """Ends `python -m kd_jax.X` at Ctrl-C in a line, until a run has its own way.

  Other programs, and those that ignore the signal, stay as they are.
  """
  ours = sys.argv[:1] == ["-m"] and (
      sys.orig_argv[-len(sys.argv)].split(".")[0].endswith("kd_jax"))
  if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)


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
