"""The command of a single run that equals a lane."""

from collections.abc import Mapping
import shlex
from typing import Any, TypeVar

from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import command_line, identity, schema, sweep
from kd_jax.training.lanes import Shape

T = TypeVar("T")
# What students of labels alone have nothing to do with.
_OF_TEACHERS = ("teacher.", "alpha", "hard_weight", "soft_weight", "temperature",
                "schedules.temperature", "schedules.alpha")


def of_file(file: str) -> dict[str, Any]:
  """The flat config of `--config=FILE[:VARIANT]`; nothing for ""."""
  return config_lib.flatten(command_line.parse([file])[0]) if file else {}


def single_run(
    values: dict[str, Any], file: str, base: dict[str, Any], point: sweep.Point,
    shape: Shape, *, labelled: bool = False,
) -> str:
  """`python -m kd_jax.main --config=FILE --config.KEY=VALUE ...` of a point.

  Args:
    values: The flat config that the sweep starts from, however it was made.
    file: `--config=FILE[:VARIANT]` that it was made from; "" for none.
    base: The config of that file, of `of_file`.
    point: The point.
    shape: The rectangle that the lane ran in.
    labelled: Whether all its training examples have labels.

  Returns:
    The command, with every key in which the lane differs from the file, and the
    lanes that ran at once. A single run does not look at these, and agrees with the
    row to rounding; a sweep of such lanes agrees to the bit. A lane of labels alone
    is that of `method=hard`, for which no teacher is trained. "" without a file.
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
  # Where labels are unknown, students of a teacher see more examples.
  if labelled and not wanted["recipe"] and methods.labels_alone(wanted):
    given = of_labels(given)
  if base["sweep.points"]:
    given["sweep.points"] = ()
  given["sweep.lanes"] = f"{shape.seeds}x{shape.points}"
  return shlex.join(["python", "-m", "kd_jax.main", file, *_flags(given)])


def of_labels(given: Mapping[str, T]) -> dict[str, T | str]:
  """The keys of a command of labels alone, without those of a teacher.

  The same student comes out, to rounding; its agreement with a teacher does not.

  Example:
    >>> of_labels({"alpha": 0.0, "teacher.seed": 2, "epochs": 40})
    {'epochs': 40, 'method': 'hard'}
  """
  kept = {key: value for key, value in given.items()
          if not key.startswith(_OF_TEACHERS) and schema.owner(key) is None}
  return {**kept, "method": "hard"}


def again(row: Mapping[str, Any]) -> str:
  """The command of a row, of examples that have labels, as it would be made today.

  Rows of before have a teacher in it that their loss does not look at.
  """
  words = shlex.split(row.get("command") or "")
  settings = {"method": row.get("method"), **(row.get("overrides") or {})}
  if "net" in row or not words or not methods.labels_alone(settings):
    return shlex.join(words)
  given = dict(word.removeprefix("--config.").split("=", 1) for word in words[4:])
  return shlex.join([*words[:4], *_flags(of_labels(given))])


def _flags(given: Mapping[str, Any]) -> list[str]:
  return [f"--config.{key}={value}" for key, value in given.items()]


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
  return identity.in_command(config_lib.flatten(config))
