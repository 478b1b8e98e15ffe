"""The state of a run: arrays only, so that it can be saved, donated, vmapped."""

import flax.struct
import jax
import jax.numpy as jnp

from kd_jax.core import types


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes.

  Attributes:
    step: Steps done, int32 `[]`.
    student: The student's parameters and running state.
    method: Parameters of the method's own (regressors and the like), or `{}`.
    method_state: State of the method's own (statistics, memories), or `{}`.
    optimizer: State of the optimiser over `(student.params, method)`.
  """

  step: jax.Array
  student: types.Variables
  method: types.Tree
  method_state: types.Tree
  optimizer: types.Tree

  @property
  def trainable(self) -> tuple[types.Tree, types.Tree]:
    return self.student.params, self.method

  @property
  def net(self) -> tuple[types.Variables, types.Tree]:
    """The student that comes out, and what is the method's own."""
    return self.student, self.method

  def starting(self, student: types.Variables) -> "TrainState":
    """With another student before the first step."""
    return self.replace(student=student)  # type: ignore[attr-defined]


@flax.struct.dataclass
class AveragedState(TrainState):
  """One whose net that comes out is an average over steps.

  Attributes:
    average: Of `(student, method)` after each step.
  """

  average: tuple[types.Variables, types.Tree]

  @property
  def net(self) -> tuple[types.Variables, types.Tree]:
    return self.average

  @property
  def last(self) -> TrainState:
    """The same, of which the weights after the last step come out."""
    return TrainState(self.step, self.student, self.method, self.method_state,
                      self.optimizer)

  def starting(self, student: types.Variables) -> "AveragedState":
    # Buffers of its own, as a state is donated.
    return self.replace(  # type: ignore[attr-defined]
        student=student, average=(jax.tree.map(jnp.copy, student), self.average[1]))


def averaged(state: TrainState) -> AveragedState:
  """A state before the first step, with its average."""
  return AveragedState(
      state.step, state.student, state.method, state.method_state, state.optimizer,
      jax.tree.map(jnp.copy, (state.student, state.method)))


def with_average(
    state: AveragedState, decay: jax.Array | float
) -> AveragedState:
  r"""A state after step t, whose average has the weights of this step in it.

    a_t = a_{t-1} + (1 - d) / (1 - d**t) * (w_t - a_{t-1})

  which is the exponential moving average without its bias towards the start:
  a_t = sum_i d**(t-i) w_i / sum_i d**(t-i), i = 1 to t. Statistics of the net
  (BatchNorm's) are averaged too; integers are the last ones.

  Args:
    state: After step t = state.step >= 1.
    decay: d in (0, 1).

  Example:
    >>> state = averaged(TrainState(0, types.Variables({"w": jnp.float32(0)}, {}),
    ...                             {}, {}, {}))
    >>> for step, weight in ((1, 8.0), (2, 2.0)):  # (0.5 * 8 + 2) / 1.5 = 4
    ...   state = with_average(state.replace(step=step, student=types.Variables(
    ...       {"w": jnp.float32(weight)}, {})), 0.5)
    >>> float(state.average[0].params["w"])
    4.0

  Source: Polyak & Juditsky (1992), SIAM J. Control Optim. 30; the weights are those
  of Kingma & Ba (2015), section 3.
  """
  number = jnp.asarray(state.step, jnp.float32)
  share = jnp.asarray((1 - decay) / (1 - decay ** number))
  move = lambda old, new: (
      old + share.astype(old.dtype) * (new - old)
      if jnp.issubdtype(new.dtype, jnp.inexact) else new)
  return state.replace(average=jax.tree.map(  # type: ignore[attr-defined]
      move, state.average, (state.student, state.method)))
