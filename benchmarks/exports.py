"""Each net of the project as a file of each format, run on real test images.

  python -m benchmarks.exports --readme docs/export.md
  python -m benchmarks.exports --nets resnet8 --dynamic-batch

The nets are new, with statistics of BatchNorm of training images: of CIFAR-10, if
`KD_JAX_DATA` has it, or else of the embedded digits. A file is compared with its
net on 256 test images: the largest difference of a logit, beside the largest logit,
and how many classes are the same; bytes, and microseconds of one image on one core.
`--dynamic-batch` times LiteRT instead, for a batch of 1 and for one of any size.
"""

import argparse
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import mnist_step, tables
from kd_jax import data
from kd_jax.core.errors import UserError
from kd_jax.export import cost, litert
from kd_jax.export.formats import FORMATS, Served, quiet
from kd_jax.models import MODELS

# One or two of each family.
NETS = (
    "mlp", "cnn_small", "convnet", "resnet8", "resnet20", "resnet8x4", "resnet50",
    "wrn_16_1", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2",
    "plane4", "fitnet1", "efficientnet_small", "googlenet_small")
_TEST, _CALIBRATION, _BATCH, _STEPS = 256, 64, 64, 30


def main(argv: list[str]) -> None:
  """Runs what the command line asks for."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.exports")
  parser.add_argument("--nets", nargs="+", default=NETS)
  parser.add_argument("--readme", help="put the table into this file")
  parser.add_argument("--dynamic-batch", action="store_true",
                      help="print what one image costs LiteRT if a file is for "
                           "batches of any size, beside one for a single image")
  args = parser.parse_args(argv)
  dataset = _dataset()
  if args.dynamic_batch:
    for name in args.nets:
      line = _of_any_batch(_served(name, dataset), dataset.test.inputs)
      print(f"{name} on {dataset.name} ({dataset.source}): {line}", flush=True)
    return
  lines = []
  for name in args.nets:
    for row in _rows(name, dataset):
      lines.append(f"| {' | '.join(row)} |")
      print(lines[-1], flush=True)
  text = "\n".join([
      "<!-- begin exports -->", "",
      f"`{mnist_step._command('exports')}` at {mnist_step._commit()}, "
      f"{time.strftime('%Y-%m-%d')}; {dataset.name} ({dataset.source}), jax "
      f"{jax.__version__}", "",
      "| net | file | difference | largest logit | agree | kB | us |",
      "| --- | --- | --: | --: | --: | --: | --: |", *lines, "",
      "<!-- end exports -->"])
  if args.readme:
    tables.put(text, args.readme)


def _dataset() -> data.Dataset:
  try:
    return data.load("cifar10", say=lambda line: None)
  except UserError:
    return data.load("mnist", embedded="only", say=lambda line: None)


def _served(name: str, dataset: data.Dataset) -> Served:
  """A new net whose statistics are those of training images."""
  images = dataset.train.inputs
  model = MODELS[name](num_classes=dataset.num_classes)
  shown = lambda at: jnp.asarray(images[at * _BATCH:(at + 1) * _BATCH], jnp.float32)
  variables = model.init(jax.random.key(0), shown(0) / 255)
  learn = jax.jit(lambda held, x: held._replace(state=model.apply(
      held, x / 255, train=True)[1]))
  for at in range(_STEPS if jax.tree.leaves(variables.state) else 0):
    variables = learn(variables, shown(at))

  def function(inputs):
    outputs, _ = model.apply(
        variables, inputs.astype(jnp.float32) / 255, train=False)
    return outputs.logits, jax.nn.softmax(outputs.logits)

  return Served(function, images.shape[1:], images.dtype, {
      "net": name, "classes": list(dataset.class_names)}, {})


def _rows(name: str, dataset: data.Dataset) -> list[list[str]]:
  served, test = _served(name, dataset), dataset.test.inputs[:_TEST]
  own = np.asarray(jax.jit(served.function)(test)[0])
  found: list[list[str]] = []
  with tempfile.TemporaryDirectory() as place:
    for form, chosen in FORMATS.items():
      if chosen.missing or not chosen.runs:
        continue
      plain = pathlib.Path(place) / f"{name}{chosen.suffix}"
      for kind in ("none", *chosen.int8):
        file = plain.with_name(f"{kind}-{plain.name}")
        title = form if kind == "none" else f"{form} {kind}"
        try:
          if kind == "none":
            chosen.code.write(served, file)
            plain.write_bytes(file.read_bytes())
          else:
            chosen.code.quantise(
                plain, file, kind, dataset.train.inputs[:_CALIBRATION])
          found.append([name, title, *_compared(form, file, test, own)])
        except Exception as error:  # Whatever the packages raise.
          line = " ".join(str(error).split())[:60]
          found.append([name, title, f"{type(error).__name__}: {line}", *[""] * 4])
          if kind == "none":
            break
  return found


def _of_any_batch(served: Served, test: np.ndarray) -> str:
  """Microseconds of an image where the batch is 1, and where it may be any."""
  found = []
  with tempfile.TemporaryDirectory() as place:
    for batch in (1, *jax.export.symbolic_shape("b")):
      file = pathlib.Path(place) / f"{batch}.tflite"
      with quiet():
        file.write_bytes(litert.converted(served, batch))
      found.append(cost.of("litert", file, test[:_BATCH])["latency_us"][0])
  return (f"{found[0]:,.0f} us for a batch of 1, "
          f"{found[1]:,.0f} us for any batch, {found[1] / found[0]:.1f} times")


def _compared(
    form: str, file: pathlib.Path, test: np.ndarray, own: Any
) -> list[str]:
  run = FORMATS[form].code.load(file)
  logits = np.concatenate([
      run(test[at:at + _BATCH])[0] for at in range(0, len(test), _BATCH)])
  spent = cost.of(form, file, test[:_BATCH])["latency_us"][0]
  agree = np.mean(np.argmax(logits, -1) == np.argmax(own, -1))
  return [f"{np.abs(logits - own).max():.1e}", f"{np.abs(own).max():.2g}",
          f"{agree:.1%}", f"{file.stat().st_size / 1e3:.0f}", f"{spent:.0f}"]


if __name__ == "__main__":
  import sys
  main(sys.argv[1:])
