"""Shows which pixels of an image support the class that a net predicts (DeepVID).

  python -m kd_jax.explain --workdir=runs/mnist --id=7
  python -m kd_jax.explain --workdir=runs/mnist --id=0-39    # a page of 40

A VAE is trained on the training images (a minute for MNIST) and draws neighbours of
the test image. A linear model is trained on the net's softened outputs for these
neighbours only. The picture has the image, 8 neighbours, and the weights of the
linear model for the two most likely classes: red pixels support the class, blue
pixels oppose it (Wang et al. 2019). It also says how often linear model and net
agree on neighbours that were not used for training.
"""

import argparse
import pathlib
import sys

from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, ids, printable, whole


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = _parser().parse_args(argv)
  # jax takes seconds to import, so mistakes before are reported first.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.explain import picture
  try:
    print(printable(str(picture.write(
        arguments.workdir, arguments.id, net=arguments.net, data=arguments.data,
        epochs=arguments.epochs,
        say=lambda line: print(printable(line), flush=True)))))
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  return 0


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.explain", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=pathlib.Path, required=True,
                      help="folder of a finished run on images")
  parser.add_argument("--id", type=ids, required=True, metavar="ID[,ID-ID...]",
                      help="numbers of test images, from 0, such as 7 or 0-39; for "
                      "several images it writes a page")
  parser.add_argument("--net", metavar="NAME", help="name of a net in "
                      "WORKDIR/parameters (default: the last of the config, "
                      "such as distilled)")
  parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                      help="folder of the run's data set, if it has moved")
  parser.add_argument("--epochs", type=whole, default=8, metavar="N",
                      help="training epochs of the VAE (default: 8)")
  return parser


if __name__ == "__main__":
  exits.command(main)
