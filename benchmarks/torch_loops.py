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
  torch.backends.cudnn.allow_tf32 = tf32
  torch.backends.cudnn.benchmark = True


def system(
    problem: Problem, *, plain: bool, banked: bool = True,
    compiled: str = "", bfloat16: bool = False, order: np.ndarray | None = None,
) -> System:
  """A student's training; every call of `epoch` goes on from the last.

  Args:
    problem: The epoch.
    plain: Whether batches come from a DataLoader, or from tensors by index.
    banked: Whether the teacher's logits are computed before; never in the plain
      loop.
    compiled: The mode of torch.compile; "" for eager.
    bfloat16: Whether the nets compute in bfloat16 (autocast).
    order: Order of the examples in every epoch; default a new one each.

  Returns:
    The system.
  """
  torch.manual_seed(0)
  teacher = _mlp(problem_lib.teacher_net()).eval()
  student = _mlp(problem_lib.student_net(problem))
  image = torch.tensor(problem.image).float().div_(255)
  label = torch.tensor(problem.label).long()
  step = _step(student, teacher, compiled, bfloat16)
  if plain:
    run = _plain_epoch(step, image, label, order)
  else:
    image, label = image.to(_DEVICE), label.to(_DEVICE)
    bank = None
    if banked:
      with torch.no_grad(), _autocast(bfloat16):
        bank = torch.cat([teacher(x).float() for x in image.split(500)])
    run = _lean_epoch(step, image, label, bank, order)
  return _system(run, lambda: _net(student))


def convolution(
    problem: Problem, start: list[np.ndarray], *, compiled: str = "",
    bfloat16: bool = False, order: np.ndarray | None = None,
) -> System:
  """The same of a resnet8 on coloured images, from a bank of logits.

  Args:
    problem: The epoch.
    start: The student's parameters, layer by layer, as `resnet8` orders them.
    compiled: The mode of torch.compile; "" for eager.
    bfloat16: Whether the net computes in bfloat16 (autocast).
    order: Order of the examples in every epoch; default a new one each.

  Returns:
    The system. Images lie channels last, which convolutions like best.
  """
  torch.manual_seed(0)
  student = resnet8(problem_lib.COLOURED_CLASSES)
  with torch.no_grad():
    for held, new in zip(student.parameters(), start, strict=True):
      held.copy_(torch.from_numpy(np.array(new)))
  student = student.to(_DEVICE, memory_format=torch.channels_last)
  image = torch.tensor(problem.image).permute(0, 3, 1, 2).float().div_(255).to(
      _DEVICE, memory_format=torch.channels_last)
  label = torch.tensor(problem.label).long().to(_DEVICE)
  bank = torch.from_numpy(problem_lib.bank(problem)).to(_DEVICE)
  step = _step(student, None, compiled, bfloat16)
  run = _lean_epoch(step, image, label, bank, order)
  return _system(run, lambda: [])


def _system(run, student) -> System:
  _wait()

  def epoch() -> float:
    total = run()
    _wait()
    return float(total)

  return System(epoch, student, _device_peak)


def _plain_epoch(step, image, label, order):
  loader = DataLoader(
      TensorDataset(image, label), batch_size=problem_lib.BATCH,
      shuffle=order is None,
      sampler=None if order is None else order.tolist(),
      pin_memory=_DEVICE.type == "cuda")

  def epoch():
    total = 0.0
    for x, y in loader:
      total += step(x.to(_DEVICE, non_blocking=True),
                    y.to(_DEVICE, non_blocking=True), None)
    return total

  return epoch


def _lean_epoch(step, image, label, bank, order):
  if order is not None:
    order = torch.tensor(order).long().to(_DEVICE)

  def epoch():
    total = 0.0
    new = order
    if new is None:
      new = torch.randperm(len(label), device=_DEVICE)
    for ids in new.split(problem_lib.BATCH):
      total += step(image[ids], label[ids], None if bank is None else bank[ids])
    return total

  return epoch


def _step(student, teacher, compiled: str, bfloat16: bool):
  """One step of distillation; gives the sum of the loss over the batch."""
  t, alpha = problem_lib.TEMPERATURE, problem_lib.ALPHA
  optimizer = torch.optim.SGD(
      student.parameters(), lr=problem_lib.LEARNING_RATE,
      momentum=problem_lib.MOMENTUM)

  def mean_loss(x, y, taught):
    with _autocast(bfloat16):
      if taught is None:
        with torch.no_grad():
          taught = teacher(x)
      logits = student(x)
    logits, taught = logits.float(), taught.float()
    soft = t * t * F.kl_div(
        F.log_softmax(logits / t, dim=1), F.softmax(taught / t, dim=1),
        reduction="batchmean")
    return (1 - alpha) * F.cross_entropy(logits, y) + alpha * soft

  if compiled:
    # Of the two sizes that batches have, each is compiled for itself; more graphs
    # of one function than the default limit would run eager without a word.
    torch._dynamo.config.recompile_limit = 64
    mean_loss = torch.compile(mean_loss, mode=compiled, dynamic=False)

  def step(x, y, taught):
    loss = mean_loss(x, y, taught)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach() * len(y)

  return step


def _autocast(bfloat16: bool):
  return torch.autocast(_DEVICE.type, torch.bfloat16, enabled=bfloat16)


class _Block(nn.Module):
  """A basic block; the shortcut comes first, as in kd_jax."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__()
    self.shortcut = nn.Sequential() if channels == width and stride == 1 else (
        nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False),
                      nn.BatchNorm2d(width)))
    self.first = nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width),
        nn.ReLU())
    self.second = nn.Sequential(
        nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

  def forward(self, x):
    return F.relu(self.shortcut(x) + self.second(self.first(x)))


def resnet8(num_classes: int) -> nn.Module:
  """The net of He et al. (2015), section 4.2, with n = 1, as kd_jax has it."""
  return nn.Sequential(
      nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
      _Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2),
      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


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


def matmul(kind: str, size: int) -> Callable[[], object]:
  """A call that multiplies two matrices `[size, size]` in this precision."""
  dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
  x, w = (torch.randn((size, size), device=_DEVICE).mul_(size**-0.5).to(dtype)
          for _ in range(2))

  def multiply():
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    torch.mm(x, w)
    _wait()

  return multiply


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
