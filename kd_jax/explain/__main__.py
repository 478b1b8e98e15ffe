"""Shows why a net says what it says of one image, as DeepVID does.

  python -m kd_jax.explain --workdir=runs/mnist --id=7

A VAE is trained on the training images (a minute for MNIST) and draws neighbours of
test image 7. A linear student learns the net's softened labels of these alone. The
picture has the image, 8 neighbours, and the student's weights for the two likeliest
classes: red pixels speak for the class, blue ones against it. (Wang et al. 2019.)
Beside it stands how often student and net agree on neighbours that are not learnt.
"""

import argparse
import pathlib
import sys

from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, printable, whole


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = _parser().parse_args(argv)
  # jax takes seconds to import, so mistakes before are reported first.
  # pylint: disable-next=g-import-not-at-top
  from kd_jax.explain import picture
  try:
    print(printable(picture.write(
        arguments.workdir, arguments.id, net=arguments.net, epochs=arguments.epochs,
        say=lambda line: print(line, flush=True))))
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  return 0


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.explain", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=pathlib.Path, required=True,
                      help="of a finished run of images")
  parser.add_argument("--id", type=int, required=True,
                      help="which test image, from 0")
  parser.add_argument("--net", help="one of WORKDIR/parameters (default: the last)")
  parser.add_argument("--epochs", type=whole, default=8,
                      help="of the VAE (default: 8)")
  return parser


if __name__ == "__main__":
  exits.command(main)
