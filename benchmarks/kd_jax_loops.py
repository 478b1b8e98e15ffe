"""kd_jax's systems: (a) a live teacher, (b) a bank of its logits.

They run what `kd_jax.main` runs: `loop.compiled_segment` over a whole epoch, the
state donated, data and teacher as arguments.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import problem as problem_lib
from benchmarks.problem import Net, Problem, Product, System
from kd_jax import data as data_lib
from kd_jax import losses, methods, models, teachers
from kd_jax.config import build
from kd_jax.core import randomness, types
from kd_jax.data import preprocess, views
from kd_jax.training import optimizers, step
from kd_jax.training import segment as segment_lib

VERSIONS = {"jax": jax.__version__}
# Compile time is to be seen, not spared.
jax.config.update("jax_enable_compilation_cache", False)
_VIEWS = views.VIEWS["none"]


def device() -> str:
  """Name of the device that jax computes on."""
  return jax.devices()[0].device_kind


def precision(tf32: bool) -> None:
  """Products on a GPU in float32 or in TF32, as in PyTorch's; a CPU has one."""
  if jax.default_backend() != "cpu":
    jax.config.update(
        "jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")


def system(
    problem: Problem, *, banked: bool, dtype: str = "float32"
) -> System:
  """A student's training; every call of `epoch` goes on from the last."""
  data, teacher = _data(problem), _live_teacher(dtype)
  if banked:
    net = _mlp(problem_lib.TEACHER_WIDTH, dtype)
    logits = segment_lib.make_predict(net, _VIEWS)(
        teacher.arrays[0], data, jnp.int32(0))
    teacher = teachers.banked(logits[:, None, None])
  return _training(
      problem, data, _mlp(problem.width, dtype), teacher,
      _variables(problem_lib.student_net(problem)), _net)


def convolution(problem: Problem, *, dtype: str = "float32") -> System:
  """The same of a resnet8 on coloured images, from a bank of logits.

  Its `student` is the net's parameters as kd_jax holds them.
  """
  teacher = teachers.banked(
      jnp.asarray(problem_lib.bank(problem))[:, None, None])
  model = models.MODELS["resnet8"](
      num_classes=problem_lib.COLOURED_CLASSES, dtype=dtype)
  return _training(problem, _data(problem), model, teacher, None,
                   lambda student: jax.device_get(student.params))


def _training(problem, data, model, teacher, start, student) -> System:
  key, hparams = jax.random.key(0), _hparams()
  learner = step.Learner(
      model, methods.METHODS["kd"],
      optimizers.OptimizerSpec(
          "sgd", optimizers.schedule("constant", total_steps=1)),
      teacher)
  segment = segment_lib.compiled_segment(learner, _VIEWS, problem_lib.BATCH)
  image = jnp.zeros((1, *problem.image.shape[1:]))
  state = jax.jit(functools.partial(step.init, learner))(key, image, hparams)
  held = [state if start is None else state.replace(student=start)]
  jax.block_until_ready((held, data, teacher.arrays))

  def epoch() -> float:
    state, told = segment(
        held.pop(), data, teacher.arrays, hparams, key, problem.steps)
    held.append(jax.block_until_ready(state))
    return float(hparams.hard_weight * told["hard"].total
                 + hparams.soft_weight * told["soft"].total)

  return System(epoch, lambda: student(held[0].student), _device_peak)


def first_order(problem: Problem) -> np.ndarray:
  """The order in which the first epoch visits the examples, `[N]`."""
  ids = jnp.arange(len(problem.label), dtype=jnp.int32)
  key = randomness.stream(jax.random.key(0), "data")
  return np.asarray(randomness.epoch_order(key, 0, ids))


def product(product: Product, repeats: int) -> Callable[[], object]:
  """A call that computes a product `repeats` times, one after the other.

  Gradients are taken as the transposes of the forward product, so that XLA gets
  the product that it gets in a step. Each waits for the last: a number of the
  result goes into an operand, in place. Nothing else is computed or copied.
  """
  x, w, g = (jnp.asarray(value) for value in problem_lib.operands(product))
  first, second, apply = {
      "forward": (x, w, lambda x, w: x @ w),
      "weights": (g, x, lambda g, x: jax.linear_transpose(
          lambda w: x @ w, w)(g)[0]),
      "inputs": (g, w, lambda g, w: jax.linear_transpose(
          lambda x: x @ w, x)(g)[0]),
  }[product.kind]

  @jax.jit
  def many(first, second):
    def body(_, carry):
      first, _ = carry
      result = apply(first, second)
      return first.at[0, 0].set(result[0, 0]), result
    blank = jnp.zeros(jax.eval_shape(apply, first, second).shape)
    return jax.lax.fori_loop(0, repeats, body, (first, blank))[1]

  return lambda: many(first, second).block_until_ready()


def square_product(size: int) -> Callable[[], object]:
  """A call that multiplies two matrices `[size, size]`."""
  matrix = jnp.ones((size, size))
  multiply = jax.jit(lambda a, b: a @ b)
  return lambda: multiply(matrix, matrix).block_until_ready()


def _hparams() -> types.Hparams:
  hard, soft = losses.distillation_weights(problem_lib.ALPHA)
  return jax.tree.map(jnp.float32, types.Hparams(
      temperature=problem_lib.TEMPERATURE, hard_weight=hard, soft_weight=soft,
      learning_rate=problem_lib.LEARNING_RATE, momentum=problem_lib.MOMENTUM))


def _data(problem: Problem) -> segment_lib.DeviceData:
  examples = data_lib.Examples(problem.image, problem.label)
  ids = np.arange(len(problem.label))
  return build.device_data(examples, ids, preprocess.of("unit", examples.inputs))


def _mlp(width: int, dtype: str = "float32") -> types.Model:
  return models.MODELS["mlp"](
      num_classes=problem_lib.CLASSES, widths=(width, width), dtype=dtype)


def _live_teacher(dtype: str = "float32") -> teachers.Teacher:
  return teachers.live(
      [_mlp(problem_lib.TEACHER_WIDTH, dtype)],
      [_variables(problem_lib.teacher_net())])


def _variables(net: Net) -> types.Variables:
  params = {
      f"Dense_{index}": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
      for index, (kernel, bias) in enumerate(net)}
  return types.Variables(params, {})


def _net(variables: types.Variables) -> Net:
  return [(np.asarray(layer["kernel"]), np.asarray(layer["bias"]))
          for _, layer in sorted(variables.params.items())]


def _device_peak() -> int:
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use", 0)
