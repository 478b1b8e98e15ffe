"""Any model with probabilities as a teacher: scikit-learn's, and model compression.

  python examples/any_model.py                   breast cancer, which comes with it
  python examples/any_model.py letter.p1         KD_JAX_DATA has UCI's file
  python examples/any_model.py --model=svm       or forest, boosted

The model learns from the labelled training examples. Its log-probabilities of all
that the student will see, 20,000 pseudo examples of MUNGE among them, go to a file,
and the main job distils from it (Bucila, Caruana & Niculescu-Mizil 2006). Further
arguments go to the main job, such as --config.student.widths=(32,).
"""

import argparse
import pathlib
import subprocess
import sys

import numpy as np
from sklearn import calibration, datasets, ensemble, svm

# Not needed where kd_jax is installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

from kd_jax import data

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS = {
    "forest": lambda: ensemble.ExtraTreesClassifier(500, random_state=0),
    "boosted": lambda: ensemble.HistGradientBoostingClassifier(random_state=0),
    # Its scores become probabilities by Platt's curve.
    "svm": lambda: calibration.CalibratedClassifierCV(
        svm.SVC(C=10), ensemble=False)}


def own_table(folder: pathlib.Path) -> None:
  """Writes a table as yours would be: float columns, classes from 0."""
  x, y = datasets.load_breast_cancer(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(x))
  x, y = ((x - x.min(0)) / np.ptp(x, axis=0))[order].astype(np.float32), y[order]
  np.savez(folder / "breast_cancer.npz", x_train=x[:400], y_train=y[:400],
           x_test=x[400:], y_test=y[400:])


def log_probabilities(model, inputs: np.ndarray) -> np.ndarray:
  """Logits of a model, float32 `[N, classes]`: log p, of p that is never 0."""
  return np.log(np.clip(model.predict_proba(inputs), 1e-6, 1)).astype(np.float32)


def main():
  """Fits a model, writes its logits and distils it."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("name", nargs="?", default="breast_cancer")
  parser.add_argument("--model", choices=MODELS, default="forest")
  parser.add_argument("--workdir", type=pathlib.Path,
                      default=pathlib.Path("runs/any_model"),
                      help="gets the logits, and a folder for each run")
  arguments, others = parser.parse_known_args()
  folder = arguments.workdir.resolve()
  folder.mkdir(parents=True, exist_ok=True)
  own = arguments.name == "breast_cancer"
  if own:
    own_table(folder)

  # As the main job will see it: the same words, below, give the same examples.
  found = data.load(arguments.name, directory=folder if own else None)
  found = data.with_pseudo(found, "munge", number=20_000)
  labelled = found.train.known
  model = MODELS[arguments.model]().fit(
      found.train.inputs[labelled], found.train.label[labelled])
  files = [folder / f"{arguments.model}{part}.npy" for part in ("", "_test")]
  for file, part in zip(files, (found.train, found.test)):
    np.save(file, log_probabilities(model, part.inputs))

  subprocess.run([
      sys.executable, "-m", "kd_jax.main", "--config=configs/compress.py",
      f"--config.data.name={arguments.name}", "--config.data.split=none",
      "--config.data.pseudo_size=20000", "--config.steps=2000",
      f"--config.teacher.logits={files[0]}",
      f"--config.teacher.test_logits={files[1]}",
      *([f"--config.data.dir={folder}"] if own else []),
      # Of its own: a run writes into no folder that holds files of others.
      f"--workdir={folder / arguments.model}", *others,
  ], check=True, cwd=ROOT)


if __name__ == "__main__":
  main()
