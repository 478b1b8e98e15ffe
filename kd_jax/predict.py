"""Predicts classes with a trained net: of image files, folders of them, or arrays.

  python -m kd_jax.predict runs/mnist --id=0-4
  python -m kd_jax.predict runs/mnist seven.png
  python -m kd_jax.predict runs/mnist photos/ more.npy --net=teacher --top=5
  python -m kd_jax.predict runs/mnist scan.png --invert --json

For each image it prints the predicted class, then the most likely classes with
their probabilities. It needs the folder of the run; only --id, for test examples
by their numbers, needs the data set too. Images are converted to grey or RGB and to
the size of the training images; a line reports the scaling. An array (.npy) has
inputs as the data set stores them: uint8 pixels [N, H, W, C], a float table [N, F]
or token ids [N, L].
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple
import warnings

import numpy as np

from kd_jax.core import exits, files, sources, strict
from kd_jax.core.errors import (
  Notice,
  Parser,
  UserError,
  ids,
  message,
  printable,
  whole,
)
from kd_jax.core.words import counted

if TYPE_CHECKING:
  from kd_jax.runs.trained import Trained

# Inputs that a net is asked at once.
_BATCH = 256
# By how much a border may be brighter or darker than those of the training images.
_NEAR = 16
_NO_MEMORY = "out of memory; give fewer inputs at once"


class Prediction(NamedTuple):
  """What a net says of N inputs.

  Attributes:
    classes: The names of all classes, in the order of the columns.
    probabilities: float32 `[N, classes]`, the softmax of the logits.
    labels: The name of the likeliest class of each input.
    logits: float32 `[N, classes]`.
  """

  classes: tuple[str, ...]
  probabilities: np.ndarray
  labels: tuple[str, ...]
  logits: np.ndarray


def predict(
    workdir: str | os.PathLike, inputs: Any, net: str | None = None
) -> Prediction:
  """Asks a net of a finished run.

  Args:
    workdir: The run's folder.
    inputs: As the data set stores them, `[N, *shape]`: uint8 pixels, float tables
      or token ids. Grey images may lack their last axis.
    net: Its name in the run; by default the one that the run is about.

  Returns:
    Class names with their probabilities.

  Raises:
    UserError: If there is no such net, or it takes other inputs.

  Example:
    >>> predict("nowhere", np.zeros((1, 28, 28), np.uint8))
    Traceback (most recent call last):
    ...
    kd_jax.errors.UserError: nowhere: holds no run; give the folder of one
  """
  from kd_jax.runs import trained  # pylint: disable=g-import-not-at-top
  opened = trained.load(workdir, net)
  return ask(opened, checked(opened, inputs, "inputs"))


def ask(net: "Trained", inputs: np.ndarray) -> Prediction:
  """What an open net says of checked inputs.

  Raises:
    UserError: If an answer is not finite, or a net of the user's own fails, such as
      one whose file was edited after it was trained.
  """
  import jax  # pylint: disable=g-import-not-at-top
  run = jax.jit(net.logits)
  found = [np.zeros((0, len(net.classes)), np.float32)]
  with jax.numpy_dtype_promotion("standard"):
    for first in range(0, len(inputs), _BATCH):
      with _own_errors(net):
        found.append(np.asarray(run(inputs[first:first + _BATCH])))
  logits = np.concatenate(found)
  probabilities = np.asarray(jax.nn.softmax(logits))
  if wrong := np.flatnonzero(~np.isfinite(probabilities).all(axis=-1)).tolist():
    raise UserError(
        f"input {wrong[0]}: {net.name} has no finite answer to it; is it an input "
        "as the data set has them?")
  return Prediction(net.classes, probabilities, tuple(
      net.classes[index] for index in np.argmax(logits, axis=-1)), logits)


@contextlib.contextmanager
def _own_errors(net: "Trained") -> Iterator[None]:
  """Names the file of a net of the user's own that fails; ours must not."""
  try:
    yield
  except Exception as error:  # Whatever a user's file raises.
    own = [value for key, value in net.values.items() if sources.named(str(value))
           and key.endswith((".name", "method"))]
    if not own:
      raise
    line = " ".join(message(error).split())[:160] or type(error).__name__
    raise UserError(f"{net.name}: cannot be run: {line}; is {' or '.join(own)} as "
                    "it was when the net was trained?") from None


def checked(net: "Trained", inputs: Any, name: str) -> np.ndarray:
  """Inputs as the net takes them, `[N, *shape]` in its dtype.

  Args:
    net: The net.
    inputs: Of a user.
    name: What they are called in messages.

  Raises:
    UserError: If their shape or dtype is another, or a number is not finite.

  Warns:
    Notice: If floats are far out of the range of the training inputs.
  """
  try:
    inputs = np.asarray(inputs)
  except ValueError:  # Of lists of several lengths.
    raise UserError(
        f"{name}: are no array; give one, or lists of equal lengths") from None
  if inputs.shape[1:] == net.shape[:-1] and net.shape[-1:] == (1,):
    inputs = inputs[..., None]
  if inputs.ndim == 0 or inputs.shape[1:] != net.shape:
    single = (inputs.shape == net.shape or
              (net.shape[-1:] == (1,) and inputs.shape == net.shape[:-1]))
    raise UserError(
        f"{name}: has shape {_listed(inputs.shape)}, and {net.name} takes "
        f"{_listed(('N', *net.shape))}"
        + ("; of a single one give array[None]" if single else ""))
  kinds = {"u": "u", "f": "f", "i": "iu"}[net.dtype.kind]
  if inputs.dtype.kind not in kinds or (
      kinds == "u" and inputs.dtype != np.uint8):
    raise UserError(f"{name}: is of {inputs.dtype}, and {net.name} takes "
                    f"{net.dtype}" + (
                        ", pixels from 0 to 255; of x from 0 to 1 give (255 * x)"
                        ".round().astype('uint8')" if kinds == "u" else ""))
  with np.errstate(over="ignore", invalid="ignore"):
    found = inputs.astype(net.dtype)
  if kinds == "f" and not np.isfinite(found).all():
    raise UserError(f"{name}: has numbers that are not finite in {net.dtype}")
  if kinds == "f" and net.range and found.size:
    low, high = net.range
    if found.min() < 2 * low - high or found.max() > 2 * high - low:
      warnings.warn(
          f"{name}: has numbers from {found.min():g} to {found.max():g}, and "
          f"{net.name} was trained on {low:g} to {high:g}; scale them alike",
          Notice, stacklevel=3)
  if kinds == "iu" and not np.array_equal(found, inputs):
    raise UserError(f"{name}: has ids that {net.dtype} does not hold")
  return found


def _listed(sizes: Iterable[Any]) -> str:
  return f"[{', '.join(map(str, sizes))}]"


class _Asked(NamedTuple):
  """Inputs of one file, and how each of them is called."""

  names: list[str]
  inputs: np.ndarray


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = (parser := _parser()).parse_args(argv)
  if not arguments.inputs and not arguments.id:
    parser.error("nothing to predict; give files, or test examples with --id=0-4")
  # With --json the output is JSON alone.
  notes = sys.stderr if arguments.json else sys.stdout
  say = lambda line: print(printable(line), file=notes, flush=True)
  code = 0

  def failed(error: Exception) -> None:
    nonlocal code
    code = 2
    line = _NO_MEMORY if isinstance(error, MemoryError) else UserError(error)
    print(f"error: {line}", file=sys.stderr)

  try:
    paths = list(_paths(arguments.inputs, say))
    # jax takes seconds to import, so mistakes before are reported first.
    # pylint: disable=g-import-not-at-top
    from kd_jax.runs import trained
    from kd_jax.training import parameters
    # pylint: enable=g-import-not-at-top
    parameters.quiet()
    net = trained.load(arguments.workdir, arguments.net, data=arguments.data)
    asked = [*_of_test(net, arguments.id, say),
             *_read(paths, net, arguments.invert, say, failed)]
    if asked:
      _show(asked, ask(net, np.concatenate([each.inputs for each in asked])),
            arguments.top, arguments.json)
  except (UserError, OSError, MemoryError) as error:
    failed(error)
  return code


def _paths(
    given: Sequence[pathlib.Path], say: Callable[[str], None]
) -> Iterator[pathlib.Path]:
  """Files, and those of folders that are images or arrays, by their names."""
  for path in given:
    if not path.exists():
      raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
      yield path
      continue
    from kd_jax.data import image_files  # pylint: disable=g-import-not-at-top
    known = image_files.suffixes() | {".npy"}
    there = sorted(file for file in path.iterdir() if file.is_file())
    found = [file for file in there if file.suffix.lower() in known]
    if not found:
      raise UserError(f"{path}: has no image and no .npy in it; folders within it "
                      "are not looked into")
    if len(found) < len(there):
      say(f"{path}: left out {counted(len(there) - len(found), 'file')} of other "
          "kinds than images and .npy")
    yield from found


def _of_test(
    net: "Trained", numbers: Sequence[int], say: Callable[[str], None]
) -> Iterator[_Asked]:
  """Test examples of the net's run, by their numbers."""
  if not numbers:
    return
  from kd_jax.runs import trained  # pylint: disable=g-import-not-at-top
  test = trained.dataset_with(net, numbers, say).test
  yield _Asked([
      f"test example {number}" + (
          f", of class {net.classes[label]}" if label >= 0 else "")
      for number, label in zip(numbers, test.label[numbers].tolist())],
               test.inputs[numbers])


def _read(
    paths: Iterable[pathlib.Path], net: "Trained", invert: bool,
    say: Callable[[str], None], failed: Callable[[Exception], None],
) -> Iterator[_Asked]:
  """The inputs of files; those that cannot be read are told, one a line."""
  from kd_jax.data import image_files  # pylint: disable=g-import-not-at-top
  for path in paths:
    try:
      if path.suffix.lower() == ".npy":
        array = checked(net, _array(path), str(path))
        pixels = net.dtype == np.uint8
        if invert and not pixels:
          raise UserError(f"--invert: is for pixels, and {path} has none")
        if not len(array):
          say(f"{path}: holds no inputs")
        yield _Asked([f"{path}[{row}]" for row in range(len(array))],
                     255 - array if invert else array)
      else:
        _refuse_images(net, path)
        image = image_files.read(path, net.shape, invert=invert, say=say)[None]
        _hint(net, image, path, invert, say)
        yield _Asked([str(path)], image)
    except (UserError, OSError) as error:
      failed(error)


def _array(path: pathlib.Path) -> np.ndarray:
  files.refuse_pipes(path)
  try:
    with path.open("rb") as content:  # NumPy leaves a damaged archive open.
      found = np.load(content, allow_pickle=False)
  except OSError:  # Of the disk; the others are of what lies on it.
    raise
  except Exception as error:  # Whatever damage makes NumPy raise.
    raise UserError(f"{path}: cannot be read: {files.damage(error)[:300]}; give an "
                    "array of numbers, saved by np.save") from None
  if not isinstance(found, np.ndarray):
    raise UserError(
        f"{path}: holds several arrays ({', '.join(found.files)}); give one, by "
        f"np.save('x.npy', np.load('{path.name}')['NAME'])")
  return found


def _refuse_images(net: "Trained", path: pathlib.Path) -> None:
  """Refuses image files for a net that learnt from something else."""
  if len(net.shape) == 3 and net.shape[-1] in (1, 3) and net.dtype == np.uint8:
    return
  raise UserError(f"{path}: {net.name} takes {net.dtype} {_listed(net.shape)}, and "
                  "no image files; give an array, saved by np.save as .npy")


def _hint(
    net: "Trained", image: np.ndarray, path: pathlib.Path, invert: bool,
    say: Callable[[str], None],
) -> None:
  """Says so if the border of an image is like the net's own, but inverted."""
  if net.border is None:
    return
  from kd_jax.runs import trained  # pylint: disable=g-import-not-at-top
  (low, high), own = net.border, float(trained.borders(image)[0])
  like = lambda brightness: low - _NEAR <= brightness <= high + _NEAR
  if not like(own) and like(255 - own):
    say(f"{path}: its border is {own:.0f} of 255 bright, and that of almost all "
        f"training images {low:.0f} to {high:.0f}: try it "
        f"{'without' if invert else 'with'} --invert")


def _show(
    asked: Sequence[_Asked], found: Prediction, top: int, as_json: bool
) -> None:
  """Prints a block for each input, or a line of JSON."""
  names = [name for each in asked for name in each.names]
  for name, label, row in zip(names, found.labels, found.probabilities):
    # Of equal ones the first, as argmax has it.
    best = [(found.classes[index], float(row[index]))
            for index in np.argsort(-row, kind="stable")[:top]]
    if as_json:
      print(strict.dumps({"input": name, "label": label, "top": [
          {"class": each, "probability": p} for each, p in best]}))
    else:
      width = max(len(each) for each, _ in best)
      print(printable("\n".join([f"{name}: {label}", *(
          f"  {each:<{width}}  {p:.4f}" for each, p in best)])))


def _parser() -> Parser:
  parser = Parser(
      prog="python -m kd_jax.predict", description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("workdir", type=pathlib.Path, help="folder of a finished run")
  parser.add_argument("inputs", type=pathlib.Path, nargs="*", metavar="INPUT",
                      help="an image file, a folder of them, or an array (.npy)")
  parser.add_argument("--id", type=ids, default=[], metavar="ID[,ID-ID...]",
                      help="numbers of test examples, from 0, such as 7 or 0-4")
  parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                      help="folder of the run's data set, if it has moved")
  parser.add_argument("--net", metavar="NAME", help="name of a net in "
                      "WORKDIR/parameters (default: the last of the config, "
                      "such as distilled)")
  parser.add_argument("--top", type=whole, default=3, metavar="N",
                      help="number of classes to show for each input (default: 3)")
  parser.add_argument("--json", action="store_true",
                      help="print only one line of JSON for each input")
  parser.add_argument("--invert", action="store_true",
                      help="replace each pixel by 255 - pixel, for dark digits on "
                      "light paper (MNIST has light digits on dark)")
  return parser


if __name__ == "__main__":
  exits.command(main)
