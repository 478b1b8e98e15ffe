"""One way to ask a loss of any framework for its value and its gradients.

A loss that is neither JAX nor NumPy is told so in a line above it:

    from kd_jax.conformance import adapters

    @adapters.torch
    def loss(student_logits, teacher_logits, labels, temperature, alpha):
      ...

or on the command line, `--framework=torch`. The function is then given tensors
of its framework, and labels as integers; T and alpha are Python floats.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import numpy as np

from kd_jax.conformance import oracle
from kd_jax.core import calls
from kd_jax.core.errors import UserError

# Step of the central differences, in logits: they are off by h**2 = 1e-8 of the
# third derivative, and by 1e-16 / h of the value, which T**2 = 1e6 at most raises.
_STEP = 1e-4


class Case(NamedTuple):
  """What a loss is asked about.

  Attributes:
    student: z, float64 `[B, classes]`.
    teacher: v, float64 `[B, classes]`.
    labels: True classes, int `[B]`.
    temperature: T.
    alpha: Whatever the loss means by it.
    dtype: Precision in which it gets the logits.
  """

  student: np.ndarray
  teacher: np.ndarray
  labels: np.ndarray
  temperature: float
  alpha: float
  dtype: str = "float64"


class Answer(NamedTuple):
  """What a loss says.

  Attributes:
    output: As it is returned, float64 `[]` or `[B]`.
    student: Gradient of the output's mean by z, float64 `[B, classes]`.
    teacher: By v; None where the framework has no gradients of its own.
  """

  output: np.ndarray
  student: np.ndarray | None
  teacher: np.ndarray | None

  @property
  def value(self) -> np.float64:
    """The loss of the batch: the mean of the output."""
    # Of NumPy, as a division by it never raises.
    return np.float64(np.mean(self.output))


class Refusal(Exception):
  """What a loss raised when it was asked, in a line."""


def error_line(error: BaseException) -> str:
  """An exception in a line."""
  message = " ".join(str(error).split())
  return f"raises {type(error).__name__}: {message[:160]}"


class Adapted:
  """A loss and the way to ask it; still callable as the function it was."""

  def __init__(self, function: Callable[..., Any], framework: str,
               ask: Callable[[Callable[..., Any], Case], Answer]):
    functools.update_wrapper(self, function)
    self.function = function
    self.framework = framework
    self._ask = ask

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self.function(*args, **kwargs)

  @property
  def uses(self) -> frozenset[str]:
    """Of the arguments of a loss of logits, those that it is given."""
    return getattr(self.function, "uses", frozenset(calls.ARGUMENTS))

  def of(self, call: Callable[..., Any]) -> "Adapted":
    """Another function of the same framework."""
    return Adapted(call, self.framework, self._ask)

  def ask(self, case: Case) -> Answer:
    """The loss of a case and its gradients.

    Raises:
      Refusal: If the loss raises something, or returns no array.
    """
    try:
      return self._ask(self.function, case)
    except (Exception, SystemExit) as error:  # Whatever their code raises.
      raise Refusal(error_line(error)) from error


def jax(function: Callable[..., Any]) -> Adapted:
  """Judges a function of jax arrays: gradients by `jax.grad`, in float64."""
  return Adapted(function, "jax", _ask_jax)


def numpy(function: Callable[..., Any]) -> Adapted:
  """Judges a function of NumPy arrays: gradients by central differences."""
  return Adapted(function, "numpy", _ask_numpy)


def torch(function: Callable[..., Any]) -> Adapted:
  """Judges a function of PyTorch tensors: gradients by autograd."""
  return Adapted(function, "torch", _ask_torch)


def keras(function: Callable[..., Any]) -> Adapted:
  """Judges a function of Keras 3 tensors, on its JAX or its PyTorch backend.

  Raises:
    UserError: If Keras runs on anything else.
  """
  import keras as library  # Not a dependency: whoever asks has it.
  backend = library.backend.backend()
  asks = {"jax": _ask_jax, "torch": _ask_torch}
  if backend not in asks:
    raise UserError(
        f"Keras runs on {backend}, which has no adapter; set KERAS_BACKEND=jax "
        "or KERAS_BACKEND=torch")
  return Adapted(function, f"keras on {backend}", asks[backend])


ADAPTERS = {"jax": jax, "numpy": numpy, "torch": torch, "keras": keras}


def plain(output: Any) -> Any:
  """The output, unless it is no array at all.

  Raises:
    TypeError: If it is a tuple, a dict or nothing.
  """
  if output is None or isinstance(output, (tuple, list, dict)):
    raise TypeError(
        f"returned a {type(output).__name__}: must be a scalar or one value an "
        "example, [B]; return the loss alone")
  return output


def _ask_jax(function: Callable[..., Any], case: Case) -> Answer:
  import jax as library
  import jax.numpy as jnp

  def mean(z, v):
    out = plain(function(z, v, labels, case.temperature, case.alpha))
    # Not in the precision of the output, where a sum of halves may overflow.
    return jnp.mean(jnp.asarray(out).astype(jnp.float64)), out

  # As a user's own program has it, however strict the caller's settings are.
  with (library.enable_x64(True), library.numpy_dtype_promotion("standard"),
        library.numpy_rank_promotion("allow")):
    labels = jnp.asarray(case.labels, jnp.int32)
    z, v = (jnp.asarray(x).astype(case.dtype)
            for x in (case.student, case.teacher))
    gradient = library.value_and_grad(mean, argnums=(0, 1), has_aux=True)
    if len(z) != oracle.EXAMPLES:
      # Of a batch that is asked about once, operations are sooner compiled
      # together than each by itself.
      gradient = library.jit(gradient)
    (_, out), gradients = gradient(z, v)
    return Answer(*(np.asarray(x, np.float64) for x in (out, *gradients)))


def _ask_numpy(function: Callable[..., Any], case: Case) -> Answer:
  dtype = np.dtype(case.dtype)
  z, v = case.student.astype(dtype), case.teacher.astype(dtype)

  def output(z):
    out = function(z, v, case.labels.copy(), case.temperature, case.alpha)
    out = np.asarray(plain(out))
    if dtype == np.float64 and out.dtype in (np.float32, np.float16):
      raise TypeError(
          f"returned {out.dtype} for float64, too coarse for central differences; "
          "keep the precision of what is given")
    return out.astype(np.float64)

  with np.errstate(all="ignore"):
    # Half precision is too coarse to be differenced.
    gradient = _differences(output, z) if dtype == np.float64 else None
    return Answer(output(z.copy()), gradient, None)


def _differences(output: Callable[..., np.ndarray], z: np.ndarray) -> np.ndarray:
  gradient = np.zeros_like(z)
  for index in np.ndindex(z.shape):
    ends = []
    for step in (_STEP, -_STEP):
      there = z.copy()
      there[index] += step
      ends.append(np.mean(output(there)))
    gradient[index] = (ends[0] - ends[1]) / (2 * _STEP)
  return gradient


def _ask_torch(function: Callable[..., Any], case: Case) -> Answer:
  import torch as library

  def tensor(x):
    return library.tensor(x, dtype=getattr(library, case.dtype),
                          requires_grad=True)

  def array(x):
    return x.detach().cpu().double().numpy()

  z, v = tensor(case.student), tensor(case.teacher)
  out = plain(function(z, v, library.tensor(case.labels).long(),
                       case.temperature, case.alpha))
  zero = np.zeros(case.student.shape)
  if not out.requires_grad:
    return Answer(array(out), zero, zero)
  gradients = library.autograd.grad(
      out.double().mean(), (z, v), allow_unused=True)
  return Answer(array(out),
                *(zero if g is None else array(g) for g in gradients))
