"""PyTorch's systems: (c) the loop a user would write, (d) a leaner one.

(c) is what tutorials show: a DataLoader over images and labels, a live teacher
under no_grad, eager. (d) is the best that stays eager and simple: tensors are
indexed directly and the teacher's logits were computed before.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import problem as problem_lib
from benchmarks.problem import Net, Problem, Product, System

VERSIONS = {"torch": torch.__version__}
_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device() -> str:
  """Name of the device that PyTorch computes on."""
  return torch.cuda.get_device_name() if _DEVICE.type == "cuda" else "cpu"


def configure(threads: int, *, tf32: bool) -> None:
  """Threads on a CPU, and on a GPU the precision of jax's products."""
  torch.set_num_threads(threads)
  torch.set_float32_matmul_precision("high" if tf32 else "highest")


def system(
    problem: Problem, *, plain: bool, order: np.ndarray | None = None
) -> System:
  """A student's training; every call of `epoch` goes on from the last.

  Args:
    problem: The epoch.
    plain: Whether as (c) or as (d).
    order: Order of the examples in every epoch; default a new one each.

  Returns:
    The system.
  """
  torch.manual_seed(0)
  teacher = _mlp(problem_lib.teacher_net()).eval()
  student = _mlp(problem_lib.student_net(problem))
  optimizer = torch.optim.SGD(
      student.parameters(), lr=problem_lib.LEARNING_RATE,
      momentum=problem_lib.MOMENTUM)
  image = torch.tensor(problem.image).float().div_(255)
  label = torch.tensor(problem.label).long()
  make = _plain_epoch if plain else _lean_epoch
  run = make(student, teacher, optimizer, image, label, order)
  _wait()

  def epoch() -> float:
    total = run()
    _wait()
    return float(total)

  return System(epoch, lambda: _net(student), _device_peak)


def _plain_epoch(student, teacher, optimizer, image, label, order):
  loader = DataLoader(
      TensorDataset(image, label), batch_size=problem_lib.BATCH,
      shuffle=order is None,
      sampler=None if order is None else order.tolist(),
      pin_memory=_DEVICE.type == "cuda")

  def epoch():
    total = 0.0
    for x, y in loader:
      x = x.to(_DEVICE, non_blocking=True)
      y = y.to(_DEVICE, non_blocking=True)
      with torch.no_grad():
        taught = teacher(x)
      total += _step(student, optimizer, x, y, taught)
    return total

  return epoch


def _lean_epoch(student, teacher, optimizer, image, label, order):
  image, label = image.to(_DEVICE), label.to(_DEVICE)
  with torch.no_grad():
    bank = torch.cat([teacher(x) for x in image.split(500)])
  if order is not None:
    order = torch.tensor(order).long().to(_DEVICE)

  def epoch():
    total = 0.0
    new = order
    if new is None:
      new = torch.randperm(len(label), device=_DEVICE)
    for ids in new.split(problem_lib.BATCH):
      total += _step(student, optimizer, image[ids], label[ids], bank[ids])
    return total

  return epoch


def _step(student, optimizer, x, y, taught):
  """One step of distillation; gives the sum of the loss over the batch."""
  t, alpha = problem_lib.TEMPERATURE, problem_lib.ALPHA
  logits = student(x)
  hard = F.cross_entropy(logits, y)
  soft = t * t * F.kl_div(
      F.log_softmax(logits / t, dim=1), F.softmax(taught / t, dim=1),
      reduction="batchmean")
  loss = (1 - alpha) * hard + alpha * soft
  optimizer.zero_grad()
  loss.backward()
  optimizer.step()
  return loss.detach() * len(y)


def product(product: Product, repeats: int) -> Callable[[], object]:
  """A call that computes a product `repeats` times, as nn.Linear does it.

  Into a tensor that is there already: the allocator is no part of it.
  """
  x, w, g = (torch.from_numpy(value).to(_DEVICE)
             for value in problem_lib.operands(product))
  w = w.t().contiguous()  # nn.Linear holds [out, in].
  first, second = {
      "forward": (x, w.t()), "weights": (g.t(), x), "inputs": (g, w),
  }[product.kind]
  result = torch.mm(first, second)

  def many():
    for _ in range(repeats):
      torch.mm(first, second, out=result)
    _wait()

  return many


def square_product(size: int) -> Callable[[], object]:
  """A call that multiplies two matrices `[size, size]`."""
  matrix = torch.ones((size, size), device=_DEVICE)

  def multiply():
    torch.mm(matrix, matrix)
    _wait()

  return multiply


def _mlp(net: Net) -> nn.Module:
  layers = [nn.Flatten()]
  for kernel, bias in net:
    layer = nn.Linear(*kernel.shape)
    with torch.no_grad():
      layer.weight.copy_(torch.from_numpy(kernel.T))
      layer.bias.copy_(torch.from_numpy(bias))
    layers += [layer, nn.ReLU()]
  return nn.Sequential(*layers[:-1]).to(_DEVICE)


def _net(model: nn.Module) -> Net:
  return [(layer.weight.detach().cpu().numpy().T,
           layer.bias.detach().cpu().numpy())
          for layer in model if isinstance(layer, nn.Linear)]


def _wait() -> None:
  if _DEVICE.type == "cuda":
    torch.cuda.synchronize()


def _device_peak() -> int:
  return torch.cuda.max_memory_allocated() if _DEVICE.type == "cuda" else 0
