"""Jobs: nets that are alike in all but traced values, ready to be trained."""

from collections.abc import Iterable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kd_jax import methods, models, teachers
from kd_jax.config import build
from kd_jax.config import identity as identity_lib
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.config.sweep import Lane
from kd_jax.core import sources
from kd_jax.core.errors import UserError, in_words
from kd_jax.data import preprocess
from kd_jax.models import compression
from kd_jax.runs import teacher_store
from kd_jax.runs.nets import Kept, shapes
from kd_jax.runs.setup import Setup
from kd_jax.runs.teacher_store import PreparedTeacher
from kd_jax.training import cost, segment, step
from kd_jax.training.lanes import Shape
from kd_jax.training.settings import Training


class Wanted(NamedTuple):
  """A net that is to be trained.

  Attributes:
    lane: What was asked for, and the flat config whose student it is.
    identity: What determines it, but for the machine and the lanes beside it.
    teacher: Whom it asks; None where its method asks nobody.
    start: The net that it starts from, or None.
    passed_over: Whether it is not to be trained, having its row; then it has no
      teacher here.
    lost: Why it cannot be trained, as one that it needs is not finite; or "".
  """

  lane: Lane
  identity: dict[str, Any]
  teacher: PreparedTeacher | None = None
  start: Kept | None = None
  passed_over: bool = False
  lost: str = ""


class Job(NamedTuple):
  """Nets of one entry of the recipe, alike in all but traced values.

  Attributes:
    net: The entry.
    setup: Data, splits, records.
    training: How each net is trained, but for its numbers.
    learner: The step.
    wanted: The nets by their fingerprints.
    program: What the program is compiled for, as text.
  """

  net: Net
  setup: Setup
  training: Training
  learner: step.Learner
  wanted: dict[str, Wanted]
  program: str

  @property
  def alone(self) -> bool:
    """Whether each net is trained by itself, on all devices, and not as a lane."""
    return self.net.member is not None or not self.setup.run.sweep.points

  @property
  def released(self) -> bool:
    """Whether its net is taken as it is: a function, or weights of a file."""
    return (self.net.member is not None
            and (self.training.model.on_host is not None
                 or self.setup.run.values["teacher.state_dict"] is not None))

  @property
  def prepared(self) -> PreparedTeacher | None:
    """The teacher of the first net that has one, for what is alike in all."""
    return next(filter(None, (each.teacher for each in self.wanted.values())), None)

  @property
  def own_teachers(self) -> bool:
    """Whether lanes have different teachers."""
    return len({tuple(of) for each in self.wanted.values()
                if not each.lost and (of := each.identity.get("teachers"))}) > 1

  @property
  def program_fingerprint(self) -> str:
    """Of the program, for plans."""
    own = {"teachers": "of each row"} if self.own_teachers else {}
    return identity_lib.fingerprint({"program": self.program, **own})

  @property
  def rows(self) -> list[tuple[Any, str]]:
    """Each lane's fingerprint, after its seed (and teacher): alike in a row."""
    own = self.own_teachers
    return [((each.lane.seed, *of)
             if own and (of := each.identity.get("teachers")) else each.lane.seed,
             fingerprint) for fingerprint, each in self.wanted.items()
            if not each.lost]

  @property
  def per_epoch(self) -> int:
    """Steps of an epoch."""
    return segment.steps_per_epoch(
        len(self.setup.train.ids), self.training.batch_size)

  def of_rows(self, lanes: tuple[str, ...], shape: Shape):
    """Teacher's arrays and splits for a rectangle of these lanes."""
    chosen = [teacher for lane in lanes[::shape.points]
              if (teacher := self.wanted[lane].teacher)]
    if not chosen:
      return (), self.setup.splits
    if not self.own_teachers:
      return chosen[0].teacher.arrays, chosen[0].splits
    stacked = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    return stacked(*(each.teacher.arrays for each in chosen)), {
        name: split._replace(teacher_logits=stacked(
            *(each.splits[name].teacher_logits for each in chosen)))
        for name, split in chosen[0].splits.items()}


def make(
    net: Net, setup: Setup, training: Training, wanted: Mapping[str, Wanted],
    before: Mapping[str, Training],
) -> Job:
  """The job of some nets, alike in all that is not traced.

  Args:
    net: The entry of the recipe, of the first.
    setup: The setup of its run.
    training: How it is trained.
    wanted: The nets, by their fingerprints.
    before: The trainings of the nets before it, by name.
  """
  teacher = next((each.teacher.teacher for each in wanted.values()
                  if each.teacher), None)
  if teacher is None and all(
      each.passed_over or each.lost for each in wanted.values()) and (
      net.teachers and setup.run.method.needs_teacher):
    teacher = _shapes_of_teacher(net, setup, before)
  learner = build.learner(
      setup.run, training, build.method(net, setup.run), teacher)
  # What is evaluated, kept and learnt from is the net that comes out.
  training = training._replace(model=step.deployed(learner))
  return Job(net, setup, training, learner, dict(wanted),
             identity_lib.program(setup.run.values))


def _shapes_of_teacher(
    net: Net, setup: Setup, before: Mapping[str, Training]) -> teachers.Teacher:
  """The teacher that a net asks, by shapes alone."""
  of = [before[name] for name in net.teachers]
  return teacher_store.live(setup.run, net.teachers, of, [
      cost.variables(each.model, setup.train.inputs) for each in of])


def mixture(run: run_lib.Run, teacher: PreparedTeacher) -> dict[str, Any]:
  """What determines a teacher as a student of a run sees it."""
  return identity_lib.mixture(
      run.values, teacher.identity, teacher.teacher.weights.tolist())


def identity(
    net: Net, setup: Setup, teacher: dict[str, Any] | None = None,
    start: str | None = None,
) -> dict[str, Any]:
  """What determines a net, but for the machine and the lanes beside it.

  Args:
    net: The net.
    setup: The setup of its run.
    teacher: Of `mixture`; None where it asks nobody.
    start: The hash of the net that it starts from, if not from new weights.
  """
  run, content = setup.run, setup.dataset.fingerprint
  if net.member is not None:
    return identity_lib.member(
        run.values, content=content, seed=run.values["teacher.seed"] + net.member,
        source=run.sources["teacher"])
  run = run._replace(values=identity_lib.by_place(run.values, net.teachers))
  found = _of_student(run, content, teacher)
  return found | ({"init_from": start} if start else {}) | (
      {"prune": net.prune} if net.prune else {}) | (
      {"ends_at_epoch": net.epoch} if net.epoch else {}) | (
          {"role": net.role} if net.role else {}) | _of_peers(net, content)


def _of_peers(net: Net, content: str) -> dict[str, Any]:
  """What determines nets that train together, or which of them a net is."""
  if net.peer is not None:
    return {"peer": net.peer}
  if not net.peers:
    return {}
  runs = [run_lib.read(values) for _, values in net.peers]
  # Of one other, or of none that is asked, there is no mean.
  several = len(runs) > 2 and runs[0].method.needs_teacher
  return {"peers": [_of_student(run, content) for run in runs]} | (
      {"teacher.mean": net.values["teacher.mean"]} if several else {})


def _of_student(
    run: run_lib.Run, content: str, mixture: dict[str, Any] | None = None
) -> dict[str, Any]:
  hparams = build.student_hparams(run.values)
  return identity_lib.student(
      run.values, content=content, method=run.values["method"],
      source=run.sources["student"],
      weights=(hparams.hard_weight, hparams.soft_weight), mixture=mixture)


def begun(net: Net, setup: Setup, training: Training, start: Kept) -> Kept:
  """The net that another starts from, as it is before the first step."""
  params = start.variables.params
  if _shapes(setup, training) != _shapes(setup, start.training):
    like = jax.eval_shape(training.model.init, jax.random.key(0),
                          preprocess.blank(setup.train.inputs)).params
    params = compression.factored(params, like)
  if net.prune:
    params = compression.pruned(params, *net.prune)
  return start._replace(variables=start.variables._replace(params=params))


def check(
    net: Net, setup: Setup, training: Training, before: Mapping[str, Training],
    nets: Iterable[Net],
) -> None:
  """Refuses a student that cannot be, before anything is trained.

  Args:
    net: The net.
    setup: The setup of its run.
    training: How it is trained.
    before: The trainings of the nets before it, by name.
    nets: All nets of its recipe.
  """
  with net.errors_named():
    _check_taps(net, setup, training, before)
    _check_labels(setup, training)
    _check_classes(setup)
    _check_kernels(net, setup, training)
  if net.start is None or net.peer is not None:
    return
  key = f"config.nets.{net.name}.init_from={net.start}"
  _check_start(key, net, setup, training, before[net.start])
  if any(run_lib.read(each.values).method.inference
         for each in nets if each.name in (net.name, net.start)):
    raise UserError(f"{key}: the method of one of them keeps a module in its net; "
                    "such a net is no start")


def check_own_step(
    net: Net, setup: Setup, training: Training, before: Mapping[str, Training]
) -> None:
  """Refuses a method of the user's own whose step cannot be computed.

  A segment of the run is traced by shapes alone: nothing is computed, and a mistake
  is told in the words of the run, but before the hours that its teacher takes.

  Args:
    net: The student.
    setup: The setup of its run.
    training: How it is trained.
    before: The trainings of the nets before it, by name.

  Raises:
    UserError: With what its functions raise, or what is wrong with its terms.
  """
  run = setup.run
  own = [part for part in run.values["method"].split("+") if sources.named(part)]
  if not own or net.peer is not None:
    return
  method, teacher = build.method(net, run), None
  if method.needs_teacher and run.values["teacher.logits"] is not None:
    bank = (len(setup.dataset.train.label), 1, 1, setup.dataset.num_classes)
    teacher = teachers.banked(jax.ShapeDtypeStruct(bank, jnp.float32))  # type: ignore[arg-type]
  elif method.needs_teacher:
    teacher = _shapes_of_teacher(net, setup, before)
  with net.errors_named():
    learner = build.learner(run, training, method, teacher)
    segments = segment.make_segment(learner, training.views, training.batch_size)
    key = jax.random.key(0)
    try:
      jax.eval_shape(
          segments, jax.eval_shape(segment.make_init(learner, setup.train.inputs),
                                   key, training.hparams),
          setup.train, teacher and teacher.arrays, training.hparams, key, 1)
    except UserError:
      raise
    except Exception as error:  # Of its gradient, which its functions do not see.
      raise UserError(f"config.method={run.values['method']}: "
                      f"{in_words(error, sources.file(own[0]))}") from error


def _check_kernels(net: Net, setup: Setup, training: Training) -> None:
  """Refuses to prune or round weights of a net that has none of that name."""
  bits = net.values["student.weight_bits"] if net.member is None else None
  if bits is None and not net.prune:
    return
  made = jax.eval_shape(training.model.init, jax.random.key(0),
                        preprocess.blank(setup.train.inputs))
  if not any(compression.is_kernel(path, leaf) for path, leaf in
             jax.tree_util.tree_flatten_with_path(made.params)[0]):
    key = f"weight_bits={bits}" if bits is not None else f"prune={net.prune[0]:g}"  # type: ignore[index]
    raise UserError(f"config.student.{key}: no weights of this net are called "
                    "kernel, so it would change nothing; leave it out")


def _check_start(
    key: str, net: Net, setup: Setup, training: Training, start: Training
) -> None:
  """Refuses a start of another shape, unless it has factors of that shape."""
  blank = preprocess.blank(setup.train.inputs)
  own, other = (jax.eval_shape(each.model.init, jax.random.key(0), blank)
                for each in (training, start))
  try:
    if _shapes(setup, training) != _shapes(setup, start):
      made = jax.eval_shape(compression.factored, other.params, own.params)
      if jax.tree.map(jnp.shape, made) != jax.tree.map(jnp.shape, own.params):
        raise ValueError("their layers have other sizes")
  except (AttributeError, KeyError, TypeError, ValueError):
    raise UserError(
        f"{key}: the two nets have not the same parameters; give both the same "
        "name and size, or this one a model.rank") from None
  if net.prune:
    try:
      jax.eval_shape(functools.partial(
          compression.pruned, share=net.prune[0], by=net.prune[1]), own.params)
    except ValueError as error:
      raise UserError(f"config.nets.{net.name}.prune_by={net.prune[1]}: {error}"
                      ) from None


def _check_labels(setup: Setup, training: Training) -> None:
  """Refuses a loss that needs the labels which some examples do not have."""
  if not training.unlabelled:
    return
  run, known = setup.run, setup.dataset.train.known[setup.dataset.train_ids]
  values, method = run.values, run.values["method"]
  if values["teacher.mean"] == "confidence" and values["teacher.count"] > 1:
    raise UserError(
        "config.teacher.mean=confidence: weighs teachers by labels, and some "
        "training examples have none (-1); use probabilities or logits")
  # What a user's own method reads is not known.
  if ":" in method or run.method.reads_labels:
    raise UserError(
        f"config.method={method}: may read labels, and some training examples have "
        "none (-1); use kd, or leave them out")
  if training.hparams.hard_weight == 0 and values["schedules.alpha"] == "constant":
    return
  if not known.any():
    raise UserError(
        f"config.alpha={values['alpha']}: the hard term needs labels, and no "
        "training example has one; set --config.alpha=1 and "
        "--config.schedules.alpha=constant")
  if training.mixup:
    raise UserError(
        f"config.mixup={training.mixup:g}: mixes two labels for the hard term, and "
        "some training examples have none (-1); use mixup=0, or --config.alpha=1")


def _check_classes(setup: Setup) -> None:
  """Refuses classes of members that the data do not have."""
  number, named = setup.dataset.num_classes, setup.run.values["teacher.classes"]
  if most := [each for member in named for each in member if each >= number]:
    raise UserError(
        f"config.teacher.classes: {max(most)} is no class of {setup.dataset.name}, "
        f"whose classes are 0 to {number - 1}")


def _check_taps(net, setup, training, before) -> None:
  """Refuses taps that are not there, and those that cannot be stored."""
  if not net.teachers:
    return
  run, names = setup.run, net.teachers
  if run.method.pairs is not None and len(set(names)) < len(names):
    raise UserError(
        f"config.teachers={names}: method {run.values['method']} compares the taps "
        "of each, and one is named twice; name it once")
  taps = methods.joined(names, [before[name].taps for name in names])
  for each in (training, before[net.teachers[0]]) if run.method.heads else ():
    models.head(jax.eval_shape(each.model.init, jax.random.key(0),
                               preprocess.blank(setup.train.inputs)).params)
  for name, shape in teacher_store.compared(run, training, taps).items():
    if len(shape) > 1 and run.values["teacher.bank"] == "always":
      raise UserError(
          f"config.teacher.bank=always: the tap {name} of shape {shape} is too "
          "large to store; use teacher.bank=auto")


def _shapes(setup: Setup, training: Training) -> Any:
  return shapes(jax.eval_shape(
      training.model.init, jax.random.key(0),
      preprocess.blank(setup.train.inputs)))
