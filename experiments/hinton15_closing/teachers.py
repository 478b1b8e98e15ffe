"""The teachers of 200 epochs of `hinton15_closing`, as the logits that they give.

  python -m experiments.hinton15_closing.teachers
  python -m experiments.hinton15_closing.teachers 60000_1

A teacher takes half an hour on two cores, and nets are not committed: everybody who
trains a student would have to train its teacher first, which on another machine is
another net. So its logits are committed: `logits/NAME.npy`, float16 `[60000, 10]`,
for each training digit in the order of the data set, less their mean over classes.
Of the teacher that leaves a tenth out there is a second file, `54000_averaged.npy`:
T log p, where p is the mean of its softmax at T over the 25 shifts of the digit;
T is 20, and its softmax at T is p again. `logits/made.jsonl` says how good each
teacher is, and what made it.

A teacher that has its file is passed over. Stop it as you like: the same command
goes on.
"""

import argparse
from collections.abc import Callable, Sequence
import pathlib
import sys
from typing import Any

import ml_collections
import numpy as np
from scipy import special

from configs import mnist
from experiments import index
from experiments.protocol import hold_out
from kd_jax import config as config_lib
from kd_jax.core import strict
from kd_jax.core.errors import Parser, UserError
from kd_jax.runs import arms

T = 20.0
# One that leaves out the digits by which students are chosen, then those of all.
FIRST, SEEDS = "54000", ("60000_0", "60000_1", "60000_2")
AVERAGED = f"{FIRST}_averaged"
_FOLDER = pathlib.Path("experiments/hinton15_closing/logits")
# Of the paper's teacher, what its net has under a name of its own.
_OF_NET = ("name", "widths", "views", "input_dropout", "hidden_dropout", "max_norm")
_PART = 10_000

Ask = Callable[[np.ndarray], np.ndarray]


def file(name: str) -> str:
  """Where the logits of a teacher are, for `teacher.logits`."""
  return str(_FOLDER / f"{name}.npy")


def config(name: str) -> ml_collections.ConfigDict:
  """What trains a teacher: that of `configs/mnist.py:paper`, and nothing else."""
  paper, made = mnist.get_config("paper"), config_lib.default("teacher")
  for key in ("name", "dir"):
    made.data[key] = paper.data[key]
  made.data.embedded = "never"
  made.method, made.alpha, made.batch_size = "hard", paper.alpha, paper.batch_size
  made.optimizer = paper.optimizer
  made.epochs, made.min_steps = paper.teacher.epochs, 0
  for key in _OF_NET:
    made.nets.teacher[key] = paper.teacher[key]
  made.seed = arms.FIRST_SEED if name == FIRST else SEEDS.index(name)
  return hold_out(made) if name == FIRST else made


def centred(logits: np.ndarray) -> np.ndarray:
  """Logits as they are kept: float16, and their mean over classes is 0.

  So they are small, and are rounded less; no softmax depends on their mean.
  """
  return (logits - logits.mean(-1, keepdims=True)).astype(np.float16)


def averaged(ask: Ask, images: np.ndarray, views: Sequence[Any]) -> np.ndarray:
  """T log p, p the mean of the softmax at T over views, `[N, classes]`."""
  seen = (np.asarray(view(images)) for view in views)
  mean = sum(special.softmax(ask(each) / T, -1) for each in seen)
  return T * np.log(mean / len(views))


def entropy(logits: np.ndarray, temperature: float = T) -> float:
  """Mean entropy of the softmax at T, in nats.

  Example:
    >>> round(entropy(np.zeros((3, 10))), 6), entropy(np.array([[9e4, 0.0]]))
    (2.302585, 0.0)
  """
  p = special.softmax(logits.astype(np.float64) / temperature, -1)
  return float(special.entr(p).sum(-1).mean())


def make(name: str, workdir: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
  """Trains a teacher, or goes on; leaves its logits, and gives its row.

  Args:
    name: `FIRST`, or one of `SEEDS`.
    workdir: Of its run.
    folder: Where its logits go.
  """
  # pylint: disable=g-import-not-at-top
  import jax

  import kd_jax
  from kd_jax.data.views import VIEWS
  from kd_jax.runs import rows, trained
  row = kd_jax.run(config(name), workdir).summary["teacher"]
  net = trained.load(workdir, "teacher")
  dataset = trained.build.dataset(net.values)
  asked = jax.jit(net.logits)

  def ask(images: np.ndarray) -> np.ndarray:
    return np.concatenate([
        np.asarray(asked(images[start:start + _PART]), np.float64)
        for start in range(0, len(images), _PART)])

  folder.mkdir(parents=True, exist_ok=True)
  images = dataset.train.inputs
  logits = centred(ask(images))
  if name == FIRST:
    family = VIEWS["shift2"]
    view = jax.jit(jax.vmap(family.view, (0, None)))
    views = [lambda some, v=v: view(some, v) for v in range(family.count)]
    np.save(folder / f"{AVERAGED}.npy", centred(averaged(ask, images, views)))
  np.save(folder / f"{name}.npy", logits)
  own = logits[dataset.train_ids]
  return rows.stamp([{
      "name": name, "seed": net.values["seed"], "train_examples": len(own),
      "test_set": "heldout" if name == FIRST else "test",
      **{key: row[key] for key in (
          "test_errors", "test_examples", "test_nll", "seconds", "fingerprint",
          "parameters_sha256")},
      "train_entropy": {f"{T:g}": round(entropy(own), 6)}}])[0]


def main(argv: Sequence[str]) -> int:
  """Makes the logits that are asked for and not there."""
  parser = Parser(
      prog="python -m experiments.hinton15_closing.teachers", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  names = (FIRST, *SEEDS)
  parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; default all")
  parser.add_argument("--workdir", type=pathlib.Path,
                      default=pathlib.Path("runs/hinton15_closing_teachers"),
                      help="where they are trained (default: %(default)s)")
  asked = parser.parse_args(argv)
  try:
    if unknown := [name for name in asked.name if name not in names]:
      raise UserError(f"{unknown[0]}: is no teacher; they are {', '.join(names)}")
    index.refuse_changes("teachers")
    for name in asked.name or names:
      if pathlib.Path(file(name)).exists():
        print(f"{name}: {file(name)} is there", flush=True)
        continue
      row = make(name, asked.workdir / name, _FOLDER)
      with (_FOLDER / "made.jsonl").open("a", encoding="utf-8") as made:
        made.write(strict.dumps(row) + "\n")
      print(f"{name}: {file(name)}, {row['test_errors']} errors of "
            f"{row['test_examples']:,} ({row['test_set']})", flush=True)
  except KeyboardInterrupt as stopped:
    print(stopped, file=sys.stderr)
    return 130
  except (UserError, OSError) as error:
    print(f"error: {UserError(error)}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
