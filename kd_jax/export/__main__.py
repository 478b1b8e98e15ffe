r"""Exports a trained net to a file for another runtime, and measures the file.

  python -m kd_jax.export runs/mnist
  python -m kd_jax.export runs/mnist --net=teacher,distilled --format=litert,onnx \
      --int8=dynamic,static
  python -m kd_jax.export runs/mnist --page --web=DIR    # to try both in a browser

A file of litert, onnx or stablehlo takes inputs as the data set stores them (pixels
from 0 to 255) and returns logits and probabilities; it contains the class names and
the preprocessing. npz and safetensors have only the weights. Each program is run in
its runtime on the whole test set and compared with the net; if it differs too much,
it is not kept. `WORKDIR/exports.jsonl` gets one row per file: bytes, test errors,
agreement, microseconds and memory on one core. `--int8` also writes an int8 file.
NET.md is a model card with the code to use each file.
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
  parser.add_argument("workdir", type=pathlib.Path, help="folder of a finished run")
  parser.add_argument(
      "--net", type=_names, metavar="NAME[,NAME]",
      help="names of nets in WORKDIR/parameters (default: the last of the config, "
           "such as distilled); NAME_best: of the epoch with the fewest held-out "
           "errors")
  parser.add_argument(
      "--format", type=_some(FORMATS, "format"), metavar="NAME[,NAME]",
      help=f"some of {', '.join(FORMATS)} (default: all whose packages are "
           "installed)")
  parser.add_argument(
      "--int8", type=_some(KINDS, "kind of int8"), default=["none"],
      metavar="KIND[,KIND]",
      help="also write int8 files: none (default); dynamic, good for MLPs; "
           "static, good for convolutions, with ranges from training inputs; "
           "dynamic4: weights of 4 bits (litert)")
  parser.add_argument(
      "--disagreement", type=part, default=0.05, metavar="PART",
      help="largest part of the test set for which an int8 file may predict "
           "another class than the net; otherwise it is not kept (default: 0.05)")
  parser.add_argument(
      "--page", action="store_true",
      help="write a web page to try the nets by hand (default: teacher and "
           "student), and their onnx files only")
  parser.add_argument(
      "--web", type=pathlib.Path, metavar="DIR",
      help="folder of the npm package onnxruntime-web, to put into the page; "
           "without it, the page loads the package from the network")
  parser.add_argument(
      "--out", type=pathlib.Path, metavar="DIR",
      help="folder for the files (default: WORKDIR/exports)")
  parser.add_argument(
      "--data", type=pathlib.Path, metavar="DIR",
      help="folder of the run's data set, if it has moved; without the data only "
           "the weights are written (npz, safetensors)")
  parser.add_argument(
      "--licence", type=_licence, metavar="ID",
      help="licence of the net in its model card, such as apache-2.0 (default: the "
           "last one given; before any: other, and you must choose)")
  return parser


if __name__ == "__main__":
  exits.command(main)
