"""A config, read once: what a run asks for beside its nets, as plain values."""

from collections.abc import Mapping, Sequence
import json
from typing import Any, NamedTuple

from kd_jax import config as config_lib
from kd_jax import methods
from kd_jax.config import names
from kd_jax.core.errors import UserError

_NETS = ("student", "teacher")


class Checkpointing(NamedTuple):
  """When an unfinished training is saved, and what is gone on with.

  Attributes:
    every: A number of steps, epochs or minutes, such as "5 minutes".
    keep: So many checkpoints are kept.
    force: Whether a training of another config is gone on with.
  """

  every: str
  keep: int
  force: bool


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


class TeacherPlan(NamedTuple):
  """Where the teacher comes from.

  Attributes:
    members: How many nets it is made of.
    weights: Weight of each member, summing to 1.
    mean: What is averaged over members.
    bank: "auto", "always" or "never": whether its logits are stored.
    directory: Where trained teachers are kept, or None for the workdir.
    logits: A user's logits of the training set, or None.
    test_logits: The same of the test set.
    seed: Of the first member.
  """

  members: int
  weights: tuple[float, ...]
  mean: str
  bank: str
  directory: str | None
  logits: str | None
  test_logits: str | None
  seed: int


class Run(NamedTuple):
  """What a config asks for.

  Attributes:
    values: The config as dotted keys, for records and for `build`.
    method: The method.
    method_name: Its name.
    seed: Of the student.
    alpha: Share of the soft term, or None where weights are given.
    teacher: Where the teacher comes from.
    pairs: Taps that the method compares; none for its own choice.
    views: Name of the student's augmentation, which a bank is made for.
    sweep: What is swept.
    checkpoints: When an unfinished training is saved.
    parallel: How one training uses several devices, or "auto".
    tensorboard: Whether event files are written.
    skip_nonfinite: Whether a step that is not finite is passed over.
    titles: Name and widths of the nets, by "student" and "teacher".
    sources: Hash of the file of a user's own class, by "student" and "teacher".
  """

  values: dict[str, Any]
  method: methods.Method
  method_name: str
  seed: int
  alpha: float | None
  teacher: TeacherPlan
  pairs: methods.Pairs
  views: str
  sweep: Sweeping
  checkpoints: Checkpointing
  parallel: str
  tensorboard: bool
  skip_nonfinite: bool
  titles: dict[str, str]
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
  lanes = values["sweep.lanes"]
  return Run(
      values=values,
      method=names.method(values["method"]),
      method_name=values["method"],
      seed=values["seed"],
      alpha=values["alpha"],
      teacher=TeacherPlan(
          members=values["teacher.count"], weights=member_weights(values),
          mean=values["teacher.mean"], bank=values["teacher.bank"],
          directory=values["teacher.dir"], logits=values["teacher.logits"],
          test_logits=values["teacher.test_logits"], seed=values["teacher.seed"]),
      pairs=_pairs(values["features.pairs"]),
      views=values["student.views"],
      sweep=Sweeping(
          points=tuple(values["sweep.points"]),
          lanes=None if lanes == "auto" else _pair(lanes),
          memory=values["sweep.memory"], keep_logits=values["sweep.logits"],
          reference=dict(values["sweep.reference"])),
      checkpoints=Checkpointing(
          values["checkpoint.every"], values["checkpoint.keep"],
          values["checkpoint.resume"] == "force"),
      parallel=values["parallel"],
      tensorboard=values["tensorboard"],
      skip_nonfinite=values["nonfinite"] == "skip",
      titles={net: _title(values, net) for net in _NETS},
      sources={
          "student": names.source_identity(
              values["student.name"], *values["method"].split("+")),
          "teacher": names.source_identity(values["teacher.name"])})


def member_weights(values: Mapping[str, Any]) -> tuple[float, ...]:
  """Weight of each member of the teacher, summing to 1."""
  count, given = values["teacher.count"], values["teacher.weights"]
  weights = tuple(given) or (1.0,) * count
  if len(weights) != count or sum(weights) <= 0:
    raise UserError(
        f"config.teacher.weights={given}: must be {count} numbers >= 0, not all "
        "0, one for each of teacher.count members")
  if given and values["teacher.mean"] == "confidence":
    raise UserError(
        "config.teacher.weights: teacher.mean=confidence has weights of its own; "
        "give one of them")
  return tuple(weight / sum(weights) for weight in weights)


def _pairs(given: Sequence[Any]) -> methods.Pairs:
  if tuple(given) == ("all",):
    return methods.ALL
  return tuple((own, other) for own, other in given)


def _title(values: Mapping[str, Any], net: str) -> str:
  widths = "x".join(map(str, values[f"{net}.widths"])) or "of its own widths"
  return f"{values[f'{net}.name']} {widths}"


def _pair(lanes: str) -> tuple[int, int]:
  seeds, points = map(int, lanes.split("x"))
  return seeds, points
