"""A teacher of any make: its logits in two files, and the main job.

  python examples/own_teacher.py                a NumPy function
  python examples/own_teacher.py --make=torch   a PyTorch nn.Module

Further arguments go to the main job, such as --config.temperature=4.

A teacher need not be JAX, nor a net. What the main job wants is an array of
logits, float `[N, classes]`, whose row i belongs to training example i, as
`kd_jax.data.load` numbers them (`[N, V, classes]`, where the student is
augmented with V views), and another of the test set.
"""

import argparse
import pathlib
import subprocess
import sys

import numpy as np

# Not needed where kd_jax is installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

from kd_jax import data

ROOT = pathlib.Path(__file__).resolve().parents[1]


def numpy_teacher(image, label, test_image) -> list[np.ndarray]:
  """Kernel ridge regression, of which nothing is a net.

  Every training digit gets its logits from the other 3,999 (in closed form): a
  regression that has seen the label would say little more than the label.
  """
  def unit(x):
    x = x.reshape(-1, 784).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  x, target = unit(image), np.eye(10, dtype=np.float32)[label]
  inverse = np.linalg.inv(
      (x @ x.T)**4 + 0.1 * np.eye(len(x), dtype=np.float32))
  weight = inverse @ target
  scores = target - weight / np.diag(inverse)[:, None]
  test_scores = (unit(test_image) @ x.T)**4 @ weight
  # Scores lie around 0 and 1: as logits, those of a very unsure teacher.
  return [10 * scores, 10 * test_scores]


def torch_teacher(image, label, test_image) -> list[np.ndarray]:
  """A PyTorch module, trained here; yours may come from a checkpoint."""
  import torch

  def pixels(x):
    return torch.from_numpy(x).reshape(-1, 784) / 255

  torch.manual_seed(0)
  net = torch.nn.Sequential(
      torch.nn.Linear(784, 400), torch.nn.ReLU(), torch.nn.Dropout(0.5),
      torch.nn.Linear(400, 10))
  optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
  inputs, target = pixels(image), torch.from_numpy(label).long()
  for _ in range(8):
    for ids in torch.randperm(len(label)).split(50):
      optimizer.zero_grad()
      loss = torch.nn.functional.cross_entropy(net(inputs[ids]), target[ids])
      loss.backward()
      optimizer.step()
  net.eval()  # Without dropout from here on.
  with torch.no_grad():
    return [net(pixels(x)).numpy() for x in (image, test_image)]


TEACHERS = {"numpy": numpy_teacher, "torch": torch_teacher}


def main():
  """Writes the logits of a teacher and distils it."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--make", choices=TEACHERS, default="numpy")
  parser.add_argument("--workdir", type=pathlib.Path,
                      default=pathlib.Path("runs/own_teacher"),
                      help="gets the logits, and a folder for the run of each make")
  arguments, others = parser.parse_known_args()
  folder = arguments.workdir.resolve()
  folder.mkdir(parents=True, exist_ok=True)

  found = data.load("mnist", embedded="only")
  logits = TEACHERS[arguments.make](
      found.train.inputs, found.train.label, found.test.inputs)
  files = [folder / f"{arguments.make}{part}.npy" for part in ("", "_test")]
  for file, values in zip(files, logits):
    np.save(file, values.astype(np.float32))

  subprocess.run([
      sys.executable, "-m", "kd_jax.main", "--config=configs/mnist.py:smoke",
      "--config.data.embedded=only", "--config.steps=2000",
      f"--config.teacher.logits={files[0]}",
      f"--config.teacher.test_logits={files[1]}",
      # Of its own: a run writes into no folder that holds files of others.
      f"--workdir={folder / arguments.make}", *others,
  ], check=True, cwd=ROOT)


if __name__ == "__main__":
  main()
