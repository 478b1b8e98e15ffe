"""`python -m kd_jax.data prepare NAME --from DIR`, for machines without network."""

import pathlib
import sys

from kd_jax.core import exits
from kd_jax.core.errors import Parser, UserError
from kd_jax.core.files import at_home
from kd_jax.data import offline, tfds_source


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  parser = Parser(
      prog="python -m kd_jax.data",
      description="Prepare a TensorFlow Datasets set from files you already "
      "have, without network.")
  commands = parser.add_subparsers(dest="command", required=True)
  prepare = commands.add_parser(
      "prepare", help="put official files into TFDS's download cache and "
      "write the set as array_record (needs TensorFlow)")
  prepare.add_argument("name", help="name of the set in TFDS, such as mnist")
  prepare.add_argument(
      "--from", dest="source", type=pathlib.Path, required=True,
      metavar="DIR", help="folder with the official files")
  prepare.add_argument(
      "--dir", type=pathlib.Path, default=None, metavar="DIR",
      help="TFDS data folder (default: TFDS_DATA_DIR or ~/tensorflow_datasets)")
  arguments = parser.parse_args(argv)
  try:
    folder = offline.prepare_from(
        arguments.name, arguments.source,
        directory=arguments.dir and at_home(arguments.dir))
  except (UserError, tfds_source.Unavailable, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  print(f"prepared: {folder}")
  return 0


if __name__ == "__main__":
  exits.command(main)
