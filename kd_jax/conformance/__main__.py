"""`python -m kd_jax.conformance TARGET`: is this loss knowledge distillation?"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import json
import os
import sys
from typing import Any, NoReturn
import warnings

from kd_jax.core import exits, strict
from kd_jax.core.errors import Parser, UserError, nearest

_DESCRIPTION = """\
Judges a distillation loss by the contract of Hinton, Vinyals & Dean (2015), a row
a property: what was expected, what was found, what a failure does to training.

TARGET is module:function or file.py:function (or only the file, for a function
called loss), and the function

  loss(student_logits, teacher_logits, labels, temperature, alpha)

with logits [B, classes] and integer labels [B]. It returns a scalar or [B]. A
function of JAX, NumPy or PyTorch is judged as it is; for Keras, and to be sure:

  from kd_jax.conformance import adapters
  @adapters.keras                         # or adapters.torch, .jax, .numpy
  def loss(student_logits, teacher_logits, labels, temperature, alpha): ...

TARGET is imported and run: judge no code that you would not run.
"""
_END = """\
A method that is something else on purpose, such as reverse KL or the squared
distance of logits, fails the rows in which it differs: the contract is plain
distillation's (--kind=kd, the only one there is).

Exit code: 0 if all hold, 1 if a row fails, 2 for a target that cannot be judged.
"""


class _Parser(Parser):
  """One whose errors may be asked for as JSON."""

  def error(self, message: str) -> NoReturn:
    """Raises what is wrong with the arguments."""
    raise UserError(f"{message}; see --help")


def parser() -> argparse.ArgumentParser:
  """The command line."""
  # Light: neither waits for a framework.
  from kd_jax.conformance import adapters, properties

  made = _Parser(
      prog="python -m kd_jax.conformance", description=_DESCRIPTION,
      epilog=_END, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  made.add_argument("target", metavar="TARGET")
  made.add_argument(
      "--alpha", choices=("soft", "hard", "none"), default="soft",
      help="which term alpha weighs; none for a soft term without labels "
           "(default: soft)")
  made.add_argument(
      "--framework", choices=("auto", *adapters.ADAPTERS), default="auto",
      help="what the function is written in (default: found out)")
  made.add_argument("--only", metavar="ROW,ROW",
                    help=f"some of the rows: {', '.join(properties.PROPERTIES)}")
  made.add_argument("--kind", choices=("kd",), default="kd",
                    help="the contract (default: kd)")
  made.add_argument("--json", action="store_true",
                    help="print JSON instead of a table")
  return made


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit code."""
  try:
    return _run(parser().parse_args(argv))
  except UserError as error:
    print(f"conformance: {error}", file=sys.stderr)
    if "--json" in argv:
      print(json.dumps({"error": str(error)}))
  except KeyboardInterrupt:  # Also one that the target raises.
    print("conformance: stopped", file=sys.stderr)
    return 130
  return 2


def _run(arguments: argparse.Namespace) -> int:
  # pylint: disable=g-import-not-at-top
  from kd_jax.conformance import properties, report, targets
  # pylint: enable=g-import-not-at-top
  names = list(properties.PROPERTIES)
  if arguments.only is not None:
    names = [name for name in arguments.only.split(",") if name]
    for name in names:
      if name not in properties.PROPERTIES:
        raise UserError(f"--only={arguments.only}: {name} is no row; "
                        f"{nearest(name, properties.PROPERTIES)}")
    if not names:
      raise UserError("--only: names no row")
  # What a target prints, and warns of for logits that it is given on purpose,
  # is no part of the report.
  with contextlib.redirect_stdout(
      sys.stderr), warnings.catch_warnings(), _not_ended():
    warnings.simplefilter("ignore")
    loss = targets.load(arguments.target, arguments.framework)
    rows = properties.judge(loss, arguments.alpha, names)
  if arguments.json:
    print(strict.dumps(report.as_json(
        arguments.target, loss, arguments.alpha, rows), indent=1))
  else:
    from kd_jax.core.screen import Screen
    report.show(arguments.target, loss, rows, Screen())
  return 0 if report.holds(rows) else 1


@contextlib.contextmanager
def _not_ended() -> Iterator[None]:
  """Refuses that a target ends the program: its exit code is the verdict."""
  try:
    with exits.refused():
      yield
  except SystemExit as error:
    raise UserError(f"the target ends the program ({error.code or 'SystemExit'}), "
                    "so it cannot be judged") from None


if __name__ == "__main__":
  # A question is compiled for itself alone, so optimising it does not pay. Not in
  # `main`: what is started after it would compute other bits.
  os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  end = os._exit  # Of the target's doings at the end none may change the verdict.
  try:
    code: Any = main(sys.argv[1:])
  except SystemExit as error:  # Of --help, or of a wrong command line.
    code = error.code
  sys.stdout.flush()
  sys.stderr.flush()
  end(int(code or 0))
