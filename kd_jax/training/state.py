"""The state of a run: arrays only, so that it can be saved, donated, vmapped."""

import flax.struct
import jax

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
