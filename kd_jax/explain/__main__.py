"""Shows why a net says what it says of one image, as DeepVID does.

  python -m kd_jax.explain --workdir=runs/mnist --id=7
  python -m kd_jax.explain --workdir=runs/mnist --id=0-39    # a page of 40

A VAE is trained on the training images (a minute for MNIST) and draws neighbours of
test image 7. A linear student learns the net's softened labels of these alone. The
picture has the image, 8 neighbours, and the student's weights for the two likeliest
classes: red pixels speak for the class, blue ones against it. (Wang et al. 2019.)
Beside it stands how often student and net agree on neighbours that are not learnt.
"""

import argparse
import pathlib
import re
import sys

from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError, printable, whole

# A page of more would be too long to look through, and large.
_MOST = 500


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


def _ids(text: str) -> list[int]:
  """7, or 3,7, or 0-39, or some of these."""
  found: dict[int, None] = {}
  for part in text.split(","):
    match = re.fullmatch(r"(-?\d{1,9})(?:-(\d{1,9}))?", part.strip())
    if not match:
      raise argparse.ArgumentTypeError(f"{text!r} must be ids such as 7 or 0-39")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < first + _MOST - len(found):
      raise argparse.ArgumentTypeError(
          f"{text!r} must go up, and be of {_MOST} images at most")
    found |= dict.fromkeys(range(first, last + 1))
  return list(found)


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.explain", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=pathlib.Path, required=True,
                      help="of a finished run of images")
  parser.add_argument("--id", type=_ids, required=True, metavar="ID[,ID-ID...]",
                      help="which test images, from 0; of several a page is made")
  parser.add_argument("--net", help="one of WORKDIR/parameters (default: the last)")
  parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                      help="that holds the run's data set, where it has moved")
  parser.add_argument("--epochs", type=whole, default=8,
                      help="of the VAE (default: 8)")
  return parser


if __name__ == "__main__":
  exits.command(main)
