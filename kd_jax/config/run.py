"""A config, read once: its flat values, and what is made of some of them."""

from collections.abc import Mapping
import json
from typing import Any, NamedTuple

from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import names, schema
from kd_jax.core.errors import UserError
from kd_jax.core.files import at_home
from kd_jax.core.words import counted


class Sweeping(NamedTuple):
  """What is swept, and how its lanes run.

  Attributes:
    points: Dicts of dotted keys; none for a single run.
    lanes: Seeds and points that run at once, or None to choose them.
    memory: Share of the device's memory that lanes may take.
    keep_logits: Whether to keep the logits of every net.
    reference: Overrides of the point that tables compare the others with.
  """

  points: tuple[dict[str, Any], ...]
  lanes: tuple[int, int] | None
  memory: float
  keep_logits: bool
  reference: dict[str, Any]


class Run(NamedTuple):
  """What a config asks for.

  Attributes:
    values: The config as dotted keys and plain values.
    method: The method.
    weights: Weight of each member of the teacher, summing to 1.
    sweep: What is swept.
    sources: Hashes of a user's own class, and of the weights that they give, by
      "student" and "teacher".
  """

  values: dict[str, Any]
  method: methods.Method
  weights: tuple[float, ...]
  sweep: Sweeping
  sources: dict[str, dict[str, str]]

  def part(self, *prefixes: str) -> str:
    """The keys that begin so, as text: runs alike in it share what they mean."""
    return json.dumps({key: value for key, value in self.values.items()
                       if key.startswith(prefixes)}, sort_keys=True)


def read(config: Mapping[str, Any]) -> Run:
  """Reads a checked config, a ConfigDict or flat values.

  Raises:
    UserError: If a name stands for nothing, or the weights of members are wrong.
  """
  values = config_lib.flatten(config)
  # No shell expands what stands after an equals sign.
  homes = {key: str(at_home(values[key])) for key in schema.PATHS
           if str(values[key]).startswith("~")}
  if homes:
    values = {**values, **homes}
  seeds, _, points = values["sweep.lanes"].partition("x")
  return Run(
      values=values,
      method=names.method(values["method"]),
      weights=_member_weights(values),
      sweep=Sweeping(
          points=tuple(values["sweep.points"]),
          lanes=(int(seeds), int(points)) if points else None,
          memory=values["sweep.memory"], keep_logits=values["sweep.logits"],
          reference=dict(values["sweep.reference"])),
      sources={
          "student": names.source_identity(
              values["student.name"], *values["method"].split("+")),
          "teacher": names.source_identity(values["teacher.name"])
                     | names.weights_identity(values["teacher.state_dict"])})


def _member_weights(values: Mapping[str, Any]) -> tuple[float, ...]:
  """Weight of each member of the teacher, summing to 1."""
  count, given = values["teacher.count"], values["teacher.weights"]
  weights = given or (1.0,) * count
  if len(weights) != count or sum(weights) <= 0:
    raise UserError(
        f"config.teacher.weights={given}: must be {counted(count, 'number')} >= 0, "
        "not all 0, one for each of teacher.count members")
  mean, classes = values["teacher.mean"], values["teacher.classes"]
  if given and mean not in ("probabilities", "logits"):
    raise UserError(
        f"config.teacher.weights: teacher.mean={mean} has weights of its own; "
        "give one of them")
  if classes and len(classes) != count:
    raise UserError(
        f"config.teacher.classes={classes}: must be the classes of each of "
        f"{counted(count, 'member')}, () for all")
  return tuple(weight / sum(weights) for weight in weights)
