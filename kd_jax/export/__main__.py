r"""Writes a trained net as a file that another runtime reads, and what it costs.

  python -m kd_jax.export runs/mnist
  python -m kd_jax.export runs/mnist --net=teacher,distilled --format=litert,onnx \
      --int8=dynamic,static
  python -m kd_jax.export runs/mnist --page --web=DIR    # to try both in a browser

Every file takes inputs as the data set stores them (pixels from 0 to 255) and gives
logits and probabilities; classes and preprocessing are inside. Each is run in its
own runtime on the whole test set and compared with the net: one that differs too
much is not kept. `WORKDIR/exports.jsonl` gets a row of each: bytes, test errors,
agreement, microseconds and memory on one core. `--int8` writes the int8 form beside
the float one. NET.md beside the files is a model card for a hub, and says how each
file is used.
"""

import argparse
from collections.abc import Callable
import pathlib
import re
import sys

from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, nearest, part, printable
from kd_jax.export.formats import FORMATS, INSTALL, KINDS, installed


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = _parser().parse_args(argv)
  try:
    with exits.stoppable():
      _run(arguments, lambda line: print(printable(line), flush=True))
  except exits.Stopped as stopped:
    print("\nstopped; the files that were finished are kept", file=sys.stderr)
    return stopped.code
  except BrokenPipeError:
    raise
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  return 0


def _run(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
  """Writes what is asked for."""
  kinds = [kind for kind in arguments.int8 if kind != "none"]
  if page := arguments.page or arguments.web is not None:
    if kinds or arguments.format not in (None, ["onnx"]):
      raise UserError("--page: is made of float ONNX files alone; leave out "
                      "--format and --int8, or export without --page")
    arguments.format = ["onnx"]
  names = installed(arguments.format, say)
  _refuse_without(kinds, names, asked=arguments.format)
  # jax takes seconds to import, so mistakes before are reported first.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.export import command
  asked = command.Asked(
      arguments.workdir, arguments.out or arguments.workdir / "exports", say,
      arguments.data, arguments.licence, arguments.disagreement)
  if page:
    command.page(asked, arguments.net, arguments.web)
  else:
    command.run(asked, arguments.net, names, kinds)


def _refuse_without(
    kinds: list[str], names: list[str], asked: list[str] | None
) -> None:
  """Refuses a kind of int8 that none of the formats has that are written."""
  for kind in kinds:
    able = [name for name, each in FORMATS.items() if kind in each.int8]
    if set(able) & set(names):
      continue
    if asked:
      raise UserError(f"--int8={kind}: {', '.join(asked)} has it not; add "
                      f"{' or '.join(able)} to --format")
    raise UserError(f"--int8={kind}: {' and '.join(able)} alone has it, and its "
                    f"packages are not installed: {INSTALL}")


def _names(text: str) -> list[str]:
  """One or several names, each once."""
  found = list(dict.fromkeys(name.strip() for name in text.split(",")))
  if "" in found:
    raise argparse.ArgumentTypeError(f"{text!r}: must be NAME or NAME,NAME")
  return found


def _some(known, what: str):
  """One or several names of those that are known."""
  def names(text: str) -> list[str]:
    for name in (found := _names(text)):
      if name not in known:
        raise argparse.ArgumentTypeError(
            f"{name!r} is no {what}; {nearest(name, known)}")
    return found
  return names


def _licence(text: str) -> str:
  """A licence as hubs call it."""
  if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
    raise argparse.ArgumentTypeError(
        f"{text!r}: must be the identifier of a licence, such as apache-2.0, or "
        "cc-by-4.0")
  return text


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.export", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("workdir", type=pathlib.Path, help="of a finished run")
  parser.add_argument(
      "--net", type=_names, metavar="NAME[,NAME]",
      help="of WORKDIR/parameters, such as NAME_best, of the epoch with the fewest "
           "held-out errors (default: the one that the run is about)")
  parser.add_argument(
      "--format", type=_some(FORMATS, "format"), metavar="NAME[,NAME]",
      help=f"of {', '.join(FORMATS)} (default: all whose packages are installed)")
  parser.add_argument(
      "--int8", type=_some(KINDS, "kind of int8"), default=["none"],
      metavar="KIND[,KIND]",
      help="none (default); dynamic, good for MLPs; static, good for convolutions: "
           "its ranges are those of training inputs; dynamic4: weights of 4 bits")
  parser.add_argument(
      "--disagreement", type=part, default=0.05, metavar="PART",
      help="an int8 file that names another class than the net for more of the "
           "test set is not kept (default: 0.05)")
  parser.add_argument(
      "--page", action="store_true",
      help="instead write a page on which the nets (default: teacher and student) "
           "are tried by hand")
  parser.add_argument(
      "--web", type=pathlib.Path, metavar="DIR",
      help="that holds the npm package onnxruntime-web, which the page then holds; "
           "else it is loaded from the network")
  parser.add_argument(
      "--out", type=pathlib.Path, metavar="DIR",
      help="where the files go (default: WORKDIR/exports)")
  parser.add_argument(
      "--data", type=pathlib.Path, metavar="DIR",
      help="that holds the run's data set, where it has moved; without it arrays "
           "alone are written (npz, safetensors)")
  parser.add_argument(
      "--licence", type=_licence, metavar="ID",
      help="of the net, for its model card, such as apache-2.0 (default: the last "
           "that was given; or other, which says that the run's owner must choose)")
  return parser


if __name__ == "__main__":
  exits.command(main)
