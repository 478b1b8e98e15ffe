"""An experiment tracker of the user's own, told of epochs, results and figures."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

from kd_jax.core import exits, hosts, sources
from kd_jax.core.errors import UserError, in_words

# (kind, what) -> None, of each kind as `start` says.
Log = Callable[[str, Mapping[str, Any]], None]


def nothing(kind: str, what: Mapping[str, Any]) -> None:
  """The log of a run without a tracker."""


def start(
    values: Mapping[str, Any], workdir: pathlib.Path, say: Callable[[str], None]
) -> Log:
  """The log of `config.tracker`, a function `(config, workdir) -> log`.

  It is told, by the first process alone:

    log("epoch", row)    a line of metrics.jsonl: net, epoch, step, its numbers
    log("result", row)   a row of results.jsonl
    log("figure", each)  name, and path of a .png
    log("end", summary)  what summary.json holds; a run that stops has no end

  A log that raises is told nothing more: a tracker must not end a run.

  Args:
    values: The config, flat.
    workdir: Of the run.
    say: Told what the tracker raises.

  Raises:
    UserError: If there is no such function, or it fails or gives no function.
  """
  name = values["tracker"]
  if name is None or not hosts.first():
    return nothing
  key = f"config.tracker={name}"
  if not sources.named(name):
    raise UserError(f"{key}: name a function, module:NAME or file.py:NAME")
  make, file = sources.load("config.tracker", name), name.rpartition(":")[0]
  try:
    with exits.refused():
      log = make(dict(values), workdir)
  except BaseException as error:  # Whatever a user's function raises.
    raise UserError(f"{key}: {in_words(error, file)}") from None
  if not callable(log):
    raise UserError(f"{key}: gives a {type(log).__name__}; it must give a function "
                    "log(kind, what)")
  return _once(log, lambda error: say(
      f"{key}: {in_words(error, file)}; the run goes on and tells it nothing more"))


def _once(log: Log, failed: Callable[[BaseException], None]) -> Log:
  """A log that is asked no more once it has failed."""
  works = True

  def logged(kind: str, what: Mapping[str, Any]) -> None:
    nonlocal works
    if not works:
      return
    try:
      with exits.refused():
        log(kind, what)
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # Whatever it raises.
      works = False
      failed(error)

  return logged
