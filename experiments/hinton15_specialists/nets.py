"""Nets trained side by side: lanes of one program that share their images.

A lane has its own key, numbers, labels, ids and teacher's logits. Each is a run of
`kd_jax.training`'s segments; here is only what is mapped, and what an epoch shows.
What lies between programs is NumPy: of small arrays each operation of jax's own
would have to be compiled.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hinton15_specialists import specialists
from kd_jax import methods, models
from kd_jax.core import randomness, types
from kd_jax.data import views
from kd_jax.teachers import teacher
from kd_jax.training import optimizers, step, train_loop
from kd_jax.training import segment as segment_lib
from kd_jax.training.state import TrainState

VIEWS = views.VIEWS["none"]
# Lanes at once. Always as many, so that one compiled program serves all groups,
# and a lane's bits do not depend on how many others a task has.
WIDTH = 4
# Of lanes' data only labels and ids are their own; the step is everyone's.
_OWN = segment_lib.DeviceData(None, 0, 0, None)  # type: ignore[arg-type]
_HELD = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]


class Program(NamedTuple):
  """What lanes have in common: all of it is compiled in.

  Attributes:
    widths: Hidden layers.
    outputs: Classes and the dustbin.
    method: A key of `methods.METHODS`.
    batch_size: Examples a step.
    total_steps: Length of the training; the learning rate falls to 0 as a cosine.
  """

  widths: tuple[int, ...]
  outputs: int
  method: str
  batch_size: int
  total_steps: int


class Lanes(NamedTuple):
  """What each lane has of its own, `[L, ...]`, as NumPy arrays.

  Attributes:
    seed: uint32 `[L]`.
    hparams: float32 `[L]` each.
    label: int32 `[L, N]`.
    ids: int32 `[L, n]`.
    exists: Outputs that there are, bool `[L, outputs]`.
    inside: Which ids are of a specialist's set, bool `[L, n]`: half of an epoch
      is of these, drawn anew each time. None takes the ids as they are.
    bank: The teacher's logits, `[L, N, outputs]`, or None.
    params: Parameters to begin with, or None for new ones.
  """

  seed: np.ndarray
  hparams: types.Hparams
  label: np.ndarray
  ids: np.ndarray
  exists: np.ndarray
  inside: np.ndarray | None = None
  bank: np.ndarray | None = None
  params: types.Tree = None


def train(
    program: Program, shared: segment_lib.DeviceData, lanes: Lanes, *,
    stop: Callable[[], bool]) -> types.Variables:
  """Trains lanes to the end.

  Args:
    program: What they have in common.
    shared: The images.
    lanes: L of them.
    stop: Asked between epochs.

  Returns:
    Their nets, stacked `[L, ...]`.

  Raises:
    follow.Interrupted: If `stop` says so.
  """
  return _in_groups(len(lanes.seed), lambda rows: _train(
      program, shared, jax.tree.map(lambda leaf: leaf[rows], lanes), stop))


def predict(
    nets: types.Variables, examples: segment_lib.DeviceData, widths: tuple[int, ...]
) -> np.ndarray:
  """Logits of stacked nets, `[L, N, outputs]`, of all examples."""
  exists = nets.state["exists"]
  run = _predictor(widths, exists.shape[-1])
  return _in_groups(len(exists), lambda rows: run(
      jax.tree.map(lambda leaf: leaf[rows], nets), examples, np.int32(0)))


def masked(model: types.Model) -> types.Model:
  """The model with a state: which of its outputs exist, bool `[outputs]`.

  So specialists of unlike sets are lanes of one program; a class that does not
  exist has logit -inf, which the losses know.
  """

  def init(key, image):
    params = model.init(key, image).params
    said = jax.eval_shape(lambda: model.apply(
        types.Variables(params, {}), image, train=False)[0].logits)
    return types.Variables(params, {"exists": jnp.ones(said.shape[-1:], bool)})

  def apply(variables, image, **options):
    exists = variables.state["exists"]
    said, _ = model.apply(types.Variables(variables.params, {}), image, **options)
    logits = jnp.where(
        jnp.broadcast_to(exists, said.logits.shape), said.logits, -jnp.inf)
    return said._replace(logits=logits), {"exists": exists}

  return types.Model(init, apply, model.understands)


def _in_groups(number: int, run: Callable[[np.ndarray], Any]) -> Any:
  """Runs WIDTH lanes at a time, padded by the last one; joins what they give."""
  done = []
  for first in range(0, number, WIDTH):
    done.append(run(np.minimum(np.arange(first, first + WIDTH), number - 1)))
  return jax.tree.map(lambda *parts: np.concatenate(parts)[:number], *done)


def _train(program, shared, lanes: Lanes, stop) -> types.Variables:
  """The epochs of one group."""
  bank = () if lanes.bank is None else lanes.bank[:, :, None, None, :]
  run = _compiled(program, None if lanes.bank is None else bank.shape[1:])
  image = np.zeros((1,) + shared.inputs.shape[1:], np.float32)
  state = _init(program.widths, program.outputs)(
      lanes.seed, lanes.hparams, image)
  params = state.student.params if lanes.params is None else lanes.params
  state = state.replace(student=types.Variables(params, {"exists": lanes.exists}))
  per_epoch = segment_lib.steps_per_epoch(lanes.ids.shape[-1], program.batch_size)
  data = shared._replace(label=lanes.label, ids=lanes.ids)
  for first in range(0, program.total_steps, per_epoch):
    if stop():
      raise train_loop.Interrupted
    if lanes.inside is not None:
      data = data._replace(ids=run.draw(
          lanes.seed, np.int32(first // per_epoch), lanes.inside, lanes.ids))
    length = min(per_epoch, program.total_steps - first)
    state, told = run.segment(
        state, data, bank, lanes.hparams, lanes.seed, np.int32(length))
    # Else all epochs would be dispatched, and a wish to stop not heard.
    jax.block_until_ready(told)
  return state.student


class _Compiled(NamedTuple):
  """The mapped programs of a group of lanes."""

  segment: Callable[..., Any]
  draw: Callable[..., jax.Array]


@functools.cache
def _compiled(program: Program, bank_shape: tuple[int, ...] | None) -> _Compiled:
  """Compiled once a program, however many groups it trains."""
  learner = _learner(program, bank_shape)
  segment = segment_lib.make_segment(learner, VIEWS, program.batch_size)

  def advance(state, data, bank, hparams, seed, length):
    return segment(state, data, bank, hparams, jax.random.key(seed), length)

  def draw(seed, epoch, inside, ids):
    key = randomness.stream(jax.random.key(seed), "specialist", epoch)
    return ids[specialists.balanced_ids(key, inside, len(ids))]

  return _Compiled(
      # Not donated: a lane may begin with parameters that others begin with too.
      jax.jit(jax.vmap(advance, (_HELD, _OWN, 0, 0, 0, None), (_HELD, 0))),
      jax.jit(jax.vmap(draw, (0, None, 0, 0))))


@functools.cache
def _init(widths: tuple[int, ...], outputs: int):
  """New states; they are alike for all lengths and methods."""
  learner = _learner(Program(widths, outputs, "hard", 1, 1))

  def init(seed, hparams, image):
    return step.init(
        learner, randomness.stream(jax.random.key(seed), "init"), image, hparams)

  return jax.jit(jax.vmap(init, (0, 0, None), _HELD))


def _learner(
    program: Program, bank_shape: tuple[int, ...] | None = None
) -> step.Learner:
  schedule = optimizers.schedule("cosine", total_steps=program.total_steps)
  model = models.MODELS["mlp"](
      num_classes=program.outputs, widths=program.widths)
  asked = None if bank_shape is None else teacher.banked(jnp.zeros(bank_shape))
  return step.Learner(
      masked(model), methods.METHODS[program.method],
      optimizers.OptimizerSpec("adam", schedule), asked)


@functools.cache
def _predictor(widths: tuple[int, ...], outputs: int):
  model = _learner(Program(widths, outputs, "hard", 1, 1)).model
  return jax.jit(jax.vmap(
      segment_lib.make_predict(model, VIEWS, 1000), (0, None, None)))
