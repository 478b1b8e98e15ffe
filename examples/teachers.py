"""Models of other libraries as teachers: functions of inputs that give logits.

  TEACHER=teacher.onnx python -m kd_jax.main --config=configs/mnist.py:smoke \
      --config.teacher.name=examples/teachers.py:onnx

or torch_script, keras, or scikit_learn, which needs no file. A function is given
inputs as the nets of the run see them: pixels, float32 `[B, H, W, C]` in [0, 1]. It
gives logits `[B, classes]`, or these and a dict of features by name, which methods
on features compare. It is asked once for every view of every training example.
"""

import functools
import os

import numpy as np


@functools.cache
def _session():
  import onnxruntime
  return onnxruntime.InferenceSession(os.environ["TEACHER"])


def onnx(images: np.ndarray) -> np.ndarray:
  """A file of `python -m kd_jax.export --format=onnx`; it takes pixels to 255."""
  pixels = np.rint(255 * images).astype(np.uint8)
  session = _session()
  return session.run(["logits"], {session.get_inputs()[0].name: pixels})[0]


@functools.cache
def _module():
  import torch
  return torch.jit.load(os.environ["TEACHER"]).eval()


def torch_script(images: np.ndarray):
  """A file of `torch.jit.save`, whose channels come first."""
  import torch
  with torch.no_grad():
    return _module()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))


@functools.cache
def _keras():
  import keras
  net = keras.models.load_model(os.environ["TEACHER"])
  # What the last layer makes logits of, for methods on features.
  return keras.Model(net.inputs, [net.outputs[0], net.layers[-1].input])


def keras(images: np.ndarray):
  """A file of `model.save`, whose last layer gives logits; and its features."""
  logits, pooled = _keras()(images, training=False)
  return logits, {"pooled": pooled}


@functools.cache
def _forest():
  from sklearn import ensemble

  from kd_jax import data
  found = data.load("mnist", embedded="only")
  return ensemble.ExtraTreesClassifier(300, random_state=0, n_jobs=-1).fit(
      found.train.inputs.reshape(len(found.train.inputs), -1) / 255,
      found.train.label)


def scikit_learn(images: np.ndarray) -> np.ndarray:
  """A forest, which knows probabilities: their logarithms are logits."""
  p = _forest().predict_proba(images.reshape(len(images), -1))
  return np.log(np.clip(p, 1e-4, 1))
