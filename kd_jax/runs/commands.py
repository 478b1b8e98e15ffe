"""The command of a single run that equals a lane."""

from collections.abc import Mapping
import shlex
from typing import Any

from kd_jax import config as config_lib
from kd_jax.config import command_line, identity, sweep
from kd_jax.training.lanes import Shape


def of_file(file: str) -> dict[str, Any]:
  """The flat config of `--config=FILE[:VARIANT]`; nothing for ""."""
  return config_lib.flatten(command_line.parse([file])[0]) if file else {}


def single_run(
    values: dict[str, Any], file: str, base: dict[str, Any], point: sweep.Point,
    shape: Shape,
) -> str:
  """`python -m kd_jax.main --config=FILE --config.KEY=VALUE ...` of a point.

  Args:
    values: The flat config that the sweep starts from, however it was made.
    file: `--config=FILE[:VARIANT]` that it was made from; "" for none.
    base: The config of that file, of `of_file`.
    point: The point.
    shape: The rectangle that the lane ran in.

  Returns:
    The command, with every key in which the lane differs from the file, and the
    lanes that ran at once. A single run does not look at these, and agrees with the
    row to rounding; a sweep of such lanes agrees to the bit. "" without a file.
  """
  if not file:
    return ""
  wanted = _values(sweep.applied(values, point))
  given: dict[str, Any] = {}
  # A key that is given may take others back, so they are compared again.
  for _ in range(len(wanted)):
    found = _values(config_lib.changed(base, given))
    differing = {key: value for key, value in wanted.items()
                 if found.get(key) != value and key not in given}
    if not differing:
      break
    given |= differing
  if base["sweep.points"]:
    given["sweep.points"] = ()
  given["sweep.lanes"] = f"{shape.seeds}x{shape.points}"
  words = [f"--config.{key}={value}" for key, value in given.items()]
  return shlex.join(["python", "-m", "kd_jax.main", file, *words])


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
  return identity.in_command(config_lib.flatten(config))
