"""`python -m kd_jax.conformance TARGET`: is this loss knowledge distillation?"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import json
import math
import os
import sys
from typing import Any, NamedTuple, NoReturn
import warnings

from kd_jax.core import exits, strict
from kd_jax.core.errors import Parser, UserError, nearest

_DESCRIPTION = """\
Judges a distillation loss by the contract of Hinton, Vinyals & Dean (2015), a row
a property: what was expected, what was found, what a failure does to training.

TARGET is module:function or file.py:function (or only the file, for a function
called loss), and the function

  loss(student_logits, teacher_logits, labels, temperature, alpha)

with logits [B, classes] and integer labels [B]. It returns a scalar or [B], and may
take some of these alone, by their names. A function of JAX, NumPy or PyTorch is
judged as it is; for Keras, and to be sure:

  from kd_jax.conformance import adapters
  @adapters.keras                         # or adapters.torch, .jax, .numpy
  def loss(student_logits, teacher_logits, labels, temperature, alpha): ...

With --kind=features it is a loss of what layers give out, by what every distance
of features should keep, and by what it claims not to look at (--invariant):

  loss(student_features, teacher_features)

TARGET is imported and run: judge no code that you would not run.
"""
_END = """\
A method that is something else on purpose, such as reverse KL or the squared
distance of logits, fails the rows in which it differs: the contract of --kind=kd
is plain distillation's.

  --kind=features --shape=4,4,5                        maps [batch, 4, 4, 5]
  --kind=features --shape=5,4,4 --channels=first       maps as PyTorch has them
  --kind=features --shape=16 --invariant=examples,scale --relational
  --kind=features --shape=4,4,5 --shape=4,4,3          two taps a net, as tuples

Exit code: 0 if all hold, 1 if a row fails, 2 for a target that cannot be judged.
"""


# Options of one kind, which mean nothing to the other.
_OF_KIND = (("alpha",), ("shape", "channels", "invariant", "relational"))


class _Parser(Parser):
  """One whose errors may be asked for as JSON."""

  def error(self, message: str) -> NoReturn:
    """Raises what is wrong with the arguments."""
    raise UserError(f"{message}; see --help")


def parser() -> argparse.ArgumentParser:
  """The command line."""
  # Light: neither waits for a framework.
  from kd_jax.conformance import adapters, feature_loss, properties, taps

  made = _Parser(
      prog="python -m kd_jax.conformance", description=_DESCRIPTION,
      epilog=_END, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  made.add_argument("target", metavar="TARGET")
  made.add_argument(
      "--kind", choices=("kd", "features"), default="kd",
      help="what it is a loss of: of logits, as plain distillation, or of features "
           "(default: kd)")
  made.add_argument(
      "--alpha", choices=("soft", "hard", "none"),
      help="which term alpha weighs; none for a soft term without labels "
           "(default: soft; none for a loss that names neither alpha nor labels)")
  made.add_argument(
      "--shape", metavar="N,N,N", action="append", type=_shape,
      help="of an example's features, once for each tap (default: "
           f"{','.join(map(str, taps.SHAPE))})")
  made.add_argument(
      "--channels", choices=("last", "first"),
      help="where a shape has the channels (default: last)")
  made.add_argument(
      "--invariant", metavar="NAME,NAME",
      help="what must not change the loss, of "
           f"{', '.join(taps.INVARIANCES)} (default: examples)")
  made.add_argument(
      "--relational", action="store_true", default=None,
      help="the loss relates the examples of a batch: it need not be the mean of "
           "its halves'")
  made.add_argument(
      "--framework", choices=("auto", *adapters.ADAPTERS), default="auto",
      help="what the function is written in (default: found out)")
  made.add_argument("--only", metavar="ROW,ROW",
                    help="some of the rows: of kd "
                         f"{', '.join(properties.PROPERTIES)}; of features "
                         f"{', '.join(feature_loss.PROPERTIES)}")
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


class _Contract(NamedTuple):
  """What a loss is judged by: its calls, the judge, and how both are told."""

  kind: Any
  judge: Callable[[Any], list[Any]]
  question: str
  asked: Callable[[Any], dict[str, Any]]


def _of_logits(arguments: argparse.Namespace) -> _Contract:
  from kd_jax.conformance import properties, targets
  alpha = lambda loss: arguments.alpha or (
      "soft" if loss.uses & {"alpha", "labels"} else "none")
  names = _names("only", arguments.only, "row", properties.PROPERTIES)
  return _Contract(
      targets.of_logits(), lambda loss: properties.judge(loss, alpha(loss), names),
      "is it knowledge distillation, (1 - alpha) CE + alpha T**2 "
      "KL(teacher || student)", lambda loss: {"kind": "kd", "alpha": alpha(loss)})


def _of_features(arguments: argparse.Namespace) -> _Contract:
  from kd_jax.conformance import feature_loss, properties, taps, targets
  shapes = taps.Taps(tuple(arguments.shape or [taps.SHAPE]),
                     1 if arguments.channels == "first" else -1)
  given = "examples" if arguments.invariant is None else arguments.invariant
  claims = _names("invariant", given, "invariance", taps.INVARIANCES)
  if "pixels" in claims and any(len(shape) == 1 for shape in shapes.shapes):
    raise UserError("--invariant=pixels: features of the shape "
                    f"{shapes.shapes[0]} have none; give --shape=4,4,5")
  names = _names("only", arguments.only, "row", feature_loss.PROPERTIES)
  rules = {name: feature_loss.PROPERTIES[name] for name in names}
  relational = bool(arguments.relational)
  return _Contract(
      targets.of_features(shapes),
      lambda loss: properties.judged(
          feature_loss.Probe(loss, shapes, claims, relational), rules),
      "does it compare features as distillation should",
      lambda loss: {"kind": "features", "shape": shapes.shapes,
                    "invariant": claims, "relational": relational})


def _names(flag: str, given: str | None, word: str,
           known: Iterable[str]) -> list[str]:
  """The names that a flag lists; all that are known if it is not given."""
  known = list(known)
  if given is None:
    return known
  names = [name for name in given.split(",") if name]
  for name in names:
    if name not in known:
      raise UserError(f"--{flag}={given}: {name} is no {word}; "
                      f"{nearest(name, known)}")
  if not names:
    raise UserError(f"--{flag}: names no {word}")
  return names


def _shape(text: str) -> tuple[int, ...]:
  """Of the features of an example: `channels`, or a map's three sizes."""
  sizes = tuple(int(size) for size in text.split(","))
  if len(sizes) not in (1, 3) or min(sizes) < 1 or math.prod(sizes) > 10_000:
    raise argparse.ArgumentTypeError(
        f"{text}: must be CHANNELS of vectors, or three sizes of maps, of 10,000 "
        "numbers at most")
  return sizes


def _run(arguments: argparse.Namespace) -> int:
  # pylint: disable=g-import-not-at-top
  from kd_jax.conformance import report, targets
  # pylint: enable=g-import-not-at-top
  for name in _OF_KIND[arguments.kind != "features"]:
    if getattr(arguments, name) is not None:
      raise UserError(f"--{name}: is no option of --kind={arguments.kind}")
  contract = (_of_features if arguments.kind == "features" else _of_logits)(
      arguments)
  # What a target prints, and warns of for inputs that it is given on purpose,
  # is no part of the report.
  with contextlib.redirect_stdout(
      sys.stderr), warnings.catch_warnings(), _not_ended():
    warnings.simplefilter("ignore")
    loss = targets.load(arguments.target, arguments.framework, contract.kind)
    rows = contract.judge(loss)
  if arguments.json:
    print(strict.dumps(report.as_json(
        arguments.target, loss, contract.asked(loss), rows), indent=1))
  else:
    from kd_jax.core.screen import Screen
    report.show(arguments.target, loss, contract.question, rows, Screen())
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
  exits.command(exits.apart(
      main, "conformance: the target ends the program, so it cannot be judged"))
