"""A recipe: the nets of a run in order, each with the config whose student it is.

The main job is one: the members of the teacher, the student on hard labels, the
student that learns from the teacher. Others are written in a config that begins
with `kd_jax.config.default("teacher", "assistant", "student")`.
"""

from collections.abc import Container, Iterator, Mapping
import contextlib
from typing import Any, NamedTuple

from kd_jax import config as config_lib
from kd_jax.config import identity, names, schema
from kd_jax.core.errors import UserError, nearest

Values = Mapping[str, Any]


class Net(NamedTuple):
  """A net of a run.

  Attributes:
    name: Its name, for files and tables.
    values: The flat config whose student it is; or whose teacher, for a member.
    teachers: Names of the nets before it that it learns from.
    member: Which member of the main job's teacher it is; None for a student.
    start: Name of the net before it that it starts from, or None.
    prune: Share of the weights of `start` that are set to 0, and by what; or None.
    epoch: The epoch that its training ends at, or None for the whole training.
    in_config: Whether it is of `config.nets`.
    role: For its draws: 0 for a net that nobody learns from, else 1 more than the
      number of nets above it (`randomness.of_role`).
    peers: Of nets that train together: the name and the flat config of each. They
      are one net while they are trained, and this is it.
    peer: Which of the peers it is that `start` names, and it is taken from there
      as it is; None for a net that is trained.
  """

  name: str
  values: dict[str, Any]
  teachers: tuple[str, ...] = ()
  member: int | None = None
  start: str | None = None
  prune: tuple[float, str] | None = None
  epoch: int | None = None
  in_config: bool = False
  role: int = 0
  peers: tuple[tuple[str, dict[str, Any]], ...] = ()
  peer: int | None = None

  def errors_named(self) -> contextlib.AbstractContextManager[None]:
    """Tells mistakes in its config by the keys that its user knows.

    What peers have in common has the run's own keys.
    """
    own = self.in_config and not self.peers
    return errors_named(self.name) if own else contextlib.nullcontext()


def nets(values: Values, *, swept: bool) -> list[Net]:
  """The nets that a config asks for, each after those that it needs.

  Args:
    values: The config, flat.
    swept: Whether it is a point of a sweep. The main job then has no baseline:
      it would be the same for many points, and hard labels can be a point.

  Raises:
    UserError: If a net learns or starts from one that does not come before it.
  """
  if values["recipe"]:
    return list(_written(values))
  return _main_job(dict(values), swept)


def _main_job(values: dict[str, Any], swept: bool) -> list[Net]:
  baseline = Net("baseline", values | {"method": "hard"})
  members: list[Net] = []
  if names.method(values["method"]).needs_teacher and (
      values["teacher.logits"] is None):
    count = values["teacher.count"]
    members = [Net("teacher" if count == 1 else f"teacher_{member}", values,
                   member=member, role=1) for member in range(count)]
  student = Net("student" if swept else "distilled", values,
                tuple(net.name for net in members))
  if swept:
    return [*members, student]
  return [baseline] if values["method"] == "hard" else [
      *members, baseline, student]


def _written(values: Values) -> Iterator[Net]:
  """The nets of `config.nets`, and teachers at an epoch before who needs them."""
  idle = set(identity.unlike_default(values, "teacher.")) - {"bank", "mean", "sees"}
  if idle:
    raise UserError(
        f"config.teacher.{min(idle)}: is of the main job's teacher, and this "
        "recipe has none; its nets have keys of their own, nets.NAME.KEY")
  shared = {key: value for key, value in values.items()
            if not key.startswith("nets.")} | {"recipe": ()}
  learnt_from = {teacher for entry in values["recipe"]
                 for name in schema.peers(entry)
                 for teacher in values[f"nets.{name}.teachers"] or ()}
  above: dict[str, int] = {}
  made: dict[str, Net] = {}
  for name in values["recipe"]:
    if len(schema.peers(name)) > 1:
      for net in _together(values, shared, name, learnt_from):
        yield net
        if net.peer is not None:
          made[net.name], above[net.name] = net, 0
      continue
    own = _own(values, name)
    start, teachers = own.pop("init_from", None), tuple(own.pop("teachers"))
    epochs = tuple(own.pop("teacher_epochs")) or (0,) * len(teachers)
    share, by = own.pop("prune"), own.pop("prune_by")
    if share and start is None:
      raise UserError(
          f"config.nets.{name}.prune={share:g}: is of the net that it starts from; "
          f"name one with config.nets.{name}.init_from")
    for key, wanted in (("teachers", teachers), ("init_from", (start,))):
      for other in wanted:
        if other is not None and other not in made:
          raise UserError(
              f"config.nets.{name}.{key}: {other!r} is no net before it; "
              f"{nearest(other, made) if made else 'it is the first'}")
    if len(epochs) != len(teachers):
      raise UserError(
          f"config.nets.{name}.teacher_epochs={epochs}: must be one epoch for "
          f"each of {len(teachers)} teachers, 0 for the last")
    asked = []
    for teacher, epoch in zip(teachers, epochs, strict=True):
      early = made[teacher]
      if epoch and early.peer is not None:
        raise UserError(
            f"config.nets.{name}.teacher_epochs: {teacher} trains together with "
            "others, and is there at their last epoch alone; give 0")
      if epoch:
        early = early._replace(name=f"{teacher}_at_{epoch}", epoch=epoch)
        if early.name not in made:
          yield early
        made[early.name] = early
      asked.append(early.name)
    above[name] = max((above[teacher] + 1 for teacher in teachers), default=0)
    made[name] = Net(
        name, _of_net(shared, own, name, len(asked)), tuple(asked), start=start,
        prune=(share, by) if share else None, in_config=True,
        role=above[name] + 1 if name in learnt_from else 0)
    yield made[name]


def _together(
    values: Values, shared: Values, entry: str, learnt_from: Container[str]
) -> Iterator[Net]:
  """Nets that train together, as one net, and then each as taken from it."""
  own: dict[str, dict[str, Any]] = {}
  for name in (names_of := schema.peers(entry)):
    given = _own(values, name)
    del given["prune_by"]
    for key in _NOT_OF_A_PEER:
      if given.pop(key, ()):
        raise UserError(
            f"config.nets.{name}.{key}: {name} is of {entry}, which train together "
            "from new weights and have no other teacher; leave it out")
    own[name] = _of_net(shared, given, name, len(names_of) - 1, peers=True)
  first = own[names_of[0]]
  for key, usual in (("teacher.sees", "views"), ("teacher.bank", "auto"),
                     ("features.pairs", ())):
    if first[key] not in (usual, "never"):
      raise UserError(
          f"config.{key}={first[key]}: {entry} train together, each the teacher of "
          "the others as they see the same batch; leave it out")
  shown = {of: key for key, of in schema.of_nets().items()}
  for name, config in own.items():
    for key in ("method", *config):  # A method brings other keys with it.
      if config[key] != first[key] and not key.startswith(_OF_A_PEER):
        both = " and ".join(
            f"config.nets.{net}.{shown.get(key, key)}={own[net][key]}"
            for net in (names_of[0], name))
        raise UserError(f"{both}: {entry} train together and have it in common; "
                        "give it to all, or to the run")
  yield Net(entry, first, in_config=True, peers=tuple(own.items()),
            role=int(any(name in learnt_from for name in own)))
  for place, name in enumerate(own):
    yield Net(name, own[name], start=entry, in_config=True, peer=place)


_NOT_OF_A_PEER = ("teachers", "teacher_epochs", "teacher_weights",
                  "teacher_classes", "teacher_bank", "init_from", "prune")
# Keys in which nets that train together may differ.
_OF_A_PEER = ("student.name", "student.widths", "student.model.")


def _own(values: Values, name: str) -> dict[str, Any]:
  """What a config gives a net of a recipe, by the keys of a net."""
  prefix = f"nets.{name}."
  return {key.removeprefix(prefix): value for key, value in values.items()
          if key.startswith(prefix) and value is not None}


def _of_net(
    shared: Values, own: Values, name: str, teachers: int, *, peers: bool = False
) -> dict[str, Any]:
  """The config of which a net of a recipe is the student.

  Its teachers are nets before it, or its peers, whom it need not ask.
  """
  point = {schema.of_nets().get(key, key): value for key, value in own.items()}
  if teachers:
    point["teacher.count"] = teachers
  else:
    point.setdefault("method", "hard")
  with errors_named(name):
    values = config_lib.changed(shared, point)
    needs = names.method(values["method"]).needs_teacher
  if needs != bool(teachers) and not peers:
    raise UserError(
        f"config.nets.{name}.method={values['method']}: "
        + ("needs a teacher; name one with" if needs else "asks no teacher; leave "
           "out") + f" config.nets.{name}.teachers")
  return values


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
  """Tells mistakes in a student's keys as mistakes in those of a recipe's net."""
  try:
    yield
  except UserError as error:
    message = str(error)
    if "config.nets." not in message:
      for key, own in _RENAMED.items():
        message = message.replace(key, own)
      message = message.replace("config.", f"config.nets.{name}.")
    raise UserError(message) from None


_RENAMED = {"config.student.": "config.", "teacher.count=1": "one of its teachers",
            "config.teacher.count": "the number of config.teachers",
            "teacher.mean": "teacher_mean", "teacher.weights": "teacher_weights",
            "teacher.classes": "teacher_classes",
            "teacher.bank": "teacher_bank"}
