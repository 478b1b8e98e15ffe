"""Distilling a classifier of token ids: bags of embeddings, large and small.

  python examples/tokens.py

Makes a toy set of texts, four topics with words of their own in much noise, and
trains teacher and student on it. Further arguments go to the main job, such as
--config.temperature=2 or --sweep.seed=0,1,2. Your own texts: token ids as x_train
and x_test, integers `[N, L]` padded with 0, and labels as y_train and y_test, in
DIR/NAME.npz.
"""

import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
VOCABULARY, TOPICS, LENGTH = 1000, 4, 24


class BagOfEmbeddings(nn.Module):
  """The mean embedding of a text's tokens, and dense layers on it."""

  num_classes: int
  widths: tuple[int, ...] = (32,)

  @nn.compact
  def __call__(self, ids: jax.Array):
    there = (ids > 0)[..., None]
    embedded = nn.Embed(VOCABULARY, self.widths[0])(ids)
    x = jnp.sum(jnp.where(there, embedded, 0.0), axis=1) / jnp.maximum(
        jnp.sum(there, axis=1), 1)
    for width in self.widths[1:]:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.num_classes)(x), {"pooled": x}


def texts(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Token ids, int32 `[number, LENGTH]`, a fifth of them of the topic; topics."""
  draw = np.random.default_rng(seed)
  label = draw.integers(0, TOPICS, number)
  own = 1 + label[:, None] * 50 + draw.integers(0, 50, (number, LENGTH))
  noise = draw.integers(201, VOCABULARY, (number, LENGTH))
  ids = np.where(draw.random((number, LENGTH)) < 0.2, own, noise)
  length = draw.integers(4, LENGTH + 1, number)
  ids = np.where(np.arange(LENGTH) < length[:, None], ids, 0)
  return ids.astype(np.int32), label.astype(np.int32)


def main(arguments: list[str]) -> None:
  """Makes the set and distils."""
  folder = ROOT / "runs/tokens"
  folder.mkdir(parents=True, exist_ok=True)
  (x_train, y_train), (x_test, y_test) = texts(2000, 0), texts(1000, 1)
  np.savez(folder / "topics.npz", x_train=x_train, y_train=y_train,
           x_test=x_test, y_test=y_test)
  net = "examples/tokens.py:BagOfEmbeddings"
  subprocess.run([
      sys.executable, "-m", "kd_jax.main", "--config=configs/mnist.py",
      "--config.data.name=topics", f"--config.data.dir={folder}",
      f"--config.student.name={net}", "--config.student.widths=(8,)",
      f"--config.teacher.name={net}", "--config.teacher.widths=(64,64)",
      "--config.teacher.views=none", "--config.steps=600",
      "--config.teacher.steps=300", "--config.optimizer.learning_rate=0.005",
      f"--workdir={folder / 'run'}", *arguments,
  ], check=True, cwd=ROOT)


if __name__ == "__main__":
  main(sys.argv[1:])
