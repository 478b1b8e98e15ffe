"""What is measured: one epoch of distillation, and nothing of jax or torch.

Every system of the benchmark starts from here, so that all of them get the same
images and parameters; a PyTorch process never pays for jax's memory.
"""

from collections.abc import Callable
import os
import resource
import sys
import time
from typing import NamedTuple

import numpy as np

from kd_jax import data as data_lib

BATCH = 128
PIXELS, CLASSES = 784, 10
COLOURED_CLASSES = 100
TEACHER_WIDTH, STUDENT_WIDTH = 1200, 800
TEMPERATURE, ALPHA = 4.0, 0.9
LEARNING_RATE, MOMENTUM = 0.05, 0.9

# A net: (kernel [in, out], bias [out]) of each layer.
Net = list[tuple[np.ndarray, np.ndarray]]


class Problem(NamedTuple):
  """An epoch to run.

  Attributes:
    image: uint8 `[N, H, W, C]`; of the MLPs `[N, 28, 28, 1]`.
    label: int32 `[N]`.
    source: Where the images are from, for the table.
    width: Units of the student's two hidden layers.
  """

  image: np.ndarray
  label: np.ndarray
  source: str
  width: int = STUDENT_WIDTH

  @property
  def steps(self) -> int:
    return -(-len(self.label) // BATCH)

  def first(self, count: int) -> "Problem":
    """The same with its first `count` examples."""
    return self._replace(image=self.image[:count], label=self.label[:count])


class System(NamedTuple):
  """A way to run it.

  Attributes:
    epoch: Runs one further epoch, waits for its end and gives the sum of the
      loss over its examples.
    student: The student's parameters now.
    device_peak: Bytes of accelerator memory used at most, 0 on a CPU.
  """

  epoch: Callable[[], float]
  student: Callable[[], Net]
  device_peak: Callable[[], int]


class Product(NamedTuple):
  """A matrix product of the step: of which net, pass and layer."""

  net: str
  kind: str
  fan_in: int
  fan_out: int

  @property
  def flops(self) -> int:
    return 2 * BATCH * self.fan_in * self.fan_out


def load(directory: str | None, examples: int | None) -> Problem:
  """MNIST from `directory`, or random images of its size without one."""
  if directory:
    found = data_lib.load("mnist", directory=directory, embedded="never")
    problem = Problem(found.train.inputs, found.train.label, "MNIST")
  else:
    draw = np.random.default_rng(0)
    problem = Problem(
        draw.integers(0, 256, (60_000, 28, 28, 1), np.uint8),
        draw.integers(0, CLASSES, 60_000).astype(np.int32),
        "random images of MNIST's size")
  return problem.first(examples or len(problem.label))


def coloured(examples: int, size: int = 32) -> Problem:
  """Random images, by default of CIFAR's size, of as many classes as CIFAR-100."""
  draw = np.random.default_rng(0)
  return Problem(
      draw.integers(0, 256, (examples, size, size, 3), np.uint8),
      draw.integers(0, COLOURED_CLASSES, examples).astype(np.int32),
      f"random images of {size}x{size}")


def bank(problem: Problem) -> np.ndarray:
  """Random logits of a teacher of coloured images, `[N, classes]`."""
  draw = np.random.default_rng(3)
  return draw.normal(0, 3, (len(problem.label), COLOURED_CLASSES)).astype("f4")


def student_net(problem: Problem) -> Net:
  """The student's parameters before the first step."""
  return _net(problem.width, seed=1)


def teacher_net() -> Net:
  """The teacher's parameters, untrained: their values cost the same time."""
  return _net(TEACHER_WIDTH, seed=2)


def _net(width: int, seed: int) -> Net:
  draw = np.random.default_rng(seed)
  return [
      (draw.normal(0, (2 / fan_in) ** 0.5, (fan_in, fan_out)).astype("f4"),
       np.zeros(fan_out, "f4"))
      for fan_in, fan_out in _layers(width)]


def _layers(width: int) -> list[tuple[int, int]]:
  return [(PIXELS, width), (width, width), (width, CLASSES)]


def products(width: int = STUDENT_WIDTH) -> list[Product]:
  """The matrix products of a step with a live teacher, 11 of them.

  Student forward 3, gradients of the weights 3, gradients of the inputs 2 (the
  image needs none); teacher forward 3, which a bank spares.
  """
  student, teacher = _layers(width), _layers(TEACHER_WIDTH)
  return (
      [Product("student", "forward", *layer) for layer in student]
      + [Product("student", "weights", *layer) for layer in student]
      + [Product("student", "inputs", *layer) for layer in student[1:]]
      + [Product("teacher", "forward", *layer) for layer in teacher])


def operands(product: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """x `[B, in]`, w `[in, out]` and g `[B, out]`, float32, below 1 in size."""
  draw = np.random.default_rng(0)
  shapes = ((BATCH, product.fan_in), (product.fan_in, product.fan_out),
            (BATCH, product.fan_out))
  x, w, g = (draw.normal(0, 0.03, shape).astype("f4") for shape in shapes)
  return x, w, g


def seconds(call: Callable[[], object]) -> float:
  """How long a call takes; the call waits for its own result."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def peak_memory() -> int:
  """Bytes of memory that this process has held at most.

  Not ru_maxrss where Linux tells better: a child inherits it from the parent
  that started it, so a small process would seem as large as its parent.
  """
  if os.path.exists("/proc/self/status"):
    with open("/proc/self/status") as status:
      for line in status:
        if line.startswith("VmHWM:"):
          return int(line.split()[1]) * 1024
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
