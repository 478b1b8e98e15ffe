"""A net before its training: its first batch, and every term of the loss on it."""

from collections.abc import Mapping
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import methods, teachers
from kd_jax.config import build, names
from kd_jax.config import run as run_lib
from kd_jax.config.recipe import Net
from kd_jax.core import types
from kd_jax.core.words import counted
from kd_jax.data.views import VIEWS
from kd_jax.runs import jobs, teacher_store
from kd_jax.runs import setup as setup_lib
from kd_jax.runs.doctor import Visit, size
from kd_jax.runs.setup import Setup
from kd_jax.training import cost, inspection, parameters, segment
from kd_jax.training import devices as devices_lib
from kd_jax.training.settings import Training
from kd_jax.training.state import TrainState
from kd_jax.training.step import Learner

# Enough to tell a teacher from one that knows nothing, and asked in seconds.
_ASKED = 1000


class Term(NamedTuple):
  """A term of the loss on the first batch.

  Attributes:
    name: As the method calls it.
    weight: Its weight in the loss.
    value: Its mean over the batch, without the weight.
    gradient: Norm of the gradient of weight times value with respect to the
      student's parameters.
  """

  name: str
  weight: float
  value: float
  gradient: float

  @property
  def finite(self) -> bool:
    """Whether it can be learnt from."""
    return math.isfinite(self.value) and math.isfinite(self.gradient)


class Begun(NamedTuple):
  """A net of a recipe, its step, and its state before the first step."""

  net: Net
  setup: Setup
  training: Training
  learner: Learner
  state: TrainState


def begin(setup: Setup, net: Net, before: Mapping[str, Begun]) -> Begun:
  """A net that is about to be trained.

  Args:
    setup: Of all of the data.
    net: The net.
    before: The nets before it; those that it learns or starts from are there.
  """
  run = run_lib.read(net.values)
  setup = setup._replace(run=run)
  own, method, teacher = setup, build.method(net, run), None
  if net.member is None:
    own = setup_lib.transfer(setup, run)
  training = build.training(net, own.dataset)
  if net.member is None:
    known = {name: each.training for name, each in before.items()}
    jobs.check(net, setup, training, known,
               [net, *(each.net for each in before.values())])
    jobs.check_own_step(net, own, training, known)
    if method.needs_teacher and net.peer is None:
      teacher = _teacher(setup, training, [before[name] for name in net.teachers])
  learner = build.learner(run, training, method, teacher)
  start = devices_lib.compiled_init(own.devices, learner, own.train)
  return Begun(net, own, training, learner, start(
      jax.random.key(training.seed), training.hparams))


def _teacher(
    setup: Setup, training: Training, members: list[Begun]
) -> teachers.Teacher:
  """Who is asked: the members before any training, or a user's file of logits."""
  run = setup.run
  if run.values["teacher.logits"] is not None:
    return teacher_store.from_file(setup, training).teacher
  return teacher_store.live(
      run, [each.net.name for each in members],
      [each.training for each in members],
      [each.state.student for each in members])


def ask(begun: Begun) -> tuple[str, list[str]]:
  """Asks a net that is a function of some test examples.

  Returns:
    How many it gets wrong, and what is unusual about its answers.

  Raises:
    UserError: If it fails, or its answers cannot be meant so.
  """
  setup, model = begun.setup, begun.training.model
  every = setup.dataset.test.label
  ids = np.sort(np.random.default_rng(0).permutation(len(every))[:_ASKED])
  data = setup.splits["test"].data
  part = data._replace(inputs=jax.tree.map(lambda x: x[ids], data.inputs),
                       label=data.label[ids], ids=jnp.arange(len(ids)), weight=None)
  predict = devices_lib.make_predict(setup.devices, model, VIEWS["none"])
  began = time.perf_counter()
  logits = np.asarray(predict(types.Variables({}, {}), part, jnp.int32(0)))
  each = (time.perf_counter() - began) / len(ids)
  notes = teacher_store.look(setup, model, logits, every[ids])
  wrong = (logits.argmax(-1) != every[ids]).sum()
  return (f"asked of {counted(len(ids), 'test example')}: {wrong} wrong, "
          f"{1e3 * each:.2g} ms each"), notes


def terms(student: Begun) -> list[Term]:
  """Every term of the loss on the first batch, and the norm of its gradient."""
  training, learner = student.training, student.learner
  data, state, arrays = _on_one_device((
      student.setup.train, student.state,
      learner.teacher.arrays if learner.teacher else ()))
  found = jax.device_get(inspection.make_terms(learner)(
      state, inspection.first_batch(training, data), segment.labels_in_use(data),
      arrays, training.hparams, jax.random.key(training.seed)))
  return [Term(name, *map(float, numbers)) for name, numbers in found.items()]


def look_at_terms(visit: Visit, found: list[Term], *, fatal: bool) -> None:
  """Tells of terms that would break a run, or do nothing in it."""
  # One that is NaN itself makes the gradients of all the others NaN.
  broken = [term for term in found if not math.isfinite(term.value)]
  for term in broken or [term for term in found if not term.finite]:
    visit.tell(
        f"{term.name}: its mean over the first batch is {term.value:g} and the "
        f"norm of its gradient {term.gradient:g}, so all weights would be NaN "
        "after one step; look at config.temperature, config.data.scale and the "
        "net's initialisation", fatal=fatal)
  for term in found:
    if term.weight and not term.gradient:
      visit.tell(
          f"{term.name}: has weight {term.weight:g}, but its gradient on the "
          "first batch is exactly 0, so nothing is learnt from it; look at the "
          "student's net", fatal=False)


def describe(begun: Begun) -> str:
  """What a net is made of, in a line."""
  training = begun.training
  kind = "student" if begun.net.member is None else "teacher"
  own = lambda key: begun.net.values[f"{kind}.{key}"]
  sizes = names.sizes(own)
  widths = "x".join(map(str, sizes.pop("widths", ()))) or "of its own widths"
  shown = " ".join([widths, *(f"{name}={value}" for name, value in sizes.items())])
  taps = ", ".join(f"{tap} {[training.batch_size, *shape]}"
                   for tap, shape in training.taps.items())
  if training.model.on_host is not None:
    made = f"{own('name')}, a function, which is asked and not trained"
  else:
    number = parameters.num_parameters(begun.state.student.params)
    made = f"{own('name')} {shown}, {number:,} parameters"
  return f"{made}; taps {taps or 'none'}"


def compared(begun: Begun) -> str:
  """The taps that its method compares, and what of its own each pair trains."""
  learner, teacher = begun.learner, begun.learner.teacher
  shown = lambda shape: "x".join(map(str, shape))
  state = size(cost.num_bytes(begun.state.method_state))
  if begun.net.peers:  # Two, each with the taps of the other.
    number = parameters.num_parameters(begun.state.method)
    return (f"taps of {' and '.join(name for name, _ in begun.net.peers)}, "
            f"{number:,} parameters; {state} of state")
  own = jax.tree_util.tree_leaves_with_path(begun.state.method)
  lines = []
  names = (teacher.taps.names if teacher and isinstance(
      teacher.taps, methods.OfSeveral) else ())
  for student, other in learner.pairs:
    # Of several teachers each has modules of its own, by its place.
    name, tap = methods.parted(other) if names else ("", other)
    at = {f"{student}-{tap}", *([f"teacher_{names.index(name)}"] if names else [])}
    number = sum(leaf.size for path, leaf in own
                 if at <= {getattr(key, "key", None) for key in path})
    lines.append(
        f"{student} {shown(begun.training.taps[student])} with {other} "
        f"{shown(teacher.taps[other]) if teacher else ''}, {number:,} parameters")
  return "; ".join(lines) + f"; {state} of state"


def _on_one_device(tree: types.Tree) -> types.Tree:
  """Arrays on one device, wherever they lie: a batch needs no more."""
  return jax.device_put(tree, jax.local_devices()[0])
